"""What machine a measurement was made on, and how busy it was.

Holds: the description that goes into a results file, the load before a run,
and the share of time that others took (other processes, other guests of the
same host).
Must not know: what is measured.
Joins: messages.py prints it and writes it next to the figures.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

BUSY_SHARE = 0.05
STOLEN_SHARE = 0.02


@dataclass(frozen=True)
class Load:
    """How busy the machine is while nothing of ours runs."""

    average_1_min: float
    busy_share: float  # of all cores, over the sample
    stolen_share: float  # taken by the host

    @property
    def warning(self) -> str | None:
        if self.busy_share > BUSY_SHARE:
            return f"other processes use {self.busy_share:.0%} of this machine"
        if self.stolen_share > STOLEN_SHARE:
            return f"the host takes {self.stolen_share:.0%} of this machine"
        return None


def load(sample_s: float = 1.0) -> Load:
    """Looks at the machine for `sample_s`; nothing of ours may run meanwhile."""
    before = cpu_times()
    time.sleep(sample_s)  # the sample itself
    after = cpu_times()
    spent = [late - early for early, late in zip(before, after, strict=True)]
    total = max(1, sum(spent))
    idle, stolen = spent[3] + spent[4], spent[7]
    return Load(
        average_1_min=os.getloadavg()[0],
        busy_share=(total - idle - stolen) / total,
        stolen_share=stolen / total,
    )


def stolen_share(before: list[int], after: list[int]) -> float:
    """The share that the host took between two readings of `cpu_times`."""
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return spent[7] / max(1, sum(spent))


def cpu_times() -> list[int]:
    """The first line of /proc/stat: user nice system idle iowait irq softirq steal (proc(5))."""
    return [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]


def description() -> dict[str, Any]:
    """CPU, kernel, limits and versions: what a figure depends on."""
    return {
        "cpu": _cpu_model(),
        "cores_online": os.cpu_count(),
        "cores_allowed": sorted(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "hypervisor": "hypervisor" in _cpu_flags(),
        "python": platform.python_version(),
        "python_build": " ".join(platform.python_build()),
        "compiler": _first_line([os.environ.get("CC", "cc"), "--version"]),
        "pipe_max_bytes": _number("/proc/sys/fs/pipe-max-size"),
        "mq_messages_max": _number("/proc/sys/fs/mqueue/msg_max"),
        "socket_send_max_bytes": _number("/proc/sys/net/core/wmem_max"),
    }


def versions(distributions: list[str]) -> dict[str, str | None]:
    """Installed versions; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def is_editable(distribution: str) -> bool:
    """An editable install imports through a hook and may rebuild: not to be measured."""
    try:
        text = metadata.distribution(distribution).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return False
    return bool(text) and bool(json.loads(text or "{}").get("dir_info", {}).get("editable"))


def command_line() -> str:
    return " ".join(["python", *sys.argv])


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _cpu_flags() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return line
    return ""


def _first_line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.partition("\n")[0]


def _number(path: str) -> int | None:
    file = Path(path)
    return int(file.read_text()) if file.exists() else None
