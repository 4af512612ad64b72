"""A publisher that lies: subscribers check what it sends, by its length, number and place."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import socket
import struct
import threading
from typing import Any

import pytest
from helpers import fresh_address, scaled

import naru
from naru.runtime import runtime_directory
from naru.transports import hello

PATIENCE_S = 10.0
CAPACITY = 4096
TOTAL = 3 * 4096 + CAPACITY
POLICIES = ("block", "drop_oldest", "latest")
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def memfd(size_bytes: int, content: bytes, seals: int = SEALS) -> int:
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def ring(**lies: Any) -> int:
    header = struct.pack(
        "=8sIIQQQ", lies.get("magic", b"NARUCAST"), lies.get("version", 1), 0x01020304,
        lies.get("total", TOTAL), lies.get("capacity", CAPACITY), 0,
    )  # fmt: skip
    return memfd(lies.get("size", TOTAL), header, lies.get("seals", SEALS))


def slot(policy: int, start: int = 0) -> int:
    return memfd(4096, struct.pack("=8sIIIIQQ", b"NARUSLOT", 1, 0x01020304, policy, 0, start, 0))


class FakePublisher:
    """Greets one subscriber with whatever descriptors it is given."""

    def __init__(self, fds: list[int]) -> None:
        self.address = fresh_address("shm", "/tmp")
        self._fds = fds
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = runtime_directory() / f"shm.{self.address.removeprefix('shm://')}"
        self._path = str(path)
        self._listening.bind(self._path)
        self._listening.listen()
        self._thread = threading.Thread(target=self._greet)
        self._thread.start()
        self.connection: socket.socket | None = None

    def _greet(self) -> None:
        self.connection, _ = self._listening.accept()
        self.connection.recv(64)
        own = hello.Hello(hello.PUBLISHER, 1 << 20, 1)
        socket.send_fds(self.connection, [hello.pack(own)], self._fds)

    def close(self) -> None:
        self._thread.join()
        assert self.connection is not None
        self.connection.close()
        self._listening.close()
        os.unlink(self._path)
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def bells() -> list[int]:
    return [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]


@pytest.mark.parametrize(
    ("lies", "error"),
    [
        ({"magic": b"NARUSHM1"}, naru.ProtocolError),
        ({"version": 2}, naru.ProtocolError),
        ({"seals": fcntl.F_SEAL_GROW}, naru.ProtocolError),
        ({"size": 4096}, naru.ProtocolError),
        ({"total": TOTAL + 4096}, naru.CorruptedError),
        ({"capacity": 0}, naru.CorruptedError),
        ({"capacity": 1 << 62}, naru.CorruptedError),
        ({"capacity": 5000}, naru.CorruptedError),
    ],
)
def test_memory_that_does_not_check_out_is_refused(
    bells: list[int], lies: dict[str, Any], error: type[naru.NaruError]
) -> None:
    fake = FakePublisher([ring(**lies), slot(0), *bells])
    with pytest.raises(error):
        naru.subscriber(fake.address, timeout_s=PATIENCE_S)
    fake.close()


def test_a_strange_slot_is_refused(bells: list[int]) -> None:
    for bad in (slot(3), slot(0, start=4), memfd(8192, b"")):
        fake = FakePublisher([ring(), bad, *(os.dup(bell) for bell in bells)])
        with pytest.raises((naru.CorruptedError, naru.ProtocolError)):
            naru.subscriber(fake.address, timeout_s=PATIENCE_S)
        fake.close()
    for bell in bells:
        os.close(bell)


def test_other_descriptors_than_four_are_refused(bells: list[int]) -> None:
    fake = FakePublisher([ring(), slot(0), bells[0]])
    with pytest.raises(naru.ProtocolError, match="3 descriptors"):
        naru.subscriber(fake.address, timeout_s=PATIENCE_S)
    fake.close()
    os.close(bells[1])


def test_a_bell_that_is_none_is_refused(bells: list[int]) -> None:
    os.close(bells[1])
    fake = FakePublisher([ring(), slot(0), bells[0], os.open("/dev/null", os.O_RDWR)])
    with pytest.raises(naru.ProtocolError, match="doorbell that is none"):
        naru.subscriber(fake.address, timeout_s=PATIENCE_S)
    fake.close()


def record(length: int, sequence: int = 0, flags: int = 0) -> bytes:
    return struct.pack("=IIQ", length, flags, sequence)


LIES = {
    "the tail beyond the ring": (0, struct.pack("=Q", 1 << 40), record(8)),
    "an uneven tail": (0, struct.pack("=Q", 12), record(8)),
    "a tail that goes back": (0, struct.pack("=q", -8), record(8)),
    "a length beyond the tail": (0, struct.pack("=Q", 24), record(1000)),
    "a length beyond the ring": (0, struct.pack("=Q", 24), record(0xFFFFFFF0)),
    "unknown flags": (0, struct.pack("=Q", 24), record(8, flags=1)),
    "a number from the future's past": (0, struct.pack("=Q", 24), record(8, sequence=1 << 63)),
    "less than a header": (0, struct.pack("=Q", 8), record(0)),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lie", LIES)
def test_lies_in_the_ring_are_corruption(bells: list[int], lie: str, policy: Any) -> None:
    place, words, content = LIES[lie]
    data = ring()
    fake = FakePublisher([data, slot(POLICIES.index(policy)), *bells])
    with naru.subscriber(fake.address, policy, timeout_s=PATIENCE_S) as subscriber:
        with mmap.mmap(data, TOTAL) as memory:
            memory[12288 : 12288 + len(content)] = content
            memory[4096 + place : 4096 + place + 8] = words
        with pytest.raises(naru.CorruptedError):
            subscriber.receive(timeout_s=PATIENCE_S)
        with pytest.raises(naru.CorruptedError):
            subscriber.try_receive()  # it stays so
    fake.close()


@pytest.mark.watchdog(60)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_publisher_that_writes_at_random_crashes_nobody(bells: list[int], policy: Any) -> None:
    dice = random.Random(5)
    for _ in range(scaled(30, 2000)):
        data = ring()
        own = [os.dup(bell) for bell in bells]
        fake = FakePublisher([data, slot(POLICIES.index(policy)), *own])
        with naru.subscriber(fake.address, policy, timeout_s=PATIENCE_S) as subscriber:
            with mmap.mmap(data, TOTAL) as memory:
                for _ in range(40):
                    at = dice.choice([4096, 4104, 4224, 4352, 12288 + 8 * dice.randrange(512)])
                    number = dice.choice([8, 24, 4096, dice.randrange(1 << 12), 1 << 63])
                    memory[at : at + 8] = struct.pack("=Q", number)
                    try:
                        while len(subscriber.try_receive() or b"") > 0:
                            pass
                    except (naru.CorruptedError, naru.PeerGoneError):
                        break
        fake.close()
    for bell in bells:
        os.close(bell)


@pytest.mark.parametrize("length", [0, 4, 9, 1 << 20])
def test_a_gap_of_another_size_breaks_the_protocol(length: int) -> None:
    name = f"\0hostile-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        listening.listen()

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(hello.HELLO_BYTES, socket.MSG_WAITALL)
                connection.sendall(hello.pack(hello.Hello(hello.PUBLISHER, 1 << 20, 0)))
                connection.sendall(struct.pack("=II", 5, 0) + b"first")
                connection.sendall(struct.pack("=IIQ", 8, 32, 7))
                connection.sendall(struct.pack("=II", 6, 0) + b"second")
                connection.sendall(struct.pack("=II", length, 32) + bytes(16))
                connection.recv(1)

        thread = threading.Thread(target=greet)
        thread.start()
        with naru.subscriber(f"unix:@{name[1:]}", timeout_s=PATIENCE_S) as subscriber:
            assert subscriber.receive(timeout_s=PATIENCE_S) == b"first"
            assert subscriber.lost == 0
            assert subscriber.receive(timeout_s=PATIENCE_S) == b"second"
            assert subscriber.lost == 7
            with pytest.raises(naru.ProtocolError):
                subscriber.receive(timeout_s=PATIENCE_S)
        thread.join()
