"""Who may use a cache server, and what it says of those who may not."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from pathlib import Path

import pytest
from cache_servers import PATIENCE_S, Resp, serving, tcp_port
from commands import environment, naru, running

from naru.cache.serving import CacheServer
from naru.errors import NotPermittedError, UnsupportedError

pytestmark = pytest.mark.watchdog(seconds=60)


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:7000"])
def test_without_a_password_other_machines_are_kept_out(tmp_path: Path, address: str) -> None:
    path = tmp_path / "test.cache"
    with pytest.raises(NotPermittedError, match="without a password"):
        CacheServer(str(path), bind=[address], size_bytes=2 << 20)
    assert not path.exists()
    CacheServer(str(path), bind=[address], size_bytes=2 << 20, password="secret")
    CacheServer(str(path), bind=[address], protected=False)
    with pytest.raises(ValueError, match="an empty one"):
        CacheServer(str(path), bind=[address], password="")


def test_this_machine_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "test.cache"
    for address in (
        "tcp://127.0.0.1:0",
        "tcp://[::1]:0",
        "tcp://localhost:0",
        f"unix://{tmp_path}/s",
    ):
        CacheServer(str(path), bind=[address], size_bytes=2 << 20)


def test_a_password_in_the_arguments_is_refused(tmp_path: Path) -> None:
    found = naru("cache", "serve", f"{tmp_path}/c", "--size", "2MiB", "--requirepass", "secret")
    assert found.returncode == 2
    assert b"NARU_CACHE_PASSWORD" in found.stderr
    (tmp_path / "empty").write_text("\n")
    found = naru(
        "cache",
        "serve",
        f"{tmp_path}/c",
        "--size",
        "2MiB",
        "--requirepass-file",
        f"{tmp_path}/empty",
    )
    assert found.returncode == 2
    assert b"its first line is empty" in found.stderr
    found = naru("cache", "serve", f"{tmp_path}/c", "--size", "2MiB", "--bind", "tcp://0.0.0.0:0")
    assert found.returncode != 0
    assert found.stderr.count(b"\n") == 1
    assert b"without a password" in found.stderr


@pytest.mark.parametrize("by_file", [False, True])
def test_a_password_is_seen_nowhere(tmp_path: Path, by_file: bool) -> None:
    """Neither in the arguments of any of its processes, nor in their environment for other users."""
    (tmp_path / "password").write_text("se cret\nnot this\n")
    given = ["--requirepass-file", f"{tmp_path}/password"] if by_file else []
    variables = environment() if by_file else environment(NARU_CACHE_PASSWORD="se cret")
    socket_path = f"{tmp_path}/s"
    with running(
        "cache", "serve", f"{tmp_path}/c", "--size", "2MiB", "--bind", f"unix://{socket_path}", *given,
        env=variables,
    ) as server:  # fmt: skip
        assert server.stderr is not None
        said = server.stderr.readline() + server.stderr.readline()
        pids = re.search(rb"processes: ([\d ]+)", said)
        assert pids
        for pid in [server.pid, *map(int, pids[1].split())]:
            assert b"cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        with Resp(socket_path) as client:
            assert client.ask("GET", "k").startswith("NOAUTH")
            assert client.ask("AUTH", "wrong").startswith("WRONGPASS")
            assert client.call("AUTH", "se cret") == "OK"
            info = client.call("INFO", "stats").decode()
            assert "acl_access_denied_auth:1" in info
        server.send_signal(signal.SIGTERM)
        line = server.stderr.readline().decode()
        assert f"refused process {os.getpid()} of user {os.geteuid()}: a wrong password" in line
        assert server.wait(PATIENCE_S) is not None


def test_one_line_for_many_strangers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, tcp=True, limits={"clients_most": 2}) as server:
        address = ("127.0.0.1", tcp_port(server))
        for _ in range(50):
            with socket.create_connection(address) as stranger:
                stranger.sendall(b"POST / HTTP/1.1\r\nHost: here\r\n\r\n")
                assert stranger.recv(100) == b""
        with Resp(address) as broken:
            broken.send(b"*nonsense\r\n")
            assert broken.rest().startswith(b"-ERR Protocol error")
        with Resp(address) as one, Resp(address) as two, Resp(address) as three:
            assert one.call("PING") == two.call("PING") == "PONG"
            assert three.rest() == b"-ERR max number of clients reached\r\n"
            assert "rejected_http:50" in one.call("INFO", "stats").decode()
    said = capfd.readouterr().err.splitlines()
    assert all(
        re.search(r"naru: cache server process 0: refused 127\.0\.0\.1:\d+: ", one) for one in said
    )
    assert 1 <= sum("it speaks HTTP" in one for one in said) < 10
    assert sum("no Redis protocol" in one for one in said) == 1
    assert sum("as many clients as it takes" in one for one in said) == 1


def test_a_list_of_users_is_not_ignored(tmp_path: Path) -> None:
    server = CacheServer(
        f"{tmp_path}/c", bind=[f"unix://{tmp_path}/s?allow_uids=5"], size_bytes=2 << 20
    )
    with pytest.raises(UnsupportedError, match="does not look who connects"):
        server.start()


def test_many_may_wait_to_be_accepted(tmp_path: Path) -> None:
    with serving(tmp_path) as server, contextlib.ExitStack() as stack:
        os.kill(server.pids[0], signal.SIGSTOP)
        try:
            waiting = [stack.enter_context(Resp(f"{tmp_path}/server.sock")) for _ in range(400)]
        finally:
            os.kill(server.pids[0], signal.SIGCONT)
        assert {client.call("PING") for client in waiting} == {"PONG"}
