"""Whatever the bus, the sockets, the comets and the database do: everybody gets what they may have, once, in order.

Each seed is one history in a world of its own (see world.py). A failure names its seed and tells the steps that led to it. By default
the first seeds are run; `SIMULATION_SEEDS=4711` runs one, `SIMULATION_SEEDS=0:100000` a range.

That the world finds bugs is tested with bugs: each plant puts one into the real code, and some seed must find it. Those marked with
"once" were in the code when the simulation was written.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from comet.world import Rules, World
from imcore.bus.tail import Tail
from imcore.comet import catchup, hub
from imcore.comet.catchup import CatchUp, Read, Recent
from imcore.comet.hub import BEHIND, LIVE, Audience, Hub, Left, Person, Place, Session
from imcore.events.types import MESSAGE_SENT, Page, Recorded, RoomsEntered

SEEDS = 1_000
SEEDS_A_PLANT_MAX = 1_500


def seeds() -> range:
    """Those that were asked for."""
    first, _, last = os.environ.get("SIMULATION_SEEDS", f"0:{SEEDS}").partition(":")
    return range(int(first), int(last) if last else int(first) + 1)


def test_whatever_happens_everybody_gets_theirs_once_and_in_order() -> None:
    counts: Counter[str] = Counter()

    for seed in seeds():
        world = World(seed)
        world.run()
        counts += world.counts

    if len(seeds()) >= SEEDS:
        # A world in which nothing went wrong proves nothing.
        assert {name for name in HARDSHIPS if counts[name] < SEEDS // 10} == set()


HARDSHIPS = (
    "gaps read",
    "pages read",
    "pages from memory",
    "pages during which the hub moved",
    "reads that broke",
    "sockets full",
    "restarts",
    "taken over",
    "refused as older",
    "removed while live",
    "removed while behind",
    "heads ahead of the hub",
    "heads behind the hub",
    "remembered",
    "left while away",
)


HISTORIES = """
from comet.world import World
for seed in (3, 17, 22, 69):
    world = World(seed)
    world.run()
    for who, what, position in world.trace:
        print(seed, repr(who), what, position)
"""


def test_a_seed_is_one_history() -> None:
    """A failure that cannot be run again is no use. In each process sets of texts have another order."""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join((str(tests), str(tests.parent)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HISTORIES],
            env={**os.environ, "PYTHONHASHSEED": order, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
        )
        for order in ("0", "2")
    ]
    one, other = (process.communicate()[0] for process in processes)

    assert one.count(b"\n") > 100
    assert one == other


# --- planted bugs ------------------------------------------------------------------------------------------------------------


class Plant(NamedTuple):
    """A bug: other parts, or other functions in the modules of the real ones."""

    name: str
    rules: Rules
    functions: Mapping[str, Callable[..., object]] = {}


class JumpsOverGaps(Tail):
    """Takes a batch that came early as if nothing were missing."""

    def offer(self, batch: list[Recorded]) -> None:
        if batch[0].position > self.position + 1:
            self.position = batch[0].position - 1
            self._recent.clear()
        super().offer(batch)


class FollowsJumps(Hub):
    def apply(self, batch: list[Recorded]) -> None:
        self.position = batch[0].position - 1
        super().apply(batch)


class RemembersOneLess(Tail):
    """Gives from memory what comes after the next event."""

    def recent(self, after: int, limit: int | None = None) -> list[Recorded] | None:
        found = super().recent(after, limit)
        return found[1:] if found is not None and len(found) > 1 else found


class RemembersOneTooMany(Tail):
    """Says that memory reaches one event further back than it does."""

    def recent(self, after: int, limit: int | None = None) -> list[Recorded] | None:
        return super().recent(max(after, self.oldest) if after == self.oldest - 1 else after, limit)


class SettlesEarly(Hub):
    def settle(self, session: Session) -> bool:
        if session.state == BEHIND and session.position == self.position - 1:
            session.position = self.position
        return super().settle(session)


class SettlesWhenFull(Hub):
    def settle(self, session: Session) -> bool:
        full, session.full = session.full, False
        try:
            return super().settle(session)
        finally:
            session.full = full


class KeepsTheRemoved(Hub):
    """Those who left go on hearing the room while they are live."""

    def _leave(self, mid: int, event: Recorded) -> None:
        super()._leave(mid, event)
        for session in self.people[mid].sessions.values() if mid in self.people else ():
            self._attach(session, event.stream)


class AsksOnce(Hub):
    """What a page may hold is not asked again when it is there."""

    def entitled(self, session: Session) -> dict[str, int]:
        asked = self.__dict__.setdefault("asked", {})
        position, streams = asked.get(session, (None, {}))
        if position != session.position:
            streams = super().entitled(session)
            asked[session] = session.position, streams
        return dict(streams)


class ForgetsChanges(Hub):
    """What the log said while the memberships were read is lost."""

    def know(self, person: Person, head: int, rooms: Mapping[str, int]) -> None:
        if person.changes is not None:
            person.changes.clear()
        super().know(person, head, rooms)


class BelievesTheFuture(Hub):
    """Takes a member in at once, though the hub has not come to the join."""

    def know(self, person: Person, head: int, rooms: Mapping[str, int]) -> None:
        position, self.position = self.position, max(self.position, head)
        super().know(person, head, rooms)
        self.position = position


class RemembersAsItWas(Hub):
    """The rooms of somebody without sessions are not followed."""

    def _join(self, mid: int, event: Recorded) -> None:
        if mid not in self.remembered:
            super()._join(mid, event)

    def _leave(self, mid: int, event: Recorded) -> None:
        if mid not in self.remembered:
            super()._leave(mid, event)


class ForgetsDepartures(Hub):
    """What was left while the person was remembered is forgotten."""

    def _leave(self, mid: int, event: Recorded) -> None:
        super()._leave(mid, event)
        if mid in self.remembered:
            del self.people[mid].left[event.stream]


class TellsOfOldDepartures(Hub):
    """Who has come back to a room is told that it left."""

    def left_since(self, person: Person, position: int) -> list[tuple[str, Left]]:
        rooms, person.rooms = person.rooms, {}
        found = super().left_since(person, position)
        person.rooms = rooms
        return found


class TellsMembersOnly(Hub):
    """Nobody is told of a leaving that had happened when the memberships were read, though the hub had not come to it."""

    def _leave(self, mid: int, event: Recorded) -> None:
        person = self.people.get(mid)
        if person is None or person.changes is not None or event.stream in person.rooms:
            super()._leave(mid, event)


class RemembersOldMarks(Hub):
    """The marks of somebody without sessions are not followed."""

    def mark(self, mid: int, key: str, position: int) -> None:
        person = self.people.pop(mid, None) if mid in self.remembered else None
        super().mark(mid, key, position)
        if person is not None:
            self.people[mid] = person


class RemembersTheEnd(Hub):
    """Takes the end of the streams as it was looked up for what it is now."""

    def hold(self, mid: int) -> Person:
        person = super().hold(mid)
        for key, place in person.places.items():
            person.places[key] = Place(self.position, place.newest)
        return person


class HandsOutLate(Hub):
    """The waiting runs go to those who are in the audience after the change."""

    late = False

    def _hand_out(self) -> None:
        if not self.late:
            super()._hand_out()

    def _join(self, mid: int, event: Recorded) -> None:
        self.late = True
        super()._join(mid, event)
        self.late = False

    def _leave(self, mid: int, event: Recorded) -> None:
        self.late = True
        super()._leave(mid, event)
        self.late = False


class TellsRemovalFirst(Hub):
    """What was handed out is written after the removal was told."""

    def _write_out(self, session: Session, upto: int) -> None:
        return


class LivesTwice(Hub):
    """A session goes on when a newer one of its key was opened elsewhere."""

    def _take_over(self, mid: int, key: str, opened: int) -> None:
        return


class LetsTheOlderIn(Hub):
    """A session that took long to open gets in after a newer one opened elsewhere."""

    def add(self, session: Session, person: Person, start: int) -> bool:
        person.opened.clear()
        return super().add(session, person, start)


class WritesByRoom(Hub):
    """Runs of one room are put together, whatever came between."""

    def _hand_out(self) -> None:
        together: dict[Audience, list[Recorded]] = {}
        for audience, events in self._runs:
            together.setdefault(audience, []).extend(events)
        self._runs = list(together.items())
        super()._hand_out()


class FallsBackToTheFlush(Hub):
    """Forgets that a session may have turned live after the last flush."""

    def fall_behind(self, session: Session) -> None:
        was_live = session.state == LIVE
        super().fall_behind(session)
        if was_live:
            session.position = self.flushed


class FallsBehindWithItsBytes(Hub):
    """What was handed out is written, and then read again."""

    def fall_behind(self, session: Session) -> None:
        flushing, self._flushing = self._flushing, True
        super().fall_behind(session)
        self._flushing = flushing


class HearsOlderConnections(Hub):
    """Live rooms that an older connection of the key entered are taken for this one's."""

    def _fold(self, event: Recorded) -> None:
        person = self.people.get(event.mid)
        session = None if person is None else person.sessions.get(event.key)
        if session is not None and event.type == RoomsEntered.type:
            fact = event.fact
            assert isinstance(fact, RoomsEntered)
            self._enter(session, fact.rooms, event.position, is_here=True)
        else:
            super()._fold(event)


class EntersAhead(Hub):
    """Whoever enters a live room hears it at once, though the hub has not come to that place."""

    def enter(self, session: Session, rooms: Iterable[str], since: int) -> None:
        self._enter(session, rooms, since, is_here=session.person is not None)


class BelievesNothingIsNew(Hub):
    """Takes what it does not know for what did not happen."""

    def is_fresh(self, session: Session, streams: Mapping[str, int]) -> bool | None:
        return super().is_fresh(session, streams) or False


class TakesFullPagesForTheLast(CatchUp):
    def __init__(
        self,
        hub: Hub,
        recent: Recent,
        read: Read,
        pause: Callable[..., object],
        *,
        page_events_max: int,
        scan_events_max: int,
    ) -> None:
        super().__init__(hub, recent, read, pause, page_events_max=page_events_max)  # type: ignore[arg-type]

        async def read_the_last(streams: Mapping[str, int], upto: int, limit: int) -> Page:
            return (await read(streams, upto, limit))._replace(upto=upto)

        self._read = read_the_last


def admits_without_looking_into_live_rooms(
    hub: Hub, session: Session, person: Person, rooms: Iterable[str], *, start: int, since: int, place: Place
) -> bool:
    hub.enter(session, rooms, since)
    if place.newest <= start:
        start = max(start, place.head)
    return hub.add(session, person, min(start, hub.position))


def admits_at_once(
    hub: Hub, session: Session, person: Person, rooms: Iterable[str], *, start: int, since: int, place: Place
) -> bool:
    hub.enter(session, rooms, since)
    return hub.add(session, person, min(start, hub.position))


def with_their_own(events: Iterable[Recorded], streams: Mapping[str, int], session: Session) -> list[Recorded]:
    opened, session.opened = session.opened, 1 << 60
    found = hub.filtered(events, streams, session)
    session.opened = opened
    return found


def is_of_the_key(event: Recorded, session: Session) -> bool:
    return event.key == session.key and event.mid == session.mid and event.type == MESSAGE_SENT


PLANTS = (
    Plant("a gap is jumped over instead of read", Rules(tail=JumpsOverGaps, hub=FollowsJumps)),
    Plant("memory leaves out the first event", Rules(tail=RemembersOneLess)),
    Plant("memory says it reaches further back than it does", Rules(tail=RemembersOneTooMany)),
    Plant("a session turns live one event too early", Rules(hub=SettlesEarly)),
    Plant("who left a room goes on hearing it", Rules(hub=KeepsTheRemoved)),
    Plant("a page holds what was read before a removal", Rules(hub=AsksOnce)),
    Plant("changes during the reading of memberships are forgotten", Rules(hub=ForgetsChanges)),
    Plant("rooms of the remembered are not followed", Rules(hub=RemembersAsItWas)),
    Plant("departures of the remembered are not followed", Rules(hub=ForgetsDepartures)),
    Plant("who is back is told of having left", Rules(hub=TellsOfOldDepartures)),
    Plant("once: a leaving that the memberships knew of is not told", Rules(hub=TellsMembersOnly)),
    Plant("marks of the remembered are not followed", Rules(hub=RemembersOldMarks)),
    Plant("the end of the streams is remembered as if nothing came", Rules(hub=RemembersTheEnd)),
    Plant("runs are handed out after the change", Rules(hub=HandsOutLate)),
    Plant("catching up brings back one's own messages", Rules(), {"catchup.filtered": with_their_own}),
    Plant("what an earlier connection sent counts as one's own", Rules(), {"hub._is_own": is_of_the_key}),
    Plant("the cursor is one too large", Rules(cursor_shift=1)),
    Plant("the cursor is one too small", Rules(cursor_shift=-1)),
    Plant("a session is live twice", Rules(hub=LivesTwice)),
    Plant("bytes leave by room, not by position", Rules(hub=WritesByRoom)),
    Plant("who falls behind keeps the bytes too", Rules(hub=FallsBehindWithItsBytes)),
    Plant("a full page is taken for the last", Rules(catch_up=TakesFullPagesForTheLast)),
    Plant("what is not known counts as not new", Rules(hub=BelievesNothingIsNew)),
    Plant("once: who falls behind goes back to the last flush", Rules(hub=FallsBackToTheFlush)),
    Plant("once: a session whose socket is full turns live", Rules(hub=SettlesWhenFull)),
    Plant("once: the removal is told before the messages before it", Rules(hub=TellsRemovalFirst)),
    Plant("once: an older session gets in late", Rules(hub=LetsTheOlderIn)),
    Plant("once: members are let in before the hub comes to their join", Rules(hub=BelievesTheFuture)),
    Plant("once: rooms of an older connection are taken over", Rules(hub=HearsOlderConnections)),
    Plant("once: live rooms are heard before the hub comes to the entry", Rules(hub=EntersAhead)),
    Plant("once: news of live rooms are skipped", Rules(admit=admits_without_looking_into_live_rooms)),
    Plant("once: sessions begin before their place in the log", Rules(admit=admits_at_once, waits=False)),
)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in plant.functions.items():
        module, _, attribute = name.partition(".")
        monkeypatch.setattr({"hub": hub, "catchup": catchup}[module], attribute, function)

    assert first_found(plant.rules) is not None, f"not found by {SEEDS_A_PLANT_MAX} seeds: {plant.name}"


def first_found(rules: Rules) -> int | None:
    """The first seed that breaks a promise, or an assertion of the code itself."""
    for seed in range(SEEDS_A_PLANT_MAX):
        try:
            World(seed, rules).run()
        except AssertionError:
            return seed
    return None
