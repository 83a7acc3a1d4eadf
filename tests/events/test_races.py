"""Two processes decide at the same moment about the same people; the log is read afterwards and shows no order that is forbidden.

IMCORE_RACES says how many rounds of each; 1,000 is what was promised, and takes some minutes.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from events.at_work import AtWork, appending, message, whole_log
from imcore import membership
from imcore.errors import ImcoreError
from imcore.events.store import Decision, Draft
from imcore.events.types import (
    MESSAGE_SENT,
    ROOM,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    Recorded,
    RoleChanged,
)
from imcore.permissions import SERVICE_ACTOR, person
from imcore.projections import rooms
from imcore.projections.projection import fold

ROUNDS = int(os.environ.get("IMCORE_RACES", "20"))
OWNER, VICTIM, OTHER = 1, 2, 3


async def race(chance: random.Random, *sides: tuple[AtWork, Draft | Decision]) -> list[str]:
    """Both at once, in either order; what each was told."""
    order = list(range(len(sides)))
    chance.shuffle(order)
    answers: dict[int, str] = {}

    async def ask(n: int) -> None:
        here, item = sides[n]
        (told,) = await here.together(item)
        outcome = told if isinstance(told, (list, ImcoreError)) else told.outcome
        answers[n] = outcome.code if isinstance(outcome, ImcoreError) else "ok"

    await asyncio.gather(*(ask(n) for n in order))
    return [answers[n] for n in range(len(sides))]


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
            sends = here.tell if road == "drafts" else here.tell_decided
            kicked, sent = await asyncio.gather(
                elsewhere.log.decide(kick), sends(*(message(room, VICTIM) for _ in range(3)))
            )
            told.append((kicked, sent))
    events = await whole_log(here.pool)
    for n in range(ROUNDS):
        removed = next(event.position for event in of(events, f"group://{n}") if event.type == MemberRemoved.type)
        said = [event.position for event in of(events, f"group://{n}") if event.type == MESSAGE_SENT]
        assert all(position < removed for position in said)
        assert len(said) == sum(not isinstance(one.outcome, ImcoreError) for one in told[n][1])


async def test_of_a_kick_and_a_change_of_role_the_later_knows_of_the_earlier(
    here: AtWork, chance: random.Random
) -> None:
    """The admin removes the member while the owner makes that one an admin: whoever comes second is refused."""
    async with appending(here.url) as elsewhere:
        answers = []
        for n in range(ROUNDS):
            room = f"group://{n}"
            await made(here, room, VICTIM)
            await here.log.decide(membership.AddMember(room, OTHER, person(OWNER), role="admin"))
            kick = membership.RemoveMember(room, VICTIM, person(OTHER))
            rise = membership.SetRole(room, VICTIM, person(OWNER), "admin")
            answers.append(await race(chance, (here, kick), (elsewhere, rise)))
    events = await whole_log(here.pool)
    for n in range(ROUNDS):
        types = [
            event.type for event in of(events, f"group://{n}") if event.type in (MemberRemoved.type, RoleChanged.type)
        ]
        assert len(types) == 1, "one of the two was too late"
        expected = ["ok", "bad_request"] if types == [MemberRemoved.type] else ["forbidden", "ok"]
        assert expected == answers[n]


async def test_of_two_last_owners_who_leave_one_stays(here: AtWork, chance: random.Random) -> None:
    async with appending(here.url) as elsewhere:
        answers = []
        for n in range(ROUNDS):
            room = f"group://{n}"
            await made(here, room, OTHER)
            await here.log.decide(membership.AddMember(room, VICTIM, SERVICE_ACTOR, role="owner"))
            leaving = [membership.Leave(room, person(mid)) for mid in (OWNER, VICTIM)]
            answers.append(await race(chance, (here, leaving[0]), (elsewhere, leaving[1])))
    events = await whole_log(here.pool)
    rows = fold(rooms.projection, events)
    for n in range(ROUNDS):
        assert ["forbidden", "ok"] == sorted(answers[n])
        assert 1 == len(rows[f"group://{n}",].owners)
        assert 2 == len(inside(of(events, f"group://{n}")))


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
    async with appending(here.url) as elsewhere:
        for n in range(ROUNDS):
            room = f"group://{n}"
            await made(here, room)
            await here.log.decide(membership.Invite(room, VICTIM, person(OWNER)))
            accept = membership.AcceptInvitation(room, person(VICTIM))
            ban = membership.BanMember(room, VICTIM, person(OWNER))
            _, banned = await race(chance, (here, accept), (elsewhere, ban))
            assert "ok" == banned
    events = await whole_log(here.pool)
    for n in range(ROUNDS):
        assert {OWNER} == inside(of(events, f"group://{n}"))
