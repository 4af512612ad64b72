"""What the fault tests share: messages that prove themselves, a ledger, child processes.

Holds: `make_message`/`Ledger` (sender, sequence, CRC32; lost, duplicated, reordered, torn), `Child` (a
forked process that reports by lines), `run_python` (a fresh interpreter), addresses of every
transport, counts of what a process holds.
Must not know: any single fault.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SOAK = os.environ.get("NARU_SOAK") == "1"

PAIRS = ("shm", "pipe", "unix", "tcp", "udp")
CHANNELS = ("shm", "unix", "abstract", "tcp", "udp")
QUEUES = ("shm", "unix", "abstract", "tcp", "udp", "fifo", "mq")
RELIABLE_PAIRS = tuple(kind for kind in PAIRS if kind != "udp")
RELIABLE_QUEUES = tuple(kind for kind in QUEUES if kind != "udp")


def scaled(ordinary: int, soak: int) -> int:
    """How often: few in every run, many with NARU_SOAK=1."""
    return soak if SOAK else ordinary


# ---- messages ----

_HEADER = struct.Struct("<IQI")  # sender, sequence, CRC32 of both and of the payload
HEADER_BYTES = _HEADER.size
_NOISE = random.Random(7).randbytes(2 << 20)


def make_message(sender: int, sequence: int, size_bytes: int = 64) -> bytes:
    """A message of exactly `size_bytes` (at least HEADER_BYTES) that can be checked by itself."""
    start = (sender * 7919 + sequence * 131) % (1 << 20)
    payload = _NOISE[start : start + size_bytes - HEADER_BYTES]
    crc = zlib.crc32(payload, zlib.crc32(struct.pack("<IQ", sender, sequence)))
    return _HEADER.pack(sender, sequence, crc) + payload


class Ledger:
    """What came, by sender; nothing is forgiven and everything is counted."""

    def __init__(self) -> None:
        self.torn = 0
        self.duplicates = 0
        self.reordered = 0
        self.seen: dict[int, set[int]] = {}
        self._last: dict[int, int] = {}

    def take(self, message: bytes) -> int:
        """Books a message; returns its sequence, -1 when it is torn."""
        if len(message) < HEADER_BYTES:
            self.torn += 1
            return -1
        sender, sequence, crc = _HEADER.unpack_from(message)
        body = zlib.crc32(message[HEADER_BYTES:], zlib.crc32(struct.pack("<IQ", sender, sequence)))
        if body != crc:
            self.torn += 1
            return -1
        seen = self.seen.setdefault(sender, set())
        if sequence in seen:
            self.duplicates += 1
        elif sequence < self._last.get(sender, -1):
            self.reordered += 1
        seen.add(sequence)
        self._last[sender] = max(sequence, self._last.get(sender, -1))
        return int(sequence)

    def count(self, sender: int = 0) -> int:
        return len(self.seen.get(sender, ()))

    def missing(self, sender: int = 0) -> list[int]:
        """The gaps below the highest sequence that came."""
        seen = self.seen.get(sender, set())
        return [number for number in range(max(seen, default=-1) + 1) if number not in seen]

    def faults(self) -> dict[str, int]:
        return {
            "torn": self.torn, "duplicates": self.duplicates, "reordered": self.reordered,
            "missing": sum(len(self.missing(sender)) for sender in self.seen),
        }  # fmt: skip

    def assert_flawless(self) -> None:
        """A prefix of what each sender sent, in order, each once, whole."""
        assert self.faults() == {"torn": 0, "duplicates": 0, "reordered": 0, "missing": 0}

    def assert_complete(self, count_of_sender: dict[int, int]) -> None:
        self.assert_flawless()
        assert {sender: len(seen) for sender, seen in self.seen.items()} == count_of_sender


# ---- processes ----


class Child:
    """A forked process that runs `function(say, *args)`; `say(text)` sends a line to the parent.

    It never returns into the test runner: it ends with status 0, or 1 and its traceback as lines.
    """

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        read_end, write_end = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # 3.12 warns of forks with threads about; a heartbeat's thread takes no lock of ours.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            os.close(read_end)
            self._run(function, args, write_end)
        os.close(write_end)
        self._lines = os.fdopen(read_end, encoding="utf-8")
        self._status: int | None = None

    @staticmethod
    def _run(function: Callable[..., object], args: tuple[object, ...], write_end: int) -> None:
        status = 1
        try:
            signal.alarm(300)  # its test's watchdog ends the parent only

            def say(text: object) -> None:
                os.write(write_end, f"{text}\n".encode())

            try:
                function(say, *args)
                status = 0
            except BaseException:
                say("traceback:\n" + traceback.format_exc())
        finally:
            os._exit(status)

    def hear(self) -> str:
        """The next line; "" when it is dead."""
        return self._lines.readline().rstrip("\n")

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """SIGSTOP, and it has stopped when this returns."""
        self.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def go_on(self) -> None:
        self.send_signal(signal.SIGCONT)

    def is_dead(self) -> bool:
        """Reaps it when it is."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is not None

    def wait(self) -> int:
        """Its exit code; -N for signal N."""
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(self._status)

    def kill(self) -> None:
        if not self.is_dead():
            self.send_signal(signal.SIGKILL)
            self.wait()

    def finish(self) -> list[str]:
        """Waits for its good end; returns the lines that were not heard yet."""
        lines = self._lines.read().splitlines()
        code = self.wait()
        assert code == 0, (code, lines)
        return lines

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        self._lines.close()


def run_python(
    code: str, *args: object, timeout_s: float = 60, prefix: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that runs `code`; helpers and naru can be imported there."""
    paths = [str(Path(__file__).parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | env
    return subprocess.run(
        [*prefix, sys.executable, "-c", code, *map(str, args)],
        capture_output=True, text=True, timeout=timeout_s, env=environment, check=False,
    )  # fmt: skip


class SharedCounters:
    """Numbers that a parent and its children both see, also after a kill."""

    def __init__(self, count: int) -> None:
        self._map = mmap.mmap(-1, 8 * count)
        self._numbers = memoryview(self._map).cast("Q")

    def __getitem__(self, index: int) -> int:
        return self._numbers[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._numbers[index] = value

    def close(self) -> None:
        self._numbers.release()
        self._map.close()

    def __enter__(self) -> SharedCounters:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


# ---- names ----

_numbers = itertools.count(1)


def fresh_address(kind: str, directory: str) -> str:
    """An address that nobody has; files, if any, lie in `directory`."""
    name = f"fault-{os.getpid()}-{next(_numbers)}"
    return {
        "shm": f"shm://{name}",
        "shm-path": f"shm://{directory}/{name}.shm",
        "unix": f"unix://{directory}/{name}.sock",
        "abstract": f"unix:@{name}",
        "tcp": "tcp://127.0.0.1:0",
        "udp": "udp://127.0.0.1:0",
        "fifo": f"fifo://{directory}/{name}.fifo",
        "mq": f"mq:///{name}",
    }[kind]


def with_options(address: str, **options: object) -> str:
    """The address with options behind it."""
    query = "&".join(f"{name}={value}" for name, value in options.items())
    if not query:
        return address
    if ":" in address and address.endswith(":"):
        return f"{address}?{query}"
    return f"{address}{'&' if '?' in address else '?'}{query}"


def pair_address(kind: str, **options: object) -> str:
    """What naru.pair takes."""
    return with_options(f"{kind}:", **options) if options else kind


# ---- what a process holds ----


def open_fds() -> dict[int, str]:
    """The descriptors of this process and what they are."""
    found = {}
    for text in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(text)] = os.readlink(f"/proc/self/fd/{text}")
    return found


@contextlib.contextmanager
def no_new_fds() -> Iterator[None]:
    """The block leaves as many descriptors as it found."""
    gc.collect()
    before = open_fds()
    yield
    gc.collect()
    after = open_fds()
    new = {fd: what for fd, what in after.items() if before.get(fd) != what}
    assert len(after) <= len(before), f"left open: {new}"


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


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
