"""Publish/subscribe: the two ends that users hold, and the thread that lets subscribers in.

A Publisher is a Sender to everybody who subscribed, a Subscriber is a Receiver; the verbs are
theirs, in C. What is new is a subscriber's policy, what was lost by it, and the porter: a daemon
thread of each publisher that greets subscribers and removes the dead while the program is busy
with something else. It takes the GIL for each of these and sleeps in one poll(2) otherwise.
A fork waits for that, so that no child gets a descriptor which nobody knows; the child has neither
thread nor publisher: its copy raises ForkedHandleError.
Must not know: any mechanism (broadcast.py).
"""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from naru._native.ends import Receiver, Sender
from naru._native.publishing import lives, lost, step, subscriptions
from naru._native.system import eventfd
from naru.errors import LimitError
from naru.settings import Settings
from naru.transports.contract import Peer, Place
from naru.transports.door import Door

__all__ = [
    "POLICIES",
    "Policy",
    "Publisher",
    "PublisherPlace",
    "Subscriber",
    "SubscriberPlace",
    "Subscription",
]

Policy = Literal["block", "drop_oldest", "latest"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
"""In the order of their numbers (native/include/naru/broadcast.h)."""


class Subscription(NamedTuple):
    """What a publisher knows of one subscriber."""

    peer: Peer | None
    """Process and user, as the kernel saw them when it subscribed; None over tcp."""
    policy: Policy
    lag_bytes: int
    """Published and not yet taken by it: in the ring (shm) or in its queue here (unix, tcp)."""
    lost: int
    """Messages that it missed because it was slow; on shm, as it says itself."""


class Publisher(Sender):
    """One writer to any number of subscribers; made by `naru.publisher`.

    All verbs of Sender under two names: `publish` is `send`, `try_publish` is `try_send`,
    `publish_many` is `send_many`; `reserve` writes in place. They wait only for subscribers whose
    policy is "block", and never for a dead one.
    """

    __slots__ = ("_porter",)

    publish = Sender.send
    try_publish = Sender.try_send
    publish_many = Sender.send_many

    @property
    def subscribers(self) -> list[Subscription]:
        """The subscribers at this moment; empty when there are none.

        Raises: ClosedError, ForkedHandleError.
        """
        return [
            Subscription(Peer(pid, uid, gid) if pid else None, POLICIES[policy], lag, missed)
            for policy, pid, uid, gid, lag, missed in subscriptions(self)
            if policy < len(POLICIES)  # a broken one, that is about to be dropped
        ]

    def employ(self, door: Door) -> None:
        """Starts the porter; the publisher is closed when that fails."""
        try:
            self._porter = _Porter(self, door)
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        """Ends the stream: subscribers get what was published, then a good end. Idempotent."""
        porter = getattr(self, "_porter", None)
        if porter is not None:
            porter.dismiss()
        super().close()


class Subscriber(Receiver):
    """One of the readers of a publisher; made by `naru.subscriber`. All verbs of Receiver."""

    __slots__ = ()

    @property
    def lost(self) -> int:
        """Messages published since it subscribed that this end will never see, counted exactly up
        to the last one received; always 0 with the policy "block"."""
        return lost(self)


class PublisherPlace(Place):
    """A publisher's, which calls the verbs by their names here and names who holds it up."""

    __slots__ = ("limit_hint", "publisher")

    def __init__(self, settings: Settings, limit_hint: str, *closers: Callable[[], object]) -> None:
        super().__init__(settings, *closers)
        self.publisher: weakref.ref[Publisher] | None = None
        self.limit_hint = limit_hint

    def explain(self, error: int, operation: str, detail: str | None) -> tuple[str, str | None]:
        operation = operation.replace("send", "publish")
        if -error == errno.ETIMEDOUT:
            detail = f"{detail}; {self._blame()}"
        if -error == errno.EMSGSIZE:
            detail = f"{detail}; {self.limit_hint}"
        return operation, detail

    def _blame(self) -> str:
        publisher = self.publisher() if self.publisher else None
        slow = [s for s in publisher.subscribers if s.policy == "block"] if publisher else []
        if not slow:
            return "whoever held it up has just left"
        worst = max(slow, key=lambda subscription: subscription.lag_bytes)
        who = f"process {worst.peer.pid}" if worst.peer else "another machine's"
        return (
            f'waiting for the "block" subscriber that is {worst.lag_bytes} bytes behind ({who}): it '
            "is slow or stopped"
        )


class SubscriberPlace(Place):
    """A subscriber's."""

    __slots__ = ()


def _run(
    publisher: weakref.ref[Publisher], door: Door, alive: int, stop: int, busy: threading.Lock
) -> None:
    poll = select.poll()
    for fd in (door.fileno(), alive, stop):
        poll.register(fd, select.POLLIN)
    while True:
        pause_ms = None
        if door.pending:
            pause_ms = max(0.0, (door.deadline_ns - time.monotonic_ns()) / 1e6) + 1
        ready = [fd for fd, _ in poll.poll(pause_ms)]
        end = publisher()
        if stop in ready or end is None or end.closed:
            return
        with busy:
            step(end)
            door.step()
        end = None  # or it would live until the next subscriber


class _Porter:
    """The thread of one publisher."""

    def __init__(self, publisher: Publisher, door: Door) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self.busy = threading.Lock()
        """Held by the thread while it greets: no fork may copy a subscriber that is half let in."""
        self._alive = os.dup(lives(publisher))  # outlives the publisher's own, which it polls
        try:
            self._stop = eventfd(address=publisher.address)
        except BaseException:
            os.close(self._alive)
            raise
        self._thread = threading.Thread(
            target=_run,
            args=(weakref.ref(publisher), door, self._alive, self._stop, self.busy),
            name="naru-publisher",
            daemon=True,
        )
        _porters.add(self)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._close()
            raise LimitError(
                f'publisher "{publisher.address}": no thread can be started (EAGAIN): raise '
                "RLIMIT_NPROC, or end some",
                errno=errno.EAGAIN, operation="publisher", address=publisher.address,
            ) from error  # fmt: skip

    def _close(self) -> None:
        os.close(self._stop)
        os.close(self._alive)

    def dismiss(self) -> None:
        """Ends the thread; once, and in the process that has it."""
        with self._lock:
            if self._stop < 0:
                return
            if os.getpid() == self._owner:
                os.eventfd_write(self._stop, 1)
                if sys.is_finalizing():
                    return  # the thread never runs again; the process ends with what it holds
                # The last reference may have been dropped by the thread itself.
                if threading.current_thread() is not self._thread:
                    self._thread.join()
            self._close()
            self._stop = -1


# A fork waits until no porter is in the middle of something (they never wait there). The state of the
# module, and the reason for it: handlers of a fork get no argument.
_porters: weakref.WeakSet[_Porter] = weakref.WeakSet()
_held: list[threading.Lock] = []


def _hold_porters() -> None:
    for porter in list(_porters):
        porter.busy.acquire()
        _held.append(porter.busy)


def _let_go() -> None:
    while _held:
        _held.pop().release()


os.register_at_fork(before=_hold_porters, after_in_parent=_let_go, after_in_child=_let_go)
