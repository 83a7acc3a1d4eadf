"""The history of a run: what each client did and saw, step by step; and the log as it is at the end, which judges it.

    write = Writer(folder / "client-1.jsonl")                       # one file a process
    me = Recorder(write, process="client-1", mid=7, key="phone")
    async with connect(url, ..., observe=me.observe) as im: ...     # the SDK's steps
    n = me.invoke("kick", Belonging("group://a", mid=9))            # what goes another way, say over HTTP
    me.finish(n, "ok", Belonging("group://a", mid=9, position=41, seq=3))
    me.phase(DRAINED)                                               # a mark in time, see the names below
    write.close()
    history = merge(folder.glob("*.jsonl"))                         # everything, by time
    log = await authoritative(connection)                           # L, M and V, by SQL, at the end

A `Record` is one step. An operation has an `invoke` and then `ok` (done, says the server), `fail` (refused, nothing was stored) or
`info` (anything else: it may have been done or not); the two have the same connection and number `n`. What just happens to a client
(deliver, close, presence seen) has no invoke. Times are CLOCK_MONOTONIC, one clock for all processes of a machine. The value `v` has
a type by `f`, see VALUES; a field at its default is left out of the file.

Phases and faults are records too, of `f` nemesis: `invoke` when a fault begins, `ok` when it is healed, and `info` for a phase:
DRAIN when the load has ended, everything is healed and everybody has come back, DRAINED when everybody has been idle for a while.

The trap: a client that is killed takes its buffer with it, and a send that nobody remembers looks like a message from nowhere. So an
invoke is handed to the operating system before `write` returns, with everything before it; `buffer_bytes_max=0` does so with every
record.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

import asyncpg
import orjson

from imcore.errors import TABLE, Unavailable
from imcore.events.names import Connection, Names
from imcore.events.store import recorded
from imcore.events.types import (
    ALL,
    JSON,
    KEY,
    MESSAGE_SENT,
    MESSAGE_TYPES,
    ROOM,
    SESSION,
    USER,
    MemberJoined,
    MemberLeft,
    MemberMuted,
    MemberRemoved,
    ReadMarked,
    Recorded,
    RoleChanged,
    RoomCreated,
    room_type,
)
from imcore.projections import ASYNCHRONOUS, PROJECTIONS
from imcore.projections.projection import Key, RowTable, fold
from imcore.protocol.packet import Op

Type: TypeAlias = Literal["invoke", "ok", "fail", "info"]
DRAIN: Final = "drain"
DRAINED: Final = "drained"
PHASES: Final = frozenset((DRAIN, DRAINED))
REMOVED: Final = "removed"  # the kind of a delivered notice that one is no longer in a room

# Errors that say that nothing was stored. Every other one leaves the outcome open, and so does a code that we do not know.
DEFINITE: Final = frozenset(kind.code for kind in TABLE if kind.close is None and kind is not Unavailable)
BUFFER_BYTES_MAX: Final = 64 << 10
PENDING_MAX: Final = 100_000  # operations of one client that have no outcome yet
PAGE_EVENTS: Final = 5_000
CHECKPOINTS: Final = "SELECT projection, position FROM checkpoints"


# --- values: what a record tells, by f -----------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """connect, resume. invoke: `cursor` and its `cursor_epoch` as given. ok: the same, and where delivery begins (`position`).

    A connection that is open has an ok of connect; one that came back also one of resume, with `recovered` and the `reason`.
    """

    position: int = 0
    cursor: int = -1  # the position of the cursor that the client gave; -1: it gave none
    cursor_epoch: str = ""
    epoch: str = ""
    recovered: bool = False
    reason: str = ""
    code: str = ""


class Sending(NamedTuple):
    """send. invoke: `room`, `id` and the `hash` of the body; ok: its place too; fail and info: a `code`."""

    room: str
    id: str
    hash: str = ""
    position: int = 0
    seq: int = 0
    duplicate: bool = False
    code: str = ""
    text: str = ""


class Belonging(NamedTuple):
    """join, leave, kick, role: `mid` is whom it is about. A kick of no room ends sessions: of `key`, or all of the person."""

    room: str
    mid: int
    key: str = ""
    role: str = ""
    position: int = 0
    seq: int = 0
    duplicate: bool = False
    code: str = ""
    text: str = ""


class Delivered(NamedTuple):
    """deliver, and an event in a page of history. `room` is the stream's name where the event is in no room (user:7, all:).

    `kind` is the event's type, or "removed" for the notice of being in a room no more. `mid`, `key`: who did it, from where. `whom`:
    who joined, left or was removed.
    """

    position: int
    room: str
    seq: int = 0
    kind: str = MESSAGE_SENT
    mid: int = 0
    key: str = ""
    id: str = ""
    hash: str = ""
    whom: int = 0


class Acking(NamedTuple):
    """ack: everything up to `position` is dealt with."""

    position: int
    code: str = ""
    text: str = ""


class Reading(NamedTuple):
    """read. invoke: the mark to set. ok: the mark in force, and what is unread after it; -1: not told.

    Lines of an inbox are of f read too, each an ok with the number of the inbox's invoke, whose `room` is empty.
    """

    room: str
    seq: int = 0
    unread: int = -1
    code: str = ""
    text: str = ""


class Paging(NamedTuple):
    """history. invoke: what was asked for (-1: left out); ok: that, and the page."""

    room: str
    before: int = -1
    after: int = -1
    limit: int = -1
    events: tuple[Delivered, ...] = ()
    head: int = 0
    more: bool = False
    code: str = ""
    text: str = ""


class Presence(NamedTuple):
    """presence: `mid` was shown online or not. With an invoke (which names nobody) it is what was so between the two."""

    mid: int = 0
    online: bool = False
    code: str = ""
    text: str = ""


class Closed(NamedTuple):
    """close: the connection is over. `code` 0: without a word. `by_client`: because it wanted to."""

    code: int = 0
    reason: str = ""
    by_client: bool = False


class Fault(NamedTuple):
    """nemesis. `name` of the fault and its `target`. `bites`: clients should have noticed. `harmless`: no send should have failed.

    A figure that was measured on the way is an info record: its name, the process, and the value.
    """

    name: str
    target: str = ""
    bites: bool = True
    harmless: bool = False
    value: float = 0.0


Value: TypeAlias = (
    Opened | Sending | Belonging | Delivered | Acking | Reading | Paging | Presence | Closed | Fault
)  # fmt: skip
VALUES: Final[Mapping[str, Callable[..., Value]]] = {
    "connect": Opened,
    "resume": Opened,
    "join": Belonging,
    "leave": Belonging,
    "kick": Belonging,
    "role": Belonging,
    "send": Sending,
    "deliver": Delivered,
    "ack": Acking,
    "read": Reading,
    "history": Paging,
    "presence": Presence,
    "close": Closed,
    "nemesis": Fault,
}


class Record(NamedTuple):
    """One step of one client: when, which process, person, device and connection; operation number; type, f and its value."""

    t: int
    p: str
    u: int
    dev: str
    conn: int
    n: int
    type: Type
    f: str
    v: Value


def body_hash(body: object) -> str:
    """What a message said, in 16 characters: the same for the sender's value, the receiver's and the log's."""
    if isinstance(body, bytes):  # the log and the protocol have them so
        body = base64.b64encode(body).decode()
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


# --- files ---------------------------------------------------------------------------------------------------------------------


def encode(record: Record) -> bytes:
    """A record as one line."""
    t, p, u, dev, conn, n, type_, f, v = record
    told: dict[str, object] = {"t": t, "p": p, "u": u, "dev": dev, "conn": conn, "n": n, "type": type_, "f": f}
    defaults = v._field_defaults
    told["v"] = {name: value for name, value in zip(v._fields, v, strict=True) if defaults.get(name) != value}
    return orjson.dumps(told, default=list, option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes, names: dict[str, str] | None = None) -> Record:
    """The record of a line. `names` keeps one copy of each text that comes again and again. Raises ValueError."""
    told: dict[str, Any] = orjson.loads(line)
    kept: Callable[[str], str] = str if names is None else lambda text: names.setdefault(text, text)
    try:
        f = told["f"]
        v = {name: kept(value) if isinstance(value, str) else value for name, value in told["v"].items()}
        if "events" in v:
            v["events"] = tuple(Delivered(*event) for event in v["events"])
        return Record(
            told["t"], kept(told["p"]), told["u"], kept(told["dev"]), told["conn"], told["n"], told["type"], kept(f),
            VALUES[f](**v),
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a record: {line[:200]!r}") from error


class Writer:
    """Writes records to a file of one process, in the order in which they come. Holds at most `buffer_bytes_max` of them back.

    An invoke, and everything before it, is with the operating system when the call returns: a kill of this process does not lose it.
    """

    def __init__(self, path: Path, *, buffer_bytes_max: int = BUFFER_BYTES_MAX) -> None:
        self.path = path
        self.records = 0
        self._buffer = bytearray()
        self._bytes_max = buffer_bytes_max
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __call__(self, record: Record) -> None:
        """Take one record."""
        self._buffer += encode(record)
        self.records += 1
        if record.type == "invoke" or len(self._buffer) > self._bytes_max:
            self.flush()

    def flush(self) -> None:
        """Hand over what is held back."""
        while self._buffer:
            del self._buffer[: os.write(self._file, self._buffer)]

    def close(self) -> None:
        """Hand over everything, and end."""
        if self._file >= 0:
            self.flush()
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path, names: dict[str, str] | None = None) -> Iterator[Record]:
    """The records of one file, in order. A last line that was cut off by a kill is left out; any other is a ValueError."""
    names = {} if names is None else names
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decode(line, names)


def merge(paths: Iterable[Path]) -> list[Record]:
    """The records of all files by time; those of one file stay in their order."""
    names: dict[str, str] = {}
    records: list[Record] = []
    for path in sorted(paths):
        records += read(path, names)
    records.sort(key=itemgetter(0))  # stable, and nearly linear: each file is in order already
    return records


# --- the recorder ------------------------------------------------------------------------------------------------------------


class Recorder:
    """One device of one person, recorded. `observe` is what the SDK is given; the rest is for what goes another way.

    Never raises for what a server said, and changes nothing: a body that it does not understand is recorded as far as it goes.
    """

    def __init__(
        self,
        write: Callable[[Record], None],
        *,
        process: str,
        mid: int = 0,
        key: str = "",
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.mid = mid
        self.key = key
        self._write = write
        self._process = process
        self._now_ns = now_ns
        self._last = 0
        self._pending: dict[tuple[int, int], tuple[str, Value]] = {}  # (connection, n) -> what has no outcome yet
        self._cursors: dict[int, tuple[int, str]] = {}
        self._leaving: set[int] = set()

    def observe(self, step: tuple[Any, ...]) -> None:
        """One step of the SDK: see `observe` of imcore.client.connect."""
        match step:
            case ("deliver", conn, event):
                self._put(conn, 0, "ok", "deliver", _event(event))
            case ("request", conn, op, n, body):
                self._request(conn, op, n, body if isinstance(body, dict) else {})
            case ("reply", conn, op, n, body):
                self._reply(conn, op, n, body if isinstance(body, dict) else {})
            case ("removed", conn, body):
                self._put(conn, 0, "ok", "deliver", Delivered(body.get("position", 0), body["room"], kind=REMOVED))
            case ("connecting", conn, *_):
                self._pending[conn, 0] = ("connect", Opened())
                self._put(conn, 0, "invoke", "connect", Opened())
            case ("connected", conn, body):
                self._connected(conn, body)
            case ("closing", conn, *_):
                self._leaving.add(conn)
            case ("closed", conn, code, reason):
                self.end(conn, code or 0, reason or "")

    def invoke(self, f: str, v: Value, *, conn: int = 0) -> int:
        """An operation begins that the SDK does not show; its number, for `finish`."""
        self._last += 1
        self._begin(conn, -self._last, f, v)
        return -self._last

    def finish(self, n: int, type_: Type, v: Value | None = None, *, conn: int = 0) -> None:
        """What became of it. Without a value, that of the invoke."""
        f, asked = self._pending.pop((conn, n))
        self._put(conn, n, type_, f, asked if v is None else v)

    def note(self, f: str, v: Value, *, type_: Type = "ok", conn: int = 0) -> None:
        """Something that was not asked for."""
        self._put(conn, 0, type_, f, v)

    def phase(self, name: str) -> None:
        """A mark in time: DRAIN or DRAINED."""
        assert name in PHASES, name
        self._put(0, 0, "info", "nemesis", Fault(name, bites=False))

    def end(self, conn: int, code: int, reason: str) -> None:
        """The connection is over: whatever has no outcome yet may have been done or not."""
        for at, n in [place for place in self._pending if place[0] == conn]:
            f, asked = self._pending.pop((at, n))
            self._put(conn, n, "info", f, asked)
        self._cursors.pop(conn, None)
        self._put(conn, 0, "ok", "close", Closed(code, reason, conn in self._leaving))
        self._leaving.discard(conn)

    def _put(self, conn: int, n: int, type_: Type, f: str, v: Value) -> None:
        self._write(Record(self._now_ns(), self._process, self.mid, self.key, conn, n, type_, f, v))

    def _begin(self, conn: int, n: int, f: str, v: Value) -> None:
        if len(self._pending) >= PENDING_MAX:  # a server that answers nothing must not fill our memory
            oldest, (old_f, asked) = next(iter(self._pending.items()))
            del self._pending[oldest]
            self._put(*oldest, "info", old_f, asked)
        self._pending[conn, n] = (f, v)
        self._put(conn, n, "invoke", f, v)

    def _connected(self, conn: int, body: Mapping[str, Any]) -> None:
        self._pending.pop((conn, 0), None)
        cursor, cursor_epoch = self._cursors.get(conn, (-1, ""))
        _, epoch = cursor_place(body.get("cursor"))
        opened = Opened(
            body.get("position", 0),
            cursor,
            cursor_epoch,
            body.get("epoch") or epoch,
            bool(body.get("recovered")),
            body.get("reason") or "",
        )
        self._put(conn, 0, "ok", "connect", opened)
        if opened.recovered or opened.reason not in ("", "new"):
            self._put(conn, 0, "ok", "resume", opened)

    def _request(self, conn: int, op: int, n: int, body: Mapping[str, Any]) -> None:
        room = body.get("room") or ""
        match op:
            case Op.SEND:
                said = Sending(room, str(body.get("id", "")).lower(), body_hash(body.get("body")))
                self._begin(conn, n, "send", said)
            case Op.AUTH:
                if body.get("cursor"):
                    self._cursors[conn] = cursor_place(body["cursor"])
            case Op.ACK:
                self._begin(conn, n, "ack", Acking(body.get("position", 0)))
            case Op.JOIN | Op.LEAVE:
                self._begin(conn, n, "join" if op == Op.JOIN else "leave", Belonging(room, self.mid))
            case Op.READ:
                self._begin(conn, n, "read", Reading(room, body.get("seq", 0)))
            case Op.INBOX:
                self._begin(conn, n, "read", Reading(""))
            case Op.HISTORY:
                asked = {name: body[name] for name in ("before", "after", "limit") if body.get(name) is not None}
                self._begin(conn, n, "history", Paging(room, **asked))
            case Op.MEMBERS:
                self._begin(conn, n, "presence", Presence())

    def _reply(self, conn: int, op: int, n: int, body: Mapping[str, Any]) -> None:
        if op == Op.AUTH_REPLY and (error := body.get("error")) and (conn, 0) in self._pending:
            del self._pending[conn, 0]
            self._put(conn, 0, "fail", "connect", Opened(code=str(error.get("code", ""))))
        if (found := self._pending.pop((conn, n), None) if n else None) is None:
            return
        f, asked = found
        error = body.get("error")
        if isinstance(error, dict):
            code, text = str(error.get("code", "")), str(error.get("text", ""))
            assert isinstance(asked, Sending | Belonging | Acking | Reading | Paging | Presence), "these are asked for"
            refused = asked._replace(code=code, text=text)
            self._put(conn, n, "fail" if code in DEFINITE else "info", f, refused)
            return
        for v in _answers(asked, body):
            self._put(conn, n, "ok", f, v)


def _answers(asked: Value, body: Mapping[str, Any]) -> Iterable[Value]:
    """What a reply says of what was asked."""
    place = {name: body[name] for name in ("position", "seq", "duplicate") if name in body}
    match asked:
        case Sending() | Belonging():
            return (asked._replace(**place),)
        case Acking():
            return (Acking(body.get("position", 0)),)
        case Reading(room=""):
            return [Reading(line["room"], line["read"], line["unread"]) for line in body.get("rooms", ())]
        case Reading():
            return (asked._replace(seq=body.get("seq", 0), unread=body.get("unread", -1)),)
        case Paging():
            events = tuple(_told(event) for event in body.get("events", ()))
            return (asked._replace(events=events, head=body.get("head", 0), more=bool(body.get("more"))),)
        case Presence():
            return [Presence(line["mid"], bool(line["online"])) for line in body.get("members", ())]
    return (asked,)


def _event(event: Any) -> Delivered:
    """An event as the SDK hands it out."""
    return _delivered(
        event.position, event.room or event.stream, event.seq, event.type, event.mid, event.key, event.id, event.body
    )


def _told(event: Mapping[str, Any]) -> Delivered:
    """An event as the protocol tells it."""
    return _delivered(
        event["position"], event.get("room") or event.get("stream", ""), event["seq"], event["type"], event["mid"],
        event.get("key", ""), event.get("id"), event.get("body"),
    )  # fmt: skip


def _delivered(
    position: int, room: str, seq: int, kind: str, mid: int, key: str, id_: object, body: object
) -> Delivered:
    whom = body.get("mid", 0) if isinstance(body, dict) and kind not in MESSAGE_TYPES else 0
    said = body_hash(body) if kind in MESSAGE_TYPES else ""
    return Delivered(position, room, seq, kind, mid, key, str(id_) if id_ else "", said, whom)


def cursor_place(cursor: object) -> tuple[int, str]:
    """The position and epoch of a cursor; (-1, "") if it is none. Clients must not do this: it is how cursors look today."""
    epoch, _, digits = str(cursor or "").rpartition(".")
    return (int(digits), epoch) if epoch and digits.isdigit() else (-1, "")


# --- the log, as it is -------------------------------------------------------------------------------------------------------


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


FOR_EVER: Final = 1 << 62


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

    def last_seq(self, room: str) -> int:
        """head(r)."""
        events = self.rooms.get(room)
        return events[-1].seq if events else 0


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
        upto = {
            name: came.get(name, 0) if one in ASYNCHRONOUS else head["position"] for name, one in PROJECTIONS.items()
        }
        live = {
            name: dict(map(RowTable(one).row, await connection.fetch(f"SELECT * FROM {one.table.name}")))
            for name, one in PROJECTIONS.items()
        }
        names = Names()
        names.names.update((stream["id"], stream["name"]) for stream in streams)
        kept: dict[str, str] = {}
        folded: dict[str, dict[Key, Any]] = {name: {} for name in PROJECTIONS}
        entries: list[Entry] = []
        marks: list[ReadMark] = []
        shown: set[str] = set()
        positions = 0
        async for page in _pages(connection):
            events = [recorded(row, names) for row in page]
            positions += len(events)
            for name, one in PROJECTIONS.items():
                fold(one, (event for event in events if event.position <= upto[name]), folded[name])
            for event in events:
                if not event.stream.startswith(SESSION):
                    entries.append(entry_of(event, kept))
                if event.type == ReadMarked.type and isinstance(fact := event.fact, ReadMarked):
                    marks.append(ReadMark(event.position, fact.mid, fact.room, fact.seq))
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
        {name: Projected(upto[name], live[name], folded[name]) for name in PROJECTIONS},
        live_types,
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
        said = body_hash(orjson.loads(event.body) if event.format == JSON else event.body)
    elif isinstance(
        fact := event.fact, MemberJoined | MemberLeft | MemberRemoved | MemberMuted | RoleChanged | ReadMarked
    ):
        whom = fact.mid
    return Entry(
        event.position, kept(event.room or event.stream), event.seq, kept(event.type), event.mid, kept(event.key),
        event.client_id or "", said, whom,
    )  # fmt: skip
