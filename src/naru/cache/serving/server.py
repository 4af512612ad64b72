"""CacheServer: the parent of the processes that serve a cache.

Holds: the listening sockets, the processes' mailboxes, and the processes themselves: one that ends is
started again, with the same sockets, so that nothing that waits in them is lost.
Must not know: connections, commands. Joins: cli/cache_serve.py runs it; process.py is what it starts.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Self

from naru._native.cache_server import PAGE_BYTES, PROCESSES_MOST
from naru.address import Address
from naru.address import parse as parse_address
from naru.cache.files import path_of
from naru.cache.serving.places import make_if_missing
from naru.cache.serving.plan import ProcessPlan, ServerSettings, pause_before_restart_s
from naru.engine import listening_socket
from naru.errors import ClosedError, NaruError, NotPermittedError, TimedOutError, UnsupportedError
from naru.transports.tcp import with_port

__all__ = ["CacheServer"]

READY_S = 30.0
"""For a process to be ready: it imports Python modules, perhaps on a busy machine."""
BACKLOG = 511
"""Clients that may wait to be accepted, as Redis: many come at once when a process was started again."""
WILDCARDS = ("0.0.0.0", "::")


@dataclass(slots=True)
class _Child:
    """One place for a process: what stays when the process goes."""

    number: int
    listeners: list[socket.socket]
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    ready_s: float = 0.0
    pause_s: float = 0.0
    due_s: float = 0.0
    restarts: int = 0


@dataclass(slots=True)
class _Shared:
    """What all processes have in common."""

    page: int
    pairs: list[tuple[socket.socket, socket.socket]]
    listeners: list[socket.socket] = field(default_factory=list)
    closers: list[Callable[[], object]] = field(default_factory=list)


class CacheServer:
    """Processes that speak Redis' protocol (RESP2, RESP3) over one cache.

    Args:
        name: of the cache, or the path of its file.
        bind: addresses, tcp://host:port and unix:///path, at least one.
        processes: 1 to 64; they share the addresses.
        size_bytes: makes the cache, when there is none.
        password: what AUTH must show; None: nothing is asked for.
        protected: without a password, it listens only where other machines cannot reach it.
        cluster: each process listens at its own TCP port (the port of the first tcp:// address, and
            those behind it) and answers for its share of the 16,384 slots, as Redis Cluster.
        settings: limits.

    Blocks nowhere but in start(), run() and close(). Raises: NoSuchNameError: there is no such cache,
    and no size was given; NameTakenError: somebody listens there; NotPermittedError: it would be
    reached from other machines, without a password; ValueError.
    """

    def __init__(
        self,
        name: str,
        *,
        bind: Sequence[str | Address],
        processes: int = 2,
        size_bytes: int | None = None,
        password: str | None = None,
        protected: bool = True,
        cluster: bool = False,
        settings: ServerSettings | None = None,
    ) -> None:
        if not 0 < processes <= PROCESSES_MOST:
            raise ValueError(f"processes={processes}: 1 to {PROCESSES_MOST}")
        if not bind:
            raise ValueError("bind: at least one address, such as tcp://127.0.0.1:6379")
        self.name = name
        self.processes = processes
        self.settings = settings or ServerSettings()
        self._password = password
        self._cluster = cluster
        self._asked = [parse_address(one) if isinstance(one, str) else one for one in bind]
        if password == "":
            raise ValueError("password: an empty one protects nobody; None: nothing is asked for")
        if protected and password is None:
            _refuse_strangers(name, self._asked)
        self._path = path_of(name)
        self._children: list[_Child] = []
        self._shared: _Shared | None = None
        self._closed = False
        self.addresses: list[Address] = []
        """Where it listens, with the ports that the kernel chose; in cluster mode one a process."""
        make_if_missing(self._path, size_bytes)

    # ---- starting ----

    def start(self) -> None:
        """Listens, and starts the processes. Returns when all of them are ready.

        Raises: NameTakenError and others of the addresses; NaruError: a process ended at once (it has
        said why on standard error); TimedOutError.
        """
        if self._closed:
            raise ClosedError("the cache server is closed", operation="cache.serve")
        if self._shared is not None:
            return
        self._shared = _Shared(
            page=os.memfd_create("naru-cache-server", os.MFD_CLOEXEC),
            pairs=[
                socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                for _ in range(self.processes)
            ],
        )
        try:
            os.ftruncate(self._shared.page, PAGE_BYTES)
            self._listen()
            self._await_ready([self._spawn_telling(child) for child in self._children])
        except BaseException:
            self.close(drain_s=0)
            raise

    def _listen(self) -> None:
        self._children = [_Child(number, []) for number in range(self.processes)]
        for address in self._asked:
            if address.transport == "tcp":
                self._listen_tcp(address)
            else:
                self._share(*self._bind(address))
        if self._cluster and not self._ports():
            raise UnsupportedError(
                "a cluster's processes have ports of their own: bind a tcp:// address",
                operation="cache.serve", address=str(self._asked[0]),
            )  # fmt: skip

    def _bind(
        self, address: Address, reuse_port: bool = False
    ) -> tuple[socket.socket, Address, Callable[[], object]]:
        assert self._shared is not None
        sock, real, close_name = listening_socket(address, reuse_port=reuse_port)
        if "backlog" not in address.options:
            sock.listen(BACKLOG)
        self._shared.listeners.append(sock)
        self._shared.closers.append(close_name)
        return sock, real, close_name

    def _share(self, sock: socket.socket, real: Address, _: object) -> None:
        """One socket for all: whoever is awake accepts."""
        self.addresses.append(real)
        for child in self._children:
            child.listeners.append(sock)

    def _listen_tcp(self, address: Address) -> None:
        """A socket for each process: with the same port, the kernel deals the clients out."""
        port = address.port or 0
        for child in self._children:
            own = with_port(address, port)
            sock, real, _ = self._bind(own, reuse_port=not self._cluster)
            child.listeners.append(sock)
            if self._cluster:
                self.addresses.append(real)
                port = port + 1 if port else 0
            else:
                port = real.port or 0
                if child.number == 0:
                    self.addresses.append(real)

    def _ports(self) -> list[int]:
        tcp = [address.port or 0 for address in self.addresses if address.transport == "tcp"]
        return tcp[: self.processes] if self._cluster else tcp[:1]

    def _cluster_host(self) -> str | None:
        if not self._cluster:
            return None
        host = next(str(one.host) for one in self.addresses if one.transport == "tcp")
        return "127.0.0.1" if host in WILDCARDS else host

    def _spawn_telling(self, child: _Child) -> int:
        """Starts its process. Returns: where it says that it is ready."""
        ready, says_ready = os.pipe()
        try:
            self._spawn(child, says_ready)
        except BaseException:
            os.close(ready)
            raise
        finally:
            os.close(says_ready)
        return ready

    def _spawn(self, child: _Child, says_ready: int | None = None) -> None:
        assert self._shared is not None
        told, tell = os.pipe()
        inbox = self._shared.pairs[child.number][0].fileno()
        outboxes = [pair[1].fileno() for pair in self._shared.pairs]
        listeners = [sock.fileno() for sock in child.listeners]
        ports = self._ports()
        plan = ProcessPlan(
            cache=self.name,
            path=str(self._path),
            parent=os.getpid(),
            process=child.number,
            processes=self.processes,
            listeners=listeners,
            page=self._shared.page,
            inbox=inbox,
            outboxes=outboxes,
            ready=says_ready,
            password=self._password,
            port=(ports[child.number] if self._cluster else ports[0]) if ports else 0,
            cluster_host=self._cluster_host(),
            cluster_ports=ports if self._cluster else [],
            settings=asdict(self.settings),
        )
        try:
            child.process = subprocess.Popen(
                [sys.executable, "-m", "naru.cache.serving.process", str(told)],
                stdin=subprocess.DEVNULL,
                pass_fds=[
                    told, self._shared.page, inbox, *outboxes, *listeners,
                    *([] if says_ready is None else [says_ready]),
                ],
            )  # fmt: skip
            # Not in its arguments, where everybody could read the password.
            os.write(tell, json.dumps(plan.as_dict()).encode())
        finally:
            os.close(told)
            os.close(tell)
        child.pidfd = os.pidfd_open(child.process.pid)
        child.ready_s = time.monotonic()

    def _await_ready(self, readies: list[int]) -> None:
        until_s = time.monotonic() + READY_S
        try:
            for child, ready in zip(self._children, readies, strict=True):
                if not select.select([ready], [], [], max(0.0, until_s - time.monotonic()))[0]:
                    raise TimedOutError(
                        f"cache server process {child.number}: not ready after {READY_S:.0f} s",
                        operation="cache.serve", address=self.name,
                    )  # fmt: skip
                if not os.read(ready, 16):
                    raise NaruError(
                        f"cache server process {child.number} ended at once; see above",
                        operation="cache.serve", address=self.name,
                    )  # fmt: skip
        finally:
            for ready in readies:
                os.close(ready)

    # ---- running ----

    @property
    def pids(self) -> list[int]:
        """Of the processes, in their order; 0 for one that is to be started again."""
        return [0 if child.process is None else child.process.pid for child in self._children]

    @property
    def restarts(self) -> int:
        """How often a process that had ended was started again."""
        return sum(child.restarts for child in self._children)

    def run(self, timeout_s: float | None = None) -> None:
        """Watches over the processes until a signal handler raises, or for so long. Starts first."""
        self.start()
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while until_s is None or time.monotonic() < until_s:
            self._watch(until_s)

    def _watch(self, until_s: float | None) -> None:
        """Sleeps until a process ends or is to be started, and does what is to be done."""
        dues = [child.due_s for child in self._children if child.process is None]
        if until_s is not None:
            dues.append(until_s)
        patience_s = max(0.0, min(dues) - time.monotonic()) if dues else None
        watched = {child.pidfd: child for child in self._children if child.process is not None}
        for fd in select.select(list(watched), [], [], patience_s)[0]:
            self._bury(watched[fd])
        now_s = time.monotonic()
        for child in self._children:
            if child.process is None and child.due_s <= now_s:
                self._spawn(child)
                child.restarts += 1

    def _bury(self, child: _Child) -> None:
        assert child.process is not None
        code = child.process.wait()
        os.close(child.pidfd)
        now_s = time.monotonic()
        child.pause_s = pause_before_restart_s(now_s - child.ready_s, child.pause_s)
        child.due_s = now_s + child.pause_s
        child.process, child.pidfd = None, -1
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        sys.stderr.write(
            f"naru: cache server process {child.number} ended ({how}); started again"
            + (f" in {child.pause_s:.1f} s\n" if child.pause_s else "\n")
        )

    # ---- ending ----

    def close(self, drain_s: float = 5.0) -> None:
        """Ends the processes: what they have begun is ended first, for at most drain_s. Idempotent."""
        self._closed = True
        living = [child for child in self._children if child.process is not None]
        for child in living:
            assert child.process is not None
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(signal.SIGTERM if drain_s > 0 else signal.SIGKILL)
        until_s = time.monotonic() + drain_s
        for child in living:
            assert child.process is not None
            try:
                child.process.wait(max(0.0, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            os.close(child.pidfd)
            child.process, child.pidfd = None, -1
        self._release()

    def _release(self) -> None:
        shared, self._shared = self._shared, None
        if shared is None:
            return
        for close_name in shared.closers:
            close_name()
        for sock in [*shared.listeners, *_flat(shared.pairs)]:
            sock.close()
        os.close(shared.page)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len([pid for pid in self.pids if pid])} processes"
        return f"<CacheServer {self.name} {state}>"

    def __del__(self) -> None:
        if getattr(self, "_shared", None) is not None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
            self.close(drain_s=0)


def _flat(pairs: list[tuple[socket.socket, socket.socket]]) -> Iterator[socket.socket]:
    for pair in pairs:
        yield from pair


def _refuse_strangers(name: str, asked: Sequence[Address]) -> None:
    """Whoever reached it could read and write everything."""
    for one in asked:
        if one.transport == "tcp" and not _is_loopback(str(one.host)):
            raise NotPermittedError(
                f'cache.serve "{name}": other machines could use {one} without a password: set one '
                "(NARU_CACHE_PASSWORD, --requirepass-file; password=), or say that they may "
                "(--unprotected; protected=False)",
                operation="cache.serve", address=one,
            )  # fmt: skip


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
