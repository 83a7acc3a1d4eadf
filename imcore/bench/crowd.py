"""Many people in rooms within seconds: by the decisions that verbs make, but through a log beside the server's, on the same database. A
hundred thousand requests would take a minute, and they are not what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from imcore import membership
from imcore.bench.asking import WrongAnswer
from imcore.database import connect, create_pool
from imcore.events.store import Decision, Log
from imcore.permissions import person
from imcore.projections import queries
from imcore.projections.inline import InlineProjections

AT_A_TIME: Final = 4_000  # decisions in flight
SETTLE_S: Final = 120.0
LOOK_S: Final = 0.1
BEHIND: Final = "SELECT count(*) FROM checkpoints WHERE position < (SELECT position FROM log_head)"


def create_rooms(url: str, rooms: Sequence[str], owner: int, members: Sequence[int] = ()) -> None:
    """Rooms of this owner, with these members."""
    asyncio.run(_decide(url, [membership.CreateRoom(room, person(owner), members=members) for room in rooms]))


def join(url: str, room: str, mids: Sequence[int]) -> None:
    """These people come into a public room, each by itself."""
    asyncio.run(_decide(url, [membership.Join(room, person(mid), may_create=False) for mid in mids]))


def settle(url: str) -> None:
    """Return when the projections hold everything and the planner knows how much there is, as it is where rooms grew over weeks."""
    asyncio.run(_settle(url))


def inbox_ms(url: str, mid: int, rooms: int, tries: int) -> list[float]:
    """How long the one query takes that answers a person's whole inbox of so many rooms, which are all there; again and again."""
    return asyncio.run(_inbox_ms(url, mid, rooms, tries))


async def _decide(url: str, decisions: Sequence[Decision]) -> None:
    log = Log(partial(connect, url), InlineProjections(), lambda batch: None)
    async with asyncio.TaskGroup() as tasks:
        appender = tasks.create_task(log.run())
        for first in range(0, len(decisions), AT_A_TIME):
            await asyncio.gather(*map(log.decide, decisions[first : first + AT_A_TIME]))
        await log.drain()
        appender.cancel()


async def _settle(url: str) -> None:
    connection = await connect(url)
    try:
        async with asyncio.timeout(SETTLE_S):
            while await connection.fetchval(BEHIND):  # noqa: ASYNC110 - another process brings them forward
                await asyncio.sleep(LOOK_S)
        await connection.execute("VACUUM ANALYZE")
    except TimeoutError:
        raise WrongAnswer(f"the projections are behind after {SETTLE_S:.0f} s") from None
    finally:
        await connection.close()


async def _inbox_ms(url: str, mid: int, rooms: int, tries: int) -> list[float]:
    took = []
    async with create_pool(url) as pool:
        for _ in range(tries):
            started = time.perf_counter()
            page = await queries.inbox_page(pool, mid, "", rooms)
            took.append((time.perf_counter() - started) * 1000)
            assert len(page) == rooms, f"{len(page)} of {rooms} rooms are in the inbox"
    return took
