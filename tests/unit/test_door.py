"""A door that is closed while a handshake runs (in a forked child, whose thread has gone)."""

from __future__ import annotations

import socket
from collections.abc import Generator
from typing import Any

import pytest

import naru
from naru.transports.door import Door


def test_closing_in_the_middle_of_a_handshake_gives_the_name_up() -> None:
    name = "\0naru-test-door"
    seen: list[bool] = []

    def welcome(sock: socket.socket) -> Generator[None, None, Any]:
        door.close()
        seen.append(True)
        yield

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(name)
    listening.listen()
    door = Door(listening, welcome, lambda _made: None, 5.0)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(name)
        with pytest.raises(naru.ClosedError):  # under its feet, as only a forked child does it
            door.step()
    assert seen
    assert listening.fileno() == -1
    with socket.socket(socket.AF_UNIX) as again:
        again.bind(name)
