"""`naru cache`: caches from the shell. Must not know: the table; naru.Cache does everything.

Values go in and come out as bytes: what Python packed is printed as JSON where it can be.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from naru.cache.cache import Cache
from naru.cache.codecs import CODECS
from naru.cache.opening import is_remote
from naru.cache.opening import open as open_cache
from naru.cli.cache_serve import serve
from naru.cli.cache_sizes import CACHE_SIZE
from naru.cli.cache_table import show_record, watch
from naru.cli.streams import read_input, write_output
from naru.cli.values import SECONDS

if TYPE_CHECKING:
    from naru.cache.remote import RemoteCache

__all__ = ["command"]

Decorated = Callable[..., Any]


@click.group("cache", short_help="Keys and values that all processes of this machine share.")
def command() -> None:
    """Caches in shared memory. NAME is a name, or a path with a slash in it; for get, set, delete, scan
    and stats also the URL of a server, such as redis://10.0.0.5:6379/0.

    \b
        naru cache create sessions 256MiB
        naru cache set sessions user:7 Kim --ttl 300
        naru cache get sessions user:7
        naru cache stats sessions --watch
    """


def _name(function: Decorated) -> Decorated:
    return click.argument("name")(function)


def _json(function: Decorated) -> Decorated:
    return click.option("--json", "as_json", is_flag=True, help="For programs.")(function)


def _pickled(function: Decorated) -> Decorated:
    return click.option(
        "--pickle",
        "pickled",
        is_flag=True,
        help="Its values are pickled, and whoever can write it is trusted to run code here.",
    )(function)


def _open(name: str, pickled: bool = False) -> Cache | RemoteCache:
    if is_remote(name):
        return open_cache(name, codec="pickle" if pickled else "msgpack")
    return Cache.open(name, codec="pickle" if pickled else None)


def _open_local(name: str, pickled: bool) -> Cache:
    if is_remote(name):
        raise click.UsageError(
            "a cache on a server has only get, set, delete, scan and stats; the rest is the server's own"
        )
    return Cache.open(name, codec="pickle" if pickled else None)


def _say(text: str) -> None:
    write_output((text + "\n").encode("utf-8", "backslashreplace"))


@command.command("create")
@_name
@click.argument("size_bytes", type=CACHE_SIZE, metavar="SIZE")
@click.option("--shards", type=int, default=0, help="A power of two. Default: 16, or fewer.")
@click.option("--codec", type=click.Choice(CODECS), default="msgpack", show_default=True)
@click.option("--mode", default="0600", show_default=True, help="Of the file, octal.")
@click.option("--entry", "entry_bytes", type=int, default=128, show_default=True, metavar="BYTES",
              help="Of a usual key with its value.")  # fmt: skip
def create(
    name: str, size_bytes: int, shards: int, codec: str, mode: str, entry_bytes: int
) -> None:
    """Makes a cache of SIZE, such as 256MiB."""
    try:
        bits = int(mode, 8)
        with Cache.create(
            name, size_bytes, shards=shards, codec=codec, mode=bits, entry_bytes=entry_bytes
        ) as cache:
            _say(str(cache.path))
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@command.command("get")
@_name
@click.argument("key")
@_pickled
def get(name: str, key: str, pickled: bool) -> None:
    """Prints a value; exit code 1 when there is none."""
    absent = object()
    with _open(name, pickled) as cache:
        value = cache.get(key, absent)
    if value is absent:
        raise click.ClickException(f"{key!r} is not there")
    write_output(_as_bytes(value))


def _as_bytes(value: object) -> bytes:
    """bytes as they are; everything else as a line that a person can read."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str | int):
        return f"{value}\n".encode("utf-8", "backslashreplace")
    try:
        return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    except (TypeError, ValueError):
        return f"{value!r}\n".encode("utf-8", "backslashreplace")


@command.command("set")
@_name
@click.argument("key")
@click.argument("value", required=False)
@click.option("--ttl", "ttl_s", type=SECONDS, metavar="SECONDS", help="Default: never expires.")
@click.option("--tag", "tags", multiple=True, help="May come several times.")
@click.option("--integer", is_flag=True, help="As an int of Python; else as str.")
@_pickled
def set_(
    name: str,
    key: str,
    value: str | None,
    ttl_s: float | None,
    tags: tuple[str, ...],
    integer: bool,
    pickled: bool,
) -> None:
    """Stores VALUE as text; without one, standard input as bytes."""
    stored: object = value
    if value is None:
        stored = b"".join(read_input())
    elif integer:
        try:
            stored = int(value)
        except ValueError as error:
            raise click.UsageError(f"{value!r} is no integer") from error
    try:
        with _open(name, pickled) as cache:
            cache.set(key, stored, ttl_s, tags)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


@command.command("delete")
@_name
@click.argument("keys", nargs=-1, required=True)
@_pickled
def delete(name: str, keys: tuple[str, ...], pickled: bool) -> None:
    """Forgets keys; prints how many of them were there."""
    with _open(name, pickled) as cache:
        _say(str(cache.delete_many(keys)))


@command.command("scan")
@_name
@click.option("--prefix", default="", help="Only keys that begin so.")
@click.option("--count", "most", type=int, help="At most so many.")
@_json
@_pickled
def scan(name: str, prefix: str, most: int | None, as_json: bool, pickled: bool) -> None:
    """Prints the keys, one a line; with --json each as a JSON string."""
    with _open(name, pickled) as cache:
        for number, key in enumerate(cache.scan(prefix)):
            if number == most:
                break
            text = key.decode("utf-8", "backslashreplace")
            _say(json.dumps(text) if as_json else text)


@command.command("stats")
@_name
@_json
@click.option("--watch", "watches", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--every", "every_s", type=SECONDS, default=1.0, show_default=True, metavar="SECONDS",
              help="With --watch.")  # fmt: skip
@_pickled
def stats(name: str, as_json: bool, watches: bool, every_s: float, pickled: bool) -> None:
    """Prints what the cache counts."""
    with _open(name, pickled) as cache:
        while True:
            record = cache.statistics()
            _say(json.dumps(record.as_dict()) if as_json else show_record(record))
            if not watches:
                return
            if not as_json:
                _say("")
            time.sleep(max(0.05, every_s))


@command.command("top")
@_name
@click.option("--every", "every_s", type=SECONDS, default=1.0, show_default=True, metavar="SECONDS",
              help="Between two looks.")  # fmt: skip
@click.option(
    "--count", "most", type=click.IntRange(1), help="So many looks. Default: until Ctrl-C."
)
@_pickled
def top(name: str, every_s: float, most: int | None, pickled: bool) -> None:
    """Rates: reads, hits, writes and evictions a second, with a line for each look."""
    with _open_local(name, pickled) as cache:
        for line in watch(cache.statistics, max(0.05, every_s), most):
            _say(line)


@command.command("check")
@_name
@click.option("--repair", is_flag=True, help="Put right what is wrong.")
@_json
@_pickled
def check(name: str, repair: bool, as_json: bool, pickled: bool) -> None:
    """Looks at every record; exit code 1 when something is wrong and was not repaired."""
    with _open_local(name, pickled) as cache:
        report = cache.check(repair=repair)
    facts = {
        "entries": report.entries, "records": report.records, "dead_records": report.dead_records,
        "damaged_slots": report.damaged_slots, "wrong_sums": report.wrong_sums,
        "repaired": report.repaired, "sound": report.sound,
    }  # fmt: skip
    _say(json.dumps(facts) if as_json else ", ".join(f"{n}: {v}" for n, v in facts.items()))
    if not report.sound and not repair:
        raise click.exceptions.Exit(1)


def _say_count(entries: int) -> None:
    """To a person, not to a script."""
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo(f"{entries:,} entries", err=True)


@command.command("snapshot")
@_name
@click.argument("file", type=click.Path(dir_okay=False))
@_pickled
def snapshot(name: str, file: str, pickled: bool) -> None:
    """Writes all entries into FILE, which holds secrets as the cache does (mode 0600)."""
    with _open_local(name, pickled) as cache:
        _say_count(cache.snapshot(file))


@command.command("restore")
@_name
@click.argument("file", type=click.Path(dir_okay=False))
@_pickled
def restore(name: str, file: str, pickled: bool) -> None:
    """Replaces everything in the cache by what is in FILE."""
    with _open_local(name, pickled) as cache:
        _say_count(cache.restore(file))


@command.command("drop")
@_name
@_pickled
def drop(name: str, pickled: bool) -> None:
    """Removes the cache."""
    _open_local(name, pickled).drop()


command.add_command(serve)
