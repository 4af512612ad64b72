"""One end in one loop: how a task waits until an operation is worth another try.

A wait has three parts, of which most need only the first:

    at once     a spin of at most 20 us, without leaving the task; its length is learned from this
                end's last waits, as in the synchronous API (?wait=)
    by turns    a look in each turn of the loop, together with all that wait in it (lookout.py)
    asleep      the peer is asked to ring, and the loop polls the end's one descriptor

The descriptor is registered with the loop at the first wait and stays there; while nobody waits it is
silent.

Holds: Waiting. Must not know: verbs.
Joins: naru.aio.ends tries, and comes here when that did not do; underneath is
naru._native.watching.Watch.
"""

from __future__ import annotations

import asyncio
import time
import weakref

from naru._native.endpoint import Endpoint
from naru._native.watching import RECEIVE, SEND, Watch, flush
from naru.aio.lookout import Lookout, lookout_of
from naru.aio.turns import has_passed
from naru.errors import NaruError

__all__ = ["Waiting"]

FIRST_SPIN_NS = 20_000
"""About what a turn of the standard loop takes, and the answer of a peer over a socket."""
SHARE_S = 0.0005
"""A task that never has to wait lets the others run at least so often."""
QUICK_ROUNDS = 16
"""So many waits in a row may end at once; then the loop gets a turn in any case."""

# A task that waits may be known to nobody but the end that it waits for, and the loop knows ends only
# weakly, so that forgotten ones are collected.
_awaited: set[Waiting] = set()


class Waiting:
    """What an end has to do with the loop that it is used in."""

    __slots__ = (
        "__weakref__", "_asking", "_end", "_futures", "_lookout", "_loop", "_pushing", "_rounds",
        "_watch", "due_s",
    )  # fmt: skip

    def __init__(self, end: Endpoint) -> None:
        self._end = end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: Watch | None = None
        self._lookout: Lookout | None = None
        self._futures: list[asyncio.Future[bool] | None] = [None, None]
        self._asking: list[asyncio.TimerHandle | None] = [None, None]
        self._pushing = False
        self._rounds = 0
        self.due_s = 0.0
        """time.monotonic() from which on a verb lets the loop run before it goes on."""

    # ---- the task's side ----

    async def breathe(self) -> None:
        """One turn of the loop for the others."""
        await asyncio.sleep(0)
        self._rounds = 0
        self.due_s = time.monotonic() + SHARE_S

    async def breathe_if_due(self) -> None:
        """breathe(), when this end has not let the others run for SHARE_S."""
        if time.monotonic() >= self.due_s:
            await self.breathe()

    async def ready(self, direction: int, deadline_s: float | None) -> bool:
        """Waits until the operation is worth another try; False: the time is up.

        One task at a time for each direction. Raises: how the end has ended, where only time tells
        (a silent peer).
        """
        if has_passed(deadline_s):
            return False
        loop, watch, lookout = self._bind()
        if watch.begin(direction, 0 if lookout.is_busy else FIRST_SPIN_NS):
            self._rounds += 1
            if self._rounds >= QUICK_ROUNDS:
                await self.breathe()
            return True
        future: asyncio.Future[bool] = loop.create_future()
        self._futures[direction] = future
        _awaited.add(self)
        timer = None
        if deadline_s is not None:
            timer = loop.call_later(deadline_s - time.monotonic(), _resolve, future, False)
        if watch.never_spins:
            self.sleep(direction, future)
        else:
            lookout.add(self, direction, future, looks=watch.looks, never_sleeps=watch.never_sleeps)
        try:
            return await future
        finally:
            if timer is not None:
                timer.cancel()
            self._stop_asking(direction)
            if self._futures[direction] is future:  # aclose() may wait there already
                self._futures[direction] = None
            self._rounds = 0
            self.due_s = time.monotonic() + SHARE_S
            self._forget_if_idle()

    def push(self) -> None:
        """Has the rest of an accepted message sent by the loop, while nobody waits for that."""
        try:
            self._bind()
        except RuntimeError:
            return  # no loop runs here: the following verbs push it, and close() does
        if self._pushing or self._futures[SEND] is not None:
            return
        self._pushing = True
        _awaited.add(self)
        self._push()

    # ---- the loop's side ----

    def _bind(self) -> tuple[asyncio.AbstractEventLoop, Watch, Lookout]:
        loop = asyncio.get_running_loop()
        if self._watch is not None and self._lookout is not None and self._loop is loop:
            return loop, self._watch, self._lookout
        if self._loop is not None and self._loop is not loop and not self._loop.is_closed():
            raise RuntimeError(f"{self._end!r} is used in another event loop, which is still open")
        if self._watch is not None:
            self._watch.close()
        self._watch = Watch(self._end)
        self._loop, self._lookout = loop, lookout_of(loop)
        self._pushing = False  # an old loop ended before it was done
        loop.add_reader(self._watch.fileno(), _look, weakref.ref(self))
        return loop, self._watch, self._lookout

    def glance(self, direction: int) -> bool:
        """True: worth a try. Raises: how the end has ended."""
        return self._watch is None or self._watch.glance(direction)

    def sleep(self, direction: int, future: asyncio.Future[bool]) -> None:
        """From now on the descriptor tells: the future's result becomes True."""
        if future.done():
            return
        try:
            if self._watch is None or self._watch.arm(direction):
                future.set_result(True)
            else:
                self._ask_later(direction, future)
        except NaruError as error:
            future.set_exception(error)

    def _ask_later(self, direction: int, future: asyncio.Future[bool]) -> None:
        assert self._watch is not None
        assert self._loop is not None
        interval_s = self._watch.interval_s
        if interval_s is not None:
            self._asking[direction] = self._loop.call_later(
                interval_s, self._ask, direction, future
            )

    def _ask(self, direction: int, future: asyncio.Future[bool]) -> None:
        if future.done() or self._watch is None:
            return
        try:
            if self._watch.ask(direction):
                future.set_result(True)
            else:
                self._ask_later(direction, future)
        except NaruError as error:
            future.set_exception(error)

    def _stop_asking(self, direction: int) -> None:
        asking, self._asking[direction] = self._asking[direction], None
        if asking is not None:
            asking.cancel()

    def look(self) -> None:
        """The descriptor is readable."""
        if self._watch is None:
            return
        try:
            ready = self._watch.look()
        except NaruError as error:
            for future in self._futures:
                if future is not None and not future.done():
                    future.set_exception(error)
            return
        if ready and self._lookout is not None:
            self._lookout.woke()
        for direction in (SEND, RECEIVE):
            if ready & 1 << direction:
                _resolve(self._futures[direction], True)
        if self._pushing and ready & 1 << SEND:
            self._push()

    def _push(self) -> None:
        """Nobody may wait for the direction meanwhile: who comes pushes by themselves."""
        if self._watch is None or self._loop is None or self._futures[SEND] is not None:
            self._pushing = False
            return
        try:
            if not flush(self._end):
                if self._watch.arm(SEND):
                    self._loop.call_soon(self._push)
                return
        except NaruError:
            pass  # the next verb meets it again, and says so to somebody
        self._pushing = False
        self._forget_if_idle()

    def _forget_if_idle(self) -> None:
        if not self._pushing and self._futures[SEND] is None and self._futures[RECEIVE] is None:
            _awaited.discard(self)

    # ---- the end ----

    def wake_all(self) -> None:
        """Whoever waits tries again."""
        for future in self._futures:
            _resolve(future, True)

    def release(self) -> None:
        """Leaves the loop; from any thread. Before the end is closed."""
        loop, watch = self._loop, self._watch
        self._loop = self._watch = self._lookout = None
        self._pushing = False
        self._forget_if_idle()
        if loop is None or watch is None:
            return
        if loop.is_closed():
            watch.close()
        elif not loop.is_running() or _running_loop() is loop:
            _leave(loop, watch)
        else:
            try:
                loop.call_soon_threadsafe(_leave, loop, watch)
            except RuntimeError:  # closed in this moment
                watch.close()


def _look(reference: weakref.ref[Waiting]) -> None:
    waiting = reference()
    if waiting is not None:
        waiting.look()


def _leave(loop: asyncio.AbstractEventLoop, watch: Watch) -> None:
    loop.remove_reader(watch.fileno())
    watch.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _resolve(future: asyncio.Future[bool] | None, value: bool) -> None:
    if future is not None and not future.done():
        future.set_result(value)
