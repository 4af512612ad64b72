"""The chart of a report, as PNG or SVG, for people.

Holds: which panel shows what, colours that the colour-blind tell apart (Okabe and Ito 2008), labels
at the lines themselves. Several sizes: throughput against size and round trips against size, on log
axes. One size: a row of dots for each way, and the spread of round trips.
Must not know: how anything was measured. matplotlib is imported when a chart is drawn.
Joins: the command calls `check_plot_path` before it measures and `write_plot` after.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from naru.bench.files import write_whole
from naru.bench.plan import SEED_C_MS, SEED_SIZE_BYTES, show_size
from naru.bench.result import Record, Report
from naru.errors import UnsupportedError

__all__ = [
    "COLOURS",
    "FAINT",
    "INK",
    "Line",
    "check_plot_path",
    "draw_lines",
    "label_ends",
    "look",
    "save_figure",
    "spread_out",
    "write_plot",
]

KINDS = (".png", ".svg")
MOST_COLUMNS = 3
LABEL_GAP_PT = 12.0

COLOURS = {
    "shm": "#0072B2", "pipe": "#E69F00", "unix": "#009E73", "fifo": "#CC79A7", "mq": "#D55E00",
    "tcp": "#56B4E9", "udp": "#8C6BB1",
}  # fmt: skip
_NAIVE_COLOUR = "#777777"
INK, FAINT = "#222222", "#D8D8D8"
_MARKS = {"message": "o", "batch": "s", "in-place": "^"}
_TITLES = {
    "message": "one by one",
    "batch": "batches of 64",
    "in-place": "in place",
}
_PERCENTILES = ((0.5, "o", "p50"), (0.99, "D", "p99"), (0.999, "|", "p99.9"))


def check_plot_path(path: str) -> None:
    """Refuses before anything is measured.

    Raises: ValueError for another kind of file, UnsupportedError without matplotlib.
    """
    if Path(path).suffix.lower() not in KINDS:
        raise ValueError(f"--plot writes .png and .svg, not {path!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UnsupportedError("--plot needs matplotlib: pip install 'naru-ipc[plot]'")


def write_plot(report: Report, path: str) -> None:
    """Draws and writes, whole or not at all. Raises: OSError, UnsupportedError."""
    check_plot_path(path)
    save_figure(lambda: _draw(report), path)


def save_figure(draw: Callable[[], Any], path: str) -> None:
    """Draws in this module's look, and writes, whole or not at all. Raises: OSError."""
    from matplotlib import rc_context

    with rc_context(look()):  # type: ignore[arg-type]
        figure = draw()
        data = io.BytesIO()
        figure.savefig(data, format=Path(path).suffix.lower()[1:], dpi=160)
    write_whole(path, data.getvalue())


def look() -> dict[str, Any]:
    return {
        "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
        "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
        "xtick.color": INK, "ytick.color": INK, "axes.grid": True, "grid.color": FAINT,
        "grid.linewidth": 0.6, "axes.axisbelow": True, "svg.fonttype": "none",
        "lines.linewidth": 1.8, "lines.markersize": 5,
    }  # fmt: skip


Panel = Callable[[Any], None]


def _draw(report: Report) -> Any:
    from matplotlib.figure import Figure

    panels = _panels(report)
    columns = min(len(panels), MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    names = max(len({record.contender.name for record in report.records}), 4)
    height = 4.6 if len(report.sizes_bytes) > 1 else 2.0 + 0.42 * names
    figure = Figure(figsize=(max(8.5, 5.4 * columns), 0.9 + height * rows))
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
    figure.suptitle(_headline(report), x=0.01, ha="left", fontsize=14, fontweight="bold")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes, panel in zip_longest(places, panels):
        if panel is None:
            axes.set_axis_off()
        else:
            panel(axes)
    figure.supxlabel(_small_print(report), x=0.01, ha="left", fontsize=8, color="#555555")
    figure.draw_without_rendering()  # the places of the axes are final now
    figure.set_layout_engine("none")
    for axes in figure.axes:
        label_ends(axes)
    return figure


def _panels(report: Report) -> list[Panel]:
    several = len(report.sizes_bytes) > 1
    one_way = [record for record in report.records if not record.distribution()]
    trips = [record for record in report.records if record.distribution()]
    panels: list[Panel] = []
    if several:
        for mode in _MARKS:
            of_mode = [record for record in one_way if record.mode == mode]
            if of_mode:
                panels.append(partial(_throughput, records=of_mode, mode=mode))
        if trips:
            panels.append(lambda axes: _trips_by_size(axes, trips))
    elif one_way:
        panels.append(lambda axes: _dots(axes, one_way))
    if trips:
        size_bytes = _size_nearest(report.sizes_bytes, SEED_SIZE_BYTES)
        of_size = [record for record in trips if record.size_bytes == size_bytes]
        panels.append(lambda axes: _percentiles(axes, of_size))
    return panels or [lambda axes: axes.set_title("nothing could be measured")]


def _size_nearest(sizes_bytes: Sequence[int], wanted: int) -> int:
    return min(sizes_bytes, key=lambda size: abs(size - wanted))


# ---- several sizes: lines ----


def _throughput(axes: Any, records: Sequence[Record], mode: str) -> None:
    axes.set_title(f"{_TITLES[mode]}: throughput")
    _lines(axes, records, lambda record: record.bytes_per_s / 1e9)
    axes.set_ylabel("GB/s")


def _trips_by_size(axes: Any, records: Sequence[Record]) -> None:
    axes.set_title("round trip: median")
    _lines(axes, records, lambda record: record.trip_ns(0.5).median / 1e3)
    axes.set_ylabel("µs")


def _lines(axes: Any, records: Sequence[Record], value: Callable[[Record], float]) -> None:
    lines = []
    for name in dict.fromkeys(record.contender.name for record in records):
        own = sorted(
            (record for record in records if record.contender.name == name),
            key=lambda record: record.size_bytes,
        )
        points = tuple((record.size_bytes, value(record)) for record in own)
        lines.append(Line(name, _colour(own[0]), points, dashed=own[0].contender.naive))
    draw_lines(axes, lines)


class Line(NamedTuple):
    """A figure of one name, by size."""

    name: str
    colour: str
    points: tuple[tuple[int, float], ...]
    """(bytes, value), sorted."""
    dashed: bool = False


def draw_lines(axes: Any, lines: Sequence[Line]) -> None:
    """Log against log; label_ends writes the names at their ends, a name with _ has none."""
    for line in lines:
        xs, ys = [point[0] for point in line.points], [point[1] for point in line.points]
        style = "--" if line.dashed else "-"
        axes.plot(xs, ys, color=line.colour, marker="o", linestyle=style, label=line.name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = sorted({size for line in lines for size, _ in line.points})
    spread = max(2.0, sizes[-1] / sizes[0])
    axes.set_xlim(sizes[0] / spread**0.05, sizes[-1] * spread**0.22)  # room for the names
    shown = sizes[:: -(-len(sizes) // 7)]
    axes.set_xticks(shown, [show_size(size) for size in shown])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda number, _: f"{number:g}")
    axes.yaxis.set_minor_formatter(lambda number, _: "")
    axes.set_xlabel("message size")


def label_ends(axes: Any) -> None:
    """Names beside the last points, moved apart where they would overlap."""
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    for right in {line.get_xdata()[-1] for line in lines}:
        ending = [line for line in lines if line.get_xdata()[-1] == right]
        heights_pt = [
            axes.transData.transform((right, line.get_ydata()[-1]))[1] * 72 / axes.figure.dpi
            for line in ending
        ]
        for line, at, moved in zip(
            ending, heights_pt, spread_out(heights_pt, LABEL_GAP_PT), strict=True
        ):
            axes.annotate(
                line.get_label(), xy=(right, line.get_ydata()[-1]), xytext=(8, moved - at),
                textcoords="offset points", color=line.get_color(), va="center",
                fontweight="bold", fontsize=9.5, annotation_clip=False,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6},
            )  # fmt: skip


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Places in the same order, at least `gap` apart, moved as little as a simple sweep can."""
    order = sorted(range(len(places)), key=lambda at: places[at])
    moved = list(places)
    for before, at in pairwise(order):
        moved[at] = max(moved[at], moved[before] + gap)
    shift = sum(moved[at] - places[at] for at in order) / max(1, len(order))
    return [place - shift for place in moved]


# ---- one size: rows of dots ----


def _dots(axes: Any, records: Sequence[Record]) -> None:
    """Messages a second of each contender, one mark a mode, with the least and the most."""
    first = records[0]
    size = show_size(first.size_bytes)
    axes.set_title(f"one way, {size}: messages a second (more is better)")
    names = _rows(records, lambda own: max(record.messages_per_s.median for record in own))
    modes = [mode for mode in _MARKS if any(record.mode == mode for record in records)]
    for record in records:
        row = names.index(record.contender.name) + 0.16 * (1 - modes.index(record.mode))
        rate, colour = record.messages_per_s, _colour(record)
        axes.plot([rate.least, rate.most], [row, row], color=colour, linewidth=1.2, zorder=2)
        axes.plot(rate.median, row, _MARKS[record.mode], color=colour, markersize=7, zorder=3)
        if record.mode == modes[0]:
            axes.annotate(
                f"{_short(rate.median)}/s", (rate.median, row), xytext=(0, 8),
                textcoords="offset points", ha="center", fontsize=8, color=colour,
            )  # fmt: skip
    seed = first.size_bytes == SEED_SIZE_BYTES
    for name in names if seed else []:
        if name in SEED_C_MS:
            axes.plot(
                1e9 / SEED_C_MS[name], names.index(name), "d", markerfacecolor="none",
                markeredgecolor=INK, markersize=8, zorder=2,
            )  # fmt: skip
    _finish_rows(axes, names, lambda number: f"{_short(number)}/s")
    marks = [(_MARKS[mode], _TITLES[mode], INK) for mode in modes]
    _legend(axes, [*marks, *([("d", "seed's C, another machine", "none")] * seed)])


def _percentiles(axes: Any, records: Sequence[Record]) -> None:
    """The middle, and how far the slow ones reach."""
    axes.set_title(f"round trip, {show_size(records[0].size_bytes)} (less is better)")
    names = _rows(records, lambda own: -own[0].trip_ns(0.5).median)
    for record in records:
        row, colour = names.index(record.contender.name), _colour(record)
        us = [record.trip_ns(share).median / 1e3 for share, _, _ in _PERCENTILES]
        axes.plot(us, [row] * len(us), color=colour, linewidth=1.2, zorder=2)
        for (_, mark, _), value in zip(_PERCENTILES, us, strict=True):
            axes.plot(value, row, mark, color=colour, markersize=8, markeredgewidth=2, zorder=3)
        axes.annotate(
            _show_us(us[0]), (us[0], row), xytext=(0, 8), textcoords="offset points",
            ha="center", fontsize=8, color=colour,
        )  # fmt: skip
    _finish_rows(axes, names, _show_us)
    _legend(axes, [(mark, name, INK) for _, mark, name in _PERCENTILES])


def _rows(records: Sequence[Record], worth: Callable[[list[Record]], float]) -> list[str]:
    """Names from the bottom to the top row: the best on top, plain Python below naru."""
    by_name: dict[str, list[Record]] = {}
    for record in records:
        by_name.setdefault(record.contender.name, []).append(record)

    def rank(name: str) -> tuple[bool, float]:
        own = by_name[name]
        return (not own[0].contender.naive, worth(own))

    return sorted(by_name, key=rank)


def _finish_rows(axes: Any, names: Sequence[str], show: Callable[[float], str]) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel(" ")  # room for the legend
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y", which="both")
    axes.xaxis.set_major_formatter(lambda number, _: show(number))
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(COLOURS.get(name.partition("?")[0], _NAIVE_COLOUR))
        label.set_fontweight("bold")


def _legend(axes: Any, marks: Sequence[tuple[str, str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="none", marker=mark, color=INK, label=text, markersize=7,
               markerfacecolor=fill, markeredgewidth=1.5 if fill == "none" or mark == "|" else 1)
        for mark, text, fill in marks
    ]  # fmt: skip
    legend = axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=_below(axes),
        ncols=len(handles), frameon=False, fontsize=8, handletextpad=0.2, columnspacing=1.1,
        borderaxespad=0,
    )  # fmt: skip
    legend.set_in_layout(False)  # it may be wider than its axes


def _below(axes: Any) -> Any:
    """The axes' left edge, 30 points under it, whatever their height."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transAxes + ScaledTranslation(0, -26 / 72, axes.figure.dpi_scale_trans)


# ---- words ----


def _colour(record: Record) -> str:
    contender = record.contender
    return _NAIVE_COLOUR if contender.naive else COLOURS.get(contender.transport, INK)


def _show_us(us: float) -> str:
    return f"{us:.3g} µs" if us < 1000 else f"{us / 1000:.3g} ms"


def _short(number: float) -> str:
    for unit, scale in (("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.3g}"


def _headline(report: Report) -> str:
    sizes = [show_size(size) for size in report.sizes_bytes]
    shown = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}" if sizes else "nothing"
    return f"Messages between two processes, {shown}"


def _small_print(report: Report) -> str:
    machine = report.machine
    cores = "not pinned" if report.cores is None else "cores {} and {}".format(*report.cores)
    return (
        f"{machine.cpu}, {machine.cores_online} CPUs{' (virtual)' if machine.virtual else ''}, "
        f"{cores} · Linux {machine.kernel} · Python {machine.python} · naru {machine.naru} · "
        f"{report.date[:10]}\nmedian of {report.repeats}, lines from the least to the most"
    )
