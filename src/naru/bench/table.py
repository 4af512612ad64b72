"""The tables that people read: one for each message size, and one for round trips.

Holds: which columns, how numbers are written, the bars. Through rich: colours on a terminal
(NO_COLOR is honoured), aligned plain text elsewhere, ASCII where the locale knows nothing else.
Must not know: how anything was measured.
Joins: the command prints `render(report, ...)`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from naru.bench.plan import NAIVE, SEED_C_MS, SEED_COUNT, SEED_SIZE_BYTES, show_size
from naru.bench.result import Record, Report, Spread

__all__ = ["Style", "render", "style_for"]

LEAST_BAR, MOST_BAR = 6, 24
GAP = 3
DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
PLAIN_WIDTH = 110
_EIGHTHS = " ▏▎▍▌▋▊▉"
_ASCII_HEAD = Box("    \n    \n -- \n    \n -- \n    \n    \n    \n", ascii=True)


@dataclass(frozen=True)
class Style:
    """What the reader's device can show."""

    width: int
    unicode: bool
    colour: bool
    wraps: bool = True
    """Sentences are broken at the width; in a file they are not."""

    def text(self, text: str) -> str:
        """With the few signs that are not ASCII replaced where they cannot be shown."""
        if self.unicode:
            return text
        for sign, plain in ((DASH, "-"), (TIMES, "x"), ("µ", "u"), ("·", "-")):
            text = text.replace(sign, plain)
        return text.encode("ascii", "replace").decode()


def style_for(stream: IO[str]) -> Style:
    """Looks at a stream and the environment."""
    import locale

    console = Console(file=stream)
    ascii_locale = locale.setlocale(locale.LC_CTYPE) in ("C", "POSIX")
    utf = (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")
    return Style(
        width=console.width if console.is_terminal else PLAIN_WIDTH,
        unicode=utf and not ascii_locale,
        colour=console.is_terminal and not console.no_color,
        wraps=console.is_terminal,
    )


def render(report: Report, style: Style) -> str:
    """The whole report as text, with its colour codes where the style has colours."""
    grids = []
    for size_bytes in report.sizes_bytes:
        of_size = [record for record in report.records if record.size_bytes == size_bytes]
        one_way = [record for record in of_size if not record.distribution()]
        trips = [record for record in of_size if record.distribution()]
        grids += [_one_way(one_way)] if one_way else []
        grids += [_trips(trips)] if trips else []
    for grid in grids:
        grid.fit(style)
    console = Console(
        file=io.StringIO(),
        width=max([style.width, *(grid.width for grid in grids)]),
        force_terminal=style.colour,
        color_system="standard" if style.colour else None,
        highlight=False,
        emoji=False,
        markup=False,
    )

    def write(line: str, colour: str) -> None:
        console.print(Text(style.text(line), style=colour), soft_wrap=not style.wraps)

    write(_heading(report), "dim")
    for grid in grids:
        console.print()
        console.print(grid.table(style))
    for line in [*_explanations(report), *_gains(report)]:
        write(line, "dim")
    for line in _warnings(report):
        write(line, "yellow")
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.split("\n"))


# ---- the tables ----


@dataclass
class _Column:
    header: str
    cells: list[str]
    left: bool = False
    needed: int = 0
    """0: always there; where there is no room, the highest goes first."""
    shares: list[float] | None = None
    """Drawn as bars, as wide as there is room."""

    @property
    def width(self) -> int:
        texts = [*self.header.split("\n"), *self.cells]
        return LEAST_BAR if self.shares else max(len(text) for text in texts)


@dataclass
class _Grid:
    """A table before it is known how much room it has."""

    title: str
    rows: Sequence[Record]
    columns: list[_Column]

    @property
    def width(self) -> int:
        return sum(column.width + GAP for column in self.columns) - GAP

    def fit(self, style: Style) -> None:
        """Drops what can be done without, then draws the bars into what is left."""
        while self.width > style.width:
            last = max(self.columns, key=lambda column: column.needed)
            if last.needed == 0:
                break  # it is wider than the screen; nothing is cut off
            self.columns.remove(last)
        for column in self.columns:
            if column.shares:
                room = min(MOST_BAR, LEAST_BAR + style.width - self.width)
                column.cells = [_bar(share, room, style) for share in column.shares]
                column.shares = None

    def table(self, style: Style) -> Table:
        table = Table(
            title=Text(style.text(self.title), style="bold"),
            title_justify="left",
            box=SIMPLE_HEAD if style.unicode else _ASCII_HEAD,
            show_edge=False,
            pad_edge=False,
            header_style="",
        )
        for column in self.columns:
            table.add_column(
                style.text(column.header),
                justify="left" if column.left else "right",
                no_wrap=True,
                vertical="bottom",
            )
        for at, record in enumerate(self.rows):
            if at and record.contender.naive and not self.rows[at - 1].contender.naive:
                table.add_section()
            texts = [Text(style.text(column.cells[at])) for column in self.columns]
            texts[0].stylize("dim" if record.contender.naive else "bold cyan")
            table.add_row(*texts)
        return table


def _one_way(records: Sequence[Record]) -> _Grid:
    main = next(mode for mode in _TITLES if _of(records, mode))
    rows = _ordered(_of(records, main), lambda record: -record.messages_per_s.median)
    rates = [record.messages_per_s.median for record in rows]
    columns = [
        _Column("", [record.contender.name for record in rows], left=True),
        _Column("time\nms", [_ms(record.time_asked_s.median) for record in rows]),
        _Column(
            f"least{DASH}most\nms", [_ms_range(record.time_asked_s) for record in rows], needed=3
        ),
        _Column("", [], left=True, needed=2, shares=[rate / max(rates) for rate in rates]),
        _Column("messages\n/s", [_rate(rate) for rate in rates]),
        _Column("\nGB/s", [_digits(record.bytes_per_s / 1e9) for record in rows]),
        _Column("CPU s\nboth", [_digits(record.cpu_s.median) for record in rows]),
    ]
    for mode, header in (("batch", "batches\nms"), ("in-place", "in place\nms")):
        if mode != main and _of(records, mode):
            columns.append(_Column(header, [_same_way_ms(records, row, mode) for row in rows]))
    if _seed_applies(rows[0], main):
        columns.append(_Column("seed's C\nms", [_seed_ms(row) for row in rows], needed=1))
    size = show_size(rows[0].size_bytes)
    return _Grid(f"{size} {TIMES} {rows[0].count_asked:,} one way{_TITLES[main]}", rows, columns)


_TITLES = {"message": "", "batch": ", in batches of 64", "in-place": ", taken in place"}


def _trips(records: Sequence[Record]) -> _Grid:
    rows = _ordered(records, lambda record: record.trip_ns(0.5).median)
    middles = [record.trip_ns(0.5) for record in rows]
    slowest = max(middle.median for middle in middles)
    columns = [
        _Column("", [record.contender.name for record in rows], left=True),
        _Column("p50\nµs", [_us(middle.median) for middle in middles]),
        _Column(
            f"least{DASH}most\nµs",
            [f"{_us(one.least)}{DASH}{_us(one.most)}" for one in middles],
            needed=2,
        ),
        _Column("", [], left=True, needed=1, shares=[one.median / slowest for one in middles]),
        _Column("p99\nµs", [_us(record.trip_ns(0.99).median) for record in rows]),
        _Column("p99.9\nµs", [_us(record.trip_ns(0.999).median) for record in rows]),
        _Column("trips\n/s", [_rate(record.messages_per_s.median) for record in rows]),
        _Column("CPU s\nboth", [_digits(record.cpu_s.median) for record in rows]),
    ]
    title = f"{show_size(rows[0].size_bytes)} {TIMES} {rows[0].count_asked:,} there and back"
    return _Grid(title, rows, columns)


# ---- cells ----


def _of(records: Sequence[Record], mode: str) -> list[Record]:
    return [record for record in records if record.mode == mode]


def _ordered(records: Sequence[Record], key: Callable[[Record], float]) -> list[Record]:
    """naru's first, the quickest on top, then plain Python's."""
    return sorted(records, key=lambda record: (record.contender.naive, key(record)))


def _seed_applies(record: Record, mode: str) -> bool:
    """The seed's figures are of 1 KB, a million times, one by one."""
    fits = (record.size_bytes, record.count_asked) == (SEED_SIZE_BYTES, SEED_COUNT)
    return fits and mode == "message"


def _seed_ms(record: Record) -> str:
    figure = SEED_C_MS.get(record.contender.name)
    return f"{figure:,}" if figure else ""


def _same_way_ms(records: Sequence[Record], row: Record, mode: str) -> str:
    for record in records:
        if record.mode == mode and record.contender == row.contender:
            return _ms(record.time_asked_s.median)
    return ""


def _bar(share: float, width: int, style: Style) -> str:
    if not style.unicode:
        return "#" * max(1, round(share * width))
    eighths = max(1, round(share * width * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _digits(value: float) -> str:
    """Three digits that count, and all before the point."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    places = 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{places}f}"


def _ms(seconds: float) -> str:
    return _digits(seconds * 1e3)


def _ms_range(spread: Spread) -> str:
    return f"{_ms(spread.least)}{DASH}{_ms(spread.most)}"


def _us(ns: float) -> str:
    return _digits(ns / 1e3)


def _rate(per_s: float) -> str:
    for unit, scale in ((" M", 1e6), (" k", 1e3)):
        if per_s >= scale:
            return _digits(per_s / scale) + unit
    return _digits(per_s)


# ---- words ----


def _median_of(report: Report) -> str:
    return "one run" if report.repeats == 1 else f"median of {report.repeats} runs"


def _heading(report: Report) -> str:
    machine = report.machine
    kind = ", virtual" if machine.virtual else ""
    cores = "not pinned" if report.cores is None else "cores {} and {}".format(*report.cores)
    return (
        f"{machine.cpu}, {machine.cores_online} CPUs{kind} · Linux {machine.kernel} · Python "
        f"{machine.python} · naru {machine.naru} · {report.date[:10]}\n"
        f"two processes, {cores} · {_median_of(report)}"
    )


def _explanations(report: Report) -> list[str]:
    modes = {record.mode for record in report.records}
    lines = [""]
    verbs = {
        "message": "one by one: send, receive",
        "batch": "batches: send_many(64), receive_many(64)",
        "in-place": "in place: send_many(64), lease_many(512), looking at every message",
    }
    used = [text for mode, text in verbs.items() if mode in modes]
    if used:
        lines.append(" · ".join(used) + ".")
    if any(_seed_applies(record, record.mode) for record in report.records):
        lines.append("The seed's figures are of C programs on another machine.")
    return lines


def _gains(report: Report) -> list[str]:
    """What a user of the plain Python way would gain."""
    lines = []
    for size_bytes in report.sizes_bytes:
        for name, transport in NAIVE.items():
            naive = report.find(name, "message", size_bytes)
            ours = report.find(transport, "message", size_bytes)
            if naive and ours:
                ratio = ours.messages_per_s.median / naive.messages_per_s.median
                lines.append(
                    f"{show_size(size_bytes)}: naru {transport} moves {ratio:.1f} times the "
                    f"messages of plain {name}"
                )
    return lines


def _warnings(report: Report) -> list[str]:
    lines = [f"note: {note}" for note in report.notes]
    for gap in report.gaps:
        word = "FAILED" if gap.failed else "not here"
        what = f"{gap.contender} {gap.mode} {show_size(gap.size_bytes)}"
        lines.append(f"{word}: {what}: {gap.reason}")
    return lines
