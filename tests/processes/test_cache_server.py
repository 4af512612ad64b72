"""The cache server as its clients see it: replies, broken input, limits, processes that die."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_servers import PATIENCE_S, Resp, packed, serving, tcp_port, until
from commands import environment, naru, running

from naru.cache.serving import CacheServer, ServerSettings
from naru.cache.serving.plan import LONGEST_PAUSE_S, pause_before_restart_s
from naru.errors import NoSuchNameError, UnsupportedError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CacheServer]:
    with serving(tmp_path) as started:
        yield started


@pytest.fixture
def client(server: CacheServer) -> Iterator[Resp]:
    with Resp(str(server.addresses[0].path)) as connected:
        yield connected


# ---- replies ----


def test_set_get_delete(client: Resp) -> None:
    assert client.call("PING") == "PONG"
    assert client.call("SET", "k", b"a\r\n\0b") == "OK"
    assert client.call("GET", "k") == b"a\r\n\0b"
    assert client.call("DEL", "k", "other") == 1
    assert client.call("GET", "k") is None


def test_expiry(client: Resp) -> None:
    assert client.call("SET", "k", "v", "PX", 60_000) == "OK"
    assert 59 <= client.call("TTL", "k") <= 60
    assert client.call("PERSIST", "k") == 1
    assert client.call("TTL", "k") == -1
    at = int(time.time()) + 100
    assert client.call("EXPIREAT", "k", at) == 1
    assert client.call("EXPIRETIME", "k") == at
    assert client.call("PEXPIREAT", "k", at * 1000 + 123) == 1
    assert client.call("PEXPIRETIME", "k") == at * 1000 + 123
    for command in ("PEXPIREAT", "PEXPIRE"):  # long past: it is deleted
        assert client.call("SET", "past", "v") == "OK"
        assert client.call(command, "past", -(1 << 63)) == 1
        assert client.call("EXISTS", "past") == 0
    assert client.ask("EXPIRE", "k", -(1 << 63)).startswith("ERR invalid expire time")
    assert client.call("PEXPIRE", "k", 1) == 1
    until(lambda: client.call("EXISTS", "k") == 0)
    assert client.call("TTL", "k") == -2


def test_databases_do_not_see_each_other(client: Resp) -> None:
    client.call("SET", "k", "zero")
    client.call("SET", b"\xff\xfe\x03k", "prefixed")
    assert client.call("SELECT", 3) == "OK"
    assert client.call("GET", "k") is None
    client.call("SET", "k", "three")
    assert client.call("KEYS", "*") == [b"k"]
    assert client.call("DBSIZE") == 1
    assert client.call("FLUSHDB") == "OK"
    assert client.call("DBSIZE") == 0
    client.call("SELECT", 0)
    assert sorted(client.call("KEYS", "*")) == [b"k", b"\xff\xfe\x03k"]
    assert client.call("GET", b"\xff\xfe\x03k") == b"prefixed"
    assert client.ask("SELECT", 16) == "ERR DB index is out of range"


def test_scan_gives_every_key_once(client: Resp) -> None:
    names = {b"key:%d" % i for i in range(500)}
    for name in names:
        client.call("SET", name, "v")
    found: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, some = client.call("SCAN", cursor, "MATCH", "key:*", "COUNT", 7)
        found += some
        if cursor == b"0":
            break
    assert sorted(found) == sorted(names)


def test_a_transaction_is_dropped_when_what_it_watches_changed(
    server: CacheServer, client: Resp
) -> None:
    client.call("SET", "k", 1)
    assert client.call("WATCH", "k", "absent") == "OK"
    with Resp(str(server.addresses[0].path)) as other:
        other.call("SET", "k", 2)
    client.call("MULTI")
    assert client.call("INCR", "k") == "QUEUED"
    assert client.call("EXEC") is None
    assert client.call("GET", "k") == b"2"
    client.call("WATCH", "k", "absent")
    client.call("MULTI")
    client.call("INCR", "k")
    client.call("SET", "absent", "v")
    client.call("KEYS", "a*")
    assert client.call("EXEC") == [3, "OK", [b"absent"]]


def test_a_wrong_command_aborts_the_transaction(client: Resp) -> None:
    client.call("MULTI")
    assert client.ask("NOSUCH").startswith("ERR unknown command 'NOSUCH'")
    assert client.ask("EXEC") == "EXECABORT Transaction discarded because of previous errors."
    assert client.ask("EXEC") == "ERR EXEC without MULTI"


def test_hello_changes_the_protocol(client: Resp) -> None:
    found = client.call("HELLO", 3)
    assert found[b"proto"] == 3
    assert found[b"server"] == b"redis"
    client.send(packed("GET", "absent"))
    assert client.sock.recv(100) == b"_\r\n"
    assert client.ask("HELLO", 4) == "NOPROTO unsupported protocol version"
    assert client.call("CLIENT", "ID") == found[b"id"]


def test_python_and_resp_count_alike(client: Resp) -> None:
    """Numbers are decimal text, whoever writes them."""
    assert client.call("INCRBY", "n", 41) == 41
    assert client.call("APPEND", "n", "0") == 3
    assert client.call("DECR", "n") == 409
    assert client.ask("INCRBY", "n", 2**63 - 1) == "ERR increment or decrement would overflow"


def test_known_scripts_run_and_others_say_why_not(client: Resp) -> None:
    release = "c3f8721cbb97f72bc19e972846bd7aaf91901658"
    client.call("SET", "lock", "mine")
    assert client.call("EVALSHA", release, 1, "lock", "theirs") == 0
    assert client.call("EVALSHA", release, 1, "lock", "mine") == 1
    assert client.call("EXISTS", "lock") == 0
    text = 'return   redis.call("INCRBY",\n KEYS[1], ARGV[1])'
    sha1 = client.call("SCRIPT", "LOAD", text).decode()
    assert client.call("EVALSHA", sha1, 1, "n", 7) == 7
    assert client.call("EVAL", text, 1, "n", 7) == 14
    assert client.call("SCRIPT", "EXISTS", sha1, "0" * 40) == [1, 0]
    assert client.ask("EVAL", "return 1", 0).startswith("ERR naru runs no Lua")
    assert client.ask("EVALSHA", "0" * 40, 0).startswith("NOSCRIPT")


# ---- FAULTS 65, 70: broken input ----

BROKEN = [
    (b"*3000000000\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
    (b"*abc\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
    (b"*1\r\n$-10\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
    (b"*1\r\n$629145600\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
    (b"*1\r\n$blabla\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
    (b"*1\r\nfoo\r\n", b"-ERR Protocol error: expected '$', got 'f'\r\n"),
    (b'SET k "abc\r\n', b"-ERR Protocol error: unbalanced quotes in request\r\n"),
    (b"a" * 70_000, b"-ERR Protocol error: too big inline request\r\n"),
    (b"*" + b"1" * 70_000, b"-ERR Protocol error: too big mbulk count string\r\n"),
    (b"*1\r\n$" + b"1" * 70_000, b"-ERR Protocol error: too big bulk count string\r\n"),
    (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"-ERR wrong number of arguments for 'get' command\r\n"),
]


@pytest.mark.parametrize(("data", "answer"), BROKEN, ids=[repr(row[0][:16]) for row in BROKEN])
def test_broken_input_ends_its_connection_only(
    server: CacheServer, client: Resp, data: bytes, answer: bytes
) -> None:
    client.call("SET", "k", "before")
    with Resp(str(server.addresses[0].path)) as broken, contextlib.suppress(BrokenPipeError):
        broken.send(packed("PING") + data)
        broken.send(packed("SET", "k", "after"))
        assert broken.rest() == b"+PONG\r\n" + answer
    assert client.call("GET", "k") == b"before"


def test_what_is_wrong_but_understood_keeps_the_connection(client: Resp) -> None:
    assert client.ask("NOSUCH", "a", "b") == (
        "ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' "
    )
    assert client.ask("GET") == "ERR wrong number of arguments for 'get' command"
    assert client.ask("CONFIG", "NOSUCH") == "ERR unknown subcommand 'NOSUCH'. Try CONFIG HELP."
    client.send(b"\r\n*-10\r\n*1\r\n$4\r\nPINGPONG\r\n")
    assert client.reply() == "PONG"
    with pytest.raises(Exception, match="unknown command 'NG'"):
        client.reply()
    assert client.call("PING") == "PONG"


# ---- FAULTS 66: however the bytes arrive ----

STREAM = (
    packed("SET", "k", b"\r\n*1\r\n") + b"get k\r\n" + packed("MULTI") + packed("INCR", "n")
    + packed("EXEC") + packed("DEL", "k", "n") + b"\r\nPING\r\n"
)  # fmt: skip


def test_every_split_gives_the_same_replies(server: CacheServer) -> None:
    answers = set()
    for cut in range(len(STREAM)):
        with Resp(str(server.addresses[0].path)) as one:
            one.send(STREAM[:cut])
            one.send(STREAM[cut:])
            one.sock.shutdown(socket.SHUT_WR)
            answers.add(one.rest())
    assert answers == {b"+OK\r\n$6\r\n\r\n*1\r\n\r\n+OK\r\n+QUEUED\r\n*1\r\n:1\r\n:2\r\n+PONG\r\n"}


def test_a_byte_at_a_time_and_ten_thousand_at_once(client: Resp) -> None:
    for i in range(len(STREAM)):
        client.send(STREAM[i : i + 1])
    assert [client.reply() for _ in range(7)] == [
        "OK", b"\r\n*1\r\n", "OK", "QUEUED", [1], 2, "PONG",
    ]  # fmt: skip
    client.send(b"".join(packed("INCR", "n") for _ in range(10_000)))
    assert [client.reply() for _ in range(10_000)] == list(range(1, 10_001))


def test_a_large_value_in_small_pieces(client: Resp) -> None:
    value = os.urandom(700_000)
    data = packed("SET", "large", value)
    for i in range(0, len(data), 9_999):
        client.send(data[i : i + 9_999])
    assert client.reply() == "OK"
    assert client.call("GET", "large") == value


# ---- FAULTS 68, 69: clients that ask too much ----


def test_a_client_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    limits = {"output_limit_bytes": 8 << 20, "high_water_bytes": 4 << 20, "stall_timeout_s": 0.5}
    with serving(tmp_path, limits=limits) as server, Resp(f"{tmp_path}/server.sock") as good:
        good.call("SET", "k", b"v" * 500_000)
        with Resp(f"{tmp_path}/server.sock") as greedy:
            greedy.send(packed("GET", "k") * 2_000)  # a gigabyte
            assert good.call("PING") == "PONG"
            sizes = []

            def is_cut() -> bool:
                sizes.append(resident_bytes(server.pids[0]))
                return len(good.call("CLIENT", "LIST").splitlines()) == 1

            until(is_cut)
            assert max(sizes) < 128 << 20


def resident_bytes(pid: int) -> int:
    """Its own memory, without the shared one."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_a_reader_that_is_slow_gets_everything(tmp_path: Path) -> None:
    limits = {"output_limit_bytes": 8 << 20, "high_water_bytes": 1 << 20}
    with serving(tmp_path, limits=limits), Resp(f"{tmp_path}/server.sock") as client:
        client.call("SET", "k", b"v" * 100_000)
        client.send(packed("GET", "k") * 300)
        for _ in range(300):
            assert len(client.reply()) == 100_000


def test_one_client_too_many_is_told_so(tmp_path: Path) -> None:
    with serving(tmp_path, limits={"clients_most": 3}), contextlib.ExitStack() as stack:
        first = [stack.enter_context(Resp(f"{tmp_path}/server.sock")) for _ in range(3)]
        for one in first:
            assert one.call("PING") == "PONG"
        with Resp(f"{tmp_path}/server.sock") as more:
            assert more.rest() == b"-ERR max number of clients reached\r\n"
        assert first[0].call("PING") == "PONG"
        first.pop().sock.close()
        until(lambda: first[0].call("INFO", "clients").count(b"connected_clients:2"))
        with Resp(f"{tmp_path}/server.sock") as again:
            assert again.call("PING") == "PONG"


def test_without_the_password_there_is_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, password="secret"), Resp(f"{tmp_path}/server.sock") as client:
        assert client.ask("GET", "k") == "NOAUTH Authentication required."
        assert client.ask("HELLO", 3).startswith("NOAUTH HELLO must be called")
        assert client.ask("AUTH", "wrong").startswith("WRONGPASS")
        assert client.ask("AUTH", "secretsecret").startswith("WRONGPASS")
        with Resp(f"{tmp_path}/server.sock") as stranger:
            stranger.send(b"*1\r\n$20000\r\n")
            assert stranger.rest() == b"-ERR Protocol error: unauthenticated bulk length\r\n"
        assert client.call("HELLO", 3, "AUTH", "default", "secret", "SETNAME", "me")[b"proto"] == 3
        assert client.call("CLIENT", "GETNAME") == b"me"


# ---- messages and invalidation, over all processes ----


@contextlib.contextmanager
def one_of_each(server: CacheServer) -> Iterator[list[Resp]]:
    """A client of every process, in their order."""
    port = tcp_port(server)
    found: dict[int, Resp] = {}
    spare = []
    try:
        while len(found) < server.processes:
            one = Resp(("127.0.0.1", port))
            spare.append(one)
            info = one.call("INFO", "server").decode()
            number = int(re.search(r"process_number:(\d+)", info)[1])  # type: ignore[index]
            found.setdefault(number, one)
        yield [found[i] for i in range(server.processes)]
    finally:
        for one in spare:
            one.sock.close()


def test_messages_reach_the_subscribers_of_all_processes(tmp_path: Path) -> None:
    with serving(tmp_path, processes=3, tcp=True) as server, one_of_each(server) as clients:
        first, second, third = clients
        assert first.call("SUBSCRIBE", "news") == [b"subscribe", b"news", 1]
        second.call("HELLO", 3)
        assert second.call("PSUBSCRIBE", "n?ws") == [b"psubscribe", b"n?ws", 1]
        assert third.call("PUBLISH", "news", "hello") == 2
        assert first.reply() == [b"message", b"news", b"hello"]
        assert second.reply() == [b"pmessage", b"n?ws", b"news", b"hello"]
        large = os.urandom(300_000)
        assert third.call("PUBLISH", "news", large) == 2
        assert first.reply()[2] == large
        assert second.reply()[3] == large
        assert third.call("PUBSUB", "CHANNELS") == [b"news"]
        assert third.call("PUBSUB", "NUMSUB", "news", "other") == [b"news", 1, b"other", 0]
        assert third.call("PUBSUB", "NUMPAT") == 1
        first.sock.close()
        until(lambda: third.call("PUBSUB", "CHANNELS") == [])
        assert third.call("PUBLISH", "news", "again") == 1


def test_what_is_cached_anywhere_is_invalidated_by_all(tmp_path: Path) -> None:
    with serving(tmp_path, processes=2, tcp=True) as server, one_of_each(server) as clients:
        reader, writer = clients
        reader.call("HELLO", 3)
        assert reader.call("CLIENT", "TRACKING", "ON") == "OK"
        writer.call("SET", "k", "old")
        assert reader.call("GET", "k") == b"old"
        writer.call("SET", "k", "new")
        assert reader.reply() == [b"invalidate", [b"k"]]
        writer.call("SET", "k", "newer")  # was not read again: nothing is told
        assert reader.call("GET", "k") == b"newer"
        writer.call("FLUSHALL")
        assert reader.reply() == [b"invalidate", None]
        writer.call("SET", "short", "v", "PX", 300)
        assert reader.call("GET", "short") == b"v"
        assert reader.reply() == [b"invalidate", [b"short"]]  # it expired


def test_invalidations_by_prefix_go_where_they_are_sent(tmp_path: Path) -> None:
    with serving(tmp_path, processes=2, tcp=True) as server, one_of_each(server) as clients:
        listener, asker = clients
        number = listener.call("CLIENT", "ID")
        listener.call("SUBSCRIBE", "__redis__:invalidate")
        assert asker.call(
            "CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", "PREFIX", "user:"
        ) == "OK"  # fmt: skip
        asker.call("MSET", "user:1", "a", "other", "b")
        assert listener.reply() == [b"message", b"__redis__:invalidate", [b"user:1"]]
        asker.call("SELECT", 2)
        asker.call("SET", "user:2", "a")
        assert listener.reply() == [b"message", b"__redis__:invalidate", [b"user:2"]]


# ---- processes that die ----


@pytest.mark.watchdog(seconds=40)
def test_a_killed_process_is_replaced_and_nothing_is_lost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, processes=2, tcp=True) as server:
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                server.run(0.05)

        with one_of_each(server) as clients:
            for i in range(200):
                clients[i % 2].call("SET", f"key:{i}", i)
            clients[0].call("SUBSCRIBE", "c")
            watcher = threading.Thread(target=watch)
            watcher.start()
            try:
                killed = server.pids[1]
                os.kill(killed, signal.SIGKILL)
                until(lambda: server.pids[1] not in (0, killed))
                assert clients[1].rest() == b""
            finally:
                stop.set()
                watcher.join()
            with one_of_each(server) as again:
                assert {again[1].call("GET", f"key:{i}") for i in range(200)} == {
                    str(i).encode() for i in range(200)
                }
                assert again[1].call("PUBLISH", "c", "m") == 1  # it knows whom the others serve
                assert clients[0].reply() == [b"message", b"c", b"m"]
                info = again[1].call("INFO", "clients").decode()
                assert int(re.search(r"connected_clients:(\d+)", info)[1]) >= 3  # type: ignore[index]
        assert server.restarts == 1
    assert "SIGKILL" in capfd.readouterr().err


def test_a_process_that_dies_at_once_is_not_started_in_a_loop() -> None:
    assert pause_before_restart_s(60.0, 0.0) == 0.0
    pauses = [0.0]
    for _ in range(10):
        pauses.append(pause_before_restart_s(0.1, pauses[-1]))
    assert pauses[1:4] == [0.1, 0.2, 0.4]
    assert pauses[-1] == LONGEST_PAUSE_S


# ---- a cluster of processes ----


def test_processes_as_a_cluster(tmp_path: Path) -> None:
    with CacheServer(
        str(tmp_path / "test.cache"),
        bind=["tcp://127.0.0.1:0"],
        processes=3,
        size_bytes=32 << 20,
        cluster=True,
    ) as server:
        ports = [address.port for address in server.addresses]
        with contextlib.ExitStack() as stack:
            nodes = [stack.enter_context(Resp(("127.0.0.1", port))) for port in ports]
            slots = nodes[0].call("CLUSTER", "SLOTS")
            assert [(row[0], row[1]) for row in slots] == [(0, 5461), (5462, 10922), (10923, 16383)]
            assert [row[2][1] for row in slots] == ports
            assert nodes[0].call("CLUSTER", "KEYSLOT", "foo{user}x") == nodes[1].call(
                "CLUSTER", "KEYSLOT", "user"
            )
            assert nodes[2].call("SET", "foo", "bar") == "OK"  # slot 12182
            assert nodes[0].ask("GET", "foo") == f"MOVED 12182 127.0.0.1:{ports[2]}"
            assert nodes[0].ask("MGET", "foo", "bar").startswith("CROSSSLOT")
            assert nodes[0].ask("SELECT", 1) == "ERR SELECT is not allowed in cluster mode"
            lines = nodes[1].call("CLUSTER", "NODES").decode().splitlines()
            assert sum("myself" in line for line in lines) == 1
            assert nodes[1].call("CLUSTER", "MYID").decode() in lines[1]
            assert len(nodes[0].call("CLUSTER", "SHARDS")) == 3


def test_a_cluster_needs_ports(tmp_path: Path) -> None:
    server = CacheServer(
        str(tmp_path / "test.cache"),
        bind=[f"unix://{tmp_path}/s"],
        size_bytes=32 << 20,
        cluster=True,
    )
    with pytest.raises(UnsupportedError, match="tcp://"):
        server.start()
    server.close()


# ---- the command ----


def test_naru_cache_serve(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with running(
        "cache", "serve", str(tmp_path / "a.cache"), "--bind", f"unix://{path}", "--size", "32MiB",
        env=environment(NARU_CACHE_PASSWORD="secret"),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert f"redis-cli -s {path}" in line
        with Resp(str(path)) as client:
            client.call("AUTH", "secret")
            client.call("SET", "k", "v")
            process.send_signal(signal.SIGTERM)
            assert client.rest() == b""
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 128 + signal.SIGTERM
        assert not path.exists()


def test_naru_cache_serve_says_what_is_missing(tmp_path: Path) -> None:
    done = naru("cache", "serve", str(tmp_path / "none.cache"), "--bind", "unix:@x")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"there is none" in done.stderr
    with pytest.raises(NoSuchNameError):
        CacheServer(str(tmp_path / "none.cache"), bind=["unix:@x"])


def test_settings_are_looked_at() -> None:
    with pytest.raises(ValueError, match="clients_most"):
        ServerSettings(clients_most=0)
    with pytest.raises(ValueError, match="high_water_bytes"):
        ServerSettings(high_water_bytes=2 << 20, output_limit_bytes=1 << 20)


def test_redis_cli(server: CacheServer, client: Resp) -> None:
    program = shutil.which("redis-cli")
    if program is None:
        pytest.skip("redis-cli is not here (Debian package redis-tools)")
    client.call("SET", "k", "v")

    def cli(*arguments: str) -> str:
        done = subprocess.run(
            [program, "-s", str(server.addresses[0].path), *arguments],
            capture_output=True, check=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        return done.stdout

    assert cli("GET", "k") == "v\n"
    assert cli("-3", "GET", "k") == "v\n"
    assert cli("--scan") == "k\n"
    assert "Biggest string found" in cli("--bigkeys") or "Sampled 1 keys" in cli("--bigkeys")
    assert "redis_version" in cli("INFO")
