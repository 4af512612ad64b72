"""Publishers and subscribers in one process: what each policy gives, and how each verb behaves."""

from __future__ import annotations

import itertools
import os
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import naru

PATIENCE_S = 15.0
KINDS = ("shm", "unix", "tcp")
POLICIES = ("block", "drop_oldest", "latest")

_numbers = itertools.count(1)


def address_of(kind: str) -> str:
    name = f"cast-{os.getpid()}-{next(_numbers)}"
    small = "capacity_bytes=65536" if kind == "shm" else "queue_bytes=65536"
    places = {"shm": f"shm://{name}", "unix": f"unix:@{name}", "tcp": "tcp://127.0.0.1:0"}
    return f"{places[kind]}?{small}"


@pytest.fixture(params=KINDS)
def publisher(request: pytest.FixtureRequest) -> Iterator[naru.Publisher]:
    with naru.publisher(address_of(request.param)) as made:
        yield made


def subscribe(publisher: naru.Publisher, policy: Any = "block") -> naru.Subscriber:
    return naru.subscriber(publisher.address, policy, timeout_s=PATIENCE_S)


def until(condition: Any) -> None:
    """Waits until it holds; the watchdog ends what never does."""
    while not condition():
        time.sleep(0.001)


@pytest.mark.parametrize("policy", POLICIES)
def test_each_subscriber_gets_each_message(publisher: naru.Publisher, policy: Any) -> None:
    with subscribe(publisher, policy) as first, subscribe(publisher, policy) as second:
        for number in range(50):
            publisher.publish(b"message %d" % number)
            for one in (first, second):
                assert one.receive(timeout_s=PATIENCE_S) == b"message %d" % number
        assert (first.lost, second.lost) == (0, 0)


def test_a_late_subscriber_begins_at_the_newest_message(publisher: naru.Publisher) -> None:
    publisher.publish_many([b"old", b"newest"])
    for policy in POLICIES:
        with subscribe(publisher, policy) as late:
            assert late.receive(timeout_s=PATIENCE_S) == b"newest"
            assert late.try_receive() is None
            assert late.lost == 0


def test_without_subscribers_nothing_waits(publisher: naru.Publisher) -> None:
    for _ in range(200):
        assert publisher.try_publish(bytes(10_000))
    assert publisher.subscribers == []
    assert publisher.statistics().messages_sent == 200


def test_block_holds_the_publisher_and_loses_nothing(publisher: naru.Publisher) -> None:
    total = 3000
    with subscribe(publisher) as slow:
        received: list[int] = []

        def receive() -> None:
            for message in slow:
                received.append(int(message[:8]))
                if len(received) == total:
                    return

        thread = threading.Thread(target=receive)
        thread.start()
        for number in range(total):
            publisher.publish(b"%08d" % number + bytes(1000), timeout_s=PATIENCE_S)
        thread.join()
        assert received == list(range(total))
        assert slow.lost == 0


def fill(publisher: naru.Publisher) -> int:
    """Publishes until a subscriber holds the publisher; gives how many went."""
    for number in itertools.count():
        if not publisher.try_publish(b"%08d" % number + bytes(4000)):
            return number
    raise AssertionError


def test_a_timeout_names_who_holds_the_publisher(publisher: naru.Publisher) -> None:
    with subscribe(publisher), subscribe(publisher, "drop_oldest"):
        sent = fill(publisher)
        with pytest.raises(naru.TimedOutError, match=r"publish .*bytes behind") as caught:
            publisher.publish(b"x" * 5000, timeout_s=0.01)
        if publisher.address.transport != "tcp":
            assert f"process {os.getpid()}" in str(caught.value)
        assert publisher.statistics().messages_sent == sent


def test_publishing_goes_on_when_the_one_that_held_it_leaves(publisher: naru.Publisher) -> None:
    slow = subscribe(publisher)
    fill(publisher)
    thread = threading.Timer(0.05, slow.close)
    thread.start()
    publisher.publish(b"after", timeout_s=PATIENCE_S)
    thread.join()
    until(lambda: publisher.subscribers == [])
    assert publisher.statistics().peers_closed == 1


@pytest.mark.parametrize("policy", ["drop_oldest", "latest"])
def test_a_subscriber_that_drops_holds_nobody_and_counts(
    publisher: naru.Publisher, policy: Any
) -> None:
    total = 5000
    with subscribe(publisher, policy) as slow:
        for number in range(total):
            assert publisher.try_publish(b"%08d" % number + bytes(4000))
        received = 0
        last = -1
        while last < total - 1:
            number = int(slow.receive(timeout_s=PATIENCE_S)[:8])
            assert number > last
            last = number
            received += 1
            assert received + slow.lost == number + 1
        assert slow.lost > 0
        assert slow.statistics().lost == slow.lost
        assert received <= (2 if policy == "latest" else total - 1)


def test_latest_is_the_newest(publisher: naru.Publisher) -> None:
    with subscribe(publisher, "latest") as reader:
        publisher.publish_many([b"%d" % number for number in range(100)])
        if publisher.address.transport != "shm":  # one may be on its way already
            reader.receive(timeout_s=PATIENCE_S)
        assert reader.receive(timeout_s=PATIENCE_S) == b"99"
        assert reader.try_receive() is None


def test_in_place_verbs(publisher: naru.Publisher) -> None:
    with subscribe(publisher) as block, subscribe(publisher, "drop_oldest") as dropping:
        with publisher.reserve(5) as view:
            view[:] = b"hello"
        publisher.publish_many([b"%04d" % number for number in range(10)])
        for reader in (block, dropping):
            with reader.lease(timeout_s=PATIENCE_S) as view:
                assert bytes(view) == b"hello"
            got: list[bytes] = []
            while len(got) < 10:
                with reader.lease_many(64, timeout_s=PATIENCE_S) as batch:
                    got += [bytes(one) for one in batch]
            assert got == [b"%04d" % number for number in range(10)]


def test_a_lease_of_one_that_drops_stays_what_it_was(publisher: naru.Publisher) -> None:
    with subscribe(publisher, "drop_oldest") as reader:
        publisher.publish(b"first" + bytes(4000))
        with reader.lease(timeout_s=PATIENCE_S) as view:
            for _ in range(100):
                publisher.publish(b"other" * 800)
            assert bytes(view[:5]) == b"first"


def test_a_pending_view_outlives_the_end(publisher: naru.Publisher) -> None:
    reader = subscribe(publisher)
    publisher.publish(b"kept")
    lease = reader.lease(timeout_s=PATIENCE_S)
    view = memoryview(lease.__enter__())
    reader.close()
    assert bytes(view) == b"kept"
    del view
    lease.__exit__(None, None, None)


def test_iteration_ends_when_the_publisher_closes(publisher: naru.Publisher) -> None:
    with subscribe(publisher) as reader:
        publisher.publish_many([b"1", b"2"])
        publisher.close()
        assert list(reader) == [b"1", b"2"]
        with pytest.raises(naru.PeerGoneError) as caught:
            reader.receive()
        assert caught.value.orderly


def test_fileno_tells_of_messages_and_of_the_end(publisher: naru.Publisher) -> None:
    with subscribe(publisher) as reader:
        poll = select.poll()
        poll.register(reader.fileno(), select.POLLIN)
        assert poll.poll(0) == []
        publisher.publish(b"x")
        assert poll.poll(PATIENCE_S * 1000)
        assert reader.try_receive() == b"x"
        assert reader.try_receive() is None
        assert poll.poll(0) == []
        publisher.close()
        assert poll.poll(PATIENCE_S * 1000)


def test_what_a_publisher_knows_of_its_subscribers(publisher: naru.Publisher) -> None:
    with subscribe(publisher), subscribe(publisher, "latest"):
        one, other = publisher.subscribers
        assert (one.policy, other.policy) == ("block", "latest")
        if publisher.address.transport != "tcp":
            assert one.peer is not None
            assert one.peer.pid == os.getpid()
        sent = fill(publisher)
        assert publisher.subscribers[0].lag_bytes > 50_000
        if publisher.address.transport != "shm":
            assert publisher.subscribers[1].lost == sent - 2
    until(lambda: publisher.subscribers == [])


def test_what_is_too_big_is_refused() -> None:
    with naru.publisher(address_of("shm")) as publisher, subscribe(publisher) as reader:
        most = 32768 - 16
        publisher.publish(bytes(most))
        assert len(reader.receive(timeout_s=PATIENCE_S)) == most
        with pytest.raises(naru.TooBigError, match="raise capacity_bytes"):
            publisher.publish(bytes(most + 1))


def test_large_messages_over_streams() -> None:
    for kind in ("unix", "tcp"):
        with naru.publisher(address_of(kind)) as publisher:
            readers = [subscribe(publisher, policy) for policy in POLICIES]
            message = os.urandom(3_000_000)
            publisher.publish(message)
            for reader in readers:
                assert reader.receive(timeout_s=PATIENCE_S) == message
                reader.close()


def test_wrong_partners_are_told(publisher: naru.Publisher) -> None:
    for wrong in (naru.connect, naru.sender):
        with pytest.raises(naru.UnsupportedError, match=r"naru\.subscriber with naru\.publisher"):
            wrong(publisher.address, timeout_s=PATIENCE_S)
    address = address_of(publisher.address.transport)
    with naru.receiver(address) as receiver:
        met: list[BaseException] = []

        def subscribe_wrongly() -> None:
            try:
                naru.subscriber(receiver.address, timeout_s=PATIENCE_S).close()
            except naru.NaruError as error:
                met.append(error)

        thread = threading.Thread(target=subscribe_wrongly)
        thread.start()
        while thread.is_alive():
            receiver.try_receive()
            thread.join(0.001)
        assert isinstance(met[0], naru.UnsupportedError)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="policy must be one of"):
        naru.subscriber("shm://nobody", "newest")  # type: ignore[arg-type]
    with pytest.raises(naru.UnsupportedError, match="mq has no publishers"):
        naru.publisher("mq:///nobody")
    with pytest.raises(naru.NoSuchNameError):
        naru.subscriber("shm://nobody", timeout_s=0)
    with pytest.raises(naru.BadAddressError, match="framing=lines"):
        naru.publisher("unix:@nobody?framing=lines")


def test_a_name_is_taken_once_and_given_up() -> None:
    address = address_of("shm")
    with naru.publisher(address):
        with pytest.raises(naru.NameTakenError):
            naru.publisher(address)
    with naru.publisher(address):
        pass


def test_ends_are_closed_once_and_say_so(publisher: naru.Publisher) -> None:
    with subscribe(publisher) as reader:
        reader.close()
        with pytest.raises(naru.ClosedError):
            reader.receive()
    publisher.close()
    publisher.close()
    with pytest.raises(naru.ClosedError):
        publisher.publish(b"x")
    with pytest.raises(naru.ClosedError):
        _ = publisher.subscribers


def test_a_forgotten_publisher_warns() -> None:
    publisher = naru.publisher(address_of("shm"))
    with pytest.warns(ResourceWarning, match="unclosed <Publisher shm://"):
        del publisher
