"""`naru proxy`: bytes from one place to another, in C. Must not know: how they are moved."""

from __future__ import annotations

import signal
import time

import click

import naru
from naru.address import Address
from naru.cli.opening import announce, note
from naru.cli.values import SECONDS
from naru.engine import Engine, Service, describe_limit, raise_descriptor_limit

__all__ = ["command"]


@click.command("proxy", short_help="Bytes from one address to another, both ways.")
@click.argument("listen", nargs=-1, required=True, metavar="LISTEN...")
@click.argument("target")
@click.option(
    "--connections",
    type=click.IntRange(1, 10**7),
    metavar="N",
    help="At most so many at once; the others wait in the kernel's queue. Default: what the "
    "descriptor limit allows.",
)
@click.option(
    "--idle-timeout",
    "idle_s",
    type=SECONDS,
    metavar="SECONDS",
    help="Ends a connection over which nothing has come for so long. Default: never.",
)
@click.option(
    "--connect-timeout",
    "connect_s",
    type=SECONDS,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Gives a client up whose target does not answer.",
)
@click.option(
    "--drain",
    "drain_s",
    type=SECONDS,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="After Ctrl-C or SIGTERM, how long the open connections may go on; a second one: no longer.",
)
@click.option("--quiet", is_flag=True, help="Says nothing but errors.")
def command(
    listen: tuple[str, ...],
    target: str,
    connections: int | None,
    idle_s: float | None,
    connect_s: float,
    drain_s: float,
    quiet: bool,
) -> None:
    """Joins every connection to a LISTEN address with one to TARGET, until Ctrl-C.

    Addresses are tcp://host:port, unix:///path and unix:@name, in any mixture. The end of one
    direction is passed on alone; a broken connection is passed on as a broken one. SIGUSR1 prints
    the counters; so does the end.

    \b
        naru proxy tcp://127.0.0.1:2375 unix:///var/run/docker.sock
        naru proxy unix:@db unix:///run/db.sock tcp://10.0.0.7:5432 --connections 200
    """
    limit = raise_descriptor_limit()
    with Engine() as engine:
        service = engine.proxy(
            *listen,
            target=target,
            connect_timeout_s=connect_s or None,
            connection_limit=connections,
            idle_timeout_s=idle_s or None,
        )
        before = signal.signal(signal.SIGUSR1, lambda *_: note(_summary(engine, service)))
        try:
            if not quiet:
                _introduce(listen, service, limit)
            engine.run()
        finally:
            signal.signal(signal.SIGUSR1, before)
            _drain(engine, service, drain_s)
            if not quiet:
                note(_summary(engine, service))


def _introduce(listen: tuple[str, ...], service: Service, limit: int) -> None:
    for asked, real in zip(listen, service.addresses, strict=True):
        assert isinstance(real, Address)
        announce("proxy at", naru.parse(asked), real)
    note(describe_limit(limit, per_connection=2))


def _drain(engine: Engine, service: Service, drain_s: float) -> None:
    """Another signal meanwhile is an exception, and ends it."""
    service.drain()
    until_s = time.monotonic() + drain_s
    while _open(service) and time.monotonic() < until_s:
        engine.run(until_s - time.monotonic())


def _open(service: Service) -> int:
    numbers = service.statistics()
    return numbers["open"] + numbers["open_outgoing"]


def _summary(engine: Engine, service: Service) -> str:
    """One line of name=number, in an order that stays."""
    numbers = service.statistics()
    shown = {
        "accepted": numbers["accepted"],
        "open": numbers["open"],
        "most_open": numbers["most_open"],
        "joined": numbers["pairs"],
        "target_failed": numbers["pairs_failed"],
        "ended": numbers["closed_orderly"],
        "broken": numbers["aborts"],
        "idle": numbers["closed_idle"],
        "bytes": numbers["bytes_sent"],
        "spliced_bytes": numbers["spliced_bytes"],
        "pauses_at_limit": numbers["pauses_limit"],
        "pauses_without_descriptor": numbers["pauses_descriptors"],
        "wakeups": engine.statistics().wakeups,
    }
    return " ".join(f"{name}={number}" for name, number in shown.items())
