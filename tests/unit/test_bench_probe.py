"""The probe: what is measured, what becomes of it, its tables and its chart. Nothing is measured."""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path

import pytest
from profiles import profile, whole_profile
from reports import one_way, report, trips

from naru import NaruError
from naru.bench import loops
from naru.bench.machine import Load, load_of_others
from naru.bench.meeting import read_waited_ns
from naru.bench.plan import Contender, Gap, Job
from naru.bench.probe import (
    FEWEST,
    MODES,
    NAMES,
    SIZES_BYTES,
    check_place,
    plan_probe,
    profile_of,
    save_profile,
)
from naru.bench.profile_table import GRIDS, grid_of, render_profile
from naru.bench.table import Style
from naru.choosing.profile import from_json, read_profile, to_json
from naru.errors import CorruptedError
from naru.sizes import batch_length

LIMITS = {**dict.fromkeys(NAMES, 1 << 30), "mq": 8192, "udp": 65000}


def plan_of(quick: bool = False, limits: dict[str, int] | None = None) -> list[Job]:
    found = plan_probe(
        NAMES, SIZES_BYTES, quick=quick, budget_s=50, largest_bytes=LIMITS if limits is None
        else limits,
    )  # fmt: skip
    return list(found.jobs)


def key(job: Job) -> tuple[str, str, int, str]:
    return job.contender.transport, job.mode, job.size_bytes, job.contender.options


def test_a_full_probe_measures_every_cell_once() -> None:
    keys = [key(job) for job in plan_of()]
    assert len(keys) == len(set(keys))
    wanted = {
        (name, mode, size_bytes, options)
        for name in NAMES
        for mode in MODES
        for size_bytes in (*SIZES_BYTES, LIMITS[name])
        for options in ("", "wait=sleep")
        if size_bytes <= LIMITS[name] and size_bytes != 1 << 30
        if (name, mode) != ("udp", "batch-trip")
    }
    assert set(keys) == wanted


def test_a_quick_probe_measures_less() -> None:
    keys = {key(job) for job in plan_of(quick=True)}
    assert keys < {key(job) for job in plan_of()}
    assert {mode for _, mode, _, options in keys if options} == {"round-trip"}
    assert {size_bytes for _, _, size_bytes, _ in keys} <= set(SIZES_BYTES)


def test_counts_and_trials() -> None:
    for job in plan_of():
        assert FEWEST <= job.trial_count <= job.count
        each = batch_length(job.size_bytes) if job.mode == "batch-trip" else 1
        assert job.count == FEWEST or job.count * each * job.size_bytes <= 128 << 20


def test_the_transports_of_a_cell_are_next_to_each_other() -> None:
    cells = [key(job)[1:] for job in plan_of()]
    changes = sum(one != other for one, other in itertools.pairwise(cells))
    assert changes == len(set(cells)) - 1


def test_what_this_machine_lacks_is_a_gap() -> None:
    limits = {name: limit for name, limit in LIMITS.items() if name != "mq"}
    found = plan_probe(NAMES, SIZES_BYTES, quick=False, budget_s=50, largest_bytes=limits)
    assert [gap.contender for gap in found.gaps] == ["mq"]
    assert "mq" not in {job.contender.transport for job in found.jobs}


# ---- a report becomes a profile ----

SHM, SLEEPING = Contender("shm", "shm"), Contender("shm", "shm", options="wait=sleep")


def test_a_profile_has_all_that_was_measured() -> None:
    records = [
        one_way(SHM, "message", 0.5), one_way(SHM, "batch", 0.1), trips(SHM, 2.0),
        trips(SLEEPING, 50.0), one_way(Contender("udp", "udp"), "message", 1.0, received=500_000),
    ]  # fmt: skip
    gaps = [Gap("mq", "message", 64, "no\x1bqueue"), Gap("mq", "batch", 64, "no queue")]
    found = profile_of(report(records, gaps=gaps), quick=True, notes=["a note"])
    assert from_json(to_json(found)) == found
    one = found.find("shm", 1024, False, "adaptive")
    assert one is not None
    assert one.rate is not None
    assert one.trip is not None
    assert (one.rate.per_s.median, one.rate.messages) == (2e6, 10**6)
    assert one.rate.per_s.least < one.rate.per_s.median < one.rate.per_s.most
    assert one.trip.p50_us.median <= one.trip.p99_us.median
    batch, sleeper = (
        found.find("shm", 1024, True, "adaptive"), found.find("shm", 1024, False, "sleep")
    )  # fmt: skip
    assert batch is not None
    assert (batch.trip, batch.rate is not None) == (None, True)
    assert sleeper is not None
    assert (sleeper.rate, sleeper.trip is not None) == (None, True)
    lossy = found.find("udp", 1024, False, "adaptive")
    assert lossy is not None
    assert lossy.rate is not None
    assert lossy.rate.lost_share == 0.5
    assert found.notes == ("a note", "mq (message, 64 bytes): noqueue")
    assert (found.quick, found.shipped, found.cores) == (True, False, (0, 1))


def test_a_busy_machine_is_said() -> None:
    busy = report([trips(SHM, 2.0)], load_before=Load(0.5, 0.0), load_during=Load(0.0, 0.2))
    found = profile_of(busy, quick=False)
    assert (found.load.busy_before, found.load.stolen_during) == (0.5, 0.2)
    assert [note.split(":")[0] for note in found.notes] == [
        "before it was measured", "while it was measured",
    ]  # fmt: skip


def test_disturbed_runs_do_not_count_where_there_are_calmer_ones() -> None:
    record = one_way(SHM, "message", 1.0)
    waits = (0.0, 0.01, 0.5)
    passes = [dataclasses.replace(one, waited_s=wait) for one, wait in
              zip(record.passes, waits, strict=True)]  # fmt: skip
    disturbed = dataclasses.replace(record, passes=passes)
    assert disturbed.calm().passes == passes[:2]
    assert record.calm() == record
    sleeping = [dataclasses.replace(one, waited_s=0.2 * one.seconds) for one in record.passes]
    sleeper = dataclasses.replace(record, passes=sleeping)  # idle CPUs take a while to wake up
    assert sleeper.calm() == sleeper
    found = profile_of(report([disturbed]), quick=False)
    assert found.notes == ("33% of the passes were disturbed by others and do not count",)


def test_the_time_in_a_run_queue() -> None:
    before = read_waited_ns()
    assert 0 <= before <= read_waited_ns()


def test_nothing_measured_is_no_profile() -> None:
    with pytest.raises(NaruError, match="nothing could be measured: no queue"):
        profile_of(report([], gaps=[Gap("mq", "message", 64, "no queue")]), quick=False)


def test_load_of_others() -> None:
    before, after = [0] * 8, [150, 0, 0, 50, 0, 0, 0, 0]
    own_s = 100 / os.sysconf("SC_CLK_TCK")
    assert load_of_others(before, after, own_s) == Load(0.25, 0.0)
    assert load_of_others(before, after, 1e9) == Load(0.0, 0.0)


# ---- the file ----


def test_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    place = save_profile(whole_profile())
    assert place == tmp_path / "data" / "naru" / "profile.json"
    assert read_profile(place) == whole_profile()
    assert save_profile(profile([], quick=True), tmp_path / "other.json").name == "other.json"
    with pytest.raises(FileNotFoundError):
        check_place(tmp_path / "none" / "profile.json")


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = save_profile(whole_profile(), tmp_path / "profile.json")
    real = os.replace

    def fail(*names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        save_profile(profile([]), place)
    monkeypatch.setattr(os, "replace", real)
    assert read_profile(place) == whole_profile()
    assert os.listdir(tmp_path) == ["profile.json"]


# ---- what people look at ----

PLAIN = Style(width=110, unicode=False, colour=False)


def test_the_best_of_each_column_is_marked() -> None:
    rows = grid_of(whole_profile(), GRIDS[0])
    assert rows[0] == ["", "64 B", "1 KiB", "64 KiB", "1 MiB"]
    assert [row[0] for row in rows[1:]] == list(NAMES)
    for at in range(1, 5):
        marked = [row[0] for row in rows[1:] if row[at].endswith("*")]
        assert marked == ["shm"]
    assert rows[5][3] == "-"  # mq has no such messages


def test_tables_in_ascii_and_not() -> None:
    for unicode in (False, True):
        text = render_profile(whole_profile(), dataclasses.replace(PLAIN, unicode=unicode))
        assert ("±" in text) == unicode
        assert unicode or text.isascii()
        assert text.count("there and back, us") == 4
        assert "others used 0% of the machine before" in text


def test_an_empty_profile_has_no_tables() -> None:
    assert "there and back" not in render_profile(profile([]), PLAIN)


@pytest.mark.may_leak  # matplotlib's fonts
@pytest.mark.parametrize("cells", ["all", "none"])
def test_a_chart(tmp_path: Path, cells: str) -> None:
    pytest.importorskip("matplotlib")
    from naru.bench.profile_plot import write_profile_plot

    file = tmp_path / "machine.svg"
    write_profile_plot(whole_profile() if cells == "all" else profile([]), str(file))
    text = file.read_text(encoding="utf-8")
    assert "batches of 64: throughput" in text
    assert (">shm<" in text) == (cells == "all")


# ---- batches there and back ----


class Line:
    """Gives batches back in pieces of this length."""

    def __init__(self, pieces: int) -> None:
        self.pieces, self.held = pieces, list[bytes]()

    def send_many(self, messages: list[bytes]) -> None:
        self.held += messages

    def receive_many(self) -> list[bytes]:
        taken, self.held = self.held[: self.pieces], self.held[self.pieces :]
        return taken


@pytest.mark.parametrize("pieces", [1, 10, 64])
def test_batch_trips(pieces: int) -> None:
    from naru.bench.payloads import Payloads

    line = Line(pieces)
    times = loops.make_batch_trips(line.send_many, line.receive_many, Payloads(100), 3)
    assert len(times) == 3
    assert not line.held


def test_a_batch_that_comes_back_wrong_is_no_result() -> None:
    from naru.bench.payloads import Payloads

    load = Payloads(100)
    for answer in (load.block * 2, list(reversed(load.block))):
        with pytest.raises(CorruptedError):
            loops.make_batch_trips(lambda messages: None, lambda a=answer: list(a), load, 1)


# ---- no time ----


def test_what_has_not_been_tried_in_time_is_left_out() -> None:
    from naru.bench.plan import Plan
    from naru.bench.runner import run_plan

    jobs = tuple(Job(Contender("pipe", "pipe"), "message", size, 10) for size in (64, 65))
    late = run_plan(Plan(jobs, (), 1, 1.0, deadline_s=-1.0), cores=None)
    assert not late.records
    assert [(gap.size_bytes, gap.failed) for gap in late.gaps] == [(64, False), (65, False)]
    assert "too busy" in late.gaps[0].reason
    in_time = run_plan(Plan(jobs, (), 1, 1.0, deadline_s=60.0), cores=None)
    assert len(in_time.records) == 2
