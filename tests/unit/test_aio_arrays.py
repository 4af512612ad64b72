"""Arrays in place under asyncio: what their blocks do that the conformance suite cannot see there."""

from __future__ import annotations

import asyncio

import numpy
import pytest

from naru import aio

KINDS = ["shm", "shm:?capacity_bytes=4096", "unix", "pipe", "tcp"]
SHAPES = [(0,), (3, 4), (100, 1000), (3, 700, 900)]


async def exchange(kind: str, shape: tuple[int, ...]) -> None:
    a, b = aio.pair(kind)
    async with a, b:
        sent = numpy.arange(numpy.prod(shape), dtype="f4").reshape(shape)
        sending = asyncio.create_task(a.send_array(sent, timeout_s=15))
        got = await b.receive_array(timeout_s=15)
        await sending
        assert got.flags.writeable
        assert numpy.array_equal(got, sent)

        sending = asyncio.create_task(a.send_array(sent, timeout_s=15))
        async with b.lease_array(timeout_s=15) as leased:
            assert numpy.array_equal(leased, sent)
        await sending
        with pytest.raises((IndexError, TypeError, ValueError)):
            leased[0]

        receiving = asyncio.create_task(b.receive_array(timeout_s=15))
        async with a.reserve_array(shape, "f4", timeout_s=15) as room:
            room[...] = sent
        assert numpy.array_equal(await receiving, sent)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_arrive(kind: str, shape: tuple[int, ...]) -> None:
    asyncio.run(exchange(kind, shape))


@pytest.mark.parametrize("kind", ["shm", "unix"])
def test_a_slice_that_outlives_its_block_is_told(kind: str) -> None:
    async def keep() -> None:
        a, b = aio.pair(kind)
        async with a, b:
            await a.send_array(numpy.arange(10))
            with pytest.raises(BufferError):
                async with b.lease_array() as leased:
                    part = leased[2:5]
            assert part.tolist() == [2, 3, 4]
            del part, leased
            await a.send_array(numpy.arange(3))
            assert (await b.receive_array()).tolist() == [0, 1, 2]

    asyncio.run(keep())


def test_objects_arrive() -> None:
    async def exchange_objects() -> None:
        a, b = aio.pair("unix")
        async with a, b:
            await a.send_object({"name": "x", "values": [1, 2.5]})
            assert await b.receive_object(timeout_s=5) == {"name": "x", "values": [1, 2.5]}
            assert b.try_receive_object(default="nothing") == "nothing"
            assert a.try_send_object([1])
            assert await b.receive_object(list[int], timeout_s=5) == [1]

    asyncio.run(exchange_objects())
