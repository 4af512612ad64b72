"""Where a cache of another machine is: pure functions over text.

    redis://[user:password@]host[:port][/db][?option=value]      rediss:// with TLS
    redis+unix:///path[?db=1]                                    unix:// is the same
    redis+cluster://host[:port][,host[:port] ...]                rediss+cluster:// with TLS

valkey:// and its kin are the same with another name. Options are those of redis-py's URLs, such as
`?ssl_ca_certs=/etc/ca.pem`; what is not of redis-py is refused when the cache is opened.

Holds: Place, place_of. Must not know: redis-py. Joins: link.py connects to a Place.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from naru.errors import BadAddressError

__all__ = ["Place", "place_of"]

PORT = 6379
_SCHEMES = {
    "redis": ("redis", False),
    "rediss": ("rediss", False),
    "unix": ("unix", False),
    "redis+unix": ("unix", False),
    "redis+cluster": ("redis", True),
    "rediss+cluster": ("rediss", True),
}


@dataclass(frozen=True)
class Place:
    """A server, or some nodes of a cluster."""

    shown: str
    """Without the password: for errors and repr."""
    url: str
    """As redis-py takes it; of the first host."""
    hosts: tuple[tuple[str, int], ...]
    """Empty: a Unix socket."""
    is_cluster: bool
    user: str
    database: str


def place_of(url: str) -> Place:
    """Raises: BadAddressError: no such scheme, no host, a port or a database that cannot be."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme.replace("valkey", "redis")
        scheme, is_cluster = _SCHEMES[plain]
    except KeyError:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise _bad(url, f"a cache on a server begins with one of {known}") from None
    except ValueError as error:
        raise _bad(url, str(error)) from error
    login, at, places = parts.netloc.rpartition("@")
    user = unquote(login.partition(":")[0])
    shown = f"{parts.scheme}://{f'{user}@' if user else ''}{places}{parts.path}"
    query = dict(parse_qsl(parts.query))
    if scheme == "unix":
        if not parts.path.startswith("/") or places:
            raise _bad(
                shown, "a socket's path begins with three slashes: redis+unix:///run/redis.sock"
            )
        return Place(shown, _joined(parts, "unix", parts.netloc, parts.path), (), False, user,
                     _database(shown, query.get("db", "0")))  # fmt: skip
    database = _database(shown, query.get("db") or parts.path.strip("/") or "0")
    if is_cluster and database != "0":
        raise _bad(shown, "a cluster has no databases: only 0")
    hosts = tuple(_host(shown, one) for one in places.split(","))
    host, port = hosts[0]
    host = f"[{host}]" if ":" in host else host
    path = "" if is_cluster else parts.path
    return Place(shown, _joined(parts, scheme, f"{login}{at}{host}:{port}", path), hosts, is_cluster,
                 user, database)  # fmt: skip


def _joined(parts: SplitResult, scheme: str, netloc: str, path: str) -> str:
    query = f"?{parts.query}" if parts.query else ""
    return f"{scheme}://{netloc}{path}{query}"


def _database(shown: str, text: str) -> str:
    if not (text.isascii() and text.isdecimal()):
        raise _bad(shown, f"a database is a number, not {text!r}")
    return str(int(text))


def _host(shown: str, text: str) -> tuple[str, int]:
    try:
        one = urlsplit(f"//{text}")
        host, port = one.hostname, one.port
    except ValueError as error:
        raise _bad(shown, f"{text!r}: {error}") from error
    if not host or one.path or one.query:
        raise _bad(shown, f"{text!r} is no host or host:port")
    return host, PORT if port is None else port


def _bad(shown: str, said: str) -> BadAddressError:
    if "@" in shown:  # whatever stands before it may be a password
        head, _, tail = shown.rpartition("@")
        shown = f"{head.partition('://')[0]}://...@{tail}"
    return BadAddressError(f'cache.open "{shown}": {said}', operation="cache.open", address=shown)
