"""Made-up profiles for the tests of choosing, tables and charts."""

from __future__ import annotations

from collections.abc import Mapping

from naru.choosing.profile import SCHEMA, Cell, Load, Machine, Profile, Rate, Spread, Trip
from naru.transports.contract import Capabilities

Figures = Mapping[tuple[str, int, bool, str], tuple[float | None, float | None]]
"""(us there and back, messages a second) of (transport, bytes, batch, wait)."""


def capability(transport: str, **changes: object) -> Capabilities:
    fields: dict[str, object] = {
        "transport": transport, "mechanism": transport, "channel": True, "pair": True,
        "many_senders": True, "order": True, "reliable": True, "back_pressure": True,
        "descriptors": False, "priority": False, "in_place": False, "peer_credentials": False,
        "peer_death": "at once", "crosses_machines": False, "max_message_bytes": lambda: 1 << 30,
    }  # fmt: skip
    return Capabilities(**{**fields, **changes})  # type: ignore[arg-type]


def spread(value: float, by: float = 1.0) -> Spread:
    return Spread(median=value, least=value / by, most=value * by)


def cell(
    transport: str, size_bytes: int, batch: bool, wait: str, us: float | None, per_s: float | None
) -> Cell:
    trip = us and Trip(p50_us=spread(us, 1.1), p99_us=spread(us * 3), trips=1000)
    rate = per_s and Rate(per_s=spread(per_s, 1.2), messages=1000, lost_share=0.0)
    return Cell(
        transport=transport, size_bytes=size_bytes, batch=batch, wait=wait,  # type: ignore[arg-type]
        trip=trip or None, rate=rate or None,
    )  # fmt: skip


def profile(cells: list[Cell], **changes: object) -> Profile:
    fields: dict[str, object] = {
        "schema": SCHEMA, "naru": "0.1.0", "date": "2026-11-23T10:00:00+00:00", "shipped": False,
        "quick": False, "repeats": 3, "cores": (0, 1),
        "machine": Machine(
            cpu="Test CPU", cores=2, virtual=True, kernel="6.1", architecture="x86_64",
            python="3.11.7",
        ),
        "load": Load(busy_before=0, stolen_before=0, busy_during=0, stolen_during=0), "notes": (),
        "cells": tuple(cells),
    }  # fmt: skip
    return Profile(**{**fields, **changes})  # type: ignore[arg-type]


def profile_of(figures: Figures) -> Profile:
    return profile([cell(*key, *value) for key, value in figures.items()])


def whole_profile() -> Profile:
    """All transports, plausible figures, with mq and udp for small messages only."""
    names = ("shm", "pipe", "unix", "fifo", "mq", "tcp", "udp")
    figures: dict[tuple[str, int, bool, str], tuple[float | None, float | None]] = {}
    for place, name in enumerate(names):
        for size_bytes in (64, 1024, 65536, 1 << 20):
            if name in ("mq", "udp") and size_bytes > 1024:
                continue
            for batch in (False, True):
                for wait, slower in (("adaptive", 1.0), ("sleep", 40.0)):
                    us = (1 + place) * slower * (1 + size_bytes / 4096) * (8 if batch else 1)
                    per_s = 5e6 / (1 + place) / (1 + size_bytes / 2048) * (2 if batch else 1)
                    figures[name, size_bytes, batch, wait] = (us, per_s)
    return profile_of(figures)
