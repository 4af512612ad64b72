"""numpy arrays as messages: what the array verbs of the ends do.

Sending copies an array once: into the ring where it fits, else into the kernel or the fragments.
Receiving makes an array of the memory that the message came in; a lease makes one of the ring.

Holds: send_array and its kin, ArrayLease, ArrayReservation.
Must not know: what an end is made of; it is given one, and uses its verbs for bytes.
Joins: the methods of naru._native's Sender and Receiver call these.
"""

from __future__ import annotations

import sys
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

try:
    import numpy
except ImportError:
    raise ImportError(
        "send_array, receive_array and the other verbs for arrays need numpy: "
        "pip install 'naru-ipc[arrays]'",
        name="numpy",
    ) from None

from naru.codec.header import ALIGNMENT, finished, parse, prefix_of
from naru.codec.retiring import is_alone, retire
from naru.errors import ProtocolError, TimedOutError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "ArrayLease",
    "ArrayReservation",
    "array_of",
    "parts_of",
    "send_array",
    "try_send_array",
]

_Order = Literal["C", "F"]


# ---- sending ----


def send_array(end: Any, value: Any, timeout_s: float | None) -> None:
    """As Sender.send_array()."""
    array = _as_array(value)
    order = _order_of(array)
    prefix = prefix_of(array.dtype, array.shape, order)
    if not _send_in_place(end, array, order, prefix, timeout_s):
        end.send_parts((finished(prefix, 0), _bytes_of(array, order)), timeout_s)


def try_send_array(end: Any, value: Any) -> bool:
    """As Sender.try_send_array()."""
    array = _as_array(value)
    order = _order_of(array)
    prefix = prefix_of(array.dtype, array.shape, order)
    try:
        if _send_in_place(end, array, order, prefix, 0):
            return True
    except TimedOutError:
        return False
    sent: bool = end.try_send(finished(prefix, 0) + _bytes_of(array, order).data)
    return sent


def parts_of(value: Any) -> tuple[bytes, NDArray[Any]]:
    """Header and items as they lie, for places that are no ends; array_of() reads both in a row."""
    array = _as_array(value)
    order = _order_of(array)
    header = finished(prefix_of(array.dtype, array.shape, order), 0)
    return header, _bytes_of(array, order)


def _send_in_place(
    end: Any, array: NDArray[Any], order: _Order, prefix: bytes, timeout_s: float | None
) -> bool:
    """False: there is no place of this size to write into."""
    size_bytes = array.nbytes

    def fill(view: memoryview, address: int) -> int:
        header = finished(prefix, address)
        start = len(header)
        view[:start] = header
        place = numpy.frombuffer(view, numpy.uint8)
        if array.flags.forc:
            place[start : start + size_bytes] = _bytes_of(array, order)
        else:  # gathered on the way
            numpy.copyto(numpy.ndarray(array.shape, array.dtype, place, start, None, order), array)
        return start + size_bytes

    sent: bool = end._send_in_place(len(prefix) + ALIGNMENT - 1 + size_bytes, fill, timeout_s)
    return sent


def _as_array(value: Any) -> NDArray[Any]:
    if type(value) is numpy.ndarray:
        return value
    if isinstance(value, numpy.ma.MaskedArray):
        raise TypeError("a masked array would lose its mask; send .data and .mask, or .filled()")
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return numpy.from_dlpack(value)
    return numpy.asarray(value)


def _order_of(array: NDArray[Any]) -> _Order:
    """The array's own; of one that has none, the nearer one."""
    flags = array.flags
    if flags.c_contiguous:
        return "C"
    strides = array.strides
    return "F" if flags.f_contiguous or abs(strides[0]) < abs(strides[-1]) else "C"


def _bytes_of(array: NDArray[Any], order: _Order) -> NDArray[numpy.uint8]:
    """Its items as they lie; in one piece, copied only when it was in many."""
    if not array.flags.forc:
        array = array.copy(order)
    return (array.T if order == "F" else array).reshape(-1).view(numpy.uint8)


# ---- receiving ----


def array_of(message: Any, address: object) -> NDArray[Any]:
    """The array in a message, as an array of the message's own memory.

    Args:
        message: a buffer; writable, when the array is to be.
        address: of the end that it came to, for the error's text.

    Raises: ProtocolError.
    """
    array = _placed(memoryview(message), "receive_array", address)
    return array if array.flags.aligned else array.copy("K")


def _placed(view: memoryview, verb: str, address: object) -> NDArray[Any]:
    try:
        header = parse(view)
        return _array_in(view, header.shape, header.dtype, header.offset, header.order)
    except (ProtocolError, ValueError) as error:  # ValueError: 64 dimensions, and numpy 1
        text = f'{verb} "{address}": {error}'
    raise ProtocolError(text, operation=verb, address=address)


def _array_in(
    view: memoryview, shape: tuple[int, ...], dtype: Any, offset: int, order: _Order
) -> NDArray[Any]:
    """All arrays made of this one point to the one that frombuffer() makes: it alone keeps the
    buffer for as long as they live."""
    return numpy.ndarray(shape, dtype, numpy.frombuffer(view, numpy.uint8), offset, None, order)


# ---- in place ----


class _ArrayBlock:
    """What both blocks do at their end; `_held` is the block of bytes that the array lies in."""

    def __init__(self, held: Any) -> None:
        self._held = held
        self._box: list[NDArray[Any]] = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(sys._getframe(1), kind, value, traceback)

    def _leave(self, frame: FrameType, *exc_info: Any) -> None:
        """`frame`: that has the block."""
        if self._box:
            retire(self._box, frame)
        self._held.__exit__(*exc_info)


class ArrayLease(_ArrayBlock):
    """One array in place; made by Receiver.lease_array()."""

    def __init__(self, lease: Any, address: object, writable: bool) -> None:
        super().__init__(lease)
        self._address, self._writable = address, writable

    def __enter__(self) -> NDArray[Any]:
        view = self._held.__enter__()
        try:
            array = _placed(view, "lease_array", self._address)
        except BaseException as error:
            self._held.__exit__(type(error), error, None)
            raise
        if not array.flags.aligned:  # in a receive buffer, messages lie as they come
            copy = array.copy("K")
            copy.flags.writeable = self._writable
            del array, view
            self._held.__exit__(None, None, None)
            self._held = _LeaseOfCopy(copy)
            array = copy.view()
        self._box.append(array)
        return array


class _LeaseOfCopy:
    """Ends as a lease does, so that a program does not depend on how its messages happened to lie."""

    def __init__(self, copy: NDArray[Any]) -> None:
        self._box = [copy]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._box and not is_alone(self._box) and kind is None:
            raise BufferError(
                "a view or array of the message is still alive at the end of its `with` block; drop "
                "it (del) before, or copy it: array.copy()"
            )


class ArrayReservation(_ArrayBlock):
    """Room for one array; made by Sender.reserve_array()."""

    def __init__(
        self, end: Any, shape: Any, dtype: DTypeLike, order: str, timeout_s: float | None
    ) -> None:
        if order not in ("C", "F"):
            raise ValueError(f'order must be "C" or "F", not {order!r}')
        self._order: _Order = "F" if order == "F" else "C"
        self._dtype = numpy.dtype(dtype)
        self._shape = _shape_of(shape)
        self._prefix = prefix_of(self._dtype, self._shape, self._order)
        self._size_bytes = self._dtype.itemsize
        for length in self._shape:
            self._size_bytes *= length
        super().__init__(
            end.reserve(len(self._prefix) + ALIGNMENT - 1 + self._size_bytes, timeout_s)
        )

    def __enter__(self) -> NDArray[Any]:
        view = self._held.__enter__()
        header = finished(self._prefix, self._held._address)
        start = len(header)
        view[:start] = header
        self._held._cut(start + self._size_bytes)
        array = _array_in(view, self._shape, self._dtype, start, self._order)
        self._box.append(array)
        return array


def _shape_of(shape: Any) -> tuple[int, ...]:
    """As numpy takes it: an int, or a sequence of them."""
    lengths = (shape,) if hasattr(shape, "__index__") else tuple(shape)
    found = tuple(length.__index__() for length in lengths)
    if len(found) > 64 or any(length < 0 for length in found):
        raise ValueError(f"a shape has at most 64 lengths of 0 or more, not {shape!r}")
    return found
