"""What verbs work with; the process that serves them puts it together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from imcore.accounts import Accounts
from imcore.attachments.opening import Attachments
from imcore.config import Settings
from imcore.events.names import Pool
from imcore.events.store import Log
from imcore.paces import Paces
from imcore.reads import Reads


class PushEphemeral(Protocol):
    """Gives a message to connected sessions without storing it, at once; returns how many got it. It may be lost."""

    def __call__(
        self,
        op: int,
        payload: bytes,
        *,
        room: str | None = None,
        mids: tuple[int, ...] = (),
        keys: tuple[str, ...] = (),
        everybody: bool = False,
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class Means:
    """Everything that a verb may call.

    `sends` is the pace of each person's messages in this process, whichever door they come in by. `attachments` is where files are.
    """

    settings: Settings
    reads: Reads
    push_ephemeral: PushEphemeral
    sends: Paces[int]
    accounts: Accounts
    attachments: Attachments

    @property
    def log(self) -> Log:
        """The appender."""
        return self.reads.log

    @property
    def pool(self) -> Pool:
        """Connections to read with."""
        return self.reads.pool

    def is_live(self, room: str) -> bool:
        """Has the room no members, but only sessions in it?"""
        return room.partition("://")[0] in self.reads.live_types
