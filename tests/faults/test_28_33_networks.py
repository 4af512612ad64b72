"""28, 29, 31-33: connections that end badly, stopped peers, no port left, lossy wires, datagram sizes."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import naru
from naru.testing import LossyProxy
from naru.transports import hello


def _half_open(listener: naru.Listener) -> tuple[socket.socket, naru.Channel]:
    """A raw client that has said hello, and the channel that was accepted."""
    raw = socket.create_connection((listener.address.host, listener.address.port), timeout=20)
    raw.sendall(hello.pack(hello.Hello(hello.CHANNEL, 1 << 20, 0)))
    return raw, listener.accept(timeout_s=20)


@pytest.mark.parametrize(
    ("sent", "reset", "error"),
    [
        (b"", False, naru.PeerGoneError),
        (b"", True, naru.PeerGoneError),
        (struct.pack("=II", 100, 0) + b"part", False, naru.CorruptedError),
        (struct.pack("=II", 0, 4), False, naru.PeerGoneError),
        (struct.pack("=II", 1 << 31, 0), False, naru.ProtocolError),
        (struct.pack("=II", 4, 1 << 20) + b"flag", False, naru.ProtocolError),
    ],
    ids=["end", "reset", "half a record", "goodbye", "a huge length", "unknown flags"],
)
def test_fault_28_every_end_of_a_tcp_peer_is_told_apart(
    sent: bytes, reset: bool, error: type[naru.NaruError]
) -> None:
    with naru.listen("tcp://127.0.0.1:0") as listener:
        raw, channel = _half_open(listener)
        with raw, channel:
            raw.sendall(struct.pack("=II", 2, 0) + b"ok" + sent)
            assert channel.receive(timeout_s=20) == b"ok"
            if reset:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()
            for _ in range(2):  # and then always the same
                with pytest.raises(error) as caught:
                    channel.receive(timeout_s=20)
            if isinstance(caught.value, naru.PeerGoneError):
                assert caught.value.orderly == (sent[4:8] == struct.pack("=I", 4))


def test_fault_28_a_server_restarts_while_its_port_is_in_time_wait() -> None:
    with naru.listen("tcp://127.0.0.1:0") as listener:
        address = listener.address
        raw, channel = _half_open(listener)
        channel.close()  # first: this side's port goes to TIME_WAIT
        raw.close()
    naru.listen(address).close()


BEATING = (
    "import sys, naru\nchannel = naru.connect(sys.argv[1]); channel.send(b'up'); channel.receive()"
)


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_fault_29_a_stopped_peer_is_found_by_its_silence(transport: str) -> None:
    with naru.listen(f"{transport}://127.0.0.1:0?heartbeat_s=1.0") as listener:
        peer = subprocess.Popen([sys.executable, "-c", BEATING, str(listener.address)])
        try:
            with listener.accept(timeout_s=30) as channel:
                assert channel.receive(timeout_s=30) == b"up"
                with pytest.raises(naru.TimedOutError):
                    channel.receive(timeout_s=2.5)  # quiet, but its heart beats
                os.kill(peer.pid, signal.SIGSTOP)
                started = time.monotonic()
                with pytest.raises(naru.PeerGoneError):
                    channel.receive(timeout_s=30)
                # Not before the limit, less the age of the last beat (a quarter of it).
                assert time.monotonic() - started > 0.6
        finally:
            peer.kill()
            peer.wait()


PORTS = """
import naru, sys
open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('40000 40003')
listener = naru.listen('tcp://127.0.0.1:39999')
import threading
ends = []
def accept():
    while True:
        try: ends.append(listener.accept())
        except naru.ClosedError: return
thread = threading.Thread(target=accept); thread.start()
try:
    while True: ends.append(naru.connect('tcp://127.0.0.1:39999', timeout_s=1))
except naru.LimitError as error: print('ip_local_port_range' in str(error), len(ends) >= 4)
finally:
    listener.close(); thread.join()
    for end in ends: end.close()
"""


@pytest.mark.watchdog(seconds=60)
def test_fault_31_no_port_left_is_a_limit() -> None:
    command = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$0" -c "$1"',
               sys.executable, PORTS]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if "Operation not permitted" in done.stderr or "ip: not found" in done.stderr:
        pytest.skip(f"no network namespace of its own: {done.stderr.strip()}")
    assert done.stdout.strip() == "True True", done.stderr


def seen(proxy: LossyProxy) -> int:
    return proxy.to_target.passed + proxy.to_target.dropped


@pytest.mark.watchdog(seconds=60)
def test_fault_32_what_a_lossy_wire_does_is_counted() -> None:
    count = 2000
    with naru.listen("udp://127.0.0.1:0?heartbeat_s=0&receive_buffer_bytes=4MiB") as listener:
        target = (str(listener.address.host), int(listener.address.port or 0))

        def may_harm(data: bytes) -> bool:
            return data[4:8] == b"\0\0\0\0"  # messages only, not greetings and goodbyes

        with LossyProxy(
            target, drop=0.1, duplicate=0.1, reorder=0.1, seed=32, may_harm=may_harm
        ) as proxy:
            host, port = proxy.address
            channels: list[naru.Channel] = []
            thread = threading.Thread(target=lambda: channels.append(listener.accept()))
            thread.start()
            with naru.connect(f"udp://{host}:{port}?heartbeat_s=0") as sender:
                thread.join()
                with channels[0] as receiver:
                    came = []
                    for i in range(count):
                        sender.send(b"%d" % i)
                        # The wire is slower than the sender: a queue that overflows drops, too.
                        while i % 50 == 49 and seen(proxy) <= i:
                            time.sleep(0.001)
                        while (message := receiver.try_receive()) is not None:
                            came.append(int(message))
                    proxy.release()
                    sender.close()
                    came.extend(int(message) for message in receiver)
                    counted = receiver.statistics()
    assert len(set(came)) == len(came) > 0.8 * count
    assert counted.lost == count - len(came)
    assert counted.duplicates > 0.05 * count
    assert counted.reordered == sum(
        1 for at, number in enumerate(came) if number < max(came[:at], default=-1)
    )


def test_fault_33_the_largest_datagram() -> None:
    ours, theirs = naru.pair("udp:?heartbeat_s=0")
    with ours, theirs:
        most = 65507 - 24
        ours.send(bytes(most))
        assert theirs.receive(timeout_s=10) == bytes(most)
        with pytest.raises(naru.TooBigError):
            ours.send(bytes(most + 1))
        assert theirs.try_receive() is None
