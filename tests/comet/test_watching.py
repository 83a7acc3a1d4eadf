"""Who is told of whom, and when: events and a clock in, frames out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from comet.facts import happened, of_session
from imcore.comet.watching import OFFLINE, Change, Device, Platforms, Watching
from imcore.errors import BadRequest, Overloaded
from imcore.events.types import (
    NODE_LOST,
    ROOM,
    USER,
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
    VisibleTo,
)

GRACE_S, RECHECK_S = 5.0, 300.0
ANNA, BEN, CARA, DORA = 1, 2, 3, 4
R = "group://r"


class Here:
    """A comet's watching, its clock, and the answers of its database. What sessions were told is in `heard`."""

    def __init__(self, *, watched_max: int = 100, watches_max: int = 1_000) -> None:
        self.now = 100.0
        self.watching = Watching(
            lambda: self.now,
            grace_s=GRACE_S,
            recheck_s=RECHECK_S,
            watched_max=watched_max,
            watches_max=watches_max,
        )
        self.position = 0
        self.open: dict[tuple[int, str], Device] = {}
        self.may: dict[tuple[int, int], bool] = {}
        self.full: set[Hashable] = set()
        self.heard: dict[Hashable, list[list[Change]]] = {}
        self.asked: list[tuple[int, int]] = []

    def happens(self, fact: Fact, event: Recorded) -> None:
        if self.watching.people:
            self.watching.fold(fact, event)

    def opens(self, mid: int, key: str = "phone", platform: str = "ios") -> None:
        self.position += 1
        fact = SessionOpened(key=key, node="a", platform=platform)
        self.open[mid, key] = Device(self.position, platform)
        self.happens(fact, of_session(self.position, fact, mid=mid, key=key))

    def closes(self, mid: int, key: str = "phone", reason: str = "closed", opened: int | None = None) -> None:
        self.position += 1
        known = self.open.get((mid, key), Device(0, ""))
        opened = known.opened if opened is None else opened
        if known.opened == opened:
            self.open.pop((mid, key), None)
        fact = SessionClosed(key=key, opened=opened, reason=reason)
        # It is the service that ends the sessions of a lost comet: whose session it is says the stream.
        self.happens(fact, of_session(self.position, fact, mid=mid, key=key)._replace(mid=0))

    def in_room(self, fact: MemberJoined | MemberLeft | MemberRemoved) -> None:
        self.position += 1
        self.happens(fact, happened(self.position, ROOM + fact.room, fact))

    def of_person(self, fact: PersonBlocked | PersonUnblocked) -> None:
        self.position += 1
        self.happens(fact, happened(self.position, f"{USER}{fact.by}", fact, mid=fact.by))

    def chooses(self, mid: int, choice: VisibleTo) -> None:
        self.position += 1
        fact = VisibilityChosen(mid=mid, choice=choice)
        self.happens(fact, happened(self.position, f"{USER}{mid}", fact, mid=mid))

    def sights(self, pairs: list[tuple[int, int]]) -> Mapping[tuple[int, int], bool]:
        self.asked += pairs
        return {pair: self.may.get(pair, True) for pair in pairs}

    def watch(self, session: Hashable, mid: int, *people: int, sees_all: bool = False) -> dict[int, Platforms]:
        """Watch, as a comet does it; the answer."""
        watching = self.watching
        watching.begin(session, mid, people, sees_all=sees_all)
        for one in watching.unloaded(people):
            watching.loaded(one, {key: device for (who, key), device in self.open.items() if who == one})
        questions = watching.questions_of(session, people)
        watching.answered(questions, self.sights([question.pair for question in questions]))
        return dict(watching.shown(session, people))

    def answer(self) -> None:
        """All questions of the moment are answered."""
        while questions := self.watching.questions(2):
            self.watching.answered(questions, self.sights([question.pair for question in questions]))

    def tick(self) -> dict[Hashable, list[Change]]:
        """What each session is told now."""
        frames = {
            session: list(changes) for session, changes in self.watching.tick(lambda session: session not in self.full)
        }
        for session, changes in frames.items():
            self.heard.setdefault(session, []).append(changes)
        return frames

    def later(self, seconds: float) -> dict[Hashable, list[Change]]:
        self.now += seconds
        return self.tick()


def online(mid: int, *platforms: str) -> Change:
    return Change(mid, platforms)


def offline(mid: int) -> Change:
    return Change(mid, OFFLINE)


# --- coming and going -------------------------------------------------------------------------------------------------------------


def test_the_answer_says_how_they_are_and_then_only_what_changes_is_told() -> None:
    here = Here()
    here.opens(BEN)

    assert {BEN: ("ios",), CARA: OFFLINE} == here.watch("a", ANNA, BEN, CARA)
    assert {} == here.tick()
    here.opens(CARA, platform="web")
    assert {"a": [online(CARA, "web")]} == here.tick()
    assert {} == here.later(60)


def test_nobody_is_told_who_did_not_ask_for_that_person() -> None:
    here = Here()
    here.watch("a", ANNA, BEN)
    here.watch("c", CARA, DORA)
    here.opens(BEN)

    assert {"a": [online(BEN, "ios")]} == here.tick()


def test_the_changes_of_a_tick_are_one_frame_a_watcher() -> None:
    here = Here()
    here.watch("a", ANNA, BEN, CARA, DORA)
    for mid in (BEN, CARA, DORA):
        here.opens(mid)
    here.opens(BEN, "laptop", "web")

    assert {"a": [online(BEN, "ios", "web"), online(CARA, "ios"), online(DORA, "ios")]} == here.tick()


def test_who_goes_is_told_after_the_grace() -> None:
    here = Here()
    here.opens(BEN)
    here.watch("a", ANNA, BEN)
    here.closes(BEN)

    assert {} == here.tick()
    assert GRACE_S == here.watching.due_in_s()
    assert {} == here.later(GRACE_S - 0.1)
    assert {"a": [offline(BEN)]} == here.later(0.1)
    assert None is here.watching.due_in_s()


def test_who_is_back_within_the_grace_was_never_away() -> None:
    here = Here()
    here.opens(BEN)
    here.watch("a", ANNA, BEN)
    for _ in range(10):
        here.closes(BEN)
        assert {} == here.later(GRACE_S - 1)
        here.opens(BEN)
        assert {} == here.later(1)

    assert {} == here.later(60)
    assert {} == here.heard


def test_who_comes_and_goes_between_two_ticks_was_never_there() -> None:
    here = Here()
    here.watch("a", ANNA, BEN)
    here.opens(BEN)
    here.closes(BEN)

    assert None is here.watching.due_in_s()
    assert {} == here.later(60)


def test_the_end_of_a_session_whose_comet_was_lost_has_had_its_grace() -> None:
    here = Here()
    here.opens(BEN)
    here.watch("a", ANNA, BEN)
    here.closes(BEN, reason=NODE_LOST)

    assert {"a": [offline(BEN)]} == here.tick()


def test_a_platform_more_is_told_at_once_and_one_less_after_the_grace() -> None:
    here = Here()
    here.opens(BEN)
    here.watch("a", ANNA, BEN)
    here.opens(BEN, "laptop", "web")
    assert {"a": [online(BEN, "ios", "web")]} == here.tick()
    here.closes(BEN)
    assert {} == here.tick()
    assert {"a": [online(BEN, "web")]} == here.later(GRACE_S)


def test_a_second_device_of_a_platform_changes_nothing() -> None:
    here = Here()
    here.opens(BEN)
    here.watch("a", ANNA, BEN)
    here.opens(BEN, "tablet")
    here.closes(BEN)

    assert {} == here.later(60)


def test_a_late_end_of_an_older_session_of_the_key_ends_nothing() -> None:
    here = Here()
    here.opens(BEN)
    here.watch("a", ANNA, BEN)
    here.opens(BEN)
    here.closes(BEN, opened=1)

    assert {} == here.later(60)


def test_what_the_log_says_while_the_sessions_are_read_wins() -> None:
    """The rows that are read may be older than what the log said meanwhile, or newer."""
    here = Here()
    watching = here.watching
    watching.begin("a", ANNA, [BEN, CARA, DORA])
    here.position = 10
    here.opens(BEN, "laptop", "web")  # at 11; the rows do not know it yet
    here.opens(CARA)  # at 12, and ended at 13; the rows know the first
    here.closes(CARA)
    here.closes(DORA, opened=3)  # the rows know a newer one already
    watching.loaded(BEN, {"phone": Device(5, "ios")})
    watching.loaded(CARA, {"phone": Device(12, "ios")})
    watching.loaded(DORA, {"phone": Device(20, "ios")})
    watching.answered(watching.questions_of("a", [BEN, CARA, DORA]), dict.fromkeys([(ANNA, BEN), (ANNA, DORA)], True))

    assert [online(BEN, "ios", "web"), offline(CARA), online(DORA, "ios")] == watching.shown("a", [BEN, CARA, DORA])


# --- watchers ---------------------------------------------------------------------------------------------------------------------


def test_who_watches_no_more_is_told_no_more_and_leaves_nothing_behind() -> None:
    here = Here()
    here.watch("a", ANNA, BEN, CARA)
    here.watch("b", ANNA, BEN)
    here.watching.end("a", [BEN, DORA])
    here.opens(BEN)
    assert {"b": [online(BEN, "ios")]} == here.tick()

    here.closes(BEN)
    here.in_room(MemberLeft(room=R, mid=BEN))
    here.watching.end("a")
    here.watching.end("b")
    here.watching.end("b")

    assert {} == here.later(60)
    assert (0, {}, {}, 0, None) == (
        here.watching.watches,
        here.watching.people,
        here.watching.watchers,
        here.watching.asking,
        here.watching.due_in_s(),
    )


def test_a_watcher_without_room_is_told_what_is_true_when_it_has_some() -> None:
    here = Here()
    here.watch("a", ANNA, BEN, CARA)
    here.watch("b", DORA, BEN)
    here.full.add("a")
    here.opens(BEN)
    here.opens(CARA)
    assert {"b": [online(BEN, "ios")]} == here.tick()
    here.closes(CARA)
    assert {} == here.later(60)

    here.full.clear()

    assert {"a": [online(BEN, "ios")]} == here.tick()  # that Cara was there has become untrue
    assert None is here.watching.due_in_s()
    assert 1 == here.watching.passed_over


@pytest.mark.parametrize("people", [2, 3, 4])
def test_a_session_watches_no_more_than_it_may(people: int) -> None:
    here = Here(watched_max=3)
    here.watch("a", ANNA, 100, 101)
    more = range(101, 100 + people)

    if people <= 3:
        here.watch("a", ANNA, *more)
        assert people == here.watching.watches
    else:
        with pytest.raises(BadRequest):
            here.watch("a", ANNA, *more)
        assert 2 == here.watching.watches


def test_all_together_watch_no_more_than_they_may() -> None:
    here = Here(watches_max=2)
    here.watch("a", ANNA, BEN)
    here.watch("b", BEN, ANNA)
    with pytest.raises(Overloaded):
        here.watch("c", CARA, DORA)

    here.watching.end("a")
    assert {DORA: OFFLINE} == here.watch("c", CARA, DORA)


# --- who may see whom -------------------------------------------------------------------------------------------------------------


def test_who_may_not_be_seen_looks_offline_and_is_not_told_of() -> None:
    here = Here()
    here.may[ANNA, BEN] = False
    here.opens(BEN)

    assert {BEN: OFFLINE} == here.watch("a", ANNA, BEN)
    here.opens(BEN, "laptop", "web")
    here.closes(BEN)
    assert {} == here.later(60)


def test_one_sees_oneself_and_some_see_everybody_and_nobody_is_asked() -> None:
    here = Here()
    here.may[ANNA, BEN] = False
    here.opens(ANNA)
    here.opens(BEN)
    here.chooses(BEN, "nobody")

    assert {ANNA: ("ios",)} == here.watch("a", ANNA, ANNA)
    assert {BEN: ("ios",)} == here.watch("admin", 9, BEN, sees_all=True)
    here.chooses(BEN, "nobody")
    here.now += RECHECK_S
    here.watching.recheck()
    assert ([], 0, {}) == (here.asked, here.watching.asking, here.tick())


def test_who_hides_goes_with_the_next_tick_without_a_question_first() -> None:
    here = Here()
    here.opens(BEN)
    here.watch("a", ANNA, BEN)
    here.asked.clear()
    here.chooses(BEN, "nobody")

    assert {"a": [offline(BEN)]} == here.tick()
    assert [] == here.asked
    here.opens(BEN, "laptop", "web")
    assert {} == here.later(60)


def test_who_shows_itself_again_is_told_of() -> None:
    here = Here()
    here.opens(BEN)
    here.may[ANNA, BEN] = False
    here.watch("a", ANNA, BEN)
    here.may[ANNA, BEN] = True
    here.chooses(BEN, "everybody")
    assert {} == here.tick()
    here.answer()

    assert {"a": [online(BEN, "ios")]} == here.tick()


@pytest.mark.parametrize("who", [ANNA, BEN])
@pytest.mark.parametrize("end", [MemberLeft, MemberRemoved])
def test_while_it_is_not_sure_who_may_see_whom_nothing_is_told(
    who: int, end: type[MemberLeft] | type[MemberRemoved]
) -> None:
    """Either of them left a room: perhaps the only one that they shared."""
    here = Here()
    here.watch("a", ANNA, BEN)
    here.in_room(end(room=R, mid=who))
    here.may[ANNA, BEN] = False
    here.opens(BEN)
    assert {} == here.later(60)
    here.answer()

    assert {} == here.later(60)


def test_who_blocks_somebody_is_told_of_no_more_and_only_the_two_are_asked_for() -> None:
    here = Here()
    here.watch("a", ANNA, BEN, CARA)
    here.watch("c", CARA, BEN)
    here.asked.clear()
    here.of_person(PersonBlocked(by=BEN, mid=ANNA))
    here.may[ANNA, BEN] = False
    here.opens(BEN)
    assert {"c": [online(BEN, "ios")]} == here.tick()
    here.answer()
    assert ([(ANNA, BEN)], {}) == (here.asked, here.tick())

    here.of_person(PersonUnblocked(by=BEN, mid=ANNA))
    here.may[ANNA, BEN] = True
    here.answer()
    assert {"a": [online(BEN, "ios")]} == here.tick()


def test_when_a_room_is_no_more_those_who_were_in_it_are_asked_for() -> None:
    here = Here()
    here.opens(BEN)
    here.watch("a", ANNA, BEN)
    here.watching.dismissed(ANNA)
    here.may[ANNA, BEN] = False
    here.answer()

    assert {"a": [offline(BEN)]} == here.tick()


def test_an_answer_that_takes_nothing_away_tells_what_came_meanwhile() -> None:
    here = Here()
    here.watch("a", ANNA, BEN)
    here.in_room(MemberLeft(room=R, mid=BEN))
    here.opens(BEN)
    assert {} == here.tick()
    here.answer()

    assert {"a": [online(BEN, "ios")]} == here.tick()


def test_an_answer_to_an_older_question_changes_nothing() -> None:
    here = Here()
    here.opens(BEN)
    here.watch("a", ANNA, BEN)
    here.in_room(MemberLeft(room=R, mid=BEN))
    older = here.watching.questions(10)
    here.chooses(BEN, "nobody")
    here.may[ANNA, BEN] = False
    here.watching.answered(older, {(ANNA, BEN): True})

    assert {"a": [offline(BEN)]} == here.tick()
    here.answer()
    assert {} == here.tick()


def test_a_question_without_an_answer_is_asked_again() -> None:
    here = Here()
    here.watch("a", ANNA, BEN, CARA)
    here.in_room(MemberLeft(room=R, mid=ANNA))
    questions = here.watching.questions(10)
    here.watching.end("a", [CARA])
    here.watching.again(questions)

    assert [(ANNA, BEN)] == [question.pair for question in here.watching.questions(10)]


def test_a_join_may_make_somebody_visible() -> None:
    here = Here()
    here.opens(BEN)
    here.may[ANNA, BEN] = False
    here.watch("a", ANNA, BEN)
    here.may[ANNA, BEN] = True
    here.in_room(MemberJoined(room=R, mid=ANNA))
    here.answer()

    assert {"a": [online(BEN, "ios")]} == here.tick()


def test_who_writes_to_a_watcher_for_the_first_time_may_have_become_visible_to_it() -> None:
    """Asked once, for the one who wrote as the other sees it; who is seen already is not asked for."""
    here = Here()
    here.opens(BEN)
    here.may[ANNA, BEN] = False
    here.watch("a", ANNA, BEN, CARA)
    here.watch("b", BEN, ANNA)
    here.asked.clear()
    here.watching.wrote((ANNA, BEN), {ANNA})
    assert 0 == here.watching.asking
    here.may[ANNA, BEN] = True
    here.watching.wrote((ANNA, BEN), {ANNA, BEN})
    here.answer()
    assert ([(ANNA, BEN)], {"a": [online(BEN, "ios")]}) == (here.asked, here.tick())

    here.chooses(BEN, "nobody")
    here.may[ANNA, BEN] = False
    here.answer()
    here.watching.wrote((ANNA, BEN), {BEN})
    assert 0 == here.watching.asking  # it wrote before, and was asked for since
    here.in_room(MemberLeft(room=R, mid=CARA))
    here.in_room(MemberJoined(room=R, mid=BEN))
    here.answer()
    here.watching.wrote((ANNA, BEN), {BEN})
    assert 1 == here.watching.asking


def test_who_wrote_while_it_was_asked_whether_it_may_be_seen_is_asked_for_again() -> None:
    here = Here()
    here.opens(BEN)
    here.watching.begin("a", ANNA, [BEN])
    here.watching.loaded(BEN, {"phone": here.open[BEN, "phone"]})
    older = here.watching.questions_of("a", [BEN])
    here.watching.wrote((ANNA, BEN), {BEN})
    here.watching.answered(older, {(ANNA, BEN): False})
    here.answer()

    assert {"a": [online(BEN, "ios")]} == here.tick()


def test_everybody_is_asked_for_again_after_a_while() -> None:
    """A room may have grown too large to see each other in it, and that no event of the two says."""
    here = Here()
    here.opens(BEN)
    here.watch("a", ANNA, BEN)
    here.now += RECHECK_S - 1
    here.watch("b", CARA, BEN)
    here.may[ANNA, BEN] = False
    here.watching.recheck()
    assert 0 == here.watching.asking
    here.now += 1
    here.watching.recheck()
    assert 1 == here.watching.asking
    here.answer()

    assert {"a": [offline(BEN)]} == here.tick()


def test_what_it_costs_is_a_look_for_who_is_not_watched_and_a_step_a_watcher_for_who_is() -> None:
    """Nothing is asked because somebody comes or goes."""
    here = Here()
    for n in range(50):
        here.watch(n, 1_000 + n, BEN)
    here.asked.clear()
    for n in range(2_000, 3_000):
        here.opens(n)
    assert (None, 0, 1) == (here.watching.due_in_s(), here.watching.asking, len(here.watching.people))
    here.opens(BEN)

    assert 50 == len(here.tick())
    assert [] == here.asked


# --- everything at once -----------------------------------------------------------------------------------------------------------

MIDS = st.sampled_from((ANNA, BEN, CARA))
KEYS = st.sampled_from(("phone", "laptop"))
SESSIONS = st.sampled_from(("a", "a2", "c"))
OWNERS = {"a": ANNA, "a2": ANNA, "c": CARA}


class Crowd(RuleBasedStateMachine):
    """People who come, go, hide and share rooms, watchers without room, answers that come late."""

    @initialize()
    def begin(self) -> None:
        self.here = Here()
        self.watched: dict[str, set[int]] = {session: set() for session in OWNERS}
        self.known: dict[str, dict[int, Platforms]] = {session: {} for session in OWNERS}
        self.hidden: set[int] = set()

    def _sees(self, session: str, mid: int) -> bool:
        return OWNERS[session] == mid or self.here.may.get((OWNERS[session], mid), True)

    def _truth(self, session: str, mid: int) -> Platforms:
        devices = {device.platform for (who, _), device in self.here.open.items() if who == mid}
        return tuple(sorted(devices)) if self._sees(session, mid) else OFFLINE

    @rule(mid=MIDS, key=KEYS, platform=st.sampled_from(("ios", "web")))
    def opens(self, mid: int, key: str, platform: str) -> None:
        self.here.opens(mid, key, platform)

    @rule(mid=MIDS, key=KEYS, reason=st.sampled_from(("closed", NODE_LOST)))
    def closes(self, mid: int, key: str, reason: str) -> None:
        self.here.closes(mid, key, reason)

    @rule(session=SESSIONS, people=st.sets(MIDS, min_size=1))
    def watch(self, session: str, people: set[int]) -> None:
        self.watched[session] |= people
        self.known[session] |= self.here.watch(session, OWNERS[session], *sorted(people))

    @rule(session=SESSIONS, people=st.none() | st.sets(MIDS))
    def unwatch(self, session: str, people: set[int] | None) -> None:
        gone = self.watched[session] if people is None else people
        self.watched[session] = self.watched[session] - gone
        self.known[session] = {mid: known for mid, known in self.known[session].items() if mid not in gone}
        self.here.watching.end(session, people)

    @rule(mid=MIDS, choice=st.sampled_from(("everybody", "nobody")))
    def chooses(self, mid: int, choice: VisibleTo) -> None:
        """The rows are there when the event is."""
        self.here.may.update({(viewer, mid): choice == "everybody" for viewer in (ANNA, BEN, CARA)})
        self.here.chooses(mid, choice)

    @rule(one=MIDS, other=MIDS, is_gone=st.booleans())
    def shares(self, one: int, other: int, is_gone: bool) -> None:
        self.here.may[one, other] = self.here.may[other, one] = not is_gone
        fact = MemberLeft(room=R, mid=one) if is_gone else MemberJoined(room=R, mid=one)
        self.here.in_room(fact)

    @rule(session=SESSIONS)
    def fills(self, session: str) -> None:
        self.here.full ^= {session}

    @rule()
    def answer(self) -> None:
        self.here.answer()

    @rule()
    def fails(self) -> None:
        self.here.watching.again(self.here.watching.questions(1))

    @rule(seconds=st.sampled_from((0.25, 4.9, 5.0)))
    def passes(self, seconds: float) -> None:
        self._take(self.here.later(seconds))

    def _take(self, frames: Mapping[Hashable, list[Change]]) -> None:
        for session, changes in frames.items():
            assert isinstance(session, str)
            assert session not in self.here.full, "told without room"
            for mid, platforms in changes:
                assert mid in self.watched[session], "told of somebody who is not watched"
                assert self.known[session][mid] != platforms, "told what it knew"
                assert platforms == OFFLINE or self._sees(session, mid), "told of who may not be seen"
                self.known[session][mid] = platforms

    @invariant()
    def nothing_is_left_of_who_went(self) -> None:
        if not hasattr(self, "here"):
            return
        watching = self.here.watching
        assert sum(map(len, self.watched.values())) == watching.watches
        assert {mid for people in self.watched.values() for mid in people} == set(watching.people)
        assert watching.asking <= watching.watches

    def teardown(self) -> None:
        """When all is quiet everybody knows what is true, and nothing waits."""
        self.here.full.clear()
        self.here.answer()
        self._take(self.here.later(GRACE_S))
        for session, people in self.watched.items():
            assert {mid: self._truth(session, mid) for mid in people} == self.known[session]
        assert None is self.here.watching.due_in_s()
        assert Counter() == Counter(self.here.watching.tick(lambda _: True))


Crowd.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_everybody_knows_what_is_true_in_the_end = Crowd.TestCase
