"""The runtime directory and the locks of names, with processes that die."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from naru.errors import NameTakenError, NotPermittedError
from naru.runtime import NameLock, is_held, runtime_directory

HOLD = """
import sys
from naru.runtime import NameLock
lock = NameLock.acquire("test", "orders")
print("held", flush=True)
sys.stdin.read()
"""

HOLD_AND_FORK = """
import os, sys
from naru.runtime import NameLock
lock = NameLock.acquire("test", "orders")
if os.fork() == 0:
    print("child", lock.held, flush=True)
    lock.release()
sys.stdin.read()
"""

# Whoever holds the name makes the witness; it exists already when there are two.
CONTEND = """
import os, sys
from naru.errors import NameTakenError
from naru.runtime import NameLock
witness, turns = sys.argv[1], int(sys.argv[2])
while turns:
    try:
        with NameLock.acquire("test", "orders"):
            os.close(os.open(witness, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.unlink(witness)
            turns -= 1
    except NameTakenError:
        os.sched_yield()
"""


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


@contextmanager
def holder(script: str = HOLD) -> Iterator[subprocess.Popen[str]]:
    with start(script) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() in ("held\n", "child False\n")
            yield process
        finally:
            process.kill()


def lock_files(base: Path) -> list[Path]:
    return list(base.glob("naru/locks/*"))


def test_it_lives_under_xdg_runtime_dir(base: Path) -> None:
    assert runtime_directory() == base / "naru"
    assert stat.S_IMODE((base / "naru").stat().st_mode) == 0o700
    assert runtime_directory() == base / "naru"


@pytest.mark.parametrize("value", ["", "relative", "/nowhere/at/all", "/proc/self/status", "\0"])
def test_without_a_usable_variable_it_lives_in_tmp(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from naru.runtime import _choose_directory

    if "\0" not in value:  # the environment cannot hold it
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    else:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert _choose_directory() == Path(f"/tmp/naru-{os.geteuid()}")


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_base_that_others_can_write_to_is_not_used(base: Path, mode: int) -> None:
    from naru.runtime import _choose_directory

    base.chmod(mode)
    assert _choose_directory() == Path(f"/tmp/naru-{os.geteuid()}")
    assert not (base / "naru").exists()


def test_a_symbolic_link_is_refused(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (base / "naru").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(NotPermittedError, match="symbolic link"):
        runtime_directory()
    with pytest.raises(NotPermittedError, match="symbolic link"):
        is_held("test", "orders")


def test_a_dangling_link_is_refused_and_not_followed(base: Path) -> None:
    (base / "naru").symlink_to(base / "target")
    with pytest.raises(NotPermittedError):
        runtime_directory()
    assert not (base / "target").exists()


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o755])
def test_a_directory_that_others_may_enter_is_refused(base: Path, mode: int) -> None:
    (base / "naru").mkdir()
    (base / "naru").chmod(mode)
    with pytest.raises(NotPermittedError, match="chmod 0700"):
        runtime_directory()


def test_a_file_in_its_place_is_refused(base: Path) -> None:
    (base / "naru").touch()
    with pytest.raises(NotPermittedError):
        runtime_directory()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(base: Path) -> None:
    (base / "naru").mkdir(0o700)
    os.chown(base / "naru", 65534, 65534)
    with pytest.raises(NotPermittedError, match="belongs to uid 65534"):
        runtime_directory()
    with pytest.raises(NotPermittedError):
        NameLock.acquire("test", "orders")


def test_a_lock_is_held_until_released_and_leaves_no_file(base: Path) -> None:
    assert not is_held("test", "orders")
    lock = NameLock.acquire("test", "orders")
    assert lock.held
    assert is_held("test", "orders")
    assert not is_held("other", "orders")
    assert not is_held("test", "orders2")
    [file] = lock_files(base)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lock.release()
    lock.release()
    assert not lock.held
    assert not is_held("test", "orders")
    assert lock_files(base) == []
    assert "released" in repr(lock)


def test_asking_makes_nothing(base: Path) -> None:
    assert not is_held("test", "orders")
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a/b", "나루", "\udcff", "x" * 5000])
def test_any_name_is_a_file_name(base: Path, name: str) -> None:
    with NameLock.acquire("test", name):
        assert is_held("test", name)
        assert len(lock_files(base)) == 1
    assert not is_held("test", name)


def test_the_own_process_is_refused_too_and_keeps_its_lock() -> None:
    with NameLock.acquire("test", "orders"):
        with pytest.raises(NameTakenError, match=f"pid {os.getpid()}, it says") as caught:
            NameLock.acquire("test", "orders")
        assert caught.value.errno == errno.EEXIST
        # A classic POSIX lock would be gone now: closing any descriptor of the file drops it.
        assert is_held("test", "orders")


def test_a_living_holder_is_refused_by_its_pid() -> None:
    with holder() as process:
        assert is_held("test", "orders")
        with pytest.raises(NameTakenError, match=f"pid {process.pid}, it says"):
            NameLock.acquire("test", "orders")


@pytest.mark.parametrize("text", [b"", b"pid x\n", b"pid 1\x1b[31m\n", b"\xff" * 100])
def test_the_pid_of_a_holder_is_not_trusted(base: Path, text: bytes) -> None:
    with NameLock.acquire("test", "orders"):
        lock_files(base)[0].write_bytes(text)
        with pytest.raises(NameTakenError) as caught:
            NameLock.acquire("test", "orders")
        assert "it says" not in str(caught.value)
        assert str(caught.value).isprintable()


def test_the_name_of_a_killed_holder_is_taken_over(base: Path) -> None:
    for _ in range(3):
        with holder() as process:
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert len(lock_files(base)) == 1
            assert not is_held("test", "orders")
            with NameLock.acquire("test", "orders"):
                assert is_held("test", "orders")
    assert lock_files(base) == []


def test_a_forked_child_does_not_keep_the_name_of_a_killed_holder() -> None:
    with holder(HOLD_AND_FORK) as process:
        assert is_held("test", "orders")  # although the child has called release()
        process.send_signal(signal.SIGKILL)
        process.wait()
        NameLock.acquire("test", "orders").release()
        # The child still lives: it reads the standard input until here.
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert process.stdout.read() == ""


def test_a_forked_child_holds_nothing_and_removes_nothing(base: Path) -> None:
    with NameLock.acquire("test", "orders") as lock:
        child = os.fork()
        if child == 0:
            lock.release()
            os._exit(0 if not lock.held and is_held("test", "orders") else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(lock_files(base)) == 1
        assert is_held("test", "orders")


def test_a_started_program_does_not_inherit_the_lock() -> None:
    with NameLock.acquire("test", "orders"):
        listing = "import os; print(*(os.readlink(f'/proc/self/fd/{n}') for n in (3, 4, 5, 6, 7)"
        listing += " if os.path.exists(f'/proc/self/fd/{n}')))"
        shown = subprocess.run(
            [sys.executable, "-c", listing], close_fds=False, capture_output=True, check=True
        )
        assert b".lock" not in shown.stdout


def test_a_lock_on_a_removed_file_is_not_taken_for_the_name(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from naru import runtime

    lock_it = runtime._open_locked
    calls = 0

    def release_in_between(path: Path, kind: str, name: str) -> int:
        nonlocal calls
        calls += 1
        fd = lock_it(path, kind, name)
        if calls == 1:
            path.unlink()
        if calls == 2:
            path.unlink()
            path.touch(0o600)
        return fd

    monkeypatch.setattr(runtime, "_open_locked", release_in_between)
    with NameLock.acquire("test", "orders"):
        assert calls == 3
        assert is_held("test", "orders")


def test_a_file_of_somebody_else_is_not_removed(base: Path) -> None:
    lock = NameLock.acquire("test", "orders")
    [file] = lock_files(base)
    file.unlink()
    file.touch(0o600)
    lock.release()
    assert lock_files(base) == [file]


def test_a_link_in_the_place_of_the_lock_file_is_not_followed(base: Path) -> None:
    NameLock.acquire("test", "orders").release()
    with NameLock.acquire("test", "orders"):
        [file] = lock_files(base)
    target = base / "target"
    file.symlink_to(target)
    with pytest.raises(Exception, match="ELOOP"):
        NameLock.acquire("test", "orders")
    assert not target.exists()


def test_there_is_never_more_than_one_holder(base: Path) -> None:
    processes = [start(CONTEND, str(base / "witness"), "100") for _ in range(3)]
    try:
        for process in processes:
            process.communicate()
            assert process.returncode == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert lock_files(base) == []


def test_a_lock_collected_unreleased_warns_and_frees_the_name() -> None:
    lock = NameLock.acquire("test", "orders")
    with pytest.warns(ResourceWarning, match="unreleased <NameLock test 'orders'>"):
        del lock  # the last reference
    assert not is_held("test", "orders")
