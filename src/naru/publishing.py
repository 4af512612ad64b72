"""Publish/subscribe: an address in, a publisher or a subscriber out.

Holds: `publisher` and `subscriber`; the ends are in naru.transports.publishing.
Must not know: any mechanism; the address names the module that makes the end.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

from naru.address import parse
from naru.errors import UnsupportedError, from_os_error
from naru.transports.connecting import Deadline
from naru.transports.publishing import POLICIES, Policy, Publisher, Subscriber, Subscription

if TYPE_CHECKING:
    from naru.address import Address

__all__ = ["Policy", "Publisher", "Subscriber", "Subscription", "publisher", "subscriber"]

_MODULES = {
    "shm": "naru.transports.broadcast",
    "unix": "naru.transports.fan_out",
    "tcp": "naru.transports.fan_out",
}


def _make(verb: str, text: str | Address, *args: Any) -> Any:
    address = parse(text)
    if address.transport not in _MODULES:
        raise UnsupportedError(
            f'naru.{verb} "{address}": {address.transport} has no publishers; '
            f"{', '.join(_MODULES)} have",
            operation=verb, address=address,
        )  # fmt: skip
    try:
        module = importlib.import_module(_MODULES[address.transport])
        return getattr(module, verb)(address, *args)
    except OSError as error:  # what a transport did not foresee; naru's own pass unchanged
        raise from_os_error(error, f"{address.transport}.{verb}", address) from error


def publisher(address: str | Address) -> Publisher:
    """Takes a name and publishes to whoever subscribes: shm, unix, tcp.

    Subscribers are let in by a thread of the publisher, at any time, without a call of yours. With
    no subscriber a message goes nowhere; the newest one is kept for whoever comes.

    Args:
        address: such as "shm://prices". On shm `capacity_bytes` is the size of the one ring that
            all subscribers share, and a message may have at most half of it; on unix and tcp
            `queue_bytes` is what may wait here for one slow subscriber.

    Raises:
        BadAddressError: before anything is created.
        NameTakenError: a living process has the name; a dead one's is taken over.
        UnsupportedError: a transport without publishers.
        NotPermittedError, LimitError, NoSpaceError.
    """
    return cast("Publisher", _make("publisher", address))


def subscriber(
    address: str | Address, policy: Policy = "block", timeout_s: float | None = 5.0
) -> Subscriber:
    """Subscribes to a publisher; waits while there is none yet.

    The first message is the newest that was published before, if there is one.

    Args:
        policy: what happens when this subscriber is slower than the publisher. "block": nothing is
            lost, the publisher waits. "drop_oldest": the publisher goes on, the oldest messages
            that were not received are lost and counted (`lost`). "latest": each receive gives the
            newest message; those before it are counted as lost.
        timeout_s: seconds to wait for the publisher; None = for ever, 0 = one try.

    Raises:
        ValueError: no such policy.
        NoSuchNameError: nobody published in time. TimedOutError: somebody does, but was too busy.
        NotPermittedError, ProtocolError (not naru), UnsupportedError, BadAddressError.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, not {policy!r}")
    return cast("Subscriber", _make("subscriber", address, policy, Deadline(timeout_s)))
