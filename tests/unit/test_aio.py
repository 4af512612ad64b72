"""naru.aio: what the conformance suite cannot see: cancellation, fairness, loops, idleness."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import naru
from naru import aio
from naru.testing.ledger import LedgerReader, LedgerWriter

PATIENCE_S = 10
PAIRS = ("shm", "pipe", "unix", "tcp")
Story = Callable[[], Coroutine[Any, Any, Any]]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """uvloop opens a pipe with its first loop, and keeps it."""
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        uvloop.run(asyncio.sleep(0))


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """asyncio.run, or uvloop's."""
    if request.param == "uvloop":
        if importlib.util.find_spec("uvloop") is None:
            pytest.skip("uvloop is not installed: naru-ipc[test]")
        import uvloop

        yield uvloop.run
    else:
        yield asyncio.run


def await_connecting_threads() -> None:
    """They end by themselves, a moment after what they connected is there, or was given up."""
    for thread in threading.enumerate():
        if thread.name.startswith("naru connects"):
            thread.join(PATIENCE_S)


Run = Callable[[Coroutine[Any, Any, Any]], Any]


# ---- cancellation ----


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("seed", range(3))
def test_cancelled_receives_lose_nothing(run: Run, kind: str, seed: int) -> None:
    """Every receiving verb is cancelled at any moment; the ledger is perfect."""

    async def story() -> None:
        chance = random.Random(f"{kind} {seed}")
        one, other = aio.pair(kind)
        async with one, other:
            writer, reader = LedgerWriter(1, lambda s: 24 + s * 97 % 3000), LedgerReader()
            count = 400

            async def send() -> None:
                for _ in range(count):
                    await one.send(writer.next(), timeout_s=PATIENCE_S)
                    for _ in range(chance.choice([0, 0, 1, 3])):
                        await asyncio.sleep(0)

            sending = asyncio.create_task(send())
            while reader.report().received < count:
                await _interrupt(chance, _take(chance, other, reader))
                assert reader.report().is_perfect, str(reader.report())
            await sending
            assert reader.report({1: count}).is_perfect
            assert other.try_receive() is None

    run(story())


async def _take(chance: random.Random, end: aio.Channel, reader: LedgerReader) -> None:
    verb = chance.randrange(5)
    if verb == 0:
        reader.add(await end.receive(PATIENCE_S))
    elif verb == 1:
        reader.add_all(await end.receive_many(chance.randint(1, 5), PATIENCE_S))
    elif verb == 2:
        buffer = bytearray(4096)
        size = await end.receive_into(buffer, PATIENCE_S)
        reader.add(buffer[:size])
    elif verb == 3:
        async with end.lease(PATIENCE_S) as view:
            reader.add(view)
    else:
        reader.add_all([(await end.receive_fds(timeout_s=PATIENCE_S))[0]] if _passes_fds(end) else
                       [await anext(end)])  # fmt: skip


def _passes_fds(end: aio.Channel) -> bool:
    return str(end.address).startswith(("shm", "unix"))


async def _interrupt(chance: random.Random, work: Coroutine[Any, Any, None]) -> None:
    """Runs it as a task, which is cancelled after some turns of the loop, or not."""
    task = asyncio.create_task(work)
    for _ in range(chance.choice([0, 1, 1, 2, 3, 5, 9, 40])):
        await asyncio.sleep(0 if chance.random() < 0.9 else 0.0002)
    if chance.random() < 0.7:
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("seed", range(3))
def test_cancelled_sends_are_whole_or_nothing(run: Run, kind: str, seed: int) -> None:
    """Under back-pressure, with small messages and such as no transport holds at once: what was not
    cancelled arrives once and in order, what was cancelled whole, once and in its place, or not."""

    async def story() -> None:
        chance = random.Random(f"{kind} {seed}")
        one, other = aio.pair(_small(kind))
        async with one, other:
            writer = LedgerWriter(1, lambda s: [64, 3000, 40_000, 700_000][s * 7 % 4])
            certain: set[int] = set()
            doubtful: set[int] = set()

            async def send(number: int, message: bytes) -> None:
                doubtful.add(number)
                verb = chance.randrange(4)
                if verb == 0:
                    await one.send_parts([message[:20], message[20:]], PATIENCE_S)
                elif verb == 1:
                    await one.send_many([message], PATIENCE_S)
                elif verb == 2 and len(message) < 50_000:
                    async with one.reserve(len(message), PATIENCE_S) as view:
                        view[:] = message
                else:
                    await one.send(message, PATIENCE_S)
                certain.add(number)

            async def send_all() -> None:
                for number in range(60):
                    await _interrupt(chance, send(number, writer.next()))
                await one.send(b"the end", PATIENCE_S)

            sending = asyncio.create_task(send_all())
            reader, came = LedgerReader(), []
            while (message := await other.receive(PATIENCE_S)) != b"the end":
                assert reader.add(message) == "new"  # whole, and behind those that came before
                came.append(int.from_bytes(message[8:16], "little"))
                if chance.random() < 0.3:
                    await asyncio.sleep(0.001)
            await sending
            assert certain <= set(came) <= doubtful, certain - set(came)

    run(story())


def _small(kind: str) -> str:
    return {"shm": "shm:?capacity_bytes=65536", "pipe": "pipe:"}.get(kind, f"{kind}:")


def test_a_begun_message_is_pushed_out_although_nobody_sends_any_more(run: Run) -> None:
    """Its send was cancelled half-way; the loop goes on with it while the task does something else."""

    async def story() -> None:
        one, other = aio.pair("shm:?capacity_bytes=4096")
        async with one, other:
            sending = asyncio.create_task(one.send(b"x" * 100_000))
            await asyncio.sleep(0.01)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert await other.receive(PATIENCE_S) == b"x" * 100_000
            await one.send(b"next", PATIENCE_S)
            assert await other.receive(PATIENCE_S) == b"next"

    run(story())


def test_try_send_of_a_large_message_needs_no_further_verb(run: Run) -> None:
    async def story() -> None:
        one, other = aio.pair("unix")
        async with one, other:
            assert one.try_send(b"x" * 5_000_000)
            assert await other.receive(PATIENCE_S) == b"x" * 5_000_000

    run(story())


@pytest.mark.parametrize("kind", ["shm:?capacity_bytes=4096", "unix:"])
def test_a_begun_message_is_whole_although_its_end_is_closed(run: Run, kind: str) -> None:
    """aclose() by another task comes amid a large send: the rest is pushed out, then the goodbye."""

    async def story() -> None:
        one, other = aio.pair(kind)
        message = os.urandom(3_000_000)
        async with other:
            sending = asyncio.create_task(one.send(message))
            await asyncio.sleep(0.005)
            closing = asyncio.create_task(one.aclose())
            assert [got async for got in other] == [message]
            await closing
            with pytest.raises(naru.ClosedError):
                await sending

    run(story())


def test_a_large_send_that_is_late_was_accepted(run: Run) -> None:
    """As in naru.Sender.send(): what was begun counts as sent, and the loop pushes it out."""

    async def story() -> None:
        one, other = aio.pair("shm:?capacity_bytes=4096")
        async with one, other:
            await one.send(b"x" * 100_000, timeout_s=0.005)
            assert one.statistics().messages_sent == 1
            with pytest.raises(naru.TimedOutError, match="nothing was sent"):
                await one.send(b"y", timeout_s=0.005)
            assert await other.receive(PATIENCE_S) == b"x" * 100_000

    run(story())


def test_timeouts_of_both_kinds(run: Run) -> None:
    async def story() -> None:
        one, other = aio.pair("shm")
        async with one, other:
            with pytest.raises(naru.TimedOutError):
                await other.receive(timeout_s=0.005)
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.005):
                    await other.receive()
            assert not isinstance(caught.value, naru.NaruError)
            await one.send(b"next")
            assert await other.receive(PATIENCE_S) == b"next"

    run(story())


def test_a_cancelled_accept_and_connect_leave_nothing(run: Run) -> None:
    async def story() -> None:
        address = f"shm://aio-cancel-{os.getpid()}"
        connecting = asyncio.create_task(aio.connect(address, timeout_s=None))
        await asyncio.sleep(0.01)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await_connecting_threads()
        async with aio.listen(address) as listener:
            accepting = asyncio.create_task(listener.accept())
            await asyncio.sleep(0)
            accepting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await accepting
            with pytest.raises(naru.TimedOutError):
                await listener.accept(timeout_s=0.01)
            made = asyncio.create_task(aio.connect(address))
            channel = await listener.accept(PATIENCE_S)
            async with channel, await made as other:
                await other.send(b"hello")
                assert await channel.receive(PATIENCE_S) == b"hello"

    run(story())


PLACES = {
    "shm": "shm://aio-late-{}",
    "unix": "unix:@aio-late-{}",
    "tcp": "tcp://127.0.0.1:0",
    "auto": "auto://aio-late-{}",
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_listener_that_is_late_gets_each_connection_once(run: Run, kind: str) -> None:
    """Whoever waits for a busy server knocks once: it finds no connections that were given up."""

    async def story() -> None:
        with naru.listen(PLACES[kind].format(os.getpid())) as listener:
            connecting = asyncio.create_task(aio.connect(listener.address, timeout_s=None))
            await asyncio.sleep(0.4)  # the fault itself: nobody greets for so long
            with await asyncio.to_thread(listener.accept, PATIENCE_S) as server:
                async with await connecting as client:
                    await client.send(b"once")
                    assert server.receive(timeout_s=PATIENCE_S) == b"once"
                    with pytest.raises(naru.TimedOutError):
                        listener.accept(timeout_s=0)

    run(story())


@pytest.mark.parametrize("kind", PLACES)
def test_a_connect_that_is_cancelled_while_nobody_greets_ends_its_thread(
    run: Run, kind: str
) -> None:
    async def story() -> None:
        with naru.listen(PLACES[kind].format(os.getpid())) as listener:
            connecting = asyncio.create_task(aio.connect(listener.address, timeout_s=None))
            await asyncio.sleep(0.05)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            await_connecting_threads()
            assert not [t for t in threading.enumerate() if t.name.startswith("naru connects")]

    run(story())


def test_connect_without_a_thread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def story() -> None:
        before = len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(naru.LimitError, match="RLIMIT_NPROC"):
                await aio.connect("shm://x")
        assert len(os.listdir("/proc/self/fd")) == before

    run(story())


def test_connect_says_who_is_not_there(run: Run) -> None:
    async def story() -> None:
        with pytest.raises(naru.NoSuchNameError):
            await aio.connect(f"shm://aio-nobody-{os.getpid()}", timeout_s=0.02)
        with pytest.raises(naru.BadAddressError):
            await aio.connect("nonsense://x")
        with pytest.raises(ValueError, match="timeout_s"):
            await aio.connect("shm://x", timeout_s=-1)

    run(story())


# ---- several tasks ----


def test_receivers_are_served_in_order(run: Run) -> None:
    async def story() -> None:
        one, other = aio.pair("shm")
        async with one, other:
            order: list[tuple[int, bytes]] = []

            async def receive(number: int) -> None:
                order.append((number, await other.receive(PATIENCE_S)))

            waiting = [asyncio.create_task(receive(number)) for number in range(5)]
            await asyncio.sleep(0.002)
            assert other.try_receive() is None
            await one.send_many([b"%d" % number for number in range(6)])
            await asyncio.gather(*waiting)
            assert order == [(number, b"%d" % number) for number in range(5)]
            assert other.try_receive() == b"5"

    run(story())


@pytest.mark.parametrize("kind", ["shm", "unix"])
def test_large_sends_of_several_tasks_do_not_mix(run: Run, kind: str) -> None:
    async def story() -> None:
        one, other = aio.pair(_small(kind))
        async with one, other:
            count = 8

            async def send(sender_id: int) -> None:
                writer = LedgerWriter(sender_id, lambda s: 24 + (s * 50_021 + sender_id) % 300_000)
                for message in writer.take(count):
                    await one.send(message, PATIENCE_S)

            sending = [asyncio.create_task(send(number)) for number in range(6)]
            reader = LedgerReader()
            for _ in range(6 * count):
                reader.add(await other.receive(PATIENCE_S))
            await asyncio.gather(*sending)
            report = reader.report(dict.fromkeys(range(6), count))
            assert report.is_perfect, str(report)

    run(story())


def test_a_firehose_leaves_the_loop_to_others(run: Run) -> None:
    """A task that never has to wait, and one that wants to run now and then."""

    async def story() -> None:
        one, other = aio.pair("shm")
        async with one, other:
            ticks, over = 0, False

            async def tick() -> None:
                nonlocal ticks
                while not over:
                    ticks += 1
                    await asyncio.sleep(0)

            ticking = asyncio.create_task(tick())
            until_s = time.monotonic() + 0.05
            while time.monotonic() < until_s:
                await one.send(b"x")
                await other.receive()
            over = True
            await ticking
            assert ticks > 10

    run(story())


def test_closing_wakes_every_waiting_task(run: Run) -> None:
    async def story() -> None:
        for close in ("close", "aclose"):
            one, other = aio.pair("shm:?capacity_bytes=4096")
            while one.try_send(b"x" * 500):
                pass
            tasks = [asyncio.create_task(one.receive()) for _ in range(3)]
            tasks += [asyncio.create_task(one.send(b"y" * 500)) for _ in range(3)]
            await asyncio.sleep(0.002)
            if close == "close":
                one.close()
            else:
                await one.aclose()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, naru.ClosedError), result
            assert one.closed
            with pytest.raises(naru.ClosedError):
                await one.receive()
            await other.aclose()

    run(story())


def test_a_task_that_would_wait_for_itself_is_told(run: Run) -> None:
    async def story() -> None:
        one, other = aio.pair("shm")
        async with one, other:
            await one.send_many([b"first", b"second"])
            async with other.lease() as view:
                assert bytes(view) == b"first"
                with pytest.raises(naru.UnsupportedError, match="a lease is open"):
                    await other.receive()
                with pytest.raises(naru.UnsupportedError, match="a lease is open"):
                    other.try_receive()
                later = asyncio.create_task(other.receive(PATIENCE_S))  # another task waits
                await asyncio.sleep(0.002)
                assert not later.done()
            assert await later == b"second"
            async with one.reserve(3) as place:
                with pytest.raises(naru.UnsupportedError, match="a reservation is open"):
                    await one.send(b"x")
                place[:] = b"abc"
            assert await other.receive(PATIENCE_S) == b"abc"

    run(story())


# ---- loops, ends ----


def test_iteration_ends_with_the_peer(run: Run) -> None:
    async def story() -> list[bytes]:
        one, other = aio.pair("shm")
        async with other:
            async with one:
                await one.send_many([b"1", b"2"])
            return [message async for message in other]

    assert run(story()) == [b"1", b"2"]


def test_priorities(run: Run) -> None:
    async def story() -> list[tuple[bytes, int]]:
        with naru.receiver(f"mq:///aio-{os.getpid()}") as synchronous:
            receiver = aio.Receiver(synchronous)
            async with await aio.sender(receiver.address) as sender:
                await sender.send(b"low")
                await sender.send(b"high", priority=7)
                got = [await receiver.receive_with_priority(PATIENCE_S) for _ in range(2)]
            await receiver.aclose()
            return got

    assert run(story()) == [(b"high", 7), (b"low", 0)]


def test_a_loop_in_another_thread(run: Run) -> None:
    """Two loops, an end in each."""
    one, other = naru.pair("shm")

    async def answer() -> None:
        async with aio.Channel(other) as channel:
            async for message in channel:
                await channel.send(message[::-1])

    async def ask() -> bytes:
        async with aio.Channel(one) as channel:
            for _ in range(100):
                await channel.send(b"naru")
                got = await channel.receive(PATIENCE_S)
            return got

    answering = threading.Thread(target=run, args=(answer(),))
    answering.start()
    assert run(ask()) == b"uran"
    answering.join()


def test_one_loop_after_another(run: Run) -> None:
    """An end goes on in a new loop once the old one is closed; not before."""
    one, other = aio.pair("shm")

    async def wait_in_vain() -> None:
        with pytest.raises(naru.TimedOutError):
            await other.receive(timeout_s=0.001)

    async def receive() -> bytes:
        sending = asyncio.get_running_loop().call_later(0.001, one.try_send, b"x")
        got = await other.receive(PATIENCE_S)
        assert sending.when() > 0
        return got

    run(wait_in_vain())
    assert run(receive()) == b"x"

    async def inside() -> None:
        caught: list[BaseException] = []

        def elsewhere() -> None:
            try:
                asyncio.run(wait_in_vain())
            except RuntimeError as error:
                caught.append(error)

        with pytest.raises(naru.TimedOutError):
            await other.receive(timeout_s=0.001)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.001)
        assert "another event loop" in str(caught[0])
        one.close()
        other.close()

    run(inside())


def test_an_idle_channel_leaves_the_loop_asleep(run: Run) -> None:
    """Messages that nobody waits for do not keep the loop busy, nor does a waiting receiver."""

    async def story() -> None:
        for kind in ("shm", "unix"):
            one, other = aio.pair(kind)
            async with one, other:
                with pytest.raises(naru.TimedOutError):
                    await other.receive(timeout_s=0.001)  # registered from now on
                for _ in range(50):
                    await one.send(b"unread")
                    await asyncio.sleep(0.0002)
                spent = time.process_time()
                await asyncio.sleep(0.2)
                waiting = asyncio.create_task(one.receive())
                await asyncio.sleep(0.2)
                share = (time.process_time() - spent) / 0.4
                assert share < 0.2, f"{share:.0%} of a CPU with nothing to do"
                waiting.cancel()

    run(story())


def test_a_forgotten_end_warns_and_leaves_the_loop(run: Run) -> None:
    async def story() -> None:
        one, other = aio.pair("shm")
        for end in (one, other):
            with pytest.raises(naru.TimedOutError):
                await end.receive(timeout_s=0.001)
        del end
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del one, other
            gc.collect()
        assert [str(w.message).split(" (")[0] for w in caught] == ["unclosed <Channel shm:"] * 2

    run(story())


def test_a_task_that_only_the_channel_knows_lives_on(run: Run) -> None:
    """The loop knows tasks and ends weakly; waiting must keep both."""

    async def story() -> None:
        one, other = aio.pair("shm")
        got: list[bytes] = []

        async def receive(end: aio.Channel) -> None:
            async with end:
                got.append(await end.receive(PATIENCE_S))

        asyncio.ensure_future(receive(other))  # noqa: RUF006
        del other
        await asyncio.sleep(0.002)
        gc.collect()
        async with one:
            await one.send(b"alive")
            until_s = time.monotonic() + PATIENCE_S
            while not got and time.monotonic() < until_s:
                await asyncio.sleep(0.001)
        assert got == [b"alive"]

    run(story())


def test_it_takes_ends_of_its_kind_only() -> None:
    one, other = naru.pair("pipe")
    with one, other:
        with pytest.raises(TypeError, match=r"takes a naru\.Channel, not None"):
            aio.Channel(None)  # type: ignore[arg-type]
        wrapped = aio.Sender(one)
        with pytest.raises(TypeError, match=r"takes a naru\.Channel"):
            aio.Channel(wrapped)  # type: ignore[arg-type]
        assert "aio.Channel pipe:" in repr(wrapped)


def test_every_verb_of_the_synchronous_ends_is_there() -> None:
    """A verb that is added there has to be added here."""
    for name in ("Sender", "Receiver", "Channel"):
        there = {verb for verb in dir(getattr(naru, name)) if not verb.startswith("_")}
        here = {verb for verb in dir(getattr(aio, name)) if not verb.startswith("_")}
        assert there - here == set(), name
        assert here - there == {"aclose"}, name
