"""What the tests of channels and transports share (FAULTS 1-33).

Holds: the transports by shape, fresh addresses, numbers that outlive a kill, a fresh interpreter.
Must not know: any single fault. Messages that prove themselves, children that can be killed and a
lossy wire are naru.testing's.
"""

from __future__ import annotations

import itertools
import mmap
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import naru
from naru.testing.ledger import LedgerReader

__all__ = [
    "CHANNELS",
    "PAIRS",
    "QUEUES",
    "SharedNumbers",
    "connected",
    "drain",
    "error_of",
    "files_below",
    "fresh_address",
    "pair_address",
    "run_python",
    "scaled",
    "sender_to",
    "with_options",
]

PAIRS = ("shm", "pipe", "unix", "tcp", "udp")
CHANNELS = ("shm", "shm-path", "unix", "abstract", "tcp", "udp")
QUEUES = ("shm", "unix", "abstract", "tcp", "udp", "fifo", "mq")


def scaled(ordinary: int, soak: int) -> int:
    """How often: few in every run, many with NARU_SOAK=1."""
    return soak if os.environ.get("NARU_SOAK") else ordinary


# ---- addresses ----

_numbers = itertools.count(1)


def fresh_address(kind: str, directory: str, **options: object) -> str:
    """An address that nobody has; files, if any, lie in `directory`."""
    name = f"fault-{os.getpid()}-{next(_numbers)}"
    address = {
        "shm": f"shm://{name}",
        "shm-path": f"shm://{directory}/{name}.shm",
        "unix": f"unix://{directory}/{name}.sock",
        "abstract": f"unix:@{name}",
        "datagram": f"unix://{directory}/{name}.dgram?datagram=1",
        "tcp": "tcp://127.0.0.1:0",
        "udp": "udp://127.0.0.1:0",
        "fifo": f"fifo://{directory}/{name}.fifo",
        "mq": f"mq:///{name}",
    }[kind]
    return with_options(address, **options)


def with_options(address: object, **options: object) -> str:
    """The address with these options behind it."""
    text = str(address)
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"{text}{'&' if '?' in text else '?'}{query}" if query else text


def pair_address(kind: str, **options: object) -> str:
    """What naru.pair takes."""
    return with_options(f"{kind}:", **options) if options else kind


# ---- processes ----


def run_python(
    code: str, *args: object, timeout_s: float = 60, prefix: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that runs `code`, which may import naru and this module."""
    paths = [os.path.dirname(__file__), *sys.path]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **env}
    return subprocess.run(
        [*prefix, sys.executable, "-c", code, *map(str, args)],
        capture_output=True, text=True, timeout=timeout_s, env=variables, check=False,
    )  # fmt: skip


class SharedNumbers:
    """Whole numbers that a parent and its children all see, also after a kill."""

    def __init__(self, count: int) -> None:
        self._map = mmap.mmap(-1, 8 * count)
        self._numbers = memoryview(self._map).cast("Q")

    def __getitem__(self, index: int) -> int:
        return self._numbers[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._numbers[index] = value

    def __enter__(self) -> SharedNumbers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._numbers.release()
        self._map.close()


# ---- what ends are asked ----


def connected(listener: Any, timeout_s: float = 5.0) -> tuple[Any, Any]:
    """A client and the server's end of it, both in this process."""
    made: list[Any] = []

    def connect() -> None:
        made.append(naru.connect(listener.address, timeout_s=timeout_s))

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        accepted = listener.accept(timeout_s=timeout_s)
    finally:
        thread.join()
    return made[0], accepted


def sender_to(receiver: Any, timeout_s: float = 10.0, **options: object) -> Any:
    """A sender to a receiver of this very thread, which has to let it in. No message may be there."""
    made: list[Any] = []

    def connect() -> None:
        made.append(naru.sender(with_options(receiver.address, **options), timeout_s=timeout_s))

    thread = threading.Thread(target=connect)
    thread.start()
    while thread.is_alive():
        assert receiver.try_receive() is None
        thread.join(0.001)
    return made[0]


def drain(receiver: Any, reader: LedgerReader) -> None:
    """Books everything that is there now; stops at the first moment without a message."""
    poll = select.poll()
    poll.register(receiver, select.POLLIN)
    while True:
        message = receiver.try_receive()
        if message is not None:
            reader.add(message)
        elif not poll.poll(50):
            return


def error_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The exception that a call raises; None when it does not."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return error
    return None


def files_below(directory: str) -> list[str]:
    """Every file, socket and FIFO in a directory and its folders."""
    return sorted(f"{at}/{name}" for at, _, names in os.walk(directory) for name in names)
