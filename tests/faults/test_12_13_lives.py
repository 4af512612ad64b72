"""12 and 13: the ends of ends: forgotten, blocked at the interpreter's exit, opened and closed by the
thousand. Processes exit, names go, descriptors and memory stay level."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from helpers import (
    CHANNELS,
    PAIRS,
    QUEUES,
    connected,
    files_below,
    fresh_address,
    run_python,
    scaled,
    sender_to,
)

import naru
from naru.testing.faults import open_descriptors

# ---- 12 ----

BLOCKED_AT_EXIT = """
import sys, threading
import naru
from naru.testing.faults import until_sleeping

what, target, ending = sys.argv[1:4]
if what == "receive":
    end, other = naru.pair(target)
    other.send(b"x")
    end.receive()
    wait = end.receive
elif what == "send":
    end, other = naru.pair(target)
    end.send(b"x")
    other.receive()
    def wait():
        while True:
            end.send(b"m" * 100_000)
elif what == "accept":
    end = naru.listen(target)
    wait = end.accept
else:
    end = naru.receiver(target)
    wait = end.receive

def block():
    try:
        wait()
    except naru.NaruError:
        pass  # it was closed on the way out: as good an end as any

thread = threading.Thread(target=block, daemon=True)
thread.start()
until_sleeping(thread.native_id)
print("blocked", flush=True)
if ending == "exit":
    sys.exit(0)
elif ending == "error":
    sys.exit(7)
elif ending == "del":
    del end, wait
    if what in ("receive", "send"):
        del other
elif ending == "raise":
    sys.excepthook = lambda *_: None
    raise RuntimeError
"""


def check_exit(what: str, target: str, ending: str) -> None:
    done = run_python(BLOCKED_AT_EXIT, what, target, ending, timeout_s=15)
    assert done.returncode == {"error": 7, "raise": 1}.get(ending, 0), done.stderr
    assert done.stdout == "blocked\n"
    assert done.stderr == ""


@pytest.mark.parametrize("ending", ["exit", "error", "del", "raise"])
@pytest.mark.parametrize("kind", PAIRS)
def test_fault_12_exit_with_a_thread_in_receive(kind: str, ending: str) -> None:
    check_exit("receive", kind, ending)


@pytest.mark.parametrize("kind", ["shm", "pipe", "unix", "tcp"])
def test_fault_12_exit_with_a_thread_in_send(kind: str) -> None:
    check_exit("send", f"{kind}:?linger_s=0.2", "exit")


@pytest.mark.parametrize("kind", CHANNELS)
def test_fault_12_exit_with_a_thread_in_accept(kind: str, runtime: str) -> None:
    check_exit("accept", fresh_address(kind, runtime), "exit")
    assert files_below(runtime) == []


@pytest.mark.parametrize("kind", QUEUES)
def test_fault_12_exit_with_a_thread_in_a_receivers_receive(kind: str, runtime: str) -> None:
    check_exit("receiver", fresh_address(kind, runtime), "exit")
    assert files_below(runtime) == []


FORGOTTEN = """
import sys
import naru

shape, target = sys.argv[1:3]
end = getattr(naru, shape)(target)
print(end.address if shape != "pair" else "pair")
"""


@pytest.mark.parametrize("kind", QUEUES)
def test_fault_12_exit_without_close_gives_the_name_up(kind: str, runtime: str) -> None:
    address = fresh_address(kind, runtime)
    done = run_python(FORGOTTEN, "receiver", address)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_below(runtime) == []
    assert isinstance(
        naru_error(lambda: naru.sender(done.stdout.strip(), timeout_s=0)), naru.NaruError
    )


def naru_error(function: Callable[[], Any]) -> BaseException | None:
    try:
        function().close()
    except naru.NaruError as error:
        return error
    return None


@pytest.mark.parametrize("kind", PAIRS)
def test_fault_12_a_forgotten_end_is_collected_with_a_warning(kind: str) -> None:
    before = len(open_descriptors())
    ours, theirs = naru.pair(kind)
    ours.send(b"x")
    assert theirs.receive(timeout_s=10) == b"x"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del ours
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    assert "unclosed" in str(caught[0].message)
    with pytest.raises(naru.PeerGoneError) as raised:
        theirs.receive(timeout_s=10)
    assert raised.value.orderly
    theirs.close()
    assert len(open_descriptors()) <= before


@pytest.mark.parametrize("kind", CHANNELS)
def test_fault_12_a_forgotten_listener_is_collected_with_a_warning(kind: str, runtime: str) -> None:
    listener = naru.listen(fresh_address(kind, runtime))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del listener
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    assert files_below(runtime) == []


@pytest.mark.parametrize("kind", PAIRS)
def test_fault_12_a_reference_cycle_does_not_keep_an_end(kind: str) -> None:
    ours, theirs = naru.pair(kind)

    class Holder:
        pass

    holder = Holder()
    holder.end = ours  # type: ignore[attr-defined]
    holder.itself = holder  # type: ignore[attr-defined]
    ours.send(b"x")
    assert theirs.receive(timeout_s=10) == b"x"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del holder, ours
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    theirs.close()


# ---- 13 ----

CYCLES = scaled(300, 10_000)
FLAT_BYTES = 2 << 20


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def check_flat(live: Callable[[], None]) -> None:
    """Descriptors and memory after many lives are what they were after some."""
    for _ in range(CYCLES // 5):
        live()
    gc.collect()
    descriptors, resident = len(open_descriptors()), resident_bytes()
    for _ in range(CYCLES):
        live()
    gc.collect()
    assert len(open_descriptors()) <= descriptors
    assert resident_bytes() - resident <= FLAT_BYTES


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.watchdog(seconds=120)
def test_fault_13_pairs_opened_and_closed(kind: str) -> None:
    def live() -> None:
        a, b = naru.pair(kind)
        a.send(b"x" * 1000)
        assert b.receive(timeout_s=10) == b"x" * 1000
        a.close()
        b.close()

    check_flat(live)


@pytest.mark.parametrize("kind", QUEUES)
@pytest.mark.watchdog(seconds=120)
def test_fault_13_receivers_opened_and_closed(kind: str, runtime: str) -> None:
    def live() -> None:
        naru.receiver(fresh_address(kind, runtime)).close()

    check_flat(live)
    assert files_below(runtime) == []


@pytest.mark.parametrize("kind", ["shm", "unix", "tcp", "udp"])
@pytest.mark.watchdog(seconds=120)
def test_fault_13_conversations_opened_and_closed(kind: str, runtime: str) -> None:
    with naru.listen(fresh_address(kind, runtime)) as listener:

        def live() -> None:
            client, server = connected(listener)
            client.send(b"x")
            assert server.receive(timeout_s=10) == b"x"
            client.close()
            server.close()

        check_flat(live)


@pytest.mark.parametrize("kind", QUEUES)
@pytest.mark.watchdog(seconds=120)
def test_fault_13_senders_come_and_go(kind: str, runtime: str) -> None:
    with naru.receiver(fresh_address(kind, runtime)) as receiver:

        def live() -> None:
            with sender_to(receiver) as sender:
                sender.send(b"x")
                assert receiver.receive(timeout_s=10) == b"x"
            assert receiver.try_receive() is None

        check_flat(live)


def test_fault_13_threads_end_with_the_last_heartbeat() -> None:
    """One timer thread a process, and none when nobody wants it."""
    before = threading.active_count()
    for _ in range(3):
        pairs = [naru.pair("udp:?heartbeat_s=0.1") for _ in range(5)]
        for a, b in pairs:
            a.send(b"x")
            assert b.receive(timeout_s=10) == b"x"
        assert threading.active_count() <= before + 1
        for a, b in pairs:
            a.close()
            b.close()
    for thread in threading.enumerate():
        if thread.name == "naru-heartbeat":
            thread.join(10)
            assert not thread.is_alive()
