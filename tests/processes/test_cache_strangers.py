"""FAULTS 97 of the cache: what another user of this machine can reach, and what he is told."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_servers import Resp, serving

import naru
from naru.cli import main
from naru.testing.faults import unprivileged

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

NOBODY = 65534


@pytest.fixture
def lobby() -> Iterator[Path]:
    """A directory that every user may enter and write to."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        os.chmod(name, 0o777)
        yield Path(name)


def knock(path: str) -> str:
    """As somebody else: what comes of PING."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(10)
        try:
            one.connect(path)
            one.sendall(b"PING\r\n")
            return one.recv(100).decode()
        except OSError as error:
            return type(error).__name__


def open_as_a_file(path: str) -> list[object]:
    try:
        with naru.Cache.open(path) as cache:
            return ["opened", cache.get("k")]
    except naru.NaruError as error:
        return [type(error).__name__, error.errno, str(error).count("\n")]


def test_97_the_socket_and_the_file_are_their_owner_s(lobby: Path) -> None:
    """FAULTS 97: 0600 both, whatever the umask; others get the kernel's refusal."""
    before = os.umask(0)
    try:
        with serving(lobby):
            path, file = f"{lobby}/server.sock", f"{lobby}/test.cache"
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
            assert unprivileged(knock, path) == "PermissionError"
            assert unprivileged(open_as_a_file, file) == ["NotPermittedError", 13, 0]
            with Resp(path) as client:
                assert client.call("PING") == "PONG"
    finally:
        os.umask(before)


def test_97_who_asks_for_it_lets_others_in(lobby: Path) -> None:
    """FAULTS 97: mode= of the socket; the file stays its owner's."""
    with naru.Cache.create(lobby / "c", 4 << 20):
        pass
    with naru.cache.serving.CacheServer(
        str(lobby / "c"), bind=[f"unix://{lobby}/open.sock?mode=0666"]
    ):
        assert unprivileged(knock, f"{lobby}/open.sock") == "+PONG\r\n"
        assert unprivileged(open_as_a_file, f"{lobby}/c") == ["NotPermittedError", 13, 0]


def run_naru(*arguments: str) -> list[object]:
    """In this very process: the interpreter's file may be closed to other users."""
    errors = io.StringIO()
    sys.argv = ["naru", *arguments]
    with contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as ended:
            return [ended.code, errors.getvalue()]
    return [0, errors.getvalue()]


@pytest.mark.parametrize(
    "verb", [["get", "{}", "k"], ["set", "{}", "k", "v"], ["stats", "{}"], ["drop", "{}"]]
)
def test_97_the_command_says_so_in_one_line(lobby: Path, verb: list[str]) -> None:
    """FAULTS 97: no traceback, and nothing happens to the file of another user."""
    os.chmod(lobby, 0o755)
    with naru.Cache.create(lobby / "c", 4 << 20) as cache:
        cache["k"] = "mine"
        code, errors = unprivileged(run_naru, "cache", *(word.format(lobby / "c") for word in verb))
        assert code == 1
        assert isinstance(errors, str)
        assert errors.count("\n") == 1
        assert "permitted" in errors or "permission" in errors.lower()
        assert (lobby / "c").exists()
        assert cache["k"] == "mine"


def test_97_a_file_of_somebody_else_is_not_served(lobby: Path) -> None:
    """FAULTS 97: whoever made the file could put anything into it."""
    assert unprivileged(make_a_cache, f"{lobby}/theirs")
    with pytest.raises(naru.NotPermittedError, match=f"belongs to uid {NOBODY}"):
        naru.Cache.open(lobby / "theirs")
    with pytest.raises(naru.NotPermittedError, match=f"belongs to uid {NOBODY}"):
        naru.cache.serving.CacheServer(str(lobby / "theirs"), bind=[f"unix://{lobby}/s"]).start()
    assert not (lobby / "s").exists()


def make_a_cache(path: str) -> bool:
    naru.Cache.create(path, 1 << 20, mode=0o666).close()
    return True
