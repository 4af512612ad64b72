"""Addresses: one parser, one ``Address``, and every bad one refused before anything is created.

::

    pipe:                                         pairs only
    fifo:///run/jobs.fifo
    unix:///run/jobs.sock    unix:@jobs           a path, or an abstract name
    shm://jobs               shm:///run/jobs      a name in the runtime directory, or a path
    mq:///jobs
    tcp://127.0.0.1:7000     udp://[::1]:7000
    auto://jobs              auto:///run/jobs     whatever is the best way there
    <any of them>?wait=spin&max_message_bytes=1MiB

Holds: the grammar, and the limits that the kernel sets to names (unix(7), mq_overview(7)).
Must not know: what an option means (settings.py), or whether a place exists; it touches no file.
Joins: ``settings.settings_for(address)`` reads the options, a transport the rest.
Source: RFC 3986 for the shape, RFC 6874 for zones of IPv6.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn

from naru.errors import BadAddressError

__all__ = ["TRANSPORTS", "Address", "parse", "parse_pair", "shorten"]

TEXT_LIMIT_CHARS = 4096
SHOWN_CHARS = 80
PATH_LIMIT_BYTES = 4095  # PATH_MAX with its NUL
SEGMENT_LIMIT_BYTES = 255  # NAME_MAX
SOCKET_PATH_LIMIT_BYTES = 107  # sun_path is 108, with a NUL before (abstract) or after
QUEUE_NAME_LIMIT = 254  # NAME_MAX, less the slash

EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "pipe": "pipe:",
        "fifo": "fifo:///run/jobs.fifo",
        "unix": "unix:///run/jobs.sock or unix:@jobs",
        "shm": "shm://jobs or shm:///run/jobs",
        "mq": "mq:///jobs",
        "tcp": "tcp://127.0.0.1:7000",
        "udp": "udp://127.0.0.1:7000",
        "auto": "auto://jobs or auto:///run/jobs",
    }
)
TRANSPORTS: tuple[str, ...] = tuple(EXAMPLES)
PAIR_TRANSPORTS: tuple[str, ...] = ("shm", "unix", "pipe", "tcp", "udp")

_OPTION_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RENDEZVOUS_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_HOST_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")  # resolvers read such a last label as IPv4
_ZONE = re.compile(r"[A-Za-z0-9._-]{1,15}")  # an interface: IFNAMSIZ less the NUL
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/:@,*+")


@dataclass(frozen=True)
class Address:
    """A parsed address. ``str()`` gives its canonical text; equal addresses have equal texts.

    Attributes:
        transport: One of ``TRANSPORTS``.
        path: Absolute path (fifo, unix, shm), else None.
        host: Lower case; IPv6 without brackets (tcp, udp), else None.
        port: 0..65535 (tcp, udp), else None.
        name: What is no path: shm's name, mq's name *with* its slash, an abstract name without NUL.
        abstract: True for ``unix:@name``.
        options: The query, undecided; ``settings_for()`` reads it. Read only.
    """

    transport: str
    path: str | None = None
    host: str | None = None
    port: int | None = None
    name: str | None = None
    abstract: bool = False
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy does not pickle, and addresses travel with channels to other processes.
        fields = (self.transport, self.path, self.host, self.port, self.name, self.abstract)
        return type(self), (*fields, dict(self.options))

    def __str__(self) -> str:
        query = "&".join(f"{key}={_quote(self.options[key])}" for key in sorted(self.options))
        return self._place() + ("?" + query if query else "")

    @property
    def display(self) -> str:
        """For a repr or a table: without the options, at most 80 printable characters."""
        return shorten(self._place())

    def _place(self) -> str:
        if self.host is not None:
            host = "[" + self.host.replace("%", "%25") + "]" if ":" in self.host else self.host
            return f"{self.transport}://{host}:{self.port}"
        if self.abstract:
            return f"{self.transport}:@{_quote(self.name or '')}"
        place = self.path or self.name
        return f"{self.transport}:" + ("//" + _quote(place) if place else "")


def parse(text: str | Address) -> Address:
    """Reads an address. Touches nothing outside this process.

    Args:
        text: At most 4096 characters. An Address passes unchanged.

    Raises:
        BadAddressError: It cannot be; the text says what is wrong and shows a correct one.
    """
    if isinstance(text, Address):
        return text
    transport, rest, options = _split(text, TRANSPORTS)
    if transport is None:
        start = text.partition("?")[0]
        _refuse(text, f"{start!r} alone names no place", start)
    address = Address(transport, options=options, **_PLACES[transport](text, rest))
    if len(str(address)) > TEXT_LIMIT_CHARS:  # or else its own text could not be read again
        _refuse(text, f"above {TEXT_LIMIT_CHARS} characters once percent-encoded", transport)
    return address


def parse_pair(text: str | Address) -> Address:
    """Reads what ``naru.pair()`` takes: ``"shm"``, ``"shm:"`` or ``"shm:?capacity_bytes=65536"``.

    Raises:
        BadAddressError: It cannot be, or names a place: both ends of a pair are born together and
            nobody else can find them.
    """
    if isinstance(text, Address):
        text = str(text)
    transport, rest, options = _split(text, PAIR_TRANSPORTS)
    if transport is None:
        transport = text.partition("?")[0]
    elif rest:
        _refuse(text, "a pair has no name and no place", transport, f"{transport}:")
    if transport not in PAIR_TRANSPORTS:
        known = ", ".join(PAIR_TRANSPORTS)
        _refuse(text, f"there are pairs of {known} only", "shm", "shm:?capacity_bytes=65536")
    return Address(transport, options=options)


def shorten(text: str, limit_chars: int = SHOWN_CHARS) -> str:
    """At most ``limit_chars`` characters of the text, fit to be printed anywhere."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text[: limit_chars + 1]
    )
    return shown if len(shown) <= limit_chars else shown[: limit_chars - 3] + "..."


def _refuse(text: str, wrong: str, transport: str = "", example: str | None = None) -> NoReturn:
    example = example or EXAMPLES.get(transport, "unix:///run/jobs.sock?mode=0660")
    raise BadAddressError(
        f'address "{shorten(text)}": {wrong}; write it like {example}',
        operation="parse",
        address=shorten(text),
    )


def _split(text: str, known: tuple[str, ...]) -> tuple[str | None, str, dict[str, str]]:
    """Scheme, undecoded rest and options; scheme None when there is a transport's name only."""
    if not isinstance(text, str):
        raise TypeError(f"an address is a str or an Address, not {type(text).__name__}")
    _check_text(text)
    place, mark, query = text.partition("?")
    scheme, colon, rest = place.partition(":")
    if scheme not in TRANSPORTS:
        shown = repr(shorten(scheme, 20))
        wrong = f"{shown} is not a transport" if colon else "there is no transport before a ':'"
        example = "" if known is TRANSPORTS else "shm:?capacity_bytes=65536"
        _refuse(text, f"{wrong} (known: {', '.join(known)})", example=example)
    options = _read_options(text, query, scheme) if mark else {}
    return (scheme if colon else None), rest, options


def _check_text(text: str) -> None:
    if not text:
        _refuse(text, "it is empty")
    if len(text) > TEXT_LIMIT_CHARS:
        _refuse(text, f"{len(text)} characters, at most {TEXT_LIMIT_CHARS}")
    if text != text.strip():
        _refuse(text, "white space at its ends")
    if _CONTROL.search(text):
        _refuse(text, "a control character")
    if "#" in text:
        _refuse(text, "an address has no fragment (a '#' that belongs to a name is %23)")


def _read_options(text: str, query: str, transport: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in query.split("&"):
        name, _, value = item.partition("=")
        if not _OPTION_NAME.fullmatch(name) or not value:
            wrong = f"{shorten(item, 40)!r} is not an option"
            example = EXAMPLES[transport].split()[0] + "?wait=spin&max_message_bytes=1MiB"
            _refuse(text, wrong, transport, example)
        if name in options:
            _refuse(text, f"option {shorten(name, 40)!r} twice", transport)
        options[name] = _decode(text, value, transport, strict=True)
    return options


def _decode(text: str, part: str, transport: str, *, strict: bool) -> str:
    """Percent-decodes. Not strict: bytes that are no UTF-8 become surrogates (os.fsdecode)."""
    errors = "strict" if strict else "surrogateescape"
    try:
        raw = part.encode("utf-8", errors)
        if _BAD_PERCENT.search(raw):
            _refuse(text, "'%' without two hexadecimal digits (a '%' itself is %25)", transport)
        raw = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), raw)
        decoded = raw.decode("utf-8", errors)
    except UnicodeError:
        _refuse(text, "it is not valid Unicode", transport)
    if _CONTROL.search(decoded):
        _refuse(text, "a control character (percent-encoded)", transport)
    return decoded


def _quote(text: str) -> str:
    # Letters of every script stay readable; what the grammar needs, or nobody can see, does not.
    return "".join(
        char
        if char in _PLAIN or (char > "\x9f" and char.isprintable())
        else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))
        for char in text
    )


def _read_path(text: str, part: str, transport: str, limit_bytes: int) -> str:
    path = _decode(text, part, transport, strict=False)
    segments = path.split("/")
    if not path.startswith("/"):
        _refuse(text, "the path is relative: three slashes, then the path", transport)
    if ".." in segments:
        _refuse(text, "'..' in the path", transport)
    if segments[-1] in ("", "."):
        _refuse(text, "the path is a directory", transport)
    # One place, one spelling: locks and equality go by the text.
    segments = [segment for segment in segments if segment not in ("", ".")]
    path = "/" + "/".join(segments)
    size_bytes = len(path.encode("utf-8", "surrogateescape"))
    if size_bytes > limit_bytes:
        _refuse(text, f"the path has {size_bytes} bytes, at most {limit_bytes}", transport)
    if any(len(s.encode("utf-8", "surrogateescape")) > SEGMENT_LIMIT_BYTES for s in segments):
        _refuse(text, f"a name in the path is above {SEGMENT_LIMIT_BYTES} bytes", transport)
    return path


def _after_slashes(text: str, rest: str, transport: str) -> str:
    if not rest.startswith("//"):
        _refuse(text, f"'//' is missing after '{transport}:'", transport)
    return rest[2:]


def _read_pipe(text: str, rest: str) -> dict[str, Any]:
    if rest:
        _refuse(text, "a pipe has no name", "pipe")
    return {}


def _read_fifo(text: str, rest: str) -> dict[str, Any]:
    return {"path": _read_path(text, _after_slashes(text, rest, "fifo"), "fifo", PATH_LIMIT_BYTES)}


def _read_unix(text: str, rest: str) -> dict[str, Any]:
    if not rest.startswith("@"):
        part = _after_slashes(text, rest, "unix")
        return {"path": _read_path(text, part, "unix", SOCKET_PATH_LIMIT_BYTES)}
    name = _decode(text, rest[1:], "unix", strict=False)
    size_bytes = len(name.encode("utf-8", "surrogateescape"))
    if not 1 <= size_bytes <= SOCKET_PATH_LIMIT_BYTES:
        limit = f"1 to {SOCKET_PATH_LIMIT_BYTES}"
        _refuse(text, f"an abstract name has {limit} bytes, this one {size_bytes}", "unix")
    return {"name": name, "abstract": True}


def _read_shm(text: str, rest: str) -> dict[str, Any]:
    return _read_rendezvous(text, rest, "shm")


def _read_auto(text: str, rest: str) -> dict[str, Any]:
    return _read_rendezvous(text, rest, "auto")


def _read_rendezvous(text: str, rest: str, transport: str) -> dict[str, Any]:
    part = _after_slashes(text, rest, transport)
    if part.startswith("/"):
        return {"path": _read_path(text, part, transport, SOCKET_PATH_LIMIT_BYTES)}
    name = _decode(text, part, transport, strict=True)
    if not _RENDEZVOUS_NAME.fullmatch(name):
        allowed = "1 to 100 of A-Z a-z 0-9 . _ - and does not begin with '.'"
        _refuse(
            text,
            f"{'an' if transport == 'auto' else 'a'} {transport} name has {allowed}",
            transport,
        )
    return {"name": name}


def _read_mq(text: str, rest: str) -> dict[str, Any]:
    name = _decode(text, _after_slashes(text, rest, "mq"), "mq", strict=True)
    if not name.startswith("/") or "/" in name[1:]:
        _refuse(text, "a queue's name has exactly one slash, before it", "mq")
    size_bytes = len(name.encode()) - 1
    if not 1 <= size_bytes <= QUEUE_NAME_LIMIT:
        limit = f"1 to {QUEUE_NAME_LIMIT}"
        _refuse(
            text, f"a queue's name has {limit} bytes after its slash, this one {size_bytes}", "mq"
        )
    if name in ("/.", "/.."):
        _refuse(text, f"a queue cannot be called {name[1:]!r}", "mq")
    return {"name": name}


def _read_tcp(text: str, rest: str) -> dict[str, Any]:
    return _read_host_and_port(text, rest, "tcp")


def _read_udp(text: str, rest: str) -> dict[str, Any]:
    return _read_host_and_port(text, rest, "udp")


def _read_host_and_port(text: str, rest: str, transport: str) -> dict[str, Any]:
    part = _after_slashes(text, rest, transport)
    if "@" in part:
        _refuse(text, "there are no users and passwords here", transport)
    if "/" in part:
        _refuse(text, "a path after the port", transport)
    if part.startswith("["):
        inside, bracket, after = part[1:].partition("]")
        if not bracket:
            _refuse(text, "']' is missing", transport, f"{transport}://[::1]:7000")
        host = _read_ipv6(text, inside, transport)
    else:
        inside, colon, port_text = part.partition(":")
        after = colon + port_text
        if ":" in port_text:
            _refuse(text, "IPv6 goes in brackets", transport, f"{transport}://[::1]:7000")
        host = _read_host(text, inside, transport)
    if not after.startswith(":") or len(after) == 1:
        _refuse(text, "the port is missing", transport)
    if not _PORT.fullmatch(after[1:]) or int(after[1:]) > 65535:
        shown = repr(shorten(after[1:], 20))
        _refuse(text, f"{shown} is no port (0 to 65535, decimal, no leading zero)", transport)
    return {"host": host, "port": int(after[1:])}


def _read_host(text: str, host: str, transport: str) -> str:
    if not host:
        _refuse(text, "the host is missing", transport)
    host = host.lower() if host.isascii() else host
    labels = host.split(".")
    if len(host) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        shown = repr(shorten(host, 40))
        _refuse(text, f"{shown} is no host (ASCII letters, digits, '-' and '.')", transport)
    # 127.1, 0x7f.0.0.1 and 010.0.0.1 mean different machines to different resolvers.
    if _NUMBER_LABEL.fullmatch(labels[-1]) and _to_packed(host, ipv6=False) is None:
        _refuse(text, f"{shorten(host, 40)!r} is no IPv4 number (four decimal parts)", transport)
    return host


def _read_ipv6(text: str, inside: str, transport: str) -> str:
    decoded = _decode(text, inside, transport, strict=True)
    number, percent, zone = decoded.partition("%")
    packed = _to_packed(number, ipv6=True)
    if packed is None or (percent and not _ZONE.fullmatch(zone)):
        wrong = f"{shorten(decoded, 40)!r} is no IPv6 number"
        _refuse(text, wrong, transport, f"{transport}://[::1]:7000")
    import socket

    return socket.inet_ntop(socket.AF_INET6, packed) + percent + zone


def _to_packed(number: str, *, ipv6: bool) -> bytes | None:
    import socket  # late: most addresses of one machine need none of it

    try:
        return socket.inet_pton(socket.AF_INET6 if ipv6 else socket.AF_INET, number)
    except (OSError, ValueError):
        return None


_PLACES: Mapping[str, Callable[[str, str], dict[str, Any]]] = MappingProxyType(
    {
        "pipe": _read_pipe,
        "fifo": _read_fifo,
        "unix": _read_unix,
        "shm": _read_shm,
        "mq": _read_mq,
        "tcp": _read_tcp,
        "udp": _read_udp,
        "auto": _read_auto,
    }
)
