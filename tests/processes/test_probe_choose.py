"""`naru probe` and `naru choose` as people run them; tiny probes, and no test looks at a speed."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ended, environment, naru, read_terminal, running, terminal

from naru.bench.host import run_job
from naru.choosing.profile import read_profile, shipped_profile, to_json

pytestmark = pytest.mark.watchdog(seconds=90)

TINY = ("--transport", "pipe,shm", "--size", "64", "--budget", "0.5")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="np-") as name:
        yield Path(name)


@pytest.fixture
def env(folder: Path) -> dict[str, str]:
    """A machine that nobody has probed yet."""
    return environment(XDG_DATA_HOME=os.fspath(folder / "data"))


def old_profile(folder: Path) -> Path:
    place = folder / "data" / "naru" / "profile.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(to_json(shipped_profile()))
    return place


# ---- probe ----


@pytest.mark.parametrize("transport", ["shm", "pipe", "unix", "fifo", "mq", "tcp"])
def test_batches_there_and_back_over_every_transport(transport: str) -> None:
    for size_bytes in (64, 100_000):
        if transport == "mq" and size_bytes > 8192:
            continue
        answer = run_job({
            "transport": transport, "options": "", "naive": None, "mode": "batch-trip",
            "size_bytes": size_bytes, "count": 5, "passes": 2, "cores": None, "limit_s": 30.0,
        })  # fmt: skip
        assert "error" not in answer, answer
        assert len(answer["passes"]) == 2
        for one in answer["passes"]:
            assert one["received"] == 5
            assert 0 < one["trips_ns"]["0.5"] <= one["trips_ns"]["1"]


def test_a_tiny_probe(folder: Path, env: dict[str, str]) -> None:
    file = folder / "profile.json"
    done = naru("probe", "--file", os.fspath(file), *TINY, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"naru: written: {file}\n".encode()  # no bar where nobody looks
    assert b"messages one by one, adaptive waiting: there and back" in done.stdout
    assert b"\x1b" not in done.stdout
    profile = read_profile(file)
    assert {cell.key for cell in profile.cells} == {
        (name, 64, batch, wait)
        for name in ("pipe", "shm")
        for batch in (False, True)
        for wait in ("adaptive", "sleep")
    }
    assert all(cell.trip and cell.rate for cell in profile.cells)
    assert not (folder / "data").exists()
    shown = naru("probe", "--show", "--file", os.fspath(file), env=env)
    assert (shown.returncode, shown.stdout) == (0, done.stdout)
    told = naru("choose", "--size", "64", "--profile", os.fspath(file), "--json", env=env)
    assert json.loads(told.stdout)["transport"] == "shm"


def test_no_time_at_all_leaves_the_trials(folder: Path, env: dict[str, str]) -> None:
    """A machine too busy for the budget: every cell is there, from the few that were tried."""
    file = folder / "profile.json"
    arguments = ("--transport", "pipe", "--size", "64,16MiB", "--budget", "0")
    done = naru("probe", "--file", os.fspath(file), *arguments, env=env)
    assert done.returncode == 0, done.stderr
    profile = read_profile(file)
    assert profile.repeats == 1
    assert len(profile.cells) == 8
    for cell in profile.cells:
        assert cell.trip is not None
        assert cell.rate is not None
        assert (cell.trip.trips, cell.rate.messages) == ((60, 2000) if cell.size_bytes == 64
                                                         else (2, 2))  # fmt: skip


def test_json_is_the_profile(folder: Path, env: dict[str, str]) -> None:
    file = folder / "profile.json"
    done = naru("probe", "--quick", "--json", "--file", os.fspath(file), *TINY, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == file.read_bytes()
    assert json.loads(done.stdout)["quick"] is True


def test_a_part_is_not_written_as_the_whole(env: dict[str, str]) -> None:
    done = naru("probe", "--transport", "pipe", env=env)
    assert done.returncode == 2
    assert b"need --file" in done.stderr


def test_what_cannot_be_written_is_said_first(folder: Path, env: dict[str, str]) -> None:
    for arguments in (
        ("--file", "/nowhere/profile.json"), ("--plot", "/nowhere/chart.svg"),
        ("--plot", "chart.pdf"), ("--cores", "0,99999"), ("--transport", "pigeon"),
    ):  # fmt: skip
        done = naru("probe", *arguments, env=env)
        assert done.returncode in (1, 2)
        assert done.stderr.count(b"\n") == 1, done.stderr
        assert b"Traceback" not in done.stderr


def test_ctrl_c_leaves_the_old_profile(folder: Path, env: dict[str, str]) -> None:
    place = old_profile(folder)
    before, status = place.read_bytes(), place.stat()
    with terminal() as (ours, theirs), running("probe", env=env, stderr=theirs) as probe:
        read_terminal(ours, until=b"trying")  # the bar comes after a second
        probe.send_signal(signal.SIGINT)
        assert probe.wait(timeout=20) == 130
    assert place.read_bytes() == before
    assert place.stat().st_mtime_ns == status.st_mtime_ns
    assert os.listdir(place.parent) == ["profile.json"]


def test_a_probe_that_fails_leaves_the_old_profile(folder: Path, env: dict[str, str]) -> None:
    file = folder / "profile.json"
    file.write_bytes(b"old")
    done = naru(
        "probe", "--file", os.fspath(file), "--transport", "mq", "--size", "1MiB", "--quick",
        env=env,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"nothing could be measured" in done.stderr
    assert file.read_bytes() == b"old"


def test_show_without_a_profile_shows_the_shipped_one(env: dict[str, str]) -> None:
    done = naru("probe", "--show", env=env)
    assert done.returncode == 0
    assert done.stdout.startswith(b"shipped with naru: figures of")
    assert b"no profile of this machine" in done.stderr


def test_show_a_broken_profile_is_an_error(folder: Path, env: dict[str, str]) -> None:
    place = old_profile(folder)
    place.write_bytes(place.read_bytes()[:1000])
    done = naru("probe", "--show", env=env)
    assert done.returncode == 1
    assert b"no profile of this naru" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.may_leak  # matplotlib's fonts
def test_a_chart(folder: Path, env: dict[str, str]) -> None:
    pytest.importorskip("matplotlib")
    file = folder / "machine.svg"
    done = naru("probe", "--show", "--plot", os.fspath(file), env=env)
    assert done.returncode == 0, done.stderr
    assert "there and back" in file.read_text(encoding="utf-8")


# ---- choose ----


def test_choose_says_why(env: dict[str, str]) -> None:
    done = naru(
        "choose", "--size", "1KB", "--rate", "20000/s", "--batch", "--needs", "fds,in-place",
        env=env,
    )  # fmt: skip
    text = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert text.startswith("shm    shm://NAME    (naru.listen, naru.connect)\n")
    assert "the only transport that can do all of this" in text
    assert "  unix  every message is copied\n" in text
    assert "the textbook's rule: unix" in text
    assert "profile: shipped with naru" in text
    assert "note: no profile of this machine" in text


def test_choose_for_programs(env: dict[str, str]) -> None:
    done = naru("choose", "--json", "--needs", "priority", "--size", "64:9,1KiB:1", env=env)
    found = json.loads(done.stdout)
    assert found["transport"] == "mq"
    assert found["needs"]["sizes"] == [[64, 0.9], [1024, 0.1]]
    assert {one["transport"] for one in found["rejected"]} == {
        "shm", "pipe", "unix", "fifo", "tcp", "udp",
    }  # fmt: skip
    assert found["latency_us_p50"] <= found["latency_us_p99"]
    assert found["textbook"]["transport"] == "mq"


def test_choose_by_the_textbook(env: dict[str, str]) -> None:
    done = naru("choose", "--policy", "textbook", "--rate", "20k/s", env=env)
    assert done.stdout.startswith(b"unix "), done.stderr
    done = naru("choose", "--policy", "textbook", "--size", "64KiB", env=env)
    assert done.returncode == 1
    assert b"the textbook says mq: at most" in done.stderr


def test_nothing_can(env: dict[str, str]) -> None:
    done = naru("choose", "--needs", "fds,priority", env=env)
    assert done.returncode == 1
    assert done.stderr.startswith(b"naru: naru.choose: no transport can do all of this (shm: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--needs", "speed"), ("--size", "0"), ("--size", "64:x"), ("--rate", "fast"),
        ("--rate", "0"), ("--goal", "joy"), ("--wait", "forever"),
    ],
)  # fmt: skip
def test_asked_for_wrongly(arguments: tuple[str, ...], env: dict[str, str]) -> None:
    done = naru("choose", *arguments, env=env)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1, done.stderr


def test_a_broken_profile_is_said_and_the_shipped_one_is_used(
    folder: Path, env: dict[str, str]
) -> None:
    place = old_profile(folder)
    place.write_bytes(b'{"schema": "naru-profile/99"}')
    done = naru("choose", env=env)
    assert done.returncode == 0
    assert b"profile: shipped with naru" in done.stdout
    assert f'note: naru.choose "{place}": no profile of this naru'.encode() in done.stdout
    named = naru("choose", "--profile", os.fspath(place), env=env)
    assert named.returncode == 1


@pytest.mark.parametrize("command", ["probe", "choose"])
def test_help(command: str) -> None:
    done = naru(command, "--help")
    assert done.returncode == 0
    assert f"naru {command}".encode() in done.stdout


def test_standard_output_that_nobody_reads(env: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with running("choose", env=env, stdout=writer) as choose:
        os.close(writer)
        code, _, errors = ended(choose)
    assert (code, errors) == (141, b"")
