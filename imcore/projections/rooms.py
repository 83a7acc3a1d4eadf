"""The rooms that there are: by whom, for whom, and how many are in them.

A room begins with room_created, or with the first join where there is none: joining is enough, as in goim.

The trap: `members` counts joins and leaves, and cannot see whether a join was somebody's second. It is exact because commands
append a join only of a person who is no member and a leave only of a member; they see the members row at their place in the log.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import MemberJoined, MemberLeft, MemberRemoved, Recorded, RoomCreated
from imcore.projections.projection import Key, Projection, types


class Room(NamedTuple):
    """A room. `created` is the position of its first event, `history` is 'joined' or 'all'."""

    created: int
    creator: int
    public: bool
    history: str
    title: str
    members: int


TYPES: Final = types(RoomCreated, MemberJoined, MemberLeft, MemberRemoved)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case RoomCreated(room=room) | MemberJoined(room=room) | MemberLeft(room=room) | MemberRemoved(room=room):
            return ((room,),)
    return ()


def apply(key: Key, row: Room | None, recorded: Recorded) -> Room | None:
    match recorded.fact:
        case RoomCreated(public=public, history=history, title=title):
            return row or Room(recorded.position, recorded.mid, public, history, title, members=0)
        case MemberJoined():
            row = row or Room(recorded.position, recorded.mid, public=True, history="joined", title="", members=0)
            return row._replace(members=row.members + 1)
        case MemberLeft() | MemberRemoved():
            return row and row._replace(members=row.members - 1)
    return row


projection: Final = Projection("rooms", tables.rooms, Room, TYPES, keys, apply)
