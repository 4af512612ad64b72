"""What belongs to one process, and begins anew in a forked child: threads, connections, who one is.

Holds: begins_in_each_process. Must not know: what begins. Joins: listening.py, leases.py.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["begins_in_each_process"]


class _Beginner(Protocol):
    def _begin_process(self) -> None: ...


_all: weakref.WeakSet[_Beginner] = weakref.WeakSet()


def begins_in_each_process(thing: _Beginner) -> None:
    """Calls its _begin_process(), now and in every forked child, before anything else runs there."""
    thing._begin_process()
    _all.add(thing)


def _in_child() -> None:
    for thing in list(_all):
        thing._begin_process()


os.register_at_fork(after_in_child=_in_child)
