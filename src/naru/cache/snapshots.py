"""The file of a snapshot: everything that a cache holds, to be restored here or on another machine.

    0   8   "NARUSNAP"                    then, for each entry
    8   u32 version, 1                        u32 0x59525445, "ETRY"
    12  u32 shards                            u32 key bytes
    16  u64 size_bytes of the cache           u64 value bytes
    24  u32 entry_bytes                       i64 expires, Unix time in ms; -1: never
    28  u32 small_percent                     u8  kind
    32  16  seed (a secret, as the cache is)  u8  tags
    48  16  codec's name                      u16 0
    64  i64 made at, Unix time in ms          u32 CRC-32 of this header before it, tags, key, value
    72  u32 0                                 u64 tags[], key, value
    76  u32 CRC-32 of the bytes before    and at the end
                                              u32 0x53444E45, "ENDS"
    little-endian                             u64 entries
                                              u32 CRC-32 of these 12 bytes and all entries' CRCs

Holds: Head, Entry, write, read: over anything with write() or read(). Must not know: tables, names.
Joins: generations.py fills a new table from it.

A reader believes nothing: sizes are bounded before a byte is asked for, and a file that ends too early,
or was changed anywhere, is a CorruptedError.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from naru.errors import CorruptedError, ProtocolError

__all__ = ["Entry", "Head", "read_entries", "read_head", "write"]

MAGIC, VERSION = b"NARUSNAP", 1
MOST_KEY_BYTES, MOST_TAGS = 65535, 16
MOST_VALUE_BYTES = 1 << 40
_HEAD = struct.Struct("<8sIIQII16s16sqI")
_ENTRY = struct.Struct("<IIQqBBH")
_CHECK = struct.Struct("<I")
_END = struct.Struct("<IQ")
_ENTRY_MARK, _END_MARK = 0x59525445, 0x53444E45


class Head(NamedTuple):
    """What the cache was."""

    size_bytes: int
    shards: int
    entry_bytes: int
    small_percent: int
    seed: bytes
    codec: str
    made_ms: int


class Entry(NamedTuple):
    """One of its entries; `expires_ms` is Unix time, -1: never."""

    key: bytes
    value: bytes
    kind: int
    expires_ms: int
    tags: tuple[int, ...]


class Writer(Protocol):
    """What write() needs of a file."""

    def write(self, data: bytes, /) -> object:
        """All of it."""


class Reader(Protocol):
    """What reading needs of a file."""

    def read(self, size: int, /) -> bytes:
        """As many, or fewer at the end."""


# ---- writing ----


def write(file: Writer, head: Head, entries: Iterable[Entry]) -> int:
    """Writes a whole snapshot. Returns: how many entries."""
    whole = _HEAD.pack(
        MAGIC, VERSION, head.shards, head.size_bytes, head.entry_bytes, head.small_percent, head.seed,
        head.codec.encode("ascii"), head.made_ms, 0,
    )  # fmt: skip
    file.write(whole + _CHECK.pack(zlib.crc32(whole)))
    count, chain = 0, 0
    for entry in entries:
        start, check = _start_of(entry)
        file.write(start)
        file.write(entry.value)
        chain = zlib.crc32(check, chain)
        count += 1
    end = _END.pack(_END_MARK, count)
    file.write(end + _CHECK.pack(zlib.crc32(end, chain)))
    return count


def _start_of(entry: Entry) -> tuple[bytes, bytes]:
    head = _ENTRY.pack(
        _ENTRY_MARK, len(entry.key), len(entry.value), entry.expires_ms, entry.kind, len(entry.tags), 0
    )  # fmt: skip
    names = struct.pack(f"<{len(entry.tags)}Q", *entry.tags) + entry.key
    check = _CHECK.pack(zlib.crc32(entry.value, zlib.crc32(names, zlib.crc32(head))))
    return head + check + names, check


# ---- reading ----


def read_head(file: Reader) -> Head:
    """Raises: ProtocolError: another version; CorruptedError: no snapshot, or a damaged one."""
    whole = _exactly(file, _HEAD.size, "head")
    magic, version, shards, size_bytes, entry_bytes, percent, seed, codec, made_ms, _ = (
        _HEAD.unpack(whole)
    )
    if magic != MAGIC:
        raise _damaged("it does not begin as one")
    if version != VERSION:
        raise ProtocolError(
            f"snapshot: version {version} of its format, this naru reads {VERSION}: use the one that "
            "wrote it",
            operation="cache.restore",
        )
    if _CHECK.unpack(_exactly(file, _CHECK.size, "head"))[0] != zlib.crc32(whole):
        raise _damaged("its head was changed")
    name = codec.rstrip(b"\0")
    if not name.isascii() or not 1 <= shards <= 1024 or size_bytes >= MOST_VALUE_BYTES:
        raise _damaged("its head cannot be")
    return Head(size_bytes, shards, entry_bytes, percent, seed, name.decode("ascii"), made_ms)


def read_entries(file: Reader, most_value_bytes: int = MOST_VALUE_BYTES) -> Iterator[Entry]:
    """Every entry, each checked before it is given; at the end, that all were there.

    Args:
        most_value_bytes: nothing larger is read into memory; it is a CorruptedError.
    """
    count, chain = 0, 0
    while True:
        mark = _exactly(file, 4, "entry")
        if _CHECK.unpack(mark)[0] == _END_MARK:
            break
        entry, check = _read_entry(file, mark, most_value_bytes)
        chain = zlib.crc32(check, chain)
        count += 1
        yield entry
    end = mark + _exactly(file, _END.size - 4, "end")
    check = _exactly(file, _CHECK.size, "end")
    if _END.unpack(end)[1] != count or _CHECK.unpack(check)[0] != zlib.crc32(end, chain):
        raise _damaged("its end does not agree with its entries")


def _read_entry(file: Reader, mark: bytes, most_value_bytes: int) -> tuple[Entry, bytes]:
    head = mark + _exactly(file, _ENTRY.size - 4, "entry")
    start, key_bytes, value_bytes, expires_ms, kind, tags, _ = _ENTRY.unpack(head)
    if (
        start != _ENTRY_MARK
        or key_bytes > MOST_KEY_BYTES
        or value_bytes > most_value_bytes
        or tags > MOST_TAGS
        or kind > 15
        or expires_ms < -1
    ):
        raise _damaged("an entry cannot be")
    check = _exactly(file, _CHECK.size, "entry")
    names = _exactly(file, 8 * tags + key_bytes, "key")
    value = _exactly(file, value_bytes, "value")
    if _CHECK.unpack(check)[0] != zlib.crc32(value, zlib.crc32(names, zlib.crc32(head))):
        raise _damaged("an entry was changed")
    marks = struct.unpack_from(f"<{tags}Q", names)
    return Entry(names[8 * tags :], value, kind, expires_ms, marks), check


def _exactly(file: Reader, size: int, what: str) -> bytes:
    """In pieces, so that a size that lies costs no more memory than the file has bytes."""
    parts: list[bytes] = []
    missing = size
    while missing:
        part = file.read(min(missing, 1 << 20))
        if not part:
            raise _damaged(f"it ends inside its {what}")
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _damaged(why: str) -> CorruptedError:
    return CorruptedError(f"snapshot: damaged, or none: {why}", operation="cache.restore")
