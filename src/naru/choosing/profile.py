"""What was measured on a machine, and the strict reader of the file that keeps it.

Holds: Profile and its records, their JSON, where the file lives, the profile shipped with naru.
Must not know: how anything was measured (`naru.bench.probe`, which also writes the file).
Joins: `prediction` reads the cells; `front` loads the file, or the shipped one.

A file is believed only when every value in it can be: it is read by somebody else's program later,
perhaps after a full disk or a hand that edited it. Source of the place: XDG Base Directory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from naru.errors import CorruptedError, NaruError, from_os_error

__all__ = [
    "SCHEMA",
    "Cell",
    "Load",
    "Machine",
    "Profile",
    "Rate",
    "Spread",
    "Trip",
    "from_json",
    "load_profile",
    "profile_path",
    "read_profile",
    "shipped_profile",
    "to_json",
]

SCHEMA: Final = "naru-profile/1"
LARGEST_FILE_BYTES = 4 << 20
MOST_CELLS = 10_000
MOST_US = 1e12
NOISY_SHARE = 0.1
MOST_PER_S = 1e12
SHIPPED = Path(__file__).with_name("shipped.json")

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=10**12)]
_Text = Annotated[str, msgspec.Meta(max_length=200)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9]{0,15}$")]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing is missing, and nothing is there that this version does not know."""


class Spread(_Strict, frozen=True, kw_only=True):
    """Of one number over the repeats."""

    median: float
    least: float
    most: float

    def __post_init__(self) -> None:
        if not (0 < self.least <= self.median <= self.most and math.isfinite(self.most)):
            raise ValueError("a spread is 0 < least <= median <= most")


class Trip(_Strict, frozen=True, kw_only=True):
    """There and back: of a message, or of a whole batch."""

    p50_us: Spread
    p99_us: Spread
    trips: _Count
    """In each repeat."""

    def __post_init__(self) -> None:
        if self.p99_us.median < self.p50_us.median:
            raise ValueError("p99_us is below p50_us")
        if self.p99_us.most > MOST_US:
            raise ValueError("a round trip of more than 11 days")


class Rate(_Strict, frozen=True, kw_only=True):
    """One way, as fast as it goes."""

    per_s: Spread
    """Messages that arrived."""
    messages: _Count
    """In each repeat."""
    lost_share: _Share

    def __post_init__(self) -> None:
        if self.per_s.most > MOST_PER_S:
            raise ValueError("more than 1e12 messages a second")


class Cell(_Strict, frozen=True, kw_only=True):
    """A transport with messages of one size, moved and waited for in one way."""

    transport: _Name
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
    batch: bool
    wait: Literal["adaptive", "sleep"]
    trip: Trip | None
    """None: not measured, or it failed."""
    rate: Rate | None

    @property
    def key(self) -> tuple[str, int, bool, str]:
        """What may be there once only."""
        return self.transport, self.size_bytes, self.batch, self.wait


class Machine(_Strict, frozen=True, kw_only=True):
    """What the figures depend on."""

    cpu: _Text
    cores: _Count
    virtual: bool
    kernel: _Text
    architecture: _Text
    python: _Text


class Load(_Strict, frozen=True, kw_only=True):
    """Shares of all cores that others used: before the probe, and while it ran."""

    busy_before: _Share
    stolen_before: _Share
    busy_during: _Share
    stolen_during: _Share


class Profile(_Strict, frozen=True, kw_only=True):
    """All of one `naru probe`."""

    schema: Literal["naru-profile/1"]
    naru: _Text
    date: _Text
    """UTC, ISO 8601."""
    shipped: bool
    """It came with naru: another machine's figures."""
    quick: bool
    repeats: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    cores: tuple[int, int] | None
    """Of sender and receiver; None: not pinned."""
    machine: Machine
    load: Load
    notes: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=2000)], ...],
                     msgspec.Meta(max_length=200)]  # fmt: skip
    """What a reader must know: others on the machine, transports that are not here."""
    cells: Annotated[tuple[Cell, ...], msgspec.Meta(max_length=MOST_CELLS)]

    def __post_init__(self) -> None:
        if len({cell.key for cell in self.cells}) < len(self.cells):
            raise ValueError("a cell is there twice")
        texts = (self.naru, self.date, self.machine.cpu, self.machine.kernel, *self.notes)
        if not all(text.isprintable() for text in texts):
            raise ValueError("a text with control characters")

    @property
    def origin(self) -> str:
        """Whose figures these are, in a few words."""
        whose = "shipped with naru: figures of" if self.shipped else "measured on"
        return f"{whose} {self.machine.cpu}, Linux {self.machine.kernel}, {self.date[:10]}"

    def find(self, transport: str, size_bytes: int, batch: bool, wait: str) -> Cell | None:
        """The cell, or None."""
        key = (transport, size_bytes, batch, wait)
        return next((cell for cell in self.cells if cell.key == key), None)


def to_json(profile: Profile) -> bytes:
    """For a file."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n"


def from_json(data: bytes) -> Profile:
    """Raises: ValueError, with the place that is wrong."""
    try:
        return msgspec.json.decode(data, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def read_profile(path: str | Path) -> Profile:
    """Reads a file that `naru probe` wrote.

    Raises:
        CorruptedError: it is no profile of this version.
        NoSuchNameError, NotPermittedError, NaruError: what the kernel said.
    """
    operation = "naru.choose"
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise from_os_error(error, operation, path, "a profile is made by `naru probe`") from error
    try:
        if len(data) > LARGEST_FILE_BYTES:
            raise ValueError(f"it has more than {LARGEST_FILE_BYTES:,} bytes")
        return from_json(data)
    except ValueError as error:
        text = f'{operation} "{path}": no profile of this naru ({error}); run `naru probe`'
        raise CorruptedError(text, operation=operation, address=path) from error


def shipped_profile() -> Profile:
    """The one that came with naru."""
    return read_profile(SHIPPED)


def profile_path(environment: Mapping[str, str] | None = None) -> Path:
    """$XDG_DATA_HOME/naru/profile.json, or ~/.local/share/naru/profile.json."""
    variables = os.environ if environment is None else environment
    base = variables.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):  # the specification has relative ones ignored
        base = os.path.join(variables.get("HOME") or os.path.expanduser("~"), ".local/share")
    return Path(base, "naru", "profile.json")


def load_profile(path: str | Path | None = None) -> tuple[Profile, tuple[str, ...]]:
    """This machine's profile, or the shipped one, and what is to be said about it.

    Args:
        path: Another file, which has to be right; None: that of `profile_path()`.

    Raises:
        CorruptedError, NoSuchNameError, NaruError: only with a `path`.
    """
    if path is not None:
        profile = read_profile(path)
        return profile, _doubts(profile)
    place = profile_path()
    try:
        profile = read_profile(place)
    except FileNotFoundError:
        profile = shipped_profile()
        return profile, (f"no profile of this machine ({profile.origin}): run `naru probe`",)
    except NaruError as error:
        profile = shipped_profile()
        return profile, (f"{error}; the shipped one is used instead",)
    return profile, _doubts(profile)


def _doubts(profile: Profile) -> tuple[str, ...]:
    """A home directory may be shared by machines, and kernels are updated."""
    if profile.shipped:
        return (f"the profile is the one {profile.origin}",)
    kernel, cores = os.uname().release, os.cpu_count()
    found = []
    if (profile.machine.kernel, profile.machine.cores) != (kernel, cores):
        found.append(
            f"the profile is of {profile.machine.cores} cores and Linux {profile.machine.kernel}, "
            f"this is {cores} and {kernel}: run `naru probe` again"
        )
    if profile.load.busy_during + profile.load.stolen_during > NOISY_SHARE:
        found.append("the machine was busy when the profile was measured: `naru probe --show`")
    return tuple(found)
