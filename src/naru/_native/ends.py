"""The three kinds of ends together: a Channel is a Sender and a Receiver."""

from __future__ import annotations

from naru._native.endpoint import Endpoint
from naru._native.receiving import Receiver
from naru._native.sending import Sender

__all__ = ["Channel", "Endpoint", "Receiver", "Sender"]


class Channel(Sender, Receiver):
    """One end of a conversation: all verbs of Sender and of Receiver.

    Made by `naru.connect`, `Listener.accept` and `naru.pair`. Usable from several threads; belongs
    to one process, the first that uses it.
    """

    __slots__ = ()
