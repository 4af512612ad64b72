"""Fuzzes the parser of Redis' protocol with atheris: what it says must be what the plain one says.

    fuzz_resp.py [seconds]    60 by default; needs `pip install atheris`

An input that fails is kept in tests/corpus/fuzz_resp, where the tests replay it from then on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent.parent
CORPUS = TESTS / "corpus" / "fuzz_resp"
sys.path.insert(0, str(TESTS / "unit"))


def main(seconds: str) -> None:
    try:
        import atheris
    except ImportError:
        sys.stderr.write("atheris is missing: pip install atheris\n")
        sys.exit(77)
    with atheris.instrument_imports(include=["resp_oracle"]):
        import resp_oracle

    def look(data: bytes) -> None:
        found = resp_oracle.contradiction(data)
        assert found is None, found

    with tempfile.TemporaryDirectory() as new:
        atheris.Setup(
            [sys.argv[0], f"-max_total_time={seconds}", "-max_len=2048", f"-artifact_prefix={CORPUS}/",
             new, str(CORPUS)],
            look,
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["60"])
