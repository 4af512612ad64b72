"""Files and streams of bytes: moved without copying, and looked through in windows.

    kinds       what a descriptor is, and which system calls move bytes between two kinds  (pure)
    places      a path, a file object, a socket or a number -> an open descriptor with its position
    failures    what went wrong, with the byte at which it did
    transfer    transfer(): one direction, to the end or an error
    pump        Pump: two streams joined in both directions
    windows     windows(), count_lines(): a huge file in pieces of whole records
    mapping     map_reduce(): a function over the windows, in several processes
    worker      the process that mapping starts

Bytes below `transfer` and `Pump` never become Python objects; the work is in naru._native.moving and
naru._native.scanning. Nothing here knows messages: an end of naru is used with `framing=raw` only.
"""

from __future__ import annotations

from naru._native.scanning import Window
from naru.files.mapping import map_reduce
from naru.files.pump import Pump, PumpStatistics
from naru.files.transfer import Transferred, transfer
from naru.files.windows import count_lines, windows

__all__ = [
    "Pump",
    "PumpStatistics",
    "Transferred",
    "Window",
    "count_lines",
    "map_reduce",
    "transfer",
    "windows",
]
