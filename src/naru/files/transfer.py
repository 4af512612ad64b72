"""One direction, from a file or a stream to another, to the end or to an error that names the byte.

Holds: transfer. Must not know: system calls (kinds.py picks them, naru._native.moving makes them).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from naru._native.moving import Mover
from naru.errors import TooBigError, UnsupportedError
from naru.files.failures import failed, shortened, timed_out
from naru.files.kinds import Kind, Method, is_stream, methods_between
from naru.files.places import Place, Thing, open_source, open_target, send_timeout

__all__ = ["Digest", "Transferred", "transfer"]

OPERATION = "files.transfer"
# A copy inside the kernel is not interrupted: between steps signals and `progress` have their turn.
STEP_BYTES = 16 << 20
# A step into a slow connection that blocks is long, and whoever watches wants to see it move.
WATCHED_STEP_BYTES = 1 << 20
# A pipe that polls writable takes so much without blocking (PIPE_BUF, pipe(7)).
PIPE_PIECE_BYTES = 4096


class Digest(Protocol):
    """Such as hashlib.sha256()."""

    def update(self, data: memoryview, /) -> object:
        """Sees every byte once, in order."""
        ...


@dataclass(frozen=True)
class Transferred:
    """What was done."""

    bytes: int
    """Taken by the target."""
    method: Method
    """The system call that moved the last of them: the kernel may have refused better ones."""
    source: Kind
    target: Kind
    offset: int
    """Of the next byte of the source; where a file is read on."""
    seconds: float

    @property
    def bytes_per_s(self) -> float:
        """The rate; 0.0 when nothing was moved."""
        return self.bytes / self.seconds if self.seconds else 0.0


def transfer(
    source: Thing,
    target: Thing,
    offset: int | None = None,
    count: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
    *,
    timeout_s: float | None = None,
    digest: Digest | None = None,
) -> Transferred:
    """Moves bytes from `source` to `target` with the cheapest system call that the kernel allows.

    Blocks until it is done, also on nonblocking descriptors, and releases the GIL. Nothing is closed
    but what a path opened.

    Args:
        source, target: a path (the target is emptied first), a descriptor, or anything with
            fileno(): a socket, a file object, a memfd, an end of naru with `framing=raw` that has
            not received yet. A file object's own buffer is respected.
        offset: byte of the file to begin at, whose position then stays; None: at its position,
            which moves (a path: at 0).
        count: bytes, exactly; None: to the end. Of a file that is its size at the beginning, so a
            growing one ends, too; of a stream it is when its writer closes.
        progress: called with (bytes moved, bytes in all or None) after each step, at most 16 MiB;
            what it raises ends the transfer.
        timeout_s: seconds that may go by without a byte moving; None: for ever.
        digest: its update() sees every byte in order; costs the copy that is else avoided.

    Returns: Transferred; with 0 bytes when there was nothing.

    Raises:
        CorruptedError: the file was truncated meanwhile; the text names the byte.
        PeerGoneError: the target takes no more, or a stream ended before `count`.
        TimedOutError, NoSpaceError, NoSuchNameError, NotPermittedError, LimitError.
        TooBigError: offset and count reach beyond the file; nothing was moved.
        UnsupportedError: source is target, no stream socket, an end that carries messages.

    Source: sendfile(2), splice(2), copy_file_range(2).
    """
    _check(offset, count, timeout_s)
    began_s = time.monotonic()
    origin = open_source(source, OPERATION)
    try:
        begin, due = _range(origin, offset, count)
        goal = open_target(target, OPERATION, origin)
        with _closing(goal):
            mover = _mover(origin, goal, begin, due, timeout_s, digest)
            try:
                _run(mover, origin, goal, due, progress, timeout_s, digest)
            finally:
                if begin is not None and offset is None:
                    origin.go_to(begin + mover.moved_bytes)
                mover.release()
    finally:
        origin.close()
    moved, first = mover.moved_bytes, begin or 0
    if due is not None and moved < due:
        stream = origin.kind != "file"
        raise shortened(OPERATION, origin.name, first + moved, first + due, stream=stream)
    seconds = time.monotonic() - began_s
    return Transferred(moved, _method(mover.method), origin.kind, goal.kind, first + moved, seconds)


def _check(offset: int | None, count: int | None, timeout_s: float | None) -> None:
    for name, value in (("offset", offset), ("count", count), ("timeout_s", timeout_s)):
        if value is not None and not value >= 0:  # NaN too
            raise ValueError(f"{name} must be None or at least 0, not {value!r}")


def _range(origin: Place, offset: int | None, count: int | None) -> tuple[int | None, int | None]:
    """(where to read, how many bytes are due); None: at its position; None: until it ends."""
    if origin.kind != "file":
        if offset is not None and origin.kind != "device":
            raise UnsupportedError(
                f'{OPERATION} "{origin.name}": a stream has no offset to begin at',
                operation=OPERATION,
                address=origin.name,
            )
        return offset, count
    begin = origin.position() if offset is None else offset
    # Files of /proc and /sys are made when they are read, and say that they are empty.
    there = None if origin.size_bytes == 0 else max(0, origin.size_bytes - begin)
    if there is not None and (begin > origin.size_bytes or (count is not None and count > there)):
        end = begin if count is None else begin + count
        raise TooBigError(
            f'{OPERATION} "{origin.name}": bytes {begin} to {end} were asked for, the file has '
            f"{origin.size_bytes}; nothing was moved",
            operation=OPERATION,
            address=origin.name,
        )
    return begin, there if count is None else count


def _mover(
    origin: Place,
    goal: Place,
    begin: int | None,
    due: int | None,
    timeout_s: float | None,
    digest: Digest | None,
) -> Mover:
    methods = methods_between(origin.kind, goal.kind)
    if digest is not None or (origin.kind == "file" and due is None):
        methods = ("read_write",)
    held_up = goal.blocks and goal.kind in ("pipe", "device") and timeout_s is not None
    return Mover(
        origin.fd,
        goal.fd,
        methods,
        begin,
        due,
        target_is_socket=is_stream(goal.kind),
        chunk_bytes=PIPE_PIECE_BYTES if held_up else None,
    )


def _run(
    mover: Mover,
    origin: Place,
    goal: Place,
    due: int | None,
    progress: Callable[[int, int | None], object] | None,
    timeout_s: float | None,
    digest: Digest | None,
) -> None:
    slow = progress is not None and goal.kind != "file"
    step_bytes = WATCHED_STEP_BYTES if slow else STEP_BYTES
    report = None if progress is None else lambda moved: progress(moved, due)
    asks_source = origin.blocks and origin.kind in ("pipe", "unix", "tcp", "device")
    asks_target = goal.blocks and goal.kind in ("pipe", "device") and timeout_s is not None
    try:
        with send_timeout(goal, timeout_s):
            mover.run(step_bytes, timeout_s, report, digest, asks_source, asks_target)
    except TimeoutError as error:
        pair = f"{origin.name} to {goal.name}"
        raise timed_out(OPERATION, pair, timeout_s, mover.moved_bytes) from error
    except OSError as error:
        pair = f"{origin.name} to {goal.name}"
        raise failed(error, OPERATION, pair, mover.moved_bytes) from error


@contextmanager
def _closing(goal: Place) -> Iterator[None]:
    """close(2) is the last moment at which a file system may say that it did not keep the bytes."""
    try:
        yield
    except BaseException:
        goal.close()
        raise
    try:
        goal.close()
    except OSError as error:
        raise failed(error, OPERATION, goal.name) from error


def _method(name: str) -> Method:
    method: Method = name  # type: ignore[assignment]  # the native names are those of kinds.METHODS
    return method
