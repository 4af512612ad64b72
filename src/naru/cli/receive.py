"""`naru receive`: messages to standard output. Must not know: any mechanism."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

import naru
from naru.cli import framing
from naru.cli.opening import announce, is_raw_stream, keep_open
from naru.cli.streams import watch_reader, write_output
from naru.cli.values import SECONDS
from naru.errors import ClosedError, PeerGoneError, TimedOutError

__all__ = ["command"]

BATCH = 64

Format = Callable[[Sequence[bytes], int], bytes]

_FORMATS: dict[str, Format] = {
    "lines": framing.format_lines,
    "raw": framing.format_raw,
    "whole": framing.format_raw,
    "length": framing.format_lengths,
    "hex": framing.format_hex,
    "json": framing.format_json,
}


@click.command("receive", short_help="Messages to standard output.")
@click.argument("address")
@click.option("--lines", "shape", flag_value="lines", help="A line a message (the default).")
@click.option(
    "--raw",
    "shape",
    flag_value="raw",
    help="The messages and nothing between them (the default with ?framing=raw).",
)
@click.option("--whole", "shape", flag_value="whole", help="One message as it is, and no more.")
@click.option(
    "--length", "shape", flag_value="length", help="4 bytes of length before each (little-endian)."
)
@click.option("--hex", "shape", flag_value="hex", help="A line of hexadecimal digits a message.")
@click.option("--json", "shape", flag_value="json", help="A JSON object a message, one a line.")
@click.option("--count", type=click.IntRange(min=0), help="Ends after so many messages.")
@click.option(
    "--timeout",
    "timeout_s",
    type=SECONDS,
    help="Ends after so long without a message; before --count is reached, that is a failure.",
)
def command(address: str, shape: str | None, count: int | None, timeout_s: float | None) -> None:
    """Receives at ADDRESS from any number of senders until Ctrl-C, and prints what comes.

    \b
        naru receive shm://jobs                 with: seq 3 | naru send shm://jobs
        naru receive 'tcp://127.0.0.1:7000?framing=lines'      with: nc 127.0.0.1 7000
    """
    parsed = naru.parse(address)
    if shape is None:
        shape = "raw" if is_raw_stream(parsed) else "lines"
    if shape == "whole":
        if count not in (None, 1):
            raise click.UsageError("--whole is one message, --count is for several")
        count = 1
    with naru.receiver(parsed) as receiver, keep_open(parsed):
        announce("receiving at", parsed, receiver.address)
        gone = _ReaderGone(receiver)
        watch_reader(gone)
        try:
            _print_all(receiver, shape, count, timeout_s)
        except ClosedError:
            if gone.happened:
                raise BrokenPipeError from None
            raise


class _ReaderGone:
    """Ends the wait for messages that nobody would read."""

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver
        self.happened = False

    def __call__(self) -> None:
        self.happened = True
        self._receiver.close()


def _print_all(receiver: Any, shape: str, count: int | None, timeout_s: float | None) -> None:
    number = 0
    while count is None or number < count:
        limit = BATCH if count is None else min(BATCH, count - number)
        try:
            data, came = _take(receiver, shape, limit, number, timeout_s)
        except TimedOutError:
            if count is None:
                return  # silence is the end that was asked for
            raise
        except PeerGoneError as error:
            if error.orderly and count is None:
                return  # a foreign stream's end of file
            raise
        write_output(data)
        number += came


def _take(
    receiver: Any, shape: str, limit: int, number: int, timeout_s: float | None
) -> tuple[bytes, int]:
    """What to print next, and how many messages that is."""
    if shape == "json" and receiver.address.transport == "mq":
        message, priority = receiver.receive_with_priority(timeout_s)
        return framing.format_json([message], number, [priority]), 1
    messages = receiver.receive_many(limit, timeout_s)
    return _FORMATS[shape](messages, number), len(messages)
