"""FAULTS 65, 66: the parser in C understands every stream as a second, plain one does, however it comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from resp_oracle import Understood, by_the_core, contradiction, understood

CORPUS = Path(__file__).parent.parent / "corpus" / "fuzz_resp"


@pytest.mark.parametrize(
    ("data", "commands", "wrong"),
    [
        (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", [[b"GET", b"k"]], ""),
        (b"PING\r\n\r\n  get 'a b' \"\\x41\\n\"\n", [[b"PING"], [b"get", b"a b", b"A\n"]], ""),
        (b"*1\r\n$4\r\nPINGPONG\r\n", [[b"PING"], [b"NG"]], ""),
        (b"*-1\r\n*0\r\nPING\r\n", [[b"PING"]], ""),
        (b"*2\r\n$3\r\nGE", [], ""),
        (b"PING\r\n*1\r\n$-1\r\nPING\r\n", [[b"PING"]], "Protocol error: invalid bulk length"),
        (b"a" * 65_537, [], "Protocol error: too big inline request"),
    ],
)
def test_both_understand_what_is_known(
    data: bytes, commands: list[list[bytes]], wrong: str
) -> None:
    due = Understood(commands, wrong)
    assert understood(data) == due
    for piece in (1, 2, 7, len(data)) if len(data) < 1000 else (30_000, len(data)):
        assert by_the_core(data, piece) == due


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_the_corpus_says_the_same_to_both(path: Path) -> None:
    assert contradiction(path.read_bytes()) is None


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


WORDS = some.one_of(
    some.binary(max_size=8), some.sampled_from([b"GET", b"k", b"\r\n", b"*1\r\n$1\r\n"])
)
ARRAYS = some.lists(WORDS, max_size=4).map(
    lambda words: b"*%d\r\n" % len(words) + b"".join(map(bulk, words))
)
LINES = some.lists(
    some.sampled_from([b"set", b" ", b"'", b'"', b"\\", b"\\x4", b"\\n", b"1", b"\0", b"a"]),
    max_size=8,
).map(lambda parts: b"".join(parts) + b"\r\n")
BROKEN = some.sampled_from(
    [
        b"*",
        b"$",
        b"\r",
        b"\n",
        b"*3000000000\r\n",
        b"*1\r\n$-1\r\n",
        b"*01\r\n",
        b"$5\r\n",
        b"-",
        b"*65\r\n",
    ]
)
STREAMS = some.lists(some.one_of(ARRAYS, LINES, BROKEN, some.binary(max_size=6)), max_size=6).map(
    b"".join
)


@given(some.integers(0, 255), STREAMS, some.integers(0, 400), some.integers(0, 12))
@settings(max_examples=400)
def test_any_stream_says_the_same_to_both(how: int, stream: bytes, at: int, less: int) -> None:
    """Pieces of what is right and what is wrong, with a hole cut into it."""
    found = contradiction(bytes([how]) + stream[:at] + stream[at + less :])
    assert found is None, found
