"""One file per mechanism, all of one shape (contract.py).

    contract    Capabilities, Transport     hello      the 16 bytes that open a connection
    pipe fifo unix tcp udp mq shm           door       accepts without waiting for strangers
    names       socket files, taken over    pairs      both ends in one hand; pickling
    connecting  retries until the deadline  heartbeat  signs of life on a timer

Transports are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from naru.errors import UnsupportedError, from_os_error
from naru.transports.contract import Capabilities, Peer

__all__ = ["NAMES", "Capabilities", "Peer", "capabilities", "load"]

NAMES = ("shm", "pipe", "unix", "fifo", "mq", "tcp", "udp")


# It chooses among the others by what was measured of them, and so is of a higher layer.
_ELSEWHERE = {"auto": "naru.auto.joining"}


def load(name: str) -> Any:
    """The module of a transport."""
    return importlib.import_module(_ELSEWHERE.get(name, f"naru.transports.{name}"))


def capabilities() -> list[Capabilities]:
    """What each transport can, in the order of NAMES."""
    return [load(name).capabilities for name in NAMES]


def function_of(name: str, verb: str, address: object) -> Any:
    """A transport's function. Raises UnsupportedError, naming what the transport has instead."""
    try:
        module = load(name)
    except OSError as error:  # no descriptor is left to read the module's file with
        raise from_os_error(error, f"{name}.{verb}", address) from error
    function = getattr(module, verb, None)
    if function is None:
        has = ", ".join(
            f"naru.{other}"
            for other in ("listen", "connect", "pair", "receiver", "sender")
            if hasattr(module, other)
        )
        raise UnsupportedError(
            f'naru.{verb} "{address}": {name} has no such shape; it has {has}',
            operation=verb,
            address=address,
        )
    return function
