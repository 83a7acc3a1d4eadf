"""When each person was last heard of: a session of theirs opened, acknowledged, entered a room, or ended.

It never goes back, and it is never later than the truth: the end of a session whose comet was lost, or whose client fell silent, says
when that was found out and not when the person was last there, which may be long before. So such an end moves nothing.

The trap: devices acknowledge once a second while something happens. An ack moves the row only when it says a minute more, so that the
row is written once a minute; the end of the session says the exact time.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.errors import HeartbeatTimeout
from imcore.events.types import NODE_LOST, SESSION, DeliveryAcked, Recorded, RoomsEntered, SessionClosed, SessionOpened
from imcore.projections.projection import Key, Projection, types

COARSE_MS: Final = 60_000
FOUND_LATE: Final = (
    NODE_LOST,
    HeartbeatTimeout.code,
)  # reasons of ends that were noticed some time after the person was gone


class Seen(NamedTuple):
    """Milliseconds since 1970."""

    at_ms: int


TYPES: Final = types(SessionOpened, SessionClosed, RoomsEntered, DeliveryAcked)
ACKED: Final = DeliveryAcked.type


def keys(recorded: Recorded) -> tuple[Key, ...]:
    if recorded.type not in TYPES:
        return ()
    mid = int(recorded.stream.removeprefix(SESSION))
    if mid <= 0:
        return ()  # a guest is somebody else next time
    match recorded.type:
        case SessionClosed.type:
            fact = recorded.fact
            assert isinstance(fact, SessionClosed)
            return () if fact.reason in FOUND_LATE else ((mid,),)
    return ((mid,),)


def apply(key: Key, row: Seen | None, recorded: Recorded) -> Seen | None:
    if row is None:
        return Seen(recorded.time_ms)
    least_ms = COARSE_MS if recorded.type == ACKED else 1
    return Seen(recorded.time_ms) if recorded.time_ms >= row.at_ms + least_ms else row


projection: Final = Projection("seen", tables.seen, Seen, TYPES, keys, apply)
