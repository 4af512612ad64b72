"""The suite is for others, too: a transport in plain Python passes, and its flaws are found."""

from __future__ import annotations

import pytest
import toy_transport

from naru.testing import Check, TransportUnderTest, check_transport, conformance_checks


def subject(flaw: str = "") -> TransportUnderTest:
    return TransportUnderTest(
        name=f"toy {flaw}".strip(),
        make_channel_pair=lambda: toy_transport.make_pair(flaw),
        max_message_bytes=toy_transport.MAX_MESSAGE_BYTES,
        arrays=False,
        values=False,
        pollable=False,
    )


TOY = subject()


@pytest.mark.parametrize("check", conformance_checks(TOY), ids=lambda check: check.name)
def test_a_transport_in_plain_python_passes(check: Check) -> None:
    check(TOY)


@pytest.mark.parametrize(
    ("flaw", "found_by"),
    [
        ("loses", "many_messages_keep_their_order"),
        ("doubles", "many_messages_keep_their_order"),
        ("reorders", "many_messages_keep_their_order"),
        ("cuts", "every_size_arrives"),
        ("takes any size", "one_byte_too_many_is_refused"),
        ("forgets views", "a_view_that_outlives_its_block_stays_true"),
        ("dies", "the_end_comes_after_the_last_message"),
        ("says nothing", "a_forgotten_end_warns_and_closes"),
    ],
)
def test_a_flaw_is_found(flaw: str, found_by: str) -> None:
    broken = subject(flaw)
    (check,) = (check for check in conformance_checks() if check.name == found_by)
    with pytest.raises(AssertionError):
        check(broken)


def test_results_say_what_passed_failed_and_was_left_out() -> None:
    all_but_one = {check.name for check in conformance_checks()} - {"parts_are_joined"}
    results = {r.name: r for r in check_transport(TOY, skip=all_but_one, limit_s=None)}
    assert len(results) == len(conformance_checks())
    assert results["parts_are_joined"].outcome == "passed"
    assert results["a_message_arrives"].outcome == "skipped"
    assert "asked to" in str(results["a_message_arrives"])

    only = all_but_one | {"parts_are_joined"}
    only.discard("every_size_arrives")
    results = {r.name: r for r in check_transport(subject("cuts"), skip=only, limit_s=None)}
    failed = results["every_size_arrives"]
    assert (failed.outcome, failed.passed) == ("failed", False)
    assert "ConformanceError: a message of 4095: got 4000 bytes" in failed.detail
    assert str(failed).startswith("failed every_size_arrives: ")


def test_checks_that_do_not_apply_say_why() -> None:
    missing = {check.name: check.missing(TOY) for check in conformance_checks()}
    assert missing["a_message_arrives"] is None
    assert missing["many_senders_meet_in_one_receiver"] == "toy has no fan_in"
    assert missing["descriptors_are_refused"] is None
    assert missing["bytes_keep_their_order"] == "toy has boundaries"
    applying = {check.name for check in conformance_checks(TOY)}
    assert applying == {name for name, reason in missing.items() if reason is None}


def test_an_unknown_name_to_skip_is_refused() -> None:
    with pytest.raises(ValueError, match="no such check: misspelt"):
        check_transport(TOY, skip=["misspelt"])


def test_every_check_has_a_name_and_a_promise() -> None:
    checks = conformance_checks()
    assert len({check.name for check in checks}) == len(checks)
    assert [check.name for check in checks if not check.promise] == []
