"""Everything that makes things go wrong on purpose, in one place.

Holds nothing of its own:

    children      Child (kill, stop, continue), crash_children, unprivileged, until_sleeping
    events        Events: the words between a test and its children
    descriptors   open_descriptors, limited_descriptors
    injection     injected, each_failure: system calls that fail (strace)
    inventory     Inventory: what is left behind
    lossy         LossyProxy: a bad wire for UDP
"""

from __future__ import annotations

from naru.testing.children import Child, Crash, crash_children, unprivileged, until_sleeping
from naru.testing.descriptors import limited_descriptors, open_descriptors
from naru.testing.events import ChildError, Events, events_of_parent
from naru.testing.injection import Injected, can_inject, each_failure, injected
from naru.testing.inventory import Inventory
from naru.testing.lossy import LossyProxy, WireCounts

__all__ = [
    "Child",
    "ChildError",
    "Crash",
    "Events",
    "Injected",
    "Inventory",
    "LossyProxy",
    "WireCounts",
    "can_inject",
    "crash_children",
    "each_failure",
    "events_of_parent",
    "injected",
    "limited_descriptors",
    "open_descriptors",
    "unprivileged",
    "until_sleeping",
]
