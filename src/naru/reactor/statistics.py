"""What a reactor counts: frozen records; knows nothing of loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ReactorStatistics", "SlowCallback", "quantile_s"]


@dataclass(frozen=True, slots=True)
class SlowCallback:
    """A callback that held everything else up for longer than `slow_callback_s`."""

    name: str
    count: int
    """How often."""
    longest_s: float


@dataclass(frozen=True, slots=True)
class ReactorStatistics:
    """Numbers of one reactor since it was made, as one copy.

    A turn is what happens between two looks at the kernel: how long it takes is how long a ready
    descriptor may have to wait, the latency of the loop.
    """

    turns: int
    callbacks: int
    """Calls of your functions: a message, an event, a timer, a queued call."""
    errors: int
    """Of those: that raised."""
    sleeps: int
    """Times that the loop was allowed to sleep."""
    wakeups: int
    """Of those: that ended because of something; an idle loop has none."""
    timers_fired: int
    timers_missed: int
    """Periods of every() that were left out, because nobody could serve them in time."""
    stale_events: int
    """Reported by the kernel for descriptors that were gone; nobody got them."""
    registrations: int
    """At this moment, timers among them."""
    busy_s: float
    """In callbacks, all turns together."""
    turn_median_s: float
    """Within a factor of two, as all quantiles here; 0 before the first turn."""
    turn_p99_s: float
    turn_longest_s: float
    slow: tuple[SlowCallback, ...]
    """The longest first."""


def quantile_s(turns_by_ns: Sequence[int], part: float) -> float:
    """An upper bound of the quantile, from counts by powers of two; 0 without any.

    Args:
        turns_by_ns: place i counts what took [2**i, 2**(i+1)) ns.
        part: 0..1, 0.5 for the median.
    """
    total = sum(turns_by_ns)
    seen = 0
    for power, count in enumerate(turns_by_ns):
        seen += count
        if count and seen >= total * part:
            return float(2 ** (power + 1)) / 1e9
    return 0.0
