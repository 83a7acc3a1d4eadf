"""Layer 0: whatever happens in whatever order, the pure parts keep their promises. No database, no sockets, no clock.

Commands decide on rows, what they decide goes into the log in memory, folds make the next rows; followers are given the batches late,
twice, out of order or not at all. After every step the rows are compared with what the log says they must be, by definitions that are
written here once more, and slowly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as some
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from comet.memory_log import FOR_EVER, Draft, Membership, MemoryLog
from imcore import amending, commands, membership
from imcore.bus.tail import Tail
from imcore.errors import ImcoreError
from imcore.events.store import Decision, Rows
from imcore.events.store import Draft as Sent
from imcore.events.types import (
    JSON,
    MESSAGE_OP,
    MESSAGE_SENT,
    ROOM,
    SERVICE_MID,
    SESSION,
    USER,
    DeliveryAcked,
    Fact,
    MemberBanned,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    MemberUnbanned,
    MessageEdited,
    MessageRecalled,
    PersonBlocked,
    PersonUnblocked,
    ReadMarked,
    Recorded,
    Role,
    RoomDismissed,
    RoomsEntered,
    SessionClosed,
    SessionOpened,
    device,
    direct_pair,
    direct_room,
    registry,
)
from imcore.membership import Settings
from imcore.permissions import SERVICE_ACTOR, Actor, person
from imcore.projections import INLINE, PROJECTIONS
from imcore.projections.inline import InlineProjections
from imcore.projections.projection import AnyProjection, Key, fold
from imcore.projections.restrictions import Restriction

ROOMS = ("group://a", "group://b", "team://c")
PAIRS = ("direct://1-2", "direct://1-3", "direct://2-3")
MIDS = some.sampled_from([1, 2, 3])
BY = some.sampled_from([1, 2, 3, SERVICE_MID])
KEYS = some.sampled_from(["phone", "~1", "~2"])
ROLES: some.SearchStrategy[Role] = some.sampled_from(["owner", "admin", "member"])
NOW_MS = 1_000

Tables = dict[str, dict[Key, Any]]
Projections = Mapping[str, AnyProjection]


def _actor(by: int) -> Actor:
    return SERVICE_ACTOR if by == SERVICE_MID else person(by)


@cache
def _parse(type_: str, version: int, body: str) -> Fact:
    return registry.parse(type_, version, body)


def fact_of(event: Recorded) -> Fact | None:
    """What the promises are measured by, parsed once and not at every step; None for a message."""
    return None if event.op else _parse(event.type, event.version, event.body)


class Past:
    """The rows of every projection at every position of a log, each event folded once.

    A fold takes one event after the other, so these are the rows of a fold from zero up to there; `Service.teardown` holds them
    against that. Folding from zero at every step would take all the time that there is for looking at more histories.
    """

    def __init__(self, log: MemoryLog, projections: Projections) -> None:
        self._log = log
        self._projections = projections
        self._rows: dict[str, list[dict[Key, Any]]] = {name: [{}] for name in projections}

    def rows(self, name: str, position: int | None = None) -> dict[Key, Any]:
        """As of this position, or of the end of the log. Not to be changed."""
        position = self._log.head if position is None else position
        rows, projection = self._rows[name], self._projections[name]
        for event in self._log.events[len(rows) - 1 : position]:
            rows.append(fold(projection, [event], dict(rows[-1])) if event.type in projection.types else rows[-1])
        return rows[position]


class Follower:
    """Projections behind a tail: what the tail gives is folded, each event once, in order."""

    def __init__(
        self, log: MemoryLog, projections: Projections, tail: type[Tail], position: int = 0, rows: Tables | None = None
    ) -> None:
        self.projections = projections
        self.rows: Tables = {name: dict(rows[name]) if rows else {} for name in projections}

        async def read(after: int, limit: int) -> list[Recorded]:
            return log.read(after, limit)

        self.tail = tail(position, read, self._apply, held_events_max=8, read_events_max=7)

    def _apply(self, events: list[Recorded]) -> None:
        for name, projection in self.projections.items():
            fold(projection, events, self.rows[name])

    def catch_up(self) -> None:
        """Read what the batches did not bring."""
        asyncio.run(self.tail.catch_up())


class Service(RuleBasedStateMachine):
    """Commands, the log in memory, folds and followers."""

    projections: ClassVar[Projections] = PROJECTIONS  # these and the next two are what may be broken, see BROKEN
    tail: ClassVar[type[Tail]] = Tail
    guards: ClassVar[type[InlineProjections]] = InlineProjections

    marks = Bundle("marks")
    ids = Bundle("ids")
    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.log = MemoryLog()
        self.past = Past(self.log, self.projections)
        self.epoch = 1
        self.inlined = [self.projections[one.name] for one in INLINE]
        self.inline = self.guards(self.inlined)
        self.rows: Rows = {}
        self.asked = 0
        self.batches: list[list[Recorded]] = []
        self.followers = [self.follower()]
        self.sent: dict[tuple[int, str], tuple[str, Recorded]] = {}  # ids, as the log knows them
        self.places: dict[tuple[int, str, int], Recorded] = {}  # what each place of each epoch has ever held
        self.read: dict[tuple[int, str, int], int] = {}  # the highest mark seen, by membership
        self.received: dict[Key, int] = {}  # the highest delivery mark seen

    def follower(self, position: int = 0, rows: Tables | None = None) -> Follower:
        return Follower(self.log, self.projections, self.tail, position, rows)

    # --- the log ---

    def append(self, drafts: Sequence[Draft]) -> list[Recorded]:
        """One commit."""
        batch = self.log.append(drafts)
        if batch:
            self.batches.append(batch)
        for event in batch:
            assert self.places.setdefault((self.epoch, event.stream, event.seq), event) == event, "P14"
        return batch

    def fact(self, stream: str, fact: Fact, mid: int, key: str = "") -> Recorded:
        (event,) = self.append([Draft(stream, fact, mid, key)])
        return event

    def decide(self, decision: Decision) -> None:
        """As the log does it: rows of the named keys, the decision, its events folded into exactly these rows."""
        rows: Rows = {key: self.rows.get(key) for key in decision.keys}
        decision.now_ms = NOW_MS
        try:
            drafts = decision.decide(rows)
        except ImcoreError:
            return
        for event in self.append(
            [Draft(one.stream, registry.parse(one.type, 1, one.body), one.mid, one.key) for one in drafts]
        ):
            self.inline.apply(rows, event)
        self.rows.update(rows)

    # --- commands ---

    @initialize()
    def found(self) -> None:
        self.decide(membership.CreateRoom(ROOMS[0], person(1), members=[2]))

    @rule(room=some.sampled_from(ROOMS), by=BY, public=some.booleans(), members=some.lists(MIDS, max_size=2))
    def create(self, room: str, by: int, public: bool, members: list[int]) -> None:
        self.decide(membership.CreateRoom(room, _actor(by), settings=Settings(public=public), members=members))

    @rule(room=some.sampled_from(ROOMS), mid=MIDS, may_create=some.booleans())
    def join(self, room: str, mid: int, may_create: bool) -> None:
        self.decide(membership.Join(room, person(mid), may_create=may_create))

    @rule(room=some.sampled_from(ROOMS), mid=MIDS, by=BY, role=ROLES)
    def add(self, room: str, mid: int, by: int, role: Role) -> None:
        self.decide(membership.AddMember(room, mid, _actor(by), role=role))

    @rule(room=some.sampled_from(ROOMS), mid=MIDS)
    def leave(self, room: str, mid: int) -> None:
        self.decide(membership.Leave(room, person(mid)))

    @rule(room=some.sampled_from(ROOMS), mid=MIDS, by=BY)
    def remove(self, room: str, mid: int, by: int) -> None:
        self.decide(membership.RemoveMember(room, mid, _actor(by)))

    @rule(room=some.sampled_from(ROOMS), mid=MIDS, by=BY, role=ROLES)
    def set_role(self, room: str, mid: int, by: int, role: Role) -> None:
        self.decide(membership.SetRole(room, mid, _actor(by), role))

    @rule(room=some.sampled_from(ROOMS), mid=MIDS, by=BY, until_ms=some.sampled_from([0, NOW_MS, NOW_MS + 1]))
    def mute(self, room: str, mid: int, by: int, until_ms: int) -> None:
        self.decide(membership.Mute(room, mid, _actor(by), until_ms))

    @rule(
        room=some.sampled_from(ROOMS),
        mid=MIDS,
        by=BY,
        until_ms=some.sampled_from([0, NOW_MS, NOW_MS + 1]),
        lifted=some.booleans(),
    )
    def ban(self, room: str, mid: int, by: int, until_ms: int, lifted: bool) -> None:
        """Who is banned tries to come back, perhaps after it was lifted."""
        self.decide(membership.BanMember(room, mid, _actor(by), until_ms=until_ms))
        if lifted:
            self.decide(membership.UnbanMember(room, mid, _actor(by)))
        self.decide(membership.Join(room, person(mid), may_create=False))

    @rule(choice=some.integers(0, 3), by=BY)
    def unban(self, choice: int, by: int) -> None:
        banned = [key for (name, key), row in self.rows.items() if name == "bans" and row is not None]
        if banned:
            room, mid = banned[-1 - choice % len(banned)]
            self.decide(membership.UnbanMember(str(room), int(mid), _actor(by)))

    @rule(room=some.sampled_from(ROOMS[1:]), by=BY)
    def dismiss(self, room: str, by: int) -> None:
        """Not the first room, so that there is one till the end."""
        self.decide(membership.DismissRoom(room, _actor(by)))

    @rule(mid=MIDS, other=MIDS)
    def open_direct(self, mid: int, other: int) -> None:
        self.decide(membership.OpenDirect(other, person(mid)))

    @rule(by=MIDS, mid=MIDS, opened=some.booleans())
    def block(self, by: int, mid: int, opened: bool) -> None:
        """Who is blocked tries to have the last word, perhaps where the two were just about to speak."""
        if opened:
            self.decide(membership.OpenDirect(mid, person(by)))
        self.decide(membership.BlockPerson(mid, person(by)))
        self.asked += 1
        self._send(direct_room(by, mid), mid, f"id{self.asked}")

    @rule(by=MIDS, mid=MIDS)
    def unblock(self, by: int, mid: int) -> None:
        self.decide(membership.UnblockPerson(mid, person(by)))

    @rule(
        choice=some.integers(0, 5),
        by=some.none() | BY,
        words=some.lists(some.sampled_from(["one", "two", None]), min_size=1, max_size=3),
    )
    def amend(self, choice: int, by: int | None, words: list[str | None]) -> None:
        """One message is edited and recalled (None), in any order, by its author (None) or by anybody."""
        said = [event for event in self.log.events if event.op]
        if not said:
            return
        event = said[-1 - choice % len(said)]
        target = amending.Target(event.room, event.seq, event.mid, event.time_ms, JSON, event.body, False)
        actor = _actor(event.mid if by is None else by)
        for one in words:
            if one is None:
                self.decide(amending.RecallMessage(target, actor, 0))
            else:
                self.decide(amending.EditMessage(target, actor, 0, one, "json"))

    @rule(target=ids, room=some.sampled_from(ROOMS + PAIRS), mid=MIDS, n=some.integers(1, 3))
    def send(self, room: str, mid: int, n: int) -> tuple[int, str, str]:
        for _ in range(n):
            self.asked += 1  # one that was refused left no trace, and its id is used all the same
            client_id = f"id{self.asked}"
            self._send(room, mid, client_id)
        return (mid, client_id, room)

    @rule(sent=ids)
    def send_again(self, sent: tuple[int, str, str]) -> None:
        """A retry is answered with the first place, also after the sender was removed, and stores nothing."""
        mid, client_id, room = sent
        known, head = self.sent.get((mid, client_id)), self.log.head
        answer = self._send(room, mid, client_id)
        if known is not None:
            assert answer == known[1], "P3"
            assert head == self.log.head, "P3"

    @rule(room=some.sampled_from(ROOMS))
    def push(self, room: str) -> None:
        rules = self.rows.get(("restrictions", (room,)))
        if isinstance(rules, Restriction) and rules.dismissed:
            return
        self.append([Draft(ROOM + room, None, SERVICE_MID, op=MESSAGE_OP)])

    def _send(self, room: str, mid: int, client_id: str) -> Recorded | None:
        draft = commands.send(room, mid, client_id, "0", op=MESSAGE_OP, is_member=True)
        if (known := self.sent.get((mid, client_id))) is not None:
            return known[1] if known[0] == room else None
        rows = {key: self.rows.get(key) for key in self.inline.guard_keys(draft)}
        if self.inline.refusal(rows, draft, NOW_MS) is not None:
            return None
        (event,) = self.append([Draft(draft.stream, None, mid, op=MESSAGE_OP, client_id=client_id)])
        self.sent[mid, client_id] = (room, event)
        return event

    # --- marks and sessions ---

    @rule(target=marks, room=some.sampled_from(ROOMS), mid=MIDS, back=some.integers(0, 4))
    def make_mark(self, room: str, mid: int, back: int) -> tuple[int, ReadMarked] | None:
        """What a mark covers is looked up now; it is recorded later, perhaps after the person has left and come back."""
        joined = self.log.members.get(ROOM + room, {}).get(mid)
        if joined is None:
            return None
        here = [event for event in self.log.events if event.room == room]
        seq = max(1, len(here) - back)
        said = [event for event in here if event.op and event.seq <= seq]
        own = sum(event.mid == mid and event.position > joined for event in said)
        return self.epoch, ReadMarked(room=room, mid=mid, seq=seq, messages=len(said), sent=own)

    @rule(mark=marks)
    def record_mark(self, mark: tuple[int, ReadMarked] | None) -> None:
        if mark is not None and mark[0] == self.epoch:
            self.fact(f"{USER}{mark[1].mid}", mark[1], mark[1].mid)

    @rule(mid=MIDS, key=KEYS, node=some.sampled_from(["n1", "n2"]))
    def open_session(self, mid: int, key: str, node: str) -> None:
        self.fact(f"{SESSION}{mid}", SessionOpened(key=key, node=node), mid, key)

    def _opened(self, choice: int) -> Recorded | None:
        opened = [event for event in self.log.events if event.type == SessionOpened.type]
        return opened[-1 - choice % len(opened)] if opened else None

    @rule(choice=some.integers(0, 3), late=some.sampled_from(["nothing", "rooms", "the end"]))
    def take_over(self, choice: int, late: str) -> None:
        """The same key once more, before the older session is closed. What that one says last may come after it."""
        if (opened := self._opened(choice)) is None:
            return
        self.fact(opened.stream, SessionOpened(key=opened.key, node="n3"), opened.mid, opened.key)
        if late == "rooms":
            self.enter_rooms(opened, ["live://1"])
        elif late == "the end":
            self.close(opened)

    @rule(choice=some.integers(0, 3), by=some.booleans(), delivered=some.none() | some.integers(0, 50))
    def close_session(self, choice: int, by: bool, delivered: int | None) -> None:
        """Late, twice, or by the service for a node that is gone."""
        if (opened := self._opened(choice)) is not None:
            self.close(opened, SERVICE_MID if by else None, delivered)

    def close(self, opened: Recorded, by: int | None = None, delivered: int | None = None) -> None:
        fact = SessionClosed(key=opened.key, opened=opened.position, reason="lost", delivered=delivered)
        self.fact(opened.stream, fact, opened.mid if by is None else by, opened.key)

    @rule(choice=some.integers(0, 3), rooms=some.lists(some.sampled_from(["live://1", "live://2"]), max_size=2))
    def enter(self, choice: int, rooms: list[str]) -> None:
        if (opened := self._opened(choice)) is not None:
            self.enter_rooms(opened, rooms)

    def enter_rooms(self, opened: Recorded, rooms: list[str]) -> None:
        fact = RoomsEntered(key=opened.key, opened=opened.position, rooms=tuple(rooms))
        self.fact(opened.stream, fact, opened.mid, opened.key)

    @rule(mid=MIDS, key=KEYS, position=some.integers(0, 50))
    def ack(self, mid: int, key: str, position: int) -> None:
        self.fact(f"{SESSION}{mid}", DeliveryAcked(key=key, position=position), mid, key)

    # --- followers ---

    @precondition(lambda self: self.batches)
    @rule(choices=some.lists(some.integers(0, 30), min_size=1, max_size=6), who=some.integers(0, 3))
    def deliver(self, choices: list[int], who: int) -> None:
        """Batches of whatever time, in whatever order, as often as it pleases."""
        follower = self.followers[who % len(self.followers)]
        for choice in choices:
            follower.tail.offer(self.batches[-1 - choice % len(self.batches)])

    @rule(who=some.integers(0, 3))
    def look(self, who: int) -> None:
        self.followers[who % len(self.followers)].catch_up()

    @rule(target=snapshots, who=some.integers(0, 3))
    def snapshot(self, who: int) -> tuple[int, int, Tables]:
        """Rows as they are, with the position that they are at."""
        follower = self.followers[who % len(self.followers)]
        return self.epoch, follower.tail.position, {name: dict(rows) for name, rows in follower.rows.items()}

    @precondition(lambda self: len(self.followers) < 4)
    @rule(snapshot=snapshots)
    def follow_from(self, snapshot: tuple[int, int, Tables]) -> None:
        epoch, position, rows = snapshot
        if epoch == self.epoch:
            self.followers.append(self.follower(position, rows))

    @rule(snapshot=snapshots)
    def restore(self, snapshot: tuple[int, int, Tables]) -> None:
        """The log goes back in time: the rows are then what they were at that time."""
        epoch, position, rows = snapshot
        if epoch != self.epoch or position < self.log.head // 2:
            return
        kept = self.log.events[:position]
        self.log, self.batches, self.sent, self.read, self.received = MemoryLog(), [], {}, {}, {}
        self.past = Past(self.log, self.projections)
        self.epoch += 1
        for event in kept:
            fact = fact_of(event)
            self.append([Draft(event.stream, fact, event.mid, event.key, event.op, event.client_id)])
            if event.client_id:
                self.sent[event.mid, event.client_id] = (event.room, self.log.events[-1])
        self.rows = {(one.name, key): row for one in self.inlined for key, row in self.past.rows(one.name).items()}
        self.followers = [self.follower()]
        self.followers[0].catch_up()
        assert rows == self.followers[0].rows, "P14, P19"

    def teardown(self) -> None:
        """P19: what was folded event by event is what a fold from zero makes of the whole log."""
        for name, projection in self.projections.items():
            assert self.past.rows(name) == fold(projection, self.log.events), name

    # --- what must be so, always ---

    @invariant()
    def dense(self) -> None:
        """P4."""
        seqs: dict[str, int] = {}
        for position, event in enumerate(self.log.events, 1):
            seqs[event.stream] = seqs.get(event.stream, 0) + 1
            assert (position, seqs[event.stream]) == (event.position, event.seq)

    @invariant()
    def ids_are_one_message(self) -> None:
        """P3."""
        ids = [(event.mid, event.client_id) for event in self.log.events if event.client_id]
        assert len(ids) == len(set(ids))

    @invariant()
    def inline_rows_are_the_fold(self) -> None:
        """P19, of the rows that sends are checked against."""
        for projection in self.inlined:
            rows = {key: row for (name, key), row in self.rows.items() if name == projection.name and row is not None}
            assert rows == self.past.rows(projection.name)

    @invariant()
    def followers_are_the_fold(self) -> None:
        """P19: from zero, from a snapshot, with batches lost, late and twice."""
        for follower in self.followers:
            for name in self.projections:
                assert follower.rows[name] == self.past.rows(name, follower.tail.position), name

    @invariant()
    def members_are_who_is_in(self) -> None:
        """P17: the rows are the memberships that are open; rooms count them."""
        now = {
            (stream.removeprefix(ROOM), mid): span.joined
            for (stream, mid), spans in self.log.memberships.items()
            for span in spans
            if span.left == FOR_EVER
        }
        assert now == {key: row.since for key, row in self.past.rows("members").items()}
        for (room,), row in self.past.rows("rooms").items():
            assert row.members == sum(where == room for where, _ in now)

    @invariant()
    def senders_were_members(self) -> None:
        """P17c."""
        for event in self.log.events:
            if event.type == MESSAGE_SENT:
                spans: list[Membership] = self.log.memberships.get((event.stream, event.mid), [])
                assert any(span.joined <= event.position < span.left for span in spans)

    @invariant()
    def the_banned_stay_out(self) -> None:
        """From a ban until it is lifted nobody is, or comes, in; and the rows are just the bans that were not lifted."""
        banned: dict[Key, int] = {}
        for event in self.log.events:
            match fact_of(event):
                case MemberBanned(room=room, mid=mid):
                    assert mid not in self._members_at(room, event.position)
                    banned[room, mid] = event.position
                case MemberUnbanned(room=room, mid=mid):
                    banned.pop((room, mid), None)
                case MemberJoined(room=room, mid=mid):
                    assert (room, mid) not in banned
        assert banned == {key: row.position for key, row in self.past.rows("bans").items()}

    def _members_at(self, room: str, position: int) -> set[int]:
        return {
            mid
            for (stream, mid), spans in self.log.memberships.items()
            for span in spans
            if stream == ROOM + room and span.joined <= position < span.left
        }

    @invariant()
    def a_dismissed_room_is_over(self) -> None:
        """Nothing follows its dismissal in its stream."""
        over: dict[str, int] = {}
        for event in self.log.events:
            assert event.stream not in over
            if event.type == RoomDismissed.type:
                over[event.stream] = event.position
        rows = self.past.rows("rooms")
        assert over == {f"{ROOM}{room}": row.dismissed for (room,), row in rows.items() if row.dismissed}
        rules = self.past.rows("restrictions")
        assert set(over) == {f"{ROOM}{room}" for (room,), row in rules.items() if row.dismissed}

    @invariant()
    def whom_one_blocked_says_nothing_to_one(self) -> None:
        """In their direct room, from the block to its end, and whenever the room was opened. Of two who are blocked none is opened."""
        blocks: set[Key] = set()
        for event in self.log.events:
            match fact_of(event):
                case PersonBlocked(by=by, mid=mid):
                    blocks.add((by, mid))
                case PersonUnblocked(by=by, mid=mid):
                    blocks.remove((by, mid))
            pair = direct_pair(event.room)
            if pair is not None and event.type == MESSAGE_SENT:
                (other,) = {*pair} - {event.mid}
                assert (other, event.mid) not in blocks
            if pair is not None and event.type == MemberJoined.type:
                assert not blocks & {pair, pair[::-1]}
        assert blocks == set(self.past.rows("blocks"))

    @invariant()
    def what_was_recalled_stays_so_and_says_nothing(self) -> None:
        """An edit is its author's; the last is what the message says; after a recall there is nothing more, and no words are left."""
        edits: dict[Key, list[tuple[int, str]]] = {}
        recalls: dict[Key, tuple[int, int]] = {}
        authors = {(event.room, event.seq): event.mid for event in self.log.events if event.op}
        for event in self.log.events:
            match fact_of(event):
                case MessageEdited(room=room, target=target, body=body):
                    assert (room, target) not in recalls
                    assert event.mid in (authors[room, target], SERVICE_MID)
                    edits.setdefault((room, target), []).append((event.position, f'"{body}"'))
                case MessageRecalled(room=room, target=target, author=author):
                    assert (room, target) not in recalls
                    assert author == authors[room, target]
                    recalls[room, target] = event.position, event.mid
        assert {
            key: (
                len(edits.get(key, ())),
                "" if key in recalls or key not in edits else edits[key][-1][1],
                *recalls.get(key, (0, 0)),
            )
            for key in {*edits, *recalls}
        } == {
            key: (row.edits, row.body, row.recalled, row.recalled_by)
            for key, row in self.past.rows("amendments").items()
        }

    @invariant()
    def unread_is_a_count(self) -> None:
        """P16, and P15: a mark never goes back while the membership lasts."""
        for (mid, room), row in self.past.rows("inbox").items():
            assert isinstance(mid, int)
            assert isinstance(room, str)
            said = [event for event in self.log.events if event.room == room and event.op]
            assert len(said) - row.seen - (row.sent - row.sent_seen) == sum(
                event.seq > row.read_seq and event.mid != mid for event in said
            )
            assert row.read_seq >= self.read.get((mid, room, row.since_seq), row.since_seq)
            self.read[mid, room, row.since_seq] = row.read_seq

    @invariant()
    def delivery_marks_go_forward(self) -> None:
        """P15: the highest that the device ever said, whatever came later."""
        highest: dict[Key, int] = {}
        for event in self.log.events:
            fact = fact_of(event)
            position = fact.position if isinstance(fact, DeliveryAcked) else None
            position = fact.delivered if isinstance(fact, SessionClosed) else position
            if position is not None and isinstance(fact, DeliveryAcked | SessionClosed):
                key = (int(event.stream.removeprefix(SESSION)), device(fact.key))
                highest[key] = max(position, highest.get(key, position))
        rows = {key: row.position for key, row in self.past.rows("deliveries").items()}
        assert highest == rows
        assert all(position >= self.received.get(key, 0) for key, position in rows.items())
        self.received.update(rows)

    @invariant()
    def sessions_are_the_newest(self) -> None:
        """P18: of each key the newest opening, unless it was closed itself; what older ones say changes nothing."""
        newest: dict[Key, Recorded] = {}
        for event in self.log.events:
            if event.type == SessionOpened.type:
                newest[event.mid, event.key] = event
        closed = {fact.opened for event in self.log.events if isinstance(fact := fact_of(event), SessionClosed)}
        entered = {
            fact.opened: fact.rooms for event in self.log.events if isinstance(fact := fact_of(event), RoomsEntered)
        }
        rows = self.past.rows("sessions")
        now = {key: event.position for key, event in newest.items() if event.position not in closed}
        assert now == {key: row.opened for key, row in rows.items()}
        assert all(row.rooms == entered.get(row.opened, ()) for row in rows.values())


# A step folds the whole log several times, and the machine may be busy: slow is no fault here.
STEPS = settings(stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestReducers = Service.TestCase
TestReducers.settings = settings(STEPS, max_examples=60)


# --- and the machine finds what it is for ----------------------------------------------------------------------------------------


def broken(name: str, apply: Callable[[Key, Any, Recorded], Any]) -> dict[str, object]:
    """One projection with another `apply`, which may ask the right one."""
    return {"projections": {**PROJECTIONS, name: replace(PROJECTIONS[name], apply=apply)}}


def right(name: str, key: Key, row: Any, event: Recorded) -> Any:
    return PROJECTIONS[name].apply(key, row, event)


class Forgetful(Tail):
    """Takes what it has once more."""

    def offer(self, batch: list[Recorded]) -> None:
        if batch[0].position <= self.position:
            self._apply(batch)
        else:
            super().offer(batch)


class Careless(Tail):
    """Takes what comes next, though something is missing before it."""

    def offer(self, batch: list[Recorded]) -> None:
        if batch[-1].position > self.position:
            self.position = batch[-1].position
            self._apply(batch)


class Open(InlineProjections):
    """Lets everybody send."""

    def refusal(self, rows: Rows, draft: Sent, now_ms: int) -> ImcoreError | None:
        return None


class Amnesiac(Service):
    """Does not know an id again."""

    def _send(self, room: str, mid: int, client_id: str) -> Recorded | None:
        self.sent.pop((mid, client_id), None)
        return super()._send(room, mid, client_id)


def skipping(name: str, *types: type[Fact]) -> dict[str, object]:
    """A projection that does not hear of some events."""
    kept = [one.type for one in types]
    return broken(name, lambda key, row, event: row if event.type in kept else right(name, key, row, event))


def unread_of_own(key: Key, row: Any, event: Recorded) -> Any:
    return row if event.op else right("inbox", key, row, event)


def mark_of_any_time(key: Key, row: Any, event: Recorded) -> Any:
    if event.op == 0 and isinstance(fact := event.fact, ReadMarked) and row is not None:
        return row._replace(read_seq=fact.seq, seen=fact.messages, sent_seen=fact.sent)
    return right("inbox", key, row, event)


def join_reads_nothing(key: Key, row: Any, event: Recorded) -> Any:
    made = right("inbox", key, row, event)
    return made._replace(read_seq=0) if event.type == MemberJoined.type and made is not None else made


def last_ack_wins(key: Key, row: Any, event: Recorded) -> Any:
    return right("deliveries", key, None, event) or row


def any_close_closes(key: Key, row: Any, event: Recorded) -> Any:
    return None if event.type == SessionClosed.type else right("sessions", key, row, event)


def anybody_enters(key: Key, row: Any, event: Recorded) -> Any:
    if isinstance(fact := event.fact, RoomsEntered) and row is not None:
        return row._replace(rooms=fact.rooms)
    return right("sessions", key, row, event)


def a_recall_keeps_the_words(key: Key, row: Any, event: Recorded) -> Any:
    made = right("amendments", key, row, event)
    return made._replace(body=row.body) if event.type == MessageRecalled.type and row is not None else made


def a_ban_is_over_at_once(key: Key, row: Any, event: Recorded) -> Any:
    made = right("bans", key, row, event)
    return made._replace(until_ms=NOW_MS) if event.type == MemberBanned.type else made


BROKEN: dict[str, tuple[type[Service], dict[str, object]]] = {
    "a removal leaves the member": (Service, skipping("members", MemberRemoved)),
    "a leave leaves the member": (Service, skipping("members", MemberLeft)),
    "a removal is not counted": (Service, skipping("rooms", MemberRemoved)),
    "own messages are unread": (Service, broken("inbox", unread_of_own)),
    "a mark goes back": (Service, broken("inbox", mark_of_any_time)),
    "a join reads nothing": (Service, broken("inbox", join_reads_nothing)),
    "the last ack wins": (Service, broken("deliveries", last_ack_wins)),
    "any close closes the session": (Service, broken("sessions", any_close_closes)),
    "an older session enters rooms for a newer": (Service, broken("sessions", anybody_enters)),
    "what comes twice is folded twice": (Service, {"tail": Forgetful}),
    "what is missing is not missed": (Service, {"tail": Careless}),
    "everybody may send": (Service, {"guards": Open}),
    "a ban keeps nobody out": (Service, broken("bans", a_ban_is_over_at_once)),
    "a ban is not lifted": (Service, skipping("bans", MemberUnbanned)),
    "a dismissed room goes on": (Service, skipping("restrictions", RoomDismissed)),
    "a room is not told of its end": (Service, skipping("rooms", RoomDismissed)),
    "a block blocks nobody": (Service, skipping("members", PersonBlocked)),
    "a block does not end": (Service, skipping("blocks", PersonUnblocked)),
    "a recalled message keeps its words": (Service, broken("amendments", a_recall_keeps_the_words)),
    "what was recalled is edited": (Service, skipping("amendments", MessageRecalled)),
    "an edit is not heard of": (Service, skipping("amendments", MessageEdited)),
    "ids are forgotten": (Amnesiac, {}),
}


# Most are found within ten, "a mark goes back" within a hundred on an average. The examples are others after any change of any module.
EXAMPLES_MAX = 10_000


@pytest.mark.parametrize("bug", BROKEN)
def test_a_planted_bug_is_found(bug: str) -> None:
    kind, changes = BROKEN[bug]
    machine = type("Broken", (kind,), changes)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            machine,
            settings=settings(
                STEPS, max_examples=EXAMPLES_MAX, phases=[Phase.generate], database=None, derandomize=True
            ),
        )
