"""Request and reply between processes and threads: every request is answered once, with its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import naru
from naru.testing.faults import Child, Events

TRANSPORTS = ("shm", "unix", "tcp")


@pytest.fixture(params=TRANSPORTS)
def address(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return {
        "shm": f"shm://requests-{os.getpid()}",
        "unix": f"unix:@requests-{os.getpid()}",
        "tcp": "tcp://127.0.0.1:0",
    }[request.param]


@contextlib.contextmanager
def serving(
    address: str, handler: Callable[[Any], object], **options: Any
) -> Iterator[naru.Server]:
    """A server in a thread of this process."""
    with naru.serve(address, handler, **options) as server:
        yield server.start()


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest() + len(data).to_bytes(4, "little")


def wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.001)


# ---- the ledger: many clients, many in flight, sizes from nothing to fragments ----


def serve_digests(events: Events, address: str, threads: int) -> None:
    with naru.serve(address, digest, threads=threads) as server:
        events.tell("ready", address=str(server.address))
        server.start()
        events.expect("drain", 100)
        assert server.drain(timeout_s=10)
        events.tell(
            "books", requests=server.statistics().requests, replies=server.statistics().replies
        )


def ask_much(events: Events, address: str, seed: int, count: int) -> None:
    """Two threads with windows of their own, and one that asks and waits."""
    errors: list[BaseException] = []
    with naru.client(address) as client:

        def with_window(seed: int) -> None:
            try:
                chance = random.Random(seed)
                under_way: list[tuple[bytes, naru.PendingReply]] = []
                for i in range(count):
                    data = chance.randbytes(
                        chance.choice((0, 1, 64, 1000, 40_000)) if i % 50 else 2_000_000
                    )
                    under_way.append((data, client.submit(data)))
                    if len(under_way) >= chance.randint(1, 12):
                        sent, pending = under_way.pop(chance.randrange(len(under_way)))
                        assert pending.result(timeout_s=30) == digest(sent)
                for sent, pending in under_way:
                    assert pending.result(timeout_s=30) == digest(sent)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=with_window, args=(seed * 10 + n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for i in range(count):
            data = b"%d of %d" % (i, seed)
            assert client.request(data, timeout_s=30) == digest(data)
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        books = client.statistics()
        assert (books.open, books.late, books.timed_out) == (0, 0, 0)
        events.tell("done", requests=books.requests, replies=books.replies)


@pytest.mark.watchdog(120)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_request_is_answered_once_with_its_own_answer(address: str, threads: int) -> None:
    clients, count = 3, 120
    with Child.run(serve_digests, address, threads) as server, contextlib.ExitStack() as stack:
        at = server.expect("ready")["address"]
        children = [
            stack.enter_context(Child.run(ask_much, at, seed, count)) for seed in range(clients)
        ]
        done = [child.expect("done", 60) for child in children]
        for child in children:
            child.check()
        assert [one["requests"] for one in done] == [3 * count] * clients
        assert [one["replies"] for one in done] == [3 * count] * clients
        server.tell("drain")
        assert server.expect("books") == {
            "requests": 3 * count * clients,
            "replies": 3 * count * clients,
        }
        server.check()


# ---- the verbs ----


def test_request_many_keeps_the_order(address: str) -> None:
    with (
        serving(address, bytes.upper, most_open=8) as server,
        naru.client(server.address) as client,
    ):
        assert client.request_many([]) == []
        words = [b"word %d" % i for i in range(300)]
        assert client.request_many(words, timeout_s=20) == [word.upper() for word in words]


def test_any_buffer_goes_in_and_comes_out(address: str) -> None:
    def handler(data: bytes) -> object:
        return {b"1": bytearray(b"one"), b"2": memoryview(b"two"), b"": b""}[data]

    with serving(address, handler) as server, naru.client(server.address) as client:
        assert client.request(bytearray(b"1")) == b"one"
        assert client.request(memoryview(b"2")) == b"two"
        assert client.request(b"") == b""


def test_pending_replies_in_any_order(address: str) -> None:
    with serving(address, bytes.title) as server, naru.client(server.address) as client:
        pending = [client.submit(b"a%d" % i) for i in range(20)]
        for i in reversed(range(20)):
            assert pending[i].result(timeout_s=10) == b"A%d" % i
        assert pending[3].result() == b"A3"  # may be asked again
        assert all(one.done() for one in pending)


def test_done_looks_and_does_not_wait(address: str) -> None:
    go_on = threading.Event()

    def handler(data: bytes) -> bytes:
        assert go_on.wait(10)
        return data

    with serving(address, handler) as server, naru.client(server.address) as client:
        pending = client.submit(b"x")
        assert not pending.done()
        with pytest.raises(naru.TimedOutError):
            pending.result(timeout_s=0)
        go_on.set()
        wait_until(pending.done)
        assert pending.result(timeout_s=0) == b"x"


def test_a_handler_gets_the_whole_request(tmp_path: Any) -> None:
    def handler(request: naru.Request) -> bytes:
        assert request.peer is not None
        assert request.fds == ()
        assert not request.is_abandoned
        return f"{request.peer.pid} {request.address} {request.data.decode()}".encode()

    at = f"unix://{tmp_path}/whole.sock"
    with serving(at, handler, pass_request=True) as server, naru.client(at) as client:
        assert client.request(b"hi") == f"{os.getpid()} {server.address} hi".encode()


@pytest.mark.parametrize("transport", ["shm", "unix"])
def test_open_files_go_both_ways(transport: str, tmp_path: Any) -> None:
    at = f"shm://fds-{os.getpid()}" if transport == "shm" else f"unix:@fds-{os.getpid()}"

    def handler(request: naru.Request) -> object:
        if request.data == b"keep":
            (fd,) = request.take_fds()
            with open(fd, "rb") as file:
                return file.read()
        if request.data == b"make":
            with open(tmp_path / "made", "w+b") as file:
                file.write(b"by the server")
                return naru.Reply(b"here", [file])
        return b"%d" % len(request.fds)

    (tmp_path / "given").write_bytes(b"from the client")
    with serving(at, handler, pass_request=True), naru.client(at) as client:
        with open(tmp_path / "given", "rb") as file:
            assert client.request(b"keep", fds=[file]) == b"from the client"
            assert client.request(b"count", fds=[file, file.fileno()]) == b"2"
        reply, (fd,) = client.request_fds(b"make", timeout_s=10)
        with open(fd, "rb") as file:
            file.seek(0)
            assert (reply, file.read()) == (b"here", b"by the server")
        assert client.request(b"make") == b"here"  # its descriptor is closed, unasked for
        assert client.request_fds(b"count") == (b"0", [])


def test_open_files_do_not_travel_over_tcp(tmp_path: Any) -> None:
    (tmp_path / "file").touch()

    def handler(data: bytes) -> object:
        with open(tmp_path / "file", "rb") as file:
            return naru.Reply(data, [file])

    with (
        serving("tcp://127.0.0.1:0", handler) as server,
        naru.client(server.address) as client,
        open(tmp_path / "file", "rb") as file,
    ):
        with pytest.raises(naru.UnsupportedError):
            client.request(b"x", fds=[file])
        with pytest.raises(naru.RemoteError, match="UnsupportedError"):
            client.request(b"x")
        assert client.statistics().open == 0


# ---- handlers ----


class OwnError(Exception):
    pass


def test_what_a_handler_raises_is_carried_over(address: str) -> None:
    def handler(data: bytes) -> object:
        if data == b"own":
            raise OwnError("of its own")
        return {b"int": 3, b"none": None, b"str": "text"}.get(data, data)

    with serving(address, handler) as server, naru.client(server.address) as client:
        with pytest.raises(naru.RemoteError, match="OwnError: of its own") as caught:
            client.request(b"own")
        assert caught.value.type_name.endswith("OwnError")
        assert caught.value.remote_message == "of its own"
        assert 'raise OwnError("of its own")' in caught.value.remote_traceback
        for wrong, kind in ((b"int", "int"), (b"none", "NoneType"), (b"str", "str")):
            with pytest.raises(naru.RemoteError, match=f"the handler returned {kind}, not bytes"):
                client.request(wrong)
        assert client.request(b"fine") == b"fine"
        assert server.statistics().errors == 4
        assert client.statistics().remote_errors == 4


def test_a_slow_request_does_not_delay_other_clients(address: str) -> None:
    go_on = threading.Event()

    def handler(data: bytes) -> bytes:
        if data == b"slow":
            assert go_on.wait(10)
        return data

    with (
        serving(address, handler, threads=2) as server,
        naru.client(server.address) as slow,
        naru.client(server.address) as quick,
    ):
        pending = slow.submit(b"slow")
        for _ in range(20):
            assert quick.request(b"quick", timeout_s=10) == b"quick"
        assert slow.request(b"second", timeout_s=10) == b"second"  # of the same client, too
        assert not pending.done()
        go_on.set()
        assert pending.result(timeout_s=10) == b"slow"


def test_clients_have_their_turns(address: str) -> None:
    """One that asks much delays the others by one request each."""
    order: list[bytes] = []
    begin, begun = threading.Event(), threading.Event()

    def handler(data: bytes) -> bytes:
        begun.set()
        assert begin.wait(10)
        order.append(data)
        return b""

    with (
        serving(address, handler, threads=2, most_open=64) as server,
        naru.client(server.address) as greedy,
        naru.client(server.address) as modest,
    ):
        asked = [greedy.submit(b"greedy") for _ in range(40)]
        assert begun.wait(10)
        wait_until(lambda: server.statistics().requests == 40)
        one = modest.submit(b"modest")
        wait_until(lambda: server.statistics().requests == 41)
        begin.set()
        one.result(timeout_s=10)
        for pending in asked:
            pending.result(timeout_s=10)
        assert order.index(b"modest") < 8


# ---- timeouts ----


def test_after_a_timeout_the_connection_is_in_step(address: str) -> None:
    go_on = threading.Event()

    def handler(data: bytes) -> bytes:
        if data == b"slow":
            assert go_on.wait(10)
        return data * 2

    with serving(address, handler) as server, naru.client(server.address) as client:
        with pytest.raises(naru.TimedOutError):
            client.request(b"slow", timeout_s=0.05)
        assert client.statistics().open == 1
        go_on.set()
        for i in range(10):
            assert client.request(b"%d" % i, timeout_s=10) == b"%d" % i * 2
        books = client.statistics()
        assert (books.timed_out, books.late, books.open) == (1, 1, 0)


def test_a_cancelled_request_is_not_begun(address: str) -> None:
    go_on = threading.Event()
    begun: list[bytes] = []

    def handler(data: bytes) -> bytes:
        begun.append(data)
        assert go_on.wait(10)
        return data

    with serving(address, handler, threads=2) as server, naru.client(server.address) as client:
        first = [client.submit(b"first") for _ in range(2)]
        wait_until(lambda: len(begun) == 2)
        unwanted = client.submit(b"unwanted")
        unwanted.cancel()
        with pytest.raises(naru.ClosedError):
            unwanted.result()
        wait_until(lambda: server.statistics().cancelled == 1)
        go_on.set()
        assert [one.result(timeout_s=10) for one in first] == [b"first"] * 2
        assert client.request(b"last", timeout_s=10) == b"last"
        assert begun == [b"first", b"first", b"last"]
        assert client.statistics().late == 1


def test_as_many_are_open_as_the_server_allows(address: str) -> None:
    go_on = threading.Event()

    def handler(data: bytes) -> bytes:
        assert go_on.wait(10)
        return data

    with (
        serving(address, handler, most_open=3) as server,
        naru.client(server.address) as client,
    ):
        pending = [client.submit(b"%d" % i) for i in range(3)]
        with pytest.raises(naru.TimedOutError, match="3 requests are open"):
            client.submit(b"3", timeout_s=0.05)
        go_on.set()
        pending.append(client.submit(b"3", timeout_s=10))
        assert [one.result(timeout_s=10) for one in pending] == [b"0", b"1", b"2", b"3"]
        assert client.statistics().requests == 4


def test_much_under_way_in_both_directions_does_not_lock_up(address: str) -> None:
    """Requests and replies that do not fit: the client has to read while it sends."""
    big = bytes(400_000)
    with (
        serving(address, lambda data: data, held_bytes=1 << 20) as server,
        naru.client(server.address) as client,
    ):
        pending = [client.submit(big, timeout_s=15) for _ in range(30)]
        assert all(one.result(timeout_s=15) == big for one in pending)
        assert client.request(b"after", timeout_s=10) == b"after"


def test_several_threads_share_a_client(address: str) -> None:
    wrong: list[object] = []

    def ask(client: naru.Client, name: int) -> None:
        for i in range(200):
            data = b"%d %d" % (name, i)
            if client.request(data, timeout_s=15) != data[::-1]:
                wrong.append(data)

    with (
        serving(address, lambda data: data[::-1]) as server,
        naru.client(server.address) as client,
    ):
        threads = [threading.Thread(target=ask, args=(client, n)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert client.statistics().replies == 1000


# ---- where requests cannot go ----


@pytest.mark.parametrize(
    "address",
    ["udp://127.0.0.1:0", "mq:///requests", "unix:@r?framing=lines", "fifo:///tmp/no-such.fifo"],
)
def test_transports_without_requests_say_so(address: str) -> None:
    with pytest.raises(naru.UnsupportedError):
        naru.serve(address, bytes)
    with pytest.raises(naru.UnsupportedError):
        naru.client(address, timeout_s=0)


def test_bad_arguments_create_nothing(address: str) -> None:
    for wrong in ({"threads": 0}, {"most_open": 0}, {"most_open": 2**20 + 1}):
        with pytest.raises(ValueError, match="must be"):
            naru.serve(address, bytes, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout_s"):
        naru.client(address, timeout_s=-1)
    with pytest.raises(naru.BadAddressError):
        naru.serve("nothing", bytes)


def test_a_listener_that_does_not_answer_requests_is_told_apart(address: str) -> None:
    with naru.listen(address) as listener:
        accepted: list[naru.Channel] = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept(timeout_s=10)))
        thread.start()
        with pytest.raises(naru.TimedOutError, match=r"is it a naru\.serve"):
            naru.client(listener.address, timeout_s=0.5)
        thread.join()
        accepted[0].close()


def test_a_program_that_echoes_is_no_server_for_requests(address: str) -> None:
    def speak_first(listener: naru.Listener) -> None:
        with listener.accept(timeout_s=10) as channel:
            channel.send(b"220 welcome to something else")

    with naru.listen(address) as listener:
        thread = threading.Thread(target=speak_first, args=(listener,))
        thread.start()
        with pytest.raises(naru.ProtocolError, match=r"is it a naru\.serve"):
            naru.client(listener.address, timeout_s=10)
        thread.join()
