"""Pipes: a pair of them is a channel between a parent and its children.

The quickest way through the kernel for single small messages: 3 to 4 times a Unix socket's rate.
Source: pipe(7), fcntl(2) F_SETPIPE_SZ.
"""

from __future__ import annotations

import errno
import fcntl
import os

from naru._native.ends import Channel
from naru._native.opening import open_stream
from naru.address import Address
from naru.errors import from_os_error
from naru.settings import PipeSettings
from naru.transports.contract import Capabilities, Place
from naru.transports.pairs import make_pair

capabilities = Capabilities(
    transport="pipe",
    mechanism="two pipes",
    channel=False,
    pair=True,
    many_senders=False,
    order=True,
    reliable=True,
    back_pressure=True,
    descriptors=False,
    priority=False,
    in_place=False,
    peer_credentials=False,
    peer_death="at once",
    crosses_machines=False,
    max_message_bytes=lambda: PipeSettings().max_message_bytes,
)


def set_capacity(fd: int, capacity_bytes: int, address: Address) -> None:
    """Makes a pipe as large as asked; the default size is a wish, an explicit one an order."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, capacity_bytes)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EBUSY) and "capacity_bytes" not in address.options:
            return  # above fs.pipe-max-size, or this user's pipes are at their limit: 64 KiB then
        raise from_os_error(
            error, "pipe.open", address,
            detail=f"{capacity_bytes} bytes asked; fs.pipe-max-size and fs.pipe-user-pages-soft "
            "limit it",
        ) from error  # fmt: skip


def pair(address: Address) -> tuple[Channel, Channel]:
    """Two ends, joined by one pipe in each direction."""
    return make_pair(address, pair_fds(address))


def pair_fds(address: Address) -> tuple[list[int], list[int]]:
    """What open_pair_end() takes, for either end."""
    settings = PipeSettings.from_address(address)
    try:
        down_out, down_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise from_os_error(error, "pipe.pair", address) from error
    try:
        up_out, up_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        os.close(down_out)
        os.close(down_in)
        raise from_os_error(error, "pipe.pair", address) from error
    ends = ([up_out, down_in], [down_out, up_in])
    try:
        for fd in (down_in, up_in):
            set_capacity(fd, settings.capacity_bytes, address)
    except BaseException:
        for fd in (down_out, down_in, up_out, up_in):
            os.close(fd)
        raise
    return ends


def open_pair_end(address: Address, index: int, fds: list[int]) -> Channel:
    """One end from [where it reads, where it writes]."""
    settings = PipeSettings.from_address(address)
    end: Channel = open_stream(
        Channel, settings, "pipe", fds[0], fds[1], address=address, place=Place(settings)
    )
    return end
