"""The peers that naru is measured against, one file each, all of one shape.

Holds: the list of them. contract.py says what a peer is.
Must not know: rows and targets (rows.py), nor naru.
Joins: messages.py looks a peer up by its name.
"""

from __future__ import annotations

from peers import (
    cloudtoid,
    faster_fifo,
    iceoryx2,
    kickmsg,
    multiprocessing_pipe,
    multiprocessing_queue,
    os_pipe,
    posix_mq,
    python_ring,
    pyzmq,
    subetha,
    tcp_socket,
    unix_socket,
    zenoh,
)
from peers.contract import Peer

_FILES = (
    os_pipe,
    unix_socket,
    tcp_socket,
    posix_mq,
    multiprocessing_pipe,
    multiprocessing_queue,
    python_ring,
    subetha,
    iceoryx2,
    cloudtoid,
    faster_fifo,
    kickmsg,
    pyzmq,
    zenoh,
)

PEERS: dict[str, Peer] = {peer.name: peer for file in _FILES for peer in file.PEERS}

__all__ = ["PEERS", "Peer"]
