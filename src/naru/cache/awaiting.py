"""The same turns and locks for asyncio: one thread waits for all tasks that want the same.

Holds: get_or_set, AsyncLock, wait_for_claim. Must not know: files. Joins: naru.aio.Cache, and memoize
for coroutines. The rules stand in making.py and locks.py.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from naru.cache.locks import LockBase
from naru.cache.making import ABSENT, SLICE_S, Order, numbers, remaining
from naru.cache.store import Store

__all__ = ["AsyncLock", "get_or_set", "wait_for_claim"]

WAIT_S = 0.25
"""A thread that waits is not cancelled: so long it may outlive the loop's tasks."""


async def wait_for_claim(cache: Store, key: str | bytes, most_s: float) -> None:
    """Until something happened to it, or most_s went by. Cancelling leaves nothing behind."""
    loop = asyncio.get_running_loop()
    waits = cache._waits
    at = (loop, key)
    wait = waits.get(at)
    if wait is None:
        wait = loop.run_in_executor(None, cache._await_claim, key, min(most_s, WAIT_S))
        waits[at] = wait
        wait.add_done_callback(lambda _: waits.pop(at, None))
    done, _ = await asyncio.wait([wait], timeout=most_s)
    for one in done:
        one.result()


async def get_or_set(
    order: Order, make: Callable[[], Awaitable[Any] | Any], timeout_s: float | None
) -> Any:
    """As naru.aio.Cache.get_or_set()."""
    off_loop = order.cache._off_loop
    value, is_fresh = await off_loop(order.look)
    if is_fresh:
        return value
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        number = next(numbers)
        if await _claimed(
            order.cache, partial(order.claim, number), partial(order.give_back, number)
        ):
            return await _make(order, make, number)
        if value is not ABSENT:
            return value
        await wait_for_claim(order.cache, order.key, remaining(deadline_s, order))
        value, is_fresh = await off_loop(order.look)
        if is_fresh:
            return value


async def _make(order: Order, make: Callable[[], Awaitable[Any] | Any], number: int) -> Any:
    off_loop = order.cache._off_loop
    try:
        value, is_fresh = await off_loop(order.look)
        if is_fresh:
            return value
        value = make()
        if inspect.isawaitable(value):
            value = await value
        await off_loop(order.store, value)
        return value
    finally:
        await off_loop(order.give_back, number)


async def _claimed(cache: Store, claim: Callable[[], bool], undo: Callable[[], object]) -> bool:
    """Cancelled meanwhile: a thread may still get it, and then nobody would ever give it back."""
    if not cache._is_far:
        return claim()
    task = asyncio.ensure_future(cache._off_loop(claim))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if await task:
            await cache._off_loop(undo)
        raise


class AsyncLock(LockBase):
    """As Lock, awaited: `async with cache.lock("report"): ...`"""

    async def acquire(self, timeout_s: float | None = None) -> None:
        """Waits until it is free. Raises: TimedOutError; RuntimeError: this object holds it."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not await _claimed(self._cache, self.try_acquire, self.release):
            left_s = SLICE_S if deadline_s is None else deadline_s - time.monotonic()
            if left_s <= 0:
                raise self._timed_out()
            await wait_for_claim(self._cache, self._key, min(SLICE_S, left_s))

    async def __aenter__(self) -> Self:
        await self.acquire(self._timeout_s)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._cache._off_loop(self._leave, kind is not None)
