"""Django's cache in shared memory.

    CACHES = {
        "default": {
            "BACKEND": "naru.cache.django.NaruCache",
            "LOCATION": "mysite",
            "OPTIONS": {"size_bytes": 256 << 20},
        }
    }

LOCATION is a name or a path; OPTIONS are those of Cache.open_or_create(). Values are pickled, as by
Django's own backends (OPTIONS={"codec": "msgpack"} does without); ints are counted in one step.

Holds: NaruCache. Must not know: tables. Joins: django.core.cache.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache  # type: ignore[import-untyped,import-not-found,unused-ignore]

from naru.cache.handles import shared_cache
from naru.errors import NaruError

__all__ = ["NaruCache"]

_NOT_CACHE_OPTIONS = frozenset({"MAX_ENTRIES", "CULL_FREQUENCY"})


class NaruCache(BaseCache):
    """django.core.cache.backends.base.BaseCache over naru.Cache."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = params.get("OPTIONS", {})
        own = {name: value for name, value in options.items() if name not in _NOT_CACHE_OPTIONS}
        self._location, self._options = location, {"codec": "pickle", **own}

    @property
    def _cache(self) -> Any:
        return shared_cache(self._location, **self._options)

    def _ttl_s(self, timeout: Any) -> float | None:
        """Seconds; None: never; 0 or less: it is gone already."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else float(timeout)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """As Django says."""
        return self._cache.get(self.make_and_validate_key(key, version=version), default)

    def set(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        """As Django says; a timeout of 0 stores nothing."""
        key = self.make_and_validate_key(key, version=version)
        ttl_s = self._ttl_s(timeout)
        if ttl_s is not None and ttl_s <= 0:
            self._cache.delete(key)
        else:
            self._cache.set(key, value, ttl_s)

    def add(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """As Django says."""
        key = self.make_and_validate_key(key, version=version)
        ttl_s = self._ttl_s(timeout)
        if ttl_s is not None and ttl_s <= 0:
            return key not in self._cache
        added: bool = self._cache.add(key, value, ttl_s)
        return added

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """As Django says."""
        key = self.make_and_validate_key(key, version=version)
        ttl_s = self._ttl_s(timeout)
        touched: bool = (
            self._cache.delete(key)
            if ttl_s is not None and ttl_s <= 0
            else self._cache.touch(key, ttl_s)
        )
        return touched

    def delete(self, key: Any, version: int | None = None) -> bool:
        """As Django says."""
        deleted: bool = self._cache.delete(self.make_and_validate_key(key, version=version))
        return deleted

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """As Django says."""
        return self.make_and_validate_key(key, version=version) in self._cache

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """As Django says; in one step for ints, and their time stays as it was."""
        made = self.make_and_validate_key(key, version=version)
        try:
            return self._cache.incr(made, delta, None)
        except KeyError:
            raise ValueError(f"Key '{key}' not found") from None
        except NaruError as error:
            if error.errno not in (errno.EDOM, errno.ERANGE):
                raise
        return super().incr(key, delta, version)  # a float, or an int beyond 64 bits

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """As Django says; in one call."""
        made = {self.make_and_validate_key(key, version=version): key for key in keys}
        return {made[key]: value for key, value in self._cache.get_many(made).items()}

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> list[Any]:
        """As Django says; none ever fails alone."""
        made = {self.make_and_validate_key(key, version=version): data[key] for key in data}
        ttl_s = self._ttl_s(timeout)
        if ttl_s is not None and ttl_s <= 0:
            self._cache.delete_many(made)
        else:
            self._cache.set_many(made, ttl_s)
        return []

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """As Django says."""
        self._cache.delete_many([self.make_and_validate_key(key, version=version) for key in keys])

    def clear(self) -> None:
        """Everything in this LOCATION, whatever its prefix."""
        self._cache.clear()

    def close(self, **kwargs: Any) -> None:
        """Django calls it after each request; the mapping stays for the next one."""
