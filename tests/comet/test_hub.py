"""Who gets what, in which order."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import pytest

from comet.facts import happened, of_session, pushed, recorded, said
from comet.listener import LIVE_TYPES, Listener, alive, behind
from comet.wires import CODECS, frames, inside, packets, position_of
from imcore.comet import hub as hub_module
from imcore.comet.encode import JSON_WS, V1_TCP, V1_WS, V2_TCP, V2_WS
from imcore.comet.hub import BEHIND, CLOSED, LIVE, Hub, Left, Place, Session, filtered
from imcore.errors import Displaced, GoingAway, TakenOver, Unauthenticated
from imcore.events.types import (
    ALL,
    KEY,
    ROOM,
    USER,
    AccountDeactivated,
    AccountSuspended,
    DeliveryAcked,
    Fact,
    LoggedOut,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    PlatformRoleChanged,
    Recorded,
    RoomDismissed,
    RoomsEntered,
    RoomSwitched,
    SessionClosed,
    SessionOpened,
)

ANNA, BEN, CARA = 1, 2, 3
A, B, C = "group://a", "group://b", "group://c"
STAGE, HALL = "live://stage", "live://hall"


@pytest.fixture
def hub() -> Hub:
    return Hub(0, LIVE_TYPES)


def give(hub: Hub, *events: Recorded) -> None:
    """One batch, written at once."""
    hub.apply(list(events))
    hub.flush()


def joined(position: int, room: str, mid: int) -> Recorded:
    return happened(position, ROOM + room, MemberJoined(room=room, mid=mid), mid=mid)


def left(position: int, room: str, mid: int) -> Recorded:
    return happened(position, ROOM + room, MemberLeft(room=room, mid=mid), mid=mid)


def removed(position: int, room: str, mid: int) -> Recorded:
    return happened(position, ROOM + room, MemberRemoved(room=room, mid=mid))


def opened(position: int, mid: int, key: str) -> Recorded:
    return of_session(position, SessionOpened(key=key, node="n"), mid=mid, key=key)


def switched(position: int, mid: int, key: str, opened_at: int, room: str) -> Recorded:
    return of_session(position, RoomSwitched(key=key, opened=opened_at, room=room), mid=mid, key="")


def entered(position: int, session: Session, *rooms: str) -> Recorded:
    fact = RoomsEntered(key=session.key, opened=session.opened, rooms=rooms)
    return of_session(position, fact, mid=session.mid, key=session.key)


def numbers(events: Iterable[Recorded]) -> list[int]:
    return [event.position for event in events]


# --- members -----------------------------------------------------------------------------------------------------------------


def test_a_message_goes_to_the_members_of_its_room_and_to_nobody_else(hub: Hub) -> None:
    anna, ben = alive(hub, ANNA, "anna", rooms=[A, B]), alive(hub, BEN, "ben", rooms=[B])

    give(hub, said(1, A), said(2, B), said(3, C))

    assert [1, 2] == anna.heard
    assert [2] == ben.heard


def test_who_joins_gets_the_join_and_what_follows_and_nothing_before(hub: Hub) -> None:
    anna, ben = alive(hub, ANNA, "anna", rooms=[A]), alive(hub, BEN, "ben")

    give(hub, said(1, A), joined(2, A, BEN), said(3, A))

    assert [1, 2, 3] == anna.heard
    assert [2, 3] == ben.heard


@pytest.mark.parametrize("leave", [left, removed])
def test_who_is_no_member_any_more_got_all_before_is_told_and_gets_nothing_after(hub: Hub, leave: object) -> None:
    """Not even the event itself, which the others get."""
    anna, ben = alive(hub, ANNA, "anna", rooms=[A]), alive(hub, BEN, "ben", rooms=[A])
    assert callable(leave)

    give(hub, said(1, A), leave(2, A, BEN), said(3, A))

    assert [1, 2, 3] == anna.heard
    assert [1, A] == ben.heard


def test_a_removal_is_told_after_what_came_before_it_in_every_room(hub: Hub) -> None:
    """The notice goes out at once; what was handed out by then must not follow it."""
    ben = alive(hub, BEN, "ben", rooms=[A, B])

    give(hub, said(1, A), said(2, B), removed(3, A, BEN), said(4, B))

    assert [1, 2, A, 4] == ben.heard


def test_what_was_written_before_a_removal_is_not_read_again(hub: Hub) -> None:
    """The socket is full just then, before the flush."""
    ben = alive(hub, BEN, "ben", rooms=[A, B])
    ben.on_write = lambda: hub.fall_behind(ben)

    hub.apply([said(1, A), said(2, B), removed(3, A, BEN), said(4, B)])
    hub.flush()

    assert [1, 2, A] == ben.heard
    assert (BEHIND, 2) == (ben.state, ben.position)


def test_leaving_and_coming_back_within_a_batch_leaves_out_what_lies_between(hub: Hub) -> None:
    ben = alive(hub, BEN, "ben", rooms=[A])

    give(hub, said(1, A), left(2, A, BEN), said(3, A), joined(4, A, BEN), said(5, A))

    assert [1, A, 4, 5] == ben.heard


def test_every_device_of_a_person_joins_and_leaves(hub: Hub) -> None:
    phone, desk = alive(hub, BEN, "phone"), alive(hub, BEN, "desk", codec=JSON_WS)

    give(hub, joined(1, A, BEN), said(2, A), left(3, A, BEN), said(4, A))

    assert [1, 2, A] == phone.heard == desk.heard


def test_who_is_behind_is_told_of_a_removal_at_once_and_reads_nothing_of_the_room_any_more(hub: Hub) -> None:
    ben = behind(hub, BEN, "ben", rooms=[A])

    give(hub, said(1, A), removed(2, A, BEN))

    assert [A] == ben.heard
    assert ROOM + A not in hub.entitled(ben)
    assert [] == filtered([said(1, A)], hub.entitled(ben), ben)


def dismissed(position: int, room: str) -> Recorded:
    return happened(position, ROOM + room, RoomDismissed(room=room))


def test_a_dismissed_room_tells_its_members_and_forgets_them(hub: Hub) -> None:
    """Everybody who is live has the event itself, in its place among what was said in other rooms."""
    anna, ben = alive(hub, ANNA, "anna", rooms=[A, B]), alive(hub, BEN, "ben", rooms=[A])
    cara = behind(hub, CARA, "cara", rooms=[A])

    give(hub, said(1, A), said(2, B), dismissed(3, A), said(4, B))

    assert [1, 2, 3, A, 4] == anna.heard
    assert [1, 3, A] == ben.heard
    assert [A] == cara.heard
    assert ROOM + A not in hub.audiences
    assert {ROOM + B: 0} == hub.people[ANNA].rooms
    assert [(ROOM + A, Left(3, 0, "room_dismissed"))] == hub.left_since(hub.people[BEN], 2)


def test_who_comes_while_its_rooms_are_read_is_in_no_room_that_was_dismissed_meanwhile(hub: Hub) -> None:
    person = hub.hold(BEN)
    give(hub, dismissed(1, A))

    hub.know(person, 0, {ROOM + A: 0, ROOM + B: 0})

    assert {ROOM + B: 0} == person.rooms


def test_who_comes_while_its_room_is_dismissed_is_told_if_its_rooms_were_read_before(hub: Hub) -> None:
    """And of no room that it was not in."""
    person = hub.hold(BEN)
    give(hub, dismissed(1, A), dismissed(2, C))

    hub.know(person, 0, {ROOM + A: 0, ROOM + B: 0})
    hub.learn(person, "ben", Place(0, 0), {"ben": 0}, {}, 0)

    assert [(ROOM + A, Left(1, 0, "room_dismissed"))] == hub.left_since(person, 0)


def test_who_comes_while_its_room_is_dismissed_is_told_if_its_rooms_were_read_after(hub: Hub) -> None:
    """They leave the room out, so that the hub finds nothing to end when it comes to the dismissal: it is told once."""
    person = hub.hold(BEN)
    ended = Left(2, 0, "room_dismissed")

    hub.know(person, 2, {ROOM + B: 0})
    hub.learn(person, "ben", Place(2, 0), {"ben": 0}, {ROOM + A: ended}, 0)

    assert [(ROOM + A, ended)] == hub.left_since(person, 0)
    ben = Listener(BEN, "ben")
    assert hub.add(ben, person, 0)
    assert hub.settle(ben)
    give(hub, said(1, A), dismissed(2, A), said(3, B))
    assert [3] == ben.heard


def test_a_device_that_comes_to_others_is_told_of_a_dismissal_with_them_when_the_hub_comes_to_it(hub: Hub) -> None:
    """What was said before it they all still get."""
    phone = alive(hub, BEN, "phone", rooms=[A])
    person = hub.hold(BEN)
    hub.know(person, 2, {})
    hub.learn(person, "desk", Place(2, 0), {"desk": 0}, {ROOM + A: Left(2, 0, "room_dismissed")}, 0)
    assert [] == hub.left_since(person, 0)
    desk = Listener(BEN, "desk")
    assert hub.add(desk, person, 0)
    assert hub.settle(desk)

    give(hub, said(1, A), dismissed(2, A))

    assert [1, 2, A] == phone.heard == desk.heard


def test_a_connection_that_is_told_to_switch_rooms_is_told_once_and_no_other_of_its_key(hub: Hub) -> None:
    ben = alive(hub, BEN, "ben", opened=0)

    give(hub, switched(1, BEN, "ben", 7, STAGE), switched(2, BEN, "ben", 0, STAGE))

    assert [f"into {STAGE}"] == ben.heard


def test_a_connection_that_is_told_to_switch_rooms_while_it_opens_does_so_when_it_is_there(hub: Hub) -> None:
    """Into the last that was said of it; what was said of an older one of its key is not meant for it, whichever came first."""
    older, newer, person = Listener(BEN, "ben"), Listener(BEN, "ben"), hub.hold(BEN)
    older.opened, newer.opened = 1, 2
    give(hub, opened(1, BEN, "ben"))
    hub.know(person, 1, {})
    assert hub.add(older, person, 1)
    give(hub, opened(2, BEN, "ben"))

    give(hub, switched(3, BEN, "ben", 2, STAGE), switched(4, BEN, "ben", 2, HALL), switched(5, BEN, "ben", 1, STAGE))
    assert hub.add(newer, person, 5)

    assert [f"into {HALL}"] == newer.heard
    assert [] == older.heard
    hub.release(person)
    again = behind(hub, BEN, "ben", opened=2)
    assert [] == again.heard, "it is told once"


def test_switches_are_remembered_only_while_somebody_is_opening_and_only_so_many(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "SWITCHES_MAX", 2)
    alive(hub, BEN, "desk")
    person = hub.hold(BEN)
    give(hub, *(switched(n, BEN, "phone", n, STAGE) for n in range(1, 4)))
    assert {("phone", 2): STAGE, ("phone", 3): STAGE} == person.switches

    hub.release(person)
    give(hub, switched(4, BEN, "phone", 4, STAGE))

    assert {} == person.switches


def test_a_join_of_a_member_and_a_leave_of_a_stranger_change_no_membership(hub: Hub) -> None:
    """The leave is told all the same: the memberships may have been read when it had happened already."""
    ben = alive(hub, BEN, "ben", rooms={A: 0})

    give(hub, joined(1, A, BEN), left(2, B, BEN), left(3, B, CARA))

    assert {ROOM + A: 0} == hub.people[BEN].rooms
    assert [1, B] == ben.heard


def test_an_event_that_cannot_be_read_changes_nothing_and_stops_nothing(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """The log may be newer than this program."""
    ben = alive(hub, BEN, "ben", rooms=[A])
    from_the_future = joined(1, B, BEN)._replace(version=99)
    broken = left(2, A, BEN)._replace(body="{}")

    with caplog.at_level(logging.ERROR):
        give(hub, from_the_future, broken, said(3, A), said(4, B))

    assert [2, 3] == ben.heard
    assert 2 == len(caplog.records)


def test_the_hub_takes_the_next_events_only(hub: Hub) -> None:
    hub.apply([said(1, A)])

    for position in (1, 3):
        with pytest.raises(AssertionError, match="p to p \\+ 1"):
            hub.apply([said(position, A)])


def test_pushes_reach_the_person_the_key_and_everybody(hub: Hub) -> None:
    phone, desk, ben = alive(hub, ANNA, "phone"), alive(hub, ANNA, "desk"), alive(hub, BEN, "ben")

    give(hub, pushed(1, f"{USER}{ANNA}"), pushed(2, f"{KEY}desk"), pushed(3, ALL), pushed(4, f"{USER}{CARA}"))

    assert [1, 3] == phone.heard
    assert [1, 2, 3] == desk.heard
    assert [3] == ben.heard


# --- live rooms --------------------------------------------------------------------------------------------------------------


def test_a_live_room_is_heard_from_entering_to_leaving(hub: Hub) -> None:
    anna = alive(hub, ANNA, "anna")

    give(
        hub,
        said(1, STAGE),
        entered(2, anna, STAGE),
        said(3, STAGE),
        entered(4, anna, HALL),
        said(5, STAGE),
        said(6, HALL),
    )

    assert [3, 6] == anna.heard
    assert (0, 1) == (hub.in_room(STAGE), hub.in_room(HALL))


def test_only_the_connection_that_entered_is_in_a_live_room(hub: Hub) -> None:
    phone, desk = alive(hub, ANNA, "phone"), alive(hub, ANNA, "desk")

    give(hub, entered(1, phone, STAGE), said(2, STAGE))

    assert ([2], []) == (phone.heard, desk.heard)


def test_an_older_connection_of_the_key_enters_nothing_for_the_newer(hub: Hub) -> None:
    older = Listener(ANNA, "phone")
    older.opened = 3
    give(hub, *(said(n, C) for n in range(1, 6)))
    newer = alive(hub, ANNA, "phone", opened=5, live=[STAGE])

    give(hub, entered(6, older, HALL), said(7, HALL), said(8, STAGE))

    assert [8] == newer.heard


def test_entering_a_room_with_members_is_no_membership(hub: Hub) -> None:
    anna = alive(hub, ANNA, "anna")

    give(hub, entered(1, anna, A), said(2, A))

    assert [] == anna.heard
    assert {} == anna.entered


def test_who_says_that_it_entered_before_the_hub_comes_to_it_hears_from_its_place_on(hub: Hub) -> None:
    """The appender is told of a commit before the hub sees the batch, and there may be much between."""
    anna = alive(hub, ANNA, "anna")

    hub.enter(anna, [STAGE], 3)

    assert {ROOM + STAGE: 3} == anna.entered
    give(hub, said(1, STAGE), said(2, STAGE), entered(3, anna, STAGE), said(4, STAGE))
    assert [4] == anna.heard


def test_entering_leaving_and_entering_again_may_all_be_said_before_the_hub_comes_to_them(hub: Hub) -> None:
    anna = alive(hub, ANNA, "anna")
    for position, rooms in (1, [STAGE]), (3, []), (5, [STAGE, HALL]):
        hub.enter(anna, rooms, position)

    give(hub, entered(1, anna, STAGE), said(2, STAGE), entered(3, anna), said(4, STAGE), entered(5, anna, STAGE, HALL))
    give(hub, said(6, STAGE), said(7, HALL))

    assert [2, 6, 7] == anna.heard


def test_what_the_hub_has_come_to_needs_no_saying(hub: Hub) -> None:
    """The one who appended says so late, when the session has left again."""
    anna = alive(hub, ANNA, "anna")
    give(hub, entered(1, anna, STAGE), entered(2, anna))

    hub.enter(anna, [STAGE], 1)

    assert {} == anna.entered
    assert 0 == hub.in_room(STAGE)


def test_an_ended_session_enters_nothing(hub: Hub) -> None:
    anna = alive(hub, ANNA, "anna")
    hub.remove(anna)

    hub.enter(anna, [STAGE], 7)

    assert {} == hub.audiences


def test_what_is_said_in_live_rooms_moves_no_delivery_mark(hub: Hub) -> None:
    anna = alive(hub, ANNA, "anna", rooms=[A], live=[STAGE])

    give(hub, said(1, A), said(2, STAGE))

    assert [1, 2] == anna.heard
    assert 1 == anna.received


# --- own messages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_a_message_is_not_echoed_to_the_connection_that_sent_it_but_to_the_others_of_its_sender(
    hub: Hub, codec: int
) -> None:
    phone, desk = alive(hub, ANNA, "phone", rooms=[A], codec=codec), alive(hub, ANNA, "desk", rooms=[A], codec=codec)
    ben = alive(hub, BEN, "ben", rooms=[A], codec=codec)

    give(hub, said(1, A), said(2, A, mid=ANNA, key="phone"), said(3, A))

    assert [1, 3] == phone.heard
    assert [1, 2, 3] == desk.heard == ben.heard


def test_what_an_earlier_connection_of_the_key_sent_is_not_ones_own(hub: Hub) -> None:
    """It may have broken before it got the reply."""
    phone = behind(hub, ANNA, "phone", rooms=[A])
    phone.opened = 2

    events = [said(1, A, mid=ANNA, key="phone"), opened(2, ANNA, "phone"), said(3, A, mid=ANNA, key="phone")]

    assert [1] == numbers(filtered(events, hub.entitled(phone), phone))


def test_the_same_key_of_another_person_is_another_connection(hub: Hub) -> None:
    anna, ben = alive(hub, ANNA, "same", rooms=[A]), alive(hub, BEN, "same", rooms=[A])

    give(hub, said(1, A, mid=ANNA, key="same"), opened(2, ANNA, "same"))

    assert ([], [1]) == (anna.heard, ben.heard)
    assert ben.ended is None


def test_what_one_sends_over_http_comes_to_all_of_ones_connections(hub: Hub) -> None:
    phone = alive(hub, ANNA, "phone", rooms=[A])

    give(hub, said(1, A, mid=ANNA), said(2, A, mid=ANNA))

    assert [1, 2] == phone.heard


def test_talking_to_oneself_costs_no_encoding(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    anna = alive(hub, ANNA, "anna", rooms=[A])
    monkeypatch.setattr(hub_module, "Run", None)

    give(hub, said(1, A, mid=ANNA, key="anna"), said(2, A, mid=ANNA, key="anna"))

    assert ([], 0) == (anna.heard, hub.deliveries)


# --- one session a key -------------------------------------------------------------------------------------------------------


def test_a_newer_session_of_a_key_closes_the_older(hub: Hub) -> None:
    older = alive(hub, ANNA, "phone", rooms=[A])
    newer = alive(hub, ANNA, "phone", opened=1)

    give(hub, opened(1, ANNA, "phone"), said(2, A))

    assert isinstance(older.ended, TakenOver)
    assert CLOSED == older.state
    assert ([], [2]) == (older.heard, newer.heard)
    assert 1 == hub.sessions


def test_a_session_that_opens_on_another_comet_closes_the_one_here(hub: Hub) -> None:
    here = alive(hub, ANNA, "phone", rooms=[A])

    give(hub, said(1, A), opened(2, ANNA, "phone"), said(3, A))

    assert isinstance(here.ended, TakenOver)
    assert ({}, {}) == (hub.people, hub.audiences)


def ended(position: int, fact: Fact) -> Recorded:
    return happened(position, f"{USER}{ANNA}", fact, mid=ANNA)


def logged_in(session: Listener, sid: str, as_of: int = 0) -> Listener:
    session.sid, session.as_of = sid, as_of
    return session


@pytest.mark.parametrize("is_live", [True, False])
def test_a_logout_ends_the_sessions_of_that_login_after_what_was_said_before_it(hub: Hub, is_live: bool) -> None:
    make = alive if is_live else behind
    phone, desk = (
        logged_in(make(hub, ANNA, "phone", rooms=[A]), "s"),
        logged_in(make(hub, ANNA, "desk", rooms=[A]), "t"),
    )
    ben = alive(hub, BEN, "ben", rooms=[A])

    give(hub, said(1, A), ended(2, LoggedOut(mid=ANNA, sids=("s", "u"), everywhere=False)), said(3, A))

    assert isinstance(phone.ended, Unauthenticated)
    assert CLOSED == phone.state
    assert ([1] if is_live else []) == phone.heard
    assert desk.ended is None
    assert ([1, 2, 3] if is_live else []) == desk.heard
    assert [1, 3] == ben.heard


@pytest.mark.parametrize(
    "fact",
    [
        LoggedOut(mid=ANNA, sids=(), everywhere=True),
        AccountSuspended(mid=ANNA, reason="", sids=()),
        AccountDeactivated(mid=ANNA, sids=()),
        PlatformRoleChanged(mid=ANNA, role="admin"),
    ],
    ids=lambda fact: fact.type,
)
def test_what_ends_all_logins_ends_every_session_whose_token_knew_less(hub: Hub, fact: Fact) -> None:
    """One that is of a later token stays: a comet may come to the event when its person has logged in anew."""
    old, new = logged_in(alive(hub, ANNA, "old"), "s", as_of=1), logged_in(alive(hub, ANNA, "new"), "t", as_of=3)
    word = alive(hub, ANNA, "without a token")
    ben = alive(hub, BEN, "ben")

    give(hub, said(1, A), said(2, A), ended(3, fact), said(4, A))

    assert isinstance(old.ended, Unauthenticated)
    assert isinstance(word.ended, Unauthenticated)
    is_over = not isinstance(fact, PlatformRoleChanged)
    assert is_over == ("over" in str(old.ended)), "a login with another role goes on, with a fresh token"
    assert (None, None) == (new.ended, ben.ended)
    assert [3] == new.heard


def test_a_session_is_not_closed_by_its_own_opening_nor_by_an_earlier_one(hub: Hub) -> None:
    give(hub, *(said(n, C) for n in range(1, 3)))
    phone = behind(hub, ANNA, "phone", opened=4, start=2)

    give(hub, opened(3, ANNA, "phone"), opened(4, ANNA, "phone"), opened(5, ANNA, "desk"))

    assert phone.ended is None


def test_an_older_session_that_comes_later_is_refused(hub: Hub) -> None:
    newer = alive(hub, ANNA, "phone", opened=0)
    older = Listener(ANNA, "phone")
    older.opened = -1
    person = hub.hold(ANNA)

    assert not hub.add(older, person, 0)

    hub.release(person)
    assert LIVE == newer.state
    assert [newer] == list(hub.people[ANNA].sessions.values())


def test_an_older_session_that_comes_later_is_refused_if_the_newer_is_on_another_comet(hub: Hub) -> None:
    """Its opening took long; meanwhile the client had tried elsewhere."""
    older = Listener(ANNA, "phone")
    person = hub.hold(ANNA)
    give(hub, opened(1, ANNA, "phone"), opened(2, ANNA, "phone"))
    hub.know(person, 2, {})
    older.opened = 1

    assert not hub.add(older, person, 0)

    hub.release(person)
    assert ({}, {}) == (hub.people, hub.audiences)


def test_openings_are_remembered_only_while_somebody_is_opening(hub: Hub) -> None:
    alive(hub, ANNA, "desk")
    person = hub.hold(ANNA)
    give(hub, opened(1, ANNA, "phone"))
    assert {"phone": 1} == person.opened

    hub.release(person)
    give(hub, opened(2, ANNA, "phone"))

    assert {} == person.opened


# --- what a client accepts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [V1_TCP, V1_WS])
def test_version_1_gets_messages_of_the_operations_that_it_accepts_and_nothing_else(hub: Hub, codec: int) -> None:
    some = alive(hub, ANNA, "some", rooms=[A], codec=codec, accepts=[1000, 1002])
    none = alive(hub, BEN, "none", rooms=[A], codec=codec, accepts=[])

    give(hub, said(1, A), said(2, A, op=1001), joined(3, A, CARA), said(4, A, op=1002))

    assert [1, 4] == some.heard
    assert [] == none.heard
    assert [1000, 1002] == [packet.op for data in some.written for packet in packets(codec, data)]


@pytest.mark.parametrize("codec", [V2_TCP, V2_WS, JSON_WS])
def test_version_2_filters_messages_but_never_what_happens_to_the_room(hub: Hub, codec: int) -> None:
    anna = alive(hub, ANNA, "anna", rooms=[A], codec=codec, accepts=[1001])

    give(hub, said(1, A), joined(2, A, CARA), said(3, A, op=1001))

    assert [2, 3] == anna.heard


def test_ones_own_messages_are_left_out_of_what_one_accepts(hub: Hub) -> None:
    anna = alive(hub, ANNA, "anna", rooms=[A], codec=V1_TCP, accepts=[1000])
    alive(hub, BEN, "ben", rooms=[A])

    give(hub, said(1, A, mid=ANNA, key="anna"), said(2, A, op=1001), said(3, A))

    assert [3] == anna.heard


def test_a_page_is_filtered_as_a_live_session_is(hub: Hub) -> None:
    give(hub, *(said(n, C) for n in range(1, 6)))
    anna = behind(hub, ANNA, "anna", rooms={A: 0, B: 4}, live=[STAGE], accepts=[1000], start=0)
    anna.entered[ROOM + STAGE] = 5
    events = [
        said(1, A), said(2, A, op=1001), said(3, A, mid=ANNA, key="anna"), joined(4, B, ANNA), said(5, STAGE),
        said(6, STAGE), said(7, C), pushed(8, f"{USER}{ANNA}"), pushed(9, f"{KEY}anna"), pushed(10, f"{KEY}ben"), pushed(11, ALL),
    ]  # fmt: skip

    assert [1, 4, 6, 8, 9, 11] == numbers(filtered(events, hub.entitled(anna), anna))


# --- order -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_leave_in_order_of_position_over_all_rooms_and_in_one_write(hub: Hub, codec: int) -> None:
    anna = alive(hub, ANNA, "anna", rooms=[A, B], codec=codec)

    give(hub, said(1, A), said(2, B), said(3, B), said(4, A), said(5, C), said(6, A), pushed(7, ALL))

    assert [1, 2, 3, 4, 6, 7] == anna.heard
    assert 1 == len(anna.written)


def test_a_run_of_one_room_is_one_frame_even_if_others_spoke_where_nobody_listens(hub: Hub) -> None:
    anna = alive(hub, ANNA, "anna", rooms=[A, B], codec=V2_WS)

    give(hub, said(1, A), said(2, C), said(3, A), said(4, B), said(5, A))

    (data,) = anna.written
    assert [[1, 3], [4], [5]] == [[position_of(packet) for packet in inside(V2_WS, frame)] for frame in frames(data)]


def test_batches_of_several_applies_gather_until_the_flush(hub: Hub) -> None:
    anna = alive(hub, ANNA, "anna", rooms=[A])

    hub.apply([said(1, A)])
    hub.apply([said(2, A)])
    assert ([], True) == (anna.heard, hub.waiting)
    assert 1 == hub.flush()

    assert ([1, 2], False) == (anna.heard, hub.waiting)
    assert 0 == hub.flush()


@pytest.mark.parametrize("codec", CODECS)
def test_sessions_of_one_codec_are_written_the_very_same_bytes(hub: Hub, codec: int) -> None:
    accepts = None if codec > V1_WS else [1000]
    anna = alive(hub, ANNA, "anna", rooms=[A], codec=codec, accepts=accepts)
    ben = alive(hub, BEN, "ben", rooms=[A], codec=codec, accepts=accepts)

    give(hub, said(1, A), said(2, A))

    assert anna.written[0] is ben.written[0]


def test_sessions_that_accept_the_same_of_a_run_share_its_bytes_too(hub: Hub) -> None:
    """Whatever else they accept."""
    anna = alive(hub, ANNA, "anna", rooms=[A], codec=V1_WS, accepts=[1000, 7])
    ben = alive(hub, BEN, "ben", rooms=[A], codec=V1_WS, accepts=[1000, 8])

    give(hub, said(1, A), said(2, A, op=1001))

    assert anna.written[0] is ben.written[0]


# --- nothing is kept ---------------------------------------------------------------------------------------------------------


def test_when_the_last_session_goes_nothing_of_it_is_kept(hub: Hub) -> None:
    sessions = [
        alive(hub, ANNA, "phone", rooms=[A, B], live=[STAGE]),
        behind(hub, ANNA, "desk"),
        alive(hub, BEN, "ben", rooms=[A]),
    ]
    hub.apply([said(1, A), joined(2, C, ANNA), entered(3, sessions[0], HALL), said(4, HALL)])
    assert (2, 3) == (len(hub.people), hub.sessions)

    for session in sessions:
        hub.remove(session)

    assert ({}, {}, 0) == (hub.people, hub.audiences, hub.sessions)
    hub.flush()
    assert not hub.waiting


def test_removing_a_session_again_or_one_that_was_never_added_does_nothing(hub: Hub) -> None:
    anna, stranger = alive(hub, ANNA, "anna"), Listener(BEN, "ben")

    for session in (anna, anna, stranger, stranger):
        hub.remove(session)

    assert 0 == hub.sessions
    assert CLOSED == stranger.state


def test_an_ended_session_gets_nothing_of_what_was_handed_out(hub: Hub) -> None:
    anna, ben = alive(hub, ANNA, "anna", rooms=[A]), alive(hub, BEN, "ben", rooms=[A])
    hub.apply([said(1, A)])

    hub.remove(anna)
    hub.flush()

    assert ([], [1]) == (anna.heard, ben.heard)


def test_a_person_is_kept_while_somebody_holds_it_and_no_longer(hub: Hub) -> None:
    first, second = hub.hold(ANNA), hub.hold(ANNA)
    assert first is second

    hub.release(first)
    assert {ANNA: first} == hub.people
    hub.release(second)

    assert {} == hub.people


def test_a_person_with_sessions_is_known_already(hub: Hub) -> None:
    """What was read for a second connection is older than what the hub knows by itself."""
    alive(hub, ANNA, "phone", rooms=[A])
    give(hub, joined(1, B, ANNA))
    desk = alive(hub, ANNA, "desk", rooms=[C])

    give(hub, said(2, A), said(3, B), said(4, C))

    assert [2, 3] == desk.heard


def test_streams_that_grew_are_forgotten_when_there_are_too_many(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "FRESH_STREAMS_MAX", 2)
    anna = behind(hub, ANNA, "anna", rooms=[A])

    give(hub, said(1, B), said(2, C))
    assert (False, 2) == (hub.is_fresh(anna, hub.entitled(anna)), len(hub.fresh))
    give(hub, said(3, "group://d"))

    assert (None, 0) == (hub.is_fresh(anna, hub.entitled(anna)), len(hub.fresh))


def test_delivery_marks_that_pass_by_are_remembered_the_latest_ones(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MARKS_MAX", 2)

    def acked(position: int, key: str, upto: int) -> Recorded:
        return of_session(position, DeliveryAcked(key=key, position=upto), mid=ANNA, key=key)

    closed = SessionClosed(key="desk", opened=0, reason="lost", delivered=5)
    give(hub, acked(1, "phone", 9), of_session(2, closed, mid=ANNA, key="desk"), acked(3, "phone", 4))
    assert {(ANNA, "phone"): 9, (ANNA, "desk"): 5} == hub.marks

    give(hub, acked(4, "watch", 1))
    assert {(ANNA, "phone"): 9, (ANNA, "watch"): 1} == hub.marks


# --- sessions of one person on all comets ------------------------------------------------------------------------------------


def closed(position: int, mid: int, key: str, opened_at: int, reason: str = "closed") -> Recorded:
    """By the person's comet, or by whoever ends it for another."""
    fact = SessionClosed(key=key, opened=opened_at, reason=reason, delivered=None)
    return happened(position, f"session:{mid}", fact)


def everywhere(hub: Hub, mid: int, stored: Mapping[str, int] | None = None) -> dict[str, int]:
    """The open sessions of a person, of whom so many were stored."""
    person = hub.hold(mid)
    hub.count(person, stored or {})
    hub.release(person)
    return person.everywhere


def test_open_sessions_are_those_that_were_stored_and_what_went_by_since() -> None:
    hub = Hub(10, LIVE_TYPES)
    give(
        hub, opened(11, ANNA, "new"), opened(12, ANNA, "gone"), closed(13, ANNA, "gone", 12), closed(14, ANNA, "old", 7)
    )
    give(hub, opened(15, ANNA, "again"), closed(16, ANNA, "again", 9), opened(17, BEN, "new"))

    assert {"older": 8, "new": 11, "again": 15} == everywhere(hub, ANNA, {"old": 7, "older": 8, "again": 9})


def test_the_end_of_an_older_session_says_nothing_of_the_newer_one_that_is_stored() -> None:
    """Its comet was late; the opening of the newer one went by before this hub began."""
    hub = Hub(10, LIVE_TYPES)
    give(hub, closed(11, ANNA, "k", 5))

    assert {"k": 8} == everywhere(hub, ANNA, {"k": 8})


def test_what_was_stored_ahead_of_the_hub_counts(hub: Hub) -> None:
    give(hub, opened(1, ANNA, "k"))

    assert {"k": 9} == everywhere(hub, ANNA, {"k": 9})


def test_sessions_that_were_counted_are_followed(hub: Hub) -> None:
    """Whoever comes next need not ask again."""
    person = hub.hold(ANNA)
    hub.count(person, {"phone": 1, "web": 2})
    give(hub, opened(1, ANNA, "phone"), opened(2, ANNA, "web"), opened(3, ANNA, "desk"), opened(4, BEN, "phone"))
    give(hub, closed(5, ANNA, "web", 2), opened(6, ANNA, "phone"), closed(7, ANNA, "phone", 1))

    assert {"phone": 6, "desk": 3} == person.everywhere


def test_sessions_that_went_by_are_forgotten_when_there_are_too_many(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of whom nothing was heard for longest; what is stored says the rest."""
    monkeypatch.setattr(hub_module, "SESSIONS_MAX", 3)
    give(hub, opened(1, ANNA, "a"), opened(2, BEN, "a"), opened(3, ANNA, "b"), opened(4, CARA, "a"))

    assert {"a": 1, "b": 3} == everywhere(hub, ANNA)
    assert {} == everywhere(hub, BEN)
    assert {"a": 4} == everywhere(hub, CARA)


@pytest.mark.parametrize(("reason", "error"), [("displaced", Displaced), ("node_lost", GoingAway)])
def test_a_session_that_somebody_else_has_closed_ends(
    hub: Hub, reason: str, error: type[Displaced | GoingAway]
) -> None:
    """And no other: not one of another key, and not one that was opened later."""
    give(hub, opened(1, ANNA, "phone"), opened(2, ANNA, "desk"))
    anna, newer = alive(hub, ANNA, "phone", opened=1), alive(hub, ANNA, "desk", opened=2)
    give(hub, closed(3, ANNA, "phone", 1, reason), closed(4, ANNA, "desk", 1, reason))

    assert isinstance(anna.ended, error)
    assert CLOSED == anna.state
    assert newer.ended is None
    assert LIVE == newer.state
    assert (reason == "node_lost") == hub.is_given_up


def test_the_end_of_a_session_elsewhere_does_not_say_that_this_comet_was_given_up(hub: Hub) -> None:
    give(hub, opened(1, ANNA, "phone"), closed(2, ANNA, "phone", 1, "node_lost"))

    assert not hub.is_given_up


# --- who was here before -----------------------------------------------------------------------------------------------------


def remembering(people: int) -> Hub:
    return Hub(0, LIVE_TYPES, remembered_max=people)


def visit(hub: Hub, mid: int, key: str, *rooms: str) -> None:
    """Somebody comes, is read of, and goes."""
    person = hub.hold(mid)
    hub.know(person, hub.position, {ROOM + room: 0 for room in rooms})
    hub.learn(person, key, Place(hub.position, 0), {key: 0}, {}, 0)
    hub.release(person)


def test_of_who_has_gone_rooms_and_marks_are_followed() -> None:
    hub = remembering(1)
    visit(hub, ANNA, "anna", A)
    give(
        hub,
        joined(1, B, ANNA),
        removed(2, A, ANNA),
        of_session(3, DeliveryAcked(key="anna", position=2), mid=ANNA, key="anna"),
    )
    person = hub.hold(ANNA)

    assert Place(0, 0) == person.place("anna", None)
    assert ({ROOM + B: 1}, {"anna": 2}) == (person.rooms, person.marks)
    assert [(ROOM + A, Left(2, 0, MemberRemoved.type))] == hub.left_since(person, 1)
    assert [] == hub.left_since(person, 2)


def test_who_went_first_is_forgotten_first() -> None:
    hub = remembering(2)
    for mid in (ANNA, BEN, CARA, BEN):
        visit(hub, mid, "k")

    assert [CARA, BEN] == list(hub.remembered)
    assert hub.people == hub.remembered


def test_guests_and_who_was_never_read_of_are_forgotten_at_once() -> None:
    hub = remembering(2)
    visit(hub, -7, "k")
    hub.release(hub.hold(ANNA))

    assert {} == hub.people


def test_another_device_of_who_is_known_must_be_read_of_and_a_key_just_made_must_not() -> None:
    """In the stream of a key that nobody knew is nothing."""
    hub = remembering(1)
    visit(hub, ANNA, "phone")
    person = hub.hold(ANNA)

    assert person.place("desk", None) is None
    assert Place(0, 0) == person.place("", None)


def test_a_device_that_was_away_for_longer_than_departures_are_known_must_be_read_of() -> None:
    hub = remembering(1)
    give(hub, said(1, A), said(2, A))
    person = hub.hold(ANNA)
    hub.know(person, 2, {})
    hub.learn(person, "k", Place(2, 0), {"k": 2}, {}, 2)

    assert Place(2, 0) == person.place("k", 2)
    assert person.place("k", 1) is None


def test_departures_that_the_hub_has_not_come_to_are_told_when_it_comes_to_them() -> None:
    """Who is told earlier would still hear what was said before."""
    hub = remembering(1)
    person = hub.hold(ANNA)
    hub.know(person, 2, {})
    hub.learn(person, "k", Place(2, 0), {"k": 0}, {ROOM + A: Left(2, 0, MemberRemoved.type)}, 0)

    assert [] == hub.left_since(person, 0)
    give(hub, said(1, A), removed(2, A, ANNA))
    assert [(ROOM + A, Left(2, 0, MemberRemoved.type))] == hub.left_since(person, 0)


def test_who_has_too_many_rooms_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is kept of many has a bound."""
    monkeypatch.setattr("imcore.comet.hub.REMEMBERED_ROOMS_MAX", 2)
    hub = remembering(3)
    visit(hub, ANNA, "k", A)
    visit(hub, BEN, "k", A, B)
    visit(hub, CARA, "k", A, B, "group://c")

    assert {ANNA, BEN} == set(hub.people)


def test_too_many_departures_are_forgotten_together_and_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imcore.comet.hub.LEFT_MAX", 1)
    hub = remembering(1)
    visit(hub, ANNA, "k", A, B)
    give(hub, left(1, A, ANNA), left(2, B, ANNA))
    hub.release(hub.hold(ANNA))
    person = hub.hold(ANNA)

    assert person.place("k", 1) is None
    assert Place(0, 0) == person.place("k", 2)


# --- memberships read while the log moves ------------------------------------------------------------------------------------


def test_what_the_log_says_after_the_head_of_the_reading_wins(hub: Hub) -> None:
    person = hub.hold(ANNA)
    give(hub, joined(1, A, ANNA), left(2, B, ANNA), joined(3, C, ANNA), left(4, A, ANNA))

    hub.know(person, 2, {ROOM + A: 1, ROOM + "group://d": -5})

    assert {ROOM + C: 3, ROOM + "group://d": -5} == person.rooms


def test_what_the_log_said_before_the_head_of_the_reading_is_in_it_already(hub: Hub) -> None:
    """The join at 1 was undone at 3, where the hub has not come to."""
    person = hub.hold(ANNA)
    give(hub, joined(1, A, ANNA), left(2, B, ANNA))

    hub.know(person, 4, {ROOM + B: 1})

    assert {ROOM + B: 1} == person.rooms


def test_a_join_that_the_hub_has_not_come_to_lets_nobody_in_before_it(hub: Hub) -> None:
    """The database was ahead of the hub when the memberships were read."""
    anna = alive(hub, ANNA, "anna", rooms={A: 2})

    give(hub, said(1, A), joined(2, A, ANNA), said(3, A))

    assert [2, 3] == anna.heard


def test_a_second_reading_changes_nothing(hub: Hub) -> None:
    """Two connections of a person open at once."""
    person = hub.hold(ANNA)
    hub.hold(ANNA)
    hub.know(person, 0, {ROOM + A: 0})
    give(hub, left(1, A, ANNA))

    hub.know(person, 0, {ROOM + A: 0})

    assert {} == person.rooms


def test_a_session_is_added_only_to_a_person_whose_memberships_are_known(hub: Hub) -> None:
    with pytest.raises(AssertionError, match="memberships are read"):
        hub.add(Listener(ANNA, "anna"), hub.hold(ANNA), 0)


def test_a_session_is_never_ahead_of_the_hub(hub: Hub) -> None:
    person = hub.hold(ANNA)
    hub.know(person, 0, {})

    with pytest.raises(AssertionError, match="never ahead"):
        hub.add(Listener(ANNA, "anna"), person, 1)


# --- behind, and back --------------------------------------------------------------------------------------------------------


def test_who_is_behind_gets_nothing_from_the_flush(hub: Hub) -> None:
    anna = behind(hub, ANNA, "anna", rooms=[A])

    give(hub, said(1, A))

    assert ([], 0) == (anna.heard, anna.position)


def test_a_session_turns_live_when_it_has_come_to_the_hub_and_not_before(hub: Hub) -> None:
    anna = behind(hub, ANNA, "anna", rooms=[A])
    hub.apply([said(1, A), said(2, A)])

    anna.position = 1
    assert not hub.settle(anna)
    anna.position = 2
    assert hub.settle(anna)

    give(hub, said(3, A))
    assert [3] == anna.heard


def test_what_waited_when_a_session_turned_live_was_read_and_is_not_written_again(hub: Hub) -> None:
    anna, ben = behind(hub, ANNA, "anna", rooms=[A]), alive(hub, BEN, "ben", rooms=[A])
    hub.apply([said(1, A)])
    anna.position = 1

    assert hub.settle(anna)
    hub.apply([said(2, A)])
    hub.flush()

    assert ([2], [1, 2]) == (anna.heard, ben.heard)


def test_only_who_is_behind_and_has_room_in_its_socket_turns_live(hub: Hub) -> None:
    anna = behind(hub, ANNA, "anna")

    anna.full = True
    assert not hub.settle(anna)
    anna.full = False
    assert hub.settle(anna)
    assert not hub.settle(anna)
    hub.remove(anna)
    assert not hub.settle(anna)


def test_who_falls_behind_before_the_flush_reads_from_the_last_flush_on(hub: Hub) -> None:
    anna = alive(hub, ANNA, "anna", rooms=[A, B])
    give(hub, said(1, A))
    hub.apply([said(2, A), joined(3, B, BEN), said(4, A)])

    hub.fall_behind(anna)
    hub.flush()

    assert [1] == anna.heard
    assert (BEHIND, 1) == (anna.state, anna.position)


def test_who_falls_behind_by_what_the_flush_writes_has_that(hub: Hub) -> None:
    anna, ben = alive(hub, ANNA, "anna", rooms=[A]), alive(hub, BEN, "ben", rooms=[A])
    anna.on_write = lambda: hub.fall_behind(anna)

    give(hub, said(1, A), said(2, A))
    give(hub, said(3, A))

    assert ([1, 2], [1, 2, 3]) == (anna.heard, ben.heard)
    assert (BEHIND, 2) == (anna.state, anna.position)


def test_who_falls_behind_in_the_middle_of_a_flush_loses_and_repeats_nothing(hub: Hub) -> None:
    """Whether its turn was before or comes after: when the flush is over it has everything up to there."""
    sessions = [alive(hub, mid, f"{mid}", rooms=[A]) for mid in (ANNA, BEN, CARA)]
    first, middle, last = sessions

    def all_fall_behind() -> None:
        for session in sessions:
            hub.fall_behind(session)

    middle.on_write = all_fall_behind

    give(hub, said(1, A))

    for session in sessions:
        assert [1] == session.heard
        assert (BEHIND, 1) == (session.state, session.position)
    assert first.out is last.out is None


def test_who_turned_live_after_the_last_flush_falls_back_to_there_and_no_further(hub: Hub) -> None:
    """It has read what the others have not been written yet."""
    anna = behind(hub, ANNA, "anna", rooms=[A])
    hub.apply([said(1, A), said(2, A)])
    anna.position = 2
    assert hub.settle(anna)

    hub.fall_behind(anna)

    assert (BEHIND, 2) == (anna.state, anna.position)


def test_falling_behind_again_changes_nothing(hub: Hub) -> None:
    anna = behind(hub, ANNA, "anna")
    give(hub, said(1, C))

    hub.fall_behind(anna)

    assert (BEHIND, 0) == (anna.state, anna.position)


def test_who_comes_back_before_the_flush_is_written_once(hub: Hub) -> None:
    """It stands twice in the list of those to be written to."""
    anna, ben = alive(hub, ANNA, "anna", rooms=[A]), behind(hub, BEN, "ben", rooms=[A])
    hub.apply([said(1, A)])
    ben.position = 1
    hub.settle(ben)  # hands out
    hub.fall_behind(anna)
    anna.position = 1
    hub.settle(anna)
    hub.apply([said(2, A)])

    hub.flush()

    assert ([2], [2]) == (anna.heard, ben.heard)


def test_one_is_entitled_to_a_room_from_the_join_on_and_to_pushes_to_everybody_from_the_beginning_on(hub: Hub) -> None:
    give(hub, *(said(n, C) for n in range(1, 10)))
    anna = behind(hub, ANNA, "anna", rooms={A: 1, B: 7}, live=[STAGE], opened=8, start=4)
    anna.floor = 6

    assert {
        ROOM + A: 4,
        ROOM + B: 6,
        ROOM + STAGE: 8,
        f"{USER}{ANNA}": 4,
        f"{KEY}anna": 4,
        ALL: 6,
    } == hub.entitled(anna)


def test_it_is_known_whether_a_session_misses_anything(hub: Hub) -> None:
    anna = behind(hub, ANNA, "anna", rooms=[A])

    give(hub, said(1, B))
    assert hub.is_fresh(anna, hub.entitled(anna)) is False
    give(hub, said(2, A))
    assert hub.is_fresh(anna, hub.entitled(anna)) is True
    anna.position = 2
    assert hub.is_fresh(anna, hub.entitled(anna)) is False


def test_of_what_was_before_the_hub_began_nothing_is_known() -> None:
    hub = Hub(10, LIVE_TYPES)

    anna = behind(hub, ANNA, "anna", start=9)
    ben = behind(hub, BEN, "ben", start=10)

    assert hub.is_fresh(anna, hub.entitled(anna)) is None
    assert hub.is_fresh(ben, hub.entitled(ben)) is False


def test_other_events_of_a_session_reach_nobody(hub: Hub) -> None:
    anna = alive(hub, ANNA, "anna")

    give(hub, recorded(1, f"session:{ANNA}", "ops_accepted", '{"key":"anna","ops":null}', mid=ANNA, key="anna"))

    assert [] == anna.heard
