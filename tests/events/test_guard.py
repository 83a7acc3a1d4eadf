"""What keeps a member from sending is the same on both roads: in imcore_append and on the rows that a decision's batch has loaded."""

from __future__ import annotations

import random

import pytest

from events.at_work import AtWork, Told, message, new_id
from imcore import commands, membership
from imcore.errors import ImcoreError, SlowMode
from imcore.events.types import direct_room
from imcore.membership import Settings
from imcore.permissions import SERVICE_ACTOR, person

R = "group://r"
FAR_MS = 2**52
WAVES = 40
ROADS = pytest.mark.parametrize("road", ["drafts", "decisions"])


def code(told: Told) -> str:
    return told.outcome.code if isinstance(told.outcome, ImcoreError) else ("duplicate" if told.duplicate else "ok")


async def codes(here: AtWork, road: str, *mids: int, room: str = R) -> list[str]:
    tell = here.tell if road == "drafts" else here.tell_decided
    return [code(one) for one in await tell(*(message(room, mid) for mid in mids))]


async def a_room(here: AtWork, settings: Settings = Settings()) -> None:  # noqa: B008 - it is immutable
    """Owned by 1, with 2 as an admin and 3 and 4 as members."""
    await here.log.decide(membership.CreateRoom(R, person(1), settings=settings, members=[3, 4]))
    await here.log.decide(membership.AddMember(R, 2, person(1), role="admin"))


@ROADS
async def test_only_admins_write_in_an_announcement(here: AtWork, road: str) -> None:
    await a_room(here, Settings(writers="admins"))

    assert ["ok", "ok", "forbidden", "no_such_room"] == await codes(here, road, 1, 2, 3, 9)


@ROADS
async def test_a_mute_of_all_holds_for_members_until_its_time_has_come(here: AtWork, road: str) -> None:
    await a_room(here)
    await here.log.decide(membership.MuteAll(R, person(2), FAR_MS))
    assert ["ok", "ok", "muted"] == await codes(here, road, 1, 2, 3)

    await here.log.decide(membership.MuteAll(R, person(2), 1))

    assert ["ok"] == await codes(here, road, 3)


@ROADS
async def test_nothing_is_appended_to_a_dismissed_room(here: AtWork, road: str) -> None:
    """Not by members, and not by a backend either."""
    await a_room(here)
    tell = here.tell if road == "drafts" else here.tell_decided
    (first,) = await tell(message(R, 3, used := new_id()))
    await here.log.decide(membership.DismissRoom(R, person(1)))
    head = (await here.reader.stream_head("room:" + R)).seq

    assert ["no_such_room"] * 2 == await codes(here, road, 1, 3)
    pushed, retried, said = await tell(
        commands.push("room:" + R, 1000, b"x"), message(R, 3, used), message(R, 0, new_id(), is_member=False)
    )

    assert ["no_such_room", "duplicate", "no_such_room"] == [code(pushed), code(retried), code(said)]
    assert first.event == retried.event
    assert head == (await here.reader.stream_head("room:" + R)).seq


@ROADS
async def test_in_slow_mode_a_member_sends_once_and_is_told_when_to_come_back(here: AtWork, road: str) -> None:
    await a_room(here, Settings(slow_mode_s=60))
    tell = here.tell if road == "drafts" else here.tell_decided

    together = await tell(*(message(R, mid) for mid in (3, 3, 4, 1, 1)), message(R, 3, used := new_id()))
    later = await tell(message(R, 3), message(R, 4), message(R, 2))

    assert ["ok", "slow_mode", "ok", "ok", "ok", "slow_mode"] == [code(one) for one in together]
    assert ["slow_mode", "slow_mode", "ok"] == [code(one) for one in later]
    for one in (together[1], later[0]):
        assert isinstance(one.outcome, SlowMode)
        assert 0 < (one.outcome.retry_after_ms or 0) <= 60_000
    await here.pool.execute("UPDATE slow_sends SET sent_at_ms = sent_at_ms - 60000")
    assert ["ok"] == [code(one) for one in await tell(message(R, 3, used))], "a refusal uses up no id"
    assert ["duplicate"] == [code(one) for one in await tell(message(R, 3, used))]


@ROADS
async def test_who_comes_too_soon_twice_in_a_batch_is_told_the_rest_of_the_time_both_times(
    here: AtWork, road: str
) -> None:
    """The first of the two is no send, so the second does not wait for it."""
    await a_room(here, Settings(slow_mode_s=60))
    tell = here.tell if road == "drafts" else here.tell_decided
    await tell(message(R, 3))
    await here.pool.execute("UPDATE slow_sends SET sent_at_ms = sent_at_ms - 50000")

    refused = [one.outcome for one in await tell(*(message(R, 3) for _ in range(3)))]

    for error in refused:
        assert isinstance(error, SlowMode)
        assert 0 < (error.retry_after_ms or 0) <= 10_000


async def test_both_roads_remember_the_same_last_send(here: AtWork) -> None:
    await a_room(here, Settings(slow_mode_s=60))

    assert ["ok"] == await codes(here, "decisions", 3)
    assert ["ok"] == await codes(here, "drafts", 4)

    assert ["slow_mode", "slow_mode"] == await codes(here, "drafts", 3, 4)
    assert ["slow_mode", "slow_mode"] == await codes(here, "decisions", 3, 4)


@ROADS
async def test_a_message_that_is_refused_for_another_reason_does_not_count_as_sent(here: AtWork, road: str) -> None:
    await a_room(here, Settings(slow_mode_s=60))
    tell = here.tell if road == "drafts" else here.tell_decided

    (wrong,) = await tell(message(R, 3, expected=99))
    (right,) = await tell(message(R, 3))

    assert ["conflict", "ok"] == [code(wrong), code(right)]


@ROADS
async def test_who_is_blocked_sends_nothing_to_the_room_of_the_two(here: AtWork, road: str) -> None:
    room = direct_room(3, 4)
    await here.log.decide(membership.OpenDirect(4, person(3)))
    await here.log.decide(membership.BlockPerson(4, person(3)))
    assert ["forbidden", "ok"] == await codes(here, road, 4, 3, room=room)

    await here.log.decide(membership.UnblockPerson(4, person(3)))

    assert ["ok"] == await codes(here, road, 4, room=room)


async def test_a_room_without_rules_has_no_row_of_restrictions(here: AtWork) -> None:
    """What all others would pay for it is the look at an index that is nearly empty."""
    await a_room(here)
    await here.log.decide(membership.ChangeRoom(R, person(1), Settings(slow_mode_s=9)))
    assert 1 == await here.pool.fetchval("SELECT count(*) FROM restrictions")

    await here.log.decide(membership.ChangeRoom(R, person(1), Settings(slow_mode_s=0)))
    await codes(here, "drafts", 3, 4)

    assert [0, 0] == [
        await here.pool.fetchval(f"SELECT count(*) FROM {table}") for table in ("restrictions", "slow_sends")
    ]


async def test_whatever_the_rules_both_roads_say_the_same(here: AtWork, chance: random.Random) -> None:
    """Rooms under random rules, the same random sends down each road: in two rooms that differ in nothing but the road."""
    rooms = {"drafts": "group://drafts", "decisions": "group://decisions"}
    for room in rooms.values():
        await here.log.decide(membership.CreateRoom(room, person(1), members=[3, 4, 5]))
        await here.log.decide(membership.AddMember(room, 2, person(1), role="admin"))
    seen: set[str] = set()
    for _ in range(WAVES):
        rules = Settings(writers=chance.choice(["admins", "members", "members"]), slow_mode_s=chance.choice([0, 0, 60]))
        muted_ms, all_muted_ms = chance.choice([0, 0, FAR_MS]), chance.choice([0, 0, 0, FAR_MS])
        for room in rooms.values():
            await here.log.decide(membership.ChangeRoom(room, SERVICE_ACTOR, rules))
            await here.log.decide(membership.Mute(room, 4, SERVICE_ACTOR, muted_ms))
            await here.log.decide(membership.MuteAll(room, SERVICE_ACTOR, all_muted_ms))
        mids = [chance.choice([1, 2, 3, 4, 5, 9]) for _ in range(chance.randrange(1, 12))]

        told = {road: await codes(here, road, *mids, room=room) for road, room in rooms.items()}

        assert told["drafts"] == told["decisions"], (rules, muted_ms, all_muted_ms, mids)
        seen.update(told["drafts"])
        if chance.random() < 0.3:
            await here.pool.execute("UPDATE slow_sends SET sent_at_ms = 0")
    assert {"ok", "muted", "forbidden", "slow_mode", "no_such_room"} == seen
