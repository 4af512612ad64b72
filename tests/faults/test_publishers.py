"""Publish/subscribe when things go wrong: a subscriber that dies, stops or lies hurts nobody else."""

from __future__ import annotations

import array
import mmap
import os
import random
import socket
import struct
import textwrap
import time
from collections.abc import Callable
from typing import Any

import pytest
from helpers import fresh_address, run_python, scaled

import naru
from naru.runtime import runtime_directory
from naru.testing.faults import Child, Events
from naru.transports import hello

PATIENCE_S = 20.0
KINDS = ("shm", "abstract", "tcp")


def publisher_at(kind: str, directory: Any = "/tmp") -> naru.Publisher:
    size = "capacity_bytes" if kind == "shm" else "queue_bytes"
    return naru.publisher(fresh_address(kind, str(directory), **{size: 65536}))


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


def read_for_ever(events: Events, address: str, policy: Any) -> None:
    with naru.subscriber(address, policy, timeout_s=PATIENCE_S) as subscriber:
        events.tell("subscribed")
        for message in subscriber:
            number = int(message[:8])
            assert message[8:] == bytes([number % 251]) * (len(message) - 8)


def never_read(events: Events, address: str, policy: Any) -> None:
    subscriber = naru.subscriber(address, policy, timeout_s=PATIENCE_S)
    events.tell("subscribed")
    events.expect("never", PATIENCE_S)
    subscriber.close()


def message_of(number: int) -> bytes:
    return b"%08d" % number + bytes([number % 251]) * (number % 3000)


@pytest.mark.watchdog(60)
@pytest.mark.parametrize("policy", ["block", "drop_oldest", "latest"])
@pytest.mark.parametrize("kind", KINDS)
def test_subscribers_that_are_killed_at_any_time_hurt_nobody(kind: str, policy: str) -> None:
    dice = random.Random(7)
    number = 0
    with publisher_at(kind) as publisher:
        with naru.subscriber(publisher.address) as survivor:
            expected = 0
            for _ in range(scaled(6, 200)):
                with Child.run(read_for_ever, str(publisher.address), policy) as child:
                    child.expect("subscribed")
                    for _ in range(dice.randrange(1, 200)):
                        while not publisher.try_publish(message_of(number)):
                            expected += take(survivor, expected)
                        number += 1
                    assert child.kill() == -9
                for _ in range(100):  # one that died in the way is out of the way
                    while not publisher.try_publish(message_of(number)):
                        expected += take(survivor, expected)
                    number += 1
            while expected < number:
                expected += take(survivor, expected)
            assert survivor.lost == 0
        until(lambda: publisher.subscribers == [])


def take(survivor: naru.Subscriber, expected: int) -> int:
    """Everything that is there; gives how many."""
    taken = 0
    while (message := survivor.try_receive()) is not None:
        assert message == message_of(expected + taken)
        taken += 1
    return taken


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["drop_oldest", "latest"])
def test_a_stopped_subscriber_that_drops_costs_the_others_nothing(kind: str, policy: str) -> None:
    with publisher_at(kind) as publisher:
        with Child.run(read_for_ever, str(publisher.address), policy) as child:
            child.expect("subscribed")
            child.stop()
            with naru.subscriber(publisher.address) as other:
                for number in range(2000):
                    publisher.publish(message_of(number), timeout_s=PATIENCE_S)
                    assert other.receive(timeout_s=PATIENCE_S) == message_of(number)
            child.go_on()
            publisher.publish(message_of(2000))
            publisher.close()
            child.check()  # it found every message whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_block_subscriber_is_named_and_its_death_frees_the_publisher(kind: str) -> None:
    with publisher_at(kind) as publisher:
        with Child.run(never_read, str(publisher.address), "block") as child:
            child.expect("subscribed")
            child.stop()
            while publisher.try_publish(bytes(4000)):
                pass
            named = "bytes behind" if kind == "tcp" else f"process {child.pid}"
            with pytest.raises(naru.TimedOutError, match=named):
                publisher.publish(bytes(4000), timeout_s=0.05)
            child.kill()
            publisher.publish(bytes(4000), timeout_s=PATIENCE_S)
        until(lambda: publisher.subscribers == [])
        assert publisher.statistics().peers_lost == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_subscriber_that_dies_while_the_publisher_waits(kind: str) -> None:
    with publisher_at(kind) as publisher:
        with Child.run(never_read, str(publisher.address), "block") as child:
            child.expect("subscribed")
            while publisher.try_publish(bytes(4000)):
                pass
            with Child.run(kill_later, child.pid):
                publisher.publish(bytes(4000), timeout_s=PATIENCE_S)


def kill_later(events: Events, pid: int) -> None:
    time.sleep(0.05)
    os.kill(pid, 9)


def publish_for_ever(events: Events, address: str) -> None:
    with naru.publisher(address) as publisher:
        events.tell("published", address=str(publisher.address))
        until(lambda: len(publisher.subscribers) == 3)
        number = 0
        while True:
            publisher.publish(message_of(number))
            number += 1


@pytest.mark.watchdog(60)
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_publisher_is_a_peer_that_is_gone(kind: str) -> None:
    dice = random.Random(3)
    for _ in range(scaled(3, 100)):
        with Child.run(publish_for_ever, fresh_address(kind, "/tmp")) as child:
            address = child.expect("published")["address"]
            readers = [
                naru.subscriber(address, policy, timeout_s=PATIENCE_S)
                for policy in ("block", "drop_oldest", "latest")
            ]
            for _ in range(dice.randrange(1, 300)):
                readers[0].receive(timeout_s=PATIENCE_S)
            child.kill()
            for reader in readers:
                last = -1
                with pytest.raises(naru.PeerGoneError) as caught:
                    while True:
                        message = reader.receive(timeout_s=PATIENCE_S)
                        number = int(message[:8])
                        assert message == message_of(number)
                        assert number > last
                        last = number
                assert not caught.value.orderly
                reader.close()
        naru.publisher(address).close()  # a dead one's name is taken over


@pytest.mark.parametrize("kind", KINDS)
def test_a_forked_child_has_neither_end(kind: str) -> None:
    with publisher_at(kind) as publisher, naru.subscriber(publisher.address) as subscriber:

        def use(events: Events) -> None:
            for verb in (lambda: publisher.publish(b"x"), lambda: publisher.subscribers,
                         subscriber.receive):  # fmt: skip
                with pytest.raises(naru.ForkedHandleError):
                    verb()
            publisher.close()
            subscriber.close()

        with Child.run(use) as child:
            child.check()
        publisher.publish(b"still there")
        assert subscriber.receive(timeout_s=PATIENCE_S) == b"still there"
        with naru.subscriber(publisher.address, timeout_s=PATIENCE_S) as another:
            assert another.receive(timeout_s=PATIENCE_S) == b"still there"


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_that_lives_on_does_not_hide_the_publisher_s_death(kind: str) -> None:
    def fork_and_wait(events: Events) -> None:
        publisher = publisher_at(kind)
        events.tell("address", address=str(publisher.address))
        until(lambda: len(publisher.subscribers) == 1)
        if os.fork() == 0:
            time.sleep(PATIENCE_S)
            os._exit(0)
        events.tell("forked")
        events.expect("never", PATIENCE_S)

    with Child.run(fork_and_wait) as child:
        address = child.expect("address")["address"]
        with naru.subscriber(address, timeout_s=PATIENCE_S) as subscriber:
            child.expect("forked")
            child.kill()
            with pytest.raises(naru.PeerGoneError):
                subscriber.receive(timeout_s=PATIENCE_S)
    naru.publisher(address).close()  # a dead one's name is taken over


def test_a_program_that_forgets_to_close_ends_all_the_same() -> None:
    script = """
        import naru
        publishers = [naru.publisher("shm://forgotten"), naru.publisher("unix:@forgotten")]
        readers = [naru.subscriber(str(one.address)) for one in publishers]
        publishers[0].publish(b"x")
    """
    done = run_python(textwrap.dedent(script), PYTHONWARNINGS="ignore")
    assert (done.returncode, done.stderr) == (0, "")
    naru.publisher("shm://forgotten").close()


# ---- hostile subscribers ----


def raw_subscriber(address: Any, kind: int) -> tuple[socket.socket, list[int]]:
    """What a stranger gets that speaks the handshake: [ring, slot, data bell, space bell]."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(runtime_directory() / f"shm.{address.name}"))
    sock.sendall(hello.pack(hello.Hello(kind, 1 << 20, 1)))
    room = socket.CMSG_SPACE(16)
    _, ancillary, _, _ = sock.recvmsg(64, room)
    fds = array.array("i")
    for _, _, payload in ancillary:
        fds.frombytes(payload)
    return sock, list(fds)


def close_all(sock: socket.socket, fds: list[int]) -> None:
    sock.close()
    for fd in fds:
        os.close(fd)


def test_a_subscriber_cannot_write_to_the_ring() -> None:
    with publisher_at("shm") as publisher:
        sock, fds = raw_subscriber(publisher.address, hello.SUBSCRIBERS[0])
        with pytest.raises(PermissionError):
            mmap.mmap(fds[0], 4096)
        with pytest.raises(PermissionError):
            os.pwrite(fds[0], b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fds[0], 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fds[1], 0)
        close_all(sock, fds)
        until(lambda: publisher.subscribers == [])


@pytest.mark.parametrize("lie", [1, 7, 1 << 20, 1 << 63, (1 << 64) - 8])
def test_a_lying_cursor_costs_the_liar_alone(lie: int) -> None:
    with publisher_at("shm") as publisher, naru.subscriber(publisher.address) as honest:
        sock, fds = raw_subscriber(publisher.address, hello.SUBSCRIBERS[0])
        with mmap.mmap(fds[1], 4096) as slot:
            slot[512:520] = struct.pack("=Q", lie)
            for number in range(1000):
                publisher.publish(message_of(number), timeout_s=PATIENCE_S)
                assert honest.receive(timeout_s=PATIENCE_S) == message_of(number)
        assert publisher.statistics().strangers == 1
        assert len(publisher.subscribers) == 1
        close_all(sock, fds)


def test_garbage_in_the_whole_slot_costs_the_liar_alone() -> None:
    dice = random.Random(1)
    with publisher_at("shm") as publisher, naru.subscriber(publisher.address) as honest:
        for kind in hello.SUBSCRIBERS * scaled(3, 100):
            sock, fds = raw_subscriber(publisher.address, kind)
            with mmap.mmap(fds[1], 4096) as slot:
                for number in range(100):
                    place = dice.choice([512, 640, 768, 896, 1024])
                    slot[place : place + 8] = dice.randbytes(8)
                    publisher.publish(message_of(number), timeout_s=PATIENCE_S)
                    if honest.receive(timeout_s=PATIENCE_S) != message_of(number):
                        pytest.fail("the honest one was hurt")
                    assert len(publisher.subscribers) <= 2
            close_all(sock, fds)
            until(lambda: len(publisher.subscribers) == 1)


@pytest.mark.parametrize("kind", ["abstract", "tcp"])
def test_a_subscriber_that_talks_is_sent_away(kind: str) -> None:
    with publisher_at(kind) as publisher, naru.subscriber(publisher.address) as honest:
        address = publisher.address
        if kind == "tcp":
            sock = socket.create_connection((address.host, address.port))
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(f"\0{address.name}")
        sock.sendall(hello.pack(hello.Hello(hello.SUBSCRIBERS[1], 1 << 20, 0)))
        assert len(sock.recv(hello.HELLO_BYTES, socket.MSG_WAITALL)) == hello.HELLO_BYTES
        sock.sendall(os.urandom(100))
        until(lambda: len(publisher.subscribers) == 1)
        publisher.publish(b"well")
        assert honest.receive(timeout_s=PATIENCE_S) == b"well"
        sock.close()


def test_a_silent_stranger_delays_nobody() -> None:
    with publisher_at("abstract") as publisher:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(f"\0{publisher.address.name}")
            with naru.subscriber(publisher.address, timeout_s=PATIENCE_S) as other:
                publisher.publish(b"x")
                assert other.receive(timeout_s=PATIENCE_S) == b"x"
