"""What a cache server is to do: its settings, and when a process that died is started again. Pure.

Must not know: processes, sockets. Joins: server.py asks, process.py gets the settings as JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["LONGEST_PAUSE_S", "ProcessPlan", "ServerSettings", "pause_before_restart_s"]

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
SETTLED_S = 2.0
"""Whoever lived longer is started again at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Limits of a cache server, each for one process unless it says otherwise."""

    clients_most: int = 10_000
    """Of all processes together; one more is told "max number of clients reached"."""
    output_limit_bytes: int = 256 << 20
    """A client whose unread replies and messages would be more is cut off."""
    high_water_bytes: int = 32 << 20
    """With so many unread, nothing more is read from a client until it takes some."""
    stall_timeout_s: float = 30.0
    """A client that takes nothing of what waits for it for so long is cut off."""
    idle_timeout_s: float | None = None
    """A client that sends nothing for so long is cut off; None: never, as Redis."""
    value_bytes_most: int = 0
    """Of one argument; 0: what a shard can hold, at least 1 MiB."""
    lock_wait_s: float = 2.0
    """How long a client's write waits when a stopped process holds the lock of a shard; others are
    served meanwhile."""

    def __post_init__(self) -> None:
        if not 0 < self.clients_most < 1 << 20:
            raise ValueError(f"clients_most={self.clients_most}: 1 to {(1 << 20) - 1}")
        if not 0 < self.high_water_bytes <= self.output_limit_bytes < 1 << 32:
            raise ValueError(
                f"high_water_bytes={self.high_water_bytes} and "
                f"output_limit_bytes={self.output_limit_bytes}: the first is not above the second, "
                "and both are below 4 GiB"
            )
        for name in ("stall_timeout_s", "lock_wait_s"):
            if not 0 < getattr(self, name) <= 1e6:
                raise ValueError(f"{name}={getattr(self, name)}: a number of seconds above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlan:
    """All that one server process is told by its parent; descriptors are inherited ones."""

    cache: str
    path: str
    parent: int
    process: int
    processes: int
    listeners: list[int]
    page: int
    inbox: int
    outboxes: list[int]
    ready: int | None
    password: str | None = None
    port: int = 0
    cluster_host: str | None = None
    cluster_ports: list[int] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def pause_before_restart_s(lived_s: float, previous_pause_s: float) -> float:
    """How long to wait before a process that has ended is started again.

    Args:
        lived_s: since it was ready; previous_pause_s: before it was started.

    Returns: 0 for one that had settled, else twice as long as before, at most LONGEST_PAUSE_S.
    """
    if lived_s >= SETTLED_S:
        return 0.0
    return min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, previous_pause_s * 2))
