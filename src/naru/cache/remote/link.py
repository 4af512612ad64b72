"""One server or cluster through redis-py: commands go out, errors come back as naru's, and what may be
repeated is, while the server is away.

Holds: Link. Must not know: what the commands are for. Joins: verbs.py, leases.py, listening.py; redis-py
keeps the connections, finds a cluster's nodes and follows MOVED.

redis-py repeats a command itself after an error of the connection, whatever it is: an INCR may then
count twice. So its own repeating is off, and each call here says whether it may come `again`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from naru import errors
from naru.cache.remote.addresses import Place
from naru.errors import BadAddressError, ClosedError, NaruError, PeerGoneError, ProtocolError

__all__ = ["Link"]

Command = tuple[Any, ...]

BATCH = 512
"""Commands that go out together: enough that the way does not count, and few enough for the server's
other clients."""
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5
_GLOB = re.compile(rb"([*?\[\]\\^])")


def _load_redis() -> Any:
    try:
        import redis
    except ImportError:
        raise ImportError(
            "a cache on a Redis or Valkey server needs redis-py: pip install 'naru-ipc[cluster]'",
            name="redis",
        ) from None
    return redis


class Link:
    """Args: as RemoteCache.open()."""

    def __init__(
        self, place: Place, timeout_s: float, failover_s: float, options: dict[str, Any]
    ) -> None:
        self._redis = _load_redis()
        known = self._redis.exceptions
        self._kinds = (known.RedisError, known.RedisClusterException, OSError)
        self.place, self.timeout_s, self.failover_s = place, timeout_s, failover_s
        self.repeated = 0
        self._closed = False
        self._client = self._attempt("cache.open", lambda: self._connect(options), again=False)

    def _connect(self, options: dict[str, Any]) -> Any:
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        settings = {
            "socket_timeout": self.timeout_s,
            "socket_connect_timeout": self.timeout_s,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            **options,
        }
        try:
            if not self.place.is_cluster:
                client = self._redis.Redis.from_url(self.place.url, **settings)
                client.execute_command("PING")
                return client
            from redis.cluster import ClusterNode, RedisCluster

            settings |= {"require_full_coverage": False}
            if len(self.place.hosts) > 1:  # with one, redis-py adds the URL's itself
                settings["startup_nodes"] = [
                    ClusterNode(*host)  # type: ignore[no-untyped-call,unused-ignore]
                    for host in self.place.hosts
                ]
            return RedisCluster.from_url(self.place.url, **settings)
        except (TypeError, ValueError) as error:
            raise BadAddressError(
                f'cache.open "{self.place.shown}": redis-py refuses the options: {error}',
                operation="cache.open",
                address=self.place.shown,
            ) from error

    # ---- commands ----

    def call(self, operation: str, *command: Any, again: bool = True) -> Any:
        """One command of one key.

        Args:
            again: it may be done twice: repeated after an error of the connection, too. What the
                server itself did not begin (it is loading, its master is being elected) always is.
        """
        return self._attempt(operation, lambda: self._client.execute_command(*command), again)

    def batch(self, operation: str, commands: list[Command], *, again: bool = True) -> list[Any]:
        """Many commands, each by itself: in a cluster each goes to its node."""
        answers: list[Any] = []
        for begin in range(0, len(commands), BATCH):
            part = commands[begin : begin + BATCH]
            answers += self._attempt(operation, lambda part=part: self._piped(part, False), again)  # type: ignore[misc]
        return answers

    def together(self, operation: str, commands: list[Command], *, again: bool = True) -> list[Any]:
        """Commands of one key that others see as one (MULTI, EXEC)."""
        answers: list[Any] = self._attempt(operation, lambda: self._piped(commands, True), again)
        return answers

    def _piped(self, commands: list[Command], atomic: bool) -> list[Any]:
        with self._client.pipeline(transaction=atomic) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = pipe.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def values(self, operation: str, keys: list[bytes]) -> list[bytes | None]:
        """Of many keys, in their order."""
        if self.place.is_cluster:
            return self._attempt(operation, lambda: self._client.mget_nonatomic(keys), True)  # type: ignore[no-any-return]
        values: list[bytes | None] = []
        for begin in range(0, len(keys), BATCH):
            values += self.call(operation, "MGET", *keys[begin : begin + BATCH])
        return values

    def change(
        self,
        operation: str,
        key: bytes,
        decide: Callable[[bytes | None], tuple[Any, list[Command]]],
    ) -> Any:
        """Read, decide, write, as often as others wrote in between (WATCH).

        Args:
            decide: given what stands there, gives the answer and the commands that make it true; none:
                it is left as it is.
        """
        begun: list[bool] = []

        def attempt() -> Any:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.watch(key)
                answer, commands = decide(pipe.execute_command("GET", key))
                if commands:
                    pipe.multi()
                    for command in commands:
                        pipe.execute_command(*command)
                    begun.append(True)
                    pipe.execute()
                return answer

        while True:
            begun.clear()
            try:
                return self._attempt(operation, attempt, lambda: not begun)
            except self._redis.WatchError:
                pass  # another wrote it in between: what we decided was about an old value

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """All that begin so, of all nodes, in no order; a key may come twice while tables grow."""
        pattern = _GLOB.sub(rb"\\\1", prefix) + b"*"
        try:
            yield from self._open().scan_iter(match=pattern, count=BATCH)
        except self._kinds as error:
            raise self._said(error, "cache.scan") from error

    def each(self, operation: str, *command: Any) -> list[Any]:
        """The same command to the server, or to every master of the cluster."""

        def ask() -> list[Any]:
            return [server.execute_command(*command) for server in self.servers()]

        answers: list[Any] = self._attempt(operation, ask, True)
        return answers

    def servers(self) -> list[Any]:
        """redis-py's client of the server, or of each master of the cluster as far as it is known."""
        client = self._open()
        if not self.place.is_cluster:
            return [client]
        return [client.get_redis_connection(node) for node in client.get_primaries()]

    def look_for_nodes(self) -> list[str]:
        """Asks the cluster again who its masters are. Returns: their names; of a single server none."""
        if not self.place.is_cluster:
            return []
        client = self._open()
        self._attempt("cache.nodes", client.nodes_manager.initialize, again=False)
        return sorted(node.name for node in client.get_primaries())

    def tracking_connections(self) -> list[Any]:
        """A new connection to each server, not connected yet, which understands pushes (RESP3)."""
        connections = []
        for server in self.servers():
            pool = server.connection_pool
            settings = {k: v for k, v in pool.connection_kwargs.items() if "maint" not in k}
            connections.append(pool.connection_class(**{**settings, "protocol": 3}))
        return connections

    def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            pools = (
                [self._client.connection_pool]
                if not self.place.is_cluster
                else [
                    node.redis_connection.connection_pool
                    for node in self._client.get_nodes()
                    if node.redis_connection is not None
                ]
            )
            self._client.close()
            for pool in pools:  # a cluster's client lets go of them without closing them
                pool.disconnect()

    # ---- errors ----

    def _open(self) -> Any:
        if self._closed:
            raise ClosedError(f'cache "{self.place.shown}": closed on this side', operation="cache",
                              address=self.place.shown)  # fmt: skip
        return self._client

    def _attempt(
        self, operation: str, function: Callable[[], Any], again: bool | Callable[[], bool]
    ) -> Any:
        pause_s, until_s = FIRST_PAUSE_S, 0.0
        while True:
            if operation != "cache.open":
                self._open()
            try:
                return function()
            except self._redis.WatchError:
                raise
            except self._kinds as error:
                if isinstance(error, NaruError):
                    raise
                now_s = time.monotonic()
                until_s = until_s or now_s + self.failover_s
                if operation == "cache.open" or now_s + pause_s > until_s:
                    raise self._said(error, operation) from error
                if not self._was_not_begun(error) and not (
                    self._is_of_connection(error) and (again() if callable(again) else again)
                ):
                    raise self._said(error, operation) from error
            self.repeated += 1
            time.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    def _is_of_connection(self, error: Exception) -> bool:
        redis = self._redis
        if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
            return False
        return isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)

    def _was_not_begun(self, error: BaseException) -> bool:
        """The server said so, or nobody was there to say anything."""
        known = self._redis.exceptions
        if isinstance(error, known.ReadOnlyError) and not self.place.is_cluster:
            self._client.connection_pool.disconnect()  # its name may stand for another one now
        kinds = (
            known.BusyLoadingError, known.ClusterDownError, known.TryAgainError, known.AskError,
            known.ReadOnlyError, known.SlotNotCoveredError,
        )  # fmt: skip
        return isinstance(error, kinds) or isinstance(error.__context__, ConnectionRefusedError)

    def _said(self, error: Exception, operation: str) -> NaruError:
        """The error of naru for one of redis-py; returned, not raised."""
        known, shown = self._redis.exceptions, self.place.shown
        text = str(error)
        leaf, said = _leaf_of(error, known)
        if leaf is PeerGoneError and operation != "cache.open":
            said = "it may have been done, or not" if not self._was_not_begun(error) else ""
        return leaf(
            f'{operation} "{shown}": {text}' + (f"; {said}" if said else ""),
            errno=getattr(error.__context__, "errno", None),
            operation=operation,
            address=shown,
        )


def _leaf_of(error: Exception, known: Any) -> tuple[type[NaruError], str]:
    """Which error of naru it is, and what to do about it."""
    table: Iterable[tuple[Any, type[NaruError], str]] = (
        ((known.AuthenticationError, known.AuthorizationError, known.NoPermissionError),
         errors.NotPermittedError, "the server's users and passwords decide (user:password@ in the URL)"),
        (known.MaxConnectionsError, errors.LimitError, "raise max_connections"),
        (known.TimeoutError, errors.TimedOutError, "it may have been done, or not: timeout_s"),
        (known.OutOfMemoryError, errors.NoSpaceError, "maxmemory of the server, or its policy, is to blame"),
        ((known.ConnectionError, known.ClusterDownError, known.TryAgainError, known.AskError,
          known.ReadOnlyError, known.RedisClusterException, OSError), PeerGoneError, "is the server there?"),
        (known.InvalidResponse, ProtocolError, "it does not speak Redis' protocol"),
    )  # fmt: skip
    for kinds, leaf, said in table:
        if isinstance(error, kinds):
            return leaf, said
    text = str(error)
    if text.startswith("WRONGTYPE"):
        return ProtocolError, "another program keeps a list, a set or a hash under this key"
    if text.startswith("OOM"):
        return errors.NoSpaceError, "maxmemory of the server, or its policy, is to blame"
    if text.startswith(("NOAUTH", "NOPERM", "WRONGPASS")):
        return errors.NotPermittedError, "the server's users and passwords decide"
    return NaruError, ""
