"""map_reduce over real processes: the right total, and no hang however a worker ends."""

from __future__ import annotations

import operator
import os
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import naru
from naru.files import Window, map_reduce
from naru.testing import Child, Events

pytestmark = pytest.mark.watchdog(seconds=60)

LINES = [b"%d,%s" % (number, b"x" * (number % 90)) for number in range(20_000)]


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nm-") as folder:
        file = Path(folder) / "file"
        file.write_bytes(b"\n".join(LINES) + b"\n")
        yield file


def count(window: Window) -> int:
    return window.count_lines()


def lines(window: Window) -> list[bytes]:
    return [bytes(line) for line in window.lines()]


def lengths(window: Window) -> Counter[int]:
    return Counter(len(line) for line in window.lines())


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("size_bytes", [1000, 1 << 20])
def test_totals(path: Path, processes: int, ordered: bool, size_bytes: int) -> None:
    options = {"processes": processes, "ordered": ordered, "size_bytes": size_bytes}
    assert map_reduce(path, count, operator.add, **options) == len(LINES)  # type: ignore[arg-type]
    found = map_reduce(path, lines, operator.add, initial=[], **options)  # type: ignore[arg-type]
    assert found == LINES if ordered else sorted(found) == sorted(LINES)
    lengths_found = map_reduce(path, lengths, operator.add, **options)  # type: ignore[arg-type]
    assert lengths_found == Counter(map(len, LINES))


@pytest.mark.may_leak  # multiprocessing's resource tracker and fork server stay
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_other_ways_to_start(path: Path, context: str) -> None:
    assert map_reduce(path, count, operator.add, processes=2, context=context) == len(LINES)


@pytest.mark.parametrize("boundary", [b"\n\n", None])
def test_boundaries_that_overlap_and_none(path: Path, boundary: bytes | None) -> None:
    path.write_bytes(b"\n" * 9_999 + b"x")
    found = map_reduce(path, bytes, operator.add, boundary=boundary, size_bytes=64, processes=2)
    assert found == path.read_bytes()


def test_empty(path: Path) -> None:
    path.write_bytes(b"")
    assert map_reduce(path, count, operator.add) is None
    assert map_reduce(path, count, operator.add, initial=7) == 7


def test_progress_comes_to_the_end(path: Path) -> None:
    told: list[tuple[int, int]] = []
    map_reduce(
        path, count, operator.add, processes=2, size_bytes=10_000,
        progress=lambda done, whole: told.append((done, whole)),
    )  # fmt: skip
    size = path.stat().st_size
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def fail_at_15000(window: Window) -> int:
    for line in window.lines():
        if bytes(line).startswith(b"15000,"):
            raise ValueError("no such thing as 15000")
    return 0


class StubbornError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("one argument only: pickle cannot make it again")


def fail_stubbornly(window: Window) -> int:
    raise StubbornError(1, 2)


def test_what_the_function_raises_is_told_with_its_offset(path: Path) -> None:
    with pytest.raises(
        naru.NaruError, match=r"in the window at byte \d+: ValueError: no such"
    ) as e:
        map_reduce(path, fail_at_15000, operator.add, processes=2, size_bytes=10_000)
    assert isinstance(e.value.__cause__, ValueError)
    assert any("fail_at_15000" in note for note in e.value.__notes__)
    offset = int(str(e.value).split("at byte ")[1].split(":")[0])
    at = path.read_bytes().index(b"\n15000,") + 1
    assert offset <= at < offset + 10_000
    with pytest.raises(naru.NaruError, match="one argument only"):
        map_reduce(path, fail_stubbornly, operator.add, processes=2)


def unpicklable(window: Window) -> object:
    return lambda: window


def test_a_part_that_cannot_be_pickled(path: Path) -> None:
    with pytest.raises(naru.NaruError, match="pickle"):
        map_reduce(path, unpicklable, operator.add, processes=2)


def die(window: Window) -> int:
    if window.offset > 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def leave(window: Window) -> int:
    os._exit(3)


def test_a_killed_worker_is_told_with_its_bytes(path: Path) -> None:
    told = r"worker \d+ died \(SIGKILL\) in the windows from byte \d+ to \d+"
    with pytest.raises(naru.NaruError, match=told):
        map_reduce(path, die, operator.add, processes=2, size_bytes=10_000)
    with pytest.raises(naru.NaruError, match=r"exit code 3"):
        map_reduce(path, leave, operator.add, processes=2, size_bytes=10_000)


def stuck(window: Window) -> int:
    with open(os.environ["NARU_TEST_FIFO"], "wb", buffering=0) as fifo:
        fifo.write(b"%d\n" % os.getpid())
        signal.pause()
    return 0


@pytest.fixture
def fifo(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = path.with_name("fifo")
    os.mkfifo(made)
    monkeypatch.setenv("NARU_TEST_FIFO", os.fspath(made))
    return made


def test_a_worker_killed_from_outside_while_it_works(path: Path, fifo: Path) -> None:
    def kill_the_first() -> None:
        with open(fifo, "rb") as words:
            os.kill(int(words.readline()), signal.SIGKILL)
            words.read()  # until both are gone

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    with pytest.raises(naru.NaruError, match="SIGKILL"):
        map_reduce(path, stuck, operator.add, processes=2, size_bytes=10_000)
    killer.join()


def run_stuck(events: Events, path: str) -> None:
    events.tell("begin")
    try:
        map_reduce(path, stuck, operator.add, processes=2, size_bytes=10_000)
    except KeyboardInterrupt:
        events.tell("interrupted")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_ends_all_workers(path: Path, fifo: Path) -> None:
    with Child.run(run_stuck, os.fspath(path)) as child:
        child.expect("begin")
        with open(fifo, "rb") as words:
            pids = [int(words.readline()), int(words.readline())]
            child.send_signal(signal.SIGINT)
            child.expect("interrupted")
            assert words.read() == b""
        assert child.wait() == 0
    assert not [pid for pid in pids if is_alive(pid)]


def test_a_killed_parent_leaves_no_worker(path: Path, fifo: Path) -> None:
    with Child.run(run_idle, os.fspath(path)) as child:
        with open(fifo, "rb") as words:
            assert int(words.readline())
            child.kill()
            words.read()  # ends when every worker that has it open is gone


def test_a_killed_parent_leaves_no_worker_that_is_busy(path: Path, fifo: Path) -> None:
    with Child.run(run_stuck, os.fspath(path)) as child:
        with open(fifo, "rb") as words:
            assert int(words.readline())
            child.kill()
            words.read()


held = []


def hold_fifo(window: Window) -> int:
    """Holds the FIFO open for the worker's life, and lets the parent wait in its reduce."""
    if not held:
        fd = os.open(os.environ["NARU_TEST_FIFO"], os.O_WRONLY)
        held.append(fd)
        os.write(fd, b"%d\n" % os.getpid())
    return 0


def wait_for_ever(total: int, part: int) -> int:
    signal.pause()
    return 0


def run_idle(events: Events, path: str) -> None:
    map_reduce(path, hold_fifo, wait_for_ever, processes=2, size_bytes=10_000)


def test_what_reduce_raises_ends_all(path: Path) -> None:
    def refuse(total: object, part: object) -> object:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        map_reduce(path, count, refuse, processes=2, size_bytes=10_000)


def test_what_is_asked_for_wrongly(path: Path) -> None:
    with pytest.raises(ValueError, match="processes"):
        map_reduce(path, count, operator.add, processes=0)
    with pytest.raises(ValueError, match="boundary"):
        map_reduce(path, count, operator.add, boundary=b"")
    with pytest.raises(naru.NoSuchNameError):
        map_reduce("missing", count, operator.add)


def test_a_file_truncated_meanwhile(path: Path) -> None:
    def cut(total: int, part: int) -> int:
        os.truncate(path, 100)
        return total + part

    with pytest.raises(
        naru.CorruptedError, match=r"the file ended at byte \d+ of \d+: it was trunc"
    ):
        map_reduce(path, count, cut, processes=1, size_bytes=1000)


def test_a_file_replaced_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the cutting and the worker's open: it is another file, and is not read."""
    from naru.files import worker

    real = worker.open_whole

    def replaced(thing: str, operation: str) -> object:
        other = path.with_name("other")
        other.write_bytes(b"another\n")
        os.replace(other, path)
        return real(thing, operation)

    monkeypatch.setattr(worker, "open_whole", replaced)  # inherited by fork
    with pytest.raises(naru.CorruptedError, match="replaced by another"):
        map_reduce(path, count, operator.add, processes=1, context="fork")
