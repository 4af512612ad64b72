"""naru.Cache: keys and values in shared memory, for all processes of a machine.

    import naru

    cache = naru.Cache.open_or_create("sessions", 256 << 20)
    cache.set("user:7", {"name": "Kim"}, ttl_s=300)
    cache.get("user:7")

Map of the folder:

    opening      open(): a cache of this machine, or one on a server
    cache        Cache: a cache of this machine
    verbs        making, opening, the whole of it
    store        what the following ask of a cache, wherever it is
    mapping      the verbs of a mapping
    turns        the verbs that wait
    making       one maker for a value, the others wait
    locks        locks by name
    awaiting     both for asyncio (naru.aio.Cache)
    memoizing    functions that remember
    codecs       how values are packed
    files        names, files, owners; room: is there memory for it
    generations  resize, snapshot, restore; snapshots: the format
    records      statistics
    remote       RemoteCache: on a Redis or Valkey server or cluster
    serving      server processes that speak Redis' protocol over a cache
    django, flask_caching, aiocache    backends of these frameworks

The quick verbs are C: naru._native.table_reading and table. Must not know: transports, channels.
"""

from __future__ import annotations

from naru.cache.cache import Cache
from naru.cache.locks import Lock
from naru.cache.opening import open
from naru.cache.records import CacheReport, CacheStatistics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from naru.cache.remote import RemoteCache, RemoteStatistics

__all__ = [
    "Cache",
    "CacheReport",
    "CacheStatistics",
    "Lock",
    "RemoteCache",
    "RemoteStatistics",
    "open",
]

_LATE = ("RemoteCache", "RemoteStatistics")

if not TYPE_CHECKING:  # a type checker that saw this would accept every misspelt name

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from naru.cache import remote

        return getattr(remote, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATE})
