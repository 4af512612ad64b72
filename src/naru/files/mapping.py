"""A function over the windows of a file, in several processes, with bounded memory.

Holds: map_reduce. Must not know: how windows are read (windows.py), what a worker does (worker.py).
The file is cut into spans at record boundaries; a worker has one at a time and one more waiting; not
more spans are out than a few for each worker, so the parts that wait for their order are bounded.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from functools import reduce as fold
from multiprocessing.connection import Connection, wait
from typing import Any

from naru._native.scanning import Window
from naru.errors import NaruError
from naru.files.places import Place
from naru.files.windows import (
    WINDOW_BYTES,
    Cutter,
    check_cutting,
    open_whole,
    overlaps_itself,
)
from naru.files.worker import OPERATION, Done, Failed, Job, Span, work

__all__ = ["map_reduce"]

SPAN_BYTES = 64 << 20
# So that all workers end at about the same time, and a small file has work for each.
SPANS_PER_WORKER = 4
AHEAD = 2
GRACE_S = 1.0

_NOTHING: Any = object()


def map_reduce(
    path: str | os.PathLike[str],
    function: Callable[[Window], Any],
    reduce: Callable[[Any, Any], Any],
    *,
    initial: Any = _NOTHING,
    processes: int | None = None,
    boundary: bytes | None = b"\n",
    size_bytes: int = WINDOW_BYTES,
    ordered: bool = True,
    progress: Callable[[int, int], object] | None = None,
    context: str | None = None,
) -> Any:
    """Calls `function(window)` on every window of a file, and folds what it gives.

    The result is `reduce(reduce(reduce(initial, part), part), part)`, as functools.reduce makes it,
    in this process. Blocks until it is done.

    Args:
        path: a regular file.
        function: called in a worker with a Window; what it returns is pickled. With spawn or
            forkserver it is pickled, too: a function of a module, not a lambda.
        reduce: called here with (total, part).
        initial: the first total; without it the first part is that.
        processes: workers; None: the CPUs that this process may use.
        boundary, size_bytes: as for windows().
        ordered: fold in the order of the file; False: as parts come, which needs less memory.
        progress: called with (bytes done, bytes in all).
        context: "fork", "spawn" or "forkserver"; None: what multiprocessing has chosen.

    Returns: the total; of an empty file `initial`, or None.

    Raises:
        NaruError: the function raised, or a worker died; the text names the bytes. What the function
            raised is its __cause__.
        CorruptedError: the file was truncated or replaced meanwhile.
        What reduce and progress raise, and KeyboardInterrupt: all workers are ended first.
    """
    check_cutting(boundary, size_bytes)
    count = processes if processes is not None else len(os.sched_getaffinity(0))
    if count < 1:
        raise ValueError(f"processes must be at least 1, not {processes!r}")
    place = open_whole(path, OPERATION)
    try:
        status = os.fstat(place.fd)
        identity = (status.st_dev, status.st_ino)
        job = Job(os.path.abspath(place.name), identity, function, boundary, size_bytes)
        spans = _spans(place, boundary, size_bytes, count)
        crew = _Crew(job, min(count, -(-place.size_bytes // size_bytes)), context)
        with crew:
            parts = crew.parts(spans, ordered, progress, place.size_bytes)
            if initial is _NOTHING:
                initial = next(parts, None)
            return fold(reduce, parts, initial)
    finally:
        place.close()


def _spans(place: Place, boundary: bytes | None, size_bytes: int, workers: int) -> Iterator[Span]:
    """Cut at records; what lies between is not read, except where records overlap."""
    end = place.size_bytes
    span_bytes = min(SPAN_BYTES, -(-end // (workers * SPANS_PER_WORKER)))
    span_bytes = max(size_bytes, span_bytes)
    begin = number = 0
    while begin < end:
        until = min(begin + span_bytes, end)
        if boundary is not None and until < end:
            until = _record_end(place, boundary, begin, until, end, size_bytes)
        yield Span(number, begin, until)
        begin, number = until, number + 1


def _record_end(
    place: Place, boundary: bytes, begin: int, until: int, end: int, size_bytes: int
) -> int:
    """The first record's end behind `until` minus a window, or what is further if it is longer."""
    if overlaps_itself(boundary):
        cutter = Cutter(place, begin, end, boundary, size_bytes, operation=OPERATION)
        for _ in cutter:
            if cutter.offset >= until:
                break
        return cutter.offset
    look = max(begin, until - size_bytes)
    cutter = Cutter(place, look, end, boundary, until - look, operation=OPERATION)
    next(cutter)
    return cutter.offset


class _Worker:
    def __init__(self, process: Any, line: Connection) -> None:
        self.process, self.line = process, line
        self.spans: deque[Span] = deque()

    def describe_end(self) -> str:
        code = self.process.exitcode
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        return f"worker {self.process.pid} died ({how})"


class _Crew:
    """The workers; leaving its `with` block ends them, in whatever state they are."""

    def __init__(self, job: Job, count: int, context: str | None) -> None:
        self._job, self._count = job, count
        self._context: Any = multiprocessing.get_context(context)
        self._workers: list[_Worker] = []

    def __enter__(self) -> _Crew:
        try:
            for _ in range(self._count):
                self._workers.append(self._start())
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        forks = self._context.get_start_method() == "fork"
        others = [worker.line for worker in self._workers] + [ours] if forks else []
        process = self._context.Process(
            target=work, args=(self._job, theirs, others), daemon=True, name="naru map_reduce"
        )
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return _Worker(process, ours)

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(GRACE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()
            worker.line.close()
        self._workers.clear()

    def parts(
        self,
        spans: Iterator[Span],
        ordered: bool,
        progress: Callable[[int, int], object] | None,
        total_bytes: int,
    ) -> Iterator[Any]:
        """What the function gave, span after span."""
        finished: dict[int, Done] = {}
        turn = done_bytes = 0
        out = 0  # spans that were given and not yet folded
        more = True
        while True:
            for worker in self._workers:
                while more and len(worker.spans) < AHEAD and out < 2 * AHEAD * self._count:
                    span = next(spans, None)
                    if span is None:
                        more = False
                        break
                    self._give(worker, span)
                    out += 1
            if out == 0:
                return
            for done in self._receive():
                done_bytes += done.span.end - done.span.begin
                if progress is not None:
                    progress(done_bytes, total_bytes)
                finished[done.span.number] = done
            while finished:
                number = turn if ordered else next(iter(finished))
                ready = finished.pop(number, None)
                if ready is None:
                    break
                turn, out = turn + 1, out - 1
                yield from ready.parts

    def _give(self, worker: _Worker, span: Span) -> None:
        worker.spans.append(span)
        try:
            worker.line.send(span)
        except OSError as error:
            raise self._death_of(worker) from error

    def _receive(self) -> list[Done]:
        """Waits for at least one. Raises for the first failure or death."""
        busy = [worker for worker in self._workers if worker.spans]
        lines: list[Any] = [worker.line for worker in busy]
        ready = wait(lines + [worker.process.sentinel for worker in busy])
        found = []
        for worker in busy:
            if worker.line not in ready and worker.process.sentinel not in ready:
                continue
            try:
                if worker.line in ready or worker.line.poll():
                    found.append(self._read(worker))
                else:
                    raise EOFError
            except (EOFError, ConnectionError) as error:
                raise self._death_of(worker) from error
        return found

    def _read(self, worker: _Worker) -> Done:
        answer = worker.line.recv()
        worker.spans.popleft()
        if isinstance(answer, Failed):
            raise _error_of(answer, self._job.path)
        found: Done = answer
        return found

    def _death_of(self, worker: _Worker) -> NaruError:
        worker.process.join(GRACE_S)
        span = worker.spans[0]
        text = (
            f'{OPERATION} "{self._job.path}": {worker.describe_end()} in the windows from byte '
            f"{span.begin} to {span.end}; nothing was lost of the file, the result is not whole"
        )
        return NaruError(text, operation=OPERATION, address=self._job.path)


def _error_of(failed: Failed, path: str) -> NaruError:
    if isinstance(failed.error, NaruError):
        return failed.error
    last = failed.story.strip().splitlines()[-1]
    text = (
        f'{OPERATION} "{path}": the function failed in the window at byte {failed.offset}: {last}'
    )
    error = NaruError(text, operation=OPERATION, address=path)
    error.__cause__ = failed.error
    error.add_note(failed.story)
    return error
