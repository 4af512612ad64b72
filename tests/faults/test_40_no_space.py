"""40: no memory, no room, no inodes: an error at creation, nothing left behind, never SIGBUS.

The memory control group is the test's own; a mount namespace gives it a full tmpfs for the runtime
directory. Both need root, and are skipped with the reason where they cannot be had.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from victims import Victim, run_victim

import naru

MIB = 1 << 20
LIMIT = 64 * MIB


# ---- a memory control group ----


def _own_group() -> tuple[Path, str]:
    """The directory of this process's memory group, and the name of its limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path(f"/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"
        if controllers == "" and Path("/sys/fs/cgroup/cgroup.controllers").exists():
            return Path(f"/sys/fs/cgroup{path}"), "memory.max"
    pytest.skip("this process is in no memory control group")


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of 64 MiB."""
    parent, limit = _own_group()
    made = parent / f"naru-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        if not (made / limit).exists():
            pytest.skip("the memory controller is not delegated to this control group")
        (made / limit).write_text(str(LIMIT))
        yield made
    finally:
        made.rmdir()


def _enter(group: str) -> None:
    Path(group, "cgroup.procs").write_text("0")


def _leave(group: str) -> None:
    """So that the group can be removed."""
    Path(group).parent.joinpath("cgroup.procs").write_text("0")


def pair_in_group(group: str, capacity_bytes: int) -> None:
    _enter(group)
    try:
        for end in naru.pair(f"shm:?capacity_bytes={capacity_bytes}"):
            end.close()
    finally:
        _leave(group)


@pytest.mark.parametrize("capacity_bytes", [LIMIT, 256 * MIB, 2**34])
def test_40_more_than_the_control_group_has(group: Path, capacity_bytes: int) -> None:
    """Without the look before it, the kernel kills the process: no error can be caught."""
    outcome = run_victim(pair_in_group, str(group), capacity_bytes)
    assert outcome.error is naru.NoSpaceError
    assert outcome.leaked == []
    assert outcome.grown_bytes < 16 * MIB


def pairs_in_group(group: str, capacity_bytes: int) -> int:
    """Pair after pair until there is no space; how many there were. Then again, after a close."""
    _enter(group)
    try:
        with contextlib.ExitStack() as stack:
            ends: list[naru.Channel] = []
            while True:
                try:
                    ends += naru.pair(f"shm:?capacity_bytes={capacity_bytes}")
                except naru.NoSpaceError:
                    break
                for end in ends[-2:]:
                    stack.enter_context(end)
            count = len(ends) // 2
            ends[0].close()
            ends[1].close()
            for end in naru.pair(f"shm:?capacity_bytes={capacity_bytes}"):
                end.close()
            return count
    finally:
        _leave(group)


@pytest.mark.parametrize("capacity_bytes", [MIB, 4 * MIB, 7 * MIB])
def test_40_little_by_little(group: Path, capacity_bytes: int) -> None:
    outcome = run_victim(pairs_in_group, str(group), capacity_bytes, timeout_s=20.0)
    assert outcome.error is None, outcome
    assert 2 <= outcome.value <= LIMIT // (2 * capacity_bytes)
    assert outcome.leaked == []


def pair_beside_cache(group: str, directory: str, capacity_bytes: int) -> None:
    """Fills the group with the pages of a file, which the kernel would give up for better use."""
    _enter(group)
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
        for _ in range(LIMIT // MIB):
            os.write(fd, bytes(MIB))
        os.fsync(fd)
        os.lseek(fd, 0, os.SEEK_SET)
        while os.read(fd, MIB):
            continue
        for end in naru.pair(f"shm:?capacity_bytes={capacity_bytes}"):
            end.close()
        os.close(fd)
    finally:
        _leave(group)


def test_40_the_page_cache_is_not_in_the_way(group: Path, tmp_path: Path) -> None:
    """It counts as used memory, and a program that reads files would be refused for nothing."""
    outcome = run_victim(pair_beside_cache, str(group), str(tmp_path), 8 * MIB, timeout_s=20.0)
    assert outcome.error is None, outcome.text


def accept_in_group(events: Any, group: str, address: str) -> list[str]:
    """Lets whoever can be let in be let in."""
    _enter(group)
    heard = []
    try:
        with naru.listen(address) as listener:
            events.tell("listening")
            while True:
                with listener.accept(timeout_s=4.0) as channel:
                    heard.append(channel.receive(timeout_s=2.0).decode())
                    if heard[-1] == "last":
                        return heard
    finally:
        _leave(group)


def test_40_the_client_of_a_server_without_space_is_told(group: Path, runtime: str) -> None:
    """The segment is the server's; the client has memory enough, and must not take it for a death."""
    address = f"shm://{runtime}/s?capacity_bytes={LIMIT}"
    with Victim(accept_in_group, str(group), address) as server:
        server.expect("listening")
        with pytest.raises(naru.NoSpaceError):
            naru.connect(address)
        server.child.kill()


# ---- a limit of the process ----


def pair_under_limit(size_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
    for end in naru.pair("shm"):
        end.close()


def test_40_above_rlimit_fsize() -> None:
    """posix_fallocate beyond it is EFBIG, and SIGXFSZ, which Python ignores."""
    outcome = run_victim(pair_under_limit, MIB)
    assert outcome.error is naru.LimitError
    assert "RLIMIT_FSIZE" in outcome.text
    assert outcome.leaked == []


# ---- the runtime directory's file system ----


def _in_full_tmpfs(options: str, source: str) -> subprocess.CompletedProcess[str]:
    """Runs a program with /tmp/full a tmpfs of its own and $XDG_RUNTIME_DIR on it."""
    mount = (
        f"mkdir -p /tmp/naru-full && mount -t tmpfs -o mode=700,{options} naru /tmp/naru-full && "
        'exec "$@"'
    )
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", source]
    variables = {
        **os.environ, "XDG_RUNTIME_DIR": "/tmp/naru-full",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, env=variables, check=False
    )


@pytest.fixture(scope="module")
def mounts() -> None:
    probe = _in_full_tmpfs("size=1m", "print('mounted')")
    if probe.stdout != "mounted\n":
        pytest.skip(f"no tmpfs can be mounted in a namespace here: {probe.stderr.strip()}")


OPEN = """
import os, sys, naru
from naru.testing.descriptors import open_descriptors
def files():
    return [f"{at}/{name}" for at, _, names in os.walk("/tmp/naru-full") for name in names]
for address in ADDRESSES:
    before, fds = files(), open_descriptors()
    try:
        with (naru.listen if "listen" in address else naru.receiver)(address.split(" ")[1]):
            result = "open"
    except naru.NaruError as error:
        result = type(error).__name__
    left = sorted(set(files()) - set(before))
    leaked = len(open_descriptors()) - len(fds)
    print(result, len(left), leaked, *left)
"""
ADDRESSES = [
    "listen shm://full",
    "receive shm://full",
    "listen shm:///tmp/naru-full/s",
    "listen unix:///tmp/naru-full/u",
    "receive unix:///tmp/naru-full/u",
    "receive fifo:///tmp/naru-full/f",
    "receive mq:///naru-full",
]


def _opened(options: str, before: str = "") -> list[str]:
    source = f"ADDRESSES = {ADDRESSES!r}\n{before}{OPEN}"
    done = _in_full_tmpfs(options, source)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_40_no_inodes_for_the_name(mounts: None) -> None:
    """One inode more each time, until everything can be opened."""
    for inodes in range(2, 20):
        results = _opened(f"size=1m,nr_inodes={inodes}")
        print(inodes, results)
        for result in results:
            assert result in ("open 0 0", "NoSpaceError 0 0"), (inodes, results)
        if set(results) == {"open 0 0"}:
            break
    else:
        pytest.fail("never enough")
    assert inodes > 3, "the first rounds failed, as they should"


def test_40_no_room_for_the_name(mounts: None) -> None:
    """Inodes enough, and not one page: even the note in the lock file does not fit."""
    fill = """
fd = __import__("os").open("/tmp/naru-full/filler", 0o101, 0o600)
try:
    while True:
        __import__("os").write(fd, bytes(4096))
except OSError:
    pass
__import__("os").close(fd)
"""
    for result in _opened("size=64k", fill):
        assert result in ("open 0 0", "NoSpaceError 0 0"), result


def test_40_dev_shm_is_full(mounts: None) -> None:
    """Nothing of naru's lies there."""
    source = """
import subprocess
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "naru", "/dev/shm"], check=True)
open("/dev/shm/filler", "wb").write(bytes(4096))
import naru
a, b = naru.pair("shm")
with a, b:
    a.send(bytes(500_000))
    print(len(b.receive(timeout_s=5)))
"""
    done = _in_full_tmpfs("size=1m", source)
    assert done.stdout == "500000\n", done.stderr
