"""When is another transport worth a move? From what a channel did lately, and a ranking.

Pure: time and counters are passed in. Must not know: channels, profiles.
Rules: another transport must be predicted to be GAIN times better for LONG_ENOUGH_S without a
break, and a channel moves at most once in REST_S. Hardly any traffic is no evidence. Nobody goes back
within NO_RETURN_S to what was left: figures that are wrong would make a channel go to and fro.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["GAIN", "LONG_ENOUGH_S", "NO_RETURN_S", "REST_S", "Judge", "Sample", "Traffic"]

GAIN = 1.3
LONG_ENOUGH_S = 1.0
REST_S = 10.0
NO_RETURN_S = 60.0
FEWEST_PER_S = 20.0
TWO_WAY_SHARE = 0.5


@dataclass(frozen=True)
class Sample:
    """The counters of a channel at a time."""

    at_s: float
    messages_sent: int
    bytes_sent: int
    messages_received: int
    bytes_received: int


@dataclass(frozen=True)
class Traffic:
    """What happened between two samples."""

    size_bytes: int
    """Mean."""
    rate_per_s: float
    """Messages in the busier direction."""
    goal: Literal["latency", "throughput"]
    """latency: about as many messages one way as the other, a conversation."""


Gains: TypeAlias = Mapping[str, float]
"""How many times better each other transport is predicted to be than the one in use."""


def traffic_between(first: Sample, last: Sample) -> Traffic | None:
    """None: too little to say anything."""
    seconds = last.at_s - first.at_s
    sent = last.messages_sent - first.messages_sent
    received = last.messages_received - first.messages_received
    if seconds <= 0 or sent + received < FEWEST_PER_S * seconds:
        return None
    size = last.bytes_sent - first.bytes_sent + last.bytes_received - first.bytes_received
    two_way = min(sent, received) >= TWO_WAY_SHARE * max(sent, received)
    return Traffic(
        size_bytes=round(size / (sent + received)),
        rate_per_s=max(sent, received) / seconds,
        goal="latency" if two_way else "throughput",
    )


class Judge:
    """Watches one channel."""

    def __init__(self, gains_over: Callable[[str, Traffic], Gains]) -> None:
        """gains_over: a transport; empty when nothing else can be used."""
        self._gains_over = gains_over
        self._last: Sample | None = None
        self._favourite = ""
        self._since_s = 0.0
        self._rest_until_s = 0.0
        self._left_s: dict[str, float] = {}

    def observe(self, current: str, sample: Sample) -> str | None:
        """The transport to move to, now, from the current one; None: stay."""
        last, self._last = self._last, sample
        traffic = None if last is None else traffic_between(last, sample)
        if last is None or traffic is None:
            self._favourite = ""
            return None
        gains = {
            name: gain
            for name, gain in self._gains_over(current, traffic).items()
            if sample.at_s - self._left_s.get(name, -NO_RETURN_S) >= NO_RETURN_S
        }
        best = max(gains, key=lambda name: gains[name], default="")
        if not best or gains[best] < GAIN:
            self._favourite = ""
            return None
        if best != self._favourite:
            self._favourite, self._since_s = best, last.at_s
        if sample.at_s - self._since_s < LONG_ENOUGH_S or sample.at_s < self._rest_until_s:
            return None
        return best

    def moved(self, current: str, now_s: float) -> None:
        """A move away from the current transport was tried: whether it succeeded or not, the next
        one has time."""
        self._left_s[current] = now_s
        self._favourite = ""
        self._rest_until_s = now_s + REST_S
