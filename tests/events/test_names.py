"""Names of streams are numbers in the log, and the cache of them may be emptied at any moment without anybody noticing."""

from __future__ import annotations

import asyncio
import random

import pytest

from events.at_work import appending, assert_sound, connected, message, stream
from imcore import membership
from imcore.database import create_pool
from imcore.events import names
from imcore.events.names import Names
from imcore.events.reader import Reader
from imcore.events.types import Recorded
from imcore.permissions import person

NAMES_MAX = 5


async def test_two_processes_give_one_name_one_number(database_url: str) -> None:
    """Also when both meet it at the same time, in whatever order."""
    wanted = [f"live://{n}" for n in range(200)]
    one, two = Names(), Names()
    async with connected(database_url) as first, connected(database_url) as second:
        await asyncio.gather(one.intern(first, wanted), two.intern(second, reversed(wanted)))
        assert one.ids == two.ids
        assert set(wanted) == set(one.ids)
        assert 200 == len(set(one.ids.values()))
        assert 200 == await first.fetchval("SELECT count(*) FROM streams")


async def test_finding_a_name_makes_none(database_url: str) -> None:
    known = Names()
    async with connected(database_url) as connection:
        await known.intern(connection, ["a"])
        await known.find(connection, ["a", "b"])
        assert {"a"} == set(known.ids)
        assert {"a": known.ids["a"]} == {name: number for number, name in known.names.items()}
        assert 1 == await connection.fetchval("SELECT count(*) FROM streams")


async def test_what_was_asked_for_is_known_afterwards_though_the_cache_was_full(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The story: what was in the cache was not asked for, what was not made the cache full, and it was emptied of both."""
    monkeypatch.setattr(names, "NAMES_MAX", NAMES_MAX)
    wanted = [f"live://{n}" for n in range(12)]
    known = Names()
    async with connected(database_url) as connection:
        await known.intern(connection, wanted[:6])
        await known.intern(connection, wanted)
        assert set(wanted) <= set(known.ids)
        numbers = [known.ids[name] for name in wanted]
        other = Names()
        await other.resolve(connection, numbers[:6])
        await other.resolve(connection, numbers)
        assert wanted == [other.names[number] for number in numbers]
        await known.intern(connection, ["another"])
        await known.find(connection, [*wanted, "nowhere"])
        assert numbers == [known.ids[name] for name in wanted]


async def test_a_full_cache_refuses_nothing_and_stops_nobody(
    database_url: str, monkeypatch: pytest.MonkeyPatch, chance: random.Random
) -> None:
    """The story: with the 500,001st stream somebody's room was no such room, and a reader ended with a KeyError."""
    monkeypatch.setattr(names, "NAMES_MAX", NAMES_MAX)
    rooms = [f"group://{n}" for n in range(16)]
    async with appending(database_url) as here, create_pool(database_url) as pool:
        for room in rooms:
            await here.join(room, 1)
        readers = [here.reader, Reader(pool, here.log.names)]

        async def read(reader: Reader) -> list[Recorded]:
            (page,) = await reader.read_pages([({stream(room): 0 for room in chance.sample(rooms, 9)}, 10**9)], 500)
            return [
                *await reader.read(chance.randrange(16)),
                *page.events,
                *await reader.read_on(stream(chance.choice(rooms)), 0, 10),
                *await reader.read_back(stream(chance.choice(rooms)), 10**9, 10),
            ]

        for _ in range(30):
            sending = here.tell(*(message(room) for room in chance.sample(rooms, 9)))
            deciding = here.answers(
                *(membership.Join(room, person(2), may_create=False) for room in chance.sample(rooms, 9))
            )
            reading = asyncio.gather(*(read(reader) for reader in readers))
            told, decided, _ = await asyncio.gather(sending, deciding, reading)
            assert all(isinstance(one.outcome, Recorded) for one in told)
            assert all(isinstance(one, list) for one in decided)
        await assert_sound(here.pool)
