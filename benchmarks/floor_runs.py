"""Runs the C floor: finds or builds its programs, reads their JSON line.

Holds: where the programs are, the one compiler line each needs, and a run.
Must not know: rows and targets (rows.py), nor naru.
Joins: messages.py runs a floor beside naru and the peers.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

SOURCE_DIRECTORY = Path(__file__).parent / "floor"
LIMIT_S = 300.0

_FLAGS = ["-O2", "-std=c11", "-D_GNU_SOURCE"]
_SOURCES = {
    "floor_shm": ["shm.c", "floor.c"],
    "floor_pipe": ["pipe.c", "stream.c", "floor.c"],
    "floor_unix": ["unix.c", "stream.c", "floor.c"],
    "floor_tcp": ["tcp.c", "stream.c", "floor.c"],
    "floor_mq": ["mq.c", "floor.c", "-lrt"],
}


class FloorMissingError(RuntimeError):
    """The floor's programs are not there and can't be built; says why."""


class FloorFailedError(RuntimeError):
    """A floor program failed; the text is what it said."""


class Floor:
    """The five programs, from a build directory or built here and now.

    Args:
        build_directory: a meson build directory in which `meson compile floor`
            ran, or the folder of the programs; None compiles them into a
            temporary folder with `cc -O2`.

    Raises: FloorMissingError.
    """

    def __init__(self, build_directory: Path | None = None) -> None:
        self._temporary: str | None = None
        if build_directory is None:
            self._directory = self._build()
            return
        places = (build_directory / "benchmarks" / "floor", build_directory)
        found = [place for place in places if all((place / name).exists() for name in _SOURCES)]
        if not found:
            raise FloorMissingError(
                f"no floor programs in {build_directory}: run `meson compile -C "
                f"{build_directory} floor`, or leave --floor out to build them with cc"
            )
        self._directory = found[0]

    def __enter__(self) -> Floor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes what this built."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary)
            self._temporary = None

    def run(self, command: str, count: int) -> dict[str, Any]:
        """Runs `floor_<command> --count N`, such as "shm stream --shape batch".

        Returns: the program's JSON record.
        Raises: FloorFailedError.
        """
        name, *arguments = shlex.split(command)
        program = self._directory / f"floor_{name}"
        done = subprocess.run(
            [program, *arguments, "--count", str(count)],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode != 0:
            raise FloorFailedError(done.stderr.strip() or f"{program} exited {done.returncode}")
        record: dict[str, Any] = json.loads(done.stdout)
        return record

    def _build(self) -> Path:
        compiler = os.environ.get("CC", "cc")
        if shutil.which(compiler) is None:
            raise FloorMissingError(f"no C compiler {compiler!r} to build the floor with")
        self._temporary = tempfile.mkdtemp(prefix="naru-floor-")
        for name, sources in _SOURCES.items():
            output = str(Path(self._temporary) / name)
            line = [compiler, *_FLAGS, "-o", output, *sources]
            done = subprocess.run(
                line, cwd=SOURCE_DIRECTORY, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                self.close()
                raise FloorMissingError(f"{shlex.join(line)} failed: {done.stderr.strip()}")
        return Path(self._temporary)
