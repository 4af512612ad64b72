"""A service under asyncio: many clients in one task each, over shared memory.

    python examples/asyncio_service.py

The service, another process, greets each client with a task of its own; all of them, and a clock that
ticks beside them, share one loop and no thread. Ten clients ask at the same time; then the service is
killed, and every one of them hears of it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys

import naru
from naru import aio

ADDRESS = "shm://naru-example-asyncio"
CLIENTS = 10
QUESTIONS = 1000


async def answer(channel: aio.Channel) -> None:
    async with channel:
        async for question in channel:
            await channel.send(b"%d" % (int(question) ** 2))


async def serve() -> None:
    tasks = set()
    async with aio.listen(ADDRESS) as listener:
        async for channel in listener:
            task = asyncio.create_task(answer(channel))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


async def ask(number: int, all_done: asyncio.Barrier) -> tuple[int, str]:
    """The sum of its answers, and how the conversation ended."""
    total = 0
    async with await aio.connect(ADDRESS) as service:
        for question in range(number, QUESTIONS + number):
            await service.send(b"%d" % question)
            total += int(await service.receive(timeout_s=30))
        await all_done.wait()
        try:
            async for _ in service:  # until something comes that nobody asked for, or the end
                return total, "talked out of turn"
        except naru.PeerGoneError:
            return total, "killed"
    return total, "closed"


async def use(service: int) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    all_done = asyncio.Barrier(CLIENTS + 1)
    clock = asyncio.create_task(tick())
    clients = [asyncio.create_task(ask(number, all_done)) for number in range(CLIENTS)]
    await all_done.wait()
    os.kill(service, signal.SIGKILL)
    results = await asyncio.gather(*clients)
    clock.cancel()
    right = [sum(n * n for n in range(first, QUESTIONS + first)) for first in range(CLIENTS)]
    print(f"{CLIENTS} clients, {QUESTIONS} questions each: all answers right: "
          f"{[total for total, _ in results] == right}")  # fmt: skip
    print(f"the clock went on beside them: {ticks > 10}")
    print(f"the service was {', '.join({how for _, how in results})}; everyone heard of it")


def serve_in_a_process() -> None:
    asyncio.run(serve())


def main() -> int:
    process = multiprocessing.get_context("spawn").Process(target=serve_in_a_process)
    process.start()
    assert process.pid is not None
    asyncio.run(use(process.pid))
    process.join()
    with naru.listen(ADDRESS) as successor:
        print(f"its name is free for the next one: {successor.address}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
