"""Who is in which room, since when, as what, and whether muted: the row that every send is checked against.

A second join keeps the first date; a leave or a removal ends everything. A mute that goes on is said anew after the next join (see
mutes). A block marks the other's membership of the direct room of the two, so that a send there looks nowhere else.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import (
    MemberJoined,
    MemberLeft,
    MemberMuted,
    MemberRemoved,
    PersonBlocked,
    PersonUnblocked,
    Recorded,
    RoleChanged,
    direct_room,
)
from imcore.projections.projection import Key, Projection, types


class Member(NamedTuple):
    """A membership. `since` is the position of the join and `since_seq` its seq in the room; `changed` is the position of the last
    event that changed what the list of members says."""

    role: str
    since: int
    since_seq: int
    muted_until_ms: int
    blocked: bool = False
    changed: int = 0


TYPES: Final = types(MemberJoined, MemberLeft, MemberRemoved, MemberMuted, RoleChanged, PersonBlocked, PersonUnblocked)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case (
            MemberJoined(room=room, mid=mid)
            | MemberLeft(room=room, mid=mid)
            | MemberRemoved(room=room, mid=mid)
            | MemberMuted(room=room, mid=mid)
            | RoleChanged(room=room, mid=mid)
        ):
            return ((room, mid),)
        case PersonBlocked(by=by, mid=mid) | PersonUnblocked(by=by, mid=mid):
            return ((direct_room(by, mid), mid),)
    return ()


def apply(key: Key, row: Member | None, recorded: Recorded) -> Member | None:
    match recorded.fact:
        case MemberJoined(role=role):
            return row or Member(role, recorded.position, recorded.seq, muted_until_ms=0, changed=recorded.position)
        case MemberLeft() | MemberRemoved():
            return None
        case MemberMuted(until_ms=until_ms):
            return row and row._replace(muted_until_ms=until_ms, changed=recorded.position)
        case RoleChanged(role=role):
            return row and row._replace(role=role, changed=recorded.position)
        case PersonBlocked():
            return row and row._replace(blocked=True)
        case PersonUnblocked():
            return row and row._replace(blocked=False)
    return row


projection: Final = Projection("members", tables.members, Member, TYPES, keys, apply)
