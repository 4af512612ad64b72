"""Standard input to messages, and messages to what is printed. Pure: chunks in, lists out.

Each splitter takes chunks of bytes as they were read and gives, for each, the messages that are
complete by then, so that an interactive line leaves at once and a large file goes in batches.
Must not know: files, ends.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence

from naru.errors import CorruptedError, TooBigError

__all__ = [
    "LARGEST_BYTES",
    "format_hex",
    "format_json",
    "format_lengths",
    "format_lines",
    "format_raw",
    "split_lengths",
    "split_lines",
    "split_raw",
    "split_sizes",
    "split_whole",
]

LARGEST_BYTES = 4_294_967_280  # what a record can carry (naru.settings)
LENGTH_BYTES = 4

Chunks = Iterable[bytes]
Batches = Iterator[list[bytes]]


# ---- in ----


def split_lines(chunks: Chunks) -> Batches:
    """A message is a line, without its newline; a last line needs none."""
    rest: list[bytes] = []
    rest_bytes = 0
    for chunk in chunks:
        head, newline, tail = chunk.partition(b"\n")
        rest.append(head)
        rest_bytes += len(head)
        if newline:
            *lines, last = tail.split(b"\n")
            yield [b"".join(rest), *lines]
            rest, rest_bytes = [last], len(last)
        if rest_bytes > LARGEST_BYTES:
            raise TooBigError(f"a line above {LARGEST_BYTES} bytes: --raw or --size cut it")
    if rest_bytes:
        yield [b"".join(rest)]


def split_raw(chunks: Chunks) -> Batches:
    """A message is what came in one read."""
    for chunk in chunks:
        yield [chunk]


def split_whole(chunks: Chunks) -> Batches:
    """One message is all of it, also when there is nothing."""
    parts: list[bytes] = []
    total_bytes = 0
    for chunk in chunks:
        parts.append(chunk)
        total_bytes += len(chunk)
        if total_bytes > LARGEST_BYTES:
            raise TooBigError(f"more than {LARGEST_BYTES} bytes: --raw or --size cut it")
    yield [b"".join(parts)]


def split_sizes(chunks: Chunks, size_bytes: int) -> Batches:
    """Messages of `size_bytes`; the last one may be shorter."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        whole = len(data) - len(data) % size_bytes
        if whole:
            yield [data[at : at + size_bytes] for at in range(0, whole, size_bytes)]
        rest = data[whole:]
    if rest:
        yield [rest]


def split_lengths(chunks: Chunks) -> Batches:
    """Messages with their length before each, 4 bytes, little-endian: what format_lengths makes.

    Raises: CorruptedError when the input ends inside a message.
    """
    data = bytearray()
    for chunk in chunks:
        data += chunk
        messages, at = [], 0
        while len(data) - at >= LENGTH_BYTES:
            end = at + LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES], "little")
            if len(data) < end:
                break
            messages.append(bytes(data[at + LENGTH_BYTES : end]))
            at = end
        if messages:
            yield messages
            del data[:at]
    if data:
        raise CorruptedError(f"the input ends inside a message: {len(data)} bytes are left over")


# ---- out ----


def format_lines(messages: Sequence[bytes], number: int = 0) -> bytes:
    """Each message and a newline."""
    return b"\n".join([*messages, b""])


def format_raw(messages: Sequence[bytes], number: int = 0) -> bytes:
    """The messages, and nothing between them."""
    return b"".join(messages)


def format_lengths(messages: Sequence[bytes], number: int = 0) -> bytes:
    """The length of each before it, 4 bytes, little-endian."""
    return b"".join(len(one).to_bytes(LENGTH_BYTES, "little") + one for one in messages)


def format_hex(messages: Sequence[bytes], number: int = 0) -> bytes:
    """A line of hexadecimal digits each."""
    return "".join(one.hex() + "\n" for one in messages).encode()


def format_json(
    messages: Sequence[bytes], number: int = 0, priorities: Sequence[int] = ()
) -> bytes:
    """A JSON object a line: number, size_bytes, text, or base64 for what is not UTF-8."""
    lines = []
    for at, message in enumerate(messages):
        fields: dict[str, object] = {"number": number + at, "size_bytes": len(message)}
        if priorities:
            fields["priority"] = priorities[at]
        try:
            fields["text"] = message.decode()
        except UnicodeDecodeError:
            fields["base64"] = base64.b64encode(message).decode()
        lines.append(json.dumps(fields) + "\n")
    return "".join(lines).encode()
