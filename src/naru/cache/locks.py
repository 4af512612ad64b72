"""Locks by name: one owner among all processes that have the cache open.

Holds: Lock, and what its asyncio twin shares. Must not know: values. Joins: Cache.lock().

A lock is a claim that bears its owner's pid, its start time and a number of this very object: nobody
else's release ends it, and the owner's death does. (On a remote server: remote/leases.py.)
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from naru._native.table_file import error_of
from naru.cache.making import SLICE_S, numbers
from naru.cache.store import Store
from naru.errors import TimedOutError

__all__ = ["Lock", "LockBase"]

_PREFIX = b"\0naru.lock\0"
"""Turns to make a value are claims on the value's key; a lock of the same name is another claim."""
EPERM = 1


class LockBase:
    """What a lock is, whoever waits for it."""

    def __init__(
        self,
        cache: Store,
        name: str | bytes,
        ttl_s: float | None,
        timeout_s: float | None,
    ) -> None:
        text = name.encode() if isinstance(name, str) else name
        if ttl_s is not None and not ttl_s > 0:
            raise ValueError(f"ttl_s must be above 0 seconds, not {ttl_s!r}")
        self.name = name
        self._cache, self._key, self._ttl_s, self._timeout_s = (
            cache,
            _PREFIX + text,
            ttl_s,
            timeout_s,
        )
        self._number = 0

    @property
    def held(self) -> bool:
        """Taken by this object and not released; it does not know whether its time is up."""
        return self._number != 0

    def try_acquire(self) -> bool:
        """Takes it if nobody has it. Never waits for its holder."""
        if self._number:
            raise RuntimeError(f"lock {self.name!r}: this object holds it already")
        number = next(numbers)
        if not self._cache._claim(self._key, number, self._ttl_s):
            return False
        self._number = number
        return True

    def renew(self) -> None:
        """Starts its time anew. Raises: NotPermittedError: it is lost, somebody else has it."""
        if not self._number or not self._cache._claim(self._key, self._number, self._ttl_s):
            raise self._lost("renew")

    def release(self) -> None:
        """Gives it to the next.

        Raises: NotPermittedError: it was not ours any more, because its ttl_s was over: what it guarded
        may have been touched by another.
        """
        number, self._number = self._number, 0
        if not number or not self._cache._give_back(self._key, number):
            raise self._lost("release")

    def _lost(self, verb: str) -> Exception:
        error: Exception = error_of(-EPERM, f"lock.{verb}", f"{self._cache.address} {self.name!r}")
        return error

    def _leave(self, failing: bool) -> None:
        try:
            self.release()
        except Exception:
            if not failing:  # the block's own error is the better one
                raise

    def _timed_out(self) -> TimedOutError:
        return TimedOutError(
            f'lock.acquire "{self._cache.address} {self.name!r}": timed out; another owner holds it: '
            "wait longer (timeout_s)",
            operation="lock.acquire",
            address=self._cache.address,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}{' held' if self.held else ''}>"


class Lock(LockBase):
    """A lock for one owner: not reentrant, and each object is an owner of its own.

    Made by Cache.lock(); `with cache.lock("report"): ...`
    """

    def acquire(self, timeout_s: float | None = None) -> None:
        """Waits until it is free. Raises: TimedOutError; RuntimeError: this object holds it."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.try_acquire():
            left_s = SLICE_S if deadline_s is None else deadline_s - time.monotonic()
            if left_s <= 0:
                raise self._timed_out()
            self._cache._await_claim(self._key, min(SLICE_S, left_s))

    def __enter__(self) -> Self:
        self.acquire(self._timeout_s)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(kind is not None)
