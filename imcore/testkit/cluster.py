"""A cluster of real processes to be broken: a Postgres, comets, APIs, projectors, and a proxy on every line between them.

Each process is started as an operator starts it, in a process of its own, and a supervisor starts again whatever ends, after a
moment, at the addresses that it had. Clients come in through a proxy per door; each process reaches Postgres through a proxy of its
own. So a line can be cut while both of its ends are well, which is what neither of them can see.

Everything is ended by its number: nothing here looks for processes by name. The trap: a process that is stopped (SIGSTOP) does not
take SIGTERM, so SIGCONT goes before it.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import asyncpg

from imcore.database import connect
from imcore.database.embedded import embedded
from imcore.testkit.proxy import Proxy

LOOPBACK: Final = "127.0.0.1"
ANYWHERE: Final = f"{LOOPBACK}:0"
START_S: Final = 60.0
STOP_S: Final = 30.0
AGAIN_S: Final = (0.2, 1.5)  # a supervisor's delay is anything between
DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG
LIBC: Final = ctypes.CDLL(None)  # opened here: between fork and exec as little as possible is done
PROGRAM: Final = (sys.executable, "-m", "imcore.cli")

# A cluster that is to be broken every few seconds has to notice it in seconds too.
SETTINGS: Final[Mapping[str, object]] = {
    "auth_mode": "open",
    "rate_limits": False,
    "password_memory_kib": 8,
    "node_lease_s": 6,
    "append_timeout_s": 6,
    "heartbeat_s": 4,
    "behind_s": 10,
    "drain_s": 4,
    "drain_delay_ms": 1_000,
    "log_level": "info",
}


class Happened(NamedTuple):
    """One thing that happened to the cluster, for its log and the timeline."""

    at_ns: int  # of the monotonic clock, as in histories
    what: str
    who: str
    more: Mapping[str, object]


Tell = Callable[[Happened], None]


def die_with_parent() -> None:
    """Run in the child, before the program: when the harness is killed, nothing of it stays behind. Linux only, elsewhere nothing."""
    with suppress(AttributeError):
        LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL)


@dataclass
class Process:
    """A program that is kept running: what ends is started again, at most `AGAIN_S` later. `run` is its task."""

    name: str
    command: Callable[[], list[str]]
    log: Path
    tell: Tell
    random: random.Random
    environment: Mapping[str, str] = field(default_factory=dict)
    once: dict[str, str] = field(default_factory=dict)  # added to the environment of the next start, and of no other
    starts: int = 0
    exits: list[int] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int | None:
        """Its number, while it runs."""
        return None if self.process is None or self.process.returncode is not None else self.process.pid

    def signal(self, number: signal.Signals) -> bool:
        """Send it a signal; False if it does not run."""
        if self.pid is None:
            return False
        os.kill(self.pid, number)
        return True

    async def run(self) -> None:
        """Keep it running; it is gone when this has ended."""
        try:
            while True:
                await self._live()
                await asyncio.sleep(self.random.uniform(*AGAIN_S))
        finally:
            await self.end()

    async def end(self) -> None:
        """SIGTERM, and what does not help."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _live(self) -> None:
        command, more, self.once = self.command(), self.once, {}
        with self.log.open("ab") as output:
            self.process = process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                env=_clean(os.environ) | {**self.environment, **more},
                preexec_fn=die_with_parent,
            )
        self.starts += 1
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self.said(json.loads(line))
            code = await process.wait()
        finally:
            was_ready = self.ready.is_set()
            self.ready.clear()
        self.exits.append(code)
        facts = {"code": code, "pid": process.pid, "start": self.starts, "was_ready": was_ready}
        self.tell(Happened(time.monotonic_ns(), "ended", self.name, facts))

    def said(self, line: Mapping[str, object]) -> None:
        """It printed a line of JSON: here, that it is ready."""
        assert self.process is not None
        self.tell(Happened(time.monotonic_ns(), "started", self.name, {"pid": self.process.pid}))
        self.ready.set()


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("IMCORE_")}


class Layout(NamedTuple):
    """Which processes there are."""

    comets: int = 2
    apis: int = 1
    projectors: int = 2


class Node(Process):
    """A process of imcore. It listens, in each of its lives, where it listened in the first."""

    roles: str
    doors: dict[str, str]  # ws, tcp, http: where it listens; empty before the first start

    @classmethod
    def make(
        cls,
        name: str,
        roles: str,
        *,
        database_url: str,
        folder: Path,
        settings: Mapping[str, object],
        tell: Tell,
        random: random.Random,
        environment: Mapping[str, str],
    ) -> Node:
        """One that is not started yet."""

        def command() -> list[str]:
            doors = {door: node.doors.get(door, ANYWHERE) for door in ("ws", "tcp", "http")}
            made = [*PROGRAM, "serve", "--roles", roles, "--database-url", database_url, "--data", str(folder / name)]
            for door, where in doors.items():
                made += [f"--{door}", where]
            for setting, value in settings.items():
                made += ["--set", f"{setting}={value}"]
            return made

        node = cls(name, command, folder / f"{name}.log", tell, random, environment)
        node.roles, node.doors = roles, {}
        return node

    def said(self, line: Mapping[str, object]) -> None:
        """It takes connections."""
        self.doors = {door: str(line[door]) for door in ("ws", "tcp", "http") if door in line}
        super().said(line)


class Database:
    """The Postgres of the cluster, reached past every proxy."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        (self.socket_dir,) = parse_qs(urlsplit(url).query)["host"]

    @property
    def socket(self) -> str:
        """The path of its socket."""
        return f"{self.socket_dir}/.s.PGSQL.5432"

    def postmaster(self) -> int | None:
        """The number of its first process."""
        with suppress(OSError, ValueError, IndexError):
            pid = int((self.folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
            # A pid file may be older than the machine's last restart: it is the one that works in the folder.
            if os.readlink(f"/proc/{pid}/cwd") == str((self.folder / "postgres").resolve()):
                return pid
        return None

    def processes(self) -> list[int]:
        """Everything that is at home in the data folder."""
        home, found = str((self.folder / "postgres").resolve()), []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with suppress(OSError):
                    if os.readlink(f"/proc/{entry.name}/cwd") == home:
                        found.append(int(entry.name))
        return found

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A connection of the harness's own."""
        made = await connect(self.url, application_name="nemesis", connect_s=5, command_s=20)
        try:
            yield made
        finally:
            with suppress(Exception):
                async with asyncio.timeout(2):
                    await made.close()
            if not made.is_closed():
                made.terminate()

    async def answers(self, seconds: float = START_S) -> None:
        """Return when it takes connections and writes."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                async with self.connection() as connection:
                    # A write that leaves nothing behind but its place in the WAL.
                    await connection.execute("SELECT pg_logical_emit_message(true, 'nemesis', '')")
                return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)


class Line:
    """One way into the cluster or within it, that can be made bad."""

    def __init__(self, name: str, proxy: Proxy) -> None:
        self.name, self.proxy = name, proxy

    @property
    def address(self) -> str:
        """host:port for whoever comes this way."""
        return self.proxy.address

    @property
    def passed(self) -> int:
        """Bytes that it let through, both ways."""
        told = self.proxy.statistics()
        return told["up_bytes"] + told["down_bytes"]

    def hurt(self, how: str, random: random.Random) -> int:
        """Make it bad; how many connections this concerned."""
        connections = self.proxy.connections
        match how:
            case "latency":
                self.proxy.set(latency_s=random.uniform(0.05, 0.5), jitter_s=random.uniform(0, 0.2))
            case "narrow":
                self.proxy.set(rate_bytes_per_s=random.choice([8_000, 32_000]))
            case "blackhole":
                self.proxy.blackhole("both")
            case "blackhole up":
                self.proxy.blackhole("up")
            case "blackhole down":
                self.proxy.blackhole("down")
            case "stall down":
                self.proxy.stall("down")
            case "reset":
                self.proxy.reset()
            case _:
                raise AssertionError(f"a line is not hurt by {how!r}")
        return connections


@asynccontextmanager
async def line(name: str, target: str, seed: int) -> AsyncIterator[Line]:
    """A line to `target` (host:port, or the path of a Unix socket) while the block runs."""
    async with Proxy(target, seed=seed) as proxy:
        yield Line(name, proxy)


class Cluster:
    """All of it. Made by `cluster`."""

    def __init__(self, database: Database, folder: Path, tell: Tell) -> None:
        self.database, self.folder, self.tell = database, folder, tell
        self.nodes: list[Node] = []
        self.client_lines: list[Line] = []  # one to the WebSocket door of each comet
        self.api_lines: list[Line] = []
        self.postgres_lines: list[Line] = []  # one from each node
        self.clocks: dict[str, Path] = {}  # where a node's offset from the time stands, for libfaketime

    def nodes_of(self, role: str) -> list[Node]:
        """Those that are there for this role."""
        return [node for node in self.nodes if node.roles.startswith(role)]

    def targets(self, role: str) -> list[Node]:
        """Those of this role whose loss somebody would notice: comets with clients, if there are any. Clients stay where they are, so
        after some kills one comet may have them all."""
        nodes = self.nodes_of(role)
        if role != "comet":
            return nodes
        busy = [node for node, line in zip(nodes, self.client_lines, strict=True) if line.proxy.connections]
        return busy or nodes

    def postgres_line(self, node: Node) -> Line:
        """The one that this node reaches Postgres by."""
        return self.postgres_lines[self.nodes.index(node)]

    async def ready(self) -> None:
        """Return when every process takes connections. Raises TimeoutError, which names those that do not."""
        try:
            async with asyncio.timeout(START_S):
                for node in self.nodes:
                    await node.ready.wait()
        except TimeoutError:
            late = [str(node.log) for node in self.nodes if not node.ready.is_set()]
            raise TimeoutError(f"not ready after {START_S:.0f} s: {', '.join(late)}; is the machine busy?") from None


@asynccontextmanager
async def cluster(
    folder: Path,
    *,
    seed: int,
    tell: Tell,
    layout: Layout = Layout(),  # noqa: B008  # immutable
    settings: Mapping[str, object] | None = None,
    disk: Path | None = None,
    clock_library: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Cluster]:
    """Run one while the block runs. Logs, and the Postgres unless `disk` names another place for it, are in `folder`.

    With `clock_library` (libfaketime) each node's wall clock can be set by a file. At the end everything is gone.
    """
    chosen = {**SETTINGS, **(settings or {})}
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(embedded(disk or folder / "database"))
        database = Database(url, disk or folder / "database")
        made = Cluster(database, folder, tell)
        # Each has an HTTP door too, for its figures.
        for role, count in (("comet", layout.comets), ("api", layout.apis), ("projector", layout.projectors)):
            for number in range(1, count + 1):
                name = f"{role}-{number}"
                to_postgres = await stack.enter_async_context(line(f"{name}→postgres", database.socket, seed))
                made.postgres_lines.append(to_postgres)
                _share_keys(folder, name)
                node = Node.make(
                    name,
                    role if role == "api" else f"{role},api",
                    database_url=f"postgresql://postgres@{to_postgres.address}/imcore?sslmode=disable",
                    folder=folder,
                    settings=chosen,
                    tell=tell,
                    random=random.Random(f"{seed} {name}"),
                    environment={**_clock(made, name, clock_library), **(environment or {})},
                )
                made.nodes.append(node)
        tasks = await stack.enter_async_context(_tasks())
        tasks += [asyncio.create_task(node.run(), name=node.name) for node in made.nodes]
        await made.ready()
        for node in made.nodes_of("comet"):
            made.client_lines.append(
                await stack.enter_async_context(line(f"clients→{node.name}", node.doors["ws"], seed))
            )
        for node in made.nodes_of("api"):
            made.api_lines.append(
                await stack.enter_async_context(line(f"clients→{node.name}", node.doors["http"], seed))
            )
        yield made


def _share_keys(folder: Path, name: str) -> None:
    """Each node has a data folder of its own, but what one signs the others must believe."""
    keys = folder.resolve() / "keys"
    keys.mkdir(exist_ok=True)
    (folder / name).mkdir()
    (folder / name / "keys").symlink_to(keys)


@asynccontextmanager
async def _tasks() -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks: list[asyncio.Task[None]] = []
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _clock(made: Cluster, name: str, library: str | None) -> dict[str, str]:
    if library is None:
        return {}
    file = made.clocks[name] = made.folder / f"{name}.clock"
    file.write_text("+0\n")
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
