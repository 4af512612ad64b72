"""Markdown that the generated tables are made of: rows, numbers, and where numbers come from.

Holds: cells, and the line below a table. Must not know: what is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}" if value >= 0.1 else f"{value:.2g}"


def command_source(record: dict[str, Any], command: str) -> str:
    about = record["machine"]
    return (
        f"*{record['file'][-15:-5]}, {about['cpu']}, {about['cores_online']} cores"
        f"{' (a virtual machine)' if about['virtual'] else ''}, Linux {about['kernel']}; "
        f"`{command}`: [{record['file']}](LINK/benchmarks/results/{record['file']})*\n"
    )


def source(record: dict[str, Any], script: str = "messages", note: str = "") -> str:
    about = record["machine"]
    return (
        f"*{record['date'][:10]}, {about['cpu']}, {about['cores_online']} cores"
        f"{' (a virtual machine)' if about['hypervisor'] else ''}, Linux {about['kernel']}, "
        f"Python {about['python']}; {note}medians of {record['repeat']} rounds or more of "
        f"`benchmarks/{script}.py`: [{record['file']}](LINK/benchmarks/results/{record['file']})"
        f"{''.join(f'; {remark}' for remark in record.get('notes', ()))}*\n"
    )
