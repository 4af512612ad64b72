"""A ledger: messages that prove by themselves whether anything happened to them on the way.

Each carries its sender, its sequence number, its size and a CRC32 over everything, so that the
receiver alone can tell what was lost, came twice, came late or was torn.

    0        4       8           16          20       24
    sender   size    sequence    CRC32       magic    payload (noise that depends on the sequence)

Holds: LedgerWriter, LedgerReader and what the reader reports.
Must not know: any transport; a message is bytes.
Joins: the conformance checks and the fault tests send what a writer makes and give a reader what
came. Source: CRC32 as in zlib (RFC 1952).
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

__all__ = [
    "LEDGER_HEADER_BYTES",
    "LedgerReader",
    "LedgerReport",
    "LedgerWriter",
    "SenderReport",
]

LEDGER_HEADER_BYTES = 24
"""The smallest message of a ledger."""

_HEADER = struct.Struct("<IIQII")
_MAGIC = 0x4C44474E
# Noise and not zeroes: a message that was put together from two others must not look whole.
_NOISE = random.Random("naru ledger").randbytes(1 << 16)

Finding = Literal["new", "late", "duplicate", "torn"]


def _noise(start: int, size_bytes: int) -> bytes:
    start %= len(_NOISE)
    repeats = -(-(start + size_bytes) // len(_NOISE))
    return (_NOISE * repeats)[start : start + size_bytes]


def _checksum(sender_id: int, size_bytes: int, sequence: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(_HEADER.pack(sender_id, size_bytes, sequence, 0, _MAGIC)))


class LedgerWriter:
    """Makes the messages of one sender. Not safe from several threads: give each its own."""

    def __init__(self, sender_id: int, size_bytes: int | Callable[[int], int] = 64) -> None:
        """
        Args:
            sender_id: 0..2**32-1; one writer each.
            size_bytes: of every message, or a function from the sequence number to it; at least
                LEDGER_HEADER_BYTES.
        """
        self.sender_id = sender_id
        self.count = 0
        """Messages made so far; the sequence number of the next one."""
        self._size_of = size_bytes if callable(size_bytes) else lambda _: size_bytes

    def next(self) -> bytes:
        """The next message. Raises ValueError when its size is below LEDGER_HEADER_BYTES."""
        size_bytes = self._size_of(self.count)
        if size_bytes < LEDGER_HEADER_BYTES:
            raise ValueError(
                f"a ledger message has at least {LEDGER_HEADER_BYTES} bytes, not {size_bytes}"
            )
        payload = _noise(self.sender_id * 7919 + self.count * 31, size_bytes - LEDGER_HEADER_BYTES)
        crc = _checksum(self.sender_id, size_bytes, self.count, payload)
        header = _HEADER.pack(self.sender_id, size_bytes, self.count, crc, _MAGIC)
        self.count += 1
        return header + payload

    def take(self, count: int) -> list[bytes]:
        """The next `count` messages."""
        return [self.next() for _ in range(count)]


@dataclass(frozen=True, slots=True)
class SenderReport:
    """What became of one sender's messages."""

    received: int
    """Different messages that came whole."""
    lost: int
    """Never came, as far as sequence numbers (or the counts given to report()) tell."""
    duplicated: int
    """Came again."""
    reordered: int
    """Came after a later one."""

    @property
    def is_perfect(self) -> bool:
        """Nothing lost, duplicated or reordered."""
        return self.lost == self.duplicated == self.reordered == 0


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What a LedgerReader saw, until now."""

    senders: Mapping[int, SenderReport]
    torn: int
    """Messages that no writer made so: cut, joined, or damaged."""

    @property
    def is_perfect(self) -> bool:
        """Nothing lost, duplicated, reordered or torn."""
        return self.torn == 0 and all(sender.is_perfect for sender in self.senders.values())

    @property
    def received(self) -> int:
        """Of all senders."""
        return sum(sender.received for sender in self.senders.values())

    @property
    def lost(self) -> int:
        """Of all senders."""
        return sum(sender.lost for sender in self.senders.values())

    @property
    def duplicated(self) -> int:
        """Of all senders."""
        return sum(sender.duplicated for sender in self.senders.values())

    @property
    def reordered(self) -> int:
        """Of all senders."""
        return sum(sender.reordered for sender in self.senders.values())

    def __str__(self) -> str:
        total = (
            f"{self.received} received, {self.lost} lost, {self.duplicated} duplicated, "
            f"{self.reordered} reordered, {self.torn} torn"
        )
        bad = [f"sender {i}: {s}" for i, s in self.senders.items() if not s.is_perfect]
        return "; ".join([total, *bad])


@dataclass(slots=True)
class _Tally:
    received: int = 0
    duplicated: int = 0
    reordered: int = 0
    next_sequence: int = 0
    missing: set[int] = field(default_factory=set)

    def add(self, sequence: int) -> Finding:
        if sequence >= self.next_sequence:
            self.missing.update(range(self.next_sequence, sequence))
            self.next_sequence = sequence + 1
            self.received += 1
            return "new"
        if sequence in self.missing:
            self.missing.discard(sequence)
            self.received += 1
            self.reordered += 1
            return "late"
        self.duplicated += 1
        return "duplicate"

    def report(self, sent: int | None) -> SenderReport:
        tail = 0 if sent is None else max(0, sent - self.next_sequence)
        return SenderReport(
            self.received, len(self.missing) + tail, self.duplicated, self.reordered
        )


class LedgerReader:
    """Takes what came, in the order in which it came, and keeps the books of every sender."""

    def __init__(self) -> None:
        self._tallies: dict[int, _Tally] = {}
        self._torn = 0

    def add(self, message: bytes | bytearray | memoryview) -> Finding:
        """Books one message and says what it is: "new", "late", "duplicate" or "torn"."""
        view = memoryview(message).cast("B")
        if len(view) < LEDGER_HEADER_BYTES:
            return self._add_torn()
        sender_id, size_bytes, sequence, crc, magic = _HEADER.unpack_from(view)
        payload = view[LEDGER_HEADER_BYTES:]
        if (
            magic != _MAGIC
            or size_bytes != len(view)
            or crc != _checksum(sender_id, size_bytes, sequence, payload)
        ):
            return self._add_torn()
        return self._tallies.setdefault(sender_id, _Tally()).add(sequence)

    def add_all(self, messages: Iterator[bytes] | list[bytes]) -> None:
        """Books each of several messages."""
        for message in messages:
            self.add(message)

    def _add_torn(self) -> Finding:
        self._torn += 1
        return "torn"

    def report(self, sent: Mapping[int, int] | None = None) -> LedgerReport:
        """The books until now.

        Args:
            sent: how many messages each sender sent, when that is known: only then can it be told
                that the last ones of a sender, or all of them, are lost.
        """
        expected: dict[int, int | None] = dict.fromkeys(self._tallies)
        expected.update(sent or {})
        senders = {
            sender_id: self._tallies.get(sender_id, _Tally()).report(count)
            for sender_id, count in sorted(expected.items())
        }
        return LedgerReport(MappingProxyType(senders), self._torn)
