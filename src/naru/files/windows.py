"""A huge file in windows of whole records, through memory that is used again and again.

Holds: windows, count_lines, and the cutting that map_reduce shares with them. Must not know:
processes. The bytes are read, not mapped: a file truncated meanwhile is then a short read and an error
that names the byte, where a map would be a SIGBUS; and 1 MiB read again and again into memory that
stays in the processor's cache is quicker than a map (docs/files.md has the figures).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

from naru._native.scanning import Memory, Window, count_in_file
from naru.errors import NaruError, TooBigError, UnsupportedError
from naru.files.failures import failed, shortened
from naru.files.places import Place, Thing, open_source

__all__ = ["RECORD_LIMIT_BYTES", "WINDOW_BYTES", "Cutter", "Windows", "count_lines", "windows"]

WINDOW_BYTES = 1 << 20
# What is only counted is read into less: it then leaves room for the file's pages in the cache.
BLOCK_BYTES = 256 << 10
RECORD_LIMIT_BYTES = 256 << 20
PROGRESS_S = 0.1
OPERATION = "files.windows"

Progress = Callable[[int, int], object]


class Cutter:
    """Reads windows of [begin, end) of an open file, one after the other."""

    def __init__(
        self,
        place: Place,
        begin: int,
        end: int,
        boundary: bytes | None,
        size_bytes: int,
        record_limit_bytes: int = RECORD_LIMIT_BYTES,
        operation: str = OPERATION,
    ) -> None:
        check_cutting(boundary, size_bytes)
        self._place, self._offset, self._end = place, begin, end
        self._boundary, self._size, self._limit = boundary, size_bytes, record_limit_bytes
        self._operation = operation
        self._from_left = boundary is not None and overlaps_itself(boundary)
        self._memory: Memory | None = None
        self._window: Window | None = None
        self._number = 0

    @property
    def offset(self) -> int:
        """Where the next window begins."""
        return self._offset

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        if self._offset >= self._end:
            self._look_behind()
            raise StopIteration
        self.release()
        size = min(self._size, self._end - self._offset)
        memory = self._memory_of(size)
        self._fill(memory, 0, size)
        cut = self._cut(memory, size)
        while cut is None:
            memory, size = self._grow(memory, size)
            cut = self._cut(memory, size)
        window = Window(memory, cut, self._offset, self._number, self._boundary or b"\n")
        self._window, self._number = window, self._number + 1
        self._offset += cut
        return window

    def release(self) -> None:
        """The window before; its memory is used again unless somebody still looks at it."""
        if self._window is not None:
            if not self._window.release():
                self._memory = None
            self._window = None

    def _memory_of(self, size: int) -> Memory:
        room = min(self._size, max(size, 1))
        # One that grew for a long record is given back, so that memory stays bounded by the window.
        if self._memory is None or not room <= self._memory.size_bytes <= self._size:
            self._memory = Memory(room)
        return self._memory

    def _fill(self, memory: Memory, begin: int, size: int) -> None:
        place = self._place
        try:
            got = memory.read_at(place.fd, self._offset + begin, begin, size)
        except OSError as error:
            raise failed(error, self._operation, place.name, self._offset + begin) from error
        if got < size:
            at = self._offset + begin + got
            raise shortened(self._operation, place.name, at, self._end, stream=False)

    def _cut(self, memory: Memory, size: int) -> int | None:
        """How much of it is whole records; None: the first one is longer than that."""
        if self._boundary is None or self._offset + size == self._end:
            return size
        return memory.behind_last(size, self._boundary, self._from_left)

    def _grow(self, memory: Memory, size: int) -> tuple[Memory, int]:
        """A record longer than the window has a window of its own, of twice the size, or again."""
        wanted = min(2 * size, self._end - self._offset)
        if size >= self._limit:
            raise TooBigError(
                f'{self._operation} "{self._place.name}": the record at byte {self._offset} is '
                f"longer than {self._limit} bytes; is {self._boundary!r} the right boundary? "
                "(record_limit_bytes raises the limit)",
                operation=self._operation,
                address=self._place.name,
            )
        larger = Memory(wanted)
        self._memory = larger
        self._fill(larger, 0, wanted)
        return larger, wanted

    def _look_behind(self) -> None:
        """Truncated behind our back after the last read: what was given was true, but is no more."""
        there = os.fstat(self._place.fd).st_size
        if there < self._end and self._place.kind == "file":
            raise shortened(self._operation, self._place.name, there, self._end, stream=False)


def check_cutting(boundary: bytes | None, size_bytes: int) -> None:
    """Raises ValueError."""
    if boundary is not None and not boundary:
        raise ValueError("boundary must be None or at least 1 byte")
    if size_bytes < 1:
        raise ValueError(f"size_bytes must be at least 1, not {size_bytes!r}")


def overlaps_itself(boundary: bytes) -> bool:
    """Whether two matches may share bytes, such as "\\n\\n" in "\\n\\n\\n".

    Where records end then depends on all that came before, and not on the bytes around alone.
    """
    return any(boundary.startswith(boundary[at:]) for at in range(1, len(boundary)))


def open_whole(path: Thing, operation: str) -> Place:
    """A file to be read at offsets. Raises UnsupportedError for what has none."""
    place = open_source(path, operation)
    if place.kind == "file":
        return place
    place.close()
    raise UnsupportedError(
        f'{operation} "{place.name}": it has no size and no offsets, it is a {place.kind}',
        operation=operation,
        address=place.name,
    )


def windows(
    path: Thing,
    boundary: bytes | None = b"\n",
    size_bytes: int = WINDOW_BYTES,
    *,
    offset: int = 0,
    record_limit_bytes: int = RECORD_LIMIT_BYTES,
) -> Windows:
    """The file in pieces of whole records; all of them joined are the file.

    Each window ends with the boundary, except the last one when the file does not. It is released
    when the next one is taken (the last one never is). Blocks while it reads, without the GIL.

    Args:
        path: a path, a file object or a descriptor of a regular file; its position is left alone.
        boundary: what ends a record, counted from the left as bytes.split does; None: windows are
            cut anywhere.
        size_bytes: of a window, at most. 1 MiB stays in the processor's cache, and is the quickest
            for nearly everything; a function that costs much to call may want more.
        offset: where the first record begins.
        record_limit_bytes: a record longer than the window gets a window of its own, up to this.

    Returns: an iterator of Window; empty for an empty file. The end is the size at the beginning: a
    file that grows meanwhile ends there, within a record if need be.

    Raises:
        CorruptedError: the file was truncated meanwhile; the text names the byte. Never SIGBUS.
        TooBigError: a record longer than `record_limit_bytes`.
        NoSuchNameError, NotPermittedError; UnsupportedError for a pipe or a socket.
    """
    return Windows(path, boundary, size_bytes, offset, record_limit_bytes)


class Windows:
    """The iterator that windows() gives; it closes the file at its end, or with close()."""

    def __init__(
        self, path: Thing, boundary: bytes | None, size_bytes: int, offset: int, limit_bytes: int
    ) -> None:
        check_cutting(boundary, size_bytes)
        if offset < 0:
            raise ValueError(f"offset must be at least 0, not {offset!r}")
        self._place: Place | None = open_whole(path, OPERATION)
        end = self._place.size_bytes
        self._cutter = Cutter(self._place, offset, end, boundary, size_bytes, limit_bytes)

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        if self._place is None:
            raise StopIteration
        try:
            return next(self._cutter)
        except BaseException:  # StopIteration among them: nothing comes after any of them
            self.close()
            raise

    def close(self) -> None:
        """Closes the file; the last window stays as it is. Idempotent."""
        if self._place is not None:
            self._place.close()
            self._place = None

    def __del__(self) -> None:
        # As a generator would: leaving a loop early is no mistake.
        if getattr(self, "_place", None) is not None:
            self.close()


def count_lines(
    path: Thing, *, boundary: bytes = b"\n", threads: int = 1, progress: Progress | None = None
) -> int:
    """How often a byte occurs in a file: its lines, as `wc -l` counts them.

    Args:
        boundary: one byte.
        threads: each counts a part of the file, without the GIL.
        progress: called with (bytes done, bytes in all), in this thread.

    Returns: the count; 0 for an empty file. Raises: as windows().
    """
    if len(boundary) != 1:
        raise ValueError(f"boundary must be one byte here, not {boundary!r}: see Window.count")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads!r}")
    operation = "files.count_lines"
    place = open_whole(path, operation)
    try:
        end = place.size_bytes
        parts = _split(end, threads)
        if len(parts) == 1:
            tell = None if progress is None else lambda done: progress(done, end)
            return _count(place, 0, end, boundary[0], tell)
        return _count_together(place, parts, boundary[0], progress)
    except NaruError:
        raise
    except OSError as error:
        raise failed(error, operation, place.name) from error
    finally:
        place.close()


def _split(end: int, threads: int) -> list[tuple[int, int]]:
    step = max(WINDOW_BYTES, -(-end // threads))
    return [(begin, min(begin + step, end)) for begin in range(0, max(end, 1), step)]


def _count(
    place: Place, begin: int, end: int, byte: int, progress: Callable[[int], object] | None = None
) -> int:
    count, came_to = count_in_file(place.fd, begin, end, byte, BLOCK_BYTES, progress)
    if came_to < end:
        raise shortened("files.count_lines", place.name, came_to, end, stream=False)
    return count


def _count_together(
    place: Place, parts: list[tuple[int, int]], byte: int, progress: Progress | None
) -> int:
    """Each part is counted in a thread, and told to `progress` by the one that waits for them."""
    done = [0] * len(parts)
    stopped = threading.Event()

    def run(index: int) -> int:
        begin, end = parts[index]

        def note(offset: int) -> None:
            if stopped.is_set():
                raise CancelledError
            done[index] = offset - begin

        return _count(place, begin, end, byte, note)

    with ThreadPoolExecutor(len(parts)) as pool:
        futures = [pool.submit(run, index) for index in range(len(parts))]
        pending = set(futures)
        try:
            while pending:
                _, pending = wait(pending, timeout=PROGRESS_S)
                if progress is not None:
                    progress(sum(done), place.size_bytes)
        finally:
            stopped.set()  # Ctrl-C: the threads end with their next step
    return sum(future.result() for future in futures)
