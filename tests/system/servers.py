"""Servers as users start them, and the log that they keep, read by SQL beside them.

A `Server` is a folder and, at times, a process on it: it may be killed and started again, and then listens elsewhere. Clients look
at `tcp` and `ws` when they connect.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import psutil

from imcore.database import Connection, connect
from imcore.database.embedded import running_url
from waiting import eventually

PROGRAM: Final = (sys.executable, "-m", "imcore.cli")
ANYWHERE: Final = "127.0.0.1:0"
START_S: Final = 120
STOP_S: Final = 60
LOG_SHOWN: Final = 4000

EVENTS: Final = """
SELECT position, stream, seq, type, mid, key, client_id::text AS client_id, op, format, body FROM event_log
WHERE position > $1 ORDER BY position
"""
HEADS: Final = "SELECT name, seq FROM streams WHERE seq > 0"


class Entry(NamedTuple):
    """An event of the log."""

    position: int
    stream: str
    seq: int
    type: str
    mid: int
    key: str
    client_id: str | None
    op: int
    format: int
    body: Any

    @property
    def room(self) -> str:
        """The room, if it is in one's stream."""
        return self.stream.removeprefix("room:") if self.stream.startswith("room:") else ""


class Server:
    """imcore on a folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.data = folder / "imcore"
        self.log = folder / "server.log"
        self.arguments = arguments
        self.addresses: dict[str, str] = {}
        self.node = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._mids = 1000
        self._rooms = 0

    # --- names that nobody else in this run uses ---

    def new_mid(self) -> int:
        """A person."""
        self._mids += 1
        return self._mids

    def new_room(self, kind: str = "group") -> str:
        """A room's name."""
        self._rooms += 1
        return f"{kind}://r{self._rooms}"

    # --- the process ---

    def start(self) -> None:
        """Return when it takes connections."""
        command = [*PROGRAM, "serve", "--data", str(self.data)]
        for name in ("http", "ws", "tcp"):
            command += [f"--{name}", ANYWHERE]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                env={name: value for name, value in os.environ.items() if not name.startswith("IMCORE_")},
            )
        # One that hangs is killed, and then its line is empty.
        timer = threading.Timer(START_S, self._process.kill)
        timer.start()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        timer.cancel()
        assert line, f"the server did not start: {self.said()}"
        ready = json.loads(line)
        self.node = ready["node"]
        self.addresses = {name: ready[name] for name in ("http", "ws", "tcp", "wss", "tcps") if name in ready}

    async def start_again(self) -> None:
        """The same, while clients go on."""
        await asyncio.to_thread(self.start)

    @property
    def http(self) -> str:
        """host:port of the HTTP API."""
        return self.addresses["http"]

    @property
    def ws(self) -> str:
        """host:port for WebSocket clients."""
        return self.addresses["ws"]

    @property
    def tcp(self) -> str:
        """host:port for TCP clients."""
        return self.addresses["tcp"]

    @property
    def process(self) -> psutil.Process:
        """The server's own process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        return [one for one in self.process.children() if "imcore.worker" in one.cmdline()]

    def postgres(self) -> psutil.Process:
        """The postmaster of its embedded Postgres."""
        return psutil.Process(int((self.data / "postgres" / "postmaster.pid").read_text().split()[0]))

    def kill(self) -> None:
        """kill -9: no goodbye, nothing flushed."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._close()

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def stopped(self) -> int:
        """The exit code, when it has ended."""
        assert self._process is not None
        code = await asyncio.to_thread(self._process.wait, STOP_S)
        self._close()
        return code

    def end(self) -> None:
        """Whatever state it is in: nothing of it runs after this."""
        if self._process is not None and self._process.poll() is None:
            self.ask_to_stop()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                for one in self.workers():
                    one.kill()
                self.kill()
        self._close()
        with suppress(FileNotFoundError, psutil.NoSuchProcess):  # after a kill Postgres is still there
            postgres = self.postgres()
            if postgres.name() == "postgres" and postgres.cwd() == str(self.data.resolve() / "postgres"):
                postgres.send_signal(signal.SIGINT)
                _, alive = psutil.wait_procs([postgres], STOP_S)
                for one in alive:
                    one.kill()

    def _close(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-LOG_SHOWN:]

    def complaints(self) -> list[str]:
        """Lines of the log that should not be there when nothing was broken."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if re.search(r" (error|critical) |Traceback|never (retrieved|awaited)", line)]

    # --- the log ---

    @property
    def url(self) -> str:
        """Of its database."""
        if "--database-url" in self.arguments:
            return self.arguments[self.arguments.index("--database-url") + 1]
        found = running_url(self.data)
        assert found is not None, f"no Postgres runs in {self.data}"
        return found

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Connection]:
        """A connection to its database."""
        connection = await connect(self.url, application_name="tests")
        try:
            yield connection
        finally:
            await connection.close()

    async def events(self, after: int = 0) -> list[Entry]:
        """The log, in order of position."""
        async with self.database() as connection:
            return await _events(connection, after)

    async def head(self) -> int:
        """The last position."""
        async with self.database() as connection:
            head: int = await connection.fetchval("SELECT position FROM log_head")
        return head

    async def assert_dense(self) -> None:
        """Positions are 1, 2, 3, … and so are the seqs of each stream, up to their heads."""
        async with self.database() as connection, connection.transaction(isolation="repeatable_read"):
            entries = await _events(connection)
            heads = {row["name"]: row["seq"] for row in await connection.fetch(HEADS)}
            head = await connection.fetchval("SELECT position FROM log_head")
        assert [entry.position for entry in entries] == list(range(1, head + 1))
        last: Counter[str] = Counter()
        for entry in entries:
            last[entry.stream] += 1
            assert entry.seq == last[entry.stream], f"{entry} should have seq {last[entry.stream]}"
        assert dict(last) == heads


async def _events(connection: Connection, after: int = 0) -> list[Entry]:
    rows = [dict(row) for row in await connection.fetch(EVENTS, after)]
    return [Entry(**row | {"body": json.loads(row["body"])} if row["format"] == 0 else row) for row in rows]


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Server]:
    """A server on this folder while the block runs."""
    server = Server(folder, *arguments)
    try:
        server.start()
        yield server
    finally:
        server.end()


# --- HTTP --------------------------------------------------------------------------------------------------------------------


class Backend:
    """A program that speaks HTTP to a server: goim's routes, and ours."""

    def __init__(self, server: Server, session: aiohttp.ClientSession, token: str = "") -> None:
        self._server, self._session = server, session
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def push(self, to: str, op: int, payload: bytes, **query: Any) -> None:
        """goim's push: to `keys`, `mids`, `room` or `all`."""
        answer = await self._call("POST", f"/goim/push/{to}", query | {"operation": op}, payload)
        assert answer == {"code": 0, "message": ""}, answer

    async def push_room(self, room: str, op: int, payload: bytes, **query: Any) -> None:
        """goim's push to a room."""
        kind, _, name = room.partition("://")
        await self.push("room", op, payload, type=kind, room=name, **query)

    async def say(self, room: str, body: str) -> None:
        """A message to a room, in the service's own name."""
        await self._call("POST", f"{_path(room)}/messages", {}, {"id": str(uuid.uuid4()), "body": body})

    async def get(self, path: str, **query: Any) -> Any:
        """Any GET."""
        return await self._call("GET", path, query)

    async def create(self, room: str, *members: int, **more: Any) -> None:
        """A room with these members."""
        await self._call("POST", "/v1/rooms", {}, {"room": room, "members": list(members), **more})

    async def add(self, room: str, mid: int) -> dict[str, Any]:
        """Make somebody a member."""
        place: dict[str, Any] = await self._call("POST", f"{_path(room)}/members", {}, {"mid": mid})
        return place

    async def kick(self, room: str, mid: int) -> dict[str, Any]:
        """Take somebody out."""
        place: dict[str, Any] = await self._call("DELETE", f"{_path(room)}/members/{mid}", {})
        return place

    async def edit(self, path: str, mid: int, body: object) -> None:
        """A message reads so from now on; where believed, in the name of its author."""
        await self._call("PUT", path, {}, {"body": body}, mid=mid)

    async def recall(self, path: str) -> None:
        """A message is taken back."""
        await self._call("DELETE", path, {})

    async def forward(self, path: str, mid: int, room: str) -> None:
        """Somebody says it in another room."""
        await self._call("POST", f"{path}/forward", {}, {"to": room, "id": str(uuid.uuid4())}, mid=mid)

    async def sessions(self, *mids: int) -> list[dict[str, Any]]:
        """Who of them is online, and where."""
        found: list[dict[str, Any]] = (await self.get("/v1/sessions", mid=list(mids)))["sessions"]
        return found

    async def sessions_once(self, mid: int, count: int) -> list[dict[str, Any]]:
        """The sessions of a person as soon as there are so many: presence follows the log by some milliseconds."""

        async def found() -> tuple[list[dict[str, Any]]] | None:
            sessions = await self.sessions(mid)
            return (sessions,) if len(sessions) == count else None

        answer = await eventually(found)
        assert answer is not None
        return answer[0]

    async def _call(
        self, method: str, path: str, query: Mapping[str, Any], body: object = None, *, mid: int | None = None
    ) -> Any:
        url = f"http://{self._server.http}{path}"
        pairs = [
            (name, str(one)) for name, value in query.items() for one in (value if isinstance(value, list) else [value])
        ]
        content = {"data": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        headers = self._headers if mid is None else {**self._headers, "Imcore-Mid": str(mid)}
        async with self._session.request(method, url, params=pairs, headers=headers, **content) as response:
            assert response.status < 300, f"{method} {path}: {response.status} {await response.text()}"
            return await response.json()


def _path(room: str) -> str:
    kind, _, name = room.partition("://")
    return f"/v1/rooms/{kind}/{name}"


@asynccontextmanager
async def backend(server: Server, token: str = "") -> AsyncIterator[Backend]:
    """A backend of this server."""
    async with aiohttp.ClientSession() as session:
        yield Backend(server, session, token)
