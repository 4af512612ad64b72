"""naru.Cache: the cache with the verbs that wait, for threads and processes.

Holds: Cache. Must not know: asyncio (naru.aio.Cache is its twin). Joins: turns.py, verbs.py.
"""

from __future__ import annotations

from naru.cache.turns import WaitingVerbs
from naru.cache.verbs import CacheBase

__all__ = ["Cache"]


class Cache(WaitingVerbs, CacheBase):
    """Keys and values that all processes of this machine share.

    Made by create(), open() or open_or_create(). A mapping from str or bytes (a str is its UTF-8: "a" and
    b"a" are one key) to bytes, str, int, and what its codec packs. Its size is fixed: what was not used
    lately is evicted when room is wanted. Any thread may use it, and so may a forked child.
    """
