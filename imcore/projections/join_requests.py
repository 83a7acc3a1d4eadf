"""Who asks to be let into which room. A join answers it, a rejection, or a ban."""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import JoinRejected, JoinRequested, MemberBanned, MemberJoined, Recorded
from imcore.projections.projection import Key, Projection, types


class JoinRequest(NamedTuple):
    """A request that is open: the position of the event, what the person says, and since when."""

    position: int
    text: str
    at_ms: int


TYPES: Final = types(JoinRequested, JoinRejected, MemberJoined, MemberBanned)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case (
            JoinRequested(room=room, mid=mid)
            | JoinRejected(room=room, mid=mid)
            | MemberJoined(room=room, mid=mid)
            | MemberBanned(room=room, mid=mid)
        ):
            return ((room, mid),)
    return ()


def apply(key: Key, row: JoinRequest | None, recorded: Recorded) -> JoinRequest | None:
    match recorded.fact:
        case JoinRequested(text=text):
            return row or JoinRequest(recorded.position, text, recorded.time_ms)
        case JoinRejected() | MemberJoined() | MemberBanned():
            return None
    return row


projection: Final = Projection("join_requests", tables.join_requests, JoinRequest, TYPES, keys, apply)
