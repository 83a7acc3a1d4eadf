"""Who is in which room, since when, as what, and whether muted: the row that every send is checked against.

A second join keeps the first date; a leave or a removal ends everything, the mute too.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import MemberJoined, MemberLeft, MemberMuted, MemberRemoved, Recorded, RoleChanged
from imcore.projections.projection import Key, Projection, types


class Member(NamedTuple):
    """A membership. `since` is the position of the join and `since_seq` its seq in the room."""

    role: str
    since: int
    since_seq: int
    muted_until_ms: int


TYPES: Final = types(MemberJoined, MemberLeft, MemberRemoved, MemberMuted, RoleChanged)


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
    return ()


def apply(key: Key, row: Member | None, recorded: Recorded) -> Member | None:
    match recorded.fact:
        case MemberJoined(role=role):
            return row or Member(role, recorded.position, recorded.seq, muted_until_ms=0)
        case MemberLeft() | MemberRemoved():
            return None
        case MemberMuted(until_ms=until_ms):
            return row and row._replace(muted_until_ms=until_ms)
        case RoleChanged(role=role):
            return row and row._replace(role=role)
    return row


projection: Final = Projection("members", tables.members, Member, TYPES, keys, apply)
