"""Leases: who is alive, who is declared dead, and that nobody is who is not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from imcore import nodes
from imcore.events.types import DeliveryAcked, SessionOpened
from imcore.nodes import ExpiredSession, Node, Reaper
from imcore.projections import queries, sessions
from imcore.projections.runner import Runner
from projections.place import Place, running
from waiting import eventually

SOON_S = 60


def node(name: str) -> Node:
    return Node(name, "host", "127.0.0.1", 3101, 3102, 3103, "sh", 10)


@pytest.fixture
async def runner(here: Place) -> AsyncIterator[Runner]:
    at_work = here.runner()
    async with running(at_work.run()):
        yield at_work


async def test_a_comet_is_alive_from_registering_to_unregistering(here: Place) -> None:
    await nodes.register(here.pool, node("a"))
    await nodes.register(here.pool, node("b"))
    assert await nodes.renew(here.pool, "b", connections=5, addresses=3)

    told = await nodes.alive(here.pool)

    assert [(node("a"), 0, 0), (node("b"), 5, 3)] == [(Node(*one[:8]), one.connections, one.addresses) for one in told]
    await nodes.unregister(here.pool, "a")
    assert ["b"] == [one.node for one in await nodes.alive(here.pool)]
    assert not await nodes.renew(here.pool, "a", connections=0, addresses=0)


async def test_a_lease_that_ran_out_hides_the_comet_until_it_is_renewed(here: Place) -> None:
    """The database was away for longer than a lease: nobody is dead for that."""
    await nodes.register(here.pool, node("a"))
    await here.pool.execute("UPDATE nodes SET lease_until = now() - interval '1 s'")

    assert [] == await nodes.alive(here.pool)
    assert [] == await nodes.expired_sessions(here.pool)
    assert await nodes.renew(here.pool, "a", connections=0, addresses=0)
    assert ["a"] == [one.node for one in await nodes.alive(here.pool)]


async def test_sessions_of_a_comet_that_is_gone_are_closed(here: Place, runner: Runner) -> None:
    await nodes.register(here.pool, node("alive"))
    kept = await here.in_session(1, SessionOpened(key="phone", node="alive"))
    lost = await here.in_session(2, SessionOpened(key="phone", node="gone"))
    await here.in_session(2, DeliveryAcked(key="phone", position=1))
    assert await runner.reached(3, SOON_S)
    assert [ExpiredSession(2, "phone", lost.position, "gone")] == await nodes.expired_sessions(here.pool)

    assert await nodes.reap(here.log, here.pool) == 1

    assert await runner.reached(here.log.position, SOON_S)
    rows = await here.rows(sessions.projection)
    assert {(1, "phone"): kept.position} == {key: row.opened for key, row in rows.items()}  # type: ignore[attr-defined]
    assert await nodes.reap(here.log, here.pool) == 0
    assert await queries.delivered(here.pool, [2]) == {(2, "phone"): 1}, "a lost comet takes no marks back"


async def test_closing_a_lost_session_twice_does_not_end_the_one_that_came_back(here: Place, runner: Runner) -> None:
    await nodes.register(here.pool, node("alive"))
    lost = await here.in_session(2, SessionOpened(key="phone", node="gone"))
    assert await runner.reached(lost.position, SOON_S)
    expired = await nodes.expired_sessions(here.pool)
    assert await nodes.reap(here.log, here.pool) == 1
    back = await here.in_session(2, SessionOpened(key="phone", node="alive"))
    # Another reaper had looked before.
    assert [lost.position] == [session.opened for session in expired]
    await here.in_session(2, nodes.closing(expired[0]))
    assert await runner.reached(here.log.position, SOON_S)

    rows = await here.rows(sessions.projection)
    assert {(2, "phone"): back.position} == {key: row.opened for key, row in rows.items()}  # type: ignore[attr-defined]


async def test_many_lost_sessions_are_closed_page_by_page(
    here: Place, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "REAP_SESSIONS_MAX", 4)
    for mid in range(10):
        await here.in_session(mid, SessionOpened(key="phone", node="gone"))
    assert await runner.reached(10, SOON_S)

    assert await nodes.reap(here.log, here.pool) == 10
    assert await runner.reached(here.log.position, SOON_S)
    assert {} == await here.rows(sessions.projection)


async def test_a_comet_that_does_not_renew_is_declared_dead_and_learns_it(here: Place, runner: Runner) -> None:
    await nodes.register(here.pool, node("killed"), lease_s=0.2)
    await nodes.register(here.pool, node("alive"), lease_s=60)
    await here.in_session(1, SessionOpened(key="phone", node="killed"))
    await here.in_session(2, SessionOpened(key="phone", node="alive"))
    async with running(Reaper(here.log, here.pool, look_s=0.02).run()):

        async def only_one_is_online() -> bool:
            return {(2, "phone")} == (await here.rows(sessions.projection)).keys()

        await eventually(only_one_is_online)

    assert not await nodes.renew(here.pool, "killed", connections=0, addresses=0)
    assert await nodes.renew(here.pool, "alive", connections=0, addresses=0)


async def test_a_lease_is_watched_for_its_whole_length_before_it_is_taken_away(here: Place) -> None:
    """By the reaper's own clock: what the database's clock says of it does not matter."""
    clock = Clock()
    reaper = Reaper(here.log, here.pool, look_s=1, clock=clock)
    await nodes.register(here.pool, node("a"), lease_s=15)
    await here.pool.execute("UPDATE nodes SET lease_until = now() - interval '1 hour'")
    for clock.now in range(100, 115):
        assert await reaper.declare_dead() == []
    clock.now = 115
    assert await reaper.declare_dead() == ["a"]
    assert await reaper.declare_dead() == []


async def test_a_lease_that_is_renewed_is_watched_anew(here: Place) -> None:
    clock = Clock()
    reaper = Reaper(here.log, here.pool, look_s=1, clock=clock)
    await nodes.register(here.pool, node("a"), lease_s=15)
    for clock.now in range(100, 140):
        if clock.now % 14 == 0:
            assert await nodes.renew(here.pool, "a", connections=0, addresses=0)
        assert await reaper.declare_dead() == []


async def test_a_reaper_that_was_away_declares_nobody_dead_for_that(here: Place) -> None:
    """It or the database was stopped, and the comets with it perhaps: they get a whole lease to renew."""
    clock = Clock()
    reaper = Reaper(here.log, here.pool, look_s=1, clock=clock)
    await nodes.register(here.pool, node("a"), lease_s=15)
    for clock.now in range(100, 110):
        await reaper.declare_dead()
    for clock.now in range(200, 215):
        assert await reaper.declare_dead() == []
    clock.now = 215
    assert await reaper.declare_dead() == ["a"]


class Clock:
    """A clock that is set by hand."""

    now: float = 0

    def __call__(self) -> float:
        return self.now
