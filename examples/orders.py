"""Orders over shared memory: a shop and a customer talk over one channel.

    python examples/orders.py

The shop listens under a name. The customer, another process, connects to it, sends its orders in
batches and waits for one receipt: both directions of the channel are used.
"""

from __future__ import annotations

import multiprocessing
import struct
import sys
import time

import naru

ADDRESS = "shm://naru-example-orders"
ORDER = struct.Struct("<IId")  # number, pieces, price of a piece
ORDERS = 100_000
BATCH = 64


def order(number: int) -> bytes:
    return ORDER.pack(number, 1 + number % 5, 0.25 * (number % 8))


def customer() -> None:
    with naru.connect(ADDRESS) as shop:
        for first in range(0, ORDERS, BATCH):
            shop.send_many([order(n) for n in range(first, min(first + BATCH, ORDERS))])
        shop.send(b"")  # an empty message is a message: here it says "that is all"
        print(f"customer: receipt: {shop.receive(timeout_s=10).decode()}", flush=True)


def serve(listener: naru.Listener) -> None:
    count, pieces, total = 0, 0, 0.0
    with listener.accept(timeout_s=10) as channel:
        print(f"shop: a customer came: {channel.peer}", flush=True)
        started = time.perf_counter()
        more = True
        while more:
            for message in channel.receive_many(BATCH, timeout_s=10):
                if not message:
                    more = False
                    break
                _, quantity, price = ORDER.unpack(message)
                count += 1
                pieces += quantity
                total += quantity * price
        took_s = time.perf_counter() - started
        print(f"shop: {count} orders in {took_s:.2f} s", flush=True)
        channel.send(f"{count} orders, {pieces} pieces, {total:.2f}".encode())


def main() -> int:
    process = multiprocessing.get_context("spawn").Process(target=customer)
    with naru.listen(ADDRESS) as listener:
        process.start()
        serve(listener)
    process.join()
    return process.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
