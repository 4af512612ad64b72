"""The server's loop: one thread that sleeps in one epoll over the listener and every client.

It reads whoever has something, a few requests each in turn, and never waits for anybody: what has no
room stays with its guest, and the loop watches for room. A client that breaks the protocol is dropped.
After work it looks for more for a learned while before it sleeps, as every wait of naru does.

Holds: Loop. Must not know: handlers (its Answerer does), what users see of a server.
Joins: server.py runs it in one thread; answers come from that thread or from workers, under the lock,
and what they leave for the loop is posted with the bell.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from naru._native.multiplexing import (
    Spin,
    check,
    drop,
    may_have_message,
    stop_watching_room,
    take,
    watch_room,
)
from naru._native.system import eventfd
from naru.errors import NaruError, ProtocolError, TimedOutError
from naru.requests.frames import HEAD_BYTES, parse_head
from naru.requests.guests import Guest, Outgoing, Request

if TYPE_CHECKING:
    from naru._native.ends import Channel
    from naru.transports.listener import Listener

__all__ = ["Answerer", "Loop"]

BURST = 16
"""Requests of one client before the others have their turn."""
TURNS_PER_LOOK = 8
"""Turns of those who are busy before the quiet ones are looked at."""
MOST_HOT = 16
PUSHES = 4
CHECK_S = 1.0
STRANGERS_TIME_S = 0.002
"""What is left to a silent stranger when its time is up, by the listener's rounding."""


class Answerer(Protocol):
    """What the loop asks of the server. All of it in the loop's thread."""

    def answer_at_once(self, guest: Guest, head: bytes, body: bytes) -> bool:
        """Answers what is simple, without on_request(). False: it is none, or takes the long way."""
        ...

    def on_request(self, guest: Guest, request: Request) -> None: ...
    def on_cancel(self, guest: Guest, number: int) -> None: ...
    def on_leave(self, guest: Guest) -> None: ...

    def may_spin(self) -> bool:
        """No handler runs beside, whose CPU that would be."""
        ...


class Loop:
    """Everything that the server holds of the kernel."""

    def __init__(
        self,
        listener: Listener,
        *,
        most_open: int,
        held_bytes: int,
        sleeps_only: bool,
    ) -> None:
        """Takes the listener over, also when this fails. turn() needs an answerer()."""
        self.listener = listener
        self.guests: dict[int, Guest] = {}
        self.lock = threading.Lock()
        self.clients_total = self.clients_broken = 0
        self.answerer: Answerer | None = None
        """Set while it serves, and no longer: it knows this loop, and a circle of two that were
        forgotten would be found late, and taken apart in any order."""
        self._limits = (most_open, held_bytes)
        self._spin = Spin(sleeps_only)
        self._turn_count = 0
        self._ready: deque[Guest] = deque()  # may have more to read
        self._hot: dict[Guest, Channel] = {}  # spoke lately; their doorbells are off
        self._with_heartbeat: set[Guest] = set()
        self._rooms: dict[int, tuple[Guest, select.epoll]] = {}
        self._posted: deque[Guest] = deque()
        self._checked_s = time.monotonic()
        self._bell = -1
        try:
            self._epoll = select.epoll()
            self._bell = eventfd(address=listener.address)
            self._epoll.register(self._bell, select.EPOLLIN)
            self._epoll.register(listener, select.EPOLLIN)
        except BaseException:
            if self._bell >= 0:
                os.close(self._bell)
            listener.close()
            raise

    # ---- one turn ----

    def turn(self, until_s: float | None) -> None:
        """Does what there is to do; sleeps when there is nothing, at most until `until_s`."""
        self._turn_count += 1
        if self._ready or self._look_at_hot():
            for _ in range(len(self._ready)):
                self._read(self._ready.popleft(), False)
            if self._turn_count % TURNS_PER_LOOK:
                return
            self._poll(0.0)
            return
        if self._hot:
            self._cool_down()
            if self._ready:
                return
        self._poll(self._pause_s(until_s))

    def _look_at_hot(self) -> bool:
        assert self.answerer is not None
        if (
            not self._hot
            or not self.answerer.may_spin()
            or not self._spin.look(list(self._hot.values()))
        ):
            return False
        self._ready.extend(self._hot)
        return True

    def _cool_down(self) -> None:
        """Arms the doorbells: only who had nothing at the last look may be slept on."""
        for guest in list(self._hot):
            del self._hot[guest]
            self._read(guest, True)

    def _poll(self, pause_s: float | None) -> None:
        for fd, _ in self._epoll.poll(pause_s):
            guest = self.guests.get(fd)
            if guest is not None:
                self._ready.append(guest)
            elif fd == self._bell:
                self._hear_bell()
            elif fd in self._rooms:
                self._push(self._rooms[fd][0])
            else:
                self._accept()
        if pause_s != 0.0:
            if self._ready:
                self._spin.slept()
            self._check_all()

    def _pause_s(self, until_s: float | None) -> float | None:
        pauses = []
        if until_s is not None:
            pauses.append(max(0.0, until_s - time.monotonic()))
        if not self.listener.closed and (pause_s := self.listener._pause_s) is not None:
            pauses.append(pause_s)
        if self._with_heartbeat:
            pauses.append(CHECK_S)
        return min(pauses, default=None)

    def _check_all(self) -> None:
        """Silent strangers are turned away in time, and silent clients (heartbeat)."""
        if not self.listener.closed:
            pause_s = self.listener._pause_s
            if pause_s is not None and pause_s <= STRANGERS_TIME_S:
                self._accept()
        now_s = time.monotonic()
        if not self._with_heartbeat or now_s - self._checked_s < CHECK_S / 2:
            return
        self._checked_s = now_s
        for guest in list(self._with_heartbeat):
            try:
                check(guest.channel)
            except NaruError as error:
                self._drop(guest, error)

    # ---- clients come ----

    def _accept(self) -> None:
        while not self.listener.closed:
            try:
                channel = self.listener.accept(timeout_s=0)
            except TimedOutError:
                return
            self._let_in(channel)

    def _let_in(self, channel: Channel) -> None:
        guest = Guest(channel, *self._limits)
        try:
            guest.greet()
            fd = channel.fileno()
            self._epoll.register(fd, select.EPOLLIN)
        except (NaruError, OSError):  # gone again, or no descriptor is free for it
            self.clients_broken += 1
            drop(channel)
            return
        self.clients_total += 1
        guest.fd = fd
        self.guests[fd] = guest
        if channel.heartbeat_s:
            self._with_heartbeat.add(guest)
        self._ready.append(guest)

    # ---- clients speak ----

    def _read(self, guest: Guest, until_empty: bool) -> None:
        """A few requests of one client.

        Args:
            until_empty: the last look at it was a system call that armed its doorbell: then it is
                not hot any more. Otherwise it stays hot, and must not be slept on.
        """
        channel, answerer = guest.channel, self.answerer
        assert answerer is not None
        for _ in range(BURST):
            if guest.has_gone:
                return
            if guest.is_full:
                self._pause(guest)
                return
            if not until_empty and not may_have_message(channel):
                self._keep_hot(guest)
                return
            try:
                part = take(channel, HEAD_BYTES)
                if part is None:
                    if not until_empty:
                        self._keep_hot(guest)
                    return
                head, body, fds = part
                if fds or not answerer.answer_at_once(guest, head, body):
                    self._hear(guest, head, body, fds)
            except (NaruError, OSError) as error:
                self._drop(guest, error)
                return
        self._ready.append(guest)

    def _keep_hot(self, guest: Guest) -> None:
        if guest in self._hot:
            return
        if len(self._hot) < MOST_HOT:
            self._hot[guest] = guest.channel
        else:
            self._read(guest, True)

    def _hear(self, guest: Guest, head: bytes, body: bytes, fds: Sequence[int]) -> None:
        assert self.answerer is not None
        try:
            frame = parse_head(head, len(body))
            with self.lock:
                is_request = guest.answering.take(frame)
        except ProtocolError:
            for fd in fds:
                os.close(fd)
            raise
        if is_request:
            request = Request(guest, frame.number, body, fds)
            guest.begin(request)
            self.answerer.on_request(guest, request)
        else:
            for fd in fds:
                os.close(fd)
            self.answerer.on_cancel(guest, frame.number)

    # ---- clients take their time ----

    def answer(self, guest: Guest, request: Request, outgoing: Outgoing) -> bool:
        """Sends an answer, or keeps it until there is room. From any thread.

        Returns: False: its client has gone.
        """
        with self.lock:
            try:
                taken = guest.answer(request, outgoing)
            except (NaruError, OSError):  # it is going; the loop meets its end, too
                outgoing.close()
                guest.is_blocked = True
                taken = False
            needs_loop = guest.is_blocked or guest.is_paused
        if needs_loop:
            self.post(guest)
        return taken

    def deliver(self, guest: Guest, outgoing: Outgoing) -> None:
        """The same for a request that was not begun here. In the loop's thread. Raises: its end."""
        try:
            with self.lock:
                guest.deliver(outgoing)
        except BaseException:
            outgoing.close()
            raise
        if guest.is_blocked:
            self.post(guest)

    def post(self, guest: Guest | None = None) -> None:
        """Has the loop look at a guest, or at itself. From any thread, or a signal handler."""
        if guest is not None:
            self._posted.append(guest)
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    def _hear_bell(self) -> None:
        with suppress(BlockingIOError):  # it was rung once for two
            os.eventfd_read(self._bell)
        while self._posted:
            guest = self._posted.popleft()
            if guest.is_blocked:
                self._push(guest)
            self._resume(guest)

    def _pause(self, guest: Guest) -> None:
        if not guest.is_paused:
            guest.is_paused = True
            self._hot.pop(guest, None)
            self._epoll.unregister(guest.fd)
            if not guest.is_full:  # a worker answered between the two looks
                self._resume(guest)

    def _resume(self, guest: Guest) -> None:
        if guest.is_paused and not guest.is_full and not guest.has_gone:
            guest.is_paused = False
            self._epoll.register(guest.fd, select.EPOLLIN)
            self._ready.append(guest)

    def _push(self, guest: Guest) -> None:
        """Sends what waits for room, and watches for more room."""
        self._stop_watching(guest)
        if guest.has_gone:
            return
        try:
            for _ in range(PUSHES):
                with self.lock:
                    is_out = guest.push()
                if is_out:
                    self._resume(guest)
                    return
                places = watch_room(guest.channel)
                if places:
                    self._watch(guest, places)
                    self._resume(guest)
                    return
            self.post(guest)  # there is always a little room: the others have their turn first
        except (NaruError, OSError) as error:
            self._drop(guest, error)

    def _watch(self, guest: Guest, places: Sequence[tuple[int, int]]) -> None:
        room = select.epoll()
        try:
            for fd, events in places:
                room.register(fd, events)
            self._epoll.register(room, select.EPOLLIN)
        except OSError:
            room.close()
            raise
        self._rooms[room.fileno()] = (guest, room)

    def _stop_watching(self, guest: Guest) -> None:
        for fd, (other, room) in list(self._rooms.items()):
            if other is guest:
                self._epoll.unregister(fd)
                room.close()
                del self._rooms[fd]
                stop_watching_room(guest.channel)

    # ---- clients go ----

    def _drop(self, guest: Guest, error: Exception) -> None:
        if isinstance(error, ProtocolError):
            self.clients_broken += 1
        self._forget(guest)
        drop(guest.channel)

    def _forget(self, guest: Guest) -> None:
        self._stop_watching(guest)
        if not guest.is_paused:
            self._epoll.unregister(guest.fd)
        self.guests.pop(guest.fd, None)
        self._hot.pop(guest, None)
        self._with_heartbeat.discard(guest)
        if self.answerer is not None:
            self.answerer.on_leave(guest)

    def read_all(self) -> None:
        """Whatever has come until now."""
        for guest in list(self.guests.values()):
            self._read(guest, True)

    @property
    def open_count(self) -> int:
        """Requests that were received and not answered."""
        return sum(guest.answering.open_count for guest in list(self.guests.values()))

    @property
    def is_idle(self) -> bool:
        """Everything that was asked has been answered, and the answers are out."""
        return not self._ready and all(guest.is_idle for guest in self.guests.values())

    def close(self) -> None:
        """Gives the name up, and says goodbye to whoever can hear it. Idempotent."""
        self.listener.close()
        for guest in list(self.guests.values()):
            self._forget(guest)
            if guest.is_blocked:
                drop(guest.channel)  # its goodbye would wait for it
            else:
                with suppress(NaruError):  # it takes nothing: the same
                    guest.channel.close()
        self._epoll.close()

    def close_bell(self) -> None:
        """After the last thread that may ring it has ended."""
        bell, self._bell = self._bell, -1
        if bell >= 0:
            os.close(bell)

    def abandon(self) -> None:
        """In a forked child: closes this process's copies; the lock may be held for ever here."""
        self.listener.close()
        for guest in self.guests.values():
            drop(guest.channel)
        for _, room in self._rooms.values():
            room.close()
        self._epoll.close()
        self.close_bell()

    def __del__(self) -> None:
        self.close_bell()
