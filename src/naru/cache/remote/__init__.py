"""naru.cache.RemoteCache: the API of naru.Cache on a Redis or Valkey server, or a cluster of them.

    import naru.cache

    cache = naru.cache.open("redis://10.0.0.5:6379/0", prefix="shop:", near=True)
    cache.set("user:7", {"name": "Kim"}, ttl_s=300)

Map of the folder:

    reading      the verbs that read, in commands of Redis
    verbs        those that change something
    whole        clear, scan, len, statistics
    packing      values as they stand on the server
    tags         a token for each tag
    leases       turns and locks that end some time after their owners
    near         what was read, in shared memory, for all processes of this machine
    listening    what has changed on the servers, and since when that is known
    forking      what begins anew in a forked child
    link         redis-py: connections, repeating, errors
    addresses    URLs
    records      statistics
    unsupported  what cannot be there

Must not know: the table (but for near), asyncio (naru.aio.RemoteCache is the twin).
"""

from __future__ import annotations

from naru.cache.remote.records import RemoteStatistics
from naru.cache.remote.verbs import RemoteBase
from naru.cache.turns import WaitingVerbs

__all__ = ["RemoteCache", "RemoteStatistics"]


class RemoteCache(WaitingVerbs, RemoteBase):
    """Keys and values on a server that several machines share; verb by verb as naru.Cache.

    Made by naru.cache.open(url) or RemoteCache.open(url). Any thread may use it, and so may a forked
    child. What differs: docs/cache-remote.md.
    """
