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
