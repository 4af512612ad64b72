"""One process publishes prices; three subscribe, each with another idea of what to do when slow.

    python examples/publish_subscribe.py

The ledger must not miss a price, so the publisher waits for it ("block"). The chart may miss some,
and knows how many ("drop_oldest"). The display wants the newest only ("latest").
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier
from typing import Any

import naru

PRICES = 20_000
ADDRESS = "shm://example-prices?capacity_bytes=65536"


def subscribe(name: str, policy: Any, pause_s: float, everybody_is_here: Barrier) -> None:
    with naru.subscriber(ADDRESS, policy) as prices:
        everybody_is_here.wait(10)
        received, last = 0, 0
        for message in prices:
            received += 1
            last = int(message)
            if pause_s and received % 100 == 0:
                time.sleep(pause_s)  # work that takes longer than a price takes to come
        total = received + prices.lost
        print(f"{name}: {received} received, {prices.lost} lost, {total} in all, last {last}")


def main() -> int:
    context = multiprocessing.get_context("spawn")
    everybody_is_here = context.Barrier(4)
    readers = [
        context.Process(target=subscribe, args=(*reader, everybody_is_here))
        for reader in (
            ("ledger", "block", 0.0),
            ("chart", "drop_oldest", 0.01),
            ("display", "latest", 0.01),
        )
    ]
    with naru.publisher(ADDRESS) as prices:
        for reader in readers:
            reader.start()
        everybody_is_here.wait(10)
        for one in prices.subscribers:
            print(f"publisher: a subscriber in process {one.peer.pid if one.peer else '?'}")
        for number in range(PRICES):
            prices.publish(b"%d" % number)
    for reader in readers:
        reader.join()
    return max(reader.exitcode or 0 for reader in readers)


if __name__ == "__main__":
    sys.exit(main())
