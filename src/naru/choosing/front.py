"""`naru.choose(...)`: which transport, on this machine.

Holds: the one function that looks at the machine: its profile, and what its transports can.
Must not know: how the choice is made (policy).
"""

from __future__ import annotations

from pathlib import Path

from naru.choosing.needs import DEFAULT_SIZE_BYTES, Goal, Needs, Sizes, Wait, sizes_of
from naru.choosing.policy import Choice, Policy
from naru.choosing.policy import choose as decide
from naru.choosing.profile import load_profile
from naru.transports import capabilities

__all__ = ["choose"]


def choose(
    size_bytes: Sizes = DEFAULT_SIZE_BYTES,
    *,
    rate_per_s: float | None = None,
    batch: bool = False,
    goal: Goal = "latency",
    wait: Wait = "adaptive",
    two_way: bool = False,
    several_senders: bool = False,
    related: bool = False,
    reliable: bool = True,
    ordered: bool = True,
    boundaries: bool = True,
    descriptors: bool = False,
    priority: bool = False,
    in_place: bool = False,
    other_users: bool = False,
    other_machine: bool = False,
    policy: Policy = "measured",
    profile: str | Path | None = None,
) -> Choice:
    """Says which transport is the best for these needs on this machine, and why.

    Reads the profile that `naru probe` wrote, or without one the profile shipped with naru, and
    says so in `Choice.warnings`. Measures nothing, opens nothing; takes about a millisecond.

    Args:
        size_bytes: Of a message, from 0 to 1 GiB; or weights by size: {64: 9, 65536: 1}.
        rate_per_s: Messages a second. A transport that does not carry them is rejected; and where
            they are rare, what counts is the round trip of a sleeper. None: as many as go.
        batch: Messages come by the dozen (send_many, receive_many).
        goal: "latency", the shortest round trip, or "throughput".
        wait: How the ends will wait: "adaptive", "spin" or "sleep".
        two_way: Answers come back the same way.
        several_senders: Many processes send to one.
        related: A parent and its child, for which naru.pair will do.
        reliable: Nothing may be lost while both sides live.
        ordered: The messages of one sender must not overtake each other.
        boundaries: Messages stay whole; every transport of naru keeps them.
        descriptors: Open files travel with messages.
        priority: Urgent messages overtake others.
        in_place: Messages are written and read where they lie.
        other_users: The two sides run as different users.
        other_machine: The two sides run on different machines.
        policy: "measured", or "textbook": a fixed rule of size and rate, to compare with.
        profile: Another profile's file.

    Returns:
        The choice with its predictions, reasons, and what was rejected.

    Raises:
        UnsupportedError: No transport can do all of this; the text says what each one lacks.
        ValueError, TypeError: A need that cannot be.
        CorruptedError, NoSuchNameError: `profile` names no profile.
    """
    needs = Needs(
        sizes=sizes_of(size_bytes), rate_per_s=rate_per_s, batch=batch, goal=goal, wait=wait,
        two_way=two_way, several_senders=several_senders, related=related, reliable=reliable,
        ordered=ordered, boundaries=boundaries, descriptors=descriptors, priority=priority,
        in_place=in_place, other_users=other_users, other_machine=other_machine,
    )  # fmt: skip
    if policy not in ("measured", "textbook"):
        raise ValueError(f"policy must be measured or textbook, not {policy!r}")
    measured, warnings = load_profile(profile)
    return decide(needs, measured, capabilities(), policy=policy, warnings=warnings)
