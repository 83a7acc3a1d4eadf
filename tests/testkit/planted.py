"""Bugs, planted into runs that were sound: what a service would have done wrong, and which promises that breaks. The table is PLANTED.

A bug looks for a place in a run where it can be, changes there what clients saw or what the log holds, and says True. Or it says
False, and the next run is tried. As few promises as possible are broken by it: those and no others must be found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from random import Random
from typing import Any, Final, NamedTuple

from imcore.events.types import MESSAGE_SENT, MemberJoined
from imcore.projections.inbox import Inbox
from imcore.receipts import TYPE as RECEIPT
from imcore.testkit.checkers import Bounds, Result, Run, check_run
from imcore.testkit.checkers.run import NEVER, SECOND, Send, Visit, is_own
from imcore.testkit.history import (
    DRAIN,
    DRAINED,
    REMOVED,
    Acking,
    Belonging,
    Delivered,
    Entry,
    Fault,
    Log,
    Opened,
    Paging,
    Presence,
    Projected,
    Reading,
    Record,
    Sending,
    Type,
    Value,
)
from testkit.worlds import ABSENT, ADMIN, HASHES, MS, World

BOUNDS: Final = Bounds(ok_sends_min=0)
ELSEWHERE: Final = "live://elsewhere"  # where nobody is owed anything


def receipt(room: str) -> Delivered:
    """What those who are there are told of a reader, and the log is not."""
    return Delivered(0, room, 0, RECEIPT, whom=ADMIN)


class Sound(NamedTuple):
    """A run in which nothing is wrong."""

    records: tuple[Record, ...]
    log: Log
    run: Run


@lru_cache(maxsize=200)
def sound(seed: int) -> Sound:
    """The run of a seed."""
    world = World(seed)
    log = world.log()
    return Sound(tuple(world.records), log, Run(world.records, log))


class Case:
    """A sound run that is about to have a bug. `run` is as it was; `records` and the rest are what it becomes."""

    def __init__(self, seed: int) -> None:
        records, log, self.run = sound(seed)
        self.random = Random(seed)
        self.records: list[Record] = list(records)
        self.sound = log
        self.entries = list(log.entries)
        self.heads = dict(log.heads)
        self.head = log.head
        self.positions = log.positions
        self.read_marks = list(log.read_marks)
        self.readings: dict[tuple[str, int], set[str]] = {}
        self.projected = {
            name: Projected(one.position, dict(one.live), dict(one.folded)) for name, one in log.projected.items()
        }

    # --- where ---

    def some(self, found: list[Any]) -> Any:
        """One of these, or None."""
        return self.random.choice(found) if found else None

    def visits(self) -> list[Visit]:
        """Connections to the log as it is at the end, of clients that live until then."""
        return [visit for visit in self.run.visits.values() if self.run.is_of_this_log(visit.key) and self.lives(visit)]

    def lives(self, visit: Visit) -> bool:
        """Is it of a client that was not killed?"""
        return self.run.lasted[visit.key[0]] >= self.run.phases[DRAIN]

    def pairs(self) -> Iterator[tuple[Visit, int]]:
        """Every delivery of an event of a room with members: its connection, and the how-manieth it is there."""
        for visit in self.visits():
            for n, (_, event) in enumerate(visit.delivered):
                if self.sound.has_members(event.room):
                    yield visit, n

    def acked(self) -> list[Send]:
        """Sends that were tried once, over a connection to this log, and acknowledged."""
        return [
            tries[0]
            for tries in self.run.sends.values()
            if len(tries) == 1 and tries[0].outcome == "ok" and self.run.is_of_this_log(tries[0].visit)
        ]

    def was_got(self, visit: Visit, event: Delivered) -> bool:
        """Did the device have it from another connection, or fetch it?"""
        return any(event.position in other.got for other in self.run.devices[visit.device] if other is not visit)

    def was_fetched(self, mid: int, event: Delivered) -> bool:
        """Is it in a page that this person read?"""
        return any(
            operation.asked.u == mid and any(one.position == event.position for one in page.events)
            for operation, _, page in self.run.answered("history", Paging)
        )

    # --- what ---

    def index(self, visit: Visit, f: str, v: Value, type_: Type = "ok") -> int:
        """Where the record is."""
        key = visit.key
        return next(
            n for n, r in enumerate(self.records) if r.f == f and r.type == type_ and r[1:5] == key and r.v == v
        )

    def at(self, t: int, f: str | None = None) -> int:
        """Where the record of that time is: times are unique."""
        return next(n for n, record in enumerate(self.records) if record.t == t and (f is None or record.f == f))

    def alter(self, n: int, **fields: Any) -> None:
        """Another value."""
        record = self.records[n]
        self.records[n] = record._replace(v=record.v._replace(**fields))

    def move(self, n: int, t: int) -> None:
        """Another time."""
        self.records[n] = self.records[n]._replace(t=t)

    def drop(self, *times: int) -> None:
        """As if it had not happened."""
        self.records = [record for record in self.records if record.t not in times]

    def add(self, t: int, who: tuple[str, int, str, int], type_: Type, f: str, v: Value, n: int = 0) -> None:
        """One more record."""
        self.records.append(Record(t, *who, n, type_, f, v))

    def append(self, room: str, kind: str, mid: int, *, id_: str = "", whom: int = 0, seq: int | None = None) -> Entry:
        """One more event at the end of the log."""
        self.head += 1
        self.positions += 1
        seq = self.heads.get(room, 0) + 1 if seq is None else seq
        self.heads[room] = seq
        entry = Entry(self.head, room, seq, kind, mid, "", id_, HASHES[0] if kind == MESSAGE_SENT else "", whom)
        self.entries.append(entry)
        return entry

    def retry(self, asked: Sending, answer: Sending, mid: int) -> None:
        """The same id once more, over HTTP."""
        self.add(self.end, ("http", mid, "", 0), "invoke", "send", asked, 900)
        self.add(self.end + 1, ("http", mid, "", 0), "ok", "send", answer, 900)

    def say(self, room: str, mid: int, id_: str, began: int, ended: int, seq: int, position: int, n: int = 900) -> None:
        """A send over HTTP that was acknowledged."""
        asked = Sending(room, id_, HASHES[0])
        self.add(began, ("http", mid, "", 0), "invoke", "send", asked, n)
        self.add(ended, ("http", mid, "", 0), "ok", "send", asked._replace(position=position, seq=seq), n)

    @property
    def end(self) -> int:
        """After everything."""
        return self.run.ended + MS

    def results(self, bounds: Bounds = BOUNDS) -> tuple[Result, ...]:
        """What is found in it."""
        log = Log(
            self.sound.epoch, self.entries, self.head, self.positions, self.heads, self.read_marks, self.sound.shown,
            self.projected, self.sound.live_types, self.readings,
        )  # fmt: skip
        return check_run(Run(sorted(self.records, key=lambda record: record.t), log), bounds).results


Bug = Callable[[Case], bool]
PLANTED: dict[str, tuple[Bug, frozenset[str]]] = {}


def breaks(*predicates: str) -> Callable[[Bug], Bug]:
    """Which promises it breaks, and no others."""

    def planted(bug: Bug) -> Bug:
        PLANTED[bug.__name__] = (bug, frozenset(predicates))
        return bug

    return planted


# --- the log ---------------------------------------------------------------------------------------------------------------------


@breaks("P1")
def acked_before_commit(case: Case) -> bool:
    """The acknowledgement was sent, the commit never was."""
    room = case.some([room for room in case.heads if case.sound.has_members(room)])
    case.say(room, ADMIN, "lost", case.end, case.end + MS, case.heads[room] + 1, case.head + 1)
    return case.run.is_one_log


@breaks("P1")
def stored_otherwise(case: Case) -> bool:
    """The log holds something else than was sent under this id."""
    if (one := case.some(case.acked())) is None:
        return False
    other = HASHES[(HASHES.index(one.asked.hash) + 1) % len(HASHES)]
    case.alter(case.at(one.began), hash=other)
    case.alter(case.at(one.ended), hash=other)
    return True


@breaks("P1")
def told_another_position(case: Case) -> bool:
    """The place in the room is right, the place in the log is not."""
    if (one := case.some(case.acked())) is None:
        return False
    case.alter(case.at(one.ended), position=one.answer.position + 1)
    return True


@breaks("P1")
def join_acked_before_commit(case: Case) -> bool:
    """Joins, leaves and removals are promised like messages."""
    room = case.some([room for room in case.heads if case.sound.has_members(room)])
    joined = Belonging(room, ADMIN)
    case.add(case.end, ("http", ADMIN, "", 0), "invoke", "join", joined, 900)
    told = joined._replace(position=case.head + 1, seq=case.heads[room] + 1)
    case.add(case.end + 1, ("http", ADMIN, "", 0), "ok", "join", told, 900)
    return case.run.is_one_log


@breaks("P2")
def from_nowhere(case: Case) -> bool:
    """A message that nobody sent."""
    case.append(ELSEWHERE, MESSAGE_SENT, ADMIN, id_="nobody's")
    return True


@breaks("P2")
def refused_and_stored(case: Case) -> bool:
    """The client was told no, and the message is there."""
    if (one := case.some(case.acked())) is None:
        return False
    n = case.at(one.ended)
    refused = one.asked._replace(code="muted", text="You are muted in this room.")
    case.records[n] = case.records[n]._replace(type="fail", v=refused)
    return True


@breaks("P3")
def stored_twice(case: Case) -> bool:
    """A retry was taken for another message."""
    if (one := case.some(case.acked())) is None:
        return False
    case.append(ELSEWHERE, MESSAGE_SENT, one.visit[1], id_=one.asked.id)
    return True


@breaks("P1", "P3")
def two_results_for_one_id(case: Case) -> bool:
    """The retry was told another place."""
    if (one := case.some(case.acked())) is None:
        return False
    case.retry(one.asked, one.answer._replace(seq=case.heads[one.asked.room] + 5), one.visit[1])
    return case.run.is_one_log


@breaks("P1", "P3")
def one_id_for_two_messages(case: Case) -> bool:
    """The id stood for another message already, and the answer was not a conflict."""
    if (one := case.some(case.acked())) is None:
        return False
    other = HASHES[(HASHES.index(one.asked.hash) + 1) % len(HASHES)]
    case.retry(one.asked._replace(hash=other), one.answer._replace(hash=other, duplicate=True), one.visit[1])
    return case.run.is_one_log


@breaks("P4")
def hole_in_a_room(case: Case) -> bool:
    """A sequence was taken and rolled back."""
    case.append("key:nobody", "message_pushed", 0)
    case.append("key:nobody", "message_pushed", 0, seq=3)
    return True


@breaks("P4")
def hole_in_the_log(case: Case) -> bool:
    """The head counted an event that is not there."""
    case.head += 1
    return True


@breaks("P4")
def head_without_event(case: Case) -> bool:
    """A room's head counted an event that is not there."""
    room = case.some(list(case.heads))
    case.heads[room] += 1
    return True


@breaks("P4")
def seq_used_twice(case: Case) -> bool:
    """Two writers took the same place in a room."""
    case.append("key:nobody", "message_pushed", 0)
    case.append("key:nobody", "message_pushed", 0, seq=1)
    return True


@breaks("P4")
def positions_out_of_order(case: Case) -> bool:
    """Two events have one position."""
    case.append("key:nobody", "message_pushed", 0)
    case.entries[-1] = case.entries[-1]._replace(position=case.head - 1)
    return True


@breaks("P5")
def all_see_otherwise(case: Case) -> bool:
    """What went out is not what was stored."""
    if (found := case.some([v.delivered[n][1] for v, n in case.pairs() if v.delivered[n][1].hash])) is None:
        return False
    for n, record in enumerate(case.records):
        if isinstance(record.v, Delivered) and record.v == found:
            case.alter(n, hash="else")
        elif isinstance(record.v, Paging) and found in record.v.events:
            events = tuple(event._replace(hash="else") if event == found else event for event in record.v.events)
            case.alter(n, events=events)
    return True


@breaks("P5")
def shown_as_another_message_was_edited(case: Case) -> bool:
    """The edit of one message went out as another one."""
    if not all_see_otherwise(case):
        return False
    events = [record.v for record in case.records if isinstance(record.v, Delivered)]
    (place,) = {(event.room, event.seq) for event in events if event.hash == "else"}
    case.readings = {other: {"else"} for other in case.sound.at if other != place}
    return True


@breaks("P5", "P14")
def one_sees_otherwise(case: Case) -> bool:
    """Two members were given different messages at one place."""
    shown: dict[int, int] = {}
    for visit, n in case.pairs():
        shown[visit.delivered[n][1].position] = shown.get(visit.delivered[n][1].position, 0) + 1
    twice = [(visit, n) for visit, n in case.pairs() if shown[visit.delivered[n][1].position] > 1]
    if (found := case.some(twice)) is None:
        return False
    visit, n = found
    case.alter(case.at(visit.delivered[n][0]), whom=12345)
    return True


@breaks("P5")
def shown_what_is_not_stored(case: Case) -> bool:
    """Delivered before it was committed, and then it never was."""
    found = [
        (visit, room)
        for visit in case.visits()
        for (mid, room), spans in case.sound.memberships.items()
        if visit.closed is None and mid == visit.mid and spans[-1].is_open
    ]
    if (one := case.some(found)) is None:
        return False
    visit, room = one
    case.add(
        case.end, visit.key, "ok", "deliver", Delivered(case.head + 1, room, case.heads[room] + 1, "role_changed", 1)
    )
    return True


@breaks("P5")
def told_of_a_removal_that_was_none(case: Case) -> bool:
    """A member was told to be out of a room that it is in."""
    visits = [visit for visit in case.visits() if visit.closed is None]
    if (visit := case.some(visits)) is None:
        return False
    rooms = [room for mid, room in case.sound.memberships if mid == visit.mid]
    if (room := case.some(rooms)) is None:
        return False
    case.add(case.end, visit.key, "ok", "deliver", Delivered(case.head, room, kind=REMOVED))
    return all(span.end_position != case.head for span in case.sound.memberships[visit.mid, room])


# --- delivery --------------------------------------------------------------------------------------------------------------------


def _is_open_in(case: Case, visit: Visit, event: Delivered) -> bool:
    """The membership by which it is seen is open, and it is not the device's own."""
    span = case.sound.interval(visit.mid, event.room, event.seq)
    return span is not None and span.is_open and not is_own(event, visit.device)


def _inner(case: Case, *, was_got: bool) -> Any:
    """A delivery in the middle of a connection."""
    return case.some(
        [
            (visit, n)
            for visit, n in case.pairs()
            if 0 < n < len(visit.delivered) - 1
            and _is_open_in(case, visit, event := visit.delivered[n][1])
            and case.was_got(visit, event) == was_got
            and (was_got or _is_owed_at_the_end(case, visit, event))
        ]
    )


def _is_owed_at_the_end(case: Case, visit: Visit, event: Delivered) -> bool:
    """The device is there at the end, has been told nothing since that would let it off, and has not fetched it."""
    drained = case.run.phases[DRAINED]
    visits = case.run.devices[visit.device]
    last = visits[-1]
    begun = max([visits[0].opened.position, *(v.opened.position for v in visits[1:] if not v.opened.recovered)])
    there = last.opened_at <= drained < last.closed_at
    return there and event.position > begun and not case.was_fetched(visit.mid, event)


@breaks("P6", "P8")
def lost_in_the_middle(case: Case) -> bool:
    """A message was dropped on the way to one device, for ever."""
    if (found := _inner(case, was_got=False)) is None:
        return False
    visit, n = found
    case.drop(visit.delivered[n][0])
    return True


@breaks("P8")
def skipped_and_given_again(case: Case) -> bool:
    """A connection had a hole; another connection of the device did not."""
    if (found := _inner(case, was_got=True)) is None:
        return False
    visit, n = found
    case.drop(visit.delivered[n][0])
    return True


@breaks("P6")
def lost_to_who_was_away(case: Case) -> bool:
    """The client's cursor was moved past what it never had."""
    found = []
    for visit in case.visits():
        if visit.opened.recovered and len(visit.delivered) > 1:
            _, event = visit.delivered[0]
            if (
                _is_open_in(case, visit, event)
                and not case.was_got(visit, event)
                and _is_owed_at_the_end(case, visit, event)
                and case.sound.has_members(event.room)
            ):
                found.append(visit)
    if (visit := case.some(found)) is None:
        return False
    t, event = visit.delivered[0]
    case.drop(t)
    for n, record in enumerate(case.records):
        if record[1:5] == visit.key and isinstance(record.v, Opened) and record.type == "ok":
            case.alter(n, position=event.position, cursor=event.position)
    return True


@breaks("P6", "P20")
def stopped_being_served(case: Case) -> bool:
    """The connection stayed open and was given nothing more."""
    found = [
        visit
        for visit in case.visits()
        if visit.delivered
        and _is_open_in(case, visit, event := visit.delivered[-1][1])
        and not case.was_got(visit, event)
        and _is_owed_at_the_end(case, visit, event)
        and visit is case.run.devices[visit.device][-1]
    ]
    if (visit := case.some(found)) is None:
        return False
    case.drop(visit.delivered[-1][0])
    return True


@breaks("P7")
def swapped(case: Case) -> bool:
    """Two events changed places on the way."""
    found = [
        (visit, n) for visit, n in case.pairs()
        if n and not visit.removals and visit.delivered[n - 1][1].kind != MESSAGE_SENT and visit.delivered[n][1].kind != MESSAGE_SENT
    ]  # fmt: skip
    if (one := case.some(found)) is None:
        return False
    visit, n = one
    (t1, first), (t2, second) = visit.delivered[n - 1], visit.delivered[n]
    case.records[case.at(t1)] = case.records[case.at(t1)]._replace(v=second)
    case.records[case.at(t2)] = case.records[case.at(t2)]._replace(v=first)
    return True


@breaks("P7", "P9")
def delivered_twice(case: Case) -> bool:
    """The same event again on the same connection."""
    if (found := case.some([one for one in case.pairs() if not one[0].removals])) is None:
        return False
    visit, n = found
    t, event = visit.delivered[n]
    case.add(t + 1, visit.key, "ok", "deliver", event)
    return True


@breaks("P9")
def from_before_the_cursor(case: Case) -> bool:
    """What the client had said it has was given again."""
    found = []
    for visit in case.visits():
        if visit.opened.recovered and visit.delivered:
            old = [
                entry for entry, span in case.run.sight(visit.mid).between(0, visit.opened.position + 1) if span.is_open
            ]
            old = [entry for entry in old if entry.kind != MESSAGE_SENT]
            found += [(visit, entry) for entry in old[-1:]]
    if (one := case.some(found)) is None:
        return False
    visit, entry = one
    case.add(visit.opened_at + 1, visit.key, "ok", "deliver", Delivered(*entry))
    return True


@breaks("P9")
def cursor_rewound(case: Case) -> bool:
    """Delivery began before the cursor that was given."""
    found = []
    for visit in case.visits():
        opened = visit.opened
        if opened.recovered and opened.cursor > 1:
            between = [entry for entry, _ in case.run.sight(visit.mid).between(opened.cursor - 1, opened.cursor + 1)]
            if not between:
                found.append(visit)
    if (visit := case.some(found)) is None:
        return False
    for n, record in enumerate(case.records):
        if record[1:5] == visit.key and isinstance(record.v, Opened) and record.type == "ok":
            case.alter(n, position=visit.opened.position - 1)
    return True


# --- order in time ---------------------------------------------------------------------------------------------------------------


@breaks("P10")
def later_stored_before(case: Case) -> bool:
    """A message that was sent after the acknowledgement of another has the earlier place."""
    case.append(ELSEWHERE, MESSAGE_SENT, ADMIN, id_="early")
    case.append(ELSEWHERE, MESSAGE_SENT, ADMIN, id_="late")
    end = case.end
    case.say(ELSEWHERE, ADMIN, "late", end, end + 1, 2, case.head, n=901)
    case.say(ELSEWHERE, ADMIN, "early", end + 2, end + 3, 1, case.head - 1, n=902)
    return case.run.is_one_log


@breaks("P11")
def a_sender_overtook_itself(case: Case) -> bool:
    """Two messages that were sent together on one connection changed places."""
    sends: dict[tuple[object, str], list[Send]] = {}
    for one in case.acked():
        sends.setdefault((one.visit, one.asked.room), []).append(one)
    found = [
        (one, other)
        for these in sends.values()
        for one in these
        for other in these
        if one.answer.seq < other.answer.seq
        and one.began < other.began < min(one.ended, other.ended)
        and not any(
            third.asked.room == one.asked.room and one.began < third.ended <= other.began
            for tries in case.run.sends.values()
            for third in tries
        )
    ]
    if (pair := case.some(found)) is None:
        return False
    one, other = pair
    first, second = case.at(one.began), case.at(other.began)
    case.move(first, other.began)
    case.move(second, one.began)
    return True


@breaks("P12")
def page_with_a_hole(case: Case) -> bool:
    """An event is missing in the middle of a page of history."""
    found = [(operation, page) for operation, _, page in case.run.answered("history", Paging)
             if len(page.events) > 2 and case.run.is_of_this_log(operation.visit)]  # fmt: skip
    found = [(operation, page) for operation, page in found if operation.asked.t < case.run.phases[DRAINED]]
    if (one := case.some(found)) is None:
        return False
    operation, page = one
    n = case.random.randrange(1, len(page.events) - 1)
    case.alter(case.at(operation.told_at, "history"), events=page.events[:n] + page.events[n + 1 :])
    return True


@breaks("P12")
def history_without_its_end(case: Case) -> bool:
    """A message that was acknowledged before is not in the history."""
    found = []
    for operation, asked, page in case.run.answered("history", Paging):
        newest = (
            asked.before < 0 and asked.after < 0 and len(page.events) > 1 and case.run.is_of_this_log(operation.visit)
        )
        if newest and any(
            one.answer.room == page.room and one.answer.seq == page.head and one.ended < operation.asked.t
            for one in case.acked()
        ):
            found.append((operation, page))
    if (one := case.some(found)) is None:
        return False
    operation, page = one
    case.alter(case.at(operation.told_at, "history"), events=page.events[:-1], head=page.head - 1)
    return True


@breaks("P12")
def empty_history(case: Case) -> bool:
    """A member was shown nothing of a room in which things were said."""
    found = [
        operation
        for operation, _, page in case.run.answered("history", Paging)
        if page.after == 0 and page.events and not page.more and case.run.is_of_this_log(operation.visit)
        and len(case.sound.memberships[operation.asked.u, page.room]) == 1
        and case.sound.memberships[operation.asked.u, page.room][0].is_open
        and operation.asked.u == ADMIN
    ]  # fmt: skip
    if (operation := case.some(found)) is None:
        return False
    case.alter(case.at(operation.told_at, "history"), events=())
    return True


# --- resume, epochs, marks ---------------------------------------------------------------------------------------------------------


@breaks("P13")
def recovered_with_a_hole(case: Case) -> bool:
    """recovered is true, and the first event after the cursor does not come (the device has it from before its cursor was kept)."""
    found = [
        visit
        for visit in case.visits()
        if visit.opened.recovered and len(visit.delivered) > 1
        and _is_open_in(case, visit, event := visit.delivered[0][1]) and case.sound.has_members(event.room)
        and case.was_got(visit, event)
    ]  # fmt: skip
    if (visit := case.some(found)) is None:
        return False
    case.drop(visit.delivered[0][0])
    return True


def _change_opened(case: Case, wanted: Callable[[Visit], bool], **fields: Any) -> bool:
    if (visit := case.some([visit for visit in case.visits() if wanted(visit)])) is None:
        return False
    for n, record in enumerate(case.records):
        if record[1:5] == visit.key and isinstance(record.v, Opened) and record.type == "ok":
            case.alter(n, **fields)
    return True


@breaks("P13")
def began_after_the_cursor(case: Case) -> bool:
    """recovered is true, and delivery begins later than the cursor (where, by luck, nothing was missed)."""
    for visit in case.visits():
        opened = visit.opened
        first = visit.delivered[0][1].position if visit.delivered else NEVER
        if opened.recovered and opened.position + 1 < min(first, case.head):
            return _change_opened(case, lambda one, this=visit: one is this, position=opened.position + 1)  # type: ignore[misc]
    return False


@breaks("P13")
def not_recovered_for_no_reason(case: Case) -> bool:
    """A client that is not recovered must be told why."""
    return _change_opened(
        case, lambda visit: visit.opened.reason == "new" and visit is case.run.devices[visit.device][0], reason=""
    )


@breaks("P13")
def told_of_another_epoch(case: Case) -> bool:
    """A client with a good cursor was told that it is of another log."""
    return _change_opened(case, lambda visit: visit.opened.recovered, recovered=False, reason="epoch")


@breaks("P13")
def recovered_from_the_future(case: Case) -> bool:
    """A cursor beyond the end of the log was taken for good."""
    beyond = case.head + 10
    return _change_opened(
        case,
        lambda v: v.opened.recovered and not v.delivered and v.closed_at < case.run.phases[DRAINED],
        position=beyond,
        cursor=beyond,
    )


@breaks("P14")
def recovered_in_another_epoch(case: Case) -> bool:
    """The log was restored, and a cursor from before was taken for good."""
    return _change_opened(case, lambda visit: visit.opened.recovered, cursor_epoch="e0")


@breaks("P14")
def an_epoch_came_back(case: Case) -> bool:
    """One comet did not notice that the log was restored."""
    visits = sorted(case.visits(), key=lambda visit: visit.opened_at)
    if len(visits) < 3 or not case.run.is_one_log:
        return False
    inner = [
        visit for visit in visits[1:-1]
        if visits[0].opened_at < visit.asked_at and visits[-1].asked_at > visit.opened_at
        and visit.closed_at < case.run.phases[DRAINED] and not visit.opened.recovered
    ]  # fmt: skip
    return bool(inner) and _change_opened(case, lambda visit: visit is inner[0], epoch="e9")


@breaks("P15")
def read_mark_went_back(case: Case) -> bool:
    """A later answer knows less."""
    answers = [(operation, v) for operation, asked, v in case.run.answered("read", Reading) if asked.room]
    found = [
        later
        for first, v in answers
        for later, w in answers
        if v.room == w.room and first.asked.u == later.asked.u and first.told_at < later.asked.t and v.seq > 1
        and case.run.is_of_this_log(first.visit) and case.run.is_of_this_log(later.visit)
    ]  # fmt: skip
    if (later := case.some(found)) is None:
        return False
    case.alter(case.at(later.told_at), seq=0, unread=-1)
    return True


@breaks("P15")
def read_mark_was_not_stored(case: Case) -> bool:
    """The mark was answered, and is not in the log."""
    found = [
        (operation.asked.u, v.room)
        for operation, asked, v in case.run.answered("read", Reading)
        if asked.room and case.run.is_of_this_log(operation.visit)
        and v.seq > case.sound.memberships[operation.asked.u, v.room][-1].first
    ]  # fmt: skip
    if (found_one := case.some(found)) is None:
        return False
    case.read_marks = [mark for mark in case.read_marks if (mark.mid, mark.room) != found_one]
    return True


@breaks("P15")
def read_mark_beyond_the_end(case: Case) -> bool:
    """A mark was set where nothing is yet."""
    room = case.some([room for room in case.heads if case.sound.has_members(room)])
    mark = Reading(room, case.heads[room] + 1)
    case.add(case.end, ("http", ADMIN, "", 0), "invoke", "read", mark, 900)
    case.add(case.end + 1, ("http", ADMIN, "", 0), "ok", "read", mark, 900)
    return case.run.is_one_log


@breaks("P15")
def read_mark_of_a_stranger(case: Case) -> bool:
    """Somebody marked a room that was never theirs."""
    mids = {visit.mid for visit in case.visits()}
    found = [
        (mid, room)
        for mid in mids
        for room in case.heads
        if case.sound.has_members(room) and (mid, room) not in case.sound.memberships
    ]
    if (one := case.some(found)) is None:
        return False
    mid, room = one
    case.add(case.end, ("p", mid, "", 0), "invoke", "read", Reading(room, 1), 900)
    case.add(case.end + 1, ("p", mid, "", 0), "ok", "read", Reading(room, 1, -1), 900)
    return case.run.is_one_log


@breaks("P15")
def acked_less(case: Case) -> bool:
    """The delivery mark was answered with less than was asked."""
    acks = [operation for operation, asked, _ in case.run.answered("ack", Acking) if asked.position > 0]
    first = [one for one in acks if all(other.visit != one.visit or other.told_at >= one.told_at for other in acks)]
    if (one := case.some(first)) is None:
        return False
    case.alter(case.at(one.told_at, "ack"), position=one.asked.v.position - 1)
    return True


@breaks("P15")
def delivery_mark_went_back(case: Case) -> bool:
    """A later ack was answered with less than an earlier one."""
    if (visit := case.some([visit for visit in case.visits() if visit.is_open])) is None:
        return False
    for n, position in enumerate((2, 1)):
        case.add(case.end + 2 * n, visit.key, "invoke", "ack", Acking(1), 900 + n)
        case.add(case.end + 2 * n + 1, visit.key, "ok", "ack", Acking(position), 900 + n)
    taken = [other for other in case.run.devices[visit.device] if other.opened_at > visit.opened_at]
    revoked = [v for _, _, v in case.run.answered("kick", Belonging) if not v.room and v.mid == visit.mid]
    return not taken and not revoked


@breaks("P16")
def inbox_counts_wrong(case: Case) -> bool:
    """A row says one unread too many, and so does its fold."""
    inbox = case.projected["inbox"]
    key, row = case.some(list(inbox.live.items()))
    assert isinstance(row, Inbox)
    for rows in (inbox.live, inbox.folded):
        rows[key] = row._replace(seen=row.seen - 1)  # type: ignore[index]
    return True


@breaks("P16")
def unread_told_wrong(case: Case) -> bool:
    """At rest, the answer is one off."""
    found = [
        operation
        for operation, _, _ in case.run.answered("read", Reading)
        if operation.asked.t > case.run.phases[DRAINED]
    ]
    if (operation := case.some(found)) is None:
        return False
    assert operation.done is not None
    case.alter(next(n for n, r in enumerate(case.records) if r is operation.done), unread=operation.done.v.unread + 1)
    return True


# --- who may ---------------------------------------------------------------------------------------------------------------------


def _foreign(case: Case, kind: Callable[[Visit, Entry], bool]) -> bool:
    """A connection was given an event that is not its to see, in its right place between others."""
    found = []
    for visit in case.visits():
        for (t, event), (after, later) in pairwise(visit.delivered):
            if after - t > 1 and not any(t <= at <= after for at, _ in visit.removals):
                found += [
                    (visit, t, entry)
                    for entry in case.entries[event.position : later.position - 1]
                    if not case.sound.sees(visit.mid, visit.key[2], entry.room, entry.seq) and kind(visit, entry)
                ]
    if (one := case.some(found)) is None:
        return False
    visit, t, entry = one
    case.add(t + 1, visit.key, "ok", "deliver", Delivered(*entry))
    return True


@breaks("P17a")
def foreign_room(case: Case) -> bool:
    """A message of a room that one was never in."""
    return _foreign(
        case,
        lambda visit, entry: (
            case.sound.has_members(entry.room) and (visit.mid, entry.room) not in case.sound.memberships
        ),
    )


@breaks("P17a")
def foreign_person(case: Case) -> bool:
    """What was meant for somebody else."""
    return _foreign(case, lambda visit, entry: entry.room.startswith("user:"))


@breaks("P17a")
def delivered_from_before_the_join(case: Case) -> bool:
    """Live delivery began before the join."""
    return _foreign(
        case,
        lambda visit, entry: (
            entry.seq < min((s.first for s in case.sound.memberships.get((visit.mid, entry.room), ())), default=0)
        ),
    )


@breaks("P17a")
def delivered_after_the_kick(case: Case) -> bool:
    """What was said after the removal went to the removed."""
    return _foreign(
        case,
        lambda visit, entry: any(s.end < entry.seq for s in case.sound.memberships.get((visit.mid, entry.room), ())),
    )


@breaks("P17a")
def history_from_before_the_join(case: Case) -> bool:
    """A page shows what was said before one came, in a room that does not show it."""
    found = []
    for operation, _, page in case.run.answered("history", Paging):
        if (
            page.events
            and page.room not in case.sound.shown
            and page.after <= 0
            and case.run.is_of_this_log(operation.visit)
        ):
            before = case.sound.at.get((page.room, page.events[0].seq - 1))
            if before is not None and not case.sound.sees(operation.asked.u, "", page.room, before.seq):
                found.append((operation, page, before))
    if (one := case.some(found)) is None:
        return False
    operation, page, before = one
    case.alter(case.at(operation.told_at, "history"), events=(Delivered(*before), *page.events))
    return True


@breaks("P17b")
def delivered_after_the_removal_was_told(case: Case) -> bool:
    """The notice came first, then more of the room."""
    found = []
    for visit in case.visits():
        for t, notice in visit.removals:
            before = [(at, event) for at, event in visit.delivered if at < t]
            if before and before[-1][1].room == notice.room and before[-1][1].kind != MESSAGE_SENT:
                found.append((before[-1][0], t))
    if (one := case.some(found)) is None:
        return False
    delivered_at, told_at = one
    first, second = case.at(delivered_at), case.at(told_at)
    case.move(first, told_at)
    case.move(second, delivered_at)
    return True


@breaks("P17b")
def delivered_long_after_the_kick(case: Case) -> bool:
    """Backlog that the removed was entitled to went out two seconds after the removal was acknowledged."""
    found = []
    for operation, _, v in case.run.answered("kick", Belonging):
        for visit in case.run.people.get(v.mid, []) if v.room else ():
            last = visit.delivered[-1] if visit.delivered else None
            if last is None or last[1].room != v.room or last[1].position >= v.position or last[1].kind == MESSAGE_SENT:
                continue
            late = operation.told_at + 2 * SECOND
            revoked = any(not w.room and w.mid == v.mid for _, _, w in case.run.answered("kick", Belonging))
            if (
                not revoked
                and case.run.is_one_log
                and visit in case.visits()
                and not visit.removals
                and case.run.is_calm(operation.told_at, late)
            ):
                found.append((last[0], late))
    if (one := case.some(found)) is None:
        return False
    case.move(case.at(one[0]), one[1])
    return True


@breaks("P17b")
def told_who_reads_after_the_removal(case: Case) -> bool:
    """What is not stored went on to somebody who was taken out, and whom nobody let in again."""
    found = []
    for visit in case.visits():
        for t, notice in visit.removals:
            spans = case.sound.memberships[visit.mid, notice.room]
            if t < visit.closed_at and spans[-1].end_position <= notice.position:
                found.append((visit, notice.room, t))
    if (one := case.some(found)) is None:
        return False
    visit, room, t = one
    case.add(t + 1, visit.key, "ok", "deliver", receipt(room))
    return True


@breaks("P17c")
def a_stranger_wrote(case: Case) -> bool:
    """The check came before the lock: the sender had been removed by then."""
    case.append("group://new", MemberJoined.type, 99, whom=99)
    said = case.append("group://new", MESSAGE_SENT, ADMIN, id_="x")
    case.say("group://new", ADMIN, "x", case.end, case.end + 1, said.seq, said.position)
    return True


@breaks("P17d")
def a_room_gave_itself_away(case: Case) -> bool:
    """A room that is not there is refused in other words than one that is somebody else's."""
    answers = [
        one for tries in case.run.sends.values() for one in tries
        if one.outcome == "fail" and one.answer.code == "no_such_room" and (one.visit[1], one.asked.room) not in case.sound.memberships
    ]  # fmt: skip
    absent = [one for one in answers if one.asked.room == ABSENT]
    if not absent or len(absent) == len(answers):
        return False
    case.alter(case.at(case.some(absent).ended), code="forbidden")
    return True


# --- sessions --------------------------------------------------------------------------------------------------------------------


def _takeovers(case: Case) -> list[tuple[Visit, Visit]]:
    return [
        (older, newer)
        for visits in case.run.devices.values()
        for older, newer in pairwise(visits)
        if case.lives(older)
        and older.opened_at < newer.asked_at < older.closed_at
        and case.run.is_calm(newer.opened_at, newer.opened_at + 5 * SECOND)
    ]


@breaks("P18")
def the_older_stayed(case: Case) -> bool:
    """A connection that was taken over was not closed."""
    if (
        found := case.some([pair for pair in _takeovers(case) if pair[1].opened_at + 4 * SECOND < case.run.ended])
    ) is None:
        return False
    older, newer = found
    n = case.at(older.closed_at, "close")
    late = newer.opened_at + 3 * SECOND
    case.move(n, late)
    return not any(
        visit.opened_at < late < visit.closed_at for visit in case.run.devices[older.device] if visit not in found
    )


@breaks("P18")
def the_older_was_obeyed(case: Case) -> bool:
    """An operation of the older connection was done after the takeover."""
    pairs = [pair for pair in _takeovers(case) if case.run.is_of_this_log(pair[0].key)]
    if (found := case.some(pairs)) is None:
        return False
    older, newer = found
    late = newer.opened_at + 3 * SECOND
    case.add(late, older.key, "invoke", "ack", Acking(1), 900)
    case.add(late + 1, older.key, "ok", "ack", Acking(case.head), 900)
    return not any(not v.room and v.mid == older.mid for _, _, v in case.run.answered("kick", Belonging))


@breaks("P21")
def delivered_after_the_logout(case: Case) -> bool:
    """A session was ended by order, and its connection was still given events."""
    found = []
    for operation, _, v in case.run.answered("kick", Belonging):
        for visit in case.visits() if not v.room else ():
            if visit.mid == v.mid and visit.key[2] == v.key and visit.opened_at < operation.told_at <= visit.closed_at:
                last = max((event.position for _, event in visit.delivered), default=visit.opened.position)
                sight = list(case.run.sight(v.mid).between(last, NEVER))
                is_calm = case.run.is_calm(operation.told_at, operation.told_at + 3 * SECOND)
                owed = sight and sight[0][1].is_open and sight[0][0].kind != MESSAGE_SENT
                if is_calm and owed and not visit.removals:
                    found.append((visit, operation.told_at, sight[0][0]))
    if (one := case.some(found)) is None:
        return False
    visit, told_at, entry = one
    case.add(told_at + 3 * SECOND, visit.key, "ok", "deliver", Delivered(*entry))
    return True


@breaks("P21")
def delivered_from_behind_the_logout(case: Case) -> bool:
    """In time, and yet it lies behind the logout in the log: the comet came to that first."""
    found = []
    for operation, _, v in case.run.answered("kick", Belonging):
        for visit in case.visits() if not v.room else ():
            last = visit.delivered[-1] if visit.delivered else None
            if last is None or (visit.mid, visit.key[2]) != (v.mid, v.key) or last[1].position < 2:
                continue
            if visit.opened_at < operation.told_at and last[0] < operation.told_at:
                found.append((operation, last[1].position - 1))
    if (one := case.some(found)) is None:
        return False
    operation, position = one
    case.alter(next(n for n, r in enumerate(case.records) if r is operation.done), position=position)
    return True


@breaks("P21")
def obeyed_after_the_logout(case: Case) -> bool:
    """A session was ended by order, and its connection could still ask."""
    found = [
        (visit, operation.told_at + 3 * SECOND)
        for operation, _, v in case.run.answered("kick", Belonging)
        for visit in case.visits()
        if (v.room, v.mid, v.key) == ("", *visit.device)
        and visit.opened_at < operation.told_at <= visit.closed_at
        and case.run.is_calm(operation.told_at, operation.told_at + 3 * SECOND)
    ]
    if (one := case.some(found)) is None:
        return False
    visit, late = one
    case.add(late, visit.key, "invoke", "ack", Acking(1), 900)
    case.add(late + 1, visit.key, "ok", "ack", Acking(case.head), 900)
    return not any(older.device == visit.device for older, _ in _takeovers(case))


@breaks("P19")
def a_row_is_wrong(case: Case) -> bool:
    """A row was written that is not what the log says."""
    rows = case.projected[case.some(["rooms", "members"])].live
    key, row = case.some(list(rows.items()))
    rows[key] = (*row[:-1], 99)  # type: ignore[index]
    return True


@breaks("P19")
def a_row_is_missing(case: Case) -> bool:
    """A row is not there; nobody counts by it."""
    rows = case.projected[case.some(["rooms", "members", "inbox"])].live
    del rows[case.some(list(rows))]  # type: ignore[attr-defined]
    return True


@breaks("P20")
def too_much_waits(case: Case) -> bool:
    """A process holds more for its slow clients than it may."""
    case.add(case.end, ("nemesis", 0, "", 0), "info", "nemesis", Fault("unsent_bytes", "comet 1", value=2.0**30))
    return True


# --- in time -----------------------------------------------------------------------------------------------------------------------


@breaks("Q1")
def a_room_did_not_recover(case: Case) -> bool:
    """The first send after the fault waited for eleven seconds."""
    if not case.run.windows:
        return False
    healed = case.run.windows[-1].ended
    case.append(ELSEWHERE, MESSAGE_SENT, ADMIN, id_="slow")
    case.say(ELSEWHERE, ADMIN, "slow", healed + 1, healed + 11 * SECOND, 1, case.head)
    return True


@breaks("Q1")
def nobody_could_connect(case: Case) -> bool:
    """After a fault, connections were asked for and none was opened."""
    began = case.end + 20 * SECOND
    case.add(began, ("nemesis", 0, "", 0), "invoke", "nemesis", Fault("cut"), 900)
    case.add(began + 1, ("nemesis", 0, "", 0), "ok", "nemesis", Fault("cut"), 900)
    for n in range(3):
        case.add(began + 2 + n * SECOND, ("p", ADMIN, "late", n), "invoke", "connect", Opened())
        case.add(began + 3 + n * SECOND, ("p", ADMIN, "late", n), "fail", "connect", Opened(code="try_later"))
    case.add(began + 20 * SECOND, ("nemesis", 0, "", 0), "info", "nemesis", Fault("measured"))
    return True


@breaks("Q2")
def a_long_drain(case: Case) -> bool:
    """It took a minute until everybody had everything."""
    drained = case.run.phases[DRAINED]
    case.records = [r._replace(t=r.t + 60 * SECOND) if r.t >= drained else r for r in case.records]
    return True


def _slow(case: Case, *, in_fault: bool) -> bool:
    """One delivery, the last of its connection, is three seconds late."""
    told = {(one.visit[1], one.asked.id): one.ended for one in case.acked()}
    found = []
    for visit in case.visits():
        if visit.delivered and visit.removals == []:
            t, event = visit.delivered[-1]
            acked = told.get((event.mid, event.id), 0)
            inside = any(w.fault.name == "bus" and w.began <= min(acked, t) < w.ended for w in case.run.windows)
            calm = case.run.is_calm(min(acked, t) - 20 * SECOND, t + 4 * SECOND)
            if acked > visit.opened_at and (inside if in_fault else calm):
                kicks = [v for _, _, v in case.run.answered("kick", Belonging) if v.mid == visit.mid]
                found += [] if kicks else [(t, acked)]
    if (one := case.some(found)) is None:
        return False
    case.move(case.at(one[0]), max(one) + 3 * SECOND)
    return True


@breaks("Q3")
def slow_delivery(case: Case) -> bool:
    """Without any fault."""
    return _slow(case, in_fault=False)


@breaks("Q4")
def slow_delivery_without_the_bus(case: Case) -> bool:
    """Slower than the polling of the log."""
    return _slow(case, in_fault=True)


@breaks("Q4", "Q7")
def a_send_failed_without_the_bus(case: Case) -> bool:
    """The bus is a doorbell: no send may need it."""
    windows = [window for window in case.run.windows if window.fault.name == "bus"]
    found = [one for one in case.acked() for window in windows if window.began <= one.began < window.ended]
    if (one := case.some(found)) is None:
        return False
    n = case.at(one.ended)
    case.records[n] = case.records[n]._replace(type="info", v=one.asked)
    return True


@breaks("Q7")
def not_harmless_after_all(case: Case) -> bool:
    """A fault that no send should have noticed was noticed."""
    for window in case.run.windows:
        for tries in case.run.sends.values():
            if len(tries) == 1 and tries[0].outcome == "info" and window.began <= tries[0].began < window.ended:
                case.alter(case.at(window.began), harmless=True)
                return window.fault.name != "bus"
    return False


@breaks("Q5")
def a_ghost(case: Case) -> bool:
    """Who left long ago is shown online."""
    found = [
        operation
        for operation, _, sight in case.run.answered("presence", Presence)
        if not sight.online
        and (lives := [v for v in case.run.attempts[sight.mid] if v.asked_at < operation.told_at])
        and all(v.closed_at + 36 * SECOND < operation.asked.t for v in lives)
    ]
    if (operation := case.some(found)) is None:
        return False
    case.alter(next(n for n, r in enumerate(case.records) if r is operation.done), online=True)
    return True


@breaks("Q6")
def falsely_offline(case: Case) -> bool:
    """Who is connected and answered is shown offline."""
    found = [
        operation
        for operation, _, sight in case.run.answered("presence", Presence)
        if any(v.opened_at + 2 * SECOND <= operation.asked.t and min(v.heard_at, v.closed_at) >= operation.told_at
               for v in case.run.people.get(sight.mid, ()))
    ]  # fmt: skip
    if (operation := case.some(found)) is None:
        return False
    case.alter(next(n for n, r in enumerate(case.records) if r is operation.done), online=False)
    return True
