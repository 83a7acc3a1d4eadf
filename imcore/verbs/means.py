"""What verbs work with; the process that serves them puts it together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from imcore.accounts import Accounts
from imcore.attachments.opening import Attachments
from imcore.auth import Identity
from imcore.config import Settings
from imcore.events.names import Pool
from imcore.events.store import Log
from imcore.events.types import MESSAGE_PUSHED, SERVICE_MID
from imcore.paces import Paces
from imcore.reads import Reads


class PushEphemeral(Protocol):
    """Gives a message to connected sessions without storing it, at once; returns how many got it. It may be lost.

    With op 0 and a `type_` of its own it is an event that is no message: version 2 and JSON get it as an envelope, version 1 never.
    With a `type_` it is a signal of `mid`, which came over the connection `key`: not for that connection, and the first to be shed.
    `position` is up to where in the log whoever gives it has looked: on each comet it waits for that, whatever process it is given in.
    """

    def __call__(
        self,
        op: int,
        payload: bytes,
        *,
        room: str | None = None,
        mids: tuple[int, ...] = (),
        keys: tuple[str, ...] = (),
        everybody: bool = False,
        type_: str = MESSAGE_PUSHED,
        mid: int = SERVICE_MID,
        key: str = "",
        position: int = 0,
    ) -> int: ...


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
