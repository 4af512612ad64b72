"""DESIGN section 2: each layer knows only the ones below it."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "naru"  # an installed package has no .pyx

# From the ground up. A module belongs to the longest name that it begins with, and may import its
# own layer and those before it.
LAYERS = [
    ("naru.errors", "naru.version", "naru.statistics", "naru.buffers", "naru.sizes"),
    ("naru.codec",),  # formats: pure functions over bytes
    ("naru.address",),
    ("naru.settings",),
    ("naru.runtime", "naru.outbox"),
    ("naru._native",),
    ("naru.cache",),  # below aio, which has its twin
    ("naru.transports",),
    ("naru.channel", "naru.publishing"),
    ("naru.choosing",),
    ("naru.auto",),
    ("naru.cache",),  # below aio, which has its twin
    ("naru.aio",),
    ("naru.requests",),
    ("naru.signals",),
    ("naru.engine", "naru.reactor"),
    ("naru.files",),
    ("naru.cache.serving",),  # on the engine
    ("naru",),  # the package itself: what users see, re-exported
    ("naru.testing", "naru.bench"),
    ("naru.cli",),
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# What is allowed against the order, and why.
EXCEPTIONS = {
    # A Sender pickles as the public function that opens it in the other process.
    ("naru._native.sending", "naru"),
}

# `errors`, `address` and `settings` stand beside everything: they import nothing of naru but each
# other.
BESIDE = {"naru.errors", "naru.address", "naru.settings"}


def module_name(path: Path) -> str:
    parts = ["naru", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path for ending in ("*.py", "*.pyx") for path in PACKAGE.rglob(ending)
}


def layer_of(module: str) -> str:
    return max((name for name in RANK if f"{module}.".startswith(f"{name}.")), key=len)


def is_for_types_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of_python(source: str) -> Iterator[str]:
    """Also those inside functions; not those for type checkers."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what they import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in SOURCES else node.module
        for child in ast.iter_child_nodes(node):
            if not (isinstance(child, ast.stmt) and is_for_types_only(child)):
                pending.append(child)


CYTHON_IMPORT = re.compile(
    r"^\s*(?:c?import\s+(naru[\w.]*)|from\s+(naru[\w.]*)\s+c?import\s+(.+))", re.MULTILINE
)


def imports_of_cython(source: str) -> Iterator[str]:
    for match in CYTHON_IMPORT.finditer(source):
        plain, module, names = match.groups()
        if plain:
            yield plain
            continue
        for name in re.findall(r"\w+", names):
            inner = f"{module}.{name}"
            yield inner if inner in SOURCES else module


def imports_of(module: str) -> set[str]:
    path = SOURCES[module]
    read = imports_of_cython if path.suffix == ".pyx" else imports_of_python
    return {name for name in read(path.read_text()) if name.split(".")[0] == "naru"}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_module_imports_by_itself(module: str) -> None:
    if module == "naru.cli.__main__":
        return  # runs the program
    try:
        importlib.import_module(module)
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] == "naru":
            raise
        pytest.skip(f"{error.name} is an extra that is not installed")


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_layer_imports_a_higher_one(module: str) -> None:
    own = RANK[layer_of(module)]
    upwards = {
        name
        for name in imports_of(module)
        if RANK[layer_of(name)] > own and (module, name) not in EXCEPTIONS
    }
    assert not upwards, f"{module} is of layer {layer_of(module)} and imports {upwards}"


@pytest.mark.parametrize("module", sorted(BESIDE))
def test_what_stands_beside_imports_nothing_of_naru(module: str) -> None:
    assert imports_of(module) <= BESIDE


def test_tools_do_not_know_each_other() -> None:
    for module in SOURCES:
        if layer_of(module) == "naru.testing":
            assert not {name for name in imports_of(module) if name.startswith("naru.bench")}
        if layer_of(module) == "naru.bench":
            assert not {name for name in imports_of(module) if name.startswith("naru.testing")}


def test_transports_do_not_know_the_channel() -> None:
    """They make ends; the one message API finds them by their names."""
    for module in SOURCES:
        if module.startswith("naru.transports"):
            assert "naru.channel" not in imports_of(module)


def test_every_module_has_a_layer_of_its_own() -> None:
    """A new top-level module has to be put somewhere on purpose."""
    forgotten = {m for m in SOURCES if layer_of(m) == "naru" and m != "naru"}
    assert not forgotten


def test_exceptions_are_still_needed() -> None:
    for module, name in EXCEPTIONS:
        assert name in imports_of(module)
