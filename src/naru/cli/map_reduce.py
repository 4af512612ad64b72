"""`naru map-reduce`: a Python function over a huge file. Must not know: processes."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from naru.cli.progress import BytesMeter
from naru.cli.streams import write_output
from naru.cli.values import SIZE
from naru.files.mapping import map_reduce
from naru.files.windows import WINDOW_BYTES

__all__ = ["command"]

_BOUNDARIES = {"newline": b"\n", "nul": b"\0", "crlf": b"\r\n", "none": None}


@click.command("map-reduce", short_help="A Python function over a huge file, in several processes.")
@click.argument("file")
@click.option(
    "--python",
    "function_name",
    required=True,
    metavar="MODULE:FUNCTION",
    help="Called with each naru.files.Window; modules are looked for here, too.",
)
@click.option(
    "--reduce",
    "reduce_name",
    default="operator:add",
    show_default=True,
    metavar="MODULE:FUNCTION",
    help="Called with the total and what the function gave.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Default: as many as this process has CPUs.",
)
@click.option(
    "--size", "size_bytes", type=SIZE, default=WINDOW_BYTES, metavar="SIZE",
    help="Of a window, at most. Default: 1MiB.",
)  # fmt: skip
@click.option(
    "--boundary",
    type=click.Choice(list(_BOUNDARIES)),
    default="newline",
    show_default=True,
    help="What ends a record; none: windows are cut anywhere.",
)
@click.option("--unordered", is_flag=True, help="Reduce as results come, not in the file's order.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def command(
    file: str,
    function_name: str,
    reduce_name: str,
    processes: int | None,
    size_bytes: int,
    boundary: str,
    unordered: bool,
    quiet: bool,
) -> None:
    """Calls a function on every window of FILE and prints what the results come to.

    \b
        naru map-reduce --python words:count huge.txt
        # words.py:  def count(window): return collections.Counter(bytes(window).split())
    """
    sys.path.insert(0, os.getcwd())  # as `python -m` does; a console script has its own folder
    function = _function_of("--python", function_name)
    reduce = _function_of("--reduce", reduce_name)
    with BytesMeter(quiet) as meter:
        total = map_reduce(
            file,
            function,
            reduce,
            processes=processes,
            boundary=_BOUNDARIES[boundary],
            size_bytes=size_bytes,
            ordered=not unordered,
            progress=meter.show,
        )
    write_output(_show(total))


def _function_of(option: str, name: str) -> Callable[..., Any]:
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise click.UsageError(f"{option}: {name!r} is no MODULE:FUNCTION such as words:count")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise click.UsageError(f"{option}: {error}") from error
    except Exception as error:  # whatever that module does when it is imported
        said = f"{type(error).__name__}: {error}"
        raise click.ClickException(f"{option}: importing {module_name}: {said}") from error
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise click.UsageError(f"{option}: {module_name} has no function {path!r}")
    function: Callable[..., Any] = found
    return function


def _show(total: Any) -> bytes:
    """Bytes and text as they are, the rest as JSON where that is possible."""
    if isinstance(total, bytes | bytearray | memoryview):
        return bytes(total)
    if isinstance(total, str):
        return total.encode("utf-8", "surrogateescape") + b"\n"
    try:
        text = json.dumps(_plain(total))
    except (TypeError, ValueError):
        text = repr(total)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> Any:
    """Keys and values that are bytes as text, which JSON wants."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
