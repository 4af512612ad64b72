"""What went wrong with a file or a stream, and at which byte.

Must not know: how bytes are moved. Joins: the leaf comes from naru.errors; the words are those of
files here, because a full disk is no matter of `capacity_bytes`.
"""

from __future__ import annotations

import errno
import os

from naru.errors import (
    CorruptedError,
    NaruError,
    PeerGoneError,
    TimedOutError,
    from_errno,
)

__all__ = ["failed", "shortened", "timed_out"]

_REMEDIES = {
    errno.ENOENT: "is the path right?",
    errno.EACCES: "its owner decides by its mode and that of its directory",
    errno.ENOSPC: "free some space on that file system",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "larger than this file system, or RLIMIT_FSIZE, allows",
    errno.EISDIR: "a directory has no bytes of its own: name a file",
    errno.EPIPE: "the other side takes no more",
    errno.ECONNRESET: "the other side closed with bytes unread, or died",
    errno.EIO: "the medium, or the file system, failed",
}


def failed(error: OSError, operation: str, place: object, moved: int | None = None) -> NaruError:
    """The naru error of an OSError; write `raise ... from error`.

    Args:
        moved: bytes that had been moved before; None: it was not begun.
    """
    number = error.errno or errno.EIO
    shape = from_errno(-number, operation, place)
    said = f"{os.strerror(number).lower()} ({errno.errorcode.get(number, number)})"
    where = "" if moved is None else f" after {moved} bytes"
    remedy = _REMEDIES.get(number)
    text = f'{operation} "{place}": {said}{where}' + (f"; {remedy}" if remedy else "")
    return type(shape)(text, errno=number, operation=operation, address=place)


def shortened(operation: str, place: object, offset: int, end: int, *, stream: bool) -> NaruError:
    """Fewer bytes than were promised: of a stream its writer's doing, of a file a truncation.

    Args:
        offset: where the bytes ended; `end`: where they should have.
    """
    if stream:
        text = f'{operation} "{place}": it ended after {offset} of {end} bytes'
        return PeerGoneError(text, operation=operation, address=place, orderly=True)
    text = (
        f'{operation} "{place}": the file ended at byte {offset} of {end}: it was truncated '
        "meanwhile; take it again from the beginning"
    )
    return CorruptedError(text, operation=operation, address=place)


def timed_out(operation: str, place: object, timeout_s: float | None, moved: int) -> NaruError:
    """No byte moved for `timeout_s`."""
    text = (
        f'{operation} "{place}": no byte moved for {timeout_s:g} s (ETIMEDOUT), after {moved} '
        "bytes; give it more time (timeout_s)"
    )
    return TimedOutError(text, errno=errno.ETIMEDOUT, operation=operation, address=place)
