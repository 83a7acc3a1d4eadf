"""What a member has not read: counted as things happen, so that reading it costs one row.

Unread are the messages of others with seq > max(read mark, join). With the room's count of messages, which the head of its
stream holds, that is (messages - seen) - (sent - sent_seen): all after the mark, less one's own after the mark.

A join sets the mark to its own seq. So a mark never goes back, not even over leaving and joining again, and a mark that was
made before leaving but recorded after the next join is older than it and changes nothing.

The trap: every message comes through here, 40,000 a second under load. For messages `keys` and `apply` look at `op` first and use
the columns of Recorded; parsing a body would cost ten times as much as all the rest.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import (
    MESSAGE_TYPES,
    ROOM,
    SERVICE_MID,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    ReadMarked,
    Recorded,
)
from imcore.projections.projection import Key, Projection, types

ROOM_CHARACTERS: Final = len(ROOM)


class Inbox(NamedTuple):
    """Counts of one member in one room; see tables.inbox for each."""

    since_seq: int
    read_seq: int
    seen: int
    sent: int
    sent_seen: int


TYPES: Final = MESSAGE_TYPES | types(MemberJoined, MemberLeft, MemberRemoved, ReadMarked)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    if recorded.op > 0:
        mid, stream = recorded.mid, recorded.stream
        if mid == SERVICE_MID or stream[:ROOM_CHARACTERS] != ROOM:
            return ()  # the service is no member of anything, and has no inbox
        return ((mid, stream[ROOM_CHARACTERS:]),)
    match recorded.fact:
        case (
            MemberJoined(room=room, mid=mid)
            | MemberLeft(room=room, mid=mid)
            | MemberRemoved(room=room, mid=mid)
            | ReadMarked(room=room, mid=mid)
        ):
            return () if mid == SERVICE_MID else ((mid, room),)
    return ()


def apply(key: Key, row: Inbox | None, recorded: Recorded) -> Inbox | None:
    if recorded.op > 0:
        if row is None:
            return None
        since_seq, read_seq, seen, sent, sent_seen = row
        # Half of the cost of calling the class.
        return tuple.__new__(Inbox, (since_seq, read_seq, seen, sent + 1, sent_seen))
    match recorded.fact:
        case MemberJoined():
            return row or Inbox(recorded.seq, read_seq=recorded.seq, seen=recorded.messages, sent=0, sent_seen=0)
        case MemberLeft() | MemberRemoved():
            return None
        case ReadMarked(seq=seq, messages=messages, sent=sent) if row is not None and seq > row.read_seq:
            return row._replace(read_seq=seq, seen=max(row.seen, messages), sent_seen=max(row.sent_seen, sent))
    return row


projection: Final = Projection("inbox", tables.inbox, Inbox, TYPES, keys, apply)
