"""What the two sides of an auto:// channel say to each other, and its strict reader.

Each word is one packet of JSON on a Unix seqpacket socket, the control connection:

    connecting side                     listening side
    Wish: what I can and need     -->
                                  <--   Offer: a transport, and its descriptors
    Answer: prepared, or why not  -->   (not prepared: an offer of the next candidate)
                                  <--   Refusal, when no candidate is left

Later, while the channel runs, the listening side may send further offers: moves.
Pure. Must not know: sockets.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from naru.errors import ProtocolError

__all__ = [
    "PACKET_BYTES",
    "VERSION",
    "Answer",
    "Offer",
    "Refusal",
    "Wish",
    "Word",
    "pack",
    "unpack",
]

VERSION = 1
PACKET_BYTES = 16384

_Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=32)]
_Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=1000)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32)]
_Names: TypeAlias = Annotated[tuple[_Name, ...], msgspec.Meta(max_length=16)]


class Wish(msgspec.Struct, tag="wish", frozen=True, kw_only=True):
    """What the connecting side can and needs."""

    version: _Count
    transports: _Names
    needs: _Names = ()
    max_message_bytes: _Count
    barrier: bool
    """It has membarrier(2): its rings need no fences."""
    moves: bool


class Offer(msgspec.Struct, tag="offer", frozen=True, kw_only=True):
    """A transport; the descriptors of its connection come with the packet."""

    number: _Count
    """Counts the offers of a control connection from 1."""
    transport: _Name
    capacity_bytes: _Count
    max_message_bytes: _Count
    fences: bool
    moves: bool
    reasons: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=16)] = ()
    rejected: Annotated[tuple[tuple[_Name, _Text], ...], msgspec.Meta(max_length=16)] = ()


class Answer(msgspec.Struct, tag="answer", frozen=True, kw_only=True):
    """To an offer: the connection is open on this side, too; or why not."""

    number: _Count
    prepared: bool
    why: _Text = ""


class Refusal(msgspec.Struct, tag="refusal", frozen=True, kw_only=True):
    """Nothing comes of it."""

    error: _Count
    """errno."""
    why: _Text


Word: TypeAlias = Wish | Offer | Answer | Refusal

_decoder = msgspec.json.Decoder(Word)
_encoder = msgspec.json.Encoder()


def pack(word: Word) -> bytes:
    """One packet."""
    return _encoder.encode(word)


def unpack(packet: bytes) -> Word:
    """Reads one packet. Raises ProtocolError for whatever is no word of this version."""
    try:
        if len(packet) > PACKET_BYTES:
            raise ProtocolError(f"a packet of more than {PACKET_BYTES} bytes")
        word: Word = _decoder.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the other side does not speak auto:// ({error})") from error
    if isinstance(word, Wish) and word.version != VERSION:
        raise ProtocolError(
            f"the other side speaks version {word.version} of auto://, this side {VERSION}: "
            "install the same naru on both"
        )
    return word


def shorten_reasons(reasons: tuple[str, ...]) -> tuple[str, ...]:
    """What fits into an offer."""
    return tuple(reason[:1000] for reason in reasons[:16])
