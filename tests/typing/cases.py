"""What a type checker must know of naru. Never run: mypy reads it (test_types.py).

`assert_type` says what is right; a `type: ignore` on what must be refused is itself an error as
soon as mypy no longer refuses it (warn_unused_ignores).
"""

from __future__ import annotations

import array
import mmap
import socket
from collections.abc import Iterator
from typing import Any, assert_type

import numpy
import numpy.typing

import naru
from naru.files import (
    Pump,
    PumpStatistics,
    Transferred,
    Window,
    count_lines,
    map_reduce,
    transfer,
    windows,
)


def making() -> None:
    listener = naru.listen("shm://orders")
    assert_type(listener, naru.Listener)
    assert_type(listener.accept(timeout_s=1.0), naru.Channel)
    assert_type(listener.address, naru.Address)
    assert_type(naru.connect("shm://orders", timeout_s=None), naru.Channel)
    assert_type(naru.connect(naru.parse("shm://orders")), naru.Channel)
    assert_type(naru.pair("shm"), tuple[naru.Channel, naru.Channel])
    assert_type(naru.receiver("mq:///orders"), naru.Receiver)
    assert_type(naru.sender("mq:///orders", 0.5), naru.Sender)
    for channel in listener:
        assert_type(channel, naru.Channel)
    with listener as same:
        assert_type(same, naru.Listener)

    naru.connect(b"shm://orders")  # type: ignore[arg-type]
    naru.connect("shm://orders", timeout="1")  # type: ignore[call-arg]
    naru.Sender("shm://orders")  # type: ignore[arg-type]
    naru.conect("shm://orders")  # type: ignore[attr-defined]


def sending(sender: naru.Sender, view: naru.View, items: Iterator[bytes]) -> None:
    sender.send(b"text")
    sender.send(bytearray(8), timeout_s=0.5)
    sender.send(memoryview(b"text"), None, priority=3)
    sender.send(array.array("d", [1.0]))
    sender.send(numpy.zeros(8))
    sender.send(mmap.mmap(-1, 4096))
    sender.send(view)
    assert_type(sender.try_send(b"text"), bool)
    sender.send_parts([b"head", bytearray(8)], timeout_s=1)
    sender.send_many([b"one", memoryview(b"two")])
    sender.send_many(items)
    with open("/dev/null", "rb") as file:
        sender.send_fds(b"take these", [0, file])
    with sender.reserve(64, timeout_s=1) as room:
        assert_type(room, memoryview)
        room[0] = 1

    sender.send("text")  # type: ignore[arg-type]
    sender.send(None)  # type: ignore[arg-type]
    sender.send(b"text", priority=None)  # type: ignore[arg-type]
    sender.send_many([1, 2])  # type: ignore[list-item]
    sender.send_parts(b"text")  # type: ignore[arg-type]
    sender.receive()  # type: ignore[attr-defined]


def receiving(receiver: naru.Receiver, buffer: numpy.typing.NDArray[numpy.uint8]) -> None:
    assert_type(receiver.receive(timeout_s=1), bytes)
    assert_type(receiver.try_receive(), bytes | None)
    assert_type(receiver.receive_many(limit=8), list[bytes])
    assert_type(receiver.receive_into(buffer), int)
    assert_type(receiver.receive_into(bytearray(8), 0.5), int)
    assert_type(receiver.receive_with_priority(), tuple[bytes, int])
    assert_type(receiver.receive_fds(limit=3), tuple[bytes, list[int]])
    for message in receiver:
        assert_type(message, bytes)

    receiver.send(b"text")  # type: ignore[attr-defined]
    receiver.try_receive(timeout_s=1)  # type: ignore[call-arg]
    receiver.receive().decode().nothing()  # type: ignore[attr-defined]
    receiver.try_receive().decode()  # type: ignore[union-attr]


def in_place(receiver: naru.Receiver) -> None:
    with receiver.lease() as view:
        assert_type(view, memoryview)
    with receiver.lease_many(512, timeout_s=1) as batch:
        assert_type(batch, naru.Batch)
        assert_type(len(batch), int)
        assert_type(batch[0], naru.View)
        assert_type(batch[0][0], int)
        assert_type(batch[0][1:3], bytes)
        assert_type(bytes(batch[0]), bytes)
        assert_type(batch.array("<f8"), numpy.typing.NDArray[Any])
        assert_type([bytes(item) for item in batch], list[bytes])
        numpy.frombuffer(memoryview(batch[0]), dtype=numpy.float64)

        batch[0][0] = 1  # type: ignore[index]


def facts(channel: naru.Channel) -> None:
    assert_type(channel.closed, bool)
    assert_type(channel.fileno(), int)
    assert_type(channel.statistics(), naru.Statistics)
    assert_type(channel.statistics().messages_sent, int)
    assert_type(channel.address.transport, str)
    peer = channel.peer
    assert_type(peer, naru.Peer | None)
    if peer is not None:
        assert_type(peer.uid, int)
    with channel as same:
        assert_type(same, naru.Channel)
    ends: list[naru.Endpoint] = [channel]
    senders: list[naru.Sender] = [channel]
    receivers: list[naru.Receiver] = [channel]
    print(ends, senders, receivers)

    channel.closed = True  # type: ignore[misc]
    channel.statistics().messages_sent = 0  # type: ignore[misc]
    channel.address.path = "/"  # type: ignore[misc]


def errors(channel: naru.Channel) -> None:
    try:
        channel.send(b"text")
    except naru.PeerGoneError as error:
        assert_type(error.orderly, bool)
        gone: ConnectionError = error
        print(gone)
    except naru.TimedOutError as error:
        late: TimeoutError = error
        print(late)
    except naru.NaruError as error:
        assert_type(error.errno, int | None)
        assert_type(error.operation, str | None)
        assert_type(error.address, str | None)


def files() -> None:
    done = transfer("from", "to", offset=0, count=None, progress=lambda done, whole: None)
    assert_type(done, Transferred)
    assert_type(done.bytes, int)
    for window in windows("file", b"\n", size_bytes=1 << 20):
        assert_type(window, Window)
        assert_type(window.count_lines(), int)
        assert_type(bytes(window), bytes)
        assert_type(window.find_all(b"x"), array.array[int])
        for line in window.lines():
            assert_type(line, memoryview)
    assert_type(count_lines("file", threads=2), int)
    left, right = socket.socketpair()
    with Pump(left, right, idle_timeout_s=1.0) as pump:
        assert_type(pump.run(), PumpStatistics)
        assert_type(pump.wants(), list[tuple[int, int]])
    map_reduce("file", lambda window: window.count(b"x"), lambda total, part: total + part)

    transfer("from")  # type: ignore[call-arg]
    windows("file", "\n")  # type: ignore[arg-type]
