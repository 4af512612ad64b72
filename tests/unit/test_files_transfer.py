"""transfer(): every pair of kinds, ranges, positions, and what it says when it cannot."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import naru
from naru.files import transfer
from naru.files.kinds import METHODS, Kind, kind_of, methods_between

KINDS: tuple[Kind, ...] = ("file", "pipe", "unix", "tcp", "device")
DATA = random.Random(1).randbytes(3_000_001)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nt-") as name:
        yield Path(name)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


def stream_pair(kind: str) -> tuple[Any, Any]:
    """(what is read, what is written to)."""
    if kind == "pipe":
        reader, writer = os.pipe()
        return open(reader, "rb", buffering=0), open(writer, "wb", buffering=0)
    return tcp_pair() if kind == "tcp" else socket.socketpair()


@contextmanager
def in_thread(function: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=function)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def write_all(end: Any, data: bytes, piece_bytes: int = 1 << 20) -> None:
    with end:
        for at in range(0, len(data), piece_bytes):
            view = memoryview(data)[at : at + piece_bytes]
            while view:
                view = view[os.write(end.fileno(), view) :]


def read_all(end: Any, found: bytearray) -> None:
    with end:
        while piece := os.read(end.fileno(), 1 << 20):
            found += piece


def test_every_pair_of_kinds_has_methods_and_the_last_always_works() -> None:
    for source in KINDS:
        for target in KINDS:
            methods = methods_between(source, target)
            assert methods[-1] == "read_write"
            assert list(methods) == [method for method in METHODS if method in methods]


@pytest.mark.parametrize("source", ["file", "memfd", "pipe", "unix", "tcp"])
@pytest.mark.parametrize("target", ["file", "append", "memfd", "pipe", "unix", "tcp"])
@pytest.mark.parametrize("blocking", [True, False])
def test_every_pair_is_whole(source: str, target: str, blocking: bool, folder: Path) -> None:
    found = bytearray()
    with ExitStack() as stack:
        if source == "file":
            (folder / "from").write_bytes(DATA)
            origin: Any = stack.enter_context(open(folder / "from", "rb"))
        elif source == "memfd":
            origin = stack.enter_context(open(os.memfd_create("from"), "w+b"))
            origin.write(DATA)
            origin.seek(0)
        else:
            origin, writing = stream_pair(source)
            stack.enter_context(origin)
            os.set_blocking(origin.fileno(), blocking)
            stack.enter_context(in_thread(lambda: write_all(writing, DATA)))
        if target == "memfd":
            goal: Any = stack.enter_context(open(os.memfd_create("to"), "w+b"))
        elif target in ("file", "append"):
            mode = "ab" if target == "append" else "wb"
            goal = stack.enter_context(open(folder / "to", mode))
        else:
            reading, goal = stream_pair(target)
            os.set_blocking(goal.fileno(), blocking)
            stack.enter_context(in_thread(lambda: read_all(reading, found)))
            stack.callback(goal.close)
        done = transfer(origin, goal)
        goal.close() if target not in ("memfd",) else None
        if target == "memfd":
            goal.seek(0)
            found += goal.read()
    if target in ("file", "append"):
        found += (folder / "to").read_bytes()
    assert bytes(found) == DATA
    assert done.bytes == done.offset == len(DATA)
    origin_kind: Kind = "file" if source in ("file", "memfd") else source  # type: ignore[assignment]
    assert done.source == origin_kind
    expected = methods_between(origin_kind, done.target)
    if target == "append":  # the kernel refuses all but writing
        assert done.method == "read_write"
    else:
        assert done.method in expected
        if origin_kind != "file" or done.target != "file":
            assert done.method == expected[0]
    assert done.bytes_per_s > 0


def test_paths_ranges_and_progress(folder: Path) -> None:
    (folder / "from").write_bytes(DATA)
    told: list[tuple[int, int | None]] = []
    done = transfer(
        folder / "from", folder / "to", offset=1000, count=2000,
        progress=lambda *facts: told.append(facts),
    )  # fmt: skip
    assert (folder / "to").read_bytes() == DATA[1000:3000]
    assert (done.bytes, done.offset) == (2000, 3000)
    assert told[-1] == (2000, 2000)
    transfer(folder / "from", folder / "to", count=0)
    assert (folder / "to").read_bytes() == b""
    with pytest.raises(naru.TooBigError, match=r"bytes 0 to 3000002 were asked for, the file has"):
        transfer(folder / "from", folder / "to", count=len(DATA) + 1)
    with pytest.raises(naru.TooBigError):
        transfer(folder / "from", folder / "other", offset=len(DATA) + 1)
    assert not (folder / "other").exists()
    assert transfer(folder / "from", folder / "other", offset=len(DATA)).bytes == 0


def test_the_position_of_a_file_object_moves_with_it_and_with_an_offset_stays(folder: Path) -> None:
    (folder / "from").write_bytes(DATA)
    with open(folder / "from", "rb") as source, open(folder / "to", "wb") as target:
        source.read(10)  # it has a buffer of its own, far ahead
        target.write(b"head")
        assert transfer(source, target, count=90).offset == 100
        assert source.read(5) == DATA[100:105]
        transfer(source, target, offset=200, count=5)
        assert source.read(5) == DATA[105:110]
        target.write(b"tail")
    assert (folder / "to").read_bytes() == b"head" + DATA[10:100] + DATA[200:205] + b"tail"


def test_a_digest_sees_every_byte(folder: Path) -> None:
    (folder / "from").write_bytes(DATA)
    digest = hashlib.sha256()
    done = transfer(folder / "from", folder / "to", digest=digest)
    assert digest.digest() == hashlib.sha256(DATA).digest()
    assert done.method == "read_write"
    assert (folder / "to").read_bytes() == DATA


def test_files_of_proc_say_that_they_are_empty_and_are_not(folder: Path) -> None:
    done = transfer("/proc/self/limits", folder / "to")
    assert done.bytes > 100
    assert b"Max open files" in (folder / "to").read_bytes()


def test_devices(folder: Path) -> None:
    done = transfer("/dev/zero", folder / "to", count=5_000_000)
    assert (done.source, done.method) == ("device", "read_write")
    assert (folder / "to").read_bytes() == bytes(5_000_000)
    assert transfer(folder / "to", "/dev/null").bytes == 5_000_000


def test_an_end_of_naru_with_raw_framing(folder: Path) -> None:
    (folder / "from").write_bytes(DATA)
    found = bytearray()
    with naru.listen(f"unix://{folder}/sock?framing=raw") as listener:
        with naru.connect(f"unix://{folder}/sock?framing=raw") as end:
            with listener.accept() as other:

                def receive() -> None:
                    while len(found) < len(DATA):
                        found.extend(other.receive())

                with in_thread(receive):
                    assert transfer(folder / "from", end).method == "sendfile"
    assert bytes(found) == DATA
    one, two = naru.pair("unix")
    with one, two, pytest.raises(naru.UnsupportedError, match="framing=raw"):
        transfer(folder / "from", one)


def test_no_byte_for_timeout_s_whoever_is_slow(folder: Path) -> None:
    (folder / "from").touch()
    os.truncate(folder / "from", 1 << 28)  # more than any socket keeps
    for kind in ("pipe", "unix", "tcp"):
        for blocking in (True, False):
            reading, writing = stream_pair(kind)
            with reading, writing:
                os.set_blocking(writing.fileno(), blocking)
                os.set_blocking(reading.fileno(), blocking)
                with pytest.raises(naru.TimedOutError, match=r"no byte moved for 0.05 s"):
                    transfer(reading, folder / "to", timeout_s=0.05)
                with pytest.raises(naru.TimedOutError, match=r"after \d{4,} bytes"):
                    transfer(folder / "from", writing, timeout_s=0.05)
                if kind != "pipe":
                    timeout = writing.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)
                    assert timeout == bytes(16)


def test_source_and_target_must_differ(folder: Path) -> None:
    (folder / "from").write_bytes(b"precious")
    os.link(folder / "from", folder / "link")
    for target in ("from", "link"):
        with pytest.raises(naru.UnsupportedError, match="same file"):
            transfer(folder / "from", folder / target)
    assert (folder / "from").read_bytes() == b"precious"


def test_what_cannot_be(folder: Path) -> None:
    with pytest.raises(naru.NoSuchNameError, match=r"no such file or directory \(ENOENT\)"):
        transfer(folder / "missing", folder / "to")
    assert not (folder / "to").exists()
    with pytest.raises(naru.NaruError, match="directory"):
        transfer(folder, folder / "to")
    (folder / "from").write_bytes(b"x")
    with pytest.raises(naru.NaruError, match="EISDIR"):
        transfer(folder / "from", folder)
    for wrong in ({"offset": -1}, {"count": -1}, {"timeout_s": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            transfer(folder / "from", folder / "to", **wrong)  # type: ignore[arg-type]
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, two:
        assert kind_of(one.fileno()) == "socket"
        with pytest.raises(naru.UnsupportedError, match="stream sockets"):
            transfer(folder / "from", one)
    reader, writer = os.pipe()
    try:
        with pytest.raises(naru.UnsupportedError, match="no offset"):
            transfer(reader, folder / "to", offset=1)
    finally:
        os.close(reader)
        os.close(writer)


def test_what_progress_raises_ends_it(folder: Path) -> None:
    (folder / "from").write_bytes(DATA)

    def stop(done: int, whole: int | None) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        transfer(folder / "from", folder / "to", progress=stop)
