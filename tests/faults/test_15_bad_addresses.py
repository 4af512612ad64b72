"""15: bad addresses make nothing: each is refused before a file, a socket or a lock is there."""

from __future__ import annotations

from pathlib import Path

import pytest

import naru


@pytest.mark.parametrize("verb", [naru.listen, naru.connect, naru.receiver, naru.sender])
@pytest.mark.parametrize(
    "text",
    ["", "shm:", "shm://", "shm://a/b", "nope://x", "unix://relative", "unix:///a/../b", "tcp://h",
     "tcp://127.0.0.1:65536", "tcp://127.0.0.1:08", "mq:///a/b", "fifo://x", "shm://a?depth=3",
     "unix:///" + "x" * 200, "shm://a?capacity_bytes=12", "shm://a?wait=never"],
)  # fmt: skip
def test_fault_15_a_bad_address_makes_nothing(
    runtime: str, verb: object, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(naru.BadAddressError):
        verb(text)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []
    assert list(Path(runtime).iterdir()) == []
