"""Standard input to messages and back: whatever the chunks are, the messages are the same."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naru.cli import framing
from naru.errors import CorruptedError

DATA = st.binary(max_size=200) | st.text("ab\n", max_size=100).map(str.encode)


def in_chunks(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """As os.read would: no empty chunk."""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for begin, end in pairwise(places):
        yield data[begin:end]


def flat(
    split: Callable[[Iterator[bytes]], framing.Batches], chunks: Iterator[bytes]
) -> list[bytes]:
    return [message for batch in split(chunks) for message in batch]


CUTS = st.lists(st.integers(0, 200), max_size=10)


@given(DATA, CUTS)
def test_lines(data: bytes, cuts: list[int]) -> None:
    messages = flat(framing.split_lines, in_chunks(data, cuts))
    assert messages == (data.removesuffix(b"\n").split(b"\n") if data else [])


@given(st.lists(st.binary(max_size=20).filter(lambda one: b"\n" not in one)), CUTS)
def test_lines_there_and_back(messages: list[bytes], cuts: list[int]) -> None:
    data = framing.format_lines(messages)
    assert flat(framing.split_lines, in_chunks(data, cuts)) == messages


def test_an_interactive_line_leaves_at_once() -> None:
    batches = framing.split_lines(iter([b"a\nb\nc", b"d", b"\n"]))
    assert list(batches) == [[b"a", b"b"], [b"cd"]]


@given(DATA, CUTS, st.integers(1, 50))
def test_sizes(data: bytes, cuts: list[int], size_bytes: int) -> None:
    messages = flat(partial(framing.split_sizes, size_bytes=size_bytes), in_chunks(data, cuts))
    assert b"".join(messages) == data
    assert all(len(message) == size_bytes for message in messages[:-1])
    assert all(1 <= len(message) <= size_bytes for message in messages)


@given(DATA, CUTS)
def test_raw_and_whole(data: bytes, cuts: list[int]) -> None:
    assert framing.format_raw(flat(framing.split_raw, in_chunks(data, cuts))) == data
    assert flat(framing.split_whole, in_chunks(data, cuts)) == [data]


@given(st.lists(st.binary(max_size=50)), CUTS)
def test_lengths_there_and_back(messages: list[bytes], cuts: list[int]) -> None:
    data = framing.format_lengths(messages)
    assert flat(framing.split_lengths, in_chunks(data, cuts)) == messages


@pytest.mark.parametrize("data", [b"\x05\0\0\0abc", b"\x01\0", b"\x01\0\0\0a\x02"])
def test_lengths_cut_short(data: bytes) -> None:
    with pytest.raises(CorruptedError, match="ends inside a message"):
        flat(framing.split_lengths, iter([data]))


def test_hex_and_json() -> None:
    assert framing.format_hex([b"\x00\xff", b""]) == b"00ff\n\n"
    lines = framing.format_json(["\N{HIRAGANA LETTER A}".encode(), b"\xff"], 5).splitlines()
    assert json.loads(lines[0]) == {"number": 5, "size_bytes": 3, "text": "\N{HIRAGANA LETTER A}"}
    second = json.loads(lines[1])
    assert (second["number"], base64.b64decode(second["base64"])) == (6, b"\xff")
    assert json.loads(framing.format_json([b"a"], 0, [9]))["priority"] == 9
