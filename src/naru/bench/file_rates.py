"""What moving and looking through files costs here, beside the usual ways in the same run.

Holds: the contenders of `naru bench files`, the measuring, the report and its table. Must not know:
options of a command. Every repeat runs all contenders of a group one after the other, and a ratio is
the median of the ratios inside the repeats: a machine that gets slower in between changes none.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import resource
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naru.bench.machine import Machine, describe
from naru.files import count_lines, transfer, windows

__all__ = ["FileRate", "FileReport", "measure", "render", "to_json"]

SCHEMA = "naru-bench-files/1"
PIECE_BYTES = 1 << 20
LINE = b"2026-01-01T00:00:00Z GET /static/app.js 200 1532 0.0012 curl/8.0\n"

Progress = Callable[[float, str], object]


@dataclass(frozen=True)
class FileRate:
    """One contender of one group."""

    group: str
    name: str
    seconds: list[float]
    """Of each repeat."""
    cpu_s: list[float]
    """Of this process, in each repeat; of a program that was started, its own."""
    gb_per_s: float
    """Of the median."""
    of_peer: float | None
    """Rate as a share of the group's peer, median over the repeats; None: it is the peer."""


@dataclass(frozen=True)
class FileReport:
    """Everything that was measured."""

    machine: Machine
    size_bytes: int
    repeats: int
    rates: list[FileRate]
    notes: list[str]


@dataclass(frozen=True)
class _Group:
    name: str
    peer: str
    runs: dict[str, Callable[[], None]]


def measure(
    size_bytes: int, repeats: int, progress: Progress = lambda share, what: None
) -> FileReport:
    """Makes a text file of that size, and runs everything on it. Raises OSError, NaruError."""
    machine, notes = describe(), list[str]()
    samples: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="naru-bench-") as folder:
        path = Path(folder) / "lines"
        _write(path, size_bytes)
        with _groups(path, notes) as groups:
            works = [(group, name) for group in groups for name in group.runs]
            total = len(works) * (repeats + 1)
            for repeat in range(repeats + 1):
                for at, (group, name) in enumerate(works):
                    progress((repeat * len(works) + at) / total, f"{group.name}: {name}")
                    took = _time(group.runs[name])
                    if repeat > 0:  # the first one warms the page cache
                        samples.setdefault((group.name, name), []).append(took)
    rates = [_rate(group, name, samples, size_bytes) for group, name in works]
    return FileReport(machine, size_bytes, repeats, rates, notes)


def _time(run: Callable[[], None]) -> tuple[float, float]:
    before_s, began_s = _cpu_s(), time.perf_counter()
    run()
    seconds = time.perf_counter() - began_s
    return seconds, _cpu_s() - before_s


def _cpu_s() -> float:
    """Of this process and of those that it has waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _rate(
    group: _Group, name: str, samples: dict[tuple[str, str], list[tuple[float, float]]], size: int
) -> FileRate:
    own, peer = samples[group.name, name], samples[group.name, group.peer]
    shares = [theirs[0] / ours[0] for ours, theirs in zip(own, peer, strict=True)]
    seconds = [one[0] for one in own]
    return FileRate(
        group.name,
        name,
        seconds,
        [one[1] for one in own],
        size / statistics.median(seconds) / 1e9,
        None if name == group.peer else statistics.median(shares),
    )


# ---- what is run ----


def _write(path: Path, size_bytes: int) -> None:
    block = LINE * (PIECE_BYTES // len(LINE))
    with open(path, "wb") as file:
        left = size_bytes
        while left > 0:
            left -= file.write(block[:left])


@contextmanager
def _groups(path: Path, notes: list[str]) -> Iterator[list[_Group]]:
    with _sink(socket.AF_UNIX) as unix, _sink(socket.AF_INET) as tcp:
        yield [
            _to_socket("file to a Unix socket", path, unix),
            _to_socket("file to TCP, loopback", path, tcp),
            _to_file(path),
            _lines(path, notes),
        ]


@contextmanager
def _sink(family: int) -> Iterator[socket.socket]:
    """A socket whose other end is a process that reads and throws away."""
    if family == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs = server.accept()[0]
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            piece = bytearray(PIECE_BYTES)
            while theirs.recv_into(piece):
                pass
        finally:
            os._exit(0)
    theirs.close()
    try:
        yield ours
    finally:
        # shutdown, because a sink that was forked later holds this end, too.
        ours.shutdown(socket.SHUT_RDWR)
        ours.close()
        os.waitpid(pid, 0)


def _to_socket(name: str, path: Path, target: socket.socket) -> _Group:
    def sendfile() -> None:
        with open(path, "rb") as file:
            at, end = 0, path.stat().st_size
            while at < end:
                at += os.sendfile(target.fileno(), file.fileno(), at, end - at)

    def loop() -> None:
        piece = memoryview(bytearray(PIECE_BYTES))
        with open(path, "rb", buffering=0) as file:
            while got := file.readinto(piece):
                target.sendall(piece[:got])

    def naru() -> None:
        transfer(path, target)

    runs = {"naru.files.transfer": naru, "os.sendfile": sendfile, "read, send 1 MiB": loop}
    return _Group(name, "os.sendfile", runs)


def _to_file(path: Path) -> _Group:
    copy = path.with_name("copy")

    def loop() -> None:
        piece = memoryview(bytearray(PIECE_BYTES))
        with open(path, "rb", buffering=0) as file, open(copy, "wb", buffering=0) as target:
            while got := file.readinto(piece):
                target.write(piece[:got])

    runs: dict[str, Callable[[], None]] = {
        "naru.files.transfer": lambda: _drop(transfer(path, copy)),
        "shutil.copyfile": lambda: _drop(shutil.copyfile(path, copy)),
        "read, write 1 MiB": loop,
    }
    return _Group("file to a file", "shutil.copyfile", runs)


def _lines(path: Path, notes: list[str]) -> _Group:
    def by_windows() -> None:
        _drop(sum(window.count_lines() for window in windows(path)))

    def loop() -> None:
        count = 0
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                count += piece.count(b"\n")

    def wc() -> None:
        subprocess.run(["wc", "-l", path], stdout=subprocess.DEVNULL, check=True)

    runs: dict[str, Callable[[], None]] = {
        "naru.files.count_lines": lambda: _drop(count_lines(path)),
        "naru.files.count_lines, 2 threads": lambda: _drop(count_lines(path, threads=2)),
        "naru.files.windows, count_lines": by_windows,
        "read 1 MiB, bytes.count": loop,
    }
    peer = "wc -l" if shutil.which("wc") else "read 1 MiB, bytes.count"
    if shutil.which("wc"):
        runs["wc -l"] = wc
    numpy = _numpy(notes)
    if numpy is not None:
        runs["numpy on a map"] = lambda: _count_mapped(numpy, path)
    return _Group("counting lines", peer, runs)


def _numpy(notes: list[str]) -> Any:
    try:
        import numpy
    except ImportError:
        notes.append("numpy is not here (naru-ipc[arrays]): its row is missing")
        return None
    return numpy


def _count_mapped(numpy: Any, path: Path) -> None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        data = numpy.frombuffer(mapped, "u1")
        for at in range(0, len(data), PIECE_BYTES):
            numpy.count_nonzero(data[at : at + PIECE_BYTES] == 10)
        del data


def _drop(result: object) -> None:
    """What a contender gives is not looked at; the tests do that."""


# ---- what people look at ----


def to_json(report: FileReport) -> bytes:
    """Everything, for programs."""
    record = {"schema": SCHEMA, **dataclasses.asdict(report)}
    return json.dumps(record, indent=1).encode() + b"\n"


def render(report: FileReport) -> str:
    """A table a group."""
    mib = report.size_bytes / (1 << 20)
    machine = report.machine
    lines = [
        f"a file of {mib:,.0f} MiB in the page cache, median of {report.repeats}; "
        f"{machine.cpu}, {machine.cores_online} cores, Linux {machine.kernel}"
    ]
    width = max(len(rate.name) for rate in report.rates)
    group = ""
    for rate in report.rates:
        if rate.group != group:
            group = rate.group
            lines += ["", f"{group:{width}}    GB/s  CPU s/GB  of peer"]
        share = "peer" if rate.of_peer is None else f"{rate.of_peer:.2f}"
        cpu = statistics.median(rate.cpu_s) / (report.size_bytes / 1e9)
        lines.append(f"{rate.name:{width}}  {rate.gb_per_s:6.2f}  {cpu:8.3f}  {share:>7}")
    lines += ["", *report.notes] if report.notes else []
    return "\n".join(lines) + "\n"
