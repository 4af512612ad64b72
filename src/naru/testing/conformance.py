"""The conformance suite: what every transport has to do, run on any implementation of the verbs.

    from naru.testing import TransportUnderTest, check_transport

    results = check_transport(TransportUnderTest(
        name="mine", make_channel_pair=mine.pair, max_message_bytes=1 << 20))
    for result in results:
        print(result)

or, in pytest:

    MINE = TransportUnderTest(name="mine", make_channel_pair=mine.pair, max_message_bytes=1 << 20)

    @pytest.mark.parametrize("check", conformance_checks(MINE), ids=lambda check: check.name)
    def test_conformance(check):
        check(MINE)

Holds: the list of checks, and running them. (In spirit: trio's testing/_check_streams.py.)
Must not know: any transport.
Joins: naru's own transports pass it in tests/contract; a third party's may be pure Python.
"""

from __future__ import annotations

import faulthandler
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from naru.testing.checks import (
    batches,
    closing,
    delivery,
    descriptors,
    facts,
    in_place,
    listening,
    pressure,
    sizes,
    threads,
    values,
    waiting,
)
from naru.testing.checks.catalogue import Check
from naru.testing.subject import TransportUnderTest

__all__ = ["Check", "CheckResult", "check_transport", "conformance_checks"]

_ALL: tuple[Check, ...] = (
    *delivery.CHECKS,
    *sizes.CHECKS,
    *batches.CHECKS,
    *in_place.CHECKS,
    *waiting.CHECKS,
    *pressure.CHECKS,
    *closing.CHECKS,
    *threads.CHECKS,
    *descriptors.CHECKS,
    *facts.CHECKS,
    *listening.CHECKS,
    *values.CHECKS,
)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check went."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str = ""
    """failed: the traceback. skipped: why."""

    @property
    def passed(self) -> bool:
        """False for a failed one only."""
        return self.outcome != "failed"

    def __str__(self) -> str:
        last = self.detail.strip().splitlines()[-1:]
        return ": ".join([f"{self.outcome} {self.name}", *last])


def conformance_checks(under_test: TransportUnderTest | None = None) -> list[Check]:
    """The checks, in a sensible order: the simplest first.

    Args:
        under_test: leave out those that do not apply to it.
    """
    if under_test is None:
        return list(_ALL)
    return [check for check in _ALL if check.missing(under_test) is None]


def check_transport(
    under_test: TransportUnderTest,
    *,
    skip: Collection[str] = (),
    limit_s: float | None = 120.0,
) -> list[CheckResult]:
    """Runs every check that applies, in this process, and reports each. Takes seconds.

    Call it from the first thread: Ctrl-C is tried out, too, and signals come only there.

    Args:
        skip: names of checks to leave out.
        limit_s: seconds for one check. A transport that hangs beyond all timeouts cannot be
            stopped: the process ends then, with the stacks of all threads on stderr. None = never.

    Returns: one CheckResult for each check, those that do not apply as "skipped".
    Raises: ValueError: there is no check of a name in `skip`.
    """
    unknown = set(skip) - {check.name for check in _ALL}
    if unknown:
        raise ValueError(f"no such check: {', '.join(sorted(unknown))}")
    return [_run(check, under_test, skip, limit_s) for check in _ALL]


def _run(
    check: Check, under_test: TransportUnderTest, skip: Collection[str], limit_s: float | None
) -> CheckResult:
    if check.name in skip:
        return CheckResult(check.name, "skipped", "asked to")
    missing = check.missing(under_test)
    if missing is not None:
        return CheckResult(check.name, "skipped", missing)
    if limit_s is not None:
        faulthandler.dump_traceback_later(limit_s, exit=True)
    try:
        check(under_test)
    except Exception:
        return CheckResult(check.name, "failed", traceback.format_exc())
    finally:
        if limit_s is not None:
            faulthandler.cancel_dump_traceback_later()
    return CheckResult(check.name, "passed")
