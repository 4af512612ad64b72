"""The stage of one check: fresh ends, threads whose errors come out, words for what went wrong.

Holds: Stage, Task, demand, demand_equal, demand_raises, PATIENCE_S.
Must not know: what is being checked.
Joins: catalogue.Check opens a stage around each run; everything made on it is closed with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from naru.errors import TimedOutError
from naru.testing.subject import TransportUnderTest

__all__ = [
    "PATIENCE_S",
    "ConformanceError",
    "Stage",
    "Task",
    "demand",
    "demand_equal",
    "demand_raises",
]

PATIENCE_S = 10.0
"""How long a check waits for what must come. Generous: it is only waited for when it is missing."""

Error = TypeVar("Error", bound=BaseException)


class ConformanceError(AssertionError):
    """A transport broke a promise."""


def demand(condition: object, promise: str) -> None:
    """Raises ConformanceError unless the condition holds. (`assert` is gone under python -O.)"""
    if not condition:
        raise ConformanceError(promise)


def demand_equal(got: object, wanted: object, what: str) -> None:
    """Raises ConformanceError unless both are equal; long bytes are shown shortened."""
    if got != wanted:
        raise ConformanceError(f"{what}: got {_shorten(got)}, wanted {_shorten(wanted)}")


def demand_raises(
    kind: type[Error] | tuple[type[Error], ...],
    function: Callable[..., object],
    *args: Any,
    **named: Any,
) -> Error:
    """Calls the function, which must raise; gives the error. Other errors pass."""
    try:
        result = function(*args, **named)
    except kind as error:
        return error
    wanted = kind if isinstance(kind, tuple) else (kind,)
    raise ConformanceError(
        f"{getattr(function, '__name__', function)}: got {_shorten(result)}, wanted "
        f"{' or '.join(one.__name__ for one in wanted)}"
    )


def _shorten(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview) and len(value) > 40:
        return f"{len(value)} bytes ({bytes(value[:16])!r}...)"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


class Task:
    """A function in a thread; result() gives what it returned, or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *args: Any, **named: Any) -> None:
        self._function, self._args, self._named = function, args, named
        self._value: Any = None
        self._error: BaseException | None = None
        self.name = getattr(function, "__name__", str(function))
        # daemon: a transport that hangs must not keep the interpreter from ending
        self._thread = threading.Thread(target=self._run, name=f"check: {self.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._function(*self._args, **self._named)
        except BaseException as error:
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    @property
    def native_id(self) -> int:
        """The kernel's number of the thread."""
        number = self._thread.native_id
        assert number is not None
        return number

    def join(self, timeout_s: float = PATIENCE_S) -> bool:
        """True when it has ended within the time."""
        self._thread.join(timeout_s)
        return self.done

    def result(self, timeout_s: float = PATIENCE_S) -> Any:
        """Waits for it."""
        demand(self.join(timeout_s), f"{self.name} still waits after {timeout_s} s")
        if self._error is not None:
            raise self._error
        return self._value

    def error(self, kind: type[Error]) -> Error:
        """Waits for it; it must have raised this."""
        return demand_raises(kind, self.result)


class Stage:
    """Makes ends for one check and closes them after it, receiving ends first."""

    def __init__(self, under_test: TransportUnderTest) -> None:
        self.under_test = under_test
        self._ends: list[Any] = []
        self._tasks: list[Task] = []

    # ---- ends ----

    def pair(self) -> tuple[Any, Any]:
        """Both ends of a conversation."""
        assert self.under_test.make_channel_pair is not None
        a, b = self.under_test.make_channel_pair()
        self._ends += [b, a]
        return a, b

    def fan_in(self, senders: int) -> tuple[Any, list[Any]]:
        """A receiver and so many senders to it."""
        assert self.under_test.make_receiver is not None
        receiver = self.under_test.make_receiver()
        self._ends.append(receiver)
        return receiver, [self.sender(receiver) for _ in range(senders)]

    def sender(self, receiver: Any) -> Any:
        """One more sender; nothing may be on its way to the receiver."""
        task = self.sender_task(receiver)
        # A receiver lets senders in while it is looked at, and both are in one process here.
        self._until(task, lambda: demand_equal(receiver.try_receive(), None, "before any was sent"))
        return task.result()

    def sender_task(self, receiver: Any) -> Task:
        """Connects one more sender in a thread; somebody must receive meanwhile."""
        return self.run(lambda: self.keep(self.under_test.make_sender(receiver)))  # type: ignore[misc]

    def link(self) -> tuple[Any, Any]:
        """One way, whatever shape it is made of: (sending end, receiving end)."""
        if self.under_test.is_channel:
            return self.pair()
        receiver, senders = self.fan_in(1)
        return senders[0], receiver

    def listener(self) -> Any:
        """A name that gives channels."""
        assert self.under_test.make_listener is not None
        return self.keep(self.under_test.make_listener())

    def connect(self, listener: Any) -> tuple[Any, Any]:
        """(the connecting end, the accepted one)."""
        make_connection = self.under_test.make_connection
        assert make_connection is not None
        task = self.run(make_connection, listener)
        accepted = self.keep(listener.accept(timeout_s=PATIENCE_S))
        return self.keep(task.result()), accepted

    def keep(self, end: Any) -> Any:
        """Has it closed with the stage."""
        self._ends.append(end)
        return end

    # ---- threads ----

    def run(self, function: Callable[..., Any], *args: Any, **named: Any) -> Task:
        """Calls the function in a thread of its own."""
        task = Task(function, *args, **named)
        self._tasks.append(task)
        return task

    def _until(self, task: Task, turn: Callable[[], object]) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not task.join(0.0005):
            turn()
            demand(time.monotonic() < until_s, f"{task.name} still waits after {PATIENCE_S} s")

    # ---- messages ----

    def transfer(self, sender: Any, receiver: Any, message: bytes) -> bytes:
        """One message from end to end, of any size."""
        if len(message) <= 1024:
            sender.send(message, timeout_s=PATIENCE_S)
            return bytes(receiver.receive(timeout_s=PATIENCE_S))
        sending = self.run(sender.send, message, timeout_s=PATIENCE_S)
        received = bytes(receiver.receive(timeout_s=PATIENCE_S))
        sending.result()
        return received

    # ---- the end ----

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for end in self._ends:
            try:
                end.close()
            except TimedOutError:
                continue  # what a check left unsent is of no interest here
        stuck = [task.name for task in self._tasks if not task.join()]
        self._ends.clear()
        if kind is None:
            demand(not stuck, f"threads still wait after everything was closed: {stuck}")
