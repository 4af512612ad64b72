"""FAULTS 68, 69 of the cache server: thousands who say nothing, a storm of those who come again, and one
who never reads. 2,000 clients; 10,000 with NARU_SOAK=1.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cache_servers import PATIENCE_S, Resp, packed, serving

CROWD = 10_000 if os.environ.get("NARU_SOAK") else 2_000
OLD = 20  # who have been served from the beginning, and must be served all the time

pytestmark = pytest.mark.watchdog(seconds=300)


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Room for them all in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CROWD + 1000:
        pytest.skip(f"only {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def until(holds: Callable[[], Any], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until_s, what
        time.sleep(0.01)


def connected(client: Resp) -> int:
    found = re.search(rb"connected_clients:(\d+)", client.call("INFO", "clients"))
    assert found is not None
    return int(found[1])


def resident_bytes(pid: int) -> int:
    """Its own memory, without the shared one."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def join(one: socket.socket, path: str) -> None:
    one.connect(path)  # waits in the line; with a timeout it would be EAGAIN when the line is full
    one.settimeout(PATIENCE_S)


@contextlib.contextmanager
def crowd(path: str, count: int) -> Iterator[list[socket.socket]]:
    """Connected, and each said one word, so that it was accepted."""
    found: list[socket.socket] = []
    try:
        for _ in range(count):
            found.append(socket.socket(socket.AF_UNIX))
            join(found[-1], path)
        yield found
    finally:
        for one in found:
            one.close()


def ping_all(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.sendall(b"PING\r\n")
    for one in sockets:
        assert one.recv(100) == b"+PONG\r\n"


@pytest.mark.usefixtures("descriptors")
def test_69_thousands_of_idle_clients_and_a_storm(tmp_path: Path) -> None:
    """FAULTS 69: the idle cost little, and while all of them come again the old ones are served."""
    path = f"{tmp_path}/server.sock"
    with serving(tmp_path, processes=2, limits={"clients_most": CROWD + 100}) as server:
        with contextlib.ExitStack() as stack:
            old = [stack.enter_context(Resp(path)) for _ in range(OLD)]
            for number, client in enumerate(old):
                client.call("SET", f"old {number}", number)
            before = sum(map(resident_bytes, server.pids))
            with crowd(path, CROWD) as idle:
                ping_all(idle)
                assert connected(old[0]) == CROWD + OLD
                each = (sum(map(resident_bytes, server.pids)) - before) / CROWD
                print(f"{CROWD} idle clients, {each:.0f} bytes each")
                assert each < 16_384
                serve_all(old)
            for _ in range(2):
                storm(path, old)
            until(lambda: connected(old[0]) == OLD, "the storm's clients are gone")
            serve_all(old)


def serve_all(old: list[Resp]) -> None:
    for number, client in enumerate(old):
        assert client.call("GET", f"old {number}") == str(number).encode()


def storm(path: str, old: list[Resp]) -> None:
    """All connect as fast as they can, and leave without a word, or in the middle of one."""
    ended = threading.Event()

    def come() -> None:
        for number in range(CROWD // 4):
            with socket.socket(socket.AF_UNIX) as one:
                join(one, path)
                if number % 3:
                    with contextlib.suppress(BrokenPipeError):
                        one.sendall(b"PING\r\n" if number % 3 == 1 else b"*2\r\n$3\r\nGE")

    def come_and_end() -> None:
        threads = [threading.Thread(target=come) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ended.set()

    weather = threading.Thread(target=come_and_end)
    weather.start()
    served = 0
    while not ended.is_set():
        serve_all(old)
        served += 1
    weather.join()
    assert served > 0


@pytest.mark.usefixtures("descriptors")
def test_69_too_many_are_told_so_and_the_others_are_served(tmp_path: Path) -> None:
    """FAULTS 69: `max number of clients reached` to each one above the limit."""
    path, most = f"{tmp_path}/server.sock", 300
    with serving(tmp_path, processes=2, limits={"clients_most": most}):
        with crowd(path, most) as old:
            ping_all(old)
            for _ in range(200):
                with Resp(path) as more:
                    assert more.rest() == b"-ERR max number of clients reached\r\n"
            ping_all(old)
        until(lambda: is_served_alone(path), "all others are gone")


def is_served_alone(path: str) -> bool:
    """Whether a new one is let in, and nobody else is there any more."""
    with Resp(path) as one, contextlib.suppress(BrokenPipeError, EOFError):
        return b"connected_clients:1\r\n" in packed(one.ask("INFO", "clients"))
    return False


def test_69_without_descriptors_the_old_ones_are_served(tmp_path: Path) -> None:
    """FAULTS 69: a server at its own limit of descriptors does not spin, and lives."""
    path = f"{tmp_path}/server.sock"
    with serving(tmp_path) as server, Resp(path) as old:
        old.call("SET", "k", "v")
        pid = server.pids[0]
        open_now = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + 20, open_now + 20))
        with crowd(path, 60) as more:
            for one in more:
                one.sendall(b"PING\r\n")
            assert more[0].recv(100) == b"+PONG\r\n"
            spent_s = processor_s(pid)
            for _ in range(20):
                assert old.call("GET", "k") == b"v"
                time.sleep(0.02)
            assert processor_s(pid) - spent_s < 0.2  # no loop of accept() that fails
        until(lambda: connected(old) == 1, "all others are gone")
        with Resp(path) as again:
            assert again.call("GET", "k") == b"v"
        assert server.restarts == 0


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_68_many_who_never_read_cost_the_limit_each(tmp_path: Path) -> None:
    """FAULTS 68: a gigabyte of GET replies each, eight at once: memory is bounded, others are served."""
    limits = {"output_limit_bytes": 4 << 20, "high_water_bytes": 2 << 20, "stall_timeout_s": 1.0}
    path = f"{tmp_path}/server.sock"
    with serving(tmp_path, limits=limits) as server, Resp(path) as good:
        good.call("SET", "k", b"v" * 500_000)
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                greedy = stack.enter_context(Resp(path))
                greedy.send(packed("GET", "k") * 2_000)
            most = 0
            until_s = time.monotonic() + PATIENCE_S
            while connected(good) > 1:
                most = max(most, resident_bytes(server.pids[0]))
                assert good.call("PING") == "PONG"
                assert time.monotonic() < until_s, "the greedy are cut off"
            assert most < 128 << 20
        assert good.call("STRLEN", "k") == 500_000
