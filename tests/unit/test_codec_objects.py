"""Values as messages: msgpack with types, pickle only when both sides ask for it."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pickle
import uuid
from typing import Any, TypedDict

import hypothesis
import hypothesis.strategies as st
import msgspec
import pytest

import naru
from naru.codec.objects import parts_of, value_of


class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"


class Order(msgspec.Struct):
    name: str
    price: decimal.Decimal
    side: Side
    when: datetime.datetime
    tags: set[str] = msgspec.field(default_factory=set)


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


class Line(TypedDict):
    begin: Point
    end: Point


def written(value: Any, codec: str | None = None) -> bytes:
    return b"".join(parts_of(value, codec))


def read(message: bytes, type: Any = None, codec: str | None = None) -> Any:
    return value_of(message, type, codec, "shm:")


ORDER = Order("tea", decimal.Decimal("2.50"), Side.BUY, datetime.datetime(2026, 1, 2), {"hot"})


@pytest.mark.parametrize(
    ("value", "type"),
    [
        (ORDER, Order),
        (Point(1, 2.0), Point),
        ({"begin": Point(1), "end": Point(2)}, Line),
        ([ORDER, ORDER], list[Order]),
        ((1, "a"), tuple[int, str]),
        (uuid.UUID(int=5), uuid.UUID),
        (None, None),
        (5, int | str),
        (b"bytes", bytes),
    ],
)
def test_a_value_comes_back_as_its_type(value: Any, type: Any) -> None:
    assert read(written(value), type) == value


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@hypothesis.given(plain)
def test_plain_values_come_back(value: Any) -> None:
    assert read(written(value)) == value


@pytest.mark.parametrize(
    ("value", "type", "text"),
    [
        ({"name": "tea"}, Order, "missing required field `price`"),
        ({"x": "one"}, Point, r"Expected `int`, got `str` - at `\$.x`"),
        ([1, 2, "3"], list[int], r"\$\[2\]"),
        ("hold", Side, "Invalid enum value"),
    ],
)
def test_a_value_of_another_type_is_refused(value: Any, type: Any, text: str) -> None:
    with pytest.raises(naru.ProtocolError, match=text):
        read(written(value), type)


def test_pickle_is_for_those_who_ask() -> None:
    value = {1: {2, 3}, "function": pickle.loads}
    assert read(written(value, "pickle"), codec="pickle") == value
    with pytest.raises(naru.ProtocolError, match="the message is pickle, not msgpack"):
        read(written(value, "pickle"))
    with pytest.raises(naru.ProtocolError, match="the message is msgpack, not pickle"):
        read(written([1]), codec="pickle")
    with pytest.raises(ValueError, match="type="):
        read(written(value, "pickle"), dict, "pickle")


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


def test_what_was_not_asked_for_is_never_unpickled() -> None:
    bomb = pickle.dumps(Bomb())
    for message in (bomb, b"\xc1P\x01" + bomb, b"\xc1M\x01" + bomb):
        with pytest.raises(naru.ProtocolError):
            read(message)
    for message in (bomb, b"\xc1M\x01" + bomb, b"\xc1P\x02" + bomb):
        with pytest.raises(naru.ProtocolError):
            read(message, codec="pickle")


@pytest.mark.parametrize(
    "message",
    [
        b"", b"\xc1", b"\xc1M", b"\xc1M\x01", b"\xc1M\x02\x05", b"\xc1M\x01\x05\x05",
        b"\xc1M\x01\xdd\xff\xff\xff\xff", b"\xc1M\x01\xc6\xff\xff\xff\xffx",
        b"\xc1M\x01" + b"\x91" * 100_000, b"\xc1M\x01\xc1", b"\xc1M\x01\xa2\xff\xff",
        b"\xc1A\x01" + bytes(40), b"plain",
    ],
)  # fmt: skip
def test_what_is_no_value_is_refused(message: bytes) -> None:
    with pytest.raises(naru.ProtocolError) as caught:
        read(message)
    assert caught.value.operation == "receive_object"


@hypothesis.given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_refused(body: bytes) -> None:
    for type in (None, Order, list[Point], Line):
        try:
            read(b"\xc1M\x01" + body, type)
        except naru.ProtocolError:
            continue


def test_a_broken_pickle_is_refused() -> None:
    for body in (b"", b"\x80\x05", b"nonsense"):
        with pytest.raises(naru.ProtocolError):
            read(b"\xc1P\x01" + body, codec="pickle")


def test_an_unknown_codec_and_an_unknown_value() -> None:
    with pytest.raises(ValueError, match='"msgpack" or "pickle", not'):
        parts_of(1, "json")
    with pytest.raises(TypeError, match="object"):
        parts_of(object(), None)
