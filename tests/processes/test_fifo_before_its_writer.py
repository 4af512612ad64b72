"""A FIFO with foreign framing was over before its first writer had come: read(2) says 0 there."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator

import pytest

import naru

PATIENCE_S = 15.0


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="nf-") as folder:
        yield f"{folder}/fifo"


@pytest.mark.parametrize("framing", ["lines", "raw"])
def test_a_receiver_waits_for_its_first_writer(path: str, framing: str) -> None:
    with naru.receiver(f"fifo://{path}?framing={framing}") as receiver:
        assert receiver.try_receive() is None
        with pytest.raises(naru.TimedOutError):
            receiver.receive(timeout_s=0)
        shell = subprocess.Popen(["sh", "-c", 'echo one > "$1"', "sh", path])
        end = b"" if framing == "lines" else b"\n"
        assert receiver.receive(timeout_s=PATIENCE_S) == b"one" + end
        assert shell.wait(PATIENCE_S) == 0


def test_it_ends_when_the_last_writer_has_gone(path: str) -> None:
    with naru.receiver(f"fifo://{path}?framing=lines") as receiver:
        subprocess.run(["sh", "-c", 'printf "one\\ntwo" > "$1"', "sh", path], check=True)
        assert list(receiver) == [b"one", b"two"]
        with pytest.raises(naru.PeerGoneError) as caught:
            receiver.receive()
        assert caught.value.orderly
