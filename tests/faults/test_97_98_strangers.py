"""97, 98: who may come in. Other users, silent ones, those who talk nonsense, those who send pickles."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as some
from shm_helpers import CHANNEL, SENDER, RawServer, connected, hello
from victims import SOAK, Victim, until

import naru
from naru.testing.children import Child
from naru.testing.events import Events

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
KINDS = {"unix": socket.SOCK_STREAM, "shm": socket.SOCK_SEQPACKET}

# ---- 97: other users ----


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def knock(events: Events, address: str, opener: Callable[..., Any], patience_s: float) -> None:
    """As another user: connects, sends, and says how it went."""
    become(NOBODY)
    try:
        with opener(address, timeout_s=patience_s) as end:
            end.send(b"let me in")
            events.tell("in", peer=list(end.peer or ()))
            events.expect("enough")
    except naru.NaruError as error:
        events.tell("out", error=type(error).__name__)


@pytest.fixture
def lobby(runtime: str) -> str:
    """A directory that every user may enter."""
    os.chmod(runtime, 0o755)
    return runtime


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_97_the_file_s_mode_keeps_others_out(lobby: str, kind: str) -> None:
    """The default: they do not even reach the listener."""
    with naru.listen(f"{kind}://{lobby}/s") as listener:
        assert stat.S_IMODE(os.stat(f"{lobby}/s").st_mode) == 0o600
        with Child.run(knock, f"{kind}://{lobby}/s", naru.connect, 0.0) as stranger:
            assert stranger.expect("out")["error"] == "NotPermittedError"
        with pytest.raises(naru.TimedOutError):
            listener.accept(timeout_s=0)
        assert listener.strangers == 0


@needs_root
@pytest.mark.parametrize("options", ["mode=0666", "mode=0666&allow_uids=1,2,65533"])
@pytest.mark.parametrize("framing", ["", "&framing=raw"])
@pytest.mark.parametrize("kind", [*KINDS, "abstract"])
def test_97_other_users_are_refused(lobby: str, kind: str, options: str, framing: str) -> None:
    """A file that everybody may open is not yet an invitation; an abstract name has no mode."""
    if kind == "shm" and framing:
        pytest.skip("shm has no framing")
    name = "unix:@naru-97" if kind == "abstract" else f"{kind}://{lobby}/s"
    if kind == "abstract":
        options = options.replace("mode=0666&", "").replace("mode=0666", "linger_s=0")
    with naru.listen(f"{name}?{options}{framing}") as listener:
        with Child.run(
            knock, f"{name}?allow_uids=0{framing}", naru.connect, 5.0
        ) as stranger:  # fmt: skip
            until(lambda: _refuses(listener), "a stranger was refused")
            if not framing:  # without a hello there is no way to tell him
                assert stranger.expect("out")["error"] == "NotPermittedError"
        with Victim(_connect_and_send, f"{name}{'?' + framing[1:] if framing else ''}"):
            with listener.accept(timeout_s=5.0) as channel:
                assert channel.receive(timeout_s=5.0) == b"from our own user"
                assert channel.peer is not None
                assert channel.peer.uid == os.geteuid()


def _refuses(listener: Any) -> bool:
    """Looks at the door once; nobody may come in."""
    with pytest.raises(naru.TimedOutError):
        listener.accept(timeout_s=0)
    return bool(listener.strangers)


def _connect_and_send(address: str) -> None:
    with naru.connect(address) as channel:
        channel.send(b"from our own user")


@needs_root
@pytest.mark.parametrize("uids", [f"{NOBODY}", f"7,{NOBODY},9", "*"])
@pytest.mark.parametrize("kind", KINDS)
def test_97_allow_uids_admits(lobby: str, kind: str, uids: str) -> None:
    with naru.listen(f"{kind}://{lobby}/s?mode=0666&allow_uids={uids}") as listener:
        address = f"{kind}://{lobby}/s?allow_uids=0"
        with Child.run(knock, address, naru.connect, 5.0) as guest:
            with listener.accept(timeout_s=5.0) as channel:
                assert channel.receive(timeout_s=5.0) == b"let me in"
                assert channel.peer == (guest.pid, NOBODY, NOBODY)
                assert guest.expect("in")["peer"] == [os.getpid(), 0, 0]
                guest.tell("enough")
                guest.check()
                assert channel.peer == (guest.pid, NOBODY, NOBODY), "as it was when it came"


@needs_root
@pytest.mark.parametrize("opener", [naru.connect, naru.sender])
def test_97_the_client_looks_too(lobby: str, opener: Callable[..., Any]) -> None:
    """A name in shared memory that another user holds is not trusted unless he is named."""
    address = f"shm://{lobby}/s?mode=0666&allow_uids=*"
    with (naru.listen if opener is naru.connect else naru.receiver)(address):
        with Child.run(knock, f"shm://{lobby}/s", opener, 1.0) as stranger:
            assert stranger.expect("out")["error"] == "NotPermittedError"


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_97_a_receiver_of_many_refuses_one(lobby: str, kind: str) -> None:
    with naru.receiver(f"{kind}://{lobby}/s?mode=0666") as receiver:
        with Child.run(
            knock, f"{kind}://{lobby}/s?allow_uids=0", naru.sender, 5.0
        ) as stranger:  # fmt: skip
            with pytest.raises(naru.TimedOutError):
                receiver.receive(timeout_s=0.3)
            assert stranger.expect("out")["error"] == "NotPermittedError"


def drop_rights_later(events: Events, address: str) -> None:
    with naru.connect(address) as channel:
        become(NOBODY)
        channel.send(b"as whom?")
        events.expect("enough")


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_97_authorised_as_who_connected(lobby: str, kind: str) -> None:
    """What a process becomes later, and who inherits its socket, changes nothing."""
    with naru.listen(f"{kind}://{lobby}/s") as listener:
        with Child.run(drop_rights_later, f"{kind}://{lobby}/s") as child:
            with listener.accept(timeout_s=5.0) as channel:
                assert channel.receive(timeout_s=5.0) == b"as whom?"
                assert channel.peer == (child.pid, 0, 0)
                child.tell("enough")


def test_97_peers_of_a_pair() -> None:
    for kind in KINDS:
        ours, theirs = naru.pair(kind)
        with ours, theirs:
            assert ours.peer == theirs.peer == (os.getpid(), os.geteuid(), os.getegid())


# ---- 98: silence ----


@pytest.fixture(params=["unix", "shm", "tcp"])
def listening(request: pytest.FixtureRequest, runtime: str) -> Iterator[tuple[str, Any]]:
    """A listener that gives strangers 0.3 s, and how a raw client reaches it."""
    address = "tcp://127.0.0.1:0" if request.param == "tcp" else f"{request.param}://{runtime}/s"
    with naru.listen(f"{address}?handshake_timeout_s=0.3") as listener:
        yield request.param, listener


def reach(kind: str, listener: Any) -> socket.socket:
    if kind == "tcp":
        return socket.create_connection(("127.0.0.1", listener.address.port), timeout=10.0)
    return connected(listener.address.path, KINDS[kind], 10.0)


def drip(sock: socket.socket, stop: threading.Event) -> None:
    """A byte now and then: never silent, never done."""
    with contextlib.suppress(OSError):
        for byte in hello() * 10:
            if stop.wait(0.1):
                return
            sock.send(bytes([byte]))


def test_98_silent_clients_delay_nobody_and_are_dropped(listening: tuple[str, Any]) -> None:
    kind, listener = listening
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(reach(kind, listener)) for _ in range(10)]
        dripping = silent[0]
        thread = threading.Thread(target=drip, args=(dripping, stop))
        thread.start()
        with Victim(_connect_and_send, str(listener.address)):
            with listener.accept(timeout_s=10.0) as channel:
                assert channel.receive(timeout_s=10.0) == b"from our own user"
        with pytest.raises(naru.TimedOutError):
            listener.accept(timeout_s=0.5)
        for sock in silent:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(64) == b"", "hung up"
        assert listener.strangers == 10
        stop.set()
        thread.join()


def test_98_a_receiver_that_waits_drops_them_too(runtime: str) -> None:
    address = f"unix://{runtime}/s?handshake_timeout_s=0.2"
    with naru.receiver(address) as receiver:
        with connected(f"{runtime}/s", socket.SOCK_STREAM) as sock:
            with pytest.raises(naru.TimedOutError):
                receiver.receive(timeout_s=0.6)
            assert sock.recv(64) == b""


def test_98_more_silent_clients_than_descriptors(runtime: str) -> None:
    """The door closes for a moment, does not spin, and opens again."""

    def serve(events: Events, address: str) -> str:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        with naru.listen(address) as listener:
            events.tell("listening")
            with listener.accept(timeout_s=10.0) as channel:
                return channel.receive(timeout_s=5.0).decode()

    address = f"unix://{runtime}/s?handshake_timeout_s=0.2"
    with Victim(serve, address, timeout_s=12.0) as victim, contextlib.ExitStack() as stack:
        victim.expect("listening")
        for _ in range(80):
            stack.enter_context(connected(f"{runtime}/s", socket.SOCK_STREAM))
        with naru.connect(address, timeout_s=10.0) as channel:
            channel.send(b"served all the same")
            outcome = victim.outcome()
    assert outcome.value == "served all the same"
    assert outcome.leaked == []


# ---- 98: nonsense ----

VALID = (hello(CHANNEL), hello(SENDER))
noise = some.one_of(
    some.binary(max_size=64),
    some.builds(
        lambda magic, version, kind, limit, extra, tail: (
            struct.pack("=4sHHII", magic, version, kind, limit, extra) + tail
        ),
        some.sampled_from([b"NARU", b"URAN", b"\0\0\0\0"]),
        some.sampled_from([0, 1, 2, 65535]),
        some.integers(0, 65535),
        some.integers(0, 2**32 - 1),
        some.integers(0, 2**32 - 1),
        some.binary(max_size=8),
    ),
)


def is_valid(data: bytes, kind: str) -> bool:
    """What a listener may take for a client of its own."""
    if kind == "shm" and len(data) != 16:
        return False
    _, version, said, limit, _ = struct.unpack("=4sHHII", data[:16].ljust(16, b"\0"))
    return (
        data[:4] == b"NARU" and len(data) >= 16 and version == 1 and said == CHANNEL and limit > 0
    )


@pytest.mark.watchdog(seconds=300 if SOAK else 60)
@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=2000 if SOAK else 100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
@example(b"\x80\x04\x95")
@example(hello(version=2))
@example(hello(magic=b"URAN"))
@example(hello() + b"x")
@given(data=noise)
def test_98_garbage_instead_of_a_hello(runtime: str, kind: str, data: bytes) -> None:
    """Refused, and the next one is served; only a hello is a hello."""
    with naru.listen(f"{kind}://{runtime}/s?capacity_bytes=4096" if kind == "shm" else
                     f"{kind}://{runtime}/s") as listener:  # fmt: skip
        with connected(f"{runtime}/s", KINDS[kind]) as sock:
            if data:
                sock.send(data)
            if not data or len(data) < 16:
                sock.shutdown(socket.SHUT_WR)
            try:
                listener.accept(timeout_s=0).close()
                let_in = True
            except naru.TimedOutError:
                let_in = False
        assert let_in == is_valid(data, kind)
        assert listener.strangers == (not let_in)
        with connected(f"{runtime}/s", KINDS[kind]) as sock:
            sock.send(hello())
            listener.accept(timeout_s=5.0).close()


def visit_often(address: str) -> None:
    naru.connect(address, timeout_s=1.0).close()


def test_98_garbage_instead_of_an_answer(runtime: str) -> None:
    """The client's side of it."""
    dice = random.Random(98)
    times = 300 if SOAK else 60
    for kind in KINDS:
        with RawServer(f"{runtime}/{kind}", KINDS[kind]) as server:
            address = f"{kind}://{runtime}/{kind}"
            with Victim(visit_often, address, times=times) as victim:
                for _ in range(times):
                    server.accept()
                    # on a stream fewer bytes and a hang-up may be a server on its way out
                    garbage = dice.randbytes(dice.choice([16, 17, 40] + [1, 15] * (kind == "shm")))
                    if dice.random() < 0.5:
                        garbage = b"NARU" + garbage
                    server.answer_with([0] * dice.choice([0, 0, 5]), garbage)
                    server.close_lifeline()
                    outcome = victim.outcome()
                    assert outcome.error is not None
                    assert outcome.leaked == []


# ---- 98: pickles ----


class Marker:
    """Unpickled, it leaves a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_98_nothing_is_ever_unpickled(runtime: str) -> None:
    """A pickle is bytes like any other: as a hello, as a message, beside a descriptor."""
    marker = f"{runtime}/unpickled"
    evil = [pickle.dumps(Marker(marker), protocol) for protocol in range(6)]
    for kind in KINDS:
        with naru.listen(f"{kind}://{runtime}/s") as listener:
            for data in evil:
                with connected(f"{runtime}/s", KINDS[kind]) as sock:
                    sock.send(data)
                    sock.shutdown(socket.SHUT_WR)
                    with pytest.raises(naru.TimedOutError):
                        listener.accept(timeout_s=0)
        ours, theirs = naru.pair(kind)
        with ours, theirs:
            for data in evil:
                ours.send(data)
                ours.send_fds(data, [0])
                ours.send(data)
                assert theirs.receive(timeout_s=1.0) == data
                message, fds = theirs.receive_fds(timeout_s=1.0)
                assert message == data
                os.close(fds[0])
                with theirs.lease(timeout_s=1.0) as view:
                    assert view == data
    assert not os.path.exists(marker)
    pickle.loads(evil[2])
    os.rmdir(marker)  # it would have worked


WITHOUT_PICKLE = """
import sys, threading
import naru
with naru.listen(sys.argv[1]) as listener:
    made = []
    thread = threading.Thread(target=lambda: made.append(naru.connect(sys.argv[1])))
    thread.start()
    with listener.accept(timeout_s=10) as channel:
        thread.join()
        with made[0] as client:
            client.send(b"x")
            client.send_fds(b"y", [0])
            channel.receive_many(1)
            channel.receive_fds()
assert "pickle" not in sys.modules, "who needs it?"
"""


@pytest.mark.parametrize("kind", KINDS)
def test_98_the_unpickler_is_not_even_loaded(runtime: str, kind: str) -> None:
    with Child.script(WITHOUT_PICKLE, f"{kind}://{runtime}/s") as child:
        child.check()


def test_98_accept_is_not_blocked_for_good(runtime: str) -> None:
    """accept() without a time: a silent one comes first, then a good one."""
    with naru.listen(f"unix://{runtime}/s?handshake_timeout_s=0.2") as listener:
        accepted: list[Any] = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept()))
        thread.start()
        with connected(f"{runtime}/s", socket.SOCK_STREAM):
            until(lambda: listener.strangers == 1, "the silent one was dropped")
            with connected(f"{runtime}/s", socket.SOCK_STREAM) as sock:
                sock.send(hello())
                thread.join()
        accepted[0].close()
