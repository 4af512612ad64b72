"""What becomes of an array when its `with` block ends.

Its memory goes back to the ring then, but Python keeps the name after `as` alive, and numpy has no
way to release an array as a memoryview is released. So the array object behind that name is emptied:
it lets go of the memory, and whatever is done with it raises (it becomes one item without a number,
of a dtype called "the lease is over").

That may only be done to an array that nothing else looks through: an iterator or a tensor made of it
holds the array and a bare pointer, and would go on reading. Hence the rule: exactly one reference is
left, and it is a variable of the function that has the `with` block. Everything else is "still alive"
and makes the block raise BufferError, as with lease().
Rejected: asking for `del array` in every block; copying what is still alive; a proxy, which C
libraries would not take for an array.

Holds: retire, is_alone. Must not know: leases, ends. Joins: arrays.py, at the end of its blocks.
"""

from __future__ import annotations

import sys
from inspect import CO_OPTIMIZED
from types import FrameType
from typing import Any

import numpy

__all__ = ["is_alone", "retire"]

# As __setstate__() takes it: version, shape, dtype, Fortran order, data.
_OVER: Any = (1, (), numpy.dtype([("the lease is over", "V1")]), False, b"\0")


def _count_of_one() -> int:
    """What getrefcount() says of an object that has one variable; it differs between Pythons."""
    alone = object()
    return sys.getrefcount(alone)


_ONE = _count_of_one()
# Without the GIL, counts are estimates: there, every array that is alive counts as kept.
_COUNTS_ARE_TRUE = getattr(sys, "_is_gil_enabled", lambda: True)()


def retire(box: list[numpy.ndarray[Any, Any]], frame: FrameType) -> None:
    """Empties the array in the box when all that is left of it is one variable of the frame.

    Args:
        box: takes the only reference of the caller with it; empty afterwards.
        frame: that has the `with` block.
    """
    array = box.pop()
    if _COUNTS_ARE_TRUE and sys.getrefcount(array) == _ONE + 1 and _has_variable(frame, array):
        array.__setstate__(_OVER)
        array.flags.writeable = False


def is_alone(box: list[numpy.ndarray[Any, Any]]) -> bool:
    """Nothing but the box, empty afterwards, had the array in it."""
    array = box.pop()
    return sys.getrefcount(array) == _ONE


def _has_variable(frame: FrameType, array: object) -> bool:
    names = frame.f_locals
    found = any(value is array for value in names.values())
    is_copy = type(names) is dict and frame.f_code.co_flags & CO_OPTIMIZED
    if is_copy and sys.getrefcount(names) == _ONE + 1:
        # Before Python 3.13 the frame keeps this copy, and with it everything that the function's
        # variables held just now, for as long as it runs. (More references: somebody's locals().)
        names.clear()
    return found
