"""What a cache of this machine can, and one on a server cannot: each says why.

Holds: Unsupported. Must not know: servers. Joins: RemoteBase inherits it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NoReturn

from naru.errors import UnsupportedError

__all__ = ["Unsupported"]


class Unsupported(ABC):
    """Verbs of naru.Cache that would have to reach into the server's memory."""

    @property
    @abstractmethod
    def address(self) -> Any:
        """The URL, without the password."""

    def _cannot(self, verb: str, why: str) -> NoReturn:
        raise UnsupportedError(
            f'cache.{verb} "{self.address}": a cache on a server cannot: {why}',
            operation=f"cache.{verb}",
            address=self.address,
        )

    def check(self, *, repair: bool = False) -> NoReturn:
        """Raises: UnsupportedError."""
        self._cannot("check", "the server looks after its own memory (MEMORY DOCTOR)")

    def snapshot(self, path: object) -> NoReturn:
        """Raises: UnsupportedError."""
        self._cannot("snapshot", "the server saves itself (BGSAVE, appendonly)")

    def restore(self, path: object) -> NoReturn:
        """Raises: UnsupportedError."""
        self._cannot("restore", "the server loads its own file when it starts")

    def resize(self, size_bytes: int) -> NoReturn:
        """Raises: UnsupportedError."""
        self._cannot("resize", "its room is the server's (CONFIG SET maxmemory)")

    def drop(self) -> NoReturn:
        """Raises: UnsupportedError."""
        self._cannot("drop", "the database is the server's; clear() empties it")

    @property
    def path(self) -> NoReturn:
        """Raises: UnsupportedError."""
        self._cannot("path", "it is no file")
