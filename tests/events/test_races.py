"""Two processes decide at the same moment about the same people; the log is read afterwards and shows no order that is forbidden.

IMCORE_RACES says how many rounds of each; 1,000 is what was promised, and takes some minutes. What came first, and how often, is
printed (`pytest -rP`): a race that one side always wins shows nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession

from api.place import serving
from badinput.wire import ACK, AUTH, DISCONNECT, JOIN, REMOVED, TCP2, Gone, Line, Packet, Where, claim, dialled
from events.at_work import AtWork, appending, message, whole_log
from imcore import membership
from imcore.accounts import decisions as accounts
from imcore.amending import EditMessage, RecallMessage, Target
from imcore.errors import ImcoreError
from imcore.events import messages
from imcore.events.store import Decision, Draft
from imcore.events.types import (
    MESSAGE_SENT,
    ROOM,
    AccountRegistered,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    MessageEdited,
    MessageRecalled,
    PlatformRoleChanged,
    Recorded,
    RoleChanged,
    RoomDismissed,
)
from imcore.permissions import SERVICE_ACTOR, Actor, person
from imcore.projections import rooms
from imcore.projections.projection import fold
from serving import serving as server

ROUNDS = int(os.environ.get("IMCORE_RACES", "20"))
OWNER, VICTIM, OTHER, MODERATOR = 1, 2, 3, 4
BY_OWNER = {"Imcore-Mid": str(OWNER)}


def report(orders: Counter[str]) -> None:
    """What came first."""
    print(f"{os.environ.get('PYTEST_CURRENT_TEST', '').split('::')[-1]}: {ROUNDS} rounds, {dict(orders)}")


def types_of(events: list[Recorded], room: str, *wanted: str) -> list[str]:
    """What happened in the room, of these types, in order."""
    return [event.type for event in of(events, room) if event.type in wanted]


async def race(chance: random.Random, *sides: tuple[AtWork, Draft | Decision]) -> list[str]:
    """All at once, in any order; what each was told. Which process does which is a matter of chance too: one of them has to look up the
    names of streams that the other has made, and would always come second."""
    order, places = list(range(len(sides))), [place for place, _ in sides]
    chance.shuffle(order)
    chance.shuffle(places)
    answers: dict[int, str] = {}

    async def ask(n: int) -> None:
        (told,) = await places[n].together(sides[n][1])
        outcome = told if isinstance(told, (list, ImcoreError)) else told.outcome
        answers[n] = outcome.code if isinstance(outcome, ImcoreError) else "ok"

    await asyncio.gather(*(ask(n) for n in order))
    return [answers[n] for n in range(len(sides))]


async def raced(
    here: AtWork, chance: random.Random, meeting: Callable[[str], Awaitable[tuple[Decision, Decision]]]
) -> list[list[str]]:
    """What each of two that meet in a room was told, in ROUNDS rooms."""
    async with appending(here.url) as elsewhere:
        answers = []
        for n in range(ROUNDS):
            one, other = await meeting(f"group://{n}")
            answers.append(await race(chance, (here, one), (elsewhere, other)))
    return answers


def of(events: list[Recorded], room: str) -> list[Recorded]:
    return [event for event in events if event.stream == ROOM + room]


def inside(events: list[Recorded]) -> set[int]:
    """Who is in the room after these events."""
    people: set[int] = set()
    for event in events:
        match event.fact if event.op == 0 else None:
            case MemberJoined(mid=mid):
                assert mid not in people, "nobody joins twice"
                people.add(mid)
            case MemberLeft(mid=mid) | MemberRemoved(mid=mid):
                assert mid in people, "nobody goes who is not there"
                people.remove(mid)
    return people


async def made(here: AtWork, room: str, *members: int) -> None:
    await here.log.decide(membership.CreateRoom(room, person(OWNER), members=members))


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_nobody_sends_after_their_removal(here: AtWork, chance: random.Random, road: str) -> None:
    async with appending(here.url) as elsewhere:
        told = []
        for n in range(ROUNDS):
            room = f"group://{n}"
            await made(here, room, VICTIM)
            kick = membership.RemoveMember(room, VICTIM, person(OWNER))
            one, other = chance.sample([here, elsewhere], 2)
            sends = one.tell if road == "drafts" else one.tell_decided
            kicked, sent = await asyncio.gather(
                other.log.decide(kick), sends(*(message(room, VICTIM) for _ in range(3)))
            )
            told.append((kicked, sent))
    events = await whole_log(here.pool)
    orders = Counter[str]()
    for n in range(ROUNDS):
        removed = next(event.position for event in of(events, f"group://{n}") if event.type == MemberRemoved.type)
        said = [event.position for event in of(events, f"group://{n}") if event.type == MESSAGE_SENT]
        assert all(position < removed for position in said)
        assert len(said) == sum(not isinstance(one.outcome, ImcoreError) for one in told[n][1])
        orders["sent, removed" if said else "removed"] += 1
    report(orders)


async def test_of_a_kick_and_a_change_of_role_the_later_knows_of_the_earlier(
    here: AtWork, chance: random.Random
) -> None:
    """The admin removes the member while the owner makes that one an admin: whoever comes second is refused."""

    async def meeting(room: str) -> tuple[Decision, Decision]:
        await made(here, room, VICTIM)
        await here.log.decide(membership.AddMember(room, OTHER, person(OWNER), role="admin"))
        kick = membership.RemoveMember(room, VICTIM, person(OTHER))
        return kick, membership.SetRole(room, VICTIM, person(OWNER), "admin")

    answers = await raced(here, chance, meeting)
    events = await whole_log(here.pool)
    for n in range(ROUNDS):
        types = [
            event.type for event in of(events, f"group://{n}") if event.type in (MemberRemoved.type, RoleChanged.type)
        ]
        assert len(types) == 1, "one of the two was too late"
        expected = ["ok", "bad_request"] if types == [MemberRemoved.type] else ["forbidden", "ok"]
        assert expected == answers[n]
    report(Counter("removed" if one[0] == "ok" else "raised" for one in answers))


async def test_of_two_last_owners_who_leave_one_stays(here: AtWork, chance: random.Random) -> None:
    async def meeting(room: str) -> tuple[Decision, Decision]:
        await made(here, room, OTHER)
        await here.log.decide(membership.AddMember(room, VICTIM, SERVICE_ACTOR, role="owner"))
        return membership.Leave(room, person(OWNER)), membership.Leave(room, person(VICTIM))

    answers = await raced(here, chance, meeting)
    events = await whole_log(here.pool)
    rows = fold(rooms.projection, events)
    for n in range(ROUNDS):
        assert ["forbidden", "ok"] == sorted(answers[n])
        assert 1 == len(rows[f"group://{n}",].owners)
        assert 2 == len(inside(of(events, f"group://{n}")))
    report(Counter("the first left" if one[0] == "ok" else "the second left" for one in answers))


async def test_an_invitation_accepted_twice_is_one_join(here: AtWork, chance: random.Random) -> None:
    async with appending(here.url) as elsewhere:
        for n in range(ROUNDS):
            room = f"group://{n}"
            await made(here, room)
            await here.log.decide(membership.Invite(room, VICTIM, person(OWNER)))
            ways = [
                membership.AcceptInvitation(room, person(VICTIM)),
                membership.AcceptInvitation(room, person(VICTIM)),
                membership.Join(room, person(VICTIM), may_create=False),
            ]
            answers = await race(chance, (here, ways[0]), (elsewhere, ways[1]), (elsewhere, ways[2]))
            assert ["ok"] * 3 == answers
    events = await whole_log(here.pool)
    for n in range(ROUNDS):
        assert {OWNER, VICTIM} == inside(of(events, f"group://{n}"))


async def test_who_is_banned_while_accepting_is_out_or_never_came_in(here: AtWork, chance: random.Random) -> None:
    async def meeting(room: str) -> tuple[Decision, Decision]:
        await made(here, room)
        await here.log.decide(membership.Invite(room, VICTIM, person(OWNER)))
        accept = membership.AcceptInvitation(room, person(VICTIM))
        return accept, membership.BanMember(room, VICTIM, person(OWNER))

    answers = await raced(here, chance, meeting)
    assert {"ok"} == {banned for _, banned in answers}
    report(Counter("accepted, banned" if accepted == "ok" else "banned" for accepted, _ in answers))
    events = await whole_log(here.pool)
    for n in range(ROUNDS):
        assert {OWNER} == inside(of(events, f"group://{n}"))


async def test_of_an_edit_and_a_recall_nothing_is_edited_after_the_recall(here: AtWork, chance: random.Random) -> None:
    async def meeting(room: str) -> tuple[Decision, Decision]:
        await made(here, room, VICTIM)
        sent = (await here.say(room, VICTIM)).event
        target = Target(room, sent.seq, sent.mid, sent.time_ms, *messages.written(sent), is_live=False)
        edit = EditMessage(target, person(VICTIM), 0, "otherwise", "json")
        return edit, RecallMessage(target, person(OWNER), 0)

    answers = await raced(here, chance, meeting)
    events = await whole_log(here.pool)
    for n in range(ROUNDS):
        types = types_of(events, f"group://{n}", MessageEdited.type, MessageRecalled.type)
        if answers[n][0] == "ok":
            assert [MessageEdited.type, MessageRecalled.type] == types
        else:
            assert (["no_such_message", "ok"], [MessageRecalled.type]) == (answers[n], types)
    report(Counter("edited, recalled" if one[0] == "ok" else "recalled" for one in answers))


async def test_who_joins_while_the_room_is_dismissed_came_before_or_not_at_all(
    here: AtWork, chance: random.Random
) -> None:
    async def meeting(room: str) -> tuple[Decision, Decision]:
        await made(here, room)
        return membership.Join(room, person(VICTIM), may_create=True), membership.DismissRoom(room, person(OWNER))

    answers = await raced(here, chance, meeting)
    events = await whole_log(here.pool)
    for n in range(ROUNDS):
        *before, last = of(events, f"group://{n}")
        assert RoomDismissed.type == last.type
        assert {["no_such_room", "ok"].index(answers[n][0])} == {len(inside(before)) - 1}
    report(Counter("joined, dismissed" if one[0] == "ok" else "dismissed" for one in answers))


async def test_a_moderator_removes_nobody_after_its_role_was_taken(here: AtWork, chance: random.Random) -> None:
    """Its token says moderator all the while."""
    fact = AccountRegistered(
        mid=MODERATOR, login="mod", handle="mod", name="mod", role="moderator", active=True, credential="c", code=""
    )
    await here.log.decide(accounts.Register(fact, SERVICE_ACTOR))

    async def meeting(room: str) -> tuple[Decision, Decision]:
        await made(here, room, VICTIM)
        await here.log.decide(accounts.SetRole(MODERATOR, SERVICE_ACTOR, "moderator"))
        kick = membership.RemoveMember(room, VICTIM, Actor(MODERATOR, "moderator"))
        return kick, accounts.SetRole(MODERATOR, SERVICE_ACTOR, "user")

    answers = await raced(here, chance, meeting)
    role = "moderator"
    removed = set()
    for event in await whole_log(here.pool):
        match event.fact if event.op == 0 else None:
            case PlatformRoleChanged(mid=mid, role=now) if mid == MODERATOR:
                role = now
            case MemberRemoved(room=room):
                assert "moderator" == role
                removed.add(room)
    for n in range(ROUNDS):
        assert answers[n] in (["ok", "ok"], ["no_such_room", "ok"])
        assert (answers[n][0] == "ok") == (f"group://{n}" in removed)
    report(Counter("removed, taken" if one[0] == "ok" else "taken" for one in answers))


async def test_of_two_joins_into_the_last_room_that_one_may_be_in_one_is_refused(
    here: AtWork, chance: random.Random
) -> None:
    async def meeting(room: str) -> tuple[Decision, Decision]:
        comer = person(100 + int(room.removeprefix("group://")))
        one, other = (membership.Join(room + x, comer, may_create=True).within(1) for x in "ab")
        return one, other

    answers = await raced(here, chance, meeting)
    events = await whole_log(here.pool)
    for n in range(ROUNDS):
        assert ["ok", "too_many_rooms"] == sorted(answers[n])
        assert 1 == len([event for x in "ab" for event in of(events, f"group://{n}{x}")])
    report(Counter("the first" if one[0] == "ok" else "the second" for one in answers))


async def test_who_searches_while_it_is_removed_finds_nothing_of_after_that(
    here: AtWork, chance: random.Random
) -> None:
    """Neither in the room that it names nor in all of its rooms; and who asks after the removal finds nothing at all."""
    orders = Counter[str]()
    async with serving(here.url, rate_limits=False) as api:
        for n in range(ROUNDS):
            room = f"group://{n}"
            await made(here, room, VICTIM)
            removing = asyncio.ensure_future(_removed_amid_messages(here, room, chance.randrange(5)))
            found: list[int] = []
            while not removing.done():
                where = chance.choice(["", f"&room={quote(room, safe='')}"])
                told = await api.get(f"/v1/search?q=seen{where}", mid=VICTIM)
                assert told.status == 200 or (where and removing.done()) or told.code == "no_such_room"
                hits = told.json["hits"] if told.status == 200 else []
                assert {hit["room"] for hit in hits} <= {room}, "rooms of before are no longer its own"
                found += [hit["position"] for hit in hits]
                orders["found, removed" if hits else "found nothing"] += 1
            removed = await removing
            assert all(position < removed for position in found)
            assert [] == (await api.get("/v1/search?q=seen", mid=VICTIM)).json["hits"]
    report(orders)


async def _removed_amid_messages(here: AtWork, room: str, before: int) -> int:
    """Where the victim was removed: after so many messages, and before some more."""
    for _ in range(before):
        await here.say(room, OWNER, body='{"text":"seen before"}')
    (removed,) = await here.log.decide(membership.RemoveMember(room, VICTIM, person(OWNER)))
    for _ in range(3):
        await here.say(room, OWNER, body='{"text":"seen by others"}')
    return removed.position


async def test_who_connects_while_its_room_is_dismissed_is_told_so_once(
    data_dir: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether that came before the session was live or after; and then the room is not there. (A server that was kept from working
    sends everybody away for a moment. They come again, from where they were.)"""
    monkeypatch.delenv("IMCORE_RACES", raising=False)  # the server takes it for a setting
    orders = Counter[str]()
    async with server(data_dir, "--no-rate-limits") as running, ClientSession(f"http://{running.http}") as owner:
        where, cursor = Where(running.http, running.ws, running.tcp), ""
        for n in range(ROUNDS):
            made = await owner.post("/v1/rooms", json={"room": f"group://{n}", "members": [VICTIM]}, headers=BY_OWNER)
            assert 201 == made.status
            while not cursor:
                with suppress(Gone, ConnectionError):
                    async with dialled(where, TCP2) as line:
                        cursor = (await _welcomed(line, ""))["cursor"]
            dismissing = asyncio.ensure_future(_dismissed(owner, n, chance.randrange(5)))
            reached = 0
            async with asyncio.timeout(60):
                while not reached:
                    with suppress(Gone, ConnectionError):
                        async with dialled(where, TCP2) as line:
                            welcome = await _welcomed(line, cursor)
                            cursor = await _told_once(line, f"group://{n}", await dismissing)
                            reached = welcome["upto"]
            orders["connected, dismissed" if reached < dismissing.result() else "dismissed, connected"] += 1
    report(orders)


async def _dismissed(owner: ClientSession, n: int, before: int) -> int:
    """Where the owner dismissed the room, after so many looks into the log."""
    for _ in range(before):
        assert 200 == (await owner.post(f"/v1/rooms/group/{n}/join", headers=BY_OWNER)).status
    async with owner.delete(f"/v1/rooms/group/{n}", headers=BY_OWNER) as dismissed:
        place: int = (await dismissed.json())["position"]
        return place


async def _heard(line: Line, op: int) -> AsyncIterator[Packet]:
    """The packets up to one of this operation, which is the last. Raises Gone, also for who is sent away with a word."""
    while True:
        packet = await line.hear()
        if packet.op == DISCONNECT or packet.code == "try_later":
            raise Gone(packet.body)
        yield packet
        if packet.op == op:
            return


async def _welcomed(line: Line, cursor: str) -> dict[str, Any]:
    line.say(AUTH, 1, claim(VICTIM, key="k", cursor=cursor))
    *_, welcome = [packet async for packet in _heard(line, AUTH + 1)]
    assert not welcome.code, welcome
    said: dict[str, Any] = welcome.json
    return said


async def _told_once(line: Line, room: str, position: int) -> str:
    """It is told that the room is no more, once, and that it cannot join. The cursor behind that."""
    told = [packet async for packet in _heard(line, REMOVED)]
    while told[-1].json["room"] != room:
        told = [packet async for packet in _heard(line, REMOVED)]
    assert position == told[-1].json["position"]
    line.say(JOIN, 8, {"room": room})
    after = [packet async for packet in _heard(line, JOIN + 1)]
    assert "no_such_room" == after[-1].code
    line.say(ACK, 9, {"position": position})
    after += [packet async for packet in _heard(line, ACK + 1)]
    assert all(packet.json["room"] != room for packet in after if packet.op == REMOVED)
    cursor: str = after[-1].json["cursor"]
    return cursor
