"""The log in memory: dense positions, streams, memberships and delivery marks, as Postgres would have them.

Whatever is read is a snapshot of the moment of reading. It keeps every membership that ever was, which is what the promises of a
comet are measured by.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from imcore.comet.hub import Left
from imcore.comet.loader import Known
from imcore.events.types import (
    ALL,
    JSON,
    KEY,
    MESSAGE_PUSHED,
    MESSAGE_SENT,
    ROOM,
    SERVICE_MID,
    SESSION,
    USER,
    DeliveryAcked,
    Fact,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    Recorded,
)

FOR_EVER = 1 << 60


class Draft(NamedTuple):
    """What is to be appended. A message has no body: it gets its position for one, so that every form shows it."""

    stream: str
    fact: Fact | None
    mid: int = SERVICE_MID
    key: str = ""
    op: int = 0
    client_id: str | None = None


class Membership(NamedTuple):
    """From the event of the join on, up to the event of the leaving, which the leaver does not get."""

    joined: int
    left: int


class MemoryLog:
    """Events by position, and what follows from them."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self.streams: dict[str, list[int]] = {}  # positions
        self.messages: dict[str, int] = {}  # of each stream
        self.members: dict[str, dict[int, int]] = {}  # stream -> mid -> position of the join
        self.memberships: dict[tuple[str, int], list[Membership]] = {}
        self.marks: dict[int, dict[str, int]] = {}

    @property
    def head(self) -> int:
        """The last position."""
        return len(self.events)

    def at(self, position: int) -> Recorded:
        """The event at this position."""
        return self.events[position - 1]

    def append(self, drafts: Sequence[Draft]) -> list[Recorded]:
        """One commit."""
        batch: list[Recorded] = []
        for stream, fact, mid, key, op, client_id in drafts:
            position = self.head + 1
            places = self.streams.setdefault(stream, [])
            places.append(position)
            if fact is None:
                self.messages[stream] = self.messages.get(stream, 0) + 1
                type_ = MESSAGE_PUSHED if mid == SERVICE_MID else MESSAGE_SENT
                body = str(position)
            else:
                type_ = fact.type
                body = fact.model_dump_json()
            said = self.messages.get(stream, 0)
            event = Recorded(
                position, stream, len(places), said, type_, 1, mid, key, client_id, op, JSON, position, body
            )
            self.events.append(event)
            batch.append(event)
            if fact is not None:
                self._fold(event, fact)
        return batch

    def _fold(self, event: Recorded, fact: Fact) -> None:
        stream, position = event.stream, event.position
        match fact:
            case MemberJoined(mid=mid):
                here = self.members.setdefault(stream, {})
                assert mid not in here, "who is a member does not join"
                here[mid] = position
                self.memberships.setdefault((stream, mid), []).append(Membership(position, FOR_EVER))
            case MemberLeft(mid=mid) | MemberRemoved(mid=mid):
                since = self.members[stream].pop(mid)
                self.memberships[stream, mid][-1] = Membership(since, position)
            case DeliveryAcked(key=key, position=upto):
                marks = self.marks.setdefault(event.mid, {})
                marks[key] = max(marks.get(key, 0), upto)

    def read(self, after: int, limit: int) -> list[Recorded]:
        """The next events of the whole log."""
        return self.events[after : after + limit]

    def read_streams(self, after: Mapping[str, int], upto: int, limit: int) -> list[Recorded]:
        """The next events of these streams together, each after its own position and none after `upto`."""
        found: list[int] = []
        for stream, position in after.items():
            places = self.streams.get(stream, [])
            start = bisect_right(places, position)
            found += places[start : min(bisect_right(places, upto), start + limit)]
        return [self.at(position) for position in sorted(found)[:limit]]

    def known(self, mid: int, key: str, after: int | None) -> Known:
        """What a connecting device must know, as of now."""
        rooms = {stream: here[mid] for stream, here in self.members.items() if mid in here}
        newest = max(self.newest(stream) for stream in (*rooms, ALL, f"{USER}{mid}", KEY + key))
        marks = dict(self.marks.get(mid, {}))
        was_at = marks.get(key, max(marks.values(), default=0)) if after is None else after
        return Known(self.head, rooms, newest, marks, self.departed(mid, was_at, self.head), was_at, {})

    def acked(self, mid: int, key: str, upto: int) -> int:
        """The delivery mark of a device as of this place in the log."""
        own = [self.at(position) for position in self.streams.get(session_stream(mid), []) if position <= upto]
        facts = [event.fact for event in own if event.type == DeliveryAcked.type]
        return max((fact.position for fact in facts if isinstance(fact, DeliveryAcked) and fact.key == key), default=0)

    def departed(self, mid: int, after: int, upto: int) -> dict[str, Left]:
        """The rooms that this person left after one place in the log, and was not in again at another."""
        found: dict[str, Left] = {}
        for (stream, who), memberships in self.memberships.items():
            begun = [one for one in memberships if one.joined <= upto]
            if who == mid and begun and after < begun[-1].left <= upto:
                event = self.at(begun[-1].left)
                found[stream] = Left(event.position, event.mid, event.type)
        return found

    def newest(self, stream: str) -> int:
        """The position of the stream's last event."""
        places = self.streams.get(stream)
        return places[-1] if places else 0

    def rooms_of(self, mid: int) -> list[str]:
        """The streams of the rooms that this person is in."""
        return [stream for stream, here in self.members.items() if mid in here]


def session_stream(mid: int) -> str:
    """Where the life of a person's connections is recorded."""
    return f"{SESSION}{mid}"


def room_stream(room: str) -> str:
    """What members of the room see."""
    return ROOM + room
