"""`naru copy`: bytes from a file or a socket to another. Must not know: how they are moved."""

from __future__ import annotations

import errno
import json
import os
import sys
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import click

import naru
from naru.cli.opening import announce, framing_of, note, open_patiently
from naru.cli.progress import BytesMeter
from naru.cli.streams import write_output
from naru.cli.values import SECONDS
from naru.errors import NaruError, NoSpaceError, PeerGoneError, TimedOutError
from naru.files.transfer import Transferred, transfer

__all__ = ["command"]

CONNECT_TIMEOUT_S = 5.0


class _Crc32:
    """As hashlib's objects; the checksum of gzip, zip and `cksum -a crc32b`."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _sha256() -> Any:
    import hashlib

    return hashlib.sha256()


_CHECKSUMS: dict[str, Callable[[], Any]] = {"crc32": _Crc32, "sha256": _sha256}


@click.command("copy", short_help="Bytes from a file or a socket to another, without copying them.")
@click.argument("source")
@click.argument("target")
@click.option(
    "--offset",
    type=click.IntRange(0),
    metavar="BYTES",
    help="Begin at this byte of a SOURCE file, and write at this byte of a TARGET file: to go on "
    "where a copy ended.",
)
@click.option("--count", type=click.IntRange(0), metavar="BYTES", help="So many bytes, exactly.")
@click.option(
    "--listen", "listens", is_flag=True, help="The address is taken and waits for one connection."
)
@click.option(
    "--checksum",
    type=click.Choice(list(_CHECKSUMS)),
    help="Print it of the bytes that went by; they then pass through user space.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=SECONDS,
    metavar="SECONDS",
    help="Give up when no byte moves for so long. Default: never.",
)
@click.option("--json", "as_json", is_flag=True, help="What was done, as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def command(
    source: str,
    target: str,
    offset: int | None,
    count: int | None,
    listens: bool,
    checksum: str | None,
    timeout_s: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Copies SOURCE to TARGET: each a file, '-', or an address unix:// or tcp://, spoken to raw.

    \b
        naru copy disk.img backup.img
        naru copy --listen tcp://0.0.0.0:7000 disk.img      on the one machine, then on the other
        naru copy --checksum sha256 disk.img tcp://HOST:7000
        naru copy --offset 1073741824 disk.img backup.img   goes on where it ended
    """
    if listens and not (_is_address(source) or _is_address(target)):
        raise click.UsageError("--listen is for an address, and there is none")
    digest: Any = _CHECKSUMS[checksum]() if checksum else None
    moved = _Moved()
    with ExitStack() as stack:
        listens_at = source if _is_address(source) else target
        origin = _open(stack, source, os.O_RDONLY, listens and listens_at == source, timeout_s)
        begin = _begin_of(origin, offset)
        goal = _open_goal(
            stack, origin, target, offset, listens and listens_at == target, timeout_s
        )
        meter = stack.enter_context(BytesMeter(quiet or as_json))
        try:
            done = transfer(
                origin, goal, begin, count, moved.note(meter), timeout_s=timeout_s, digest=digest
            )
        except (PeerGoneError, TimedOutError, NoSpaceError) as error:
            if target == "-" and isinstance(error, PeerGoneError) and error.errno == errno.EPIPE:
                raise BrokenPipeError from error  # whoever read our output has gone
            if not moved.bytes:
                raise
            raise _with_advice(error, (offset or 0) + moved.bytes) from error
    _report(done, checksum, digest, as_json, sys.stderr if target == "-" else sys.stdout)
    if not quiet and not as_json and sys.stderr is not None and sys.stderr.isatty():
        note(f"{done.bytes:,} bytes by {done.method}, {done.bytes_per_s / 1e9:.2f} GB/s")


class _Moved:
    """How far it came, for who wants to go on there."""

    def __init__(self) -> None:
        self.bytes = 0

    def note(self, meter: BytesMeter) -> Callable[[int, int | None], None]:
        def note(done: int, whole: int | None) -> None:
            self.bytes = done
            meter.show(done, whole)

        return note


def _is_address(text: str) -> bool:
    return "://" in text or text.startswith("unix:@")


def _open(stack: ExitStack, text: str, flags: int, listens: bool, timeout_s: float | None) -> Any:
    """Something with a descriptor, which the stack closes."""
    if _is_address(text):
        return _open_address(stack, text, listens, timeout_s)
    if text == "-":
        return _standard(flags)
    return stack.enter_context(_File(text, flags))


def _standard(flags: int) -> int:
    stream = sys.stdout if flags & os.O_WRONLY else sys.stdin
    if stream is None:  # `>&-`: the number may belong to something of ours by now
        raise click.ClickException(f"-: {os.strerror(errno.EBADF)}")
    return stream.fileno()


class _File:
    """An open file that is called by its name."""

    def __init__(self, name: str, flags: int) -> None:
        self.name = name
        self._fd = os.open(name, flags | os.O_CLOEXEC | os.O_NOCTTY, 0o666)

    def fileno(self) -> int:
        return self._fd

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)


def _open_address(stack: ExitStack, text: str, listens: bool, timeout_s: float | None) -> Any:
    parsed = naru.parse(text)
    if parsed.transport not in ("unix", "tcp"):
        raise click.UsageError(
            f"{parsed.display} carries messages, not bytes: a file, unix:// or tcp:// is wanted"
        )
    if "framing" not in parsed.options:
        parsed = naru.parse(text + ("&" if "?" in text else "?") + "framing=raw")
    if framing_of(parsed) != "raw":
        raise click.UsageError(f"{parsed.display}: naru copy speaks framing=raw only")
    if not listens:
        patience_s = CONNECT_TIMEOUT_S if timeout_s is None else timeout_s
        return stack.enter_context(open_patiently(naru.connect, parsed, patience_s))
    with naru.listen(parsed) as listener:
        announce("listening at", parsed, listener.address)
        return stack.enter_context(listener.accept(timeout_s))


def _begin_of(origin: Any, offset: int | None) -> int | None:
    """Only a file has an offset to begin at; of a stream the other side begins there."""
    return offset if isinstance(origin, _File) else None


def _open_goal(
    stack: ExitStack,
    origin: Any,
    target: str,
    offset: int | None,
    listens: bool,
    timeout_s: float | None,
) -> Any:
    """A file is emptied from `offset` on, once it is known not to be the source."""
    goal = _open(stack, target, os.O_WRONLY | os.O_CREAT, listens, timeout_s)
    if not isinstance(goal, _File):
        return goal
    if isinstance(origin, _File) and os.path.sameopenfile(origin.fileno(), goal.fileno()):
        raise click.ClickException(f"{target}: source and target are the same file")
    if not os.path.isfile(target):
        return goal
    size = os.fstat(goal.fileno()).st_size
    begin = offset or 0
    if begin > size:
        raise click.ClickException(
            f"{target}: it has {size} bytes: nothing to go on with at {begin}"
        )
    os.ftruncate(goal.fileno(), begin)
    os.lseek(goal.fileno(), begin, os.SEEK_SET)
    return goal


def _with_advice(error: NaruError, at: int) -> click.ClickException:
    return click.ClickException(f"{error}; --offset {at} goes on there")


def _report(
    done: Transferred, checksum: str | None, digest: Any, as_json: bool, stream: Any
) -> None:
    sum_ = digest.hexdigest() if digest is not None else None
    if as_json:
        facts = {
            "bytes": done.bytes,
            "offset": done.offset,
            "method": done.method,
            "seconds": round(done.seconds, 6),
            "checksum": sum_ and f"{checksum}:{sum_}",
        }
        text = json.dumps(facts) + "\n"
    elif sum_ is not None:
        text = f"{checksum}:{sum_}\n"
    else:
        return
    if stream is sys.stderr:
        stream.write(text)
    else:
        write_output(text.encode())
