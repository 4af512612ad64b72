"""Whose turn it is: in order, one at a time, whoever is cancelled or too late is passed over."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naru.aio.turns import Turn, deadline_of, has_passed


def test_first_come_first_served() -> None:
    async def story() -> list[int]:
        turn, order = Turn(), []

        async def work(number: int) -> None:
            assert await turn.take(None)
            try:
                order.append(number)
                await asyncio.sleep(0)
            finally:
                turn.give()

        await asyncio.gather(*(work(number) for number in range(10)))
        assert not turn.taken
        return order

    assert asyncio.run(story()) == list(range(10))


def test_the_time_may_be_up() -> None:
    async def story() -> None:
        turn = Turn()
        assert await turn.take(None)
        assert not await turn.take(deadline_of(0))
        assert not await turn.take(deadline_of(0.005))
        turn.give()
        assert await turn.take(deadline_of(0))

    asyncio.run(story())


def test_who_is_sent_away_hears_of_it() -> None:
    async def story() -> list[bool]:
        turn = Turn()
        assert await turn.take(None)
        waiting = [asyncio.create_task(turn.take(None)) for _ in range(3)]
        await asyncio.sleep(0)
        turn.send_away()
        return await asyncio.gather(*waiting)

    assert asyncio.run(story()) == [False] * 3


@given(st.lists(st.sampled_from(["run", "cancel", "late", "step"]), max_size=40), st.integers())
def test_it_is_never_held_by_two_and_never_lost(steps: list[str], seed: int) -> None:
    """Tasks come, are cancelled and run out of time in any order, also in the very moment in which
    it becomes theirs."""

    async def story() -> None:
        turn, holders = Turn(), 0
        chance = random.Random(seed)
        tasks: list[asyncio.Task[None]] = []

        async def work(deadline_s: float | None) -> None:
            nonlocal holders
            if not await turn.take(deadline_s):
                return
            try:
                holders += 1
                assert holders == 1
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
            finally:
                holders -= 1
                turn.give()

        for step in steps:
            if step == "run":
                tasks.append(asyncio.create_task(work(None)))
            elif step == "late":
                tasks.append(asyncio.create_task(work(deadline_of(0))))
            elif step == "cancel" and tasks:
                chance.choice(tasks).cancel()
            else:
                await asyncio.sleep(0)
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert not turn.taken
        assert holders == 0

    asyncio.run(story())


def test_deadlines() -> None:
    assert deadline_of(None) is None
    assert not has_passed(None)
    assert has_passed(deadline_of(0))
    assert not has_passed(deadline_of(1000))
    for wrong in (-1, -0.001, math.nan):
        with pytest.raises(ValueError, match="timeout_s must be"):
            deadline_of(wrong)
