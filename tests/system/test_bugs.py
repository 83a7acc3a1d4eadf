"""A request that meets what nobody expected: here rows that hold what they cannot hold, as a later version may leave them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from conftest import copy_cluster, temporary_folder
from system.clients import INBOX, Clients, Form, Refused
from system.servers import Server, running
from waiting import eventually

CALL = 38
SOON_S = 10.0  # a machine may be busy; a client waits for sixty
REFUSALS, INTERNAL = "imcore_comet_refusals_total{", 'code="internal"'


@pytest.fixture(scope="module")
def own(cluster: Path) -> Iterator[Server]:
    """A server whose database may be spoilt."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open") as server:
            yield server


async def refusals(server: Server) -> int:
    """How many requests were answered so, as the server counts them."""
    async with aiohttp.ClientSession() as http, http.get(f"http://{server.http}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(REFUSALS) and INTERNAL in line)


@pytest.mark.parametrize("form", ["v2 tcp", "v2 ws", "json"])
@pytest.mark.parametrize(
    ("spoils", "op", "body"),
    [
        ("UPDATE rooms SET title = NULL WHERE room = $1", CALL, {"verb": "rooms.show", "args": {"room": "ROOM"}}),
        ("UPDATE members SET since_seq = NULL WHERE room = $1", INBOX, {}),
    ],
    ids=["a verb", "the inbox"],
)
async def test_a_request_that_fails_is_answered_at_once_and_the_connection_goes_on(
    own: Server, connecting: Clients, form: Form, spoils: str, op: int, body: dict[str, Any]
) -> None:
    room = own.new_room()
    client = await connecting.connect(own, form, mid=own.new_mid())
    await client.join(room)
    asked = json.loads(json.dumps(body).replace("ROOM", room))
    async with own.database() as connection:
        await connection.execute("ALTER TABLE rooms ALTER title DROP NOT NULL")
        await connection.execute("ALTER TABLE members ALTER since_seq DROP NOT NULL")
        await connection.execute(spoils, room)
    counted = await refusals(own)

    async with asyncio.timeout(SOON_S):
        with pytest.raises(Refused) as told:
            await client.ask(op, asked)

    assert ("internal", False) == (told.value.code, told.value.retry)
    assert "imcore" == (await client.ask(CALL, {"verb": "server.show"}))["answer"]["name"]
    assert counted + 1 == await refusals(own)

    async def is_logged() -> bool:
        return "a request failed" in own.said() and "Traceback" in own.said()

    await eventually(is_logged)
