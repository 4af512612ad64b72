"""How values that are no bytes, text or integers become bytes; and back, by the kind that stands with each.

    kind  value                      packed by
    0     bytes, bytearray, ...      nothing       \\
    1     int, as decimal text       the table      > in every cache, and what Redis clients see
    2     str, as UTF-8              the table     /
    3     what msgpack can           msgspec       codec="msgpack" and "numpy"
    4     an array                   naru.codec    codec="numpy"
    5     anything                   pickle        codec="pickle"
    15    a set of bytes             RESP clients  read as frozenset, never written from here

A cache reads kinds 0 to 4 whatever its codec is, because reading them runs nothing of the value's. Only
one that was opened with codec="pickle" ever unpickles.

Holds: codec_of. Must not know: tables. Joins: the packer and unpacker of a naru._native.table.Table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from naru.errors import BadAddressError, CorruptedError, ProtocolError

__all__ = ["CODECS", "Codec", "codec_of"]

BYTES, MSGPACK, ARRAY, PICKLE, SET = 0, 3, 4, 5, 15
CODECS = ("bytes", "msgpack", "numpy", "pickle")
_NAMES = {MSGPACK: "msgpack", ARRAY: "numpy", PICKLE: "pickle"}

Packed = tuple[int, bytes, Any]
"""Kind, bytes that stand first, a buffer behind them or None."""


class Codec(NamedTuple):
    """One of CODECS, ready to use."""

    name: str
    pack: Callable[[Any], Packed]
    unpack: Callable[[int, bytes], Any]


def codec_of(name: str, address: object) -> Codec:
    """Raises: BadAddressError: no such codec; ImportError: numpy is not installed."""
    if name not in _PACKERS:
        known = ", ".join(CODECS)
        raise BadAddressError(
            f'cache "{address}": codec is one of {known}, not {name!r}',
            operation="cache.open",
            address=address,
        )
    if name == "numpy":
        import naru.codec.arrays  # noqa: F401  (says which extra is missing, now)
    return Codec(name, _PACKERS[name], partial(_unpack, name == "pickle", address))


# ---- packing ----


def _pack_bytes(value: Any) -> Packed:
    if hasattr(value, "__array_interface__"):
        raise TypeError(
            'an array would lose its dtype and shape: codec="numpy" keeps them, .tobytes() is bytes'
        )
    try:
        memoryview(value)
    except TypeError:
        raise TypeError(
            f'a cache with codec="bytes" holds bytes, str and int, not {type(value).__name__}; '
            'codec="msgpack" packs more'
        ) from None
    return BYTES, b"", value


def _pack_msgpack(value: Any) -> Packed:
    if _is_buffer(value):
        return _pack_bytes(value)
    return MSGPACK, _msgpack().encode(value), None


def _pack_numpy(value: Any) -> Packed:
    if hasattr(value, "__array_interface__") and hasattr(value, "dtype"):
        from naru.codec.arrays import parts_of

        head, items = parts_of(value)
        return ARRAY, head, items
    return _pack_msgpack(value)


def _pack_pickle(value: Any) -> Packed:
    import pickle

    return PICKLE, pickle.dumps(value, protocol=5), None


_PACKERS: dict[str, Callable[[Any], Packed]] = {
    "bytes": _pack_bytes,
    "msgpack": _pack_msgpack,
    "numpy": _pack_numpy,
    "pickle": _pack_pickle,
}


def _is_buffer(value: Any) -> bool:
    """Also an array: _pack_bytes() says what to do about it."""
    if hasattr(value, "__array_interface__"):
        return True
    try:
        memoryview(value).release()
    except TypeError:
        return False
    return True


# ---- unpacking ----


def _unpack(pickles: bool, address: object, kind: int, data: bytes) -> Any:
    if kind == MSGPACK:
        try:
            return _msgpack().decode(data)
        except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
            text = str(error)
    elif kind == ARRAY:
        from naru.codec.arrays import array_of

        try:
            return array_of(data, address)
        except ProtocolError as error:
            text = str(error)
    elif kind == SET:
        members = _members(data)
        if members is not None:
            return members
        text = "it is no set"
    elif kind == PICKLE and pickles:
        import pickle

        return pickle.loads(data)
    else:
        raise ProtocolError(
            f'cache "{address}": the value was packed by {_NAMES.get(kind, f"kind {kind}")}; '
            + ('open with codec="pickle" if you trust whoever wrote it' if kind == PICKLE else
               "a newer naru made it"),
            operation="cache.get",
            address=address,
        )  # fmt: skip
    raise CorruptedError(
        f'cache "{address}": the value cannot be what its kind says: {text}',
        operation="cache.get",
        address=address,
    )


def _members(data: bytes) -> frozenset[bytes] | None:
    """u32 count, then u32 size and bytes of each, little-endian; None: anything else."""
    count, at = int.from_bytes(data[:4], "little"), 4
    members = set()
    while at < len(data):
        begin = at + 4
        at = begin + int.from_bytes(data[at:begin], "little")
        if at > len(data):
            return None
        members.add(data[begin:at])
    return frozenset(members) if len(members) == count and len(data) >= 4 else None


class _Msgpack(NamedTuple):
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


_made: list[_Msgpack] = []  # msgspec is loaded when the first value wants it


def _msgpack() -> _Msgpack:
    if not _made:
        import msgspec

        _made.append(_Msgpack(msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode))
    return _made[0]
