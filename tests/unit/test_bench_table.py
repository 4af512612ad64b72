"""The tables: what they show at which width, on which device."""

from __future__ import annotations

import io
import re

import pytest
import reports

from naru.bench.plan import Contender, Gap
from naru.bench.table import Style, render, style_for

WIDE, NARROW = Style(120, True, False), Style(80, True, False)
ASCII, COLOUR = Style(110, False, False), Style(120, True, True)


def lines_of(text: str) -> list[str]:
    return text.splitlines()


def test_the_seeds_table() -> None:
    text = render(reports.seeds_report(), WIDE)
    shm = next(line for line in lines_of(text) if line.startswith("shm "))
    for cell in ("100", "10.0 M", "10.2", "0.170", "50.0", "33.3", "45"):
        assert cell in shm.split() or cell in shm
    assert "1 KiB \N{MULTIPLICATION SIGN} 1,000,000 one way" in text
    assert "seed's C" in text
    assert "Test CPU, 2 CPUs, virtual" in text
    assert "two processes, cores 0 and 1" in text
    assert "1 KiB: naru shm moves 512.0 times the messages of plain mp.Queue" in text
    assert "note: a note" in text
    assert "not here: mq message 64 KiB: mq carries at most 8,192 bytes a message" in text


@pytest.mark.parametrize("width", [60, 80, 92, 100, 120, 200])
@pytest.mark.parametrize("unicode", [True, False])
def test_nothing_is_cut_off(width: int, unicode: bool) -> None:
    text = render(reports.seeds_report(), Style(width, unicode, False))
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert all(line == line.rstrip() for line in lines_of(text))
    if width >= 80:
        assert max(map(len, lines_of(text))) <= width
    for header in ("time", "messages", "GB/s", "CPU s", "batches", "in place", "p99.9"):
        assert header in text


def test_what_is_dropped_first_on_a_narrow_screen() -> None:
    wide, narrow = render(reports.seeds_report(), WIDE), render(reports.seeds_report(), NARROW)
    assert "least\N{EN DASH}most\n" in wide.replace(" ", "") or "least" in wide
    assert wide.count("least") > narrow.count("least")


def test_the_quickest_is_on_top_and_plain_python_below() -> None:
    text = render(reports.seeds_report(), WIDE)
    names = [line.split("  ")[0] for line in lines_of(text)]
    order = [name for name in names if name in {one.name for one in reports.CONTENDERS}]
    assert order[:10] == [one.name for one in reports.CONTENDERS]


def test_ascii_only() -> None:
    text = render(reports.seeds_report(), ASCII)
    assert text.isascii()
    assert "#" in text
    assert "us" in text


def test_colours_only_where_they_are_wanted() -> None:
    assert "\x1b[" in render(reports.seeds_report(), COLOUR)
    assert "\x1b" not in render(reports.seeds_report(), WIDE)


def test_bars_follow_the_rates() -> None:
    records = [one for one in reports.seeds_report().records if one.mode == "message"]
    text = render(reports.report(records), ASCII)
    bars = {line.split()[0]: line.count("#") for line in lines_of(text) if " M " in line}
    assert bars["shm"] == 2 * bars["pipe"] == 4 * bars["unix"]


def test_a_stream_file_is_no_terminal() -> None:
    style = style_for(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert not style.colour
    assert not style_for(io.TextIOWrapper(io.BytesIO(), encoding="ascii")).unicode


def test_nothing_measured() -> None:
    gap = Gap("mq", "message", 1024, "no message queues", failed=True)
    text = render(reports.report([], gaps=[gap], cores=None), WIDE)
    assert "FAILED: mq message 1 KiB: no message queues" in text
    assert "not pinned" in text


def test_one_mode_alone_is_the_headline() -> None:
    record = reports.one_way(Contender("shm", "shm"), "batch", 0.05)
    text = render(reports.report([record]), WIDE)
    assert "one way, in batches of 64" in text
    assert "seed's" not in text


def test_several_sizes_are_several_tables() -> None:
    text = render(reports.report_of_sizes(), WIDE)
    titles = re.findall(r"^(\d+ \S+) \S [\d,]+ (one way|there and back)", text, re.MULTILINE)
    assert [size for size, kind in titles if kind == "one way"] == [
        "64 B", "1 KiB", "4 KiB", "64 KiB",
    ]  # fmt: skip
