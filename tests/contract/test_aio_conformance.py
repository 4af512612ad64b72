"""The conformance suite over naru.aio, unchanged: every transport and shape (FAULTS 16), on the
standard loop and on uvloop."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from aio_subjects import Bridge, awaited
from subjects import SUBJECTS, is_possible

from naru.testing import Check, TransportUnderTest, conformance_checks

# One of each kind of descriptor; the others differ in nothing that a loop sees.
ON_UVLOOP = {
    "pair-shm", "pair-pipe", "connect-shm", "connect-tcp4", "senders-shm", "senders-mq",
}  # fmt: skip

# What is left of an array is looked for in the function that has the block, which is not in the loop
# here: tests/unit/test_aio_arrays.py.
IN_THE_BLOCKS_OWN_FUNCTION = {
    "arrays_arrive", "large_arrays_arrive", "a_leased_array_ends_with_its_block",
    "reserved_arrays_are_sent",
}  # fmt: skip

_bridges: list[Bridge] = []


@pytest.fixture(scope="module")
def bridge(request: pytest.FixtureRequest) -> Iterator[Bridge]:
    if request.param == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed: naru-ipc[test]")
    made = Bridge(request.param)
    _bridges.append(made)
    yield made
    _bridges.remove(made)
    made.close()


def cases() -> Iterator[object]:
    for kind in ("asyncio", "uvloop"):
        for synchronous in SUBJECTS:
            if kind == "uvloop" and synchronous.name not in ON_UVLOOP:
                continue
            subject = awaited(synchronous, lambda: _bridges[-1])
            for check in conformance_checks(subject):
                if check.name in IN_THE_BLOCKS_OWN_FUNCTION or not is_possible(subject, check):
                    continue
                yield pytest.param(
                    kind, subject, check, id=f"{kind}-{synchronous.name}-{check.name}"
                )


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize(("bridge", "subject", "check"), list(cases()), indirect=["bridge"])
def test_conformance(bridge: Bridge, subject: TransportUnderTest, check: Check) -> None:
    bridge.settle()
    check(subject)
