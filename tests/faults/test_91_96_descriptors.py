"""91-94, 96: descriptors that travel: too many, too few, no number free, split streams, exec.

A descriptor belongs to its message or to nobody: what is not announced, not asked for or not wanted
is closed. (What a hostile peer does with them in a ring is in test_37_hostile_ring.py.)
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shm_helpers import BYE, CHANNEL, FDS_SHIFT, HEARTBEAT, connected, hello, send_with_fds
from victims import Victim, run_victim, until

import naru
from naru.testing.children import unprivileged
from naru.testing.descriptors import limited_descriptors, open_descriptors

KINDS = ["unix", "shm"]
BAD = (naru.ProtocolError, naru.CorruptedError)


def record(payload: bytes, fds: int = 0, flags: int = 0) -> bytes:
    return struct.pack("=II", len(payload), flags | fds << FDS_SHIFT) + payload


@contextlib.contextmanager
def numbered(count: int) -> Iterator[list[int]]:
    """Descriptors of files that say their number."""
    fds = []
    for number in range(count):
        fd = os.memfd_create("numbered", os.MFD_CLOEXEC)
        fds.append(fd)
        os.write(fd, b"%d" % number)
    yield fds
    for fd in fds:
        os.close(fd)


def number_of(fd: int) -> int:
    """What numbered() wrote there; closes it."""
    try:
        return int(os.pread(fd, 20, 0))
    finally:
        os.close(fd)


# ---- 91: a sender that does not keep to the rules ----

Piece = tuple[bytes, int]  # one sendmsg: bytes, how many descriptors


def _pieces(*pieces: Piece) -> tuple[Piece, ...]:
    return pieces


STREAMS: dict[str, tuple[tuple[Piece, ...], int, tuple[type[naru.NaruError], ...]]] = {
    "1 where 1 is due": (_pieces((record(b"a", 1), 1)), 1, (naru.TimedOutError,)),
    "253 where 253 are due": (_pieces((record(b"a", 253), 253)), 1, (naru.TimedOutError,)),
    "2 where 1 is due": (_pieces((record(b"a", 1), 2)), 0, BAD),
    "3 where 1 is due": (_pieces((record(b"a", 1), 3)), 0, BAD),
    "253 where 1 is due": (_pieces((record(b"a", 1), 253)), 0, BAD),
    "1 where 2 are due": (_pieces((record(b"a", 2), 1)), 0, BAD),
    "0 where 1 is due": (_pieces((record(b"a", 1), 0)), 0, BAD),
    "254 announced": (_pieces((record(b"a", 254), 253)), 0, BAD),
    "unannounced, then a message": (_pieces((record(b"a"), 1), (record(b"b"), 0)), 1, BAD),
    "unannounced, then announced": (_pieces((record(b"a"), 1), (record(b"b", 1), 1)), 1, BAD),
    "a second set in the payload": (
        _pieces((record(b"ab", 1)[:9], 1), (b"b", 1), (record(b"c"), 0)), 1, BAD,
    ),
    "a second set in the header": (
        _pieces((record(b"a", 1)[:4], 1), (record(b"a", 1)[4:], 1), (record(b"b"), 0)), 1, BAD,
    ),
    "a set for every byte": (
        _pieces(*[(bytes([byte]), 1) for byte in record(b"0123456789", 1)]), 0, BAD,
    ),
    "on a heartbeat": (_pieces((record(b"", 0, HEARTBEAT), 1), (record(b"a"), 0)), 0, BAD),
    "announced by a heartbeat": (_pieces((record(b"", 1, HEARTBEAT), 1)), 0, BAD),
    "announced by a goodbye": (_pieces((record(b"", 1, BYE), 1)), 0, BAD),
    "with the goodbye": (_pieces((record(b"", 0, BYE), 253)), 0, (naru.PeerGoneError,)),
    "in the middle of a large payload": (
        _pieces((record(bytes(400_000))[:1000], 0), (bytes(399_008), 3), (record(b"a"), 0)), 1, BAD,
    ),
    "none for a large message": (_pieces((record(bytes(400_000), 1), 0)), 0, BAD),
    "two for a large message": (_pieces((record(bytes(400_000), 1), 2)), 0, BAD),
    "a thousand unannounced": (_pieces(*[(record(b"a"), 1)] * 1000), 1, BAD),
}  # fmt: skip


def accept_and_count(address: str) -> list[str]:
    """How many messages came, and how it ended."""
    with naru.listen(address) as listener, listener.accept(timeout_s=4.0) as channel:
        count = 0
        try:
            while True:
                _, fds = channel.receive_fds(timeout_s=0.2)
                for fd in fds:
                    os.close(fd)
                count += 1
        except naru.NaruError as error:
            return [str(count), type(error).__name__]


def _speak(sock: socket.socket, pieces: tuple[Piece, ...]) -> None:
    """Says hello and then this, until the other side has had enough."""
    sock.send(hello(CHANNEL))
    sock.recv(16, socket.MSG_WAITALL)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for data, count in pieces:
            while data:
                sent = send_with_fds(sock, data, [0] * count)
                data, count = data[sent:], 0


def test_91_streams_that_break_the_rules(runtime: str) -> None:
    address = f"unix://{runtime}/s?linger_s=0"
    with Victim(accept_and_count, address, times=len(STREAMS)) as victim:
        for lie, (pieces, messages, leaves) in STREAMS.items():
            print(lie)  # the last one printed is the one that was too much
            with connected(f"{runtime}/s", socket.SOCK_STREAM) as sock:
                _speak(sock, pieces)
                outcome = victim.outcome()
            assert outcome.error is None, outcome.text
            count, error = outcome.value
            assert int(count) == messages
            assert getattr(naru, error) in leaves
            assert outcome.leaked == []


def test_91_a_receiver_goes_on_with_the_others(runtime: str) -> None:
    def gather(address: str) -> list[bytes]:
        came: list[bytes] = []
        with naru.receiver(address) as receiver:

            def is_complete() -> bool:
                message = receiver.try_receive()
                came.extend([message] if message is not None else [])
                return bool(came) and receiver.statistics().peers_lost == 1

            until(is_complete, "a good message, and the end of a bad sender", 4.0)
        return [message.decode() for message in came]

    with Victim(gather, f"unix://{runtime}/s") as victim:
        with connected(f"{runtime}/s", socket.SOCK_STREAM) as sock:
            sock.send(hello(2))
            sock.recv(16, socket.MSG_WAITALL)
            send_with_fds(sock, record(b"a", 1), [0, 0, 0])
            with naru.sender(f"unix://{runtime}/s") as sender:
                sender.send(b"from a good sender")
                outcome = victim.outcome()
    assert outcome.value == ["from a good sender"]
    assert outcome.leaked == []


def test_91_lines_have_no_descriptors(runtime: str) -> None:
    """framing=lines: no line can call them its own, so they are closed at once, and counted."""

    def read(address: str) -> list[Any]:
        with naru.listen(address) as listener, listener.accept(timeout_s=4.0) as channel:
            lines = [channel.receive_fds(timeout_s=2.0) for _ in range(3)]
            return [[[data.decode(), fds] for data, fds in lines], channel.statistics().fds_dropped]

    with Victim(read, f"unix://{runtime}/s?framing=lines") as victim:
        with connected(f"{runtime}/s", socket.SOCK_STREAM) as sock:
            for line in (b"one\n", b"two\n", b"three\n"):
                send_with_fds(sock, line, [0, 0])
            outcome = victim.outcome()
    assert outcome.value == [[["one", []], ["two", []], ["three", []]], 6]
    assert outcome.leaked == []


def test_91_fd_without_data(runtime: str) -> None:
    """A stream delivers none without a byte (unix(7)); a naru sender refuses to try."""
    for kind in KINDS:
        ours, theirs = naru.pair(kind)
        with ours, theirs:
            with pytest.raises(ValueError, match="at least 1 byte"):
                ours.send_fds(b"", [0])
            with pytest.raises(naru.LimitError):
                ours.send_fds(b"x", [])
            assert theirs.try_receive() is None


# ---- 92: no number free ----

SIZES = {"small": 10, "large": 400_000}  # in a stream's buffer and ring, and beyond both


def at_the_limit(kind: str, free: int, size: int, verb: str) -> list[str]:
    """A, B with 3 descriptors, C, D with 1: B comes when only `free` numbers are left."""
    events: list[str] = []
    ours, theirs = naru.pair(kind + (":?capacity_bytes=1MiB" if kind == "shm" else ""))
    verbs: dict[str, Callable[[], list[bytes]]] = {
        "receive_fds": lambda: [_and_close(*theirs.receive_fds(timeout_s=2.0))],
        "receive": lambda: [theirs.receive(timeout_s=2.0)],
        "receive_many": lambda: theirs.receive_many(8, timeout_s=2.0),
        "lease": lambda: _leased(theirs.lease(timeout_s=2.0)),
        "lease_many": lambda: _leased_many(theirs.lease_many(8, timeout_s=2.0)),
    }

    def send() -> None:
        ours.send(b"A" * size)
        ours.send_fds(b"B" * size, [0, 0, 0])
        ours.send(b"C" * size)
        ours.send_fds(b"D" * size, [0])

    with ours, theirs, limited_descriptors(free):
        thread = threading.Thread(target=send)
        thread.start()
        if size < 1000:
            thread.join()  # all of it is there: the first look takes as much as it can
        while len(events) < 4:
            try:
                messages = verbs[verb]()
            except naru.LimitError:
                events.append("limit")
            else:
                assert all(message == message[:1] * size for message in messages)
                events += [message[:1].decode() for message in messages]
        thread.join()
        ours.send(b"E" * 10)
        assert verbs[verb]() == [b"E" * 10]
    return events


def _and_close(message: bytes, fds: list[int]) -> bytes:
    for fd in fds:
        os.close(fd)
    return message


def _leased(lease: Any) -> list[bytes]:
    with lease as view:
        return [bytes(view)]


def _leased_many(lease: Any) -> list[bytes]:
    with lease as batch:
        return [bytes(view) for view in batch]


@pytest.mark.parametrize("verb", ["receive_fds", "receive", "receive_many", "lease", "lease_many"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_92_no_number_is_free(kind: str, size: str, verb: str) -> None:
    """The message is lost with its descriptors, and said to be; those around it are not."""
    expected = {
        0: ["A", "limit", "C", "limit"],
        1: ["A", "limit", "C", "D"],
        2: ["A", "limit", "C", "D"],
        3: ["A", "B", "C", "D"],
    }
    for free in expected:
        outcome = run_victim(at_the_limit, kind, free, SIZES[size], verb)
        assert outcome.error is None, outcome.text
        assert outcome.value == expected[free], f"{free} free"
        assert outcome.leaked == []


def raw_at_the_limit(address: str) -> list[Any]:
    """No records: the bytes are not lost, only what came with them."""
    with naru.listen(address) as listener, listener.accept(timeout_s=4.0) as channel:
        with limited_descriptors(1):
            try:
                channel.receive_fds(timeout_s=2.0)
            except naru.LimitError:
                data, fds = channel.receive_fds(timeout_s=2.0)
                return [data.decode(), fds]
    return []


def test_92_raw_bytes_are_not_lost(runtime: str) -> None:
    with Victim(raw_at_the_limit, f"unix://{runtime}/s?framing=raw") as victim:
        with connected(f"{runtime}/s", socket.SOCK_STREAM) as sock:
            send_with_fds(sock, b"raw", [0, 0, 0])
            outcome = victim.outcome()
    assert outcome.value == ["raw", []]
    assert outcome.leaked == []


def handshake_at_the_limit(free: int, address: str) -> None:
    with limited_descriptors(free):
        naru.connect(address, timeout_s=2.0).close()


def test_92_the_five_of_a_shm_connection(runtime: str) -> None:
    """A client without room for them is told so, and the server goes on."""
    with naru.listen(f"shm://{runtime}/s") as listener:
        for free in range(8):
            with Victim(handshake_at_the_limit, free, f"shm://{runtime}/s") as victim:
                with contextlib.suppress(naru.TimedOutError):
                    with listener.accept(timeout_s=0.1 if free == 0 else 4.0) as channel:
                        with pytest.raises(naru.PeerGoneError):
                            channel.receive(timeout_s=4.0)
                outcome = victim.outcome()
            assert outcome.error is (naru.LimitError if free < 6 else None), (free, outcome)
            assert outcome.leaked == []


# ---- 93: the sender's limits ----


@pytest.mark.parametrize("kind", KINDS)
def test_93_253_and_no_more(kind: str) -> None:
    ours, theirs = naru.pair(kind)
    with ours, theirs, numbered(254) as fds:
        with pytest.raises(naru.LimitError, match="253"):
            ours.send_fds(b"too many", fds)
        assert theirs.try_receive() is None
        ours.send_fds(b"all", fds[:253])
        message, came = theirs.receive_fds(timeout_s=2.0)
        assert message == b"all"
        assert [number_of(fd) for fd in came] == list(range(253))
        ours.send_fds(b"some", fds[:10])
        _, came = theirs.receive_fds(limit=3, timeout_s=2.0)
        assert [number_of(fd) for fd in came] == [0, 1, 2]
        assert theirs.statistics().fds_dropped == 7


@pytest.mark.parametrize("kind", KINDS)
def test_93_what_is_not_open_is_not_sent(kind: str) -> None:
    """The message is the caller's to mend: this end is as good as before."""
    ours, theirs = naru.pair(kind)
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    with ours, theirs:
        for wrong in (fd, -1, 2**31 - 1):
            with pytest.raises(ValueError, match="open descriptor"):
                ours.send_fds(b"x", [0, wrong])
        assert theirs.try_receive() is None
        ours.send_fds(b"y", [0])
        message, came = theirs.receive_fds(timeout_s=2.0)
        assert message == b"y"
        os.close(came[0])


def too_many_in_flight(kind: str) -> list[Any]:
    """RLIMIT_NOFILE bounds those in flight of a user, too (unix(7): ETOOMANYREFS)."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    ours, theirs = naru.pair(kind)
    story: list[Any] = []
    with ours, theirs:
        for _ in range(2):
            sent = 0
            try:
                while sent < 200:
                    ours.send_fds(b"%d" % sent, [0], timeout_s=1.0)
                    sent += 1
            except naru.LimitError as error:
                story.append(error.errno)
            for number in range(sent):
                message, came = theirs.receive_fds(timeout_s=1.0)
                assert message == b"%d" % number
                os.close(came[0])
            assert theirs.try_receive() is None
            story.append(sent)
    return story


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("kind", KINDS)
def test_93_too_many_in_flight(kind: str) -> None:
    story = unprivileged(too_many_in_flight, kind)
    assert story[0] == story[2] == 109, "ETOOMANYREFS"
    assert story[1] >= 60
    assert story[3] >= 60, "and after they were received, as many again"


# ---- 94: which message is theirs ----


def _accepted(listener: Any, path: str) -> tuple[socket.socket, Any]:
    sock = connected(path, socket.SOCK_STREAM)
    sock.send(hello(CHANNEL))
    channel = listener.accept(timeout_s=4.0)
    sock.recv(16, socket.MSG_WAITALL)
    return sock, channel


@pytest.mark.parametrize("reads", ["at once", "between"])
def test_94_every_split_of_a_stream(runtime: str, reads: str) -> None:
    """A, B with a descriptor, C; cut at every two places, read after each piece or at the end."""
    before, of_b, after = record(b"AAAA"), record(b"BBBB", 1), record(b"CCCC")
    stream = before + of_b + after
    with naru.listen(f"unix://{runtime}/s") as listener, numbered(1) as fds:
        sock, channel = _accepted(listener, f"{runtime}/s")
        with sock, channel:
            for cuts in itertools.combinations(range(1, len(stream)), 2):
                came: list[tuple[bytes, int]] = []
                edges = sorted({0, len(before), *cuts, len(stream)})
                for start, end in itertools.pairwise(edges):
                    send_with_fds(sock, stream[start:end], fds if start == len(before) else [])
                    if reads == "between":
                        _take_what_is_there(channel, came)
                _take_what_is_there(channel, came)
                assert came == [(b"AAAA", 0), (b"BBBB", 1), (b"CCCC", 0)], cuts


def _take_what_is_there(channel: Any, came: list[tuple[bytes, int]]) -> None:
    while True:
        try:
            message, fds = channel.receive_fds(timeout_s=0)
        except naru.TimedOutError:
            return
        for fd in fds:
            os.close(fd)
        came.append((message, len(fds)))


def test_94_one_write_of_several_records(runtime: str) -> None:
    """The kernel knows of one set for the whole write; the announcement says whose it is."""
    with naru.listen(f"unix://{runtime}/s") as listener, numbered(2) as fds:
        sock, channel = _accepted(listener, f"{runtime}/s")
        with sock, channel:
            send_with_fds(sock, record(b"A") + record(b"B", 2) + record(b"C"), fds)
            came: list[tuple[bytes, int]] = []
            _take_what_is_there(channel, came)
            assert came == [(b"A", 0), (b"B", 2), (b"C", 0)]


@pytest.mark.parametrize("size", [10, 3000, 300_000])
@pytest.mark.parametrize("kind", KINDS)
def test_94_each_message_has_its_own(kind: str, size: int) -> None:
    """Messages with 0, 1, 2, 3 descriptors in turn; taken in batches, singly, or not asked for."""
    ours, theirs = naru.pair(kind)
    rounds = 12 if size > 10_000 else 60
    with ours, theirs, numbered(rounds * 4 + 3) as fds:

        def send() -> None:
            for number in range(rounds * 4):
                message = b"%08d" % number + bytes(size - 8)
                if number % 4:
                    ours.send_fds(message, fds[number : number + number % 4])
                else:
                    ours.send(message)

        thread = threading.Thread(target=send)
        thread.start()
        dropped = number = 0
        while number < rounds * 4:
            if number % 7 == 3:
                messages = theirs.receive_many(5, timeout_s=5.0)
                dropped += sum((number + i) % 4 for i in range(len(messages)))
            else:
                message, came = theirs.receive_fds(timeout_s=5.0)
                messages = [message]
                assert [number_of(fd) for fd in came] == [number + i for i in range(number % 4)]
            for message in messages:
                assert message == b"%08d" % number + bytes(size - 8)
                number += 1
        thread.join()
        assert theirs.statistics().fds_dropped == dropped


@pytest.mark.parametrize("kind", KINDS)
def test_94_a_message_that_waits_keeps_its_own(kind: str) -> None:
    """Too large for a batch or for the caller's buffer: given by the next verb, descriptors too."""
    ours, theirs = naru.pair(f"{kind}:" + ("?capacity_bytes=64KiB" if kind == "shm" else ""))
    large = bytes(300_000)
    with ours, theirs, numbered(6) as fds:

        def send() -> None:
            for number in range(3):
                ours.send(b"before")
                ours.send_fds(large, fds[number * 2 : number * 2 + 2])
            ours.send_fds(b"last", fds[:1])

        thread = threading.Thread(target=send)
        thread.start()
        with theirs.lease_many(8, timeout_s=5.0) as batch:
            assert bytes(batch[0]) == b"before"
        message, came = theirs.receive_fds(timeout_s=5.0)
        assert (message, [number_of(fd) for fd in came]) == (large, [0, 1])
        assert theirs.receive(timeout_s=5.0) == b"before"
        with pytest.raises(naru.TooBigError):
            theirs.receive_into(bytearray(10), timeout_s=5.0)
        message, came = theirs.receive_fds(timeout_s=5.0)
        assert (message, [number_of(fd) for fd in came]) == (large, [2, 3])
        assert theirs.receive(timeout_s=5.0) == b"before"
        with theirs.lease_many(8, timeout_s=5.0) as batch:
            assert bytes(batch[0]) == large
        message, came = theirs.receive_fds(timeout_s=5.0)
        assert (message, [number_of(fd) for fd in came]) == (b"last", [0])
        thread.join()
        assert theirs.statistics().fds_dropped == 2


# ---- 96: exec ----


def test_96_nothing_is_inherited_by_another_program(runtime: str) -> None:
    """Every descriptor of naru's is close-on-exec: those that it opened, and those that it received."""
    before = open_descriptors()
    with contextlib.ExitStack() as stack:
        for kind in ("shm", "unix", "pipe", "tcp", "udp"):
            for end in naru.pair(kind):
                stack.enter_context(end)
        for address in (
            f"shm://{runtime}/s", f"unix://{runtime}/u", "unix:@naru-exec", "tcp://127.0.0.1:0",
            "udp://127.0.0.1:0",
        ):  # fmt: skip
            listener = stack.enter_context(naru.listen(address))
            thread = threading.Thread(
                target=lambda to: stack.enter_context(naru.connect(to)), args=(listener.address,)
            )
            thread.start()
            stack.enter_context(listener.accept(timeout_s=5.0))
            thread.join()
        for address in (f"fifo://{runtime}/f", "mq:///naru-exec", "shm://exec"):
            stack.enter_context(naru.receiver(address))
        for kind in KINDS:
            ours, theirs = naru.pair(kind)
            stack.enter_context(ours)
            stack.enter_context(theirs)
            ours.send_fds(b"x", [0, 0])
            for fd in theirs.receive_fds(timeout_s=2.0)[1]:
                stack.callback(os.close, fd)
        opened = set(open_descriptors()) - set(before)
        assert len(opened) > 50
        assert [fd for fd in opened if not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC] == []
        listing = subprocess.run(
            [sys.executable, "-c", "import os; print(*os.listdir('/proc/self/fd'))"],
            close_fds=False, capture_output=True, text=True, check=True,
        )  # fmt: skip
        inherited = {int(fd) for fd in listing.stdout.split()} & opened
        assert len(inherited) <= 1, "the listing's own"
