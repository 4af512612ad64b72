"""37: a hostile client writes nonsense into the ring of a naru listener, receiver or sender.

The naru end lives, gives up this connection with a naru error, and keeps no descriptor. A receiver of
many senders goes on with the others.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

import pytest
from shm_helpers import (
    BYE,
    CHANNEL,
    FDS_SHIFT,
    FIRST,
    HEARTBEAT,
    MORE,
    SENDER,
    SKIP,
    RawClient,
    send_with_fds,
)
from victims import Victim

import naru

CAPACITY = 65536
LIMIT = 49152  # below the ring's capacity: a record may be above it
OPTIONS = f"?capacity_bytes={CAPACITY}&max_message_bytes={LIMIT}"
IN = 1  # the ring that the client writes
BAD = (naru.CorruptedError, naru.ProtocolError)
QUIET = (naru.TimedOutError,)
Attack = Callable[[RawClient], object]


def _word(name: str, value: int) -> Attack:
    return lambda client: client.memory.set_word(IN, name, value)


def _record(payload: bytes = b"", **lies: int) -> Attack:
    return lambda client: client.memory.put(IN, payload, **lies)


def _records(*records: tuple[bytes, int]) -> Attack:
    def attack(client: RawClient) -> None:
        for payload, flags in records:
            client.memory.put(IN, payload, flags=flags)

    return attack


def _total(size: int) -> bytes:
    """What the first fragment begins with."""
    return struct.pack("=Q", size % 2**64)


def _whole_ring(length: int) -> Attack:
    """A record of this length in a ring that is full to the last byte."""

    def attack(client: RawClient) -> None:
        client.memory.write(IN, 0, struct.pack("=II", length, 0))
        client.memory.set_word(IN, "tail", CAPACITY)

    return attack


def _backwards(client: RawClient) -> None:
    """After the first message was released, the tail goes back to before it."""
    client.memory.put(IN, b"good")
    client.ring()
    while client.memory.word(IN, "head") == 0:
        os.sched_yield()
    client.memory.set_word(IN, "tail", 0)


def _descriptors(announced: int, *packets: tuple[bytes, int]) -> Attack:
    """Packets (data, number of descriptors) on the lifeline, then a record that announces some."""

    def attack(client: RawClient) -> None:
        for data, count in packets:
            send_with_fds(client.lifeline, data, [0] * count)
        client.memory.put(IN, b"with descriptors", flags=announced << FDS_SHIFT)

    return attack


def _ended_in_the_middle(client: RawClient) -> None:
    client.memory.put(IN, _total(100) + bytes(50), flags=FIRST | MORE)
    client.memory.set_word(IN, "closed", 1)


ATTACKS: dict[str, tuple[Attack, tuple[type[naru.NaruError], ...]]] = {
    "tail 1": (_word("tail", 1), BAD),
    "tail 4": (_word("tail", 4), BAD),
    "tail capacity + 8": (_word("tail", CAPACITY + 8), BAD),
    "tail 2^31": (_word("tail", 2**31), BAD),
    "tail 2^32-8": (_word("tail", 2**32 - 8), BAD),
    "tail 2^63": (_word("tail", 2**63), BAD),
    "tail -8": (_word("tail", -8), BAD),
    "tail -1": (_word("tail", -1), BAD),
    "tail backwards": (_backwards, BAD),
    "length 0": (_record(length=0), QUIET),
    "length over the tail": (_record(bytes(8), length=9), BAD),
    "length limit": (_record(bytes(LIMIT)), QUIET),
    "length limit + 1": (_record(bytes(LIMIT + 1)), (naru.TooBigError,)),
    "length max": (_whole_ring(CAPACITY - 8), (naru.TooBigError,)),
    "length max + 1": (_whole_ring(CAPACITY - 7), BAD),
    "length capacity": (_whole_ring(CAPACITY), BAD),
    "length 2^31": (_record(bytes(8), length=2**31), BAD),
    "length 2^31-1": (_record(bytes(8), length=2**31 - 1), BAD),
    "length 2^32-16": (_record(bytes(8), length=2**32 - 16), BAD),
    "length 2^32-8": (_record(bytes(8), length=2**32 - 8), BAD),
    "length 2^32-1": (_record(bytes(8), length=2**32 - 1), BAD),
    "flag 2^5": (_record(b"x", flags=1 << 5), BAD),
    "flag 2^23": (_record(b"x", flags=1 << 23), BAD),
    "every flag": (_record(b"x", flags=2**32 - 1), BAD),
    "goodbye as a record": (_record(b"x", flags=BYE), BAD),
    "heartbeat as a record": (_record(flags=HEARTBEAT), BAD),
    "a place given up": (_record(b"x", flags=SKIP), QUIET),
    "a place given up, with descriptors": (
        lambda client: (
            send_with_fds(client.lifeline, b"\1", [0]),
            client.memory.put(IN, b"x", flags=SKIP | 1 << FDS_SHIFT),
        ),
        BAD,
    ),
    "a fragment in the middle of nothing": (_record(b"x", flags=MORE), BAD),
    "a first fragment without its total": (_record(b"1234567", flags=FIRST | MORE), BAD),
    "twice a first fragment": (
        _records((_total(100) + b"x", FIRST | MORE), (_total(100) + b"x", FIRST | MORE)), BAD,
    ),
    "more than the total": (
        _records((_total(100) + bytes(50), FIRST | MORE), (bytes(51), 0)), BAD,
    ),
    "less than the total": (
        _records((_total(100) + bytes(50), FIRST | MORE), (bytes(49), 0)), BAD,
    ),
    "total 0 with a byte": (_record(_total(0) + b"x", flags=FIRST), BAD),
    "total 0 and more of nothing": (
        _records((_total(0), FIRST | MORE), *[(b"", MORE)] * 100), BAD,
    ),
    "total above the limit": (_record(_total(LIMIT + 1) + b"x", flags=FIRST | MORE),
                              (naru.TooBigError,)),
    "total 2^32": (_record(_total(2**32) + b"x", flags=FIRST | MORE), (naru.TooBigError,)),
    "total 2^63": (_record(_total(2**63) + b"x", flags=FIRST | MORE), (naru.TooBigError,)),
    "total 2^64-1": (_record(_total(-1) + b"x", flags=FIRST | MORE), (naru.TooBigError,)),
    "a place given up inside a message": (
        _records((_total(100) + bytes(50), FIRST | MORE), (b"", SKIP)), BAD,
    ),
    "the end inside a message": (_ended_in_the_middle, (naru.PeerGoneError, *BAD)),
    "closed 2": (_word("closed", 2), (naru.PeerGoneError,)),
    "closed 2^32-1": (_word("closed", 2**32 - 1), (naru.PeerGoneError,)),
    "sleep words": (
        lambda client: [client.memory.set_word(ring, name, -1) for ring in range(2)
                        for name in ("consumer_sleeps", "producer_wants")],
        QUIET,
    ),
    "descriptors announced and not sent": (_descriptors(1), BAD),
    "253 announced and not sent": (_descriptors(253), BAD),
    "254 announced": (_descriptors(254), BAD),
    "2 where 1 is due": (_descriptors(1, (b"\1", 2)), BAD),
    "253 where 1 is due": (_descriptors(1, (b"\1", 253)), BAD),
    "1 where 2 are due": (_descriptors(2, (b"\2", 1)), BAD),
    "0 where 1 is due": (_descriptors(1, (b"\1", 0)), BAD),
    "a count that is none": (_descriptors(1, (b"\xff", 1)), BAD),
    "descriptors with a long packet": (_descriptors(1, (bytes(1000), 1)), BAD),
    "an older packet": (_descriptors(1, (b"\2", 2), (b"\1", 1)), BAD),
    "sent unannounced": (_descriptors(0, (b"\3", 3)), (naru.TimedOutError, *BAD)),
}  # fmt: skip


GROUPS = {
    name: [lie for lie in ATTACKS if lie.startswith(begins)]
    for name, begins in {
        "tail": ("tail",), "length": ("length",), "flags": ("flag", "every", "goodbye", "heart"),
        "skips": ("a place",), "descriptors": ("descr", "253", "254", "2 wh", "1 wh", "0 wh", "a count",
                                               "an older", "sent"),
        "words": ("closed", "sleep"), "fragments": ("a fr", "a first", "twice", "more", "less", "total",
                                                    "the end"),
    }.items()
}  # fmt: skip


def test_37_no_attack_is_forgotten() -> None:
    assert sorted(lie for lies in GROUPS.values() for lie in lies) == sorted(ATTACKS)


def accept_and_receive(address: str) -> None:
    with naru.listen(address) as listener, listener.accept(timeout_s=4.0) as channel:
        while True:
            channel.receive(timeout_s=0.1)


@pytest.mark.parametrize("group", GROUPS)
def test_37_a_channel_receives(runtime: str, group: str) -> None:
    address = f"shm://{runtime}/s{OPTIONS}"
    with Victim(accept_and_receive, address, times=len(GROUPS[group])) as victim:
        for lie in GROUPS[group]:
            print(lie)  # the last one printed is the one that was too much
            attack, leaves = ATTACKS[lie]
            with RawClient(f"{runtime}/s") as client:
                attack(client)
                client.ring()
                outcome = victim.outcome()
            assert issubclass(outcome.error or object, leaves), outcome
            assert outcome.leaked == []
            assert outcome.grown_bytes < 16 << 20


def gather(address: str) -> tuple[bool, int]:
    """Receives until it is quiet: did the good message come, how many senders were lost?"""
    good = False
    with naru.receiver(address) as receiver:
        try:
            while True:
                timeout_s = 0.1 if good else 4.0
                good |= receiver.receive(timeout_s=timeout_s) == b"from a good sender"
        except naru.TimedOutError:
            return good, receiver.statistics().peers_lost


@pytest.mark.parametrize("group", GROUPS)
def test_37_a_receiver_goes_on_with_the_others(runtime: str, group: str) -> None:
    lies = [lie for lie in GROUPS[group] if lie != "sleep words"]  # there is one ring only
    with Victim(gather, f"shm://{runtime}/s{OPTIONS}", times=len(lies)) as victim:
        for lie in lies:
            print(lie)
            attack, leaves = ATTACKS[lie]
            with RawClient(f"{runtime}/s", SENDER) as client:
                attack(client)
                client.ring()
                with naru.sender(f"shm://{runtime}/s") as sender:
                    sender.send(b"from a good sender")
                    outcome = victim.outcome()
            assert outcome.error is None
            assert outcome.value == [True, int(leaves[0] is not naru.TimedOutError)]
            assert outcome.leaked == []


OUT = 0  # the ring that the naru end writes
HEADS = [1, 4, 8, CAPACITY, 2**31, 2**32, 2**63, 2**64 - 8, 2**64 - 1]


def accept_and_send(address: str, how: str) -> None:
    verbs: dict[str, Callable[[Any], object]] = {
        "send": lambda channel: channel.send(b"x" * 1000, timeout_s=0.1),
        "send_many": lambda channel: channel.send_many([b"x" * 1000] * 10, timeout_s=0.1),
        "fragments": lambda channel: channel.send(b"x" * 3 * CAPACITY, timeout_s=0.1),
    }
    with naru.listen(address) as listener, listener.accept(timeout_s=4.0) as channel:
        channel.receive(timeout_s=4.0)
        while True:
            verbs[how](channel)


@pytest.mark.parametrize("how", ["send", "send_many", "fragments"])
def test_37_a_channel_sends(runtime: str, how: str) -> None:
    """The consumer's word lies: nothing may be written where no room was given back."""
    address = f"shm://{runtime}/s?capacity_bytes={CAPACITY}&linger_s=0.1"
    with Victim(accept_and_send, address, how, times=len(HEADS)) as victim:
        for head in HEADS:
            print(head)
            with RawClient(f"{runtime}/s", CHANNEL) as client:
                client.memory.set_word(OUT, "head", head)
                client.memory.put(IN, b"go")
                client.ring()
                outcome = victim.outcome()
            if 8 * CAPACITY < head < 2**64 - 8 or head % 8:
                assert issubclass(outcome.error or object, BAD), outcome
            else:
                assert issubclass(outcome.error or object, (*BAD, naru.TimedOutError)), outcome
            assert outcome.leaked == []
