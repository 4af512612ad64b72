"""Functions and coroutine functions that remember, for all processes.

    key    b"naru.memo\\0" + module + "." + qualified name + b"\\0" + arguments
    arguments   msgpack of [args, kwargs], keys and sets sorted; above 256 bytes: its BLAKE2b, 32 bytes

So f(1) and f(x=1) are two entries, as with functools.lru_cache, and 1, 1.0 and True are three.

Holds: memoize, key_of_call. Must not know: files. Joins: Cache.memoize.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec

from naru.cache import awaiting, making
from naru.cache.making import Order
from naru.cache.store import Store

__all__ = ["key_of_call", "memoize"]

_PREFIX = b"naru.memo\0"
_MOST_BYTES = 256
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class _Remembering(Protocol):
    forget: Callable[..., bool]
    key: Callable[..., bytes]


def key_of_call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Raises: TypeError: an argument is nothing that msgpack knows."""
    try:
        packed = _encode([args, kwargs])
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"memoize: the arguments of {name}() make no key ({error}); give memoize a key=function"
        ) from error
    if len(packed) > _MOST_BYTES:
        packed = hashlib.blake2b(packed, digest_size=32).digest()
    return _PREFIX + name.encode() + b"\0" + packed


def memoize(
    cache: Store,
    function: Callable[..., Any],
    *,
    ttl_s: float | None,
    tags: Any,
    stale_s: float,
    timeout_s: float | None,
    key: Callable[..., str | bytes] | None,
) -> Callable[..., Any]:
    """As Cache.memoize()."""
    Order(cache, b"", ttl_s, tags, stale_s)  # refuses what is wrong now, not at the first call
    name = f"{function.__module__}.{function.__qualname__}"

    def key_for(*args: Any, **kwargs: Any) -> bytes:
        if key is None:
            return key_of_call(name, args, kwargs)
        own = key(*args, **kwargs)
        text = own.encode() if isinstance(own, str) else own
        return _PREFIX + name.encode() + b"\0" + text

    def order_for(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Order:
        return Order(cache, key_for(*args, **kwargs), ttl_s, tags, stale_s)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def remembering(*args: Any, **kwargs: Any) -> Any:
            make = functools.partial(function, *args, **kwargs)
            return await awaiting.get_or_set(order_for(args, kwargs), make, timeout_s)

    else:

        @functools.wraps(function)
        def remembering(*args: Any, **kwargs: Any) -> Any:
            make = functools.partial(function, *args, **kwargs)
            return making.get_or_set(order_for(args, kwargs), make, timeout_s)

    def forget(*args: Any, **kwargs: Any) -> bool:
        return cache.delete(key_for(*args, **kwargs))

    both = cast(_Remembering, remembering)
    both.forget, both.key = forget, key_for
    return remembering
