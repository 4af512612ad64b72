"""`naru proxy`: every byte, both ends, and nothing that makes it spin, leak or die."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import WATCHDOG_S, ended, naru, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxying import End, check_pair, converse, plans

from naru.engine import Engine

# make soak: 10,000 conversations
EXAMPLES = int(os.environ.get("NARU_SOAK_EXAMPLES", "30"))
AT_ONCE = 4


@contextlib.contextmanager
def proxy(
    *listen: str, target: str, options: tuple[str, ...] = (), **process: Any
) -> Iterator[tuple[subprocess.Popen[bytes], list[tuple[str, int]]]]:
    """A running proxy, and the TCP places that it listens at."""
    arguments = ["proxy", *listen, target, *options]
    with running(*arguments, stdout=subprocess.DEVNULL, **process) as started:
        assert started.stderr is not None
        places = []
        line = b""
        while b"descriptors:" not in line:  # the last line of its introduction
            line = started.stderr.readline()
            assert line, "it ended at once"
            if found := re.search(rb"tcp://([\d.]+):(\d+)", line):
                places.append((found[1].decode(), int(found[2])))
        yield started, places


def counters(started: subprocess.Popen[bytes]) -> dict[str, int]:
    """What it says at SIGUSR1."""
    assert started.stderr is not None
    started.send_signal(signal.SIGUSR1)
    line = started.stderr.readline().decode()
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)}


def await_counters(
    started: subprocess.Popen[bytes], holds: Callable[[dict[str, int]], bool]
) -> dict[str, int]:
    deadline_s = time.monotonic() + WATCHDOG_S
    while not holds(numbers := counters(started)):
        assert time.monotonic() < deadline_s, numbers
        time.sleep(0.01)
    return numbers


@contextlib.contextmanager
def echoing(address: str) -> Iterator[str]:
    """An echo server in a thread of this process, as the target. Gives its address."""
    with Engine() as engine:
        service = engine.echo(address)
        thread = threading.Thread(target=engine.run)
        thread.start()
        try:
            yield str(service.addresses[0])
        finally:
            engine.stop()
            thread.join()


def visit(place: tuple[str, int]) -> socket.socket:
    return socket.create_connection(place, timeout=WATCHDOG_S)


def visit_unix(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(WATCHDOG_S)
    sock.connect(name)
    return sock


def ask(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    got = b""
    while len(got) < len(data):
        piece = sock.recv(65536)
        assert piece, "ended early"
        got += piece
    return got


# ---- every byte ----


@pytest.mark.watchdog(seconds=120 + EXAMPLES)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_every_byte_both_ways_whatever_the_ends_do(kind: str) -> None:
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    with socket.socket(family) as target:
        target.bind(("127.0.0.1", 0) if kind == "tcp" else f"\0naru-target-{os.getpid()}")
        target.listen(64)
        target.settimeout(WATCHDOG_S)
        there = (
            f"tcp://127.0.0.1:{target.getsockname()[1]}"
            if kind == "tcp"
            else f"unix:@naru-target-{os.getpid()}"
        )
        name = f"naru-proxy-{os.getpid()}"
        with proxy("tcp://127.0.0.1:0", f"unix:@{name}", target=there) as (started, [place]):

            def pair(unix: bool, plan: Any, answer: Any) -> list[End]:
                client = visit_unix(f"\0{name}") if unix else visit(place)
                return [End(client, plan), End(target.accept()[0], answer)]

            @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
            @given(
                st.lists(st.tuples(st.booleans(), plans(), plans()), min_size=1, max_size=AT_ONCE)
            )
            def check(wanted: list[tuple[bool, Any, Any]]) -> None:
                pairs = [pair(*one) for one in wanted]
                try:
                    converse([end for both in pairs for end in both])
                    for both in pairs:
                        check_pair(*both)
                finally:
                    for both in pairs:
                        for end in both:
                            end.close()

            check()
            numbers = await_counters(started, lambda numbers: numbers["open"] == 0)
            # one that broke before its target had answered is not joined
            assert 0 < numbers["joined"] <= numbers["accepted"]
            assert numbers["target_failed"] == 0


def test_much_is_spliced_and_little_is_copied() -> None:
    with echoing("tcp://127.0.0.1:0") as target:
        with proxy("tcp://127.0.0.1:0", target=target) as (started, [place]):
            with visit(place) as sock:
                assert ask(sock, b"little") == b"little"
                assert counters(started)["spliced_bytes"] == 0
                much = os.urandom(1 << 20) * 8
                with contextlib.ExitStack() as stack:
                    sender = threading.Thread(target=sock.sendall, args=(much,))
                    sender.start()
                    stack.callback(sender.join)
                    got = bytearray()
                    while len(got) < len(much):
                        got += sock.recv(1 << 20)
                assert got == much
                assert counters(started)["spliced_bytes"] > len(much)


# ---- limits ----


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def limit_descriptors(most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@pytest.mark.watchdog(seconds=60)
def test_without_a_descriptor_clients_wait_and_nothing_spins() -> None:
    """FAULTS 14, 79: 64 descriptors, 100 clients."""
    with echoing("unix:@naru-echo-79") as target:
        with proxy(
            "tcp://127.0.0.1:0", target=target, preexec_fn=limit_descriptors(64)
        ) as (started, [place]):  # fmt: skip
            clients = [visit(place) for _ in range(100)]
            try:
                for number, sock in enumerate(clients):
                    sock.sendall(b"%d" % number)
                await_counters(started, lambda n: n["pauses_without_descriptor"] > 0)
                before = cpu_ticks(started.pid)
                time.sleep(1)
                used = (cpu_ticks(started.pid) - before) / os.sysconf("SC_CLK_TCK")
                assert used < 0.1, "it spins"
                assert counters(started)["open"] < 32
                for number, sock in enumerate(clients):
                    assert sock.recv(100) == b"%d" % number
                    sock.close()
            finally:
                for sock in clients:
                    sock.close()
            assert await_counters(started, lambda n: n["open"] == 0)["accepted"] == 100
            with visit(place) as sock:
                assert ask(sock, b"again") == b"again"


def test_connection_limit() -> None:
    with echoing("unix:@naru-echo-limit") as target:
        options = ("--connections", "2")
        with proxy("tcp://127.0.0.1:0", target=target, options=options) as (started, [place]):
            first, second, third = (visit(place) for _ in range(3))
            with first, second, third:
                assert ask(first, b"one") == b"one"
                assert ask(second, b"two") == b"two"
                third.sendall(b"three")
                assert await_counters(started, lambda n: n["pauses_at_limit"] > 0)["open"] == 2
                first.close()
                assert third.recv(10) == b"three"


def test_idle_connections_end() -> None:
    with echoing("unix:@naru-echo-idle") as target:
        options = ("--idle-timeout", "0.3")
        with proxy("tcp://127.0.0.1:0", target=target, options=options) as (started, [place]):
            with visit(place) as quiet, visit(place) as busy:
                while counters(started)["idle"] == 0:
                    assert ask(busy, b"x") == b"x"
                with pytest.raises(ConnectionResetError):
                    quiet.recv(1)
                assert ask(busy, b"x") == b"x"


def test_idle_is_asleep() -> None:
    """The only wake-ups are those of the questions."""
    with echoing("unix:@naru-echo-asleep") as target:
        with proxy("tcp://127.0.0.1:0", target=target) as (started, [place]):
            with visit(place) as half, visit(place) as stalled, visit(place) as quiet:
                assert ask(quiet, b"x") == b"x"
                half.shutdown(socket.SHUT_WR)
                assert half.recv(1) == b""
                stalled.setblocking(False)
                moved = -1
                while moved != (moved := counters(started)["bytes"]):  # it asks and never reads
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            stalled.send(bytes(65536))
                    time.sleep(0.2)
                first = counters(started)["wakeups"]
                time.sleep(0.5)
                assert counters(started)["wakeups"] - first <= 2


# ---- targets and peers that are not there ----


def test_target_down_is_refused_and_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with proxy("tcp://127.0.0.1:0", target=f"tcp://127.0.0.1:{port}") as (started, [place]):
        for _ in range(20):
            with pytest.raises(ConnectionResetError), visit(place) as sock:
                sock.recv(1)
        numbers = await_counters(started, lambda n: n["open"] == 0)
        assert (numbers["accepted"], numbers["target_failed"]) == (20, 20)
        before = counters(started)["wakeups"]
        time.sleep(0.3)
        assert counters(started)["wakeups"] - before <= 2


VICTIM = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
held = []
while True:
    held.append(listener.accept()[0])
    held[-1].sendall(bytes(100))
"""


def test_killed_target_and_killed_client(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    with subprocess.Popen([sys.executable, "-c", VICTIM, path], stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"ready\n"
        with proxy("tcp://127.0.0.1:0", target=f"unix://{path}") as (started, [place]):
            clients = [visit(place) for _ in range(10)]
            for sock in clients:
                assert sock.recv(100, socket.MSG_WAITALL) == bytes(100)
            gone = clients.pop()
            gone.sendall(bytes(1000))
            gone.close()  # with nothing unread: an end
            victim.kill()
            for sock in clients:
                with sock, contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
            await_counters(started, lambda n: n["open"] == 0)
            with pytest.raises(ConnectionResetError), visit(place) as sock:
                sock.recv(1)


# ---- its own end ----


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_drains_at_its_end(number: int, code: int, tmp_path: Path) -> None:
    own = tmp_path / "p"
    with echoing("unix:@naru-echo-drain") as target:
        with proxy(f"unix://{own}?mode=0600", target=target) as (started, _):
            assert own.stat().st_mode & 0o777 == 0o600
            with visit_unix(str(own)) as sock:
                assert ask(sock, b"before") == b"before"
                started.send_signal(number)
                while own.exists():  # its name is given up at once
                    time.sleep(0.01)
                assert ask(sock, b"after") == b"after"
            found, _, errors = ended(started)
            assert found == code
            assert b"accepted=1 open=0" in errors


def test_second_signal_ends_the_drain() -> None:
    with echoing("unix:@naru-echo-second") as target:
        options = ("--drain", "60")
        with proxy("tcp://127.0.0.1:0", target=target, options=options) as (started, [place]):
            with visit(place) as sock:
                assert ask(sock, b"x") == b"x"
                started.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionRefusedError):
                    while True:  # until it listens no more; who waited in its queue is reset
                        with contextlib.suppress(ConnectionResetError):
                            visit(place).close()
                started.send_signal(signal.SIGTERM)
                assert ended(started)[0] == 143
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("tcp://127.0.0.1:0",), 2, b"LISTEN"),
        (("tcp://127.0.0.1:0", "udp://127.0.0.1:9"), 1, b"byte streams"),
        (("shm://name", "tcp://127.0.0.1:9"), 1, b"byte streams"),
        (("unix:///no/such/dir/s", "tcp://127.0.0.1:9"), 1, b"/no/such/dir"),
        (("tcp://127.0.0.1:0", "nonsense"), 2, b"nonsense"),
        (("tcp://127.0.0.1:0", "tcp://127.0.0.1:9", "--connections", "0"), 2, b"connections"),
    ],
)
def test_bad_arguments_are_one_line(arguments: tuple[str, ...], code: int, text: bytes) -> None:
    done = naru("proxy", *arguments)
    assert done.returncode == code
    assert text in done.stderr
    assert done.stderr.count(b"\n") == 1
