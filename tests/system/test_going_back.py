"""The database went back in time: an older copy was put back, or a standby took over. Clients are told, and nobody else is bothered.

What was acknowledged and is lost is lost; but nothing is said of it any more, and no position means two things in one epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from conftest import copy_cluster, temporary_folder
from system.clients import ACK, Client, Clients
from system.postgres import Postgres
from system.servers import PROGRAM, Server, backend, running
from waiting import eventually

MARKS = """
SELECT count(*) FROM event_log
WHERE greatest((body::json ->> 'position')::bigint, (body::json ->> 'delivered')::bigint) >= position
  AND type IN ('delivery_acked', 'session_closed')
"""


async def said(client: Client, room: str, *words: str) -> str:
    """Somebody says something and acknowledges what it has; the cursor."""
    place: dict[str, int] = {}
    for word in words:
        place = await client.send(room, word)
    return (await client.ask(ACK, {"position": place["position"]}))["cursor"]  # type: ignore[no-any-return]


async def test_an_older_copy_under_a_stopped_server_is_another_log(cluster: Path, connecting: Clients) -> None:
    """Nothing in the database shows it; what the server wrote down beside it does."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open") as server:
            postgres = Postgres(server.data)
            room = server.new_room()
            client = await connecting.connect(server, "json", mid=1, key="k", room=room)
            before = await said(client, room, "kept")
            server.ask_to_stop()
            assert 0 == await server.stopped()
            older = postgres.copy()
            await server.start_again()
            client = await connecting.connect(server, "json", mid=1, key="k", cursor=before)
            assert client.welcome["recovered"]
            after = await said(client, room, "lost")
            server.ask_to_stop()
            assert 0 == await server.stopped()
            postgres.put_back(older)
            await server.start_again()

            for cursor in (before, after):
                client = await connecting.connect(server, "json", mid=1, key="k", cursor=cursor)
                assert (False, "epoch") == (client.welcome["recovered"], client.welcome["reason"])
            client = await connecting.connect(server, "json", mid=1, key="k", cursor=client.cursor)
            assert client.welcome["recovered"]
            epoch = client.welcome["epoch"]
            server.ask_to_stop()
            assert 0 == await server.stopped()
            await server.start_again()
            client = await connecting.connect(server, "json", mid=1, key="k", cursor=client.cursor)
            assert (True, epoch) == (client.welcome["recovered"], client.welcome["epoch"])
            await server.assert_dense()


@pytest.fixture
async def postgres(cluster: Path) -> AsyncIterator[Postgres]:
    """A Postgres that runs."""
    with temporary_folder() as folder:
        copy_cluster(cluster, folder)
        made = Postgres(folder)
        await made.start()
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
async def standby(postgres: Postgres) -> AsyncIterator[Postgres]:
    """One that follows it."""
    with temporary_folder() as folder:
        made = Postgres(folder)
        await made.follow(postgres)
        try:
            yield made
        finally:
            made.stop()


def servers(stack: ExitStack, url: str, count: int) -> list[Server]:
    """Several on one database."""
    return [
        stack.enter_context(
            running(stack.enter_context(temporary_folder()), "--auth", "open", "--database-url", url, "--unsafe")
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_older_copy_under_running_servers_sends_everybody_away_and_tells_them(
    postgres: Postgres, connecting: Clients, workers: int
) -> None:
    """Those that saw what is lost, and those that did not: they agree on one epoch. What clients had is given to nobody, and what
    they acknowledge now is of the new log."""
    with ExitStack() as stack:
        url = postgres.url()
        first, second = servers(stack, url, 1)[0], None
        room = "group://r"
        client = await connecting.connect(first, "json", mid=1, key="k", room=room)
        before = await said(client, room, "kept")
        client.drop()
        first.ask_to_stop()
        assert 0 == await first.stopped()
        postgres.stop()
        older = postgres.copy()
        await postgres.start()
        first.arguments = (*first.arguments, "--workers", str(workers))
        await first.start_again()
        (second,) = servers(stack, url, 1)
        here = await connecting.connect(first, "json", mid=1, key="k", cursor=before)
        there = await connecting.connect(second, "v2 tcp", mid=2, key="k", room=room)
        silent = await connecting.connect(second, "v1 ws", mid=3, key="k", room=room)
        assert here.welcome["epoch"] == there.welcome["epoch"]
        cursor = await said(here, room, *(f"lost {n}" for n in range(40)))
        await there.until_said(40)
        postgres.stop()
        postgres.put_back(older)
        await postgres.start()

        for one in (here, there, silent):
            await one.until_gone()
        assert ("going_away", True) == (there.farewell["code"], there.farewell["retry"])  # type: ignore[index]
        again = await connecting_again(connecting, first, 1, cursor)
        other = await connecting_again(connecting, second, 2, before)
        for one in (again, other):
            assert (False, "epoch") == (one.welcome["recovered"], one.welcome["reason"])
        assert here.welcome["epoch"] != again.welcome["epoch"] == other.welcome["epoch"]
        await other.ask(22, {"room": room})
        place = await again.send(room, "new")
        await other.until_said(1)
        assert ["new"] == other.said
        history = await again.ask(26, {"room": room})
        assert ["kept", "new"] == [event["body"] for event in history["events"] if event["type"] == "message_sent"]
        assert place["seq"] == history["head"]
        async with postgres.connection() as connection:
            assert 0 == await connection.fetchval(MARKS)
        async with backend(first) as api:
            assert 2 == len(await api.sessions_once(1, 1)) + len(await api.sessions_once(2, 1))

            # What is not stored waits for a place in this log, and for none of that of before; and is lost while nobody listens yet.
            async def is_heard() -> bool:
                await api.push_room(room, 1000, b"passing", durable=0)
                return "passing" in other.texts

            await eventually(is_heard)


async def connecting_again(connecting: Clients, server: Server, mid: int, cursor: str) -> Client:
    """As soon as it lets somebody in, where it was before. It may still be on its way."""

    async def connected() -> Client:
        return await connecting.connect(server, "json", mid=mid, key="k", cursor=cursor)

    return await eventually(connected)


@pytest.mark.parametrize("count", [1, 2])
async def test_a_standby_that_has_everything_takes_over_and_no_client_notices(
    postgres: Postgres, standby: Postgres, connecting: Clients, count: int
) -> None:
    """The only comet vouches for the epoch. Where there are several, nobody knows what the others saw: a new one begins, and cursors
    of the old one are good as far as the standby had come."""
    with ExitStack() as stack:
        running_servers = servers(stack, postgres.url(standby), count)
        room = "group://r"
        clients = [
            await connecting.connect(server, "json", mid=n, key="k", room=room)
            for n, server in enumerate(running_servers, 1)
        ]
        watching = await connecting.connect(running_servers[-1], "json", mid=9, key="k", room=room)
        epoch = watching.welcome["epoch"]
        cursor = await said(clients[0], room, "before")
        await eventually(postgres.is_followed)
        postgres.stop()
        await standby.promote()

        async def sent() -> dict[str, int]:
            return await clients[0].send(room, "after")

        await eventually(sent)
        for one in (watching, *clients[1:]):
            await one.until_heard("after")
        assert not any(one.is_gone for one in (watching, *clients))
        again = await connecting.connect(running_servers[-1], "json", mid=1, key="k", cursor=cursor)
        assert again.welcome["recovered"]
        await again.until_heard("after")
        assert (count == 1) == (epoch == again.welcome["epoch"])
        assert (await watching.ack()).startswith(again.welcome["epoch"])


async def test_a_standby_that_lacks_the_end_takes_over_and_clients_are_told(
    postgres: Postgres, standby: Postgres, connecting: Clients
) -> None:
    with ExitStack() as stack:
        (server,) = servers(stack, postgres.url(standby), 1)
        room = "group://r"
        client = await connecting.connect(server, "json", mid=1, key="k", room=room)
        before = await said(client, room, "kept")
        await eventually(postgres.is_followed)
        standby.stop()
        after = await said(client, room, "lost")
        postgres.stop()
        await standby.start()
        await standby.promote()

        await client.until_gone()
        for cursor in (before, after):
            again = await connecting_again(connecting, server, 1, cursor)
            assert (False, "epoch") == (again.welcome["recovered"], again.welcome["reason"])
        assert client.welcome["epoch"] != again.welcome["epoch"]
        await again.send(room, "new")


async def test_an_operator_says_that_it_is_another_log(cluster: Path, connecting: Clients) -> None:
    """While it runs: everybody is sent away, and told."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open") as server:
            client = await connecting.connect(server, "json", mid=1, key="k")
            process = await asyncio.create_subprocess_exec(
                *(*PROGRAM, "db", "new-epoch", "--yes", "--database-url", server.url), stdout=asyncio.subprocess.PIPE
            )
            out, _ = await process.communicate()

            assert 0 == process.returncode
            await client.until_gone()
            again = await connecting_again(connecting, server, 1, client.cursor)
            assert (False, "epoch") == (again.welcome["recovered"], again.welcome["reason"])
            assert again.welcome["epoch"] in out.decode()
