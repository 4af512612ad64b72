"""One loop for everything that can happen to a process; naru.Reactor.

Map:

    reactor      Reactor: the verbs
    accepting    connections, from naru's listeners and plain sockets
    changes      files and directories: inotify
    statistics   what a reactor counts

The loop itself is native: naru._native.reactor over native/engine.
"""

from __future__ import annotations

from naru._native.reactor import Registration
from naru.reactor.changes import Change
from naru.reactor.reactor import Reactor
from naru.reactor.statistics import ReactorStatistics, SlowCallback

__all__ = ["Change", "Reactor", "ReactorStatistics", "Registration", "SlowCallback"]
