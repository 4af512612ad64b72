"""The command `naru`.

    program     the group of commands; exit codes, one-line errors, signals
    bench probe choose                        one command each, imported when it is called
    send receive echo transports
    framing     stdin to messages and messages to text   (pure)
    streams     standard input and output, as bytes
    opening     finding the other side, with a word to whoever waits
    values      what options may be: sizes, seconds, cores

Knows every layer below; nothing knows it.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Runs the command of sys.argv and exits; what `naru` and `python -m naru.cli` call."""
    import sys

    from naru.cli.program import run

    sys.exit(run(sys.argv[1:]))
