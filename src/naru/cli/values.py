"""What the options of commands may be; a wrong one is a usage error that shows a right one.

Must not know: commands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import click

from naru.sizes import parse_size

__all__ = ["CORES", "SECONDS", "SIZE", "SIZES", "listed"]

Callback = Callable[[click.Context, click.Parameter, Sequence[str]], list[Any]]


class _Seconds(click.ParamType):  # type: ignore[type-arg]
    name = "seconds"

    def convert(self, value: Any, param: Any, context: Any) -> float:
        if isinstance(value, float):
            return value
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= 1e9:
            self.fail(f"{value!r} is no number of seconds such as 0.5", param, context)
        return seconds


class _Size(click.ParamType):  # type: ignore[type-arg]
    name = "size"

    def convert(self, value: Any, param: Any, context: Any) -> int:
        if isinstance(value, int):
            return value
        size_bytes = parse_size(value)
        if size_bytes is None:
            hint = "1 byte to 1 GiB, such as 1024, 64KiB (1024s) or 1MB (1000s)"
            self.fail(f"{value!r} is no size: {hint}", param, context)
        return size_bytes


class _Cores(click.ParamType):  # type: ignore[type-arg]
    name = "A,B"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        one, comma, other = value.partition(",")
        if not (comma and one.isdecimal() and other.isdecimal()):
            self.fail(f"{value!r} is no pair of CPUs such as 0,1", param, context)
        return int(one), int(other)


SECONDS, SIZE, CORES = _Seconds(), _Size(), _Cores()


def listed(*known: str) -> Callback:
    """For an option that may come several times, each time with values between commas."""

    def split(context: click.Context, option: click.Parameter, texts: Sequence[str]) -> list[str]:
        values = [value.strip() for text in texts for value in text.split(",")]
        for value in values:
            if known and value not in known:
                shown = ", ".join(known)
                raise click.BadParameter(f"{value!r} is none of {shown}", context, option)
        return list(dict.fromkeys(values))

    return split


def _sizes(context: click.Context, option: click.Parameter, texts: Sequence[str]) -> list[int]:
    found = listed()(context, option, texts)
    return list(dict.fromkeys(SIZE.convert(text, option, context) for text in found))


SIZES: Callback = _sizes
