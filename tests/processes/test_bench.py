"""`naru bench` as people run it: real processes, small counts; no test looks at a speed."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import ended, environment, naru, read_terminal, running, terminal

from naru.bench.host import run_job as run_in_host
from naru.bench.plan import MODES, NAIVE
from naru.bench.result import Report, read_report
from naru.transports import NAMES

pytestmark = pytest.mark.watchdog(seconds=60)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        yield Path(name)


def report_of(folder: Path, *arguments: str) -> Report:
    """Runs a benchmark that has to succeed."""
    file = folder / "result.json"
    done = naru("bench", "--quiet", "--json", os.fspath(file), *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return read_report(file)


def run_job(asked: dict[str, Any]) -> dict[str, Any]:
    """The only pass, or the error."""
    answer = run_in_host(asked)
    return answer["passes"][0] if "passes" in answer else answer


def job(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "transport": "shm", "options": "", "naive": None, "mode": "message", "size_bytes": 64,
        "count": 1000, "passes": 1, "cores": None, "limit_s": 30.0,
    }  # fmt: skip
    return fields | changes


# ---- one run in two processes ----


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", NAMES)
def test_every_transport_in_every_mode(transport: str, mode: str) -> None:
    options = "heartbeat_s=0" if transport == "udp" else ""
    answer = run_job(job(transport=transport, mode=mode, options=options, count=130))
    assert "error" not in answer, answer
    assert answer["seconds"] > 0
    assert answer["cpu_sender_s"] > 0
    assert answer["cpu_receiver_s"] > 0
    assert 0 < answer["received"] <= 130
    if transport != "udp":
        assert answer["received"] == 130
    assert (answer["trips_ns"] is not None) == (mode == "round-trip")


@pytest.mark.parametrize("mode", ["message", "round-trip"])
@pytest.mark.parametrize("name", NAIVE)
def test_every_plain_way(name: str, mode: str) -> None:
    answer = run_job(job(naive=name, mode=mode, count=100, size_bytes=2000))
    assert "error" not in answer, answer
    assert answer["received"] == 100


@pytest.mark.parametrize("size_bytes", [1, 8, 5000, 300_000, 3 << 20])
@pytest.mark.parametrize("transport", ["shm", "unix"])
def test_sizes(transport: str, size_bytes: int) -> None:
    for mode in ("message", "in-place"):
        answer = run_job(job(transport=transport, mode=mode, size_bytes=size_bytes, count=20))
        assert answer.get("received") == 20, answer


def test_a_wrong_message_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the sender leaves out is found by the receiver: both are forked from here."""
    from naru.bench import loops

    honest = loops.send_each
    monkeypatch.setattr(loops, "send_each", lambda send, load, count: honest(send, load, count + 1))
    answer = run_job(job(count=640))
    assert "was lost, repeated or torn" in answer["error"]
    assert answer["cannot"] is False


def test_a_side_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    from naru.bench import loops

    monkeypatch.setattr(loops, "send_each", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    for transport in ("shm", "mq", "fifo"):
        answer = run_job(job(transport=transport))
        assert "killed" in answer["error"] or "gone" in answer["error"], answer


def test_a_side_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from naru.bench import loops

    monkeypatch.setattr(loops, "send_each", lambda *_: signal.pause())
    answer = run_job(job(limit_s=0.3))
    assert answer == {"error": "no result after 0 s", "cannot": False}


def test_what_this_machine_cannot_do() -> None:
    answer = run_job(job(transport="mq", options="depth=65536"))
    assert answer["cannot"] is True
    assert "fs.mqueue.msg_max" in answer["error"]


# ---- the command ----


def test_a_report_has_everything(folder: Path) -> None:
    report = report_of(
        folder, "--count", "200", "--repeat", "2", "--size", "64,1KiB", "--mode", "all",
        "--transport", "shm,pipe,fifo,mq", "--compare",
    )  # fmt: skip
    names = ["shm", "pipe", "fifo", "mq", "os.pipe", "mp.Queue"]
    found = {(one.contender.name, one.mode, one.size_bytes) for one in report.records}
    wanted = {
        (name, mode, size)
        for name in names
        for mode in (("message", "round-trip") if name in NAIVE else MODES)
        for size in (64, 1024)
    }
    assert found == wanted
    for record in report.records:
        assert record.count == record.count_asked == 200
        assert len(record.passes) == 2
        assert record.lost_share == 0
        assert record.messages_per_s.least <= record.messages_per_s.median
        if record.mode == "round-trip":
            assert 0 < record.trip_ns(0.5).median <= record.trip_ns(0.999).median
    assert report.command[:2] == ["naru", "bench"]
    assert not report.gaps


def test_options_of_a_transport_and_of_waiting(folder: Path) -> None:
    report = report_of(
        folder, "--count", "100", "--repeat", "1", "--mode", "round-trip", "--wait", "sleep",
        "--transport", "shm?capacity_bytes=8192", "--transport", "tcp?coalesce=off,shm",
    )  # fmt: skip
    assert report.wait == "sleep"
    assert [one.contender.name for one in report.records] == [
        "shm?capacity_bytes=8192", "tcp?coalesce=off", "shm",
    ]  # fmt: skip


def test_a_small_budget_lowers_the_counts(folder: Path) -> None:
    report = report_of(
        folder, "--budget", "1", "--repeat", "1", "--transport", "shm,pipe,mq", "--mode", "message"
    )
    assert {one.count_asked for one in report.records} == {1_000_000}
    assert any(one.count < 1_000_000 for one in report.records)
    assert any("fewer messages than asked, so as to end within 1 s" in one for one in report.notes)


def test_too_large_for_one_of_them() -> None:
    done = naru(
        "bench", "--count", "64", "--size", "16KiB", "--transport", "mq,pipe", "--repeat", "1"
    )
    assert done.returncode == 0
    assert b"not here: mq message 16 KiB: mq carries at most" in done.stdout


def test_nothing_could_be_measured() -> None:
    done = naru("bench", "--count", "64", "--size", "16KiB", "--transport", "mq")
    assert done.returncode == 1


def test_a_failure_is_told_and_is_the_exit_code() -> None:
    done = naru(
        "bench", "--count", "64", "--transport", "mq?message_bytes=10,pipe", "--repeat", "1"
    )
    assert done.returncode == 1
    assert re.search(rb"FAILED: mq\?message_bytes=10 message 1 KiB: .*1024 bytes", done.stdout)
    assert b"Traceback" not in done.stdout + done.stderr


def test_json_to_standard_output() -> None:
    done = naru("bench", "--count", "64", "--repeat", "1", "--transport", "pipe", "--json", "-")
    assert json.loads(done.stdout)["schema"] == "naru-bench/1"


@pytest.mark.may_leak  # matplotlib's fonts
def test_a_chart(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    file = folder / "chart.svg"
    done = naru(
        "bench", "--count", "64", "--repeat", "1", "--transport", "pipe", "--mode", "all", "--plot",
        os.fspath(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pipe" in file.read_text(encoding="utf-8")


def test_one_cpu_is_enough() -> None:
    cpu = min(os.sched_getaffinity(0))
    program = (
        f"import os, sys; os.sched_setaffinity(0, {{{cpu}}}); from naru.cli import main; main()"
    )
    command = [
        sys.executable, "-c", program, "bench", "--count", "200", "--repeat", "1", "--transport",
        "shm", "--mode", "message,round-trip",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert "only one CPU is allowed here" in done.stdout
    assert "not pinned" in done.stdout


def test_a_table_on_a_terminal() -> None:
    arguments = ("bench", "--count", "64", "--repeat", "1", "--transport", "pipe,shm")
    for env, coloured in ((environment(TERM="xterm"), True), (environment(NO_COLOR="1"), False)):
        with (
            terminal(columns=80) as (ours, theirs),
            running(*arguments, env=env, stdout=theirs) as bench,
        ):
            assert bench.wait(timeout=30) == 0
            text = read_terminal(ours).decode()
        assert ("\x1b[1;36m" in text) == coloured
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert max(len(line) for line in plain.splitlines()) <= 80
        assert "\N{FULL BLOCK}" in plain


# ---- the end before the end ----


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]


def test_ctrl_c_ends_all_of_it() -> None:
    arguments = ("bench", "--count", "1000000000", "--transport", "mq,fifo", "--mode", "message")
    with terminal() as (ours, theirs), running(*arguments, stderr=theirs) as bench:
        read_terminal(ours, until=b"mq message 1/3")  # the bar comes after a second
        (host,) = children_of(bench.pid)
        sides = children_of(host)
        assert len(sides) == 2
        pidfds = [os.pidfd_open(pid) for pid in (host, *sides)]
        bench.send_signal(signal.SIGINT)
        assert bench.wait(timeout=20) == 130
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], 20)[0], "a process has outlived the benchmark"
            os.close(pidfd)


def test_the_host_dies() -> None:
    """So do its children, and the command says it in one line."""
    arguments = ("bench", "--count", "1000000000", "--transport", "pipe", "--mode", "message")
    with running(*arguments) as bench:
        host, sides = wait_for_sides(bench.pid)
        pidfds = [os.pidfd_open(pid) for pid in sides]
        os.kill(host, signal.SIGKILL)
        code, _, errors = ended(bench)
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], 20)[0], "a process has outlived the host"
            os.close(pidfd)
    assert (code, errors) == (1, b"naru: the measuring process ended (exit code -9)\n")


def wait_for_sides(pid: int) -> tuple[int, list[int]]:
    """Looks until they are there; there is no event for a grandchild."""
    while True:
        for host in children_of(pid):
            sides = children_of(host)
            if len(sides) == 2:
                return host, sides
        os.sched_yield()
