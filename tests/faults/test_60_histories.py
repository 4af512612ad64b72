"""60: the judge of histories is judged itself: he finds what is wrong, and nothing in what is right."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest
from histories import KINDS, Journal, Operation, _apply, contradiction
from hypothesis import given, settings
from hypothesis import strategies as some


def get(begin: int, end: int, result: int | None) -> Operation:
    return Operation(0, "get", 0, begin, end, result)


def put(begin: int, end: int, value: int, *, killed: bool = False) -> Operation:
    return Operation(0, "set", value, begin, end, None, killed)


def incr(begin: int, end: int, result: int, *, killed: bool = False) -> Operation:
    return Operation(0, "incr", 1, begin, end, result, killed)


def delete(begin: int, end: int, result: bool, *, killed: bool = False) -> Operation:
    return Operation(0, "delete", 0, begin, end, result, killed)


WRONG = {
    "a stale read": [put(0, 1, 1), put(2, 3, 2), get(4, 5, 1)],
    "a value from nowhere": [put(0, 1, 1), get(2, 3, 9)],
    "an acknowledged write that is gone": [put(0, 1, 1), get(2, 3, None)],
    "two sums that are the same": [incr(0, 5, 1), incr(0, 5, 1)],
    "a sum that lost one": [incr(0, 1, 1), incr(2, 3, 2), get(4, 5, 1)],
    "deleted twice": [put(0, 1, 1), delete(2, 9, True), delete(2, 9, True)],
    "nothing to delete": [put(0, 1, 1), delete(2, 3, False)],
    "read before it was written": [get(0, 1, 1), put(2, 3, 1)],
    "new, then old": [put(0, 1, 1), put(2, 9, 2), get(3, 4, 2), get(5, 6, 1)],
    "two readers who disagree": [put(0, 9, 1), get(1, 2, 1), get(3, 4, None), get(5, 6, 1)],
    "a killed write that comes after the death": [
        put(0, 1, 1), put(2, 3, 2, killed=True), get(4, 5, 1), get(6, 7, 2),
    ],
    "a killed write that goes again": [
        put(0, 1, 1), put(2, 9, 2, killed=True), get(3, 4, 2), get(5, 6, 1),
    ],
    "a killed sum that counts twice": [incr(0, 1, 1), incr(2, 9, 0, killed=True), get(10, 11, 3)],
    "half a kill": [put(0, 1, 10), incr(2, 9, 0, killed=True), get(10, 11, 1)],
}  # fmt: skip

RIGHT = {
    "nothing": [],
    "one after the other": [put(0, 1, 1), get(2, 3, 1), delete(4, 5, True), get(6, 7, None)],
    "two at once, the later first": [put(0, 9, 1), put(0, 9, 2), get(10, 11, 1)],
    "seen while it is written": [put(0, 9, 1), get(1, 2, 1), get(3, 4, 1)],
    "a killed write that happened": [put(0, 1, 1), put(2, 3, 2, killed=True), get(4, 5, 2)],
    "a killed write that did not": [put(0, 1, 1), put(2, 3, 2, killed=True), get(4, 5, 1)],
    "a killed one seen before its death": [put(0, 9, 2, killed=True), get(1, 2, None), get(3, 4, 2)],
    "a killed delete": [put(0, 1, 1), delete(2, 5, False, killed=True), incr(6, 7, 1)],
    "at the same instant": [put(0, 1, 1), put(1, 2, 2), get(2, 3, 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_60_what_cannot_be_is_found(name: str) -> None:
    for order in (WRONG[name], WRONG[name][::-1]):
        assert contradiction(order) is not None


@pytest.mark.parametrize("name", RIGHT)
def test_60_what_can_be_is_accepted(name: str) -> None:
    for order in (RIGHT[name], RIGHT[name][::-1]):
        assert contradiction(order) is None


def test_60_keys_are_apart() -> None:
    other = Operation(1, "get", 0, 4, 5, 1)
    assert contradiction([put(0, 1, 1), put(2, 3, 2), get(4, 5, 2)]) is None
    assert contradiction([put(0, 1, 1), put(2, 3, 2), get(4, 5, 2), other]) is other


def by_trying_everything(history: list[Operation]) -> bool:
    """Is there an order? All of them are tried."""
    killed = [one for one in history if one.is_killed]
    for count in range(len(killed) + 1):
        for left_out in itertools.combinations(killed, count):
            kept = [one for one in history if not any(one is out for out in left_out)]
            if any(_is_legal(order) for order in itertools.permutations(kept)):
                return True
    return False


def _is_legal(order: Iterable[Operation]) -> bool:
    value: int | None = None
    latest_begin = -1
    for one in order:
        if one.end_ns < latest_begin:
            return False  # it ended before one began that stands before it
        latest_begin = max(latest_begin, one.begin_ns)
        fits, value = _apply(one, value)
        if not fits:
            return False
    return True


@some.composite
def histories(draw: some.DrawFn) -> list[Operation]:
    found = []
    for _ in range(draw(some.integers(0, 5))):
        kind = draw(some.sampled_from(KINDS))
        begin = draw(some.integers(0, 12))
        end = begin + draw(some.integers(1, 8))
        result: int | bool | None = draw(some.sampled_from([None, 1, 2, 3]))
        if kind == "delete":
            result = draw(some.booleans())
        if kind == "incr":
            result = result or 1
        found.append(
            Operation(0, kind, draw(some.integers(1, 2)), begin, end, result, draw(some.booleans()))
        )
    return found


@given(histories())
@settings(max_examples=600)
def test_60_the_judge_says_what_all_permutations_say(history: list[Operation]) -> None:
    assert (contradiction(history) is None) == by_trying_everything(history)


def a_legal_history(noise: random.Random, count: int) -> list[Operation]:
    """Of instants on a line; each operation begins before and ends after its own."""
    value: int | None = None
    found = []
    for number in range(count):
        instant = 100 * number
        kind = noise.choice(KINDS)
        argument = number
        one = Operation(0, kind, argument, 0, 0, None, True)
        result: int | bool | None = value if kind == "get" else None
        if kind == "delete":
            result = value is not None
        is_killed = noise.random() < 0.1
        if not (is_killed and noise.random() < 0.5):
            _, value = _apply(one, value)
            if kind == "incr":
                result = value
        elif kind == "incr":
            result = 0
        begin, end = instant - noise.randrange(1, 300), instant + noise.randrange(1, 300)
        found.append(Operation(0, kind, argument, begin, end, result, is_killed))
    return found


@given(some.integers(0, 2**32))
@settings(max_examples=50)
def test_60_a_lie_in_a_long_history_is_found(seed: int) -> None:
    noise = random.Random(seed)
    history = a_legal_history(noise, 200)
    assert contradiction(history) is None
    reads = [n for n, one in enumerate(history) if one.kind == "get" and not one.is_killed]
    if reads:
        lie = noise.choice(reads)
        old = history[lie]
        history[lie] = Operation(0, "get", 0, old.begin_ns, old.end_ns, 10**9)
        assert contradiction(history) is not None


def test_60_a_journal_gives_back_what_was_done() -> None:
    journal = Journal(4)

    def fails() -> None:
        raise InterruptedError

    journal.do(3, "set", -7, lambda: None)
    journal.do(3, "get", 0, lambda: -7)
    journal.do(4, "delete", 0, lambda: False)
    with pytest.raises(InterruptedError):
        journal.do(5, "incr", 2, fails)
    done = list(journal.operations(dead_ns=2**62))
    journal.close()
    assert [(one.key, one.kind, one.argument, one.result, one.is_killed) for one in done] == [
        (3, "set", -7, None, False),
        (3, "get", 0, -7, False),
        (4, "delete", 0, False, False),
        (5, "incr", 2, None, True),
    ]
    assert done[3].end_ns == 2**62
    assert all(one.begin_ns <= two.begin_ns for one, two in itertools.pairwise(done))
