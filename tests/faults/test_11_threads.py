"""11: eight threads share an end. Each message goes to exactly one of them, each stays whole; closing
from another thread ends every wait with ClosedError."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from helpers import CHANNELS, PAIRS, QUEUES, fresh_address, scaled, sender_to

import naru
from naru.testing.faults import until_sleeping
from naru.testing.ledger import LedgerReader, LedgerWriter

THREADS = 4
EACH = scaled(150, 5000)


def run_all(functions: list[Callable[[], None]]) -> None:
    """Runs them at once; the first error of any comes out."""
    errors: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Books:
    """A ledger that several receiving threads write to, in no order between them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: list[bytes] = []

    def add(self, messages: list[bytes]) -> None:
        with self._lock:
            self._messages += messages

    def check(self, senders: int, each: int) -> None:
        """Whole, once each, and none is missing; two threads may book in another order than came."""
        reader = LedgerReader()
        for message in self._messages:
            reader.add(message)
        report = reader.report(dict.fromkeys(range(senders), each))
        assert (report.torn, report.duplicated, report.lost) == (0, 0, 0), report
        assert report.received == senders * each == len(self._messages)


SIZES = (24, 100, 3000, 70_000)


def stream(sender: Any, number: int, sizes: tuple[int, ...]) -> None:
    writer = LedgerWriter(number, lambda sequence: sizes[sequence % len(sizes)])
    sent = 0
    while sent < EACH:
        if sent % 4 == 0 and sent + 3 <= EACH:
            sender.send_many(writer.take(3))
            sent += 3
        else:
            sender.send(writer.next())
            sent += 1


def collect(receiver: Any, books: Books) -> None:
    """Until the end of the stream; some take one, some take many."""
    try:
        while True:
            books.add(receiver.receive_many(16))
            books.add([receiver.receive()])
    except naru.PeerGoneError as error:
        assert error.orderly


@pytest.mark.parametrize("kind", ["shm", "pipe", "unix", "tcp"])
@pytest.mark.watchdog(seconds=120)
def test_fault_11_eight_threads_on_the_ends_of_a_pair(kind: str) -> None:
    a, b = naru.pair(kind)
    books = Books()
    left = threading.Semaphore(0)

    def send(number: int) -> None:
        try:
            stream(a, number, SIZES)
        finally:
            left.release()

    def close_after_the_last() -> None:
        for _ in range(THREADS):
            left.acquire()
        a.close()

    senders = [lambda number=number: send(number) for number in range(THREADS)]
    receivers = [lambda: collect(b, books) for _ in range(THREADS)]
    run_all([*senders, *receivers, close_after_the_last])
    b.close()
    books.check(THREADS, EACH)


@pytest.mark.parametrize("kind", [kind for kind in QUEUES if kind != "udp"])
@pytest.mark.watchdog(seconds=120)
def test_fault_11_threads_with_a_sender_each_and_a_shared_receiver(kind: str, runtime: str) -> None:
    sizes = SIZES[:3] if kind == "mq" else SIZES
    with naru.receiver(fresh_address(kind, runtime)) as receiver:
        books = Books()
        senders = [sender_to(receiver) for _ in range(THREADS)]
        done = threading.Event()
        booked = threading.Semaphore(0)

        def receive() -> None:
            while not done.is_set():
                try:
                    messages = receiver.receive_many(8, timeout_s=0.1)
                except naru.TimedOutError:
                    continue
                books.add(messages)
                booked.release(len(messages))

        def finish() -> None:
            for _ in range(THREADS * EACH):
                booked.acquire()
            done.set()

        run_all(
            [
                *(lambda n=n: stream(senders[n], n, sizes) for n in range(THREADS)),
                *(receive for _ in range(3)),
                finish,
            ]
        )
        for sender in senders:
            sender.close()
        books.check(THREADS, EACH)


# ---- closing under a wait ----


def close_under(waits: list[Callable[[], object]], end: Any) -> list[BaseException | None]:
    """Starts the waits, closes the end when all of them wait; gives what became of each, and of close."""
    results: list[BaseException | None] = [None] * len(waits)
    started: list[int] = []
    going = threading.Semaphore(0)

    def wait(index: int) -> None:
        started.append(threading.get_native_id())
        going.release()
        try:
            waits[index]()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=wait, args=(index,)) for index in range(len(waits))]
    for thread in threads:
        thread.start()
    for _ in threads:
        going.acquire()
    for thread_id in started:
        until_sleeping(thread_id)
    try:
        end.close()
    except naru.TimedOutError as error:  # of a message that was cut: close says that it is lost
        results.append(error)
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("kind", PAIRS)
def test_fault_11_close_ends_every_receive(kind: str) -> None:
    a, b = naru.pair(kind)
    with b:
        b.send(b"x")
        a.receive(timeout_s=10)
        waits = [
            a.receive, a.receive_many, lambda: next(a), lambda: a.receive_into(bytearray(10)),
            lambda: a.lease().__enter__(), lambda: a.receive(timeout_s=600),
            lambda: a.receive_with_priority(), lambda: list(a),
        ]  # fmt: skip
        for error in close_under(waits, a):
            assert isinstance(error, naru.ClosedError), error


@pytest.mark.parametrize("wait", ["adaptive", "sleep", "spin"])
@pytest.mark.parametrize("kind", ["shm", "pipe", "unix", "tcp"])
def test_fault_11_close_ends_every_send(kind: str, wait: str) -> None:
    a, b = naru.pair(f"{kind}:?linger_s=0.1&wait={wait}")
    with b:
        message = b"m" * 20_000
        while a.try_send(message):
            continue
        waits = [
            lambda: a.send(b"s" * 1_000_000), lambda: a.send(message), lambda: a.send_many([message] * 3),
            lambda: a.send_parts([message, message]), lambda: a.reserve(30_000).__enter__(),
        ]  # fmt: skip
        errors = close_under([lambda wait=wait: fill(wait) for wait in waits], a)
        for error in errors:
            assert isinstance(error, naru.ClosedError | naru.TimedOutError), error


def fill(send: Callable[[], object]) -> None:
    """A socket's buffer may still grow a little: until it really waits."""
    while True:
        send()


@pytest.mark.parametrize("kind", QUEUES)
def test_fault_11_close_ends_every_receive_of_a_receiver(kind: str, runtime: str) -> None:
    receiver = naru.receiver(fresh_address(kind, runtime))
    waits = [receiver.receive, receiver.receive_many, lambda: next(receiver)]
    for error in close_under(waits, receiver):
        assert isinstance(error, naru.ClosedError), error


@pytest.mark.parametrize("kind", CHANNELS)
def test_fault_11_close_ends_every_accept(kind: str, runtime: str) -> None:
    listener = naru.listen(fresh_address(kind, runtime))
    waits = [listener.accept, lambda: listener.accept(timeout_s=600), listener.accept]
    for error in close_under(waits, listener):
        assert isinstance(error, naru.ClosedError), error


@pytest.mark.parametrize("kind", ["shm", "pipe", "unix", "tcp"])
def test_fault_11_eight_threads_close_the_same_end(kind: str) -> None:
    for _ in range(scaled(10, 200)):
        a, b = naru.pair(kind)
        a.send(b"x")
        assert b.receive(timeout_s=10) == b"x"
        gate = threading.Barrier(9)

        def close(end: Any, gate: threading.Barrier = gate) -> None:
            gate.wait()
            end.close()

        run_all([*(lambda end=a: close(end) for _ in range(8)), gate.wait])
        with pytest.raises(naru.PeerGoneError) as caught:
            b.receive(timeout_s=10)
        assert caught.value.orderly
        b.close()
