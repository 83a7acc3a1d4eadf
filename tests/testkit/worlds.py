"""Runs in which every promise is kept, made from a seed: a small imcore that is only its promises, and clients that use all of it.

People with several devices join and leave rooms, are removed and given roles, send (and lose answers, and try again with the same id),
come back with cursors, take over their own connections, read, mark, ask who is there; faults break connections; now and then the log is
restored to an earlier time. Requests wait, are carried out and are answered at moments of their own, in order on each connection.

The world knows the truth while it happens and writes both sides: the records of clients, and the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

from imcore.events.types import (
    JSON,
    MESSAGE_PUSHED,
    MESSAGE_SENT,
    ROOM,
    SERVICE_MID,
    USER,
    Fact,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    ReadMarked,
    Recorded,
    RoleChanged,
    RoomCreated,
)
from imcore.projections import inbox, members, rooms
from imcore.projections.projection import AnyProjection, fold
from imcore.testkit.history import (
    DRAIN,
    DRAINED,
    REMOVED,
    Acking,
    Belonging,
    Closed,
    Delivered,
    Entry,
    Fault,
    Log,
    Opened,
    Paging,
    Presence,
    Projected,
    Reading,
    ReadMark,
    Record,
    Sending,
    Type,
    Value,
    body_hash,
    entry_of,
)

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
FOLDED: Final[tuple[AnyProjection, ...]] = (rooms.projection, members.projection, inbox.projection)
NO_ROOM: Final = ("no_such_room", "No such room, or you are not in it.")
ABSENT: Final = "group://absent"
LIVE: Final = "live://hall"
ADMIN: Final = 1  # removes and gives roles, over HTTP; is in every room
HASHES: Final = [body_hash(n) for n in range(100)]


class Asked(NamedTuple):
    """A request on its way: `carry_out` is what the server does with it, and gives the answer."""

    n: int
    f: str
    v: Value
    carry_out: Callable[[], tuple[Type, list[Value]]]


@dataclass(slots=True)
class Line:
    """A connection that is open: what is on its way up, what waits to go down."""

    conn: int
    epoch: str
    up: deque[Asked] = field(default_factory=deque)
    answers: deque[tuple[Asked, Type, list[Value]]] = field(default_factory=deque)
    down: deque[Delivered] = field(default_factory=deque)
    sent: set[int] = field(default_factory=set)  # positions of what was said over it
    last: int = 0  # position of the last event that came, or of the beginning
    rooms: list[str] = field(default_factory=list)  # live rooms


@dataclass(slots=True)
class Device:
    """One device of one person; `unsure` are sends to be tried again."""

    mid: int
    key: str
    process: str
    line: Line | None = None
    conns: int = 0
    cursor: tuple[int, str] = (-1, "")
    was_here: bool = False
    unsure: list[Sending] = field(default_factory=list)
    n: int = 0


class World:
    """One run. `records` and `log()` are what it amounts to."""

    def __init__(self, seed: int, *, steps: int = 260) -> None:
        self.random = Random(seed)
        self.seed = seed
        self.now = 1_000 * SECOND
        self.records: list[Record] = []
        self.epoch = "e1"
        self.ids = 0
        self._clear()
        chance = self.random
        self.rooms = ["group://a", "group://b", "team://c"][: chance.randint(2, 3)]
        self.shown = frozenset(self.rooms[:1]) if chance.random() < 0.3 else frozenset()
        self.devices = [
            Device(mid, f"{mid}-{n}", f"p{mid % 2}")
            for mid in range(1, chance.randint(4, 6))
            for n in range(1 + (mid < 4))
        ]
        self.admin_n = 0
        self.is_calm = True  # the database answers
        self._found()
        self.founded = len(self.events)
        moves = [self._send] * 12 + [self._work] * 30 + [self._answer] * 30 + [self._pump] * 30 + [
            self._open, self._open, self._close, self._join, self._join, self._leave, self._kick, self._role, self._history,
            self._history, self._read, self._read, self._ack, self._ack, self._inbox, self._who, self._take_over, self._push,
            self._stranger, self._again, self._again, self._twice, self._rest, self._revoke, self._kill,
        ]  # fmt: skip
        for device in self.devices[:: 2 if chance.random() < 0.3 else 1]:
            self._open_device(device)
        fault_at = chance.randrange(steps) if chance.random() < 0.5 else -1
        restore_at = chance.randrange(steps // 2, steps) if chance.random() < 0.1 else -1
        for step in range(steps):
            if step == fault_at:
                self._fault()
            if step == restore_at:
                self._restore()
            moves[int(chance.random() * len(moves))]()
        self._drain()

    # --- the log ---

    def _clear(self) -> None:
        self.events: list[Recorded] = []
        self.entries: list[Entry] = []
        self.seqs: dict[str, int] = {}
        self.messages: dict[str, int] = {}
        self.members: dict[str, dict[int, int]] = {}  # room -> mid -> seq of the join
        self.marks: dict[tuple[int, str], int] = {}
        self.stored: dict[tuple[int, str], Entry] = {}  # ids
        self.bodies: dict[tuple[int, str], str] = {}

    def _found(self) -> None:
        for room in self.rooms:
            self._append(ROOM + room, RoomCreated(room=room, history="all" if room in self.shown else "joined"), ADMIN)
            for mid in {ADMIN, *self.random.sample([d.mid for d in self.devices], 2)}:
                self._append(ROOM + room, MemberJoined(room=room, mid=mid), mid)

    def _append(
        self,
        stream: str,
        fact: Fact | None,
        mid: int,
        key: str = "",
        id_: str = "",
        body: int = 0,
        by: Line | None = None,
    ) -> Entry:
        """One event; it is on its way to everybody whom it concerns."""
        position = len(self.events) + 1
        seq = self.seqs[stream] = self.seqs.get(stream, 0) + 1
        if fact is None:
            self.messages[stream] = self.messages.get(stream, 0) + 1
            type_, text, op = MESSAGE_SENT if mid else MESSAGE_PUSHED, str(body), 1000
        else:
            type_, text, op = fact.type, fact.model_dump_json(), 0
        event = Recorded(
            position,
            stream,
            seq,
            self.messages.get(stream, 0),
            type_,
            1,
            mid,
            key,
            id_ or None,
            op,
            JSON,
            self.now,
            text,
        )
        entry = entry_of(event)
        self.events.append(event)
        self.entries.append(entry)
        if id_:
            self.stored[mid, id_] = entry
        if isinstance(fact, MemberJoined):
            self.members.setdefault(entry.room, {})[fact.mid] = seq
        elif isinstance(fact, MemberLeft | MemberRemoved):
            del self.members[entry.room][fact.mid]
            self._tell_removed(entry)
        if by is not None:
            by.sent.add(position)
        event_out = Delivered(*entry)
        here = self.members.get(entry.room, {})
        for device in self.devices:
            line = device.line
            if line is None or position in line.sent or line.epoch != self.epoch:
                continue
            if (
                device.mid in here
                or entry.room in line.rooms
                or entry.room == f"{USER}{device.mid}"
                or entry.room == "all:"
            ):
                line.down.append(event_out)
        return entry

    def _tell_removed(self, entry: Entry) -> None:
        """What had not gone down yet may go now, or never."""
        for device in self.devices:
            line = device.line
            if device.mid == entry.whom and line is not None:
                if self.random.random() < 0.5:
                    self._pump_line(device, line, len(line.down))
                else:
                    line.down = deque(event for event in line.down if event.room != entry.room)
                line.down.append(Delivered(entry.position, entry.room, kind=REMOVED))

    def log(self) -> Log:
        """What SQL would read at the end."""
        marks = [ReadMark(event.position, fact.mid, fact.room, fact.seq) for event in self.events
                 if isinstance(fact := None if event.op else event.fact, ReadMarked)]  # fmt: skip
        heads = {stream.removeprefix(ROOM): seq for stream, seq in self.seqs.items()}
        head = len(self.events)
        projected = {}
        for one in FOLDED:
            rows = fold(one, self.events)
            projected[one.name] = Projected(head, rows, dict(rows))
        return Log(self.epoch, self.entries, head, head, heads, marks, self.shown, projected)

    # --- records ---

    def _put(self, device: Device, conn: int, n: int, type_: Type, f: str, v: Value) -> None:
        self.now += int(self.random.random() * MS) // 2 + 1000
        self.records.append(Record(self.now, device.process, device.mid, device.key, conn, n, type_, f, v))

    def _nemesis(self, n: int, type_: Type, fault: Fault) -> None:
        self.now += MS
        self.records.append(Record(self.now, "nemesis", 0, "", 0, n, type_, "nemesis", fault))

    def _some(self, *, is_open: bool = True) -> Device | None:
        device = self.devices[int(self.random.random() * len(self.devices))]
        return device if (device.line is not None) == is_open else None

    def _room(self) -> str:
        return self.rooms[int(self.random.random() * len(self.rooms))]

    # --- connections ---

    def _open(self) -> None:
        if (device := self._some(is_open=False)) is not None:
            self._open_device(device)

    def _open_device(self, device: Device) -> None:
        device.conns += 1
        conn = device.conns
        cursor, cursor_epoch = device.cursor
        self._put(device, conn, 0, "invoke", "connect", Opened())
        head = len(self.entries)
        if cursor < 0:
            opened = Opened(0 if not device.was_here else head, epoch=self.epoch, reason="new")
        elif cursor_epoch != self.epoch:
            opened = Opened(head, cursor, cursor_epoch, self.epoch, reason="epoch")
        else:
            opened = Opened(cursor, cursor, cursor_epoch, self.epoch, recovered=True)
        line = Line(conn, self.epoch, last=opened.position)
        if self.random.random() < 0.2:
            line.rooms.append(LIVE)
        device.line, device.was_here = line, True
        device.cursor = (opened.position, self.epoch)
        since = {room: here[device.mid] for room, here in self.members.items() if device.mid in here}
        since[f"{USER}{device.mid}"] = 0
        for entry in self.entries[opened.position :]:
            if entry.seq >= since.get(entry.room, 1 << 60):
                line.down.append(Delivered(*entry))
        self._put(device, conn, 0, "ok", "connect", opened)
        if opened.reason != "new":
            self._put(device, conn, 0, "ok", "resume", opened)

    def _close(self) -> None:
        if (device := self._some()) is not None and self.random.random() < 0.5:
            self._close_device(device, Closed(1000, "", by_client=self.random.random() < 0.5))

    def _close_device(self, device: Device, closed: Closed) -> None:
        """What is on its way may still be done; nobody hears of it."""
        line = device.line
        assert line is not None
        if self.random.random() < 0.5:
            while line.up and self.random.random() < 0.7:
                self._carry_out(line)
        for asked in [*(answer[0] for answer in line.answers), *line.up]:
            self._put(device, line.conn, asked.n, "info", asked.f, asked.v)
            if isinstance(asked.v, Sending) and self.random.random() < 0.8:
                device.unsure.append(asked.v)
        device.line = None
        self._put(device, line.conn, 0, "ok", "close", closed)

    def _take_over(self) -> None:
        """The device comes back before its older connection is known to be gone."""
        if (device := self._some()) is not None:
            older = Device(device.mid, device.key, device.process, device.line, device.conns, device.cursor)
            device.line = None
            self._open_device(device)
            self._close_device(older, Closed(4409, "taken_over"))
            device.unsure += older.unsure

    def _kill(self) -> None:
        """A client process dies, with all its devices, and is started again: of the first nothing more is heard."""
        if self.random.random() < 0.2:
            killed = self.random.choice(self.devices).process
            for device in self.devices:
                if device.process == killed:
                    line, device.line = device.line, None
                    while line is not None and line.up and self.random.random() < 0.5:
                        self._carry_out(line)
                    device.process = f"{killed}'"
                    device.unsure.clear()
                    device.conns = 0

    def _fault(self) -> None:
        name = self.random.choice(["kill comet", "partition", "bus"])
        fault = Fault(name, "1", bites=name != "bus", harmless=name == "bus")
        self.admin_n += 1
        n = self.admin_n
        self._flush()
        self._nemesis(n, "invoke", fault)
        for device in self.devices:
            if device.line is not None and name != "bus" and self.random.random() < 0.7:
                self._close_device(device, Closed(0))
        self.is_calm = name != "bus"
        for _ in range(20):
            self.random.choice([self._send, self._work, self._answer, self._pump])()
        if name == "bus":
            self._flush()
        self.is_calm = True
        self._nemesis(n, "ok", fault)

    def _restore(self) -> None:
        """The log goes back: what came after is gone, and positions mean something else from now on."""
        kept = self.random.randrange(max(self.founded, len(self.events) * 3 // 4), len(self.events) + 1)
        for device in self.devices:
            if device.line is not None:
                self._close_device(device, Closed(0))
            device.unsure.clear()
        events = self.events[:kept]
        self._clear()
        self.epoch = "e2"
        for event in events:
            entry = entry_of(event)
            self.events.append(event)
            self.entries.append(entry)
            self.seqs[event.stream] = event.seq
            self.messages[event.stream] = event.messages
            if event.client_id:
                self.stored[event.mid, event.client_id] = entry
            match None if event.op else event.fact:
                case MemberJoined(room=room, mid=mid):
                    self.members.setdefault(room, {})[mid] = event.seq
                case MemberLeft(room=room, mid=mid) | MemberRemoved(room=room, mid=mid):
                    del self.members[room][mid]
                case ReadMarked(room=room, mid=mid, seq=seq):
                    self.marks[mid, room] = seq

    # --- what moves requests and events ---

    def _work(self) -> None:
        if (device := self._some()) is not None and device.line is not None and device.line.up:
            self._carry_out(device.line)

    @staticmethod
    def _carry_out(line: Line) -> None:
        asked = line.up.popleft()
        line.answers.append((asked, *asked.carry_out()))

    def _answer(self) -> None:
        if (device := self._some()) is not None and device.line is not None and device.line.answers:
            self._answer_one(device, device.line)

    def _answer_one(self, device: Device, line: Line) -> None:
        asked, type_, told = line.answers.popleft()
        for v in told:
            self._put(device, line.conn, asked.n, type_, asked.f, v)
        if isinstance(asked.v, Sending) and told and told[0].code == "rate_limited":  # type: ignore[union-attr]
            device.unsure.append(asked.v)

    def _pump(self) -> None:
        if (device := self._some()) is not None and device.line is not None:
            self._pump_line(device, device.line, int(self.random.random() * 6))

    def _pump_line(self, device: Device, line: Line, count: int) -> None:
        for _ in range(min(count, len(line.down))):
            event = line.down.popleft()
            if event.kind != REMOVED:
                line.last = event.position
            self._put(device, line.conn, 0, "ok", "deliver", event)

    def _flush(self) -> None:
        for device in self.devices:
            line = device.line
            while line is not None and (line.up or line.answers or line.down):
                while line.up:
                    self._carry_out(line)
                while line.answers:
                    self._answer_one(device, line)
                self._pump_line(device, line, len(line.down))
        if any(device.line and (device.line.down or device.line.up) for device in self.devices):
            self._flush()

    def _rest(self) -> None:
        """Everybody has everything; then nothing happens for a while."""
        if self.random.random() < 0.3:
            self._flush()
            away = self.random.choice(self.devices).mid
            for device in self.devices:
                if device.mid == away and device.line is not None:
                    self._close_device(device, Closed(1000, by_client=True))
            self.now += 40 * SECOND
            for _ in range(3):
                self._who()
            self._flush()

    # --- requests ---

    def _ask(self, device: Device, f: str, v: Value, carry_out: Callable[[], tuple[Type, list[Value]]]) -> None:
        line = device.line
        assert line is not None
        device.n += 1
        self._put(device, line.conn, device.n, "invoke", f, v)
        line.up.append(Asked(device.n, f, v, carry_out))

    def _send(self) -> None:
        if (device := self._some()) is not None:
            self.ids += 1
            body = int(self.random.random() * 100)
            room = (
                LIVE if device.line is not None and device.line.rooms and self.random.random() < 0.3 else self._room()
            )
            self._send_as(device, Sending(room, f"id{self.ids}", HASHES[body]), body)

    def _send_as(self, device: Device, said: Sending, body: int = -1) -> None:
        line = device.line
        assert line is not None
        key = (device.mid, said.id)
        if body < 0:
            body = HASHES.index(said.hash)

        def carry_out() -> tuple[Type, list[Value]]:
            if self.random.random() < 0.05:
                return "fail", [said._replace(code="rate_limited", text="Too many requests; wait before the next.")]
            entry = self.stored.get(key)
            if entry is not None and (entry.room, entry.hash) != (said.room, said.hash):
                return "fail", [said._replace(code="id_conflict", text="This id was used before.")]
            is_duplicate = entry is not None
            if entry is None:
                if said.room != LIVE and device.mid not in self.members.get(said.room, ()):
                    return "fail", [said._replace(code=NO_ROOM[0], text=NO_ROOM[1])]
                entry = self._append(ROOM + said.room, None, device.mid, device.key, said.id, body, line)
            if self.is_calm and self.random.random() < 0.03:
                return "info", [said._replace(code="unavailable", text="The outcome is unknown")]
            return "ok", [said._replace(position=entry.position, seq=entry.seq, duplicate=is_duplicate)]

        self._ask(device, "send", said, carry_out)

    def _again(self) -> None:
        """What has no sure outcome is sent once more, unchanged."""
        if (device := self._some()) is not None and device.unsure:
            self._send_as(device, device.unsure.pop(0))

    def _twice(self) -> None:
        """An id that was used, for another message: refused."""
        mine = [(key, entry) for key, entry in self.stored.items() if self.random.random() < 0.2]
        if (device := self._some()) is not None:
            for (mid, id_), entry in mine:
                if mid == device.mid:
                    self._send_as(device, Sending(entry.room, id_, HASHES[(HASHES.index(entry.hash) + 1) % 100]))
                    return

    def _stranger(self) -> None:
        """Of a room that is not there, and one that is not one's own, everybody hears the same."""
        if (device := self._some()) is None:
            return
        room, mid = self.random.choice([ABSENT, *self.rooms]), device.mid
        code, text = NO_ROOM
        if mid not in self.members.get(room, ()):
            if self.random.random() < 0.5:
                self.ids += 1
                self._send_as(device, Sending(room, f"id{self.ids}", HASHES[0]), 0)
            elif room == ABSENT:
                self._ask(device, "history", Paging(room), lambda: ("fail", [Paging(room, code=code, text=text)]))
                self._ask(device, "read", Reading(room), lambda: ("fail", [Reading(room, code=code, text=text)]))
                self._ask(
                    device,
                    "leave",
                    Belonging(room, mid),
                    lambda: ("fail", [Belonging(room, mid, code=code, text=text)]),
                )

    def _join(self) -> None:
        if (device := self._some()) is None:
            return
        line, room = device.line, self._room()
        asked = Belonging(room, device.mid)

        def carry_out() -> tuple[Type, list[Value]]:
            here = self.members[room]
            is_duplicate = device.mid in here
            if not is_duplicate:
                self._append(ROOM + room, MemberJoined(room=room, mid=device.mid), device.mid, device.key)
            joined = next(e for e in self.entries if e.room == room and e.seq == here[device.mid])
            return "ok", [asked._replace(position=joined.position, seq=joined.seq, duplicate=is_duplicate)]

        assert line is not None
        self._ask(device, "join", asked, carry_out)

    def _leave(self) -> None:
        if (device := self._some()) is None or device.mid == ADMIN:
            return
        room = self._room()
        asked = Belonging(room, device.mid)

        def carry_out() -> tuple[Type, list[Value]]:
            if device.mid not in self.members[room]:
                return "fail", [asked._replace(code=NO_ROOM[0], text=NO_ROOM[1])]
            entry = self._append(ROOM + room, MemberLeft(room=room, mid=device.mid), device.mid, device.key)
            return "ok", [asked._replace(position=entry.position, seq=entry.seq)]

        self._ask(device, "leave", asked, carry_out)

    def _admin(self, f: str, v: Belonging, fact: Fact) -> None:
        """What the admin does over HTTP."""
        admin = Device(ADMIN, "", "http")
        self.admin_n += 1
        self._put(admin, 0, -self.admin_n, "invoke", f, v)
        entry = self._append(ROOM + v.room, fact, ADMIN)
        self._put(admin, 0, -self.admin_n, "ok", f, v._replace(position=entry.position, seq=entry.seq))

    def _kick(self) -> None:
        room = self._room()
        if others := [mid for mid in self.members[room] if mid != ADMIN]:
            mid = self.random.choice(others)
            self._admin("kick", Belonging(room, mid), MemberRemoved(room=room, mid=mid))

    def _revoke(self) -> None:
        """The sessions of somebody are ended."""
        if (device := self._some()) is not None and self.random.random() < 0.5:
            admin = Device(ADMIN, "", "http")
            self.admin_n += 1
            revoked = Belonging("", device.mid, key=device.key)
            self._put(admin, 0, -self.admin_n, "invoke", "kick", revoked)
            self._put(admin, 0, -self.admin_n, "ok", "kick", revoked)
            self._close_device(device, Closed(4401, "unauthenticated"))

    def _role(self) -> None:
        room = self._room()
        mid = self.random.choice(list(self.members[room]))
        self._admin("role", Belonging(room, mid, role="admin"), RoleChanged(room=room, mid=mid, role="admin"))

    def _push(self) -> None:
        where = self.random.choice(
            [*(ROOM + room for room in self.rooms), f"{USER}{self.random.choice(self.devices).mid}", "all:"]
        )
        self._append(where, None, SERVICE_MID, body=7)

    def _history(self) -> None:
        if (device := self._some()) is None:
            return
        room, chance = self._room(), self.random
        head = self.seqs[ROOM + room]
        limit = chance.choice([2, 5, 50])
        asked = chance.choice(
            [Paging(room, limit=limit), Paging(room, before=chance.randint(1, head + 2), limit=limit),
             Paging(room, after=chance.randint(0, head), limit=limit)]
        )  # fmt: skip
        self._ask(device, "history", asked, lambda: self._page(device.mid, asked))

    def _page(self, mid: int, asked: Paging) -> tuple[Type, list[Value]]:
        here = self.members[asked.room]
        if mid not in here:
            return "fail", [asked._replace(code=NO_ROOM[0], text=NO_ROOM[1])]
        first = 1 if asked.room in self.shown else here[mid]
        head = self.seqs[ROOM + asked.room]
        seen = [Delivered(*entry) for entry in self.entries if entry.room == asked.room and entry.seq >= first]
        if asked.after >= 0:
            found = [event for event in seen if event.seq > asked.after]
            page = found[: asked.limit]
        else:
            found = [event for event in seen if event.seq < (asked.before if asked.before > 0 else head + 1)]
            page = found[-asked.limit :]
        return "ok", [asked._replace(events=tuple(page), head=head, more=len(found) > len(page))]

    def _unread(self, mid: int, room: str, after: int) -> int:
        return sum(e.room == room and e.is_message and e.seq > after and e.mid != mid for e in self.entries)

    def _in_force(self, mid: int, room: str) -> int:
        return max(self.marks.get((mid, room), 0), self.members[room][mid])

    def _read(self) -> None:
        if (device := self._some()) is None:
            return
        room, mid = self._room(), device.mid
        asked = Reading(room, self.random.randint(1, self.seqs[ROOM + room] + 1))

        def carry_out() -> tuple[Type, list[Value]]:
            if mid not in self.members[room]:
                return "fail", [asked._replace(code=NO_ROOM[0], text=NO_ROOM[1])]
            seq = min(asked.seq, self.seqs[ROOM + room])
            if seq > self._in_force(mid, room):
                joined = self.members[room][mid]
                here = [e for e in self.entries if e.room == room and e.is_message and e.seq <= seq]
                sent = sum(e.mid == mid and e.seq > joined for e in here)
                fact = ReadMarked(room=room, mid=mid, seq=seq, messages=len(here), sent=sent)
                self._append(f"{USER}{mid}", fact, mid, device.key)
                self.marks[mid, room] = seq
            mark = self._in_force(mid, room)
            return "ok", [asked._replace(seq=mark, unread=self._unread(mid, room, mark))]

        self._ask(device, "read", asked, carry_out)

    def _inbox(self) -> None:
        if (device := self._some()) is not None:
            self._ask(device, "read", Reading(""), lambda: ("ok", self._lines(device.mid)))

    def _lines(self, mid: int) -> list[Value]:
        return [
            Reading(room, mark := self._in_force(mid, room), self._unread(mid, room, mark))
            for room, here in sorted(self.members.items()) if mid in here
        ]  # fmt: skip

    def _ack(self) -> None:
        if (device := self._some()) is not None and device.line is not None:
            position, epoch = device.line.last, device.line.epoch

            def carry_out() -> tuple[Type, list[Value]]:
                if epoch == device.cursor[1]:
                    device.cursor = (max(position, device.cursor[0]), epoch)
                return "ok", [Acking(device.cursor[0])]

            self._ask(device, "ack", Acking(position), carry_out)

    def _who(self) -> None:
        if (device := self._some()) is None:
            return
        room = self._room()

        def carry_out() -> tuple[Type, list[Value]]:
            if device.mid not in self.members[room]:
                return "fail", [Presence(code=NO_ROOM[0], text=NO_ROOM[1])]
            online = {other.mid for other in self.devices if other.line is not None}
            return "ok", [Presence(mid, mid in online) for mid in sorted(self.members[room])]

        self._ask(device, "presence", Presence(), carry_out)

    # --- the end ---

    def _drain(self) -> None:
        stay_away = self.random.choice(self.devices) if self.random.random() < 0.2 else None
        self._flush()
        self._nemesis(0, "info", Fault(DRAIN, bites=False))
        for device in self.devices:
            if device.line is None and device is not stay_away:
                self._open_device(device)
        self._flush()
        self.now += 5 * SECOND
        self._nemesis(0, "info", Fault(DRAINED, bites=False))
        for device in self.devices:
            if device.line is not None:
                self._ask(device, "read", Reading(""), lambda mid=device.mid: ("ok", self._lines(mid)))  # type: ignore[misc]
        for room in self.rooms:
            device = self.devices[0]
            if device.line is not None:
                asked = Paging(room, after=0, limit=500)
                self._ask(device, "history", asked, lambda asked=asked: self._page(ADMIN, asked))  # type: ignore[misc]
        self._flush()
        for device in self.devices:
            if device.line is not None and self.random.random() < 0.5:
                self._close_device(device, Closed(1000, by_client=True))
