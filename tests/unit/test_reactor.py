"""The Reactor: what each verb promises, in one process."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import naru
from naru import signals
from naru.reactor import Reactor, Registration
from naru.testing import Child, Events


@pytest.fixture
def errors() -> list[tuple[str | None, Exception]]:
    return []


@pytest.fixture
def reactor(errors: list[tuple[str | None, Exception]]) -> Iterator[Reactor]:
    def keep(one: Registration | None, error: Exception) -> None:
        errors.append((one and one.name, error))

    with Reactor(on_error=keep) as made:
        yield made


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    with a, b:
        yield a, b


def until(reactor: Reactor, condition: Callable[[], object]) -> None:
    """Runs turns until it holds; the watchdog ends what never does."""
    while not condition():
        reactor.run(0.05)


# ---- descriptors ----


def test_readable_and_writable_of_one_descriptor(
    reactor: Reactor, sockets: tuple[socket.socket, socket.socket]
) -> None:
    a, b = sockets
    seen: list[str] = []
    reading = reactor.on_readable(a, lambda s: seen.append(f"read {s.recv(10)!r}"))
    writing = reactor.on_writable(a, lambda s: (seen.append("write"), writing.cancel()))
    assert reactor.run(0) is False
    assert seen == ["write"]
    assert not writing.active
    b.send(b"one")
    until(reactor, lambda: len(seen) == 2)
    assert seen[1] == "read b'one'"
    reading.cancel()
    reading.cancel()
    b.send(b"two")
    reactor.run(0.02)
    assert len(seen) == 2


def test_a_second_callback_for_the_same_is_refused(
    reactor: Reactor, sockets: tuple[socket.socket, socket.socket]
) -> None:
    reactor.on_readable(sockets[0], print)
    with pytest.raises(ValueError, match="already"):
        reactor.on_readable(sockets[0].fileno(), print)
    reactor.on_writable(sockets[0], print).cancel()


@pytest.mark.parametrize("priority", [-2, 3])
def test_priorities_have_a_range(
    reactor: Reactor, sockets: tuple[socket.socket, socket.socket], priority: int
) -> None:
    with pytest.raises(ValueError, match="priority"):
        reactor.on_readable(sockets[0], print, priority=priority)


def test_what_cannot_be_called_is_refused_at_once(reactor: Reactor) -> None:
    with pytest.raises(TypeError, match="cannot be called"):
        reactor.after(1, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be called"):
        reactor.call_soon_threadsafe(None)  # type: ignore[arg-type]


def test_regular_files_are_refused(reactor: Reactor, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(naru.UnsupportedError, match="regular file"):
            reactor.on_readable(file, print)
    assert not reactor.registrations


def test_a_closed_descriptor_is_refused(reactor: Reactor) -> None:
    with pytest.raises(naru.ClosedError):
        reactor.on_readable(9999, print)


def test_once_is_silent_until_it_is_armed_again(
    reactor: Reactor, sockets: tuple[socket.socket, socket.socket]
) -> None:
    a, b = sockets
    seen: list[bytes] = []
    one = reactor.on_readable(a, lambda s: seen.append(s.recv(1)), once=True)
    b.send(b"abc")
    until(reactor, lambda: seen)
    reactor.run(0.02)
    assert seen == [b"a"]
    one.rearm()  # what is there already is not lost
    until(reactor, lambda: len(seen) == 2)
    one.rearm()
    one.rearm()
    until(reactor, lambda: len(seen) == 3)
    reactor.run(0.02)
    assert seen == [b"a", b"b", b"c"]
    one.cancel()
    with pytest.raises(naru.ClosedError):
        one.rearm()


def test_once_may_be_armed_again_by_its_own_callback(
    reactor: Reactor, sockets: tuple[socket.socket, socket.socket]
) -> None:
    a, b = sockets
    seen = bytearray()

    def read(s: socket.socket) -> None:
        seen.extend(s.recv(1))
        one.rearm()

    one = reactor.on_readable(a, read, once=True)
    b.send(b"abcdef")
    until(reactor, lambda: len(seen) == 6)
    assert seen == b"abcdef"


def test_the_urgent_come_first(reactor: Reactor) -> None:
    seen: list[int] = []
    pairs = [socket.socketpair() for _ in range(4)]
    for priority, (a, b) in zip((-1, 1, 0, 2), pairs, strict=True):
        b.send(b"x")
        reactor.on_readable(a, lambda s, p=priority: (seen.append(p), s.recv(1)), priority=priority)  # type: ignore[misc]
    until(reactor, lambda: len(seen) == 4)
    assert seen == [2, 1, 0, -1]
    for a, b in pairs:
        a.close()
        b.close()


def test_a_reused_descriptor_never_gets_anothers_event(reactor: Reactor) -> None:
    """FAULTS 99: one callback closes the other's socket, whose number a new one gets at once."""
    seen: list[str] = []
    a, b = [socket.socketpair() for _ in range(2)]
    registrations: dict[socket.socket, Registration] = {}
    new: list[socket.socket] = []

    def read(mine: socket.socket) -> None:
        other = b[0] if mine is a[0] else a[0]
        seen.append("event")
        registrations[mine].cancel()
        registrations[other].cancel()
        number = other.fileno()
        other.close()
        fresh = socket.socketpair()
        new.extend(fresh)
        assert number in (fresh[0].fileno(), fresh[1].fileno())
        mine_now = next(s for s in fresh if s.fileno() == number)
        reactor.on_readable(mine_now, lambda _: seen.append("wrong"))

    for pair in (a, b):
        pair[1].send(b"x")
        registrations[pair[0]] = reactor.on_readable(pair[0], read)
    reactor.run(0.05)
    assert seen == ["event"]
    for one in (*a, *b, *new):
        one.close()


def test_a_descriptor_closed_without_cancel_does_no_harm(reactor: Reactor) -> None:
    seen: list[bytes] = []
    old: list[Registration] = []
    for number in range(200):
        a, b = socket.socketpair()
        old.append(reactor.on_readable(a, lambda s: seen.append(s.recv(9))))
        b.send(str(number).encode())
        until(reactor, lambda n=number: len(seen) == n + 1)  # type: ignore[misc]
        a.close()  # forgotten in the reactor
        b.close()
    assert seen == [str(number).encode() for number in range(200)]
    for one in old:
        one.cancel()
    before = reactor.statistics().wakeups
    reactor.run(0.05)
    assert reactor.statistics().wakeups == before


def test_subprocess_pipes(reactor: Reactor) -> None:
    got = bytearray()
    with subprocess.Popen([sys.executable, "-c", "print('x' * 100000)"], stdout=-1) as process:
        assert process.stdout is not None

        def read(pipe: Any) -> None:
            data = os.read(pipe.fileno(), 4096)
            got.extend(data)
            if not data:
                one.cancel()

        one = reactor.on_readable(process.stdout, read)
        until(reactor, lambda: not one.active)
    assert len(got) == 100001


def test_the_quiet_are_served_beside_a_firehose(reactor: Reactor) -> None:
    """FAULTS 101."""
    loud = [socket.socketpair() for _ in range(2)]
    quiet = [socket.socketpair() for _ in range(9)]
    served: set[int] = set()
    for a, b in loud:
        b.setblocking(False)
        reactor.on_readable(a, lambda s: s.recv(256))
        reactor.on_writable(b, lambda s: s.send(bytes(65536)))
    for a, _ in quiet:
        reactor.on_readable(a, lambda s: (served.add(s.fileno()), s.recv(1)))
    reactor.run(0.02)
    for _, b in quiet:
        b.send(b"x")
    until(reactor, lambda: len(served) == 9)
    for pair in loud + quiet:
        for one in pair:
            one.close()


# ---- messages ----


@pytest.mark.parametrize("transport", ["shm", "pipe", "unix", "tcp", "udp"])
def test_messages_of_every_pair(reactor: Reactor, transport: str) -> None:
    a, b = naru.pair(transport)
    got: list[bytes | None] = []
    with a, b:
        a.send(b"before")
        one = reactor.on_message(b, lambda end, message: got.append(message))
        until(reactor, lambda: got == [b"before"])
        for number in range(50):
            a.send(str(number).encode())
        until(reactor, lambda: len(got) == 51)
        a.close()
        if transport != "udp":
            until(reactor, lambda: not one.active)
            assert got.pop() is None
        assert got == [b"before", *(str(number).encode() for number in range(50))]


@pytest.mark.parametrize(
    "scheme", ["shm://r", "unix:@naru-reactor", "tcp://127.0.0.1:0", "mq:///naru-reactor"]
)
def test_messages_of_a_receiver(reactor: Reactor, scheme: str) -> None:
    got: list[bytes] = []
    with naru.receiver(scheme) as receiver:
        one = reactor.on_message(receiver, lambda end, message: got.append(message))

        def send(start: int) -> None:
            with naru.sender(receiver.address) as sender:
                for number in range(start, start + 100):
                    sender.send(str(number).encode())

        threads = [threading.Thread(target=send, args=(start,)) for start in (0, 100)]
        for thread in threads:
            thread.start()
        until(reactor, lambda: len(got) == 200)
        for thread in threads:
            thread.join()
        one.cancel()
    assert sorted(map(int, got)) == list(range(200))


def test_messages_of_a_fifo(reactor: Reactor) -> None:
    got: list[bytes] = []
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        address = f"fifo://{folder}/f"
        with naru.receiver(address) as receiver:
            one = reactor.on_message(receiver, lambda end, message: got.append(message))
            with naru.sender(address) as sender:
                sender.send(b"x")
                until(reactor, lambda: got)
            one.cancel()
    assert got[0] == b"x"


def test_the_end_has_a_callback_of_its_own(reactor: Reactor) -> None:
    a, b = naru.pair("unix")
    ends: list[Exception] = []
    with b:
        a.send(b"an end that was never used has nothing to say")
        reactor.on_message(b, lambda end, message: None, on_end=lambda end, e: ends.append(e))
        a.close()
        until(reactor, lambda: ends)
    assert isinstance(ends[0], naru.PeerGoneError)
    assert ends[0].orderly


def test_an_end_closed_in_its_callback(reactor: Reactor) -> None:
    a, b = naru.pair("shm")
    ends: list[Exception] = []
    with a:
        reactor.on_message(b, lambda end, m: end.close(), on_end=lambda end, e: ends.append(e))
        a.send(b"x")
        until(reactor, lambda: ends)
    assert isinstance(ends[0], naru.ClosedError)
    assert not reactor.registrations


def test_no_message_is_lost_by_a_callback_that_raises(
    reactor: Reactor, errors: list[tuple[str | None, Exception]]
) -> None:
    got: list[bytes] = []

    def fails(end: naru.Channel, message: bytes) -> None:
        got.append(message)
        raise KeyError(message)

    a, b = naru.pair("shm")
    with a, b:
        for number in range(40):
            a.send(str(number).encode())
        one = reactor.on_message(b, fails)
        until(reactor, lambda: len(got) == 40)
        assert one.errors == 40
    assert [error for _, error in errors] == [errors[0][1]]  # told once
    assert (
        errors[0][0]
        == f"{__name__}.test_no_message_is_lost_by_a_callback_that_raises.<locals>.fails"
    )
    assert reactor.statistics().errors == 40


def test_senders_have_nothing_to_tell(reactor: Reactor) -> None:
    a, b = naru.pair("unix")
    with a, b, pytest.raises(naru.UnsupportedError, match="try_send"):
        reactor.on_writable(a, print)


@pytest.mark.parametrize(
    "address", ["shm://listening", "unix:@naru-listening", "tcp://127.0.0.1:0"]
)
def test_connections(reactor: Reactor, address: str) -> None:
    channels: list[naru.Channel] = []
    answers: list[bytes] = []
    with naru.listen(address) as listener:

        def welcome(channel: naru.Channel) -> None:
            channels.append(channel)
            reactor.on_message(channel, lambda c, m: c.send(m.upper()) if m else c.close())

        reactor.on_connection(listener, welcome)

        def talk() -> None:
            with naru.connect(listener.address) as client:
                client.send(b"hello")
                answers.append(client.receive(5))

        threads = [threading.Thread(target=talk) for _ in range(5)]
        for thread in threads:
            thread.start()
        until(reactor, lambda: len(answers) == 5)
        for thread in threads:
            thread.join()
        until(reactor, lambda: all(channel.closed for channel in channels))
    assert answers == [b"HELLO"] * 5


def test_a_silent_stranger_is_turned_away_by_the_clock(reactor: Reactor) -> None:
    address = "tcp://127.0.0.1:0?handshake_timeout_s=0.1"
    with naru.listen(address) as listener, socket.socket() as stranger:
        reactor.on_connection(listener, print)
        stranger.connect(("127.0.0.1", listener.address.port))
        until(reactor, lambda: listener.strangers == 1)


def test_connections_of_a_plain_socket(reactor: Reactor) -> None:
    got: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = reactor.on_connection(listening, got.append)
        clients = [socket.create_connection(listening.getsockname()) for _ in range(20)]
        until(reactor, lambda: len(got) == 20)
        one.cancel()
        for each in (*clients, *got):
            each.close()


# ---- time ----


def test_timers_keep_their_order_and_are_never_early(reactor: Reactor) -> None:
    fired: list[tuple[float, float]] = []
    start = time.monotonic()
    for delay in (0.03, 0.01, -1.0, 0.02, 0.0):
        reactor.after(delay, lambda d=delay: fired.append((d, time.monotonic() - start)))  # type: ignore[misc]
    until(reactor, lambda: len(fired) == 5)
    assert [delay for delay, _ in fired] == [-1.0, 0.0, 0.01, 0.02, 0.03]
    assert all(at >= delay for delay, at in fired)
    assert not reactor.registrations


def test_timers_of_one_instant_and_many(reactor: Reactor) -> None:
    fired: list[int] = []
    for number in range(10_000):
        reactor.after(-1, lambda n=number: fired.append(n))  # type: ignore[misc]
    until(reactor, lambda: len(fired) == 10_000)
    assert sorted(fired) == list(range(10_000))


def test_a_timer_cancelled_by_another_of_the_same_instant(reactor: Reactor) -> None:
    fired: list[int] = []
    timers: list[Registration] = []
    for number in range(2):
        timers.append(
            reactor.after(0.01, lambda n=number: (fired.append(n), timers[1 - n].cancel()))
        )  # type: ignore[misc]
    until(reactor, lambda: fired)
    reactor.run(0.02)
    assert len(fired) == 1


def test_a_period_goes_on_until_it_is_cancelled(reactor: Reactor) -> None:
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            one.cancel()

    one = reactor.every(0.002, tick)
    until(reactor, lambda: len(ticks) == 3)
    reactor.run(0.02)
    assert len(ticks) == 3


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_periods_are_above_zero(reactor: Reactor, seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        reactor.every(seconds, print)


def test_a_time_that_is_none(reactor: Reactor) -> None:
    with pytest.raises(ValueError, match="number"):
        reactor.after(float("nan"), print)


def test_a_blocked_callback_makes_no_burst(reactor: Reactor) -> None:
    ticks: list[float] = []

    def tick() -> None:
        ticks.append(time.monotonic())
        if len(ticks) == 1:
            time.sleep(0.1)

    one = reactor.every(0.01, tick)
    until(reactor, lambda: len(ticks) >= 3)
    assert one.missed >= 8
    assert reactor.statistics().timers_missed == one.missed


# ---- signals, processes, files ----


def test_signals(reactor: Reactor) -> None:
    came: list[signals.Signal] = []
    one = reactor.on_signal({signal.SIGUSR1, signal.SIGRTMIN}, came.append)
    for value in range(100):
        signals.notify(os.getpid(), signal.SIGRTMIN, value)
        os.kill(os.getpid(), signal.SIGUSR1)
    until(reactor, lambda: len(came) >= 101)
    # In their order, but for what met a thread that had not blocked it yet (pytest starts one).
    assert sorted(s.value or 0 for s in came if s.number == signal.SIGRTMIN) == list(range(100))
    with pytest.raises(ValueError, match="already"):
        reactor.on_signal(signal.SIGUSR1, print)
    one.cancel()
    reactor.on_signal(signal.SIGUSR1, print).cancel()
    with pytest.raises(naru.UnsupportedError):
        reactor.on_signal(signal.SIGKILL, print)
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_every_exit_is_told(reactor: Reactor) -> None:
    codes: dict[int, int | None] = {}
    processes = [
        subprocess.Popen([sys.executable, "-c", f"raise SystemExit({number})"])
        for number in range(5)
    ]
    pid = os.fork()
    if pid == 0:
        os._exit(77)
    reactor.on_exit(pid, lambda p, code: codes.update({p: code}))
    for number, process in enumerate(processes):
        reactor.on_exit(process, lambda p, code, n=number: codes.update({n: code}))  # type: ignore[misc]
    until(reactor, lambda: len(codes) == 6)
    assert codes == {pid: 77, 0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
    assert [process.returncode for process in processes] == [0, 1, 2, 3, 4]
    assert not reactor.registrations
    with pytest.raises(naru.PeerGoneError):
        reactor.on_exit(processes[0], lambda p, code: None)


def test_changes_of_a_rotated_file(reactor: Reactor, tmp_path: Path) -> None:
    seen: list[tuple[str, str, str | None]] = []
    log = tmp_path / "log"

    def note(change: Any) -> None:
        seen.append((Path(change.path).name, change.kind, change.other and Path(change.other).name))

    reactor.on_change(log, note)
    with open(log, "w") as file:
        file.write("one")
    log.rename(tmp_path / "log.1")
    (tmp_path / "other").write_text("nobody asked")
    log.write_text("two")
    log.unlink()
    until(reactor, lambda: ("log", "deleted", None) in seen)
    kinds = [kind for _, kind, _ in seen]
    assert {name for name, _, _ in seen} == {"log"}
    assert kinds == [
        "created",
        "modified",
        "closed",
        "moved_away",
        "created",
        "modified",
        "closed",
        "deleted",
    ]
    assert ("log", "moved_away", "log.1") in seen


def test_changes_in_a_directory_until_it_is_gone(reactor: Reactor, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    seen: list[str] = []
    one = reactor.on_change(folder, lambda c: seen.append(f"{Path(c.path).name} {c.kind}"))
    (folder / "a").write_text("")
    (folder / "a").unlink()
    folder.rmdir()
    until(reactor, lambda: "folder gone" in seen)
    assert seen == ["a created", "a closed", "a deleted", "folder gone"]
    one.cancel()
    with pytest.raises(naru.NoSuchNameError):
        reactor.on_change(folder / "a", print)


# ---- the loop ----


def test_calls_of_other_threads(reactor: Reactor) -> None:
    got: list[tuple[int, int]] = []

    def call(thread: int) -> None:
        for number in range(500):
            reactor.call_soon_threadsafe(lambda *both: got.append(both), thread, number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    until(reactor, lambda: len(got) == 1500)
    for thread in threads:
        thread.join()
    for thread in range(3):
        assert [n for t, n in got if t == thread] == list(range(500))


def test_stop_of_another_thread_and_before_the_run(reactor: Reactor) -> None:
    reactor.stop()
    assert reactor.run(10) is True
    thread = threading.Thread(target=reactor.stop)
    reactor.after(0.01, thread.start)
    assert reactor.run() is True
    thread.join()


def test_errors_are_told_once_and_the_loop_goes_on(
    reactor: Reactor, errors: list[tuple[str | None, Exception]]
) -> None:
    def fails() -> None:
        raise RuntimeError("on purpose")

    one = reactor.every(0.001, fails)
    reactor.call_soon_threadsafe(fails)
    until(reactor, lambda: one.errors >= 5)
    assert [str(error) for _, error in errors] == ["on purpose"] * 2  # the call's, the timer's
    assert {name for name, _ in errors} == {None, one.name}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_errors_go_to_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        sys, "unraisablehook", lambda args: seen.append((args.object, args.exc_type))
    )

    def fails() -> None:
        raise RuntimeError("on purpose")

    with Reactor() as reactor:
        reactor.after(0, fails)
        reactor.run(0.01)
    assert seen == [(fails, RuntimeError)]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_stops_a_program_stops_the_loop(reactor: Reactor, kind: type[BaseException]) -> None:
    def stops() -> None:
        raise kind

    reactor.after(0, stops)
    with pytest.raises(kind):
        reactor.run(5)
    assert not reactor.is_running
    reactor.stop()
    assert reactor.run(5)  # usable afterwards


def test_ctrl_c_leaves_run(reactor: Reactor) -> None:
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        reactor.run(10)
    timer.join()


def test_run_within_run_and_close_within_run_are_refused(
    reactor: Reactor, errors: list[tuple[str | None, Exception]]
) -> None:
    reactor.after(0, reactor.run)
    reactor.after(0, reactor.close)
    reactor.run(0.01)
    assert [type(error) for _, error in errors] == [RuntimeError, RuntimeError]
    assert not reactor.closed


def test_idle_means_asleep(reactor: Reactor) -> None:
    """No busy loop ever: wake-ups are counted."""
    a, b = naru.pair("shm")
    name = f"unix:@idle-{os.getpid()}"
    with a, b, naru.listen("tcp://127.0.0.1:0") as listener, naru.receiver(name) as r:
        reactor.on_message(b, print)
        reactor.on_message(r, print)
        reactor.on_connection(listener, print)
        reactor.on_signal(signal.SIGUSR2, print)
        reactor.run(0.05)
        before = reactor.statistics().wakeups
        cpu = time.process_time()
        reactor.run(0.5)
        assert reactor.statistics().wakeups - before <= 1
        assert time.process_time() - cpu < 0.25


def test_drain_waits_for_what_is_under_way(reactor: Reactor) -> None:
    a, b = naru.pair("unix")
    got: list[bytes | None] = []
    with a, b, naru.listen("tcp://127.0.0.1:0") as listener:
        connections = reactor.on_connection(listener, print)
        period = reactor.every(1, print)
        reactor.on_signal(signal.SIGUSR1, print)
        reactor.on_message(b, lambda end, message: got.append(message))
        assert reactor.drain(0.02) is False
        assert not connections.active
        assert not period.active
        a.send(b"last")
        reactor.after(0.01, a.close)
        assert reactor.drain(10) is True
    assert got == [b"last", None]


def test_drain_in_a_callback_ends_run(reactor: Reactor) -> None:
    reactor.after(0.02, lambda: None)
    reactor.after(0, lambda: reactor.drain(10))
    assert reactor.run() is True
    reactor.after(10, print)
    reactor.after(0, lambda: reactor.drain(0.01))
    assert reactor.run() is False
    with pytest.raises(ValueError, match="timeout_s"):
        reactor.drain(-1)


def test_slow_callbacks_are_named() -> None:
    def dawdles() -> None:
        time.sleep(0.02)

    with Reactor(slow_callback_s=0.01) as reactor:
        reactor.after(0, dawdles)
        reactor.run(0.05)
        (slow,) = reactor.statistics().slow
        assert slow.name == f"{__name__}.test_slow_callbacks_are_named.<locals>.dawdles"
        assert slow.count == 1
        assert slow.longest_s >= 0.02
        assert reactor.statistics().turn_longest_s >= 0.02


def test_a_reactor_in_a_loop(reactor: Reactor) -> None:
    fired: list[int] = []
    with Reactor() as outer:
        reactor.after(0.01, lambda: fired.append(1))
        outer.on_readable(reactor, lambda inner: inner.run(0))
        until(outer, lambda: fired)
        with pytest.raises(naru.LimitError, match="ELOOP"):
            reactor.on_readable(outer, print)


def test_closed_means_closed(sockets: tuple[socket.socket, socket.socket]) -> None:
    reactor = Reactor()
    one = reactor.on_readable(sockets[0], print)
    reactor.close()
    reactor.close()
    assert reactor.closed
    assert not one.active
    one.cancel()
    for call in (reactor.run, reactor.stop, reactor.fileno, reactor.statistics):
        with pytest.raises(naru.ClosedError):
            call()
    with pytest.raises(naru.ClosedError):
        reactor.after(1, print)
    with pytest.raises(naru.ClosedError):
        reactor.on_readable(sockets[0], print)


def test_an_unclosed_reactor_warns_and_is_collected() -> None:
    class Big:
        def tick(self) -> None: ...

    big = Big()
    there = weakref.ref(big)
    reactor: Reactor | None = Reactor()
    assert reactor is not None
    reactor.every(1, big.tick)
    del big
    reactor = None
    with pytest.warns(ResourceWarning, match="unclosed <Reactor"):
        gc.collect()
    assert there() is None


def test_nothing_is_kept_of_what_is_over(reactor: Reactor) -> None:
    def use() -> list[weakref.ref[Registration]]:
        a, b = socket.socketpair()
        near, far = naru.pair("shm")
        made = [
            reactor.on_readable(a, print), reactor.on_writable(b, print),
            reactor.on_message(near, print), reactor.after(0, int), reactor.every(5, int),
            reactor.on_signal(signal.SIGUSR1, print), reactor.on_change("/tmp", print),
            reactor.on_exit(os.getpid(), print),
        ]  # fmt: skip
        reactor.run(0)
        for one in made:
            one.cancel()
        for end in (a, b, near, far):
            end.close()
        return [weakref.ref(one) for one in made]

    left = [reference for _ in range(20) for reference in use()]
    gc.collect()
    assert [reference() for reference in left if reference() is not None] == []
    assert len(reactor.registrations) == 1  # its one inotify descriptor


def use_in_a_child(events: Events) -> None:
    with Reactor() as reactor:
        fired: list[str] = []
        reactor.after(0, lambda: fired.append("mine"))
        pid = os.fork()
        if pid == 0:
            try:
                reactor.run(0)
            except naru.ForkedHandleError:
                reactor.close()
                os._exit(7)
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        reactor.run(0.01)
        events.tell("child", code=os.waitstatus_to_exitcode(status), fired=fired)


def test_a_fork_has_no_reactor() -> None:
    with Child.run(use_in_a_child) as child:
        assert child.expect("child") == {"code": 7, "fired": ["mine"]}
        assert child.wait() == 0


def test_repr_says_what_is_there(
    reactor: Reactor, sockets: tuple[socket.socket, socket.socket]
) -> None:
    one = reactor.on_readable(sockets[0], print)
    assert repr(reactor) == "<Reactor (1 registrations)>"
    assert "on_readable" in repr(one)
    assert "builtins.print" in repr(one)
