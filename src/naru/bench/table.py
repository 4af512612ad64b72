"""The tables that people read: one for each message size, and one for round trips.

Holds: which columns, how numbers are written, the bars. Through rich: colours on a terminal (NO_COLOR
is honoured), aligned plain text elsewhere, ASCII where the locale knows nothing else.
Must not know: how anything was measured.
Joins: the command prints `render(report, ...)`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
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
SPREAD_FROM_WIDTH = 92
PLAIN_WIDTH = 110
_EIGHTHS = " ▏▎▍▌▋▊▉"
_ASCII_HEAD = Box("    \n    \n -- \n    \n -- \n    \n    \n    \n", ascii=True)


@dataclass(frozen=True)
class Style:
    """What the reader's device can show."""

    width: int
    unicode: bool
    colour: bool

    def text(self, text: str) -> str:
        """With the few signs that are not ASCII replaced where they cannot be shown."""
        if self.unicode:
            return text
        for sign, plain in (("–", "-"), ("×", "x"), ("µ", "u"), ("·", "-"), ("’", "'")):
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
    )


def render(report: Report, style: Style) -> str:
    """The whole report as text, with its colour codes where the style has colours."""
    console = Console(
        file=io.StringIO(),
        width=style.width,
        force_terminal=style.colour,
        color_system="standard" if style.colour else None,
        highlight=False,
        emoji=False,
        markup=False,
        soft_wrap=False,
    )
    console.print(Text(style.text(_heading(report)), style="dim"))
    for size_bytes in report.sizes_bytes:
        one_way = [r for r in report.records if r.size_bytes == size_bytes and not r.passes[0].trips_ns]
        trips = [r for r in report.records if r.size_bytes == size_bytes and r.passes[0].trips_ns]
        for table in (_one_way(one_way, style), _trips(trips, style)):
            if table is not None:
                console.print()
                console.print(table)
    for line in [*_explanations(report), *_gains(report)]:
        console.print(Text(style.text(line), style="dim"))
    for line in _warnings(report):
        console.print(Text(style.text(line), style="yellow"))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.split("\n"))


# ---- the tables ----


def _one_way(records: Sequence[Record], style: Style) -> Table | None:
    if not records:
        return None
    main = next(mode for mode in ("message", "batch", "in-place") if _of(records, mode))
    others = [mode for mode in ("batch", "in-place") if mode != main and _of(records, mode)]
    rows = _ordered(_of(records, main), lambda record: -record.messages_per_s.median)
    asked, size_bytes = rows[0].count_asked, rows[0].size_bytes
    seed = _seed_applies(rows, main)
    table = _new_table(f"{show_size(size_bytes)} × {asked:,} one way{_MAIN_TITLES[main]}", style)
    spread = style.width >= SPREAD_FROM_WIDTH
    bar_width = _bar_width(style, 52 + 12 * spread + 10 * len(others) + 10 * seed)
    headers = ["", "time\nms"] + ["least–most\nms"] * spread + [""] * bool(bar_width)
    headers += ["messages\n/s", "\nGB/s", "CPU s\nboth"]
    headers += [f"{_SHORT[mode]}\nms" for mode in others] + ["seed’s C\nms"] * seed
    _add_columns(table, headers, style, bar_at=2 + spread if bar_width else None)
    best = max(record.messages_per_s.median for record in rows)
    before = None
    for record in rows:
        if before is not None and record.contender.naive and not before.contender.naive:
            table.add_section()
        before = record
        cells = [record.contender.name, _ms(record.time_asked_s.median)]
        cells += [_ms_range(record.time_asked_s)] * spread
        cells += [_bar(record.messages_per_s.median / best, bar_width, style)] * bool(bar_width)
        cells += [_rate(record.messages_per_s.median), _digits(record.bytes_per_s / 1e9)]
        cells += [_digits(record.cpu_s.median)]
        cells += [_same_way_ms(records, record, mode) for mode in others]
        if seed:
            figure = None if record.contender.naive else SEED_C_MS.get(record.contender.name)
            cells.append(f"{figure:,}" if figure else "")
        _add_row(table, cells, record, style)
    return table


_MAIN_TITLES = {"message": "", "batch": ", in batches of 64", "in-place": ", taken in place"}
_SHORT = {"batch": "batches", "in-place": "in place"}


def _trips(records: Sequence[Record], style: Style) -> Table | None:
    if not records:
        return None
    rows = _ordered(records, lambda record: record.trip_ns(0.5).median)
    table = _new_table(f"{show_size(rows[0].size_bytes)}, there and back (round trip)", style)
    bar_width = _bar_width(style, 70)
    headers = ["", "p50\nµs", "least–most\nµs"] + [""] * bool(bar_width)
    headers += ["p99\nµs", "p99.9\nµs", "trips\n/s", "CPU s\nboth"]
    _add_columns(table, headers, style, bar_at=3 if bar_width else None)
    slowest = max(record.trip_ns(0.5).median for record in rows)
    before = None
    for record in rows:
        if before is not None and record.contender.naive and not before.contender.naive:
            table.add_section()
        before = record
        middle = record.trip_ns(0.5)
        cells = [record.contender.name, _us(middle.median)]
        cells += [f"{_us(middle.least)}–{_us(middle.most)}"]
        cells += [_bar(middle.median / slowest, bar_width, style)] * bool(bar_width)
        cells += [_us(record.trip_ns(share).median) for share in (0.99, 0.999)]
        cells += [_rate(record.messages_per_s.median), _digits(record.cpu_s.median)]
        _add_row(table, cells, record, style)
    return table


def _new_table(title: str, style: Style) -> Table:
    return Table(
        title=Text(style.text(title), style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD if style.unicode else _ASCII_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="",
    )


def _add_columns(table: Table, headers: Sequence[str], style: Style, bar_at: int | None) -> None:
    for place, header in enumerate(headers):
        left = place in (0, bar_at)
        table.add_column(
            style.text(header), justify="left" if left else "right", no_wrap=True,
            vertical="bottom",
        )  # fmt: skip


def _add_row(table: Table, cells: Sequence[str], record: Record, style: Style) -> None:
    texts = [Text(style.text(cell)) for cell in cells]
    texts[0].stylize("dim" if record.contender.naive else "bold cyan")
    table.add_row(*texts)


# ---- cells ----


def _of(records: Sequence[Record], mode: str) -> list[Record]:
    return [record for record in records if record.mode == mode]


def _ordered(records: Sequence[Record], key: object) -> list[Record]:
    """naru's first, the quickest on top, then plain Python's."""
    return sorted(records, key=lambda record: (record.contender.naive, key(record)))  # type: ignore[operator]


def _seed_applies(rows: Sequence[Record], mode: str) -> bool:
    """The seed's figures are of 1 KB, a million times, one by one."""
    first = rows[0]
    fits = (first.size_bytes, first.count_asked) == (SEED_SIZE_BYTES, SEED_COUNT)
    return fits and mode == "message" and any(row.contender.name in SEED_C_MS for row in rows)


def _same_way_ms(records: Sequence[Record], row: Record, mode: str) -> str:
    for record in records:
        if record.mode == mode and record.contender == row.contender:
            return _ms(record.time_asked_s.median)
    return ""


def _bar_width(style: Style, others: int) -> int:
    room = style.width - others
    return 0 if room < LEAST_BAR else min(room, MOST_BAR)


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
    return f"{_ms(spread.least)}–{_ms(spread.most)}"


def _us(ns: float) -> str:
    return _digits(ns / 1e3)


def _rate(per_s: float) -> str:
    for unit, scale in ((" M", 1e6), (" k", 1e3)):
        if per_s >= scale:
            return _digits(per_s / scale) + unit
    return _digits(per_s)


# ---- words ----


def _heading(report: Report) -> str:
    machine = report.machine
    kind = ", virtual" if machine.virtual else ""
    cores = "not pinned" if report.cores is None else "cores {} and {}".format(*report.cores)
    return (
        f"{machine.cpu}, {machine.cores_online} CPUs{kind} · Linux {machine.kernel} · Python "
        f"{machine.python} · naru {machine.naru} · {report.date[:10]}\n"
        f"two processes, {cores} · median of {report.repeats} runs"
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
    if any(_seed_applies([record], record.mode) for record in report.records):
        lines.append("The seed’s figures are of C programs on another machine.")
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
                    f"{show_size(size_bytes)}: naru {transport} moves {ratio:.1f} times the messages "
                    f"of plain {name}"
                )
    return lines


def _warnings(report: Report) -> list[str]:
    lines = [f"note: {note}" for note in report.notes]
    for gap in report.gaps:
        word = "FAILED" if gap.failed else "not here"
        what = f"{gap.contender} {gap.mode} {show_size(gap.size_bytes)}"
        lines.append(f"{word}: {what}: {gap.reason}")
    return lines
