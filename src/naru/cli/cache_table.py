"""The statistics of a cache as text. Must not know: click, where they come from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from naru.cache.records import CacheStatistics
from naru.sizes import show_size

if TYPE_CHECKING:
    from naru.cache.remote.records import RemoteStatistics

__all__ = ["rates_between", "show_record", "show_statistics", "watch"]


def show_statistics(record: CacheStatistics) -> str:
    """A line for each number."""
    shown = {
        "size": f"{show_size(record.size_bytes)} in {record.shards} shards",
        "entries": f"{record.entries:,}",
        "live bytes": f"{record.live_bytes:,} of {record.log_bytes:,}"
        f" ({record.live_bytes / max(1, record.log_bytes):.1%})",
        "index slots": f"{record.index_slots:,}",
        "hits": f"{record.hits:,}",
        "misses": f"{record.misses:,}",
        "hit ratio": f"{record.hit_ratio:.2%}",
        "sets": f"{record.sets:,}",
        "deletes": f"{record.deletes:,}",
        "evicted": f"{record.evicted:,} ({record.index_evicted:,} for the index)",
        "expired": f"{record.expired:,}",
        "ghosts returned": f"{record.ghosts_returned:,}",
        "moved to main": f"{record.moved_to_main:,}",
        "read again": f"{record.retries:,}",
        "lock waits": f"{record.lock_waits:,} ({record.lock_timeouts:,} timed out)",
        "dead owners": f"{record.owners_died:,}",
        "rebuilt shards": f"{record.rebuilt:,}",
        "last recovery": f"{record.last_recovery_ns / 1e6:.3f} ms",
    }
    return "\n".join(f"{name:16} {value}" for name, value in shown.items())


def show_record(record: CacheStatistics | RemoteStatistics) -> str:
    """A line for each number, of whichever kind of cache."""
    if isinstance(record, CacheStatistics):
        return show_statistics(record)
    shown = {
        "servers": f"{record.servers} ({record.version})",
        "entries": f"{record.entries:,}",
        "memory": show_size(record.used_bytes)
        + (f" of {show_size(record.most_bytes)}" if record.most_bytes else ""),
        "hits": f"{record.hits:,}",
        "misses": f"{record.misses:,}",
        "hit ratio": f"{record.hit_ratio:.2%}",
        "evicted": f"{record.evicted:,}",
        "expired": f"{record.expired:,}",
    }
    return "\n".join(f"{name:16} {value}" for name, value in shown.items())


_HEAD = (
    f"{'gets/s':>10} {'hits':>7} {'sets/s':>10} {'deletes/s':>10} {'evicted/s':>10} {'entries':>12}"
)


def rates_between(old: CacheStatistics, new: CacheStatistics, seconds: float) -> str:
    """What happened a second, between two looks; a cache that was resized begins at 0 again."""

    def rate(name: str) -> float:
        count: int = getattr(new, name) - getattr(old, name)
        return max(0, count) / seconds

    hits, misses = rate("hits"), rate("misses")
    share = f"{hits / (hits + misses):.1%}" if hits + misses else "-"
    return (
        f"{hits + misses:10,.0f} {share:>7} {rate('sets'):10,.0f} {rate('deletes'):10,.0f} "
        f"{rate('evicted'):10,.0f} {new.entries:12,}"
    )


def watch(look: Callable[[], CacheStatistics], every_s: float, most: int | None) -> Iterator[str]:
    """Lines for a terminal or a file: a head, then one each `every_s`."""
    yield _HEAD
    old, then = look(), time.monotonic()
    number = 0
    while most is None or number < most:
        time.sleep(every_s)
        new, now = look(), time.monotonic()
        yield rates_between(old, new, now - then)
        old, then = new, now
        number += 1
