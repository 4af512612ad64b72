"""The machine that a measurement was made on, and how busy it was.

Holds: the description that goes with every result, the choice of the two cores, the warnings.
Must not know: what is measured.
Joins: `runner` puts the description into the report, the command prints the warnings.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Load",
    "Machine",
    "choose_cores",
    "core_groups",
    "describe",
    "load_between",
    "load_of_others",
    "measure_load",
    "read_cpu_times",
]

BUSY_SHARE = 0.10
STOLEN_SHARE = 0.05
SAMPLE_S = 0.25


@dataclass(frozen=True)
class Machine:
    """What a figure depends on."""

    cpu: str
    architecture: str
    virtual: bool
    """A virtual machine: others may take its time."""
    cores_online: int
    cores_allowed: list[int]
    memory_bytes: int
    kernel: str
    python: str
    naru: str
    load_average: list[float]
    """Of 1, 5 and 15 minutes, when the run began."""
    limits: dict[str, int]
    """fs.pipe-max-size, fs.mqueue.*, net.core.*; what cannot be read is missing."""


@dataclass(frozen=True)
class Load:
    """How busy the machine is while nothing of ours runs: shares of all its cores."""

    busy_share: float
    stolen_share: float

    @property
    def warning(self) -> str | None:
        """One sentence, when figures taken now would mislead."""
        if self.busy_share > BUSY_SHARE:
            return (
                f"other processes use {self.busy_share:.0%} of this machine: figures will be low, "
                "and differ between runs"
            )
        if self.stolen_share > STOLEN_SHARE:
            return f"the host takes {self.stolen_share:.0%} of this virtual machine's time"
        return None


def describe() -> Machine:
    """Reads /proc and /sys; what a sandbox hides is left out."""
    from naru.version import __version__

    cpu_info = _read("/proc/cpuinfo") or ""
    return Machine(
        cpu=_cpu_name(cpu_info),
        architecture=platform.machine(),
        virtual=" hypervisor" in cpu_info,
        cores_online=os.cpu_count() or 1,
        cores_allowed=sorted(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        python=platform.python_version(),
        naru=__version__,
        load_average=[round(value, 2) for value in os.getloadavg()],
        limits=_read_limits(),
    )


def measure_load() -> Load:
    """Looks at the machine for a quarter of a second."""
    before = read_cpu_times()
    time.sleep(SAMPLE_S)  # the sample itself
    return load_between(before, read_cpu_times())


def load_between(before: Sequence[int], after: Sequence[int]) -> Load:
    """From two readings of `read_cpu_times()`."""
    spent = [late - early for early, late in zip(before, after, strict=True)]
    idle, stolen = spent[3] + spent[4], spent[7]
    total = max(1, sum(spent))
    return Load((sum(spent) - idle - stolen) / total, stolen / total)


def load_of_others(before: Sequence[int], after: Sequence[int], own_cpu_s: float) -> Load:
    """What others used meanwhile: from two readings, less the CPU time that was our own."""
    load = load_between(before, after)
    ticks = sum(late - early for early, late in zip(before, after, strict=True))
    own_share = own_cpu_s * os.sysconf("SC_CLK_TCK") / max(1, ticks)
    return Load(max(0.0, load.busy_share - own_share), load.stolen_share)


def read_cpu_times() -> list[int]:
    """user nice system idle iowait irq softirq steal of all cores. Source: proc_stat(5)."""
    words = (_read("/proc/stat") or "").partition("\n")[0].split()[1:9]
    return [int(word) for word in words] if len(words) == 8 else [0] * 8


def choose_cores(
    allowed: Sequence[int], groups: Mapping[int, tuple[int, int]]
) -> tuple[int, int] | None:
    """Two cores for the two sides, or None when only one is allowed.

    Args:
        allowed: what sched_getaffinity(2) gave.
        groups: (package, core) of each CPU. Two CPUs of one core share its units, and two packages
            do not share a cache: two cores of one package are what most programs get.
    """
    cpus = sorted(allowed)
    if len(cpus) < 2:
        return None

    def rank(pair: tuple[int, int]) -> tuple[bool, bool]:
        one, other = (groups.get(cpu, (0, cpu)) for cpu in pair)
        return (one == other, one[0] != other[0])

    first = cpus[0]
    return min(((first, cpu) for cpu in cpus[1:]), key=rank)


def core_groups() -> dict[int, tuple[int, int]]:
    """(package, core) of each CPU that says so. Source: sysfs-devices-system-cpu."""
    groups = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        place = f"/sys/devices/system/cpu/cpu{cpu}/topology/"
        package, core = _read_number(place + "physical_package_id"), _read_number(place + "core_id")
        if package is not None and core is not None:
            groups[cpu] = (package, core)
    return groups


def _cpu_name(cpu_info: str) -> str:
    for line in cpu_info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Processor"):
            return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown"


def _read_limits() -> dict[str, int]:
    names = (
        "fs/pipe-max-size", "fs/mqueue/msg_max", "fs/mqueue/msgsize_max",
        "net/core/wmem_default", "net/core/rmem_default",
    )  # fmt: skip
    found = {name.replace("/", "."): _read_number(f"/proc/sys/{name}") for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _read_number(path: str) -> int | None:
    text = (_read(path) or "").strip()
    return int(text) if text.lstrip("-").isdigit() else None
