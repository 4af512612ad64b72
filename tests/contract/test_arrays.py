"""Arrays of every kind through real ends: whatever numpy can make comes out as it went in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy
import pytest

import naru

dtypes = st.one_of(
    arrays.scalar_dtypes(),
    arrays.byte_string_dtypes(min_len=1),
    arrays.unicode_string_dtypes(min_len=1),
    arrays.datetime64_dtypes(),
    arrays.timedelta64_dtypes(),
    arrays.array_dtypes(max_size=3),
).filter(lambda dtype: dtype.itemsize > 0)


@st.composite
def any_arrays(draw: st.DrawFn) -> numpy.ndarray[Any, Any]:
    """Whole ones, and what slices, steps, transpositions and broadcasting make of them."""
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    size = int(numpy.prod(shape))
    dtype = draw(dtypes)
    data = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    order = draw(st.sampled_from("CF"))
    whole: numpy.ndarray[Any, Any] = numpy.zeros(shape, dtype, order)
    if dtype.kind in "iufcmMS":  # any bytes are a value
        whole = (
            numpy.frombuffer(bytearray(data), dtype).reshape(shape, order=order) if size else whole
        )
    part = whole[draw(arrays.basic_indices(shape, allow_ellipsis=True))] if shape else whole
    part = numpy.asarray(part)
    if part.ndim > 1:
        part = part.transpose(draw(st.permutations(range(part.ndim))))
    if draw(st.booleans()):
        part = numpy.broadcast_to(part, (2, *part.shape))
    return part


@pytest.fixture(scope="module", params=["shm", "shm:?capacity_bytes=4096", "unix"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[naru.Channel, naru.Channel]]:
    a, b = naru.pair(request.param)
    with a, b:
        yield a, b


def same(got: numpy.ndarray[Any, Any], sent: numpy.ndarray[Any, Any]) -> bool:
    """By their bytes: NaN and NaT are equal to nothing."""
    return (
        got.dtype == sent.dtype and got.shape == sent.shape and got.tobytes() == sent.tobytes()
    )  # fmt: skip


@pytest.mark.may_leak  # the ends are of the whole module
@pytest.mark.watchdog(seconds=120)
@hypothesis.settings(
    max_examples=60,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.data_too_large,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
@hypothesis.given(array=any_arrays())
def test_any_array_comes_back(
    ends: tuple[naru.Channel, naru.Channel], array: numpy.ndarray[Any, Any]
) -> None:
    a, b = ends
    a.send_array(array, timeout_s=5)
    got = b.receive_array(timeout_s=5)
    assert same(got, array)
    assert got.flags.writeable
    assert got.flags.aligned
    a.send_array(array, timeout_s=5)
    with b.lease_array(timeout_s=5) as leased:
        assert same(leased, array)
    with a.reserve_array(array.shape, array.dtype, timeout_s=5) as room:
        room[...] = array
    assert same(b.receive_array(timeout_s=5), array)


class Tensor:
    """What torch.Tensor is to numpy, as far as it goes here."""

    def __init__(self, array: numpy.ndarray[Any, Any]) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_tensors_by_dlpack_both_ways() -> None:
    a, b = naru.pair("shm")
    with a, b:
        a.send_array(Tensor(numpy.arange(5.0)))
        with b.lease_array() as array:
            tensor = numpy.from_dlpack(array)
            assert tensor.ctypes.data == array.ctypes.data
            with pytest.raises(BufferError, match="readonly"):
                array.__dlpack__()  # a consumer that knows no read-only memory
            del tensor
        a.send_array(numpy.arange(5.0))
        with b.lease_array(writable=True) as array:
            assert array.__dlpack__() is not None
            array *= 2
            assert array.tolist() == [0, 2, 4, 6, 8]
        a.send_array(numpy.arange(5.0))
        assert b.receive_array().__dlpack__() is not None
        with a.reserve_array(3) as room:
            numpy.from_dlpack(room)[:] = 7
        assert b.receive_array().tolist() == [7, 7, 7]


def test_buffers_for_arrow() -> None:
    a, b = naru.pair("shm")
    with a, b:
        a.send_array(numpy.arange(5, dtype="i4"))
        with b.lease_array() as array, memoryview(array) as view:
            assert (view.format, view.shape, view.readonly) == ("i", (5,), True)
            assert view[3] == 3


def test_what_cannot_be_sent_says_why() -> None:
    a, b = naru.pair("shm")
    with a, b:
        for thing in (
            [None],
            numpy.array([{}]),
            numpy.ma.masked_array([1], [True]),
            numpy.void(b""),
        ):
            with pytest.raises(TypeError):
                a.send_array(thing)
        with pytest.raises(TypeError):
            a.reserve_array(3, object)
        with pytest.raises(ValueError, match="shape"):
            a.reserve_array((-1,))
        with pytest.raises(ValueError, match="order"):
            a.reserve_array(3, "f8", "K")  # type: ignore[arg-type]
        assert b.try_receive() is None


def test_a_raw_stream_has_no_arrays() -> None:
    a, b = naru.pair("unix:?framing=raw")
    with a, b:
        a.send(b"GET / HTTP/1.1\r\n")
        with pytest.raises(naru.ProtocolError, match="plain bytes"):
            b.receive_array(timeout_s=1)
