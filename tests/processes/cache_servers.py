"""A cache server for tests, and a client of RESP in fifty lines that sees the bytes as they are.

Must not know: what is tested.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from naru.cache.serving import CacheServer, ServerSettings

PATIENCE_S = 15.0


class RespError(Exception):
    """An error reply."""


class Resp:
    """A connection that speaks RESP2 or RESP3, byte by byte if asked."""

    def __init__(self, address: Any) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.connect(
            address
        )  # waits in the line; with a timeout it is EAGAIN when the line is full
        self.sock.settimeout(PATIENCE_S)
        self._kept = b""

    def __enter__(self) -> Resp:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def call(self, *words: object) -> Any:
        self.send(packed(*words))
        return self.reply()

    def ask(self, *words: object) -> Any:
        """As call, with an error as a value."""
        try:
            return self.call(*words)
        except RespError as error:
            return error.args[0]

    def _line(self) -> bytes:
        while b"\r\n" not in self._kept:
            self._more()
        line, _, self._kept = self._kept.partition(b"\r\n")
        return line

    def _more(self) -> None:
        data = self.sock.recv(1 << 20)
        if not data:
            raise EOFError
        self._kept += data

    def _exactly(self, size: int) -> bytes:
        while len(self._kept) < size:
            self._more()
        data, self._kept = self._kept[:size], self._kept[size:]
        return data

    def reply(self) -> Any:
        line = self._line()
        kind, text = line[:1], line[1:]
        if kind == b"-":
            raise RespError(text.decode())
        if kind == b"+":
            return text.decode()
        if kind == b":":
            return int(text)
        if kind == b"_":
            return None
        if kind in b"$=":
            return None if text == b"-1" else self._exactly(int(text) + 2)[:-2]
        if kind in b"*~>":
            return None if text == b"-1" else [self.item() for _ in range(int(text))]
        assert kind == b"%", line
        return {self.reply(): self.item() for _ in range(int(text))}

    def item(self) -> Any:
        try:
            return self.reply()
        except RespError as error:
            return error.args[0]

    def rest(self) -> bytes:
        """All until the end of the stream."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self._more()
        return self._kept


def until(holds: Callable[[], Any]) -> Any:
    """Waits for what comes by itself."""
    until_s = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < until_s
        time.sleep(0.01)
    return found


def packed(*words: object) -> bytes:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


@contextlib.contextmanager
def serving(
    folder: Path, *, processes: int = 1, tcp: bool = False, size_bytes: int = 32 << 20, **more: Any
) -> Iterator[CacheServer]:
    """A server over a cache of its own, at folder/server.sock and, if asked, at a TCP port."""
    bind = [f"unix://{folder}/server.sock"] + (["tcp://127.0.0.1:0"] if tcp else [])
    limits = more.pop("limits", {})
    with CacheServer(
        str(folder / "test.cache"),
        bind=bind,
        processes=processes,
        size_bytes=size_bytes,
        settings=ServerSettings(**limits),
        **more,
    ) as server:
        yield server


def tcp_port(server: CacheServer) -> int:
    return next(one.port for one in server.addresses if one.transport == "tcp" and one.port)


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A real one, for comparison. Gives its socket."""
    program = shutil.which("redis-server")
    assert program is not None
    path = folder / "redis.sock"
    arguments = [
        program,
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        try:
            until_s = time.monotonic() + PATIENCE_S
            while not path.exists():
                assert process.poll() is None, "redis-server ended at once"
                assert time.monotonic() < until_s, "redis-server did not start"
                time.sleep(0.02)
            yield str(path)
        finally:
            process.kill()
