"""Who is invited to which room, and by whom. A join ends an invitation, and so does a ban.

The invitation stands in the stream of the person who is invited, and what ends it may stand in the room's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import (
    InvitationDeclined,
    InvitationWithdrawn,
    Invited,
    MemberBanned,
    MemberJoined,
    Recorded,
)
from imcore.projections.projection import Key, Projection, types


class Invitation(NamedTuple):
    """An invitation that is open: the position of the event, who invites, and since when."""

    position: int
    by: int
    at_ms: int


TYPES: Final = types(Invited, InvitationWithdrawn, InvitationDeclined, MemberJoined, MemberBanned)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case (
            Invited(room=room, mid=mid)
            | InvitationWithdrawn(room=room, mid=mid)
            | InvitationDeclined(room=room, mid=mid)
            | MemberJoined(room=room, mid=mid)
            | MemberBanned(room=room, mid=mid)
        ):
            return ((room, mid),)
    return ()


def apply(key: Key, row: Invitation | None, recorded: Recorded) -> Invitation | None:
    match recorded.fact:
        case Invited():
            return row or Invitation(recorded.position, recorded.mid, recorded.time_ms)
        case InvitationWithdrawn() | InvitationDeclined() | MemberJoined() | MemberBanned():
            return None
    return row


projection: Final = Projection("invitations", tables.invitations, Invitation, TYPES, keys, apply)
