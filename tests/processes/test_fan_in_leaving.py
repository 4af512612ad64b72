"""A sender left while a batch of its messages was being taken: the receiver went round for ever.

Its goodbye was found while messages of it were still out, so it could not be retired; its
connection stayed readable, and the fan-in looked again and again at what it could not take.
"""

from __future__ import annotations

import threading

import pytest

import naru

PATIENCE_S = 15.0


@pytest.mark.parametrize(
    "address", ["unix:@naru-test-leaving", "tcp://127.0.0.1:0", "shm://leaving"]
)
def test_a_batch_that_ends_with_the_sender_is_taken(address: str) -> None:
    met, left = threading.Event(), threading.Event()

    def send(to: str) -> None:
        with naru.sender(to, timeout_s=PATIENCE_S) as sender:
            sender.send(b"hello")
            met.wait(PATIENCE_S)
            sender.send_many([b"1", b"2"])
        left.set()

    with naru.receiver(address) as receiver:
        thread = threading.Thread(target=send, args=(str(receiver.address),))
        thread.start()
        assert receiver.receive(timeout_s=PATIENCE_S) == b"hello"
        met.set()
        assert left.wait(PATIENCE_S)
        thread.join()
        # Both messages and the goodbye are here already.
        assert receiver.receive_many(64, timeout_s=PATIENCE_S) == [b"1", b"2"]
        assert receiver.try_receive() is None
        assert receiver.statistics().peers_closed == 1
