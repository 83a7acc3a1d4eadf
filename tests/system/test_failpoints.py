"""Servers that break at a named place: what a client that does not give up sees, and that nothing is lost or doubled by it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from conftest import copy_cluster, temporary_folder
from imcore import failpoints
from imcore.database import create_pool
from imcore.projections import PROJECTIONS
from imcore.projections.rebuild import audit
from system.clients import Clients, Gone
from system.servers import Server, backend, running
from waiting import eventually

PAGE_EVENTS = 10
MISSED = 35


@pytest.fixture(scope="module")
def sound(cluster: Path) -> Iterator[Server]:
    """A server with a Postgres that others may use too; nothing breaks it."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open", "--set", "workers=2") as server:
            yield server


@asynccontextmanager
async def breaking(beside: Server, fail: str, *arguments: str) -> AsyncIterator[Server]:
    """One more comet on the same database (with `--roles` something else), which breaks like this. It does nothing but what its clients
    ask for: who also closes the sessions of those that broke before it would break of that."""
    with temporary_folder() as folder:
        given = ("--database-url", beside.url, "--roles", "comet", "--set", f"fail={fail}", *arguments)
        with running(folder, "--auth", "open", *given) as server:
            assert "FAILPOINTS ARE ARMED" in server.said()
            yield server


async def test_who_gets_no_answer_because_the_server_died_after_the_commit_gets_it_elsewhere(
    sound: Server, connecting: Clients
) -> None:
    """The same id, the same place; and the others hear the message, once."""
    room, mid, id_ = sound.new_room(), sound.new_mid(), str(uuid.uuid4())
    async with backend(sound) as api:
        await api.create(room, mid, other := sound.new_mid())
    listener = await connecting.connect(sound, "json", mid=other)
    async with breaking(sound, "after_commit:exit:2") as server:  # the session, then the send
        client = await connecting.connect(server, "v2 tcp", mid=mid, key="k")
        with pytest.raises(Gone):
            await client.send(room, "hello", id_)
        assert failpoints.EXIT_CODE == await server.stopped()
    await listener.until_said(1)
    again = await connecting.connect(sound, "json", mid=mid, key="k", cursor=client.cursor)
    place = await again.send(room, "hello", id_)
    last = await again.send(room, "the end")
    await listener.until_heard("the end")

    assert ["hello", "the end"] == listener.texts
    kept = [entry for entry in await sound.events() if entry.client_id == id_]
    assert [(place["position"], place["seq"], True)] == [
        (entry.position, entry.seq, place["duplicate"]) for entry in kept
    ]
    assert last["position"] > place["position"]
    await sound.assert_dense()


@pytest.mark.parametrize("place", ["before_publish", "after_publish"])
async def test_what_was_committed_reaches_the_others_whoever_dies_before_telling_them(
    sound: Server, connecting: Clients, place: str
) -> None:
    room, mid, id_ = sound.new_room(), sound.new_mid(), str(uuid.uuid4())
    async with backend(sound) as api:
        await api.create(room, mid, other := sound.new_mid())
    listener = await connecting.connect(sound, "v2 ws", mid=other)
    async with breaking(sound, f"{place}:exit:1") as server:
        client = await connecting.open(server, "json")
        first = await client.post(7, {"mid": mid, "key": "k"})  # its session is the first that is published
        await client.until_gone()
        assert first.done()
        assert failpoints.EXIT_CODE == await server.stopped()
    again = await connecting.connect(sound, "json", mid=mid, key="k")
    await again.send(room, "hello", id_)
    await listener.until_said(1)
    opened = [entry for entry in await sound.events() if entry.type == "session_opened" and entry.mid == mid]

    assert ["hello"] == listener.texts
    assert 2 == len(opened)


async def test_who_is_cut_off_in_the_middle_of_catching_up_gets_the_rest_elsewhere(
    sound: Server, connecting: Clients
) -> None:
    room, mid = sound.new_room(), sound.new_mid()
    async with backend(sound) as api:
        await api.create(room, mid, other := sound.new_mid())
    away = await connecting.connect(sound, "json", mid=mid, key="k")
    cursor = away.cursor
    await away.bye()
    speaker = await connecting.connect(sound, "json", mid=other)
    said = [f"{n}" for n in range(MISSED)]
    for words in said:
        await speaker.send(room, words)
    # The first page is read, written, the second is read, and that is all.
    async with breaking(sound, "mid_replay:exit:3", "--set", f"page_events_max={PAGE_EVENTS}") as server:
        cut_off = await connecting.connect(server, "json", mid=mid, key="k", cursor=cursor)
        await cut_off.until_gone()
        assert failpoints.EXIT_CODE == await server.stopped()
    back = await connecting.connect(sound, "v2 tcp", mid=mid, key="k", cursor=cursor)
    await back.until_heard(said[-1])

    assert said[: len(cut_off.texts)] == cut_off.texts
    assert len(cut_off.texts) <= PAGE_EVENTS
    assert said == back.texts


async def test_a_guest_whose_server_died_between_its_logout_and_its_leave_is_taken_out_by_the_next(
    sound: Server,
) -> None:
    room = sound.new_room()
    path = room.replace("://", "/")
    async with backend(sound) as api:
        await api.create(room, sound.new_mid())
    async with aiohttp.ClientSession() as session, breaking(sound, "after_commit:exit:3", "--roles", "api") as server:
        async with session.post(f"http://{server.http}/v1/guests", json={}) as told:
            guest = await told.json()
        token = {"Authorization": f"Bearer {guest['token']}"}
        async with session.post(f"http://{server.http}/v1/rooms/{path}/join", headers=token) as told:
            assert told.status in (200, 201)
        with pytest.raises(aiohttp.ClientError):
            await session.post(f"http://{server.http}/v1/logout", headers=token, json={})
        assert failpoints.EXIT_CODE == await server.stopped()

    async def is_out() -> bool:
        async with sound.database() as database:
            return not await database.fetchval("SELECT count(*) FROM members WHERE mid = $1", guest["mid"])

    with temporary_folder() as folder, running(folder, "--auth", "open", "--database-url", sound.url):
        await eventually(is_out)

    happened = [
        (one.stream, one.type) for one in await sound.events() if one.stream in (f"user:{guest['mid']}", f"room:{room}")
    ]
    assert ["logged_in", "member_joined", "logged_out", "member_left"] == [kind for _, kind in happened][-4:]


async def test_a_projector_that_dies_before_its_checkpoint_is_committed_folds_the_page_again(
    cluster: Path, connecting: Clients
) -> None:
    """Rows and checkpoint are one commit: what the next one makes is the fold of the log."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        server = Server(folder, "--auth", "open", "--set", "fail=before_cursor_commit:exit:3")
        try:
            server.start()
            room, mid = server.new_room(), server.new_mid()

            async def has_died() -> bool:
                """Says things until the third page is folded."""
                try:
                    client = await connecting.connect(server, "json", mid=mid, key="k", room=room)
                    await client.send(room, "hello")
                except (Gone, OSError):
                    return True
                return False

            await eventually(has_died)
            assert failpoints.EXIT_CODE == await server.stopped()
            server.arguments = ("--auth", "open")
            await server.start_again()
            client = await connecting.connect(server, "json", mid=mid, key="k", room=room)
            await client.send(room, "the end")
            head = await server.head()
            async with create_pool(server.url, connections_max=2) as pool:

                async def is_folded() -> bool:
                    return bool(head <= await pool.fetchval("SELECT min(position) FROM checkpoints"))

                await eventually(is_folded)
                differences = [(await audit(pool, one)).differences for one in PROJECTIONS.values()]
        finally:
            server.end()
        assert [[]] * len(PROJECTIONS) == differences
