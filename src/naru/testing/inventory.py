"""What this process has lying about: taken before and after, the difference is a leak.

Holds: Inventory (descriptors, children, names in /dev/shm and in the runtime directory, message
queues, threads).
Must not know: any transport. Joins: the test suite's leak guard takes one around every test; a
script of a fault test may do so itself.
Source: proc(5), mq_overview(7).
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from naru.testing.descriptors import open_descriptors

__all__ = ["Inventory"]

# One timer thread serves all ends of a process and may outlive the last of them by a beat.
LASTING_THREADS = frozenset({"naru-heartbeat"})
# These have been told to end when the last end that they served was closed, and take a moment for it.
ENDING_THREADS = ("naru-auto", "naru-outbox", "naru connects to ")
ENDING_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Inventory:
    """One look at everything that can be left behind."""

    descriptors: dict[int, str]
    children: frozenset[int]
    """Processes that this one started and has not reaped, zombies too."""
    names: frozenset[str]
    """Files, not directories, in /dev/shm, the runtime directory and the queue directory."""
    threads: frozenset[str]

    @classmethod
    def take(cls, queues: Path | None = None) -> Self:
        """Looks now; a thread of naru's own that is ending gets its moment.

        Args:
            queues: where a mqueue file system is mounted; None leaves message queues out.
        """
        for thread in threading.enumerate():
            if thread.name.startswith(ENDING_THREADS) and thread.ident is not None:
                thread.join(ENDING_LIMIT_S)
        directories = [Path("/dev/shm"), _runtime_directory(), *([queues] if queues else [])]
        return cls(
            open_descriptors(),
            frozenset(_children()),
            frozenset(name for directory in directories for name in _files(directory)),
            frozenset(
                f"{thread.name} ({thread.ident})"
                for thread in threading.enumerate()
                if thread.name not in LASTING_THREADS
            ),
        )

    def leaks(self, after: Inventory) -> list[str]:
        """What `after` has and this one had not, one line each; empty when nothing was left."""
        found = [f"descriptor {n}: {what}" for n, what in self._new_descriptors(after)]
        found += [f"child process {pid}" for pid in sorted(after.children - self.children)]
        found += [f"file {name}" for name in sorted(after.names - self.names)]
        found += [f"thread {thread}" for thread in sorted(after.threads - self.threads)]
        return found

    def _new_descriptors(self, after: Inventory) -> list[tuple[int, str]]:
        # By what they are, not by number: a descriptor that moved to another number is no leak.
        known = Counter(self.descriptors.values())
        new = []
        for number, what in after.descriptors.items():
            if known[what] > 0:
                known[what] -= 1
            else:
                new.append((number, what))
        return new


def _runtime_directory() -> Path:
    """As naru.runtime chooses it, without making it."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(base, "naru") if base.startswith("/") else Path(f"/tmp/naru-{os.geteuid()}")


def _files(directory: Path) -> list[str]:
    found = []
    for place, _, names in os.walk(directory):
        found += [os.path.join(place, name) for name in names]
    return found


def _children() -> list[int]:
    found: list[int] = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                found += [int(pid) for pid in file.read().split()]
        except FileNotFoundError:
            continue  # a thread that ended meanwhile
    return found
