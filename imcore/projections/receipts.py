"""How far each member of a room has read: the marks of `inbox`, kept by room, with the time of each.

`inbox` is read by person, and a hundred thousand looks into it would tell who of a room has read a message. Here they lie side by
side. No message comes through here, so it costs a row a mark and a row a join.

A join sets the mark to its own seq, as in `inbox`: a mark never goes back. So `read_seq > since_seq` says that something was marked.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import SERVICE_MID, MemberJoined, MemberLeft, MemberRemoved, ReadMarked, Recorded
from imcore.projections.projection import Key, Projection, types


class Receipt(NamedTuple):
    """Up to where a member has read, and when that mark was made."""

    since_seq: int
    read_seq: int
    time_ms: int


TYPES: Final = types(MemberJoined, MemberLeft, MemberRemoved, ReadMarked)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case (
            MemberJoined(room=room, mid=mid)
            | MemberLeft(room=room, mid=mid)
            | MemberRemoved(room=room, mid=mid)
            | ReadMarked(room=room, mid=mid)
        ):
            return () if mid == SERVICE_MID else ((room, mid),)
    return ()


def apply(key: Key, row: Receipt | None, recorded: Recorded) -> Receipt | None:
    match recorded.fact:
        case MemberJoined():
            return row or Receipt(recorded.seq, recorded.seq, recorded.time_ms)
        case MemberLeft() | MemberRemoved():
            return None
        case ReadMarked(seq=seq) if row is not None and seq > row.read_seq:
            return Receipt(row.since_seq, seq, recorded.time_ms)
    return row


projection: Final = Projection("receipts", tables.receipts, Receipt, TYPES, keys, apply)
