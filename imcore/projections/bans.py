"""Who may not come into which room, until when, and who decided it.

A ban that is over stays a row until the person joins or the ban is lifted: no event tells of its end.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import MemberBanned, MemberJoined, MemberUnbanned, Recorded
from imcore.projections.projection import Key, Projection, types


class Ban(NamedTuple):
    """A ban: the position of the event, who did it, until when (0 is for ever), and why."""

    position: int
    by: int
    until_ms: int
    reason: str

    def holds(self, now_ms: int) -> bool:
        """Is it in force at this time?"""
        return self.until_ms == 0 or self.until_ms > now_ms


TYPES: Final = types(MemberBanned, MemberUnbanned, MemberJoined)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case MemberBanned(room=room, mid=mid) | MemberUnbanned(room=room, mid=mid) | MemberJoined(room=room, mid=mid):
            return ((room, mid),)
    return ()


def apply(key: Key, row: Ban | None, recorded: Recorded) -> Ban | None:
    match recorded.fact:
        case MemberBanned(until_ms=until_ms, reason=reason):
            return Ban(recorded.position, recorded.mid, until_ms, reason)
        case MemberUnbanned() | MemberJoined():
            return None
    return row


projection: Final = Projection("bans", tables.bans, Ban, TYPES, keys, apply)
