"""listen and connect of auto://: two sides find the best transport that both have.

Rendezvous is a Unix seqpacket socket, as for shm; it stays open as the control connection. The
connecting side says what it can and needs, the listening side ranks by its profile and offers one
candidate after the other until the connecting side has one open.
Must not know: how a channel moves later (conversation).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Generator
from typing import Any, NoReturn

from naru._native.ends import Channel
from naru._native.opening import has_barrier, open_mover
from naru.address import Address
from naru.auto import carriers
from naru.auto.channels import AutoChannel, AutoPlace, Selection
from naru.auto.conversation import Conversation
from naru.auto.judgement import Judge
from naru.auto.packets import Received, receive_word, send_word
from naru.auto.ranking import Ranking
from naru.auto.watcher import watch
from naru.auto.words import VERSION, Answer, Offer, Refusal, Wish, shorten_reasons
from naru.errors import (
    LimitError,
    NaruError,
    NotPermittedError,
    ProtocolError,
    UnsupportedError,
    from_errno,
)
from naru.settings import AutoSettings
from naru.transports.connecting import Deadline, persist
from naru.transports.contract import Peer
from naru.transports.door import finish
from naru.transports.fan_in import start_listening
from naru.transports.listener import Listener
from naru.transports.names import bind_path, rendezvous_path
from naru.transports.unix import peer_of

__all__ = ["connect", "listen"]

Hearing = Generator[None, None, Received]


def _place_of(address: Address) -> str:
    return address.path or rendezvous_path("auto", str(address.name))


def _hear(sock: socket.socket, address: Address) -> Hearing:
    """Yields while the other side has said nothing."""
    while True:
        received = receive_word(sock, address)
        if received is not None:
            return received
        yield


def _not_its_turn(operation: str, address: Address, fds: list[int]) -> NoReturn:
    carriers.close_all(fds)
    raise ProtocolError(
        f'{operation} "{address}": the other side said what is not its turn to say',
        errno=errno.EPROTO, operation=operation, address=address,
    )  # fmt: skip


def _open_channel(
    address: Address, settings: AutoSettings, first: Channel, control: socket.socket,
    selection: Selection, peer: Peer, fences: bool, limits: tuple[int, int],
    judge: Judge | None, *, moves: bool,
) -> AutoChannel:  # fmt: skip
    """Takes the first connection over, also when this fails; the control connection on success."""
    capacity_bytes, max_message_bytes = limits
    try:
        place = AutoPlace(settings, selection)
        conversation = Conversation(
            control, place, peer, fences, judge=judge,
            address_for=lambda name: carriers.address_of(
                name, settings, capacity_bytes, max_message_bytes
            ),
        )  # fmt: skip
        place.conversation = conversation
        place.add_closer(conversation.close)
        channel: AutoChannel = open_mover(
            AutoChannel, settings, first, address=address, peer=peer, place=place
        )
    except BaseException:
        first.close()
        raise
    conversation.attach(channel)
    if moves:
        try:
            watch(conversation)
        except LimitError:  # no descriptor, no thread: it stays where it is
            conversation.close()
    return channel


# ---- the listening side ----


class _Offerer:
    """Goes down the candidates with one connecting side."""

    def __init__(
        self, address: Address, settings: AutoSettings, ranking: Ranking, sock: socket.socket,
        wish: Wish, peer: Peer,
    ) -> None:  # fmt: skip
        self._address, self._settings, self._ranking = address, settings, ranking
        self._sock, self._wish, self._peer = sock, wish, peer
        self._fences = not (has_barrier() and wish.barrier)
        self._limits = (
            settings.capacity_bytes,
            min(settings.max_message_bytes, wish.max_message_bytes),
        )
        self._common = tuple(
            name
            for name in settings.transports
            if name in wish.transports and name in carriers.CARRIERS
        )
        self._words = tuple(dict.fromkeys((*settings.needs, *wish.needs)))
        self._moves = settings.moves and wish.moves and len(self._common) > 1

    def run(self) -> Generator[None, None, AutoChannel | None]:
        try:
            choice = self._ranking.choice(self._common, self._words)
        except (UnsupportedError, ValueError) as error:
            self._refuse(str(error))
            return None
        rejected = [(lost.transport, lost.reason) for lost in choice.rejected]
        for number, candidate in enumerate(choice.candidates, 1):
            reasons = choice.reasons if number == 1 else ("the best of those that are possible",)
            selection = Selection(
                candidate.transport, shorten_reasons(tuple(reasons)), tuple(rejected[-16:])
            )
            opened = yield from self._offer(number, selection)
            if isinstance(opened, Channel):
                return self._finish(opened, selection)
            rejected.append((candidate.transport, opened[:1000]))
        self._refuse("; ".join(f"{name}: {why}" for name, why in rejected))
        return None

    def _offer(self, number: int, selection: Selection) -> Generator[None, None, Channel | str]:
        """The open end; or why not."""
        address = carriers.address_of(selection.transport, self._settings, *self._limits)
        try:
            mine, theirs = carriers.make(address)
        except (NaruError, OSError) as error:
            return str(error)
        try:
            end = carriers.open_end(address, 0, mine, self._fences, self._peer)
        except NaruError as error:
            carriers.close_all(theirs)
            return str(error)
        try:
            word = Offer(
                number=number, transport=selection.transport, capacity_bytes=self._limits[0],
                max_message_bytes=self._limits[1], fences=self._fences, moves=self._moves,
                reasons=selection.reasons, rejected=selection.rejected,
            )  # fmt: skip
            try:
                send_word(self._sock, word, theirs)
            finally:
                carriers.close_all(theirs)
            answer, fds, _ = yield from _hear(self._sock, self._address)
            if not isinstance(answer, Answer) or fds or answer.number != number:
                _not_its_turn("auto.accept", self._address, fds)
        except BaseException:
            end.close()
            raise
        if answer.prepared:
            return end
        end.close()
        return answer.why

    def _finish(self, end: Channel, selection: Selection) -> AutoChannel:
        common, words, ranking = self._common, self._words, self._ranking
        judge = Judge(lambda current, traffic: ranking.gains(current, common, words, traffic))
        return _open_channel(
            self._address, self._settings, end, self._sock, selection, self._peer, self._fences,
            self._limits, judge, moves=self._moves,
        )  # fmt: skip

    def _refuse(self, why: str) -> None:
        send_word(self._sock, Refusal(error=errno.EOPNOTSUPP, why=why[:1000]))


def listen(address: Address) -> Listener:
    """As naru.listen(); the channels that it gives are AutoChannels."""
    settings = AutoSettings.from_address(address)
    ranking = Ranking(settings)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        name = bind_path(sock, _place_of(address), settings.mode, "auto.listen", address)
        start_listening(sock, settings.backlog, "auto.listen", address, name.close)
    except BaseException:
        sock.close()
        raise

    def welcome(guest: socket.socket) -> Generator[None, None, Any]:
        peer = peer_of(guest)
        wish, fds, _ = yield from _hear(guest, address)
        if not isinstance(wish, Wish) or fds:
            _not_its_turn("auto.accept", address, fds)
        if not settings.permits(peer.uid, os.geteuid()):
            send_word(guest, Refusal(error=errno.EACCES, why="this user may not connect"))
            return None
        return (yield from _Offerer(address, settings, ranking, guest, wish, peer).run())

    return Listener(address, sock, welcome, settings.handshake_timeout_s, name.close)


# ---- the connecting side ----


def _accept_offers(
    sock: socket.socket, address: Address, settings: AutoSettings, peer: Peer
) -> Generator[None, None, tuple[Offer, Channel]]:
    """The first offer that can be opened here."""
    while True:
        word, fds, lost = yield from _hear(sock, address)
        if isinstance(word, Refusal) and not fds:
            _raise_refusal(word, address)
        if not isinstance(word, Offer) or word.transport not in settings.transports:
            _not_its_turn("auto.connect", address, fds)
        inner = carriers.address_of(
            word.transport, settings, word.capacity_bytes, word.max_message_bytes
        )
        try:
            end = carriers.open_end(inner, 1, fds, word.fences, peer, lost=lost)
        except NaruError as error:
            send_word(sock, Answer(number=word.number, prepared=False, why=str(error)[:1000]))
            continue
        try:
            send_word(sock, Answer(number=word.number, prepared=True))
        except BaseException:
            end.close()
            raise
        return word, end


def _raise_refusal(refusal: Refusal, address: Address) -> NoReturn:
    if refusal.error == errno.EOPNOTSUPP:
        raise UnsupportedError(
            f'auto.connect "{address}": no transport is left: {refusal.why}',
            errno=refusal.error, operation="auto.connect", address=address,
        )  # fmt: skip
    known = refusal.error if refusal.error in errno.errorcode else errno.EPROTO
    raise from_errno(-known, "auto.connect", address, detail=f"the other side: {refusal.why}")


def _reach(address: Address, settings: AutoSettings, deadline: Deadline) -> AutoChannel:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.connect(_place_of(address))
        peer = peer_of(sock)
        if not settings.permits(peer.uid, os.geteuid()):
            raise NotPermittedError(
                f'auto.connect "{address}": the name belongs to uid {peer.uid}; '
                f"?allow_uids={peer.uid} trusts it",
                errno=errno.EPERM, operation="auto.connect", address=address,
            )  # fmt: skip
        wish = Wish(
            version=VERSION, transports=settings.transports, needs=settings.needs,
            max_message_bytes=settings.max_message_bytes, barrier=bool(has_barrier()),
            moves=settings.moves,
        )  # fmt: skip
        send_word(sock, wish)
        handshake = _accept_offers(sock, address, settings, peer)
        offer, end = finish(handshake, sock, deadline)
        selection = Selection(offer.transport, offer.reasons, offer.rejected)
        return _open_channel(
            address, settings, end, sock, selection, peer, offer.fences,
            (offer.capacity_bytes, offer.max_message_bytes), None, moves=offer.moves,
        )  # fmt: skip
    except BaseException:
        sock.close()
        raise


def connect(address: Address, deadline: Deadline) -> Channel:
    """As naru.connect(); gives an AutoChannel."""
    settings = AutoSettings.from_address(address)
    return persist(
        lambda: _reach(address, settings, deadline), deadline, "auto.connect",
        address,
    )  # fmt: skip
