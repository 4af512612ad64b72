"""99-106: what goes wrong around a loop, and must not stop it, block it or make it spin.

99 (a reused descriptor) and 101 (a firehose) have their first tests in tests/unit/test_reactor.py.
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest
from helpers import scaled

import naru
from naru import signals
from naru.reactor import Change, Reactor, Registration
from naru.testing import Child, Events
from naru.testing.descriptors import limited_descriptors


def until(reactor: Reactor, condition: Callable[[], object]) -> None:
    """Runs turns until it holds; the watchdog ends what never does."""
    while not condition():
        reactor.run(0.05)


# ---- 79, 14: no descriptor is free ----


@pytest.mark.parametrize("plain", [True, False])
def test_79_no_descriptor_to_accept_with(plain: bool) -> None:
    """The loop goes on, uses no CPU for those who wait, and serves them when there is room."""
    accepted: list[socket.socket | naru.Channel] = []
    clients: list[socket.socket | naru.Channel] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        naru.listen("tcp://127.0.0.1:0") as listener,
        Reactor() as reactor,
    ):
        reactor.on_connection(listening if plain else listener, accepted.append)
        if plain:
            clients += [socket.create_connection(listening.getsockname()) for _ in range(5)]
        else:
            port = listener.address.port
            clients += [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        with limited_descriptors(0):
            reactor.run(0.05)
            before = reactor.statistics()
            cpu = time.process_time()
            reactor.run(0.6)
            after = reactor.statistics()
            assert not accepted
            # Ten looks a second, and not 400,000.
            assert after.wakeups - before.wakeups <= 20
            assert time.process_time() - cpu < 0.3
        if plain:
            until(reactor, lambda: len(accepted) == 5)
        else:  # those five say nothing, and delay nobody
            clients.append(connect_beside(reactor, listener))
            until(reactor, lambda: len(accepted) == 1)
        for one in (*accepted, *clients):
            one.close()


def connect_beside(reactor: Reactor, listener: naru.Listener) -> naru.Channel:
    """Connects while the reactor runs."""
    got: list[naru.Channel] = []
    thread = threading.Thread(target=lambda: got.append(naru.connect(listener.address)))
    thread.start()
    until(reactor, lambda: got)
    thread.join()
    return got[0]


def test_14_no_descriptor_for_a_registration() -> None:
    with Reactor() as reactor, limited_descriptors(0):
        for attempt in (
            lambda: reactor.on_signal(signal.SIGUSR1, print),
            lambda: reactor.on_exit(os.getpid(), lambda p, code: None),
            lambda: reactor.on_change("/tmp", print),
            Reactor,
        ):
            with pytest.raises(naru.LimitError):
                attempt()
        assert not reactor.registrations
        assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


# ---- 99 ----


def test_99_a_storm_of_reused_numbers() -> None:
    """Random closing, cancelling, forgetting and reopening, also inside callbacks of one batch."""
    choose = random.Random(99)
    wrong: list[str] = []
    served = 0
    living: list[tuple[socket.socket, socket.socket, list[Registration]]] = []

    with Reactor(on_error=lambda one, error: wrong.append(repr(error))) as reactor:

        def open_one() -> None:
            a, b = socket.socketpair()
            a.setblocking(False)
            identity = bytes(choose.randbytes(8))

            def read(mine: socket.socket) -> None:
                nonlocal served
                if mine is not a:
                    wrong.append("another's callback")
                if a.fileno() < 0:
                    return  # closed in this batch and forgotten: its own event, and nobody else's
                try:
                    data = a.recv(64)
                except BlockingIOError:
                    wrong.append("an event without data")
                    return
                served += 1
                if data != identity:
                    wrong.append(f"{data!r} for {identity!r}")
                for _ in range(choose.randrange(3)):
                    if living:
                        close_one()
                        open_one()

            entry = (a, b, [reactor.on_readable(a, read, priority=choose.randrange(-1, 3))])
            b.send(identity)
            living.append(entry)

        def close_one() -> None:
            a, b, registrations = living.pop(choose.randrange(len(living)))
            forget = choose.random() < 0.3
            if not forget:
                registrations[0].cancel()
            a.close()
            b.close()
            if forget and choose.random() < 0.5:
                registrations[0].cancel()

        for _ in range(64):
            open_one()
        for _ in range(scaled(300, 20_000)):
            reactor.run(0)
            for _ in range(4):  # those that were served are silent from then on: others instead
                close_one()
                open_one()
        assert served > 300
        assert not wrong, wrong[:5]
        for one in list(reactor.registrations):
            one.cancel()
        before = reactor.statistics().wakeups
        reactor.run(0.02)
        assert reactor.statistics().wakeups == before
        for a, b, _ in living:
            a.close()
            b.close()


def test_99_a_descriptor_whose_copy_lives_does_not_spin() -> None:
    """The kernel goes on reporting a closed descriptor while a copy of it is open elsewhere."""
    calls: list[int] = []
    with Reactor() as reactor:
        a, b = socket.socketpair()
        copy = os.dup(a.fileno())
        reactor.on_readable(a, lambda s: calls.append(1))
        b.send(b"x")
        a.close()  # forgotten, and readable for ever through the copy
        reactor.run(0.05)
        # While the registration lives its callback is called: the file is open, and readable.
        (forgotten,) = reactor.registrations
        forgotten.cancel()
        reactor.run(0.02)
        settled = reactor.statistics().wakeups
        reactor.run(0.2)
        assert reactor.statistics().wakeups - settled <= 1
        assert calls
        os.close(copy)
        b.close()


# ---- 101 ----


def test_101_a_firehose_beside_a_thousand_quiet_ones() -> None:
    loud = [socket.socketpair() for _ in range(2)]
    quiet = [socket.socketpair() for _ in range(scaled(200, 1000))]
    answered: set[int] = set()
    turns: list[int] = []
    try:
        with Reactor() as reactor:
            for reader, writer in loud:
                writer.setblocking(False)
                reactor.on_readable(reader, lambda s: s.recv(256))
                reactor.on_writable(writer, lambda s: s.send(bytes(65536)), priority=1)
            for number, (reader, _) in enumerate(quiet):

                def read(one: socket.socket, number: int = number) -> None:
                    one.recv(1)
                    answered.add(number)

                reactor.on_readable(reader, read)
            for number, (_, writer) in enumerate(quiet):
                writer.send(b"x")
                before = reactor.statistics().turns
                while number not in answered:
                    reactor.run(0)
                turns.append(reactor.statistics().turns - before)
        assert max(turns) <= 20  # each within a few looks at the kernel, whatever the loud ones do
    finally:
        for pair in loud + quiet:
            for one in pair:
                one.close()


# ---- 102 ----


@pytest.mark.watchdog(seconds=60)
def test_102_registrations_are_rearmed_by_other_threads() -> None:
    """Each event is handed to one of four threads, which reads and arms again: nothing stalls."""
    total = scaled(2_000, 200_000)
    pairs = [socket.socketpair() for _ in range(4)]
    jobs: SimpleQueue[tuple[Registration, socket.socket] | None] = SimpleQueue()
    counts = [0] * len(pairs)
    registrations: dict[socket.socket, Registration] = {}

    def work() -> None:
        while (job := jobs.get()) is not None:
            one, sock = job
            counts[[a for a, _ in pairs].index(sock)] += len(sock.recv(3))
            one.rearm()

    def write(sock: socket.socket) -> None:
        for _ in range(total):
            sock.sendall(b"x")

    workers = [threading.Thread(target=work) for _ in range(4)]
    writers = [threading.Thread(target=write, args=(b,)) for _, b in pairs]
    with Reactor() as reactor:
        for a, _ in pairs:
            registrations[a] = reactor.on_readable(
                a, lambda s: jobs.put((registrations[s], s)), once=True
            )
        for thread in workers + writers:
            thread.start()
        until(reactor, lambda: sum(counts) == total * len(pairs))
        for _ in workers:
            jobs.put(None)
        for thread in workers + writers:
            thread.join()
    assert counts == [total] * len(pairs)
    for pair in pairs:
        for one in pair:
            one.close()


# ---- 104 ----

STORM = """
import os, signal, sys
for n in range(2000):
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGRTMIN):
        os.kill(int(sys.argv[1]), number)
"""


def test_104_a_storm_of_signals_neither_kills_nor_blocks() -> None:
    numbers = {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGRTMIN}
    seen: dict[int, int] = dict.fromkeys(numbers, 0)
    answers: list[bytes] = []
    a, b = naru.pair("unix")
    ended: list[int | None] = []

    def count(came: signals.Signal) -> None:
        seen[came.number] += 1

    def answer(end: naru.Channel, message: bytes) -> None:
        answers.append(message)
        b.try_send(message)

    with a, b, Reactor() as reactor:
        reactor.on_signal(numbers, count)
        reactor.on_message(a, answer)
        with signals.unblocked():
            process = subprocess.Popen([sys.executable, "-c", STORM, str(os.getpid())])
        reactor.on_exit(process, lambda p, code: ended.append(code))
        b.send(b"round and round")
        # What still waits when the reactor closes meets its usual fate: the end of this process.
        until(reactor, lambda: ended and not signal.sigpending() & numbers)
        assert ended == [0]
        assert all(seen.values()), seen
        assert len(answers) > 10  # others were served all the while
        assert reactor.statistics().errors == 0


def test_104_handlers_of_python_do_not_end_the_loop() -> None:
    """epoll_wait returns EINTR whatever the handler's flags say."""
    calls: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: calls.append(1))
    try:
        with Reactor() as reactor:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            start = time.monotonic()
            assert reactor.run(0.2) is False
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert time.monotonic() - start >= 0.2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert calls


def full_queue(events: Events) -> None:
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (10, 10))
    if os.getuid() == 0:
        os.setuid(54322)
    came: list[int] = []
    with Reactor() as reactor:
        reactor.on_signal({signal.SIGRTMIN, signal.SIGUSR1}, lambda s: came.append(s.number))
        sent = 0
        try:
            while sent < 100:
                signals.notify(os.getpid(), signal.SIGRTMIN, sent)
                sent += 1
        except naru.LimitError:
            signals.notify(os.getpid(), signal.SIGUSR1)
        until(reactor, lambda: signal.SIGUSR1 in came)
        signals.notify(os.getpid(), signal.SIGRTMIN, 1)  # there is room again
        until(reactor, lambda: came.count(signal.SIGRTMIN) == sent + 1)
        events.tell("came", sent=sent)


def test_104_a_full_queue_loses_nothing_that_was_sent() -> None:
    with Child.run(full_queue) as child:
        assert 0 < child.expect("came")["sent"] <= 10
        assert child.wait() == 0


def many_children(events: Events) -> None:
    codes: dict[int, int | None] = {}
    with Reactor() as reactor:
        hits: list[int] = []
        reactor.on_signal(signal.SIGCHLD, lambda s: hits.append(s.pid))
        for number in range(50):
            pid = os.fork()
            if pid == 0:
                os._exit(number)
            reactor.on_exit(pid, lambda p, code: codes.update({p: code}))
        until(reactor, lambda: len(codes) == 50)
        events.tell("codes", sum=sum(code or 0 for code in codes.values()), told=len(hits) > 0)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            events.tell("reaped")


def test_104_of_fifty_children_each_exit_is_told() -> None:
    with Child.run(many_children) as child:
        assert child.expect("codes") == {"sum": sum(range(50)), "told": True}
        child.expect("reaped")
        assert child.wait() == 0


# ---- 105 ----


def tick_while_stopped(events: Events) -> None:
    ticks: list[float] = []
    with Reactor() as reactor:

        def tick() -> None:
            ticks.append(time.monotonic())
            if len(ticks) == 5:
                events.tell("ticking")

        one = reactor.every(0.02, tick)
        late = []
        reactor.after(0.2, lambda: late.append(1))
        until(reactor, lambda: one.missed >= 20)  # a busy machine costs a few, too
        at_resume = len(ticks)
        reactor.run(0.1)
        gaps = [b - a for a, b in itertools.pairwise(ticks)]
        events.tell("ticked", missed=one.missed, after=len(ticks) - at_resume,
                    longest=max(gaps), late=len(late))  # fmt: skip


def test_105_a_stopped_process_makes_up_for_nothing() -> None:
    with Child.run(tick_while_stopped) as child:
        child.expect("ticking")
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(0.6)  # the fault itself: stopped for so long
        os.kill(child.pid, signal.SIGCONT)
        told = child.expect("ticked")
        assert child.wait() == 0
    assert told["missed"] >= 20
    assert told["after"] <= 8  # 0.1 s have room for 5
    assert told["longest"] >= 0.5
    assert told["late"] == 1


def test_105_a_hundred_thousand_timers() -> None:
    count = scaled(20_000, 100_000)
    choose = random.Random(105)
    delays = [choose.random() * 0.3 for _ in range(count)]
    fired: list[float] = []
    with Reactor() as reactor:
        start = time.monotonic()
        timers = [
            reactor.after(delay, lambda d=delay: fired.append(d))  # type: ignore[misc]
            for delay in delays
        ]
        spread = time.monotonic() - start
        cancelled = set(choose.sample(range(count), count // 2))
        alive = [number for number in cancelled if timers[number].active]
        for number in alive:
            timers[number].cancel()
        until(reactor, lambda: not reactor.registrations)
    assert len(fired) == count - len(alive)
    # In the order of their times, which began while they were made.
    assert all(b - a >= -spread - 0.001 for a, b in itertools.pairwise(fired))


# ---- others' deaths, and files ----


def killed_peer(events: Events, address: str) -> None:
    with naru.connect(address) as channel:
        channel.send(b"last words")
        events.tell("sent")
        signals.wait({signal.SIGUSR1})


@pytest.mark.parametrize("address", ["shm://killed", "unix:@naru-killed", "tcp://127.0.0.1:0"])
def test_35_a_killed_peer_is_an_end(address: str) -> None:
    seen: list[bytes | Exception] = []
    channels: list[naru.Channel] = []
    with naru.listen(address) as listener, Reactor() as reactor:

        def welcome(channel: naru.Channel) -> None:
            channels.append(channel)
            reactor.on_message(
                channel, lambda end, m: seen.append(m), on_end=lambda end, e: seen.append(e)
            )

        reactor.on_connection(listener, welcome)
        with Child.run(killed_peer, str(listener.address)) as child:
            until(reactor, lambda: seen)
            child.expect("sent")
            child.kill()
            until(reactor, lambda: len(seen) == 2)
        assert seen[0] == b"last words"
        assert isinstance(seen[1], naru.PeerGoneError)
        assert not seen[1].orderly
        channels[0].close()


def test_an_overflow_of_changes_is_told(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip(f"fs.inotify.max_queued_events is {limit}")
    seen: list[Change] = []
    with Reactor() as reactor:
        reactor.on_change(tmp_path, seen.append)
        for number in range(limit // 2 + 10):
            (tmp_path / f"{number % 100}").mkdir()
            (tmp_path / f"{number % 100}").rmdir()
        until(reactor, lambda: seen and seen[-1].kind == "overflow")
        assert seen[-1].path == str(tmp_path)
        (tmp_path / "after").write_text("")
        until(reactor, lambda: any(change.path.endswith("after") for change in seen))


def test_106_a_loop_within_a_loop() -> None:
    with Reactor() as reactor, selectors.EpollSelector() as selector:
        a, b = socket.socketpair()
        with a, b:
            selector.register(a, selectors.EVENT_READ)
            hits: list[int] = []
            reactor.on_readable(selector, lambda s: hits.append(len(s.select(0))), once=True)
            b.send(b"x")
            until(reactor, lambda: hits)
            assert hits == [1]
            for one in list(reactor.registrations):
                one.cancel()
