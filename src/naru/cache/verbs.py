"""What naru.Cache and naru.aio.Cache have in common: everything that does not wait for a maker or a lock.

Holds: CacheBase. Must not know: asyncio, who makes a value. Joins: inherits the quick verbs of
naru._native.table.Table and mapping.py's over them; files.py and generations.py do the slow ones.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

from naru._native.table import Table
from naru._native.table_file import Mapping
from naru._native.tending import (
    Scan,
    await_claim,
    check_shard,
    claim,
    give_back,
    retire,
    settings_of,
    statistics_of,
)
from naru.cache import generations
from naru.cache.codecs import codec_of
from naru.cache.files import make_file, open_file, path_of, remove_file
from naru.cache.mapping import MappingVerbs
from naru.cache.records import CacheReport, CacheStatistics
from naru.cache.store import Key
from naru.errors import (
    BadAddressError,
    NameTakenError,
    NoSuchNameError,
    NotPermittedError,
    from_os_error,
)

__all__ = ["CacheBase"]

LOCK_TIMEOUT_S = 5.0
CHECK_TIMEOUT_S = 60.0


class CacheBase(MappingVerbs, Table):
    """See naru.Cache."""

    _path: Path
    _codec: str
    _options: dict[str, Any]
    _waits: dict[Any, Any]
    _is_far = False

    # ---- making and opening ----

    @classmethod
    def create(
        cls,
        name: str | os.PathLike[str],
        size_bytes: int,
        *,
        shards: int = 0,
        codec: str = "msgpack",
        mode: int = 0o600,
        entry_bytes: int = 128,
        lock_timeout_s: float | None = LOCK_TIMEOUT_S,
    ) -> Self:
        """Makes a cache that nobody has yet.

        Args:
            name: a name, for this user's processes on this machine, in memory; or a path (with a slash
                in it), where it survives a reboot if the file system does.
            size_bytes: of its file, all of it taken now; at least 1 MiB.
            shards: a power of two, at most 1024; 0: 16, or fewer in a small cache. Writers of one
                shard wait for each other; a value must fit into a shard.
            codec: "bytes", "msgpack", "numpy" or "pickle": how values are packed that are no bytes,
                str or int. pickle runs whatever stands in the cache: only where all writers are trusted.
            mode: of the file. Others who may write to it can put anything into it.
            entry_bytes: of a usual key with its value; sizes the index.
            lock_timeout_s: how long a writer waits for another one at most; None: for ever.

        Raises:
            NameTakenError: there is one.
            NoSpaceError: the file system or the memory cgroup has less.
            BadAddressError, NotPermittedError, ValueError.
        """
        path = path_of(name)
        codec_of(codec, path)
        settings = {
            "size_bytes": size_bytes, "shards": shards, "entry_bytes": entry_bytes, "small_percent": 0,
            "seed": b"", "codec": codec,
        }  # fmt: skip
        fill = partial(_fill, path, settings)
        options = {"codec": codec, "allow_uids": (), "lock_timeout_s": lock_timeout_s}
        return cls._made(path, make_file(path, mode, size_bytes, fill), options)

    @classmethod
    def open(
        cls,
        name: str | os.PathLike[str],
        *,
        codec: str | None = None,
        allow_uids: Iterable[int] = (),
        lock_timeout_s: float | None = LOCK_TIMEOUT_S,
    ) -> Self:
        """Opens a cache that is there.

        Args:
            name: as it was created.
            codec: None: its own, unless that is pickle, which has to be asked for.
            allow_uids: owners of the file who are trusted besides this user and root.
            lock_timeout_s: as create().

        Raises:
            NoSuchNameError: there is none.
            NotPermittedError: it is somebody else's, or its values are pickled.
            CorruptedError: it is no cache. ProtocolError: another version of naru made it.
            BadAddressError: it has another codec.
        """
        path = path_of(name)
        mapping = open_file(path, allow_uids)
        own = settings_of(mapping)["codec"]
        if codec is None and own == "pickle":
            raise NotPermittedError(
                f'cache.open "{path}": its values are pickled, and unpickling runs what stands in them; '
                'codec="pickle" if all who can write it are trusted',
                operation="cache.open",
                address=path,
            )
        if codec not in (None, own):
            raise BadAddressError(
                f'cache.open "{path}": its codec is {own}, not {codec}',
                operation="cache.open",
                address=path,
            )
        options = {"codec": own, "allow_uids": tuple(allow_uids), "lock_timeout_s": lock_timeout_s}
        return cls._made(path, mapping, options)

    @classmethod
    def open_or_create(
        cls,
        name: str | os.PathLike[str],
        size_bytes: int,
        *,
        shards: int = 0,
        codec: str = "msgpack",
        mode: int = 0o600,
        entry_bytes: int = 128,
        allow_uids: Iterable[int] = (),
        lock_timeout_s: float | None = LOCK_TIMEOUT_S,
    ) -> Self:
        """Opens it, or makes it: whichever of several processes comes first makes it for all.

        Args: as create() and open(); the size, shards and mode of one that is there stay as they are.
        """
        while True:
            try:
                return cls.open(
                    name, codec=codec, allow_uids=allow_uids, lock_timeout_s=lock_timeout_s
                )
            except NoSuchNameError:
                pass  # then it is made
            try:
                return cls.create(
                    name, size_bytes, shards=shards, codec=codec, mode=mode,
                    entry_bytes=entry_bytes, lock_timeout_s=lock_timeout_s,
                )  # fmt: skip
            except NameTakenError:
                pass  # by another process, in between: it is opened

    @classmethod
    def _made(cls, path: Path, mapping: Mapping, options: dict[str, Any]) -> Self:
        codec = codec_of(options["codec"], path)
        self = cls(
            mapping,
            address=path,
            lock_timeout_s=options["lock_timeout_s"],
            packer=codec.pack,
            unpacker=codec.unpack,
        )
        self._path, self._codec, self._options, self._waits = path, codec.name, options, {}
        return self

    def _open_successor(self) -> Mapping:
        return open_file(self._path, self._options["allow_uids"])

    # ---- a mapping ----

    def __len__(self) -> int:
        """Entries; also those that have expired and whose room was not taken back yet."""
        return int(statistics_of(self._mapping)["entries"])

    def scan(self, prefix: Key = b"") -> Iterator[bytes]:
        """The keys that begin with `prefix`, as bytes, in no order; without a lock.

        What is there all the time is given exactly once. What comes or goes meanwhile may be given.
        """
        return Scan(self._mapping, prefix.encode() if isinstance(prefix, str) else prefix)

    # ---- the whole of it ----

    def statistics(self) -> CacheStatistics:
        """Counters of all processes together, as one record; takes no lock."""
        mapping = self._mapping
        settings = settings_of(mapping)
        return CacheStatistics(
            size_bytes=settings["size_bytes"], shards=settings["shards"], **statistics_of(mapping)
        )

    def check(self, *, repair: bool = False) -> CacheReport:
        """Looks at every slot and record of every shard, each under its lock.

        Args:
            repair: put right what is wrong; else it is only counted.

        Raises: TimedOutError: a shard's lock could not be had within a minute.
        """
        mapping = self._mapping
        sums: dict[str, int] = {}
        for shard in range(settings_of(mapping)["shards"]):
            found = check_shard(mapping, shard, repair, CHECK_TIMEOUT_S, self.address)
            sums = {name: sums.get(name, 0) + value for name, value in found.items()}
        return CacheReport(**sums, repaired=repair)

    def snapshot(self, path: str | os.PathLike[str]) -> int:
        """Writes all entries into a file, which takes the name when it is whole and on the disk.

        Others go on meanwhile: the file holds each entry as it was at some moment of the writing.

        Returns: how many entries.

        Raises: NoSpaceError, NotPermittedError, NoSuchNameError: of the file.
        """
        return generations.write_snapshot(self._mapping, Path(path).absolute())

    def restore(self, path: str | os.PathLike[str]) -> int:
        """Replaces everything here by what is in a snapshot; all at once, or not at all.

        Of what has expired since then nothing comes back. The size stays as it is.

        Returns: how many entries are here now.

        Raises:
            CorruptedError: it is no snapshot, or was damaged; nothing has changed.
            ProtocolError: another version of naru wrote it.
            BadAddressError: it is of a cache with another codec.
            TimedOutError, NoSpaceError, NoSuchNameError.
        """
        try:
            with open(path, "rb") as file:
                self._restore(file, path)
        except OSError as exc:
            raise from_os_error(exc, "cache.restore", path) from exc
        return len(self)

    def _restore(self, file: Any, path: object) -> None:
        head, records = generations.read_snapshot(file, path)
        if head.codec != self._codec:
            raise BadAddressError(
                f'cache.restore "{path}": its codec is {head.codec}, not {self._codec}',
                operation="cache.restore",
                address=path,
            )
        settings = {**settings_of(self._mapping), "seed": head.seed}
        generations.restore(lambda: self._mapping, self._path, settings, records, CHECK_TIMEOUT_S)

    def resize(self, size_bytes: int) -> None:
        """Gives the cache another size: its entries go into a new file that takes the name.

        Readers go on; writers wait, for about a second a million entries. What does not fit is evicted.
        The counters begin at 0, versions change (a cas() fails), and locks by name are forgotten.

        Raises: NoSpaceError: there is no room for both; TimedOutError, ValueError.
        """
        timeout_s = self._options["lock_timeout_s"]
        while generations.resize(self._mapping, self._path, size_bytes, timeout_s) is None:
            pass  # another process resized it: on to that one

    def drop(self) -> None:
        """Removes the cache; the other processes that have it open get NoSuchNameError, or the next one
        of this name, at their next use of it."""
        mapping = self._mapping
        remove_file(self._path)
        retire(mapping, 1)
        self.close()

    def close(self) -> None:
        """Gives the mapping back; the cache stays. Idempotent."""
        self._close()

    # ---- claims ----

    def _claim(self, key: Key, number: int, ttl_s: float | None = None) -> bool:
        return claim(self, key, number, ttl_s)

    def _give_back(self, key: Key, number: int) -> bool:
        return give_back(self, key, number)

    def _await_claim(self, key: Key, most_s: float) -> None:
        await_claim(self, key, most_s)

    async def _off_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)  # microseconds: a thread would take longer

    # ---- what it is ----

    @property
    def path(self) -> Path:
        """Its file."""
        return self._path

    @property
    def codec(self) -> str:
        """How values are packed that are no bytes, str or int."""
        return self._codec

    def __repr__(self) -> str:
        state = " closed" if self.closed else f" {self._codec}"
        return f"<{type(self).__name__} {str(self._path)!r}{state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.closed:
            raise TypeError(f"{self!r} cannot be pickled")
        return _reopen, (type(self), self._path, self._options)

    def __del__(self) -> None:
        if not self.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
            self._close()


def _reopen(kind: type[CacheBase], path: Path, options: dict[str, Any]) -> CacheBase:
    return kind.open(path, **options)


def _fill(path: Path, settings: dict[str, Any], fd: int) -> Mapping:
    return generations.fill_new(path, settings, (), fd)
