"""What the profile of this machine says of the transports that an auto:// channel may use.

Must not know: channels. Joins: `joining` asks for the order in which to try, `judgement` for gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from naru.auto.judgement import Gains, Traffic
from naru.choosing.needs import Needs, parse_words, sizes_of
from naru.choosing.policy import Choice, choose, rank
from naru.choosing.prediction import Prediction
from naru.choosing.profile import load_profile
from naru.settings import AutoSettings
from naru.transports import load

__all__ = ["Ranking"]


class Ranking:
    """The profile, read once for each listener."""

    def __init__(self, settings: AutoSettings) -> None:
        self._settings = settings
        self._profile, self._warnings = load_profile()
        self._gains = lru_cache(maxsize=256)(self._gains_over)

    def choice(self, transports: Sequence[str], words: Sequence[str]) -> Choice:
        """The order in which to try. Raises UnsupportedError: none can do what is needed."""
        rows = [load(name).capabilities for name in transports]
        return choose(self._needs(tuple(words)), self._profile, rows, warnings=self._warnings)

    def gains(
        self, current: str, transports: tuple[str, ...], words: tuple[str, ...], traffic: Traffic
    ) -> Gains:
        """How many times better than `current` each of the others would be for this traffic."""
        size_bytes = _rounded(traffic.size_bytes)
        rate_per_s = float(_rounded(round(traffic.rate_per_s)))
        return self._gains(current, transports, words, size_bytes, rate_per_s, traffic.goal)

    def _gains_over(
        self, current: str, transports: tuple[str, ...], words: tuple[str, ...], size_bytes: int,
        rate_per_s: float, goal: str,
    ) -> Gains:  # fmt: skip
        needs = self._needs(words, size_bytes, rate_per_s, goal)
        candidates, _ = rank(needs, self._profile, [load(name).capabilities for name in transports])
        predictions = {candidate.transport: candidate.prediction for candidate in candidates}
        if current not in predictions:
            return {}
        own = _cost(predictions.pop(current), goal)
        costs = {name: _cost(prediction, goal) for name, prediction in predictions.items()}
        return {name: own / cost for name, cost in costs.items() if own and cost}

    def _needs(
        self, words: tuple[str, ...], size_bytes: int = 1024, rate_per_s: float | None = None,
        goal: str = "latency",
    ) -> Needs:  # fmt: skip
        return Needs(
            sizes=sizes_of(size_bytes),
            rate_per_s=rate_per_s if goal == "latency" else None,
            goal="latency" if goal == "latency" else "throughput",
            wait=self._settings.wait,
            two_way=True,
            related=True,  # descriptors go over the control connection, as to a child
            **parse_words(words),
        )


def _cost(prediction: Prediction, goal: str) -> float:
    """us a round trip, or seconds a message; 0: not measured."""
    if goal == "latency":
        return prediction.latency_us_p50 or 0.0
    return 1 / prediction.throughput_per_s if prediction.throughput_per_s else 0.0


def _rounded(value: int) -> int:
    """Three significant bits: traffic that hardly differs is ranked once."""
    shift = max(0, value.bit_length() - 3)
    return max(1, value >> shift << shift)
