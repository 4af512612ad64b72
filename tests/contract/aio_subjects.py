"""naru.aio as a subject of the suite: its ends behind the synchronous verbs.

Holds: Bridge (a loop in a thread of its own, and calls into it), the ends, subjects().
Each verb is a task of the loop, and the thread that called waits for it; Ctrl-C there cancels it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from naru import aio
from naru.testing import TransportUnderTest

PATIENCE_S = 30


class Bridge:
    """A loop that runs in a thread."""

    def __init__(self, kind: str) -> None:
        if kind == "uvloop":
            import uvloop

            self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        else:
            self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"bridge: {kind}")
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine as a task of the loop and waits for it."""
        done = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return done.result()
        except BaseException:
            done.cancel()
            raise

    def settle(self) -> None:
        """Waits until the loop has done what was asked of it so far."""
        self.call(asyncio.sleep(0))

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


class Block:
    """async with, as with."""

    def __init__(self, bridge: Bridge, block: Any) -> None:
        self._bridge, self._block = bridge, block

    def __enter__(self) -> Any:
        return self._bridge.call(self._block.__aenter__())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bridge.call(self._block.__aexit__(kind, error, traceback))


async def _at_once(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """In the loop's thread."""
    return function(*args, **named)


def _awaited(name: str) -> Callable[..., Any]:
    def verb(self: End, *args: Any, **named: Any) -> Any:
        return self._wrap(self._bridge.call(getattr(self._end, name)(*args, **named)))

    verb.__name__ = name
    return verb


def _done(name: str) -> Callable[..., Any]:
    def verb(self: End, *args: Any, **named: Any) -> Any:
        return self._bridge.call(_at_once(getattr(self._end, name), *args, **named))

    verb.__name__ = name
    return verb


def _block(name: str) -> Callable[..., Any]:
    def verb(self: End, *args: Any, **named: Any) -> Any:
        return Block(self._bridge, getattr(self._end, name)(*args, **named))

    verb.__name__ = name
    return verb


class End:
    """An end or a listener of naru.aio."""

    def __init__(self, bridge: Bridge, end: Any) -> None:
        self._bridge, self._end = bridge, end

    accept = _awaited("accept")
    receive = _awaited("receive")
    receive_fds = _awaited("receive_fds")
    receive_into = _awaited("receive_into")
    receive_many = _awaited("receive_many")
    receive_with_priority = _awaited("receive_with_priority")
    send = _awaited("send")
    send_fds = _awaited("send_fds")
    send_many = _awaited("send_many")
    send_parts = _awaited("send_parts")
    close = _awaited("aclose")
    fileno = _done("fileno")
    statistics = _done("statistics")
    try_receive = _done("try_receive")
    try_send = _done("try_send")
    send_object = _awaited("send_object")
    receive_object = _awaited("receive_object")
    try_send_object = _done("try_send_object")
    try_receive_object = _done("try_receive_object")
    send_array = _awaited("send_array")
    receive_array = _awaited("receive_array")
    try_send_array = _done("try_send_array")
    try_receive_array = _done("try_receive_array")
    lease_array = _block("lease_array")
    reserve_array = _block("reserve_array")
    lease = _block("lease")
    lease_many = _block("lease_many")
    reserve = _block("reserve")

    def __getattr__(self, name: str) -> Any:
        if name in ("_bridge", "_end"):  # not made, or forgotten
            raise AttributeError(name)
        return getattr(self._end, name)  # facts

    def _wrap(self, result: Any) -> Any:
        return End(self._bridge, result) if isinstance(result, aio.Channel) else result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return self._wrap(self._bridge.call(self._end.__anext__()))
        except StopAsyncIteration:
            raise StopIteration from None

    def __repr__(self) -> str:
        return repr(self._end)

    def __reduce__(self) -> tuple[Any, ...]:
        made: tuple[Any, ...] = self._end.__reduce__()
        return made

    def __del__(self) -> None:
        bridge = self.__dict__.pop("_bridge", None)
        self.__dict__.pop("_end", None)
        if bridge is not None and threading.current_thread() is not bridge._thread:
            bridge.settle()


def _reached(bridge: Bridge, verb: Callable[..., Any], other: Any) -> End:
    return End(bridge, bridge.call(verb(other.address)))


def awaited(under_test: TransportUnderTest, bridge_of: Callable[[], Bridge]) -> TransportUnderTest:
    """The same transport and shape, through naru.aio."""
    make_pair, make_receiver = under_test.make_channel_pair, under_test.make_receiver
    make_listener = under_test.make_listener
    changes: dict[str, Any] = {"name": f"aio-{under_test.name}"}
    if make_pair is not None:

        def make_channel_pair() -> tuple[End, End]:
            one, other = make_pair()
            return End(bridge_of(), aio.Channel(one)), End(bridge_of(), aio.Channel(other))

        changes["make_channel_pair"] = make_channel_pair
    if make_receiver is not None:
        changes["make_receiver"] = lambda: End(bridge_of(), aio.Receiver(make_receiver()))
        changes["make_sender"] = lambda receiver: _reached(bridge_of(), aio.sender, receiver)
    if make_listener is not None:
        changes["make_listener"] = lambda: End(bridge_of(), aio.Listener(make_listener()))
        changes["make_connection"] = lambda listener: _reached(bridge_of(), aio.connect, listener)
    return dataclasses.replace(under_test, **changes)


__all__ = ["Bridge", "End", "awaited"]
