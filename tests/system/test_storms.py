"""What a reconnect costs Postgres, told by Postgres: it logs every statement."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from conftest import copy_cluster, temporary_folder
from imcore.comet.loader import GATHER_S, HEADS
from imcore.events.names import IDS, NAMES
from imcore.events.reader import READ_PAGES
from imcore.projections.queries import DELIVERED, DEPARTED, MEMBERSHIPS
from system.clients import Client, Clients
from system.servers import Backend, Server, backend, running
from waiting import eventually

CLIENTS: Final = 1_000
ROOM_MEMBERS: Final = 50
STATEMENTS_MAX: Final = 40  # of one kind, and as many as the time that a storm takes allows, not as many as come
EXECUTED: Final = re.compile(r"LOG:  execute [^:]+: (.*?)(?=\n\d{4}-\d\d-\d\d )", re.DOTALL)
OF_A_CONNECT: Final = {
    "memberships": MEMBERSHIPS, "marks": DELIVERED, "departures": DEPARTED, "heads": HEADS, "pages": READ_PAGES, "ids": IDS,
    "names": NAMES,
}  # fmt: skip


@pytest.fixture(scope="module")
def storming(cluster: Path) -> Iterator[Server]:
    """A server that takes anybody, and whose Postgres tells everything."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open", "--no-rate-limits") as server:
            yield server


@pytest.fixture
async def api(storming: Server) -> AsyncIterator[Backend]:
    async with storming.database() as connection:
        await connection.execute("ALTER SYSTEM SET log_statement = 'all'")
        await connection.execute("SELECT pg_reload_conf()")
    async with backend(storming) as made:
        yield made


class Told:
    """What Postgres was told from here on."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._log = server.data / "postgres.log"
        self._from = self._log.stat().st_size

    async def statements(self) -> Counter[str]:
        """How often each was executed."""
        async with self._server.database() as connection:  # what it did before is written when it answers
            await connection.execute("SELECT 1")
        with self._log.open("rb") as log:
            log.seek(self._from)
            text = log.read().decode(errors="replace")
        return Counter(_normal(found) for found in EXECUTED.findall(text))

    async def of_connects(self) -> dict[str, int]:
        """Those that connecting and catching up may need."""
        counts = await self.statements()
        return {name: counts[_normal(sql)] for name, sql in OF_A_CONNECT.items() if counts[_normal(sql)]}


def _normal(sql: str) -> str:
    return " ".join(sql.split())


async def company(server: Server, api: Backend, people: int) -> list[tuple[int, str]]:
    """So many people, and the room that each is in."""
    found: list[tuple[int, str]] = []
    for _ in range(people // ROOM_MEMBERS):
        room, mids = server.new_room(), [server.new_mid() for _ in range(ROOM_MEMBERS)]
        await api.create(room, *mids)
        found += [(mid, room) for mid in mids]
    return found


async def all_connect(
    connecting: Clients, server: Server, people: list[tuple[int, str]], cursors: list[str] | None = None
) -> list[Client]:
    """All at the same moment."""
    return await asyncio.gather(
        *(
            connecting.connect(server, "v2 tcp", mid=mid, key="k", cursor=cursor)
            for (mid, _), cursor in zip(people, cursors or [""] * len(people), strict=True)
        )
    )


async def test_who_comes_back_and_missed_nothing_costs_no_query(
    storming: Server, api: Backend, connecting: Clients
) -> None:
    """Not one, however many come: the comet still knows them. By cursor, and by the mark of the device."""
    people = await company(storming, api, 100)
    first = await all_connect(connecting, storming, people)
    for client in first:
        client.drop()
    await asyncio.gather(*(api.sessions_once(mid, 0) for mid, _ in people[:5]))
    told = Told(storming)
    by_cursor = await all_connect(connecting, storming, people, [client.cursor for client in first])
    for client in by_cursor:
        client.drop()
    by_mark = await all_connect(connecting, storming, people)

    assert {} == await told.of_connects()
    assert all(client.welcome["recovered"] for client in (*by_cursor, *by_mark))
    room = people[0][1]
    await api.push_room(room, 1000, b"hello")
    for client, (_, where) in zip(by_mark, people, strict=True):
        if where == room:
            await client.until_said(1)


async def test_a_storm_of_reconnects_to_a_server_that_was_killed_shares_its_queries(
    storming: Server, api: Backend, connecting: Clients
) -> None:
    """Half of them missed something. What is read is bounded by how long the storm takes."""
    people = await company(storming, api, CLIENTS)
    first = await all_connect(connecting, storming, people)
    rooms = list(dict.fromkeys(room for _, room in people))
    storming.kill()
    await storming.start_again()
    for room in rooms[::2]:
        await api.push_room(room, 1000, b"meanwhile")
    storming.kill()
    await storming.start_again()
    told = Told(storming)
    began_at = time.monotonic()
    again = await all_connect(connecting, storming, people, [client.cursor for client in first])
    for client, (_, room) in zip(again, people, strict=True):
        await client.until_said(1 if room in rooms[::2] else 0)
    statements_max = STATEMENTS_MAX + 2 * (time.monotonic() - began_at) / GATHER_S

    of_connects = await told.of_connects()
    assert {"memberships", "marks", "departures", "heads", "pages"} <= set(of_connects)
    assert all(count <= min(statements_max, CLIENTS // 3) for count in of_connects.values()), of_connects
    for sql, count in (await told.statements()).items():
        assert "imcore_append" in sql or count <= CLIENTS // 3, f"{count} times: {sql}"
    assert all(client.welcome["recovered"] for client in again)

    async def counted() -> bool:
        async with api._session.get(f"http://{storming.http}/metrics") as response:
            text = await response.text()
        return 'imcore_statements_total{purpose="append",worker="0"}' in text

    await eventually(counted)
