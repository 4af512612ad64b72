"""One process of a cache server: `python -m naru.cache.serving.process FD`, started by server.py.

Reads its plan (JSON) from the descriptor FD, serves until SIGTERM, then ends what it has begun.
Must not know: the other processes, but for the descriptors to them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from naru._native import cache_server
from naru._native.engine import raise_descriptor_limit
from naru.cache.files import next_names
from naru.cache.serving.places import open_file
from naru.cache.serving.plan import ProcessPlan, ServerSettings
from naru.engine import Engine
from naru.errors import NaruError

__all__ = ["main", "serve"]

LOOK_S = 1.0
"""How often it looks whether the cache was resized, and whether its parent lives."""
DRAIN_S = 5.0


def main(arguments: Sequence[str]) -> int:
    """Returns: the exit code; what went wrong is one line on standard error."""
    with open(int(arguments[0]), encoding="utf-8") as told:
        plan = ProcessPlan(**json.load(told))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent ends us
    try:
        serve(plan)
    except (NaruError, OSError) as error:
        sys.stderr.write(f"naru: cache server process {plan.process}: {error}\n")
        return 1
    return 0


def serve(plan: ProcessPlan) -> None:
    """Serves until SIGTERM."""
    raise_descriptor_limit()
    limits = ServerSettings(**plan.settings)
    server = _open(plan, limits)
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True
        engine.stop()

    with Engine() as engine:
        signal.signal(signal.SIGTERM, end)
        service = server.attach(
            engine,
            high_water_bytes=limits.high_water_bytes,
            output_limit_bytes=limits.output_limit_bytes,
            input_limit_bytes=_input_limit(limits),
            stall_timeout_s=limits.stall_timeout_s,
            idle_timeout_s=limits.idle_timeout_s,
        )
        for fd in plan.listeners:
            service.listen(socket.socket(fileno=fd))
        if plan.ready is not None:
            os.write(plan.ready, b"ready\n")
            os.close(plan.ready)
        # Not prctl(PR_SET_PDEATHSIG): that is the death of the thread that started us.
        while not ended and os.getppid() == plan.parent:
            engine.run(LOOK_S)
            if server.has_successor():
                _follow(server, plan)
        service.drain()
        until_s = time.monotonic() + DRAIN_S
        while service.statistics()["open"] and time.monotonic() < until_s:
            engine.run(until_s - time.monotonic())


def _input_limit(limits: ServerSettings) -> int:
    """Of one command with its arguments: what Redis calls client-query-buffer-limit."""
    largest = limits.value_bytes_most or 512 << 20
    return min((1 << 32) - 1, 2 * largest + (16 << 20))


def _open(plan: ProcessPlan, limits: ServerSettings) -> cache_server.CacheServer:
    fd = open_file(plan.path)
    try:
        return cache_server.CacheServer(
            fd,
            plan.page,
            name=plan.cache,
            path=plan.path,
            next_path=next_names(Path(plan.path)),
            process=plan.process,
            processes=plan.processes,
            inbox=plan.inbox,
            outboxes=plan.outboxes,
            password=plan.password,
            clients_most=limits.clients_most,
            value_bytes_most=limits.value_bytes_most,
            lock_wait_s=limits.lock_wait_s,
            cluster_host=plan.cluster_host,
            cluster_ports=plan.cluster_ports,
            port=plan.port,
            output_limit_bytes=limits.output_limit_bytes,
        )
    finally:
        os.close(fd)


def _follow(server: cache_server.CacheServer, plan: ProcessPlan) -> None:
    """Another file has the name of the cache now, and no client has asked for anything since."""
    fd = open_file(plan.path)
    try:
        server.change_table(fd)
    finally:
        os.close(fd)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
