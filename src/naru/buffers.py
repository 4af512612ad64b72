"""What a verb takes as bytes, for type checkers: annotate your own functions with these.

Holds: three names. `collections.abc.Buffer` is the right type since Python 3.12 (PEP 688); naru
begins with 3.11, where type checkers know the protocol, but numpy's arrays do not claim it. They
are known by another attribute of theirs.
Must not know: anything; only the stubs of naru._native use it, and nothing when a program runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

__all__ = ["ReadableBuffer", "SupportsDLPack", "WriteableBuffer"]


class _Array(Protocol):
    @property
    def __array_interface__(self) -> dict[str, Any]: ...


class SupportsDLPack(Protocol):
    """An array of another library, in this machine's memory: torch, jax, cupy's host side."""

    def __dlpack__(self, *, stream: None = None) -> Any: ...
    def __dlpack_device__(self) -> tuple[Any, int]: ...


if TYPE_CHECKING:
    import _typeshed

    ReadableBuffer: TypeAlias = _typeshed.ReadableBuffer | _Array
    """bytes, bytearray, memoryview, array, mmap, a numpy array, naru.View: contiguous memory."""

    WriteableBuffer: TypeAlias = _typeshed.WriteableBuffer | _Array
    """As ReadableBuffer, and not read-only; only at run time is that known for certain."""
else:  # type checkers alone have the whole truth
    ReadableBuffer = bytes | bytearray | memoryview | _Array
    WriteableBuffer = bytearray | memoryview | _Array
