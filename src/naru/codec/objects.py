"""Values as messages: msgpack by msgspec, or pickle when both sides ask for it.

    0  u8  0xC1
    1  u8  'M' msgpack, 'P' pickle
    2  u8  version, 1
    3  ...  the value

The letter keeps the two apart: a receiver that did not ask for pickle never unpickles, and one that
did never takes msgpack for it.

Holds: parts_of, value_of. Must not know: ends. Joins: the methods send_object, receive_object.
"""

from __future__ import annotations

import pickle
from functools import lru_cache
from typing import Any

import msgspec

from naru.codec import MARK
from naru.errors import ProtocolError

__all__ = ["parts_of", "value_of"]

_VERSION = 1
_STARTS = {
    "msgpack": bytes((MARK, ord("M"), _VERSION)),
    "pickle": bytes((MARK, ord("P"), _VERSION)),
}
_START_BYTES = 3
# Besides msgspec's own: UnicodeDecodeError, keys that cannot be, nesting without end.
_DAMAGES = (
    msgspec.MsgspecError, pickle.UnpicklingError, EOFError, OverflowError, RecursionError,
    TypeError, ValueError,
)  # fmt: skip
_encode = msgspec.msgpack.Encoder().encode


def _start_of(codec: str | None) -> bytes:
    start = _STARTS.get(codec or "msgpack")
    if start is None:
        raise ValueError(f'codec must be None, "msgpack" or "pickle", not {codec!r}')
    return start


def parts_of(value: Any, codec: str | None) -> tuple[bytes, bytes]:
    """The value as the parts of a message.

    Raises: TypeError, ValueError, OverflowError: the codec cannot write it.
    """
    start = _start_of(codec)
    return start, pickle.dumps(value, protocol=5) if codec == "pickle" else _encode(value)


def value_of(message: bytes, type: Any, codec: str | None, address: object) -> Any:
    """The value in a message; see Receiver.receive_object().

    Raises: ProtocolError: it is of another kind, damaged, or not of the type.
    """
    start = _start_of(codec)
    if type is not None and codec == "pickle":
        raise ValueError("type= is checked while msgpack is read; pickle makes what it wants")
    if not message.startswith(start):
        raise _wrong(f"{_described(message)}, not {codec or 'msgpack'}", address)
    body = memoryview(message)[_START_BYTES:]
    read = pickle.loads if codec == "pickle" else _decoder_of(type).decode
    try:
        return read(body)
    except _DAMAGES as error:
        text = str(error)
    raise _wrong(f"the value cannot be: {text}", address)


def _decoder_of(type: Any) -> msgspec.msgpack.Decoder[Any]:
    if type is None:
        return _any
    try:
        return _cached_decoder(type)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return msgspec.msgpack.Decoder(type)


@lru_cache(maxsize=256)
def _cached_decoder(type: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(type)


_any: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


def _described(message: bytes) -> str:
    for codec, start in _STARTS.items():
        if message.startswith(start[:2]):
            version = message[2] if len(message) > 2 else None
            if version != _VERSION:
                return f"the message is {codec} in version {version} of its format"
            return f"the message is {codec}"
    if message.startswith(bytes((MARK, ord("A")))):
        return "the message is an array (receive_array takes it)"
    return "the message is plain bytes (receive takes it)"


def _wrong(text: str, address: object) -> ProtocolError:
    return ProtocolError(
        f'receive_object "{address}": {text}', operation="receive_object", address=address
    )
