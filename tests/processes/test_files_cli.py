"""naru copy, count, map-reduce and bench files as people run them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ended, environment, naru, read_terminal, running, terminal

pytestmark = pytest.mark.watchdog(seconds=60)

DATA = random.Random(3).randbytes(2_000_001)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nc-") as name:
        yield Path(name)


@pytest.fixture
def source(folder: Path) -> Path:
    path = folder / "from"
    path.write_bytes(DATA)
    return path


def ok(done: subprocess.CompletedProcess[bytes]) -> bytes:
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_copy_a_file(source: Path, folder: Path) -> None:
    assert ok(naru("copy", str(source), str(folder / "to"))) == b""
    assert (folder / "to").read_bytes() == DATA
    facts = json.loads(ok(naru("copy", "--json", str(source), str(folder / "to"))))
    assert facts["bytes"] == len(DATA)
    assert facts["method"] in ("copy_file_range", "sendfile", "read_write")
    assert facts["checksum"] is None


def test_copy_goes_on_where_it_ended(source: Path, folder: Path) -> None:
    target = folder / "to"
    target.write_bytes(DATA[:1000] + b"something that did not get there whole")
    ok(naru("copy", "--offset", "1000", str(source), str(target)))
    assert target.read_bytes() == DATA
    done = naru("copy", "--offset", "3000000", str(source), str(target))
    assert done.returncode == 1
    assert b"it has 2000001 bytes: nothing to go on with at 3000000" in done.stderr


def test_checksums(source: Path, folder: Path) -> None:
    out = ok(naru("copy", "--checksum", "crc32", str(source), str(folder / "to")))
    assert out == b"crc32:%08x\n" % zlib.crc32(DATA)
    out = ok(naru("copy", "--checksum", "sha256", "--count", "10", str(source), str(folder / "to")))
    assert out.decode() == f"sha256:{hashlib.sha256(DATA[:10]).hexdigest()}\n"
    done = naru("copy", "--checksum", "crc32", str(source), "-")
    assert done.stdout == DATA
    assert done.stderr == b"crc32:%08x\n" % zlib.crc32(DATA)


def test_standard_input_and_output(source: Path) -> None:
    assert naru("copy", "-", "-", stdin=DATA).stdout == DATA
    done = naru("copy", "--count", "5", str(source), "-")
    assert (done.returncode, done.stdout) == (0, DATA[:5])


@pytest.mark.parametrize("listens", ["receiver", "sender"])
@pytest.mark.parametrize("address", ["unix", "tcp"])
def test_over_a_socket(address: str, listens: str, source: Path, folder: Path) -> None:
    target = folder / "to"
    text = f"unix://{folder}/sock" if address == "unix" else "tcp://127.0.0.1:0"
    receives = listens == "receiver"
    first = ("--listen", text, str(target)) if receives else ("--listen", str(source), text)
    with running("copy", "--checksum", "crc32", *first) as process:
        if address == "tcp":
            assert process.stderr is not None
            text = process.stderr.readline().decode().split()[3]
        second = (str(source), text) if receives else (text, str(target))
        out = ok(naru("copy", "--timeout", "10", *second))
        assert out == b""
        code, out, _ = ended(process)
    assert (code, out) == (0, b"crc32:%08x\n" % zlib.crc32(DATA))
    assert target.read_bytes() == DATA


def test_whoever_reads_the_output_goes(source: Path) -> None:
    with running("copy", str(source), "-") as process:
        assert process.stdout is not None
        assert process.stdout.read(10) == DATA[:10]
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_copy_asked_for_wrongly(source: Path, folder: Path) -> None:
    for arguments, code, words in [
        (("copy", str(source), "shm://x"), 2, b"carries messages, not bytes"),
        (("copy", str(source), f"unix://{folder}/s?framing=lines"), 2, b"framing=raw only"),
        (("copy", "--listen", str(source), str(folder / "to")), 2, b"--listen is for an address"),
        (("copy", str(source), str(source)), 1, b"the same file"),
        (("copy", str(folder / "missing"), str(folder / "to")), 1, b"No such file"),
        (("copy", str(source), str(folder)), 1, b"Is a directory"),
        (("copy", str(source), "/dev/full"), 1, b"ENOSPC"),
        (("copy", "--timeout", "0", str(source), f"unix://{folder}/s"), 1, b"nobody is there"),
        (("copy", "--offset", "-1", str(source), "x"), 2, b"-1"),
    ]:
        done = naru(*arguments)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert done.stderr.count(b"\n") == 1
        assert done.stdout == b""
    assert source.read_bytes() == DATA


def test_a_receiver_that_goes_tells_where_to_go_on(folder: Path) -> None:
    import socket

    path = folder / "long"
    path.touch()
    os.truncate(path, 1 << 28)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(folder / "sock"))
        server.listen()
        with running("copy", str(path), f"unix://{folder}/sock") as process:
            client, _ = server.accept()
            with client:
                client.recv(1 << 20, socket.MSG_WAITALL)
            code, _, errors = ended(process)
    assert code == 1
    assert b"goes on there" in errors
    assert errors.count(b"\n") == 1


def test_ctrl_c_of_a_copy(folder: Path) -> None:
    with running("copy", "--listen", f"unix://{folder}/sock", str(folder / "to"), env=environment(
        PYTHONUNBUFFERED="1"
    )) as process:  # fmt: skip
        while not (folder / "sock").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert ended(process) == (130, b"", b"")


def test_a_copy_tells_a_terminal_what_it_did(source: Path, folder: Path) -> None:
    with terminal() as (ours, theirs):
        with running("copy", str(source), str(folder / "to"), stderr=theirs) as process:
            assert b"2,000,001 bytes by" in read_terminal(ours, b"GB/s")
            assert process.wait() == 0


def test_count(folder: Path) -> None:
    (folder / "a").write_bytes(b"one\ntwo\nthree")
    (folder / "b").write_bytes(b"\n" * 100_000)
    a, b = str(folder / "a"), str(folder / "b")
    assert ok(naru("count", a)) == f"2 {a}\n".encode()
    assert ok(naru("count", "--threads", "2", a, b)).decode() == (
        f"     2 {a}\n100000 {b}\n100002 total\n"
    )
    assert json.loads(ok(naru("count", "--json", a, b))) == {a: 2, b: 100_000}
    assert ok(naru("count", "--pattern", "t", a)) == f"2 {a}\n".encode()
    assert naru("count", "--pattern", "", a).returncode == 2
    done = naru("count", str(folder / "missing"))
    assert done.returncode == 1
    assert b"no such file" in done.stderr.lower()
    done = naru("count", "/dev/zero")
    assert done.returncode == 1
    assert b"no size" in done.stderr


WORDS = """
from collections import Counter
import os, signal
def count(window):
    return Counter(bytes(window).split())
def lines(window):
    return window.count_lines()
def wrong(window):
    raise ValueError("not today")
def die(window):
    os.kill(os.getpid(), signal.SIGKILL)
def wait(window):
    os.write(2, b"waiting\\n")
    signal.pause()
"""


@pytest.fixture
def text(folder: Path) -> Path:
    (folder / "words.py").write_text(WORDS)
    (folder / "text").write_bytes(b"the cat and the dog\n" * 1000)
    return folder / "text"


def test_map_reduce(text: Path) -> None:
    where = {"cwd": text.parent}
    out = ok(naru("map-reduce", "--python", "words:count", "text", **where))
    assert json.loads(out) == {"the": 2000, "cat": 1000, "and": 1000, "dog": 1000}
    for more in (
        (), ("--unordered",), ("--processes", "1"), ("--size", "100"), ("--boundary", "none"),
        ("--reduce", "operator:add"), ("--quiet",),
    ):  # fmt: skip
        assert (
            ok(naru("map-reduce", "--python", "words:lines", *more, "text", **where)) == b"1000\n"
        )


def test_map_reduce_that_cannot(text: Path) -> None:
    for arguments, code, words in [
        (("--python", "words", "text"), 2, b"no MODULE:FUNCTION"),
        (("--python", "missing_module:f", "text"), 2, b"missing_module"),
        (("--python", "words:missing", "text"), 2, b"no function 'missing'"),
        (("--python", "words:wrong", "text"), 1, b"in the window at byte 0: ValueError: not today"),
        (("--python", "words:die", "text"), 1, b"died (SIGKILL)"),
        (("--python", "words:count", "missing"), 1, b"no such file"),
    ]:
        done = naru("map-reduce", *arguments, cwd=text.parent)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_ctrl_c_of_map_reduce(text: Path) -> None:
    with running("map-reduce", "--python", "words:wait", "text", cwd=text.parent) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        code, out, errors = ended(process)
    assert (code, out) == (130, b"")
    assert b"Traceback" not in errors


def test_bench_files(folder: Path) -> None:
    out = ok(naru("bench", "files", "--size", "2MiB", "--repeat", "1", env=environment(
        TMPDIR=str(folder)
    )))  # fmt: skip
    assert b"naru.files.transfer" in out
    assert b"counting lines" in out
    file = folder / "rates.json"
    ok(naru("bench", "files", "--size", "2MiB", "--repeat", "2", "--quiet", "--json", str(file)))
    record = json.loads(file.read_text())
    assert record["schema"] == "naru-bench-files/1"
    assert {rate["group"] for rate in record["rates"]} == {
        "file to a Unix socket", "file to TCP, loopback", "file to a file", "counting lines",
    }  # fmt: skip
    assert all(len(rate["seconds"]) == 2 for rate in record["rates"])
    assert naru("bench", "nonsense").returncode == 2
    assert naru("bench", "files", "--json", "/missing/x").returncode == 1
