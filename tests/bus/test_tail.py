"""The tail against bad schedules: every event once, in order, and the log is asked only when it must be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from events.at_work import appending, choose_seed, message, running
from imcore.bus.tail import Tail
from imcore.errors import DatabaseUnavailable
from imcore.events.types import Recorded
from waiting import eventually

NEVER_S = 3_600.0


def event(position: int) -> Recorded:
    return Recorded(position, "room:r", position, position, "message_sent", 1, 7, "", None, 1000, 0, 0, str(position))


def events(first: int, last: int) -> list[Recorded]:
    """The events of these positions, both included."""
    return [event(position) for position in range(first, last + 1)]


class Source:
    """A log that is read: how far it has come, how often it was asked, and what is wrong with it."""

    def __init__(self, head: int = 0) -> None:
        self.head = head
        self.reads: list[int] = []
        self.failure: Exception | None = None

    async def read(self, after: int, limit: int) -> list[Recorded]:
        self.reads.append(after)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return events(after + 1, min(after + limit, self.head))


class Applied:
    """What the tail gave, which must be everything after a position, in order."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.batches: list[tuple[int, int]] = []

    def apply(self, batch: list[Recorded]) -> None:
        assert batch
        for one in batch:
            assert self.position + 1 == one.position
            assert event(one.position) == one
            self.position += 1
        self.batches.append((batch[0].position, batch[-1].position))


def tail_over(source: Source, position: int = 0, **limits: float) -> tuple[Tail, Applied]:
    """A tail that never looks by itself, unless told how often."""
    applied = Applied(position)
    return Tail(position, source.read, applied.apply, **{"quiet_s": NEVER_S, **limits}), applied  # type: ignore[arg-type]


@asynccontextmanager
async def at_work(source: Source, position: int = 0, **limits: float) -> AsyncIterator[tuple[Tail, Applied]]:
    tail, applied = tail_over(source, position, **limits)
    async with running(tail.run()):
        yield tail, applied


async def reached(tail: Tail, position: int) -> None:
    async with asyncio.timeout(10):
        await tail.reached(position)
    assert tail.position >= position


# --- batches ---------------------------------------------------------------------------------------------------------------------


def test_what_follows_is_taken_at_once() -> None:
    tail, applied = tail_over(Source())
    tail.offer(events(1, 3))
    tail.offer(events(4, 4))
    tail.offer([])
    assert [(1, 3), (4, 4)] == applied.batches
    assert 4 == tail.position
    assert 0 == tail.gaps


def test_it_begins_after_its_position() -> None:
    tail, applied = tail_over(Source(), 100)
    tail.offer(events(100, 100))
    tail.offer(events(101, 102))
    assert [(101, 102)] == applied.batches


def test_a_repetition_is_dropped() -> None:
    tail, applied = tail_over(Source())
    tail.offer(events(1, 5))
    for first, last in ((1, 5), (2, 4), (5, 5), (1, 1)):
        tail.offer(events(first, last))
    assert [(1, 5)] == applied.batches


def test_of_an_overlap_only_the_new_part_is_taken() -> None:
    tail, applied = tail_over(Source())
    tail.offer(events(1, 5))
    tail.offer(events(3, 7))
    tail.offer(events(1, 8))
    assert [(1, 5), (6, 7), (8, 8)] == applied.batches


def test_what_comes_early_waits_for_what_is_before_it() -> None:
    tail, applied = tail_over(Source())
    for first, last in ((7, 9), (4, 6), (10, 10)):
        tail.offer(events(first, last))
    assert [] == applied.batches
    tail.offer(events(1, 3))
    assert [(1, 3), (4, 6), (7, 9), (10, 10)] == applied.batches


def test_early_batches_may_overlap_each_other() -> None:
    tail, applied = tail_over(Source())
    for first, last in ((4, 9), (6, 7), (8, 12), (4, 5), (20, 21)):
        tail.offer(events(first, last))
    tail.offer(events(2, 2))
    tail.offer(events(1, 4))
    assert 12 == applied.position
    tail.offer(events(12, 19))
    assert 21 == tail.position


def test_early_batches_are_bounded() -> None:
    """Those beyond the bound are forgotten; the log has them."""
    for size in (9, 10, 11):
        tail, applied = tail_over(Source(), held_events_max=10)
        tail.offer(events(2, 6))
        tail.offer(events(7, size + 1))
        tail.offer(events(1, 1))
        assert (size + 1 if size <= 10 else 1) == applied.position, size


def test_what_is_kept_in_memory_is_bounded_in_bytes_too() -> None:
    """The newest are kept. What is counted is what is there."""
    all_bytes = sum(len(one.body) for one in events(1, 20))
    for limit in (all_bytes - 1, all_bytes, 100 * all_bytes):
        tail, _ = tail_over(Source(), recent_bytes_max=limit)
        for n in range(1, 21):
            tail.offer(events(n, n))
        kept = tail.recent(tail.oldest)
        assert kept is not None
        assert [*range(tail.oldest + 1, 21)] == [found.position for found in kept]
        assert sum(len(found.body) for found in kept) == tail.recent_bytes <= limit
        assert (tail.oldest == 0) == (limit >= all_bytes), limit


# --- gaps ------------------------------------------------------------------------------------------------------------------------


async def test_a_gap_is_read_from_the_log() -> None:
    source = Source(head=9)
    async with at_work(source) as (tail, applied):
        tail.offer(events(1, 2))
        tail.offer(events(6, 9))
        await reached(tail, 9)
    assert 9 == applied.position
    assert (1, 7) == (tail.gaps, tail.gap_events)
    assert 2 == source.reads[0]


async def test_what_arrives_while_the_log_is_read_is_not_taken_twice() -> None:
    """The story: the page and the batch both begin behind the old position; the second of them must not go back."""
    source = Source(head=6)
    async with at_work(source) as (tail, applied):
        tail.ring(6)
        while not source.reads:
            await asyncio.sleep(0)
        tail.offer(events(1, 4))
        await reached(tail, 6)
    assert [(1, 4), (5, 6)] == applied.batches


async def test_a_ring_makes_it_read() -> None:
    source = Source(head=3)
    async with at_work(source) as (tail, _):
        tail.ring(3)
        await reached(tail, 3)
        source.head = 5
        tail.ring(2)  # an old one
        tail.ring(3)
        tail.ring(5)
        await reached(tail, 5)


async def test_a_ring_for_what_is_there_already_reads_nothing() -> None:
    source = Source()
    async with at_work(source) as (tail, _):
        tail.offer(events(1, 5))
        for position in (1, 5):
            tail.ring(position)
        for _ in range(10):
            await asyncio.sleep(0)
    assert [] == source.reads


async def test_a_ring_that_comes_before_its_event_is_no_reason_to_spin() -> None:
    """It reads once, finds nothing, and waits for the next ring or the quiet."""
    source = Source()
    async with at_work(source) as (tail, _):
        tail.ring(7)
        for _ in range(50):
            await asyncio.sleep(0)
        assert [0] == source.reads
        source.head = 7
        tail.ring(7)
        await reached(tail, 7)


async def test_a_ring_during_a_read_is_not_forgotten() -> None:
    source = Source(head=1)
    async with at_work(source) as (tail, _):
        tail.ring(1)
        while not source.reads:
            await asyncio.sleep(0)
        source.head = 2
        tail.ring(2)
        await reached(tail, 2)


async def test_a_long_gap_is_read_in_pages() -> None:
    source = Source(head=25)
    async with at_work(source, read_events_max=10) as (tail, applied):
        tail.ring(25)
        await reached(tail, 25)
    assert [0, 10, 20] == source.reads
    assert [(1, 10), (11, 20), (21, 25)] == applied.batches


async def test_a_silent_bus_costs_a_delay_and_no_event() -> None:
    source = Source()
    async with at_work(source, quiet_s=0.01) as (tail, applied):
        for head in (1, 2, 7):
            source.head = head
            await reached(tail, head)
    assert 7 == applied.position


@pytest.mark.parametrize(
    "failure",
    [
        DatabaseUnavailable("gone"),
        asyncpg.ConnectionDoesNotExistError("closed"),
        asyncpg.InterfaceError("closing"),
        ConnectionResetError(),
        TimeoutError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_an_outage_of_the_database_is_waited_for(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imcore.bus.tail.RETRY_S", 0.001)
    source = Source(head=3)
    source.failure = failure
    async with at_work(source) as (tail, applied):
        tail.ring(3)
        while len(source.reads) < 3:
            await asyncio.sleep(0)
        tail.offer(events(1, 1))  # what needs no database goes on
        assert 1 == applied.position
        source.failure = None
        await reached(tail, 3)


async def test_a_log_with_a_hole_ends_the_tail_and_does_not_spin() -> None:
    """It cannot be (positions are dense); whoever made it so must hear of it, and not by the load on the database."""

    async def read(after: int, limit: int) -> list[Recorded]:
        await asyncio.sleep(0)
        return events(5, 9)

    tail = Tail(0, read, Applied().apply, quiet_s=0.001)
    async with asyncio.timeout(10):
        with pytest.raises(AssertionError, match="hole"):
            await tail.run()


async def test_whoever_waits_for_a_position_is_told_when_it_is_there() -> None:
    source = Source(head=5)
    async with at_work(source) as (tail, _):
        await tail.reached(0)
        waiting = [asyncio.create_task(tail.reached(position)) for position in (2, 5, 3)]
        given_up = asyncio.create_task(tail.reached(4))
        await asyncio.sleep(0)
        given_up.cancel()
        tail.offer(events(1, 3))
        await asyncio.wait(waiting, return_when=asyncio.ALL_COMPLETED, timeout=0)
        await waiting[0]
        await waiting[2]
        assert not waiting[1].done()
        tail.ring(5)
        await waiting[1]


# --- what is recent --------------------------------------------------------------------------------------------------------------


def test_recent_is_what_memory_holds_and_says_when_it_does_not() -> None:
    tail, _ = tail_over(Source(), 100)
    assert [] == tail.recent(100)
    assert None is tail.recent(99)
    assert 100 == tail.oldest
    tail.offer(events(101, 105))
    assert 100 == tail.oldest
    assert events(101, 105) == tail.recent(100)
    assert events(103, 105) == tail.recent(102)
    assert events(105, 105) == tail.recent(104)
    assert [] == tail.recent(105)
    assert [] == tail.recent(1_000)
    assert None is tail.recent(99)
    assert None is tail.recent(0)
    assert events(101, 102) == tail.recent(100, 2)
    assert events(104, 105) == tail.recent(103, 9)
    assert [] == tail.recent(100, 0)


@pytest.mark.parametrize("many", [1, 7, 100])
def test_recent_is_bounded_and_never_less_than_promised(many: int) -> None:
    """At least the last `recent_events_max`, at most twice as many."""
    tail, _ = tail_over(Source(), recent_events_max=many)
    for position in range(1, 5 * many, 3):
        tail.offer(events(position, position + 2))
        kept = tail.recent(tail.oldest)
        assert kept is not None
        assert kept == events(tail.oldest + 1, tail.position)
        assert min(many, tail.position) <= len(kept) <= 2 * many
        if tail.oldest:
            assert tail.recent(tail.oldest - 1) is None


def test_recent_gives_a_copy() -> None:
    tail, _ = tail_over(Source())
    tail.offer(events(1, 3))
    for kept in (tail.recent(0), tail.recent(0, 2)):
        assert kept is not None
        kept.clear()
    assert events(1, 3) == tail.recent(0)


# --- chance ----------------------------------------------------------------------------------------------------------------------


def schedule(chance: random.Random, total: int) -> list[list[Recorded]]:
    """The log in batches, as a bad bus brings them: some lost, some twice, some cut differently, all in disorder."""
    batches: list[tuple[float, list[Recorded]]] = []
    first = 1
    while first <= total:
        last = min(total, first + chance.choice([0, 0, 1, 4, 30]))
        for _ in range(chance.choice([0, 1, 1, 1, 2])):
            early = max(1, first - chance.choice([0, 0, 0, 5]))
            batches.append((first + chance.gauss(0, 20), events(early, last)))
        first = last + 1
    return [batch for _, batch in sorted(batches, key=lambda pair: pair[0])]


async def test_random_schedules_give_the_plain_sequence() -> None:
    """Lost, repeated, overlapping, reordered, with rings, failing reads and a small memory, 150 times."""
    chance = choose_seed()
    for _ in range(150):
        total = chance.randint(1, 300)
        source = Source()
        limits = {
            "held_events_max": chance.choice([1, 20, 10_000]),
            "recent_events_max": chance.choice([1, 20, 10_000]),
            "read_events_max": chance.choice([1, 10, 10_000]),
        }
        async with at_work(source, **limits) as (tail, applied):
            for batch in schedule(chance, total):
                source.head = max(source.head, batch[-1].position)
                tail.offer(batch)
                match chance.randrange(8):
                    case 0:
                        tail.ring(chance.randint(1, source.head))
                    case 1 | 2:
                        await asyncio.sleep(0)
                assert_recent(tail, chance)
            source.head = total
            tail.ring(total)
            await reached(tail, total)
            assert total == applied.position == tail.position


def assert_recent(tail: Tail, chance: random.Random) -> None:
    after = chance.randint(0, tail.position + 1)
    kept = tail.recent(after)
    assert kept == (None if after < tail.oldest else events(after + 1, tail.position))


async def test_two_tails_over_a_real_log_take_what_two_processes_append(database_url: str) -> None:
    """Each hears its own batches at once, and of the other's only by looking."""
    chance = choose_seed()
    seen: list[list[Recorded]] = [[], []]
    tails: list[Tail] = []

    def committed(n: int, batch: Sequence[Recorded]) -> None:
        tails[n].offer(list(batch))

    async with (
        appending(database_url, lambda batch: committed(0, batch)) as one,
        appending(database_url, lambda batch: committed(1, batch)) as two,
    ):
        tails += [
            Tail(0, one.reader.read, seen[0].extend, quiet_s=0.02),
            Tail(0, two.reader.read, seen[1].extend, quiet_s=0.02),
        ]
        async with running(tails[0].run()), running(tails[1].run()):
            for _ in range(30):
                for here in (one, two):
                    drafts = [message("live://r", is_member=False) for _ in range(chance.randint(1, 20))]
                    await here.tell(*drafts)
            everything = await one.whole_log()

            async def both() -> bool:
                return all(tail.position == len(everything) for tail in tails)

            await eventually(both)
        assert [everything, everything] == seen
        assert all(tail.gaps for tail in tails)


async def test_a_cancellation_that_comes_out_of_the_driver_as_an_error_ends_it_all_the_same() -> None:
    """The story: a pool was closed while the tail had a connection of it. "The pool is closed" replaced the cancellation, the tail
    tried again for ever, and a process that began anew after its database had gone back never opened its doors."""
    reading = asyncio.Event()

    async def read(after: int, limit: int) -> list[Recorded]:
        try:
            reading.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise asyncpg.InterfaceError("pool is closed") from None
        raise AssertionError("nothing is ever read")

    tailing = asyncio.create_task(Tail(0, read, lambda batch: None, quiet_s=0.01).run())
    await reading.wait()
    tailing.cancel()

    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await tailing
