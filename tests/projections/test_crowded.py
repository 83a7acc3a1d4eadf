"""What a room of 100,000 members and an inbox of 1,000 rooms cost. Run with IMCORE_CROWDED=1 on a machine that does nothing else."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from imcore import membership
from imcore.events.store import MEMBER, Draft
from imcore.events.types import MESSAGE_OP, MESSAGE_SENT, ROOM, TEXT
from imcore.permissions import person
from imcore.projections import queries
from projections.place import Place, running

pytestmark = pytest.mark.skipif("IMCORE_CROWDED" not in os.environ, reason="IMCORE_CROWDED is not set: it measures")
BIG, SMALL = "group://big", "group://small"
CROWD, FEW, ROOMS = 100_000, 10, 1_000
TRIES = 40
BATCH = 100

FILL = """
INSERT INTO members (room, mid, role, since, since_seq, muted_until_ms, changed)
SELECT $1, mid, 'member', 1, 1, 0, 1 FROM generate_series(10, $2::bigint + 9) mid
"""
COUNT = "UPDATE rooms SET members = members + $2 WHERE room = $1"


async def median_ms(doing: Callable[[int], Awaitable[object]], tries: int = TRIES) -> float:
    took: list[float] = []
    for n in range(tries):
        started = time.perf_counter()
        await doing(n)
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took[2:])


async def filled(here: Place, room: str, people: int) -> None:
    await here.log.decide(membership.CreateRoom(room, person(1), members=[2]))
    await here.pool.execute(FILL, room, people)
    await here.pool.execute(COUNT, room, people)


def batch(room: str) -> Sequence[Draft]:
    return [
        Draft(ROOM + room, MESSAGE_SENT, "hello", 10 + n % FEW, op=MESSAGE_OP, format_=TEXT, guard=MEMBER)
        for n in range(BATCH)
    ]


async def test_a_crowd_costs_what_a_few_cost(here: Place) -> None:
    await filled(here, BIG, CROWD)
    await filled(here, SMALL, FEW)
    await here.pool.execute("ANALYZE members, rooms")
    costs: dict[str, list[float]] = {BIG: [], SMALL: []}
    for _ in range(TRIES):  # alternating, so that what else the machine does is the same for both
        for room, took in costs.items():
            started = time.perf_counter()
            outcomes = await here.log.append(batch(room))
            took.append((time.perf_counter() - started) * 1000)
            assert not any(isinstance(one, Exception) for one in outcomes)
    send = {room: statistics.median(took[2:]) for room, took in costs.items()}

    async def join(room: str, n: int) -> None:
        await here.log.decide(membership.Join(room, person(10**6 + n), may_create=False))

    joins = {room: await median_ms(lambda n, room=room: join(room, n)) for room in (BIG, SMALL)}  # type: ignore[misc]
    page = await median_ms(lambda n: queries.members_page(here.pool, BIG, n * 2_000, 500))
    changes = await median_ms(lambda n: queries.changes(here.pool, BIG, 1, 501))

    print(f"\n{BATCH} sends: {send[BIG]:.2f} ms in a room of {CROWD}, {send[SMALL]:.2f} ms in one of {FEW}")
    print(
        f"a join: {joins[BIG]:.2f} and {joins[SMALL]:.2f} ms; a page of 500 members: {page:.2f} ms; changes: {changes:.2f} ms"
    )
    assert send[BIG] < 1.5 * send[SMALL]
    assert joins[BIG] < 1.5 * joins[SMALL]
    assert page < 20


async def test_an_inbox_of_a_thousand_rooms_is_one_quick_query(here: Place) -> None:
    runner = here.runner()
    async with running(runner.run()):
        for first in range(0, ROOMS, 50):
            names = [f"group://{n:04}" for n in range(first, first + 50)]
            made = (membership.CreateRoom(room, person(1), members=[2]) for room in names)
            await asyncio.gather(*map(here.log.decide, made))
            await here.submit(
                *(Draft(ROOM + room, MESSAGE_SENT, "hi", 2, op=MESSAGE_OP, format_=TEXT) for room in names)
            )
        assert await runner.reached(here.log.position, 60)
        await here.pool.execute("ANALYZE")
        took = await median_ms(lambda n: queries.inbox_page(here.pool, 1, "", ROOMS))
        page = await queries.inbox_page(here.pool, 1, "", ROOMS)

        print(f"\nan inbox of {ROOMS} rooms: {took:.1f} ms")
        assert [1] * ROOMS == [line.unread for line in page]
        assert took < 50
