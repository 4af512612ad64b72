"""The messages of request/reply, byte by byte. Pure functions over bytes.

A frame is one message of a channel: a head of 16 bytes, then the body. All little-endian.

    0       2         3      4       8           16
    "nq"    version   kind   flags   number      body

    kind           from     number                   body
    0 welcome      server   0                        u32: how many requests may be open at once
    1 request      client   of an own choice, not 0  the request
    2 reply        server   of the request           the answer
    3 error        server   of the request           three texts: see below
    4 cancel       client   of the request           empty

The server speaks first, with one welcome. Every request gets exactly one reply or error, also when it
was cancelled; replies come in any order. Flags are 0, except of an error: 1 REFUSED, the request was
not begun because the server is closing; 2 CANCELLED, it was not begun because of a cancel.
The body of an error: u32 size of the name of its type, u32 of its text, u32 of the traceback, then
the three in UTF-8.

Holds: the layout, writers, strict parsers. Must not know: which frame may come when (conversation.py),
channels. Joins: head and body are separate, because a channel sends two parts as one message and
gives it taken apart (naru._native.multiplexing), so that no body is copied for its head.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from naru.errors import ProtocolError

__all__ = [
    "CANCEL",
    "CANCELLED",
    "ERROR",
    "HEAD_BYTES",
    "REFUSED",
    "REPLY",
    "REQUEST",
    "VERSION",
    "WELCOME",
    "Failure",
    "Frame",
    "failure_of",
    "number_of",
    "number_of_reply",
    "parse_error",
    "parse_head",
    "parse_welcome",
    "reply_head_of",
    "write_error",
    "write_head",
    "write_heads",
    "write_welcome",
]

VERSION = 1
WELCOME, REQUEST, REPLY, ERROR, CANCEL = range(5)
REFUSED, CANCELLED = 1, 2

_HEAD = struct.Struct("<2sBBIQ")
_MAGIC = b"nq"
_WELCOME_BODY = struct.Struct("<I")
_ERROR_BODY = struct.Struct("<III")
HEAD_BYTES = _HEAD.size
MOST_OPEN = 1 << 20
LONGEST_BYTES = (1 << 10, 1 << 16, 1 << 16)
"""Of the texts of an error: the type's name, what it says, the traceback."""

_NO_NUMBER = bytes(8)
_KINDS_WITHOUT_FLAGS = frozenset((WELCOME, REQUEST, REPLY, CANCEL))


class Frame(NamedTuple):
    """What a head says."""

    kind: int
    flags: int
    number: int


class Failure(NamedTuple):
    """What an error says of an exception on the other side."""

    type_name: str
    text: str
    traceback: str


def write_head(
    kind: int,
    number: int,
    flags: int = 0,
    *,
    _pack: Any = _HEAD.pack,  # a local name: this is called for every frame
) -> bytes:
    """The 16 bytes before a body."""
    head: bytes = _pack(_MAGIC, VERSION, kind, flags, number)
    return head


def parse_head(head: bytes, body_bytes: int, *, _unpack: Any = _HEAD.unpack) -> Frame:
    """What a frame is.

    Args:
        head: its first 16 bytes, or the whole frame when it is shorter.
        body_bytes: how many follow.

    Raises: ProtocolError: no frame of this version, or one that cannot be.
    """
    if len(head) != HEAD_BYTES:
        raise ProtocolError(f"a frame of {len(head)} bytes; its head alone has {HEAD_BYTES}")
    magic, version, kind, flags, number = _unpack(head)
    if magic != _MAGIC:
        raise ProtocolError(f"no frame of request/reply: it begins with {magic!r}")
    if version != VERSION:
        raise ProtocolError(f"version {version} of request/reply; this side speaks {VERSION}")
    if flags and (kind in _KINDS_WITHOUT_FLAGS or flags not in (REFUSED, CANCELLED)):
        raise ProtocolError(f"a frame of kind {kind} with the flags {flags:#x}")
    if kind > CANCEL:
        raise ProtocolError(f"a frame of the unknown kind {kind}")
    if (number == 0) != (kind == WELCOME):
        raise ProtocolError(f"a frame of kind {kind} with the number {number}")
    if kind == CANCEL and body_bytes:
        raise ProtocolError(f"a cancel with a body of {body_bytes} bytes")
    return Frame(kind, flags, number)


# ---- the same for what nearly every frame is, without taking it apart ----

_REQUEST_HEAD, _REPLY_HEAD = (write_head(kind, 0)[:8] for kind in (REQUEST, REPLY))


def write_heads(number: int) -> tuple[bytes, bytes]:
    """The head of a request, and that of its reply."""
    end = number.to_bytes(8, "little")
    return _REQUEST_HEAD + end, _REPLY_HEAD + end


def reply_head_of(head: bytes) -> bytes | None:
    """The head of the reply to a request; None when this is the head of anything else."""
    if len(head) == HEAD_BYTES and head.startswith(_REQUEST_HEAD) and not head.endswith(_NO_NUMBER):
        return _REPLY_HEAD + head[8:]
    return None


def number_of_reply(head: bytes) -> int:
    """The number of the request that it answers; 0 when this is the head of anything else."""
    if len(head) == HEAD_BYTES and head.startswith(_REPLY_HEAD):
        return int.from_bytes(head[8:], "little")
    return 0


def number_of(head: bytes) -> int:
    """The number of a head that is known to be one."""
    return int.from_bytes(head[8:], "little")


# ---- the server's first word ----


def write_welcome(most_open: int) -> tuple[bytes, bytes]:
    """Head and body. Args: most_open: 1..2**20 requests that may be open at once."""
    return write_head(WELCOME, 0), _WELCOME_BODY.pack(most_open)


def parse_welcome(body: bytes) -> int:
    """How many requests may be open at once. Raises: ProtocolError."""
    if len(body) != _WELCOME_BODY.size:
        raise ProtocolError(f"a welcome of {len(body)} bytes")
    most_open: int = _WELCOME_BODY.unpack(body)[0]
    if not 1 <= most_open <= MOST_OPEN:
        raise ProtocolError(f"a welcome that allows {most_open} requests at once")
    return most_open


# ---- errors ----


def write_error(failure: Failure) -> bytes:
    """The body of an error; texts that are too long are cut (a traceback at its beginning)."""
    name, text, traceback = (one.encode("utf-8", "backslashreplace") for one in failure)
    name = _cut(name, LONGEST_BYTES[0])
    text = _cut(text, LONGEST_BYTES[1])
    if len(traceback) > LONGEST_BYTES[2]:  # its last lines say where it was raised
        traceback = traceback[-LONGEST_BYTES[2] :].decode("utf-8", "ignore").encode()
    return _ERROR_BODY.pack(len(name), len(text), len(traceback)) + name + text + traceback


def _cut(text: bytes, longest_bytes: int) -> bytes:
    """At a boundary between characters."""
    if len(text) <= longest_bytes:
        return text
    return text[:longest_bytes].decode("utf-8", "ignore").encode()


def parse_error(body: bytes) -> Failure:
    """What an error says. Raises: ProtocolError."""
    if len(body) < _ERROR_BODY.size:
        raise ProtocolError(f"an error of {len(body)} bytes; its sizes alone have 12")
    sizes = _ERROR_BODY.unpack_from(body)
    if sum(sizes) + _ERROR_BODY.size != len(body):
        raise ProtocolError(f"an error of {len(body)} bytes whose texts have {sizes}")
    if any(size > longest for size, longest in zip(sizes, LONGEST_BYTES, strict=True)):
        raise ProtocolError(f"an error whose texts have {sizes} bytes")
    texts, at = [], _ERROR_BODY.size
    for size in sizes:
        try:
            texts.append(body[at : at + size].decode())
        except UnicodeDecodeError as error:
            raise ProtocolError(f"an error whose text is not UTF-8: {error}") from error
        at += size
    return Failure(*texts)


def failure_of(error: BaseException) -> Failure:
    """What is carried over of an exception: names and texts, never the object itself."""
    from traceback import format_exception

    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    try:
        text = str(error)
    except Exception as second:  # an exception that cannot even say what it is
        text = f"<its __str__ raised {type(second).__name__}>"
    try:
        traceback = "".join(format_exception(error))
    except Exception as second:
        traceback = f"<no traceback: {type(second).__name__}>"
    return Failure(name, text, traceback)
