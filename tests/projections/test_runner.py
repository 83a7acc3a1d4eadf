"""The runner on a real log: what is promised whatever is killed, repeated or wrong."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Server
from imcore.events.reader import Reader
from imcore.events.store import Draft, draft
from imcore.events.types import (
    ROOM,
    SERVICE_MID,
    SESSION,
    DeliveryAcked,
    MemberJoined,
    MemberLeft,
    MemberMuted,
    MemberRemoved,
    Recorded,
    RoleChanged,
    RoomCreated,
    RoomsEntered,
    SessionClosed,
    SessionOpened,
)
from imcore.projections import ASYNCHRONOUS, deliveries, inbox, members, queries, sessions
from imcore.projections.projection import Key, Projection
from imcore.projections.rebuild import audit
from imcore.projections.runner import Runner
from projections.place import Place, message, place, running
from waiting import eventually

R = "group://r"
SOON_S = 60


async def holds_everything(runner: Runner, here: Place) -> None:
    assert await runner.reached((await here.reader.head()).position, SOON_S)


# --- a fold of the log, whatever happens ---------------------------------------------------------------------------------------

ROOMS = st.sampled_from(("group://a", "live://b"))
MIDS = st.integers(1, 3)
KEYS = st.sampled_from(("phone", "web"))
SMALL = st.integers(0, 12)


@dataclass(frozen=True)
class Mark:
    room: str
    mid: int
    seq: int


@dataclass(frozen=True)
class Kill:
    """End the runner after so many turns of the loop, and start another."""

    turns: int


def in_room(fact: st.SearchStrategy[Any]) -> st.SearchStrategy[Draft]:
    return fact.map(lambda made: draft(ROOM + made.room, made, made.mid if hasattr(made, "mid") else SERVICE_MID))


def in_session(fact: st.SearchStrategy[Any]) -> st.SearchStrategy[Draft]:
    return st.builds(lambda mid, made: draft(f"{SESSION}{mid}", made, mid, key=made.key), MIDS, fact)


HAPPENINGS = st.one_of(
    st.builds(message, ROOMS, st.integers(0, 3)),
    st.builds(message, ROOMS, st.integers(0, 3)),
    in_room(st.builds(RoomCreated, room=ROOMS, public=st.booleans(), history=st.sampled_from(("joined", "all")))),
    in_room(st.builds(MemberJoined, room=ROOMS, mid=MIDS)),
    in_room(st.builds(MemberLeft, room=ROOMS, mid=MIDS)),
    in_room(st.builds(MemberRemoved, room=ROOMS, mid=MIDS)),
    in_room(st.builds(MemberMuted, room=ROOMS, mid=MIDS, until_ms=SMALL)),
    in_room(st.builds(RoleChanged, room=ROOMS, mid=MIDS, role=st.sampled_from(("owner", "admin", "member")))),
    in_session(st.builds(SessionOpened, key=KEYS, node=st.just("n"), rooms=st.lists(ROOMS, max_size=2).map(tuple))),
    in_session(st.builds(SessionClosed, key=KEYS, opened=SMALL, reason=st.just("left"), delivered=st.none() | SMALL)),
    in_session(st.builds(RoomsEntered, key=KEYS, opened=SMALL, rooms=st.lists(ROOMS, max_size=2).map(tuple))),
    in_session(st.builds(DeliveryAcked, key=KEYS, position=SMALL)),
    st.builds(Mark, ROOMS, MIDS, SMALL),
    st.builds(Kill, st.integers(0, 30)),
)


class Ring:
    """A memory that repeats, forgets and skips: whoever takes its pages unseen applies events twice or never."""

    def __init__(self, here: Place, seed: int) -> None:
        self.here = here
        self.random = random.Random(seed)

    def recent(self, after: int, limit: int) -> Sequence[Recorded] | None:
        events = self.here.events
        match self.random.randrange(6):
            case 0:
                return None
            case 1:
                return []
            case 2:
                return events[max(0, after - 2) : after + limit]
            case 3:
                return events[after + 1 : after + limit]
        return events[after : after + limit]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    happenings=st.lists(HAPPENINGS, min_size=5, max_size=60),
    page_events_max=st.sampled_from((1, 3, 5_000)),
    seed=st.integers(0, 2**32),
)
async def test_rows_are_the_fold_of_the_log(
    server: Server, template: str, happenings: list[Draft | Mark | Kill], page_events_max: int, seed: int
) -> None:
    """Whatever happens, however often the runner is killed, and when it is given events twice."""
    async with server.database(template) as url, place(url) as here:
        # Positions must count on from 1 in `events` for the ring to be right at least sometimes; marks are appended as they come.
        ring = Ring(here, seed)
        runner = here.runner(recent=ring.recent, page_events_max=page_events_max)
        task = asyncio.create_task(runner.run())
        for happening in happenings:
            match happening:
                case Kill(turns):
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                    runner = here.runner(recent=ring.recent, page_events_max=page_events_max)
                    task = asyncio.create_task(runner.run())
                case Mark(room, mid, seq):
                    await here.mark(room, mid, seq)
                case _:
                    again = Draft(
                        happening.stream, happening.type, happening.body, happening.mid, key=happening.key,
                        op=happening.op, format_=happening.format,
                    )  # fmt: skip
                    await here.happen(again)
            runner.wake(here.log.position)
        await holds_everything(runner, here)
        task.cancel()
        await asyncio.wait([task])

        await here.assert_rows_are_the_fold()
        await assert_unread_is_what_one_counts(here)
        for projection in (*ASYNCHRONOUS, members.projection):
            assert (await audit(here.pool, projection)).differences == []


async def assert_unread_is_what_one_counts(here: Place) -> None:
    """Messages with seq > max(read mark, join), of others; marks and joins looked up in the log."""
    events = await here.whole_log()
    since: dict[tuple[int, str], int] = {}
    mark: dict[tuple[int, str], int] = {}
    for event in events:
        if event.op:
            continue
        match event.fact:
            case MemberJoined(room=room, mid=mid):
                since.setdefault((mid, room), event.seq)
            case MemberLeft(room=room, mid=mid) | MemberRemoved(room=room, mid=mid):
                since.pop((mid, room), None)
                mark.pop((mid, room), None)
            case fact if event.type == "read_marked":
                place_ = (fact.mid, fact.room)  # type: ignore[attr-defined]
                mark[place_] = max(mark.get(place_, 0), fact.seq)  # type: ignore[attr-defined]
    counted = {
        (mid, room): sum(
            event.op > 0 and event.room == room and event.mid != mid and event.seq > max(seq, mark.get((mid, room), 0))
            for event in events
        )
        for (mid, room), seq in since.items()
    }
    told = {
        (mid, line.room): line.unread for mid in range(1, 4) for line in await queries.inbox_page(here.pool, mid, "", 9)
    }
    assert counted == told


# --- one at a time -----------------------------------------------------------------------------------------------------------


async def test_rows_follow_and_whoever_waits_is_told(here: Place) -> None:
    runner = here.runner()
    async with running(runner.run()):
        await here.join(R, 7)
        (last,) = await here.send(R, 8)

        assert await runner.reached(last.position, SOON_S)
        assert (await here.rows(inbox.projection))[7, R].seen == 0  # type: ignore[attr-defined]
        assert runner.position == runner.head == last.position
        assert runner.lag_events == 0


async def test_waiting_for_what_never_comes_ends_in_time(here: Place) -> None:
    runner = here.runner()
    async with running(runner.run()):
        assert not await runner.reached(1, 0.05)
    assert not await here.runner().reached(1, 0.05)


async def test_another_process_can_wait_too(here: Place) -> None:
    """It never leads: it learns from the checkpoints."""
    leading, other = here.runner(), here.runner(lead=False)
    async with running(leading.run()), running(other.run()):
        (last,) = await here.send(R, 8)
        leading.wake(last.position)

        assert await other.reached(last.position, SOON_S)
        assert (leading.leading, other.leading, other.pages) == (True, False, 0)


async def test_appends_of_others_are_found_without_a_word(here: Place) -> None:
    """The doorbell may be broken; the log is looked at all the same."""
    runner = here.runner()
    async with running(runner.run()):
        await eventually(lambda: _is(lambda: runner.leading))
        await here.send(R, 8)

        await eventually(lambda: _is(lambda: runner.position == 1))


async def test_a_word_that_comes_while_the_log_is_read_is_not_lost(here: Place) -> None:
    """The log was empty when it was read, and is not when the answer arrives."""

    class Late(Reader):
        async def read(self, after: int, limit: int = 500) -> list[Recorded]:
            page = await super().read(after, limit)
            if not page and len(here.events) == 1:
                (event,) = await here.send(R, 8)
                runner.wake(event.position)
            return page

    runner = Runner(here.connect, Late(here.pool, here.log.names), ASYNCHRONOUS, quiet_s=60)
    (first,) = await here.send(R, 8)
    async with running(runner.run()):
        assert await runner.reached(first.position, SOON_S)
        runner.wake(99)  # not true, so the log is read in vain

        await eventually(lambda: _is(lambda: runner.position == 2))


async def test_one_leads_and_the_next_takes_over(here: Place) -> None:
    one, two = here.runner(), here.runner()
    async with running(two.run()):
        async with running(one.run()):
            await eventually(lambda: _is(lambda: one.leading or two.leading))
            await here.join(R, 7)
            await holds_everything(one, here)
            assert one.leading != two.leading
        await here.send(R, 7, 3)
        await holds_everything(two, here)
        await eventually(lambda: _is(lambda: two.leading))
    await here.assert_rows_are_the_fold()


async def test_one_that_holds_the_lease_and_stands_still_is_replaced(here: Place) -> None:
    """A stopped process keeps its connection, and with it the lease."""
    stopped = await here.connect()
    runner = here.runner(stuck_s=0.1)
    await stopped.fetchval("SELECT pg_advisory_lock($1, $2)", *runner._lease)
    async with running(runner.run()):
        (last,) = await here.send(R, 8)

        assert await runner.reached(last.position, SOON_S)
    stopped.terminate()


async def test_nobody_is_replaced_for_hearsay(here: Place) -> None:
    """A standby that was told of a position that is none does not take a leader with nothing to do for one that stands still."""
    leading, other = here.runner(), here.runner(stuck_s=0.1)
    async with running(leading.run()):
        await eventually(lambda: _is(lambda: leading.leading))
        async with running(other.run()):
            assert not await other.reached(99, 0.3)
            assert other.lag_events == 0
    assert not other.leading


async def test_two_active_runners_apply_nothing_twice(here: Place) -> None:
    """They hold different leases, because they do not run the same projections; the checkpoint decides who writes a page."""
    one = here.runner(page_events_max=7)
    two = here.runner([inbox.projection], page_events_max=5)
    await here.join(R, 1, 2, 3)
    async with running(one.run()), running(two.run()):
        await eventually(lambda: _is(lambda: one.leading and two.leading))
        for _ in range(20):
            await here.submit(*(message(R, mid) for mid in (1, 2, 3, 9)))
            one.wake(here.log.position)
            two.wake(here.log.position)
        await holds_everything(one, here)
        await holds_everything(two, here)
    await here.assert_rows_are_the_fold()


async def test_a_lost_database_connection_is_made_again(here: Place) -> None:
    """At any moment, also when the server has said farewell and the end of the connection has not arrived."""
    runner = here.runner()
    async with running(runner.run()):
        for _ in range(10):
            await here.send(R, 8)
            await holds_everything(runner, here)
            await here.pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
            await here.send(R, 8)
            await holds_everything(runner, here)
    await here.assert_rows_are_the_fold()


async def test_a_new_projection_catches_up_and_holds_nobody_back(here: Place) -> None:
    old = here.runner([sessions.projection], page_events_max=2)
    await here.join(R, 7)
    await here.send(R, 7, 30)
    async with running(old.run()):
        await holds_everything(old, here)
    both = here.runner([sessions.projection, inbox.projection], page_events_max=2)
    async with running(both.run()):
        await eventually(lambda: _is(lambda: both.positions.get("sessions") == 31))
        await holds_everything(both, here)
    await here.assert_rows_are_the_fold(*both_of(sessions, inbox))


# --- poison --------------------------------------------------------------------------------------------------------------------


async def test_an_event_that_cannot_be_read_is_quarantined_and_the_others_go_on(
    here: Place, caplog: pytest.LogCaptureFixture
) -> None:
    runner = here.runner()
    caplog.set_level(logging.CRITICAL, logger="imcore.projections.runner")
    async with running(runner.run()):
        await here.in_session(7, SessionOpened(key="phone", node="n"))
        (poison,) = await here.submit(Draft(f"{SESSION}7", "session_opened", '{"key": 5, "secret": "body"}', 7))
        await here.in_session(8, SessionOpened(key="phone", node="n"))
        await here.in_session(8, DeliveryAcked(key="phone", position=1))
        await holds_everything(runner, here)

        assert {(7, "phone"), (8, "phone")} == (await here.rows(sessions.projection)).keys()
        assert {(8, "phone")} == (await here.rows(deliveries.projection)).keys()
        (told,) = await here.pool.fetch("SELECT projection, position, error FROM quarantine")
        assert ("sessions", poison.position) == (told["projection"], told["position"])
        assert "body" not in told["error"], "what was in the event is nobody's business here"
        assert runner.quarantined == 1


async def test_a_row_that_the_database_refuses_is_found_among_its_page(
    here: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the database knows, and only of the whole page: U+0000 is valid JSON and no text of Postgres."""
    caplog.set_level(logging.CRITICAL, logger="imcore.projections.runner")
    facts = [SessionOpened(key=f"k{n}", node="a\0b" if n in (3, 9) else "n") for n in range(12)]
    await here.submit(*(draft(f"{SESSION}7", fact, 7) for fact in facts))
    runner = here.runner()
    async with running(runner.run()):
        await holds_everything(runner, here)

    assert {(7, f"k{n}") for n in range(12) if n not in (3, 9)} == (await here.rows(sessions.projection)).keys()
    assert [4, 10] == [row[0] for row in await here.pool.fetch("SELECT position FROM quarantine ORDER BY position")]


async def test_an_event_is_tried_three_times(here: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="imcore.projections.runner")
    tried: list[int] = []

    def apply(key: Key, row: sessions.Session | None, recorded: Recorded) -> sessions.Session | None:
        if recorded.position == 2:
            tried.append(recorded.position)
            if len(tried) < fails + 1:
                raise RuntimeError("not today")
        return sessions.apply(key, row, recorded)

    doubtful = Projection("sessions", sessions.projection.table, sessions.Session, sessions.TYPES, sessions.keys, apply)
    for n in range(3):
        await here.in_session(7, SessionOpened(key=f"k{n}", node="n"))
    fails = 2
    async with running((runner := here.runner([doubtful])).run()):
        await holds_everything(runner, here)
    assert (len(tried), runner.quarantined) == (3, 0)
    await here.assert_rows_are_the_fold(sessions.projection)


async def test_deliveries_never_go_back(here: Place) -> None:
    """Whatever the order of acks, every state of the row that can be seen is at or after the one before."""
    runner = here.runner([deliveries.projection], page_events_max=1)
    seen: list[int] = []
    async with running(runner.run()):
        for position in (3, 1, 5, 2, 4, 9, 8):
            event = await here.in_session(7, DeliveryAcked(key="phone", position=position))
            assert await runner.reached(event.position, SOON_S)
            seen.append((await queries.delivered(here.pool, [7]))[7, "phone"])
    assert [3, 3, 5, 5, 5, 9, 9] == seen


async def test_types_of_a_message_never_reach_the_parser() -> None:
    """Its body is the client's own, and parsing it 40,000 times a second would cost more than all the rest."""
    said = Recorded(1, ROOM + R, 1, 1, "message_sent", 1, 7, "", None, 1000, 0, 0, "not JSON")

    assert inbox.keys(said) == ((7, R),)
    assert inbox.apply((7, R), inbox.Inbox(0, 0, 0, 0, 0), said) == inbox.Inbox(0, 0, 0, 1, 0)


async def _is(ask: Any) -> bool:
    return bool(ask())


def both_of(*modules: Any) -> list[Any]:
    return [module.projection for module in modules]


async def test_a_runner_that_rests_does_so_whoever_waits(here: Place) -> None:
    """After a page that took some milliseconds it does nothing for an hour; then nobody waits for what it does."""
    await here.join(R, 1, 2)
    runner = here.runner(page_events_max=1, rest=1e7)
    async with running(runner.run()):
        assert await runner.reached(1, SOON_S)
        assert not await runner.reached(2, 0.2)
        assert 1 == runner.pages
