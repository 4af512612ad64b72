"""FAULTS 71: the same random commands to naru and to a real redis-server give the same replies.

NARU_SOAK_COMMANDS=100000 makes it long.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from cache_servers import Resp, redis_server, serving

COMMANDS = int(os.environ.get("NARU_SOAK_COMMANDS", "4000"))

pytestmark = [
    pytest.mark.skipif(
        shutil.which("redis-server") is None,
        reason="redis-server is not here (Debian package redis-server)",
    ),
    pytest.mark.watchdog(seconds=600 if COMMANDS > 4000 else 60),
]

KEYS = [b"a", b"b", b"c{1}", b"d d", b"\xffe", b"", b"long" * 30]
SETS = [b"s1", b"s2", b"s3"]
WORDS = [
    b"",
    b"v",
    b"10",
    b"-7",
    b"3.5",
    b"007",
    b" 1",
    b"9223372036854775807",
    b"x" * 100,
    b"\0\r\n",
]


class Commands:
    """Random commands of the supported set, wrong ones among them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def key(self) -> bytes:
        # A set among strings now and then: WRONGTYPE.
        return self.random.choice(KEYS if self.random.random() < 0.9 else SETS)

    def set_key(self) -> bytes:
        return self.random.choice(SETS if self.random.random() < 0.9 else KEYS)

    def word(self) -> bytes:
        return self.random.choice(WORDS)

    def words(self, most: int = 4) -> list[bytes]:
        return [self.word() for _ in range(self.random.randint(1, most))]

    def number(self) -> str:
        return str(self.random.choice([0, 1, -1, 2, 7, 100, -100, 2**62, "x", "1.5", 2**64]))

    def time(self, unit: int = 1) -> str:
        """Far enough for a slow machine, never twice the same (GT, LT), or wrong."""
        good = self.random.randrange(1000 * unit, 9000 * unit)
        return str(self.random.choice([good, good, good, good, 0, -1, "x", 2**64]))

    def options(self, *some: object) -> list[object]:
        found: list[object] = []
        for one in some:
            if self.random.random() < 0.25:
                found += one if isinstance(one, list) else [one]
        return found

    def some(self) -> list[Any]:
        key, word, number = self.key, self.word, self.number
        choices: list[Any] = [
            lambda: ["SET", key(), word(), *self.options(
                "NX", "XX", "GET", "KEEPTTL", ["EX", self.time()], ["PX", self.time(1000)], "FOO")],
            lambda: ["SET", key(), word()],
            lambda: ["GET", key()],
            lambda: ["GETSET", key(), word()],
            lambda: ["GETDEL", key()],
            lambda: ["GETEX", key(), *self.options("PERSIST", ["EX", self.time()])],
            lambda: ["SETNX", key(), word()],
            lambda: ["SETEX", key(), self.time(), word()],
            lambda: ["PSETEX", key(), self.time(1000), word()],
            lambda: ["MGET", key(), key(), self.set_key()],
            lambda: ["MSET", key(), word(), key(), word()],
            lambda: ["MSET", key(), word(), key()],
            lambda: ["MSETNX", key(), word(), key(), word()],
            lambda: ["APPEND", key(), word()],
            lambda: ["STRLEN", key()],
            lambda: ["GETRANGE", key(), number(), number()],
            lambda: ["SETRANGE", key(), self.random.choice([0, 1, 20, -1, "x"]), word()],
            lambda: ["INCR", key()],
            lambda: ["DECR", key()],
            lambda: ["INCRBY", key(), number()],
            lambda: ["DECRBY", key(), number()],
            lambda: ["INCRBYFLOAT", key(), self.random.choice(["0.5", "-3", "1e3", "x", "3.0e2", "inf"])],
            lambda: ["DEL", key(), key()],
            lambda: ["UNLINK", key(), self.set_key()],
            lambda: ["EXISTS", key(), key(), self.set_key()],
            lambda: ["TOUCH", key(), key()],
            lambda: ["TYPE", self.random.choice(KEYS + SETS)],
            lambda: ["EXPIRE", key(), self.time(), *self.options("NX", "XX", "GT", "LT", "FOO")],
            lambda: ["PEXPIRE", key(), self.time(1000), *self.options("GT", "LT")],
            lambda: ["EXPIREAT", key(), str(int(time.time()) + self.random.choice([5000, 9000, -5]))],
            lambda: ["TTL", key()],
            lambda: ["PERSIST", key()],
            lambda: ["RENAME", key(), key()],
            lambda: ["RENAMENX", key(), key()],
            lambda: ["KEYS", self.random.choice(["*", "a*", "?", "[abc]*", "*d*", "\\a", "[^a]"])],
            lambda: ["DBSIZE"],
            lambda: ["SADD", self.set_key(), *self.words()],
            lambda: ["SREM", self.set_key(), *self.words()],
            lambda: ["SMEMBERS", self.set_key()],
            lambda: ["SISMEMBER", self.set_key(), word()],
            lambda: ["SMISMEMBER", self.set_key(), *self.words()],
            lambda: ["SCARD", self.set_key()],
            lambda: ["SPOP", self.set_key(), "100"],
            lambda: ["SRANDMEMBER", self.set_key(), "100"],
            lambda: ["MULTI"],
            lambda: ["EXEC"],
            lambda: ["EXEC"],
            lambda: ["DISCARD"],
            # Of a key that is there: a cache does not remember that one came and went.
            lambda: ["WATCH", b"watched"],
            lambda: ["SET", b"watched", word()],
            lambda: ["UNWATCH"],
            lambda: ["SELECT", self.random.choice([0, 0, 1, 2, 99, "x"])],
            lambda: ["PING", *self.options(word())],
            lambda: ["ECHO", word()],
            lambda: ["NOSUCH", word()],
            lambda: ["GET"],
            lambda: ["EVALSHA", "0" * 40, number()],
            lambda: ["CLIENT", "GETNAME"],
            lambda: ["CLIENT", "SETNAME", self.random.choice(["name", "a name", ""])],
            lambda: ["CLIENT", "NOSUCH"],
            lambda: ["COMMAND", "GETKEYS", "MSET", key(), "1", key(), "2"],
            lambda: ["PUBLISH", "nobody", word()],
            lambda: ["CLUSTER", "INFO"],
        ]  # fmt: skip
        made: list[Any] = self.random.choice(choices)()
        if self.random.random() < 0.002:
            made = ["FLUSHDB"]
        return made


def is_same(command: list[Any], one: Any, other: Any) -> bool:
    """But for what is by chance, in no order, or later by a moment."""
    if command[0] in ("KEYS", "SMEMBERS", "SPOP", "SRANDMEMBER") and isinstance(one, list):
        return isinstance(other, list) and sorted(one) == sorted(other)
    if command[0] == "TTL" and isinstance(one, int) and isinstance(other, int) and one > 0:
        return abs(one - other) <= 2
    return bool(one == other)


@pytest.mark.parametrize("version", [2, 3])
def test_same_commands_same_replies(tmp_path: Path, version: int) -> None:
    commands = Commands(seed=version)
    with (
        redis_server(tmp_path) as redis_path,
        serving(tmp_path),
        Resp(redis_path) as redis,
        Resp(str(tmp_path / "server.sock")) as naru,
    ):
        for client in (redis, naru):
            client.call("HELLO", version)
            client.call("SET", "watched", 1)
        queued: list[list[Any]] = []
        for number in range(COMMANDS):
            command = commands.some()
            replies = [client.ask(*command) for client in (redis, naru)]
            if command[0] == "EXEC" and all(isinstance(reply, list) for reply in replies):
                # What stood in the transaction is compared one by one.
                for one, theirs, ours in zip(queued, *replies, strict=True):
                    assert is_same(one, theirs, ours), (number, one, theirs, ours)
            else:
                assert is_same(command, *replies), (number, command, *replies)
            if command[0] in ("EXEC", "DISCARD"):
                queued = []
            if replies[0] == "QUEUED":
                queued.append(command)


PROTOCOL = [
    b"PING\r\n", b"\r\nPING\r\n", b"*-10\r\nPING\r\n", b"*0\r\nPING\r\n", b"*1\r\n$4\r\nPINGPONG\r\nPING\r\n",
    b"*3000000000\r\n", b"*abc\r\n", b"*1\r\n$-10\r\n", b"*1\r\n$629145600\r\n", b"*1\r\n$blabla\r\n",
    b"*1\r\nfoo\r\n", b'SET k "abc\r\n', b"SET k 'abc'x\r\n", b"a" * 70_000, b"*" + b"1" * 70_000,
    b"*1\r\n$" + b"1" * 70_000, b"POST / HTTP/1.1\r\n\r\n", b"Host: a\r\n\r\n",
    b"set 'a b' \"\\x41\\n\"\r\nget 'a b'\r\n", b"*1\r\n$3\r\nGET\r\n",
    b"*2\r\n$3\r\nGET\r\n$00\r\n\r\n", b"*01\r\n$4\r\nPING\r\n", b"*1\r\n$+4\r\nPING\r\n",
    b"QUIT\r\nPING\r\n",
]  # fmt: skip


@pytest.mark.parametrize("data", PROTOCOL, ids=[repr(data[:20]) for data in PROTOCOL])
def test_same_bytes_same_bytes(tmp_path: Path, data: bytes) -> None:
    with redis_server(tmp_path) as redis_path, serving(tmp_path):
        answers = []
        for path in (redis_path, str(tmp_path / "server.sock")):
            with Resp(path) as client:
                try:
                    client.send(data)
                    client.sock.shutdown(1)
                except OSError:
                    pass  # it was cut before all was sent
                answers.append(client.rest())
        assert answers[1] == answers[0]
