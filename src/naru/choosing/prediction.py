"""What a transport will take for these needs: between the sizes that were measured.

Holds: interpolation on log-log axes, which figures belong to which needs, mixtures of sizes. Pure.
Must not know: what is the best (policy).
Joins: `policy` ranks by Prediction; auto:// compares the transport that runs with the others.

Between two sizes both axes are logarithmic: from a fixed cost for a message to a cost for each byte
the curve bends slowly there. Below the smallest size the fixed cost stays; above the largest one the
time grows with the bytes.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from naru.choosing.needs import Needs
from naru.choosing.profile import Cell, Profile
from naru.sizes import batch_length

__all__ = ["LONGEST_SPIN_US", "Prediction", "figures_wait", "interpolate", "predict"]

LONGEST_SPIN_US = 50.0
"""An adaptive wait spins no longer (native/include/naru/waiting.h): rarer messages find a sleeper."""
RARE_SHARE = 0.01


@dataclass(frozen=True)
class Prediction:
    """None: this was not measured."""

    latency_us_p50: float | None
    """There and back; of a whole batch where batches are asked for."""
    latency_us_p99: float | None
    throughput_per_s: float | None
    """Messages, one way, as fast as it goes."""
    outside: bool = False
    """A size lies beyond those that were measured."""


def figures_wait(needs: Needs) -> str:
    """Whose round trips these needs will see: those of waits that spin, or that sleep."""
    if needs.wait != "adaptive":
        return "sleep" if needs.wait == "sleep" else "adaptive"
    if needs.rate_per_s is None:
        return "adaptive"
    together = batch_length(needs.largest_bytes) if needs.batch else 1
    between_us = 1e6 * together / needs.rate_per_s
    return "sleep" if between_us > LONGEST_SPIN_US else "adaptive"


def interpolate(points: Sequence[tuple[int, float]], size_bytes: int, *, per_byte: int) -> float:
    """The value at a size.

    Args:
        points: (bytes, value above 0), sorted by bytes, at least one.
        per_byte: beyond the largest size the value grows with the bytes (1), or falls (-1).
    """
    sizes = [point[0] for point in points]
    if size_bytes <= sizes[0]:
        return points[0][1]
    if size_bytes > sizes[-1]:
        return points[-1][1] * (size_bytes / sizes[-1]) ** per_byte
    at = bisect_left(sizes, size_bytes)
    if sizes[at] == size_bytes:
        return points[at][1]
    (left, low), (right, high) = points[at - 1], points[at]
    part = math.log(size_bytes / left) / math.log(right / left)
    return math.exp(math.log(low) + part * (math.log(high) - math.log(low)))


def predict(profile: Profile, transport: str, needs: Needs) -> Prediction:
    """What a transport takes for these needs, whether it can fulfil them or not."""
    cells = sorted(
        (cell for cell in profile.cells
         if cell.transport == transport and cell.batch == needs.batch),
        key=lambda cell: cell.size_bytes,
    )  # fmt: skip
    wait = figures_wait(needs)
    streams = "sleep" if needs.wait == "sleep" else "adaptive"
    p50 = _points(cells, wait, lambda cell: cell.trip.p50_us.median if cell.trip else None)
    p99 = _points(cells, wait, lambda cell: cell.trip.p99_us.median if cell.trip else None)
    rates = _points(cells, streams, lambda cell: cell.rate.per_s.median if cell.rate else None)
    largest = [points[-1][0] for points in (p50, rates) if points]
    return Prediction(
        latency_us_p50=_mean(p50, needs),
        latency_us_p99=_slowest(p99, needs),
        throughput_per_s=_rate(rates, needs),
        outside=bool(largest) and needs.largest_bytes > min(largest),
    )


def _points(
    cells: Sequence[Cell], wait: str, value: Callable[[Cell], float | None]
) -> list[tuple[int, float]]:
    """Of ends that wait in this way; of the other way where a quick probe left this one out."""
    found = [(cell.wait == wait, cell.size_bytes, value(cell)) for cell in cells]
    measured = [
        (own, size_bytes, number) for own, size_bytes, number in found if number is not None
    ]
    asked = [(size_bytes, number) for own, size_bytes, number in measured if own]
    return asked or [(size_bytes, number) for _, size_bytes, number in measured]


def _mean(points: Sequence[tuple[int, float]], needs: Needs) -> float | None:
    if not points:
        return None
    return math.fsum(
        share * interpolate(points, size_bytes, per_byte=1) for size_bytes, share in needs.sizes
    )


def _slowest(points: Sequence[tuple[int, float]], needs: Needs) -> float | None:
    """The 99th percentile is that of the slowest size that is not itself rarer than 1 in 100."""
    common = [size for size, share in needs.sizes if share >= RARE_SHARE] or [needs.largest_bytes]
    if not points:
        return None
    return max(interpolate(points, size_bytes, per_byte=1) for size_bytes in common)


def _rate(points: Sequence[tuple[int, float]], needs: Needs) -> float | None:
    """The times of the messages add up, not their rates."""
    if not points:
        return None
    seconds = math.fsum(
        share / interpolate(points, size_bytes, per_byte=-1) for size_bytes, share in needs.sizes
    )
    return 1 / seconds
