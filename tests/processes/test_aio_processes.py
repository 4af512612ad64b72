"""naru.aio between processes: traffic both ways, and a peer that is killed."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import naru
from naru import aio
from naru.testing.faults import Child, Events
from naru.testing.ledger import LedgerReader, LedgerWriter

PATIENCE_S = 10
PAIRS = ("shm", "pipe", "unix", "tcp")


def runner(loop: str) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    if loop == "uvloop":
        import uvloop

        made: Callable[[Coroutine[Any, Any, Any]], Any] = uvloop.run
        return made
    return asyncio.run


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "uvloop":
        if importlib.util.find_spec("uvloop") is None:
            pytest.skip("uvloop is not installed: naru-ipc[test]")
        runner(name)(asyncio.sleep(0))  # it opens a pipe with its first loop, and keeps it
    return name


def echo(events: Events, end: naru.Channel, loop: str) -> None:
    async def story() -> None:
        async with aio.Channel(end) as channel:
            events.tell("ready")
            async for message in channel:
                await channel.send(message)

    runner(loop)(story())


@pytest.mark.parametrize("kind", PAIRS)
def test_questions_and_answers(kind: str, loop: str) -> None:
    ours, theirs = naru.pair(kind)
    with theirs, Child.run(echo, theirs, loop) as child:
        child.expect("ready")

        async def story() -> None:
            writer, reader = LedgerWriter(1, lambda s: 24 + s * 977 % 200_000), LedgerReader()
            async with aio.Channel(ours) as channel:
                for turn in range(300):
                    await channel.send(writer.next(), PATIENCE_S)
                    if turn % 50 == 0:
                        await asyncio.sleep(0.005)  # long enough for both to fall asleep
                    reader.add(await channel.receive(PATIENCE_S))
            report = reader.report({1: 300})
            assert report.is_perfect, str(report)

        runner(loop)(story())
        assert child.wait() == 0


def send_some_and_stay(events: Events, end: naru.Channel) -> None:
    end.send_many([b"%d" % number for number in range(10)])
    events.tell("sent")
    events.expect("never")


@pytest.mark.parametrize("kind", PAIRS)
def test_a_killed_peer_ends_the_iteration(kind: str, loop: str) -> None:
    """What it had sent arrives, then PeerGoneError; also when the task sleeps by then."""
    ours, theirs = naru.pair(kind)
    with theirs, Child.run(send_some_and_stay, theirs) as child:

        async def story() -> None:
            got = []
            async with aio.Channel(ours) as channel:
                with pytest.raises(naru.PeerGoneError) as caught:
                    async for message in channel:
                        got.append(message)
                        if len(got) == 10:
                            asyncio.get_running_loop().call_later(
                                0.01, child.send_signal, signal.SIGKILL
                            )
                assert not caught.value.orderly
            assert got == [b"%d" % number for number in range(10)]

        child.expect("sent")
        runner(loop)(story())


@pytest.mark.parametrize("kind", PAIRS)
def test_a_killed_peer_ends_a_send_that_waits_for_room(kind: str, loop: str) -> None:
    ours, theirs = naru.pair(kind)
    with theirs, Child.run(send_some_and_stay, theirs) as child:

        async def story() -> None:
            async with aio.Channel(ours) as channel:
                while channel.try_send(b"x" * 5000):
                    pass
                asyncio.get_running_loop().call_later(0.01, child.send_signal, signal.SIGKILL)
                with pytest.raises(naru.PeerGoneError):
                    while True:
                        await channel.send(b"x" * 5000, PATIENCE_S)

        child.expect("sent")
        runner(loop)(story())


def test_a_killed_server_is_heard_of_by_every_client(loop: str) -> None:
    """Names, handshakes and deaths; the name is free again at once."""
    address = "shm://aio-killed-server"

    def serve(events: Events) -> None:
        async def story() -> None:
            async with aio.listen(address) as listener:
                events.tell("ready")
                channels = [channel async for channel in _take(listener, 3)]
                events.tell("met")
                await asyncio.gather(*(channel.receive() for channel in channels))

        runner(loop)(story())

    with Child.run(serve) as child:
        child.expect("ready")

        async def story() -> None:
            channels = [await aio.connect(address) for _ in range(3)]
            waiting = [asyncio.create_task(channel.receive()) for channel in channels]
            await asyncio.get_running_loop().run_in_executor(None, child.expect, "met")
            child.send_signal(signal.SIGKILL)
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, naru.PeerGoneError), result
            for channel in channels:
                await channel.aclose()
            assert child.wait() == -signal.SIGKILL  # its death is seen before all of it is gone
            async with aio.listen(address):
                pass

        runner(loop)(story())


def stay(events: Events, address: str) -> None:
    with naru.connect(address) as channel:
        events.tell("here")
        events.expect("never")
        channel.close()


def test_a_silent_peer_is_given_up(loop: str) -> None:
    """No descriptor tells of a stopped process: the loop asks from time to time."""

    async def story() -> None:
        async with aio.listen("tcp://127.0.0.1:0?heartbeat_s=0.2") as listener:
            address = f"{str(listener.address).partition('?')[0]}?heartbeat_s=0.2"
            with Child.run(stay, address) as child:
                async with await listener.accept(PATIENCE_S) as channel:
                    assert channel.heartbeat_s > 0
                    child.stop()
                    with pytest.raises(naru.PeerGoneError):
                        await channel.receive(PATIENCE_S)
                child.go_on()

    runner(loop)(story())


def receive_nothing(events: Events, address: str) -> None:
    with naru.receiver(address):
        events.tell("ready")
        events.expect("never")


def test_a_dead_receiver_of_a_full_queue_is_given_up(loop: str) -> None:
    address = "mq:///naru-aio-dead-receiver"
    with Child.run(receive_nothing, address) as child:
        child.expect("ready")

        async def story() -> None:
            async with await aio.sender(address) as sender:
                while sender.try_send(b"x"):
                    pass
                asyncio.get_running_loop().call_later(0.02, child.send_signal, signal.SIGKILL)
                with pytest.raises(naru.PeerGoneError):
                    await sender.send(b"one too many", PATIENCE_S)

        runner(loop)(story())
    with naru.receiver(
        address
    ) as successor:  # the queue outlived its owner; this one takes it away
        assert successor.try_receive() == b"x"


async def _take(listener: aio.Listener, count: int) -> Any:
    async for channel in listener:
        yield channel
        count -= 1
        if count == 0:
            return
