"""The policy: exhaustively over the finite needs, and with properties over profiles."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from profiles import capability, profile, profile_of, whole_profile

import naru
from naru import NaruError, Needs, UnsupportedError
from naru.choosing import policy as policies
from naru.choosing.needs import WORDS, parse_words, sizes_of
from naru.choosing.policy import choose, show_rate, show_us
from naru.choosing.prediction import figures_wait, interpolate, predict
from naru.choosing.textbook import textbook_rule
from naru.settings import settings_for
from naru.transports import NAMES, capabilities
from naru.transports.contract import Capabilities

WHOLE = whole_profile()
# The real table, with the limit of a machine that anybody may have.
TABLE = [
    dataclasses.replace(row, max_message_bytes=lambda: 8192) if row.transport == "mq" else row
    for row in capabilities()
]
BY_NAME = {row.transport: row for row in TABLE}
BOOLEANS = [field.name for field in dataclasses.fields(Needs) if field.type == "bool"]


def needs_of(size_bytes: int = 1024, **fields: Any) -> Needs:
    return Needs(sizes=sizes_of(size_bytes), **fields)


# ---- what a transport must have ----

# Written down a second time, need by need, so that the policy's own table is not what checks it.
MUST: dict[str, Callable[[Capabilities, Needs], bool]] = {
    "two_way": lambda row, needs: row.channel or (needs.related and row.pair),
    "several_senders": lambda row, needs: row.many_senders and (row.channel or not needs.two_way),
    "reliable": lambda row, needs: row.reliable,
    "ordered": lambda row, needs: row.order,
    "descriptors": lambda row, needs: row.descriptors,
    "priority": lambda row, needs: row.priority,
    "in_place": lambda row, needs: row.in_place,
    "other_machine": lambda row, needs: row.crosses_machines,
    "other_users": lambda row, needs: row.transport != "fifo",
}


def fulfils(row: Capabilities, needs: Needs) -> bool:
    named = row.channel or (row.many_senders and not needs.two_way)
    return (
        all(test(row, needs) for name, test in MUST.items() if getattr(needs, name))
        and (named or (needs.related and row.pair))
        and needs.largest_bytes <= row.max_message_bytes()
    )


def all_needs() -> Iterator[Needs]:
    for values in itertools.product((False, True), repeat=len(BOOLEANS)):
        fields = dict(zip(BOOLEANS, values, strict=True))
        for size_bytes, goal in ((64, "latency"), (9000, "throughput")):
            yield needs_of(size_bytes, goal=goal, **fields)


@pytest.mark.watchdog(seconds=120)
def test_exhaustively() -> None:
    """Every combination of needs: all that can are candidates, best first; or a clear error."""
    seen = set()
    for needs in all_needs():
        able = {row.transport for row in TABLE if fulfils(row, needs)}
        try:
            choice = choose(needs, WHOLE, TABLE)
        except UnsupportedError as error:
            assert not able, (needs, able)
            assert all(f"{name}: " in str(error) for name in NAMES)
            continue
        seen.add(choice.transport)
        assert {one.transport for one in choice.candidates} == able, needs
        assert {one.transport for one in choice.rejected} == set(NAMES) - able
        assert all(one.reason for one in choice.rejected)
        assert choice.transport == choice.candidates[0].transport
        assert choice.reasons
        ranks = [worth(one.prediction, needs) for one in choice.candidates]
        assert ranks == sorted(ranks), needs
    assert seen == {"shm", "mq", "tcp"}  # the quickest here that can, for every need


def worth(prediction: Any, needs: Needs) -> float:
    """Less is better."""
    if needs.goal == "latency":
        latency = prediction.latency_us_p50
        return math.inf if latency is None else latency
    return -(prediction.throughput_per_s or 0.0)


@pytest.mark.parametrize("word", WORDS)
def test_one_more_need_never_brings_another_candidate(word: str) -> None:
    """Of the needs that ask for more; the words that ask for less bring more."""
    field = WORDS[word].field
    asks = {name: True for name in BOOLEANS if name in MUST}
    for values in itertools.product((False, True), repeat=5):
        others = dict(zip(("two_way", "several_senders", "reliable", "ordered", "related"), values,
                          strict=True))  # fmt: skip
        if field in others or field not in asks:
            continue
        without, with_it = needs_of(**others), needs_of(**others, **{field: True})
        assert names(with_it) <= names(without)


def names(needs: Needs) -> set[str]:
    try:
        return {one.transport for one in choose(needs, WHOLE, TABLE).candidates}
    except UnsupportedError:
        return set()


@pytest.mark.parametrize(
    ("words", "size_bytes", "able"),
    [
        ([], 64, {"shm", "unix", "fifo", "mq", "tcp"}),
        (["related"], 64, {"shm", "pipe", "unix", "fifo", "mq", "tcp"}),
        (["two-way"], 64, {"shm", "unix", "tcp"}),
        (["two-way", "related"], 64, {"shm", "pipe", "unix", "tcp"}),
        (["several-senders"], 64, {"shm", "unix", "fifo", "mq", "tcp"}),
        (["several-senders", "related"], 64, {"shm", "unix", "fifo", "mq", "tcp"}),
        (["lossy"], 64, {"shm", "unix", "fifo", "mq", "tcp"}),
        (["lossy", "unordered"], 64, {"shm", "unix", "fifo", "mq", "tcp", "udp"}),
        (["fds"], 64, {"shm", "unix"}), (["priority"], 64, {"mq"}), (["priority"], 8193, set()),
        (["fds", "priority"], 64, set()), (["in-place"], 64, {"shm"}),
        (["other-machine"], 64, {"tcp"}), (["other-machine", "fds"], 64, set()),
        (["other-machine", "lossy", "unordered"], 64, {"tcp", "udp"}),
        (["other-machine", "lossy", "unordered"], 65536, {"tcp"}),
        (["other-users"], 64, {"shm", "unix", "mq", "tcp"}),
        (["boundaries"], 64, {"shm", "unix", "fifo", "mq", "tcp"}),
    ],
)  # fmt: skip
def test_what_each_word_leaves(words: list[str], size_bytes: int, able: set[str]) -> None:
    assert names(needs_of(size_bytes, **parse_words(words))) == able


# ---- the best of them ----

US = st.floats(0.01, 1e6)
RATES = st.floats(1, 1e9)
SIZES = (64, 1024, 65536)
LOCAL = ("shm", "unix", "tcp")


@st.composite
def figures(draw: Any, names_drawn: tuple[str, ...] = LOCAL) -> dict[Any, Any]:
    """Whatever a machine might show, with gaps."""
    found = {}
    for name in names_drawn:
        for size_bytes in SIZES:
            for wait in ("adaptive", "sleep"):
                key = (name, size_bytes, False, wait)
                value = (draw(st.none() | US), draw(st.none() | RATES))
                if draw(st.booleans()):
                    found[key] = value
    return found


ANY_NEEDS = st.builds(
    lambda weights, goal, wait, rate: Needs(
        sizes=sizes_of(weights), goal=goal, wait=wait, rate_per_s=rate
    ),
    st.dictionaries(st.integers(0, 1 << 20), st.floats(0.01, 100), min_size=1, max_size=4),
    st.sampled_from(["latency", "throughput"]),
    st.sampled_from(["adaptive", "spin", "sleep"]),
    st.none() | st.floats(0.1, 1e9),
)


@given(figures(), ANY_NEEDS)
def test_the_choice_is_the_best_that_qualifies(found: dict[Any, Any], needs: Needs) -> None:
    measured = profile_of(found)
    choice = choose(needs, measured, TABLE)
    predictions = {one.transport: one.prediction for one in choice.candidates}
    rate = needs.rate_per_s
    short = rate is not None and all(
        (one.throughput_per_s or 0.0) < rate for one in predictions.values()
    )
    ranked = dataclasses.replace(needs, goal="throughput") if short else needs
    best = min(worth(one, ranked) for one in predictions.values())
    assert worth(predictions[choice.transport], ranked) == best
    assert (choice.latency_us_p50, choice.throughput_per_s) == (
        predictions[choice.transport].latency_us_p50,
        predictions[choice.transport].throughput_per_s,
    )
    if rate is not None and not short:
        assert all((one.throughput_per_s or 0.0) >= rate for one in predictions.values())


@given(figures(LOCAL[:1]), ANY_NEEDS, st.floats(1.01, 100))
def test_what_measured_worse_is_never_preferred(
    found: dict[Any, Any], needs: Needs, by: float
) -> None:
    """tcp like shm, but slower everywhere: it never wins, at no size and in no mixture."""
    cells = dict(found)
    for (_, size_bytes, batch, wait), (us, per_s) in found.items():
        slower = (us and us * by, per_s and per_s / by)
        cells["tcp", size_bytes, batch, wait] = slower
    assume(any(us for us, _ in found.values()))
    assume(any(per_s for _, per_s in found.values()))
    pair = [BY_NAME["tcp"], BY_NAME["shm"]]  # the order would decide between equals
    assert choose(needs, profile_of(cells), pair).transport == "shm"


@given(
    st.booleans(), st.sets(st.sampled_from(sorted(WORDS))), st.integers(0, 1 << 30),
    st.none() | st.floats(0.1, 1e9), figures(),
)  # fmt: skip
def test_total(batch: bool, words: set[str], size: int, rate: Any, found: dict[Any, Any]) -> None:
    """Whatever is asked, of whatever was measured: a choice that has all of it, or why not."""
    needs = needs_of(size, batch=batch, rate_per_s=rate, **parse_words(sorted(words)))
    try:
        choice = choose(needs, profile_of(found), TABLE)
    except UnsupportedError as error:
        assert "no transport can do all of this" in str(error)
        assert not any(fulfils(row, needs) for row in TABLE)
    else:
        assert fulfils(BY_NAME[choice.transport], needs)


def test_nothing_was_measured() -> None:
    choice = choose(needs_of(), profile([]), TABLE)
    assert (choice.transport, choice.latency_us_p50, choice.throughput_per_s) == ("shm", None, None)
    assert "nothing was measured" in choice.reasons[0]


def test_what_was_not_measured_comes_last() -> None:
    measured = profile_of({("tcp", 64, False, "adaptive"): (500.0, 10.0)})
    choice = choose(needs_of(64), measured, TABLE)
    assert choice.transport == "tcp"
    assert "was not measured" in choice.reasons[0]


def test_a_transport_that_is_not_here() -> None:
    def missing() -> int:
        raise NaruError("no mqueue file system")

    rows = [dataclasses.replace(BY_NAME["mq"], max_message_bytes=missing), BY_NAME["tcp"]]
    choice = choose(needs_of(), WHOLE, rows)
    assert choice.transport == "tcp"
    assert choice.rejected[0].reason == "not on this machine: no mqueue file system"


# ---- rates ----


def test_a_rate_rejects_what_is_too_slow() -> None:
    measured = profile_of({
        ("shm", 64, False, "adaptive"): (9.0, 1e6), ("tcp", 64, False, "adaptive"): (1.0, 1e3),
    })  # fmt: skip
    assert choose(needs_of(64), measured, TABLE).transport == "tcp"
    choice = choose(needs_of(64, rate_per_s=50_000), measured, TABLE)
    assert choice.transport == "shm"
    reasons = {one.transport: one.reason for one in choice.rejected}
    assert reasons["tcp"] == "carries about 1 k/s; 50 k/s are asked for"
    assert "was not measured" in reasons["unix"]


def test_a_rate_that_nothing_carries_gets_the_fastest_and_a_warning() -> None:
    measured = profile_of({
        ("shm", 64, False, "adaptive"): (9.0, 1e6), ("tcp", 64, False, "adaptive"): (1.0, 1e3),
    })  # fmt: skip
    choice = choose(needs_of(64, rate_per_s=1e7), measured, TABLE)
    assert choice.transport == "shm"
    assert "the highest throughput" in choice.reasons[0]
    assert choice.warnings == ("nothing carries 10 M/s here; this comes nearest with 1 M/s",)


def test_rare_messages_find_a_sleeper() -> None:
    measured = profile_of({
        ("shm", 64, False, "adaptive"): (1.0, 1e6), ("shm", 64, False, "sleep"): (80.0, 1e6),
        ("tcp", 64, False, "adaptive"): (9.0, 1e6), ("tcp", 64, False, "sleep"): (70.0, 1e6),
    })  # fmt: skip
    often, rarely = needs_of(64, rate_per_s=30_000), needs_of(64, rate_per_s=10)
    assert choose(often, measured, TABLE).transport == "shm"
    choice = choose(rarely, measured, TABLE)
    assert (choice.transport, choice.latency_us_p50) == ("tcp", 70.0)
    assert "fallen asleep" in choice.reasons[1]
    spins = choose(dataclasses.replace(rarely, wait="spin"), measured, TABLE)
    assert (spins.transport, spins.address_template) == ("shm", "shm://NAME?wait=spin")


@pytest.mark.parametrize(
    ("fields", "wait"),
    [
        ({}, "adaptive"), ({"wait": "sleep"}, "sleep"), ({"wait": "spin"}, "adaptive"),
        ({"rate_per_s": 20_000}, "adaptive"), ({"rate_per_s": 19_999}, "sleep"),
        ({"rate_per_s": 19_999, "batch": True}, "sleep"),
        ({"rate_per_s": 64 * 20_000, "batch": True}, "adaptive"),
        ({"rate_per_s": 1, "wait": "spin"}, "adaptive"),
    ],
)  # fmt: skip
def test_whose_figures_count(fields: dict[str, Any], wait: str) -> None:
    assert figures_wait(needs_of(64, **fields)) == wait


# ---- prediction ----

POINTS = st.lists(
    st.tuples(st.integers(1, 1 << 24), st.floats(1e-3, 1e9)), min_size=1, max_size=6,
    unique_by=lambda point: point[0],
).map(sorted)  # fmt: skip


@given(POINTS, st.integers(0, 1 << 30))
def test_interpolation(points: list[tuple[int, float]], size_bytes: int) -> None:
    value = interpolate(points, size_bytes, per_byte=1)
    values = [number for _, number in points]
    assert value > 0
    if size_bytes <= points[-1][0]:
        assert min(values) * 0.999999 <= value <= max(values) * 1.000001
    else:
        assert value == pytest.approx(values[-1] * size_bytes / points[-1][0])
    for at, number in points:
        assert interpolate(points, at, per_byte=1) == number


def test_between_two_sizes() -> None:
    assert interpolate([(64, 1.0), (6400, 100.0)], 640, per_byte=1) == pytest.approx(10.0)
    assert interpolate([(64, 10.0)], 1, per_byte=1) == 10.0
    assert interpolate([(64, 10.0)], 128, per_byte=-1) == 5.0


def test_a_mixture_of_sizes() -> None:
    measured = profile_of({
        ("shm", 64, False, "adaptive"): (1.0, 1000.0),
        ("shm", 65536, False, "adaptive"): (11.0, 100.0),
    })  # fmt: skip
    mixture = Needs(sizes=sizes_of({64: 9, 65536: 1}))
    found = predict(measured, "shm", mixture)
    assert found.latency_us_p50 == pytest.approx(2.0)
    assert found.latency_us_p99 == pytest.approx(33.0)  # the large ones are 1 in 10
    assert found.throughput_per_s == pytest.approx(1 / (0.9 / 1000 + 0.1 / 100))
    rare = predict(measured, "shm", Needs(sizes=sizes_of({64: 999, 65536: 1})))
    assert rare.latency_us_p99 == pytest.approx(3.0)


def test_beyond_what_was_measured_is_said() -> None:
    assert predict(WHOLE, "shm", needs_of(1 << 20)).outside is False
    choice = choose(needs_of(16 << 20), WHOLE, TABLE)
    assert any("larger than what was measured" in one for one in choice.warnings)


def test_a_quick_profile_lends_the_other_waits_figures() -> None:
    measured = profile_of({("shm", 64, False, "adaptive"): (1.0, 1e6)})
    found = predict(measured, "shm", needs_of(64, wait="sleep"))
    assert (found.latency_us_p50, found.throughput_per_s) == (1.0, 1e6)


# ---- the textbook ----


@pytest.mark.parametrize(
    ("size_bytes", "fields", "transport"),
    [
        ((1 << 20) + 1, {}, "shm"), (1 << 20, {}, "mq"),
        (64, {"rate_per_s": 10_001}, "unix"), (64, {"rate_per_s": 10_000}, "mq"),
        (64, {"rate_per_s": 10_001, "reliable": False}, "pipe"),
        (64, {"goal": "throughput"}, "unix"), (64, {"goal": "throughput", "rate_per_s": 1}, "mq"),
    ],
)  # fmt: skip
def test_the_textbook(size_bytes: int, fields: dict[str, Any], transport: str) -> None:
    assert textbook_rule(needs_of(size_bytes, **fields))[0] == transport


def test_the_textbook_as_policy() -> None:
    choice = choose(needs_of(64), WHOLE, TABLE, policy="textbook")
    assert (choice.transport, choice.policy) == ("mq", "textbook")
    assert choice.reasons == (choice.textbook.rule,)
    assert choice.textbook.objection is None
    with pytest.raises(UnsupportedError, match="the textbook says mq: at most 8,192 bytes"):
        choose(needs_of(65536), WHOLE, TABLE, policy="textbook")
    beside = choose(needs_of(65536), WHOLE, TABLE)
    assert beside.textbook.objection == "at most 8,192 bytes a message, not 65,536"
    nowhere = choose(needs_of(64), WHOLE, [BY_NAME["shm"]])
    assert nowhere.textbook.objection == "it is not to be had here"


# ---- addresses ----


def test_every_template_is_an_address_once_it_is_filled_in() -> None:
    filled = {"NAME": "jobs", "PATH": "tmp/jobs", "HOST": "127.0.0.1", "PORT": "7000", "UID": "1"}
    for needs in all_needs():
        for row in TABLE:
            if not fulfils(row, needs):
                continue
            template, opened_by = policies._opening(needs, row)
            for word, value in filled.items():
                template = template.replace(word, value)
            functions = [name.removeprefix("naru.") for name in opened_by.split(", ")]
            assert all(name in naru.__all__ for name in functions)
            address = (naru.address.parse_pair if functions == ["pair"] else naru.parse)(template)
            settings_for(address)
            for name in functions:
                assert hasattr(__import__(f"naru.transports.{row.transport}", fromlist=[""]), name)


def test_another_transport_than_naru_knows() -> None:
    choice = choose(needs_of(), profile([]), [capability("pigeon")])
    assert choice.address_template == "pigeon://NAME"


@pytest.mark.parametrize(
    ("us", "text"), [(0.123456, "0.123 us"), (999, "999 us"), (1500, "1.5 ms"), (2e6, "2 s")]
)
def test_times(us: float, text: str) -> None:
    assert show_us(us) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(3, "3"), (1500, "1.5 k"), (9.75e6, "9.75 M"), (2e9, "2 G")]
)
def test_rates(rate: float, text: str) -> None:
    assert show_rate(rate) == text


# ---- naru.choose ----


def test_naru_choose(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    choice = naru.choose(64, descriptors=True)
    assert choice.transport in ("shm", "unix")
    assert "no profile of this machine" in choice.warnings[0]
    assert naru.choose({64: 1, 128: 3}, priority=True).needs.sizes == ((64, 0.25), (128, 0.75))
    with pytest.raises(ValueError, match="policy must be"):
        naru.choose(policy="magic")  # type: ignore[arg-type]
    importlib.import_module("naru.choosing.policy")
    assert callable(naru.choose)  # the package has another name, so nothing takes its place
