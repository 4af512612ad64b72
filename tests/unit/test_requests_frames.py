"""The wire format of request/reply: what is written is read, and nothing else is accepted."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naru.errors import ProtocolError
from naru.requests import frames
from naru.requests.frames import (
    CANCEL,
    CANCELLED,
    ERROR,
    HEAD_BYTES,
    REFUSED,
    REPLY,
    REQUEST,
    WELCOME,
    Failure,
    Frame,
    failure_of,
    number_of,
    parse_error,
    parse_head,
    parse_welcome,
    reply_head_of,
    write_error,
    write_head,
    write_heads,
    write_welcome,
)

CORPUS = Path(__file__).parents[1] / "corpus" / "request_frames"
NUMBERS = st.integers(1, 2**64 - 1)


def parse(message: bytes) -> object:
    """As a side does with whatever comes: the head, then what its kind says of the body."""
    head, body = message[:HEAD_BYTES], message[HEAD_BYTES:]
    frame = parse_head(head, len(body))
    if frame.kind == WELCOME:
        return frame, parse_welcome(body)
    if frame.kind == ERROR:
        return frame, parse_error(body)
    return frame, body


@given(st.sampled_from([REQUEST, REPLY, ERROR]), NUMBERS, st.integers(0, 2**32))
def test_a_head_is_read_as_it_was_written(kind: int, number: int, body_bytes: int) -> None:
    head = write_head(kind, number)
    assert len(head) == HEAD_BYTES
    assert parse_head(head, body_bytes) == Frame(kind, 0, number)


@given(st.sampled_from([REFUSED, CANCELLED]), NUMBERS)
def test_an_error_says_that_it_was_not_begun(flags: int, number: int) -> None:
    assert parse_head(write_head(ERROR, number, flags), 12).flags == flags


def test_the_layout_is_the_documented_one() -> None:
    assert (
        write_head(REPLY, 0x0102030405060708)
        == b"nq\x01\x02\0\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01"
    )
    assert b"".join(write_welcome(64)) == b"nq\x01\x00" + bytes(12) + b"\x40\0\0\0"
    body = write_error(Failure("E", "no", "at"))
    assert body == struct.pack("<III", 1, 2, 2) + b"Enoat"


@given(NUMBERS)
def test_the_short_way_makes_the_same_heads(number: int) -> None:
    request_head, reply_head = write_heads(number)
    assert request_head == write_head(REQUEST, number)
    assert reply_head == write_head(REPLY, number)
    assert reply_head_of(request_head) == reply_head
    assert number_of(reply_head) == number


@given(st.binary(max_size=20) | st.binary(max_size=14).map(lambda end: b"nq\x01\x01" + end))
def test_the_short_way_takes_nothing_that_the_long_way_refuses(head: bytes) -> None:
    if reply_head_of(head) is not None:
        assert parse_head(head, 5).kind == REQUEST


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"nq",
        write_head(REQUEST, 1)[:-1],
        b"xx" + write_head(REQUEST, 1)[2:],
        b"nq\x02" + write_head(REQUEST, 1)[3:],
        write_head(5, 1),
        write_head(255, 1),
        write_head(REQUEST, 0),
        write_head(REPLY, 0),
        write_head(CANCEL, 0),
        write_head(CANCEL, 1) + b"x",
        write_head(WELCOME, 1) + bytes(4),
        write_head(WELCOME, 0),
        write_head(WELCOME, 0) + bytes(4),
        write_head(WELCOME, 0) + b"\xff\xff\xff\xff",
        write_head(REQUEST, 1, 1),
        write_head(REPLY, 1, 2),
        write_head(ERROR, 1, 3) + bytes(12),
        write_head(ERROR, 1, 4) + bytes(12),
        write_head(ERROR, 1) + bytes(11),
        write_head(ERROR, 1) + struct.pack("<III", 1, 0, 0),
        write_head(ERROR, 1) + struct.pack("<III", 2**32 - 1, 1, 0),
        write_head(ERROR, 1) + struct.pack("<III", 1, 0, 0) + b"\xff",
        write_head(ERROR, 1) + struct.pack("<III", 2000, 0, 0) + bytes(2000),
    ],
)
def test_what_cannot_be_is_refused(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(message)


@given(st.binary(max_size=64))
def test_garbage_is_refused_and_nothing_else_happens(message: bytes) -> None:
    try:
        parse(message)
    except ProtocolError:
        return
    assert message.startswith(b"nq\x01")


@given(st.binary(min_size=1, max_size=8), st.integers(0, 40))
def test_a_damaged_frame_is_refused_or_another_frame(damage: bytes, at: int) -> None:
    message = bytearray(write_head(ERROR, 7) + write_error(Failure("ValueError", "bad", "there")))
    message[at : at + len(damage)] = damage
    try:
        parse(bytes(message))
    except ProtocolError:
        return
    assert message[:3] == b"nq\x01"


@given(st.text(), st.text(), st.text())
def test_an_error_is_read_as_it_was_written(name: str, text: str, traceback: str) -> None:
    failure = parse_error(write_error(Failure(name[:100], text, traceback)))
    assert failure == Failure(
        *(one.encode("utf-8", "backslashreplace").decode() for one in (name[:100], text, traceback))
    )


def test_long_texts_are_cut_between_characters() -> None:
    long = "나루" * 50_000
    failure = parse_error(write_error(Failure(long, long, long + "!")))
    assert [len(one.encode()) for one in failure] == [1023, 65535, 65536 - 65535 % 3]
    assert failure.traceback.endswith("루!")  # its end says most
    assert long.startswith(failure.text)


def test_lone_surrogates_travel_as_escapes() -> None:
    assert parse_error(write_error(Failure("E", "a\udcffb", ""))).text == "a\\udcffb"


@given(st.integers(1, frames.MOST_OPEN))
def test_a_welcome_is_read_as_it_was_written(most_open: int) -> None:
    head, body = write_welcome(most_open)
    assert parse_head(head, len(body)).kind == WELCOME
    assert parse_welcome(body) == most_open


# ---- exceptions ----


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot even say it")


def test_what_is_told_of_an_exception() -> None:
    try:
        int("x")
    except ValueError as error:
        told = failure_of(error)
    assert told.type_name == "ValueError"
    assert told.text == "invalid literal for int() with base 10: 'x'"
    assert "test_requests_frames.py" in told.traceback


def test_an_exception_that_cannot_say_what_it_is() -> None:
    told = failure_of(MuteError())
    assert told.type_name.endswith("MuteError")
    assert told.text == "<its __str__ raised RuntimeError>"
    parse_error(write_error(told))


# ---- what once was found, or may be found again ----


def test_the_corpus_is_there() -> None:
    assert len(list(CORPUS.iterdir())) >= 8


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_replay(file: Path) -> None:
    """Files named ok_* are frames, the others are refused."""
    if file.name.startswith("ok_"):
        parse(file.read_bytes())
    else:
        with pytest.raises(ProtocolError):
            parse(file.read_bytes())
