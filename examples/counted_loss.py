"""UDP loses messages; naru counts them.

    python examples/counted_loss.py

A sensor sends faster than the receiver reads, into a small kernel buffer: the kernel drops what
does not fit and tells nobody. naru numbers the datagrams of each sender, so the receiver knows how
many are missing, and received + lost is what was sent.
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.synchronize import Event

import naru

MESSAGES = 5_000
SIZE_BYTES = 1_000


def sensor(address: str, all_sent: Event) -> None:
    with naru.connect(address) as reader:
        for number in range(MESSAGES):
            reader.send(number.to_bytes(8, "little") * (SIZE_BYTES // 8))
        all_sent.set()
        reader.receive(timeout_s=10)  # the reader has caught up
    # Closing says goodbye with the number of messages sent, so that the last ones count, too.


def read(channel: naru.Channel) -> int:
    """Receives until the sensor closes; returns the number of messages."""
    received = 0
    while channel.try_receive() is not None:
        received += 1
    channel.send(b"caught up")
    for _ in channel:
        received += 1
    return received


def main() -> int:
    context = multiprocessing.get_context("spawn")
    all_sent = context.Event()
    with naru.listen("udp://127.0.0.1:0?receive_buffer_bytes=65536") as listener:
        process = context.Process(target=sensor, args=(str(listener.address), all_sent))
        process.start()
        with listener.accept(timeout_s=10) as channel:
            all_sent.wait(10)  # nobody reads until everything was sent: the buffer overflows
            received = read(channel)
            counted = channel.statistics()
        process.join()
    print(f"sent {MESSAGES}, received {received}, lost {counted.lost}, ", end="")
    print(f"duplicates {counted.duplicates}, reordered {counted.reordered}")
    print("every message is accounted for:", received + counted.lost == MESSAGES)
    return process.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
