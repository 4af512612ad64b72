"""The chart of a profile: which transport is the best at which size.

Holds: four panels, {one by one, batches} x {round trip, throughput}; solid lines for adaptive
waiting, dashed ones for sleeping. Must not know: how anything was measured.
Joins: `naru probe --plot` calls `write_profile_plot`; the look is that of plot.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from naru.bench.plot import COLOURS, INK, Line, check_plot_path, draw_lines, label_ends, save_figure
from naru.choosing.profile import Cell, Profile

__all__ = ["write_profile_plot"]

_STYLES = ((False, "one by one"), (True, "batches of 64"))


def write_profile_plot(profile: Profile, path: str) -> None:
    """Draws and writes, whole or not at all. Raises: OSError, ValueError, UnsupportedError."""
    check_plot_path(path)
    save_figure(lambda: _draw(profile), path)


def _draw(profile: Profile) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 10))
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
    figure.suptitle(
        "Which transport is the best at which size", x=0.01, ha="left", fontsize=14,
        fontweight="bold",
    )  # fmt: skip
    places = figure.subplots(2, 2, squeeze=False)
    for row, (batch, words) in enumerate(_STYLES):
        trips = _lines(profile, batch, ("adaptive", "sleep"), _trip_us)
        _panel(places[row][0], f"{words}: there and back (less is better)", "µs", trips)
        rates = _lines(profile, batch, ("adaptive",), _gigabytes_per_s)
        _panel(places[row][1], f"{words}: throughput (more is better)", "GB/s", rates)
    figure.supxlabel(_small_print(profile), x=0.01, ha="left", fontsize=8, color="#555555")
    figure.draw_without_rendering()  # the places of the axes are final now
    figure.set_layout_engine("none")
    for axes in figure.axes:
        label_ends(axes)
    return figure


def _panel(axes: Any, title: str, unit: str, lines: list[Line]) -> None:
    axes.set_title(title)
    axes.set_ylabel(unit)
    if lines:
        draw_lines(axes, lines)


def _lines(
    profile: Profile, batch: bool, waits: tuple[str, ...], value: Callable[[Cell], float | None]
) -> list[Line]:
    found = []
    for wait in waits:
        cells = [cell for cell in profile.cells if (cell.batch, cell.wait) == (batch, wait)]
        for name in dict.fromkeys(cell.transport for cell in cells):
            points = sorted(
                (cell.size_bytes, number)
                for cell in cells
                if cell.transport == name and (number := value(cell)) is not None
            )
            # The dashed lines end where the solid ones do; one name is enough.
            label = name if wait == "adaptive" else f"_{name}"
            if points:
                colour = COLOURS.get(name, INK)
                found.append(Line(label, colour, tuple(points), dashed=wait == "sleep"))
    return found


def _trip_us(cell: Cell) -> float | None:
    return None if cell.trip is None else cell.trip.p50_us.median


def _gigabytes_per_s(cell: Cell) -> float | None:
    return None if cell.rate is None else cell.rate.per_s.median * cell.size_bytes / 1e9


def _small_print(profile: Profile) -> str:
    about = profile.machine
    virtual = " (virtual)" if about.virtual else ""
    lines = [
        f"solid: adaptive waiting · dashed: sleeping · median of {profile.repeats}",
        f"{about.cpu}, {about.cores} CPUs{virtual} · Linux {about.kernel} · Python {about.python} · "
        f"naru {profile.naru} · {profile.date[:10]}",
    ]
    return "\n".join(lines)
