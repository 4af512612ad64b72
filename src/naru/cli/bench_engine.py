"""`naru bench scaling` and `naru bench connections`. Must not know: how they are measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from naru.bench.files import check_target, write_whole
from naru.cli.progress import WorkMeter
from naru.cli.streams import write_output
from naru.errors import UnsupportedError

if TYPE_CHECKING:
    from naru.bench.scaling import Cell

__all__ = ["connections", "scaling"]

SCALING_SCHEMA, CONNECTIONS_SCHEMA = "naru-bench-scaling/1", "naru-bench-connections/1"
DEFAULT_COUNTS = "100,1000,10000,100000"


class _Counts(click.ParamType):  # type: ignore[type-arg]
    name = "N[,N]"

    def convert(self, value: Any, param: Any, context: Any) -> list[int]:
        if isinstance(value, list):
            return value
        words = [word.strip().replace("_", "") for word in value.split(",")]
        if not all(word.isdecimal() and 2 <= int(word) <= 10**7 for word in words):
            self.fail(f"{value!r} are no numbers such as 100,10000", param, context)
        return [int(word) for word in words]


@click.command("scaling", short_help="What a wait costs with many descriptors, one active.")
@click.option(
    "--descriptors",
    "counts",
    type=_Counts(),
    default=DEFAULT_COUNTS,
    show_default=True,
    help="How many are registered; beyond the process's limit, children hold them open.",
)
@click.option("--json", "json_path", metavar="FILE", help="Everything as JSON; '-': to stdout.")
@click.option("--plot", "plot_path", metavar="FILE", help="A chart: .png or .svg.")
def scaling(counts: list[int], json_path: str | None, plot_path: str | None) -> None:
    """One wait of select, poll, epoll (Python's) and naru's engine, with one active descriptor."""
    from naru.bench.scaling import CONTENDERS, SEED_MS, measure

    for path in (json_path, plot_path):
        if path not in (None, "-"):
            check_target(str(path))
    with WorkMeter(quiet=False) as meter:
        cells = list(measure(CONTENDERS, counts, meter.show))
    if json_path == "-":
        write_output(_json(SCALING_SCHEMA, cells))
    else:
        write_output(_table(cells, counts, SEED_MS).encode())
        if json_path:
            write_whole(json_path, _json(SCALING_SCHEMA, cells))
    if plot_path:
        _plot(cells, SEED_MS, plot_path)


def _json(schema: str, rows: Sequence[Any]) -> bytes:
    from naru.bench.machine import describe

    record = {
        "schema": schema,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": dataclasses.asdict(describe()),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    return json.dumps(record, indent=1).encode() + b"\n"


def _table(
    cells: Sequence[Cell], counts: Sequence[int], seed_ms: dict[tuple[str, int], float]
) -> str:
    names = list(dict.fromkeys(cell.contender for cell in cells))
    found = {(cell.contender, cell.registered): cell for cell in cells}
    lines = ["one wait, us, median; one descriptor of so many is active", ""]
    lines.append(f"{'registered':>12}" + "".join(f"{name:>12}" for name in names))
    for count in counts:
        shown = [found[name, count].median_us for name in names]
        figures = "".join(f"{'-' if one is None else f'{one:,.1f}':>12}" for one in shown)
        lines.append(f"{count:>12,}{figures}")
    lines.append("")
    lines += [f"seed, C, another machine: {n} {c:,}: {ms:g} ms" for (n, c), ms in seed_ms.items()]
    whys = dict.fromkeys(f"{cell.contender}: {cell.why}" for cell in cells if cell.why)
    lines += list(whys)
    return "\n".join(lines) + "\n"


def _plot(cells: Sequence[Cell], seed_ms: dict[tuple[str, int], float], path: str) -> None:
    import io
    from pathlib import Path

    from naru.bench.plot import check_plot_path

    try:
        check_plot_path(path)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except UnsupportedError as error:
        raise click.ClickException(str(error)) from error
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    for name in dict.fromkeys(cell.contender for cell in cells):
        points = [(c.registered, c.median_us) for c in cells if c.contender == name and c.median_us]
        (line,) = (
            axes.plot(*zip(*points, strict=True), marker="o", label=name) if points else (None,)
        )
        seed = [(count, ms * 1000) for (who, count), ms in seed_ms.items() if who == name]
        if seed and line:
            axes.plot(*zip(*seed, strict=True), marker="x", linestyle="", color=line.get_color())
    axes.set(
        xscale="log", yscale="log", xlabel="descriptors registered, one active", ylabel="a wait, us"
    )
    axes.set_title("crosses: the seed's C figures, another machine", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend()
    data = io.BytesIO()
    figure.savefig(data, format=Path(path).suffix.lower()[1:], dpi=160)
    write_whole(path, data.getvalue())


@click.command("connections", short_help="How many idle connections fit, and what each takes.")
@click.option(
    "--count",
    type=click.IntRange(1, 10**7),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Beyond the descriptor limit of one process, over several.",
)
@click.option("--unix", is_flag=True, help="Over a Unix socket instead of TCP.")
@click.option("--json", "json_path", metavar="FILE", help="Everything as JSON; '-': to stdout.")
def connections(count: int, unix: bool, json_path: str | None) -> None:
    """Holds idle connections to naru's echo server and says what each takes."""
    from naru.bench.connections import measure

    if json_path not in (None, "-"):
        check_target(str(json_path))
    with WorkMeter(quiet=False) as meter:
        held = measure(count, "unix" if unix else "tcp", meter.show)
    if json_path == "-":
        write_output(_json(CONNECTIONS_SCHEMA, [held]))
        return
    write_output(
        (
            f"{held.connections:,} {held.transport} connections to {held.servers} server processes\n"
            f"  user memory     {held.user_bytes:10,.0f} B a connection, in its server\n"
            f"  kernel memory   {held.kernel_bytes:10,.0f} B a connection, both ends\n"
            f"  accepted in     {held.accept_s:10.2f} s\n"
            f"  round trip      {held.alone_us:10.1f} us alone, {held.among_us:.1f} us among them\n"
        ).encode()
    )
    if json_path:
        write_whole(json_path, _json(CONNECTIONS_SCHEMA, [held]))
