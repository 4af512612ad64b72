"""The machine's description, its load, and the cores that are taken."""

from __future__ import annotations

import os

import pytest

from naru.bench.machine import (
    Load,
    choose_cores,
    core_groups,
    describe,
    load_between,
    measure_load,
    read_cpu_times,
)
from naru.version import __version__


@pytest.mark.parametrize(
    ("allowed", "groups", "cores"),
    [
        ([3], {}, None),
        ([0, 1], {}, (0, 1)),
        ([5, 2], {}, (2, 5)),
        # 0 and 1 are two threads of one core: 2 is a core of its own
        ([0, 1, 2, 3], {0: (0, 0), 1: (0, 0), 2: (0, 1), 3: (0, 1)}, (0, 2)),
        # 1 is in another package, 2 shares the cache
        ([0, 1, 2], {0: (0, 0), 1: (1, 0), 2: (0, 1)}, (0, 2)),
        # only threads of one core, or another package: another package
        ([0, 1, 2], {0: (0, 0), 1: (0, 0), 2: (1, 0)}, (0, 2)),
        ([0, 1], {0: (0, 0), 1: (0, 0)}, (0, 1)),
    ],
)
def test_cores(allowed, groups, cores) -> None:
    assert choose_cores(allowed, groups) == cores


def test_load() -> None:
    idle = load_between([0] * 8, [0, 0, 0, 90, 5, 0, 0, 0])
    assert (idle.busy_share, idle.stolen_share, idle.warning) == (0.0, 0.0, None)
    busy = load_between([10] * 8, [60, 10, 60, 60, 10, 10, 10, 10])
    assert busy.busy_share == pytest.approx(100 / 150)
    assert "other processes use 67% of this machine" in str(busy.warning)
    stolen = Load(busy_share=0.02, stolen_share=0.3)
    assert "the host takes 30%" in str(stolen.warning)


def test_load_without_any_tick() -> None:
    assert load_between([1] * 8, [1] * 8) == Load(0.0, 0.0)


def test_this_machine() -> None:
    machine = describe()
    assert machine.cores_online == os.cpu_count()
    assert machine.cores_allowed == sorted(os.sched_getaffinity(0))
    assert machine.naru == __version__
    assert machine.cpu
    assert machine.memory_bytes > 1 << 20
    assert len(read_cpu_times()) == 8
    assert set(core_groups()) <= os.sched_getaffinity(0)
    assert 0 <= measure_load().busy_share <= 1
