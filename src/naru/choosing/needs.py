"""What somebody needs of a way between processes.

Holds: Needs, and how the command writes them: words, sizes with weights, rates. Pure.
Must not know: transports.
Joins: `policy.choose` takes Needs; `front` and the command make them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

from naru.sizes import LARGEST_BYTES, parse_size

__all__ = [
    "WORDS",
    "Goal",
    "Needs",
    "Sizes",
    "Wait",
    "Word",
    "parse_rate",
    "parse_sizes",
    "parse_words",
    "sizes_of",
]

Goal: TypeAlias = Literal["latency", "throughput"]
Wait: TypeAlias = Literal["adaptive", "spin", "sleep"]
Sizes: TypeAlias = int | Mapping[int, float]

DEFAULT_SIZE_BYTES = 1024
MOST_SIZES = 1000
FASTEST_PER_S = 1e12

_RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([kM]?)(?:/(s|min|h))?")
_SCALES = {"": 1.0, "k": 1e3, "M": 1e6}
_PERIODS_S = {None: 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What is asked for. The defaults are what most programs want.

    Raises:
        ValueError: a size, a weight, a rate or a word that cannot be.
    """

    sizes: tuple[tuple[int, float], ...] = ((DEFAULT_SIZE_BYTES, 1.0),)
    """(bytes, share) of the messages, by size; the shares add up to 1. See `sizes_of`."""
    rate_per_s: float | None = None
    """Messages a second; None: as many as go."""
    batch: bool = False
    """Sent and received by the dozen (send_many, receive_many), not one by one."""
    goal: Goal = "latency"
    wait: Wait = "adaptive"
    two_way: bool = False
    several_senders: bool = False
    related: bool = False
    """A parent and its child, or two children of one parent: naru.pair will do."""
    reliable: bool = True
    ordered: bool = True
    boundaries: bool = True
    """A message arrives as it was sent, not as a part of a stream."""
    descriptors: bool = False
    priority: bool = False
    in_place: bool = False
    other_users: bool = False
    other_machine: bool = False

    def __post_init__(self) -> None:
        if not _are_shares(self.sizes):
            raise ValueError(f"sizes are made by sizes_of(): not {self.sizes!r}")
        rate = self.rate_per_s
        if rate is not None and not (_is_number(rate) and 0 < rate <= FASTEST_PER_S):
            raise ValueError(f"rate_per_s must be above 0 and at most 1e12, not {rate!r}")
        for name, allowed in (("goal", get_args(Goal)), ("wait", get_args(Wait))):
            if getattr(self, name) not in allowed:
                shown = ", ".join(allowed)
                raise ValueError(f"{name} must be one of {shown}, not {getattr(self, name)!r}")

    @property
    def largest_bytes(self) -> int:
        """The largest message."""
        return self.sizes[-1][0]


def sizes_of(sizes: Sizes) -> tuple[tuple[int, float], ...]:
    """The `sizes` of Needs.

    Args:
        sizes: bytes from 0 to 1 GiB, or weights by bytes, such as {64: 9, 65536: 1}.

    Raises:
        ValueError: no sizes, too large ones, or weights that are no positive numbers.
        TypeError: neither a number nor a mapping.
    """
    if isinstance(sizes, bool) or not isinstance(sizes, int | Mapping):
        raise TypeError(f"size_bytes is a number or a mapping, not {type(sizes).__name__}")
    weights = {sizes: 1.0} if isinstance(sizes, int) else dict(sizes)
    if not 1 <= len(weights) <= MOST_SIZES:
        raise ValueError(f"from 1 to {MOST_SIZES} sizes, not {len(weights)}")
    for size_bytes, weight in weights.items():
        if type(size_bytes) is not int or not 0 <= size_bytes <= LARGEST_BYTES:
            raise ValueError(f"a message has 0 bytes to 1 GiB, not {size_bytes!r}")
        if not (_is_number(weight) and 1e-9 <= weight <= 1e9):
            raise ValueError(f"a weight is a number from 1e-9 to 1e9, not {weight!r}")
    total = math.fsum(weights.values())
    return tuple((size_bytes, weights[size_bytes] / total) for size_bytes in sorted(weights))


def _are_shares(sizes: tuple[tuple[int, float], ...]) -> bool:
    known = [size_bytes for size_bytes, _ in sizes]
    return (
        1 <= len(sizes) <= MOST_SIZES
        and known == sorted(set(known))
        and all(0 <= size_bytes <= LARGEST_BYTES for size_bytes in known)
        and all(0 < share <= 1 for _, share in sizes)
        and abs(math.fsum(share for _, share in sizes) - 1) < 1e-6
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ---- as the command writes them ----


@dataclass(frozen=True)
class Word:
    """A word of --needs: the field of Needs that it sets, and what it means."""

    field: str
    value: bool
    meaning: str


WORDS: Mapping[str, Word] = MappingProxyType(
    {
        "two-way": Word("two_way", True, "answers come back the same way"),
        "several-senders": Word("several_senders", True, "many processes send to one"),
        "related": Word("related", True, "a parent and its child: naru.pair will do"),
        "lossy": Word("reliable", False, "a lost message does no harm"),
        "unordered": Word("ordered", False, "messages may overtake each other"),
        "boundaries": Word("boundaries", True, "messages stay whole (they do everywhere)"),
        "fds": Word("descriptors", True, "open files travel with messages"),
        "priority": Word("priority", True, "urgent messages first"),
        "in-place": Word("in_place", True, "read and written without a copy"),
        "other-users": Word("other_users", True, "the two sides run as different users"),
        "other-machine": Word("other_machine", True, "the two sides run on different machines"),
    }
)


def parse_words(words: Sequence[str]) -> dict[str, bool]:
    """Fields of Needs from words such as "fds". Raises: ValueError, with all words, for another."""
    fields = {}
    for word in words:
        if word not in WORDS:
            raise ValueError(f"{word!r} is none of {', '.join(WORDS)}")
        fields[WORDS[word].field] = WORDS[word].value
    return fields


def parse_rate(text: str) -> float:
    """Messages a second, from "20000", "20000/s", "20k/s", "30/min". Raises: ValueError."""
    match = _RATE.fullmatch(text.strip())
    rate = float(match[1]) * _SCALES[match[2]] / _PERIODS_S[match[3]] if match else 0.0
    if not 0 < rate <= FASTEST_PER_S:
        raise ValueError(f"{text!r} is no rate such as 20000/s, 20k/s or 30/min")
    return rate


def parse_sizes(text: str) -> dict[int, float]:
    """Weights by bytes, from "1KB" or "64:9,64KiB:1". Raises: ValueError."""
    weights: dict[int, float] = {}
    for part in text.split(","):
        size, colon, share = part.partition(":")
        size_bytes = parse_size(size)
        weight = _parse_weight(share) if colon else 1.0
        if size_bytes is None or weight is None or size_bytes in weights:
            raise ValueError(f"{text!r}: sizes are such as 1KB, or with weights 64:9,64KiB:1")
        weights[size_bytes] = weight
    return weights


def _parse_weight(text: str) -> float | None:
    try:
        weight = float(text)
    except ValueError:
        return None
    return weight if 1e-9 <= weight <= 1e9 else None


def describe(needs: Needs) -> dict[str, Any]:
    """For programs: as JSON shows them."""
    fields = {name: getattr(needs, name) for name in Needs.__dataclass_fields__}
    fields["sizes"] = [list(pair) for pair in needs.sizes]
    return fields
