"""Servers under attack, the clients that must not notice, and what is looked at after every test."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import psutil
import pytest
import pytest_asyncio

from badinput.wire import (
    EVENT,
    FORMS,
    HEARTBEAT,
    JOIN,
    SEND,
    TCP2,
    Line,
    Where,
    connected,
    head_of,
    message,
    touched,
    upgrade,
)
from conftest import copy_cluster, temporary_folder
from imcore.database import connect
from imcore.database.embedded import running_url
from serving import serving
from waiting import eventually

# SQLSTATE 22 is data that Postgres cannot take, 42 is SQL that it cannot read: both mean that input came where it should not. Its log
# names them in words, and nothing here should make it say ERROR at all.
POSTGRES_FAULTS: Final = re.compile(
    # How it is stopped, and what a session of it finds that imcore, which stops before it, was done with in the middle of a query.
    r"\b(ERROR|FATAL|PANIC): (?! (?:terminating connection due to administrator command|connection to client lost))"
    r"|syntax error|invalid byte sequence|invalid input syntax"
)
SERVER_FAULTS: Final = re.compile(r"Traceback| (error|critical) +[a-z_.]+:|never (retrieved|awaited)|RuntimeWarning")
ENTRY: Final = re.compile(r"^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.MULTILINE)
UNPRINTED: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

DRIP_S: Final = 30  # how long a client goes on that sends a byte a second
AUTH_TIMEOUT_S: Final = 2.0
HEARTBEAT_S: Final = 2.0
HEARTBEAT_MISSES: Final = 3  # who takes nothing is given up for that long before it would be for its silence
BEHIND_S: Final = 1.0
SWEEP_S: Final = 1.0  # how often deadlines are looked at
UNSENT_BYTES_MAX: Final = 65_536
STRICT: Final = {
    "inbound_frames_per_s": 20,
    "inbound_frames_burst": 10,
    "inbound_refused_max": 60,
    "unauthenticated_per_address_max": 3,
    "connections_per_user_max": 2,
    "rooms_per_session_max": 3,
    "rooms_per_user_max": 4,
    "packet_bytes_max": 8_192,
    "text_body_bytes_max": 1_000,
    "goim_body_bytes_max": 512,
}

QUICK: Final = {"password_memory_kib": 8, "password_passes": 1}
NARROW: Final = {
    "admissions_under_way_max": 2,
    "admissions_waiting_max": 2,
    "reads_under_way_max": 3,
    "http_requests_max": 3,
    "batch_events_max": 20,
    "append_timeout_s": 60,  # commits stand still there for as long as a test takes
}
SEND_WAIT_MAX_S: Final = 0.4
# So little a second that a test is over before somebody who does twice as much as is allowed at once may do all of it.
SLOW_PACED: Final[dict[str, float]] = {
    "handshakes_per_address_per_s": 10,
    "handshakes_per_address_burst": 40,
    "unauthenticated_per_address_max": 1_000,
    "user_sends_per_s": 0.2,
    "user_sends_burst": 5,
}

LEAN: Final = {"unsent_bytes_process_max": 2 << 20, "behind_s": 600}


@dataclass
class Place:
    """A running server, and the clients that are connected to it all the while."""

    where: Where
    data: Path
    process: psutil.Process
    logs: dict[Path, re.Pattern[str]]
    witnesses: list[Line]
    room: str = "group://witnesses"
    said: int = 0
    lasting: int = 0  # connections that are there all the while

    def __post_init__(self) -> None:
        self._mids = count(1000)
        self._read_bytes = dict.fromkeys(self.logs, 0)

    def new_mid(self) -> int:
        """A person whom nobody else knows."""
        return next(self._mids)

    def new_room(self, kind: str = "group") -> str:
        """A room that nobody else uses."""
        return f"{kind}://r{next(self._mids)}"

    async def told_of(self, mid: int, key: str) -> list[str]:
        """What the log says of this device's sessions, in order. Ask when something later is in the log."""
        url = running_url(self.data)
        assert url is not None
        connection = await connect(url, application_name="tests")
        try:
            query = "SELECT type FROM events WHERE mid = $1 AND key = $2 AND type LIKE 'session%' ORDER BY position"
            rows = await connection.fetch(query, mid, key)
        finally:
            await connection.close()
        return [row["type"] for row in rows]

    async def get(self, path: str) -> bytes:
        """What the HTTP API answers."""
        async with touched(self.where.http) as line:
            line.put(f"GET {path} HTTP/1.1\r\nHost: badinput\r\nConnection: close\r\n\r\n".encode())
            assert 200 == await head_of(line)
            return await line.reader.read()

    async def counted(self, metric: str, label: str = "") -> float:
        """What the metrics tell; 0 for what has not happened."""
        text = (await self.get("/metrics")).decode()
        found = re.search(rf"^imcore_{metric}{{.*{label}.*}} (\S+)", text, re.MULTILINE)
        return 0 if found is None else float(found[1])

    async def endings(self, reason: str) -> int:
        """How many connections ended for this reason."""
        return int(await self.counted("comet_endings_total", f'reason="{reason}"'))

    async def is_quiet(self) -> bool:
        """Nobody waits to be let in, and nobody is on the way."""
        return not await self.counted("comet_admissions_under_way") + await self.counted("comet_admissions_waiting")

    @asynccontextmanager
    async def standing_still(self, statement: str = "SELECT FROM log_head FOR UPDATE") -> AsyncIterator[None]:
        """Somebody holds a lock in the database: without another word on the head of the log, so that nothing is committed."""
        url = running_url(self.data)
        assert url is not None
        connection = await connect(url, application_name="tests")
        try:
            async with connection.transaction():
                await connection.execute(statement)
                yield
        finally:
            await connection.close()

    async def sessions_of(self, mid: int) -> list[dict[str, object]]:
        """The open sessions of a person, as the API tells. They follow the log by some milliseconds."""
        found: list[dict[str, object]] = json.loads(await self.get(f"/v1/sessions?mid={mid}"))["sessions"]
        return found

    @property
    def sockets(self) -> int:
        """How many connections of clients the server's process holds, those that end included."""
        doors = {int(address.rpartition(":")[2]) for address in self.where}
        held = self.process.net_connections("tcp4")
        return sum(1 for one in held if one.raddr and one.laddr.port in doors)

    @property
    def rss_bytes(self) -> int:
        """What the server's process holds."""
        rss: int = self.process.memory_info().rss
        return rss

    async def assert_well(self) -> None:
        """The process lives, the next connection sends, whoever was connected all the while gets it, and no log has a fault."""
        assert self.process.is_running()
        assert psutil.STATUS_ZOMBIE != self.process.status()
        self.said += 1
        async with connected(self.where, TCP2, self.new_mid()) as newcomer:
            assert not (await newcomer.ask(JOIN, {"room": self.room})).code
            place = (await newcomer.ask(SEND, message(self.room, self.said))).json
        for witness in self.witnesses:
            await _saw(witness, self.said, place["seq"])
        self.assert_no_complaints()

    async def assert_forgotten(self) -> None:
        """The server holds no socket of those who are gone."""

        async def is_so() -> bool:
            return self.sockets <= self.lasting

        assert await eventually(is_so)

    def assert_no_complaints(self) -> None:
        """Nothing that is new in the logs should not be there, and nothing is what a terminal would obey."""
        for log, faults in self.logs.items():
            with log.open("rb") as file:
                file.seek(self._read_bytes[log])
                text = file.read().decode(errors="replace")
                self._read_bytes[log] = file.tell()
            entries = [entry for entry in ENTRY.split(text) if faults.search(entry)]
            assert [] == entries, log.name
            assert UNPRINTED.search(text) is None, log.name


async def _saw(witness: Line, body: int, seq: int) -> None:
    """The next message of this client is this one. What went before are joins."""
    while True:
        packet = await witness.hear()
        if packet.op != EVENT:
            assert packet.op >= 1000, packet  # version 1
            assert str(body).encode() == packet.body
            return
        if packet.json["type"] == "message_sent":
            assert (body, seq) == (packet.json["body"], packet.json["seq"])
            return


@asynccontextmanager
async def attacked(cluster: Path, *arguments: str, witnesses: bool = True) -> AsyncIterator[Place]:
    """A server, with one client of each form that is connected as long as it is."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        async with serving(folder, *arguments) as running, AsyncExitStack() as stack:
            (process,) = [one for one in psutil.Process().children() if str(folder) in " ".join(one.cmdline())]
            place = Place(
                Where(running.http, running.ws, running.tcp),
                folder / "imcore",
                process,
                {running.log: SERVER_FAULTS, folder / "imcore" / "postgres.log": POSTGRES_FAULTS},
                [],
            )
            for form in FORMS if witnesses else ():
                place.witnesses.append(
                    await stack.enter_async_context(connected(place.where, form, place.new_mid(), room_id=place.room))
                )
                place.lasting += 1
            yield place
            for witness in place.witnesses:
                assert witness.close is None, "nobody was disturbed"
                await witness.ask(HEARTBEAT)
        place.assert_no_complaints()


def flags(settings: Mapping[str, object]) -> list[str]:
    """Settings as the command line takes them."""
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def place(cluster: Path) -> AsyncIterator[Place]:
    """A server that limits nobody's rate and hashes passwords quickly, so that a test may ask a thousand times; otherwise with the
    default settings."""
    async with attacked(cluster, "--no-rate-limits", *flags(QUICK)) as place:
        yield place


@pytest_asyncio.fixture(scope="package", loop_scope="package", autouse=True)
async def drips(place: Place) -> AsyncIterator[dict[str, asyncio.Task[float]]]:
    """HTTP that comes slowly: by name, when it is over, after how many seconds the server cut it. It begins before the first test
    and goes on beside all of them, because its deadline is long."""
    async with asyncio.TaskGroup() as tasks:
        place.lasting += len(DRIPS)
        dripping = {name: tasks.create_task(_drip(place.where.ws, *said)) for name, said in DRIPS.items()}
        yield dripping
        for task in dripping.values():
            task.cancel()


DRIPS: Final = {
    "a header, a byte at a time": (b"", upgrade("/ws")),
    "a header, a byte at a time, after another request": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", upgrade("/ws")),
    "silence": (b"", b""),
    "half a header and silence": (upgrade("/ws")[:60], b""),
    "silence after a request": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""),
}


async def _drip(address: str, first: bytes, rest: bytes) -> float:
    """The first bytes at once, the others one a second. Raises TimeoutError if the server waits for all of them."""
    loop = asyncio.get_running_loop()
    async with touched(address) as line:
        began = loop.time()
        line.put(first)
        with suppress(ConnectionError):
            for n in range(DRIP_S):
                line.put(rest[n : n + 1])
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await line.reader.read()
                    return loop.time() - began
            raise TimeoutError
        return loop.time() - began


@pytest_asyncio.fixture(autouse=True, loop_scope="package")
async def _well(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[None]:
    """After each test the server is as well as before it, and so are the others that the test asked for."""
    yield
    for name, other in request.node.funcargs.items():
        if name in ("impatient", "strict", "narrow", "paced", "lean"):
            assert name != "narrow" or await eventually(other.is_quiet), "nobody waits at its door"
            await other.assert_well()
    await place.assert_well()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def impatient(cluster: Path) -> AsyncIterator[Place]:
    """A server whose deadlines are some seconds. Nobody can be silent there all the while."""
    deadlines = {
        "auth_timeout_s": AUTH_TIMEOUT_S,
        "heartbeat_s": HEARTBEAT_S,
        "heartbeat_misses": HEARTBEAT_MISSES,
        "behind_s": BEHIND_S,
    }
    async with attacked(
        cluster, "--no-rate-limits", *flags(deadlines), "--set", f"unsent_bytes_max={UNSENT_BYTES_MAX}", witnesses=False
    ) as place:
        yield place


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def strict(cluster: Path) -> AsyncIterator[Place]:
    """A server with small limits (STRICT)."""
    async with attacked(cluster, *flags(STRICT)) as place:
        yield place


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def narrow(cluster: Path) -> AsyncIterator[Place]:
    """A server that opens two connections at a time, and has two more wait (NARROW)."""
    async with attacked(cluster, "--no-rate-limits", *flags({**NARROW, "send_wait_max_s": SEND_WAIT_MAX_S})) as place:
        yield place


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def paced(cluster: Path) -> AsyncIterator[Place]:
    """A server that lets an address and a person do things slowly only (SLOW_PACED)."""
    async with attacked(cluster, *flags(SLOW_PACED)) as place:
        yield place


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def lean(cluster: Path) -> AsyncIterator[Place]:
    """A server that holds little for all its clients together, and has patience with each (LEAN)."""
    async with attacked(cluster, "--no-rate-limits", *flags(LEAN)) as place:
        yield place
