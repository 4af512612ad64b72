"""Child processes that a test kills, stops and continues at a moment of its choosing.

Holds: Child (a function or a script in a process of its own), crash_children, unprivileged,
until_sleeping. A child dies with the thread that made it (prctl(2), PR_SET_PDEATHSIG), so that a
killed test run leaves nothing behind: make children in a thread that outlives them.
Must not know: naru. Joins: events.py carries the words.
"""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self

from naru.testing.events import PATIENCE_S, VARIABLE, ChildError, Events

__all__ = ["Child", "Crash", "crash_children", "unprivileged", "until_sleeping"]

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """A process that the test owns; leaving its `with` block kills and reaps it."""

    _living: ClassVar[weakref.WeakSet[Child]] = weakref.WeakSet()

    def __init__(self, body: Callable[[Events], object], name: str) -> None:
        """Forks and runs `body` in the child. Use run() or script()."""
        self.name = name
        self.returncode: int | None = None
        """Once it was reaped: its exit code, or minus the signal that ended it."""
        self._output = tempfile.TemporaryFile(prefix="naru-child-")
        from_child, to_parent = os.pipe()
        from_parent, to_child = os.pipe()
        self.events = Events(from_child, to_child)
        """The words to and from it."""
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._become_child(parent, body, Events(from_parent, to_parent))
        os.close(from_parent)
        os.close(to_parent)
        self._pidfd = os.pidfd_open(self.pid)
        Child._living.add(self)

    def _become_child(
        self, parent: int, body: Callable[[Events], object], events: Events
    ) -> NoReturn:
        code = 1
        try:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)  # it died before it could be watched
            # The other children must see the end of the test, not of this process.
            for other in (self, *Child._living):
                other.events.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number in (1, 2):
                os.dup2(self._output.fileno(), number)
            sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)
            faulthandler.enable(2)
            body(events)
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    @classmethod
    def run(cls, function: Callable[..., object], *args: Any) -> Self:
        """Runs `function(events, *args)` in a forked child.

        The child exits with 0 when it returns and with 1 when it raises; nothing of the test
        (atexit, fixtures, finalizers) runs there.
        """
        return cls(lambda events: function(events, *args), getattr(function, "__name__", "child"))

    @classmethod
    def script(
        cls,
        source: str,
        *args: str,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> Self:
        """Runs a Python program in a fresh interpreter; events_of_parent() is its side.

        Args:
            source: the program's text; `args` is its sys.argv[1:].
            env: variables besides those of this process.
        """

        def become(events: Events) -> None:
            fds = (events._reading, events._writing)
            for fd in fds:
                os.set_inheritable(fd, True)
            variables = {**os.environ, VARIABLE: f"{fds[0]},{fds[1]}", **(env or {})}
            os.execve(python, [python, "-c", source, *args], variables)

        return cls(become, "script")

    # ---- words ----

    def tell(self, name: str, **facts: Any) -> None:
        """As Events.tell(); an error shows what the child printed."""
        with self._with_output():
            self.events.tell(name, **facts)

    def expect(self, name: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """As Events.expect(); an error shows what the child printed."""
        with self._with_output():
            return self.events.expect(name, timeout_s)

    def _with_output(self) -> _WithOutput:
        return _WithOutput(self)

    def output(self) -> str:
        """What it printed until now: stdout and stderr together."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    # ---- signals ----

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError when it has ended."""
        signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> int:
        """SIGKILL, and reaps it. Gives its return code: -9, or its own when it was quicker."""
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)
        return self.wait()

    def stop(self) -> None:
        """SIGSTOP; returns when every thread of it has stopped."""
        self.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._reaped(status)
            raise ChildError(f"{self.name} ended ({self.returncode}) instead of stopping")

    def go_on(self) -> None:
        """SIGCONT."""
        self.send_signal(signal.SIGCONT)

    def is_alive(self) -> bool:
        """False from the moment of its death, also before it is reaped."""
        return self.returncode is None and not self._has_ended(0)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Waits for its end and reaps it. Gives its return code. Raises ChildError at the time."""
        if self.returncode is None:
            if not self._has_ended(timeout_s):
                raise ChildError(
                    f"{self.name} runs after {timeout_s} s; it printed:\n{self.output()}"
                )
            self._reaped(os.waitpid(self.pid, 0)[1])
        assert self.returncode is not None
        return self.returncode

    def check(self, timeout_s: float = PATIENCE_S) -> None:
        """Waits for its end, which must be a good one. Raises ChildError with what it printed."""
        if self.wait(timeout_s) != 0:
            raise ChildError(
                f"{self.name} ended with {self.returncode}; it printed:\n{self.output()}"
            )

    def _has_ended(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def _reaped(self, status: int) -> None:
        self.returncode = os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Kills it when it lives, reaps it, closes everything. Idempotent."""
        if self._pidfd < 0:
            return
        self.kill()
        os.close(self._pidfd)
        self._pidfd = -1
        self.events.close()
        self._output.close()
        Child._living.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"ended: {self.returncode}"
        return f"<Child {self.name} {self.pid} ({state})>"


class _WithOutput:
    """Adds what a child printed to the error that its silence causes."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ChildError):
            child = self._child
            # A child that has just closed its pipe is about to end: its code belongs to the story.
            if child.returncode is None and child._has_ended(1.0 if child.events.ended else 0):
                child.wait()
            raise ChildError(f"{child!r}: {error}; it printed:\n{child.output()}") from None


class Crash:
    """A place to die: here() kills this process at its n-th call, as kill -9 would."""

    def __init__(self, at: int) -> None:
        self._left = at

    def here(self) -> None:
        """Passes, or is the end."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def crash_children(
    function: Callable[..., object], *args: Any, step: int = 1, timeout_s: float = PATIENCE_S
) -> Iterator[tuple[int, Child]]:
    """Runs `function(events, crash, *args)` in child after child; the n-th dies at its n-th here().

    Ends with the first child that passes unharmed, so that every moment has had its turn. (The
    pattern is SQLite's: fail the Nth call, for N = 1, 2, 3..., until nothing fails.)

    Args:
        step: tries every `step`-th moment only.

    Yields: (n, child); the body of the loop plays the other side.
    Raises: ChildError when a child ends otherwise than by its crash or in good order.
    """
    for number in itertools.count(1, step):
        with Child.run(lambda events, at: function(events, Crash(at), *args), number) as child:
            yield number, child
            code = child.wait(timeout_s)
            if code == 0:
                return
            if code != -signal.SIGKILL:
                raise ChildError(f"crash {number}: it ended with {code}:\n{child.output()}")


def unprivileged(
    function: Callable[..., Any], *args: Any, uid: int = 65534, timeout_s: float = PATIENCE_S
) -> Any:
    """Runs `function(*args)` in a child as another user and gives what it returns (JSON).

    The child has no supplementary groups, the same number as its group, and a runtime directory of
    its own. Needs root.

    Raises: ChildError with the child's traceback when the function raises.
    """
    home = Path(tempfile.mkdtemp(prefix="naru-user-", dir="/tmp"))
    os.chown(home, uid, uid)

    def become(events: Events) -> None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user takes it back
        os.environ["XDG_RUNTIME_DIR"] = os.fspath(home)
        events.tell("result", value=function(*args))

    try:
        with Child.run(become) as child:
            result = child.expect("result", timeout_s)["value"]
            child.check(timeout_s)
            return result
    finally:
        shutil.rmtree(home)


def until_sleeping(thread_id: int, *, pid: int | str = "self", patience_s: float = 1.0) -> bool:
    """Waits until a thread sleeps in the kernel, as far as that can be seen: to aim a signal at it.

    A test may use it to make a moment likely, never to be right: a thread that waits for Python's
    lock sleeps, too, and one that spins never does.

    Args:
        thread_id: threading.get_native_id(); a process's first thread has the process's number.

    Returns: False when it did not within `patience_s`.
    """
    until_s = time.monotonic() + patience_s
    in_a_row = 0
    while time.monotonic() < until_s:
        try:
            with open(f"/proc/{pid}/task/{thread_id}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False  # it has ended
        in_a_row = in_a_row + 1 if state == b"S" else 0
        if in_a_row == 5:
            return True
        time.sleep(0.0005)  # gives Python's lock away, so that only a real wait still sleeps
    return False
