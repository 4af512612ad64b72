"""meson.build names every file, so what is not named there is not built or not installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Which build file answers for which files: the folders below its own, and their endings.
BUILD_FILES = {
    "src/naru/meson.build": (("src/naru",), (".py", ".pyi", ".pyx", "py.typed")),
    "native/meson.build": (
        ("native/cache", "native/files", "native/memory", "native/os", "native/transports"),
        (".c",),
    ),
    "native/tests/meson.build": (("native/tests",), (".c",)),
    "benchmarks/floor/meson.build": (("benchmarks/floor",), (".c",)),
}


def _files_of_git(*which: str) -> set[str] | None:
    """None without git, as in an unpacked archive."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return None
    command = ["git", "ls-files", "-z", "--exclude-standard", *which]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:  # somebody else's checkout, which git refuses to look at
        return None
    names = done.stdout.decode().split("\0")
    return {name for name in names if name and (ROOT / name).exists()}


def _files_of_tree(folders: tuple[str, ...]) -> set[str]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return {str(path.relative_to(ROOT)) for path in found if path.is_file()}


def _words_of(build_file: str) -> set[str]:
    text = re.sub(r"#.*", "", (ROOT / build_file).read_text(encoding="utf-8"))
    return set(re.findall(r"'([^'\n]+)'", text))


@pytest.mark.parametrize("build_file", BUILD_FILES)
def test_every_file_is_named(build_file: str) -> None:
    folders, endings = BUILD_FILES[build_file]
    files = _files_of_git("--cached", "--others")  # also what is not committed yet: it will be
    if files is None:
        files = _files_of_tree(folders)
    inside = tuple(folder + "/" for folder in folders)
    expected = {f for f in files if f.startswith(inside) and f.endswith(endings)}
    assert expected, f"nothing is there that {build_file} could name"
    here = Path(build_file).parent
    words = _words_of(build_file)
    # 'test_ring' is enough where the ending is added by the build file.
    names = {name: Path(name).relative_to(here) for name in expected}
    missing = [n for n, at in names.items() if not words & {str(at), str(at).removesuffix(".c")}]
    assert not missing, f"{build_file} does not name {missing}"
    gone = [word for word in words if word.endswith(endings) and not (ROOT / here / word).exists()]
    assert not set(gone) - set(endings), f"{build_file} names what is not there: {gone}"


def test_git_ignores_no_source() -> None:
    """A pattern for core dumps once hid core.pxd: everything worked, except in a fresh clone."""
    ignored = _files_of_git("--others", "--ignored")
    if ignored is None:
        pytest.skip("not a git checkout")
    folders = ("src/", "native/", "benchmarks/", "tests/", "docs/", "examples/")
    endings = (".c", ".h", ".py", ".pyi", ".pyx", ".pxd", ".pml", ".sh", ".build", ".md", ".typed")
    assert not {name for name in ignored if name.startswith(folders) and name.endswith(endings)}


def test_one_version() -> None:
    meson = re.search(r"^\s*version: '([^']+)'", (ROOT / "meson.build").read_text(), re.MULTILINE)
    module = re.search(r'__version__ = "([^"]+)"', (ROOT / "src/naru/version.py").read_text())
    assert meson is not None
    assert module is not None
    assert module[1] == meson[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"], "pyproject.toml takes the version from meson.build"
