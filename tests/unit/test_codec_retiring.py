"""What becomes of an array when its block ends: one variable's is emptied, any other is left alone."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import numpy
import pytest

from naru.codec.retiring import is_alone, retire


def end_of_block(box: list[numpy.ndarray[Any, Any]]) -> None:
    """As __exit__ does it: in a frame of its own, below the block's."""
    retire(box, sys._getframe(1))


def view_of(memory: numpy.ndarray[Any, Any]) -> list[numpy.ndarray[Any, Any]]:
    return [memory[:]]


def test_one_variable_is_emptied() -> None:
    memory = numpy.arange(4)
    box = view_of(memory)
    array = box[0]
    end_of_block(box)
    assert box == []
    assert array.base is None, "it lets go of the memory"
    assert "the lease is over" in repr(array)
    for use in (array.sum, array.mean, array.max, lambda: array[0], lambda: array + 1):
        with pytest.raises((IndexError, TypeError)):
            use()


def test_no_variable_is_no_matter() -> None:
    memory = numpy.arange(4)
    box = view_of(memory)
    gone = weakref.ref(box[0])
    end_of_block(box)
    assert gone() is None


@pytest.mark.parametrize("way", ["two names", "a list", "an iterator", "a memoryview"])
def test_another_way_to_it_is_left_alone(way: str) -> None:
    box = view_of(numpy.arange(4))
    array = box[0]
    kept: Any = {"two names": array, "a list": [array], "an iterator": array.flat,
                 "a memoryview": memoryview(array)}[way]  # fmt: skip
    if way in ("an iterator", "a memoryview"):
        del array  # what is kept has the only reference, and a bare pointer besides
    end_of_block(box)
    found = kept[0] if way == "a list" else kept
    assert [int(found[at]) for at in range(4)] == [0, 1, 2, 3]


def test_a_variable_of_another_function_is_left_alone() -> None:
    box = view_of(numpy.arange(4))
    array = box[0]

    def block_elsewhere() -> None:
        end_of_block(box)

    block_elsewhere()
    assert array.tolist() == [0, 1, 2, 3]


def test_other_variables_live_no_longer_for_it() -> None:
    other = numpy.arange(1000)
    gone = weakref.ref(other)
    box = view_of(numpy.arange(4))
    array = box[0]
    end_of_block(box)
    assert array.shape == ()
    del other
    assert gone() is None


def test_is_alone() -> None:
    box = view_of(numpy.arange(4))
    assert is_alone(box)
    box = view_of(numpy.arange(4))
    part = box[0][1:]
    assert not is_alone([part])
