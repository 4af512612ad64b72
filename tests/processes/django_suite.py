"""Runs Django's own cache tests (tests/cache of its source archive) against naru.cache.django.

    python tests/processes/django_suite.py FOLDER

FOLDER is the `tests` folder of Django's source archive, of the installed version: those tests are not
part of the installed package. Must not know: pytest; test_cache_django.py calls it.
"""

from __future__ import annotations

import sys
import tempfile
import unittest

import django
from django.conf import settings

CULLING = {"cull", "zero_cull"}  # counts entries; here bytes are counted


def main(folder: str) -> int:
    sys.path.insert(0, folder)
    settings.configure(
        DATABASES={
            name: {"ENGINE": "django.db.backends.sqlite3", "NAME": f"file:{name}?mode=memory"}
            for name in ("default", "other")
        },
        INSTALLED_APPS=["cache"],
        SECRET_KEY="tests",
        USE_TZ=False,
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        MIDDLEWARE=[],
        ROOT_URLCONF=[],
    )
    django.setup()
    from django.test import TestCase, override_settings
    from django.test.runner import DiscoverRunner

    from cache import tests

    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nd-") as place:
        base = {
            "BACKEND": "naru.cache.django.NaruCache",
            "LOCATION": f"{place}/tests",
            "OPTIONS": {"size_bytes": 16 << 20},
        }

        class NaruCacheTests(tests.BaseCacheTests, TestCase):  # type: ignore[misc]
            """All that Django asks of every backend."""

            def test_cull_delete_when_store_empty(self) -> None:
                self.skipTest("entries are not counted")

        caches = tests.caches_setting_for_tests(base=base, exclude=CULLING)
        for cache in caches.values():
            cache["OPTIONS"] = {**base["OPTIONS"]}  # type: ignore[dict-item]
        suite = unittest.TestSuite()
        load = unittest.defaultTestLoader.loadTestsFromTestCase
        suite.addTests(load(override_settings(CACHES=caches)(NaruCacheTests)))
        runner = DiscoverRunner(verbosity=1)
        runner.setup_test_environment()
        old = runner.setup_databases(aliases={"default": False})
        try:
            result = unittest.TextTestRunner(verbosity=1).run(suite)
        finally:
            runner.teardown_databases(old)
            runner.teardown_test_environment()
    print(f"ran {result.testsRun}, skipped {len(result.skipped)}")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
