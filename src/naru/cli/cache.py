"""`naru cache`: the group of its commands. Must not know: what they do."""

from __future__ import annotations

import click

from naru.cli.cache_serve import serve

__all__ = ["command"]


@click.group("cache", short_help="Keys and values that all processes of this machine share.")
def command() -> None:
    """Caches in shared memory. NAME is a name, or a path with a slash in it."""


command.add_command(serve)
