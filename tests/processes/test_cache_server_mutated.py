"""FAULTS 65, 66: streams that were broken somewhere, to naru and to a real redis-server: the same answers,
byte by byte, also of what is still understood, and the same that is stored afterwards.

NARU_SOAK_STREAMS=20000 makes it long.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import time
from pathlib import Path

import pytest
from cache_servers import Resp, packed, redis_server, serving

STREAMS = int(os.environ.get("NARU_SOAK_STREAMS", "400"))

pytestmark = [
    pytest.mark.skipif(
        shutil.which("redis-server") is None,
        reason="redis-server is not here (Debian package redis-server)",
    ),
    pytest.mark.watchdog(seconds=900 if STREAMS > 400 else 60),
]

KEYS = ["a", "b", "s"]
COMMANDS = [
    packed("SET", "a", b"\r\n*1\r\n$4\r\nPING"),
    packed("GET", "a"),
    b"set b 'a quoted \\x41'\r\n",
    b"get b\r\n",
    packed("MULTI"),
    packed("INCR", "n"),
    packed("EXEC"),
    packed("SADD", "s", "one"),
    packed("SCARD", "s"),
    packed("APPEND", "a", b"\xfe " * 20),
    packed("DEL", "b"),
    b"PING\r\n",
    b"\r\n",
]
# Bytes that mean something to the parser come more often. No NUL: behind one in an inline command Redis
# does not see the end of the line.
BYTES = b"*$\r\n:+-0123456789 \"'\\x\xff" + bytes(
    one for one in range(1, 256) if one not in b"\x0b\x0c"
)


def a_stream(noise: random.Random) -> bytes:
    data = bytearray(b"".join(noise.choice(COMMANDS) for _ in range(noise.randint(1, 5))))
    for _ in range(noise.choice([0, 1, 1, 1, 2, 4])):
        at = noise.randrange(len(data) + 1)
        how = noise.randrange(5)
        if how == 0 and at < len(data):
            data[at] = noise.choice(BYTES)
        elif how == 1:
            data.insert(at, noise.choice(BYTES))
        elif how == 2:
            del data[at : at + noise.choice([1, 1, 2, 10])]
        elif how == 3:
            data[at:at] = data[at : at + noise.randrange(20)]
        else:
            data[at:at] = noise.choice(
                [
                    b"\r\n",
                    b"*1\r\n",
                    b"$4\r\n",
                    b"*-1\r\n",
                    b"$-1\r\n",
                    b"*99999999999999999999\r\n",
                ]
            )
    return bytes(data)


def readable(answer: bytes) -> bytes:
    """An error tells which byte it met; one that is no character is told in another way."""
    return re.sub(rb"got '[^!-~]?'", b"got '?'", answer)


def answers(path: str, data: bytes, cut: int) -> bytes:
    """To all of it, in two pieces; until the server has ended the connection."""
    with Resp(path) as client:
        try:
            client.send(data[:cut])
            client.send(data[cut:])
            client.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was cut before all was sent
        return client.rest()


FIXED = [
    b"*3000000000\r\n", b"*-3000000000\r\n", b"*abc\r\n", b"*\r\n", b"* 1\r\n", b"*+1\r\n",
    b"*01\r\n", b"*1x\r\n", b"*99999999999999999999\r\n", b"*-1\r\n", b"*0\r\n", b"*1\r\n$-10\r\n",
    b"*1\r\n$-1\r\n", b"*1\r\n$629145600\r\n", b"*1\r\n$99999999999999999999\r\n",
    b"*1\r\n$blabla\r\n", b"*1\r\n$\r\n", b"*1\r\n$01\r\n", b"*1\r\nfoo\r\n", b"*1\r\n:3\r\n",
    b"*1\r\n+PING\r\n", b"*1\r\n*1\r\n$4\r\nPING\r\n", b"*1\r\n$4\r\nPINGPONG\r\n",
    b"*1\r\n$4\r\nPINGxx", b"*2\r\n$3\r\nGET\r\n$100\r\na\r\n", b'SET k "abc\r\n',
    b"SET k 'abc'x\r\n", b"'\r\n", b'"\\x4"\r\n',
    b"$4\r\nPING\r\n", b"+PING\r\n", b"\r\n", b"\n", b"  \r\n",
    b"\xff\xfe\xfd\r\n",
    b"\x16\x03\x01\x02\x01\x01\r\n",
]  # fmt: skip


def test_65_fixed_malformed_streams_have_the_answers_of_redis(tmp_path: Path) -> None:
    """FAULTS 65: three dozen of them; what stands behind is run by both or by none, others do not notice."""
    with redis_server(tmp_path) as redis_path, serving(tmp_path):
        paths = [redis_path, str(tmp_path / "server.sock")]
        with Resp(paths[0]) as redis, Resp(paths[1]) as naru:
            for number, broken in enumerate(FIXED):
                data = packed("PING") + broken + packed("SET", "behind", number) + packed("PING")
                theirs, ours = (answers(path, data, len(data)) for path in paths)
                assert readable(ours) == readable(theirs), broken[:40]
                assert ours.startswith(b"+PONG\r\n")
                found = [client.ask("GET", "behind") for client in (redis, naru)]
                assert found[0] == found[1], broken[:40]


# To expire at, or after, in seconds or milliseconds: near the ends of 31, 32, 53 and 63 bits.
TIMES = [
    0, 100_000, -1, -(10**9), 10**9, 2**31 - 1, 2**31, 2**31 + 5, -(2**31), -(2**63) - 1, 2**63 - 1,
    2**63, 2**64 + 100, "1.5", "x", "", " 5", "5 ", "+5", "-0", "05", "1e3",
]  # fmt: skip


def test_62_times_have_the_answers_of_redis(tmp_path: Path) -> None:
    """FAULTS 62: 2038 and later, negative, and what is no time at all."""
    with redis_server(tmp_path) as redis_path, serving(tmp_path):
        with Resp(redis_path) as redis, Resp(str(tmp_path / "server.sock")) as naru:
            for at in TIMES:
                for command in (
                    ["EXPIREAT", "k", at], ["PEXPIREAT", "k", at], ["EXPIRE", "k", at], ["PEXPIRE", "k", at],
                    ["SET", "k", "v", "EXAT", at], ["SET", "k", "v", "PXAT", at], ["SET", "k", "v", "EX", at],
                    ["SET", "k", "v", "PX", at], ["SETEX", "k", at, "v"], ["PSETEX", "k", at, "v"],
                    ["GETEX", "k", "EXAT", at], ["GETEX", "k", "EX", at],
                ):  # fmt: skip
                    found = []
                    for client in (redis, naru):
                        client.call("SET", "k", "before")
                        reply = client.ask(*command)
                        found.append([reply, client.ask("EXISTS", "k"), client.ask("GET", "k")])
                    assert found[0] == found[1], command
            for client in (redis, naru):
                client.call("SET", "k", "v")
                assert client.call("EXPIREAT", "k", 2**31 + 5) == 1
                assert client.call("EXPIRETIME", "k") == 2**31 + 5
                assert client.call("PEXPIRETIME", "k") == (2**31 + 5) * 1000
                assert abs(client.call("TTL", "k") - (2**31 + 5 - time.time())) < 60


def test_65_66_broken_streams_have_the_answers_of_redis(tmp_path: Path) -> None:
    """FAULTS 65, 66: and other clients are untouched."""
    noise = random.Random(65)
    with redis_server(tmp_path) as redis_path, serving(tmp_path):
        paths = [redis_path, str(tmp_path / "server.sock")]
        with Resp(paths[0]) as redis, Resp(paths[1]) as naru:
            for number in range(STREAMS):
                data = a_stream(noise)
                cut = noise.randrange(len(data) + 1)
                theirs, ours = (answers(path, data, cut) for path in paths)
                assert readable(ours) == readable(theirs), (number, cut, data)
                stored = [
                    [client.ask("GET", "a"), client.ask("GET", "b"), client.ask("SCARD", "s"),
                     client.ask("GET", "n"), client.ask("DBSIZE")]
                    for client in (redis, naru)
                ]  # fmt: skip
                assert stored[0] == stored[1], (number, cut, data)
                if number % 10 == 9:
                    assert redis.call("FLUSHALL") == naru.call("FLUSHALL") == "OK"
