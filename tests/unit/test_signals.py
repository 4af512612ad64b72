"""Signals as messages: sent by pidfd, received by sigtimedwait and signalfd."""

from __future__ import annotations

import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

import naru
from naru import signals
from naru.signals import Signal
from naru.testing import Child, Events

USR1, USR2, RT = signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN + 2


@pytest.fixture
def dispositions() -> Iterator[dict[int, object]]:
    """What would happen with each signal, and the mask, are after the test as before."""
    before = {n: signal.getsignal(n) for n in (USR1, USR2, RT, signal.SIGINT, signal.SIGTERM)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield dict(before)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert before == {number: signal.getsignal(number) for number in before}


def test_wait_takes_a_signal_with_its_value(dispositions: object) -> None:
    with signals.blocked({RT}):
        signals.notify(os.getpid(), RT, value=-7)
        came = signals.wait({RT}, timeout_s=5)
    assert came == Signal(RT, os.getpid(), os.getuid(), -7, -1)
    assert came.name == "SIGRTMIN+2"


def test_a_plain_signal_has_no_value(dispositions: object) -> None:
    with signals.blocked(USR1):
        signals.notify(os.getpid(), USR1)
        came = signals.wait(USR1, timeout_s=5)
    assert (came.number, came.value, came.code, came.name) == (USR1, None, 0, "SIGUSR1")


def test_wait_times_out(dispositions: object) -> None:
    with pytest.raises(naru.TimedOutError, match="SIGUSR1 SIGUSR2"):
        signals.wait({USR1, USR2}, timeout_s=0)
    with pytest.raises(TimeoutError):
        signals.wait({USR1}, timeout_s=0.01)


def test_real_time_signals_queue_and_standard_ones_coalesce(dispositions: object) -> None:
    with signals.blocked({USR1, RT}):
        for value in range(100):
            signals.notify(os.getpid(), RT, value)
            signals.notify(os.getpid(), USR1, value)
        assert [signals.wait(RT, 0).value for _ in range(100)] == list(range(100))
        assert signals.wait(USR1, 0).value == 0  # the first; it swallowed the others
        for number in (USR1, RT):
            with pytest.raises(naru.TimedOutError):
                signals.wait(number, 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
def test_what_cannot_be_waited_for_is_refused(number: int) -> None:
    name = signal.Signals(number).name
    with pytest.raises(naru.UnsupportedError, match=name):
        signals.wait({number}, timeout_s=0)
    with pytest.raises(naru.UnsupportedError, match=name):
        signals.on_signal({USR1, number}, print)
    with pytest.raises(naru.UnsupportedError, match=name):
        with signals.blocked({number}):
            pass


@pytest.mark.parametrize("number", [-1, 0, 32, 33, 65, 1000])
def test_what_is_no_signal_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="no signal"):
        signals.wait({number}, timeout_s=0)
    if number:
        with pytest.raises(ValueError, match="no signal"):
            signals.notify(os.getpid(), number)


def test_no_signal_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no signal"):
        signals.SignalWatch(())


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_a_value_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        signals.notify(os.getpid(), RT, value)


@pytest.mark.parametrize("pid", [0, -1, True])
def test_groups_are_no_processes(pid: int) -> None:
    with pytest.raises(ValueError, match="no process"):
        signals.notify(pid, USR1)


def test_zero_only_asks() -> None:
    signals.notify(os.getpid(), 0)


# ---- to whom ----


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_notify_a_process_object() -> None:
    with sleeper() as process:
        signals.notify(process, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        with pytest.raises(naru.PeerGoneError, match="gone"):
            signals.notify(process, signal.SIGKILL)


def test_a_pid_that_is_nobodys() -> None:
    with sleeper() as process:
        process.kill()
        process.wait()
    with pytest.raises(naru.PeerGoneError):
        signals.notify(process.pid, 0)


def test_a_handle_outlives_the_number() -> None:
    with sleeper() as process, signals.open_process(process) as handle:
        signals.notify(handle, 0)
        handle.notify(signal.SIGTERM)
        process.wait(10)
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            assert selector.select(5)
        with pytest.raises(naru.PeerGoneError):
            handle.notify(signal.SIGTERM)
    assert handle.closed
    with pytest.raises(naru.ClosedError):
        handle.fileno()


def test_a_process_reaped_while_it_is_opened_is_gone() -> None:
    """The number may be another one's by then; what reaped it knows."""

    class Reaped:
        pid = os.getpid()
        returncode = 0

    with pytest.raises(naru.PeerGoneError):
        signals.notify(Reaped(), signal.SIGTERM)


def test_an_unclosed_handle_warns() -> None:
    with pytest.warns(ResourceWarning, match="ProcessHandle"):
        signals.open_process(os.getpid())


def fill_its_queue(events: Events) -> None:
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (20, 20))
    if os.getuid() == 0:
        os.setuid(54321)  # a user with nothing pending elsewhere
    sent = 0
    with signals.blocked({RT, USR1}):
        try:
            for value in range(100):
                signals.notify(os.getpid(), RT, None if value % 2 else value)
                sent += 1
        except naru.LimitError as error:
            events.tell("full", sent=sent, text=str(error))
        signals.notify(os.getpid(), USR1)  # a standard one always gets through
        got = sum(1 for _ in range(sent) if signals.wait(RT, 0))
        events.tell("got", got=got, usr1=signals.wait(USR1, 0).number)


def test_a_full_queue_is_told_and_what_was_sent_arrives() -> None:
    with Child.run(fill_its_queue) as child:
        full = child.expect("full")
        assert "RLIMIT_SIGPENDING" in full["text"]
        assert 0 < full["sent"] <= 20
        assert child.expect("got") == {"got": full["sent"], "usr1": USR1}
        assert child.wait() == 0


# ---- masks ----


def test_blocked_gives_back_what_was_there(dispositions: object) -> None:
    came: list[int] = []
    before = signal.signal(USR1, lambda number, _: came.append(number))
    try:
        with signals.blocked({USR1}), signals.blocked({USR1, USR2}):
            signals.notify(os.getpid(), USR1)
            signals.notify(os.getpid(), USR2)
            assert signals.wait(USR2, 0).number == USR2
            assert came == []
        assert came == [USR1]
    finally:
        signal.signal(USR1, before)


def test_a_thread_from_before_does_not_take_it(dispositions: object) -> None:
    """numpy's threads exist since its import: the default action of SIGUSR1 would kill."""
    leave = threading.Event()
    threads = [threading.Thread(target=leave.wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with signals.blocked({USR1, RT}):
            for value in range(50):
                signals.notify(os.getpid(), RT, value)
                os.kill(os.getpid(), USR1)
                assert signals.wait(RT, 5).value == value
                assert signals.wait(USR1, 5).number == USR1
    finally:
        leave.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("number", [USR1, signal.SIGCHLD, RT])
def test_a_thread_that_unblocks_it_by_itself_hands_it_on(dispositions: object, number: int) -> None:
    """With its sender, and as it was sent."""
    ready, leave = threading.Event(), threading.Event()

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        ready.set()
        leave.wait()

    thread = threading.Thread(target=unblock)
    with signals.SignalWatch(number) as watch, selectors.DefaultSelector() as loop:
        loop.register(watch, selectors.EVENT_READ)
        thread.start()
        ready.wait()
        os.kill(os.getpid(), number)
        came: list[Signal] = []
        while not came:  # readable, then that thread's for a moment, then readable again
            loop.select(1)
            came = watch.read()
        leave.set()
        thread.join()
    assert came == [Signal(number, os.getpid(), os.getuid(), None, 0)]


def in_a_thread(function: Callable[[], object]) -> list[object]:
    result: list[object] = []

    def run() -> None:
        try:
            result.append(function())
        except naru.NaruError as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result


def test_another_thread_waits_for_what_the_main_thread_blocks(dispositions: object) -> None:
    """Asked from there, the main thread would block it for good: Ctrl-C would be lost."""
    (refused,) = in_a_thread(lambda: signals.wait(signal.SIGINT, 0))
    assert isinstance(refused, naru.UnsupportedError)
    assert "main thread" in str(refused)
    with signals.blocked({USR1}):
        signals.notify(os.getpid(), USR1)
        (came,) = in_a_thread(lambda: signals.wait(USR1, 5))
    assert isinstance(came, Signal)


def test_a_new_program_in_unblocked_hears_its_signals(dispositions: object) -> None:
    with signals.blocked({signal.SIGTERM}):
        with signals.unblocked():
            process = sleeper()
        with process:
            process.terminate()
            assert process.wait(10) == -signal.SIGTERM


# ---- watches ----


def test_a_watch_reads_what_came(dispositions: object) -> None:
    came: list[Signal] = []
    with signals.on_signal({USR1, RT}, came.append) as watch, selectors.DefaultSelector() as loop:
        loop.register(watch, selectors.EVENT_READ)
        assert not loop.select(0)
        assert watch.read() == []
        for value in range(40):
            signals.notify(os.getpid(), RT, value)
        signals.notify(os.getpid(), USR1)
        while loop.select(0):
            watch.dispatch()
        assert "SIGUSR1 SIGRTMIN+2" in repr(watch)
    assert [one.number for one in came].count(USR1) == 1
    assert [one.value for one in came if one.number == RT] == list(range(40))
    assert watch.closed
    with pytest.raises(naru.ClosedError):
        watch.read()


def test_an_unclosed_watch_warns_and_gives_back(dispositions: object) -> None:
    with pytest.warns(ResourceWarning, match="SIGUSR1"):
        signals.SignalWatch(USR1)


def test_a_watch_without_a_callback_cannot_dispatch(dispositions: object) -> None:
    with signals.SignalWatch(USR1) as watch, pytest.raises(TypeError, match="callback"):
        watch.dispatch()


def test_a_storm_is_survived(dispositions: object) -> None:
    """FAULTS 104."""
    source = (
        "import os, signal, sys\n"
        "for n in range(3000):\n"
        "    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
        "        os.kill(int(sys.argv[1]), number)\n"
    )
    numbers = {USR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    seen: set[int] = set()
    with signals.on_signal(numbers, lambda one: seen.add(one.number)) as watch:
        with subprocess.Popen([sys.executable, "-c", source, str(os.getpid())]) as stormer:
            while stormer.poll() is None:
                watch.dispatch()
        watch.dispatch()
    assert seen == numbers


def use_in_a_fork(events: Events) -> None:
    with signals.SignalWatch({USR1, signal.SIGTERM}) as watch:
        pid = os.fork()
        if pid == 0:
            try:
                watch.read()
            except naru.ForkedHandleError:
                os.kill(os.getpid(), signal.SIGTERM)  # no longer blocked here
            os._exit(3)
        _, status = os.waitpid(pid, 0)
        signals.notify(os.getpid(), USR1)
        events.tell("status", ended_by=os.WTERMSIG(status), mine=len(watch.read()))


def test_a_fork_gives_the_signals_back() -> None:
    with Child.run(use_in_a_fork) as child:
        assert child.expect("status") == {"ended_by": signal.SIGTERM, "mine": 1}
        assert child.wait() == 0


def fifty_children(events: Events) -> None:
    with signals.SignalWatch(signal.SIGCHLD) as watch:
        pids = set()
        for number in range(50):
            pid = os.fork()
            if pid == 0:
                os._exit(number)
            pids.add(pid)
        codes = {}
        with selectors.DefaultSelector() as loop:
            loop.register(watch, selectors.EVENT_READ)
            while len(codes) < 50:
                loop.select()
                watch.read()
                codes.update(signals.reap_children())
        events.tell("codes", all_there=codes.keys() == pids, sum=sum(codes.values()))


def test_fifty_children_are_one_signal_and_all_are_reaped() -> None:
    with Child.run(fifty_children) as child:
        assert child.expect("codes") == {"all_there": True, "sum": sum(range(50))}
        assert child.wait() == 0
