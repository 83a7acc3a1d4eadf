"""What becomes of a guest's memberships when its login is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from accounts.place import CHEAP, somebody
from api.place import Place, serving
from imcore import failpoints
from imcore.accounts import accounts, queries
from imcore.accounts.decisions import ExpireLogins
from imcore.events.types import ROOM, SERVICE_MID, Fact, LoginExpired, MemberLeft, RoleChanged
from imcore.membership import ChooseVisibility, Join
from imcore.permissions import person
from imcore.projections import PROJECTIONS
from imcore.projections.rebuild import audit, rebuild

R = "group://1"
PATH = "/v1/rooms/group/1"
End = Callable[[Place, dict[str, Any]], Awaitable[None]]


async def a_guest(place: Place, *rooms: str) -> dict[str, Any]:
    """A guest who has joined these rooms."""
    who: dict[str, Any] = (await place.post("/v1/guests", token="", json={})).json
    for room in rooms:
        joined = await place.post(f"/v1/rooms/{room.replace('://', '/')}/join", token=who["token"])
        assert joined.status in (200, 201), joined.raw
    return who


async def owning(place: Place, room: str, mid: int, *others: int, role: str = "member") -> None:
    """A room that `mid` owns, and in which these others are, who came in in this order."""
    await place.room(room, mid)
    path = f"/v1/rooms/{room.replace('://', '/')}"
    assert 200 == (await place.put(f"{path}/owner", json={"mid": mid})).status
    for other in others:
        assert 201 == (await place.post(f"{path}/members", json={"mid": other, "role": role})).status


async def in_room(place: Place, room: str = R) -> dict[int, str]:
    """Who is in it, as what."""
    return {
        row["mid"]: row["role"] for row in await place.pool.fetch("SELECT mid, role FROM members WHERE room = $1", room)
    }


async def said(place: Place, *types: type[Fact], room: str = R) -> list[tuple[int, Fact]]:
    """What happened in the room, of these types, and who did it."""
    events = await place.reads.reader.read(0, 10_000)
    names = {one.type for one in types}
    return [(one.mid, one.fact) for one in events if one.stream == ROOM + room and one.type in names]


async def expire(place: Place, *guests: dict[str, Any]) -> None:
    """As if they had not refreshed their logins for long."""
    sids = [who["sid"] for who in guests]
    late = "UPDATE refresh_tokens SET expires_at = now() - interval '1 minute' WHERE sid = ANY($1::text[])"
    await place.pool.execute(late, sids)


async def logs_out(place: Place, who: dict[str, Any]) -> None:
    assert 200 == (await place.post("/v1/logout", token=who["token"], json={})).status


async def logs_out_everywhere(place: Place, who: dict[str, Any]) -> None:
    assert 200 == (await place.post("/v1/logout", token=who["token"], json={"everywhere": True})).status


async def removes_its_device(place: Place, who: dict[str, Any]) -> None:
    assert 200 == (await place.delete(f"/v1/devices/{who['auth']['key']}", token=who["token"])).status


async def expires(place: Place, who: dict[str, Any]) -> None:
    await expire(place, who)
    await place.accounts.sweep()


async def is_lost(place: Place, who: dict[str, Any]) -> None:
    """Its refresh token is gone, and its login is there."""
    await place.pool.execute("DELETE FROM refresh_tokens WHERE sid = $1", who["sid"])
    await place.accounts.sweep()


ENDS: list[End] = [logs_out, logs_out_everywhere, removes_its_device, expires, is_lost]


async def are_the_folds(place: Place) -> None:
    """Is every projection what the log says?"""
    await place.followed()
    for projection in PROJECTIONS.values():
        found = await audit(place.pool, projection)
        assert (found.differences, found.failures) == ([], []), projection.name


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_a_guest_is_in_no_room_when_its_login_is_over(guarded: Place, end: End) -> None:
    """There is place for somebody else then. What it said stays, and others stay."""
    await guarded.room(R, 7, members_max=3)
    await guarded.room("group://2", 7)
    stays, goes = await a_guest(guarded, R), await a_guest(guarded, R, "group://2")
    message = {"id": "0b2f24a3-6d8b-4f0f-8a0e-1d1f7e0f3c11", "body": "hello"}
    assert 201 == (await guarded.post(f"{PATH}/messages", token=goes["token"], json=message)).status
    comes = await somebody(guarded)
    assert 403 == (await guarded.post(f"{PATH}/join", token=comes["token"])).status

    await end(guarded, goes)

    assert {7: "member", stays["mid"]: "member"} == await in_room(guarded)
    assert {7: "member"} == await in_room(guarded, "group://2")
    assert [(SERVICE_MID, MemberLeft(room=R, mid=goes["mid"]))] == await said(guarded, MemberLeft)
    assert 201 == (await guarded.post(f"{PATH}/join", token=comes["token"])).status
    listed = (await guarded.get(f"{PATH}/members", token=comes["token"])).json["members"]
    assert {7, stays["mid"], comes["mid"]} == {one["mid"] for one in listed}
    history = (await guarded.get(f"{PATH}/messages")).json["events"]
    assert [(goes["mid"], "hello")] == [(one["mid"], one["body"]) for one in history if one["type"] == "message_sent"]
    await are_the_folds(guarded)
    await guarded.accounts.sweep()
    assert 1 == len(await said(guarded, MemberLeft)), "it leaves once"


async def test_who_is_no_guest_stays_in_its_rooms(guarded: Place) -> None:
    who = await somebody(guarded)
    await guarded.room(R, who["mid"])
    await logs_out(guarded, who)
    await guarded.accounts.sweep()

    assert {who["mid"]: "member"} == await in_room(guarded)


async def test_who_never_logged_in_and_has_a_negative_member_id_stays(database_url: str) -> None:
    """In mode open it is believed, and may come back; also when it says that all of its logins are over."""
    async with serving(database_url, **CHEAP) as place:
        await place.room(R, 7, -5, -6)
        await place.log.decide(ChooseVisibility("nobody", person(-6)))
        await place.accounts.end_logins(-5, [], -5, everywhere=True)
        goes = await a_guest(place, R)
        await logs_out(place, goes)
        await place.accounts.sweep()

        assert {7: "member", -5: "member", -6: "member"} == await in_room(place)


# --- whose room it is --------------------------------------------------------------------------------------------------------------


async def test_the_first_admin_owns_the_room_of_a_guest(guarded: Place) -> None:
    """In the same append, behind which there is an owner."""
    goes, other = await a_guest(guarded), await a_guest(guarded)
    await owning(guarded, R, goes["mid"], 5)
    for mid in (6, 7):
        await guarded.post(f"{PATH}/members", json={"mid": mid, "role": "admin"})
    await guarded.post(f"{PATH}/members", json={"mid": other["mid"], "role": "admin"})

    await logs_out(guarded, goes)

    heir, left = RoleChanged(room=R, mid=6, role="owner"), MemberLeft(room=R, mid=goes["mid"])
    assert [(SERVICE_MID, heir), (SERVICE_MID, left)] == (await said(guarded, RoleChanged, MemberLeft))[-2:]
    assert {5: "member", 6: "owner", 7: "admin", other["mid"]: "admin"} == await in_room(guarded)
    shown = (await guarded.get(PATH)).json
    assert ([6], 4) == (shown["owners"], shown["members"])
    await are_the_folds(guarded)


async def test_without_admins_it_is_who_has_been_there_longest_and_comes_back(guarded: Place) -> None:
    """Neither a guest, nor an account that was given up, as long as there is anybody else."""
    goes, guest, gone = await a_guest(guarded), await a_guest(guarded), await somebody(guarded)
    await owning(guarded, R, goes["mid"], gone["mid"], guest["mid"], 9, 8)
    assert 200 == (await guarded.delete("/v1/account", token=gone["token"])).status

    await logs_out(guarded, goes)
    assert "owner" == (await in_room(guarded))[9]

    for mid in (8, 9):
        assert 200 == (await guarded.delete(f"{PATH}/members/{mid}")).status
    assert 200 == (await guarded.put(f"{PATH}/owner", json={"mid": guest["mid"]})).status
    await logs_out(guarded, guest)
    assert {gone["mid"]: "owner"} == await in_room(guarded), "there is nobody else"


async def test_a_room_in_which_nobody_else_is_is_left_as_by_anybody(guarded: Place) -> None:
    goes = await a_guest(guarded)
    await owning(guarded, R, goes["mid"])

    await logs_out(guarded, goes)

    assert {} == await in_room(guarded)
    shown = (await guarded.get(PATH)).json
    assert ([], 0) == (shown["owners"], shown["members"])
    await are_the_folds(guarded)


async def test_a_room_that_is_not_the_guests_alone_keeps_its_owner(guarded: Place) -> None:
    goes = await a_guest(guarded)
    await owning(guarded, R, goes["mid"], 9)
    await guarded.post(f"{PATH}/members", json={"mid": 8, "role": "owner"})

    await logs_out(guarded, goes)

    assert {8: "owner", 9: "member"} == await in_room(guarded)


async def test_guests_who_go_together_give_the_room_on(guarded: Place) -> None:
    """From one to the next, until somebody stays."""
    guests = [await a_guest(guarded) for _ in range(4)]
    await owning(guarded, R, *(one["mid"] for one in guests))
    await expire(guarded, *guests[:3])

    assert 3 == await guarded.accounts.sweep()

    assert {guests[3]["mid"]: "owner"} == await in_room(guarded)
    await are_the_folds(guarded)


async def test_an_heir_who_has_left_meanwhile_is_not_made_owner(
    guarded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who is there still is, and never nobody."""
    goes = await a_guest(guarded)
    await owning(guarded, R, goes["mid"], 8, 9)
    to_leave = queries.to_leave

    async def and_then_8_leaves(*asked: Any) -> Sequence[queries.Place]:
        found = await to_leave(*asked)
        if 8 in await in_room(guarded):
            assert 200 == (await guarded.delete(f"{PATH}/members/8")).status
        return found

    monkeypatch.setattr(queries, "HEIRS_MAX", 1)
    monkeypatch.setattr(queries, "to_leave", and_then_8_leaves)
    await logs_out(guarded, goes)
    assert {goes["mid"]: "owner", 9: "member"} == await in_room(guarded)

    await guarded.accounts.sweep()

    assert {9: "owner"} == await in_room(guarded)


async def test_direct_rooms_and_rooms_that_are_dismissed_are_as_they_were(guarded: Place) -> None:
    goes = await a_guest(guarded)
    await guarded.room(R, goes["mid"], 7)
    assert 201 == (await guarded.put(f"/v1/direct/{goes['mid']}", mid=7)).status
    assert 200 == (await guarded.delete(PATH)).status
    before = {one: await in_room(guarded, one) for one in (R, f"direct://{goes['mid']}-7")}

    await expires(guarded, goes)

    assert before == {one: await in_room(guarded, one) for one in before}
    assert [2, 2] == [len(people) for people in before.values()]
    assert 0 == await guarded.pool.fetchval("SELECT count(*) FROM refresh_tokens"), "nothing of it waits"


# --- whoever dies ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("appends", [1, 2, 3])
@pytest.mark.parametrize("end", [logs_out, expires], ids=lambda end: end.__name__)
async def test_whoever_dies_between_the_end_and_the_last_leave_leaves_them_to_the_next(
    guarded: Place, monkeypatch: pytest.MonkeyPatch, end: End, appends: int
) -> None:
    """After the end of the login, or after some of the leaves: the next sweep sees to the rest, within a minute."""
    monkeypatch.setattr(accounts, "LEAVES_MAX", 1)
    rooms = [f"group://{n}" for n in range(4)]
    for room in rooms:
        await guarded.room(room, 7)
    goes = await a_guest(guarded, *rooms)
    if end is expires:
        await expire(guarded, goes)
        dies: Awaitable[Any] = guarded.accounts.sweep()
    else:
        dies = guarded.accounts.end_logins(goes["mid"], [goes["sid"]], goes["mid"])
    failpoints.arm(f"after_commit:error:{appends}")
    try:
        await asyncio.gather(dies, return_exceptions=True)
    finally:
        failpoints.arm("")
    left = sum([goes["mid"] not in await in_room(guarded, room) for room in rooms])
    assert left == min(appends - 1, 3 if end is expires else 1)
    assert 401 == (await guarded.post("/v1/refresh", token="", json={"refresh_token": goes["refresh_token"]})).status

    await guarded.accounts.sweep()

    assert [{7: "member"}] * 4 == [await in_room(guarded, room) for room in rooms]
    assert [1] * 4 == [len(await said(guarded, MemberLeft, room=room)) for room in rooms]
    await expire(guarded, goes)
    await guarded.accounts.sweep()
    assert 0 == await guarded.pool.fetchval("SELECT count(*) FROM refresh_tokens")
    await are_the_folds(guarded)


async def test_a_guest_who_came_in_while_it_went_goes_with_the_next_sweep(guarded: Place) -> None:
    """Its request passed a door that did not know yet."""
    await guarded.room(R, 7)
    goes = await a_guest(guarded)
    await logs_out(guarded, goes)
    await guarded.log.decide(Join(R, person(goes["mid"]), may_create=False))
    assert goes["mid"] in await in_room(guarded)

    await guarded.accounts.sweep()

    assert {7: "member"} == await in_room(guarded)


async def test_two_who_sweep_at_once_take_nobody_out_twice(guarded: Place) -> None:
    rooms = [f"group://{n}" for n in range(3)]
    for room in rooms:
        await guarded.room(room, 7)
    guests = [await a_guest(guarded, *rooms) for _ in range(3)]
    await expire(guarded, *guests)

    await asyncio.gather(*(guarded.accounts.sweep() for _ in range(3)))

    assert [3] * 3 == [len(await said(guarded, MemberLeft, room=room)) for room in rooms]
    assert [{7: "member"}] * 3 == [await in_room(guarded, room) for room in rooms]
    await are_the_folds(guarded)


async def test_guests_who_went_before_anybody_took_them_out_are_found_once_an_hour(
    guarded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept of them, but that their streams begin with a login: those of people do not."""
    monkeypatch.setattr(accounts, "SWEEP_LOGINS_MAX", 2)
    now = time.monotonic()
    monkeypatch.setattr(guarded.accounts, "_clock", lambda: now)
    await guarded.accounts.sweep()
    await guarded.room(R, 7, -1, -2, -3)
    ghosts, stays = [await a_guest(guarded, R) for _ in range(3)], await a_guest(guarded, R)
    await guarded.log.decide(ChooseVisibility("nobody", person(-2)))
    for who in ghosts:  # as the code of before did
        await guarded.log.decide(ExpireLogins([(who["mid"], who["sid"])]))
        await guarded.pool.execute("DELETE FROM refresh_tokens WHERE sid = $1", who["sid"])
    now += accounts.STRAYS_S - 1
    await guarded.accounts.sweep()
    assert [] == await said(guarded, MemberLeft)

    now += 1
    await guarded.accounts.sweep()

    assert {7, -1, -2, -3, stays["mid"]} == set(await in_room(guarded))
    for projection in PROJECTIONS.values():
        await rebuild(guarded.pool, projection)
    assert {7, -1, -2, -3, stays["mid"]} == set(await in_room(guarded))
    assert 3 == len([one for one in await guarded.reads.reader.read(0, 1_000) if one.type == LoginExpired.type])
