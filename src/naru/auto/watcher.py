"""One daemon thread a process that listens to the control connections of its auto:// channels.

It sleeps in one poll, and wakes for words, for samples (leaders of channels that may move) and for
moves under way. Must not know: what a conversation does when it is called.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from typing import TYPE_CHECKING

from naru._native.system import eventfd
from naru.errors import LimitError

if TYPE_CHECKING:
    from naru.auto.conversation import Conversation

__all__ = ["forget", "watch"]


class _Watcher:
    """The thread of one process, while there are conversations."""

    def __init__(self) -> None:
        self._conversations: dict[int, Conversation] = {}
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._bell = -1

    def add(self, conversation: Conversation) -> None:
        with self._lock:
            if self._bell < 0:
                self._bell = eventfd(address="auto")
            self._conversations[conversation.control.fileno()] = conversation
            if self._thread is None:
                self._start()
            os.eventfd_write(self._bell, 1)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="naru-auto", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # "can't start new thread"
            self._thread = None
            self._conversations.clear()
            os.close(self._bell)
            self._bell = -1
            raise LimitError(f"auto: {error}", errno=errno.EAGAIN, operation="auto") from error

    def remove(self, conversation: Conversation) -> None:
        with self._lock:
            fd = conversation.control.fileno()
            if self._conversations.get(fd) is conversation:
                del self._conversations[fd]
                os.eventfd_write(self._bell, 1)
                if not self._conversations:  # the thread has been woken, and ends
                    os.close(self._bell)
                    self._bell = -1

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._conversations:
                    self._thread = None
                    return
                poll = select.poll()
                poll.register(self._bell, select.POLLIN)
                for fd in self._conversations:
                    poll.register(fd, select.POLLIN)
                wake_at_s = min(each.wake_at_s for each in self._conversations.values())
                bell = self._bell
            pause_s = wake_at_s - time.monotonic()
            events = poll.poll(max(0.0, pause_s) * 1000 if pause_s < 1e9 else None)
            with self._lock:
                if bell == self._bell and bell in (fd for fd, _ in events):
                    self._silence_bell()
                woken = [self._conversations.get(fd) for fd, _ in events]
                late = list(self._conversations.values())
            for conversation in woken:
                if conversation is not None:
                    conversation.on_readable()
            now_s = time.monotonic()
            for conversation in late:
                if conversation.wake_at_s <= now_s:
                    conversation.on_time(now_s)
            # Or the last one would live on while this thread sleeps.
            del woken, late
            conversation = None

    def _silence_bell(self) -> None:
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            pass  # the ring was that of an earlier bell, which had the same number

    def close_in_child(self) -> None:
        for conversation in self._conversations.values():
            conversation.close_in_child()
        if self._bell >= 0:
            os.close(self._bell)


_watcher = _Watcher()


def _new_watcher() -> None:
    """In a forked child: the thread is the parent's, and so are the channels."""
    global _watcher
    _watcher.close_in_child()
    _watcher = _Watcher()


os.register_at_fork(after_in_child=_new_watcher)


def watch(conversation: Conversation) -> None:
    """Calls the conversation when its control connection has something, or its time has come."""
    _watcher.add(conversation)


def forget(conversation: Conversation) -> None:
    """Not any more; before its control connection is closed."""
    _watcher.remove(conversation)
