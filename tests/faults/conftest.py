"""Fixtures of the fault tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A runtime directory of the test's own; its path is short enough for a socket's."""
    directory = tempfile.mkdtemp(prefix="naru-", dir="/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
