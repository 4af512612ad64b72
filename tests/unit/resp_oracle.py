"""The parser of Redis' protocol a second time, as plainly as can be, and the one in C by ctypes.

Holds: understood() and by_the_core(), which must say the same of every stream, and contradiction().
Must not know: servers. Joins: test_cache_resp.py (hypothesis, the corpus), fuzz_resp.py (atheris).
Source: redis.io/docs/latest/develop/reference/protocol-spec; native/include/naru/resp.h.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass, field
from pathlib import Path

import naru._native

__all__ = ["Understood", "by_the_core", "contradiction", "understood"]

LINE_MOST = 65_536
ARGUMENTS_MOST = 64
BULK_MOST = 1024
SPACES = b" \t\r\n\v\f"


@dataclass
class Understood:
    """What a stream says: commands, and why nothing more could be understood ("": more is due)."""

    commands: list[list[bytes]] = field(default_factory=list)
    wrong: str = ""


class WrongError(Exception):
    pass


class PartialError(Exception):
    pass


# ---- plainly ----


def understood(data: bytes) -> Understood:
    found = Understood()
    try:
        while data:
            command, data = _array(data) if data[:1] == b"*" else _line(data)
            if command:
                found.commands.append(command)
    except WrongError as error:
        found.wrong = str(error)
    except PartialError:
        pass
    return found


def _header(data: bytes, too_big: str) -> tuple[int | None, bytes]:
    """The number behind the first byte (None: it is none), and what follows its line."""
    line, end, rest = data.partition(b"\r")
    if len(line) > LINE_MOST:
        raise WrongError(too_big)
    if not end or not rest:
        raise PartialError
    number = int(line[1:]) if re.fullmatch(rb"0|-?[1-9][0-9]{0,17}", line[1:]) else None
    return number, rest[1:]  # whatever stands behind the CR


def _array(data: bytes) -> tuple[list[bytes], bytes]:
    count, data = _header(data, "Protocol error: too big mbulk count string")
    if count is None or count > ARGUMENTS_MOST:
        raise WrongError("Protocol error: invalid multibulk length")
    command = []
    for _ in range(count):
        if not data:
            raise PartialError
        first = data[:1]
        size, data = _header(data, "Protocol error: too big bulk count string")
        if first != b"$":
            raise WrongError("Protocol error: expected '$', got '" + first.decode("latin-1") + "'")
        if size is None or not 0 <= size <= BULK_MOST:
            raise WrongError("Protocol error: invalid bulk length")
        if len(data) < size + 2:
            raise PartialError
        command.append(data[:size])
        data = data[size + 2 :]
    return command, data


def _line(data: bytes) -> tuple[list[bytes], bytes]:
    line, end, rest = data.partition(b"\n")
    if len(line) > LINE_MOST:
        raise WrongError("Protocol error: too big inline request")
    if not end:
        raise PartialError
    return list(_words(line.removesuffix(b"\r"))), rest


ESCAPES = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}


def _words(line: bytes) -> list[bytes]:
    words = []
    at = 0
    while True:
        while at < len(line) and line[at] in SPACES:
            at += 1
        if at == len(line) or line[at] == 0:
            return words
        word = bytearray()
        while at < len(line) and line[at] not in SPACES + b"\0":
            if line[at] in b"\"'":
                part, at = _quoted(line, at)
                word += part
                break
            word.append(line[at])
            at += 1
        words.append(bytes(word))


def _quoted(line: bytes, at: int) -> tuple[bytes, int]:
    quote = line[at : at + 1]
    part = bytearray()
    at += 1
    while at < len(line):
        here = line[at : at + 1]
        if here == quote:
            if at + 1 < len(line) and line[at + 1] not in SPACES:
                break
            return bytes(part), at + 1
        if here == b"\\" and at + 1 < len(line) and quote == b'"':
            if re.match(rb"x[0-9a-fA-F]{2}", line[at + 1 : at + 4]):
                part.append(int(line[at + 2 : at + 4], 16))
                at += 4
            else:
                part.append(ESCAPES.get(line[at + 1], line[at + 1]))
                at += 2
        elif here == b"\\" and line[at + 1 : at + 2] == b"'":
            part += b"'"
            at += 2
        else:
            part += here
            at += 1
    raise WrongError("Protocol error: unbalanced quotes in request")


# ---- the one in C ----


class _Limits(ctypes.Structure):
    _fields_ = (
        ("arguments_most", ctypes.c_uint32),
        ("bulk_bytes_most", ctypes.c_uint64),
        ("stranger", ctypes.c_bool),
    )


class _Place(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint32), ("size", ctypes.c_uint32))


class _Resp(ctypes.Structure):
    _fields_ = (
        ("places", ctypes.POINTER(_Place)),
        ("count", ctypes.c_uint32),
        ("room", ctypes.c_uint32),
        ("wanted", ctypes.c_uint32),
        ("position", ctypes.c_uint32),
        ("bulk_bytes", ctypes.c_int64),
        ("words", ctypes.POINTER(ctypes.c_uint8)),
        ("error", ctypes.c_char * 64),
    )


_PARTIAL, _COMMAND, _NOTHING, _WRONG = range(4)
_core = ctypes.CDLL(str(Path(naru._native.__path__[0], "libnaru_core.so")))


def by_the_core(data: bytes, piece: int) -> Understood:
    """The same, as a connection does it: `piece` bytes at a time."""
    limits = _Limits(ARGUMENTS_MOST, BULK_MOST, False)
    resp = _Resp()
    _core.nr_resp_init(ctypes.byref(resp))
    found = Understood()
    begin, there = 0, 0
    try:
        while True:
            # Of exactly that size, so that a sanitizer would see a byte too far.
            have = ctypes.create_string_buffer(data[begin:there], max(1, there - begin))
            result = _core.nr_resp_parse(
                ctypes.byref(resp), ctypes.byref(limits), have, ctypes.c_size_t(there - begin)
            )
            if result == _WRONG:
                found.wrong = resp.error.decode("latin-1")
                return found
            if result == _PARTIAL:
                if there == len(data):
                    return found
                there = min(len(data), there + piece)
                continue
            if result == _COMMAND:
                found.commands.append(_arguments(resp, have))
            assert 1 <= resp.position <= there - begin
            begin += resp.position
            _core.nr_resp_reset(ctypes.byref(resp))
    finally:
        _core.nr_resp_free(ctypes.byref(resp))


def _arguments(resp: _Resp, have: ctypes.Array[ctypes.c_char]) -> list[bytes]:
    base = ctypes.cast(resp.words, ctypes.c_void_p).value or ctypes.addressof(have)
    places = [resp.places[i] for i in range(resp.count)]
    return [ctypes.string_at(base + place.offset, place.size) for place in places]


def contradiction(data: bytes) -> tuple[Understood, Understood] | None:
    """What the two say of the first byte's stream when it is not the same; None: it is."""
    if not data or b"\v" in data or b"\f" in data:  # spaces within a word, or not: left open
        return None
    ours = by_the_core(data[1:], data[0] % 16 + 1 if data[0] < 128 else len(data))
    due = understood(data[1:])
    same = ours.commands == due.commands and _text(ours.wrong) == _text(due.wrong)
    return None if same else (ours, due)


def _text(wrong: str) -> str:
    return re.sub(r"got '[^!-~]?'", "got '?'", wrong)
