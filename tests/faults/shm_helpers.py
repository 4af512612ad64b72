"""The shm transport's other end, by hand: raw sockets, a raw memfd, and every lie about them.

Holds: the wire layouts a second time, written from native/include/naru/{segment,ring,record}.h and
not imported, so that a changed layout is noticed; `Memory` (a segment that may be wrong in any way),
`RawServer` and `RawClient` (the handshake with anything in it).
Must not know: naru. What it makes is judged by the process that runs naru.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import mmap
import os
import socket
import struct
import time
from typing import Any

__all__ = [
    "BYE",
    "CHANNEL",
    "FDS_SHIFT",
    "FIRST",
    "F_ADD_SEALS",
    "HEARTBEAT",
    "MORE",
    "PAGE",
    "SEALS",
    "SEAL_GROW",
    "SEAL_SEAL",
    "SEAL_SHRINK",
    "SEAL_WRITE",
    "SENDER",
    "SKIP",
    "Memory",
    "RawClient",
    "RawServer",
    "connected",
    "hello",
    "receive_with_fds",
    "send_with_fds",
]  # fmt: skip

PAGE = 4096
DATA_OFFSET = 3 * PAGE
CHANNEL, SENDER, RECEIVER = 1, 2, 3
FIRST, MORE, BYE, HEARTBEAT, SKIP = 1, 2, 4, 8, 16
FDS_SHIFT = 24
F_ADD_SEALS, SEAL_SEAL, SEAL_SHRINK, SEAL_GROW, SEAL_WRITE = 1033, 1, 2, 4, 8
SEALS = SEAL_SEAL | SEAL_SHRINK | SEAL_GROW

_HEADER = struct.Struct("=8sIIQQQQ")
_WORDS = {"tail": 0, "head": 128, "consumer_sleeps": 256, "producer_wants": 384, "closed": 512}


def hello(
    kind: int = CHANNEL, *, magic: bytes = b"NARU", version: int = 1, limit: int = 1 << 30,
    extra: int = 1,
) -> bytes:  # fmt: skip
    """The 16 bytes of native/include/naru/record.h."""
    return struct.pack("=4sHHII", magic, version, kind, limit, extra)


def send_with_fds(sock: socket.socket, data: bytes, fds: list[int]) -> int:
    """One sendmsg; with no descriptors, no control message."""
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg([data], control)


def receive_with_fds(sock: socket.socket, size: int = 1 << 16) -> tuple[bytes, list[int]]:
    """One recvmsg with room for every descriptor there can be."""
    data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(253 * 4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _, _, payload in ancillary:
        fds.frombytes(payload)
    return data, list(fds)


def connected(path: str, kind: int, timeout_s: float = 5.0) -> socket.socket:
    """A connection to whoever listens at the path, or will in a moment."""
    sock = socket.socket(socket.AF_UNIX, kind)
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline_s:
                sock.close()
                raise
            time.sleep(0.002)
            continue
        sock.settimeout(timeout_s)
        return sock


class Memory:
    """A segment's memfd, mapped once; every field may be set to anything."""

    def __init__(self, fd: int) -> None:
        """Takes the descriptor over and reads the capacities from the header."""
        self.fd = fd
        self.map = mmap.mmap(fd, os.fstat(fd).st_size)
        self.capacities: tuple[int, int] = _HEADER.unpack_from(self.map)[4:6]

    @classmethod
    def create(
        cls, capacities: tuple[int, int] = (65536, 65536), *, size: int | None = None,
        seals: int = SEALS, kind: str = "memfd", allocate: bool = True, **fields: Any,
    ) -> Memory:  # fmt: skip
        """What an honest server makes, except for what is named: a header's field, the file's size,
        its seals, its kind ("memfd", "file")."""
        total = DATA_OFFSET + sum(capacities)
        size = total if size is None else size
        if kind == "memfd":
            fd = os.memfd_create("hostile", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        else:
            fd = os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600)
        os.truncate(fd, size)
        if allocate and size:
            os.posix_fallocate(fd, 0, size)
        first = fields.get("first_position", 0)
        header = _HEADER.pack(
            fields.get("magic", b"NARUSHM1"), fields.get("version", 1),
            fields.get("byte_order", 0x01020304), fields.get("total_bytes", total),
            *fields.get("capacity", capacities), first,
        )  # fmt: skip
        os.pwrite(fd, header[:size], 0)
        for ring in range(2):
            for word in ("tail", "head"):
                at = PAGE * (1 + ring) + _WORDS[word]
                if at + 8 <= size:
                    os.pwrite(fd, struct.pack("=Q", first), at)
        if seals and kind == "memfd":
            fcntl.fcntl(fd, F_ADD_SEALS, seals)
        memory = cls.__new__(cls)
        memory.fd, memory.capacities = fd, capacities
        access = mmap.PROT_READ if seals & SEAL_WRITE else mmap.PROT_READ | mmap.PROT_WRITE
        memory.map = mmap.mmap(fd, size, prot=access) if size else mmap.mmap(-1, PAGE)
        return memory

    def word(self, ring: int, name: str) -> int:
        """A word of a ring's control page."""
        return int(struct.unpack_from("=Q", self.map, PAGE * (1 + ring) + _WORDS[name])[0])

    def set_word(self, ring: int, name: str, value: int) -> None:
        """Writes a word of a ring's control page, modulo 2^64."""
        # One store: struct writes byte by byte, and a reader that spins would see half a word.
        word = ctypes.c_uint64.from_buffer(self.map, PAGE * (1 + ring) + _WORDS[name])
        word.value = value % 2**64
        del word

    def _data(self, ring: int) -> int:
        return DATA_OFFSET + (self.capacities[0] if ring else 0)

    def write(self, ring: int, position: int, data: bytes) -> None:
        """Writes to a ring's data at a position, around its end."""
        capacity, start = self.capacities[ring], self._data(ring)
        while data:
            at = position % capacity
            piece, data = data[: capacity - at], data[capacity - at :]
            self.map[start + at : start + at + len(piece)] = piece
            position += len(piece)

    def put(self, ring: int, payload: bytes, *, length: int | None = None, flags: int = 0) -> int:
        """Appends one record and publishes it; length may lie. Returns the new tail."""
        tail = self.word(ring, "tail")
        header = struct.pack("=II", len(payload) if length is None else length, flags)
        self.write(ring, tail, header + payload)
        tail += 8 + (len(payload) + 7) // 8 * 8
        self.set_word(ring, "tail", tail)
        return tail

    def close(self) -> None:
        self.map.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Bells:
    """The doorbells of an honest connection."""

    def __init__(self, count: int = 4) -> None:
        self.fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


class RawServer:
    """Listens where naru would, and answers with what it is told to."""

    def __init__(self, path: str, kind: int = socket.SOCK_SEQPACKET) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, kind)
        self.sock.bind(path)
        self.sock.listen(16)
        self.sock.settimeout(5.0)
        self.bells = _Bells()
        self.lifeline: socket.socket | None = None

    @property
    def address(self) -> str:
        return f"shm://{self.path}"

    def accept(self) -> bytes:
        """Lets one client in and reads its hello."""
        self.close_lifeline()
        self.lifeline, _ = self.sock.accept()
        return self.lifeline.recv(64)

    def close_lifeline(self) -> None:
        """To the client: this server is dead."""
        if self.lifeline is not None:
            self.lifeline.close()
            self.lifeline = None

    def answer(self, memory: Memory, *, extra: int = 1) -> None:
        """The hello of an honest server, with this memory."""
        self.answer_with([memory.fd, *self.bells.fds], hello(CHANNEL, extra=extra))

    def answer_with(self, fds: list[int], data: bytes = hello()) -> None:
        assert self.lifeline is not None
        send_with_fds(self.lifeline, data, fds)

    def close(self) -> None:
        self.close_lifeline()
        self.sock.close()
        self.bells.close()
        os.unlink(self.path)

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class RawClient:
    """Connects to a naru listener or receiver and holds its half of the memory.

    Writes ring 1 and reads ring 0, as the transport's client does.
    """

    def __init__(self, path: str, kind: int = CHANNEL, timeout_s: float = 5.0) -> None:
        self.lifeline = connected(path, socket.SOCK_SEQPACKET, timeout_s)
        self.lifeline.send(hello(kind))
        self.answer, fds = receive_with_fds(self.lifeline)
        assert len(fds) == (5 if kind == CHANNEL else 3), (self.answer, fds)
        self.memory = Memory(fds[0])
        self.bells = fds[1:]

    def ring(self) -> None:
        """Wakes the naru end, whatever it waits for."""
        for bell in self.bells:
            os.eventfd_write(bell, 1)

    def close(self) -> None:
        self.lifeline.close()
        self.memory.close()
        for fd in self.bells:
            os.close(fd)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
