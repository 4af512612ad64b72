"""A reader that is lent to a link while one of its requests finds no room.

Holds: Blocked. Must not know: what is sent, frames.
Joins: a link enters it around a send that may wait; the thread is a follower of the link like any other,
whose wish is that nobody is blocked any more.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from naru.requests.link import Link

__all__ = ["Blocked"]


class Blocked:
    """While a request waits for room: somebody reads, a thread of its own if need be."""

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        link = self._link
        with link._lock:
            link._blocked += 1
            if link._reader is None or not link._reader.is_alive():
                link._reader = threading.Thread(
                    target=self._read, name=f"naru client {link.address}", daemon=True
                )
                link._reader.start()

    def _read(self) -> None:
        link = self._link
        while True:
            link._wait(self._is_over, None, None)
            with link._lock:
                if self._is_over():  # else somebody is blocked again, and counts on this thread
                    link._reader = None
                    return

    def _is_over(self) -> bool:
        return self._link._blocked == 0 or self._link.error is not None

    def __exit__(self, *exc_info: object) -> None:
        with self._link._lock:
            self._link._blocked -= 1
            if self._link._blocked == 0:
                for bell in self._link._followers:
                    bell.ring()
                self._link._followers.clear()
