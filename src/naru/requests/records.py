"""What servers and clients of request/reply count. Frozen records of plain numbers; know nothing else."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ClientStatistics", "ServerStatistics"]


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Numbers of a `naru.Server` since it was opened."""

    clients: int
    """Connected at this moment."""
    clients_total: int
    clients_broken: int
    """Dropped because they broke the protocol, or no descriptor was free for them."""
    strangers: int
    """Connections refused before they were clients: not naru, not allowed, silent."""
    requests: int
    """Received; each is answered once, unless its client goes."""
    replies: int
    errors: int
    """Requests whose handler raised, or returned what cannot be sent."""
    refused: int
    """Requests that came while the server was draining: not begun."""
    cancelled: int
    """Requests that were dropped before they were begun: by a cancel, or with their client."""
    unsent: int
    """Replies that were made and not delivered, because their client had gone."""
    open: int
    """Requests received and not answered yet, at this moment."""


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """Numbers of a `naru.Client` since it was made, over all its connections."""

    requests: int
    """Sent."""
    replies: int
    """Answers that came in time, errors of the handler among them."""
    remote_errors: int
    timed_out: int
    """Requests that were given up (timeout, cancel())."""
    late: int
    """Replies that came after that; dropped."""
    open: int
    """Sent and not answered yet, the given up ones among them, at this moment."""
    reconnects: int
