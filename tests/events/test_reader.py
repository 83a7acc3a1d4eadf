"""Reading the log: by position and by stream, in pages, both ways, always a prefix."""

from __future__ import annotations

import random

from events.at_work import AtWork, appending, message, stream
from imcore.events.reader import PAGE_EVENTS_MAX, Head, StreamHead
from imcore.events.types import Page, Recorded

ROOMS = [f"live://{n}" for n in range(6)]


async def write(here: AtWork, chance: random.Random, count: int = 300) -> list[Recorded]:
    """Events in random rooms."""
    return [
        one.event for one in await here.tell(*(message(chance.choice(ROOMS), is_member=False) for _ in range(count)))
    ]


async def test_an_empty_log_reads_as_one(here: AtWork) -> None:
    head = await here.reader.head()
    assert 0 == head.position
    assert 12 == len(head.epoch)
    assert [] == await here.reader.read(0)
    assert StreamHead(0, 0, 0) == await here.reader.stream_head("room:nowhere")
    assert [] == await here.reader.read_on("room:nowhere", 0, 10)
    assert [] == await here.reader.read_back("room:nowhere", 10, 10)
    assert [Page([], 10), Page([], 9)] == await here.reader.read_pages([({"room:nowhere": 0}, 10), ({}, 9)], 500)
    assert [] == await here.reader.read_pages([], 500)


async def test_reading_on_from_the_last_position_gives_everything_once(here: AtWork, chance: random.Random) -> None:
    events = await write(here, chance, PAGE_EVENTS_MAX + 1)
    for limit in (1_000, PAGE_EVENTS_MAX, 7):
        read: list[Recorded] = []
        while page := await here.reader.read(len(read), limit):
            assert limit == len(page) or read + page == events, "a short page only at the head"
            read += page
        assert events == read
    assert PAGE_EVENTS_MAX == len(await here.reader.read(0))
    assert Head(len(events), (await here.reader.head()).epoch) == await here.reader.head()


async def test_a_stream_is_read_both_ways(here: AtWork, chance: random.Random) -> None:
    events = await write(here, chance)
    for room in ROOMS:
        own = [event for event in events if event.room == room]
        head = await here.reader.stream_head(stream(room))
        assert StreamHead(len(own), own[-1].position, len(own)) == head
        for limit in (1, 7, 1_000):
            after = chance.randint(0, head.seq)
            assert own[after : after + limit] == await here.reader.read_on(stream(room), after, limit)
            before = chance.randint(1, head.seq + 1)
            assert own[: before - 1][::-1][:limit] == await here.reader.read_back(stream(room), before, limit)
        assert [] == await here.reader.read_on(stream(room), head.seq, 10)
        assert [] == await here.reader.read_back(stream(room), 1, 10)


async def test_several_streams_are_read_together_each_from_its_own_place(here: AtWork, chance: random.Random) -> None:
    """Pages of whatever size, one after the other as a session takes them, are what a filter over the whole log gives."""
    events = await write(here, chance)
    for _ in range(30):
        floors = {
            stream(room): chance.choice([0, 0, chance.randint(0, 320)])
            for room in chance.sample(ROOMS, chance.randint(1, 6))
        }
        floors["room:nowhere"] = 0
        upto = chance.choice([len(events), chance.randint(0, 310)])
        limit = chance.choice([1, 3, 20, 500])
        expected = [event for event in events if floors.get(event.stream, 400) < event.position <= upto]
        read: list[Recorded] = []
        while True:
            last = read[-1].position if read else 0
            wanted = {name: max(floor, last) for name, floor in floors.items()}
            (page,) = await here.reader.read_pages([(wanted, upto)], limit)
            read += page.events
            if page.upto == upto:
                break
        assert expected == read


async def test_a_reader_that_never_saw_a_name_learns_it(here: AtWork, chance: random.Random) -> None:
    events = await write(here, chance)
    async with appending(here.url) as elsewhere:
        assert events == await elsewhere.reader.read(0)
        assert [event for event in events if event.room == ROOMS[0]] == await elsewhere.reader.read_on(
            stream(ROOMS[0]), 0, 500
        )


async def test_what_is_read_is_a_prefix_whatever_is_being_appended(here: AtWork, chance: random.Random) -> None:
    """Two writers at work: no reader ever sees a position without all that are before it."""
    async with appending(here.url) as elsewhere:
        waiting = []
        for n in range(40):
            for log in (here.log, elsewhere.log):
                waiting += [
                    log.appending(message(chance.choice(ROOMS), is_member=False)) for _ in range(chance.randint(1, 9))
                ]
            seen = [event.position for event in await here.reader.read(0, 10_000)]
            assert list(range(1, len(seen) + 1)) == seen, n
        for event in waiting:
            await event
