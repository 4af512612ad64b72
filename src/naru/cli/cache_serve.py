"""`naru cache serve`: a cache for redis-cli, redis-py and all the others. Must not know: RESP."""

from __future__ import annotations

import os
from pathlib import Path

import click

from naru.address import Address
from naru.cache.serving import CacheServer, ServerSettings
from naru.cli.opening import note
from naru.cli.values import SECONDS, SIZE

__all__ = ["serve"]

USUAL = "tcp://127.0.0.1:6379"


def _refuse_password(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(
            "everybody can read a password in the list of processes: "
            "NARU_CACHE_PASSWORD in the environment, or --requirepass-file"
        )


@click.command("serve", short_help="Server processes that speak Redis' protocol.")
@click.argument("name")
@click.option(
    "--bind",
    multiple=True,
    metavar="ADDRESS",
    help=f"Where to listen: tcp://host:port, unix:///path; several times. Default: {USUAL}.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    metavar="N",
    help="They share the addresses and the data.",
)
@click.option("--size", type=SIZE, metavar="SIZE", help="Makes the cache when there is none.")
@click.option(
    "--requirepass-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Clients must show the first line of this file (AUTH). Or NARU_CACHE_PASSWORD in the environment.",
)
@click.option("--requirepass", hidden=True, expose_value=False, callback=_refuse_password)
@click.option(
    "--unprotected",
    is_flag=True,
    help="Without a password, also at addresses that other machines reach.",
)
@click.option(
    "--cluster",
    is_flag=True,
    help="Each process at its own port, with its share of the slots: Redis Cluster.",
)
@click.option(
    "--maxclients",
    type=click.IntRange(1, (1 << 20) - 1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Clients at once, of all processes.",
)
@click.option(
    "--output-limit",
    type=SIZE,
    default=ServerSettings().output_limit_bytes,
    metavar="SIZE",
    help="A client with more unread replies is cut off. Default: 256MiB.",
)
@click.option(
    "--stall-timeout",
    type=SECONDS,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="A client that takes nothing for so long, though something waits for it, is cut off.",
)
@click.option(
    "--idle-timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="A client that sends nothing for so long is cut off. Default: never.",
)
@click.option("--quiet", is_flag=True, help="Says nothing but errors.")
def serve(
    name: str,
    bind: tuple[str, ...],
    processes: int,
    size: int | None,
    requirepass_file: Path | None,
    unprotected: bool,
    cluster: bool,
    maxclients: int,
    output_limit: int,
    stall_timeout: float,
    idle_timeout: float | None,
    quiet: bool,
) -> None:
    """Serves the cache NAME to whoever speaks Redis' protocol, until Ctrl-C or SIGTERM.

    A process that is killed is started again; the data is in shared memory and stays.

    \b
        naru cache serve sessions --size 256MiB
        naru cache serve sessions --bind unix:///run/sessions.sock --processes 1
        naru cache serve sessions --cluster --bind tcp://127.0.0.1:7000 --processes 3
    """
    try:
        settings = ServerSettings(
            clients_most=maxclients,
            output_limit_bytes=output_limit,
            high_water_bytes=min(output_limit, ServerSettings().high_water_bytes),
            stall_timeout_s=stall_timeout,
            idle_timeout_s=idle_timeout or None,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    server = CacheServer(
        name,
        bind=bind or [USUAL],
        processes=processes,
        size_bytes=size,
        password=_password(requirepass_file),
        protected=not unprotected,
        cluster=cluster,
        settings=settings,
    )
    with server:
        if not quiet:
            _introduce(server, cluster)
        server.run()


def _password(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("NARU_CACHE_PASSWORD") or None
    password = (file.read_text(encoding="utf-8").splitlines() or [""])[0]
    if not password:
        raise click.UsageError(f"--requirepass-file {file}: its first line is empty")
    return password


def _introduce(server: CacheServer, cluster: bool) -> None:
    for address in server.addresses:
        note(f"cache {server.name} at {address}: {_how_to_connect(address, cluster)}")
    note(f"{server.processes} processes: {' '.join(map(str, server.pids))} (Ctrl-C ends)")


def _how_to_connect(address: Address, cluster: bool) -> str:
    if address.transport == "unix":
        return f"redis-cli -s {address.path}"
    return f"redis-cli {'-c ' if cluster else ''}-h {address.host} -p {address.port}"
