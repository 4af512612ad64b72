"""Logs over a FIFO: a shell writes lines with `echo`, naru receives one message a line.

    python examples/shell_logs.py

`framing=lines` makes the FIFO speak to programs that know nothing of naru. As with `cat`, the
stream ends when the last writer has closed it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

import naru

SCRIPT = """
for number in 1 2 3; do
    echo "INFO  request $number served"
done > "$1" &
echo "ERROR disk almost full" > "$1"
wait
"""


def main() -> int:
    errors, lines = 0, 0
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/app.fifo"
        with naru.receiver(f"fifo://{path}?framing=lines") as log:
            # An own write end, so that the log goes on between two writers.
            with open(path, "wb", buffering=0):
                shell = subprocess.Popen(["sh", "-eu", "-c", SCRIPT, "sh", path])
                while lines < 4:
                    line = log.receive(timeout_s=10).decode()
                    print("log:", line)
                    lines += 1
                    errors += line.startswith("ERROR")
                code = shell.wait()
            rest = list(log)  # ends at once: the last writer has gone
    print(f"{lines} lines, {errors} of them an error, {len(rest)} after the end")
    return code


if __name__ == "__main__":
    sys.exit(main())
