"""Signals as messages between processes: sent to the right one, received where it is convenient.

    from naru import signals

    signals.notify(process, signal.SIGRTMIN, value=42)      # one process

    with signals.blocked({signal.SIGRTMIN}):                # another
        print(signals.wait({signal.SIGRTMIN}).value)

Map:

    record      Signal; which numbers may be waited for
    masks       blocked, unblocked: in all threads
    processes   notify, open_process: by pidfd; reap_children
    watch       wait, on_signal, SignalWatch: sigtimedwait and signalfd

Standard signals (SIGUSR1, SIGCHLD ...) coalesce: of a thousand that come before the first is taken,
one arrives. Real-time signals (SIGRTMIN and above) queue, each with its value, until the sender
gets LimitError.
"""

from __future__ import annotations

from naru.signals.masks import blocked, unblocked
from naru.signals.processes import AnyProcess, ProcessHandle, notify, open_process, reap_children
from naru.signals.record import Signal
from naru.signals.watch import SignalWatch, on_signal, wait

__all__ = [
    "AnyProcess",
    "ProcessHandle",
    "Signal",
    "SignalWatch",
    "blocked",
    "notify",
    "on_signal",
    "open_process",
    "reap_children",
    "unblocked",
    "wait",
]
