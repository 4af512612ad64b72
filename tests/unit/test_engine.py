"""The engine from Python: services over addresses, callbacks of frames, signals, threads, its end."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import naru
from naru._native import engine as native
from naru.engine import Engine, describe_limit
from naru.testing.descriptors import limited_descriptors, open_descriptors


@contextlib.contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """In a thread of its own, until the block ends."""
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield engine
    finally:
        engine.stop()
        thread.join()


def visit(address: Any) -> socket.socket:
    if address.transport == "tcp":
        return socket.create_connection((address.host, address.port), timeout=10)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    try:
        sock.connect("\0" + address.name if address.abstract else str(address.path))
    except BaseException:
        sock.close()
        raise
    return sock


def await_open(service: Any, count: int) -> dict[str, int]:
    while (numbers := service.statistics())["open"] != count:
        time.sleep(0.001)
    return dict(numbers)


def test_echo_at_several_addresses() -> None:
    with Engine() as engine:
        service = engine.echo("tcp://127.0.0.1:0", "unix:@naru-engine-echo", "tcp://[::1]:0")
        assert [address.transport for address in service.addresses] == ["tcp", "unix", "tcp"]
        with running(engine):
            for address in service.addresses:
                with visit(address) as sock:
                    sock.sendall(b"hello")
                    assert sock.recv(100) == b"hello"
            numbers = await_open(service, 0)
        assert (numbers["accepted"], numbers["bytes_sent"]) == (3, 15)
        assert engine.statistics().callbacks >= 6


def test_frames_speak_with_naru() -> None:
    told: list[object] = []

    def answer(connection: Any, message: bytes) -> None:
        told.append(message)
        connection.send(message.upper())

    with Engine() as engine:
        engine.frames(
            "unix:@naru-engine-frames", on_message=answer,
            on_open=lambda connection: told.append("open"),
            on_close=lambda connection, error: told.append(error),
        )  # fmt: skip
        with running(engine):
            with naru.connect("unix:@naru-engine-frames", timeout_s=5) as channel:
                channel.send(b"abc")
                assert channel.receive(timeout_s=5) == b"ABC"
                channel.send(b"x" * 3_000_000)
                assert channel.receive(timeout_s=5) == b"X" * 3_000_000
                channel.send(b"")
                assert channel.receive(timeout_s=5) == b""
            while told[-1] is not None:
                time.sleep(0.001)
        assert told[0] == "open"
        assert len(told) == 5


def test_frames_take_senders_and_refuse_heartbeats() -> None:
    got: list[bytes] = []
    with Engine() as engine:
        service = engine.frames(
            "tcp://127.0.0.1:0", on_message=lambda connection, message: got.append(message)
        )
        address = service.addresses[0]
        with running(engine):
            with naru.sender(address, timeout_s=5) as sender:
                sender.send_many([b"%d" % i for i in range(100)])
            while len(got) < 100:
                time.sleep(0.001)
            with pytest.raises(naru.NaruError, match="other side"):
                naru.connect(f"{address}?heartbeat_s=1", timeout_s=5)
        assert got == [b"%d" % i for i in range(100)]
        assert service.statistics()["strangers"] == 1


def test_frames_connection_outlives_its_peer() -> None:
    kept: list[Any] = []
    with Engine() as engine:
        service = engine.frames("unix:@naru-engine-kept", on_message=lambda c, m: kept.append(c))
        with running(engine):
            with naru.connect("unix:@naru-engine-kept", timeout_s=5) as channel:
                channel.send(b"first")
                channel.send(b"second")
            while len(kept) < 2:
                time.sleep(0.001)
            await_open(service, 0)
        assert kept[0] == kept[1]
        assert len({*kept}) == 1
        with pytest.raises(naru.PeerGoneError):
            kept[0].send(b"too late")
    with pytest.raises(naru.ClosedError):
        kept[0].send(b"much too late")


def test_callback_that_raises_ends_the_run_and_its_connection() -> None:
    def fail(connection: Any, message: bytes) -> None:
        raise ValueError(message)

    with Engine() as engine:
        engine.frames("unix:@naru-engine-fails", on_message=fail)
        with _sent("unix:@naru-engine-fails", b"bad", engine) as channel:
            with pytest.raises(ValueError, match="bad"):
                engine.run(10)
            assert engine.run(0.01) is False  # and goes on
            with pytest.raises(naru.PeerGoneError):
                channel.receive(timeout_s=5)


@contextlib.contextmanager
def _sent(address: str, message: bytes, engine: Engine) -> Iterator[Any]:
    """A channel whose message waits; the handshake needs the engine for a moment."""
    opened: list[Any] = []
    thread = threading.Thread(target=lambda: opened.append(naru.connect(address, timeout_s=5)))
    thread.start()
    while thread.is_alive():
        engine.run(0.005)
    thread.join()
    with opened[0] as channel:
        channel.send(message)
        yield channel


def test_signals_reach_python_while_it_sleeps() -> None:
    seen: list[int] = []
    with Engine() as engine:
        before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert engine.run(0.2) is False
            assert seen == [signal.SIGALRM]
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(KeyboardInterrupt):
                engine.run()
            signal.signal(signal.SIGALRM, lambda number, frame: engine.stop())
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert engine.run() is True
        finally:
            signal.signal(signal.SIGALRM, before)
        assert signal.set_wakeup_fd(-1) == -1


def test_calls_from_another_thread_are_made_in_the_running_one() -> None:
    made: list[int] = []
    with Engine() as engine:
        service = engine.echo("tcp://127.0.0.1:0")
        with running(engine):
            with visit(service.addresses[0]) as sock:
                await_open(service, 1)
                engine.call_soon(lambda: made.append(threading.get_ident()))
                service.cut_all()
                assert sock.recv(1) == b""
        assert made
        assert made[0] != threading.get_ident()


def test_drain_ends_the_run_when_the_last_has_gone() -> None:
    with Engine() as engine:
        service = engine.echo("unix:@naru-engine-drain")
        with visit(service.addresses[0]) as sock:
            sock.sendall(b"x")
            engine.run(0.05)
            service.drain()
            assert sock.recv(1) == b"x"
            assert sock.recv(1) == b""
            sock.close()
            assert engine.run(10) is True
        assert service.statistics()["open"] == 0
        with pytest.raises(ConnectionRefusedError):
            visit(service.addresses[0])


def test_socket_file_is_removed_and_a_living_one_is_not_taken(tmp_path: Any) -> None:
    address = f"unix://{tmp_path}/s?mode=0640"
    with Engine() as engine, Engine() as other:
        service = engine.echo(address)
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o640
        with pytest.raises(naru.NameTakenError):
            other.echo(address)
        service.stop_listening()
        assert not (tmp_path / "s").exists()
        other.echo(address)
    assert not (tmp_path / "s").exists()


def test_two_engines_share_a_port() -> None:
    with Engine(reuse_port=True) as one, Engine(reuse_port=True) as other, Engine() as stranger:
        address = one.echo("tcp://127.0.0.1:0").addresses[0]
        other.echo(address)
        with pytest.raises(naru.NaruError):
            stranger.echo(address)
        with running(one), running(other):
            for _ in range(20):
                with visit(address) as sock:
                    sock.sendall(b"x")
                    assert sock.recv(1) == b"x"


def test_closed_engine() -> None:
    engine = Engine()
    service = engine.echo("unix:@naru-engine-closed")
    assert repr(service) == "<Service echo 0 open>"
    engine.close()
    engine.close()
    for call in (engine.run, engine.stop, engine.statistics, engine.echo, service.statistics):
        with pytest.raises(naru.ClosedError):
            call()
    assert "closed" in repr(engine)
    assert "closed" in repr(service)


def test_collected_open_warns() -> None:
    Engine().echo("unix:@naru-engine-forgotten")
    with pytest.warns(ResourceWarning, match="unclosed <Engine"):
        gc.collect()


def test_one_loop_at_a_time() -> None:
    with Engine() as engine:
        with running(engine):
            while engine.statistics().waits == 0:
                time.sleep(0.001)
            with pytest.raises(RuntimeError, match="runs already"):
                engine.run(0)
            with pytest.raises(RuntimeError, match="stop"):
                engine.close()
            with pytest.raises(RuntimeError, match="call_soon"):
                engine.echo()


def test_bad_limits_and_addresses_make_nothing() -> None:
    before = open_descriptors()
    with Engine() as engine:
        with pytest.raises(TypeError, match="idle_s"):
            engine.echo("tcp://127.0.0.1:0", idle_s=3)
        with pytest.raises(ValueError, match="seconds"):
            engine.echo("tcp://127.0.0.1:0", idle_timeout_s=-1)
        with pytest.raises(naru.UnsupportedError, match="byte streams"):
            engine.echo("mq:///x")
        with pytest.raises(naru.BadAddressError):
            engine.proxy("tcp://127.0.0.1:0", target="tcp://127.0.0.1:0")
        with pytest.raises(naru.NaruError):
            engine.echo(low_water_bytes=10, high_water_bytes=5)
    assert open_descriptors() == before


def test_no_descriptor_free() -> None:
    for free in range(3):
        with limited_descriptors(free):
            with pytest.raises(naru.LimitError):
                Engine()
    with Engine():
        pass


def test_forked_child_cannot_run_it() -> None:
    with Engine() as engine:
        service = engine.echo("unix:@naru-engine-fork")
        child = os.fork()
        if child == 0:
            try:
                engine.run(0)
            except naru.ForkedHandleError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        with running(engine), visit(service.addresses[0]) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"


def test_packed_addresses_are_the_kernels() -> None:
    assert native.pack_address(socket.AF_UNIX, "/a") == b"\x01\x00/a\x00"
    assert native.pack_address(socket.AF_UNIX, "\0a") == b"\x01\x00\x00a"
    packed = native.pack_address(socket.AF_INET, ("127.0.0.1", 258))
    assert packed == b"\x02\x00\x01\x02\x7f\x00\x00\x01" + bytes(8)
    assert len(native.pack_address(socket.AF_INET6, ("::1", 1, 0, 0))) == 28


def test_descriptor_limit_in_words() -> None:
    assert describe_limit(20_000).startswith("20,000 descriptors: about 19,984 connections")
    assert "9,992 proxied connections at once, 2 descriptors each" in describe_limit(
        20_000, per_connection=2
    )
    assert "about 0 connections" in describe_limit(3)


def test_allowed_users_are_not_promised(tmp_path: Path) -> None:
    with naru.Engine() as engine:
        with pytest.raises(naru.UnsupportedError, match="does not look who connects"):
            engine.echo(f"unix://{tmp_path}/s?allow_uids=5")
        assert list(tmp_path.iterdir()) == []
