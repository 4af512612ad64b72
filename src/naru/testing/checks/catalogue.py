"""What a check is: a promise that can be tried out on any transport.

Holds: Check, and the decorator that makes one from a function.
Must not know: the checks themselves (conformance.py gathers them).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from naru.testing.checks.stage import Stage
from naru.testing.subject import TransportUnderTest

__all__ = ["Check", "check"]

_NEEDS = {
    "channel": lambda under_test: under_test.is_channel,
    "fan_in": lambda under_test: under_test.is_fan_in,
    "listener": lambda under_test: under_test.is_listening,
}


@dataclass(frozen=True)
class Check:
    """One promise. Call it with a TransportUnderTest: AssertionError when it is broken."""

    name: str
    needs: tuple[str, ...]
    """Traits and shapes without which there is nothing to try."""
    body: Callable[[Stage], None]

    @property
    def promise(self) -> str:
        """In words."""
        return inspect.cleandoc(self.body.__doc__ or "")

    def missing(self, under_test: TransportUnderTest) -> str | None:
        """Why it does not apply to this transport; None when it does."""
        for need in self.needs:
            wanted, name = not need.startswith("not "), need.removeprefix("not ")
            has = _NEEDS[name](under_test) if name in _NEEDS else getattr(under_test, name)
            if has != wanted:
                return f"{under_test.name} has {'no ' if wanted else ''}{name}"
        return None

    def __call__(self, under_test: TransportUnderTest) -> None:
        """Tries it. Raises AssertionError, or whatever the transport raised."""
        with Stage(under_test) as stage:
            self.body(stage)

    def __repr__(self) -> str:
        return f"<Check {self.name}>"


def check(*needs: str, streams: bool = False) -> Callable[[Callable[[Stage], None]], Check]:
    """Makes a check of a function; its name and docstring are the check's.

    Args:
        needs: traits of TransportUnderTest, "channel", "fan_in" or "listener"; "not x" the absence.
        streams: tried on transports without boundaries, too.
    """

    def make(body: Callable[[Stage], None]) -> Check:
        needed = needs if streams else ("boundaries", *needs)
        return Check(body.__name__, needed, body)

    return make
