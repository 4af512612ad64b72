"""Profiles that say what a test wants of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from naru.choosing.profile import (
    Cell,
    Load,
    Machine,
    Profile,
    Rate,
    Spread,
    Trip,
    profile_path,
    to_json,
)  # fmt: skip


def write_profile(latency_us: Mapping[tuple[str, int], float]) -> Path:
    """The profile of this user; round trips by transport and size, throughput follows from them."""
    cells = tuple(
        Cell(transport=transport, size_bytes=size_bytes, batch=False, wait=wait,
             trip=_trip(value), rate=_rate(1e6 / value))
        for (transport, size_bytes), value in latency_us.items()
        for wait in ("adaptive", "sleep")
    )  # fmt: skip
    profile = Profile(
        schema="naru-profile/1", naru="0", date="2026-01-01T00:00:00Z", shipped=False, quick=False,
        repeats=1, cores=None,
        machine=Machine(
            cpu="none", cores=os.cpu_count() or 1, virtual=False, kernel=os.uname().release,
            architecture="none", python="3",
        ),
        load=Load(busy_before=0, stolen_before=0, busy_during=0, stolen_during=0), notes=(),
        cells=cells,
    )  # fmt: skip
    path = profile_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_json(profile))
    return path


def _spread(value: float) -> Spread:
    return Spread(median=value, least=value, most=value)


def _trip(us: float) -> Trip:
    return Trip(p50_us=_spread(us), p99_us=_spread(us), trips=100)


def _rate(per_s: float) -> Rate:
    return Rate(per_s=_spread(per_s), messages=100, lost_share=0)
