"""What is public: every name re-exported where users look for it, and every one documented."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Iterator
from typing import Any

import pytest

import naru
import naru.testing

PUBLIC_MODULES = [
    "naru", "naru.aio", "naru.cache", "naru.files", "naru.reactor", "naru.signals", "naru.testing"
]  # fmt: skip

# Where the public names of `naru` come from; functions for the transports stay where they are.
SOURCES = {
    "naru.errors": {"from_errno", "from_os_error"},
    "naru.channel": set(),
    "naru.statistics": set(),
}

TESTING_SOURCES = [
    "naru.testing.conformance",
    "naru.testing.faults",
    "naru.testing.ledger",
    "naru.testing.subject",
]


def public_names(module: types.ModuleType) -> list[str]:
    names: list[str] = module.__all__
    return names


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_all_is_complete_and_true(name: str) -> None:
    module = importlib.import_module(name)
    listed = public_names(module)
    assert len(listed) == len(set(listed))
    for one in listed:
        assert getattr(module, one) is not None
    defined = {
        one
        for one, value in vars(module).items()
        if not one.startswith("_")
        and not isinstance(value, types.ModuleType)
        and one not in ("annotations", "TYPE_CHECKING")
    }
    assert defined <= set(listed), f"public and not in __all__: {defined - set(listed)}"


@pytest.mark.parametrize("source", SOURCES)
def test_everything_public_is_reexported_by_naru(source: str) -> None:
    module = importlib.import_module(source)
    wanted = set(public_names(module)) - SOURCES[source]
    assert wanted <= set(naru.__all__), f"not to be had from naru: {wanted - set(naru.__all__)}"
    for name in wanted:
        assert getattr(naru, name) is getattr(module, name)


@pytest.mark.parametrize("source", TESTING_SOURCES)
def test_everything_public_is_reexported_by_testing(source: str) -> None:
    module = importlib.import_module(source)
    missing = set(public_names(module)) - set(naru.testing.__all__)
    assert not missing, f"not to be had from naru.testing: {missing}"


def test_every_error_is_exported_and_has_the_one_root() -> None:
    errors = importlib.import_module("naru.errors")
    leaves = {name for name, value in vars(errors).items() if inspect.isclass(value)
              and issubclass(value, Exception)}  # fmt: skip
    assert leaves <= set(naru.__all__)
    assert all(issubclass(getattr(naru, name), naru.NaruError) for name in leaves)


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class that naru itself defines."""
    for owner in value.__mro__:
        if not owner.__module__.startswith("naru"):
            continue
        for name, member in vars(owner).items():
            if name.startswith("_"):
                continue
            if callable(member) or isinstance(member, property | classmethod | staticmethod):
                yield f"{value.__name__}.{name}", member


def test_every_public_thing_is_documented() -> None:
    bare = []
    for name in PUBLIC_MODULES:
        module = importlib.import_module(name)
        assert module.__doc__
        for one in public_names(module):
            value = getattr(module, one)
            if not inspect.isclass(value) and not callable(value):
                continue
            if not inspect.getdoc(value):
                bare.append(f"{name}.{one}")
            if inspect.isclass(value) and not getattr(value, "_is_protocol", False):
                bare += [path for path, member in members(value) if not inspect.getdoc(member)]
    assert not bare, f"without a docstring: {', '.join(bare)}"


def test_docstrings_begin_with_a_sentence() -> None:
    for name in PUBLIC_MODULES:
        module = importlib.import_module(name)
        for one in public_names(module):
            value = getattr(module, one)
            if inspect.isclass(value) or inspect.isfunction(value):
                text = inspect.getdoc(value) or ""
                first = text.split("\n\n")[0].strip()
                assert first.rstrip().endswith((".", ":", "?", ")")), f"{name}.{one}: {first!r}"


def test_dir_shows_what_can_be_imported() -> None:
    assert set(naru.__all__) <= set(dir(naru))
