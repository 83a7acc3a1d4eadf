"""Who may see whom, when somebody was last heard of, and who of a room is online."""

from __future__ import annotations

from typing import Final

import pytest

from imcore import membership, nodes
from imcore.errors import HeartbeatTimeout
from imcore.events.types import (
    NODE_LOST,
    DeliveryAcked,
    Fact,
    MemberLeft,
    RoomDismissed,
    RoomsEntered,
    SessionClosed,
    SessionOpened,
    VisibilityChosen,
    VisibleTo,
    direct_room,
)
from imcore.permissions import person
from imcore.projections import queries, seen, visibility
from imcore.projections.projection import Key, fold
from imcore.projections.seen import COARSE_MS, Seen
from imcore.projections.visibility import Visibility
from projections.place import Place
from projections.test_folds import given
from projections.test_queries import NODE, follow

SMALL, LARGE = "group://small", "group://large"
ANNA, BEN, CARA = 1, 2, 3
SMALL_MAX: Final = 3


def at(log: list[tuple[int, Fact]], mid: int = 7) -> int | None:
    """When the person was last heard of, of facts at these times."""
    events = given(*(fact for _, fact in log), mid=mid)
    timed = [event._replace(time_ms=time_ms) for event, (time_ms, _) in zip(events, log, strict=True)]
    row = fold(seen.projection, timed).get((mid,))
    return None if row is None else row.at_ms


OPENED: Final = SessionOpened(key="phone", node="a")


def closed(reason: str) -> SessionClosed:
    return SessionClosed(key="phone", opened=1, reason=reason)


# --- last seen --------------------------------------------------------------------------------------------------------------------


def test_who_was_never_there_was_never_seen_and_guests_are_not_remembered() -> None:
    assert None is at([])
    assert None is at([(1_000, OPENED)], mid=-7)
    assert 1_000 == at([(1_000, OPENED)])


def test_somebody_was_last_seen_when_the_last_session_ended() -> None:
    assert 9_000 == at([(1_000, OPENED), (9_000, closed("closed"))])


def test_the_end_of_a_session_whose_comet_was_lost_says_nothing_of_when_the_person_was_there() -> None:
    """It may come a day later, when everything was down for a day."""
    assert 1_000 == at([(1_000, OPENED), (90_000_000, closed(NODE_LOST))])


def test_the_end_of_a_session_whose_client_fell_silent_says_nothing_of_when_the_person_was_there() -> None:
    """It is found out minutes after the last that was heard."""
    assert 1_000 == at([(1_000, OPENED), (481_000, closed(HeartbeatTimeout.code))])


def test_entering_a_room_is_being_there_and_acks_are_by_the_minute() -> None:
    entered = RoomsEntered(key="phone", opened=1, rooms=())
    acked = DeliveryAcked(key="phone", position=1)

    assert 2_000 == at([(1_000, OPENED), (2_000, entered)])
    assert 1_000 == at([(1_000, OPENED), (999 + COARSE_MS, acked)])
    assert 1_000 + COARSE_MS == at([(1_000, OPENED), (1_000 + COARSE_MS, acked)])


def test_last_seen_never_goes_back() -> None:
    """The clock of the database may."""
    assert 5_000 == at([(5_000, OPENED), (4_000, closed("closed"))])


async def test_last_seen_is_told_of_those_who_were_seen(here: Place) -> None:
    event = await here.in_session(ANNA, SessionOpened(key="phone", node="n"))
    await follow(here)

    assert {ANNA: event.time_ms} == await queries.seen(here.pool, [ANNA, BEN])
    assert {(ANNA,): Seen(event.time_ms)} == await here.rows(seen.projection)


# --- the choice -------------------------------------------------------------------------------------------------------------------


def test_there_is_a_row_only_for_who_keeps_it_from_somebody() -> None:
    def chosen(*choices: VisibleTo) -> dict[Key, Visibility]:
        return fold(visibility.projection, given(*(VisibilityChosen(mid=7, choice=one) for one in choices)))

    assert {} == chosen("everybody")
    assert {(7,): Visibility("contacts")} == chosen("nobody", "contacts")
    assert {} == chosen("nobody", "everybody")


async def test_a_choice_is_stored_once(here: Place) -> None:
    first = await here.log.decide(membership.ChooseVisibility("nobody", person(ANNA), key="phone"))
    again = await here.log.decide(membership.ChooseVisibility("nobody", person(ANNA)))
    default = await here.log.decide(membership.ChooseVisibility("everybody", person(BEN)))

    assert [("user:1", "visibility_chosen", ANNA, "phone")] == [
        (event.stream, event.type, event.mid, event.key) for event in first
    ]
    assert ([], []) == (again, default)
    assert {(ANNA,): Visibility("nobody")} == await here.rows(visibility.projection)
    await here.assert_rows_are_the_fold(visibility.projection)


# --- who may see whom -------------------------------------------------------------------------------------------------------------


async def sees(here: Place, viewer: int, mid: int) -> bool:
    return (await queries.sights(here.pool, [(viewer, mid)], SMALL_MAX))[viewer, mid]


async def choose(here: Place, mid: int, choice: VisibleTo) -> None:
    await here.log.decide(membership.ChooseVisibility(choice, person(mid)))


async def test_people_who_share_no_room_do_not_see_each_other(here: Place) -> None:
    await here.join(SMALL, ANNA)
    await here.join("group://other", BEN)

    assert not await sees(here, ANNA, BEN)
    assert not await sees(here, ANNA, 404)
    assert {} == await queries.sights(here.pool, [], SMALL_MAX)


async def test_a_room_shows_its_people_to_each_other_up_to_its_size(here: Place) -> None:
    await here.join(SMALL, ANNA, BEN, CARA)
    assert await sees(here, ANNA, BEN)
    await here.join(SMALL, 4)
    assert not await sees(here, ANNA, BEN)
    await here.in_room(MemberLeft(room=SMALL, mid=4), 4)
    assert await sees(here, ANNA, BEN)
    await here.in_room(MemberLeft(room=SMALL, mid=ANNA), ANNA)
    assert not await sees(here, ANNA, BEN)


@pytest.mark.parametrize(
    ("choice", "in_small", "in_direct"),
    [("everybody", True, True), ("contacts", False, True), ("nobody", False, False)],
)
async def test_each_person_chooses_who_of_them_it_is(
    here: Place, choice: VisibleTo, in_small: bool, in_direct: bool
) -> None:
    """And is seen so by them; that it sees them is their choice."""
    await here.join(SMALL, ANNA, BEN)
    await open_direct(here, BEN, CARA)
    await choose(here, BEN, choice)

    assert (in_small, in_direct) == (await sees(here, ANNA, BEN), await sees(here, CARA, BEN))
    assert await sees(here, BEN, ANNA)


async def open_direct(here: Place, mid: int, other: int) -> str:
    await here.log.decide(membership.OpenDirect(other, person(mid)))
    return direct_room(mid, other)


@pytest.mark.parametrize("follows", [True, False])
async def test_a_direct_room_shows_who_opened_it_and_the_other_once_it_wrote_there(here: Place, follows: bool) -> None:
    """Anybody can open one with anybody. Whether the rows of the inbox are there yet makes no difference."""
    room = await open_direct(here, ANNA, BEN)
    await here.send(room, ANNA, 3)
    assert (False, True) == (await sees(here, ANNA, BEN), await sees(here, BEN, ANNA))
    if follows:
        await follow(here)
        assert (False, True) == (await sees(here, ANNA, BEN), await sees(here, BEN, ANNA))

    await here.send(room, BEN)
    assert await sees(here, ANNA, BEN)
    if follows:
        await follow(here)
        assert await sees(here, ANNA, BEN)
    await choose(here, BEN, "contacts")
    assert await sees(here, ANNA, BEN)
    await choose(here, BEN, "nobody")
    assert not await sees(here, ANNA, BEN)


async def test_what_was_written_before_the_rows_begin_is_not_looked_for_in_other_rooms(here: Place) -> None:
    room = await open_direct(here, ANNA, BEN)
    await here.join(LARGE, ANNA, BEN, CARA, 4)
    await here.send(LARGE, BEN)

    assert not await sees(here, ANNA, BEN)
    await here.send(room, BEN)
    assert await sees(here, ANNA, BEN)


async def test_in_a_direct_room_nobody_is_shown_online_who_did_not_write_there(here: Place) -> None:
    await nodes.register(here.pool, NODE)
    room = await open_direct(here, ANNA, BEN)
    for mid in (ANNA, BEN):
        await here.in_session(mid, SessionOpened(key="phone", node="n"))
    await follow(here)

    async def online(viewer: int) -> tuple[list[int], list[int]]:
        lines = await queries.members_page(here.pool, room, None, 9, viewer=viewer, room_members_max=SMALL_MAX)
        devices = await queries.room_devices(here.pool, room, viewer, sees_all=False)
        return [line.mid for line in lines if line.online], list(devices)

    assert (([ANNA], [ANNA]), ([ANNA, BEN], [ANNA, BEN])) == (await online(ANNA), await online(BEN))
    await here.send(room, BEN)
    assert ([ANNA, BEN], [ANNA, BEN]) == await online(ANNA)


async def test_of_many_pairs_each_has_its_answer(here: Place) -> None:
    await here.join(SMALL, ANNA, BEN)
    await here.join(LARGE, ANNA, BEN, CARA, 4)
    pairs = [(ANNA, BEN), (BEN, ANNA), (ANNA, CARA), (CARA, 404)]

    assert dict(zip(pairs, (True, True, False, False), strict=True)) == await queries.sights(
        here.pool, pairs, SMALL_MAX
    )


# --- rooms ------------------------------------------------------------------------------------------------------------------------


async def test_a_room_tells_who_is_online_of_those_whom_one_may_see(here: Place) -> None:
    await nodes.register(here.pool, NODE)
    await here.join(SMALL, 1, 2, 3, 4, 5)
    await open_direct(here, 3, 1)
    opened = {
        mid: await here.in_session(mid, SessionOpened(key="phone", node="n", platform="ios")) for mid in (1, 2, 3, 4)
    }
    await here.in_session(5, SessionOpened(key="phone", node="gone"))
    await here.in_session(6, SessionOpened(key="phone", node="n"))
    for mid, choice in ((1, "nobody"), (3, "contacts"), (4, "nobody")):
        await choose(here, mid, choice)  # type: ignore[arg-type]  # a literal each
    await follow(here)

    async def seen_by(viewer: int, *, sees_all: bool = False) -> list[int]:
        return list(await queries.room_devices(here.pool, SMALL, viewer, sees_all=sees_all))

    assert [1, 2, 3] == await seen_by(1)
    assert [2] == await seen_by(2)
    assert [1, 2, 3, 4] == await seen_by(0, sees_all=True)
    assert (1, 4) == (
        await queries.room_online(here.pool, SMALL, sees_all=False),
        await queries.room_online(here.pool, SMALL, sees_all=True),
    )
    (device,) = (await queries.devices(here.pool, [2, 5]))[2]
    assert ("phone", opened[2].position, "ios", opened[2].time_ms) == device


@pytest.mark.parametrize("size_max", [5, 4])
async def test_the_list_of_members_shows_nobody_online_who_may_not_be_seen(here: Place, size_max: int) -> None:
    """In a room that is too large for it only contacts."""
    await nodes.register(here.pool, NODE)
    await here.join(SMALL, 1, 2, 3, 4, 5)
    await open_direct(here, 3, 1)
    for mid in (1, 4):
        await here.send(await open_direct(here, 4, 1), mid)
    for mid in (1, 2, 3, 4):
        await here.in_session(mid, SessionOpened(key="phone", node="n"))
    await choose(here, 3, "contacts")
    await choose(here, 4, "nobody")
    await follow(here)

    async def online(viewer: int) -> list[int]:
        lines = await queries.members_page(here.pool, SMALL, None, 9, viewer=viewer, room_members_max=size_max)
        assert [1, 2, 3, 4, 5] == [line.mid for line in lines]
        return [line.mid for line in lines if line.online]

    small = size_max == 5
    assert ([1, 2, 3] if small else [1, 3]) == await online(1)
    assert ([1, 2] if small else [2]) == await online(2)
    assert ([1, 2, 4] if small else [1, 4]) == await online(4)
    assert [1, 2, 3, 4] == await online(0)


async def test_whom_somebody_blocked_does_not_see_it_and_of_a_room_that_is_no_more_nobody_sees_anybody(
    here: Place,
) -> None:
    await here.join(SMALL, ANNA, BEN)
    await here.log.decide(membership.BlockPerson(ANNA, person(BEN)))
    assert (False, True) == (await sees(here, ANNA, BEN), await sees(here, BEN, ANNA))
    await here.log.decide(membership.UnblockPerson(ANNA, person(BEN)))
    assert await sees(here, ANNA, BEN)
    await here.in_room(RoomDismissed(room=SMALL))
    assert not await sees(here, ANNA, BEN)
