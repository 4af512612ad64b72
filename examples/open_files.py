"""Passing open files: a process gets a file that it could not open by itself.

    python examples/open_files.py

The keeper opens a file and removes its name, so that no path leads there any more, and passes the
open file over a Unix socket. The writer writes through its duplicate; the keeper reads the result.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile

import naru


def writer(address: str) -> None:
    with naru.connect(address) as keeper:
        note, (fd,) = keeper.receive_fds(timeout_s=10)
        with open(fd, "wb") as file:  # takes the descriptor over, and closes it
            file.write(f"written by pid {os.getpid()}: {note.decode()}\n".encode())
        keeper.send(b"done")


def keep(listener: naru.Listener) -> None:
    with listener.accept(timeout_s=10) as channel, tempfile.TemporaryFile() as file:
        names = os.fstat(file.fileno()).st_nlink
        print(f"keeper: a file with {names} names goes to {channel.peer}", flush=True)
        channel.send_fds(b"hello from another process", [file])
        channel.receive(timeout_s=10)
        file.seek(0)
        print(f"keeper: the file says: {file.read().decode().rstrip()}", flush=True)


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        address = f"unix://{directory}/keeper.sock"
        process = multiprocessing.get_context("spawn").Process(target=writer, args=(address,))
        with naru.listen(address) as listener:
            process.start()
            keep(listener)
        process.join()
    return process.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
