"""People who do not give up: their devices come back whenever a connection ends, with the cursor that they have, and what was not
answered they send again with the same id. So any client should do it (docs/protocol.md, "Reconnecting")."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import aiohttp

from system.checking import History, Visit
from system.clients import DEADLINE_S, SEND, Client, Clients, Form, Gone, Refused
from system.servers import Server

AGAIN_S: Final = 0.02
ACK_EVENTS: Final = 40


class Resident:
    """A device that wants to be connected. `live` is its task."""

    def __init__(self, server: Server, connecting: Clients, form: Form, mid: int, key: str, room: str = "") -> None:
        self._server, self._connecting = server, connecting
        self.form, self.mid, self.key, self.room = form, mid, key, room
        self.visits: list[Client] = []
        self.acked: list[int] = []  # of each visit
        self._due = 1  # events after which the next ack is sent

    @property
    def client(self) -> Client:
        """The connection that it has, or had last."""
        return self.visits[-1]

    @property
    def is_here(self) -> bool:
        """Is it connected?"""
        return bool(self.visits) and not self.client.is_gone

    async def live(self) -> None:
        """Be connected, and acknowledge what comes. Ends when cancelled."""
        while True:
            client = await self.arrive()
            with suppress(Gone, ConnectionError):
                while not client.is_gone:
                    await self._until(client, lambda: len(self.client.events) >= self._due)
                    if not client.is_gone and not self.form.startswith("v1"):
                        position = client.events[-1].position
                        await client.ack()
                        self.acked[-1] = max(self.acked[-1], position)
                    self._due = len(client.events) + ACK_EVENTS

    async def arrive(self) -> Client:
        """Connect, as often as it takes."""
        cursor = self.client.cursor if self.visits else ""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    client = await self._connecting.connect(
                        self._server, self.form, mid=self.mid, key=self.key, room=self.room, cursor=cursor
                    )
                except (OSError, aiohttp.ClientError, Gone):
                    await asyncio.sleep(AGAIN_S)
                except Refused as refused:
                    _check(refused)
                    await asyncio.sleep(AGAIN_S)
                else:
                    break
        self.visits.append(client)
        self.acked.append(client.welcome.get("position", 0))
        self._due = 1
        return client

    async def until(self, has: Callable[[Client], object], what: str = "") -> None:
        """It is so with the connection that it has, whichever that is by then."""
        async with asyncio.timeout(DEADLINE_S):
            while not (self.is_here and has(self.client)):
                if self.is_here:
                    await self._until(self.client, lambda: has(self.client))
                else:
                    await asyncio.sleep(AGAIN_S)

    @staticmethod
    async def _until(client: Client, is_so: Callable[[], object]) -> None:
        with suppress(AssertionError):
            await client.until(lambda: client.is_gone or is_so())

    def told(self, history: History) -> list[Visit]:
        """What to hold against the log. Each visit begins no later than where the one before was acknowledged, or, in version 1, than
        what came last."""
        made = []
        opened = history.opened[self.mid, self.key]
        heard = 0
        for n, client in enumerate(self.visits):
            name = f"{client}, visit {n}"
            ops = None
            if self.form.startswith("v1"):
                positions = [history.position(event) for event in client.events]
                start, ops = (positions[0] - 1 if positions else heard), [1000]
                upto, heard = heard, max([heard, *positions])
            else:
                start = client.welcome["position"]
                upto = self.acked[n - 1]
                assert n == 0 or client.welcome["recovered"], f"{name}: {client.welcome}"
            assert n == 0 or start <= upto, f"{name} begins after {start}, and {upto} is how far it had come"
            is_whole = n == len(self.visits) - 1
            made.append(Visit(self.mid, self.key, opened[n], start, client.events, ops, is_whole=is_whole, name=name))
        return made


def _check(refused: Refused) -> None:
    assert refused.retry, refused


class Speaker(Resident):
    """A device that also has something to say."""

    def __init__(self, server: Server, connecting: Clients, form: Form, mid: int, key: str, room: str) -> None:
        super().__init__(server, connecting, form, mid, key, room)
        self.said: dict[str, str] = {}  # id -> words
        self.places: dict[str, dict[str, Any]] = {}  # id -> the first answer
        self.unanswered = 0  # attempts without a definite answer
        self.codes: Counter[str] = Counter()  # of those that were answered with an error

    async def speak(self, times: int, in_flight: int = 20) -> None:
        """Say so many things, and return when each is acknowledged."""
        doors = asyncio.Semaphore(in_flight)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(times):
                await doors.acquire()
                id_ = str(uuid.uuid4())
                self.said[id_] = f"{len(self.said)} of {self.key}"
                tasks.create_task(self.insist(id_)).add_done_callback(lambda _: doors.release())

    async def insist(self, id_: str) -> dict[str, Any]:
        """Send it until the answer is definite; the answer."""
        asked = {"room": self.room, "id": id_, "body": self.said[id_]}
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    if self.is_here:
                        place: dict[str, Any] = await self.client.ask(SEND, asked)
                        break
                except Gone:
                    pass
                except Refused as refused:
                    _check(refused)
                    self.codes[refused.code] += 1
                self.unanswered += 1
                await asyncio.sleep(AGAIN_S)
        first = self.places.setdefault(id_, place)
        assert (first["position"], first["seq"]) == (place["position"], place["seq"]), f"{first} and then {place}"
        return place
