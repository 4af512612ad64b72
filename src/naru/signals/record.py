"""What a signal says, and which numbers may be waited for. Pure: no system call.

Must not know: how a signal is sent or received.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass

from naru.errors import UnsupportedError

__all__ = ["Signal", "checked", "name_of", "set_of", "word_of"]

SI_QUEUE, SI_TIMER, SI_MESGQ = -1, -2, -3
FIRST_REAL_TIME = signal.SIGRTMIN

# The kernel lets nobody catch or block the first two. The others come from the very instruction
# that a thread is at, which would be repeated for ever.
NEVER = {
    signal.SIGKILL: "the kernel lets no process catch, block or wait for it",
    signal.SIGSTOP: "the kernel lets no process catch, block or wait for it",
    signal.SIGSEGV: "it tells a thread of its own fault and cannot be put off",
    signal.SIGBUS: "it tells a thread of its own fault and cannot be put off",
    signal.SIGFPE: "it tells a thread of its own fault and cannot be put off",
    signal.SIGILL: "it tells a thread of its own fault and cannot be put off",
}


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that came."""

    number: int
    pid: int
    """Of the sender; of the child, with SIGCHLD; 0 when the kernel sent it by itself."""
    uid: int
    """The real user of that process."""
    value: int | None
    """The number that was sent along, -2**31..2**31-1; None when none was."""
    code: int
    """How it came, si_code of sigaction(2): 0 = kill, -1 = with a value, 1..6 = a child's fate."""

    @property
    def name(self) -> str:
        """Such as "SIGTERM" or "SIGRTMIN+3"."""
        return name_of(self.number)

    @classmethod
    def of(cls, plain: tuple[int, int, int, int, int]) -> Signal:
        """From what the native layer gives: (number, pid, uid, value, code)."""
        number, pid, uid, value, code = plain
        carried = code in (SI_QUEUE, SI_TIMER, SI_MESGQ)
        return cls(number, pid, uid, value if carried else None, code)


def name_of(number: int) -> str:
    """The usual name of a signal; its number when it has none."""
    if number > FIRST_REAL_TIME:
        return f"SIGRTMIN+{number - FIRST_REAL_TIME}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def checked(number: int) -> int:
    """The number itself, when a signal of this number exists.

    Raises: ValueError, as for any argument that cannot be; TypeError for what is no number.
    """
    if number not in signal.valid_signals():
        raise ValueError(
            f"{number!r} is no signal: 1..64 are, but for 32 and 33, which the C library keeps"
        )
    return int(number)


def set_of(numbers: Iterable[int] | int) -> frozenset[int]:
    """The signals of a call that waits for them: one number or several.

    Raises:
        UnsupportedError: SIGKILL and SIGSTOP, and those of a thread's own faults.
        ValueError: not a signal, or none at all.
    """
    wanted = [numbers] if isinstance(numbers, int) else numbers
    result = frozenset(checked(number) for number in wanted)
    if not result:
        raise ValueError("no signal was named")
    for number in sorted(result):
        if number in NEVER:
            raise UnsupportedError(
                f"signals: {name_of(number)} cannot be waited for: {NEVER[signal.Signals(number)]}",
                operation="signals",
                address=name_of(number),
            )
    return result


def word_of(numbers: Iterable[int]) -> int:
    """As the native layer takes a set: bit n-1 is signal n."""
    return sum(1 << (number - 1) for number in numbers)
