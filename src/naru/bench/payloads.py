"""What is sent in a benchmark, and how the receiver knows that it is what came.

Messages go in blocks of up to 64. Each begins with its place in the block; the last one is a
marker that begins with the number of the block, so a message too many or too few shifts every later
marker. In every block one more message, another one each time, is compared. So a loss, a repetition
or a tear cannot pass for a result, at a cost of a few nanoseconds a message.
Must not know: transports, clocks.
Joins: `loops` takes blocks from here and asks `check_*`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from naru.errors import CorruptedError
from naru.sizes import BATCH, batch_length

__all__ = ["Payloads"]

HEADER_BYTES = 8
MARKER = 1 << 32

COMPARED_BYTES = 4096
"""Of each end of a large message: comparing all of it would be measured, too."""

_CYCLE_BYTES = 65536
_PATTERN = bytes((7 * i + i // 256) % 256 for i in range(_CYCLE_BYTES + BATCH))


class Payloads:
    """The messages of one size; both sides make the same ones."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.block_length = batch_length(size_bytes)
        self.block: list[bytes | bytearray] = [
            self._make(place, place) for place in range(self.block_length)
        ]
        self._ends = [(message[:COMPARED_BYTES], self._tail(message)) for message in self.block]
        self._marker = bytearray(self._make(MARKER, self.block_length - 1))

    def _make(self, number: int, place: int) -> bytes:
        header = number.to_bytes(HEADER_BYTES, "little")
        left = max(0, self.size_bytes - HEADER_BYTES)
        body = _PATTERN[place : place + _CYCLE_BYTES]
        return (header + (body * (left // _CYCLE_BYTES + 1))[:left])[: self.size_bytes]

    def _tail(self, message: Any) -> Any:
        """Of a large message; the head covers a small one."""
        return message[self.size_bytes - COMPARED_BYTES :] if self._is_large else b""

    @property
    def _is_large(self) -> bool:
        return self.size_bytes > COMPARED_BYTES

    def marker(self, number: int) -> bytes | bytearray:
        """The last message of block `number`. Large ones are one buffer, overwritten each time."""
        header = (MARKER + number).to_bytes(HEADER_BYTES, "little")
        fits = min(HEADER_BYTES, self.size_bytes)
        self._marker[:fits] = header[:fits]
        return self._marker if self._is_large else bytes(self._marker)

    def last_block(self, number: int, length: int) -> list[bytes | bytearray]:
        """A block that is cut short; its last message is a marker, too."""
        return [*self.block[: length - 1], self.marker(number)]

    def sample_place(self, number: int) -> int:
        """Which message of block `number` is compared; no marker."""
        return number % max(1, self.block_length - 1)

    # ---- checks ----

    def check(self, message: Any, place: int) -> None:
        """Compares with the message of that place in a block."""
        head, tail = self._ends[place]
        if not self._agrees(message, head, tail):
            self._fail(message, f"message {place} of a block")

    def check_marker(self, message: Any, number: int) -> None:
        """Compares with the marker of block `number`."""
        marker = self.marker(number)
        if not self._agrees(message, marker[:COMPARED_BYTES], self._tail(marker)):
            self._fail(message, f"the marker of block {number}")

    def check_at(self, message: Any, position: int, count: int) -> None:
        """Compares with message `position` of a stream of `count`."""
        number, place = divmod(position, self.block_length)
        if place == self.block_length - 1 or position == count - 1:
            self.check_marker(message, number)
        else:
            self.check(message, place)

    def check_batch(self, batch: Sequence[Any], position: int, count: int) -> None:
        """Checks the markers of a batch that begins at `position`, and its first message."""
        if position + len(batch) > count:
            raise CorruptedError(f"more than the {count} messages that were sent have come")
        self.check_at(batch[0], position, count)
        first = self.block_length - 1 - position % self.block_length
        for at in range(first, len(batch), self.block_length):
            self.check_marker(batch[at], (position + at) // self.block_length)

    def is_one(self, message: bytes) -> bool:
        """Could this message be of the stream? For a way that may lose some."""
        if len(message) != self.size_bytes:
            return False
        if self.size_bytes < HEADER_BYTES:
            return True  # too small to tell
        number = int.from_bytes(message[:HEADER_BYTES], "little")
        if number < self.block_length:
            return message == self.block[number]
        return number >= MARKER and message == self.marker(number - MARKER)

    def _agrees(self, message: Any, head: Any, tail: Any) -> bool:
        # Slices of a View are bytes; comparing a View itself goes byte by byte.
        if len(message) != self.size_bytes or message[:COMPARED_BYTES] != head:
            return False
        return not self._is_large or self._tail(message) == tail

    def _fail(self, message: Any, wanted: str) -> None:
        came = bytes(message[:16])
        raise CorruptedError(
            f"{wanted} was to come, {len(message)} bytes came that begin with {came!r}: a message "
            "was lost, repeated or torn"
        )
