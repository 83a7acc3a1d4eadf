"""Who gets what, in which order. No I/O, no clock: batches of events in, bytes to sessions out.

The hub stands at one position of the log and moves from p to p + 1 only. Joins, leaves and removals come in the same log as the
messages and are applied in the same order, so a message goes to exactly those who are members at its position. A session is *live*
(it has everything up to the hub's position, or it lies in the next flush) or *behind* at a position of its own (it reads the log
after it, page by page, never past the hub, and turns live in the same tick in which there is nothing more to read). Slow reader,
reconnect, lost batch: one way back.

Events wait in *runs* (consecutive events of one stream) until `flush`: a run is encoded once and its bytes are the same for everybody.
Before anything changes who is in an audience, the waiting runs are handed out to those who are in it now.

The trap: a session's bytes leave in order of position, over all its rooms. That is what makes one number a cursor, and it is why a run
ends where another stream's event comes between.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from imcore.comet.encode import Run
from imcore.comet.watching import Watching
from imcore.errors import Displaced, GoingAway, ImcoreError, TakenOver, Unauthenticated
from imcore.events import messages
from imcore.events.types import (
    ALL,
    KEY,
    MESSAGE_SENT,
    NODE_LOST,
    ROOM,
    SESSION,
    USER,
    AccountDeactivated,
    AccountSuspended,
    DeliveryAcked,
    LoggedOut,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    MessageEdited,
    MessageRecalled,
    PersonBlocked,
    PersonUnblocked,
    PlatformRoleChanged,
    Recorded,
    RoomDismissed,
    RoomsEntered,
    RoomSwitched,
    SessionClosed,
    SessionOpened,
    UnknownType,
    VisibilityChosen,
    device,
    direct_pair,
    room_type,
)

log = logging.getLogger(__name__)

OPENING, BEHIND, LIVE, CLOSED = range(4)
ROUTING_FACTS: Final = (
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    SessionOpened,
    SessionClosed,
    RoomsEntered,
    RoomSwitched,
    DeliveryAcked,
    MessageRecalled,
    VisibilityChosen,
    PersonBlocked,
    PersonUnblocked,
    LoggedOut,
    AccountSuspended,
    AccountDeactivated,
    PlatformRoleChanged,
)
ROUTING_TYPES: Final = frozenset(fact.type for fact in ROUTING_FACTS)
DISMISSED: Final = RoomDismissed.type
FRESH_STREAMS_MAX: Final = 200_000
MARKS_MAX: Final = 50_000
RECALLS_MAX: Final = 50_000
# Of one person, so that what is kept of many has a bound. Who has more is asked for again.
PLACES_MAX: Final = 16
REMEMBERED_ROOMS_MAX: Final = 1_000
REMEMBERED_DEVICES_MAX: Final = 64
LEFT_MAX: Final = 64
SESSIONS_MAX: Final = 20_000
OPENED_MAX: Final = 1_000  # keys of one person that the log told of while a connection was opening; more are forgotten
SWITCHES_MAX: Final = 1_000  # the same of switches of rooms


class Session:
    """One client connection as the hub sees it. What carries bytes is a subclass.

    `position`: everything up to here was written. It moves while the session is behind, and stands where it turned live after that.
    `full`: the socket has not taken what it was given, so there is nothing to be written. `entered` are the live rooms it is in and
    since when. `received` is the position of the last durable event that was written to it. `sid` is the login that it is of, and
    `as_of` up to where in the log its token knew its person: what took that back later ends it.
    """

    __slots__ = (
        "accepts",
        "as_of",
        "codec",
        "entered",
        "floor",
        "full",
        "key",
        "mid",
        "opened",
        "out",
        "person",
        "position",
        "received",
        "sid",
        "state",
    )

    def __init__(self) -> None:
        self.mid = 0
        self.key = ""
        self.sid = ""
        self.as_of = 0
        self.codec = 0
        self.accepts: frozenset[int] | None = None
        self.opened = 0
        self.position = 0
        self.floor = 0  # pushes to everybody are this session's from here on
        self.received = 0
        self.state = OPENING
        self.full = False
        self.entered: dict[str, int] = {}
        self.person: Person | None = None
        self.out: list[bytes] | None = None

    def write(self, data: bytes) -> None:
        """Take these bytes; they are shared, and must not be changed."""
        raise NotImplementedError

    def removed(self, event: Recorded) -> None:
        """The person is no longer in the room of this event."""
        raise NotImplementedError

    def switched(self, room: str) -> None:
        """The person asked elsewhere that this session leave the room it has entered for this one."""
        raise NotImplementedError

    def end(self, error: ImcoreError) -> None:
        """Close the connection because of this."""
        raise NotImplementedError

    def revoked(self, error: ImcoreError) -> None:
        """Its login is over: nothing more is taken from it, and it is closed because of this, now or when it has its answer."""
        self.end(error)


class Audience:
    """Who gets the events of one stream on this comet."""

    __slots__ = ("durable", "pair", "sessions")

    def __init__(self, durable: bool, pair: tuple[int, int] | None) -> None:
        self.durable = durable
        self.pair = pair  # whose direct conversation it is
        self.sessions: dict[Session, None] = {}


class Place(NamedTuple):
    """Where the streams of a device ended, when that was looked up: as of position `head` of the log, `newest` was the newest event
    in any stream that it is entitled to."""

    head: int
    newest: int


class Left(NamedTuple):
    """The end of a membership."""

    position: int
    by: int
    type: str


class Person:
    """One member id with sessions here: its durable rooms and the position of each join.

    While its memberships are being read from the database, what the log says of them meanwhile is kept in `changes`; while
    connections are opening, the position of the newest session that the log says of each key is kept in `opened`, and in `switches`
    into which room a session (by key and position of its opening) was to go that is not here, or not yet.

    `places` and `marks` (by device) are what was read for its connections, and the marks are kept up to date: who comes back needs
    no reading. `left` are the rooms that it left or was removed from, all of those after position `left_from`; `everywhere` are its
    open sessions on all comets, key -> position of the opening.
    """

    __slots__ = (
        "changes",
        "everywhere",
        "holders",
        "left",
        "left_from",
        "marks",
        "mid",
        "opened",
        "places",
        "rooms",
        "sessions",
        "switches",
    )

    def __init__(self, mid: int, position: int) -> None:
        self.mid = mid
        self.left: dict[str, Left] = {}
        self.left_from = position
        self.rooms: dict[str, int] = {}  # stream -> position of the join
        self.sessions: dict[str, Session] = {}
        self.changes: list[tuple[int, str, bool, Left | None]] | None = []
        self.opened: dict[str, int] = {}
        self.switches: dict[tuple[str, int], str] = {}
        self.everywhere: dict[str, int] = {}
        self.holders = 0  # connections that are about to add a session
        self.places: dict[str, Place] = {}  # by key; "" is any that the server made for a connection
        self.marks: dict[str, int] = {}

    def place(self, key: str, after: int | None) -> Place | None:
        """The end of this device's streams, if nothing need be read for it, which has everything up to `after`, if that is known. ""
        is a key that the server has just made."""
        if self.changes is not None:
            return None
        if after is None:
            after = self.marks.get(device(key))
        if after is not None and after < self.left_from:
            return None
        if not key and self.places:
            return next(reversed(self.places.values()))  # in the stream of such a key is nothing
        return self.places.get(key)


class Hub:
    """The routing of one comet. Nothing here awaits, so every method is one step for everybody else.

    Of `remembered_max` people whose last session has gone the rooms and marks are still followed, so that they can come back without
    a query; the one who went first is forgotten first.
    """

    def __init__(
        self,
        position: int,
        live_room_types: Iterable[str],
        *,
        remembered_max: int = 0,
        watching: Watching | None = None,
    ) -> None:
        self.position = position
        self.watching = watching  # whose presence is watched here; it folds the same events
        self.flushed = position  # live sessions have been written everything up to here
        self.people: dict[int, Person] = {}
        self.remembered: dict[int, Person] = {}  # of `people`, those without sessions, in the order in which they went
        self._remembered_max = remembered_max
        self.audiences: dict[str, Audience] = {}
        self.fresh: dict[str, int] = {}  # last position of streams that grew lately
        self.fresh_from = position  # `fresh` knows everything after this position
        # Delivery marks that went by lately, because the rows that hold them are written a moment later. Bounded by MARKS_MAX.
        self.marks: dict[tuple[int, str], int] = {}
        # Sessions that were opened and closed lately, on whatever comet, for the same reason: mid -> key -> position of the opening,
        # negative if that one is closed. Bounded by SESSIONS_MAX.
        self.lately: dict[int, dict[str, int]] = {}
        self.sessions_known = 0
        # Which messages were recalled lately: (stream, seq) -> by whom, and the position of that; all after `recalls_from` are there.
        # Bounded by RECALLS_MAX.
        self.recalls: dict[tuple[str, int], tuple[int, int]] = {}
        self.recalls_from = position
        self.is_given_up = False  # a session of this comet was closed because the comet was declared dead
        self.deliveries = 0
        self.sessions = 0
        self._live_types = frozenset(live_room_types)
        self._runs: list[tuple[Audience, list[Recorded]]] = []
        self._last: Audience | None = None
        self._touched: list[Session] = []
        self._flushing = False

    # --- people and sessions ------------------------------------------------------------------------------------------------

    def hold(self, mid: int) -> Person:
        """The person, kept while a connection of theirs is opening. If `changes` is a list, call `know` once the memberships are
        read."""
        person = self.people.get(mid)
        if person is None:
            person = self.people[mid] = Person(mid, self.position)
        self.remembered.pop(mid, None)
        person.holders += 1
        return person

    def release(self, person: Person) -> None:
        """The connection that held the person was added, or never will be."""
        person.holders -= 1
        if not person.holders:
            person.opened.clear()
            person.switches.clear()
        self._forget(person)

    def know(self, person: Person, head: int, rooms: Mapping[str, int]) -> None:
        """The memberships of a person as of position `head`: stream -> position of the join. What the log said after that wins.

        The database may be ahead of the hub. A join that the hub has not come to yet is left to it: who is let in at once would get
        what was said before the join.
        """
        if person.changes is None:
            return
        person.rooms = {stream: since for stream, since in rooms.items() if since <= self.position}
        for position, stream, is_member, dismissed in person.changes:
            if position > head:
                if is_member:
                    person.rooms.setdefault(stream, position)
                elif person.rooms.pop(stream, None) is not None and dismissed is not None:
                    # Nobody else says that it was in the room.
                    person.left[stream] = dismissed
        person.changes = None

    def learn(
        self,
        person: Person,
        key: str,
        place: Place,
        marks: Mapping[str, int],
        left: Mapping[str, Left],
        left_from: int,
    ) -> None:
        """What was read for a connection of this key ("": one that the server has just made): the end of its streams, the delivery
        marks of the person's devices, and the rooms left after `left_from`."""
        person.left_from = min(person.left_from, left_from)
        for stream, one in left.items():
            known = person.left.get(stream)
            # What the hub has not come to it folds itself; but of a room that is dismissed by then only who reads knows who was in it.
            is_told_here = one.position <= self.position or one.type == DISMISSED
            if is_told_here and (known is None or known.position < one.position):
                person.left[stream] = one
        person.places.pop(key, None)
        person.places[key] = place
        if len(person.places) > PLACES_MAX:
            del person.places[next(iter(person.places))]
        for name in (*marks, device(key)):
            # The rows may be behind what went by.
            found = (marks.get(name), person.marks.get(name), self.marks.get((person.mid, name)))
            latest = max((mark for mark in found if mark is not None), default=None)
            if latest is not None:
                person.marks[name] = latest

    def add(self, session: Session, person: Person, start: int) -> bool:
        """Take in a session, behind at `start`. An older session of the same key is closed; False if there is a newer one, here or
        on another comet. If it was asked to switch rooms while it was opening, it is told so now."""
        assert person.changes is None, "memberships are read before a session is added"
        assert start <= self.position, "a session is behind the hub, never ahead of it"
        if session.opened < person.opened.get(session.key, 0):
            return False
        other = person.sessions.get(session.key)
        if other is not None:
            if other.opened > session.opened:
                return False
            other.end(TakenOver())
            self.remove(other)
        self._hand_out()
        session.person = person
        session.state = BEHIND
        session.position = start
        person.sessions[session.key] = session
        self.sessions += 1
        for stream in self._streams(session):
            self._attach(session, stream)
        room = person.switches.pop((session.key, session.opened), None)
        if room is not None:
            session.switched(room)
        return True

    def remove(self, session: Session) -> None:
        """Forget a session. Doing it again does nothing."""
        person = session.person
        if session.state == CLOSED or person is None:
            session.state = CLOSED
            return
        self._hand_out()
        session.out = None
        session.state = CLOSED
        self.sessions -= 1
        if person.sessions.get(session.key) is session:
            del person.sessions[session.key]
        for stream in self._streams(session):
            self._detach(session, stream)
        self._forget(person)

    def enter(self, session: Session, rooms: Iterable[str], since: int) -> None:
        """From position `since` on the session is in exactly these live rooms; rooms of other kinds are not meant here.

        To be called for a session that is not added yet, and as soon as the event is appended: the session is in the rooms at once, and
        gets what is said there when the hub comes to the event. If the hub has come to it, this changes nothing.
        """
        if session.person is None or since > self.position:
            self._enter(session, rooms, since, is_here=False)

    def _enter(self, session: Session, rooms: Iterable[str], since: int, *, is_here: bool) -> None:
        if session.state == CLOSED:
            return
        streams = {ROOM + room for room in rooms if room_type(room) in self._live_types}
        self._hand_out()
        for stream in [stream for stream in session.entered if stream not in streams]:
            if session.entered[stream] <= since:  # else it is entered again later, and somebody said so already
                del session.entered[stream]
            if session.person is not None:
                self._detach(session, stream)
        for stream in streams:
            session.entered.setdefault(stream, since)
            if is_here:
                self._attach(session, stream)

    def in_room(self, room: str) -> int:
        """How many sessions of this comet are in the room."""
        audience = self.audiences.get(ROOM + room)
        return 0 if audience is None else len(audience.sessions)

    # --- behind, and back -----------------------------------------------------------------------------------------------------

    def entitled(self, session: Session) -> dict[str, int]:
        """What a session that is behind may read: each stream, and the position after which."""
        assert session.person is not None
        after = session.position
        streams = {stream: max(after, since - 1) for stream, since in session.person.rooms.items()}
        for stream, since in session.entered.items():
            streams[stream] = max(after, since)
        streams[f"{USER}{session.mid}"] = after
        streams[KEY + session.key] = after
        streams[ALL] = max(after, session.floor)
        return streams

    def is_fresh(self, session: Session, streams: Mapping[str, int]) -> bool | None:
        """Has any of these streams grown beyond its position? None: not known here, ask the log."""
        if session.position < self.fresh_from:
            return None
        fresh = self.fresh
        return any(fresh.get(stream, 0) > after for stream, after in streams.items())

    def left_since(self, person: Person, position: int) -> list[tuple[str, Left]]:
        """The rooms that the person has left or was removed from after a position and is not in again, in that order. Of what the hub
        has not come to it speaks when it comes to it, but for rooms that were dismissed before the memberships were read."""
        return sorted(
            (
                (stream, left)
                for stream, left in person.left.items()
                if position < left.position and stream not in person.rooms
            ),
            key=lambda one: one[1],
        )

    def settle(self, session: Session) -> bool:
        """Turn live if there is nothing more to read and the socket takes more. Must follow the last page without an await between."""
        if session.state != BEHIND or session.full or session.position < self.position:
            return False
        self._hand_out()
        session.state = LIVE
        return True

    def fall_behind(self, session: Session) -> None:
        """The session's socket is full: what was not written to it yet it reads from the log later."""
        if session.state == LIVE:
            session.state = BEHIND
            # It may have turned live beyond the last flush.
            session.position = max(session.position, self.flushed)
            if not self._flushing:  # within a flush its turn comes still
                session.out = None

    # --- events ---------------------------------------------------------------------------------------------------------------

    def apply(self, batch: list[Recorded]) -> None:
        """Take the next events. Nothing is written before `flush`."""
        assert batch[0].position == self.position + 1, "the hub moves from p to p + 1 only"
        audiences, fresh = self.audiences, self.fresh
        for event in batch:
            stream = event.stream
            if event.op == 0:
                self._fold(event)
                if stream.startswith(SESSION):
                    continue  # nobody is given those
            fresh[stream] = event.position
            audience = audiences.get(stream)
            if audience is None:
                if event.type == DISMISSED:
                    self._dismiss(event)
                continue
            if audience is self._last:
                self._runs[-1][1].append(event)
            else:
                self._runs.append((audience, [event]))
                self._last = audience
            if event.type == DISMISSED:
                self._dismiss(event)
        self.position = batch[-1].position
        if len(fresh) > FRESH_STREAMS_MAX:
            self.fresh = {}
            self.fresh_from = self.position

    @property
    def waiting(self) -> bool:
        """Is there anything to flush?"""
        return bool(self._runs or self._touched)

    def flush(self) -> int:
        """Write what waits to everybody it is for; how many sessions were written to."""
        self._hand_out()
        self.flushed = self.position
        touched, self._touched = self._touched, []
        self._flushing = True
        for session in touched:
            out = session.out
            if out is not None:
                session.out = None
                session.write(out[0] if len(out) == 1 else b"".join(out))
        self._flushing = False
        return len(touched)

    def _hand_out(self) -> None:
        """Give the waiting runs to the live sessions of their audiences, as these are now."""
        if not self._runs:
            return
        runs, self._runs, self._last = self._runs, [], None
        touched = self._touched
        for audience, events in runs:
            if audience.pair is not None and self.watching is not None and self.watching.people:
                self.watching.wrote(audience.pair, {event.mid for event in events if event.op})
            if not audience.sessions:
                continue
            run: Run | None = None
            last = events[-1].position
            durable = audience.durable
            if len(audience.sessions) == 1:
                # Nobody here but the sender: the commonest case of all for small rooms, and it costs no encoding.
                (only,) = audience.sessions
                if all(_is_own(event, only) for event in events):
                    continue
            for session in audience.sessions:
                if session.state != LIVE:
                    continue
                if run is None:
                    run = Run(events)
                if session.key in run.keys:
                    accepts = session.accepts
                    data = run.some(
                        session.codec,
                        [
                            not _is_own(event, session) and (accepts is None or event.op == 0 or event.op in accepts)
                            for event in events
                        ],
                    )
                elif session.accepts is None:
                    data = run.all(session.codec)
                else:
                    data = run.accepted(session.codec, session.accepts)
                if not data:
                    continue
                self.deliveries += len(events)
                if durable:
                    session.received = last
                if session.out is None:
                    session.out = [data]
                    touched.append(session)
                else:
                    session.out.append(data)

    def _fold(self, event: Recorded) -> None:
        """Change the routing as the event says."""
        type_ = event.type
        if type_ in ROUTING_TYPES:
            try:
                fact = event.fact
            except (UnknownType, ValueError):
                log.exception("an event cannot be read; it changes nothing here", extra={"position": event.position})
                return
            match fact:
                case MemberJoined(mid=mid):
                    self._join(mid, event)
                case MemberLeft(mid=mid) | MemberRemoved(mid=mid):
                    self._leave(mid, event)
                case DeliveryAcked(key=key, position=position):
                    self.mark(event.mid, key, position)
                case SessionClosed(key=key, opened=opened, reason=reason, delivered=delivered):
                    if delivered is not None:
                        self.mark(event.mid, key, delivered)
                    self._close(int(event.stream[len(SESSION) :]), key, opened, reason)
                case MessageRecalled(target=target):
                    self.recalls.setdefault((event.stream, target), (event.mid, event.position))
                    if len(self.recalls) > RECALLS_MAX:
                        _, self.recalls_from = self.recalls.pop(next(iter(self.recalls)))
                case LoggedOut(mid=mid, sids=sids, everywhere=everywhere):
                    self._revoke(mid, event.position, None if everywhere else sids)
                case AccountSuspended(mid=mid) | AccountDeactivated(mid=mid):
                    self._revoke(mid, event.position, None)
                case PlatformRoleChanged(mid=mid, role=role):
                    self._revoke(mid, event.position, None, f"the role is {role} now; refresh the token")
                case SessionOpened(key=key):
                    self._keep(event.mid, key, event.position)
                    self._take_over(event.mid, key, event.position)
                case RoomsEntered(key=key, opened=opened, rooms=rooms):
                    person = self.people.get(event.mid)
                    session = None if person is None else person.sessions.get(key)
                    # An older connection of the key entered other rooms; that says nothing of this one.
                    if session is not None and session.opened == opened:
                        self._enter(session, rooms, event.position, is_here=True)
                case RoomSwitched(key=key, opened=opened, room=room):
                    person = self.people.get(int(event.stream[len(SESSION) :]))
                    session = None if person is None else person.sessions.get(key)
                    if session is not None and session.opened == opened:
                        session.switched(room)
                    elif person is not None and person.holders:  # the log knows a session before it is here
                        person.switches[key, opened] = room
                        if len(person.switches) > SWITCHES_MAX:
                            del person.switches[next(iter(person.switches))]
            if self.watching is not None and self.watching.people:
                self.watching.fold(fact, event)

    def mark(self, mid: int, key: str, position: int) -> None:
        """This device has everything up to `position`: the log says so, or whoever is about to tell the log."""
        marks, mark = self.marks, (mid, device(key))
        marks[mark] = max(position, marks.pop(mark, 0))
        if len(marks) > MARKS_MAX:
            del marks[next(iter(marks))]
        person = self.people.get(mid)
        if person is not None:
            person.marks[mark[1]] = max(position, person.marks.get(mark[1], 0))

    def hide(self, events: list[Recorded]) -> list[Recorded]:
        """The events as they may be shown to who was away: what was recalled meanwhile, as far as is known here, without its words.

        What was said after `recalls_from` is safe to show then."""
        recalls = self.recalls
        if not recalls:
            return events
        shown = list(events)
        for n, event in enumerate(events):
            if event.op or event.type == MessageEdited.type:
                by = recalls.get((event.stream, messages.target(event)))
                if by is not None and event.format != messages.RECALLED:
                    shown[n] = messages.hidden(event, *by)
        return shown

    def count(self, person: Person, stored: Mapping[str, int]) -> None:
        """The open sessions of a person on all comets, as they were stored; what went by since is known here."""
        person.everywhere = dict(stored)
        for key, opened in self.lately.get(person.mid, {}).items():
            _follow(person.everywhere, key, opened)

    def _keep(self, mid: int, key: str, opened: int) -> None:
        person = self.people.get(mid)
        if person is not None:
            _follow(person.everywhere, key, opened)
        of = self.lately.pop(mid, None)
        if of is None:
            of = {}
        self.sessions_known += key not in of
        of[key] = opened
        self.lately[mid] = of
        while self.sessions_known > SESSIONS_MAX:
            self.sessions_known -= len(self.lately.pop(next(iter(self.lately))))

    def _close(self, mid: int, key: str, opened: int, reason: str) -> None:
        """A session is closed. If it is open here, somebody else has closed it: it had to make room, or its comet was given up."""
        if abs(self.lately.get(mid, {}).get(key, 0)) <= opened:  # else a newer one was opened since
            self._keep(mid, key, -opened)
        person = self.people.get(mid)
        session = None if person is None else person.sessions.get(key)
        if session is not None and session.opened == opened:
            session.end(Displaced() if reason == Displaced.code else GoingAway())
            self.remove(session)
            self.is_given_up |= reason == NODE_LOST

    def _revoke(self, mid: int, position: int, sids: tuple[str, ...] | None, why: str = "the login is over") -> None:
        """End the sessions of these logins; None: all whose tokens are from before this. What was said before it they still get."""
        person = self.people.get(mid)
        if person is None or not person.sessions:
            return
        self._hand_out()
        for session in list(person.sessions.values()):
            if session.as_of < position if sids is None else session.sid in sids:
                self._write_out(session, position - 1)
                session.revoked(Unauthenticated(why))
                self.remove(session)

    def _join(self, mid: int, event: Recorded) -> None:
        person = self.people.get(mid)
        if person is None:
            return
        person.left.pop(event.stream, None)
        if person.changes is not None:
            person.changes.append((event.position, event.stream, True, None))
        elif event.stream not in person.rooms:
            self._hand_out()
            person.rooms[event.stream] = event.position
            for session in person.sessions.values():
                self._attach(session, event.stream)

    def _leave(self, mid: int, event: Recorded) -> None:
        person = self.people.get(mid)
        if person is None:
            return
        person.left[event.stream] = Left(event.position, event.mid, event.type)
        if person.changes is not None:
            person.changes.append((event.position, event.stream, False, None))
        elif event.stream in person.rooms or person.sessions:
            # The memberships may have been read when this had happened already; then nobody was told.
            self._hand_out()
            person.rooms.pop(event.stream, None)
            for session in person.sessions.values():
                self._detach(session, event.stream)
                self._write_out(session, event.position - 1)
                session.removed(event)

    def _dismiss(self, event: Recorded) -> None:
        """The room is no more. Everybody in it has the event, and now there is nobody in it.

        It looks at all people here, those who are remembered too: rare enough, and nobody else says who was in the room.
        """
        stream = event.stream
        self._hand_out()
        for person in list(self.people.values()):
            if person.changes is not None:
                # Its memberships are being read, and it may be that this was not seen.
                left = Left(event.position, event.mid, event.type)
                person.changes.append((event.position, stream, False, left))
            elif person.rooms.pop(stream, None) is not None:
                if self.watching is not None:
                    self.watching.dismissed(person.mid)
                person.left[stream] = Left(event.position, event.mid, event.type)
                for session in person.sessions.values():
                    self._detach(session, stream)
                    self._write_out(session, event.position)
                    session.removed(event)

    def _take_over(self, mid: int, key: str, opened: int) -> None:
        person = self.people.get(mid)
        if person is None:
            return
        if person.holders:
            person.opened[key] = opened
            if len(person.opened) > OPENED_MAX:
                del person.opened[next(iter(person.opened))]
        session = person.sessions.get(key)
        if session is not None and session.opened < opened:
            session.end(TakenOver())
            self.remove(session)

    def _write_out(self, session: Session, upto: int) -> None:
        """Write what was handed out to a session before its turn, so that what is said to it now comes after. That is everything up
        to `upto`."""
        if session.state == LIVE:
            session.position = upto
            out, session.out = session.out, None
            if out is not None:
                session.write(b"".join(out))

    def _streams(self, session: Session) -> list[str]:
        assert session.person is not None
        own = [f"{USER}{session.mid}", KEY + session.key, ALL]
        return [*own, *session.person.rooms, *session.entered]

    def _attach(self, session: Session, stream: str) -> None:
        audience = self.audiences.get(stream)
        if audience is None:
            durable = not stream.startswith(ROOM) or room_type(stream[len(ROOM) :]) not in self._live_types
            pair = direct_pair(stream[len(ROOM) :]) if stream.startswith(ROOM) else None
            audience = self.audiences[stream] = Audience(durable, pair)
        audience.sessions[session] = None

    def _detach(self, session: Session, stream: str) -> None:
        audience = self.audiences.get(stream)
        if audience is not None:
            audience.sessions.pop(session, None)
            if not audience.sessions:
                del self.audiences[stream]

    def _forget(self, person: Person) -> None:
        """Keep of who is gone what will be asked for when they come back, if it is known and not too much."""
        mid = person.mid
        if person.sessions or person.holders or self.people.get(mid) is not person:
            return
        devices = max(len(person.marks), len(person.everywhere))
        is_small = len(person.rooms) <= REMEMBERED_ROOMS_MAX and devices <= REMEMBERED_DEVICES_MAX
        if (
            self._remembered_max and mid > 0 and person.changes is None and is_small
        ):  # a guest is somebody else next time
            person.sessions, person.opened, person.switches = {}, {}, {}  # an emptied dict keeps its size
            if len(person.left) > LEFT_MAX:
                person.left, person.left_from = {}, self.position
            self.remembered[mid] = person
            if len(self.remembered) <= self._remembered_max:
                return
            mid = next(iter(self.remembered))
            del self.remembered[mid]
        del self.people[mid]


def _follow(open_: dict[str, int], key: str, opened: int) -> None:
    """A session was opened here, or, negative, the one that was opened there is closed. What is known may be ahead of that."""
    if opened > 0:
        open_[key] = max(opened, open_.get(key, 0))
    elif open_.get(key, 0) <= -opened:
        open_.pop(key, None)


def _is_own(event: Recorded, session: Session) -> bool:
    """Was this message sent over this very connection? What an earlier connection of the same key sent is not its own."""
    return (
        event.key == session.key
        and event.mid == session.mid
        and event.position > session.opened
        and event.type == MESSAGE_SENT
    )


def filtered(events: Iterable[Recorded], streams: Mapping[str, int], session: Session) -> list[Recorded]:
    """Those of the events that a session which is behind may have, in order."""
    accepts = session.accepts
    return [
        event
        for event in events
        if event.position > streams.get(event.stream, event.position)
        and not _is_own(event, session)
        and (accepts is None or event.op == 0 or event.op in accepts)
    ]
