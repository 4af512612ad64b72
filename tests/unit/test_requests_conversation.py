"""Both sides of request/reply as state machines, against a simple model and against each other."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from naru.errors import ProtocolError
from naru.requests.conversation import Answering, Asking
from naru.requests.frames import (
    CANCEL,
    ERROR,
    HEAD_BYTES,
    REPLY,
    REQUEST,
    WELCOME,
    Frame,
    parse_head,
    write_welcome,
)

LIMIT = 4


def welcomed(limit: int = LIMIT) -> Asking[str]:
    asking: Asking[str] = Asking()
    head, body = write_welcome(limit)
    assert asking.take(parse_head(head[:HEAD_BYTES], len(body)), body) is None
    return asking


def reply(number: int) -> Frame:
    return Frame(REPLY, 0, number)


# ---- the client's side ----


def test_nothing_may_be_asked_before_the_welcome() -> None:
    asking: Asking[str] = Asking()
    assert not asking.has_room
    with pytest.raises(ValueError, match="0 may be"):
        asking.begin("a")


def test_replies_find_who_waits_in_any_order() -> None:
    asking = welcomed()
    numbers = {name: asking.begin(name) for name in "abc"}
    assert len(set(numbers.values())) == 3
    for name in "bca":
        assert asking.take(reply(numbers[name]), b"") == name
    assert asking.open_count == 0
    assert asking.late == 0


def test_an_abandoned_request_stays_open_until_its_late_reply() -> None:
    asking = welcomed(1)
    number = asking.begin("a")
    assert asking.abandon(number)
    assert not asking.abandon(number)
    assert not asking.has_room  # the server still has it
    assert asking.take(reply(number), b"") is None
    assert asking.late == 1
    assert asking.has_room
    assert not asking.abandon(number)


def test_closing_is_taking_for_who_has_compared_the_head() -> None:
    asking = welcomed(1)
    number = asking.begin("a")
    asking.close(number)
    assert (asking.open_count, asking.requests) == (0, 1)
    with pytest.raises(ProtocolError):
        asking.take(reply(number), b"")


def test_a_withdrawn_request_was_never_asked() -> None:
    asking = welcomed()
    number = asking.begin("a")
    asking.withdraw(number)
    assert (asking.open_count, asking.requests) == (0, 0)
    with pytest.raises(ProtocolError):
        asking.take(reply(number), b"")


@pytest.mark.parametrize(
    "frame",
    [reply(1), reply(3), Frame(ERROR, 0, 3), Frame(REQUEST, 0, 2), Frame(CANCEL, 0, 2)],
)
def test_what_was_not_asked_is_refused(frame: Frame) -> None:
    asking = welcomed()
    first = asking.begin("a")
    asking.begin("b")
    asking.take(reply(first), b"")
    with pytest.raises(ProtocolError):
        asking.take(frame, b"")


def test_a_second_welcome_is_refused() -> None:
    head, body = write_welcome(1)
    with pytest.raises(ProtocolError, match="second welcome"):
        welcomed().take(parse_head(head, len(body)), body)


def test_the_end_names_everybody_who_waits() -> None:
    asking = welcomed()
    asking.begin("a")
    asking.abandon(asking.begin("b"))
    asking.begin("c")
    assert asking.end() == ["a", "c"]
    assert not asking.has_room
    assert asking.open_count == 0


# ---- the server's side ----


def test_more_than_the_limit_breaks_the_protocol() -> None:
    answering = Answering(2)
    assert answering.take(Frame(REQUEST, 0, 5))
    assert answering.take(Frame(REQUEST, 0, 3))  # any numbers, in any order
    with pytest.raises(ProtocolError, match="more than 2"):
        answering.take(Frame(REQUEST, 0, 4))
    answering.finish(5)
    assert answering.take(Frame(REQUEST, 0, 4))
    assert answering.requests == 3


def test_a_number_in_use_breaks_the_protocol() -> None:
    answering = Answering(2)
    answering.take(Frame(REQUEST, 0, 5))
    with pytest.raises(ProtocolError, match="open already"):
        answering.take(Frame(REQUEST, 0, 5))


@pytest.mark.parametrize("kind", [WELCOME, REPLY, ERROR])
def test_a_client_that_speaks_as_a_server_breaks_the_protocol(kind: int) -> None:
    with pytest.raises(ProtocolError):
        Answering(2).take(Frame(kind, 0, 1))


def test_a_cancel_may_mean_nothing() -> None:
    answering = Answering(2)
    assert not answering.take(Frame(CANCEL, 0, 17))
    assert answering.open_count == 0


@pytest.mark.parametrize("limit", [0, -1, 2**20 + 1])
def test_a_limit_that_cannot_be(limit: int) -> None:
    with pytest.raises(ValueError, match="may be open at once"):
        Answering(limit)


# ---- both, over a wire that keeps order ----


class Talk(RuleBasedStateMachine):
    """Whatever both do, every request is answered once, and nobody breaks the protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.asking = welcomed()
        self.answering = Answering(LIMIT)
        self.to_server: deque[Frame] = deque()
        self.to_client: deque[Frame] = deque()
        self.working: list[int] = []
        self.waiting: dict[int, str] = {}
        self.answered: list[str] = []
        self.abandoned = self.asked = 0

    @precondition(lambda self: self.asking.has_room)
    @rule()
    def ask(self) -> None:
        self.asked += 1
        name = f"request {self.asked}"
        number = self.asking.begin(name)
        self.waiting[number] = name
        self.to_server.append(Frame(REQUEST, 0, number))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[number]
        assert self.asking.abandon(number)
        self.abandoned += 1
        self.to_server.append(Frame(CANCEL, 0, number))

    @precondition(lambda self: self.to_server)
    @rule()
    def serve(self) -> None:
        frame = self.to_server.popleft()
        if self.answering.take(frame):
            self.working.append(frame.number)
        elif frame.number in self.working:  # dropped, and said so
            self.finish(frame.number)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.finish(data.draw(st.sampled_from(self.working)))

    def finish(self, number: int) -> None:
        self.working.remove(number)
        self.answering.finish(number)
        self.to_client.append(reply(number))

    @precondition(lambda self: self.to_client)
    @rule()
    def hear(self) -> None:
        frame = self.to_client.popleft()
        waiter = self.asking.take(frame, b"")
        assert waiter == self.waiting.pop(frame.number, None)
        if waiter is not None:
            self.answered.append(waiter)

    @invariant()
    def every_request_is_somewhere_once(self) -> None:
        on_the_way = sum(frame.kind == REQUEST for frame in self.to_server)
        replies = len(self.to_client)
        assert self.asking.open_count == on_the_way + len(self.working) + replies
        assert self.asking.open_count <= LIMIT
        assert len(self.answered) == len(set(self.answered))
        assert self.asked == len(self.answered) + self.abandoned + len(self.waiting)
        assert self.asking.late <= self.abandoned


TestTalk = Talk.TestCase


@given(st.lists(st.integers(1, 6), max_size=40))
def test_a_hostile_server_cannot_answer_what_was_not_asked(numbers: list[int]) -> None:
    asking = welcomed()
    opened = {asking.begin(str(i)) for i in range(3)}
    for number in numbers:
        if number in opened:
            assert asking.take(reply(number), b"") is not None
            opened.remove(number)
        else:
            with pytest.raises(ProtocolError):
                asking.take(reply(number), b"")
    assert asking.open_count == len(opened)
