"""The docs say what is so: their code runs, their links and tables are right.

How a page's code is marked, in the first line of a block:

    # runs                 python, sh: it is run, in the page's order, in one folder for the page
    # runs, needs: X Y     the same, when these programs are on this machine
    # file: NAME           it is written to that file of the page's folder

A ```text block right after one that runs is what it prints; `...` in it stands for anything.
Blocks without a mark are still compiled.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import naru

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*.md")),
]
WATCHDOG_S = 60

BLOCK = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"# (?:runs(?:, needs: (?P<needs>[\w ]+))?|file: (?P<file>[\w./-]+))\n")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block, its mark taken apart."""

    language: str
    text: str
    line: int
    runs: bool
    needs: tuple[str, ...]
    file: str | None
    output: str | None


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    for match, following in itertools.zip_longest(found, found[1:]):
        language, code = match.groups()
        mark = MARK.match(code) if language in ("python", "sh") else None
        output = None
        if following is not None and following[1] == "text":
            between = text[match.end() : following.start()]
            output = following[2] if not between.strip() else None
        yield Block(
            language=language,
            text=code,
            line=text.count("\n", 0, match.start()) + 1,
            runs=mark is not None and mark["file"] is None,
            needs=tuple((mark["needs"] or "").split()) if mark else (),
            file=mark["file"] if mark else None,
            output=output,
        )


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="nd-") as name:
        yield Path(name)


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    """`python` and `naru` are those under test; the names of a page are its own."""
    programs = folder / ".bin"
    programs.mkdir()
    start = "from naru.cli import main; main()"
    for name, arguments in (("python", ""), ("naru", f" -c '{start}'")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    runtime = folder / ".run"
    runtime.mkdir(mode=0o700)
    found = os.pathsep.join(path for path in sys.path if path)
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": found,
        "PYTHONWARNINGS": "error",
        "XDG_RUNTIME_DIR": str(runtime),
        "NO_COLOR": "1",
        "COLUMNS": "100",
    }


PATIENT = r"^naru: waiting for somebody at .*\n"
"""What a command says when the other one is slow to start, as on a busy machine."""


def run(block: Block, folder: Path, environment: dict[str, str]) -> str:
    """What the block printed, errors included."""
    if block.language == "python":
        file = folder / f"block_{block.line}.py"
        file.write_text(block.text, encoding="utf-8")
        command = [sys.executable, str(file)]
    else:
        command = ["sh", "-eu", "-c", block.text]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=WATCHDOG_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with everything that it started
            printed, _ = process.communicate()
            pytest.fail(f"line {block.line}: not over after {WATCHDOG_S} s\n{printed}")
    assert process.returncode == 0, f"line {block.line}: exit {process.returncode}\n{printed}"
    return re.sub(PATIENT, "", printed, flags=re.MULTILINE)


def matches(pattern: str, printed: str) -> bool:
    parts = [re.escape(part) for part in pattern.strip().split("...")]
    return re.fullmatch(".*?".join(parts), printed.strip(), re.DOTALL) is not None


@pytest.mark.watchdog(seconds=180)
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_run(page: Path, folder: Path, environment: dict[str, str]) -> None:
    for block in blocks_of(page):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        if not block.runs or not all(shutil.which(program) for program in block.needs):
            continue
        printed = run(block, folder, environment)
        if block.output is None:
            assert "Traceback" not in printed, f"line {block.line}:\n{printed}"
        else:
            assert matches(block.output, printed), f"line {block.line}: it prints\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_compiles(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "python":
            compile(block.text, f"{name_of(page)}:{block.line}", "exec")


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {word.strip().replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue  # other people's pages are not looked at
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors_of(there), f"{name_of(page)}: {target}"


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / target).resolve() for target in LINK.findall(index)}
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert pages - linked - {ROOT / "docs" / "index.md"} == set()


def test_tables_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "tables.py"), "--check"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True, text=True, check=False, timeout=WATCHDOG_S,
    )  # fmt: skip
    assert done.returncode == 0, f"run docs/tables.py:\n{done.stdout}{done.stderr}"


def measured(key: str, unit: str, contenders: list[tuple[str, str, float, int]]) -> dict[str, Any]:
    """A row of a results file, as benchmarks/report.py writes it."""
    return {
        "key": key, "title": key, "unit": unit, "targets": [], "naru_of_floor": 1.5,
        "contenders": [
            {
                "kind": kind, "name": name, "median": median, "min": median, "max": median,
                "lost": lost, "problem": "", "naru_ratio": 0.5,
            }
            for kind, name, median, lost in contenders
        ],
    }  # fmt: skip


def write_results(folder: Path, date: str, rows: list[dict[str, Any]], *, quick: bool) -> None:
    about = {"cpu": "CPU", "cores_online": 2, "hypervisor": True, "kernel": "6", "python": "3"}
    record = {"date": date, "quick": quick, "repeat": 5, "machine": about, "rows": rows}
    (folder / f"messages-{date}.json").write_text(json.dumps(record), encoding="utf-8")


def test_measurements_are_the_newest_and_the_best_peer_lost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    tables = importlib.import_module("tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "No results yet" in tables.message_table()
    fast = [("floor", "c", 50.0, 0), ("naru", "naru", 75.0, 0), ("peer", "sieve", 10.0, 3)]
    fast += [("peer", "slow", 900.0, 0), ("peer", "good", 190.0, 0)]
    large = [("naru", "naru", 5.0, 0), ("peer", "less", 2.0, 0), ("peer", "more", 4.0, 0)]
    rows = [measured("shm.message", "ms", fast), measured("large.copy", "GB/s", large)]
    write_results(tmp_path, "2026-01-01", rows, quick=False)
    old = [measured("shm.message", "ms", [("naru", "naru", 1.0, 0)])]
    write_results(tmp_path, "2025-01-01", old, quick=False)
    write_results(tmp_path, "2026-02-02", old, quick=True)
    table = tables.message_table()
    assert "| shm.message | 50.0 | **75.0** | 1.50 | 190 good | 0.50 |" in table
    assert "| large.copy | - | **5.00** | 1.50 | 4.00 more | 0.50 |" in table
    assert "2025" not in table
    assert "2026-02" not in table


def test_every_verb_and_every_count_is_described() -> None:
    text = (ROOT / "docs" / "messages.md").read_text(encoding="utf-8")
    ends = (naru.Channel, naru.Listener)
    verbs = {name for end in ends for name in dir(end) if not name.startswith("_")}
    counts = {field.name for field in dataclasses.fields(naru.Statistics)}
    missing = {name for name in verbs | counts if f"`{name}" not in text and f".{name}" not in text}
    assert missing == set()


def test_every_public_name_is_described() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {name for name in naru.__all__ if name not in text} == set()


def test_every_option_of_the_command_is_described() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    program = importlib.import_module("naru.cli.program")
    for name in program.COMMANDS:
        assert f"`naru {name}" in text
        command = importlib.import_module(program.module_of(name)).command
        options = {word for one in command.params for word in (*one.opts, *one.secondary_opts)}
        missing = {word for word in options if word.startswith("-") and f"`{word}" not in text}
        assert missing == set(), name
