"""Tags on a server: each tag has a key with a random token, and an entry that bears the tag has a copy.

    key     prefix + "\\0naru.tag\\0" + digest of the name in hexadecimal
    value   8 random bytes, which the first set() with the tag draws

evict_tag deletes that key: from then on no copy agrees with it, whatever comes. A token that is lost
(evicted by the server, not replicated before a failover) makes its entries be missed, and never makes
an evicted one be found.

Holds: TagKeys. Must not know: values. Joins: verbs.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from naru.cache.remote.link import Link
from naru.cache.remote.packing import TAGS_MOST, digest_of
from naru.cache.store import Tags

__all__ = ["Marks", "TagKeys"]

Marks = tuple[tuple[bytes, bytes], ...]
TOKEN_BYTES = 8


class TagKeys:
    """Tokens of tags, on one server."""

    def __init__(self, link: Link, prefix: bytes) -> None:
        self._link, self._prefix = link, prefix

    def key_of(self, digest: bytes) -> bytes:
        return self._prefix + digest.hex().encode()

    def marks(self, tags: Tags) -> Marks:
        """(digest, token) of each; tokens that are not there yet are drawn. Raises: ValueError."""
        names: Iterable[str | bytes] = (tags,) if isinstance(tags, str | bytes) else tags or ()
        digests = list(dict.fromkeys(digest_of(name) for name in names))
        if len(digests) > TAGS_MOST:
            raise ValueError(f"an entry has at most {TAGS_MOST} tags")
        if not digests:
            return ()
        tokens = self._link.values("cache.set", [self.key_of(digest) for digest in digests])
        return tuple(
            (digest, token or self._draw(digest))
            for digest, token in zip(digests, tokens, strict=True)
        )

    def _draw(self, digest: bytes) -> bytes:
        """Ours, or that of whoever was quicker."""
        key, token = self.key_of(digest), None
        while not token:
            _, token = self._link.together(
                "cache.set", [("SET", key, os.urandom(TOKEN_BYTES), "NX"), ("GET", key)]
            )
        return bytes(token)

    def alive(
        self, marks: Iterable[Marks], fetch: Callable[[list[bytes]], dict[bytes, bytes]]
    ) -> set[Marks]:
        """Those of which every token still stands."""
        asked = set(marks)
        keys = {self.key_of(digest) for one in asked for digest, _ in one}
        tokens = fetch(list(keys)) if keys else {}
        return {
            one
            for one in asked
            if all(tokens.get(self.key_of(digest)) == token for digest, token in one)
        }
