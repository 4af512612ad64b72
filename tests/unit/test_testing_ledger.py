"""The ledger finds what happened to messages, and only that."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naru.testing import LEDGER_HEADER_BYTES, LedgerReader, LedgerWriter


def read(messages: list[bytes]) -> LedgerReader:
    reader = LedgerReader()
    reader.add_all(messages)
    return reader


@pytest.mark.parametrize("size", [24, 25, 64, 4096, 65536 + 24, 200_001])
def test_messages_have_the_size_asked_for_and_are_perfect(size: int) -> None:
    writer = LedgerWriter(7, size)
    messages = writer.take(3)
    assert [len(message) for message in messages] == [size] * 3
    assert writer.count == 3
    report = read(messages).report({7: 3})
    assert report.is_perfect
    assert report.received == 3


def test_size_may_depend_on_the_sequence() -> None:
    assert [len(m) for m in LedgerWriter(1, lambda s: 24 + 2 * s).take(4)] == [24, 26, 28, 30]


def test_too_small_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 24 bytes"):
        LedgerWriter(1, LEDGER_HEADER_BYTES - 1).next()


def test_loss_is_counted_in_the_middle_and_at_the_end() -> None:
    messages = LedgerWriter(1).take(10)
    report = read([*messages[:3], *messages[5:8]]).report({1: 10, 2: 4})
    assert (report.senders[1].received, report.senders[1].lost) == (6, 4)
    assert (report.senders[2].received, report.senders[2].lost) == (0, 4)
    assert not report.is_perfect
    assert "sender 1" in str(report)


def test_duplicates_and_late_ones_are_told_apart() -> None:
    a, b, c = LedgerWriter(1).take(3)
    reader = LedgerReader()
    found = [reader.add(message) for message in (a, c, b, c, b)]
    assert found == ["new", "new", "late", "duplicate", "duplicate"]
    report = reader.report()
    assert (report.received, report.lost, report.duplicated, report.reordered) == (3, 0, 2, 1)


def test_senders_do_not_mix() -> None:
    one, two = LedgerWriter(1).take(5), LedgerWriter(2).take(5)
    mixed = [message for pair in zip(one, two, strict=True) for message in pair]
    assert read(mixed).report({1: 5, 2: 5}).is_perfect


@pytest.mark.parametrize(
    "tear",
    [
        lambda a, b: a[:-1],
        lambda a, b: a + b"!",
        lambda a, b: a + b,
        lambda a, b: a[:40] + b[40:],
        lambda a, b: a[:24] + b[24:],
        lambda a, b: b"",
        lambda a, b: a[:10],
        lambda a, b: bytes(len(a)),
        lambda a, b: a[1:] + a[:1],
    ],
)
def test_what_no_writer_made_is_torn(tear: object) -> None:
    a, b = LedgerWriter(1, 100).take(2)
    reader = LedgerReader()
    assert reader.add(tear(a, b)) == "torn"  # type: ignore[operator]
    report = reader.report()
    assert (report.torn, report.received, report.is_perfect) == (1, 0, False)


@given(st.integers(0, 2**32 - 1), st.integers(24, 300), st.data())
def test_any_flipped_bit_is_torn(sender: int, size: int, data: st.DataObject) -> None:
    message = bytearray(LedgerWriter(sender, size).next())
    bit = data.draw(st.integers(0, size * 8 - 1))
    message[bit // 8] ^= 1 << bit % 8
    assert LedgerReader().add(message) == "torn"


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_any_order_is_complete(count: int, seed: int) -> None:
    messages = LedgerWriter(3, 24).take(count)
    random.Random(seed).shuffle(messages)
    report = read(messages).report({3: count})
    assert (report.received, report.lost, report.duplicated, report.torn) == (count, 0, 0, 0)
