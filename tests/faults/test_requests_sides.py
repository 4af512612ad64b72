"""Request and reply when a side dies, stops, lies, floods or forks: nobody else is hurt, and no request
is answered twice or sent twice."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import SharedNumbers, fresh_address, run_python

import naru
from naru.requests import frames
from naru.testing.faults import Child, Events

TRANSPORTS = ("shm", "unix", "tcp")
CORPUS = Path(__file__).parents[1] / "corpus" / "request_frames"


@pytest.fixture(params=TRANSPORTS)
def address(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return fresh_address(request.param, str(tmp_path))


@contextlib.contextmanager
def serving(
    address: str, handler: Callable[[Any], object], **options: Any
) -> Iterator[naru.Server]:
    with naru.serve(address, handler, **options) as server:
        yield server.start()


def wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.001)


def echo(data: bytes) -> bytes:
    return data


# ---- the server dies ----


def serve_and_hang(events: Events, address: str, counts: SharedNumbers | None = None) -> None:
    """Says when a request is being handled, and never answers those that say hang."""

    def handler(data: bytes) -> bytes:
        if counts is not None:
            counts[0] += 1
        if data == b"hang":
            events.tell("handling")
            threading.Event().wait()
        return data

    with naru.serve(address, handler, threads=4) as server:
        events.tell("ready", address=str(server.address))
        server.serve_forever()


@pytest.mark.usefixtures("runtime")  # a killed server's name waits for who takes it over
def test_a_killed_server_is_told_to_everybody_who_waits(address: str) -> None:
    told: list[BaseException] = []

    def ask(client: naru.Client) -> None:
        try:
            client.request(b"hang")
        except naru.PeerGoneError as error:
            told.append(error)

    with Child.run(serve_and_hang, address) as server:
        with naru.client(server.expect("ready")["address"]) as client:
            threads = [threading.Thread(target=ask, args=(client,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for _ in threads:
                server.expect("handling")
            pending = client.submit(b"hang")
            server.expect("handling")
            server.kill()
            for thread in threads:
                thread.join()
            with pytest.raises(naru.PeerGoneError):
                pending.result()
            with pytest.raises(naru.PeerGoneError):
                client.request(b"after")
    assert len(told) == 3
    assert len({id(error) for error in told}) == 3  # each its own, with its own traceback


def test_a_client_that_reconnects_never_repeats_what_may_have_been_received(runtime: str) -> None:
    address = fresh_address("unix", runtime)
    with SharedNumbers(1) as counts:
        with Child.run(serve_and_hang, address, counts) as server:
            server.expect("ready")
            client = naru.client(address, reconnect=True)
            pending = client.submit(b"hang")
            server.expect("handling")
            server.kill()
            with pytest.raises(naru.PeerGoneError):
                pending.result()
        with pytest.raises(naru.NoSuchNameError):
            client.request(b"nobody is there", timeout_s=0.05)
        with Child.run(serve_and_hang, address, counts) as server:
            server.expect("ready")
            assert client.request(b"next", timeout_s=10) == b"next"
            assert client.statistics().reconnects == 1
            client.close()
        assert counts[0] == 2  # the one that hung, and the next


# ---- clients die, stop ----


def ask_and_hang(events: Events, address: str, count: int) -> None:
    with naru.client(address) as client:
        asked = [client.submit(b"slow %d" % i) for i in range(count)]
        events.tell("asked", count=len(asked))
        threading.Event().wait()


def test_a_killed_client_cancels_what_it_had_asked(address: str) -> None:
    begun: list[bytes] = []
    go_on = threading.Event()

    def handler(data: bytes) -> bytes:
        begun.append(data)
        if data.startswith(b"slow"):
            assert go_on.wait(10)
        return data

    with serving(address, handler, threads=2) as server:
        at = str(server.address)
        with Child.run(ask_and_hang, at, 20) as child, naru.client(at) as other:
            child.expect("asked")
            wait_until(lambda: server.statistics().requests == 20 and len(begun) == 2)
            child.kill()
            wait_until(lambda: server.statistics().clients == 1)
            assert server.statistics().cancelled == 18
            go_on.set()
            assert other.request(b"other", timeout_s=10) == b"other"
            wait_until(lambda: server.statistics().unsent == 2)
        assert sorted(begun)[0] == b"other"
        assert len(begun) == 3


def ask_and_stop(events: Events, address: str, count: int, size_bytes: int) -> None:
    """Sends requests and reads no reply until it is told to."""
    with naru.client(address) as client:
        events.tell("ready")
        pending = []
        thread = threading.Thread(
            target=lambda: pending.extend(client.submit(b"%d" % size_bytes) for _ in range(count))
        )
        thread.start()
        thread.join()
        events.tell("asked")
        events.expect("go on", 60)
        sizes = {len(one.result(timeout_s=30)) for one in pending}
        events.tell("done", sizes=sorted(sizes))


@pytest.mark.watchdog(60)
def test_a_stopped_client_with_a_full_reply_queue_hurts_nobody(address: str) -> None:
    size_bytes, count, held_bytes = 300_000, 60, 1 << 20

    def handler(data: bytes) -> bytes:
        return bytes(int(data))

    with serving(address, handler, held_bytes=held_bytes) as server:
        at = str(server.address)
        with Child.run(ask_and_stop, at, count, size_bytes) as child, naru.client(at) as other:
            child.expect("ready")
            child.expect("asked")
            child.stop()
            guests = server._loop.guests.values()
            for _ in range(50):
                assert other.request(b"10", timeout_s=10) == bytes(10)
            assert all(guest.held_bytes <= held_bytes + size_bytes for guest in guests)
            assert (
                server.statistics().requests < count + 50
            )  # the rest waits where it was sent from
            child.go_on()
            child.tell("go on")
            assert child.expect("done", 30) == {"sizes": [size_bytes]}
            child.check()


def test_a_stopped_client_over_tcp_is_dropped_when_its_heartbeat_is_missed() -> None:
    with serving("tcp://127.0.0.1:0?heartbeat_s=1", echo) as server:
        with Child.run(ask_and_stop, str(server.address), 1, 10) as child:
            child.expect("ready")
            child.expect("asked")
            assert server.statistics().clients == 1
            child.stop()
            wait_until(lambda: server.statistics().clients == 0)
            child.go_on()


# ---- clients lie ----


def head(kind: int, number: int, flags: int = 0) -> bytes:
    return frames.write_head(kind, number, flags)


HOSTILE = {
    "no frame": [b"GET / HTTP/1.1\r\n\r\n"],
    "nothing": [b""],
    "a reply": [head(frames.REPLY, 1)],
    "a welcome": [b"".join(frames.write_welcome(5))],
    "the same number twice": [head(frames.REQUEST, 1) + b"slow"] * 2,
    "more than is allowed": [head(frames.REQUEST, n + 1) + b"slow" for n in range(5)],
    "flags": [head(frames.REQUEST, 1, 2)],
    "another version": [b"nq\x07" + head(frames.REQUEST, 1)[3:]],
}


@pytest.mark.parametrize("story", HOSTILE)
def test_a_client_that_breaks_the_protocol_is_dropped(story: str, address: str) -> None:
    go_on = threading.Event()

    def handler(data: bytes) -> bytes:
        if data == b"slow":
            assert go_on.wait(10)
        return data

    with serving(address, handler, threads=6, most_open=4) as server:
        with naru.client(server.address) as good, naru.connect(server.address) as bad:
            with contextlib.suppress(naru.PeerGoneError):  # dropped at the first of them
                for message in HOSTILE[story]:
                    bad.send(message, timeout_s=10)
            wait_until(lambda: server.statistics().clients_broken == 1)
            assert good.request(b"fine", timeout_s=10) == b"fine"
            with pytest.raises(naru.PeerGoneError):
                while True:
                    bad.receive(timeout_s=10)
            go_on.set()
            assert good.request(b"still", timeout_s=10) == b"still"


def test_cancels_of_nothing_are_nothing(address: str) -> None:
    with serving(address, echo, threads=2) as server, naru.connect(server.address) as channel:
        assert channel.receive(timeout_s=10) == b"".join(frames.write_welcome(64))
        for number in (1, 2**64 - 1):
            channel.send(head(frames.CANCEL, number))
        channel.send(head(frames.REQUEST, 1) + b"x")
        channel.send(head(frames.CANCEL, 1))
        assert channel.receive(timeout_s=10)[:4] in (b"nq\x01\x02", b"nq\x01\x03")


def test_a_client_that_floods_and_never_reads(address: str) -> None:
    """Its own requests pile up where it sends them from; the others are served meanwhile."""
    done = threading.Event()

    def flood(at: naru.Address) -> None:
        # Dropped, or closing while nobody takes the rest of its last request.
        ends = contextlib.suppress(naru.PeerGoneError, naru.TimedOutError)
        with ends, naru.connect(at) as channel:
            number = 0
            while not done.is_set():
                number += 1
                if not channel.try_send(head(frames.REQUEST, number) + b"0123456789" * 5):
                    done.wait(0.001)

    with serving(address, lambda data: data * 40, held_bytes=1 << 18) as server:
        thread = threading.Thread(target=flood, args=(server.address,))
        thread.start()
        with naru.client(server.address) as other:
            try:
                for i in range(200):
                    assert other.request(b"%d" % i, timeout_s=10) == b"%d" % i * 40
                held = [guest.held_bytes for guest in server._loop.guests.values()]
                assert max(held) <= (1 << 18) + 2000
            finally:
                done.set()
                thread.join()


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_a_server_survives_the_corpus(file: Path, tmp_path: Any) -> None:
    with serving(fresh_address("unix", str(tmp_path)), echo) as server:
        with naru.connect(server.address) as channel:
            channel.send(file.read_bytes())
        with naru.client(server.address) as client:
            assert client.request(b"x", timeout_s=10) == b"x"


def test_a_silent_stranger_is_turned_away_and_costs_nothing(tmp_path: Any) -> None:
    address = f"unix://{tmp_path}/s.sock?handshake_timeout_s=0.3"
    with serving(address, echo) as server, socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(f"{tmp_path}/s.sock")
        with naru.client(server.address) as client:
            assert client.request(b"x", timeout_s=10) == b"x"
        turns_before = server._loop._turn_count
        wait_until(lambda: server.statistics().strangers == 1)
        assert stranger.recv(1) == b""
        assert server._loop._turn_count - turns_before < 100  # it slept meanwhile


LIES = {
    "a reply that was not asked for": head(frames.REPLY, 99),
    "a request": head(frames.REQUEST, 1),
    "a second welcome": b"".join(frames.write_welcome(4)),
    "an error that lies": head(frames.ERROR, 1) + struct.pack("<III", 9, 9, 9),
    "a cancel that nobody asked for": head(frames.ERROR, 1, frames.CANCELLED) + bytes(12),
    "garbage": os.urandom(40),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_is_left(lie: str, address: str) -> None:
    def lie_to(listener: naru.Listener) -> None:
        with listener.accept(timeout_s=10) as channel:
            channel.send(b"".join(frames.write_welcome(4)))
            channel.receive(timeout_s=10)
            channel.send(LIES[lie])
            with pytest.raises(naru.PeerGoneError):
                channel.receive(timeout_s=10)

    with naru.listen(address) as listener:
        thread = threading.Thread(target=lie_to, args=(listener,))
        thread.start()
        with naru.client(listener.address) as client:
            with pytest.raises(naru.ProtocolError):
                client.request(b"x", timeout_s=10)
            with pytest.raises(naru.ProtocolError):
                client.request(b"again", timeout_s=10)
        thread.join()


# ---- closing ----


def test_closing_a_client_ends_what_waits(address: str) -> None:
    go_on = threading.Event()
    with serving(address, lambda data: data if go_on.wait(10) else b"") as server:
        client = naru.client(server.address)
        pending = client.submit(b"x")
        told: list[BaseException] = []

        def wait() -> None:
            with pytest.raises(naru.ClosedError) as caught:
                pending.result()
            told.append(caught.value)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: client._link._leading)
        client.close()
        client.close()
        thread.join()
        assert told
        with pytest.raises(naru.ClosedError):
            client.request(b"after")
        go_on.set()


def test_closing_a_server_under_load(address: str) -> None:
    ended: list[BaseException] = []
    answered = [0]

    def ask(client: naru.Client) -> None:
        try:
            while True:
                assert client.request(b"x", timeout_s=10) == b"x"
                answered[0] += 1
        except naru.PeerGoneError as error:
            ended.append(error)

    server = naru.serve(address, echo).start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(naru.client(server.address)) for _ in range(3)]
        threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        wait_until(lambda: answered[0] > 30)
        server.close()
        for thread in threads:
            thread.join()
    assert len(ended) == 3
    assert server.closed
    server.close()
    with pytest.raises(naru.ClosedError):
        server.serve_forever()


@pytest.mark.watchdog(60)
@pytest.mark.parametrize("kind", ["shm", "unix"])
def test_draining_and_a_new_server_lose_no_request(kind: str, tmp_path: Any) -> None:
    """A client that reconnects gets an answer to each request, across four servers."""
    address = fresh_address(kind, str(tmp_path))
    answers: list[bytes] = []
    handled: list[bytes] = []
    stop = threading.Event()

    def handler(data: bytes) -> bytes:
        handled.append(data)
        return data

    def ask() -> None:
        with naru.client(address, reconnect=True) as client:
            number = 0
            while not stop.is_set():
                number += 1
                data = b"%d" % number
                try:
                    answers.append(client.request(data, timeout_s=10))
                except naru.PeerGoneError as error:
                    assert error.orderly
                    if data in handled:
                        raise
                    answers.append(client.request(data, timeout_s=10))

    server = naru.serve(address, handler).start()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            ask()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(3):
        before = len(answers)
        wait_until(lambda before=before: len(answers) > before + 20 or not thread.is_alive())
        assert server.drain(timeout_s=10)
        server = naru.serve(address, handler).start()
    stop.set()
    thread.join()
    server.close()
    assert not failed, failed
    assert handled == answers


def test_draining_answers_what_was_asked_and_refuses_the_rest(address: str) -> None:
    go_on = threading.Event()
    begun = threading.Event()

    def handler(data: bytes) -> bytes:
        begun.set()
        assert go_on.wait(10)
        return data

    with serving(address, handler, threads=2) as server, naru.client(server.address) as client:
        pending = [client.submit(b"%d" % i) for i in range(5)]
        assert begun.wait(10)
        wait_until(lambda: server.statistics().requests == 5)
        drained: list[bool] = []
        thread = threading.Thread(target=lambda: drained.append(server.drain(timeout_s=10)))
        thread.start()
        wait_until(lambda: server._loop.listener.closed)
        with pytest.raises(naru.PeerGoneError, match="has not begun it") as caught:
            client.request(b"too late", timeout_s=10)
        assert caught.value.orderly
        go_on.set()
        assert [one.result(timeout_s=10) for one in pending] == [b"%d" % i for i in range(5)]
        thread.join()
        assert drained == [True]
        assert server.statistics().refused == 1


def test_draining_gives_up_at_its_time(address: str) -> None:
    go_on = threading.Event()

    def handler(data: bytes) -> bytes:
        assert go_on.wait(10)
        return data

    with serving(address, handler, threads=2) as server, naru.client(server.address) as client:
        pending = client.submit(b"x")
        wait_until(lambda: server.statistics().requests == 1)
        with pytest.raises(naru.TimedOutError, match="handler still runs"):
            server.drain(timeout_s=0.05)
        with pytest.raises(naru.PeerGoneError):
            pending.result(timeout_s=10)
        go_on.set()


def serve_until_sigterm(events: Events, address: str) -> None:
    with naru.serve(address, echo) as server:
        signal.signal(signal.SIGTERM, lambda number, frame: server.drain(timeout_s=5))
        events.tell("ready", address=str(server.address))
        server.serve_forever()
        events.tell("drained", refused=server.statistics().refused)


def test_a_signal_handler_may_drain(address: str) -> None:
    with Child.run(serve_until_sigterm, address) as child:
        with naru.client(child.expect("ready")["address"]) as client:
            assert client.request(b"x", timeout_s=10) == b"x"
            child.send_signal(signal.SIGTERM)
            child.expect("drained")
            child.check()
            with pytest.raises(naru.PeerGoneError):
                client.request(b"x", timeout_s=10)


def test_a_handler_may_close_its_server(address: str) -> None:
    server = naru.serve(address, lambda data: server.close() or data)
    with server, naru.client(server.start().address) as client:
        assert client.request(b"x", timeout_s=10) == b"x"
        with pytest.raises(naru.PeerGoneError):
            client.request(b"x", timeout_s=10)


def test_ctrl_c_in_a_handler_ends_the_server(tmp_path: Any) -> None:
    done = run_python(
        """
        import os, signal, sys, threading, naru
        def handler(data):
            os.kill(os.getpid(), signal.SIGINT)
            return data
        def ask():
            with naru.client(sys.argv[1]) as client:
                try:
                    client.request(b"x")
                except naru.NaruError as error:
                    told.append(type(error).__name__)
        told = []
        with naru.serve(sys.argv[1], handler) as server:
            thread = threading.Thread(target=ask)
            thread.start()
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                told.append(server.closed)
            thread.join()
            print(sorted(map(str, told)))
        """.replace("\n        ", "\n"),
        fresh_address("unix", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['RemoteError', 'True']\n"


def test_forgotten_ones_warn(address: str) -> None:
    server = naru.serve(address, echo).start()
    client = naru.client(server.address)
    with pytest.warns(ResourceWarning, match="unclosed <Client"):
        del client
    server.close()
    server = naru.serve(fresh_address("shm", ""), echo)
    with pytest.warns(ResourceWarning, match="unclosed <Server"):
        del server


# ---- fork ----


def use_in_child(events: Events, server: naru.Server, client: naru.Client) -> None:
    for use in (lambda: client.request(b"x"), lambda: client.submit(b"x"), server.serve_forever):
        with pytest.raises(naru.ForkedHandleError):
            use()
    assert client.closed
    assert server.closed
    client.close()
    server.close()
    events.tell("done")


def test_a_forked_child_cannot_use_them_and_does_no_harm(address: str) -> None:
    with serving(address, echo) as server, naru.client(server.address) as client:
        assert client.request(b"x", timeout_s=10) == b"x"
        with Child.run(use_in_child, server, client) as child:
            child.expect("done")
            child.check()
        assert client.request(b"still", timeout_s=10) == b"still"
