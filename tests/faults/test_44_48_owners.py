"""44, 46, 47, 48: who owns what, when processes exit, die, are numbered again, fork.

An attaching process takes nothing down with it (no resource tracker); a lock is believed and a number
is not; a ring has one producer; a forked child has nothing of its parent's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import process, reduction, resource_sharer
from pathlib import Path
from typing import Any

import pytest
from helpers import files_below
from victims import Victim, run_victim

import naru
from naru.runtime import NameLock
from naru.testing.children import Child
from naru.testing.events import Events
from naru.testing.ledger import LedgerReader, LedgerWriter

# ---- 44: a process that attached exits ----

ATTACHED = """
import os, signal, sys
import naru
from multiprocessing import resource_tracker
channel = naru.connect(sys.argv[1])
channel.send(b"attached")
assert channel.receive(timeout_s=10) == b"seen"
assert resource_tracker._resource_tracker._pid is None, "somebody would clean up behind our back"
how = sys.argv[2]
if how == "exit": sys.exit(0)
if how == "close": channel.close()
if how == "_exit": os._exit(0)
if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["exit", "close", "_exit", "kill"])
def test_44_a_process_that_attached_takes_nothing_along(runtime: str, how: str) -> None:
    with naru.listen("shm://stays") as listener:
        before = files_below(runtime)
        first = Child.script(ATTACHED, "shm://stays", "close")
        second = Child.script(ATTACHED, "shm://stays", how)
        with first, second, listener.accept(timeout_s=10) as a, listener.accept(timeout_s=10) as b:
            for channel in (a, b):
                assert channel.receive(timeout_s=10) == b"attached"
            stays, goes = (a, b) if a.peer and a.peer.pid == first.pid else (b, a)
            goes.send(b"seen")
            second.wait()
            with pytest.raises(naru.PeerGoneError) as gone:
                goes.receive(timeout_s=10)
            assert gone.value.orderly == (how in ("exit", "close"))
            assert files_below(runtime) == before, "the name is still there"
            stays.send(b"seen")
            first.check()


def test_44_one_end_of_a_pair_exits_and_views_of_the_memory_stay(runtime: str) -> None:
    def child(events: Events, end: Any) -> None:
        end.send(b"in the ring")
        events.tell("sent")

    ours, theirs = naru.pair("shm")
    with ours, theirs, Child.run(child, theirs) as other:
        with ours.lease(timeout_s=10.0) as view:
            other.check()
            assert bytes(view) == b"in the ring"


# ---- 46: numbers of processes are used again ----


@pytest.mark.parametrize("pid", ["1", "own", "4194304", "0", "-1", "99999999999999999999"])
def test_46_a_living_process_has_the_number_that_a_dead_owner_left(runtime: str, pid: str) -> None:
    """The lock file says who; only its lock says that he lives."""
    with NameLock.acquire("path", f"{runtime}/naru/shm.reused") as lock:
        path = lock._path
    text = str(os.getpid()) if pid == "own" else pid
    path.write_text(f"pid {text}\n")
    with naru.listen("shm://reused"):
        pass
    assert files_below(runtime) == []


def hold(events: Events, address: str) -> None:
    with naru.listen(address):
        events.tell("listening")
        events.expect("enough")


def test_46_a_living_owner_with_a_dead_number_is_respected(runtime: str) -> None:
    """Another pid namespace, or a note that was damaged: it still holds the lock."""
    with Child.run(hold, "shm://reused") as owner:
        owner.expect("listening")
        locks = list(Path(runtime, "naru/locks").iterdir())
        assert len(locks) == 1
        locks[0].write_text("pid 4194305\n")
        with pytest.raises(naru.NameTakenError):
            naru.listen("shm://reused")
        with pytest.raises(naru.NameTakenError):
            naru.receiver("shm://reused")
        owner.tell("enough")
        owner.check()


REUSED = """
import os, signal, sys, time
import naru

def fork_as(pid, function):
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(pid - 1))
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    assert child == pid, (child, pid)

def die_connected(address):
    channel = naru.connect(address)
    channel.send(b"last words")
    os.kill(os.getpid(), signal.SIGKILL)

def die_listening(address):
    owners = naru.listen(address), naru.receiver(address + "-too")
    os.kill(os.getpid(), signal.SIGKILL)

def bury(pid):
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL

for address in ("shm://reused", "unix:///tmp/naru-reused"):
    with naru.listen(address) as listener:
        fork_as(500, lambda: die_connected(address))
        channel = listener.accept(timeout_s=10)
        bury(500)
        fork_as(500, signal.pause)
        with channel:
            assert channel.peer.pid == 500
            assert channel.receive(timeout_s=10) == b"last words"
            try:
                channel.receive(timeout_s=10)
            except naru.PeerGoneError as error:
                assert not error.orderly
        os.kill(500, signal.SIGKILL)
        bury(500)
    fork_as(600, lambda: die_listening(address))
    bury(600)
    fork_as(600, signal.pause)
    naru.listen(address).close()
    naru.receiver(address + "-too").close()
    os.kill(600, signal.SIGKILL)
    bury(600)
print("judged by locks")
"""


def test_46_the_number_is_really_used_again(runtime: str) -> None:
    """In a pid namespace the kernel can be told which number comes next."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", REUSED]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    probe = subprocess.run([*command[:4], "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"no pid namespace can be made here: {probe.stderr.strip()}")
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=variables, check=False
    )
    assert done.stdout == "judged by locks\n", done.stderr
    assert files_below(runtime) == []


# ---- 47: one producer, one consumer ----


TAKES = """
import pickle, sys
from multiprocessing import process
import naru
process.current_process().authkey = bytes.fromhex(sys.argv[1])
with pickle.loads(bytes.fromhex(sys.argv[2])) as end:
    try:
        end.send(b"from a child")
        print("sent")
    except naru.ForkedHandleError:
        print("refused")
"""


def test_47_an_end_that_was_given_away_twice_belongs_to_the_first(runtime: str) -> None:
    """Two producers on one ring would overwrite each other: the second is refused."""
    key = bytes(process.current_process().authkey).hex()
    ours, theirs = naru.pair("shm")
    with ours, theirs:
        answers = []
        for _ in range(2):
            pickled = bytes(reduction.ForkingPickler.dumps(theirs)).hex()
            with Child.script(TAKES, key, pickled) as child:
                child.check()
                answers.append(child.output())
        resource_sharer.stop(timeout=10)
        assert answers == ["sent\n", "refused\n"]
        assert ours.receive(timeout_s=5.0) == b"from a child"
        with pytest.raises(naru.PeerGoneError):
            ours.receive(timeout_s=5.0)


@pytest.mark.parametrize("kind", ["shm", "unix", "pipe"])
def test_47_parent_and_child_take_the_same_end(runtime: str, kind: str) -> None:
    ours, theirs = naru.pair(kind)

    def child(events: Events) -> None:
        theirs.send(b"mine")
        events.tell("sent")
        events.expect("enough")

    with ours, theirs, Child.run(child) as other:
        other.expect("sent")
        with pytest.raises(naru.ForkedHandleError):
            theirs.send(b"mine, too")
        with pytest.raises(naru.ForkedHandleError):
            theirs.try_receive()
        assert ours.receive(timeout_s=5.0) == b"mine"
        other.tell("enough")
        other.check()


# ---- 48: fork with a ring ----

VERBS: dict[str, Callable[[Any], object]] = {
    "send": lambda end: end.send(b"x"),
    "try_send": lambda end: end.try_send(b"x"),
    "send_many": lambda end: end.send_many([b"x", b"y"]),
    "send_fds": lambda end: end.send_fds(b"x", [0]),
    "reserve": lambda end: end.reserve(8).__enter__(),
    "receive": lambda end: end.receive(timeout_s=0.1),
    "try_receive": lambda end: end.try_receive(),
    "receive_many": lambda end: end.receive_many(4, timeout_s=0.1),
    "receive_into": lambda end: end.receive_into(bytearray(8), timeout_s=0.1),
    "receive_fds": lambda end: end.receive_fds(timeout_s=0.1),
    "lease": lambda end: end.lease(timeout_s=0.1).__enter__(),
    "lease_many": lambda end: end.lease_many(4, timeout_s=0.1).__enter__(),
    "next": lambda end: next(end),
    "fileno": lambda end: end.fileno(),
}


def use_all(end: Any) -> dict[str, str]:
    results = {}
    for name, verb in VERBS.items():
        try:
            verb(end)
            results[name] = "done"
        except naru.NaruError as error:
            results[name] = type(error).__name__
    assert end.closed
    end.close()
    return results


@pytest.mark.parametrize("kind", ["shm", "unix"])
def test_48_the_child_gets_nothing_and_takes_nothing(runtime: str, kind: str) -> None:
    """The parent writes on while its child tries every verb, closes, and ends."""
    writer, reader = LedgerWriter(1, 1000), LedgerReader()
    ours, theirs = naru.pair(kind)
    with ours, theirs:
        ours.send(writer.next())
        reader.add(theirs.receive(timeout_s=5.0))
        for _ in range(10):
            with Victim(use_all, ours) as victim:
                for _ in range(50):
                    ours.send(writer.next())
                    reader.add(theirs.receive(timeout_s=5.0))
                outcome = victim.outcome()
            assert outcome.value == dict.fromkeys(VERBS, "ForkedHandleError")
        assert reader.report({1: writer.count}).is_perfect


@pytest.mark.parametrize("opener", [naru.listen, naru.receiver])
def test_48_the_child_has_no_listener(runtime: str, opener: Callable[[str], Any]) -> None:
    with opener("shm://forked") as owner:
        before = files_below(runtime)
        verb = "accept" if opener is naru.listen else "receive"
        outcome = run_victim(lambda: getattr(owner, verb)(timeout_s=1.0))
        assert outcome.error is naru.ForkedHandleError
        assert run_victim(lambda: owner.close()).error is None
        assert files_below(runtime) == before, "the name is the parent's"
        with pytest.raises(naru.NameTakenError):
            naru.listen("shm://forked")


EXITS = """
import os, sys, threading
import naru
address = sys.argv[1]
listener = naru.listen(address)
receiver = naru.receiver(address + "-too")
made = []
thread = threading.Thread(target=lambda: made.append(naru.connect(address)))
thread.start()
channel = listener.accept(timeout_s=10)
thread.join()
pid = os.fork()
if pid == 0:
    # a good end, with all of Python's clean-up: nobody's end is told goodbye, no name is removed
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
made[0].send(b"still here")
assert channel.receive(timeout_s=10) == b"still here"
for end in (made[0], channel, listener, receiver):
    end.close()
print("whole")
"""


@pytest.mark.parametrize("address", ["shm://forked", "unix:///{}/forked"])
def test_48_a_child_that_exits_in_good_order_ends_nothing(runtime: str, address: str) -> None:
    with Child.script(EXITS, address.format(runtime.lstrip("/"))) as other:
        other.check()
        assert other.output() == "whole\n"
    assert files_below(runtime) == []
