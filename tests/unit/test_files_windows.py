"""Windows of a file: joined they are the file, and each ends where a record does."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import naru
from naru.files import Window, count_lines, windows

MIB = 1 << 20
BOUNDARIES = [b"\n", b"\r\n", b"\0", b"\n\n", b"aba", b"ab"]


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nw-") as folder:
        yield Path(folder) / "file"


def file_of(data: bytes) -> int:
    fd = os.memfd_create("windows")
    os.write(fd, data)
    return fd


def records_of(data: bytes, boundary: bytes) -> list[bytes]:
    *whole, rest = data.split(boundary)
    return [*whole, rest] if rest else whole


# Few different bytes, so that boundaries are frequent, cut and touching each other.
texts = st.lists(st.sampled_from([b"a", b"b", b"\n", b"\r", b"\0", b"\r\n", b"aba"])).map(b"".join)


@given(texts, st.sampled_from(BOUNDARIES), st.integers(1, 40))
@example(b"aaababa\n", b"aba", 4)
@example(b"\n\n\n\n\n", b"\n\n", 3)
def test_joined_they_are_the_file_and_records_are_whole(
    data: bytes, boundary: bytes, size_bytes: int
) -> None:
    fd = file_of(data)
    try:
        found = [(w.offset, bytes(w)) for w in windows(fd, boundary, size_bytes)]
    finally:
        os.close(fd)
    assert b"".join(piece for _, piece in found) == data
    assert [offset for offset, _ in found] == [
        sum(len(piece) for _, piece in found[:at]) for at in range(len(found))
    ]
    for _, piece in found[:-1]:
        assert piece.endswith(boundary)
    records = [record for _, piece in found for record in records_of(piece, boundary)]
    assert records == records_of(data, boundary)


@given(st.binary(max_size=300), st.integers(1, 40))
def test_without_a_boundary_they_are_cut_anywhere(data: bytes, size_bytes: int) -> None:
    fd = file_of(data)
    try:
        found = [bytes(window) for window in windows(fd, None, size_bytes)]
    finally:
        os.close(fd)
    assert b"".join(found) == data
    assert all(len(piece) == size_bytes for piece in found[:-1])


@given(texts, st.sampled_from([b"a", b"ab", b"\n", b"aba", b"aa"]))
def test_looking_through_a_window_is_as_of_bytes(data: bytes, pattern: bytes) -> None:
    fd = file_of(b"x" + data)
    try:
        for window in windows(fd, None, 1000, offset=1):
            assert window.count(pattern) == data.count(pattern)
            assert window.count_lines() == data.count(b"\n")
            offsets, at = [], data.find(pattern)
            while at >= 0:
                offsets.append(1 + at)
                at = data.find(pattern, at + len(pattern))
            assert window.find_all(pattern) == array("Q", offsets)
            lines = records_of(data, b"\n")
            assert [bytes(line) for line in window.lines()] == lines
            assert b"".join(window.lines(keep_ends=True)) == data
            rows = [[bytes(field) for field in row] for row in window.fields(pattern)]
            if pattern != b"\n":
                assert rows == [line.split(pattern) for line in lines]
    finally:
        os.close(fd)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 255 * 128, 255 * 128 + 1, 3 * MIB + 7])
def test_counting_over_every_edge_of_the_vectors(length: int) -> None:
    data = bytearray(length)
    data[::3] = b"\n" * len(data[::3])
    fd = file_of(bytes(data))
    try:
        assert count_lines(fd) == data.count(b"\n")
        assert count_lines(fd, threads=3) == data.count(b"\n")
        assert sum(window.count_lines() for window in windows(fd)) == data.count(b"\n")
    finally:
        os.close(fd)


def test_more_matches_than_are_found_at_once() -> None:
    fd = file_of(b"ab" * 5000)
    try:
        (window,) = windows(fd, None)
        assert window.find_all(b"b") == array("Q", range(1, 10000, 2))
    finally:
        os.close(fd)


def test_a_record_longer_than_the_window_has_one_of_its_own(path: Path) -> None:
    records = [b"x" * 10, b"y" * 5000, b"z" * 3, b"w"]
    path.write_bytes(b"\n".join(records))
    found = [bytes(window) for window in windows(path, size_bytes=64)]
    # It grows by doubling, and what came along after the long one stays with it.
    assert b"".join(found) == path.read_bytes()
    assert found[0] == records[0] + b"\n"
    assert found[1].startswith(records[1] + b"\n")


def test_a_record_above_the_limit_is_refused_with_its_offset(path: Path) -> None:
    path.write_bytes(b"short\n" + b"x" * 10_000)
    found = windows(path, size_bytes=16, record_limit_bytes=100)
    assert bytes(next(found)) == b"short\n"
    with pytest.raises(naru.TooBigError, match=r"record at byte 6 is longer than 100 bytes"):
        next(found)
    assert list(found) == []


def test_a_window_is_released_when_the_next_is_taken(path: Path) -> None:
    path.write_bytes(b"one\ntwo\n")
    found = windows(path, size_bytes=4)
    first = next(found)
    view = memoryview(first)
    next(found)
    assert bytes(view) == b"one\n"  # its memory is kept for it
    assert first.size_bytes == 0
    for use in (bytes, memoryview, Window.count_lines, lambda w: w.find_all(b"o"), Window.lines):
        with pytest.raises(naru.ClosedError, match="copy what you need"):
            use(first)
    assert "released" in repr(first)
    view.release()
    found.close()


def test_memory_is_used_again() -> None:
    fd = file_of(b"x" * 99 + b"\n" + b"y" * 99 + b"\n")
    try:
        places = []
        for window in windows(fd, size_bytes=100):
            with memoryview(window) as view:
                places.append(naru_address(view))
        assert len(places) == 2
        assert len(set(places)) == 1
    finally:
        os.close(fd)


def naru_address(view: memoryview) -> int:
    numpy = pytest.importorskip("numpy")
    address: int = numpy.frombuffer(view, "u1").ctypes.data
    return address


@pytest.mark.parametrize("data", [b"", b"\n", b"a"])
def test_smallest_files(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert [bytes(window) for window in windows(path)] == ([data] if data else [])
    assert count_lines(path) == data.count(b"\n")


def test_what_is_asked_for_wrongly(path: Path) -> None:
    path.write_bytes(b"x")
    for wrong in ({"boundary": b""}, {"size_bytes": 0}, {"offset": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            windows(path, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one byte"):
        count_lines(path, boundary=b"\r\n")
    with pytest.raises(ValueError, match="threads"):
        count_lines(path, threads=0)
    with pytest.raises(naru.NoSuchNameError, match="missing"):
        windows(path.with_name("missing"))
    with pytest.raises(naru.NaruError, match="directory"):
        windows(path.parent)
    (window,) = windows(path)
    assert window.count(b"x") == 1
    with pytest.raises(ValueError, match="empty pattern"):
        window.find_all(b"")


def test_a_pipe_has_no_windows() -> None:
    reader, writer = os.pipe()
    with pytest.raises(naru.UnsupportedError, match="it is a pipe"):
        windows(reader)
    os.close(reader)
    os.close(writer)


def test_leaving_early_closes_the_file(path: Path) -> None:
    path.write_bytes(b"one\ntwo\n")
    for window in windows(path, size_bytes=4):
        assert window.number == 0
        break


def test_progress_of_a_count() -> None:
    fd = file_of(b"\n" * 1000)
    try:
        told: list[tuple[int, int]] = []
        assert count_lines(fd, progress=lambda done, whole: told.append((done, whole))) == 1000
        assert told[-1] == (1000, 1000)
    finally:
        os.close(fd)
