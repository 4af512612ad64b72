"""What a descriptor is, and which system calls can move bytes between two of them.

Holds: the kinds, the table of methods. Must not know: paths, positions, waiting.
Joins: `transfer` and `pump` ask for the methods of a pair and hand them to a Mover, which tries them
in their order: the kernel has the last word (an O_APPEND target, another file system, an old kernel).
Source: sendfile(2), splice(2), copy_file_range(2); socket(7) for SO_TYPE.
"""

from __future__ import annotations

import os
import socket
import stat
from typing import Literal, TypeAlias

__all__ = ["METHODS", "Kind", "Method", "is_stream", "kind_of", "methods_between"]

Kind: TypeAlias = Literal["file", "pipe", "unix", "tcp", "socket", "device"]
"""file: a regular file or a memfd; pipe: also a FIFO; socket: any that is no stream."""

Method: TypeAlias = Literal["copy_file_range", "sendfile", "splice", "splice_pipe", "read_write"]

METHODS: tuple[Method, ...] = (
    "copy_file_range",
    "sendfile",
    "splice",
    "splice_pipe",
    "read_write",
)
"""From the one that copies least to the one that always works; splice_pipe is splice twice, through
a pipe of our own."""


def kind_of(fd: int) -> Kind:
    """Looks at an open descriptor. Raises: OSError when it is none."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISFIFO(mode):
        return "pipe"
    if not stat.S_ISSOCK(mode):
        return "device"
    with socket.socket(fileno=os.dup(fd)) as looked_at:
        if looked_at.type != socket.SOCK_STREAM:
            return "socket"
        return "unix" if looked_at.family == socket.AF_UNIX else "tcp"


def is_stream(kind: Kind) -> bool:
    """A connection, whose two directions end one by one."""
    return kind in ("unix", "tcp")


def methods_between(source: Kind, target: Kind) -> tuple[Method, ...]:
    """The methods to try, in their order; never empty, and the last one always works."""
    wanted: set[Method] = {"read_write"}
    if source == "file" and target == "file":
        wanted |= {"copy_file_range", "sendfile"}
    elif source == "file" and is_stream(target):
        wanted.add("sendfile")
    elif "device" not in (source, target):  # a driver that can splice is rare, and slower
        wanted.add("splice" if "pipe" in (source, target) else "splice_pipe")
    return tuple(method for method in METHODS if method in wanted)
