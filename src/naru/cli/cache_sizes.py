"""Sizes of caches as people write them: as naru.sizes, and larger ones. Must not know: commands."""

from __future__ import annotations

import re
from typing import Any

import click

__all__ = ["CACHE_SIZE"]

_SIZE = re.compile(r"([0-9]{1,15})\s*(?:(K|M|G|T)(i?)B?)?", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


class _CacheSize(click.ParamType):  # type: ignore[type-arg]
    name = "size"

    def convert(self, value: Any, param: Any, context: Any) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is no size such as 268435456, 256MiB or 2GiB", param, context)
        scale = 1024 if match[3] else 1000
        return int(match[1]) * int(scale ** _POWERS.get((match[2] or "").lower(), 0))


CACHE_SIZE = _CacheSize()
