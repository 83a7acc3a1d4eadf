"""The rooms that there are: by whom, for whom, under which rules, and how many are in them.

A room begins with room_created, or with the first join where there is none: joining is enough, as in goim. It is dismissed once, and
its row stays, so that nobody makes another of its name.

The trap: `members` counts joins and leaves, and cannot see whether a join was somebody's second. It is exact because commands
append a join only of a person who is no member and a leave only of a member; they see the members row at their place in the log.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import (
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    Recorded,
    RoleChanged,
    RoomChanged,
    RoomCreated,
    RoomDismissed,
    RoomMuted,
)
from imcore.projections.projection import Key, Projection, types


class Room(NamedTuple):
    """A room. `created` is the position of its first event, `history` is 'joined' or 'all', `writers` 'members' or 'admins';
    `dismissed` is the position of its end, or 0."""

    created: int
    creator: int
    public: bool
    history: str
    title: str
    members: int
    owners: tuple[int, ...] = ()
    topic: str = ""
    approval: bool = False
    writers: str = "members"
    slow_mode_s: int = 0
    members_max: int = 0
    muted_until_ms: int = 0
    dismissed: int = 0
    dismissed_by: int = 0


TYPES: Final = types(
    RoomCreated, RoomChanged, RoomMuted, RoomDismissed, MemberJoined, MemberLeft, MemberRemoved, RoleChanged
)
SETTINGS: Final = ("title", "topic", "public", "approval", "history", "writers", "slow_mode_s", "members_max")


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case (
            RoomCreated(room=room)
            | RoomChanged(room=room)
            | RoomMuted(room=room)
            | RoomDismissed(room=room)
            | MemberJoined(room=room)
            | MemberLeft(room=room)
            | MemberRemoved(room=room)
            | RoleChanged(room=room)
        ):
            return ((room,),)
    return ()


def apply(key: Key, row: Room | None, recorded: Recorded) -> Room | None:
    match recorded.fact:
        case RoomCreated(public=public, history=history, title=title):
            return row or Room(recorded.position, recorded.mid, public, history, title, members=0)
        case MemberJoined(mid=mid, role=role):
            row = row or Room(recorded.position, recorded.mid, public=True, history="joined", title="", members=0)
            return _with_role(row._replace(members=row.members + 1), mid, role)
        case MemberLeft(mid=mid) | MemberRemoved(mid=mid):
            return row and _with_role(row._replace(members=row.members - 1), mid, "")
        case RoleChanged(mid=mid, role=role):
            return row and _with_role(row, mid, role)
        case RoomChanged() as changed:
            new = {name: getattr(changed, name) for name in SETTINGS if getattr(changed, name) is not None}
            return row and row._replace(**new)
        case RoomMuted(until_ms=until_ms):
            return row and row._replace(muted_until_ms=until_ms)
        case RoomDismissed():
            return row and row._replace(dismissed=recorded.position, dismissed_by=recorded.mid)
    return row


def _with_role(row: Room, mid: int, role: str) -> Room:
    if (role == "owner") == (mid in row.owners):
        return row
    others = tuple(owner for owner in row.owners if owner != mid)
    return row._replace(owners=(*others, mid) if role == "owner" else others)


projection: Final = Projection("rooms", tables.rooms, Room, TYPES, keys, apply)
