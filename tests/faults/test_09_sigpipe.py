"""9: SIGPIPE at its default action, as in a program that embeds naru or a child of subprocess.Popen:
every way of sending to a dead peer raises PeerGoneError and the process lives."""

from __future__ import annotations

import faulty_libc
import pytest
from helpers import PAIRS, QUEUES, fresh_address, run_python

SEND_TO_THE_DEAD = """
import os, signal, sys
import naru

signal.signal(signal.SIGPIPE, signal.SIG_DFL)
how, target = sys.argv[1:3]
OLD_KERNEL = len(sys.argv) > 3
if OLD_KERNEL:  # pwritev2 knows RWF_NOSIGNAL since Linux 6.18
    import errno, faulty_libc
    faulty_libc.arm("pwritev2", errno.EOPNOTSUPP, 1, forever=True)

def fork_reader(run):
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        run(write_end)
        os._exit(0)
    os.close(write_end)
    return pid, read_end

if how == "pair":
    ours, theirs = naru.pair(target)
    def run(ready):
        theirs.receive()
        os.write(ready, b"x")
        theirs.receive()
        os.kill(os.getpid(), signal.SIGKILL)
    pid, ready = fork_reader(run)
else:
    def run(ready):
        receiver = naru.receiver(target)
        os.write(ready, str(receiver.address).encode())
        receiver.receive()
        receiver.receive()
        os.kill(os.getpid(), signal.SIGKILL)
    pid, ready = fork_reader(run)
    ours = naru.sender(os.read(ready, 4096).decode())
ours.send(b"first")
ours.send(b"second, and it dies")
os.waitpid(pid, 0)
if how == "pair":
    theirs.close()

def place():
    with ours.reserve(100) as view:
        view[:] = b"r" * 100

def descriptors():
    ours.send_fds(b"x", [0])

verbs = [lambda: ours.send(b"x"), lambda: ours.send_many([b"x"] * 5),
         lambda: ours.send_parts([b"x", b"y"]), place, lambda: ours.try_send(b"x")]
if target.startswith(("unix", "shm")):
    verbs.append(descriptors)
for verb in verbs:
    for _ in range(3):
        while True:  # what still fits into a queue may be accepted; then the death is seen
            try:
                verb()
            except naru.PeerGoneError:
                break
if how == "pair":
    for _ in range(3):
        try:
            ours.receive(timeout_s=5)
        except naru.PeerGoneError:
            pass
        else:
            raise SystemExit("received from the dead")
if OLD_KERNEL:
    calls, failed = faulty_libc.disarm()
    assert failed >= 1, "the old way was not taken"
ours.close()
assert signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL
assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
assert signal.SIGPIPE not in signal.sigpending()
print("alive")
"""


@pytest.mark.parametrize("kind", PAIRS)
def test_fault_09_pair_to_a_dead_peer_at_default_sigpipe(kind: str) -> None:
    done = run_python(SEND_TO_THE_DEAD, "pair", kind)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


@pytest.mark.parametrize("kind", [kind for kind in QUEUES if kind != "mq"])
def test_fault_09_sender_to_a_dead_receiver_at_default_sigpipe(kind: str, runtime: str) -> None:
    done = run_python(SEND_TO_THE_DEAD, "queue", fresh_address(kind, runtime))
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


@pytest.mark.parametrize("kind", ["pipe", "fifo"])
def test_fault_09_the_same_where_the_kernel_is_older(kind: str, runtime: str) -> None:
    """Before 6.18 the signal is held back around the write, and the one that came is taken away."""
    how, target = ("pair", kind) if kind == "pipe" else ("queue", fresh_address(kind, runtime))
    done = run_python(SEND_TO_THE_DEAD, how, target, "old", **faulty_libc.environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


PENDING = """
import errno, os, signal, sys
import faulty_libc, naru

# A SIGPIPE of somebody else's that is pending must stay pending.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
os.kill(os.getpid(), signal.SIGPIPE)
faulty_libc.arm("pwritev2", errno.EOPNOTSUPP, 1, forever=True)
ours, theirs = naru.pair("pipe")
ours.send(b"x")
theirs.receive()
theirs.close()
for _ in range(3):
    try:
        ours.send(b"x")
    except naru.PeerGoneError:
        pass
ours.close()
assert signal.SIGPIPE in signal.sigpending()
print("pending")
"""


def test_fault_09_a_sigpipe_of_somebody_else_is_left_alone() -> None:
    done = run_python(PENDING, **faulty_libc.environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, "pending\n", "")
