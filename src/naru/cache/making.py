"""One process makes a value, the others wait for it or take the old one.

Holds: fresh, get_or_set, and what the asyncio twin shares with it. Must not know: asyncio, files.
Joins: Cache.get_or_set and memoize.

The turn to make a value is a claim on its key. It ends when it is given back or its process dies; so a
maker that is killed, or raises, passes it on, and nobody has to guess how long making may take. (On
another machine's server a claim is a lease that its living holder renews: remote/leases.py.)
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from naru.cache.store import Key, Store, Tags
from naru.errors import NoSpaceError, TimedOutError

__all__ = ["ABSENT", "Order", "get_or_set", "numbers", "remaining"]

SLICE_S = 1.0
"""A waiter looks again so often: at a deadline, at Ctrl-C, at a maker that died unseen."""

ABSENT: Any = object()
numbers = itertools.count(1)
"""Of owners of claims in this process; a forked child may use the same, it has another pid."""
_mine = threading.local()


class Order:
    """What is asked for: a key, and how long its value lives and may be used after that."""

    __slots__ = ("cache", "key", "stale_ms", "tags", "ttl_s")

    def __init__(
        self, cache: Store, key: Key, ttl_s: float | None, tags: Tags, stale_s: float
    ) -> None:
        if stale_s < 0 or (stale_s and ttl_s is None):
            raise ValueError("stale_s is seconds after ttl_s, 0 or more: it needs a ttl_s")
        self.cache, self.key, self.tags = cache, key, tags
        self.ttl_s = None if ttl_s is None else ttl_s + stale_s
        self.stale_ms = int(stale_s * 1000)

    def look(self) -> tuple[Any, bool]:
        """The value, or ABSENT, and whether it is fresh."""
        value, version, left_ms = self.cache._read(self.key, ABSENT)
        return value, bool(version) and (left_ms < 0 or left_ms > self.stale_ms)

    def store(self, value: Any) -> None:
        """Raises: as set()."""
        self.cache.set(self.key, value, self.ttl_s, self.tags)

    def claim(self, number: int) -> bool:
        """Whether it is our turn. Without room for another claim everybody makes it: slow, not wrong."""
        try:
            return self.cache._claim(self.key, number)
        except NoSpaceError:
            return True

    def give_back(self, number: int) -> None:
        """Lets the next one, whether it was made or not."""
        if not self.cache.closed:
            self.cache._give_back(self.key, number)


def remaining(deadline_s: float | None, order: Order) -> float:
    """How long to wait now. Raises: TimedOutError."""
    if deadline_s is None:
        return SLICE_S
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        address = order.cache.address
        raise TimedOutError(
            f'cache.get_or_set "{address}": timed out; another process is making {order.key!r} still: '
            "is it stopped? give it more time (timeout_s)",
            operation="cache.get_or_set",
            address=address,
        )
    return min(SLICE_S, left_s)


def get_or_set(order: Order, make: Callable[[], Any], timeout_s: float | None) -> Any:
    """As Cache.get_or_set()."""
    value, is_fresh = order.look()
    if is_fresh:
        return value
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    with _not_inside_itself(order):
        while True:
            number = next(numbers)
            if order.claim(number):
                return _make(order, make, number)
            if value is not ABSENT:
                return value
            order.cache._await_claim(order.key, remaining(deadline_s, order))
            value, is_fresh = order.look()
            if is_fresh:
                return value


def _make(order: Order, make: Callable[[], Any], number: int) -> Any:
    try:
        value, is_fresh = order.look()  # another may have had the turn before us
        if is_fresh:
            return value
        value = make()
        order.store(value)
        return value
    finally:
        order.give_back(number)


@contextmanager
def _not_inside_itself(order: Order) -> Iterator[None]:
    """A `make` that asks for its own key would wait for itself."""
    key = order.key.encode() if isinstance(order.key, str) else order.key
    this = (str(order.cache.address), key)
    inside: set[tuple[str, bytes]] = _mine.__dict__.setdefault("inside", set())
    if this in inside:
        raise RuntimeError(f"get_or_set({order.key!r}): make() asks for the key that it makes")
    inside.add(this)
    try:
        yield
    finally:
        inside.discard(this)
