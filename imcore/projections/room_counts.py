"""In how many rooms each person is a member: so that one more can be refused without counting them.

The trap: a room that is dismissed says nothing of its members, who may be a million; it counts here for ever. Whoever refuses somebody
for this number takes off those of its rooms that are dismissed first, of which there can only be more with time. And like `rooms`, this
counts joins and leaves, and is exact because commands append a join only of a person who is no member and a leave only of a member.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import MemberJoined, MemberLeft, MemberRemoved, Recorded
from imcore.projections.projection import Key, Projection, types


class RoomCount(NamedTuple):
    """How many rooms somebody is in; never 0, for then there is no row."""

    rooms: int


TYPES: Final = types(MemberJoined, MemberLeft, MemberRemoved)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case MemberJoined(mid=mid) | MemberLeft(mid=mid) | MemberRemoved(mid=mid):
            return ((mid,),)
    return ()


def apply(key: Key, row: RoomCount | None, recorded: Recorded) -> RoomCount | None:
    before = 0 if row is None else row.rooms
    match recorded.fact:
        case MemberJoined():
            return RoomCount(before + 1)
        case MemberLeft() | MemberRemoved():
            return RoomCount(before - 1) if before > 1 else None
    return row


projection: Final = Projection("room_counts", tables.room_counts, RoomCount, TYPES, keys, apply)
