"""114: the choice under false measurements and missing transports: there is a working channel at once,
the reason is told, and nothing goes to and fro."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import naru

MEET = """
import threading
import naru

with naru.listen("auto://fault-114") as listener:
    made = []
    connecting = threading.Thread(target=lambda: made.append(naru.connect("auto://fault-114")))
    connecting.start()
    with listener.accept(timeout_s=10) as here:
        connecting.join()
        with made[0] as there:
            for number in range(100):
                here.send(b"%d" % number)
                assert there.receive(timeout_s=10) == b"%d" % number
                there.send(b"%d" % number)
                assert here.receive(timeout_s=10) == b"%d" % number
            print(here.choice.transport)
            for name, why in here.choice.rejected:
                print("rejected:", name, why)
"""


def meet(*command: str) -> list[str]:
    done = subprocess.run(
        [*command, sys.executable, "-c", MEET], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, to forbid system calls")
@pytest.mark.watchdog(seconds=90)
@pytest.mark.parametrize(
    ("forbidden", "possible"),
    [
        ("memfd_create", {"unix", "pipe", "tcp"}),
        ("memfd_create,socketpair", {"pipe", "tcp"}),
        ("memfd_create,pipe2", {"unix", "tcp"}),
        ("memfd_create,pipe2,socketpair", {"tcp"}),
    ],
)
def test_what_a_sandbox_forbids_is_passed_over(forbidden: str, possible: set[str]) -> None:
    transport, *rejected = meet(
        "strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={forbidden}",
        "-e", f"inject={forbidden}:error=EPERM",
    )  # fmt: skip
    assert transport in possible
    assert any(line.startswith("rejected: shm ") for line in rejected)


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("content", [b"", b"{}", bytes(5000), b'{"schema": "naru-profile/1"', None])
def test_a_broken_profile_is_as_good_as_none(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    profile = tmp_path / "naru" / "profile.json"
    profile.parent.mkdir()
    if content is None:
        profile.mkdir()  # cannot even be read
    else:
        profile.write_bytes(content)
    assert meet()[0] == "shm"
    assert any("profile" in warning for warning in naru.choose().warnings)
