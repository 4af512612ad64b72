"""Names, files, owners: what is made, what is refused, and what is left behind."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import naru
from naru.cache import files
from naru.cache.files import directory_of_names, path_of


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        yield Path(name)


@pytest.fixture
def names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory in memory."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder / "naru" / "caches"


def test_a_name_is_a_file_in_the_runtime_directory(names: Path) -> None:
    with naru.Cache.create("sessions", 1 << 20) as cache:
        assert cache.path == names / "sessions.cache"
        assert stat.S_IMODE(cache.path.stat().st_mode) == 0o600
        with naru.Cache.open("sessions") as other:
            cache["k"] = b"v"
            assert other["k"] == b"v"
        cache.drop()
    assert list(names.iterdir()) == []


def test_without_a_runtime_directory_in_memory_it_is_dev_shm(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SHARED_MEMORY", folder)
    monkeypatch.setattr(files, "is_in_memory", lambda path: Path(path) == folder)
    assert directory_of_names() == folder / f"naru-{os.geteuid()}"
    monkeypatch.setattr(files, "is_in_memory", lambda path: False)
    assert directory_of_names().name == "caches"


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a\0b", "x" * 201])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(naru.BadAddressError):
        path_of(name)


def test_a_slash_or_a_path_is_a_file() -> None:
    assert path_of("./x") == Path.cwd() / "x"
    assert path_of("/a/b") == Path("/a/b")
    assert path_of(Path("x")) == Path.cwd() / "x"


def test_a_name_is_taken_once(folder: Path) -> None:
    with naru.Cache.create(folder / "c", 1 << 20):
        with pytest.raises(naru.NameTakenError, match="there is one already"):
            naru.Cache.create(folder / "c", 1 << 20)
    (folder / "d").write_bytes(b"something else")
    with pytest.raises(naru.NameTakenError):
        naru.Cache.create(folder / "d", 1 << 20)
    os.symlink("/nowhere", folder / "e")
    with pytest.raises(naru.NameTakenError):
        naru.Cache.create(folder / "e", 1 << 20)
    assert (folder / "d").read_bytes() == b"something else"


def test_open_says_what_is_wrong(folder: Path) -> None:
    with pytest.raises(naru.NoSuchNameError, match="no such cache"):
        naru.Cache.open(folder / "absent")
    for content in (b"", b"x", bytes(1 << 20), b"NARU" * 100_000):
        (folder / "c").write_bytes(content)
        with pytest.raises(naru.CorruptedError, match="no cache of naru"):
            naru.Cache.open(folder / "c")
    os.mkfifo(folder / "fifo")
    os.symlink(folder / "c", folder / "link")
    (folder / "directory").mkdir()
    for name in ("fifo", "link", "directory"):
        with pytest.raises(naru.NotPermittedError, match="no regular file"):
            naru.Cache.open(folder / name)


def test_a_file_that_lost_its_end_is_refused(folder: Path) -> None:
    naru.Cache.create(folder / "c", 1 << 20).close()
    os.truncate(folder / "c", 1 << 19)
    with pytest.raises(naru.CorruptedError):
        naru.Cache.open(folder / "c")


def test_another_layout_says_so(folder: Path) -> None:
    naru.Cache.create(folder / "c", 1 << 20).close()
    data = bytearray((folder / "c").read_bytes())
    at = 8  # behind the magic
    data[at : at + 4] = (99).to_bytes(4, "little")
    (folder / "c").write_bytes(data)
    with pytest.raises(naru.ProtocolError, match="another version of naru"):
        naru.Cache.open(folder / "c")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(folder: Path) -> None:
    naru.Cache.create(folder / "c", 1 << 20, mode=0o660).close()
    assert stat.S_IMODE((folder / "c").stat().st_mode) == 0o660
    os.chown(folder / "c", 12345, -1)
    with pytest.raises(naru.NotPermittedError, match="belongs to uid 12345"):
        naru.Cache.open(folder / "c")
    with naru.Cache.open(folder / "c", allow_uids=[12345]) as cache:
        cache["k"] = b"v"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_mode_is_the_wall_between_users(folder: Path) -> None:
    folder.chmod(0o755)
    for mode, expected in ((0o600, "NotPermittedError"), (0o666, "v")):
        path = folder / f"{mode:o}"
        with naru.Cache.create(path, 1 << 20, mode=mode) as cache:
            cache["k"] = "v"
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    os.setgid(54321)
                    os.setuid(54321)
                    try:
                        with naru.Cache.open(path) as other:
                            found = other["k"]
                    except naru.NaruError as error:
                        found = type(error).__name__
                    code = 0 if found == expected else 2
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_open_or_create_from_many_threads_makes_one(folder: Path) -> None:
    made: list[naru.Cache] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        made.append(naru.Cache.open_or_create(folder / "c", 1 << 20))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made[0]["k"] = b"v"
    assert [cache["k"] for cache in made] == [b"v"] * 8
    for cache in made:
        cache.close()
    assert [path.name for path in folder.iterdir()] == ["c"]


def test_sizes_that_cannot_be(folder: Path) -> None:
    with pytest.raises(ValueError, match="1 MiB"):
        naru.Cache.create(folder / "c", 1000)
    with pytest.raises(ValueError, match="power of two"):
        naru.Cache.create(folder / "c", 8 << 20, shards=3)
    with pytest.raises(naru.NoSpaceError, match="MiB free"):
        naru.Cache.create(folder / "c", 1 << 50)
    with pytest.raises(naru.NoSuchNameError):
        naru.Cache.create(folder / "absent" / "c", 1 << 20)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_small_file_system_is_an_error_and_no_crash(folder: Path) -> None:
    mount = folder / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", mount], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(naru.NoSpaceError, match="4 MiB free, 8 MiB asked"):
            naru.Cache.create(mount / "c", 8 << 20)
        with naru.Cache.create(mount / "c", 3 << 20) as cache:
            cache["k"] = b"v"
            with pytest.raises(naru.NoSpaceError):
                cache.resize(2 << 20)
            with pytest.raises(naru.NoSpaceError):
                (mount / "filler").write_bytes(bytes((1 << 20) - 8192))
                cache["large"] = bytes(500_000)
                cache.snapshot(mount / "s")
            for number in range(20_000):
                cache[f"key {number}"] = bytes(100)
            assert cache.check().sound
        assert sorted(path.name for path in mount.iterdir()) == ["c", "filler"]
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_squatted_directory_of_names_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SHARED_MEMORY", folder)
    monkeypatch.setattr(files, "is_in_memory", lambda path: Path(path) == folder)
    squatted = folder / f"naru-{os.geteuid()}"
    squatted.mkdir(mode=0o777)
    squatted.chmod(0o777)
    with pytest.raises(naru.NotPermittedError, match="others may use it"):
        naru.Cache.create("x", 1 << 20)


@pytest.mark.parametrize("step", ["link", "retire", "rename"])
def test_a_resizer_that_dies_between_two_steps(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Everybody is in one generation, whichever it is, and nothing is left when it is done again."""
    path = folder / "c"
    with naru.Cache.create(path, 1 << 20) as cache:
        cache["k"] = b"v"
        pid = os.fork()
        if pid == 0:
            if step == "link":
                monkeypatch.setattr(files, "retire", lambda *_: os._exit(9))
            elif step == "retire":
                monkeypatch.setattr(files, "_finish_succession", lambda *_: os._exit(9))
            cache.resize(2 << 20)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        with naru.Cache.open(path) as other:
            other["k"] = b"w"
            assert cache["k"] == b"w"
            sizes = {one.statistics().size_bytes for one in (cache, other)}
            assert sizes == {1 << 20 if step == "link" else 2 << 20}
            other.resize(3 << 20)
            assert cache["k"] == b"w"
    assert [one.name for one in folder.iterdir()] == ["c"]


@pytest.fixture
def no_nameless_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """As on a network's file system: files are made under a name. Which names were asked for in vain."""
    asked: list[Path] = []
    really = os.open

    def without(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE and Path(path).is_dir():
            asked.append(path)
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return really(path, flags, *rest, **named)

    monkeypatch.setattr(files.os, "open", without)
    return asked


def test_without_nameless_files_all_is_as_with_them(
    folder: Path, no_nameless_files: list[Path]
) -> None:
    with naru.Cache.create(folder / "c", 1 << 20, codec="bytes") as cache:
        cache["k"] = b"v"
        cache.snapshot(folder / "s")
        cache.resize(2 << 20)
        cache["k"] = b"w"
        cache.snapshot(folder / "t")
        cache.restore(folder / "s")
        assert cache["k"] == b"v"
        with pytest.raises(naru.NameTakenError):
            naru.Cache.create(folder / "c", 1 << 20)
        with pytest.raises(naru.NoSuchNameError):
            cache.snapshot(folder / "nowhere" / "s")
    assert set(no_nameless_files) == {folder}
    assert sorted(one.name for one in folder.iterdir()) == ["c", "s", "t"]
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
