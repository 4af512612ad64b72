"""Made-up benchmark reports for the tests of tables, charts and JSON."""

from __future__ import annotations

from naru.bench.machine import Machine
from naru.bench.plan import NAIVE, SEED_TRANSPORTS, Contender, Gap
from naru.bench.result import SCHEMA, Pass, Record, Report
from naru.bench.sides import TRIP_SHARES

MACHINE = Machine(
    cpu="Test CPU", architecture="x86_64", virtual=True, cores_online=2, cores_allowed=[0, 1],
    memory_bytes=1 << 30, kernel="6.1", python="3.11.7", naru="0.1.0",
    load_average=[0.1, 0.2, 0.3], limits={"fs.pipe-max-size": 1 << 20},
)  # fmt: skip

CONTENDERS = (
    *(Contender(name, name) for name in SEED_TRANSPORTS),
    *(Contender(name, transport, naive=True) for name, transport in NAIVE.items()),
)


def one_way(
    contender: Contender, mode: str, seconds: float, size_bytes: int = 1024, count: int = 10**6,
    asked: int | None = None, received: int | None = None,
) -> Record:  # fmt: skip
    came = count if received is None else received
    passes = [Pass(seconds * by, seconds * 0.9, seconds * 0.8, came) for by in (1.0, 0.95, 1.1)]
    return Record(contender, mode, size_bytes, count, asked or count, passes)


def trips(contender: Contender, us: float, size_bytes: int = 1024) -> Record:
    times = {f"{share:g}": int(us * 1000 * (1 + 40 * share**60)) for share in TRIP_SHARES}
    passes = [Pass(us / 50 * by, us / 60, us / 70, 20_000, times) for by in (1.0, 1.1)]
    return Record(contender, "round-trip", size_bytes, 20_000, 20_000, passes)


def report(records: list[Record], **changes: object) -> Report:
    fields: dict[str, object] = {
        "schema": SCHEMA, "date": "2026-11-22T10:00:00+00:00", "command": ["naru", "bench"],
        "machine": MACHINE, "cores": [0, 1], "wait": "adaptive", "repeats": 3, "records": records,
        "gaps": [], "notes": [],
    }  # fmt: skip
    return Report(**{**fields, **changes})  # type: ignore[arg-type]


def seeds_report() -> Report:
    """A default run with --compare and round trips."""
    records = []
    for place, contender in enumerate(CONTENDERS):
        modes = ("message",) if contender.naive else ("message", "batch", "in-place")
        for share, mode in enumerate(modes):
            records.append(one_way(contender, mode, 0.1 * 2**place / (1 + share)))
        records.append(trips(contender, 0.5 * 2**place))
    gap = Gap("mq", "message", 65536, "mq carries at most 8,192 bytes a message")
    return report(records, gaps=[gap], notes=["a note"])


def report_of_sizes() -> Report:
    records = []
    for size_bytes in (64, 1024, 4096, 65536):
        for place, contender in enumerate(CONTENDERS[:6]):
            if contender.name == "mq" and size_bytes > 8192:
                continue
            seconds = 0.001 * 2**place * size_bytes**0.5
            records.append(one_way(contender, "message", seconds, size_bytes))
            records.append(trips(contender, seconds * 1000, size_bytes))
    return report(records)
