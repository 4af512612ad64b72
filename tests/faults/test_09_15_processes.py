"""9, 10, 12, 13, 15: the default SIGPIPE, forks, the interpreter's end, many lives, bad addresses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import naru
from naru.testing import open_descriptors

STREAMS = ["pipe", "unix", "tcp", "shm"]


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", STREAMS)
def test_fault_09_a_default_sigpipe_does_not_kill(kind: str) -> None:
    done = run(
        "import signal, sys, naru\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "a, b = naru.pair(sys.argv[1])\n"
        "a.send(b'x'); b.receive(); b.close()\n"
        "try:\n"
        "    while True: a.send_many([b'y' * 1000] * 8)\n"
        "except naru.PeerGoneError: print('lives')\n"
        "a.close()\n",
        kind,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "lives"), done.stderr


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", STREAMS)
def test_fault_10_a_forked_child_has_nothing_of_its_parents(kind: str) -> None:
    ours, theirs = naru.pair(kind)
    with ours, theirs:
        ours.send(b"first")  # claims our end for this process
        child = os.fork()
        if child == 0:
            status = 1
            try:
                ours.send(b"stolen")
            except naru.ForkedHandleError:
                theirs.send(b"mine:" + theirs.receive(timeout_s=10))
                status = 0
            finally:
                os._exit(status)
        assert ours.receive(timeout_s=20) == b"mine:first"
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(naru.PeerGoneError):
            ours.receive(timeout_s=20)


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", STREAMS)
def test_fault_12_the_interpreter_ends_with_a_blocked_thread(kind: str) -> None:
    done = run(
        "import sys, threading, naru\n"
        "a, b = naru.pair(sys.argv[1])\n"
        "a.send(b'x'); b.receive()\n"
        "threading.Thread(target=b.receive, daemon=True).start()\n"
        "a.send_many([]); print('end')\n",
        kind,
    )
    assert done.stdout.strip() == "end"
    assert done.returncode == 0, done.stderr


@pytest.mark.watchdog(seconds=120)
@pytest.mark.parametrize("kind", [*STREAMS, "udp"])
def test_fault_13_many_lives_leave_nothing(kind: str) -> None:
    def live(times: int) -> None:
        for _ in range(times):
            ours, theirs = naru.pair(f"{kind}:?heartbeat_s=0" if kind == "udp" else kind)
            ours.send(b"x")
            assert theirs.receive(timeout_s=10) == b"x"
            ours.close()
            theirs.close()

    def resident_kib() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4

    live(100)
    before, memory = open_descriptors(), resident_kib()
    live(1000)
    assert open_descriptors() == before
    assert resident_kib() - memory < 2048


@pytest.mark.parametrize("verb", [naru.listen, naru.connect, naru.receiver, naru.sender])
@pytest.mark.parametrize(
    "text",
    ["", "shm:", "shm://", "shm://a/b", "nope://x", "unix://relative", "unix:///a/../b", "tcp://h",
     "tcp://127.0.0.1:65536", "tcp://127.0.0.1:08", "mq:///a/b", "fifo://x", "shm://a?depth=3",
     "unix:///" + "x" * 200, "shm://a?capacity_bytes=12", "shm://a?wait=never"],
)  # fmt: skip
def test_fault_15_a_bad_address_makes_nothing(
    runtime: str, verb: object, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(naru.BadAddressError):
        verb(text)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []
    assert list(Path(runtime).iterdir()) == []


@pytest.mark.parametrize("kind", STREAMS)
def test_fault_11_close_from_another_thread_wakes_the_blocked_one(kind: str) -> None:
    import threading

    ours, theirs = naru.pair(kind)
    came: list[BaseException] = []

    def wait() -> None:
        try:
            ours.receive()
        except naru.NaruError as error:
            came.append(error)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    theirs.send(b"one is served")
    ours.close()
    for thread in threads:
        thread.join()
    theirs.close()
    assert len(came) in (3, 4)  # all, or all but the one that was served before the end
    assert all(isinstance(error, naru.ClosedError) for error in came)


def test_fault_09_signals_are_as_they_were() -> None:
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
