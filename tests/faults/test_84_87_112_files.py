"""84, 85, 87 and 112: a file that is truncated, replaced, deleted or grows while it is sent or scanned;
more than 2 GiB; the receiver closes, stops or is killed; a full disk; system calls that are refused.

What must hold: all bytes, or an error that names the byte; never SIGBUS, SIGPIPE, padding that looks
like a file, or an endless loop.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import naru
from naru.files import count_lines, transfer, windows
from naru.testing import Child, Events
from naru.testing.faults import can_inject, injected

pytestmark = pytest.mark.watchdog(seconds=60)

MIB = 1 << 20
GIB = 1 << 30
LONG = 64 * MIB


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nf-") as name:
        yield Path(name)


@pytest.fixture
def long(folder: Path) -> Path:
    """A sparse file of several steps."""
    path = folder / "long"
    path.touch()
    os.truncate(path, LONG)
    return path


class Drain(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, end: Any) -> None:
        super().__init__()
        self.end, self.count, self.digest = end, 0, hashlib.blake2b()
        self.start()

    def run(self) -> None:
        piece = memoryview(bytearray(MIB))
        while got := os.readv(self.end.fileno(), [piece]):
            self.count += got
            self.digest.update(piece[:got])


def socket_pair() -> tuple[Any, Any]:
    return socket.socketpair()


def pipe_pair() -> tuple[Any, Any]:
    reader, writer = os.pipe()
    return open(reader, "rb", buffering=0), open(writer, "wb", buffering=0)


Change = Callable[[Path], object]

CHANGES: dict[str, tuple[Change, bool]] = {
    "truncated": (lambda path: os.truncate(path, LONG // 10), False),
    "emptied": (lambda path: os.truncate(path, 0), False),
    "deleted": (lambda path: os.unlink(path), True),
    "grown": (lambda path: os.truncate(path, 2 * LONG), True),
    "replaced": (lambda path: os.replace(path.with_name("other"), path), True),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", ["sendfile", "splice", "copy_file_range", "read_write"])
def test_84_changed_while_it_is_sent(way: str, change: str, long: Path, folder: Path) -> None:
    do, goes_on = CHANGES[change]
    (folder / "other").write_bytes(b"another file")
    changed = False

    def after_a_step(done: int, whole: int | None) -> None:
        nonlocal changed
        if not changed:
            changed = True
            do(long)

    far = near = drain = None
    if way in ("sendfile", "splice"):
        far, near = socket_pair() if way == "sendfile" else pipe_pair()
        drain = Drain(far)
    target: Any = near if near is not None else folder / "to"
    digest = hashlib.sha256() if way == "read_write" else None
    try:
        if goes_on:
            done = transfer(long, target, progress=after_a_step, digest=digest)
            assert done.bytes == LONG
            if way != "copy_file_range":  # whose two files may lie where the kernel refuses it
                assert done.method == way
        else:
            with pytest.raises(
                naru.CorruptedError, match=r"the file ended at byte \d+ of 67108864"
            ):
                transfer(long, target, progress=after_a_step, digest=digest)
    finally:
        if near is not None and far is not None and drain is not None:
            near.close()
            drain.join()
            far.close()
    if drain is not None:
        assert drain.count == LONG if goes_on else drain.count < LONG
    assert changed


def test_84_112_changed_while_it_is_scanned(folder: Path) -> None:
    for change, (do, goes_on) in CHANGES.items():
        path = folder / change
        path.write_bytes(b"x" * 99 + b"\n")
        with open(path, "ab") as file:
            file.write((b"y" * 99 + b"\n") * (8 * MIB // 100))
        (folder / "other").write_bytes(b"another file")
        size = path.stat().st_size
        found = windows(path)
        count = next(found).count_lines()
        do(path) if change != "truncated" else os.truncate(path, size // 10)
        if goes_on:
            assert count + sum(window.count_lines() for window in found) == size // 100
        else:
            with pytest.raises(naru.CorruptedError, match=rf"the file ended at byte \d+ of {size}"):
                for window in found:
                    window.count_lines()
        found.close()


def test_112_truncated_behind_what_was_read_is_said_at_the_end(folder: Path) -> None:
    (folder / "file").write_bytes(b"line\n" * 1000)
    found = windows(folder / "file", size_bytes=1000)
    last = None
    with pytest.raises(naru.CorruptedError, match="ended at byte 10 of 5000"):
        for window in found:
            last = window.offset + window.size_bytes
            if last == 5000:
                os.truncate(folder / "file", 10)
    assert last == 5000


def test_112_truncated_while_it_is_counted(folder: Path) -> None:
    path = folder / "sparse"
    path.touch()
    os.truncate(path, 600 * MIB)
    for threads in (1, 2):
        os.truncate(path, 600 * MIB)
        with pytest.raises(naru.CorruptedError, match=r"count_lines .* ended at byte \d+"):
            count_lines(path, threads=threads, progress=lambda done, whole: os.truncate(path, MIB))


def test_112_a_view_of_a_window_outlives_the_file(folder: Path) -> None:
    """Of a map this would be SIGBUS, and no error at all."""
    (folder / "file").write_bytes(b"a line\n" * 100_000)
    found = windows(folder / "file", size_bytes=4096)
    view = memoryview(next(found))
    os.truncate(folder / "file", 0)
    assert bytes(view[:7]) == b"a line\n"
    assert view.nbytes == 4095
    view.release()
    found.close()


# ---- 85: more than 2 GiB ----


@pytest.fixture
def huge(folder: Path) -> Path:
    """Sparse, with three bytes around 2**31."""
    path = folder / "huge"
    with open(path, "wb") as file:
        file.seek(2**31 - 1)
        file.write(b"abc")
        file.truncate(2 * GIB + 100 * MIB)
    return path


def test_85_more_than_2_gib_at_once(huge: Path) -> None:
    for make in (socket_pair, pipe_pair):
        far, near = make()
        drain = Drain(far)
        done = transfer(huge, near)
        near.close()
        drain.join()
        far.close()
        assert done.bytes == drain.count == 2 * GIB + 100 * MIB
        if make is socket_pair:
            first = drain.digest.digest()
    assert drain.digest.digest() == first


def test_85_ranges_around_2_gib(huge: Path, folder: Path) -> None:
    for offset, count, expected in [
        (2**31 - 1, 1, b"a"), (2**31, 1, b"b"), (2**31 + 1, 1, b"c"), (2**31 - 2, 5, b"\0abc\0"),
    ]:  # fmt: skip
        done = transfer(huge, folder / "to", offset, count)
        assert (folder / "to").read_bytes() == expected
        assert done.offset == offset + count
    found = windows(huge, b"b", size_bytes=64, offset=2**31 - 3, record_limit_bytes=1024 * MIB)
    assert bytes(next(found)) == b"\0\0ab"
    assert next(found).find_all(b"c")[0] == 2**31 + 1
    found.close()


# ---- 87: who receives ----


def test_87_the_receiver_resets_in_the_middle(long: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(10):
            client = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

            def reset(client: socket.socket = client) -> None:
                client.recv(1000)
                client.close()

            thread = threading.Thread(target=reset)
            thread.start()
            with ours, pytest.raises(naru.PeerGoneError, match=r"after \d+ bytes"):
                transfer(long, ours)
            thread.join()


def send_without_pipes_signal(events: Events, path: str, way: str) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    far, near = pipe_pair() if way == "splice" else socket_pair()
    digest = hashlib.sha256() if way == "read_write" else None
    source: Any = path
    if way == "splice_pipe":
        source, feeding = socket_pair()
        feeding.sendall(b"x" * 1000)
    far.close()
    try:
        transfer(source, near, digest=digest)
    except naru.PeerGoneError as error:
        events.tell("gone", words=str(error))


@pytest.mark.parametrize("way", ["sendfile", "splice", "splice_pipe", "read_write"])
def test_87_no_sigpipe_kills_a_process_that_left_it_at_its_default(way: str, long: Path) -> None:
    with Child.run(send_without_pipes_signal, os.fspath(long), way) as child:
        assert "EPIPE" in child.expect("gone")["words"]
        assert child.wait() == 0


def receive_some(events: Events, fd: int) -> None:
    os.read(fd, 1000)
    events.tell("some")
    signal.pause()


@pytest.mark.parametrize("make", [socket_pair, pipe_pair])
def test_87_the_receiver_is_killed_while_we_wait_for_it(make: Any, long: Path) -> None:
    far, near = make()
    with Child.run(receive_some, far.fileno()) as child:
        far.close()
        killer = threading.Thread(target=lambda: (child.expect("some"), child.kill()))
        killer.start()
        with near, pytest.raises(naru.PeerGoneError, match=r"after \d+ bytes"):
            transfer(long, near)
        killer.join()


def test_87_a_target_that_hangs_up_while_the_source_is_silent(folder: Path) -> None:
    """Nothing comes from the source that could be refused: the hang-up itself is seen."""
    quiet, feeding = socket_pair()
    far, near = pipe_pair()
    closer = threading.Timer(0.05, far.close)
    closer.start()
    with quiet, feeding, near, pytest.raises(naru.PeerGoneError, match="EPIPE"):
        transfer(quiet, near)
    closer.join()


@pytest.mark.parametrize("make", [socket_pair, pipe_pair])
def test_87_bytes_that_come_one_by_one(make: Any, folder: Path) -> None:
    source, feeding = make()
    data = bytes(range(256)) * 8

    def feed() -> None:
        with feeding:
            for value in data:
                os.write(feeding.fileno(), bytes([value]))

    thread = threading.Thread(target=feed)
    thread.start()
    with source:
        assert transfer(source, folder / "to").bytes == len(data)
    thread.join()
    assert (folder / "to").read_bytes() == data


def test_87_a_stream_that_ends_before_count(folder: Path) -> None:
    source, feeding = socket_pair()
    feeding.sendall(b"x" * 100)
    feeding.close()
    with source, pytest.raises(naru.PeerGoneError, match="ended after 100 of 101 bytes") as caught:
        transfer(source, folder / "to", count=101)
    assert caught.value.orderly


def interrupted(events: Events, path: str) -> None:
    far, near = socket_pair()
    try:
        events.tell("begin")
        transfer(path, near)  # nobody reads
    except KeyboardInterrupt:
        events.tell("interrupted", free=far.recv(1) == b"\0")


def test_87_ctrl_c_while_the_receiver_is_stopped(long: Path) -> None:
    from naru.testing.faults import until_sleeping

    with Child.run(interrupted, os.fspath(long)) as child:
        child.expect("begin")
        until_sleeping(child.pid, pid=child.pid)
        child.send_signal(signal.SIGINT)
        assert child.expect("interrupted")["free"]
        assert child.wait() == 0


# ---- 112: a full disk ----


def test_112_a_full_device(long: Path) -> None:
    with pytest.raises(
        naru.NoSpaceError, match=r"no space left on device \(ENOSPC\) after 0 bytes"
    ):
        transfer(long, "/dev/full")


FULL = """
import os, sys, naru
from naru.files import transfer
path = "/tmp/naru-full/source"
for way in ("file", "pipe", "socket"):
    if way == "file":
        source = sys.argv[1]
    else:
        import socket, threading
        if way == "pipe":
            reader, writer = os.pipe()
            source = open(reader, "rb", buffering=0)
            feeding = open(writer, "wb", buffering=0)
        else:
            source, feeding = socket.socketpair()
        def feed():
            try:
                while os.write(feeding.fileno(), bytes(1 << 20)):
                    pass
            except OSError:
                pass
        threading.Thread(target=feed, daemon=True).start()
    try:
        transfer(source, "/tmp/naru-full/to")
    except naru.NoSpaceError as error:
        after = int(str(error).split(" after ")[1].split()[0])
        there = os.stat("/tmp/naru-full/to").st_size
        print(way, "ENOSPC" in str(error), after == there, 0 < there <= 4 << 20)
    if way != "file":
        source.close()
"""


def test_112_a_full_disk(long: Path) -> None:
    mount = 'mkdir -p /tmp/naru-full && mount -t tmpfs -o size=4m naru /tmp/naru-full && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", FULL, str(long)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, env=environment, check=False
    )
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"no tmpfs can be mounted in a namespace here: {done.stderr.strip()}")
    assert done.stderr == ""
    assert done.stdout == "".join(f"{way} True True True\n" for way in ("file", "pipe", "socket"))


# ---- what the kernel refuses ----

REFUSED = """
import os, socket, sys, threading
from naru.files import transfer
kind = sys.argv[1]
data = os.urandom(3_000_000)
with open("from", "wb") as file:
    file.write(data)
if kind == "file":
    done = transfer("from", "to")
    found = open("to", "rb").read()
else:
    far, near = socket.socketpair()
    found = bytearray()
    def drain():
        while piece := far.recv(1 << 20):
            found.extend(piece)
    thread = threading.Thread(target=drain)
    thread.start()
    near.setblocking(False)  # else one call sends all of it
    source = "from"
    if kind == "stream":
        source, feeding = socket.socketpair()
        def feed():
            feeding.sendall(data)
            feeding.close()
        threading.Thread(target=feed).start()
    done = transfer(source, near)
    near.close()
    thread.join()
print(done.method, bytes(found) == data)
"""


@pytest.mark.parametrize(
    ("kind", "inject", "method"),
    [
        ("file", "copy_file_range:error=ENOSYS", "sendfile"),
        ("file", "copy_file_range:error=EXDEV", "sendfile"),
        ("file", "copy_file_range,sendfile:error=EINVAL", "read_write"),
        ("socket", "sendfile:error=EINVAL", "read_write"),
        ("socket", "sendfile:error=ENOSYS:when=2+", "read_write"),
        ("stream", "splice:error=EINVAL", "read_write"),
        ("stream", "splice:error=EINVAL:when=2+", "read_write"),
        ("stream", "splice:error=EINTR:when=2+3", "splice_pipe"),
        ("file", "copy_file_range:error=EINTR:when=1", "copy_file_range"),
    ],
)
def test_112_a_refused_call_falls_back_and_loses_nothing(
    kind: str, inject: str, method: str, folder: Path
) -> None:
    if not can_inject():
        pytest.skip("strace cannot inject faults here")
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    source = f"import os; os.chdir({os.fspath(folder)!r})\n{REFUSED}"
    done = injected(source, kind, inject=inject, env={"PYTHONPATH": paths})
    assert done.output == f"{method} True\n"
    assert done.returncode == 0
