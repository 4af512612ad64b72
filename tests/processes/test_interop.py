"""naru and programs that are not naru: socat, nc, logger, an HTTP server, shells."""

from __future__ import annotations

import http.server
import logging.handlers
import os
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import NARU, ended, environment, naru, running

import naru as library

pytestmark = pytest.mark.watchdog(seconds=60)

PATIENCE_S = 20.0


@pytest.fixture
def folder() -> Iterator[str]:
    """Short, because the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ni-") as name:
        yield name


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"the program {program} is not installed"
    )


@contextmanager
def other(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another program; killed at the end if it still runs."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


# ---- socat ----


@needs("socat")
def test_socat_sends_lines_to_a_receiver(folder: str) -> None:
    path = f"{folder}/lines.sock"
    with library.receiver(f"unix://{path}?framing=lines") as receiver:
        done = subprocess.run(
            ["socat", "-", f"UNIX-CONNECT:{path}"], input=b"one\n\nthree", check=True, timeout=30
        )
        assert done.returncode == 0
        assert [receiver.receive(timeout_s=PATIENCE_S) for _ in range(3)] == [b"one", b"", b"three"]


@needs("socat")
@pytest.mark.parametrize("framing", ["raw", "lines"])
def test_socat_serves_a_channel(framing: str, folder: str) -> None:
    path = f"{folder}/cat.sock"
    with (
        other("socat", f"UNIX-LISTEN:{path}", "EXEC:cat"),
        library.connect(f"unix://{path}?framing={framing}", timeout_s=PATIENCE_S) as channel,
    ):
        channel.send(b"there and back")
        assert channel.receive(timeout_s=PATIENCE_S) == b"there and back"


@needs("socat")
def test_socat_over_tcp_ends_in_good_order() -> None:
    with library.listen("tcp://127.0.0.1:0?framing=lines") as listener:
        target = f"TCP:127.0.0.1:{listener.address.port}"
        with other("socat", "-", target) as socat, listener.accept(timeout_s=PATIENCE_S) as channel:
            channel.send(b"hello")
            assert socat.stdin is not None
            assert socat.stdout is not None
            assert socat.stdout.readline() == b"hello\n"
            socat.stdin.write(b"a\nb\n")
            socat.stdin.close()
            assert list(channel) == [b"a", b"b"]


@needs("socat")
def test_socat_reads_from_a_sender(folder: str) -> None:
    path = f"{folder}/out.sock"
    with other("socat", "-u", f"UNIX-LISTEN:{path}", "-") as socat:
        with library.sender(f"unix://{path}?framing=lines", timeout_s=PATIENCE_S) as sender:
            sender.send_many([b"one", b"two"])
        assert socat.communicate(timeout=PATIENCE_S)[0] == b"one\ntwo\n"


# ---- nc ----


@needs("nc")
def test_nc_sends_to_a_receiver_over_tcp() -> None:
    with library.receiver("tcp://127.0.0.1:0?framing=lines") as receiver:
        port = str(receiver.address.port)
        for word in (b"one\n", b"two\n"):
            with other("nc", "-N", "127.0.0.1", port) as nc:
                assert nc.stdin is not None
                nc.stdin.write(word)
                nc.stdin.close()
                assert receiver.receive(timeout_s=PATIENCE_S) == word.strip()


@needs("nc")
def test_nc_over_a_unix_socket(folder: str) -> None:
    path = f"{folder}/nc.sock"
    with (
        library.listen(f"unix://{path}?framing=raw") as listener,
        other("nc", "-U", path) as nc,
        listener.accept(timeout_s=PATIENCE_S) as channel,
    ):
        assert channel.peer is not None
        assert channel.peer.pid == nc.pid
        channel.send(b"hello\n")
        assert nc.stdout is not None
        assert nc.stdout.readline() == b"hello\n"


@needs("nc")
def test_nc_sends_a_datagram() -> None:
    with library.receiver("udp://127.0.0.1:0?framing=raw") as receiver:
        with other("nc", "-u", "127.0.0.1", str(receiver.address.port)) as nc:
            assert nc.stdin is not None
            nc.stdin.write(b"a datagram\n")
            nc.stdin.flush()
            assert receiver.receive(timeout_s=PATIENCE_S) == b"a datagram\n"


@needs("nc")
def test_the_command_and_nc() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running("receive", "--count", "1", f"tcp://127.0.0.1:{port}?framing=lines") as receiver:
        with library.sender(f"tcp://127.0.0.1:{port}?framing=lines", timeout_s=PATIENCE_S):
            pass  # it listens now
        subprocess.run(
            ["nc", "-N", "127.0.0.1", str(port)], input=b"by nc\n", check=True, timeout=30
        )
        assert ended(receiver) == (0, b"by nc\n", b"")


# ---- HTTP over a Unix socket, as the Docker daemon is spoken to ----


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = False


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"x" * 300_000 if self.path == "/large" else f"you asked for {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.end_headers()
        self.wfile.write(body[::-1])

    def address_string(self) -> str:
        return "a Unix socket"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to standard error."""


@pytest.fixture
def http_path(folder: str) -> Iterator[str]:
    path = f"{folder}/http.sock"
    with _UnixServer(path, _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def body_of(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 20")
    return body


def test_http_through_a_channel(http_path: str) -> None:
    with library.connect(f"unix://{http_path}?framing=raw") as channel:
        channel.send(b"GET /containers/json HTTP/1.0\r\nHost: docker\r\n\r\n")
        assert body_of(b"".join(channel)) == b"you asked for /containers/json"


def test_a_large_answer_and_a_request_with_a_body(http_path: str) -> None:
    with library.connect(f"unix://{http_path}?framing=raw") as channel:
        channel.send(b"GET /large HTTP/1.0\r\n\r\n")
        assert body_of(b"".join(channel)) == b"x" * 300_000
    with library.connect(f"unix://{http_path}?framing=raw") as channel:
        channel.send_parts([b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\n", b"abc"])
        assert body_of(b"".join(channel)) == b"cba"


def test_http_by_hand(http_path: str) -> None:
    address = f"unix://{http_path}?framing=raw"
    done = naru("send", "--answer", address, stdin=b"GET /by/hand HTTP/1.0\r\n\r\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert body_of(done.stdout) == b"you asked for /by/hand"


def test_a_server_that_is_not_there(folder: str) -> None:
    done = naru("send", "--answer", "--timeout", "0", f"unix://{folder}/docker.sock?framing=raw")
    assert done.returncode == 1
    assert b"nobody is there" in done.stderr


# ---- syslog ----


def test_pythons_logging_writes_to_a_receiver(folder: str) -> None:
    path = f"{folder}/log"
    with library.receiver(f"unix://{path}?datagram=1") as receiver:
        handler = logging.handlers.SysLogHandler(path)
        handler.emit(logging.LogRecord("app", logging.ERROR, "", 0, "disk %s", ("full",), None))
        handler.close()
        assert receiver.receive(timeout_s=PATIENCE_S).rstrip(b"\0") == b"<11>disk full"


@needs("logger")
def test_logger_writes_to_a_receiver(folder: str) -> None:
    path = f"{folder}/log"
    with library.receiver(f"unix://{path}?datagram=1") as receiver:
        subprocess.run(
            ["logger", "--socket", path, "--tag", "app", "disk almost full"], check=True, timeout=30
        )
        message = receiver.receive(timeout_s=PATIENCE_S)
    assert message.startswith(b"<13>")
    assert message.endswith(b"app: disk almost full")


def test_a_sender_writes_to_a_syslog_socket(folder: str) -> None:
    path = f"{folder}/log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(path)
        log.settimeout(PATIENCE_S)
        with library.sender(f"unix://{path}?datagram=1") as sender:
            sender.send(b"<13>app: hello")
        assert log.recv(100) == b"<13>app: hello"
        done = naru("send", f"unix://{path}?datagram=1", stdin=b"<13>app: one\n<13>app: two\n")
        assert done.returncode == 0, done.stderr
        assert [log.recv(100) for _ in range(2)] == [b"<13>app: one", b"<13>app: two"]


# ---- shells ----


def test_a_shell_writes_lines_to_a_fifo(folder: str) -> None:
    path = f"{folder}/log.fifo"
    with library.receiver(f"fifo://{path}?framing=lines") as receiver:
        subprocess.run(["sh", "-c", f"seq 1000 > {path}"], check=True, timeout=30)
        assert list(receiver) == [b"%d" % number for number in range(1, 1001)]


def test_cat_reads_a_fifo_from_a_sender(folder: str) -> None:
    path = f"{folder}/out.fifo"
    os.mkfifo(path)
    with other("cat", path) as cat:
        with library.sender(f"fifo://{path}?framing=lines", timeout_s=PATIENCE_S) as sender:
            sender.send_many([b"one", b"two"])
        assert cat.communicate(timeout=PATIENCE_S)[0] == b"one\ntwo\n"


def test_a_pipeline(folder: str) -> None:
    """Both ends in one line of shell, as the help shows it."""
    env = environment(NARU=" ".join(NARU))
    script = (
        "$NARU receive --count 1000 shm://pipeline | tail -1 & "
        "seq 1000 | $NARU send shm://pipeline; wait"
    )
    done = subprocess.run(
        ["sh", "-c", script], env=env, capture_output=True, check=False, timeout=50, cwd=folder
    )
    assert done.stdout == b"1000\n"
    assert done.stderr.replace(b"naru: waiting for somebody at shm://pipeline\n", b"") == b""


def test_files_through_a_message(folder: str) -> None:
    source, target = Path(folder, "source"), Path(folder, "target")
    source.write_bytes(os.urandom(2_000_000))
    with (
        target.open("wb") as out,
        running("receive", "--whole", "shm://file", stdout=out) as receiver,
    ):
        with source.open("rb") as data:
            subprocess.run(
                [*NARU, "send", "--whole", "shm://file"], stdin=data, check=True, timeout=30,
                env=environment(),
            )  # fmt: skip
        assert ended(receiver)[0] == 0
    assert target.read_bytes() == source.read_bytes()
