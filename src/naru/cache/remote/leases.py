"""Claims on a server: turns to make a value, and locks by name.

    key     prefix + "\\0naru.claim\\0" + what is claimed
    value   who: 16 random bytes of this process and a number of its, as text

A claim lasts as long as its owner lives and can say so: it is a lease of `lease_s` that a thread of the
owner renews at a third of it. A killed owner's claim ends with the lease. With a ttl_s of its own it is
not renewed. It is given back, and renewed, by the two scripts that redis-py's own Lock uses, so a server
that knows no other script serves too.

Holds: Leases. Must not know: values. Joins: RemoteBase's _claim, _give_back, _await_claim.
"""

from __future__ import annotations

import os
import threading
import time

from naru.cache.remote.forking import begins_in_each_process
from naru.cache.remote.link import Link
from naru.errors import NaruError

__all__ = ["Leases"]

_RELEASE = """
        local token = redis.call('get', KEYS[1])
        if not token or token ~= ARGV[1] then
            return 0
        end
        redis.call('del', KEYS[1])
        return 1
    """
_REACQUIRE = """
        local token = redis.call('get', KEYS[1])
        if not token or token ~= ARGV[1] then
            return 0
        end
        redis.call('pexpire', KEYS[1], ARGV[2])
        return 1
    """
FIRST_LOOK_S = 0.005
LONGEST_LOOK_S = 0.1
"""A waiter asks the server so often at least: a claim that ended rings nobody on another machine."""


class Leases:
    """The claims of this handle in this process.

    Args:
        prefix: of the keys that stand for claims.
        lease_s: how long the claim of a process outlives it.
    """

    def __init__(self, link: Link, prefix: bytes, lease_s: float) -> None:
        self._link, self._prefix, self.lease_s = link, prefix, lease_s
        begins_in_each_process(self)

    def _begin_process(self) -> None:
        """Also in a forked child: what its parent holds is not its own."""
        self._me = os.urandom(16).hex()
        self._held: dict[bytes, str] = {}
        self._changed = threading.Condition()
        self._keeper: threading.Thread | None = None
        self._closed = False

    def _owner(self, number: int) -> str:
        return f"{self._me}:{number}"

    def claim(self, key: bytes, number: int, ttl_s: float | None) -> bool:
        """True: it is ours now, or was before."""
        owner, name = self._owner(number), self._prefix + key
        ms = max(1, int((self.lease_s if ttl_s is None else ttl_s) * 1000))
        # An answer that was lost on its way may have been the one that gave it to us: the second asks.
        if not (
            self._link.call("cache.claim", "SET", name, owner, "NX", "PX", ms)
            or self._link.call("cache.claim", "EVAL", _REACQUIRE, 1, name, owner, ms)
        ):
            return False
        if ttl_s is None:
            self._keep(name, owner)
        return True

    def give_back(self, key: bytes, number: int) -> bool:
        """False: it was not ours any more."""
        owner, name = self._owner(number), self._prefix + key
        with self._changed:
            if self._held.get(name) == owner:
                del self._held[name]
        return bool(
            self._link.call("cache.give_back", "EVAL", _RELEASE, 1, name, owner, again=False)
        )

    def wait(self, key: bytes, most_s: float) -> None:
        """Until nobody has it, or most_s went by."""
        until_s = time.monotonic() + most_s
        pause_s = FIRST_LOOK_S
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(pause_s, left_s))
            if not self._link.call("cache.await", "EXISTS", self._prefix + key):
                return
            pause_s = min(LONGEST_LOOK_S, pause_s * 1.5)

    def close(self) -> None:
        """Renews nothing any more: what is still held ends with its lease."""
        with self._changed:
            self._closed = True
            self._held.clear()
            self._changed.notify()
            keeper = self._keeper
        if keeper is not None:
            keeper.join(self._link.timeout_s)

    # ---- renewing ----

    def _keep(self, name: bytes, owner: str) -> None:
        with self._changed:
            self._held[name] = owner
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._renew, name="naru leases", daemon=True)
                self._keeper.start()

    def _renew(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, self.lease_s / 3)
                if self._closed or not self._held:
                    self._keeper = None
                    return
                held = list(self._held.items())
            for name, owner in held:
                self._renew_one(name, owner)

    def _renew_one(self, name: bytes, owner: str) -> None:
        ms = int(self.lease_s * 1000)
        try:
            ours = self._link.call(
                "cache.renew", "EVAL", _REACQUIRE, 1, name, owner, ms, again=False
            )
        except NaruError:
            return  # the next round may come through before the lease ends
        with self._changed:
            if not ours and self._held.get(name) == owner:
                del self._held[name]  # lost: release() and renew() will say so
