"""What a cache on a server tells of itself: frozen records of plain numbers. Must not know: servers."""

from __future__ import annotations

from dataclasses import dataclass, fields

from naru.cache.records import CacheStatistics

__all__ = ["RemoteStatistics"]


@dataclass(frozen=True, slots=True)
class RemoteStatistics:
    """Numbers of the server (of all masters of a cluster), then those of this very handle."""

    servers: int
    """Masters that answered; 1 unless it is a cluster."""
    version: str
    """Of the server, as it says itself."""
    entries: int
    """Keys of the database, also those of others, of tags and of locks."""
    used_bytes: int
    """Of the server's memory."""
    most_bytes: int
    """Of its memory (maxmemory); 0: it has no limit, and evicts nothing."""
    hits: int
    """Of all clients, since the server was started."""
    misses: int
    evicted: int
    expired: int
    reads: int
    """Keys that this handle was asked for."""
    near_hits: int
    """Of them, those that the near cache had: no message went to the server."""
    near_misses: int
    """Those that it did not have, or that were too old for this process to trust."""
    near_unheard: int
    """Those for which it was not asked, because invalidations could not come in."""
    invalidations: int
    """Keys that the server said have changed."""
    connections_lost: int
    """Of those over which the server says that."""
    repeated: int
    """Calls that were made again after an error of the connection."""
    near: CacheStatistics | None
    """Of the near cache's table, of all processes of this machine; None: there is none."""

    @property
    def hit_ratio(self) -> float:
        """The server's hits of all reads, 0 to 1; 0 before the first."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else 0.0

    @property
    def near_ratio(self) -> float:
        """How many of this handle's reads the near cache answered, 0 to 1."""
        return self.near_hits / self.reads if self.reads else 0.0

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        numbers = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "near"}
        near = None if self.near is None else self.near.as_dict()
        return numbers | {"hit_ratio": round(self.hit_ratio, 6), "near": near}
