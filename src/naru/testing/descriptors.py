"""Descriptors of this process: which are open, and how it is to have none left.

Holds: open_descriptors, limited_descriptors.
Must not know: naru. Joins: the leak guard of the tests and the tests of EMFILE use it.
Source: proc(5), getrlimit(2): RLIMIT_NOFILE is one above the highest number that may be opened.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["limited_descriptors", "open_descriptors"]


def open_descriptors() -> dict[int, str]:
    """Every open descriptor of this process and what it is, such as "socket:[4711]"."""
    found = {}
    with os.scandir("/proc/self/fd") as entries:
        numbers = [int(entry.name) for entry in entries]
    for number in numbers:
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the listing's own descriptor, or another thread's that is closed by now
    return found


@contextmanager
def limited_descriptors(n_free: int) -> Iterator[None]:
    """In the block, exactly `n_free` more descriptors can be opened by this process.

    The holes among the open ones are filled, and the soft RLIMIT_NOFILE is lowered to just above.
    Other threads meet the same limit. What was opened in the block may stay open after it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    try:
        highest = max(open_descriptors())
        while True:
            filler = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            fillers.append(filler)
            if filler > highest:
                break
        os.close(fillers.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + n_free, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)
