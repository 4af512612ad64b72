"""Records: medians, what is scaled, and JSON that comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import reports

from naru.bench.files import check_target, write_whole
from naru.bench.plan import Contender
from naru.bench.result import SCHEMA, read_report, to_json, write_report
from naru.bench.sides import TRIP_SHARES, quantiles

SHM = Contender("shm", "shm")


def test_medians_and_spread() -> None:
    record = reports.one_way(SHM, "message", 0.1)
    assert (record.seconds.least, record.seconds.median, record.seconds.most) == pytest.approx(
        (0.095, 0.1, 0.11)
    )
    assert record.messages_per_s.median == pytest.approx(1e7)
    assert record.bytes_per_s == pytest.approx(10.24e9)
    assert record.cpu_s.median == pytest.approx(0.17)
    assert record.lost_share == 0


def test_times_are_scaled_to_what_was_asked() -> None:
    record = reports.one_way(SHM, "message", 0.1, count=100_000, asked=1_000_000)
    assert record.time_asked_s.median == pytest.approx(1.0)
    assert record.cpu_s.median == pytest.approx(1.7)
    assert record.messages_per_s.median == pytest.approx(1e6)


def test_rates_are_of_what_came() -> None:
    record = reports.one_way(Contender("udp", "udp"), "message", 0.1, received=250_000)
    assert record.lost_share == pytest.approx(0.75)
    assert record.messages_per_s.median == pytest.approx(2.5e6)
    assert record.time_asked_s.median == pytest.approx(0.4)


def test_nothing_came() -> None:
    record = reports.one_way(Contender("udp", "udp"), "message", 0.1, received=0)
    assert record.messages_per_s.median == 0
    assert record.lost_share == 1


def test_quantiles_are_values_that_were_measured() -> None:
    found = quantiles(list(range(1, 1001)))
    assert list(found) == [f"{share:g}" for share in TRIP_SHARES]
    assert (found["0"], found["0.5"], found["0.99"], found["0.999"], found["1"]) == (
        1, 500, 990, 999, 1000,
    )  # fmt: skip
    assert set(quantiles([7]).values()) == {7}


def test_json_comes_back(tmp_path: Path) -> None:
    report = reports.seeds_report()
    path = tmp_path / "result.json"
    write_report(report, path)
    assert read_report(path) == report
    data = json.loads(path.read_bytes())
    assert data["schema"] == SCHEMA == "naru-bench/1"
    assert data["machine"]["cpu"] == "Test CPU"
    first = data["records"][0]
    assert first["summary"]["messages_per_s"]["median"] == pytest.approx(1e7)
    trips = next(one for one in data["records"] if one["mode"] == "round-trip")
    assert set(trips["summary"]) >= {"trip_p50_ns", "trip_p99_ns", "trip_p99.9_ns"}


@pytest.mark.parametrize("text", ["{}", "[]", '{"schema": "naru-bench/2"}', "not json", ""])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 (json's own error is one, too)
        read_report(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    data = json.loads(to_json(reports.seeds_report()))
    data["records"][0]["count"] = "many"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="count"):
        read_report(path)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(path)
    write_whole(link, b"data")
    assert link.is_symlink()
    assert path.read_bytes() == b"data"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def fail(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_targets_are_checked_before(tmp_path: Path) -> None:
    check_target(tmp_path / "new")
    check_target("/dev/null")
    with pytest.raises(IsADirectoryError):
        check_target(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        check_target(tmp_path / "missing" / "file")
