"""A huge log: counted in windows by several processes, then sent without copying.

    python examples/access_log.py

Writes a log, counts its answers by status with `map_reduce`, finds where the errors are, and sends the
first one through a socket with sendfile. Raise LINES to see it work.
"""

from __future__ import annotations

import operator
import socket
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from naru.files import Window, count_lines, map_reduce, transfer, windows

LINES = 200_000


def statuses(window: Window) -> Counter[bytes]:
    """Runs in a worker, on each window: the third field of each line."""
    return Counter(bytes(fields[2]) for fields in window.fields(b" "))


def write_log(path: Path) -> None:
    with open(path, "wb") as file:
        for number in range(LINES):
            status = 500 if number % 50_000 == 49_999 else 200
            file.write(b"GET /page/%d %d 1532\n" % (number % 997, status))


def first_error(path: Path) -> int:
    for window in windows(path):
        found = window.find_all(b" 500 ")
        if found:
            return found[0]
    raise LookupError("no error in it")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "access.log"
        write_log(path)
        lines = count_lines(path)
        total = map_reduce(path, statuses, operator.add, processes=2)
        print(f"{lines} lines, {total[b'200']} of them good, {total[b'500']} errors")
        print("all of them looked at:", total.total() == lines)

        offset = first_error(path)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            sender = threading.Thread(target=transfer, args=(path, ours, offset, 5))
            sender.start()
            print(f"at byte {offset}:", theirs.recv(5, socket.MSG_WAITALL))
            sender.join()
        done = transfer(path, Path(folder) / "copy.log")
        print(f"a copy of {done.bytes} bytes by {done.method}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
