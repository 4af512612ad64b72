"""Options of an address, read into one frozen record per transport.

Holds: a table: each option is a dataclass field whose metadata carry its parser, unit and sentence.
The parsers, their ranges and their messages come from that table, and so do the docs
(``options_table``): an option exists in one place.
Must not know: how a transport uses an option, or what this machine allows (found out at creation).
Joins: a transport calls ``ShmSettings.from_address(address)`` and reads plain attributes.
"""

from __future__ import annotations

import dataclasses
import mmap
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, Self

from naru.address import Address, shorten
from naru.errors import BadAddressError

__all__ = [
    "AutoSettings",
    "FifoSettings",
    "MqSettings",
    "PipeSettings",
    "Settings",
    "ShmSettings",
    "TcpSettings",
    "UdpSettings",
    "UnixSettings",
    "options_table",
    "settings_for",
]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MESSAGE_LIMIT_BYTES = 4_294_967_280  # the record's u32 length, with room for the last padding
UID_LIMIT = 2**32 - 2  # (uid_t)-1 means "no uid"

_SIZE_UNITS: Mapping[str, int] = MappingProxyType(
    {
        "": 1, "B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3,
        "KiB": KIB, "MiB": MIB, "GiB": GIB,
    }
)  # fmt: skip
_SIZE = re.compile(r"([0-9]{1,20})([A-Za-z]{0,3})")
_WHOLE = re.compile(r"[0-9]{1,20}")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_MODE = re.compile(r"0?([0-7]{3})")


class _Parser(NamedTuple):
    """``read`` gives the value or None; ``expects`` completes "must be ..."."""

    read: Callable[[str], Any]
    expects: str


def _option(default: Any, parser: _Parser, doc: str, *, shown: str) -> Any:
    metadata = {"parser": parser, "doc": doc, "shown": shown}
    return dataclasses.field(default=default, metadata=metadata)


def _within(value: float, low: float, high: float, *, or_zero: bool = False) -> bool:
    return low <= value <= high or (or_zero and value == 0)


def _size(low: int, high: int, *, round_to: int = 1) -> _Parser:
    def read(text: str) -> int | None:
        match = _SIZE.fullmatch(text)
        if match is None or match[2] not in _SIZE_UNITS:
            return None
        value = int(match[1]) * _SIZE_UNITS[match[2]]
        return -(-value // round_to) * round_to if _within(value, low, high) else None

    return _Parser(read, f"bytes from {low} to {high}, such as 65536 or 64KiB")


def _count(low: int, high: int, unit: str, *, or_zero: bool = False) -> _Parser:
    def read(text: str) -> int | None:
        value = int(text) if _WHOLE.fullmatch(text) else -1
        return value if _within(value, low, high, or_zero=or_zero) else None

    zero = " (0: off)" if or_zero else ""
    return _Parser(read, f"a whole number of {unit} from {low} to {high}{zero}")


def _seconds(low: float, high: float, *, or_zero: bool = False) -> _Parser:
    def read(text: str) -> float | None:
        value = float(text) if _SECONDS.fullmatch(text) else -1.0
        return value if _within(value, low, high, or_zero=or_zero) else None

    zero = " (0: off)" if or_zero else ""
    return _Parser(read, f"seconds from {low:g} to {high:g}{zero}")


def _choice(*values: str) -> _Parser:
    return _Parser(lambda text: text if text in values else None, "one of " + ", ".join(values))


def _read_mode(text: str) -> int | None:
    match = _MODE.fullmatch(text)
    return int(match[1], 8) if match else None


def _read_uids(text: str) -> tuple[int, ...] | Literal["*"] | None:
    if text == "*":
        return "*"
    items = text.split(",")
    if not all(_WHOLE.fullmatch(item) and int(item) <= UID_LIMIT for item in items):
        return None
    return tuple(sorted({int(item) for item in items}))


def _words(*known: str) -> _Parser:
    def read(text: str) -> tuple[str, ...] | None:
        words = text.split(",")
        return tuple(words) if set(words) <= set(known) and len(set(words)) == len(words) else None

    return _Parser(read, "one or more of " + ", ".join(known) + ", with commas")


_FLAG = _Parser(lambda text: {"0": False, "1": True}.get(text), "0 or 1")
_MODE_PARSER = _Parser(_read_mode, "three octal digits, such as 0660")
_UIDS = _Parser(_read_uids, "'*' or user ids with commas, such as 1000,1001")

_MODE_DOC = "Permission bits of the file that stands for the name."
_UIDS_DOC = "Users that may connect besides the own one; '*' is everybody."
_BACKLOG_DOC = "Connections that may wait for accept()."
_BUFFER_DOC = "Kernel buffer of the socket (the kernel doubles it, up to its own limit)."


def _mode() -> Any:
    return _option(0o600, _MODE_PARSER, _MODE_DOC, shown="0600")


def _allow_uids() -> Any:
    return _option((), _UIDS, _UIDS_DOC, shown="own uid only")


def _backlog() -> Any:
    return _option(128, _count(1, 65535, "connections"), _BACKLOG_DOC, shown="128")


def _buffer() -> Any:
    return _option(None, _size(1, 2**30), _BUFFER_DOC, shown="the machine's")


def _capacity(high: int, doc: str, *, round_to: int = 1) -> Any:
    return _option(MIB, _size(4096, high, round_to=round_to), doc, shown="1MiB")


def _queue() -> Any:
    doc = "A publisher's: what may wait for one slow subscriber; a single message always may."
    return _option(MIB, _size(1, 2**40), doc, shown="1MiB")


def _framing(*values: str) -> Any:
    doc = "naru: records. raw: bytes as they come. lines: a message is a line. Not naru: no hello."
    return _option("naru", _choice(*values), doc, shown="naru")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every transport understands."""

    transport: ClassVar[str] = ""

    wait: Literal["adaptive", "spin", "sleep"] = _option(
        "adaptive",
        _choice("adaptive", "spin", "sleep"),
        "How a wait is spent: adaptive spins for a learned while, then sleeps.",
        shown="adaptive",
    )
    max_message_bytes: int = _option(
        GIB,
        _size(1, MESSAGE_LIMIT_BYTES),
        "Larger messages are refused, on the way out and on the way in.",
        shown="1GiB",
    )
    handshake_timeout_s: float = _option(
        2.0,
        _seconds(0.01, 3600),
        "How long a new connection may take to say hello.",
        shown="2.0",
    )
    linger_s: float = _option(
        1.0,
        _seconds(0, 3600),
        "How long close() may push out the rest of an accepted message.",
        shown="1.0",
    )

    @classmethod
    def from_address(cls, address: Address) -> Self:
        """Reads the options of an address of this transport.

        Raises:
            BadAddressError: An option is unknown, or its value cannot be.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for name, text in address.options.items():
            if name not in fields:
                _refuse(address, _unknown(name, cls.transport, list(fields)))
            parser: _Parser = fields[name].metadata["parser"]
            values[name] = parser.read(text)
            if values[name] is None:
                shown = repr(shorten(text, 40))
                _refuse(address, f"option {name}={shown} must be {parser.expects}")
        return cls(**cls._adjust(address, values))

    @classmethod
    def _adjust(cls, address: Address, values: dict[str, Any]) -> dict[str, Any]:
        """For rules between options."""
        return values


@dataclass(frozen=True, kw_only=True)
class _Guarded(Settings):
    """For transports whose listener sees the uid of the other side."""

    mode: int = _mode()
    allow_uids: tuple[int, ...] | Literal["*"] = _allow_uids()
    backlog: int = _backlog()

    def permits(self, uid: int, own_uid: int) -> bool:
        """May a process of ``uid`` talk to this one of ``own_uid``?"""
        return self.allow_uids == "*" or uid == own_uid or uid in self.allow_uids


@dataclass(frozen=True, kw_only=True)
class PipeSettings(Settings):
    """``pipe:``"""

    transport: ClassVar[str] = "pipe"

    framing: Literal["naru", "raw", "lines"] = _framing("naru", "raw", "lines")
    capacity_bytes: int = _capacity(2**31 - 1, "Size of each pipe (fs.pipe-max-size limits it).")


@dataclass(frozen=True, kw_only=True)
class FifoSettings(Settings):
    """``fifo:///path``"""

    transport: ClassVar[str] = "fifo"

    framing: Literal["naru", "raw", "lines"] = _framing("naru", "raw", "lines")
    mode: int = _mode()
    capacity_bytes: int = _capacity(2**31 - 1, "Size of the pipe (fs.pipe-max-size limits it).")


@dataclass(frozen=True, kw_only=True)
class UnixSettings(_Guarded):
    """``unix:///path``, ``unix:@name``"""

    transport: ClassVar[str] = "unix"

    framing: Literal["naru", "raw", "lines"] = _framing("naru", "raw", "lines")
    datagram: bool = _option(
        False, _FLAG, "1: SOCK_DGRAM, such as a syslog socket; implies framing=raw.", shown="0"
    )
    send_buffer_bytes: int | None = _buffer()
    receive_buffer_bytes: int | None = _buffer()
    queue_bytes: int = _queue()

    @classmethod
    def _adjust(cls, address: Address, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("datagram") and values.setdefault("framing", "raw") != "raw":
            _refuse(address, f"datagram=1 goes with framing=raw, not framing={values['framing']}")
        return values


@dataclass(frozen=True, kw_only=True)
class ShmSettings(_Guarded):
    """``shm://name``, ``shm:///path``"""

    transport: ClassVar[str] = "shm"

    capacity_bytes: int = _capacity(
        2**36, "Size of each ring, rounded up to whole pages.", round_to=mmap.PAGESIZE
    )


@dataclass(frozen=True, kw_only=True)
class AutoSettings(_Guarded):
    """``auto://name``, ``auto:///path``"""

    transport: ClassVar[str] = "auto"

    capacity_bytes: int = _capacity(
        2**31 - 1,
        "Size of each ring (shm) and of each pipe, rounded up to whole pages.",
        round_to=mmap.PAGESIZE,
    )
    transports: tuple[str, ...] = _option(
        ("shm", "unix", "pipe", "tcp"),
        _words("shm", "unix", "pipe", "tcp"),
        "What may be chosen; both sides must have it.",
        shown="shm,unix,pipe,tcp",
    )
    needs: tuple[str, ...] = _option(
        (),
        _words("fds", "in-place"),
        "What the chosen transport must be able to do.",
        shown="nothing in particular",
    )
    moves: bool = _option(
        True,
        _FLAG,
        "The channel may move to a better transport while it runs (both sides must agree).",
        shown="1",
    )


@dataclass(frozen=True, kw_only=True)
class MqSettings(Settings):
    """``mq:///name``"""

    transport: ClassVar[str] = "mq"

    depth: int | None = _option(
        None,
        _count(1, 65536, "messages"),
        "Messages that the queue holds (fs.mqueue.msg_max limits it).",
        shown="10, or fs.mqueue.msg_max when that is less",
    )
    message_bytes: int | None = _option(
        None,
        _size(1, 16 * MIB),
        "Largest message of the queue (fs.mqueue.msgsize_max limits it).",
        shown="the machine's fs.mqueue.msgsize_max",
    )
    mode: int = _mode()


@dataclass(frozen=True, kw_only=True)
class TcpSettings(Settings):
    """``tcp://host:port``"""

    transport: ClassVar[str] = "tcp"

    framing: Literal["naru", "raw", "lines"] = _framing("naru", "raw", "lines")
    backlog: int = _backlog()
    heartbeat_s: float = _option(
        0.0,
        _seconds(0.1, 3600, or_zero=True),
        "A peer that is silent for so long is gone; both sides send when they have nothing to say.",
        shown="0",
    )
    keepalive_s: int = _option(
        60,
        _count(1, 32767, "seconds", or_zero=True),
        "Idle time after which the kernel probes the other machine.",
        shown="60",
    )
    nodelay: bool = _option(True, _FLAG, "1: TCP_NODELAY, small messages leave at once.", shown="1")
    coalesce: Literal["auto", "off"] = _option(
        "auto",
        _choice("auto", "off"),
        "auto: under load, small messages share segments.",
        shown="auto",
    )
    send_buffer_bytes: int | None = _buffer()
    receive_buffer_bytes: int | None = _buffer()
    queue_bytes: int = _queue()


@dataclass(frozen=True, kw_only=True)
class UdpSettings(Settings):
    """``udp://host:port``"""

    transport: ClassVar[str] = "udp"

    framing: Literal["naru", "raw"] = _framing("naru", "raw")
    heartbeat_s: float = _option(
        3.0,
        _seconds(0.1, 3600, or_zero=True),
        "A peer that is silent for so long is gone; both sides send when they have nothing to say.",
        shown="3.0",
    )
    send_buffer_bytes: int | None = _buffer()
    receive_buffer_bytes: int | None = _buffer()


_KINDS: tuple[type[Settings], ...] = (
    PipeSettings,
    FifoSettings,
    UnixSettings,
    ShmSettings,
    MqSettings,
    TcpSettings,
    UdpSettings,
    AutoSettings,
)
_BY_TRANSPORT: Mapping[str, type[Settings]] = MappingProxyType(
    {kind.transport: kind for kind in _KINDS}
)


def settings_for(address: Address) -> Settings:
    """The settings of an address: an instance of the class of its transport.

    Raises:
        BadAddressError: An option is unknown, or its value cannot be.
    """
    return _BY_TRANSPORT[address.transport].from_address(address)


def options_table(transport: str) -> list[tuple[str, str, str]]:
    """``(name, default, doc)`` of every option of a transport; doc ends with what is allowed."""
    rows = []
    for field in dataclasses.fields(_BY_TRANSPORT[transport]):
        doc = f"{field.metadata['doc']} Must be {field.metadata['parser'].expects}."
        rows.append((field.name, str(field.metadata["shown"]), doc))
    return rows


def _unknown(name: str, transport: str, known: list[str]) -> str:
    import difflib  # only on the way to an error

    near = difflib.get_close_matches(name, known, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return f"{transport} has no option {shorten(name, 40)!r}{guess}; it has {', '.join(known)}"


def _refuse(address: Address, wrong: str) -> NoReturn:
    shown = shorten(str(address))
    raise BadAddressError(f'address "{shown}": {wrong}', operation="parse", address=shown)
