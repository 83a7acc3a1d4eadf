"""Who watches whose presence here, and what each of them is to be told. No I/O: the clock is an argument.

Every comet reads every session event in the log anyway, to route by it. So that somebody comes or goes costs, on each comet, one look
into a dict, and if the person is watched here, a step for each of its watchers: O(watchers), no query and no message between
processes. Nobody is told who did not ask for that person.

    a session opens or ends ▸ the person's devices ▸ (grace) ▸ told ▸ each watch that sees it: what was shown? ▸ one frame a tick

A person's platforms, sorted, are its state; none is offline. What is gained is told with the next tick. What is lost is told after a
grace, unless it is back by then: who changes trains is never away. An end that was found out late (its comet was lost) has had its
grace already. What a watcher was shown is kept for each watch, so that the truth is always one comparison away: a watcher whose socket
holds something unsent is passed over, without being shown anything, and compared with again when it has room; what changed to and fro
meanwhile costs nothing.

Whether a watch sees the person is asked of the database when it begins. It is asked again when either of the two joins or leaves a
room, or the person blocks the other, chooses who may see it or writes to the other (the first time), and at the latest every
`recheck_s` (a room that grew too large tells nobody). Where the answer may take something away, nothing is told until it is there,
and who chose nobody is gone with the next tick, without asking. A watch that sees nothing shows what it would of somebody who is
offline, and stays, for the day on which it may.

The trap: an answer is of the time at which it was asked for. Each doubt is counted, and an answer to an older one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from imcore.errors import BadRequest, Overloaded
from imcore.events.types import (
    NODE_LOST,
    SESSION,
    Fact,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    PersonBlocked,
    PersonUnblocked,
    Recorded,
    SessionClosed,
    SessionOpened,
    VisibilityChosen,
)

Platforms = tuple[str, ...]
OFFLINE: Final[Platforms] = ()


class Change(NamedTuple):
    """What a watcher is told of a person: on which platforms it is online, none of them if it is offline."""

    mid: int
    platforms: Platforms


class Device(NamedTuple):
    """An open session: the position of its opening, and its platform."""

    opened: int
    platform: str


class Watched:
    """A person whom somebody here watches.

    While its sessions are being read, what the log says of them meanwhile is kept in `changes`: the position of an opening, or,
    negative, of the opening that was ended. `told` is the state that watchers are told; `devices` may be ahead of it.
    """

    __slots__ = ("changes", "devices", "mid", "told", "watches")

    def __init__(self, mid: int) -> None:
        self.mid = mid
        self.devices: dict[str, Device] = {}
        self.changes: dict[str, Device] | None = {}
        self.told: Platforms = OFFLINE
        self.watches: dict[Watcher, Watch] = {}

    @property
    def platforms(self) -> Platforms:
        """On which it is now."""
        return tuple(sorted({device.platform for device in self.devices.values()}))


class Watcher:
    """A session that watches people."""

    __slots__ = ("asked_at", "mid", "sees_all", "session", "watches")

    def __init__(self, session: Hashable, mid: int, sees_all: bool, asked_at: float) -> None:
        self.session = session
        self.mid = mid
        self.sees_all = sees_all
        self.asked_at = asked_at
        self.watches: dict[int, Watch] = {}


class Watch:
    """One person, watched by one session. `sees` is the last answer, `is_sure` that nothing may have taken it away since; `doubts`
    counts what may have. `shown` is what the session was told last. `was_written_to`: the person wrote to the watcher, and that was
    asked about; once is enough."""

    __slots__ = ("doubts", "is_sure", "person", "sees", "shown", "was_written_to", "watcher")

    def __init__(self, watcher: Watcher, person: Watched) -> None:
        self.watcher = watcher
        self.person = person
        self.is_sure = self.sees = self.is_open
        self.doubts = 0
        self.was_written_to = False
        self.shown: Platforms = OFFLINE

    @property
    def is_open(self) -> bool:
        """Need nobody be asked? One sees oneself, and some see everybody."""
        return self.watcher.sees_all or self.watcher.mid == self.person.mid

    @property
    def is_over(self) -> bool:
        """Does nobody watch by it any more?"""
        return self.person.watches.get(self.watcher) is not self

    @property
    def wanted(self) -> Platforms:
        """What its session is to know."""
        return self.person.told if self.sees else OFFLINE


class Question(NamedTuple):
    """May this watch see its person? `doubts` is how many there were when it was asked."""

    watch: Watch
    doubts: int

    @property
    def pair(self) -> tuple[int, int]:
        """Who would see whom."""
        return self.watch.watcher.mid, self.watch.person.mid


class Watching:
    """All watches of one comet. Nothing here awaits.

    Bounded: `watched_max` people a session (refused: BadRequest) and `watches_max` in all (refused: Overloaded).
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        grace_s: float,
        recheck_s: float,
        watched_max: int,
        watches_max: int,
    ) -> None:
        self._clock = clock
        self._grace_s = grace_s
        self._recheck_s = recheck_s
        self._watched_max = watched_max
        self._watches_max = watches_max
        self.people: dict[int, Watched] = {}
        self.watchers: dict[Hashable, Watcher] = {}  # in the order in which they were last asked for
        self.watches = 0
        self.told = 0
        self.passed_over = 0
        self._of: dict[int, dict[Watcher, None]] = {}  # the watchers of each member id
        self._soon: dict[int, None] = {}  # people to be told of with the next tick
        self._later: dict[int, float] = {}  # people who lost something, and when that is told; in order of time
        self._turned: dict[Watch, None] = {}  # those that began or ceased to see
        self._missed: dict[Watcher, None] = {}  # those that had no room
        self._asking: dict[Watch, None] = {}  # those to be asked for

    # --- watches --------------------------------------------------------------------------------------------------------------

    def begin(self, session: Hashable, mid: int, people: Collection[int], *, sees_all: bool = False) -> list[int]:
        """Watch these people too; those that were not watched by this session before. Their events are followed from here on.

        Nothing is told of them before `loaded`, and before `answered`, or `shown`. Raises BadRequest and Overloaded, and then nothing
        is changed.
        """
        watcher = self.watchers.get(session)
        inside = {} if watcher is None else watcher.watches
        fresh = [one for one in dict.fromkeys(people) if one not in inside]
        if len(inside) + len(fresh) > self._watched_max:
            raise BadRequest(f"more than {self._watched_max} people watched by this connection")
        if self.watches + len(fresh) > self._watches_max:
            raise Overloaded
        if watcher is None:
            if not fresh:
                return []
            watcher = self.watchers[session] = Watcher(session, mid, sees_all, self._clock())
            self._of.setdefault(mid, {})[watcher] = None
        for one in fresh:
            person = self.people.get(one)
            if person is None:
                person = self.people[one] = Watched(one)
            watcher.watches[one] = person.watches[watcher] = Watch(watcher, person)
            self.watches += 1
        return fresh

    def unloaded(self, people: Iterable[int]) -> list[int]:
        """Those of these people who are watched, and whose sessions have not been read."""
        return [mid for mid in people if mid in self.people and self.people[mid].changes is not None]

    def loaded(self, mid: int, devices: Mapping[str, Device]) -> None:
        """The open sessions of a watched person, by key, as they were read after `begin`: the rows held at least what the hub had
        come to then. What the log said since wins."""
        person = self.people.get(mid)
        if person is None or person.changes is None:
            return
        changes, person.changes = person.changes, None
        for key, device in devices.items():
            if device.opened > abs(changes[key].opened if key in changes else 0):
                person.devices[key] = device
        for key, device in changes.items():
            if device.opened > 0 and key not in person.devices:
                person.devices[key] = device
        person.told = person.platforms

    def questions_of(self, session: Hashable, people: Iterable[int]) -> list[Question]:
        """What must be asked before this session is shown these people."""
        watcher = self.watchers.get(session)
        if watcher is None:
            return []
        found = (watcher.watches.get(mid) for mid in people)
        return [Question(watch, watch.doubts) for watch in found if watch is not None and not watch.is_open]

    def shown(self, session: Hashable, people: Iterable[int]) -> list[Change]:
        """The state of these people as this session may see it, which it is told now, in the answer to its request."""
        watcher = self.watchers.get(session)
        changes: list[Change] = []
        for mid in people:
            watch = None if watcher is None else watcher.watches.get(mid)
            if watch is not None and watch.is_sure:
                watch.shown = watch.wanted
            changes.append(Change(mid, OFFLINE if watch is None else watch.shown))
        return changes

    def end(self, session: Hashable, people: Iterable[int] | None = None) -> None:
        """Watch these people no more; all of them, if none are named. Doing it again does nothing."""
        watcher = self.watchers.get(session)
        if watcher is None:
            return
        for mid in list(watcher.watches if people is None else people):
            watch = watcher.watches.pop(mid, None)
            if watch is None:
                continue
            self.watches -= 1
            self._turned.pop(watch, None)
            self._asking.pop(watch, None)
            del watch.person.watches[watcher]
            if not watch.person.watches:
                del self.people[mid]
                self._soon.pop(mid, None)
                self._later.pop(mid, None)
        if not watcher.watches:
            del self.watchers[session]
            self._missed.pop(watcher, None)
            others = self._of[watcher.mid]
            del others[watcher]
            if not others:
                del self._of[watcher.mid]

    # --- what the log says ----------------------------------------------------------------------------------------------------

    def fold(self, fact: Fact, event: Recorded) -> None:
        """Take one event of those that the hub routes by. To be called while anybody is watched."""
        match fact:
            case SessionOpened(key=key, platform=platform):
                self._opened(event.mid, key, Device(event.position, platform))
            case SessionClosed(key=key, opened=opened, reason=reason):
                self._closed(int(event.stream[len(SESSION) :]), key, opened, reason)
            case MemberJoined(mid=mid):
                for watch in self._both_ways(mid):
                    watch.was_written_to = False
                    self._asking[watch] = None  # this can only give
            case MemberLeft(mid=mid) | MemberRemoved(mid=mid):
                for watch in self._both_ways(mid):
                    self._doubt(watch)
            case PersonBlocked(by=by, mid=mid):
                for watch in self._of_pair(mid, by):
                    self._doubt(watch)
            case PersonUnblocked(by=by, mid=mid):
                for watch in self._of_pair(mid, by):
                    self._asking[watch] = None
            case VisibilityChosen(mid=mid, choice=choice):
                person = self.people.get(mid)
                for watch in () if person is None else person.watches.values():
                    if not watch.is_open:
                        self._doubt(watch)
                        if choice == "nobody":
                            watch.sees, watch.is_sure = False, True
                            self._turned[watch] = None

    def dismissed(self, mid: int) -> None:
        """A room that this person was in is no more."""
        for watch in self._both_ways(mid):
            self._doubt(watch)

    def wrote(self, pair: tuple[int, int], mids: Collection[int]) -> None:
        """Of these two, in their direct room, these wrote. Whoever writes there may be seen by the other from then on."""
        one, other = pair
        for viewer, mid in ((one, other), (other, one)):
            for watch in self._of_pair(viewer, mid) if mid in mids else ():
                if not (watch.was_written_to or (watch.sees and watch.is_sure)):
                    watch.was_written_to = True
                    self._asking[watch] = None  # this can only give

    def _opened(self, mid: int, key: str, device: Device) -> None:
        person = self.people.get(mid)
        if person is None:
            return
        if person.changes is not None:
            person.changes[key] = device
            return
        known = person.devices.get(key)
        if known is None or known.opened < device.opened:
            person.devices[key] = device
            self._moved(person, at_once=False)

    def _closed(self, mid: int, key: str, opened: int, reason: str) -> None:
        person = self.people.get(mid)
        if person is None:
            return
        if person.changes is not None:
            if key not in person.changes or abs(person.changes[key].opened) <= opened:
                person.changes[key] = Device(-opened, "")
            return
        known = person.devices.get(key)
        if known is not None and known.opened <= opened:
            del person.devices[key]
            self._moved(person, at_once=reason == NODE_LOST)

    def _moved(self, person: Watched, *, at_once: bool) -> None:
        """The devices of this person are others than before: is that to be told, and when?"""
        mid, platforms = person.mid, person.platforms
        if platforms == person.told:
            self._soon.pop(mid, None)
            self._later.pop(mid, None)
        elif at_once or set(platforms).issuperset(person.told):
            self._soon[mid] = None
            self._later.pop(mid, None)
        else:
            self._soon.pop(mid, None)
            self._later.setdefault(mid, self._clock() + self._grace_s)

    def _both_ways(self, mid: int) -> list[Watch]:
        """The watches of a person and by it that hang on what people share."""
        person = self.people.get(mid)
        found = [] if person is None else list(person.watches.values())
        for watcher in self._of.get(mid, ()):
            found += watcher.watches.values()
        return [watch for watch in found if not watch.is_open]

    def _of_pair(self, viewer: int, mid: int) -> list[Watch]:
        """The watches of this one person by that one, if they hang on anything."""
        found = (watcher.watches.get(mid) for watcher in self._of.get(viewer, ()))
        return [watch for watch in found if watch is not None and not watch.is_open]

    def _doubt(self, watch: Watch) -> None:
        """It may see its person no more: nothing is told before that is known."""
        watch.doubts += 1
        watch.is_sure = False
        self._asking[watch] = None

    # --- who may see whom -------------------------------------------------------------------------------------------------------

    @property
    def asking(self) -> int:
        """How many watches are to be asked for."""
        return len(self._asking)

    def recheck(self) -> None:
        """Ask for all watches again that were not asked for lately. What they see meanwhile they see."""
        now = self._clock()
        while self.watchers:
            session, watcher = next(iter(self.watchers.items()))
            if now < watcher.asked_at + self._recheck_s:
                return
            watcher.asked_at = now
            del self.watchers[session]
            self.watchers[session] = watcher
            self._asking.update((watch, None) for watch in watcher.watches.values() if not watch.is_open)

    def questions(self, most: int) -> list[Question]:
        """The next of those that are to be asked for; each is to be `answered`, or asked `again`."""
        taken = [watch for watch, _ in zip(self._asking, range(most), strict=False)]
        for watch in taken:
            del self._asking[watch]
        return [Question(watch, watch.doubts) for watch in taken]

    def again(self, questions: Iterable[Question]) -> None:
        """These got no answer."""
        self._asking.update((question.watch, None) for question in questions if not question.watch.is_over)

    def answered(self, questions: Iterable[Question], sights: Mapping[tuple[int, int], bool]) -> None:
        """Who sees whom, as it was when the questions were taken or later."""
        for question in questions:
            watch = question.watch
            if watch.doubts != question.doubts or watch.is_over:
                continue  # it is asked for anew
            watch.sees, watch.is_sure = sights.get(question.pair, False), True
            if watch.wanted != watch.shown:
                self._turned[watch] = None

    # --- what is told -----------------------------------------------------------------------------------------------------------

    def due_in_s(self) -> float | None:
        """When there may be something to tell; None if nothing waits."""
        if self._soon or self._turned or self._missed:
            return 0.0
        if self._later:
            return max(0.0, next(iter(self._later.values())) - self._clock())
        return None

    def tick(self, has_room: Callable[[Hashable], bool]) -> list[tuple[Hashable, Sequence[Change]]]:
        """What each session is told now, in one frame. Those without room are told when they have some: then what is true by then."""
        concerned: dict[Watcher, dict[Watch, None]] = {}
        for mid in self._due():
            person = self.people[mid]
            person.told = person.platforms
            for watcher, watch in person.watches.items():
                concerned.setdefault(watcher, {})[watch] = None
        for watch in self._turned:
            concerned.setdefault(watch.watcher, {})[watch] = None
        self._turned.clear()
        for watcher in [one for one in self._missed if has_room(one.session)]:
            concerned[watcher] = dict.fromkeys(watcher.watches.values())
        frames: list[tuple[Hashable, Sequence[Change]]] = []
        for watcher, watches in concerned.items():
            if not has_room(watcher.session):
                self.passed_over += watcher not in self._missed
                self._missed[watcher] = None
                continue
            self._missed.pop(watcher, None)
            changes: list[Change] = []
            for watch in watches:
                # One in doubt is compared when it is answered.
                if watch.is_sure and watch.wanted != watch.shown:
                    watch.shown = watch.wanted
                    changes.append(Change(watch.person.mid, watch.shown))
            if changes:
                self.told += len(changes)
                frames.append((watcher.session, changes))
        return frames

    def _due(self) -> list[int]:
        """The people to be told of now."""
        now = self._clock()
        due = list(self._soon)
        self._soon.clear()
        for mid, at in self._later.items():
            if at > now:
                break
            due.append(mid)
        for mid in due:
            self._later.pop(mid, None)
        return due
