"""How benchmarks/choice.py judges picks, and what the docs make of its results."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from profiles import profile_of
from reports import report

from naru.bench.plan import Contender
from naru.bench.result import Pass, Record

ROOT = Path(__file__).parents[2]


@pytest.fixture
def choice(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("choice")


def stream(name: str, *rates: float) -> Record:
    passes = [Pass(1000 / rate, 0.1, 0.1, 1000) for rate in rates]
    return Record(Contender(name, name), "message", 64, 1000, 1000, passes)


def trip(name: str, *us: float) -> Record:
    passes = [Pass(1.0, 0.1, 0.1, 1000, {"0.5": int(1000 * one)}) for one in us]
    return Record(Contender(name, name), "round-trip", 64, 1000, 1000, passes)


PROFILE = profile_of({
    ("pipe", 64, False, "adaptive"): (1.0, 5e6), ("shm", 64, False, "adaptive"): (2.0, 1e6),
})  # fmt: skip


def test_regrets(choice: ModuleType) -> None:
    measured = report([trip("shm", 10, 10), trip("pipe", 11, 11), trip("mq", 40, 40)])
    cell = choice.judge(measured, PROFILE, 64, False, "latency")
    assert (cell.best, cell.picks["naru"], cell.picks["textbook"]) == ("shm", "pipe", "mq")
    regrets = {rule: value and round(value, 9) for rule, value in cell.regrets.items()}
    assert regrets == {"naru": 0.1, "textbook": 3.0, "shm": 0.0, "unix": None, "noise": 0.0}
    assert cell.title == "64 B, one by one, latency"
    measured = report([stream("shm", 100.0, 100.0), stream("pipe", 80.0, 80.0)])
    cell = choice.judge(measured, PROFILE, 64, False, "throughput")
    assert (cell.best, round(cell.regrets["naru"], 9)) == ("shm", 0.25)
    assert cell.regrets["textbook"] is None  # unix was not to be had


def test_noise_is_what_one_half_of_the_rounds_says_of_the_other(choice: ModuleType) -> None:
    swaps = report([trip("shm", 10, 20), trip("pipe", 20, 10)])
    assert choice.judge(swaps, PROFILE, 64, False, "latency").regrets["noise"] == 1.0
    once = report([trip("shm", 10), trip("pipe", 20)])
    assert choice.judge(once, PROFILE, 64, False, "latency").regrets["noise"] is None


def test_the_target(choice: ModuleType) -> None:
    measured = report([trip("shm", 10, 10), trip("pipe", 10.4, 10.4), trip("mq", 10, 10)])
    good = choice.judge(measured, PROFILE, 64, False, "latency")
    cells = [good] * 19 + [dataclasses.replace(good, regrets={**good.regrets, "naru": 0.14})]
    assert choice.summarise(cells)["naru"]["reached"] is True
    assert choice.summarise([*cells, cells[-1]])["naru"]["reached"] is False
    bad = dataclasses.replace(good, regrets={**good.regrets, "naru": 0.16})
    assert choice.summarise([*cells[:-1], bad])["naru"]["reached"] is False
    found = choice.summarise(cells)
    assert (found["unix"]["cannot"], found["unix"]["worst"]) == (20, None)
    lines = choice._lines(cells, found)
    assert lines[-1].endswith(": reached")
    assert "cannot 20 of them" in "".join(lines)
    json.dumps(found, allow_nan=False)


def test_the_docs_table(
    choice: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    tables = importlib.import_module("tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "No results yet" in tables.choice_table()
    measured = report([trip("shm", 10, 10), trip("pipe", 11, 11)])
    cells = [choice.judge(measured, PROFILE, 64, False, "latency")]
    record: dict[str, Any] = {
        "date": "2026-01-01", "rounds": 2, "load_during": None, "summary": choice.summarise(cells),
        "machine": {"cpu": "CPU", "cores_online": 2, "kernel": "6"},
        "cells": [{**dataclasses.asdict(cell), "title": cell.title} for cell in cells],
    }  # fmt: skip
    (tmp_path / "choice-2026-01-01.json").write_text(json.dumps(record), encoding="utf-8")
    table = tables.choice_table()
    row = "| 64 B, one by one, latency | shm | **pipe** | 10 % | mq | cannot | 0 | cannot | 0 |"
    assert row in table
    assert "| **worst** |  |  | **10 %** |  | - | 0 % | - | 0 % |" in table
