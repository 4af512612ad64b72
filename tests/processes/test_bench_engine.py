"""`naru bench scaling` and `naru bench connections`, in small."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from commands import naru

from naru.bench.scaling import measure
from naru.engine import raise_descriptor_limit


@pytest.mark.watchdog(seconds=60)
def test_scaling_is_flat_for_epoll_and_says_what_cannot_be(tmp_path: Path) -> None:
    done = naru("bench", "scaling", "--descriptors", "100,3000", "--json", str(tmp_path / "s.json"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"seed, C, another machine: epoll 1,000,000: 10 ms" in done.stdout
    assert b"select knows no descriptor above 1023" in done.stdout
    cells = {
        (cell["contender"], cell["registered"]): cell["median_us"]
        for cell in json.loads((tmp_path / "s.json").read_bytes())["rows"]
    }
    assert len(cells) == 8
    assert cells["select", 3000] is None
    assert all(us is not None and us > 0 for key, us in cells.items() if key != ("select", 3000))
    assert cells["poll", 3000] > 3 * cells["poll", 100]


def test_descriptors_that_only_children_hold_are_still_registered() -> None:
    before = len(os.listdir("/proc/self/fd"))
    limit = raise_descriptor_limit()
    if limit > 100_000:
        pytest.skip(f"it would take {limit:,} descriptors")
    (cell,) = measure(["naru"], [limit + 5_000], lambda share, text: None)
    assert cell.median_us is not None
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("options", [(), ("--unix",)])
def test_connections(options: tuple[str, ...]) -> None:
    done = naru("bench", "connections", "--count", "500", "--json", "-", *options)
    assert done.returncode == 0, done.stderr
    (held,) = json.loads(done.stdout)["rows"]
    assert (held["connections"], held["servers"]) == (500, 1)
    assert held["among_us"] > 0
    assert held["transport"] == ("unix" if options else "tcp")


@pytest.mark.parametrize("text", ["none", "0", "5,,6"])
def test_bad_counts_are_one_line(text: str) -> None:
    done = naru("bench", "scaling", "--descriptors", text)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


def test_the_usual_bench_is_still_there() -> None:
    done = naru("bench", "--help")
    assert b"--compare" in done.stdout
    assert b"scaling" in done.stdout
