"""The lookout of a loop: who waits is looked at in each turn, falls asleep when nothing happens, and
never keeps the loop busy for longer."""

from __future__ import annotations

import asyncio

import pytest

import naru
from naru.aio.lookout import Future, Lookout, lookout_of
from naru.errors import NaruError


class Fake:
    """An end that is ready at its n-th look; 0 = never. Asleep, it is woken by wake()."""

    def __init__(self, at: int = 0, error: NaruError | None = None) -> None:
        self.at, self.error, self.looks = at, error, 0
        self.asleep: list[Future] = []

    def glance(self, direction: int) -> bool:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return self.looks == self.at

    def sleep(self, direction: int, future: Future) -> None:
        self.asleep.append(future)


async def wait(
    lookout: Lookout, end: Fake, looks: bool = True, never_sleeps: bool = False
) -> Future:
    future: Future = asyncio.get_running_loop().create_future()
    lookout.add(end, 1, future, looks=looks, never_sleeps=never_sleeps)
    return future


async def turns(count: int = 1) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until_asleep(end: Fake) -> None:
    async with asyncio.timeout(10):
        while not end.asleep:
            await asyncio.sleep(0)


def test_who_is_ready_goes_on_and_the_others_are_looked_at_again() -> None:
    async def story() -> None:
        lookout = Lookout(asyncio.get_running_loop())
        first, second = Fake(at=1), Fake(at=2)
        one, two = await wait(lookout, first), await wait(lookout, second)
        assert lookout.is_busy
        assert await one
        assert await two
        assert (first.looks, second.looks) == (1, 2)
        await turns()
        assert not lookout.is_busy

    asyncio.run(story())


def test_who_waits_in_vain_falls_asleep_and_is_looked_at_no_more() -> None:
    async def story() -> None:
        lookout = Lookout(asyncio.get_running_loop())
        end = Fake()
        future = await wait(lookout, end)
        await until_asleep(end)
        assert end.asleep == [future]
        looks = end.looks
        await turns(5)
        assert end.looks == looks
        assert not lookout.is_busy

    asyncio.run(story())


def test_a_socket_sleeps_at_once_and_keeps_the_loop_turning_for_a_while() -> None:
    async def story() -> None:
        lookout = Lookout(asyncio.get_running_loop())
        end = Fake()
        future = await wait(lookout, end, looks=False)
        assert end.asleep == [future]
        async with asyncio.timeout(10):
            while lookout.is_busy:
                await asyncio.sleep(0)
        assert end.looks == 0
        assert end.asleep == [future]

    asyncio.run(story())


def test_who_never_sleeps_is_looked_at_for_ever() -> None:
    async def story() -> None:
        lookout = Lookout(asyncio.get_running_loop())
        end, other = Fake(), Fake()
        future = await wait(lookout, end, never_sleeps=True)
        await wait(lookout, other)
        await until_asleep(other)
        looks = end.looks
        await turns(10)
        assert end.looks >= looks + 9
        assert not end.asleep
        future.cancel()
        await turns(2)
        assert not lookout.is_busy

    asyncio.run(story())


def test_a_cancelled_wait_is_forgotten_and_an_error_goes_to_who_waits() -> None:
    async def story() -> None:
        lookout = Lookout(asyncio.get_running_loop())
        gone = Fake(error=naru.PeerGoneError("gone"))
        cancelled = Fake()
        future, other = await wait(lookout, gone), await wait(lookout, cancelled)
        other.cancel()
        with pytest.raises(naru.PeerGoneError, match="gone"):
            await future
        await turns()
        assert cancelled.looks == 0
        assert not lookout.is_busy

    asyncio.run(story())


def test_each_loop_has_its_own() -> None:
    async def mine() -> Lookout:
        loop = asyncio.get_running_loop()
        assert lookout_of(loop) is lookout_of(loop)
        return lookout_of(loop)

    assert asyncio.run(mine()) is not asyncio.run(mine())
