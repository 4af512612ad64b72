"""A cache for everybody who speaks Redis' protocol: server processes over the shared table.

    from naru.cache.serving import CacheServer

    with CacheServer("sessions", bind=["tcp://127.0.0.1:6379"], processes=2) as server:
        server.run()

Map of the folder:

    server      CacheServer, the parent: listeners, processes, replacing a killed one, draining
    process     what one server process does
    plan        settings; when a process that died is started again   (pure)
    places      the file of a cache

The protocol itself is C: native/cache. Must not know: what the commands do.
"""

from __future__ import annotations

from naru.cache.serving.plan import ServerSettings
from naru.cache.serving.server import CacheServer

__all__ = ["CacheServer", "ServerSettings"]
