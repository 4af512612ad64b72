"""Two web workers share a cache: each page is made once, counted by both, and one worker is killed.

    python examples/shared_cache.py

The parent makes the cache and starts two workers, as gunicorn and uvicorn do. Each answers "requests" for
the same pages: the first that needs a page makes it while the other waits for it. Then one is killed in
the middle of its work; the other goes on, and nothing has to be repaired by hand.
"""

import multiprocessing
import os
import signal
import tempfile
import time

import naru

PAGES = 20
REQUESTS = 2000


def render(cache: naru.Cache, number: int) -> str:
    """Slow on purpose, as a template with its database is."""
    cache.incr("rendered")
    time.sleep(0.002)
    return f"<h1>page {number}</h1>"


def serve(path: str, start, served_all, endless: bool) -> None:
    """What a worker does; it opens the cache by its name."""
    with naru.Cache.open(path) as cache:
        start.wait()
        number = 0
        while endless or number < REQUESTS:
            page = f"page:{number % PAGES}"
            text = cache.get_or_set(page, lambda n=number % PAGES: render(cache, n), ttl_s=60)
            assert text == f"<h1>page {number % PAGES}</h1>"
            cache.incr(f"served:{os.getpid()}")
            number += 1
            if number == REQUESTS:
                served_all.set()


def main() -> None:
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        with naru.Cache.create(f"{folder}/pages", 4 << 20) as cache:
            start, done = context.Barrier(3), [context.Event(), context.Event()]
            name = str(cache.path)
            worker = context.Process(target=serve, args=(name, start, done[0], False))
            victim = context.Process(target=serve, args=(name, start, done[1], True))
            worker.start()
            victim.start()
            start.wait()
            worker.join()
            done[1].wait()  # the victim has served as many, and goes on
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()

            print(f"rendered {cache['rendered']} pages for two workers")
            print(f"one worker served {cache[f'served:{worker.pid}']}")
            print(f"the killed one served at least {REQUESTS}:", end=" ")
            print(cache[f"served:{victim.pid}"] >= REQUESTS)
            cache["after"] = "still writable"
            print(cache["after"], "and sound:", cache.check().sound)
            print(f"hit ratio above 98 %: {cache.statistics().hit_ratio > 0.98}")


if __name__ == "__main__":
    main()
