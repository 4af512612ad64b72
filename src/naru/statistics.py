"""What an end counts. A frozen record of plain numbers; knows nothing of ends."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Statistics"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Numbers of one end since it was opened, as one consistent copy.

    A wait is an operation that found nothing and had to wait; it ended while spinning (`spins`) or
    the thread slept in the kernel (`sleeps`; one wait may sleep several times).
    """

    messages_sent: int
    bytes_sent: int
    """Payload only, without headers."""
    messages_received: int
    bytes_received: int
    waits: int
    spins: int
    sleeps: int
    wakeups: int
    """Doorbells rung because the peer slept (shm)."""
    depth_bytes: int
    """Waiting to be received here, at this moment, as far as this process can see."""
    lost: int
    """udp: messages whose sequence numbers never came."""
    duplicates: int
    """udp: messages that came twice; delivered once."""
    reordered: int
    """udp: messages that came after a later one."""
    torn: int
    """Messages whose sender died in the middle; never delivered."""
    strangers: int
    """Connections or datagrams that were not naru's or not allowed; refused."""
    peers_lost: int
    """Senders of this receiver that died."""
    peers_closed: int
    """Senders of this receiver that closed in good order."""
    fds_dropped: int
    """Descriptors closed because their message was received without asking for them."""
