"""`naru echo`: the other side for a conversation by hand. Must not know: any mechanism."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import click

import naru
from naru.cli.opening import announce
from naru.errors import NaruError

__all__ = ["command"]


@click.command("echo", short_help="Listen, and send every message back.")
@click.argument("address")
def command(address: str) -> None:
    """Listens at ADDRESS and sends every message back where it came from, until Ctrl-C.

    \b
        naru echo unix:@hello                   with: echo hi | naru send --answer unix:@hello
    """
    parsed = naru.parse(address)
    with naru.listen(parsed) as listener:
        announce("echoing at", parsed, listener.address)
        conversations = _Conversations()
        try:
            for channel in listener:
                conversations.begin(channel)
        finally:
            conversations.end()


class _Conversations:
    """A thread for each channel; all of them end with the command."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, Any] = {}

    def begin(self, channel: Any) -> None:
        thread = threading.Thread(target=self._run, args=(channel,), daemon=True)
        with self._lock:
            self._open[thread] = channel
        thread.start()

    def _run(self, channel: Any) -> None:
        # It died, broke the rules, or the command ends: the others go on, and nobody is to be told.
        with contextlib.suppress(NaruError), channel:
            for message in channel:
                channel.send(message)
        with self._lock:
            del self._open[threading.current_thread()]

    def end(self) -> None:
        with self._lock:
            threads = dict(self._open)
        for channel in threads.values():
            channel.close()  # a thread that waits on it gets ClosedError
        for thread in threads:
            thread.join()
