"""What a type checker must know of naru. Never run: mypy reads it (test_types.py).

`assert_type` says what is right; a `type: ignore` on what must be refused is itself an error as
soon as mypy no longer refuses it (warn_unused_ignores).
"""

from __future__ import annotations

import array
import mmap
import socket
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple, assert_type

import numpy
import numpy.typing

import naru
from naru import aio, signals
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
from naru.reactor import Registration


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


class Order(NamedTuple):
    name: str


def values(channel: naru.Channel) -> None:
    channel.send_object({"a": 1}, timeout_s=1)
    channel.send_object({1, 2}, "pickle")
    assert_type(channel.try_send_object(None), bool)
    assert_type(channel.receive_object(Order), Order)
    assert_type(channel.receive_object(type=list[int], timeout_s=1), list[int])
    assert_type(channel.receive_object(), Any)
    assert_type(channel.receive_object(type=dict), dict[Any, Any])
    assert_type(channel.receive_object(codec="pickle"), Any)
    assert_type(channel.try_receive_object(Order, default=None), Order | None)

    channel.send_object(1, "json")  # type: ignore[arg-type]
    channel.receive_object(Order, "pickle")  # type: ignore[call-overload]


def arrays(channel: naru.Channel) -> None:
    channel.send_array(numpy.zeros(3), timeout_s=1)
    channel.send_array([1, 2])
    assert_type(channel.try_send_array(numpy.zeros(3)), bool)
    assert_type(channel.receive_array(), numpy.typing.NDArray[Any])
    assert_type(channel.try_receive_array(), numpy.typing.NDArray[Any] | None)
    with channel.lease_array(timeout_s=1, writable=True) as leased:
        assert_type(leased, numpy.typing.NDArray[Any])
    with channel.reserve_array((3, 2), numpy.uint8, order="F") as room:
        assert_type(room, numpy.typing.NDArray[Any])
    channel.reserve_array(3, order="K")  # type: ignore[arg-type]


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


def requests() -> None:
    def handler(request: naru.Request) -> naru.Reply:
        assert_type(request.data, bytes)
        assert_type(request.peer, naru.Peer | None)
        assert_type(request.take_fds(), list[int])
        return naru.Reply(b"x", [0])

    with naru.serve("shm://x", handler, pass_request=True, threads=2) as server:
        assert_type(server, naru.Server)
        assert_type(server.start(), naru.Server)
        assert_type(server.statistics().requests, int)
        assert_type(server.drain(timeout_s=1), bool)
    with naru.client("shm://x", timeout_s=1, reconnect=True) as client:
        assert_type(client, naru.Client)
        assert_type(client.request(b"x", timeout_s=1), bytes)
        assert_type(client.request_fds(b"x"), tuple[bytes, list[int]])
        assert_type(client.request_many([b"x"]), list[bytes])
        pending = client.submit(bytearray(b"x"), fds=[0])
        assert_type(pending, naru.PendingReply)
        assert_type(pending.result(), bytes)
        assert_type(pending.done(), bool)
        client.request("text")  # type: ignore[arg-type]


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


def choosing() -> None:
    choice = naru.choose({64: 9, 65536: 1}, rate_per_s=20_000, goal="throughput", descriptors=True)
    assert_type(choice, naru.Choice)
    assert_type(choice.latency_us_p50, float | None)
    assert_type(choice.needs, naru.Needs)
    naru.choose("1KB")  # type: ignore[arg-type]
    naru.choose(64, goal="speed")  # type: ignore[arg-type]


async def awaiting(synchronous: naru.Channel) -> None:
    async with aio.listen("shm://orders") as listener:
        assert_type(listener, aio.Listener)
        assert_type(await listener.accept(timeout_s=1.0), aio.Channel)
        async for accepted in listener:
            assert_type(accepted, aio.Channel)
    assert_type(await aio.connect("shm://orders", timeout_s=None), aio.Channel)
    assert_type(await aio.sender("mq:///orders", 0.5), aio.Sender)
    assert_type(aio.receiver("mq:///orders"), aio.Receiver)
    assert_type(aio.pair("shm"), tuple[aio.Channel, aio.Channel])
    channel = aio.Channel(synchronous)
    assert_type(await channel.send(b"text", 1.0, priority=3), None)
    assert_type(channel.try_send(b"text"), bool)
    assert_type(await channel.receive(timeout_s=1), bytes)
    assert_type(channel.try_receive(), bytes | None)
    assert_type(await channel.receive_many(8), list[bytes])
    assert_type(await channel.receive_into(bytearray(8)), int)
    assert_type(await channel.receive_fds(), tuple[bytes, list[int]])
    async for message in channel:
        assert_type(message, bytes)
    async with channel.reserve(64) as room, channel.lease() as view:
        assert_type(room, memoryview)
        assert_type(view, memoryview)
    async with channel.lease_many(8) as batch:
        assert_type(batch, naru.Batch)
    assert_type(channel.peer, naru.Peer | None)

    await channel.send("text")  # type: ignore[arg-type]
    with channel:  # type: ignore[attr-defined]
        pass
    aio.Channel("shm://orders")  # type: ignore[arg-type]


def reactor(
    channel: naru.Channel, receiver: naru.Receiver, process: subprocess.Popen[bytes]
) -> None:
    def hear(end: naru.Channel, message: bytes | None) -> None: ...

    def gone(process: subprocess.Popen[bytes], code: int | None) -> None: ...

    with naru.Reactor() as loop:
        assert_type(loop, naru.Reactor)
        assert_type(loop.on_message(channel, hear), Registration)
        loop.on_message(receiver, hear)  # type: ignore[arg-type]
        loop.on_exit(process, gone)
        loop.on_exit(1, gone)  # type: ignore[arg-type]
        loop.after("soon", print)  # type: ignore[arg-type]
        assert_type(loop.run(), bool)
        assert_type(loop.statistics().busy_s, float)
        loop.statistics().turns = 0  # type: ignore[misc]


def signals_as_messages() -> None:
    assert_type(signals.wait({10}).value, int | None)
    with signals.open_process(1) as handle:
        signals.notify(handle, 10)
    signals.notify("1", 10)  # type: ignore[arg-type]


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


async def caches(ours: aio.Cache) -> None:
    cache = naru.Cache.open_or_create("sessions", 1 << 20, codec="numpy")
    assert_type(cache, naru.Cache)
    assert_type(cache.get("key"), Any)
    assert_type(cache.get_many(["key", b"key"]), dict[str | bytes, Any])
    assert_type(cache.add("key", 1, ttl_s=1.5, tags=["a", b"b"]), bool)
    assert_type(cache.incr("key"), int)
    assert_type(cache.get_versioned("key"), tuple[Any, int] | None)
    assert_type(cache.get_into("key", bytearray(8)), int | None)
    assert_type(cache.statistics(), naru.CacheStatistics)
    assert_type(cache.check(repair=True), naru.CacheReport)
    assert_type(cache.lock("name"), naru.Lock)
    assert_type(cache.scan("prefix"), Iterator[bytes])
    assert_type(aio.Cache.open("sessions"), aio.Cache)
    async with ours.lock("name") as lock:
        assert_type(lock.held, bool)

    @cache.memoize(ttl_s=60)
    def double(number: int) -> int:
        return 2 * number

    assert_type(double(2), int)
    cache.set(5, b"")  # type: ignore[arg-type]
    cache.set("key", b"", ttl=5)  # type: ignore[call-arg]
    naru.Cache("sessions")  # type: ignore[call-arg, arg-type]
