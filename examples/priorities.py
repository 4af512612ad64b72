"""Priorities over a POSIX message queue: many senders, one receiver, the urgent first.

    python examples/priorities.py

The queue is the kernel's: it keeps the messages while nobody reads, and sorts them by priority.
Three processes leave their messages and go; the receiver then takes them in order of urgency.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

import naru

SENDERS = 3


def report(address: str, number: int) -> None:
    with naru.sender(address) as office:
        office.send(f"sensor {number}: all is well".encode(), timeout_s=5)
        office.send(f"sensor {number}: door open".encode(), timeout_s=5, priority=1)
        if number == 1:
            office.send(b"sensor 1: fire", timeout_s=5, priority=9)


def main() -> int:
    address = f"mq:///naru_example_{os.getpid()}"
    context = multiprocessing.get_context("spawn")
    with naru.receiver(address) as office:
        processes = [context.Process(target=report, args=(address, n)) for n in range(SENDERS)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        for _ in range(2 * SENDERS + 1):
            message, priority = office.receive_with_priority(timeout_s=5)
            print(f"priority {priority}: {message.decode()}")
    return max(process.exitcode or 0 for process in processes)


if __name__ == "__main__":
    sys.exit(main())
