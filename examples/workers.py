"""A pool of workers: a pair of ends for each, made here and handed over by pickle.

    python examples/workers.py

The parent gives a worker its next job whenever it has answered, whichever worker that is: an end
has a pollable `fileno()`, so `selectors` waits for all of them at once.
"""

from __future__ import annotations

import multiprocessing
import selectors
import struct
import sys

import naru

WORKERS = 3
LIMIT = 400_000
STEP = 5_000
JOB = struct.Struct("<QQ")
ANSWER = struct.Struct("<Q")


def count_primes(first: int, last: int) -> int:
    sieve = bytearray([1]) * last
    sieve[:2] = b"\0\0"
    for number in range(2, int(last**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, last, number)))
    return sum(sieve[first:])


def work(parent: naru.Channel) -> None:
    with parent:
        parent.send(b"")  # ready
        for job in parent:  # ends when the parent closes its end
            parent.send(ANSWER.pack(count_primes(*JOB.unpack(job))))


def run(channels: list[naru.Channel]) -> tuple[int, dict[naru.Channel, int]]:
    """The sum of all answers, and how many jobs each channel did."""
    jobs = [JOB.pack(first, min(first + STEP, LIMIT)) for first in range(0, LIMIT, STEP)]
    total, done = 0, dict.fromkeys(channels, 0)
    with selectors.DefaultSelector() as selector:
        for channel in channels:
            selector.register(channel, selectors.EVENT_READ, channel)
        while selector.get_map():
            for key, _ in selector.select():
                channel = key.data
                while (answer := channel.try_receive()) is not None:
                    if answer:
                        total += ANSWER.unpack(answer)[0]
                        done[channel] += 1
                    if jobs:
                        channel.send(jobs.pop())
                    else:
                        selector.unregister(channel)
    return total, done


def main() -> int:
    context = multiprocessing.get_context("spawn")
    channels, processes = [], []
    for _ in range(WORKERS):
        near, far = naru.pair("shm:?capacity_bytes=64KiB")
        process = context.Process(target=work, args=(far,))
        process.start()
        far.close()  # the worker has its own now
        channels.append(near)
        processes.append(process)
    total, done = run(channels)
    print(f"{total} primes below {LIMIT}")
    for number, channel in enumerate(channels):
        print(f"worker {number}: {done[channel]} jobs")
        channel.close()
    for process in processes:
        process.join()
    return max(process.exitcode or 0 for process in processes)


if __name__ == "__main__":
    sys.exit(main())
