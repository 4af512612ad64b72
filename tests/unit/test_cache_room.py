"""What is left in a memory cgroup, by the texts of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

import naru
from naru.cache import room
from naru.cache.room import check_room, group_paths, room_in_group

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "used", "statistics", "expected"),
    [
        ("max\n", "5\n", "", None),
        ("9223372036854771712", "5", "", None),
        ("", "", "", None),
        ("100", "30", "", 70),
        ("100", "130", "", 0),
        ("100", "90", "anon 10\nfile 60\nshmem 20\n", 50),
        ("100", "90", "cache 5\ntotal_cache 60\ntotal_shmem 20\n", 50),
        ("100", "90", "file nonsense", 10),
    ],
)
def test_room_in_a_group(limit: str, used: str, statistics: str, expected: int | None) -> None:
    assert room_in_group(limit, used, statistics) == expected


def test_groups_of_a_process_and_those_above() -> None:
    text = "5:memory:/a/b\n4:cpu,cpuacct:/x\n0::/c\n"
    assert [folder for folder, _ in group_paths(text, "/r")] == [
        "/r/memory/a/b", "/r/memory/a", "/r/memory", "/r/c", "/r"
    ]  # fmt: skip
    assert [folder for folder, _ in group_paths("0::/../..\n", "/r")] == ["/r"]


def test_a_group_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def groups(_: str) -> list[tuple[str, dict[str, str]]]:
        return [(str(tmp_path), {"limit": "limit", "used": "used", "statistics": "stat"})]

    (tmp_path / "limit").write_text(str(64 * MIB))
    (tmp_path / "used").write_text(str(60 * MIB))
    monkeypatch.setattr(room, "group_paths", groups)
    check_room(Path("/dev/shm"), 4 * MIB)
    with pytest.raises(naru.NoSpaceError, match=r"memory cgroup .* has 4 MiB free, 8 MiB asked"):
        check_room(Path("/dev/shm"), 8 * MIB)


def test_a_file_system_that_is_too_small() -> None:
    with pytest.raises(naru.NoSpaceError, match="the file system at /dev/shm"):
        check_room(Path("/dev/shm"), 1 << 50)
