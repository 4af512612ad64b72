"""Ways to keep keys and values, as quick as each of them has it: what benchmarks/cache.py compares.

Holds: the contenders. Must not know: what is measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import naru
import peer_servers

VALUE = b"v" * 100
FULL_BYTES = 64 << 20


class Contender:
    """One way to keep keys and values; a missing package is an ImportError of the constructor."""

    name = ""
    shared = True
    divisor = 1  # a slow one is asked for fewer operations

    def __init__(self, place: str, size_bytes: int) -> None:
        self.place, self.size_bytes = place, size_bytes

    def verbs(self) -> tuple[Callable[[bytes], Any], Callable[[bytes, bytes], Any]]:
        """get and set, as quick as this contender has them."""
        raise NotImplementedError

    def get_many(self) -> Callable[[list[bytes]], Any] | None:
        """None: it has no such verb."""
        return None

    def entry_bytes(self) -> float | None:
        """Of memory, for a key of 16 and a value of 100 bytes."""
        return None

    def close(self) -> None:
        """Lets go of it; the file stays for others."""


class Dict(Contender):
    """The floor: nothing is shared."""

    name, shared = "dict", False

    def verbs(self) -> Any:
        self.items: dict[bytes, bytes] = {}
        return self.items.get, self.items.__setitem__

    def get_many(self) -> Any:
        get = self.items.get
        return lambda keys: [get(key) for key in keys]


class Naru(Contender):
    """naru.Cache with bytes."""

    name = "naru"

    def __init__(self, place: str, size_bytes: int) -> None:
        super().__init__(place, size_bytes)
        self.cache = naru.Cache.open_or_create(f"{place}/naru", size_bytes, codec="bytes")

    def verbs(self) -> Any:
        return self.cache.get, self.cache.set

    def get_many(self) -> Any:
        return self.cache.get_many

    def entry_bytes(self) -> float | None:
        """File bytes for each entry, in a file that is full."""
        with naru.Cache.create(f"{self.place}/full", FULL_BYTES, codec="bytes") as cache:
            for number in range(FULL_BYTES // 80):  # more than it holds
                cache.set(b"%016d" % number, VALUE)
            kept = len(cache)
            cache.drop()
        return FULL_BYTES / kept

    def close(self) -> None:
        self.cache.close()


class Lmdb(Contender):
    """One transaction a call, as workers of a server would; without fsync, as a cache would."""

    name = "lmdb"

    def __init__(self, place: str, size_bytes: int) -> None:
        super().__init__(place, size_bytes)
        import lmdb

        self.environment = lmdb.open(
            f"{place}/lmdb", map_size=size_bytes * 4, sync=False, metasync=False, writemap=True
        )

    def verbs(self) -> Any:
        begin = self.environment.begin

        def get(key: bytes) -> Any:
            with begin() as transaction:
                return transaction.get(key)

        def put(key: bytes, value: bytes) -> None:
            with begin(write=True) as transaction:
                transaction.put(key, value)

        return get, put

    def get_many(self) -> Any:
        begin = self.environment.begin

        def get_many(keys: list[bytes]) -> Any:
            with begin() as transaction:
                return transaction.cursor().getmulti(sorted(keys))

        return get_many

    def entry_bytes(self) -> float | None:
        status = self.environment.stat()
        pages = status["branch_pages"] + status["leaf_pages"] + status["overflow_pages"]
        return float(pages * status["psize"] / max(1, status["entries"]))

    def close(self) -> None:
        self.environment.close()


class Diskcache(Contender):
    """SQLite below."""

    name, divisor = "diskcache", 50

    def __init__(self, place: str, size_bytes: int) -> None:
        super().__init__(place, size_bytes)
        import diskcache

        self.cache = diskcache.Cache(f"{place}/diskcache", size_limit=size_bytes * 4)

    def verbs(self) -> Any:
        return self.cache.get, self.cache.set

    def close(self) -> None:
        self.cache.close()


class UltraDict(Contender):
    """A dict in each process, kept the same by a stream of changes."""

    name, divisor = "ultradict", 20

    def __init__(self, place: str, size_bytes: int) -> None:
        super().__init__(place, size_bytes)
        import UltraDict2

        name = f"bench{abs(hash(place)) % 10**8}"
        self.items = UltraDict2.UltraDict(
            name=name, buffer_size=8 << 20, full_dump_size=size_bytes, auto_unlink=True
        )

    def verbs(self) -> Any:
        return self.items.get, self.items.__setitem__

    def close(self) -> None:
        self.items.close()


class RedisPy(Contender):
    """redis-py on a Unix socket; the server is this benchmark's own."""

    name, divisor = "redis", 50
    program = "redis-server"

    def __init__(self, place: str, size_bytes: int) -> None:
        super().__init__(place, size_bytes)
        import redis

        self.path = Path(place, f"{self.name}.sock")
        self.running = contextlib.ExitStack()
        if not self.path.exists():
            program = peer_servers.program(self.program)
            if program is None:
                raise ImportError(f"no {self.program}")
            self.running.enter_context(peer_servers.running(program, self.path, size_bytes * 4))
        self.client = redis.Redis(unix_socket_path=str(self.path))

    def verbs(self) -> Any:
        return self.client.get, self.client.set

    def get_many(self) -> Any:
        return self.client.mget

    def entry_bytes(self) -> float | None:
        info: Any = self.client.info("memory")
        used_bytes = info["used_memory"] - info["used_memory_startup"]
        return float(used_bytes / max(1, self.client.dbsize()))

    def close(self) -> None:
        self.client.close()
        self.running.close()


class Valkey(RedisPy):
    """redis-py, too: the server differs."""

    name, program = "valkey", "valkey-server"


CONTENDERS: tuple[type[Contender], ...] = (
    Dict, Naru, Lmdb, Diskcache, UltraDict, RedisPy, Valkey,
)  # fmt: skip
