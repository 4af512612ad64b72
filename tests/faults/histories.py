"""Histories of operations that several processes did on shared keys, and whether they can be true.

Holds: Operation, Journal (where a process writes down what it does, so that a kill loses nothing), and
contradiction(): is there one order of all operations, each at one instant between its begin and its
end, that explains every result? An operation of a killed process took effect before that death, or
never: the strict form, in which nothing happens after the end of its author.
Must not know: caches, or how processes are made. Joins: test_60_linearizability.py.
Source: Wing and Gong, Testing and Verifying Concurrent Objects (1993); Lowe, Testing for
Linearizability (2017), the search that goes on from one return to the next; Aguilera and Frolund,
Strict Linearizability (2003).
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["Journal", "Operation", "contradiction"]

Kind = Literal["get", "set", "incr", "delete"]
KINDS: tuple[Kind, ...] = ("get", "set", "incr", "delete")


@dataclass(frozen=True, slots=True)
class Operation:
    """One call.

    Attributes:
        argument: the value that set() stores, what incr() adds (to 0 when nothing is there).
        end_ns: when it returned; of a killed one, when its process was known to be dead.
        result: get: the value or None; incr: the sum; delete: whether something was there.
        is_killed: nobody knows the result, or whether it happened at all.
    """

    key: int
    kind: Kind
    argument: int
    begin_ns: int
    end_ns: int
    result: int | bool | None = None
    is_killed: bool = False


def _apply(one: Operation, state: int | None) -> tuple[bool, int | None]:
    """Whether its result fits to this state, and the state after it."""
    known = not one.is_killed
    if one.kind == "get":
        return not known or one.result == state, state
    if one.kind == "set":
        return True, one.argument
    if one.kind == "incr":
        after = (state or 0) + one.argument
        return not known or one.result == after, after
    return not known or one.result == (state is not None), None


State = tuple[int | None, frozenset[int]]
"""The value, and which of the operations that run now have had their instant."""


def contradiction(history: Iterable[Operation]) -> Operation | None:
    """The first operation at whose end no order explains what was seen; None: the history is legal.

    Every key is looked at by itself, which is enough: linearizability is local. All begin as None.
    """
    by_key: dict[int, list[Operation]] = {}
    for one in history:
        by_key.setdefault(one.key, []).append(one)
    for of_key in by_key.values():
        found = _contradiction_of_key(of_key)
        if found is not None:
            return found
    return None


def _contradiction_of_key(operations: list[Operation]) -> Operation | None:
    # At the same instant begins come first: such operations may have been in any order.
    events = sorted(
        event
        for number, one in enumerate(operations)
        for event in ((one.begin_ns, False, number), (one.end_ns, True, number))
    )
    running: set[int] = set()
    states: set[State] = {(None, frozenset())}
    for _, is_end, number in events:
        if not is_end:
            running.add(number)
            continue
        states = _at_end(operations, running, states, number)
        if not states:
            return operations[number]
        running.discard(number)
    return None


def _at_end(
    operations: list[Operation], running: set[int], states: set[State], number: int
) -> set[State]:
    """The states in which this one has had its instant (or never has one: killed)."""
    after: set[State] = set()
    seen: set[State] = set()
    left = list(states)
    while left:
        state = left.pop()
        if state in seen:
            continue
        seen.add(state)
        value, done = state
        if number in done:
            after.add((value, done - {number}))
            continue
        if operations[number].is_killed:
            after.add(state)
        for one in running:
            if one not in done:
                fits, new = _apply(operations[one], value)
                if fits:
                    left.append((new, done | {one}))
    return after


# ---- writing it down ----

# A record is eight words. Each is stored at once, where struct.pack_into() would first clear the place:
# so a kill leaves a word as it was or as it is to be.
_WORDS = 8
_STATE, _BEGIN, _KEY, _KIND, _ARGUMENT, _END, _HOW, _RESULT = range(_WORDS)
_BEGUN, _ENDED = 1, 2
_VALUE, _NOTHING, _TRUTH = 0, 1, 2


class Journal:
    """What one process does, in memory that its parent shares. Make it before the fork."""

    def __init__(self, most: int) -> None:
        """Room for `most` operations."""
        self.most = most
        self._map = mmap.mmap(-1, most * _WORDS * 8)
        self._words = memoryview(self._map).cast("q")
        self._next = 0

    def close(self) -> None:
        self._words.release()
        self._map.close()

    @property
    def is_full(self) -> bool:
        return self._next == self.most

    def do(
        self, key: int, kind: Kind, argument: int, call: Callable[[], int | bool | None]
    ) -> None:
        """Writes down that it begins, does it, writes down how it ended."""
        words, at = self._words, self._next * _WORDS
        words[at + _KEY], words[at + _KIND] = key, KINDS.index(kind)
        words[at + _ARGUMENT] = argument
        words[at + _BEGIN] = time.monotonic_ns()
        words[at + _STATE] = _BEGUN
        result = call()
        words[at + _END] = time.monotonic_ns()
        words[at + _HOW] = (
            _NOTHING if result is None else _TRUTH if isinstance(result, bool) else _VALUE
        )
        words[at + _RESULT] = result or 0
        words[at + _STATE] = _ENDED
        self._next += 1

    def operations(self, dead_ns: int) -> Iterator[Operation]:
        """All of them; the last one may have been under way when its process died."""
        for at in range(0, self.most * _WORDS, _WORDS):
            state, begin, key, kind, argument, end, how, result = self._words[at : at + _WORDS]
            if state == 0:
                return
            if state == _BEGUN:
                yield Operation(key, KINDS[kind], argument, begin, dead_ns, None, True)
                return
            value = None if how == _NOTHING else bool(result) if how == _TRUTH else result
            yield Operation(key, KINDS[kind], argument, begin, end, value)
