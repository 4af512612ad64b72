"""`naru request`: one request to a `naru.serve()`, and its reply. Must not know: any mechanism."""

from __future__ import annotations

import os

import click

import naru
from naru.address import Address
from naru.cli.opening import open_patiently
from naru.cli.streams import read_input, write_output
from naru.cli.values import SECONDS

__all__ = ["command"]

CONNECT_TIMEOUT_S = 5.0


@click.command("request", short_help="Send a request, print the reply.")
@click.argument("address")
@click.argument("data", required=False)
@click.option(
    "--timeout",
    "timeout_s",
    type=SECONDS,
    help="How long to wait for the server, and for each reply (default: 5 s to connect, then for "
    "ever).",
)
@click.option(
    "--repeat", "count", type=click.IntRange(min=1), default=1, help="Asks so many times."
)
@click.option("--raw", is_flag=True, help="The replies and nothing between them: no newlines.")
def command(address: str, data: str | None, timeout_s: float | None, count: int, raw: bool) -> None:
    """Sends DATA, or all of standard input, as one request to the server at ADDRESS; prints the reply.

    \b
        naru request shm://sums '1 2 3'
        naru request unix:///run/thumbs.sock < photo.jpg > thumb.jpg
    """
    request = b"".join(read_input()) if data is None else os.fsencode(data)
    patience_s = CONNECT_TIMEOUT_S if timeout_s is None else timeout_s
    with open_patiently(_open, naru.parse(address), patience_s) as client:
        for _ in range(count):
            reply = client.request(request, timeout_s)
            write_output(reply if raw else reply + b"\n")


def _open(address: Address, timeout_s: float | None) -> naru.Client:
    return naru.client(address, timeout_s)
