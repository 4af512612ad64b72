"""One auto:// channel's control connection: offers and answers, hence moves, while it runs.

The side that listened leads: it samples its own channel's counters, asks its judge, and offers. The
other follows. A move is complete on a side when both directions of its channel have turned
(native/transports/moving.c); the control connection carries only the announcement, so that the
death of either side at any step leaves the channel with what it was using.
Must not know: how a transport is ranked. Joins: the watcher calls on_readable() and on_time().
"""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

from naru._native.opening import give_up_move, is_moving, prepare_move, turn_sending
from naru.address import Address
from naru.auto import carriers, watcher
from naru.auto.channels import AutoChannel, AutoPlace
from naru.auto.judgement import Judge, Sample
from naru.auto.packets import receive_word, send_word
from naru.auto.words import Answer, Offer, Word
from naru.errors import NaruError, ProtocolError
from naru.transports.contract import Peer

__all__ = ["SAMPLE_S", "Conversation", "State"]

SAMPLE_S = 0.5
ANSWER_LIMIT_S = 5.0
FIRST_RETRY_S, LAST_RETRY_S = 0.001, 0.05
FOREVER = float("inf")


class State(Enum):
    """Of the move under way."""

    RESTING = 0
    OFFERED = 1
    """The leader waits for the answer."""
    TURNING = 2
    """Both have prepared: this side's sending has not turned yet."""


class Conversation:
    """Both sides' half of the moves of one channel. Safe from several threads."""

    def __init__(
        self, control: socket.socket, place: AutoPlace, peer: Peer | None, fences: bool, *,
        address_for: Callable[[str], Address], judge: Judge | None,
    ) -> None:  # fmt: skip
        """Takes the control connection over.

        Args:
            address_for: the address of a connection of a transport.
            judge: the leader's; None follows.
        """
        control.setblocking(False)
        self.control = control
        self._place, self._peer, self._fences = place, peer, fences
        self._address_for, self._judge = address_for, judge
        self._channel: weakref.ref[AutoChannel] | None = None
        self._lock = threading.RLock()
        self._state = State.RESTING
        self._number = 1
        self._target = ""
        self._deadline_s = FOREVER  # of the state
        self._retry_s = FIRST_RETRY_S
        self._sample_at_s = time.monotonic() + SAMPLE_S if judge else FOREVER
        self.closed = False

    def attach(self, channel: AutoChannel) -> None:
        """The channel whose moves these are."""
        self._channel = weakref.ref(channel)

    @property
    def wake_at_s(self) -> float:
        """time.monotonic() at which on_time() wants to be called."""
        return min(self._deadline_s, self._sample_at_s)

    # ---- called by the watcher ----

    def on_readable(self) -> None:
        """A word of the other side; its end only ends the moves."""
        with self._lock:
            if self.closed:
                return
            try:
                received = receive_word(self.control, str(self._place_name()))
                if received is not None:
                    self._hear(*received)
            except (NaruError, OSError):
                self.close()  # the channel goes on with what it uses

    def on_time(self, now_s: float) -> None:
        """A deadline has come."""
        with self._lock:
            channel = self._channel() if self._channel and not self.closed else None
            if channel is None or channel.closed:
                self.close()
                return
            if now_s >= self._deadline_s:
                self._deadline_s = FOREVER
                if self._state is State.TURNING:
                    self._turn(channel, now_s)
                elif self._state is State.OFFERED:
                    self.close()  # a stopped peer: it may still take the offer, so no other one
                    return
            if now_s >= self._sample_at_s:
                self._sample_at_s = now_s + SAMPLE_S
                self._consider(channel, now_s)

    def close(self) -> None:
        """No more moves. Idempotent."""
        with self._lock:
            if not self.closed:
                self.closed = True
                self._deadline_s = self._sample_at_s = FOREVER
                watcher.forget(self)
                self.control.close()

    def close_in_child(self) -> None:
        """After a fork: all of this is the parent's, and its lock may be held by a lost thread."""
        self._lock = threading.RLock()
        self.closed = True
        self.control.close()

    # ---- leading ----

    def _consider(self, channel: AutoChannel, now_s: float) -> None:
        if self._judge is None or self._state is not State.RESTING:
            return
        counts = channel.statistics()
        better = self._judge.observe(
            self._place.selection.transport,
            Sample(
                now_s, counts.messages_sent, counts.bytes_sent, counts.messages_received,
                counts.bytes_received,
            ),
        )  # fmt: skip
        if better is not None:
            self.offer(better)

    def offer(self, transport: str) -> bool:
        """Begins a move. False when it cannot be made here, or another one is under way."""
        with self._lock:
            channel = self._channel() if self._channel and not self.closed else None
            if channel is None or self._state is not State.RESTING or is_moving(channel):
                return False
            if self._judge is not None:
                self._judge.moved(self._place.selection.transport, time.monotonic())
            try:
                self._offer(channel, transport)
            except (NaruError, OSError):
                return False  # not now: no descriptors, no memory; the channel stays as it is
            return True

    def _offer(self, channel: AutoChannel, transport: str) -> None:
        address = self._address_for(transport)
        mine, theirs = carriers.make(address)
        try:
            following = carriers.open_end(address, 0, mine, self._fences, self._peer)
            try:
                prepare_move(channel, following)
            except BaseException:
                following.close()
                raise
            self._number += 1
            word = Offer(
                number=self._number, transport=transport,
                capacity_bytes=int(address.options.get("capacity_bytes", 0)),
                max_message_bytes=int(address.options["max_message_bytes"]), fences=self._fences,
                moves=True,
            )  # fmt: skip
            try:
                send_word(self.control, word, theirs)
            except BaseException:
                give_up_move(channel)
                raise
        finally:
            carriers.close_all(theirs)
        self._target = transport
        self._enter(State.OFFERED, time.monotonic() + ANSWER_LIMIT_S)
        watcher.watch(self)  # it may sleep beyond this

    # ---- following, and both ----

    def _hear(self, word: Word, fds: list[int], lost: bool) -> None:
        channel = self._channel() if self._channel else None
        if channel is None or channel.closed:
            carriers.close_all(fds)
        elif isinstance(word, Offer) and self._judge is None and self._state is State.RESTING:
            self._prepare(channel, word, fds, lost)
        elif (
            isinstance(word, Answer)
            and not fds
            and self._state is State.OFFERED
            and word.number == self._number
        ):
            self._answered(channel, word)
        else:
            carriers.close_all(fds)
            raise ProtocolError("auto: the other side said what is not its turn to say")

    def _prepare(self, channel: AutoChannel, offer: Offer, fds: list[int], lost: bool) -> None:
        if offer.transport not in carriers.CARRIERS or is_moving(channel):
            carriers.close_all(fds)
            raise ProtocolError("auto: an offer that cannot be")
        try:
            address = self._address_for(offer.transport)
            following = carriers.open_end(address, 1, fds, offer.fences, self._peer, lost=lost)
        except (NaruError, OSError) as error:
            answer = Answer(number=offer.number, prepared=False, why=str(error)[:1000])
            send_word(self.control, answer)
            return
        try:
            prepare_move(channel, following)
        except BaseException:
            following.close()
            raise
        send_word(self.control, Answer(number=offer.number, prepared=True))
        self._target = offer.transport
        self._begin_turning(channel)

    def _answered(self, channel: AutoChannel, answer: Answer) -> None:
        if answer.prepared:
            self._begin_turning(channel)
            return
        give_up_move(channel)
        selection = self._place.selection
        rejected = (*selection.rejected, (self._target, answer.why))
        self._place.select(replace(selection, rejected=rejected[-16:]))
        self._enter(State.RESTING, FOREVER)

    def _begin_turning(self, channel: AutoChannel) -> None:
        self._retry_s = FIRST_RETRY_S
        self._turn(channel, time.monotonic())

    def _turn(self, channel: AutoChannel, now_s: float) -> None:
        """Until the goodbye has room and no message is half out; each send tries, too."""
        if turn_sending(channel):
            selection = self._place.selection
            self._place.select(
                replace(
                    selection, transport=self._target, moved_from=selection.transport,
                    moves=selection.moves + 1,
                )
            )  # fmt: skip
            self._enter(State.RESTING, FOREVER)
            return
        self._enter(State.TURNING, now_s + self._retry_s)
        self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)

    def _enter(self, state: State, deadline_s: float) -> None:
        self._state, self._deadline_s = state, deadline_s

    def _place_name(self) -> Any:
        channel = self._channel() if self._channel else None
        return "" if channel is None else channel.address
