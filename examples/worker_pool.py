"""A pool of workers that get open files and answer with their SHA-256.

    python examples/worker_pool.py

Each worker serves requests at a name of its own. The parent opens the files, which the workers could
not find by name (they are unlinked at once), and passes each to whichever worker is free; a file that
is none is answered with an error, and the pool lives on.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import tempfile
from collections import deque
from typing import IO

import naru

WORKERS, FILES, FILE_BYTES = 3, 12, 300_000


def sha256_of(request: naru.Request) -> bytes:
    (fd,) = request.take_fds()
    with open(fd, "rb") as file:  # takes the descriptor over, and closes it
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest().encode()


def worker(address: str) -> None:
    with naru.serve(address, sha256_of, pass_request=True) as server:
        server.serve_forever()


def unlinked_file(number: int) -> IO[bytes]:
    file = tempfile.TemporaryFile()
    file.write(bytes([number]) * FILE_BYTES)
    file.flush()
    return file


def digest_all(clients: list[naru.Client], files: list[IO[bytes]]) -> list[bytes]:
    """Each worker has one file at a time, and gets the next when it has answered."""
    digests: dict[int, bytes] = {}
    busy: deque[tuple[naru.Client, int, naru.PendingReply]] = deque()
    free = deque(clients)
    for number, file in enumerate(files):
        if not free:
            client, done, pending = busy.popleft()
            digests[done] = pending.result(timeout_s=10)
            free.append(client)
        client = free.popleft()
        busy.append((client, number, client.submit(b"sha256", fds=[file])))
    for _, number, pending in busy:
        digests[number] = pending.result(timeout_s=10)
    return [digests[number] for number in range(len(files))]


def main() -> int:
    addresses = [f"unix:@naru-pool-{os.getpid()}-{n}" for n in range(WORKERS)]
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=worker, args=(one,), daemon=True) for one in addresses]
    for process in processes:
        process.start()
    clients = [naru.client(address, timeout_s=20) for address in addresses]
    files = [unlinked_file(number) for number in range(FILES)]
    digests = digest_all(clients, files)
    wanted = [hashlib.sha256(bytes([n]) * FILE_BYTES).hexdigest().encode() for n in range(FILES)]
    print(f"{FILES} files, {WORKERS} workers, all digests right: {digests == wanted}")
    try:
        clients[0].request(b"sha256")  # no file goes with it
    except naru.RemoteError as error:
        print(f"without a file: {error.type_name}: {error.remote_message}")
    print("and after it:", clients[0].request(b"sha256", fds=[files[0]]) == wanted[0])
    for client in clients:
        client.close()
    for file in files:
        file.close()
    for process in processes:
        process.terminate()
        process.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
