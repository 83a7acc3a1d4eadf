"""Pages of the log for those who are behind: shared by those who wait together, and in turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from events.at_work import AtWork, appending, message, running, stream
from imcore.comet import loader
from imcore.comet.loader import Pages
from imcore.database import create_pool
from imcore.errors import DatabaseUnavailable
from imcore.events.names import Names
from imcore.events.reader import Reader
from imcore.events.types import Page

LONG, SHORT = "live://long", "live://short"


@asynccontextmanager
async def paging(url: str) -> AsyncIterator[tuple[AtWork, Pages]]:
    """A log, and pages of it."""
    async with appending(url) as here:
        pages = Pages(here.reader, here.pool)
        async with running(pages.run()):
            yield here, pages


async def talk(here: AtWork, room: str, times: int) -> list[int]:
    """Positions."""
    told = await here.tell(*(message(room, is_member=False) for _ in range(times)))
    return [one.event.position for one in told]


async def read_all(pages: Pages, room: str, upto: int, limit: int, order: list[str]) -> list[int]:
    """The whole way back, page by page."""
    found: list[int] = []
    position = 0
    while position < upto:
        page = await pages.read({stream(room): position}, upto, limit)
        order.append(room)
        found += [event.position for event in page.events]
        position = page.upto
    return found


async def test_those_who_wait_together_share_a_reading_and_each_gets_its_own(database_url: str) -> None:
    async with paging(database_url) as (here, pages):
        rooms = [f"live://{n}" for n in range(loader.PAGES_BATCH_MAX // 2)]
        said = {room: await talk(here, room, 3) for room in rooms}
        upto = here.log.position
        found = await asyncio.gather(
            *(
                pages.read({stream(room): said[room][0], stream("nowhere"): 0}, upto - n, 500)
                for n, room in enumerate(rooms)
            )
        )

        assert 1 == pages.readings
        for n, (room, page) in enumerate(zip(rooms, found, strict=True)):
            assert [one for one in said[room][1:] if one <= upto - n] == [event.position for event in page.events]
            assert upto - n == page.upto


async def test_however_many_share_a_reading_nothing_is_left_out(database_url: str) -> None:
    """The more share it the shorter their pages, and each says how far it goes."""
    async with paging(database_url) as (here, pages):
        rooms = [f"live://{n}" for n in range(loader.PAGES_BATCH_MAX + 10)]
        said = {room: await talk(here, room, 40) for room in rooms}
        order: list[str] = []
        found = await asyncio.gather(*(read_all(pages, room, here.log.position, 500, order) for room in rooms))

        assert list(said.values()) == found
        assert pages.readings < len(rooms)


async def test_a_long_way_back_keeps_nobody_waiting_for_more_than_a_page(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many who are far behind, and one who lacks little and comes last: it is served before any of them is served twice more."""
    monkeypatch.setattr(loader, "PAGES_AT_ONCE", 1)
    monkeypatch.setattr(loader, "PAGES_BATCH_MAX", 1)
    async with paging(database_url) as (here, pages):
        await talk(here, LONG, 400)
        await talk(here, SHORT, 5)
        upto, order = here.log.position, list[str]()

        async def come_last() -> tuple[int, list[int]]:
            """How many pages there were when it came, and what it found."""
            return len(order), await read_all(pages, SHORT, upto, 20, order)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(read_all(pages, LONG, upto, 20, order))
            while order.count(LONG) < 8:
                await asyncio.sleep(0)
            short = tasks.create_task(come_last())

        began, found = short.result()
        assert 5 == len(found)
        assert order.index(SHORT) - began <= 8, "one page of each who was there before"
        assert 8 * 21 == order.count(LONG)


async def test_those_who_come_newly_wait_for_each_other_and_who_goes_on_takes_them_along(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a storm, which comes drop by drop, shares its readings."""
    monkeypatch.setattr(loader, "GATHER_S", 3_600.0)
    async with paging(database_url) as (here, pages):
        await talk(here, LONG, 10)
        upto = here.log.position

        async def come() -> None:
            await pages.read({stream(LONG): upto - 1}, upto, 10)

        await pages.read({stream(LONG): 0}, upto, 5)  # the first waits for nobody
        drops = []
        for _ in range(20):
            drops.append(asyncio.create_task(come()))
            await asyncio.sleep(0)
        assert 1 == pages.readings
        await pages.read({stream(LONG): 5}, upto, 5)
        await asyncio.gather(*drops)
        assert 2 == pages.readings

        drops = [asyncio.create_task(come()) for _ in range(loader.PAGES_BATCH_MAX)]
        await asyncio.gather(*drops)
        assert 3 == pages.readings, "there were enough for a reading"


async def test_who_gives_up_waiting_leaves_the_others_their_pages(database_url: str) -> None:
    async with paging(database_url) as (here, pages):
        (position,) = await talk(here, LONG, 1)
        waiting = [asyncio.ensure_future(pages.read({stream(LONG): 0}, position, 10)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        first, _, third = await asyncio.gather(*waiting, return_exceptions=True)

        for page in (first, third):
            assert isinstance(page, Page)
            assert [position] == [event.position for event in page.events]


async def test_all_who_share_a_reading_that_fails_are_told_and_the_next_is_read() -> None:
    async def ask(pages: Pages) -> object:
        return await pages.read({"all:": 0}, 1, 10)

    async with create_pool("postgresql://nobody@127.0.0.1:1/nothing", connections_min=0) as pool:
        pages = Pages(Reader(pool, Names()), pool)
        async with running(pages.run()):
            for _ in range(2):
                found = await asyncio.gather(*(ask(pages) for _ in range(3)), return_exceptions=True)
                assert [DatabaseUnavailable] * 3 == [type(one) for one in found]
        assert 2 == pages.readings
