"""`naru bench files`: transfers and windows beside the usual ways. Must not know: how it is measured."""

from __future__ import annotations

import click

from naru.bench.files import check_target, write_whole
from naru.cli.progress import WorkMeter
from naru.cli.streams import write_output
from naru.cli.values import SIZE

__all__ = ["command"]

DEFAULT_SIZE = "512MiB"


@click.command("files", short_help="Transfers, and looking through huge files.")
@click.option(
    "--size", "size_bytes", type=SIZE, default=DEFAULT_SIZE, show_default=True, metavar="SIZE",
    help="Of the file, which is made in the directory for temporary files.",
)  # fmt: skip
@click.option(
    "--repeat",
    "repeats",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    metavar="N",
    help="Runs of each, after one that warms up; the table shows their median.",
)
@click.option("--json", "json_path", metavar="FILE", help="Everything as JSON; '-': to stdout.")
@click.option("--quiet", is_flag=True, help="No table and no progress, for --json.")
def command(size_bytes: int, repeats: int, json_path: str | None, quiet: bool) -> None:
    """Moves a file to sockets and to a file, and counts its lines; beside os.sendfile, shutil, wc.

    \b
        naru bench files
        naru bench files --size 1GiB --json files.json
    """
    from naru.bench.file_rates import measure, render, to_json

    if json_path is not None and json_path != "-":
        check_target(json_path)
    with WorkMeter(quiet) as meter:
        report = measure(size_bytes, repeats, meter.show)
    if json_path == "-":
        write_output(to_json(report))
    elif not quiet:
        write_output(render(report).encode())
    if json_path is not None and json_path != "-":
        write_whole(json_path, to_json(report))
