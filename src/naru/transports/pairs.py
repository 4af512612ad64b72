"""Both ends in one hand: naru.pair(), and how an unused end travels to another process.

Each end belongs to the first process that uses it (native/include/naru/claims.h). An end that was
not used yet pickles: its descriptors go along (multiprocessing's spawn, fork and forkserver).
Must not know: any mechanism; a transport gives the descriptors and a function that opens an end
from them.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from naru._native.ends import Channel
from naru._native.opening import create_claims, join_pair, rejoin_pair
from naru.address import Address, parse_pair

__all__ = ["make_pair"]


class Recipe:
    """How one end is made again in another process."""

    def __init__(self, address: Address, index: int, fds: list[int], claims_fd: int) -> None:
        self.address, self.index, self.fds, self.claims_fd = address, index, fds, claims_fd

    def reduce(self, cls: type[Channel]) -> tuple[Any, ...]:
        """What pickle wants."""
        from multiprocessing.reduction import DupFd

        fds = [DupFd(fd) if fd >= 0 else None for fd in (*self.fds, self.claims_fd)]
        return _remake, (str(self.address), self.index, fds)


def _remake(address_text: str, index: int, duplicates: list[Any]) -> Channel:
    address = parse_pair(address_text)
    fds = [-1 if duplicate is None else duplicate.detach() for duplicate in duplicates]
    for fd in fds:
        if fd >= 0:
            os.set_inheritable(fd, False)
    *fds, claims_fd = fds
    transport = importlib.import_module(f"naru.transports.{address.transport}")
    end: Channel = transport.open_pair_end(address, index, fds)
    rejoin_pair(end, claims_fd, index, Recipe(address, index, fds, claims_fd))
    return end


def make_pair(
    address: Address, fds_of_ends: tuple[list[int], list[int]]
) -> tuple[Channel, Channel]:
    """Opens both ends from their descriptors (taken over, also when this fails)."""
    transport = importlib.import_module(f"naru.transports.{address.transport}")
    ends: list[Channel] = []
    try:
        claims_fd = create_claims()
        try:
            for index, fds in enumerate(fds_of_ends):
                ends.append(transport.open_pair_end(address, index, fds))
            a, b = (Recipe(address, index, fds, claims_fd) for index, fds in enumerate(fds_of_ends))
            join_pair(ends[0], ends[1], claims_fd, (a, b))
        except BaseException:
            os.close(claims_fd)
            raise
    except BaseException:
        for end in ends:
            end.close()
        for fds in fds_of_ends[len(ends) :]:
            for fd in set(fds):
                if fd >= 0:
                    os.close(fd)
        raise
    return ends[0], ends[1]
