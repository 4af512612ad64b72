"""The conformance suite over every transport of naru, in every shape and wait mode (FAULTS 16).

Many faults of the catalogue are checks of the suite, for each transport: 5 (sizes), 11 (eight
threads), 54 and 55 (views that outlive their lease), 92, 93, 94 and 96 (descriptors).
"""

from __future__ import annotations

import pytest
from subjects import SUBJECTS, is_possible

from naru.testing import Check, TransportUnderTest, conformance_checks


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize(
    ("subject", "check"),
    [
        pytest.param(subject, check, id=f"{subject.name}-{check.name}")
        for subject in SUBJECTS
        for check in conformance_checks(subject)
        if is_possible(subject, check)
    ],
)
def test_conformance(subject: TransportUnderTest, check: Check) -> None:
    check(subject)
