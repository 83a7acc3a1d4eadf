"""The log as it is at the end of a run: what every record is judged by.

L is `rooms` and `at`, M is `memberships`, V is `visible` and `sees`. What follows from the entries is made from them once, in memory;
`authoritative` reads them by SQL, in one snapshot.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, NamedTuple

import asyncpg
import orjson

from imcore.events import messages
from imcore.events.names import Connection, Names
from imcore.events.store import recorded
from imcore.events.types import (
    ALL,
    JSON,
    KEY,
    MESSAGE_TYPES,
    ROOM,
    SESSION,
    USER,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    MessageEdited,
    MessageRecalled,
    ReadMarked,
    Recorded,
    RoomCreated,
    room_type,
)
from imcore.projections import INLINE, PROJECTIONS
from imcore.projections.projection import Key, RowTable, fold
from imcore.testkit.history.records import body_hash

PAGE_EVENTS: Final = 5_000
FOR_EVER: Final = 1 << 62
NOTHING: Final = body_hash(None)  # how a recalled message reads
CHECKPOINTS: Final = "SELECT projection, position FROM checkpoints"


class Entry(NamedTuple):
    """An event of the log in a stream that somebody is delivered. `room` is the stream's name where it is in no room."""

    position: int
    room: str
    seq: int
    kind: str
    mid: int
    key: str
    id: str
    hash: str
    whom: int

    @property
    def is_message(self) -> bool:
        """Said by somebody, not done."""
        return self.kind in MESSAGE_TYPES


class Interval(NamedTuple):
    """A membership: from the join (`first`) to just before the event that ended it (`end`), in seqs and in positions."""

    first: int
    end: int
    position: int
    end_position: int

    @property
    def is_open(self) -> bool:
        """It has not ended."""
        return self.end == FOR_EVER


class ReadMark(NamedTuple):
    """A read mark as the log has it."""

    position: int
    mid: int
    room: str
    seq: int


class Projected(NamedTuple):
    """The rows of a projection as they are, and as its fold over the log makes them, both as of this position."""

    position: int
    live: Mapping[Key, object]
    folded: Mapping[Key, object]


@dataclass(slots=True)
class Log:
    """L, M and V: the events of each room, who was a member when, and what each person may see. Read at the end of a run.

    `positions` counts the events of the whole log, `head` is its last position, `heads` are the last seqs that the streams themselves
    tell. `entries` are in order of position.
    """

    epoch: str = ""
    entries: Sequence[Entry] = ()
    head: int = 0
    positions: int = 0
    heads: Mapping[str, int] = field(default_factory=dict)
    read_marks: Sequence[ReadMark] = ()
    shown: Collection[str] = frozenset()  # rooms whose members see everything that was said before they came
    projected: Mapping[str, Projected] = field(default_factory=dict)
    live_types: Collection[str] = ("live",)
    readings: Mapping[tuple[str, int], Collection[str]] = field(default_factory=dict)  # see `reads_as`
    rooms: dict[str, list[Entry]] = field(init=False)
    at: dict[tuple[str, int], Entry] = field(init=False)
    memberships: dict[tuple[int, str], list[Interval]] = field(init=False)
    _rooms_of: dict[int, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.rooms, self.at, self.memberships = defaultdict(list), {}, {}
        self._rooms_of = defaultdict(list)
        joined = MemberJoined.type
        ended = (MemberLeft.type, MemberRemoved.type)
        for entry in self.entries:
            position, room, seq, kind = entry[:4]
            self.rooms[room].append(entry)
            self.at[room, seq] = entry
            if kind == joined:
                spans = self.memberships.setdefault((entry.whom, room), [])
                if not spans:
                    self._rooms_of[entry.whom].append(room)
                if not spans or not spans[-1].is_open:  # a second join keeps the first
                    spans.append(Interval(seq, FOR_EVER, position, FOR_EVER))
            elif kind in ended:
                spans = self.memberships.get((entry.whom, room), [])
                if spans and spans[-1].is_open:
                    spans[-1] = spans[-1]._replace(end=seq, end_position=position)

    def has_members(self, room: str) -> bool:
        """Is it a room whose members are recorded? Not a live one, and not the stream of a person."""
        return "://" in room and room_type(room) not in self.live_types

    def interval(self, mid: int, room: str, seq: int) -> Interval | None:
        """The membership that this seq lies in."""
        spans = self.memberships.get((mid, room))
        if not spans:
            return None
        n = bisect_right(spans, seq, key=itemgetter(0)) - 1
        return spans[n] if n >= 0 and seq < spans[n].end else None

    def sees(self, mid: int, key: str, room: str, seq: int) -> bool:
        """May this device be delivered this event?"""
        if "://" in room:
            return not self.has_members(room) or self.interval(mid, room, seq) is not None
        return room in (f"{USER}{mid}", f"{KEY}{key}", ALL)

    def visible(self, mid: int) -> list[tuple[Entry, Interval]]:
        """Everything that the person sees as a member, by position, with the membership by which it does."""
        found: list[tuple[Entry, Interval]] = []
        for room in self._rooms_of.get(mid, ()):
            events = self.rooms[room]
            for span in self.memberships[mid, room]:
                first = bisect_right(events, span.position - 1, key=itemgetter(0))
                last = bisect_right(events, span.end_position - 1, key=itemgetter(0))
                found += [(entry, span) for entry in events[first:last]]
        own = f"{USER}{mid}"
        found += [(entry, Interval(1, FOR_EVER, 1, FOR_EVER)) for entry in self.rooms.get(own, ())]
        found.sort(key=lambda one: one[0].position)
        return found

    def reads_as(self, entry: Entry, said: str) -> bool:
        """Could the message at this place be shown so? As it was sent, as one of its edits has it, or, recalled, as nothing."""
        return said == entry.hash or said in self.readings.get((entry.room, entry.seq), ())

    def last_seq(self, room: str) -> int:
        """head(r)."""
        events = self.rooms.get(room)
        return events[-1].seq if events else 0


# Without the words of all messages: they would be held in memory twice, and `imcore audit` compares them where they lie.
HELD: Final = {name: one for name, one in PROJECTIONS.items() if not one.reads_messages}


async def authoritative(connection: Connection, *, live_types: Collection[str] = ("live",)) -> Log:
    """The log of every room and person, the streams' heads, and the rows of all projections with their folds: one snapshot.

    A projection is folded up to where its rows have come, so nothing needs to be waited for.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        head = await connection.fetchrow("SELECT position, epoch FROM log_head")
        assert head is not None, "a migrated database has a head"
        streams = await connection.fetch("SELECT id, name, seq FROM streams WHERE seq > 0")
        came: dict[str, int] = {}
        came.update((name, position) for name, position in await connection.fetch(CHECKPOINTS))
        upto = {name: head["position"] if one in INLINE else came.get(name, 0) for name, one in HELD.items()}
        live = {
            name: dict(map(RowTable(one).row, await connection.fetch(f"SELECT * FROM {one.table.name}")))
            for name, one in HELD.items()
        }
        names = Names()
        names.names.update((stream["id"], stream["name"]) for stream in streams)
        kept: dict[str, str] = {}
        folded: dict[str, dict[Key, Any]] = {name: {} for name in HELD}
        entries: list[Entry] = []
        marks: list[ReadMark] = []
        shown: set[str] = set()
        readings: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        positions = 0
        async for page in _pages(connection):
            events = [recorded(row, names) for row in page]
            positions += len(events)
            for name, one in HELD.items():
                fold(one, (event for event in events if event.position <= upto[name]), folded[name])
            for event in events:
                if not event.stream.startswith(SESSION):
                    entries.append(entry_of(event, kept))
                if event.type == ReadMarked.type and isinstance(fact := event.fact, ReadMarked):
                    marks.append(ReadMark(event.position, fact.mid, fact.room, fact.seq))
                elif event.type == MessageEdited.type and isinstance(fact := event.fact, MessageEdited):
                    readings[fact.room, fact.target].add(body_hash(fact.body))
                elif event.type == MessageRecalled.type and isinstance(fact := event.fact, MessageRecalled):
                    readings[fact.room, fact.target].add(NOTHING)
                elif event.type == RoomCreated.type and isinstance(fact := event.fact, RoomCreated):
                    shown.update([fact.room] if fact.history == "all" else ())
    return Log(
        head["epoch"],
        entries,
        head["position"],
        positions,
        {stream["name"].removeprefix(ROOM): stream["seq"] for stream in streams if stream["name"][:8] != SESSION},
        marks,
        shown,
        {name: Projected(upto[name], live[name], folded[name]) for name in HELD},
        live_types,
        readings,
    )


async def _pages(connection: Connection) -> AsyncIterator[list[asyncpg.Record]]:
    cursor = await connection.cursor("SELECT * FROM events ORDER BY position")
    while page := await cursor.fetch(PAGE_EVENTS):
        yield page


def entry_of(event: Recorded, names: dict[str, str] | None = None) -> Entry:
    """The event as checks look at it."""
    kept: Callable[[str], str] = str if names is None else lambda text: names.setdefault(text, text)
    whom = 0
    said = ""
    if event.type in MESSAGE_TYPES:
        format_, text = messages.written(event)
        said = body_hash(orjson.loads(text) if format_ == JSON else text)
    else:
        whom = getattr(event.fact, "mid", 0) or 0
    return Entry(
        event.position, kept(event.room or event.stream), event.seq, kept(event.type), event.mid, kept(event.key),
        event.client_id or "", said, whom,
    )  # fmt: skip
