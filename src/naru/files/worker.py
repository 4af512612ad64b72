"""The process that map_reduce starts: spans in, lists of parts out.

Must not know: the order of spans, who else works. Joins: mapping.py starts it and reads what it sends.
"""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

from naru._native.scanning import Window
from naru._native.system import die_with_parent
from naru.errors import CorruptedError
from naru.files.places import Place, Thing
from naru.files.windows import Cutter, open_whole

__all__ = ["Done", "Failed", "Job", "Span", "work"]

OPERATION = "files.map_reduce"


@dataclass(frozen=True)
class Job:
    """What is the same for all spans."""

    path: str
    identity: tuple[int, int]
    """st_dev and st_ino: a path that leads to another file by now is not read."""
    function: Callable[[Window], Any]
    boundary: bytes | None
    size_bytes: int


@dataclass(frozen=True)
class Span:
    """A part of the file that begins and ends with a record."""

    number: int
    begin: int
    end: int


@dataclass(frozen=True)
class Done:
    """The parts of a span, one a window, in their order."""

    span: Span
    parts: list[Any]


@dataclass(frozen=True)
class Failed:
    """What the function, or the file, raised."""

    span: Span
    offset: int
    error: BaseException | None
    """None when it cannot be pickled."""
    name: str
    story: str
    """The traceback, as text."""


def work(job: Job, spans: Connection, others: list[Connection]) -> None:
    """Until the parent says that there is no more, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # In the middle of a span nobody looks at the line: a function that waits would stay for ever.
    die_with_parent(signal.SIGKILL)
    for other in others:  # of fork: the parent's sides, which would hide its end from the others
        other.close()
    parent = parent_process()
    assert parent is not None
    thing: Thing = job.path
    place = None
    while True:
        if spans not in wait([spans, parent.sentinel]):
            return
        try:
            span = spans.recv()
        except EOFError:
            return
        if span is None:
            break
        try:
            if place is None:
                opened = open_whole(thing, OPERATION)
                _check_identity(job, opened)
                place = opened
            cutter = Cutter(
                place, span.begin, span.end, job.boundary, job.size_bytes, operation=OPERATION
            )
        except Exception as error:
            spans.send(_failure(span, span.begin, error))
            continue
        spans.send(_do(job, span, cutter))
    if place is not None:
        place.close()


def _check_identity(job: Job, place: Place) -> None:
    status = os.fstat(place.fd)
    if (status.st_dev, status.st_ino) == job.identity:
        return
    place.close()
    text = f'{OPERATION} "{place.name}": the file was replaced by another meanwhile'
    raise CorruptedError(text, operation=OPERATION, address=place.name)


def _do(job: Job, span: Span, cutter: Cutter) -> Done | Failed:
    offset = span.begin
    parts = []
    try:
        for window in cutter:
            offset = window.offset
            part = job.function(window)
            parts.append(part)
        offset = cutter.offset
        pickle.dumps(parts)  # said here, where the offset is known, and not in send()
    except Exception as error:
        return _failure(span, offset, error)
    return Done(span, parts)


def _failure(span: Span, offset: int, error: BaseException) -> Failed:
    story = "".join(traceback.format_exception(error))
    kept: BaseException | None = error
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # errors whose __init__ wants more than their args: the text is sent alone
        kept = None
    return Failed(span, offset, kept, type(error).__name__, story)
