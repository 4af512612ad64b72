"""What users see of auto://: a Channel that says what it goes over, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from naru._native.ends import Channel
from naru.transports.contract import Place

if TYPE_CHECKING:
    from naru.auto.conversation import Conversation
    from naru.settings import Settings

__all__ = ["AutoChannel", "AutoPlace", "Selection"]


@dataclass(frozen=True)
class Selection:
    """What an auto:// channel goes over, and why; `channel.choice`."""

    transport: str
    reasons: tuple[str, ...]
    """Of the last choice: what the profile says."""
    rejected: tuple[tuple[str, str], ...]
    """(transport, why not) of those that were to be tried before this one, or cannot be used."""
    moves: int = 0
    """How often the channel has moved since it was opened."""
    moved_from: str = ""
    """The transport before the last move; "" when there was none."""


class AutoPlace(Place):
    """What belongs to an auto:// channel besides its connections."""

    __slots__ = ("conversation", "selection")

    conversation: Conversation

    def __init__(
        self, settings: Settings, selection: Selection, *closers: Callable[[], object]
    ) -> None:
        super().__init__(settings, *closers)
        self.select(selection)

    def select(self, selection: Selection) -> None:
        """The channel goes over this from now on."""
        self.selection = selection
        self.passes_fds = selection.transport in ("shm", "unix")


class AutoChannel(Channel):
    """A channel of auto://: all verbs of Channel, over whatever was chosen."""

    __slots__ = ()

    @property
    def choice(self) -> Selection:
        """What carries this channel now, and why.

        Raises: ClosedError: it is closed.
        """
        place = self._place
        if place is None:
            from naru.errors import ClosedError

            raise ClosedError(
                f'choice "{self.address}": the channel is closed', operation="choice",
                address=self.address,
            )  # fmt: skip
        selection: Selection = place.selection
        return selection
