"""Who is no longer in which room, since when, and by whom: what a device that was away is told when it comes back.

A row is there from the leaving to the next join. It is folded in the append's transaction, because a device may be back before an
asynchronous row is written, and would then never hear of it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import MemberJoined, MemberLeft, MemberRemoved, Recorded
from imcore.projections.projection import Key, Projection, types


class Departure(NamedTuple):
    """The end of a membership: its position, who ended it, and whether that was somebody else."""

    position: int
    by: int
    removed: bool


TYPES: Final = types(MemberJoined, MemberLeft, MemberRemoved)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case MemberJoined(room=room, mid=mid) | MemberLeft(room=room, mid=mid) | MemberRemoved(room=room, mid=mid):
            return ((mid, room),)
    return ()


def apply(key: Key, row: Departure | None, recorded: Recorded) -> Departure | None:
    match recorded.fact:
        case MemberJoined():
            return None
        case MemberLeft():
            return Departure(recorded.position, recorded.mid, removed=False)
        case MemberRemoved():
            return Departure(recorded.position, recorded.mid, removed=True)
    return row


projection: Final = Projection("departures", tables.departures, Departure, TYPES, keys, apply)
