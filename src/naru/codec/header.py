"""The bytes before an array's data.

    0  u8   0xC1                  12  u32  0
    1  u8   'A'                   16  u64  shape[ndim]
    2  u8   version, 1             .  ...  dtype text (dtypes.py), UTF-8
    3  u8   flags: 1 = Fortran     .  ...  zeros, fewer than 64
    4  u8   ndim, at most 64       .  ...  data, from data_offset to the end of the message
    5  u8   0
    6  u16  bytes of dtype text   little-endian; the items are in the order that the dtype says
    8  u32  data_offset

The sender chooses data_offset so that the data lie at a multiple of 64 in the place that it writes
to. In shared memory that is so for the receiver, too: both map the ring at the beginning of a page.

Holds: prefix_of, finished, parse. Must not know: arrays, ends.
Joins: arrays.py writes and reads what lies behind.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy

from naru.codec import MARK, dtypes
from naru.errors import ProtocolError

__all__ = ["ALIGNMENT", "MAX_DIMENSIONS", "Header", "finished", "parse", "prefix_of"]

ALIGNMENT = 64
"""A cache line, and the widest vector register."""
MAX_DIMENSIONS = 64
"""numpy 2; numpy 1 has 32 and refuses more by itself."""

_KIND, _VERSION, _FORTRAN = ord("A"), 1, 1
_FIXED = struct.Struct("<6BHII")
_MOST_BYTES = 2**63 - 1
_MOST_HEADER = _FIXED.size + 8 * MAX_DIMENSIONS + dtypes.MAX_TEXT_BYTES + ALIGNMENT


class Header(NamedTuple):
    """What an array is, and where its data begin in the message."""

    dtype: numpy.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    offset: int


# ---- writing ----


@lru_cache(maxsize=256)
def prefix_of(dtype: numpy.dtype[Any], shape: tuple[int, ...], order: str) -> bytes:
    """The header without data_offset and zeros, which depend on the place; see finished().

    Raises: TypeError: the dtype cannot be sent.
    """
    text = dtypes.text_of(dtype).encode()
    flags = _FORTRAN if order == "F" else 0
    fixed = _FIXED.pack(MARK, _KIND, _VERSION, flags, len(shape), 0, len(text), 0, 0)
    return fixed + struct.pack(f"<{len(shape)}Q", *shape) + text


def finished(prefix: bytes, address: int) -> bytes:
    """The whole header, for a message that begins at this address; the data follow it."""
    return _finished(prefix, address % ALIGNMENT)


@lru_cache(maxsize=256)
def _finished(prefix: bytes, address: int) -> bytes:
    end = len(prefix)
    offset = end + -(address + end) % ALIGNMENT
    return b"".join((prefix[:8], offset.to_bytes(4, "little"), prefix[12:], bytes(offset - end)))


# ---- reading ----


def parse(message: memoryview) -> Header:
    """What the message says that it is, checked to the last byte of the header.

    Args:
        message: the whole of it, bytes; its header is copied before it is looked at, since the
            sender of a message in shared memory could still change it.

    Raises: ProtocolError: it is no array, or does not add up. Nothing has been allocated that is
    larger than the header.
    """
    fixed = bytes(message[: _FIXED.size])
    if len(fixed) < _FIXED.size or fixed[0] != MARK or fixed[1] != _KIND:
        raise ProtocolError(f"{_described(fixed)}, not an array")
    offset = int.from_bytes(fixed[8:12], "little")
    # An offset beyond the message, or the longest header, is refused with the rest.
    return _parse(fixed + bytes(message[_FIXED.size : min(offset, _MOST_HEADER)]), len(message))


@lru_cache(maxsize=64)  # the headers of a stream of frames are the same, but for 8 offsets
def _parse(head: bytes, message_bytes: int) -> Header:
    """As parse(); `head` is the header as far as it says that it goes."""
    _, _, version, flags, ndim, zero, text_bytes, offset, zeros = _FIXED.unpack_from(head)
    if version != _VERSION:
        raise ProtocolError(f"an array in version {version} of its format; this is {_VERSION}")
    if flags & ~_FORTRAN or zero or zeros:
        raise ProtocolError("an array with flags that this version does not know")
    if ndim > MAX_DIMENSIONS:
        raise ProtocolError(f"an array of {ndim} dimensions; {MAX_DIMENSIONS} are possible")
    text_at = _FIXED.size + 8 * ndim
    end = text_at + text_bytes
    if not end <= offset < end + ALIGNMENT or offset != len(head):
        raise ProtocolError(f"an array whose data begin at {offset}, after a header of {end} bytes")
    if any(head[end:]):
        raise ProtocolError("an array with something between its header and its data")
    shape = struct.unpack_from(f"<{ndim}Q", head, _FIXED.size)
    dtype = dtypes.parse(head[text_at:end])
    _check_size(shape, dtype.itemsize, message_bytes - offset)
    return Header(dtype, shape, "F" if flags & _FORTRAN else "C", offset)


def _check_size(shape: tuple[int, ...], itemsize: int, data_bytes: int) -> None:
    """numpy multiplies the lengths other than 0, and so must they fit, also in an empty array."""
    size_bytes = itemsize
    for length in shape:
        size_bytes *= length or 1
        if size_bytes > _MOST_BYTES:
            raise ProtocolError(f"an array of shape {_shown(shape)}: no memory is that large")
    if 0 in shape:
        size_bytes = 0
    if size_bytes != data_bytes:
        raise ProtocolError(
            f"an array of shape {_shown(shape)} and {itemsize} bytes an item has {size_bytes} bytes "
            f"of data, {data_bytes} came"
        )


def _described(start: bytes) -> str:
    if start[:2] in (b"\xc1M", b"\xc1P"):
        return "the message is an object (receive_object takes it)"
    return "the message is plain bytes (receive takes it)"


def _shown(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) <= 8 else f"({', '.join(map(str, shape[:8]))}, ...)"
