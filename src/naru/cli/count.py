"""`naru count`: the lines of huge files. Must not know: how they are counted."""

from __future__ import annotations

import json
import os

import click

from naru.cli.progress import BytesMeter
from naru.cli.streams import write_output
from naru.files.windows import count_lines, windows

__all__ = ["command"]


@click.command("count", short_help="The lines of huge files, quickly.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--pattern", metavar="TEXT", help="Count this within lines instead; matches do not overlap."
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="That count lines together. Default: as many as this process has CPUs.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: file to count.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def command(
    files: tuple[str, ...], pattern: str | None, threads: int | None, as_json: bool, quiet: bool
) -> None:
    """Counts newlines, as `wc -l` does, and prints "COUNT FILE" a line.

    \b
        naru count access.log
        naru count --pattern ' 500 ' access.log
    """
    wanted = None if pattern is None else os.fsencode(pattern)
    if wanted is not None and (not wanted or b"\n" in wanted):
        raise click.UsageError("--pattern: at least one character, and no newline")
    counts = []
    for file in files:
        with BytesMeter(quiet) as meter:
            counts.append(
                _count(file, threads or len(os.sched_getaffinity(0)), meter)
                if wanted is None
                else _find(file, wanted, meter)
            )
    if as_json:
        text = json.dumps(dict(zip(files, counts, strict=True)), ensure_ascii=True) + "\n"
    else:
        rows = list(zip(counts, files, strict=True))
        if len(files) > 1:
            rows.append((sum(counts), "total"))
        width = len(str(max(count for count, _ in rows)))
        text = "".join(f"{count:{width}} {file}\n" for count, file in rows)
    write_output(text.encode(errors="surrogateescape"))


def _count(file: str, threads: int, meter: BytesMeter) -> int:
    return count_lines(file, threads=threads, progress=meter.show)


def _find(file: str, wanted: bytes, meter: BytesMeter) -> int:
    found = 0
    size = os.stat(file).st_size if os.path.exists(file) else None
    for window in windows(file):
        found += window.count(wanted)
        meter.show(window.offset, size)
    return found
