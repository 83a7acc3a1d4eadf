"""Presence: the open session of each connection key, where it is and which rooms it has entered.

Whose session it is says the stream, not `recorded.mid`: when a comet is lost, the service closes its sessions.

The trap: a comet may say late that a session is closed, when its key has come back elsewhere already. So a close names the
position of the opening that it ends, and any other row stays.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import SESSION, Recorded, RoomsEntered, SessionClosed, SessionOpened
from imcore.projections.projection import Key, Projection, types


class Session(NamedTuple):
    """An open session. `opened` is the position of its session_opened."""

    opened: int
    node: str
    platform: str
    address: str
    rooms: tuple[str, ...]
    opened_at_ms: int


TYPES: Final = types(SessionOpened, SessionClosed, RoomsEntered)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case SessionOpened(key=key) | SessionClosed(key=key) | RoomsEntered(key=key):
            return ((int(recorded.stream.removeprefix(SESSION)), key),)
    return ()


def apply(key: Key, row: Session | None, recorded: Recorded) -> Session | None:
    match recorded.fact:
        case SessionOpened(node=node, platform=platform, address=address, rooms=rooms):
            return Session(recorded.position, node, platform, address, rooms, recorded.time_ms)
        case SessionClosed(opened=opened):
            return None if row is None or row.opened == opened else row
        case RoomsEntered(opened=opened, rooms=rooms):
            return row._replace(rooms=rooms) if row is not None and row.opened == opened else row
    return row


projection: Final = Projection("sessions", tables.sessions, Session, TYPES, keys, apply)
