"""What `import naru` loads, in a fresh interpreter; benchmarks/import_time.py takes its time."""

from __future__ import annotations

import subprocess
import sys

import pytest

import naru

# Optional, or needed by a few programs only.
OPTIONAL = [
    "asyncio", "click", "concurrent.futures", "hypothesis", "logging", "matplotlib", "msgspec",
    "multiprocessing", "numpy", "pickle", "rich", "ssl", "subprocess", "tempfile", "unittest",
]  # fmt: skip
# Each of these takes as long as all of naru.
HEAVY = ["dataclasses", "enum", "inspect", "re", "socket", "threading", "typing"]


def run_fresh(code: str) -> list[str]:
    """The words that the code printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_loads_nothing_that_it_can_do_without() -> None:
    # What the interpreter itself loaded (site, the loader of an editable install) is not ours.
    code = "import sys; before = set(sys.modules); import naru; print(*set(sys.modules) - before)"
    loaded = run_fresh(code)
    assert "naru._native.endpoint" in loaded
    assert not {*OPTIONAL, *HEAVY}.intersection(loaded)


def test_a_conversation_needs_nothing_optional() -> None:
    code = (
        "import sys; before = set(sys.modules); import naru; a, b = naru.pair('shm'); a.send(b'x');"
        "b.receive(); a.close(); b.close(); print(*set(sys.modules) - before)"
    )
    assert not set(OPTIONAL).intersection(run_fresh(code))


def test_arrays_without_numpy_name_the_extra() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None; import naru; a, b = naru.pair('shm')\n"
        "for verb in (lambda: a.send_array([1]), a.receive_array, lambda: a.reserve_array(3)):\n"
        "    try: a.send(b'x'); b.send(b'x'); verb()\n"
        "    except ImportError as error: print('naru-ipc[arrays]' in str(error), error.name)\n"
        "a.send_object([1]); b.receive(); b.receive(); b.receive(); b.receive_object()\n"
        "a.close(); b.close()"
    )
    assert run_fresh(code) == ["True", "numpy"] * 3


@pytest.mark.parametrize("name", naru.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """In this order of things: first asked for as an attribute, of a module just imported."""
    assert run_fresh(f"import naru; print(naru.{name} is not None, {name!r} in dir(naru))") == [
        "True",
        "True",
    ]


def test_late_names_are_found_by_every_form_of_import() -> None:
    run_fresh("from naru import Address, Listener, Peer, Statistics, parse")
    run_fresh("from naru import *; parse('shm://a'), Statistics, Listener, Address, Peer")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'naru' has no attribute 'conect'"):
        _ = naru.conect  # type: ignore[attr-defined]


def test_all_is_sorted_and_complete() -> None:
    assert list(naru.__all__) == sorted(set(naru.__all__))
    # Modules are no part of the API of the package, and TYPE_CHECKING is nobody's business.
    public = {
        name
        for name, thing in vars(naru).items()
        if not name.startswith("_") and type(thing) is not type(sys) and name != "TYPE_CHECKING"
    }
    assert public - {"annotations"} <= set(naru.__all__)
