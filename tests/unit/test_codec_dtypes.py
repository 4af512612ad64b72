"""numpy's dtypes as text: whatever numpy can name comes back, and nothing else is taken."""

from __future__ import annotations

from typing import Any

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy
import pytest

from naru.codec.dtypes import MAX_DEPTH, MAX_TEXT_BYTES, parse, text_of
from naru.errors import ProtocolError


def plain_dtypes() -> st.SearchStrategy[numpy.dtype[Any]]:
    return st.one_of(
        arrays.scalar_dtypes(),
        arrays.byte_string_dtypes(min_len=1),
        arrays.unicode_string_dtypes(min_len=1),
        arrays.datetime64_dtypes(),
        arrays.timedelta64_dtypes(),
        st.integers(1, 40).map(lambda size: numpy.dtype(f"V{size}")),
    )


def any_dtypes() -> st.SearchStrategy[numpy.dtype[Any]]:
    return arrays.nested_dtypes(plain_dtypes(), max_leaves=12, max_itemsize=2**20).map(
        lambda dtype: dtype if dtype.subdtype is None else numpy.dtype([("it", dtype)])
    )


@hypothesis.given(any_dtypes())
def test_every_dtype_comes_back(dtype: numpy.dtype[Any]) -> None:
    try:
        text = text_of(dtype)
    except TypeError as error:
        assert "0 bytes" in str(error)
        return
    found = parse(text.encode())
    assert found == dtype
    assert found.descr == dtype.descr if dtype.names is None else found.fields == dtype.fields


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        ("f8", "<f8"), (">i2", ">i2"), ("?", "|b1"), ("u1", "|u1"), ("c16", "<c16"),
        ("U3", "<U3"), ("S5", "|S5"), ("V8", "|V8"), ("M8[ns]", "<M8[ns]"),
        ("m8[25us]", "<m8[25us]"), ("M8", "<M8"), (">U2", ">U2"), ("f2", "<f2"),
        ([("x", "f8"), ("y", "i1")], "{9;0,1:x<f8;8,1:y|i1}"),
        ([("x", "f4", (2, 3))], "{24;0,1:x(2,3)<f4}"),
        ([(("why?", "x"), "f4")], "{4;0,1:x,4:why?<f4}"),
        ([("한;{", "u1"), ("b", [("c", ">u2")])], "{3;0,3:한;{|u1;1,1:b{2;0,1:c>u2}}"),
        ({"names": ["b", "a"], "formats": ["i4", "i4"], "offsets": [2, 0], "itemsize": 12},
         "{12;2,1:b<i4;0,1:a<i4}"),
    ],
)  # fmt: skip
def test_the_text(dtype: Any, text: str) -> None:
    assert text_of(numpy.dtype(dtype)) == text
    assert parse(text.encode()) == numpy.dtype(dtype)


def test_an_aligned_record_keeps_its_offsets() -> None:
    dtype = numpy.dtype([("a", "u1"), ("b", "f8")], align=True)
    assert parse(text_of(dtype).encode()).fields == dtype.fields


@pytest.mark.parametrize(
    "dtype",
    ["O", [("a", "O")], [("a", [("b", "O", (2,))])], "V0", [], "U0"],
)
def test_objects_and_nothing_are_refused(dtype: Any) -> None:
    with pytest.raises(TypeError):
        text_of(numpy.dtype(dtype))


def nested(depth: int) -> numpy.dtype[Any]:
    dtype: numpy.dtype[Any] = numpy.dtype("u1")
    for _ in range(depth):
        dtype = numpy.dtype([("a", dtype)])
    return dtype


def test_records_within_records_have_a_limit() -> None:
    assert parse(text_of(nested(MAX_DEPTH)).encode()) == nested(MAX_DEPTH)
    with pytest.raises(TypeError, match="within each other"):
        text_of(nested(MAX_DEPTH + 1))
    deep = "{1;0,1:a" * 1000 + "|u1" + "}" * 1000
    with pytest.raises(ProtocolError, match="within each other"):
        parse(deep.encode())


def test_many_fields_have_a_limit() -> None:
    many = numpy.dtype([(f"field number {number}", "f8") for number in range(500)])
    assert parse(text_of(many).encode()) == many
    with pytest.raises(TypeError, match=str(MAX_TEXT_BYTES)):
        text_of(numpy.dtype([(f"field number {number}", "f8") for number in range(800)]))


HOSTILE = [
    "", "f8", "<f", "<f8 ", " <f8", "<f08", "|f8", "=f8", "@f8", "<f9", "<i3", "<b1", ">u1", "<O8",
    "|O", "|O8", "<g16", "<T16", "float64", "<f8,<f8", "2<f8", "(2)<f8", "<f8[ns]", "<M8[xx]",
    "<M8[1ns]", "<M8[0ns]", "<M8[ns", "<M8[-1ns]", "<M8[2147483648ns]", "<M8[generic]", "<M4[ns]",
    "<M8[ns/3]", "<U536870912", "<U99999999999", "|S2147483648", "|S-1", "|S1e3", "|V0", "<U0",
    "{0}", "{}", "{8;", "{8;0,1:x<f8", "{8;0,1:x<f8;}", "{8;0,1:x<f8}}", "{7;0,1:x<f8}",
    "{8;1,1:x<f8}", "{16;0,1:x<f8;8,1:x<f8}", "{8;0,0:<f8}", "{8;0,9:x<f8}", "{8;-8,1:x<f8}",
    "{8;0,1:x|O8}", "{8;0,1:x,1:x<f8}", "{8;0,1:x,0:<f8}", "{16;0,1:x,1:t<f8;8,1:y,1:t<f8}",
    "{8;0,1:x(2147483647,2147483647)|u1}", "{8;0,1:x(2,2)<f8}", "{8;0,1:x()<f8}",
    "{8;0,1:x(2147483647,0)|u1}", "{8;0,1:x(65535,65535)|V0}", "{8;0,1:x(2147483647){0}}",
    "{8;0,1:x(2)(2)|u2}", "{8;0,1:x(-1)<f8}", "{99999999999;0,1:x<f8}", "{08;0,1:x<f8}",
    "{64;0,1:x(" + "1," * 40 + "1)<f8}", "{8;0,1:x(1)<f8}(", "__import__('os')", "{8;0,1:x<f8;0",
    "<f8\n", "<f\uff18", "{\uff18;0,1:x<f8}",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_what_numpy_or_eval_might_take_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse(text.encode())


@pytest.mark.parametrize("text", [b"\xff\xfe", b"{8;0,1:\xc3<f8}", b"<f8\0", b"<f8" * 9000])
def test_other_bytes_are_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(text)


@hypothesis.given(st.text("<>|biufcSUVMmO0123456789[]{}();,:nsx", max_size=40))
def test_nothing_but_the_text_itself_is_taken(text: str) -> None:
    try:
        dtype = parse(text.encode())
    except ProtocolError:
        return
    assert text_of(dtype) == text
    assert not dtype.hasobject


@hypothesis.given(any_dtypes(), st.integers(0, 200), st.integers(0, 255))
def test_a_changed_text_is_another_dtype_or_none(
    dtype: numpy.dtype[Any], at: int, byte: int
) -> None:
    try:
        text = bytearray(text_of(dtype).encode())
    except TypeError:
        return
    text[at % len(text)] = byte
    try:
        found = parse(bytes(text))
    except ProtocolError:
        return
    assert text_of(found).encode() == text
