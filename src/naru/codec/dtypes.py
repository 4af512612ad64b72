"""numpy's dtypes as text, and back by a strict parser.

    scalar    <f8  |b1  >U10  |S5  <M8[ns]  <m8[25us]      as numpy's dtype.str
    subarray  (2,3)<f4                                     in a record only
    record    {16;0,1:x<f8;8,1:y,4:why?<f8}                itemsize; then offset, name, title, dtype;
                                                           names and titles with their length

The text of a dtype is unique: the parser takes only what text_of() would write. Every number is
checked before numpy sees it, and nothing is ever evaluated.

Holds: text_of and parse. Must not know: what the dtype is of.
Joins: header.py puts the text into an array's header.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy

from naru.errors import ProtocolError

__all__ = ["MAX_DEPTH", "MAX_ITEM_BYTES", "MAX_TEXT_BYTES", "parse", "text_of"]

MAX_TEXT_BYTES = 16384
"""A record of several hundred fields."""
MAX_DEPTH = 16
"""Records within records."""
MAX_ITEM_BYTES = 2**31 - 1
"""numpy's own limit."""
MAX_SUBARRAY_DIMENSIONS = 32

# A count of 0 units is a division by 0 in numpy, which ends the process (SIGFPE, numpy 2.4.6).
_SCALAR = re.compile(
    r"([<>|])([biufcSUVMm])(0|[1-9][0-9]{0,9})(?:\[([1-9][0-9]{0,9})?([A-Za-z]{1,2})\])?"
)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_SIZES = {
    "b": {1},
    "i": {1, 2, 4, 8},
    "u": {1, 2, 4, 8},
    "f": {2, 4, 8, 12, 16},
    "c": {8, 16, 24, 32},
    "M": {8},
    "m": {8},
}
_UNITS = {"Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"}

# ---- writing ----


@lru_cache(maxsize=256)
def text_of(dtype: numpy.dtype[Any]) -> str:
    """The dtype in words that parse() takes.

    Raises: TypeError: it has Python objects, is unknown to numpy itself, or is beyond the limits.
    """
    if dtype.itemsize == 0:
        raise TypeError(f"dtype {dtype} has items of 0 bytes; there is nothing to send")
    text = _write(dtype, 0)
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise TypeError(f"a dtype of {len(text)} characters; {MAX_TEXT_BYTES} are possible")
    return text


def _write(dtype: numpy.dtype[Any], depth: int) -> str:
    if dtype.hasobject:
        raise TypeError(f"dtype {dtype} holds Python objects: send_object() may do")
    if depth > MAX_DEPTH:
        raise TypeError(f"dtype {dtype} has more than {MAX_DEPTH} records within each other")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        if dtype.itemsize == 0:  # of 0 bytes there could be any number: listing them never ends
            raise TypeError(f"dtype {dtype} is a subarray of 0 bytes")
        return f"({','.join(map(str, shape))}){_write(base, depth)}"
    if dtype.names is not None:
        fields = (_write_field(name, dtype.fields[name], depth) for name in dtype.names)  # type: ignore[index]
        return "{" + ";".join((str(dtype.itemsize), *fields)) + "}"
    if dtype.kind not in _SIZES and dtype.kind not in "SUV":
        raise TypeError(f"dtype {dtype} is of a kind that cannot be sent")
    if numpy.dtype(dtype.str) != dtype:
        raise TypeError(f"dtype {dtype} is not numpy's own: view it as one that is (bytes: 'u1')")
    return dtype.str


def _write_field(name: str, field: tuple[Any, ...], depth: int) -> str:
    words = f"{field[1]},{len(name)}:{name}"
    if len(field) > 2 and field[2] is not None:
        if not isinstance(field[2], str):
            raise TypeError(f"the title of field {name!r} is no str")
        words += f",{len(field[2])}:{field[2]}"
    return words + _write(field[0], depth + 1)


# ---- reading ----


@lru_cache(maxsize=256)
def parse(text: bytes) -> numpy.dtype[Any]:
    """The dtype that the text names.

    Raises: ProtocolError: it is not exactly what text_of() would write.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise ProtocolError(f"a dtype of {len(text)} bytes; {MAX_TEXT_BYTES} are possible")
    try:
        words = text.decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("a dtype that is not UTF-8") from None
    reader = _Reader(words)
    dtype = reader.dtype(0)
    if reader.at != len(words):
        raise reader.wrong("nothing more")
    try:
        same = text_of(dtype) == words
    except TypeError as error:
        raise ProtocolError(str(error)) from None
    if not same:
        raise ProtocolError(f"the dtype {_shown(words)} is written otherwise")
    return dtype


class _Reader:
    """Goes through the text once; each method reads one thing at `at`."""

    def __init__(self, words: str) -> None:
        self.words, self.at = words, 0

    def wrong(self, expected: str) -> ProtocolError:
        return ProtocolError(
            f"a dtype that cannot be: {_shown(self.words)}: {expected} expected at {self.at}"
        )

    def take(self, char: str) -> None:
        if not self.words.startswith(char, self.at):
            raise self.wrong(repr(char))
        self.at += 1

    def follows(self, char: str) -> bool:
        found = self.words.startswith(char, self.at)
        self.at += found
        return found

    def number(self, most: int = MAX_ITEM_BYTES) -> int:
        match = _NUMBER.match(self.words, self.at)
        if match is None or int(match[0]) > most:
            raise self.wrong(f"a number up to {most}")
        self.at = match.end()
        return int(match[0])

    def name(self) -> str:
        length = self.number(MAX_TEXT_BYTES)
        self.take(":")
        found = self.words[self.at : self.at + length]
        if len(found) != length:
            raise self.wrong(f"a name of {length} characters")
        self.at += length
        return found

    def dtype(self, depth: int) -> numpy.dtype[Any]:
        """A scalar or a record."""
        if depth > MAX_DEPTH:
            raise self.wrong(f"at most {MAX_DEPTH} records within each other")
        if self.follows("{"):
            return self.record(depth)
        return self.scalar()

    def scalar(self) -> numpy.dtype[Any]:
        match = _SCALAR.match(self.words, self.at)
        if match is None:
            raise self.wrong("a dtype")
        order, kind, size, count, unit = match.groups()
        plain = kind in "SV" or (kind in "biu" and size == "1")
        if (
            (order == "|") != plain
            or (kind in _SIZES and int(size) not in _SIZES[kind])
            or int(size) * (4 if kind == "U" else 1) > MAX_ITEM_BYTES
            or (unit is not None and (kind not in "Mm" or unit not in _UNITS))
            or int(count or 1) > MAX_ITEM_BYTES
        ):
            raise self.wrong("a dtype")
        return self.made(match[0], match.end())

    def field(self, depth: int) -> numpy.dtype[Any]:
        """Of a record: also a subarray."""
        if not self.follows("("):
            return self.dtype(depth)
        shape = [self.number()]
        while self.follows(","):
            shape.append(self.number())
        self.take(")")
        base = self.dtype(depth)
        size = base.itemsize
        for length in shape:
            size *= length
            if not 0 < size <= MAX_ITEM_BYTES or len(shape) > MAX_SUBARRAY_DIMENSIONS:
                raise self.wrong(f"a subarray of 1 to {MAX_ITEM_BYTES} bytes before what is")
        return self.made((base, tuple(shape)), self.at)

    def record(self, depth: int) -> numpy.dtype[Any]:
        itemsize = self.number()
        names: list[str] = []
        titles: list[str | None] = []
        offsets: list[int] = []
        formats: list[numpy.dtype[Any]] = []
        while self.follows(";"):
            offsets.append(self.number())
            self.take(",")
            names.append(self.name())
            titles.append(self.name() if self.follows(",") else None)
            formats.append(self.field(depth + 1))
            if offsets[-1] + formats[-1].itemsize > itemsize:
                raise self.wrong(f"a field within {itemsize} bytes before what is")
        self.take("}")
        known = names + [title for title in titles if title is not None]
        if len(set(known)) != len(known) or "" in known:
            raise self.wrong("different names before what is")
        spec: dict[str, Any] = {
            "names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize,
        }  # fmt: skip
        if any(titles):
            spec["titles"] = titles
        return self.made(spec, self.at)

    def made(self, spec: Any, end: int) -> numpy.dtype[Any]:
        try:
            dtype: numpy.dtype[Any] = numpy.dtype(spec)
        except (TypeError, ValueError, OverflowError, MemoryError):
            raise self.wrong("a dtype that this numpy has") from None
        self.at = end
        return dtype


def _shown(words: str) -> str:
    return repr(words if len(words) <= 80 else words[:77] + "...")
