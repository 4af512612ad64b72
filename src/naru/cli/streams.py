"""Standard input and output of the commands, as bytes, without buffers that outlive an error.

Must not know: messages.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import threading
from collections.abc import Callable, Iterator

import click

__all__ = ["read_input", "watch_reader", "write_output"]

CHUNK_BYTES = 256 * 1024


def read_input(on_read: Callable[[int], object] = lambda count: None) -> Iterator[bytes]:
    """Chunks of standard input as they come, to its end.

    Args:
        on_read: called with the number of bytes of each chunk.
    """
    fd = _descriptor(sys.stdin, "standard input")
    while chunk := os.read(fd, CHUNK_BYTES):
        on_read(len(chunk))
        yield chunk


def write_output(data: bytes) -> None:
    """All of it, at once. Raises: BrokenPipeError when the reader has gone, OSError."""
    fd = _descriptor(sys.stdout, "standard output")
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # somebody made the pipe or terminal nonblocking
            select.select([], [fd], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, f"standard output: {error.strerror}") from error


def _descriptor(stream: object, name: str) -> int:
    if stream is None:  # `>&-`: the number may belong to something of ours by now
        raise click.ClickException(f"{name}: {os.strerror(errno.EBADF)}")
    number: int = stream.fileno()  # type: ignore[attr-defined]
    return number


def watch_reader(on_gone: Callable[[], object]) -> None:
    """Calls `on_gone`, in a thread, when whoever reads our output goes away.

    Without it, `naru receive ... | head -1` would stay until the next message. Only for pipes and
    sockets; the thread ends with the process.
    """
    fd = _descriptor(sys.stdout, "standard output")
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        threading.Thread(target=_watch, args=(fd, on_gone), daemon=True).start()


def _watch(fd: int, on_gone: Callable[[], object]) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR and POLLHUP come unasked
    while True:
        for _, events in poll.poll():
            if events & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                on_gone()
                return
