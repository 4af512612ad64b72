"""What holds for every test: a watchdog, no leak, no warning, a runtime directory of this run.

Watchdog   60 s (`@pytest.mark.watchdog(seconds=120)`); at its end all stacks are printed and the run
           is killed: a test that hangs in C cannot be failed any other way.
Leaks      open descriptors, children and zombies, files in /dev/shm and the runtime directory,
           message queues, threads: none more after a test than before (`@pytest.mark.may_leak` for
           a test that is about that).
Warnings   are errors, a ResourceWarning of a forgotten end among them.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from naru.testing import Inventory

WATCHDOG_S = 60.0

hypothesis.settings.register_profile("naru", deadline=None, print_blob=True)
hypothesis.settings.load_profile("naru")

_stderr = pytest.StashKey[int]()
_runtime = pytest.StashKey[str]()
_queues = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell gives its background jobs an ignored SIGINT, and so would all programs of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "watchdog(seconds): how long this test may take at most")
    config.addinivalue_line("markers", "may_leak: no look at what this test leaves behind")
    # Capturing is suspended at this moment: the watchdog writes to the real stderr.
    config.stash[_stderr] = os.dup(2)
    # Short, because the names of Unix sockets in it must fit into 107 bytes.
    config.stash[_runtime] = tempfile.mkdtemp(prefix="naru-test-", dir="/tmp")
    os.environ["XDG_RUNTIME_DIR"] = config.stash[_runtime]
    queues = _take_own_namespaces()
    if queues is not None:
        config.stash[_queues] = queues


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_stderr])
    shutil.rmtree(config.stash[_runtime])
    if _queues in config.stash and config.stash[_queues] != Path("/dev/mqueue"):
        _libc.umount2(os.fsencode(config.stash[_queues]), 0)
        config.stash[_queues].rmdir()


def pytest_collection_finish() -> None:
    # What exists now stays for the whole run: looking at it in every collection would cost more
    # than the tests do.
    gc.collect()
    gc.freeze()


# trylast: inside pytest's own timer (faulthandler_timeout), of which there is only one a process.
@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: object) -> Iterator[None]:
    marker = item.get_closest_marker("watchdog")
    seconds = marker.kwargs.get("seconds", *marker.args) if marker else WATCHDOG_S
    faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[_stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compares everything that can be left behind before and after the test."""
    if request.node.get_closest_marker("may_leak"):
        yield
        return
    queues = request.config.stash.get(_queues, None)
    before = Inventory.take(queues)
    yield
    gc.collect()
    gc.freeze()  # what survived would be looked at after every test: reports, caches, modules
    left = before.leaks(Inventory.take(queues))
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


# ---- names of the whole machine, for this run alone ----

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWIPC = 0x00020000, 0x08000000
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18


def _take_own_namespaces() -> Path | None:
    """Message queues and /dev/shm of this run alone: others' names there are no leaks of ours.

    They end with the process, and need root. Without it /dev/shm is everybody's, and queues are
    seen where the machine shows them.

    Returns: where the queues are seen.
    """
    usual = Path("/dev/mqueue")
    if os.geteuid() != 0 or _libc.unshare(CLONE_NEWNS | CLONE_NEWIPC) != 0:
        return usual if usual.is_dir() else None
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("none", "/dev/shm", "tmpfs", 0)
    place = Path(tempfile.mkdtemp(prefix="naru-queues-", dir="/tmp"))
    _mount("none", os.fspath(place), "mqueue", 0)
    return place


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    words = (os.fsencode(source), os.fsencode(target), kind and os.fsencode(kind))
    if _libc.mount(*words, flags, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)
