"""One handle a process for each cache that a framework names in its settings.

Frameworks make a backend object for each thread, or each request; the mapping is shared by all of them.

Holds: shared_cache. Must not know: frameworks. Joins: the backends beside it.
"""

from __future__ import annotations

import atexit
import os
from functools import cache
from typing import Any

from naru.cache.cache import Cache

__all__ = ["DEFAULT_SIZE_BYTES", "shared_cache"]

DEFAULT_SIZE_BYTES = 64 << 20


@cache
def _opened(name: str, options: tuple[tuple[str, Any], ...]) -> Cache:
    cache = Cache.open_or_create(name, **dict(options))
    atexit.register(cache.close)
    return cache


def shared_cache(name: str | os.PathLike[str], **options: Any) -> Cache:
    """The cache of that name, opened once in this process (a forked child goes on with it).

    Args: as Cache.open_or_create(); size_bytes is 64 MiB unless given. It closes at exit.
    """
    options.setdefault("size_bytes", DEFAULT_SIZE_BYTES)
    text = name if isinstance(name, str) else os.fspath(name)
    cache = _opened(text, tuple(sorted(options.items())))
    if cache.closed:  # somebody closed or dropped it
        _opened.cache_clear()
        cache = _opened(text, tuple(sorted(options.items())))
    return cache
