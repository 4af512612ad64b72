"""37: a hostile server hands a naru client every kind of wrong segment, descriptor and hello.

The client lives, raises a naru error, keeps no descriptor, does not hang. native/tests/test_segment.c
and the fuzz targets do the same to the C core alone; here everything above it takes part.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shm_helpers import (
    CHANNEL,
    PAGE,
    SEAL_GROW,
    SEAL_SEAL,
    SEAL_SHRINK,
    SEAL_WRITE,
    SEALS,
    SENDER,
    Memory,
    RawServer,
    hello,
)
from victims import Outcome, Victim

import naru

BAD = (naru.ProtocolError, naru.CorruptedError)
TOTAL = 3 * PAGE + 2 * 65536


@pytest.fixture
def server(runtime: str) -> Iterator[RawServer]:
    with RawServer(f"{runtime}/hostile") as made:
        yield made


def visit(address: str, patience_s: float = 2.0) -> None:
    """A client that connects and uses both directions."""
    with naru.connect(address, timeout_s=patience_s) as channel:
        channel.send(b"x" * 100, timeout_s=0.1)
        channel.receive(timeout_s=0.1)


def check(outcome: Outcome, leaves: tuple[type[naru.NaruError], ...]) -> None:
    assert issubclass(outcome.error or object, leaves), outcome
    assert outcome.leaked == []
    assert outcome.grown_bytes < 16 << 20, "a segment of 150 KB"


def judge(
    server: RawServer, answer: Callable[[], Any], leaves: tuple[type[naru.NaruError], ...]
) -> None:
    """Lets one client come, gives it the answer, and looks at what became of it."""
    with Victim(visit, server.address) as client:
        server.accept()
        answer()
        check(client.outcome(), leaves)


def talk(address: str) -> str:
    with naru.connect(address) as channel:
        channel.send(b"from naru")
        return channel.receive(timeout_s=2.0).decode()


def test_37_an_honest_segment_by_hand_is_taken(server: RawServer) -> None:
    """Otherwise every refusal below would prove nothing."""
    with Memory.create() as memory, Victim(talk, server.address) as victim:
        assert server.accept()[:4] == b"NARU"
        memory.put(0, b"by hand")
        server.answer(memory)
        assert victim.outcome().value == "by hand"
        assert memory.map[3 * PAGE + 65536 :][8:17] == b"from naru"


HEADERS: dict[str, dict[str, Any]] = {
    "another magic": {"magic": b"NARUSHM2"},
    "no magic": {"magic": bytes(8)},
    "version 0": {"version": 0},
    "version 2": {"version": 2},
    "version 2^32-1": {"version": 2**32 - 1},
    "the other byte order": {"byte_order": 0x04030201},
    "no byte order": {"byte_order": 0},
    "total 0": {"total_bytes": 0},
    "total + 1": {"total_bytes": TOTAL + 1},
    "total + a page": {"total_bytes": TOTAL + PAGE},
    "total 2^63": {"total_bytes": 2**63},
    "total 2^64-1": {"total_bytes": 2**64 - 1},
    "capacities 0": {"capacity": (0, 0)},
    "capacities 1": {"capacity": (1, 1)},
    "capacity uneven": {"capacity": (65535, 65537)},
    "capacity not of pages": {"capacity": (65536 - 8, 65536 + 8)},
    "capacity above the file": {"capacity": (2 * 65536, 65536)},
    "capacity 2^31": {"capacity": (2**31, 2**31)},
    "capacity 2^40 + a page": {"capacity": (2**40 + PAGE, 65536)},
    "capacity 2^63": {"capacity": (2**63, 2**63)},
    "capacity 2^64 - a page": {"capacity": (2**64 - PAGE, 65536)},
    "capacities overflow to the right sum": {"capacity": (2**64 - PAGE, 2 * 65536 + PAGE)},
    "start uneven": {"first_position": 1},
    "start 4": {"first_position": 4},
    "start 2^64-1": {"first_position": 2**64 - 1},
    "only the ring to the client": {"capacities": (2 * 65536, 0)},
    "only the ring to the server": {"capacities": (0, 2 * 65536)},
    "no ring": {"capacities": (0, 0)},
    "a page short": {"size": TOTAL - PAGE},
    "a byte short": {"size": TOTAL - 1},
    "a page more": {"size": TOTAL + PAGE},
    "empty": {"size": 0},
    "8 bytes": {"size": 8},
    "one page": {"size": PAGE},
    "the control pages cut": {"size": 3 * PAGE - 1},
    "unsealed": {"seals": 0},
    "sealed against shrinking only": {"seals": SEAL_SHRINK | SEAL_SEAL},
    "sealed against growing only": {"seals": SEAL_GROW | SEAL_SEAL},
    "sealed against writing": {"seals": SEALS | SEAL_WRITE},
    "a plain file": {"kind": "file"},
}  # fmt: skip


def test_37_wrong_segments(server: RawServer) -> None:
    with Victim(visit, server.address, times=len(HEADERS)) as client:
        for lie, facts in HEADERS.items():
            with Memory.create(**facts) as memory:
                server.accept()
                server.answer(memory)
                print(lie)  # the last one printed is the one that was too much
                check(client.outcome(), BAD)


@pytest.mark.parametrize(
    "kind", ["socket", "pipe", "eventfd", "directory", "/dev/zero", "/dev/shm"]
)
def test_37_the_segment_is_no_memory_at_all(server: RawServer, kind: str, runtime: str) -> None:
    fds: list[int] = []
    if kind == "socket":
        a, b = socket.socketpair()
        fds += [a.detach(), b.detach()]
    elif kind == "pipe":
        fds += os.pipe()
    elif kind == "eventfd":
        fds.append(os.eventfd(0))
    elif kind == "/dev/shm":
        fds.append(os.open(kind, os.O_TMPFILE | os.O_RDWR, 0o600))
        os.truncate(fds[0], TOTAL)
    else:
        fds.append(os.open(runtime if kind == "directory" else kind, os.O_RDONLY))
    try:
        judge(server, lambda: server.answer_with([fds[0], *server.bells.fds]), (naru.NaruError,))
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 6, 253])
def test_37_wrong_number_of_descriptors(server: RawServer, count: int) -> None:
    with Memory.create() as memory:
        fds = ([memory.fd, *server.bells.fds] * 51)[:count]
        judge(server, lambda: server.answer_with(fds), (naru.ProtocolError,))


ANSWERS: dict[str, bytes] = {
    "one byte": b"N",
    "15 bytes": hello()[:15],
    "17 bytes": hello() + b"\0",
    "64 KiB": hello() * 4096,
    "another magic": hello(magic=b"MARU"),
    "the other byte order": hello()[3::-1] + hello()[4:],
    "version 0": hello(version=0),
    "version 2": hello(version=2),
    "kind 0": hello(kind=0),
    "kind 4": hello(kind=4),
    "a sender": hello(kind=SENDER),
    "limit 0": hello(limit=0),
    "refused for no reason": hello(kind=0x100, extra=0),
    "refused for a reason that is none": hello(kind=0x100, extra=2**32 - 1),
    "http": b"HTTP/1.1 400 Bad",
    "pickle": b"cos\nsystem\n(S'touch pwned'\ntR.",
}


def test_37_wrong_hellos(server: RawServer) -> None:
    with Victim(visit, server.address, times=len(ANSWERS)) as client:
        for lie, data in ANSWERS.items():
            with Memory.create() as memory:
                server.accept()
                server.answer_with([memory.fd, *server.bells.fds], data)
                print(lie)
                check(client.outcome(), (naru.NaruError,))


def test_37_a_server_that_hangs_up_is_asked_again(server: RawServer) -> None:
    """It may be on its way out, and the next one on its way in."""
    with Victim(talk, server.address) as client, Memory.create() as memory:
        server.accept()
        server.answer_with([], b"")
        server.accept()
        server.close_lifeline()
        server.accept()
        memory.put(0, b"by hand")
        server.answer(memory)
        assert client.outcome().value == "by hand"


def test_37_a_server_of_another_socket_type(runtime: str) -> None:
    with RawServer(f"{runtime}/hostile", socket.SOCK_STREAM) as server:
        with Victim(visit, server.address) as client:
            check(client.outcome(), (naru.NaruError,))


def test_37_a_server_that_says_nothing_does_not_hold_the_client(server: RawServer) -> None:
    with Victim(visit, server.address, 0.3) as client:
        server.accept()
        check(client.outcome(), (naru.TimedOutError,))


def _bells(kind: str, server: RawServer) -> list[int]:
    """Four descriptors that are no good doorbells."""
    if kind == "one and the same":
        return [os.dup(server.bells.fds[0]) for _ in range(4)]
    if kind == "blocking":
        return [os.eventfd(0) for _ in range(4)]
    if kind == "blocking and full":
        return [os.eventfd(0) for _ in range(4)]
    if kind == "semaphores":
        return [os.eventfd(2**31, os.EFD_SEMAPHORE | os.EFD_NONBLOCK) for _ in range(4)]
    if kind == "pipes":
        return [*os.pipe(), *os.pipe()]
    if kind == "pipes, turned around":
        return [*os.pipe()[::-1], *os.pipe()[::-1]]
    if kind == "files":
        return [os.open("/tmp", os.O_TMPFILE | os.O_RDWR) for _ in range(4)]
    if kind == "sockets":
        return [sock.detach() for _ in range(2) for sock in socket.socketpair()]
    return [os.memfd_create("bell") for _ in range(4)]


@pytest.mark.parametrize(
    "kind",
    ["one and the same", "blocking", "blocking and full", "semaphores", "pipes",
     "pipes, turned around", "files", "sockets", "memfds"],
)  # fmt: skip
def test_37_doorbells_that_are_none(server: RawServer, kind: str) -> None:
    """Reading or ringing a bell must never block: the process would hang with the GIL held."""
    bells = _bells(kind, server)
    try:
        if kind == "blocking and full":
            for bell in bells:
                os.eventfd_write(bell, 2**64 - 2)
        with Memory.create() as memory, Victim(visit, server.address) as client:
            server.accept()
            for ring in range(2):
                memory.set_word(ring, "consumer_sleeps", 1)
                memory.set_word(ring, "producer_wants", 1)
            server.answer_with([memory.fd, *bells], hello(CHANNEL))
            check(client.outcome(), (naru.NaruError,))
    finally:
        for bell in bells:
            os.close(bell)
