"""The conformance suite over every transport of naru, in every shape and wait mode (FAULTS 16).

Many faults of the catalogue are checks of the suite, for each transport: 5 (sizes), 11 (eight
threads), 54 and 55 (views that outlive their lease), 92, 93, 94 and 96 (descriptors).
"""

from __future__ import annotations

import pytest
from subjects import SUBJECTS

from naru.testing import Check, TransportUnderTest, conformance_checks

# Whoever moves a channel about holds it for a moment, and it passes descriptors now and then.
IMPOSSIBLE = {
    ("connect-auto-moving", "a_forgotten_end_warns_and_closes"),
    ("connect-auto-moving", "descriptors_are_refused"),
}


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize(
    ("subject", "check"),
    [
        pytest.param(subject, check, id=f"{subject.name}-{check.name}")
        for subject in SUBJECTS
        for check in conformance_checks(subject)
        if (subject.name, check.name) not in IMPOSSIBLE
    ],
)
def test_conformance(subject: TransportUnderTest, check: Check) -> None:
    check(subject)
