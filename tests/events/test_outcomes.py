"""An error is not a failure: whatever breaks, each sender is told once, and asking again with the same id tells the truth."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from asyncpg.connection import LoggedQuery

from events.at_work import (
    PATIENCE_S,
    AtWork,
    Nothing,
    Told,
    appending,
    assert_sound,
    connected,
    message,
    new_id,
    running,
    submit,
)
from events.line import Line, line_to
from imcore import commands, membership
from imcore.database import connect, create_pool
from imcore.database.embedded import embedded
from imcore.database.migrations import upgrade
from imcore.errors import ImcoreError, NoSuchRoom, Overloaded, Unavailable
from imcore.events.names import OwnConnection
from imcore.events.store import APPEND, Decision, Draft, Log
from imcore.events.types import Recorded
from imcore.permissions import person
from imcore.projections.inline import InlineProjections
from waiting import eventually

R = "group://r"
TIMEOUT_S = 0.4
SOON_S = 20.0  # far more than TIMEOUT_S, far less than for ever
# Everybody who appends to this database.
TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'appender' AND datname = current_database()
"""
APPENDERS = TERMINATE.replace("pg_terminate_backend(pid)", "*")
# Appenders that wait for somebody's lock.
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name = 'appender' AND datname = current_database() AND wait_event_type = 'Lock'
"""


def items(road: str, *drafts: Draft) -> list[Draft | Decision]:
    """Drafts on this road."""
    return [*drafts, *([Nothing()] if road == "decisions" else [])]


@asynccontextmanager
async def head_locked(url: str) -> AsyncIterator[None]:
    """Somebody holds the head of the log, so that every append waits."""
    async with connected(url) as connection, connection.transaction():
        await connection.execute("SELECT FROM log_head FOR UPDATE")
        yield


def hurry(log: Log, append_timeout_s: float) -> None:
    """From here on an append may take so long. What a test begins and ends with takes as long as the machine does."""
    log._append_timeout_s = append_timeout_s


async def is_waiting(here: AtWork) -> None:
    async def waits() -> bool:
        return bool(await here.pool.fetchval(WAITING))

    await eventually(waits)


async def has_head(here: AtWork, position: int) -> None:
    async def is_there() -> bool:
        return (await here.reader.head()).position == position

    await eventually(is_there)


@pytest.fixture
async def line(database_url: str) -> AsyncIterator[tuple[Line, str]]:
    async with line_to(database_url) as both:
        yield both


# --- unknown outcomes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_a_commit_whose_answer_got_lost_is_found_by_the_retry(
    line: tuple[Line, str], database_url: str, road: str
) -> None:
    """The story: committed, the line broke, the client was told nothing certain, and must not say it twice."""
    between, url = line
    async with appending(url, database=database_url) as here:
        await here.join(R, 1)
        await here.together(*items(road, message(R), message(R)))  # from here on an append of two is one trip
        used = new_id()
        between.lose_replies(after=b"COMMIT" if road == "decisions" else None)
        on_its_way = submit(here.log, *items(road, message(R, 1, used), message(R, 7)))
        await between.lost.wait()
        await has_head(here, 4)
        between.cut()
        assert {Unavailable} == kinds(await on_its_way.all_told())

        between.pass_on()
        (told,) = await here.tell(message(R, 1, used))
        assert (True, (4, 4)) == (told.duplicate, told.place)
        assert 2 == len(here.batches[-1]), "nobody was shown what nobody knew to be committed"
        await assert_sound(here.pool)


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_only_retries_are_uncertain_when_their_first_places_cannot_be_read(
    line: tuple[Line, str], database_url: str, road: str
) -> None:
    """Their neighbours are committed or refused by then, and have been told so."""
    between, url = line
    async with appending(url, database=database_url) as here:
        await here.join(R, 1)
        used = new_id()
        await here.say(R, client_id=used)
        between.lose_replies(after=b"FROM events WHERE position = ANY")
        on_its_way = submit(here.log, *items(road, message(R), message(R, 1, used), message(R, 7), message(R)))
        await between.lost.wait()
        between.cut()
        told = (await on_its_way.all_told())[:4]
        assert [Recorded, Unavailable, NoSuchRoom, Recorded] == [
            type(one.outcome) for one in told if isinstance(one, Told)
        ]

        between.pass_on()
        (again,) = await here.tell(message(R, 1, used))
        assert (True, (2, 2)) == (again.duplicate, again.place)
        assert 4 == len(await assert_sound(here.pool))


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_an_append_that_was_ended_is_made_by_the_retry(database_url: str, road: str) -> None:
    async with appending(database_url) as here:
        await here.join(R, 1)
        used = new_id()
        async with head_locked(database_url):
            on_its_way = submit(here.log, *items(road, message(R, 1, used), message(R, 7)))
            await is_waiting(here)
            await here.pool.execute(TERMINATE)
            assert {Unavailable} == kinds(await on_its_way.all_told())
        assert Unavailable.retry
        (told,) = await here.tell(message(R, 1, used))
        assert (False, (2, 2)) == (told.duplicate, told.place)
        await assert_sound(here.pool)


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_an_append_that_takes_too_long_has_an_unknown_outcome(database_url: str, road: str) -> None:
    async with appending(database_url) as here:
        await here.join(R, 1)
        used = new_id()
        hurry(here.log, TIMEOUT_S)
        async with head_locked(database_url):
            told = await submit(here.log, *items(road, message(R, 1, used))).all_told()
            assert {Unavailable} == kinds(told)
        hurry(here.log, PATIENCE_S)
        (again,) = await settled(here, message(R, 1, used))
        assert (2, 2) == again.place
        assert 2 == len(await assert_sound(here.pool))


@pytest.mark.parametrize(
    ("road", "after"),
    [("drafts", b"mark"), ("decisions", b"BEGIN"), ("decisions", b"mark"), ("decisions", b"COMMIT")],
)
async def test_a_database_that_falls_silent_is_given_up(
    line: tuple[Line, str], database_url: str, road: str, after: bytes
) -> None:
    """The story: the answer to an append did not come, and after the timeout the appender waited for that to its rollback, for ever."""
    between, url = line
    async with appending(url, database=database_url) as here:
        await here.join(R, 1)
        await here.together(*items(road, message(R)))
        used = new_id()
        hurry(here.log, TIMEOUT_S)
        between.lose_replies(after=after)
        async with asyncio.timeout(SOON_S):
            told = await submit(here.log, *items(road, message(R, 1, used, body='"mark"'))).all_told()
        assert {Unavailable} == kinds(told)
        hurry(here.log, PATIENCE_S)
        between.pass_on()
        between.cut()
        (again,) = await settled(here, message(R, 1, used, body='"mark"'))
        assert (3, 3) == again.place
        await assert_sound(here.pool)


async def test_a_line_that_is_cut_at_random_moments_loses_and_doubles_nothing(
    line: tuple[Line, str], database_url: str, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is told once for each time it is asked, and in the end everything is there once."""
    monkeypatch.setattr("imcore.events.store.RECONNECT_S", 0.001)
    between, url = line
    async with appending(url, database=database_url) as here:
        await here.join(R, 1, 2)
        between.cut_now_and_then(chance, 0.05)
        left: list[tuple[int, str]] = [(n, new_id()) for n in range(400)]
        places: dict[int, tuple[int, int]] = {}
        unknown = 0
        while left:
            many = chance.randint(1, 15)
            wave, left = left[:many], left[many:]
            asked = items(chance.choice(["drafts", "decisions"]), *(message(R, 1 + n % 2, id_) for n, id_ in wave))
            told = await submit(here.log, *asked).all_told()
            for (n, id_), one in zip(wave, told, strict=False):
                assert isinstance(one, Told)
                if isinstance(one.outcome, ImcoreError):
                    assert isinstance(one.outcome, Unavailable | Overloaded)
                    unknown += 1
                    left.append((n, id_))
                else:
                    places[n] = one.place
        between.pass_on()
        events = await assert_sound(here.pool)
        assert sorted(places.values()) == [(event.position, event.seq) for event in events[2:]]
        assert between.cuts > 0
        assert unknown > 0


async def test_a_postgres_that_is_killed_and_started_again_has_everything_that_was_acknowledged(used: Path) -> None:
    async with embedded(used) as url:
        await upgrade(url)
        async with appending(url, append_timeout_s=10) as here:
            await here.join(R, 1)
            places: dict[str, tuple[int, int]] = {}
            for n in range(60):
                if n in (20, 40):
                    on_its_way = submit(here.log, message(R, 1, f"{n:032x}"))
                    os.kill(
                        int((used / "postgres" / "postmaster.pid").read_text().split()[0]),
                        signal.SIGQUIT if n == 20 else signal.SIGKILL,
                    )
                    await on_its_way.all_told()
                for told in await settled(here, message(R, 1, f"{n:032x}")):
                    places[f"{n:032x}"] = told.place

            async def sound() -> list[Recorded]:
                return await assert_sound(here.pool)

            events = await eventually(sound)
            assert list(places.values()) == [(event.position, event.seq) for event in events[1:]]


async def settled(here: AtWork, *drafts: Draft) -> list[Told]:
    """Ask until the answer is definite, as a client does."""

    async def ask() -> list[Told] | None:
        told = await here.tell(*drafts)
        return None if any(isinstance(one.outcome, Unavailable | Overloaded) for one in told) else told

    answer = await eventually(ask)
    assert answer is not None
    return answer


def kinds(told: Iterable[object]) -> set[type]:
    return {type(one.outcome if isinstance(one, Told) else one) for one in told}


# --- the database is not there ---------------------------------------------------------------------------------------------------


async def test_what_waits_too_long_for_a_database_is_refused_and_was_not_stored(database_url: str) -> None:
    is_there = False

    async def reach() -> OwnConnection:
        if not is_there:
            raise ConnectionRefusedError
        return await connect(database_url)

    log = Log(reach, InlineProjections(), lambda batch: None, append_timeout_s=TIMEOUT_S)
    async with running(log.run()), create_pool(database_url) as pool:
        told = await submit(log, message("live://r", is_member=False), Nothing()).all_told()
        assert {Overloaded} == kinds(told)
        assert 0 == log.pending
        hurry(log, PATIENCE_S)
        is_there = True
        assert 1 == (await log.appending(message("live://r", is_member=False))).position
        assert 1 == len(await assert_sound(pool))


async def test_a_short_absence_of_the_database_costs_nobody_anything(database_url: str) -> None:
    absences = 3

    async def reach() -> OwnConnection:
        nonlocal absences
        absences -= 1
        if absences > 0:
            raise ConnectionRefusedError
        return await connect(database_url)

    async with running((log := Log(reach, InlineProjections(), lambda batch: None)).run()):
        assert 1 == (await log.appending(message("live://r", is_member=False))).position


async def test_while_the_database_is_away_messages_are_refused_at_once_and_what_nobody_waits_for_is_kept(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is told another time to come back. The ends of sessions are in the log when the database is there again."""
    is_there = False

    async def reach() -> OwnConnection:
        if not is_there:
            raise ConnectionRefusedError
        return await connect(database_url)

    log = Log(reach, InlineProjections(), lambda batch: None, append_timeout_s=TIMEOUT_S, send_wait_max_s=0.1)
    async with running(log.run()), create_pool(database_url) as pool:
        await submit(log, message("live://r", is_member=False)).all_told()
        for mid in range(1, 4):
            log.submit(commands.close_session(mid, "k", 1, "lost", None))

        waits_ms, loop = [], asyncio.get_running_loop()
        now = loop.time()
        with monkeypatch.context() as patched:  # else the line moves on meanwhile
            patched.setattr(loop, "time", lambda: now)
            for _ in range(100):
                with pytest.raises(Overloaded) as refusal:
                    log.submit(message("live://r", is_member=False))
                waits_ms.append(refusal.value.retry_after_ms or 0)
        assert sorted(waits_ms) == waits_ms
        assert 1_000 <= waits_ms[0] < waits_ms[-1]
        assert 3 == log.pending

        hurry(log, PATIENCE_S)
        is_there = True
        said = await eventually(lambda: _said(log, "live://r"))
        assert said is not None
        assert said.position == 4, "behind those that waited"
        assert ["session_closed"] * 3 + ["message_sent"] == [event.type for event in await assert_sound(pool)]


async def _said(log: Log, room: str) -> Recorded | None:
    try:
        return await log.appending(message(room, is_member=False))
    except Overloaded:
        return None


async def test_a_silent_database_keeps_nobody_waiting_for_the_next_connection(line: tuple[Line, str]) -> None:
    """The story: who had waited through a whole timeout waited through half of another, for a connection that hung."""
    between, url = line
    async with appending(url, send_wait_max_s=TIMEOUT_S / 2) as here:
        await here.say("live://r", is_member=False)
        hurry(here.log, 2 * TIMEOUT_S)
        between.lose_replies()
        in_hand = submit(here.log, message("live://r", is_member=False))
        await between.lost.wait()
        waiting = submit(here.log, message("live://r", is_member=False))

        async with asyncio.timeout(SOON_S):
            assert {Unavailable} == kinds(await in_hand.all_told())
            assert {Overloaded} == kinds(await waiting.all_told())
        between.cut()


async def test_what_is_committed_is_told_though_the_database_said_goodbye_behind_its_answer(database_url: str) -> None:
    """The story: those of a batch were told only when the next one was on its way, and before that there was an outage to wait for."""
    goodbye = asyncio.Event()

    async def reach() -> OwnConnection:
        if goodbye.is_set():
            raise ConnectionRefusedError
        connection = await connect(database_url, application_name="appender")

        def end(query: LoggedQuery) -> None:
            if query.query == APPEND and not goodbye.is_set():
                goodbye.set()
                connection.terminate()

        connection.add_query_logger(end)
        return connection

    log = Log(reach, InlineProjections(), lambda batch: None, batch_events_max=1, append_timeout_s=60)
    async with running(log.run()):
        first, second = (log.appending(message("live://r", is_member=False)) for _ in range(2))
        async with asyncio.timeout(SOON_S):
            assert 1 == (await first).position
        assert not second.done()
    assert isinstance(second.exception(), Overloaded)


async def test_what_is_committed_is_told_while_the_next_batch_waits_for_a_name(database_url: str) -> None:
    """The story: the next batch waited for its streams to get their numbers, and those who were stored already waited with it."""
    async with appending(database_url, batch_events_max=1) as here, connected(database_url) as connection:
        await here.say("live://old", is_member=False)
        async with connection.transaction():
            await connection.execute("INSERT INTO streams (name) VALUES ('room:live://new')")
            first, second = (here.log.appending(message(f"live://{name}", is_member=False)) for name in ("old", "new"))
            async with asyncio.timeout(SOON_S):
                assert 2 == (await first).position
            assert not second.done()
        assert 3 == (await second).position


FAR = 4_900_000


async def test_nobody_waits_for_ever_for_a_connection_that_cannot_be_made_ready(database_url: str) -> None:
    """The story: somebody held the lock on making partitions, and an appender that reconnected refused nothing and did nothing."""
    async with connected(database_url) as connection, appending(database_url, append_timeout_s=TIMEOUT_S) as here:
        # So far that the next partition has to be made.
        await connection.execute("UPDATE log_head SET position = $1", FAR)
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('imcore_make_partitions'))")
            async with asyncio.timeout(SOON_S):
                told = await submit(here.log, message("live://r", is_member=False)).all_told()
            assert {Overloaded} == kinds(told)
        hurry(here.log, PATIENCE_S)
        (again,) = await settled(here, message("live://r", is_member=False))
        assert (FAR + 1, 1) == again.place

        async def is_one() -> bool:
            return [1] == [row["count"] for row in await here.pool.fetch(APPENDERS)]

        await eventually(is_one)  # and those that were not ready are closed


# --- bounds ----------------------------------------------------------------------------------------------------------------------


async def test_pending_is_bounded(database_url: str) -> None:
    async with appending(database_url, pending_events_max=5, append_timeout_s=60) as here:
        await here.join(R, 1)
        async with head_locked(database_url):
            in_hand = submit(here.log, message(R))
            await is_waiting(here)
            waiting = submit(here.log, *(message(R) for _ in range(5)))
            for one in (message(R), membership.Join(R, person(2), may_create=True)):
                with pytest.raises(Overloaded) as refusal:
                    here.log.submit(one)
                assert 100 <= (refusal.value.retry_after_ms or 0) <= 10_000
            with pytest.raises(Overloaded):
                await here.log.append([message(R)])
            with pytest.raises(Overloaded):
                here.log.appending(message(R))
            with pytest.raises(Overloaded):
                await here.log.decide(Nothing())
            assert 5 == here.log.pending
        told = [*await in_hand.all_told(), *await waiting.all_told()]
        assert [(n, n) for n in range(2, 8)] == [one.place for one in told if isinstance(one, Told)]
        await here.say(R)


async def test_ends_of_sessions_and_acks_have_room_when_there_is_none_for_messages(database_url: str) -> None:
    async with appending(database_url, pending_events_max=5, pending_reserve_events=2, append_timeout_s=60) as here:
        await here.join(R, 1)
        async with head_locked(database_url):
            in_hand = submit(here.log, message(R))
            await is_waiting(here)
            messages = submit(here.log, *(message(R) for _ in range(3)))
            with pytest.raises(Overloaded):
                here.log.submit(message(R))
            with pytest.raises(Overloaded):
                here.log.submit(membership.Join(R, person(2), may_create=True))
            kept = submit(here.log, commands.close_session(1, "k", 1, "lost", None), commands.ack(1, "k", 1))
            with pytest.raises(Overloaded):
                here.log.submit(commands.ack(1, "k", 2))
            assert 3 == here.log.backlog.refused
        for one in (in_hand, messages, kept):
            assert {Recorded} == kinds(await one.all_told())


async def test_no_more_wait_than_are_committed_in_time(database_url: str) -> None:
    """Batches that take long leave room for one more batch, and who comes beyond that is told so before it has waited."""
    async with appending(
        database_url, batch_events_max=10, pending_events_max=1_000, send_wait_max_s=0.2, append_timeout_s=60
    ) as here:
        await here.join(R, 1)
        async with head_locked(database_url):
            in_hand = submit(here.log, message(R))
            await is_waiting(here)

            async def is_narrow() -> bool:
                return here.log.backlog.sends_max == 10

            assert await eventually(is_narrow)
            waiting = submit(here.log, *(message(R) for _ in range(10)))
            with pytest.raises(Overloaded):
                here.log.submit(message(R))
        assert {Recorded} == kinds([*await in_hand.all_told(), *await waiting.all_told()])

        async def is_wide() -> bool:
            await here.say(R)
            return here.log.backlog.sends_max == 1_000

        assert await eventually(is_wide)


async def test_drafts_that_do_not_all_fit_are_none_of_them_taken(database_url: str) -> None:
    async with appending(database_url, pending_events_max=5) as here:
        await here.join(R, 1)
        with pytest.raises(Overloaded):
            await here.log.append([message(R) for _ in range(6)])
        assert 0 == here.log.pending
        assert 5 == len(await here.log.append([message(R) for _ in range(5)]))
        assert 6 == (await here.reader.head()).position


async def test_a_batch_is_bounded(database_url: str) -> None:
    async with appending(database_url, batch_events_max=10) as here:
        await here.join(R, 1)
        before = here.log.batches
        await here.tell(*(message(R) for _ in range(21)))
        assert [10, 10, 1] == [len(batch) for batch in here.batches[-3:]]
        assert before + 3 == here.log.batches
        large = '"' + "x" * (2 << 20) + '"'
        await here.tell(*(message(R, body=large) for _ in range(3)))
        assert [2, 1] == [len(batch) for batch in here.batches[-2:]]


async def test_drain_settles_everything_and_then_refuses(database_url: str) -> None:
    async with appending(database_url, append_timeout_s=60) as here:
        await here.join(R, 1)
        async with head_locked(database_url):
            waiting = submit(here.log, *(message(R) for _ in range(1_500)))
            await is_waiting(here)
            draining = asyncio.create_task(here.log.drain())
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="stopping"):
                here.log.submit(message(R))
            assert not draining.done()
        await draining
        assert 1_500 == waiting.calls
        assert {Recorded} == kinds(await waiting.all_told())
        with pytest.raises(Overloaded, match="stopping"):
            await here.log.append([message(R)])
        await here.log.drain()


async def test_drain_does_not_wait_for_a_database_when_nothing_is_left_to_settle() -> None:
    """The story: at a stop during an outage everybody had been told, and the process still waited for Postgres."""

    async def reach() -> OwnConnection:
        raise ConnectionRefusedError

    log = Log(reach, InlineProjections(), lambda batch: None, append_timeout_s=TIMEOUT_S)
    async with running(log.run()):
        told = submit(log, message(R))
        async with asyncio.timeout(SOON_S):
            await log.drain()
        assert {Overloaded} == kinds(await told.all_told())


# --- the end of the appender -----------------------------------------------------------------------------------------------------


async def test_at_the_end_everybody_is_told(database_url: str) -> None:
    """What was in hand may have been stored; what waited was not."""
    log = Log(lambda: connect(database_url, application_name="appender"), InlineProjections(), lambda batch: None)
    async with create_pool(database_url) as pool:
        async with running(log.run()) as appender, head_locked(database_url):
            in_hand = submit(log, message("live://r", is_member=False), Nothing())

            async def waits() -> bool:
                return bool(await pool.fetchval(WAITING))

            await eventually(waits)
            waiting = submit(log, message("live://r", is_member=False), Nothing())
            appender.cancel()
            assert {Unavailable} == kinds(await in_hand.all_told())
            assert {Overloaded} == kinds(await waiting.all_told())
        await log.drain()


async def test_an_appender_that_has_ended_takes_nothing(database_url: str) -> None:
    """The story: what was submitted behind its end was never told anything."""
    async with appending(database_url) as here:
        await here.join(R, 1)
    with pytest.raises(Overloaded, match="stopping"):
        here.log.submit(message(R))
    with pytest.raises(Overloaded, match="stopping"):
        await here.log.append([message(R)])
