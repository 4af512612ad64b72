"""One door to both kinds of cache: of this machine, and of a server.

Holds: open, is_remote. Must not know: tables, redis-py. Joins: naru.Cache, naru.cache.RemoteCache.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from naru.cache.cache import Cache

if TYPE_CHECKING:
    from naru.cache.remote import RemoteCache

__all__ = ["is_remote", "open"]


def is_remote(name: object) -> bool:
    """Whether this names a server, and no cache of this machine."""
    return isinstance(name, str) and "://" in name


def open(name: str | os.PathLike[str], **options: Any) -> Cache | RemoteCache:
    """Opens a cache that is there.

    Args:
        name: redis://, rediss://, redis+unix://, redis+cluster:// (and valkey:// ...): one on a server;
            anything without "://": as Cache.open().
        options: of RemoteCache.open(), or of Cache.open().

    Raises: as these.
    """
    if not is_remote(name):
        return Cache.open(name, **options)
    from naru.cache.remote import RemoteCache  # 15 ms that caches of this machine do without

    return RemoteCache.open(str(name), **options)
