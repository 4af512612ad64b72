"""Progress on standard error, when that is a terminal and the work takes more than a moment.

rich is imported only then. Must not know: what the work is.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from types import TracebackType
from typing import Any, Self

__all__ = ["BytesMeter", "InputMeter", "WorkMeter"]

PATIENCE_S = 1.0
REFRESH_S = 0.1


def _is_terminal(stream: Any) -> bool:
    return stream is not None and bool(stream.isatty())


class _Meter:
    """A bar that appears after a second; refreshed by who works, so there is no thread."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._next_s = time.monotonic() + PATIENCE_S
        self._bar: Any = None
        self._task: Any = None

    def _is_due(self) -> bool:
        now_s = time.monotonic()
        if not self._enabled or now_s < self._next_s:
            return False
        self._next_s = now_s + REFRESH_S
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class BytesMeter(_Meter):
    """Bytes that are done, and how fast; with a share of the whole where that is known."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(_is_terminal(sys.stderr) and not quiet)

    def show(self, done: int, whole: int | None) -> None:
        if not self._is_due():
            return
        if self._bar is None:
            self._start(whole)
        self._bar.update(self._task, completed=done, refresh=True)

    def _start(self, whole: int | None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), auto_refresh=False, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=whole)
        self._bar.start()


class InputMeter(BytesMeter):
    """Bytes of standard input that were read; with its size when it is a file."""

    def __init__(self) -> None:
        super().__init__(quiet=_is_terminal(sys.stdin))
        self._read_bytes = 0

    def add(self, count: int) -> None:
        self._read_bytes += count
        self.show(self._read_bytes, None)

    def _start(self, whole: int | None) -> None:
        status = os.fstat(sys.stdin.fileno())
        super()._start(status.st_size if stat.S_ISREG(status.st_mode) else None)


class WorkMeter(_Meter):
    """A share of the work that is done, and what is being done."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(_is_terminal(sys.stderr) and not quiet)

    def show(self, share: float, what: str) -> None:
        if not self._is_due():
            return
        if self._bar is None:
            self._start()
        self._bar.update(self._task, completed=share, description=what, refresh=True)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
            TimeElapsedColumn(), console=Console(stderr=True), auto_refresh=False, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1.0)
        self._bar.start()
