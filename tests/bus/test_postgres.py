"""The bus over a real Postgres: it rings in every process, and comes back whatever ends its connection."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from events.at_work import connected, running
from imcore.bus import postgres
from imcore.bus.postgres import (
    BATCH_MAX,
    CHANNEL,
    EPHEMERAL_MAX,
    NOTIFICATION_BYTES_MAX,
    SIGNALS_MAX,
    Ephemeral,
    PostgresBus,
)
from imcore.database import connect
from imcore.events.names import OwnConnection
from waiting import eventually

LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bus' AND datname = current_database()"
TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'bus' AND datname = current_database()
"""
PUSH = Ephemeral(1000, b"\xff\x00{}", "live://1", (1, 2), ("k",), everybody=False)
SIGNAL = Ephemeral(0, b"{}", "group://1", (), (), everybody=False, position=7, type="receipt")


class Ears:
    """What one process heard."""

    def __init__(self, url: str) -> None:
        self.positions: list[int] = []
        self.messages: list[Ephemeral] = []
        self.before: dict[int, int] = {}  # how many messages had come when a position was rung
        self.bus = PostgresBus(lambda: connect(url, application_name="bus"), self._rung, self.messages.append)

    def _rung(self, position: int) -> None:
        self.positions.append(position)
        self.before[position] = len(self.messages)

    async def hears(self, position: int) -> None:
        async def has_heard() -> bool:
            return position in self.positions

        await eventually(has_heard)


@asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[Ears, Ears]]:
    """Two processes at a bus, both listening already."""
    one, other = Ears(url), Ears(url)
    async with running(one.bus.run()), running(other.bus.run()):
        await both_listen(one, other)
        yield one, other


async def both_listen(one: Ears, other: Ears, position: int = 1) -> None:
    """Ring until each has heard the other; what is rung before somebody listens is lost."""

    async def heard() -> bool:
        nonlocal position
        position += 1
        one.bus.publish(position)
        other.bus.publish(position)
        return bool(one.positions and other.positions)

    one.positions.clear()
    other.positions.clear()
    await eventually(heard)


async def test_a_ring_is_heard_by_everybody(database_url: str) -> None:
    async with two(database_url) as (one, other):
        one.bus.publish(10**15)
        await one.hears(10**15)
        await other.hears(10**15)
        other.bus.publish(10**15 + 1)
        await one.hears(10**15 + 1)


async def test_many_rings_become_few_and_the_last_is_among_them(database_url: str) -> None:
    async with two(database_url) as (one, other):
        other.positions.clear()
        for position in range(1_000, 2_000):
            one.bus.publish(position)
        await other.hears(1_999)
        assert len(other.positions) < 10


async def test_a_message_that_is_not_stored_is_passed_on_to_the_others_only(database_url: str) -> None:
    async with two(database_url) as (one, other):
        one.bus.pass_on(PUSH)
        one.bus.pass_on(SIGNAL)
        one.bus.publish(5_000)
        await one.hears(5_000)
        await other.hears(5_000)
        assert [PUSH, SIGNAL] == other.messages
        assert [] == one.messages


async def test_a_signal_says_what_it_is_and_whose(database_url: str) -> None:
    signal = Ephemeral(0, b"{}", "group://1", (), (), everybody=False, position=9, type="typing", mid=7, key="phone")
    async with two(database_url) as (one, other):
        one.bus.pass_on(signal)
        one.bus.publish(5_000)
        await other.hears(5_000)
        assert [signal] == other.messages


async def test_many_messages_hold_up_no_ring_and_none_is_lost_because_it_is_like_another(database_url: str) -> None:
    """Postgres drops what is notified twice in one transaction, and there are many in one here."""
    many = [PUSH._replace(payload=b"%d" % (n // 3)) for n in range(900)]
    async with two(database_url) as (one, other):
        for push in many:
            one.bus.pass_on(push)
        one.bus.publish(5_000)
        await other.hears(5_000)
        assert other.before[5_000] <= BATCH_MAX

        async def has_all() -> bool:
            return len(other.messages) == len(many)

        await eventually(has_all)
        assert many == other.messages


def test_signals_are_the_first_to_be_left_out(database_url: str) -> None:
    """And take no room from pushes."""
    bus = Ears(database_url).bus
    signal = PUSH._replace(type="typing")
    for n in range(SIGNALS_MAX + 10):
        bus.pass_on(signal._replace(mid=n))
    assert (SIGNALS_MAX, 10) == (bus.waiting, bus.dropped)
    for n in range(EPHEMERAL_MAX - SIGNALS_MAX):
        bus.pass_on(PUSH._replace(payload=b"%d" % n))
    assert (EPHEMERAL_MAX, 10) == (bus.waiting, bus.dropped)


async def test_what_does_not_fit_into_a_notification_is_not_passed_on(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The longest that fits is, and one more sign is not."""
    empty = PUSH._replace(payload=b"", room="")
    async with two(database_url) as (one, other):
        one.bus.pass_on(empty)
        one.bus.publish(5_000)
        await other.hears(5_000)
        around = len(json.dumps(["x" * 8, empty.op, "", *empty[2:7]]))
        fits = empty._replace(room="x" * (NOTIFICATION_BYTES_MAX - around))
        with caplog.at_level(logging.WARNING):
            one.bus.pass_on(fits)
            assert not caplog.records
            one.bus.pass_on(fits._replace(room=f"{fits.room}x"))
        assert ["a message that is not stored is too large for the bus"] == [line.message for line in caplog.records]
        one.bus.publish(5_001)
        await other.hears(5_001)
        assert [empty, fits] == other.messages


async def test_a_connection_that_is_killed_is_made_again(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when there is nothing to ring for: who only listens must notice that nobody is there any more."""
    monkeypatch.setattr(postgres, "RETRY_S", 0.01)
    monkeypatch.setattr(postgres, "ALIVE_S", 0.05)
    async with two(database_url) as (one, other), connected(database_url) as connection:
        assert 2 == await connection.fetchval(TERMINATE)

        async def both_are_back() -> bool:
            return [2] == [row["count"] for row in await connection.fetch(LISTENERS)]

        await eventually(both_are_back)
        await both_listen(one, other, position=10_000)


async def test_what_is_published_while_the_database_is_away_is_rung_when_it_is_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "RETRY_S", 0.01)
    is_there = False

    async def reach() -> OwnConnection:
        if not is_there:
            raise ConnectionRefusedError
        return await connect(database_url, application_name="bus")

    heard: list[int] = []
    bus = PostgresBus(reach, heard.append)
    async with running(bus.run()):
        bus.publish(7)
        await asyncio.sleep(0)
        is_there = True

        async def has_rung() -> bool:
            return 7 in heard

        await eventually(has_rung)


async def test_a_notification_of_somebody_else_does_no_harm(database_url: str) -> None:
    """Whoever may connect to the database may notify; what is not ours is no reason to end."""
    said: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context))
    async with two(database_url) as (one, other), connected(database_url) as connection:
        for payload in ("", "hello", "{}", "[1]", "-7", "²", "9" * 5_000, '["x",1,"not base64!",null,[],[],true]'):
            await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
        one.bus.publish(9_000)
        await other.hears(9_000)
        assert [] == other.messages
    assert [] == said
