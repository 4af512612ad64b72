"""`naru transports`: the capability table, generated from the code; docs/tables.py fills the docs from it.

Must not know: any mechanism; each transport's `capabilities` says what it can.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from naru.cli.streams import write_output
from naru.errors import NaruError
from naru.transports import Capabilities, capabilities

__all__ = ["command", "markdown", "rows", "terminal"]


@dataclass(frozen=True)
class _Property:
    title: str
    value: Callable[[Capabilities], object]


def _boundaries(row: Capabilities) -> str:
    # All keep them, or it would be no message; the others by naru's record header.
    return "kernel" if row.transport in ("mq", "udp") else "naru"


_PROPERTIES = (
    _Property("conversations", lambda row: row.channel),
    _Property("pairs", lambda row: row.pair),
    _Property("many senders", lambda row: row.many_senders),
    _Property("order", lambda row: row.order),
    _Property("nothing lost", lambda row: row.reliable),
    _Property("boundaries by", _boundaries),
    _Property("back-pressure", lambda row: row.back_pressure),
    _Property("descriptors", lambda row: row.descriptors),
    _Property("priority", lambda row: row.priority),
    _Property("in place", lambda row: row.in_place),
    _Property("who is there", lambda row: row.peer_credentials),
    _Property("other machines", lambda row: row.crosses_machines),
    _Property("largest message", lambda row: _largest(row)),
)

_MEANINGS = (
    ("conversations", "naru.listen, naru.connect: both directions"),
    ("pairs", "naru.pair: between a parent and its children"),
    ("many senders", "naru.receiver, naru.sender"),
    ("in place", "lease and reserve look at the transport's own memory"),
    ("who is there", "the kernel vouches for pid and uid of the other side"),
)


def _largest(row: Capabilities) -> int | None:
    """None: this machine does not have the transport."""
    try:
        return row.max_message_bytes()
    except NaruError:
        return None


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "-"
    if isinstance(value, int):
        return _show_bytes(value)
    return "not here" if value is None else str(value)


def _show_bytes(size_bytes: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= scale and size_bytes % scale == 0:
            return f"{size_bytes // scale} {unit}"
    return f"{size_bytes:,}"


def rows() -> list[dict[str, Any]]:
    """One dictionary a transport, for programs; max_message_bytes is None where it is missing."""
    found = []
    for row in capabilities():
        fields = {name: getattr(row, name) for name in Capabilities.__dataclass_fields__}
        fields["boundaries"] = _boundaries(row)
        fields["max_message_bytes"] = _largest(row)
        found.append(fields)
    return found


def terminal() -> str:
    """The table with a column a transport, which fits 80 characters."""
    table = capabilities()
    grid = [["", *(row.transport for row in table)]]
    grid += [[one.title, *(_show(one.value(row)) for row in table)] for one in _PROPERTIES]
    lines = _align(grid)
    lines += ["", "what it is"]
    lines += [f"  {row.transport:5} {row.mechanism}" for row in table]
    lines += ["", "how the death of the other side is seen"]
    lines += [f"  {row.transport:5} {row.peer_death}" for row in table]
    lines += ["", *(f"{name}: {meaning}" for name, meaning in _MEANINGS)]
    return "\n".join(lines) + "\n"


def _align(grid: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[at]) for line in grid) for at in range(len(grid[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in grid
    ]


def markdown() -> str:
    """The table with a row a transport, as the docs show it."""
    titles = ["transport", "what it is", *(one.title for one in _PROPERTIES), "a dead peer is seen"]
    lines = [_pipes(titles), _pipes(["---"] * len(titles))]
    for row in capabilities():
        cells = [f"`{row.transport}`", row.mechanism]
        cells += [_show(one.value(row)) for one in _PROPERTIES]
        lines.append(_pipes([*cells, row.peer_death]))
    return "\n".join(lines) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


@click.command("transports", short_help="What each transport can, on this machine.")
@click.option("--json", "shape", flag_value="json", help="For programs.")
@click.option("--markdown", "shape", flag_value="markdown", help="For documents.")
def command(shape: str | None) -> None:
    """Prints what each transport can, on this machine."""
    if shape == "json":
        text = json.dumps(rows(), indent=1) + "\n"
    else:
        text = markdown() if shape == "markdown" else terminal()
    write_output(text.encode())
