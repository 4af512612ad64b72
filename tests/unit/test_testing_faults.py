"""The fault helpers do what the fault tests count on."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading

import pytest

from naru.testing import (
    Child,
    ChildError,
    Crash,
    Events,
    Inventory,
    LossyProxy,
    can_inject,
    crash_children,
    each_failure,
    injected,
    limited_descriptors,
    open_descriptors,
    unprivileged,
    until_sleeping,
)

SCRIPT = """
import sys
from naru.testing import events_of_parent
events = events_of_parent()
events.tell("ready", arguments=sys.argv[1:])
print("seen", events.expect("go"))
sys.exit(7)
"""


def echo(events: Events, prefix: str) -> None:
    events.tell("ready")
    while (heard := events.hear())["name"] != "enough":
        events.tell("echo", text=prefix + heard["text"])


def test_a_function_runs_in_a_child() -> None:
    with Child.run(echo, ">") as child:
        child.expect("ready")
        child.tell("say", text="hello")
        assert child.expect("echo") == {"text": ">hello"}
        child.tell("enough")
        child.check()
        assert child.returncode == 0
        assert child.pid != os.getpid()


def test_a_script_runs_in_a_child() -> None:
    with Child.script(SCRIPT, "a", "b") as child:
        assert child.expect("ready") == {"arguments": ["a", "b"]}
        child.tell("go", number=1)
        assert child.wait() == 7
        assert "seen {'number': 1}" in child.output()


def test_an_error_of_the_child_is_shown() -> None:
    def fail(events: Events) -> None:
        raise RuntimeError("it went wrong")

    with Child.run(fail) as child, pytest.raises(ChildError, match="it went wrong"):
        child.expect("ready")
    with Child.run(fail) as child, pytest.raises(ChildError, match="it went wrong"):
        child.check()


def test_a_wrong_word_and_silence_are_errors() -> None:
    with Child.run(echo, "") as child:
        with pytest.raises(ChildError, match="waited for 'done'"):
            child.expect("done")
        with pytest.raises(ChildError, match="nothing was said"):
            child.expect("done", timeout_s=0.01)


def test_a_child_is_stopped_continued_and_killed() -> None:
    with Child.run(echo, "") as child:
        child.expect("ready")
        child.stop()
        child.tell("say", text="x")
        with pytest.raises(ChildError, match="nothing was said"):
            child.expect("echo", timeout_s=0.05)
        child.go_on()
        child.expect("echo")
        assert child.is_alive()
        assert child.kill() == -signal.SIGKILL
        assert not child.is_alive()
        assert child.kill() == -signal.SIGKILL  # once more does no harm


def test_leaving_the_block_ends_the_child() -> None:
    with Child.run(echo, "") as child:
        child.expect("ready")
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_a_child_dies_with_its_parent() -> None:
    def make_grandchild(events: Events) -> None:
        grandchild = Child.run(echo, "")
        grandchild.expect("ready")
        events.tell("made", pid=grandchild.pid)
        events.hear()

    with Child.run(make_grandchild) as child:
        pidfd = os.pidfd_open(child.expect("made")["pid"])
        try:
            child.kill()
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            assert poll.poll(10_000)
        finally:
            os.close(pidfd)


def test_every_moment_is_crashed_once() -> None:
    def three_steps(events: Events, crash: Crash) -> None:
        for step in range(3):
            crash.here()
            events.tell("step", number=step)

    seen = []
    for number, child in crash_children(three_steps):
        steps = 0
        while True:
            try:
                child.expect("step")
            except ChildError:
                break
            steps += 1
        seen.append((number, steps))
    assert seen == [(1, 0), (2, 1), (3, 2), (4, 3)]


def test_a_crash_child_that_fails_otherwise_is_an_error() -> None:
    def fail(events: Events, crash: Crash) -> None:
        raise RuntimeError("not by a crash")

    with pytest.raises(ChildError, match="not by a crash"):
        list(crash_children(fail))


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user: needs root")
def test_a_function_runs_as_somebody_else() -> None:
    assert unprivileged(lambda: [os.getuid(), os.getgid(), os.getgroups()]) == [65534, 65534, []]
    assert unprivileged(lambda a, b: a + b, 1, 2, uid=1234) == 3
    with pytest.raises(ChildError, match="PermissionError"):
        unprivileged(lambda: os.listdir("/root"))


def test_a_sleeping_thread_is_seen() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    assert thread.native_id is not None
    assert until_sleeping(thread.native_id, patience_s=10)
    release.set()
    thread.join()
    assert not until_sleeping(thread.native_id)


# ---- descriptors, inventory ----


def test_open_descriptors_are_named() -> None:
    before = open_descriptors()
    with open("/dev/null") as file:
        assert open_descriptors() == {**before, file.fileno(): "/dev/null"}
    assert open_descriptors() == before


@pytest.mark.parametrize("n_free", [0, 1, 5])
def test_so_many_descriptors_are_free(n_free: int) -> None:
    hole = os.dup(0)
    highest = [os.dup(0) for _ in range(3)]
    os.close(hole)  # a hole below, which must not count
    with limited_descriptors(n_free):
        fds = [os.dup(0) for _ in range(n_free)]
        with pytest.raises(OSError, match="Too many") as caught:
            os.dup(0)
    assert caught.value.errno == errno.EMFILE
    for fd in (*fds, *highest):
        os.close(fd)
    os.close(os.dup(0))


def test_an_inventory_finds_what_was_left() -> None:
    before = Inventory.take()
    assert before.leaks(Inventory.take()) == []
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="forgotten")
    thread.start()
    name = f"/dev/shm/naru-test-{os.getpid()}"
    reading, writing = os.pipe()
    os.close(os.open(name, os.O_CREAT | os.O_EXCL))
    child = Child.run(echo, "")
    found = "\n".join(before.leaks(Inventory.take()))
    child.close()
    os.unlink(name)
    os.close(reading)
    os.close(writing)
    release.set()
    thread.join()
    assert f"descriptor {reading}: pipe:" in found
    assert f"child process {child.pid}" in found
    assert f"file {name}" in found
    assert "thread forgotten" in found
    assert before.leaks(Inventory.take()) == []


# ---- system calls ----

NEEDS_STRACE = pytest.mark.skipif(not can_inject(), reason="strace is missing or may not trace")

READS = """
import os
reading, writing = os.pipe()
os.write(writing, b"x")
for _ in range(3):
    try:
        os.fsync(writing)
    except OSError as error:
        print(error.errno)
"""


@NEEDS_STRACE
def test_a_call_fails_as_told() -> None:
    result = injected(READS, inject="fsync:error=ENOSPC:when=2")
    assert (result.returncode, result.count) == (0, 1)
    assert result.output.split() == [str(errno.EINVAL), str(errno.ENOSPC), str(errno.EINVAL)]
    assert "INJECTED" in result.trace


@NEEDS_STRACE
def test_a_call_kills_as_told() -> None:
    assert injected(READS, inject="fsync:signal=SIGKILL:when=1").returncode == -signal.SIGKILL


@NEEDS_STRACE
def test_each_call_fails_in_turn_until_none_is_left() -> None:
    results = list(each_failure(READS, call="fsync", error="ENOSPC"))
    assert [number for number, _ in results] == [1, 2, 3, 4]
    assert [result.count for _, result in results] == [1, 1, 1, 0]
    assert [result.output.split().count("28") for _, result in results] == [1, 1, 1, 0]


# ---- the lossy wire ----


def exchange(proxy: LossyProxy, target: socket.socket, count: int) -> list[int]:
    """Sends numbers through the proxy; what arrived, in order."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(proxy.address)
        got = []
        for number in range(count):
            client.send(b"%d" % number)
            if number % 10 == 9:  # never more than the buffers hold
                client.send(b"mark")
                while (data := target.recv(100)) != b"mark":
                    got.append(int(data))
        proxy.release()
        target.settimeout(0.2)
        try:
            while True:
                got.append(int(target.recv(100)))
        except TimeoutError:
            return got


@pytest.fixture
def target() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        yield sock


def spare_marks(data: bytes) -> bool:
    return data != b"mark"


def test_a_good_wire_changes_nothing(target: socket.socket) -> None:
    with LossyProxy(target.getsockname()) as proxy:
        assert exchange(proxy, target, 50) == list(range(50))
        assert proxy.to_target.passed == 50 + 5  # with the marks


def test_a_bad_wire_counts_what_it_does(target: socket.socket) -> None:
    with LossyProxy(
        target.getsockname(), drop=0.1, duplicate=0.1, reorder=0.1, seed=4, may_harm=spare_marks
    ) as proxy:
        got = exchange(proxy, target, 500)
        counts = proxy.to_target
    assert counts.dropped == 500 - len(set(got)) > 0
    assert counts.duplicated == len(got) - len(set(got)) > 0
    assert counts.reordered > 0
    assert counts.passed == 500 - counts.dropped
    assert got != sorted(got)


def test_a_seed_repeats_a_wire(target: socket.socket) -> None:
    runs = []
    for _ in range(2):
        with LossyProxy(target.getsockname(), drop=0.2, seed=9, may_harm=spare_marks) as proxy:
            runs.append(exchange(proxy, target, 100))
    assert runs[0] == runs[1]


def test_answers_come_back_to_their_client(target: socket.socket) -> None:
    with LossyProxy(target.getsockname()) as proxy:
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        for number, client in enumerate(clients):
            client.settimeout(10)
            client.sendto(b"%d" % number, proxy.address)
            data, address = target.recvfrom(100)
            target.sendto(b"answer to " + data, address)
            assert client.recv(100) == b"answer to %d" % number
            client.close()
        assert proxy.to_client.passed == 3
