"""43: the process that makes a name, or a connection, dies between two steps of it.

Every call into C (a system call, or what prepares one) is a moment: the child dies before the first,
the second, the third one, until it passes unharmed. Whoever comes next takes the name over at once;
nobody ever maps a segment that is half made.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from helpers import files_below
from victims import SOAK, until

import naru
from naru.testing.children import Crash, crash_children
from naru.testing.descriptors import open_descriptors
from naru.testing.events import Events

STEP = 1 if SOAK else 5


def dying(crash: Crash, function: Callable[[], Any]) -> Any:
    """Calls the function; each call into C on the way is a moment to die at."""

    def before_each(frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call":
            crash.here()

    sys.setprofile(before_each)
    try:
        return function()
    finally:
        sys.setprofile(None)


# ---- a name ----

OPENERS: dict[str, tuple[str, Callable[[str], Any], Callable[[str], Any]]] = {
    "shm": ("shm://born", naru.listen, naru.connect),
    "shm path": ("shm://{}/s", naru.listen, naru.connect),
    "shm receiver": ("shm://born", naru.receiver, naru.sender),
    "unix": ("unix://{}/u", naru.listen, naru.connect),
    "unix receiver": ("unix://{}/u", naru.receiver, naru.sender),
    "datagram": ("unix://{}/d?datagram=1", naru.receiver, naru.sender),
    "fifo": ("fifo://{}/f", naru.receiver, naru.sender),
    "mq": ("mq:///naru-born", naru.receiver, naru.sender),
}


def make_the_name(events: Events, crash: Crash, opener: Callable[[str], Any], address: str) -> None:
    made = dying(crash, lambda: opener(address))
    events.tell("made")
    made.close()


@pytest.mark.watchdog(seconds=300 if SOAK else 40)
@pytest.mark.parametrize("kind", OPENERS)
def test_43_the_owner_of_a_name_dies_while_making_it(runtime: str, kind: str) -> None:
    template, opener, client = OPENERS[kind]
    address = template.format(runtime)
    number = 0
    for number, child in crash_children(make_the_name, opener, address, step=STEP):
        child.wait()
        left = files_below(runtime)
        with opener(address) as next_owner:
            _talk(next_owner, client, address)
        assert files_below(runtime) == [], f"death {number} left {left}, and that stayed"
    assert number > 10, "it died at some steps"


def _talk(owner: Any, client: Callable[[str], Any], address: str) -> None:
    """One message from a client; the owner's side lets it in."""

    def send() -> None:
        with client(address) as end:
            end.send(b"to the next owner")

    thread = threading.Thread(target=send)
    thread.start()
    if isinstance(owner, naru.Listener):
        with owner.accept(timeout_s=10.0) as channel:
            assert channel.receive(timeout_s=10.0) == b"to the next owner"
    else:
        assert owner.receive(timeout_s=10.0) == b"to the next owner"
    thread.join()


# ---- a connection ----

CHANNELS = {"shm": "shm://born", "unix": "unix://{}/u"}


def accept_one(events: Events, crash: Crash, address: str) -> None:
    with naru.listen(address) as listener:
        events.tell("listening")
        with dying(crash, lambda: listener.accept(timeout_s=10.0)) as channel:
            channel.send(b"from the first server")
            events.expect("enough")


def _client(address: str, heard: list[Any]) -> None:
    """Connects, as often as it must, and says what it heard and how often its server died."""
    deaths = 0
    while True:
        try:
            with naru.connect(address, timeout_s=10.0) as channel:
                heard += [deaths, channel.receive(timeout_s=10.0)]
                return
        except naru.PeerGoneError:
            deaths += 1


@pytest.mark.watchdog(seconds=300 if SOAK else 40)
@pytest.mark.parametrize("kind", CHANNELS)
def test_43_the_server_dies_while_it_makes_a_connection(runtime: str, kind: str) -> None:
    """The client comes to the next server: it never gets, or waits for, half a connection."""
    address = CHANNELS[kind].format(runtime)
    number = 0
    for number, child in crash_children(accept_one, address, step=STEP):  # noqa: B007  read below
        child.expect("listening")
        heard: list[Any] = []
        client = threading.Thread(target=_client, args=(address, heard))
        client.start()
        until(
            lambda heard=heard, child=child: heard or not child.is_alive(),
            "an answer, or its death",
            15.0,
        )
        if heard:
            child.tell("enough")
        else:
            with naru.listen(address) as listener, listener.accept(timeout_s=10.0) as channel:
                channel.send(b"from the next server")
                client.join()
        client.join()
        assert heard[1] == b"from the %s server" % (b"first" if child.wait() == 0 else b"next")
        assert heard[0] <= 1
    assert number > 10


def connect_one(events: Events, crash: Crash, address: str) -> None:
    with dying(crash, lambda: naru.connect(address)) as channel:
        channel.send(b"unharmed")


@pytest.mark.watchdog(seconds=300 if SOAK else 40)
@pytest.mark.parametrize("kind", CHANNELS)
def test_43_the_client_dies_while_it_connects(runtime: str, kind: str) -> None:
    """The listener goes on with the next one; what was begun is given back."""
    address = CHANNELS[kind].format(runtime)
    number, came = 0, []
    with naru.listen(address) as listener:
        before = open_descriptors()
        for number, child in crash_children(connect_one, address, step=STEP):  # noqa: B007  read below
            while True:
                alive = child.is_alive()
                try:
                    with listener.accept(timeout_s=0.02) as channel:
                        came += channel
                except naru.PeerGoneError:
                    continue
                except naru.TimedOutError:
                    if not alive:
                        break
        assert open_descriptors() == before
    assert number > 10
    assert came == [b"unharmed"], "of the last one only"
