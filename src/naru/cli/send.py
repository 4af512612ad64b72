"""`naru send`: standard input to messages. Must not know: any mechanism."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import click

import naru
from naru.cli import framing
from naru.cli.opening import framing_of, is_raw_stream, open_patiently
from naru.cli.streams import read_input, write_output
from naru.cli.values import SECONDS, SIZE
from naru.errors import NaruError, PeerGoneError, TimedOutError

__all__ = ["command"]

CONNECT_TIMEOUT_S = 5.0


@click.command("send", short_help="Standard input to messages.")
@click.argument("address")
@click.option("--lines", "cut", flag_value="lines", help="A message a line (the default).")
@click.option("--size", "size_bytes", type=SIZE, help="Messages of this size.")
@click.option("--whole", "cut", flag_value="whole", help="All of the input as one message.")
@click.option(
    "--raw",
    "cut",
    flag_value="raw",
    help="Bytes as they come (the default with ?framing=raw).",
)
@click.option(
    "--length",
    "cut",
    flag_value="length",
    help="Messages with their length before each, as `naru receive --length` writes them.",
)
@click.option("--count", type=click.IntRange(min=0), help="Ends after so many messages.")
@click.option(
    "--timeout",
    "timeout_s",
    type=SECONDS,
    help="How long to wait for the other side to be there, and for room (default: for ever; 5 s "
    "to connect).",
)
@click.option("--priority", type=click.IntRange(0, 32767), default=0, help="mq: higher first.")
@click.option(
    "--connect/--sender",
    "connects",
    default=False,
    help="Goes with naru.listen and `naru echo`, or with naru.receiver and `naru receive` (the "
    "default).",
)
@click.option(
    "--answer",
    is_flag=True,
    help="Connects and prints what comes back: an answer to each message, with ?framing=raw or "
    "lines all until the other side closes.",
)
def command(
    address: str,
    cut: str | None,
    size_bytes: int | None,
    count: int | None,
    timeout_s: float | None,
    priority: int,
    connects: bool,
    answer: bool,
) -> None:
    """Sends standard input to ADDRESS, a message a line.

    \b
        seq 3 | naru send shm://jobs            with: naru receive shm://jobs
        naru send --whole mq:///jobs < order.json
        printf 'GET / HTTP/1.0\\r\\n\\r\\n' | naru send --answer 'unix:///run/app.sock?framing=raw'
    """
    parsed = naru.parse(address)
    if cut and size_bytes:
        raise click.UsageError(f"--size and --{cut} exclude each other")
    if priority and parsed.transport != "mq":
        raise click.UsageError(f"--priority is for mq, {parsed.transport} has none")
    if cut is None and size_bytes is None:
        cut = "raw" if is_raw_stream(parsed) else "lines"
    batches = _limit(_splitter(cut, size_bytes)(_read_with_progress()), count)
    if connects or answer:
        patience_s = CONNECT_TIMEOUT_S if timeout_s is None else timeout_s
        channel = open_patiently(naru.connect, parsed, patience_s)
        with channel:
            if answer:
                _converse(channel, batches, timeout_s, counts=framing_of(parsed) == "naru")
            else:
                _send_all(channel, batches, timeout_s, priority)
        return
    with open_patiently(naru.sender, parsed, timeout_s) as sender:
        _send_all(sender, batches, timeout_s, priority)


def _splitter(
    cut: str | None, size_bytes: int | None
) -> Callable[[Iterator[bytes]], framing.Batches]:
    if size_bytes is not None:
        return partial(framing.split_sizes, size_bytes=size_bytes)
    return {
        "lines": framing.split_lines,
        "raw": framing.split_raw,
        "whole": framing.split_whole,
        "length": framing.split_lengths,
    }[cut or "lines"]


def _limit(batches: framing.Batches, count: int | None) -> framing.Batches:
    """The first `count` messages; stops reading with the last of them."""
    left = count
    if left == 0:
        return
    for batch in batches:
        yield batch if left is None else batch[:left]
        if left is not None:
            left -= len(batch)
            if left <= 0:
                return


def _read_with_progress() -> Iterator[bytes]:
    from naru.cli.progress import InputMeter

    with InputMeter() as meter:
        yield from read_input(meter.add)


def _send_all(
    end: Any, batches: framing.Batches, timeout_s: float | None, priority: int = 0
) -> int:
    """Returns: how many were sent."""
    sent = 0
    for batch in batches:
        if priority:
            for message in batch:
                end.send(message, timeout_s, priority=priority)
        else:
            end.send_many(batch, timeout_s)
        sent += len(batch)
    return sent


class _Answers:
    """A thread that prints what comes back, while the other one sends."""

    def __init__(self, channel: Any, counts: bool) -> None:
        self._channel, self._counts = channel, counts
        raw = framing_of(channel.address) == "raw"
        self._format = framing.format_raw if raw else framing.format_lines
        self._changed = threading.Condition()
        self._came = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                messages = self._channel.receive_many()
                write_output(self._format(messages))
                with self._changed:
                    self._came += len(messages)
                    self._changed.notify()
        except BaseException as error:  # handed to the thread that waits
            with self._changed:
                self._error = error
                self._changed.notify()

    def wait_for(self, count: int, timeout_s: float | None) -> None:
        """Until so many have come; when that is not to be counted, until the other side closes.

        Raises: TimedOutError when nothing comes for `timeout_s` (not when something had come and
        there is no telling how much is to come), what the thread met.
        """
        with self._changed:
            while not self._is_done(count):
                if self._error is not None:
                    self._raise(self._error, count)
                if not self._changed.wait(timeout_s):
                    if self._came and not self._counts:
                        return
                    raise TimedOutError(f"no answer for {timeout_s:g} s")

    def _is_done(self, count: int) -> bool:
        if self._counts:
            return self._came >= count
        return isinstance(self._error, PeerGoneError) and self._error.orderly

    def _raise(self, error: BaseException, count: int) -> None:
        if self._counts and isinstance(error, PeerGoneError):
            place = self._channel.address.display
            raise NaruError(f"{place} is gone after {self._came} answers to {count}") from error
        raise error

    def end(self) -> None:
        """Closes the channel, by which the thread ends."""
        self._channel.close()
        self._thread.join()


def _converse(
    channel: Any, batches: framing.Batches, timeout_s: float | None, *, counts: bool
) -> None:
    answers = _Answers(channel, counts)
    sent = 0
    try:
        sent = _send_all(channel, batches, timeout_s)
    except PeerGoneError:
        # It may have answered and closed before it had read everything: that is printed first.
        if counts:
            raise
    answers.wait_for(sent, timeout_s)
    answers.end()
