"""Fills the generated tables of README.md and docs/ from the code and from the results.

    python docs/tables.py            writes them
    python docs/tables.py --check    writes nothing; exit code 1 when one is out of date

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`. Its numbers come from
benchmarks/results/ (benchmarks/messages.py and requests.py write them), its facts from naru itself:
capabilities, options and errors exist in one place, which is the code.

Needs naru importable. What depends on the machine that runs this is named, never printed: the same
tables come out everywhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cache_tables
from cells import command_source, number, source, table

import naru
from naru import errors, transports
from naru.bench.profile_table import GRIDS, grid_of
from naru.choosing.needs import Needs, sizes_of
from naru.choosing.policy import choose
from naru.choosing.profile import shipped_profile
from naru.settings import options_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- table:([a-z-]+)(?::([a-z]+))? -->\n)(.*?)(<!-- /table -->)", re.DOTALL)

GROUPS = {
    "shm": "1 KB over shared memory",
    "pipe": "1 KB over a pipe",
    "unix": "1 KB over a Unix socket",
    "mq": "1 KB over a message queue",
    "tcp": "1 KB over TCP, loopback",
    "trip": "there and back",
    "idle": "waiting for a message",
    "large": "large messages",
}
MACHINE_DECIDES = {"mq": "`fs.mqueue.msgsize_max` of the machine, 8 KiB by default"}
MQ_DEFAULT_BYTES = 8192
PROFILE_GRIDS = {
    "trips": (False, "adaptive", 0), "rates": (False, "adaptive", 1), "sleepers": (False, "sleep", 0),
    "batchtrips": (True, "adaptive", 0), "batchrates": (True, "adaptive", 1),
}  # fmt: skip
KIB, MIB = 1 << 10, 1 << 20
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("small messages back and forth", {"sizes": 64, "two_way": True}),
    ("the same between a parent and its child", {"sizes": 64, "two_way": True, "related": True}),
    ("a command now and then", {"sizes": 200, "rate_per_s": 5.0, "two_way": True}),
    ("events, as many as go", {"sizes": 200, "goal": "throughput"}),
    ("events from many processes, by the dozen",
     {"sizes": 200, "goal": "throughput", "batch": True, "several_senders": True}),
    ("rows of 64 KiB by the dozen", {"sizes": 64 * KIB, "goal": "throughput", "batch": True}),
    ("video frames of 1 MiB", {"sizes": MIB, "goal": "throughput"}),
    ("frames that are looked at in place", {"sizes": MIB, "goal": "throughput", "in_place": True}),
    ("open files for workers", {"sizes": 64, "descriptors": True, "two_way": True}),
    ("urgent jobs before the others", {"sizes": KIB, "priority": True}),
    ("two users of one machine", {"sizes": KIB, "other_users": True}),
    ("two machines", {"sizes": KIB, "other_machine": True}),
    ("readings to another machine, some may be lost",
     {"sizes": 200, "other_machine": True, "reliable": False, "ordered": False}),
)  # fmt: skip
YES_OR_NO = (
    ("channel", "`listen`, `connect`: both directions"),
    ("pair", "`pair`: a parent and its children"),
    ("many_senders", "`receiver`, `sender`: many to one"),
    ("order", "one sender's messages stay in order"),
    ("reliable", "nothing is lost while both live"),
    ("back_pressure", "a full receiver makes the sender wait"),
    ("descriptors", "`send_fds`: open files"),
    ("priority", "`priority=`"),
    ("in_place", "`lease`, `reserve` without a copy"),
    ("peer_credentials", "`peer`: pid, uid, gid"),
    ("crosses_machines", "crosses machines"),
)


def first_sentence(text: str | None) -> str:
    words = " ".join((text or "").split())
    end = re.search(r"[.!?)](?= [A-Z(]|$)", words)
    return words[: end.end()] if end else words


# ---- from the code ----


def capability_table() -> str:
    found = transports.capabilities()
    rows = [
        [words, *("yes" if getattr(one, field) else "-" for one in found)]
        for field, words in YES_OR_NO
    ]
    rows.insert(0, ["is", *(one.mechanism for one in found)])
    return table(["", *(f"`{one.transport}`" for one in found)], rows)


def limit_table() -> str:
    rows = [
        [f"`{one.transport}`", _largest(one), one.peer_death] for one in transports.capabilities()
    ]
    return table(["", "largest message, with the default options", "how a dead peer is seen"], rows)


def _largest(one: Any) -> str:
    if one.transport in MACHINE_DECIDES:
        return MACHINE_DECIDES[one.transport]
    size_bytes = one.max_message_bytes()
    if size_bytes % (1 << 30) == 0:
        return f"{size_bytes >> 30} GiB (`max_message_bytes`)"
    return f"{size_bytes:,} bytes"


def option_table(transport: str) -> str:
    """The options that only this transport has; "all": those that every one has."""
    of_each = {name: options_table(name) for name in transports.NAMES}
    common = [row for row in of_each["pipe"] if all(row in rows for rows in of_each.values())]
    chosen = common
    if transport != "all":
        chosen = [row for row in options_table(transport) if row not in common]
    rows = [
        [f"`{name}`", default if " " in default else f"`{default}`", doc.replace("|", "\\|")]
        for name, default, doc in chosen
    ]
    return table(["option", "default", "meaning"], rows)


def error_table() -> str:
    rows = []
    for name in errors.__all__:
        leaf = getattr(errors, name)
        if not isinstance(leaf, type) or leaf is naru.NaruError:
            continue
        also = ", ".join(f"`{base.__name__}`" for base in leaf.__bases__ if base != naru.NaruError)
        rows.append([f"`{name}`", also, first_sentence(leaf.__doc__).replace("``", "`")])
    return table(["error", "is also a", "means"], rows)


# ---- from the shipped profile ----


def answer_table() -> str:
    """What naru.choose says to typical questions, by the shipped profile."""
    profile, rows = shipped_profile(), []
    # mq's limit is the machine's: the usual one, so that the table is the same everywhere.
    known = [
        dataclasses.replace(row, max_message_bytes=lambda: MQ_DEFAULT_BYTES)
        if row.transport == "mq"
        else row
        for row in transports.capabilities()
    ]
    for words, asked in QUESTIONS:
        fields = {**asked, "sizes": sizes_of(asked["sizes"])}
        choice = choose(Needs(**fields), profile, known)
        cell = f"`{choice.address_template}`"
        cannot = " (cannot)" if choice.textbook.objection else ""
        book = f"`{choice.textbook.transport}`{cannot}"
        rows.append([words, cell, choice.reasons[0], book])
    return table(["what for", "naru chooses", "because it has", "the textbook's rule"], rows)


def profile_table(name: str) -> str:
    """One grid of the shipped profile; the best of a column is bold."""
    profile = shipped_profile()
    batch, wait, at = PROFILE_GRIDS[name]
    grid = [one for one in GRIDS if (one.batch, one.wait) == (batch, wait)][at]
    head, *rows = grid_of(profile, grid)
    bold = [[f"**{cell[:-1]}**" if cell.endswith("*") else cell for cell in row] for row in rows]
    load = f"others used {profile.load.busy_during:.0%} of the machine meanwhile"
    return table([grid.title, *head[1:]], bold) + f"\n*{profile.origin}; {load}*\n"


# ---- from the results ----


def choice_table() -> str:
    """The newest result of benchmarks/choice.py: regrets by cell and by rule."""
    records = [
        {**json.loads(file.read_text(encoding="utf-8")), "file": file.name}
        for file in RESULTS.glob("choice-*.json")
    ]
    if not records:
        return "No results yet: `python benchmarks/choice.py` makes them.\n"
    record = max(records, key=lambda one: (one["date"], one["file"]))
    head = ["", "best", "naru picks", "regret", "the textbook's", "regret", "always shm",
            "always unix", "noise"]  # fmt: skip
    body = [
        [cell["title"], cell["best"], f"**{cell['picks']['naru']}**",
         *(_regret(cell, "naru"), cell["picks"]["textbook"], _regret(cell, "textbook")),
         *(_regret(cell, rule) for rule in ("shm", "unix", "noise"))]
        for cell in record["cells"]
    ]  # fmt: skip
    for title, field in (("within 5 % of the best", "good_share"), ("worst", "worst")):
        found = {rule: _percent(one[field]) for rule, one in record["summary"].items()}
        body.append([f"**{title}**", "", "", f"**{found['naru']}**", "", found["textbook"],
                     *(found[rule] for rule in ("shm", "unix", "noise"))])  # fmt: skip
    during = record["load_during"] or {"busy_share": 0.0}
    about = record["machine"]
    return table(head, body) + (
        f"\n*{record['date'][:10]}, {about['cpu']}, {about['cores_online']} cores, Linux "
        f"{about['kernel']}; others used {during['busy_share']:.0%} of the machine; median of "
        f"{record['rounds']} rounds of `benchmarks/choice.py`: "
        f"[{record['file']}](LINK/benchmarks/results/{record['file']})*\n"
    )


def _regret(cell: dict[str, Any], rule: str) -> str:
    regret = cell["regrets"][rule]
    return "cannot" if regret is None else "0" if regret == 0 else _percent(regret)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:,.0f} %"


def measurements() -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The newest result of each row, and the records that they come from, newest first."""
    records = []
    for file in RESULTS.glob("messages-*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        if not record["quick"]:
            records.append({**record, "file": file.name})
    records.sort(key=lambda record: (record["date"], record["file"]), reverse=True)
    rows: dict[str, dict[str, Any]] = {}
    used = []
    for record in records:
        new = {row["key"]: row for row in record["rows"] if row["key"] not in rows}
        if new:
            rows |= new
            used.append(record)
    return rows, used


def message_table() -> str:
    """The rows of the README: each one's C floor, naru, and the best of the others."""
    rows, used = measurements()
    if not rows:
        return "No results yet: `python benchmarks/messages.py` makes them.\n"
    head = ["", "C floor", "naru", "of the floor", "best other", "naru of that"]
    body: list[list[str]] = []
    for group, keys in _grouped(rows):
        body.append([f"**{group}**, {rows[keys[0]]['unit']}", "", "", "", "", ""])
        body += [_message_row(rows[key]) for key in keys]
    return table(head, body) + "\n" + "\n".join(source(record) for record in used)


def _grouped(rows: dict[str, dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    for prefix, title in GROUPS.items():
        keys = [key for key in rows if key.partition(".")[0] == prefix]
        if keys:
            yield title, keys


def _message_row(row: dict[str, Any]) -> list[str]:
    floor, naru_run, best = _median(row, "floor"), _median(row, "naru"), _best_peer(row)
    return [
        row["title"],
        number(floor),
        f"**{number(naru_run)}**" if naru_run is not None else "-",
        number(row["naru_of_floor"]),
        f"{number(best['median'])} {best['name']}" if best else "-",
        number(best["naru_ratio"]) if best else "-",
    ]


def _median(row: dict[str, Any], kind: str) -> float | None:
    """Of the first contender of a kind: rows name the floor that counts first."""
    medians = (one["median"] for one in row["contenders"] if one["kind"] == kind)
    return next(medians, None)


def _best_peer(row: dict[str, Any]) -> dict[str, Any] | None:
    """One that loses messages has not done the same work."""
    peers = [
        one
        for one in row["contenders"]
        if one["kind"] == "peer" and one["median"] is not None and not one["lost"]
    ]
    more_is_better = row["unit"] == "GB/s"
    return min(peers, key=lambda one: one["median"] * (-1 if more_is_better else 1), default=None)


def target_table() -> str:
    """Every row with its spread and its targets."""
    rows, used = measurements()
    if not rows:
        return "No results yet: `python benchmarks/messages.py` makes them.\n"
    head = ["row", "unit", "naru: median [least .. most]", "target", "found", "reached"]
    body: list[list[str]] = []
    for _, keys in _grouped(rows):
        for key in keys:
            body += _target_rows(rows[key])
    return table(head, body) + "\n" + "\n".join(source(record) for record in used)


def asyncio_table() -> str:
    """The newest run of benchmarks/asyncio_round_trips.py."""
    files = sorted(RESULTS.glob("asyncio-*.json"))
    if not files:
        return "No results yet: `python benchmarks/asyncio_round_trips.py` makes them.\n"
    record = json.loads(files[-1].read_text(encoding="utf-8"))
    cases = sorted({(row["size_bytes"], row["loop"]) for row in record["rows"]})
    found = {(row["contender"], row["size_bytes"], row["loop"]): row for row in record["rows"]}
    names = list(dict.fromkeys(row["contender"] for row in record["rows"]))
    head = ["us a round trip, p50", *(f"{size:,} B, {loop}" for size, loop in cases)]
    body = [
        [name, *(number(found[name, *case]["p50_us"]) if (name, *case) in found else "-"
                 for case in cases)]
        for name in names
    ]  # fmt: skip
    about = {**record, "repeat": record["rounds"], "file": files[-1].name}
    busy = record["load_before"]["busy_share"]
    note = f"*Other processes used {busy:.0%} of the machine meanwhile.*\n" if busy > 0.05 else ""
    return table(head, body) + "\n" + source(about, "asyncio_round_trips") + note


def _target_rows(row: dict[str, Any]) -> Iterator[list[str]]:
    run = next((one for one in row["contenders"] if one["kind"] == "naru"), None)
    figures = run["problem"] if run and run["problem"] else "-"
    if run and run["median"] is not None:
        figures = f"{number(run['median'])} [{number(run['min'])} .. {number(run['max'])}]"
    label = [f"`{row['key']}`", row["unit"], figures]
    for target in row["targets"] or [{"text": "-", "counts": True, "found": None, "reach": None}]:
        aside = "" if target["counts"] else " (of another machine, does not count)"
        reached = {True: "yes", False: "no", None: "-"}[target["reach"]]
        yield [*label, target["text"] + aside, number(target["found"]), reached]
        label = ["", "", ""]


def request_table() -> str:
    """The newest run of benchmarks/requests.py: each contender at 1 and at 8 in flight, of 64 bytes."""
    files = sorted(RESULTS.glob("requests-*.json"))
    if not files:
        return "No results yet: `python benchmarks/requests.py` makes them.\n"
    record = json.loads(files[-1].read_text(encoding="utf-8"))
    rows = {
        (row["name"], row["in_flight"]): row for row in record["rows"] if row["size_bytes"] == 64
    }
    head = ["64 bytes", "p50, us", "p99, us", "a second [least .. most]", "8 in flight: a second"]
    body = []
    for name in dict.fromkeys(name for name, _ in rows):
        alone, ahead = rows.get((name, 1)), rows.get((name, 8))
        cells = [number(alone[key]) if alone else "-" for key in ("p50_us", "p99_us")]
        body.append([name, *cells, *(_rates(row) for row in (alone, ahead))])
    load = record["load_before"]["average_1_min"]
    return (
        table(head, body)
        + "\n"
        + source(record | {"file": files[-1].name}, "requests", f"load {load:.1f} before; ")
    )


def cache_table() -> str:
    """The newest run of benchmarks/cache.py."""
    record = _newest("cache", "python benchmarks/cache.py")
    return record if isinstance(record, str) else cache_tables.calls(record)


def ratio_table() -> str:
    """The hit ratios of the same run."""
    record = _newest("cache", "python benchmarks/cache.py")
    return record if isinstance(record, str) else cache_tables.ratios(record)


def cache_server_table() -> str:
    """The newest run of benchmarks/cache_server.py."""
    record = _newest("cache-server", "python benchmarks/cache_server.py")
    return record if isinstance(record, str) else cache_tables.servers(record)


def _newest(kind: str, command: str) -> dict[str, Any] | str:
    """The last result of its kind, with its file's name; or the text instead of a table."""
    files = sorted(RESULTS.glob(f"{kind}-[0-9]*.json"))
    if not files:
        return f"No results yet: `{command}` makes them.\n"
    return json.loads(files[-1].read_text(encoding="utf-8")) | {"file": files[-1].name}


def engine_table() -> str:
    """The newest run of benchmarks/engine.py: CPU time of naru's engine and of its peers."""
    record = _newest("engine", "python benchmarks/engine.py")
    if isinstance(record, str):
        return record
    body = []
    for what in dict.fromkeys(row["what"] for row in record["rows"]):
        rows = {row["who"]: row for row in record["rows"] if row["what"] == what}
        for who, row in rows.items():
            ratio = "" if who == "naru" else number(rows["naru"]["median"] / row["median"])
            spread = f"{number(row['least'])} .. {number(row['most'])}"
            body.append([what if who == "naru" else "", row["unit"] if who == "naru" else "",
                         f"**{who}**" if who == "naru" else who, number(row["median"]), spread,
                         ratio])  # fmt: skip
    head = ["", "", "", "median", "least .. most", "naru is"]
    about = record | {"repeat": record["rows"][0]["passes"]}
    return table(head, body) + "\n" + source(about, "engine")


def reactor_table() -> str:
    """The newest run of benchmarks/reactor.py."""
    record = _newest("reactor", "python benchmarks/reactor.py --output FILE")
    if isinstance(record, str):
        return record
    naru_us = {row["transport"]: row["median"] for row in record["rows"] if row["server"] == "naru"}
    body = [
        [row["transport"], row["server"], number(row["median"]),
         f"{number(min(row['us_a_message']))} .. {number(max(row['us_a_message']))}",
         "" if row["server"] == "naru" else number(naru_us[row["transport"]] / row["median"])]
        for row in record["rows"]
    ]  # fmt: skip
    head = ["64 connections, 64 B", "", "us CPU a message", "least .. most", "naru is"]
    about = record | {"repeat": len(record["rows"][0]["us_a_message"])}
    return table(head, body) + "\n" + source(about, "reactor")


def scaling_table() -> str:
    """The newest `naru bench scaling`."""
    record = _newest("scaling", "naru bench scaling --json FILE")
    if isinstance(record, str):
        return record
    found = {(row["contender"], row["registered"]): row["median_us"] for row in record["rows"]}
    names = list(dict.fromkeys(name for name, _ in found))
    body = [
        [f"{count:,}", *(number(found[name, count]) for name in names)]
        for count in dict.fromkeys(count for _, count in found)
    ]
    head = ["us a wait, one active; registered", *names]
    return table(head, body) + "\n" + command_source(record, "naru bench scaling")


def connections_table() -> str:
    """The newest `naru bench connections`."""
    record = _newest("connections", "naru bench connections --json FILE")
    if isinstance(record, str):
        return record
    head = ["held", "server processes", "user memory of one", "kernel memory, both ends",
            "all accepted in", "a round trip alone", "among them"]  # fmt: skip
    body = [
        [f"{row['connections']:,} {row['transport']}", str(row["servers"]),
         f"{row['user_bytes']:,.0f} B", f"{row['kernel_bytes']:,.0f} B", f"{row['accept_s']:,.0f} s",
         f"{number(row['alone_us'])} us", f"{number(row['among_us'])} us"]
        for row in record["rows"]
    ]  # fmt: skip
    return table(head, body) + "\n" + command_source(record, "naru bench connections")


def files_table() -> str:
    """The newest `naru bench files`."""
    record = _newest("files", "naru bench files --json FILE")
    if isinstance(record, str):
        return record
    gib = record["size_bytes"] / 1e9
    body, group = [], ""
    for rate in record["rates"]:
        cpu = sorted(rate["cpu_s"])[len(rate["cpu_s"]) // 2] / gib
        body.append([rate["group"] if rate["group"] != group else "", rate["name"],
                     number(rate["gb_per_s"]), number(cpu),
                     "peer" if rate["of_peer"] is None else number(rate["of_peer"])])  # fmt: skip
        group = rate["group"]
    head = ["", "", "GB/s", "CPU s a GB", "speed, of the peer"]
    return table(head, body) + "\n" + command_source(record, "naru bench files")


def _rates(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    rates = [one["per_s"] for one in row["rounds"]]
    return f"{number(row['per_s'])} [{number(min(rates))} .. {number(max(rates))}]"


# ---- into the pages ----

TABLES: dict[str, Callable[..., str]] = {
    "capabilities": capability_table,
    "limits": limit_table,
    "options": option_table,
    "errors": error_table,
    "messages": message_table,
    "requests": request_table,
    "targets": target_table,
    "answers": answer_table,
    "profile": profile_table,
    "choice": choice_table,
    "asyncio": asyncio_table,
    "engine": engine_table,
    "reactor": reactor_table,
    "scaling": scaling_table,
    "connections": connections_table,
    "files": files_table,
    "cache": cache_table,
    "ratios": ratio_table,
    "cache-server": cache_server_table,
}


def fill(page: Path) -> str:
    """The page's text with every table made anew. Raises SystemExit for an unknown one."""

    def make(match: re.Match[str]) -> str:
        begin, name, argument, _, end = match.groups()
        if name not in TABLES:
            sys.exit(f"{page}: there is no table {name!r}; there are {', '.join(TABLES)}")
        made = TABLES[name](*([argument] if argument else []))
        up = "../" * len(page.parent.relative_to(ROOT).parts) or "./"
        return begin + made.replace("LINK/", up.removeprefix("./")) + end

    return MARKED.sub(make, page.read_text(encoding="utf-8"))


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    check = parser.parse_args(arguments).check
    stale = [(page, text) for page in pages() if (text := fill(page)) != page.read_text("utf-8")]
    for page, text in stale:
        print(f"{'out of date' if check else 'written'}: {page.relative_to(ROOT)}")
        if not check:
            page.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
