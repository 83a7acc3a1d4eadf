"""Who was taken out of a room hears nothing that was said after it: on whatever comet, in whatever order things happen, and when the
comet cannot hear of it.

Two servers share a Postgres. The members that are taken out are connected to the one, everything is said and done on the other, and
the way from the first to Postgres can be held up.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import copy_cluster, temporary_folder
from system.between import BUS, Between, between
from system.checking import History, assert_sound, visit_of
from system.clients import HEARTBEAT, SEND, Client, Clients, Form
from system.postgres import Postgres
from system.servers import Backend, Server, backend, running
from waiting import eventually

LEASE_S = 4  # of a comet that is to be given up; a machine that does other things makes one late by two
LONG_S = 60  # of the others
VICTIMS = 20
KICKS_EACH = 50  # a thousand in all
PUSHES = 100
BEFORE, BESIDE = 2, 3  # messages that are under way when somebody is taken out, and that are said while it happens
V2: tuple[Form, ...] = ("v2 tcp", "v2 ws", "json")


class Two:
    """Two servers on one database; the way of the second to it can be held up."""

    def __init__(self, here: Server, there: Server, way: Between, api: Backend, api_there: Backend) -> None:
        self.here, self.there, self.way, self.api, self.api_there = here, there, way, api, api_there


SETTINGS = ("--auth", "open", "--no-rate-limits", "--unsafe")


@pytest.fixture(scope="module")
def postgres(cluster: Path) -> Iterator[Postgres]:
    """The one that they share."""
    with temporary_folder() as folder:
        copy_cluster(cluster, folder)
        made = Postgres(folder)
        try:
            asyncio.run(made.start())
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def here(postgres: Postgres) -> Iterator[Server]:
    """The first of the two, whose way is always open."""
    with temporary_folder() as folder, running(folder, *SETTINGS, "--database-url", postgres.url()) as server:
        yield server


@pytest.fixture
async def two(request: pytest.FixtureRequest, postgres: Postgres, here: Server, data_dir: Path) -> AsyncIterator[Two]:
    """With a second one of its own for each test; its lease may be chosen."""
    lease = ("--set", f"node_lease_s={getattr(request, 'param', LONG_S)}")
    async with between(postgres.url()) as way:
        there = Server(data_dir, *SETTINGS, *lease, "--database-url", way.url)
        try:
            await there.start_again()
            async with backend(here) as api, backend(there) as api_there:
                yield Two(here, there, way, api, api_there)
        finally:
            way.let_pass()
            await asyncio.to_thread(there.end)


async def test_after_a_kick_no_message_that_came_later_is_delivered(two: Two, connecting: Clients) -> None:
    """A thousand times, with messages on their way before, beside and after it: the kicked get what stands before the kick in the log,
    all of it, and nothing of what stands behind."""
    victims = [
        await connecting.connect(two.there, V2[n % 3], mid=two.here.new_mid(), key="v", accepts=None)
        for n in range(VICTIMS)
    ]
    kicks = await asyncio.gather(*(_kicked_again_and_again(two, connecting, victim) for victim in victims))
    await _until_all_came(two, victims)

    history = History(await two.here.events())
    assert_sound(history, [visit_of(victim, history, is_whole=True) for victim in victims])
    assert kicks == [[removal["position"] for removal in victim.removals] for victim in victims]
    assert VICTIMS * KICKS_EACH == sum(map(len, kicks))
    heard = [sum(1 for event in victim.events if event.op) for victim in victims]
    assert min(heard) > 0, "nobody heard anything: the test shows nothing"
    await two.here.assert_dense()


async def test_a_push_that_is_not_stored_does_not_overtake_the_kick_before_it(two: Two, connecting: Clients) -> None:
    """It comes by the bus and the kick by the log: who was taken out before it was pushed does not get it, whichever is faster."""
    room = two.here.new_room()
    victim = await connecting.connect(two.there, "json", mid=two.here.new_mid(), key="v", room=room)
    witness = await connecting.connect(two.there, "json", mid=two.here.new_mid(), key="w", room=room)
    await two.api.push_room(room, 1000, b'"first"')  # who has heard it is not behind, and so gets what is not stored
    for client in (victim, witness):
        await client.until_heard("first")
    for n in range(PUSHES):
        await two.api.kick(room, victim.mid)
        await two.api.push_room(room, 1000, f'"push {n}"'.encode(), durable=0)
        await witness.until_heard_of(f"push {n}")
        await two.api.add(room, victim.mid)
    await _until_all_came(two, [victim])

    assert PUSHES == len(victim.removals)
    assert ["first", "the end"] == victim.texts


async def test_a_kick_is_heard_of_without_a_bell(two: Two, connecting: Clients) -> None:
    """The doorbell is silent: the comet looks at the log every `quiet_s`, and comes to the kick before what was said later."""
    async with _kicked_while_held_up(two, connecting, BUS) as (victim, kick):
        await victim.until(lambda: victim.removals, "told that it is out")
        await eventually(lambda: _has_held_up(two, BUS))
    await _until_all_came(two, [victim])

    assert [kick] == [removal["position"] for removal in victim.removals]
    history = History(await two.here.events())
    assert_sound(history, [visit_of(victim, history, is_whole=True)])


@pytest.mark.parametrize("two", [LEASE_S], indirect=True, ids=["lease"])
async def test_a_comet_that_cannot_follow_the_log_delivers_nothing_of_a_room_with_members(
    two: Two, connecting: Clients
) -> None:
    """Cut off from Postgres it cannot know who was taken out. Its connections stay and are answered heartbeats, but nothing of the room
    reaches them: not what is stored, which it does not see, nor, after a lease, what is pushed without being stored. When the way
    is open again it learns that it was given up, and its clients are told to come back; who was taken out gets nothing of the room."""
    async with _kicked_while_held_up(two, connecting) as (victim, kick):
        heard = list(victim.events)
        room = heard[-1].stream.removeprefix("room:")
        await eventually(lambda: _is_given_up(two))
        await eventually(lambda: _hears_no_push(two, victim, room))
        for _ in range(3):
            assert await _hears_no_push(two, victim, room)
        await victim.ask(HEARTBEAT)
        assert heard == [event for event in victim.events if event.position]
        assert [] == victim.removals
    assert 4001 == await victim.until_gone()
    assert ("going_away", True) == victim.told
    await eventually(lambda: _is_back(two))  # who comes before that is sent away once more
    again = await connecting.connect(
        two.there, victim.form, mid=victim.mid, key=victim.key, cursor=victim.cursor, accepts=None
    )
    await _until_all_came(two, [again])

    history = History(await two.here.events())
    stored = [event for event in victim.events if event.position]
    victim.events[:] = stored
    assert_sound(history, [visit_of(victim, history), visit_of(again, history, 1, is_whole=True, caught_up=kick)])
    assert all(event.position < kick for event in (*stored, *again.events) if event.stream == f"room:{room}")


async def _kicked_again_and_again(two: Two, connecting: Clients, victim: Client) -> list[int]:
    """Where in the log each kick is."""
    room = two.here.new_room()
    speaker = await connecting.connect(two.here, "v2 tcp", mid=two.here.new_mid(), key="s", room=room)
    kicks = []
    for n in range(KICKS_EACH):
        await two.api.add(room, victim.mid)
        answers = [await _post(speaker, room, f"{n} before {m}") for m in range(BEFORE)]
        whose = random.choice((two.api, two.api_there))
        kicking = asyncio.create_task(whose.kick(room, victim.mid))
        for m in range(BESIDE):
            answers.append(await _post(speaker, room, f"{n} beside {m}"))
            await asyncio.sleep(0)
        kick = await kicking
        later = await speaker.send(room, f"{n} after")
        assert later["position"] > kick["position"]
        for answer in answers:
            await speaker.reply(answer)
        kicks.append(kick["position"])
    return kicks


@asynccontextmanager
async def _kicked_while_held_up(two: Two, connecting: Clients, *purposes: str) -> AsyncIterator[tuple[Client, int]]:
    """Somebody on the second server, in a room with a history; while the way is held up, taken out on the first, and the room talks on.
    Gives who it is and where in the log the kick is; the way is open again after the block."""
    room = two.here.new_room()
    speaker = await connecting.connect(two.here, "v2 tcp", mid=two.here.new_mid(), key="s", room=room)
    victim = await connecting.connect(two.there, "json", mid=two.here.new_mid(), key="v", room=room)
    witness = await connecting.connect(two.here, "json", mid=two.here.new_mid(), key="w", room=room)
    await speaker.send(room, "to everybody")
    await victim.until_heard("to everybody")
    two.way.hold_up(*purposes)
    try:
        await speaker.send(room, "while nothing gets through")
        kick = await two.api.kick(room, victim.mid)
        for n in range(5):
            await speaker.send(room, f"after {n}")
        await witness.until_heard("after 4")
        yield victim, kick["position"]
    finally:
        two.way.let_pass()


async def _post(speaker: Client, room: str, words: str) -> asyncio.Future[Any]:
    return await speaker.post(SEND, {"room": room, "body": words, "id": str(uuid.uuid4())})


async def _until_all_came(two: Two, clients: list[Client]) -> None:
    """What is sent to a person last is delivered last."""
    for client in clients:
        await two.api.push("mids", 1000, b'"the end"', mids=[client.mid])
    for client in clients:
        await client.until_heard("the end")


async def _hears_no_push(two: Two, victim: Client, room: str) -> bool:
    """Is what is pushed to the room without being stored kept from it, while what is pushed to itself arrives?"""
    words = str(uuid.uuid4())
    await two.api_there.push_room(room, 1000, f'"{words} to the room"'.encode(), durable=0)
    await two.api_there.push("mids", 1000, f'"{words}"'.encode(), mids=[victim.mid], durable=0)
    await victim.until_heard(words)
    return f"{words} to the room" not in victim.texts


async def _has_held_up(two: Two, purpose: str) -> bool:
    """Did something have to wait on the way? Else the test shows nothing."""
    return two.way.held[purpose] > 0


async def _is_given_up(two: Two) -> bool:
    """Is it declared dead, and not only late?"""
    async with two.here.database() as connection:
        return not await connection.fetchval("SELECT count(*) FROM nodes WHERE node = $1", two.there.node)


async def _is_back(two: Two) -> bool:
    """Has it learned that it was given up, and begun anew?"""
    async with two.here.database() as connection:
        known = [two.here.node, two.there.node]
        return bool(await connection.fetchval("SELECT count(*) FROM nodes WHERE node <> ALL($1::text[])", known))
