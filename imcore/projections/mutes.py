"""Until when somebody may not send to a room, whether it is in the room or not: who leaves and joins again is muted still.

A mute that is over stays a row until it is ended or given anew: no event tells of its end.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import MemberMuted, Recorded
from imcore.projections.projection import Key, Projection, types


class Mute(NamedTuple):
    """Until when; never 0, for then there is no row."""

    until_ms: int


TYPES: Final = types(MemberMuted)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case MemberMuted(room=room, mid=mid):
            return ((room, mid),)
    return ()


def apply(key: Key, row: Mute | None, recorded: Recorded) -> Mute | None:
    match recorded.fact:
        case MemberMuted(until_ms=until_ms):
            return Mute(until_ms) if until_ms else None
    return row


projection: Final = Projection("mutes", tables.mutes, Mute, TYPES, keys, apply)
