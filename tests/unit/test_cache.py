"""naru.Cache in one process: what its verbs give, refuse and say."""

from __future__ import annotations

import array
import gc
import pickle
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import naru
from naru.cache.making import numbers


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        yield Path(name)


@pytest.fixture
def cache(folder: Path) -> Iterator[naru.Cache]:
    with naru.Cache.create(folder / "c", 8 << 20, shards=4) as made:
        yield made


def test_str_and_bytes_of_the_same_bytes_are_one_key(cache: naru.Cache) -> None:
    cache.set("한", b"1")
    assert cache["한".encode()] == b"1"
    assert list(cache) == ["한".encode()]


@pytest.mark.parametrize(
    "value",
    [b"", b"x", "", "text \0 한", 0, -5, 2**63 - 1, 10**30, None, True, 1.5, [1, "a", None]],
)
def test_values_come_back_as_they_were(cache: naru.Cache, value: Any) -> None:
    cache["k"] = value
    assert cache["k"] == value
    assert type(cache["k"]) is type(value)


def test_buffers_become_bytes(cache: naru.Cache) -> None:
    for value in (
        bytearray(b"abc"),
        memoryview(b"abc"),
        memoryview(b"xabcx")[1:4],
        array.array("b", b"abc"),
    ):
        cache["k"] = value
        assert cache["k"] == b"abc"


def test_a_large_value_comes_back_and_one_that_is_too_large_is_refused(cache: naru.Cache) -> None:
    value = bytes(range(256)) * 2000
    cache["large"] = value
    assert cache["large"] == value
    with pytest.raises(naru.TooBigError, match="value is too big"):
        cache["larger"] = bytes(9 << 20)
    assert "larger" not in cache


def test_keys_that_cannot_be(cache: naru.Cache) -> None:
    with pytest.raises(naru.TooBigError, match="65,535"):
        cache["k" * 65536] = b""
    for key in (1, None, 1.5, bytearray(b"k"), ("a",)):
        with pytest.raises(TypeError, match="key is str or bytes"):
            cache.get(key)  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        cache.get("\ud800")


def test_what_is_not_there(cache: naru.Cache) -> None:
    assert cache.get("k") is None
    assert cache.get("k", 5) == 5
    assert cache.get_versioned("k") is None
    assert cache.get_into("k", bytearray(8)) is None
    assert not cache.delete("k")
    assert cache.get_many(["k", "l"]) == {}
    assert cache.get_many([]) == {}
    for act in (lambda: cache["k"], lambda: cache.__delitem__("k"), lambda: cache.ttl_s("k")):
        with pytest.raises(KeyError, match="k"):
            act()


def test_get_into_gives_the_bytes_as_they_stand(cache: naru.Cache) -> None:
    cache["k"] = b"abc"
    room = bytearray(5)
    assert cache.get_into("k", room) == 3
    assert room == b"abc\0\0"
    with pytest.raises(naru.TooBigError, match="3 bytes"):
        cache.get_into("k", bytearray(2))
    with pytest.raises(BufferError):
        cache.get_into("k", b"no room")  # type: ignore[arg-type]


def test_a_time_that_cannot_be(cache: naru.Cache) -> None:
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="ttl_s"):
            cache.set("k", b"", ttl_s=wrong)
    cache.set("k", b"", ttl_s=float("inf"))
    assert cache.ttl_s("k") is None


def test_what_expires_is_gone_and_ttl_tells(cache: naru.Cache) -> None:
    cache.set("k", b"v", ttl_s=60)
    left_s = cache.ttl_s("k")
    assert left_s is not None
    assert 0 < left_s <= 60
    cache._shift_clock(60_001)
    assert cache.get("k") is None
    assert "k" not in cache
    assert list(cache) == []
    cache._shift_clock(
        15 * 365 * 86_400_000
    )  # 2041 and later: the clock is not that of the calendar
    cache.set("k", b"w", ttl_s=60)
    assert cache["k"] == b"w"
    cache._shift_clock(60_001)
    assert "k" not in cache


def test_incr_counts_and_keeps_its_time(cache: naru.Cache) -> None:
    assert cache.incr("n") == 1
    assert cache.incr("n", 5) == 6
    assert cache.decr("n", 2) == 4
    assert cache["n"] == 4
    assert cache.incr("m", initial=10, ttl_s=60) == 11
    cache.incr("m")
    assert cache.ttl_s("m") is not None
    with pytest.raises(KeyError):
        cache.incr("absent", initial=None)
    cache["text"] = b"abc"
    with pytest.raises(naru.NaruError, match="no integer"):
        cache.incr("text")
    cache["n"] = 2**63 - 1
    with pytest.raises(naru.NaruError, match="64 bits"):
        cache.incr("n")
    with pytest.raises(OverflowError):
        cache.incr("n", 2**64)


def test_tags_forget_together(cache: naru.Cache) -> None:
    cache.set("a", b"1", tags=["red", b"blue"])
    cache.set("b", b"2", tags="blue")
    cache.set("c", b"3")
    cache.evict_tag("blue")
    assert dict(cache.items()) == {b"c": b"3"}
    cache.set("b", b"4", tags=["blue"])
    assert cache["b"] == b"4"
    with pytest.raises(ValueError, match="16 tags"):
        cache.set("a", b"", tags=[str(i) for i in range(17)])
    with pytest.raises(TypeError, match="tag is str or bytes"):
        cache.set("a", b"", tags=[5])  # type: ignore[list-item]


def test_as_a_mapping(cache: naru.Cache) -> None:
    assert cache
    cache.update({"a": 1, "b": 2})
    cache.set_many([("c", 3)])
    assert len(cache) == 3
    assert sorted(cache.keys()) == [b"a", b"b", b"c"]
    assert sorted(cache.values()) == [1, 2, 3]
    assert list(cache.scan("b")) == [b"b"]
    assert list(cache.items(b"c")) == [(b"c", 3)]
    assert cache.setdefault("a", 9) == 1
    assert cache.setdefault("d", 9) == 9
    del cache["a"]
    assert "a" not in cache
    with pytest.raises(TypeError):
        cache.pop("a", 1, 2)
    assert cache.pop("b") == 2
    cache.clear()
    assert len(cache) == 0


def test_get_or_set_makes_once(cache: naru.Cache) -> None:
    made: list[int] = []

    def make() -> str:
        made.append(1)
        return "value"

    assert cache.get_or_set("k", make, ttl_s=60) == "value"
    assert cache.get_or_set("k", make) == "value"
    assert len(made) == 1


def test_get_or_set_keeps_none(cache: naru.Cache) -> None:
    assert cache.get_or_set("k", lambda: None) is None
    assert "k" in cache
    assert cache.get_or_set("k", lambda: 5) is None


def test_an_error_of_make_goes_to_its_caller_and_passes_the_turn_on(cache: naru.Cache) -> None:
    with pytest.raises(ZeroDivisionError):
        cache.get_or_set("k", lambda: 1 // 0)
    assert cache.get_or_set("k", lambda: 5, timeout_s=0) == 5


def test_make_that_asks_for_its_own_key_is_told_so(cache: naru.Cache) -> None:
    with pytest.raises(RuntimeError, match="asks for the key"):
        cache.get_or_set("k", lambda: cache.get_or_set(b"k", lambda: 1))
    assert cache.get_or_set("k", lambda: cache.get_or_set("l", lambda: 1)) == 1


def test_threads_wait_for_one_maker(cache: naru.Cache) -> None:
    begun, may_end = threading.Event(), threading.Event()
    made: list[int] = []
    found: list[Any] = []

    def make() -> str:
        made.append(1)
        begun.set()
        may_end.wait()
        return "value"

    threads = [
        threading.Thread(target=lambda: found.append(cache.get_or_set("k", make))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    begun.wait()
    with pytest.raises(naru.TimedOutError, match="making"):
        cache.get_or_set("k", make, timeout_s=0.05)
    may_end.set()
    for thread in threads:
        thread.join()
    assert (made, found) == ([1], ["value"] * 8)


def test_a_stale_value_is_given_while_another_makes(cache: naru.Cache) -> None:
    def order(make: Any) -> Any:
        return cache.get_or_set("k", make, ttl_s=60, stale_s=600, timeout_s=5)

    assert order(lambda: "old") == "old"
    cache._shift_clock(61_000)

    def make() -> str:
        other: list[Any] = []
        thread = threading.Thread(target=lambda: other.append(order(lambda: "not called")))
        thread.start()
        thread.join()
        assert other == ["old"]
        return "new"

    assert order(make) == "new"
    assert order(lambda: "not called") == "new"
    cache._shift_clock(661_000)
    assert cache.get("k") is None
    with pytest.raises(ValueError, match="ttl_s"):
        cache.get_or_set("k", lambda: 1, stale_s=5)


def test_a_lock_has_one_owner(cache: naru.Cache) -> None:
    one, other = cache.lock("name"), cache.lock(b"name", timeout_s=0.01)
    with one:
        assert one.held
        assert not other.try_acquire()
        with pytest.raises(naru.TimedOutError, match="another owner"), other:
            pass
        with pytest.raises(naru.NotPermittedError):
            other.release()
        with pytest.raises(RuntimeError, match="holds it already"):
            one.try_acquire()
        assert cache.lock("other").try_acquire()
        one.renew()
    assert not one.held
    with other:
        pass
    with pytest.raises(naru.NotPermittedError):
        one.renew()


def test_a_lock_whose_time_is_up_is_lost(cache: naru.Cache) -> None:
    one = cache.lock("name", ttl_s=60)
    one.acquire()
    cache._shift_clock(60_001)
    other = cache.lock("name")
    assert other.try_acquire()
    with pytest.raises(naru.NotPermittedError, match="time was up"):
        one.release()
    other.release()
    with pytest.raises(ValueError, match="ttl_s"):
        cache.lock("name", ttl_s=0)


def test_a_lock_and_a_key_of_one_name_do_not_meet(cache: naru.Cache) -> None:
    with cache.lock("k"):
        assert cache.get_or_set("k", lambda: 1, timeout_s=0) == 1


def test_memoize_remembers_and_forgets(cache: naru.Cache) -> None:
    calls: list[Any] = []

    @cache.memoize(ttl_s=60, tags=["sums"])
    def add(a: Any, b: Any = 2) -> Any:
        """Adds."""
        calls.append((a, b))
        return a + b

    assert [add(1), add(1), add(1, 2), add(a=1)] == [3, 3, 3, 3]
    assert len(calls) == 3
    assert (add.__doc__, add.__name__) == ("Adds.", "add")
    assert add.forget(1)  # type: ignore[attr-defined]
    assert not add.forget(1)  # type: ignore[attr-defined]
    add(1)
    assert len(calls) == 4
    add(1.0)
    assert len(calls) == 5
    add("x" * 1000, "y")
    add("x" * 1000, "y")
    assert len(calls) == 6
    assert add.key(1) in cache  # type: ignore[attr-defined]
    cache.evict_tag("sums")
    add(1)
    assert len(calls) == 7
    with pytest.raises(TypeError, match="make no key"):
        add(object())


def test_memoize_takes_a_key_of_yours(cache: naru.Cache) -> None:
    class Shop:
        def __init__(self, number: int) -> None:
            self.number = number

        @cache.memoize(key=lambda self, item: f"{self.number}:{item}")
        def price(self, item: str) -> str:
            return f"{item} {self.number}"

    assert [Shop(1).price("tea"), Shop(2).price("tea"), Shop(1).price("tea")] == [
        "tea 1", "tea 2", "tea 1"
    ]  # fmt: skip
    assert len(cache) == 2


def test_statistics_count(cache: naru.Cache) -> None:
    cache["a"] = b"1"
    cache.get("a")
    cache.get("b")
    cache.delete("a")
    with naru.Cache.open(cache.path) as other:
        other.get("c")
    found = cache.statistics()
    assert (found.sets, found.deletes, found.hits) == (1, 1, 1)
    assert found.misses == 2
    assert found.hit_ratio == 1 / 3
    assert (found.size_bytes, found.shards) == (8 << 20, 4)
    assert found.as_dict()["hit_ratio"] == 0.333333
    assert cache.check().sound


def test_a_closed_cache_says_so(folder: Path) -> None:
    cache = naru.Cache.create(folder / "c", 1 << 20)
    cache.close()
    cache.close()
    assert cache.closed
    assert "closed" in repr(cache)
    for act in (
        lambda: cache.get("k"),
        lambda: cache.set("k", b""),
        cache.statistics,
        lambda: len(cache),
    ):
        with pytest.raises(naru.ClosedError, match="closed"):
            act()
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(cache)


def test_a_forgotten_cache_warns(folder: Path) -> None:
    def forget() -> None:
        naru.Cache.create(folder / "c", 1 << 20)
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed <Cache"):
        forget()


def test_a_pickled_cache_is_the_same_one(cache: naru.Cache) -> None:
    cache["k"] = b"v"
    with pickle.loads(pickle.dumps(cache)) as other:
        assert other["k"] == b"v"
        assert other.path == cache.path


def test_a_cache_that_is_closed_by_another_thread_in_the_middle(cache: naru.Cache) -> None:
    """A verb that is inside keeps the memory; nobody reads what is not mapped any more."""
    value = bytes(500_000)
    cache["k"] = value
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while True:
                assert cache["k"] == value
        except naru.ClosedError:
            pass  # what it waits for
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        cache["k"] = value
    cache.close()
    for thread in threads:
        thread.join()
    assert failures == []


def test_resize_keeps_everything(cache: naru.Cache) -> None:
    with naru.Cache.open(cache.path) as other:
        cache.set("a", "text", ttl_s=600, tags=["red"])
        cache.set("b", {"x": 1})
        cache.resize(32 << 20)
        assert cache.statistics().size_bytes == 32 << 20
        assert dict(other.items()) == {b"a": "text", b"b": {"x": 1}}
        left_s = other.ttl_s("a")
        assert left_s is not None
        assert 590 < left_s <= 600
        other.set("c", b"3")
        assert cache["c"] == b"3"
        cache.evict_tag("red")
        assert "a" not in other
        other.resize(1 << 20)
        assert cache.statistics().shards == 1
        with pytest.raises(ValueError, match="1 MiB"):
            cache.resize(1000)
        assert cache["c"] == b"3"


def test_a_dropped_cache_is_gone_for_all(cache: naru.Cache, folder: Path) -> None:
    with naru.Cache.open(cache.path) as other, naru.Cache.open(cache.path) as third:
        cache.drop()
        assert cache.closed
        with pytest.raises(naru.NoSuchNameError):
            other.get("k")
        with naru.Cache.create(folder / "c", 1 << 20) as new:
            new["k"] = b"new"
            assert third["k"] == b"new"


def test_numbers_of_owners_do_not_repeat() -> None:
    assert next(numbers) != next(numbers)
