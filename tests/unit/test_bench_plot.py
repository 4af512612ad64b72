"""Charts: the right kind of file, labels that do not collide, one line without matplotlib."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import reports
from hypothesis import given
from hypothesis import strategies as st

from naru.bench.plot import check_plot_path, spread_out, write_plot
from naru.errors import UnsupportedError

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)


@needs_matplotlib
@pytest.mark.watchdog(seconds=60)  # matplotlib may make its font cache first
@pytest.mark.may_leak  # matplotlib keeps the fonts open that it has used
def test_png_and_svg(tmp_path: Path) -> None:
    png, svg = tmp_path / "chart.png", tmp_path / "chart.svg"
    write_plot(reports.seeds_report(), str(png))
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert len(png.read_bytes()) > 20_000
    write_plot(reports.report_of_sizes(), str(svg))
    text = svg.read_text(encoding="utf-8")
    for words in ("GB/s", "message size", "64 KiB", "round trip", "Test CPU", "2026-11-22", "shm"):
        assert words in text
    assert sorted(tmp_path.iterdir()) == [png, svg]


@needs_matplotlib
def test_nothing_measured_is_still_a_chart(tmp_path: Path) -> None:
    write_plot(reports.report([]), str(tmp_path / "empty.svg"))
    assert "nothing could be measured" in (tmp_path / "empty.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", ["a", "a.jpg", "a.png.txt", ".png"])
def test_other_kinds_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"--plot writes \.png and \.svg"):
        check_plot_path(path)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'naru-ipc\[plot\]'"):
        check_plot_path("a.png")


@given(st.lists(st.floats(-1000, 1000), max_size=12), st.floats(0.1, 50))
def test_labels_are_spread_out(places: list[float], gap: float) -> None:
    moved = spread_out(places, gap)
    ordered = sorted(moved)
    assert all(b - a >= gap * 0.999 - 1e-6 for a, b in pairwise(ordered))
    if all(abs(a - b) > gap for at, a in enumerate(places) for b in places[:at]):
        assert moved == pytest.approx(places, abs=1e-6)
