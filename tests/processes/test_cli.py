"""FAULTS 115, and what each command promises: `naru` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import (
    NARU,
    ended,
    environment,
    naru,
    read_terminal,
    running,
    sent,
    terminal,
)

from naru.version import __version__

pytestmark = pytest.mark.watchdog(seconds=60)

SEVERAL_SENDERS = ("shm", "unix", "abstract", "tcp", "udp", "fifo", "mq")
CONVERSATIONS = ("shm", "unix", "abstract", "tcp", "udp")


@pytest.fixture
def folder() -> Iterator[str]:
    """Short, because the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="nc-") as name:
        yield name


def address_of(kind: str, folder: str, free_port: int) -> str:
    return {
        "shm": "shm://cli",
        "unix": f"unix://{folder}/cli.sock",
        "abstract": f"unix:@naru-cli-{os.getpid()}",
        "tcp": f"tcp://127.0.0.1:{free_port}",
        "udp": f"udp://127.0.0.1:{free_port}",
        "fifo": f"fifo://{folder}/cli.fifo",
        "mq": f"mq:///naru-cli-{os.getpid()}",
    }[kind]


@pytest.fixture
def free_port() -> int:
    """Free a moment ago, for both kinds of sockets."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def one_line(errors: bytes) -> str:
    """The whole of standard error: one line, no traceback."""
    text = errors.decode()
    assert text.startswith("naru: "), text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text


# ---- send and receive ----


@pytest.mark.parametrize("order", ["receiver first", "sender first"])
@pytest.mark.parametrize("kind", SEVERAL_SENDERS)
def test_lines_go_over_every_transport(kind: str, order: str, folder: str, free_port: int) -> None:
    address = address_of(kind, folder, free_port)
    if order == "receiver first":
        with running("receive", "--count", "3", address) as receiver:
            sent(address, b"one\n\nthree")
            assert ended(receiver) == (0, b"one\n\nthree\n", b"")
    else:
        with running("send", address, stdin=subprocess.PIPE) as sender:
            assert sender.stdin is not None
            sender.stdin.write(b"one\n\nthree")
            done = naru("receive", "--count", "3", address) if kind == "never" else None
            with running("receive", "--count", "3", address) as receiver:
                code, _, errors = ended(sender)
                assert (code, errors.replace(waiting_note(address), b"")) == (0, b"")
                assert ended(receiver) == (0, b"one\n\nthree\n", b"")
            assert done is None


def waiting_note(address: str) -> bytes:
    return f"naru: waiting for somebody at {address}\n".encode()
