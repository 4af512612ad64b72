"""naru cache as people run it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import environment, naru

import naru as library

pytestmark = pytest.mark.watchdog(seconds=60)


@pytest.fixture
def run() -> Iterator[Any]:
    """Runs a command in a runtime directory of its own, in memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:

        def call(*arguments: str, stdin: bytes = b"", code: int = 0) -> bytes:
            done = naru(
                "cache", *arguments, stdin=stdin, env=environment(XDG_RUNTIME_DIR=name), cwd=name
            )
            assert done.returncode == code, done.stderr
            if code:
                assert done.stderr.count(b"\n") == 1, done.stderr
                assert done.stderr.startswith(b"naru: ")
                return done.stderr
            assert done.stderr == b""
            return done.stdout

        call.folder = Path(name)  # type: ignore[attr-defined]
        yield call


def test_a_life(run: Any) -> None:
    path = Path(run("create", "shop", "2MiB", "--mode", "0640").decode().strip())
    assert path.stat().st_size == 2 << 20
    assert path.stat().st_mode & 0o777 == 0o640
    run("set", "shop", "tea", "green", "--ttl", "60", "--tag", "drinks")
    run("set", "shop", "count", "5", "--integer")
    run("set", "shop", "raw", stdin=b"\0\xff")
    assert run("get", "shop", "tea") == b"green\n"
    assert run("get", "shop", "count") == b"5\n"
    assert run("get", "shop", "raw") == b"\0\xff"
    with library.Cache.open(path) as cache:
        cache["list"] = [1, {"a": None}]
        assert cache["count"] == 5
    assert run("get", "shop", "list") == b'[1, {"a": null}]\n'
    assert sorted(run("scan", "shop").split()) == [b"count", b"list", b"raw", b"tea"]
    assert run("scan", "shop", "--prefix", "t", "--json") == b'"tea"\n'
    assert run("delete", "shop", "tea", "absent") == b"1\n"
    facts = json.loads(run("stats", "shop", "--json"))
    assert facts["entries"] == 3
    assert b"3" in run("stats", "shop")
    assert run("top", "shop", "--count", "1", "--every", "0.05").count(b"\n") == 2
    assert json.loads(run("check", "shop", "--json"))["sound"] is True
    run("snapshot", "shop", "saved")
    run("delete", "shop", "count")
    run("restore", "shop", "saved")
    assert run("get", "shop", "count") == b"5\n"
    run("drop", "shop")
    assert not path.exists()


def test_what_is_wrong_is_one_line(run: Any) -> None:
    assert b"no such cache" in run("get", "shop", "tea", code=1)
    run("create", "shop", "1MiB")
    assert b"'tea' is not there" in run("get", "shop", "tea", code=1)
    assert b"there is one already" in run("create", "shop", "1MiB", code=1)
    assert b"no size such as" in run("create", "other", "much", code=2)
    assert b"power of two" in run("create", "other", "8MiB", "--shards", "3", code=2)
    assert b"ttl_s must be above 0" in run("set", "shop", "k", "v", "--ttl", "0", code=1)
    assert b"no integer" in run("set", "shop", "k", "v", "--integer", code=2)
    assert b"MiB free" in run("create", "other", "900TiB", code=1)
    run("create", "pickles", "1MiB", "--codec", "pickle")
    assert b"unpickling runs" in run("get", "pickles", "k", code=1)
    run("set", "pickles", "k", "v", "--pickle")
    (run.folder / "junk").write_bytes(b"junk")
    assert b"damaged" in run("restore", "shop", "./junk", code=1)


@pytest.mark.parametrize("command", ["create", "get", "set", "delete", "scan", "stats", "top",
                                     "check", "snapshot", "restore", "drop"])  # fmt: skip
def test_help(run: Any, command: str) -> None:
    assert b"Usage: naru cache" in run(command, "--help")
