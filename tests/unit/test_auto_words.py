"""The words of auto://: what is none is refused, what is one comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naru.auto.words import PACKET_BYTES, Answer, Offer, Refusal, Wish, Word, pack, unpack
from naru.errors import ProtocolError

CORPUS = sorted((Path(__file__).parents[1] / "corpus" / "auto_words").iterdir())

names = st.text(max_size=32)
texts = st.text(max_size=1000)
counts = st.integers(0, 2**32)
some_names = st.lists(names, max_size=16).map(tuple)
words = st.one_of(
    st.builds(
        Wish, version=st.just(1), transports=some_names, needs=some_names,
        max_message_bytes=counts, barrier=st.booleans(), moves=st.booleans(),
    ),
    st.builds(
        Offer, number=counts, transport=names, capacity_bytes=counts, max_message_bytes=counts,
        fences=st.booleans(), moves=st.booleans(), reasons=st.just(("why",)),
        rejected=st.lists(st.tuples(names, st.text(max_size=50)), max_size=4).map(tuple),
    ),
    st.builds(Answer, number=counts, prepared=st.booleans(), why=texts),
    st.builds(Refusal, error=counts, why=texts),
)  # fmt: skip


@given(words)
def test_a_word_comes_back_as_it_was(word: Word) -> None:
    assert unpack(pack(word)) == word


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_anything_else_is_refused(data: bytes) -> None:
    try:
        word = unpack(data)
    except ProtocolError:
        return
    assert isinstance(word, Wish | Offer | Answer | Refusal)


@given(words, st.data())
def test_a_damaged_word_is_refused_or_a_word(word: Word, data: st.DataObject) -> None:
    packet = bytearray(pack(word))
    at = data.draw(st.integers(0, len(packet) - 1))
    packet[at] = data.draw(st.integers(0, 255))
    test_anything_else_is_refused.hypothesis.inner_test(bytes(packet))  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    with pytest.raises(ProtocolError):
        unpack(path.read_bytes())


def test_what_is_too_long_is_not_even_read() -> None:
    with pytest.raises(ProtocolError, match="more than"):
        unpack(b" " * (PACKET_BYTES + 1))


def test_another_version_is_named() -> None:
    wish = Wish(
        version=2, transports=("shm",), max_message_bytes=1, barrier=True, moves=True
    )  # fmt: skip
    with pytest.raises(ProtocolError, match="version 2"):
        unpack(pack(wish))
