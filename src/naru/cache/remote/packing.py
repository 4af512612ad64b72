"""Values as they stand on a server: pure functions over bytes.

What other clients of the server see and write is told apart from what only Python knows:

    a whole number of 1 to 19 digits   int: what INCRBY adds to
    \\0N 1 digits                       a longer int
    \\0N 2 text                         str, as UTF-8
    \\0N 0 bytes                        bytes that would be taken for one of these otherwise
    \\0N 3.. packed                     by the codec: the kinds of naru.cache.codecs, one letter each
    \\0NT count marks value             a value that bears tags: for each the name's digest (8 bytes) and
                                       the tag's token (8 bytes); then the value, as one of the others
    anything else                      bytes, as they are

So a value of another program is bytes (or an int), and one that was set as bytes is the same for it.

Holds: pack, unpack, split, version_of, digest_of. Must not know: servers, codecs' insides.
Joins: verbs.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from naru.errors import CorruptedError, ProtocolError

__all__ = [
    "HEAD_BYTES", "MARK_BYTES", "TAGS_MOST", "Marked", "digest_of", "pack", "plain_of", "split",
    "tagged", "unpack", "version_of",
]  # fmt: skip

MAGIC = b"\0N"
TAGGED = MAGIC + b"T"
TAGS_MOST = 16
MARK_BYTES = 16
HEAD_BYTES = len(TAGGED) + 1 + TAGS_MOST * MARK_BYTES
"""So much of a value says which tags it bears."""

BYTES, INTEGER, TEXT = 0, 1, 2
_LETTERS = b"0123456789abcdef"
_NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_LONGEST = 20


class Marked(NamedTuple):
    """A value in two parts."""

    marks: tuple[tuple[bytes, bytes], ...]
    """(digest of the name, token) of each tag."""
    inner: bytes


def pack(value: Any, packer: Callable[[Any], tuple[int, bytes, Any]]) -> bytes:
    """Raises: TypeError: the codec cannot pack it."""
    if type(value) is bytes:
        return _escaped(value)
    if type(value) is str:
        return MAGIC + b"2" + value.encode()
    if type(value) is int:
        text = str(value).encode()
        return text if _NUMBER.fullmatch(text) else MAGIC + b"1" + text
    if isinstance(value, bytearray | memoryview):
        return _escaped(bytes(value))
    kind, head, body = packer(value)
    data = head if body is None else head + memoryview(body).cast("B")
    return _escaped(data) if kind == BYTES else MAGIC + _LETTERS[kind : kind + 1] + data


def _escaped(value: bytes) -> bytes:
    if value.startswith(MAGIC) or (len(value) <= _LONGEST and _NUMBER.fullmatch(value)):
        return MAGIC + b"0" + value
    return value


def unpack(raw: bytes, unpacker: Callable[[int, bytes], Any], address: object) -> Any:
    """The value of a `Marked.inner`.

    Raises: ProtocolError: a newer naru made it, or this codec does not read it. CorruptedError.
    """
    if len(raw) > _LONGEST and not raw.startswith(MAGIC):
        return raw
    kind, data = plain_of(raw, address)
    if kind == BYTES:
        return data
    try:
        if kind == INTEGER:
            return int(data)
        if kind == TEXT:
            return data.decode()
    except ValueError as error:
        raise CorruptedError(
            f'cache "{address}": the value cannot be what its kind says: {error}',
            operation="cache.get",
            address=address,
        ) from error
    return unpacker(kind, data)


def plain_of(raw: bytes, address: object) -> tuple[int, bytes]:
    """The kind of an inner value, and its bytes without the mark of it."""
    if not raw.startswith(MAGIC):
        is_number = len(raw) <= _LONGEST and _NUMBER.fullmatch(raw)
        return (INTEGER if is_number else BYTES), raw
    kind = _LETTERS.find(raw[2:3]) if len(raw) > 2 else -1
    if kind < 0:
        raise ProtocolError(
            f'cache "{address}": the value is marked as no naru of this version does: {raw[:8]!r}',
            operation="cache.get",
            address=address,
        )
    return kind, raw[3:]


def tagged(marks: tuple[tuple[bytes, bytes], ...], inner: bytes) -> bytes:
    """A value that bears tags; without any, as it is."""
    if not marks:
        return inner
    return TAGGED + bytes([len(marks)]) + b"".join(d + token for d, token in marks) + inner


def split(raw: bytes, address: object) -> Marked:
    """The tags of a value, or of its first HEAD_BYTES. Raises: CorruptedError: they are cut off."""
    if not raw.startswith(TAGGED):
        return Marked((), raw)
    count = raw[3] if len(raw) > 3 else 0
    end = 4 + count * MARK_BYTES
    if not 0 < count <= TAGS_MOST or len(raw) < end:
        raise CorruptedError(
            f'cache "{address}": the tags of the value are damaged: {raw[:8]!r}',
            operation="cache.get",
            address=address,
        )
    marks = tuple(
        (raw[at : at + 8], raw[at + 8 : at + MARK_BYTES]) for at in range(4, end, MARK_BYTES)
    )
    return Marked(marks, raw[end:])


def digest_of(name: str | bytes) -> bytes:
    """What stands for a tag's name. Two names of one digest are forgotten together (1 in 2**64)."""
    if not isinstance(name, str | bytes):
        raise TypeError(f"a tag is str or bytes, not {type(name).__name__}")
    return hashlib.blake2b(name.encode() if isinstance(name, str) else name, digest_size=8).digest()


def version_of(raw: bytes) -> int:
    """Of what stands there: the same bytes, tags and tokens have the same version. Never 0."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little") or 1
