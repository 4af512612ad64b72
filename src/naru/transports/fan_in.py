"""A receiver over many connections: the door that lets senders in, and the C fan-in behind it.

Must not know: any mechanism.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from naru._native.ends import Endpoint, Receiver
from naru._native.opening import add_sender, open_fan_in
from naru.address import Address
from naru.errors import from_os_error
from naru.settings import Settings
from naru.transports.contract import Place
from naru.transports.door import Door, Welcome
from naru.transports.heartbeat import keep_beating

__all__ = ["open_receiver", "start_listening"]


def start_listening(
    sock: socket.socket,
    backlog: int,
    operation: str,
    address: Address,
    close_name: Callable[[], object] = lambda: None,
) -> None:
    """listen(2); when that fails, the socket is closed and its name given up."""
    try:
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        close_name()
        raise from_os_error(error, operation, address) from error


def open_receiver(
    address: Address,
    settings: Settings,
    listening: socket.socket,
    welcome: Welcome,
    close_name: Callable[[], object],
    bell: int = -1,
    *closers: Callable[[], object],
) -> Receiver:
    """Takes the listening socket and the closers over, also when this fails; `bell` is the doorbell
    that shm senders share."""

    def let_in(child: Endpoint) -> None:
        heartbeat_s = child.heartbeat_s
        try:
            add_sender(end, child)
        except BaseException:
            child.close()  # it was welcomed already: let it hear that it is alone
            raise
        keep_beating(end, heartbeat_s)

    leave = [close_name, *closers, listening.close]
    try:
        door = Door(listening, welcome, let_in, settings.handshake_timeout_s)
        leave[-1] = door.close
        place = Place(settings, *leave)
        end = open_fan_in(Receiver, settings, door, bell, address=address, place=place)
    except BaseException:
        while leave:
            leave.pop()()
        raise
    return end
