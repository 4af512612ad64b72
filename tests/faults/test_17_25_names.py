"""17-21, 23-25, 27: FIFOs, socket files, full queues, the limits of message queues."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import naru
from naru.testing import LedgerReader, LedgerWriter

WRITERS, EACH = 4, 60


def _write(address: str, sender_id: int, size: int) -> None:
    writer = LedgerWriter(sender_id, size)
    with naru.sender(address, timeout_s=30) as sender:
        for _ in range(EACH):
            sender.send(writer.next(), timeout_s=30)


def _fork_writer(address: str, sender_id: int, size: int) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _write(address, sender_id, size)
            status = 0
        finally:
            os._exit(status)
    return pid


@pytest.mark.watchdog(seconds=90)
@pytest.mark.parametrize("size", [4097, 8192, 65536])
def test_fault_17_four_writers_of_a_fifo_never_tear(runtime: str, size: int) -> None:
    address = f"fifo://{runtime}/f?capacity_bytes=4096"
    with naru.receiver(address) as receiver:
        writers = [_fork_writer(address, i, size) for i in range(WRITERS)]
        reader = LedgerReader()
        for _ in range(WRITERS * EACH):
            reader.add(receiver.receive(timeout_s=60))
        for writer in writers:
            assert os.waitpid(writer, 0)[1] == 0
        report = reader.report(dict.fromkeys(range(WRITERS), EACH))
        assert report.is_perfect, report
        assert receiver.statistics().torn == 0


def test_fault_18_a_fifo_without_a_reader_does_not_hang(runtime: str) -> None:
    os.mkfifo(f"{runtime}/f")
    with pytest.raises(naru.NoSuchNameError, match="nobody"):
        naru.sender(f"fifo://{runtime}/f", timeout_s=0.2)
    with (
        naru.receiver(f"fifo://{runtime}/f") as receiver,
        pytest.raises(naru.TimedOutError),
    ):
        receiver.receive(timeout_s=0.1)


def test_fault_19_writers_come_and_go(runtime: str) -> None:
    with naru.receiver(f"fifo://{runtime}/f") as receiver:
        for i in range(300):
            with naru.sender(f"fifo://{runtime}/f") as sender:
                sender.send(b"%d" % i)
            assert receiver.receive(timeout_s=10) == b"%d" % i
        assert receiver.try_receive() is None
        assert receiver.statistics().peers_closed == 300


@pytest.mark.parametrize("what", ["file", "link", "directory"])
def test_fault_20_what_is_no_fifo_is_left_alone(runtime: str, what: str) -> None:
    path = Path(runtime, "f")
    if what == "file":
        path.write_text("precious")
    elif what == "directory":
        path.mkdir()
    else:
        os.mkfifo(f"{runtime}/real")
        path.symlink_to(f"{runtime}/real")
    before = path.lstat()
    for verb in (naru.receiver, lambda address: naru.sender(address, timeout_s=0)):
        with pytest.raises((naru.NotPermittedError, naru.NameTakenError, naru.NaruError)):
            verb(f"fifo://{path}")
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


SERVER = (
    "import sys, naru\n"
    "listener = naru.listen(sys.argv[1]); print('up', flush=True); listener.accept()"
)


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("form", ["unix://{}/s", "shm://s", "shm://{}/s"])
def test_fault_21_a_dead_servers_name_is_taken_over_a_living_ones_not(
    runtime: str, form: str
) -> None:
    address = form.format(runtime)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, address], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    with server:
        assert server.stdout.readline() == "up\n"
        with pytest.raises(naru.NameTakenError):
            naru.listen(address)
        naru.connect(address, timeout_s=20).close()  # untouched
        server.wait(30)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, address], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    with server:
        assert server.stdout.readline() == "up\n"
        server.kill()
    with naru.listen(address) as listener:
        thread = threading.Thread(target=lambda: naru.connect(address).close())
        thread.start()
        listener.accept(timeout_s=20).close()
        thread.join()


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("form", ["unix://{}/s?backlog=1", "shm://s?backlog=1"])
def test_fault_23_a_full_backlog_is_a_time_out(runtime: str, form: str) -> None:
    address = form.format(runtime)
    with naru.listen(address):
        for _ in range(4):
            with pytest.raises(naru.TimedOutError):
                naru.connect(address, timeout_s=0.2)


def test_fault_24_a_full_datagram_queue_does_not_block(runtime: str) -> None:
    address = f"unix://{runtime}/log?datagram=1"
    with naru.receiver(address) as receiver, naru.sender(address) as sender:
        accepted = 0
        while sender.try_send(b"%d" % accepted):
            accepted += 1
        assert accepted > 0
        with pytest.raises(naru.TimedOutError):
            sender.send(b"no room", timeout_s=0.05)
        assert [receiver.receive(timeout_s=5) for _ in range(accepted)] == [
            b"%d" % i for i in range(accepted)
        ]
        assert receiver.try_receive() is None


def _limit(name: str) -> int:
    return int(Path("/proc/sys/fs/mqueue", name).read_text())


def test_fault_25_the_limits_of_queues_are_named(runtime: str) -> None:
    with pytest.raises(naru.LimitError, match=r"fs\.mqueue\.msg_max"):
        naru.receiver(f"mq:///naru-limit?depth={_limit('msg_max') + 1}")
    with pytest.raises(naru.LimitError, match=r"fs\.mqueue\.msgsize_max"):
        naru.receiver(f"mq:///naru-limit?message_bytes={_limit('msgsize_max') + 1}")


@pytest.mark.watchdog(seconds=60)
def test_fault_25_rlimit_msgqueue_is_named(runtime: str) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_MSGQUEUE, (1000, 1000))
            naru.receiver("mq:///naru-limit")
        except naru.LimitError as error:
            status = 0 if "RLIMIT_MSGQUEUE" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_fault_27_the_size_of_a_queue_is_the_limit(runtime: str) -> None:
    with (
        naru.receiver("mq:///naru-size?message_bytes=64") as receiver,
        naru.sender("mq:///naru-size") as sender,
    ):
        sender.send(bytes(64))
        with pytest.raises(naru.TooBigError, match="64"):
            sender.send(bytes(65))
        assert receiver.receive(timeout_s=5) == bytes(64)
        assert receiver.try_receive() is None


def test_fault_20_a_fifo_has_the_asked_mode(runtime: str) -> None:
    with naru.receiver(f"fifo://{runtime}/f?mode=0620"):
        assert stat.S_IMODE(os.stat(f"{runtime}/f").st_mode) == 0o620
    assert not os.path.lexists(f"{runtime}/f")
