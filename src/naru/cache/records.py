"""What a cache tells of itself: frozen records of plain numbers. Must not know: tables."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["CacheReport", "CacheStatistics"]


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Numbers of a cache since it was made, of all processes together.

    Hits and misses of other processes come in now and then, and when they close.
    """

    size_bytes: int
    """Of the file."""
    shards: int
    entries: int
    """With those that have expired and whose room was not taken back yet."""
    live_bytes: int
    """Of the logs: records that are still in use."""
    log_bytes: int
    """What the logs have room for."""
    index_slots: int
    hits: int
    misses: int
    sets: int
    deletes: int
    evicted: int
    """Forgotten because room was wanted, and not expired."""
    expired: int
    """Whose room was taken back after they expired."""
    ghosts_returned: int
    """Set again soon after they were evicted: many of them say that the cache is too small."""
    moved_to_main: int
    index_evicted: int
    """Evicted because the index was full, not the logs: entry_bytes was too high for these entries."""
    retries: int
    """Reads that a writer came across, and that began anew."""
    lock_waits: int
    lock_timeouts: int
    owners_died: int
    """Locks that were taken over from a dead process."""
    rebuilt: int
    """Shards that had to be emptied, because they contradicted themselves."""
    last_recovery_ns: int

    @property
    def hit_ratio(self) -> float:
        """Hits of all reads, 0 to 1; 0 before the first."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else 0.0

    def as_dict(self) -> dict[str, int | float]:
        """For JSON."""
        return {one.name: getattr(self, one.name) for one in fields(self)} | {
            "hit_ratio": round(self.hit_ratio, 6)
        }


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What check() found in all shards."""

    entries: int
    records: int
    dead_records: int
    """Overwritten or deleted, and not yet taken back: no fault."""
    damaged_slots: int
    """Index slots that pointed to nothing of theirs."""
    wrong_sums: int
    """Counters that did not agree with what is there."""
    repaired: bool
    """Whether it was asked for."""

    @property
    def sound(self) -> bool:
        """Nothing was wrong."""
        return self.damaged_slots == 0 and self.wrong_sums == 0
