"""What verbs work with; the process that serves them puts it together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from imcore.accounts import Accounts
from imcore.attachments.opening import Attachments
from imcore.auth import Identity
from imcore.bus.postgres import Ephemeral
from imcore.config import Settings
from imcore.events.names import Pool
from imcore.events.store import Log
from imcore.paces import Paces
from imcore.reads import Reads

# Gives a message to connected sessions without storing it, at once, and says how many got it here. It may be lost.
PushEphemeral: TypeAlias = Callable[[Ephemeral], int]


@dataclass(frozen=True, slots=True)
class Means:
    """Everything that a verb may call.

    `sends` is the pace of each person's messages in this process, whichever door they come in by; `signals` that of signals.
    `attachments` is where files are.
    """

    settings: Settings
    reads: Reads
    push_ephemeral: PushEphemeral
    sends: Paces[int]
    signals: Paces[int]
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

    def may_create(self, identity: Identity, room: str) -> bool:
        """May a join of theirs make this room? In mode open everybody's; else a service's, and that of whose token names the room."""
        if identity.service or self.settings.auth_mode == "open":
            return True
        return identity.rooms is not None and room in identity.rooms

    def is_live(self, room: str) -> bool:
        """Has the room no members, but only sessions in it?"""
        return room.partition("://")[0] in self.reads.live_types
