"""The header of an array: what is written is read, and what lies is refused before it costs memory."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy
import pytest

from naru.codec.dtypes import text_of
from naru.codec.header import ALIGNMENT, finished, parse, prefix_of
from naru.errors import ProtocolError

CORPUS = Path(__file__).parents[1] / "corpus" / "array_header"

HUGE = 2**62


def message_of(
    text: bytes = b"<f8", shape: tuple[int, ...] = (3,), data: bytes = bytes(24), **lies: int
) -> bytes:
    """A message, sound but for the lies."""
    said: dict[str, int] = {
        "mark": 0xC1, "kind": 65, "version": 1, "flags": 0, "ndim": len(shape), "zero": 0,
        "text_bytes": len(text), "offset": 0, "zeros": 0,
    }  # fmt: skip
    end = 16 + 8 * len(shape) + len(text)
    padding = lies.pop("padding", -end % 64)
    filler = bytes([lies.pop("filler", 0)]) * padding
    said["offset"] = end + padding
    fixed = struct.pack("<6BHII", *(said | lies).values())
    return fixed + struct.pack(f"<{len(shape)}Q", *shape) + text + filler + data


# The seeds of tests/corpus/array_header: names that begin with "good" are arrays.
SEEDS = {
    "good": message_of(),
    "good_0d": message_of(shape=(), data=bytes(8)),
    "good_empty": message_of(shape=(3, 0, 2), data=b""),
    "good_fortran": message_of(shape=(3, 1), flags=1),
    "good_record": message_of(b"{16;0,1:x<f8;8,1:y(2)<i4}", (2,), bytes(32)),
    "good_64_dimensions": message_of(shape=(1,) * 64, data=bytes(8)),
    "nothing": b"",
    "short": message_of()[:15],
    "plain_bytes": b"hello, this is a message of plain bytes",
    "object": b"\xc1M\x01\x93\x01\x02\x03" + bytes(16),
    "other_version": message_of(version=2),
    "unknown_flags": message_of(flags=2),
    "reserved_byte": message_of(zero=1),
    "reserved_word": message_of(zeros=1),
    "too_many_dimensions": message_of(shape=(1,) * 65, data=bytes(8)),
    "dimensions_lie": message_of(ndim=2),
    "header_cut": message_of()[:30],
    "header_beyond_the_message": message_of(ndim=64),
    "text_beyond_the_message": message_of(text_bytes=60000),
    "text_too_long": message_of(b"<" * 20000),
    "offset_before_the_header": message_of(offset=8),
    "offset_beyond_the_message": message_of(offset=4096),
    "offset_at_the_limit": message_of(offset=0xFFFFFFFF),
    "padding_too_long": message_of(padding=64),
    "padding_with_content": message_of(filler=1),
    "data_short": message_of(data=bytes(23)),
    "data_long": message_of(data=bytes(25)),
    "data_missing": message_of(data=b""),
    "shape_huge": message_of(shape=(HUGE,)),
    "shape_overflows_to_24": message_of(shape=(2**61 + 3,)),
    "shape_overflows_to_0": message_of(shape=(2**32, 2**32), data=b""),
    "shape_negative": message_of(shape=(2**64 - 3,)),
    "shape_huge_and_empty": message_of(shape=(0, HUGE, HUGE), data=b""),
    "itemsize_0": message_of(b"|V0", (HUGE,), b""),
    "itemsize_0_record": message_of(b"{0}", (HUGE,), b""),
    "itemsize_huge": message_of(b"|S2147483647", (2**31,), bytes(24)),
    "dtype_objects": message_of(b"|O8"),
    "dtype_objects_plain": message_of(b"O"),
    "dtype_objects_in_a_record": message_of(b"{8;0,1:x|O8}"),
    "dtype_name": message_of(b"float64"),
    "dtype_list": message_of(b"[('a', '<f8')]"),
    "dtype_code": message_of(b"__import__('os').abort()"),
    "dtype_empty": message_of(b""),
    "dtype_not_utf8": message_of(b"\xff\xff\xff"),
    "dtype_zero_byte": message_of(b"<f8\0"),
    "dtype_duplicate_fields": message_of(b"{8;0,1:x<i4;4,1:x<i4}"),
    "dtype_field_outside": message_of(b"{8;4,1:x<f8}"),
    "dtype_field_far_outside": message_of(b"{8;2147483640,1:x<f8}"),
    "dtype_subarray_huge": message_of(b"{8;0,1:x(2147483647,2147483647)|u1}"),
    "dtype_subarray_on_top": message_of(b"(3)<f8", (1,)),
    "dtype_subarray_of_nothing": message_of(b"{8;0,1:x(65535,65535)|V0}"),
    "dtype_of_0_units": message_of(b"<M8[0ns]"),
    "dtype_deep": message_of(b"{8;0,1:x" * 500 + b"<f8" + b"}" * 500),
}


def test_the_corpus_is_complete() -> None:
    """What is added above is a file, too, and whatever else was found stays there."""
    for name, message in SEEDS.items():
        assert (CORPUS / name).read_bytes() == message, name


@pytest.mark.parametrize("name", sorted({path.name for path in CORPUS.iterdir()}))
def test_the_corpus(name: str) -> None:
    message = memoryview((CORPUS / name).read_bytes())
    if not name.startswith("good"):
        with pytest.raises(ProtocolError):
            parse(message)
        return
    header = parse(message)
    found = numpy.ndarray(header.shape, header.dtype, message, header.offset, order=header.order)
    assert found.nbytes + header.offset == len(message)


def can_be_sent(dtype: numpy.dtype[Any]) -> bool:
    try:
        return bool(text_of(dtype))
    except TypeError:
        return False


any_array = st.one_of(arrays.scalar_dtypes(), arrays.nested_dtypes()).flatmap(
    lambda dtype: arrays.arrays(
        dtype if dtype.subdtype is None and can_be_sent(dtype) else numpy.dtype("i2"),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    )
)


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.too_slow])
@hypothesis.given(any_array, st.sampled_from("CF"), st.integers(0, 2**40))
def test_what_is_written_is_read(array: numpy.ndarray[Any, Any], order: str, address: int) -> None:
    header = finished(prefix_of(array.dtype, array.shape, order), address)
    assert (address + len(header)) % ALIGNMENT == 0
    found = parse(memoryview(header + bytes(array.nbytes)))
    assert (found.dtype, found.shape, found.order) == (array.dtype, array.shape, order)
    assert found.offset == len(header)
    for wrong in (1, 63):
        with pytest.raises(ProtocolError):
            parse(memoryview(header + bytes(array.nbytes + wrong)))


@hypothesis.given(
    st.sampled_from([message for name, message in SEEDS.items() if name.startswith("good")]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 300),
)
def test_a_changed_message_is_refused_or_adds_up(
    message: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    changed = bytearray(message)
    for at, byte in changes:
        changed[at % len(changed)] = byte
    cut = memoryview(changed)[: max(length, 1)]
    try:
        header = parse(cut)
    except ProtocolError:
        return
    assert not header.dtype.hasobject
    try:
        found = numpy.ndarray(header.shape, header.dtype, cut, header.offset, order=header.order)
    except ValueError:
        assert len(header.shape) > 32
        return
    assert found.nbytes + header.offset == len(cut)


@hypothesis.given(st.binary(max_size=200))
def test_bytes_are_no_array(message: bytes) -> None:
    hypothesis.assume(message[:2] != b"\xc1A")
    with pytest.raises(ProtocolError, match="not an array"):
        parse(memoryview(message))


def test_the_error_says_what_the_message_is() -> None:
    for message, text in ((b"hello", "receive takes it"), (b"\xc1M\x01\x05", "receive_object")):
        with pytest.raises(ProtocolError, match=text):
            parse(memoryview(message))
