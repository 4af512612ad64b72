"""The tables of a profile, for `naru probe`: a row a transport, a column a size.

Holds: which tables, how a cell is written, the mark of the best. Must not know: how it was measured.
Joins: the command prints `render_profile`; the docs take their tables from `grid_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from naru.bench.table import Style
from naru.choosing.policy import show_rate
from naru.choosing.profile import Cell, Profile, Spread
from naru.sizes import show_size

__all__ = ["GRIDS", "Grid", "grid_of", "render_profile"]

BEST = "*"


class Grid(NamedTuple):
    """One table of a profile."""

    title: str
    batch: bool
    wait: str
    show: Callable[[Cell], str]
    worth: Callable[[Cell], float | None]
    """The highest is the best; None: not measured."""


def _show_trip(cell: Cell) -> str:
    assert cell.trip is not None
    p50, p99 = cell.trip.p50_us, cell.trip.p99_us
    return f"{_short(p50.median)}{_spread(p50)} / {_short(p99.median)}"


def _trip_worth(cell: Cell) -> float | None:
    return None if cell.trip is None else -cell.trip.p50_us.median


def _show_rate(cell: Cell) -> str:
    assert cell.rate is not None
    return f"{show_rate(cell.rate.per_s.median)}{_spread(cell.rate.per_s)}"


def _rate_worth(cell: Cell) -> float | None:
    return None if cell.rate is None else cell.rate.per_s.median


def _grids() -> tuple[Grid, ...]:
    found = []
    for batch, words in ((False, "messages one by one"), (True, "batches of up to 64")):
        for wait, waiting in (("adaptive", "adaptive waiting"), ("sleep", "sleeping")):
            title = f"{words}, {waiting}"
            trips = f"{title}: there and back, us, p50 (spread) / p99"
            rates = f"{title}: messages a second (spread)"
            found.append(Grid(trips, batch, wait, _show_trip, _trip_worth))
            found.append(Grid(rates, batch, wait, _show_rate, _rate_worth))
    return tuple(found)


GRIDS = _grids()


def grid_of(profile: Profile, grid: Grid) -> list[list[str]]:
    """A head and a row a transport; the best of a column is marked. Empty: nothing was measured.

    A size that only a transport's own limit brought in has no column.
    """
    cells = {
        (cell.transport, cell.size_bytes): cell
        for cell in profile.cells
        if (cell.batch, cell.wait) == (grid.batch, grid.wait) and grid.worth(cell) is not None
    }
    names = list(dict.fromkeys(name for name, _ in cells))
    counts = {size: sum(at == size for _, at in cells) for _, size in cells}
    sizes = sorted(size for size, count in counts.items() if count > 1 or len(names) == 1)
    if not sizes:
        return []
    best = {size: _best(grid, [cells.get((name, size)) for name in names]) for size in sizes}
    rows = [["", *(show_size(size) for size in sizes)]]
    for name in names:
        row = [cells.get((name, size)) for size in sizes]
        marked = zip(row, sizes, strict=True)
        rows.append([name, *(_cell(grid, cell, best[size]) for cell, size in marked)])
    return rows


def _best(grid: Grid, cells: Sequence[Cell | None]) -> Cell | None:
    measured = [cell for cell in cells if cell is not None]
    return max(measured, key=lambda cell: grid.worth(cell) or 0.0, default=None)


def _cell(grid: Grid, cell: Cell | None, best: Cell | None) -> str:
    if cell is None:
        return "-"
    return grid.show(cell) + (BEST if cell is best else "")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _spread(spread: Spread) -> str:
    """Half of the way from the least to the most, of the median; nothing for a single repeat."""
    if spread.least == spread.most:
        return ""
    share = (spread.most - spread.least) / 2 / spread.median
    return f" ±{share:.0%}"


def render_profile(profile: Profile, style: Style) -> str:
    """All tables as aligned text, with what a reader must know."""
    lines = [f"{profile.origin}{' (quick)' if profile.quick else ''}, median of {profile.repeats}"]
    for grid in GRIDS:
        rows = grid_of(profile, grid)
        if rows:
            lines += ["", grid.title, *_align(rows)]
    load = profile.load
    lines += [
        "",
        f"{BEST} the best of its column",
        f"others used {load.busy_before:.0%} of the machine before and {load.busy_during:.0%} "
        f"while it was measured; its host took {load.stolen_during:.0%}",
        *(f"note: {note}" for note in profile.notes),
    ]
    return "".join(style.text(line.replace("±", "+-") if not style.unicode else line) + "\n"
                   for line in lines)  # fmt: skip


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]
