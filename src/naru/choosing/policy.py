"""Which transport: a pure function of needs, a profile and what the transports can.

Holds: Choice; the table of what disqualifies a transport; the ranking; the reasons.
Must not know: files, the machine, how anything was measured.
Joins: `naru.choose` and `naru choose` print a Choice; auto:// goes down `Choice.candidates`.

Rules, in this order: a transport that lacks one need is out. Where a rate is asked for, one that does
not carry it is out, unless none does. Of the others the best predicted one is chosen: the shortest
round trip, or the highest throughput. What was not measured comes last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from naru.choosing.needs import Needs
from naru.choosing.prediction import Prediction, figures_wait, predict
from naru.choosing.profile import Profile
from naru.choosing.textbook import textbook_rule
from naru.errors import NaruError, UnsupportedError
from naru.sizes import show_size
from naru.transports.contract import Capabilities

__all__ = [
    "Candidate",
    "Choice",
    "Policy",
    "Rejection",
    "Textbook",
    "choose",
    "objection",
    "rank",
    "show_rate",
    "show_us",
]

Policy: TypeAlias = Literal["measured", "textbook"]

CLOSE = 1.1
"""Predictions nearer to each other than this are within the noise of most machines."""


@dataclass(frozen=True)
class Candidate:
    """A transport that can do all that is needed."""

    transport: str
    address_template: str
    opened_by: str
    """The functions of naru that open both sides."""
    prediction: Prediction


@dataclass(frozen=True)
class Rejection:
    """A transport that cannot, and why."""

    transport: str
    reason: str


@dataclass(frozen=True)
class Textbook:
    """What the fixed rule says."""

    transport: str
    rule: str
    objection: str | None
    """Why it would not do; None: it would."""
    prediction: Prediction


@dataclass(frozen=True)
class Choice:
    """The transport to use, what it is predicted to take, and why."""

    transport: str
    address_template: str
    """Capital letters stand for what only you know: NAME, PATH, HOST, PORT, UID."""
    opened_by: str
    """The functions of naru that open both sides, such as "naru.listen, naru.connect"."""
    latency_us_p50: float | None
    """There and back, of a batch where batches are asked for; None: not measured."""
    latency_us_p99: float | None
    throughput_per_s: float | None
    """Messages, one way, as fast as it goes; None: not measured."""
    reasons: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    candidates: tuple[Candidate, ...]
    """All that can, the best first; the first one is the choice."""
    warnings: tuple[str, ...]
    """What makes the prediction doubtful."""
    policy: Policy
    textbook: Textbook
    profile_source: str
    needs: Needs


def choose(
    needs: Needs,
    profile: Profile,
    capabilities: Sequence[Capabilities],
    *,
    policy: Policy = "measured",
    warnings: Sequence[str] = (),
) -> Choice:
    """Chooses a transport. Pure, if the `max_message_bytes` of the capabilities are.

    Args:
        capabilities: what there is to choose from; the order decides between equals.
        policy: "measured", or "textbook", the fixed rule.
        warnings: about the profile, to be passed on.

    Raises:
        UnsupportedError: none has all that is needed (or the textbook's pick has not); the text
            says of each what it lacks.
    """
    candidates, rejected = rank(needs, profile, capabilities)
    said = [*warnings]
    ranked_by = needs
    if needs.rate_per_s is not None and candidates:
        candidates, slow = _fast_enough(candidates, needs, needs.rate_per_s)
        rejected = [*rejected, *slow]
        best_per_s = candidates[0].prediction.throughput_per_s
        if best_per_s is not None and best_per_s < needs.rate_per_s:
            asked, found = show_rate(needs.rate_per_s), show_rate(best_per_s)
            ranked_by = replace(needs, goal="throughput")
            said.append(f"nothing carries {asked}/s here; this comes nearest with {found}/s")
    textbook = _textbook(needs, profile, capabilities, rejected)
    if not candidates:
        raise _nothing(rejected)
    if policy == "textbook":
        candidates = _only(textbook, candidates)
    best = candidates[0]
    return Choice(
        transport=best.transport,
        address_template=best.address_template,
        opened_by=best.opened_by,
        latency_us_p50=best.prediction.latency_us_p50,
        latency_us_p99=best.prediction.latency_us_p99,
        throughput_per_s=best.prediction.throughput_per_s,
        reasons=(textbook.rule,)
        if policy == "textbook"
        else tuple(_reasons(candidates, ranked_by)),
        rejected=tuple(rejected),
        candidates=tuple(candidates),
        warnings=(*said, *_doubts(best, needs)),
        policy=policy,
        textbook=textbook,
        profile_source=profile.origin,
        needs=needs,
    )


def rank(
    needs: Needs, profile: Profile, capabilities: Sequence[Capabilities]
) -> tuple[list[Candidate], list[Rejection]]:
    """Those that can, best first, and those that cannot; a rate is not looked at."""
    candidates, rejected = [], []
    for row in capabilities:
        reason = objection(needs, row)
        if reason is not None:
            rejected.append(Rejection(row.transport, reason))
            continue
        template, opened_by = _opening(needs, row)
        prediction = predict(profile, row.transport, needs)
        candidates.append(Candidate(row.transport, template, opened_by, prediction))
    return sorted(candidates, key=lambda one: _rank(one.prediction, needs)), rejected


def _rank(prediction: Prediction, needs: Needs) -> tuple[float, ...]:
    """The least is the best. What decides comes first, the other figures settle a tie."""
    latency = (_or_worst(prediction.latency_us_p50), _or_worst(prediction.latency_us_p99))
    throughput = -(prediction.throughput_per_s or 0.0)
    return (*latency, throughput) if needs.goal == "latency" else (throughput, *latency)


def _or_worst(latency_us: float | None) -> float:
    return math.inf if latency_us is None else latency_us


def _fast_enough(
    candidates: list[Candidate], needs: Needs, rate_per_s: float
) -> tuple[list[Candidate], list[Rejection]]:
    """Those that carry the rate; if none does, all of them, the fastest first."""
    enough, slow = [], []
    for one in candidates:
        carries = one.prediction.throughput_per_s
        if carries is not None and carries >= rate_per_s:
            enough.append(one)
            continue
        found = "was not measured" if carries is None else f"carries about {show_rate(carries)}/s"
        reason = f"{found}; {show_rate(rate_per_s)}/s are asked for"
        slow.append(Rejection(one.transport, reason))
    if enough:
        return enough, slow
    return sorted(candidates, key=lambda one: -(one.prediction.throughput_per_s or 0.0)), []


# ---- what disqualifies ----


def _shape(needs: Needs, row: Capabilities) -> str | None:
    """Conversations, queues, pairs: one that fits is enough."""
    if needs.several_senders and not (row.channel if needs.two_way else row.many_senders):
        return "no answers to several senders" if needs.two_way else "one sender only"
    named = row.channel if needs.two_way else row.channel or row.many_senders
    if named or (needs.related and row.pair and not needs.several_senders):
        return None
    if row.pair and not needs.related:
        return "only between a parent and its children (related)"
    return "one way only"


def _too_large(needs: Needs, row: Capabilities) -> str | None:
    try:
        limit = row.max_message_bytes()
    except NaruError as error:
        return f"not on this machine: {error}"
    if needs.largest_bytes <= limit:
        return None
    return f"at most {limit:,} bytes a message, not {needs.largest_bytes:,}"


_Test: TypeAlias = Callable[[Needs, Capabilities], str | None]


def _lacks(need: str, has: str, reason: str) -> _Test:
    return lambda needs, row: reason if getattr(needs, need) and not getattr(row, has) else None


_TESTS: tuple[_Test, ...] = (
    _lacks("other_machine", "crosses_machines", "this machine only"),
    _shape,
    _lacks("descriptors", "descriptors", "no open files travel with its messages"),
    _lacks("priority", "priority", "no priorities"),
    _lacks("in_place", "in_place", "every message is copied"),
    _lacks("reliable", "reliable", "messages may be lost"),
    _lacks("ordered", "order", "messages may overtake each other"),
    lambda needs, row: (
        "a sender trusts only its own user's FIFO, or root's"
        if needs.other_users and row.transport == "fifo"
        else None
    ),
    _too_large,
)
# No test for boundaries: naru keeps them on every transport.


def objection(needs: Needs, row: Capabilities) -> str | None:
    """Why a transport cannot fulfil these needs; None: it can."""
    found = (test(needs, row) for test in _TESTS)
    return next((reason for reason in found if reason is not None), None)


def _nothing(rejected: Iterable[Rejection]) -> UnsupportedError:
    lacking = "; ".join(f"{one.transport}: {one.reason}" for one in rejected)
    text = f"naru.choose: no transport can do all of this ({lacking}); ask for less, or use two"
    return UnsupportedError(text, operation="naru.choose")


# ---- how it is opened ----

_TEMPLATES = {
    "shm": "shm://NAME", "pipe": "pipe:", "unix": "unix:///PATH", "fifo": "fifo:///PATH",
    "mq": "mq:///NAME", "tcp": "tcp://HOST:PORT", "udp": "udp://HOST:PORT",
}  # fmt: skip
_FOR_OTHER_USERS = {
    "shm": "shm:///PATH?mode=0666&allow_uids=UID",
    "unix": "unix:///PATH?mode=0666&allow_uids=UID",
    "mq": "mq:///NAME?mode=0666",
}


def _opening(needs: Needs, row: Capabilities) -> tuple[str, str]:
    """(address template, functions)."""
    template = _TEMPLATES.get(row.transport, f"{row.transport}://NAME")
    if needs.other_users:
        template = _FOR_OTHER_USERS.get(row.transport, template)
    if needs.wait != "adaptive":
        template += ("&" if "?" in template else "?") + f"wait={needs.wait}"
    if not needs.two_way and needs.several_senders and row.many_senders:
        return template, "naru.receiver, naru.sender"
    if row.channel:
        return template, "naru.listen, naru.connect"
    if row.many_senders and not needs.two_way:
        return template, "naru.receiver, naru.sender"
    return template, "naru.pair"


# ---- words ----


def _textbook(
    needs: Needs,
    profile: Profile,
    capabilities: Sequence[Capabilities],
    rejected: Sequence[Rejection],
) -> Textbook:
    transport, rule = textbook_rule(needs)
    reasons = {one.transport: one.reason for one in rejected}
    known = {row.transport for row in capabilities}
    reason = reasons.get(transport) if transport in known else "it is not to be had here"
    return Textbook(transport, rule, reason, predict(profile, transport, needs))


def _only(textbook: Textbook, candidates: Sequence[Candidate]) -> list[Candidate]:
    if textbook.objection is None:
        return [one for one in candidates if one.transport == textbook.transport]
    text = f"naru.choose: the textbook says {textbook.transport}: {textbook.objection}"
    raise UnsupportedError(text, operation="naru.choose")


def _reasons(candidates: Sequence[Candidate], needs: Needs) -> Iterable[str]:
    best, *others = candidates
    if not others:
        yield "the only transport that can do all of this"
    else:
        yield _comparison(best.prediction, others[0], needs)
    if needs.wait == "adaptive" and figures_wait(needs) == "sleep":
        yield "at this rate a waiting process has fallen asleep: every message pays for a wake-up"
    if needs.in_place:
        yield "the figures are of messages that are copied; in place it is faster"


def _comparison(best: Prediction, second: Candidate, needs: Needs) -> str:
    sizes = [show_size(size_bytes) for size_bytes, _ in needs.sizes]
    size = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    what = f"{'batches of ' if needs.batch else 'messages of '}{size}"
    if needs.goal == "latency":
        one, other = best.latency_us_p50, second.prediction.latency_us_p50
        shown = None if one is None or other is None else (show_us(one), show_us(other))
        said = "the shortest round trip"
    else:
        one, other = best.throughput_per_s, second.prediction.throughput_per_s
        shown = None if one is None or other is None else (show_rate(one) + "/s",
                                                           show_rate(other) + "/s")  # fmt: skip
        said = "the highest throughput"
    if one is None:
        return f"{what}: nothing was measured of what can do all of this"
    if shown is None or other is None:
        return f"{said} with {what}; {second.transport}, the next, was not measured"
    near = " (about the same)" if max(one, other) < CLOSE * min(one, other) else ""
    return f"{said} with {what}: {shown[0]}; {second.transport}, the next, {shown[1]}{near}"


def _doubts(best: Candidate, needs: Needs) -> Iterable[str]:
    if best.prediction.outside:
        yield "larger than what was measured: the figures are drawn on from there"
    if needs.other_machine:
        yield "measured between two processes of one machine: a network adds its own time"


def show_us(us: float) -> str:
    """As people write it: "0.52 us", "1.3 ms"."""
    for unit, scale in (("s", 1e6), ("ms", 1e3)):
        if us >= scale:
            return f"{us / scale:.3g} {unit}"
    return f"{us:.3g} us"


def show_rate(per_s: float) -> str:
    """As people write it: "9.2 M", "310 k", "47"."""
    for unit, scale in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if per_s >= scale:
            return f"{per_s / scale:.3g}{unit}"
    return f"{per_s:.3g}"
