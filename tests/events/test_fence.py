"""The generation fence: of the sessions of one key only the newest appends, at whatever place in the log."""

from __future__ import annotations

import random
from typing import Any, TypeAlias

import pytest

from events.at_work import AtWork, Nothing, Told, connected, message, new_id
from imcore import commands, membership
from imcore.errors import ImcoreError, TakenOver
from imcore.events.store import Decision, Draft
from imcore.events.types import Recorded
from imcore.permissions import person

Generations: TypeAlias = dict[tuple[int, str], int]
ROOM = "live://1"
WAVES = 60


def opening(mid: int, key: str) -> Draft:
    return commands.open_session(mid, key, node="n", platform="", address="", rooms=(), protocol="v2")


async def opened(here: AtWork, mid: int, key: str) -> int:
    """A new session; its position."""
    (told,) = await here.tell(opening(mid, key))
    return told.event.position


def said(mid: int, key: str, fence: int, **keywords: Any) -> Draft:
    return message(ROOM, mid, is_member=False, key=key, fence=fence, **keywords)


def code(told: object) -> str:
    outcome = told.outcome if isinstance(told, Told) else told
    return outcome.code if isinstance(outcome, ImcoreError) else "ok"


@pytest.mark.parametrize("is_decided", [False, True], ids=["drafts", "decisions"])
async def test_what_an_older_session_sends_is_refused_and_nobody_elses(here: AtWork, is_decided: bool) -> None:
    tell = here.tell_decided if is_decided else here.tell
    older, other_key, other_mid = [await opened(here, *who) for who in ((1, "a"), (1, "b"), (2, "a"))]
    assert ["ok"] * 3 == [code(one) for one in await tell(*(said(1, "a", here.log.position) for _ in range(3)))]
    newer = await opened(here, 1, "a")

    told = await tell(
        said(1, "a", older),
        said(1, "b", other_key),
        said(1, "a", newer - 1),
        said(2, "a", other_mid),
        said(1, "a", newer),
        message(ROOM, 1, is_member=False, key="a"),  # no session's
        commands.enter_rooms(1, "a", older, [ROOM], fence=older),
        commands.ack(1, "a", 1, fence=older),
    )

    assert ["taken_over", "ok", "taken_over", "ok", "ok", "ok", "taken_over", "taken_over"] == [
        code(one) for one in told
    ]


async def test_a_retry_over_an_older_session_is_refused_whatever_became_of_the_first(here: AtWork) -> None:
    older, id_ = await opened(here, 1, "a"), new_id()
    await here.tell(said(1, "a", older, client_id=id_))
    newer = await opened(here, 1, "a")

    again = await here.tell(said(1, "a", older, client_id=id_), said(1, "b", older))
    decided = await here.tell_decided(said(1, "a", older, client_id=id_))
    by_the_newer = await here.tell(said(1, "a", newer, client_id=id_))

    assert ["taken_over", "ok", "taken_over", "ok"] == [code(one) for one in (*again, *decided, *by_the_newer)]
    assert by_the_newer[0].duplicate


async def test_decisions_of_an_older_session_are_refused(here: AtWork) -> None:
    older = await opened(here, 1, "a")
    await opened(here, 1, "a")

    told = await here.answers(
        membership.Join("group://1", person(1), may_create=True).fenced(1, "a", older),
        membership.Join("group://2", person(1), may_create=True).fenced(1, "a", here.log.position),
        membership.Leave("group://2", person(1)).fenced(1, "a", older),
        membership.Leave("group://2", person(1)),
    )

    assert ["taken_over", "ok", "taken_over", "ok"] == [code(one) for one in told]


@pytest.mark.parametrize("is_decided", [False, True], ids=["drafts", "decisions"])
async def test_the_place_in_the_log_decides_within_one_batch_too(here: AtWork, is_decided: bool) -> None:
    """What was submitted before the opening is before it, what was submitted after it is refused."""
    older = await opened(here, 1, "a")
    tail: list[Draft | Decision] = [Nothing()] if is_decided else []

    before, opening_, after, other, *_ = await here.together(
        said(1, "a", older), opening(1, "a"), said(1, "a", older), said(1, "b", older), *tail
    )

    assert ["ok", "ok", "taken_over", "ok"] == [code(one) for one in (before, opening_, after, other)]
    assert isinstance(before, Told)
    assert isinstance(opening_, Told)
    assert before.event.position < opening_.event.position


async def test_many_openings_of_one_key_at_once_leave_the_last_one(here: AtWork) -> None:
    told = await here.tell(*(opening(1, "a") for _ in range(50)))
    positions = [one.event.position for one in told]

    outcomes = await here.tell(*(said(1, "a", position) for position in positions))

    assert ["taken_over"] * 49 + ["ok"] == [code(one) for one in outcomes]


async def test_the_code_before_the_fence_appends_without_one(here: AtWork) -> None:
    """In a rolling restart: the arguments that it has always passed are still taken, and its openings count."""
    older = await opened(here, 1, "a")
    (stream,) = [id_ for name, id_ in here.log.names.ids.items() if name == "session:1"]
    async with connected(here.url) as connection:
        body = opening(1, "a").body
        row = await connection.fetchrow(
            """
            SELECT * FROM imcore_append(false, '{1}', '{1}', '{0}', '{1}', '{a}', '{NULL}', '{1}', ARRAY[$2], NULL,
              '{session_opened}', '{1}', '{0}', '{0}', '{0}', ARRAY[$1::bigint], '{1}', '{1}', '{1}', '{0}')
            """,
            stream,
            body,
        )
    assert row is not None

    told = await here.tell(said(1, "a", older), said(1, "a", row["base"] + 1))

    assert ["taken_over", "ok"] == [code(one) for one in told]


async def test_whatever_happens_together_only_the_newest_session_of_a_key_appends(
    here: AtWork, chance: random.Random
) -> None:
    """Random openings, sends and refusals in batches of both roads. Senders are behind with reading the log by a random distance; each
    is refused exactly if its key was opened between what it has read and its place."""
    people = [(mid, key) for mid in (1, 2) for key in ("a", "b", "c")]
    await here.tell(message(ROOM, is_member=False))
    refused = passed = 0
    for _ in range(WAVES):
        items: list[Draft | Decision] = []
        for _ in range(chance.randint(1, 30)):
            mid, key = chance.choice(people)
            fence = max(0, here.log.position - chance.choice((0, 0, 0, 1, 5, 40)))
            match chance.randrange(8):
                case 0:
                    items.append(opening(mid, key))
                case 1:
                    items.append(message(ROOM, mid, key=key, fence=fence))  # of no member: refused anyway
                case 2 if chance.random() < 0.3:
                    items.append(membership.Join("group://all", person(mid), may_create=True).fenced(mid, key, fence))
                case _:
                    items.append(said(mid, key, fence))
        newest: Generations = {
            (event.mid, event.key): event.position
            for batch in here.batches
            for event in batch
            if event.type == "session_opened"
        }
        for item, told in zip(items, await here.together(*items), strict=True):
            outcome = told.outcome if isinstance(told, Told) else told
            sender = (item.mid, item.key) if isinstance(item, Draft) else item.sender
            if isinstance(item, Draft) and item.type == "session_opened":
                assert isinstance(outcome, Recorded)
                newest[sender] = outcome.position
            elif item.fence < newest.get(sender, 0):
                assert isinstance(outcome, TakenOver)
                refused += 1
            else:
                assert not isinstance(outcome, TakenOver)
                passed += 1
    assert min(refused, passed) > WAVES, "both happened, else this shows nothing"
