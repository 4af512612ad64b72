"""Finding the other side, in either order of starting, with a word to whoever waits.

What an address means to a command that reads or writes bytes is here, too. Must not know: what is
sent.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import naru
from naru.address import Address
from naru.errors import NoSuchNameError, TimedOutError

__all__ = ["announce", "framing_of", "is_raw_stream", "keep_open", "open_patiently"]

QUIET_S = 1.0
STREAMS = ("pipe", "fifo", "unix", "tcp")

Opened = TypeVar("Opened", covariant=True)


class Opener(Protocol[Opened]):
    """naru.sender or naru.connect."""

    def __call__(self, address: Address, timeout_s: float | None) -> Opened: ...


def open_patiently(
    opener: Opener[Opened],
    address: Address,
    timeout_s: float | None,
    say: Callable[[str], object] | None = None,
) -> Opened:
    """Opens; tells once when nobody is there within a second.

    Args:
        timeout_s: None: waits for ever.

    Raises: what the opener raises, NoSuchNameError and TimedOutError when the time is up.
    """
    if timeout_s is not None and timeout_s <= QUIET_S:
        return opener(address, timeout_s)
    began_s = time.monotonic()
    try:
        return opener(address, QUIET_S)
    except (NoSuchNameError, TimedOutError):
        passed_s = time.monotonic() - began_s
        if passed_s < QUIET_S / 2:
            raise  # no question of waiting: a host that does not exist
    (say or note)(f"waiting for somebody at {address.display}")
    return opener(address, None if timeout_s is None else max(0.0, timeout_s - passed_s))


def note(text: str) -> None:
    """A line for people, on standard error."""
    if sys.stderr is not None:
        line = f"naru: {text}\n".encode("utf-8", "backslashreplace").decode()
        sys.stderr.write(line)
        sys.stderr.flush()


def announce(what: str, asked: Address, real: Address) -> None:
    """Where we listen: always when the port was chosen by the kernel, else on a terminal only."""
    chosen = asked.port == 0 and real.port != 0
    if chosen or (sys.stderr is not None and sys.stderr.isatty()):
        note(f"{what} {naru.parse(real)} (Ctrl-C ends)")


def framing_of(address: Address) -> str:
    """naru, raw or lines. Raises: BadAddressError for a bad option."""
    from naru.settings import settings_for

    return str(getattr(settings_for(address), "framing", "naru"))


def is_raw_stream(address: Address) -> bool:
    """Bytes without boundaries, where a newline taken away would be missed."""
    if framing_of(address) != "raw" or address.transport not in STREAMS:
        return False
    return address.options.get("datagram") != "1"


@contextmanager
def keep_open(address: Address) -> Iterator[None]:
    """A foreign FIFO ends with its last writer; one of our own keeps it for the next."""
    if address.transport != "fifo" or framing_of(address) == "naru":
        yield
        return
    fd = os.open(str(address.path), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(fd)
