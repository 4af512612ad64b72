"""A lossy wire for UDP: a proxy that drops, repeats and reorders datagrams by a seed, and counts.

For machines without netem. Both directions pass through it; every client gets a socket of its own
to the target, so that the target sees as many clients as there are.
Holds: LossyProxy, WireCounts.
Must not know: what is in a datagram (the test may say which to spare).
"""

from __future__ import annotations

import random
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

__all__ = ["LossyProxy", "WireCounts"]

MAX_DATAGRAM = 65535


@dataclass(frozen=True, slots=True)
class WireCounts:
    """What one direction of a LossyProxy did to the datagrams that were not spared."""

    passed: int = 0
    """Delivered, once or twice, in time or late."""
    dropped: int = 0
    duplicated: int = 0
    reordered: int = 0
    """Held back until after the next one."""


class _Direction:
    def __init__(self, chance: random.Random, proxy: LossyProxy) -> None:
        self.counts = WireCounts()
        self._chance, self._proxy = chance, proxy
        self._held: tuple[Callable[[bytes], object], bytes] | None = None

    def pass_on(self, data: bytes, send: Callable[[bytes], object]) -> None:
        if not self._proxy.may_harm(data):
            send(data)
            return
        fate = self._chance.random()
        proxy = self._proxy
        if fate < proxy.drop:
            self._count(dropped=1)
            return
        fate -= proxy.drop
        if fate < proxy.reorder and self._held is None:
            self._held = (send, data)
            self._count(passed=1, reordered=1)
            return
        fate -= proxy.reorder
        twice = 0 <= fate < proxy.duplicate
        self._count(passed=1, duplicated=int(twice))  # before anybody can have received it
        send(data)
        if twice:
            send(data)
        self.release()

    def release(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            held[0](held[1])

    def _count(self, **more: int) -> None:
        self.counts = replace(
            self.counts, **{name: getattr(self.counts, name) + n for name, n in more.items()}
        )


class LossyProxy:
    """Stands before a UDP address; `with LossyProxy(("127.0.0.1", 7000), drop=0.1) as proxy:`."""

    def __init__(
        self,
        target: tuple[str, int],
        *,
        drop: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        seed: int = 1,
        may_harm: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        """
        Args:
            drop, duplicate, reorder: probabilities per datagram; their sum is at most 1.
            may_harm: False for the datagrams that must pass, such as greetings and heartbeats.
        """
        if drop + duplicate + reorder > 1:
            raise ValueError("drop + duplicate + reorder must be at most 1")
        self.drop, self.duplicate, self.reorder = drop, duplicate, reorder
        self.may_harm = may_harm
        self._target = target
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self._front = socket.socket(family, socket.SOCK_DGRAM)
        self._front.bind((target[0], 0))
        self.address: tuple[str, int] = self._front.getsockname()[:2]
        """Where clients send to."""
        self._to_target = _Direction(random.Random(f"{seed} there"), self)
        self._to_client = _Direction(random.Random(f"{seed} back"), self)
        self._clients: dict[Any, socket.socket] = {}
        self._quit_reading, self._quit_writing = socket.socketpair()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="lossy-proxy")
        self._thread.start()

    @property
    def to_target(self) -> WireCounts:
        """What happened on the way to the target."""
        return self._to_target.counts

    @property
    def to_client(self) -> WireCounts:
        """What happened on the way back."""
        return self._to_client.counts

    def release(self) -> None:
        """Lets go of a datagram that is held back: call it before the last one, or at the end."""
        with self._lock:
            self._to_target.release()
            self._to_client.release()

    def _run(self) -> None:
        poll = select.poll()
        by_fd: dict[int, tuple[socket.socket, Any]] = {self._front.fileno(): (self._front, None)}
        poll.register(self._front, select.POLLIN)
        poll.register(self._quit_reading, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._quit_reading.fileno():
                    return
                sock, client = by_fd[fd]
                try:
                    data, sender = sock.recvfrom(MAX_DATAGRAM)
                except ConnectionRefusedError:
                    continue  # the target has gone: what a wire does not tell
                with self._lock:
                    if client is not None:
                        self._to_client.pass_on(data, self._sender_back_to(client))
                        continue
                    if sender not in self._clients:
                        self._clients[sender] = back = socket.socket(sock.family, socket.SOCK_DGRAM)
                        back.connect(self._target)
                        by_fd[back.fileno()] = (back, sender)
                        poll.register(back, select.POLLIN)
                    self._to_target.pass_on(data, self._sender_to(self._clients[sender]))

    def _sender_back_to(self, client: Any) -> Callable[[bytes], object]:
        return lambda data: self._front.sendto(data, client)

    def _sender_to(self, back: socket.socket) -> Callable[[bytes], object]:
        def send(data: bytes) -> None:
            try:
                back.send(data)
            except ConnectionRefusedError:
                back.send(data)  # that was the answer to an earlier one; this one is on its way now

        return send

    def close(self) -> None:
        """Ends the wire, releasing what is held back. Idempotent."""
        if not self._thread.is_alive() and self._front.fileno() < 0:
            return
        self._quit_writing.send(b"q")
        self._thread.join()
        self.release()
        for sock in (self._front, self._quit_reading, self._quit_writing, *self._clients.values()):
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
