"""Tools to test what moves messages: naru's own transports, a third party's, and programs on top.

    conformance   check_transport, conformance_checks: does a transport keep its promises?
    subject       TransportUnderTest: how to make its ends, what it promises
    ledger        LedgerWriter, LedgerReader: nothing lost, doubled, moved or torn?
    faults        children that die, descriptors that run out, system calls that fail, lossy wires
    checks/       the promises themselves, one function each

Everything is in the standard library's reach; pytest is not needed. Nothing here is imported by
`import naru`.
"""

from __future__ import annotations

from naru.testing.checks.stage import ConformanceError
from naru.testing.conformance import Check, CheckResult, check_transport, conformance_checks
from naru.testing.faults import (
    Child,
    ChildError,
    Crash,
    Events,
    Injected,
    Inventory,
    LossyProxy,
    WireCounts,
    can_inject,
    crash_children,
    each_failure,
    events_of_parent,
    injected,
    limited_descriptors,
    open_descriptors,
    unprivileged,
    until_sleeping,
)
from naru.testing.ledger import (
    LEDGER_HEADER_BYTES,
    LedgerReader,
    LedgerReport,
    LedgerWriter,
    SenderReport,
)
from naru.testing.subject import (
    AnyChannel,
    AnyListener,
    AnyReceiver,
    AnySender,
    TransportUnderTest,
)

__all__ = [
    "LEDGER_HEADER_BYTES",
    "AnyChannel",
    "AnyListener",
    "AnyReceiver",
    "AnySender",
    "Check",
    "CheckResult",
    "Child",
    "ChildError",
    "ConformanceError",
    "Crash",
    "Events",
    "Injected",
    "Inventory",
    "LedgerReader",
    "LedgerReport",
    "LedgerWriter",
    "LossyProxy",
    "SenderReport",
    "TransportUnderTest",
    "WireCounts",
    "can_inject",
    "check_transport",
    "conformance_checks",
    "crash_children",
    "each_failure",
    "events_of_parent",
    "injected",
    "limited_descriptors",
    "open_descriptors",
    "unprivileged",
    "until_sleeping",
]
