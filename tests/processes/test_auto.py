"""auto://: the choice, what happens when the best is not to be had, and moves under way."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from auto_profiles import write_profile

import naru
from naru._native.opening import is_moving
from naru.testing import limited_descriptors, open_descriptors
from naru.testing.children import Child, unprivileged
from naru.testing.events import Events

ALL = ("shm", "unix", "pipe", "tcp")
PATIENCE_S = 15.0


@pytest.fixture(autouse=True)
def own_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def prefer(*order: str) -> None:
    """A machine on which the first is the fastest, and so on."""
    write_profile({(name, 1024): 1.0 + place for place, name in enumerate(order)})


def meet(
    address: str = "auto://meet", theirs: str = "", timeout_s: float = PATIENCE_S
) -> tuple[Any, Any]:
    """(accepted, connected), both in this process."""
    with naru.listen(address) as listener:
        made: list[Any] = []

        def connect() -> None:
            place = address.partition("?")[0]
            try:
                made.append(naru.connect(place + theirs, timeout_s=timeout_s))
            except naru.NaruError as error:
                made.append(error)

        connecting = threading.Thread(target=connect)
        connecting.start()
        accepted: Any = None
        while accepted is None and (connecting.is_alive() or not made):
            try:
                accepted = listener.accept(timeout_s=0.05)
            except naru.TimedOutError:
                if not connecting.is_alive():
                    break
        connecting.join()
        return accepted, made[0]


@pytest.fixture
def ends() -> Iterator[list[Any]]:
    opened: list[Any] = []
    yield opened
    for end in opened:
        end.close()


# ---- the choice ----


@pytest.mark.parametrize("best", ALL)
def test_the_best_of_the_profile_is_taken(best: str, ends: list[Any]) -> None:
    prefer(best, *(name for name in ALL if name != best))
    ends += meet()
    for end in ends:
        assert end.choice.transport == best
        assert end.choice.reasons
        assert end.choice.moves == 0
    ends[0].send(b"there")
    assert ends[1].receive(timeout_s=5) == b"there"
    ends[1].send(b"back")
    assert ends[0].receive(timeout_s=5) == b"back"


def test_both_sides_must_have_it(ends: list[Any]) -> None:
    prefer("shm", "pipe", "unix", "tcp")
    ends += meet("auto://meet?transports=shm,unix", "?transports=unix,tcp,pipe")
    assert [end.choice.transport for end in ends] == ["unix", "unix"]


def test_needs_of_either_side_count(ends: list[Any]) -> None:
    prefer("pipe", "tcp", "unix", "shm")
    ends += meet("auto://meet", "?needs=fds")
    assert ends[0].choice.transport == "unix"
    assert {"pipe", "tcp"} <= {name for name, _ in ends[0].choice.rejected}
    with open("/dev/null", "rb") as file:
        ends[1].send_fds(b"file", [file])
    message, files = ends[0].receive_fds(timeout_s=5)
    assert message == b"file"
    assert len(files) == 1
    open(files[0], "rb").close()


def test_nothing_in_common_is_said_on_the_connecting_side() -> None:
    accepted, error = meet("auto://meet?transports=shm", "?transports=tcp")
    assert accepted is None
    assert isinstance(error, naru.UnsupportedError)


def test_an_impossible_need_is_said() -> None:
    accepted, error = meet("auto://meet?transports=pipe,tcp", "?needs=fds")
    assert accepted is None
    assert isinstance(error, naru.UnsupportedError)
    assert "pipe" in str(error)


@pytest.mark.parametrize(
    "address", ["auto://a?transports=udp", "auto://a?needs=luck", "auto://a?moves=2"]
)
def test_options_are_checked_first(address: str) -> None:
    with pytest.raises(naru.BadAddressError):
        naru.listen(address)


def test_there_are_no_senders_and_no_pairs_of_auto() -> None:
    with pytest.raises(naru.UnsupportedError):
        naru.receiver("auto://x")
    with pytest.raises(naru.BadAddressError):
        naru.pair("auto")


# ---- the best is not to be had ----


def starved(events: Events, free: int) -> None:
    naru.pair("shm")[0].close()  # every module is loaded
    events.expect("go")
    with limited_descriptors(free):
        try:
            with naru.connect("auto://meet", timeout_s=5) as channel:
                events.tell(
                    "open", transport=channel.choice.transport, rejected=channel.choice.rejected
                )
                channel.send(channel.receive(timeout_s=5))
                assert channel.receive() == b"bye"
        except naru.LimitError:
            events.tell("open", transport="none", rejected=())


@pytest.mark.watchdog(seconds=60)
def test_what_a_starved_side_cannot_open_is_passed_over() -> None:
    prefer("shm", "pipe", "unix", "tcp")
    seen = set()
    for free in range(2, 12):
        with naru.listen("auto://meet") as listener, Child.run(starved, free) as child:
            child.events.tell("go")
            try:
                accepted = listener.accept(timeout_s=2)
            except naru.TimedOutError:
                accepted = None
            said = child.events.expect("open")
            seen.add(said["transport"])
            if accepted is not None:
                with accepted:
                    assert accepted.choice.transport == said["transport"]
                    accepted.send(b"echo")
                    assert accepted.receive(timeout_s=5) == b"echo"
                    accepted.send(b"bye")
            child.wait()
    assert "shm" in seen
    assert seen & {"pipe", "unix"}, seen


def no_memory(*_: object) -> None:
    raise naru.NoSpaceError("shm: no space", errno=errno.ENOMEM)


def test_without_memory_for_rings_the_next_is_taken(
    monkeypatch: pytest.MonkeyPatch, ends: list[Any]
) -> None:
    prefer("shm", "unix", "pipe", "tcp")
    monkeypatch.setattr("naru.transports.shm.check_headroom", no_memory)
    ends += meet()
    for end in ends:
        assert end.choice.transport == "unix"
        assert ("shm", "shm: no space") in end.choice.rejected


# ---- another user, strangers ----


def try_to_connect(path: str) -> str:
    try:
        naru.connect(f"auto://{path}?allow_uids=0", timeout_s=5)
    except naru.NaruError as error:
        return type(error).__name__
    return "connected"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_another_user_is_refused(tmp_path: Path) -> None:
    path = f"/tmp/naru-auto-{os.getpid()}.sock"
    with naru.listen(f"auto://{path}?mode=0666") as listener:
        said: list[str] = []
        other = threading.Thread(target=lambda: said.append(unprivileged(try_to_connect, path)))
        other.start()
        with pytest.raises(naru.TimedOutError):
            listener.accept(timeout_s=1)
        other.join()
        assert said == ["NotPermittedError"]
        assert listener.strangers == 1


@pytest.mark.parametrize(
    "said", [b"", b"NARU" + bytes(12), b"{}", b'{"type":"answer","number":1,"prepared":true}']
)
def test_strangers_are_turned_away(said: bytes) -> None:
    with naru.listen("auto://meet?handshake_timeout_s=0.3") as listener:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(os.path.join(os.environ["XDG_RUNTIME_DIR"], "naru", "auto.meet"))
            if said:
                stranger.send(said)
            with pytest.raises(naru.TimedOutError):
                listener.accept(timeout_s=1)
        assert listener.strangers == 1


# ---- moves ----


def settle(*channels: Any) -> None:
    """Until no move is under way; the channels must be receiving."""
    while any(is_moving(channel) for channel in channels):
        time.sleep(0.001)  # the move has no event, and ends by what the ends do


@pytest.mark.parametrize("target", ALL)
@pytest.mark.parametrize("first", ALL)
def test_a_channel_moves(first: str, target: str, ends: list[Any]) -> None:
    prefer(first, *(name for name in ALL if name != first))
    a, b = meet()
    ends += [a, b]
    a.send(b"before, unread")
    assert a._place.conversation.offer(target)
    got = [b.receive(timeout_s=5)]
    for number in range(50):
        a.send(b"%d" % number)
        got.append(b.receive(timeout_s=5))
        b.send(got[-1])
        assert a.receive(timeout_s=5) == got[-1]
    while a.choice.moves == 0 or b.choice.moves == 0 or is_moving(a) or is_moving(b):
        a.send(b"more")
        assert b.receive(timeout_s=5) == b"more"
        b.send(b"more")
        assert a.receive(timeout_s=5) == b"more"
    assert got == [b"before, unread", *(b"%d" % number for number in range(50))]
    for end in (a, b):
        assert end.choice.transport == target
        assert end.choice.moved_from == first


def test_a_full_channel_moves_when_there_is_room(ends: list[Any]) -> None:
    prefer("pipe", "unix", "shm", "tcp")
    a, b = meet("auto://meet?capacity_bytes=4096")
    ends += [a, b]
    count = 0
    while a.try_send(b"%d" % count):
        count += 1
    assert a._place.conversation.offer("shm")
    for number in range(count):
        assert b.receive(timeout_s=5) == b"%d" % number
    a.send(b"on the other one", timeout_s=5)
    assert b.receive(timeout_s=5) == b"on the other one"


def test_descriptors_follow_the_messages_over_a_move(ends: list[Any]) -> None:
    prefer("unix", "shm", "pipe", "tcp")
    a, b = meet()
    ends += [a, b]
    for number in range(20):
        if number % 5 == 0:
            a._place.conversation.offer("shm" if a.choice.transport == "unix" else "unix")
        with open("/dev/null", "rb") as file:
            a.send_fds(b"%d" % number, [file])
        message, files = b.receive_fds(timeout_s=5)
        assert message == b"%d" % number
        for fd in files:
            os.close(fd)


def test_who_polls_hears_of_messages_on_either_connection(ends: list[Any]) -> None:
    prefer("shm", "unix", "pipe", "tcp")
    a, b = meet()
    ends += [a, b]
    poll = select.poll()
    poll.register(b.fileno(), select.POLLIN)
    for number in range(200):
        if number % 20 == 0:
            a._place.conversation.offer(ALL[number // 20 % 4])
        a.send(b"%d" % number)
        while (message := b.try_receive()) is None:
            assert poll.poll(5000), number
        assert message == b"%d" % number
        assert b.try_receive() is None


def talk(events: Events, size_bytes: int) -> None:
    with naru.connect("auto://meet", timeout_s=5) as channel:
        for message in channel:
            channel.send(message)


@pytest.mark.watchdog(seconds=60)
def test_it_moves_by_itself_when_the_traffic_wants_it() -> None:
    """Small messages first, for which shm is the best here; then large ones, for which it is not."""
    write_profile(
        {("shm", 64): 1.0, ("unix", 64): 9.0, ("shm", 65536): 500.0, ("unix", 65536): 20.0}
    )
    with naru.listen("auto://meet?transports=shm,unix") as listener:
        with Child.run(talk, 1) as child:
            with listener.accept(timeout_s=PATIENCE_S) as channel:
                assert channel.choice.transport == "shm"
                message = bytes(65536)
                until = time.monotonic() + PATIENCE_S
                while channel.choice.moves == 0 and time.monotonic() < until:
                    channel.send(message)
                    assert channel.receive(timeout_s=5) == message
                assert channel.choice.transport == "unix"
                assert channel.choice.moved_from == "shm"
            child.wait()


def test_it_stays_when_told_to(ends: list[Any]) -> None:
    a, b = meet("auto://meet?moves=0")
    ends += [a, b]
    threads = [thread.name for thread in threading.enumerate()]
    assert "naru-auto" not in threads


def test_nothing_is_left_of_many_moves(ends: list[Any]) -> None:
    prefer("shm", "unix", "pipe", "tcp")
    a, b = meet()
    ends += [a, b]
    before: dict[int, str] = {}
    for number in range(40):
        a._place.conversation.offer(ALL[(number + 1) % 4])
        while is_moving(a) or is_moving(b) or a.choice.transport != ALL[(number + 1) % 4]:
            a.send(b"x")
            b.receive(timeout_s=5)
            b.send(b"y")
            a.receive(timeout_s=5)
        if number == 3:
            before = open_descriptors()
    assert len(open_descriptors()) == len(before)
