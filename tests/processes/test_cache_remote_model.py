"""The model of the shared cache's tests, on real servers: the same rules, without a clock to move."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: naru-ipc[cluster]")

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from redis_servers import any_server
from test_cache_model import Verbs

import naru.cache

pytestmark = pytest.mark.watchdog(seconds=300)


@pytest.fixture(scope="module", params=["redis", "valkey", "naru"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="nr-") as folder:
        with any_server(request.param, Path(folder)) as found:
            yield found


@pytest.mark.parametrize("near", [False, 4 << 20])
def test_a_server_does_what_a_dict_would(url: str, near: bool | int) -> None:
    class OnServer(Verbs):
        def open_cache(self) -> Any:
            cache = naru.cache.open(url, near=near, prefix="model:")
            cache.clear()
            return cache

        def teardown(self) -> None:
            if self.cache.near is not None:
                self.cache.near.drop()
            super().teardown()

    run_state_machine_as_test(
        OnServer, settings=settings(max_examples=15, stateful_step_count=30, deadline=None)
    )
