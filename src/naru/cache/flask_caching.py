"""Flask-Caching in shared memory.

    Cache(app, config={
        "CACHE_TYPE": "naru.cache.flask_caching.NaruCache",
        "CACHE_NARU_NAME": "mysite",
        "CACHE_NARU_OPTIONS": {"size_bytes": 256 << 20},
    })

Values are pickled, as by Flask-Caching's own backends; CACHE_NARU_OPTIONS={"codec": "msgpack"} does
without.

Holds: NaruCache. Must not know: tables. Joins: flask_caching.
"""

from __future__ import annotations

import datetime
from typing import Any

from flask_caching.backends.base import BaseCache  # type: ignore[import-untyped,import-not-found,unused-ignore]

from naru.cache.handles import shared_cache

__all__ = ["NaruCache"]

_ABSENT = object()


class NaruCache(BaseCache):
    """flask_caching.backends.base.BaseCache over naru.Cache."""

    def __init__(
        self,
        name: str,
        default_timeout: int = 300,
        key_prefix: str = "",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(default_timeout=default_timeout)
        self.key_prefix = key_prefix or ""
        self._name, self._options = name, {"codec": "pickle", **(options or {})}

    @classmethod
    def factory(
        cls, app: Any, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]
    ) -> NaruCache:
        """Called by Flask-Caching with the application's configuration."""
        return cls(
            config.get("CACHE_NARU_NAME", app.name),
            default_timeout=kwargs.get("default_timeout", config.get("CACHE_DEFAULT_TIMEOUT", 300)),
            key_prefix=config.get("CACHE_KEY_PREFIX", ""),
            options=config.get("CACHE_NARU_OPTIONS"),
        )

    @property
    def _cache(self) -> Any:
        return shared_cache(self._name, **self._options)

    def _key(self, key: str) -> str:
        return self.key_prefix + key

    def _ttl_s(self, timeout: int | datetime.timedelta | None) -> float | None:
        """None: never, which is 0 here."""
        asked: Any = self.default_timeout if timeout is None else timeout
        seconds = asked.total_seconds() if isinstance(asked, datetime.timedelta) else float(asked)
        return seconds if seconds > 0 else None

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self._cache.get(self._key(key))

    def get_many(self, *keys: str) -> list[Any]:
        """A value or None for each."""
        found = self._cache.get_many([self._key(key) for key in keys])
        return [found.get(self._key(key)) for key in keys]

    def set(
        self, key: str, value: Any, timeout: int | datetime.timedelta | None = None
    ) -> bool | None:
        """True."""
        self._cache.set(self._key(key), value, self._ttl_s(timeout))
        return True

    def set_many(
        self, mapping: dict[str, Any], timeout: int | datetime.timedelta | None = None
    ) -> list[Any]:
        """The keys."""
        made = {self._key(key): value for key, value in mapping.items()}
        self._cache.set_many(made, self._ttl_s(timeout))
        return list(mapping)

    def add(self, key: str, value: Any, timeout: int | datetime.timedelta | None = None) -> bool:
        """Whether there was none."""
        added: bool = self._cache.add(self._key(key), value, self._ttl_s(timeout))
        return added

    def delete(self, key: str) -> bool:
        """Whether it was there."""
        deleted: bool = self._cache.delete(self._key(key))
        return deleted

    def has(self, key: str) -> bool:
        """Whether it is there."""
        return self._key(key) in self._cache

    def clear(self) -> bool:
        """Everything with this prefix; everything at once without one."""
        if not self.key_prefix:
            self._cache.clear()
        else:
            self._cache.delete_many(self._cache.scan(self.key_prefix))
        return True

    def inc(self, key: str, delta: int = 1) -> int | None:
        """The sum; what is not there begins at 0."""
        total: int = self._cache.incr(self._key(key), delta, 0, self._ttl_s(None))
        return total

    def dec(self, key: str, delta: int = 1) -> int | None:
        """As inc(), downwards."""
        return self.inc(key, -delta)
