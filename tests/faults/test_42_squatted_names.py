"""42: somebody was there before: files, symbolic links, other users' directories, sockets and queues.

naru refuses what is not its own, says so, and neither follows, removes nor changes it. What it makes
itself is closed to others from its first moment on, whatever the umask.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import naru
from naru.testing.children import Child, unprivileged
from naru.testing.events import Events

NOBODY = 65534
STRANGER = 54321  # a uid that no other test uses: its /tmp/naru-54321 is this test's

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def identity(path: str) -> tuple[int, ...]:
    status = os.lstat(path)
    return (status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_size)


# ---- the runtime directory ----


def _symlink(path: str) -> None:
    os.mkdir(f"{path}-elsewhere", 0o700)
    os.symlink(f"{path}-elsewhere", path)


def _with_mode(mode: int) -> Callable[[str], None]:
    def make(path: str) -> None:
        os.mkdir(path)
        os.chmod(path, mode)

    return make


def _of_another(path: str) -> None:
    os.mkdir(path, 0o700)
    os.chown(path, NOBODY, NOBODY)


def _dead_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        os.chmod(path, 0o777)


DIRECTORIES: dict[str, Callable[[str], None]] = {
    "a symbolic link to a directory of ours": _symlink,
    "a dangling symbolic link": lambda path: os.symlink(f"{path}-nowhere", path),
    "a file": lambda path: Path(path).touch(0o600),
    "a socket": _dead_socket,
    "open to all": _with_mode(0o777),
    "open to the group": _with_mode(0o750),
    "open for entering": _with_mode(0o711),
    "sticky and open": _with_mode(0o1777),
    "another user's": _of_another,
}
OPENERS: dict[str, Callable[[], object]] = {
    "listen": lambda: naru.listen("shm://squatted"),
    "receiver": lambda: naru.receiver("shm://squatted"),
    "connect": lambda: naru.connect("shm://squatted", timeout_s=0),
    "mq": lambda: naru.receiver("mq:///naru-squatted"),
}


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("place", ["naru", "naru/locks"])
@pytest.mark.parametrize("what", DIRECTORIES)
@needs_root
def test_42_the_runtime_directory_is_not_ours(
    runtime: str, what: str, place: str, opener: str
) -> None:
    if opener == "connect" and place == "naru/locks":
        pytest.skip("a client takes no lock")
    path = f"{runtime}/{place}"
    if place != "naru":
        os.mkdir(f"{runtime}/naru", 0o700)
    DIRECTORIES[what](path)
    before = identity(path)
    with pytest.raises(naru.NotPermittedError) as refused:
        OPENERS[opener]()
    assert path in str(refused.value)
    assert identity(path) == before
    if os.path.isdir(path):
        assert os.listdir(path) == []


def listen_without_xdg() -> str:
    os.environ.pop("XDG_RUNTIME_DIR")
    try:
        naru.listen("shm://squatted").close()
    except naru.NaruError as error:
        return type(error).__name__
    return "open"


@needs_root
def test_42_the_directory_in_tmp_was_made_by_another_user() -> None:
    """/tmp/naru-<uid> is everybody's to make: whoever is there first must not be trusted."""
    path = f"/tmp/naru-{STRANGER}"
    os.mkdir(path, 0o777)
    try:
        os.chmod(path, 0o777)
        assert unprivileged(listen_without_xdg, uid=STRANGER) == "NotPermittedError"
        assert os.listdir(path) == []
    finally:
        os.rmdir(path)


@needs_root
def test_42_the_directory_in_tmp_is_made_private() -> None:
    path = f"/tmp/naru-{STRANGER}"
    try:
        assert unprivileged(listen_without_xdg, uid=STRANGER) == "open"
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o700
    finally:
        shutil.rmtree(path)


@pytest.mark.parametrize("value", ["relative/path", "", "/nowhere/at/all", "/tmp", "/dev/null"])
def test_42_xdg_runtime_dir_is_no_place(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A directory that others can write to, or none at all: /tmp/naru-<uid> is taken instead."""
    from naru.runtime import runtime_directory

    monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert str(runtime_directory()) == f"/tmp/naru-{os.geteuid()}"


# ---- paths of sockets and FIFOs ----


def _living_socket(path: str) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        yield


def _link_to_living(path: str) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{path}-real")
        sock.listen()
        os.symlink(f"{path}-real", path)
        yield


def _simply(make: Callable[[str], object]) -> Callable[[str], Iterator[None]]:
    def made(path: str) -> Iterator[None]:
        make(path)
        yield

    return made


def _link_to(make: Callable[[str], object]) -> Callable[[str], Iterator[None]]:
    def made(path: str) -> Iterator[None]:
        make(f"{path}-real")
        os.symlink(f"{path}-real", path)
        yield

    return made


SQUATTERS: dict[str, Callable[[str], Iterator[None]]] = {
    "a file": _simply(lambda path: Path(path).write_text("precious")),
    "a directory": _simply(os.mkdir),
    "a link to a file": _link_to(lambda path: Path(path).write_text("precious")),
    "a dangling link": _simply(lambda path: os.symlink(f"{path}-nowhere", path)),
    "a link to a dead socket": _link_to(_dead_socket),
    "a link to a living socket": _link_to_living,
    "a link to a FIFO": _link_to(os.mkfifo),
    "a living socket": _living_socket,
}
SCHEMES = {
    "unix": ("unix://{}", naru.listen),
    "unix receiver": ("unix://{}", naru.receiver),
    "shm": ("shm://{}", naru.listen),
    "datagram": ("unix://{}?datagram=1", naru.receiver),
    "fifo": ("fifo://{}", naru.receiver),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("what", [*SQUATTERS, "a FIFO"])
def test_42_the_path_is_taken_by_something_else(runtime: str, what: str, scheme: str) -> None:
    if what == "a FIFO" and scheme == "fifo":
        pytest.skip("a FIFO of our own is used")
    path = f"{runtime}/taken"
    address, opener = SCHEMES[scheme]
    squatters = {**SQUATTERS, "a FIFO": _simply(os.mkfifo)}
    squatter = squatters[what](path)
    next(squatter)
    before = identity(path)
    with pytest.raises((naru.NameTakenError, naru.NotPermittedError)):
        opener(address.format(path)).close()
    assert identity(path) == before
    if os.path.isfile(path):
        assert Path(path).read_text() == "precious"
    next(squatter, None)


def send_to(address: str) -> str:
    try:
        naru.sender(address, timeout_s=0).close()
    except naru.NaruError as error:
        return type(error).__name__
    return "open"


@pytest.mark.parametrize("make", [lambda path: Path(path).touch(), os.mkdir])
def test_42_a_sender_to_what_is_no_fifo(runtime: str, make: Callable[[str], object]) -> None:
    make(f"{runtime}/f")
    assert send_to(f"fifo://{runtime}/f") == "NotPermittedError"


@needs_root
def test_42_a_fifo_of_another_user(runtime: str) -> None:
    path = f"{runtime}/f"
    os.mkfifo(path, 0o666)
    os.chown(path, NOBODY, NOBODY)
    before = identity(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert send_to(f"fifo://{path}") == "NotPermittedError"
    os.close(reading)
    with pytest.raises(naru.NotPermittedError):
        naru.receiver(f"fifo://{path}")
    assert identity(path) == before


# ---- other users' names ----


def take_over(path: str) -> str:
    try:
        naru.listen(f"unix://{path}").close()
    except naru.NaruError as error:
        return type(error).__name__
    return "open"


@needs_root
def test_42_a_dead_socket_of_another_user_in_a_sticky_directory(runtime: str) -> None:
    os.chmod(runtime, 0o1777)
    _dead_socket(f"{runtime}/s")
    before = identity(f"{runtime}/s")
    assert unprivileged(take_over, f"{runtime}/s") == "NotPermittedError"
    assert identity(f"{runtime}/s") == before


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def squat_abstract(events: Events, name: str) -> None:
    become(NOBODY)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"\0{name}")
        sock.listen()
        events.tell("squatting")
        events.expect("enough")


@needs_root
def test_42_an_abstract_name_of_another_user() -> None:
    """Anybody may bind it; nobody may pass for us."""
    with Child.run(squat_abstract, "naru-squatted") as squatter:
        squatter.expect("squatting")
        with pytest.raises(naru.NameTakenError):
            naru.listen("unix:@naru-squatted")
        with pytest.raises(naru.NotPermittedError):
            naru.connect("unix:@naru-squatted", timeout_s=0.5)
        with pytest.raises(naru.NotPermittedError):
            naru.sender("unix:@naru-squatted", timeout_s=0.5)
        squatter.tell("enough")
        squatter.check()


def squat_shm(events: Events, path: str) -> None:
    become(NOBODY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(path)
        os.chmod(path, 0o777)
        sock.listen()
        events.tell("squatting")
        events.expect("enough")


@needs_root
def test_42_a_shm_path_of_another_user(runtime: str) -> None:
    os.chmod(runtime, 0o777)
    path = f"{runtime}/s"
    with Child.run(squat_shm, path) as squatter:
        squatter.expect("squatting")
        before = identity(path)
        with pytest.raises(naru.NotPermittedError):
            naru.connect(f"shm://{path}", timeout_s=0.5)
        with pytest.raises(naru.NameTakenError):
            naru.listen(f"shm://{path}")
        assert identity(path) == before
        squatter.tell("enough")
        squatter.check()


def squat_queue(events: Events) -> None:
    become(NOBODY)
    from naru._native.system import mq_open

    os.umask(0)
    queue = mq_open("/naru-squatted", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666, 2, 64)
    events.tell("squatting")
    events.expect("enough")
    os.close(queue)


@needs_root
def test_42_a_queue_of_another_user() -> None:
    from naru._native.system import mq_unlink

    with Child.run(squat_queue) as squatter:
        squatter.expect("squatting")
        with pytest.raises(naru.NotPermittedError):
            naru.receiver("mq:///naru-squatted")
        squatter.tell("enough")
        squatter.check()
    mq_unlink("/naru-squatted")  # it is still there, as it should


# ---- what naru makes ----


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_42_what_naru_makes_is_private(runtime: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        ends = [
            naru.listen("shm://private"),
            naru.listen(f"shm://{runtime}/s"),
            naru.listen(f"unix://{runtime}/u"),
            naru.receiver(f"fifo://{runtime}/f"),
        ]
    finally:
        os.umask(before)
    modes = {}
    for at, directories, names in os.walk(runtime):
        for name in (*directories, *names):
            modes[name] = stat.S_IMODE(os.lstat(f"{at}/{name}").st_mode)
    for end in ends:
        end.close()
    locks = {name for name in modes if name.endswith(".lock")}
    assert len(locks) == 4
    for name, mode in modes.items():
        allowed = 0o700 if name in ("naru", "locks") else 0o600
        assert mode & ~allowed == 0, f"{name} {mode:o}"
    assert {"s", "u", "f", "shm.private"} < set(modes)
