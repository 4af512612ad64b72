"""The harness itself: what hangs is killed with its stacks, what leaks fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"


def run_tests(directory: Path, source: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, directory / "conftest.py")
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (directory / "test_it.py").write_text("import os, threading, time, pytest, naru\n" + source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(directory)]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60)


def test_what_hangs_is_killed_and_shows_its_stacks(tmp_path: Path) -> None:
    done = run_tests(
        tmp_path,
        """
@pytest.mark.watchdog(seconds=0.5)
def test_hangs():
    threading.Thread(target=wait_in_a_thread, daemon=True).start()
    a, b = naru.pair("shm")
    b.receive()

def wait_in_a_thread():
    time.sleep(60)

def test_never_reached():
    open("reached", "w").close()
""",
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "in test_hangs" in done.stderr
    assert "in wait_in_a_thread" in done.stderr
    assert not (tmp_path / "reached").exists()


LEAKS = {
    "a_descriptor": ("os.open('/dev/null', os.O_RDONLY)", "descriptor"),
    "an_end": ("keep.append(naru.pair('pipe'))", "pipe:["),
    "a_name": ("keep.append(naru.receiver('shm://left'))", "file /tmp/naru-test-"),
    "a_queue": ("keep.append(naru.receiver('mq:///naru-left'))", "naru-left"),
    "a_thread": ("threading.Timer(1, print).start()", "thread Thread-"),
    "a_child": ("os.fork() or os._exit(0)", "child process"),
    "a_file": ("open('/dev/shm/naru-left', 'w').close()", "file /dev/shm/naru-left"),
    "a_forgotten_end": ("a, b = naru.pair('shm'); a.send(b'x')", "unclosed <Channel"),
}


def test_what_leaks_fails_and_what_does_not_passes(tmp_path: Path) -> None:
    good = """
def test_good():
    a, b = naru.pair("shm")
    a.send(b"x")
    assert b.receive() == b"x"
    a.close(); b.close()
    assert os.environ["XDG_RUNTIME_DIR"].startswith("/tmp/naru-test-")

@pytest.mark.may_leak
def test_allowed():
    keep.append(os.open("/dev/null", os.O_RDONLY))
"""
    leaky = "".join(f"\ndef test_{name}():\n    {leak}\n" for name, (leak, _) in LEAKS.items())
    done = run_tests(tmp_path, f"keep = []\n{good}{leaky}")
    assert done.returncode == 1
    reports = {
        name: report
        for part in done.stdout.split("ERROR at teardown of test_")[1:]
        for name, _, report in [part.partition(" ")]
    }
    # The last one is found by its warning, in the test that is running when it is collected.
    for name, (_, found) in LEAKS.items():
        assert found in (done.stdout if name == "a_forgotten_end" else reports[name]), name
    assert not {"good", "allowed"}.intersection(reports)
    if os.geteuid() == 0:
        assert not Path("/dev/shm/naru-left").exists(), "the run has a /dev/shm of its own"
    else:
        Path("/dev/shm/naru-left").unlink()
