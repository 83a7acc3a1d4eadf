"""What keeps the members of a room from sending: only admins write, all are muted, slow mode, or the room is dismissed.

There is a row only of rooms where there is something, and those are few: a send looks for its room here, and nearly always finds
nothing. The end of a mute is a time, and no event tells of it, so a row may say what is over.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import Recorded, RoomChanged, RoomDismissed, RoomMuted
from imcore.projections.projection import Key, Projection, types


class Restriction(NamedTuple):
    """What restricts a room. `writers` is 'members' or 'admins'."""

    writers: str = "members"
    muted_until_ms: int = 0
    slow_mode_s: int = 0
    dismissed: bool = False


TYPES: Final = types(RoomChanged, RoomMuted, RoomDismissed)
NONE: Final = Restriction()


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case RoomChanged(room=room) | RoomMuted(room=room) | RoomDismissed(room=room):
            return ((room,),)
    return ()


def apply(key: Key, row: Restriction | None, recorded: Recorded) -> Restriction | None:
    new = row or NONE
    match recorded.fact:
        case RoomChanged(writers=writers, slow_mode_s=slow_mode_s):
            if writers is not None:
                new = new._replace(writers=writers)
            if slow_mode_s is not None:
                new = new._replace(slow_mode_s=slow_mode_s)
        case RoomMuted(until_ms=until_ms):
            new = new._replace(muted_until_ms=until_ms)
        case RoomDismissed():
            new = new._replace(dismissed=True)
    return None if new == NONE else new


projection: Final = Projection("restrictions", tables.restrictions, Restriction, TYPES, keys, apply)
