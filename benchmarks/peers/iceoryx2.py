"""iceoryx2: publish and subscribe, one publisher, one subscriber, no overflow.

A message is copied into a loaned sample and copied out of the received one; a
large payload is read where it lies, and written there too in shape `reserve`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

from peers.contract import Job, Peer, PolledEnd
from two_processes import SENDER, Meeting

SMALL_BUFFER = 512
LARGE_BUFFER = 2


class _End(PolledEnd):
    def __init__(self, node: Any, publisher: Any, subscriber: Any, job: Job) -> None:
        self._node, self._publisher, self._subscriber = node, publisher, subscriber
        self._size_bytes = job.size_bytes
        self._copies = job.shape == "copy"
        self._source = bytearray(job.size_bytes)
        self._source_address = ctypes.addressof(ctypes.c_char.from_buffer(self._source))

    def try_send(self, message: bytes) -> bool:
        sample = self._publisher.loan_slice_uninit(len(message))
        ctypes.memmove(sample.payload_ptr, message, len(message))
        sample.assume_init().send()
        return True

    def try_receive(self) -> bytes | None:
        sample = self._subscriber.receive()
        if sample is None:
            return None
        message = ctypes.string_at(sample.payload_ptr, self._size_bytes)
        sample.delete()
        return message

    def send_large(self, number: int) -> None:
        sample = self._publisher.loan_slice_uninit(self._size_bytes)
        if self._copies:
            ctypes.memmove(sample.payload_ptr, self._source_address, self._size_bytes)
        ctypes.c_uint64.from_address(sample.payload_ptr).value = number
        sample.assume_init().send()

    def receive_large(self, touch: Callable[[Any], int]) -> int:
        while (sample := self._subscriber.receive()) is None:
            pass
        number = touch(sample.payload().as_memory_view())
        sample.delete()
        return number

    def close(self) -> None:
        # Dropped in this order, so that the last one removes the service's files.
        self._publisher = self._subscriber = self._node = None


class Iceoryx2(Peer):
    name = "iceoryx2"
    distribution = "iceoryx2"
    transport = "shm"
    shapes = frozenset({"per-message", "trip", "copy", "reserve"})

    def prepare(self, job: Job) -> Any:
        return [f"naru-peer-{os.getpid()}/{way}" for way in ("there", "back")]

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> PolledEnd:
        import iceoryx2

        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        ways = [self._service(node, name, job) for name in place]
        outgoing, incoming = ways if side == SENDER else reversed(ways)
        subscriber = incoming.subscriber_builder().create()
        publisher = (
            outgoing.publisher_builder()
            .initial_max_slice_len(job.size_bytes)
            .backpressure_strategy(iceoryx2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        meeting.meet()
        publisher.update_connections()  # or the first sample goes to nobody
        return _End(node, publisher, subscriber, job)

    def _service(self, node: Any, name: str, job: Job) -> Any:
        import iceoryx2

        small = job.size_bytes <= 64 * 1024
        return (
            node.service_builder(iceoryx2.ServiceName.new(name))
            .publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
            .enable_safe_overflow(False)
            .history_size(0)
            .max_publishers(1)
            .max_subscribers(1)
            .subscriber_max_borrowed_samples(2)
            .subscriber_max_buffer_size(SMALL_BUFFER if small else LARGE_BUFFER)
            .open_or_create()
        )


PEERS = (Iceoryx2(),)
