"""The faults, one function each: what is before the `yield` breaks, what is after heals. They see the stage and nothing of the
schedule.

What needs root, strace or libfaketime says so in `FAULTS`; a run tells loudly what it had to leave out, and in CI that is a
failure.

The trap: a fault's own means may be hit by the fault. So whatever heals goes past what was broken: signals by number, Postgres over
its own socket and never through a proxy.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import asyncpg

from imcore import failpoints
from imcore.testkit.cluster import Node, Process
from imcore.testkit.nemesis import Fault, Inject, Wound
from imcore.testkit.stage import Stage

AGAIN_HZ: Final = 5.0
TERMINATE: Final = """
SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name LIKE 'imcore%' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1
"""
BACKENDS: Final = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'imcore%' OR backend_type = 'walwriter'"
ROOM_LEFT_BYTES: Final = 256 * 1024
STORM_CLIENTS: Final = 60
FLOOD: Final = 8


# --- processes ---------------------------------------------------------------------------------------------------------------


def _kill(role: str) -> Inject:
    @asynccontextmanager
    async def inject(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
        node = random.choice(stage.cluster.targets(role))
        wound.target, pid, starts = node.name, node.pid, node.starts
        if node.signal(signal.SIGKILL):
            wound.saw.append(f"killed {pid}")
        yield 0.0
        await _back(node, starts)

    return inject


def _stop(role: str, seconds: tuple[float, float]) -> Inject:
    @asynccontextmanager
    async def inject(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
        node = random.choice(stage.cluster.targets(role))
        wound.target = node.name
        node.signal(signal.SIGSTOP)
        try:
            yield random.uniform(*seconds)
            if _state(node.pid) == "T":
                wound.saw.append("it stood still")
        finally:
            node.signal(signal.SIGCONT)

    return inject


@asynccontextmanager
async def kill_everything(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
    """Every process of imcore and of Postgres at one moment, as when the machine goes."""
    wound.target = "everything"
    killed, starts = 0, [node.starts for node in stage.cluster.nodes]
    for node in stage.cluster.nodes:
        killed += node.signal(signal.SIGKILL)
    killed += _signal(stage.cluster.database.processes(), signal.SIGKILL)
    wound.saw.append(f"killed {killed} processes")
    yield 0.0
    await stage.cluster.database.answers()
    for node, before in zip(stage.cluster.nodes, starts, strict=True):
        await _back(node, before)


@asynccontextmanager
async def kill_client(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
    """A program that uses the SDK; the next one goes on with the cursors on the disk."""
    client = random.choice(stage.clients)
    wound.target, pid, starts = client.name, client.pid, client.starts
    if client.signal(signal.SIGKILL):
        wound.saw.append(f"killed {pid}")
    yield 0.0
    await _back(client, starts)


@asynccontextmanager
async def stop_client(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
    """All devices of one program stop reading at once."""
    client = random.choice(stage.clients)
    wound.target = client.name
    client.signal(signal.SIGSTOP)
    try:
        yield random.uniform(5, 10)
        if _state(client.pid) == "T":
            wound.saw.append("it stood still")
    finally:
        client.signal(signal.SIGCONT)


@asynccontextmanager
async def rolling_restart(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
    """SIGTERM, one process after the other, each when the one before is back."""
    nodes = list(stage.cluster.nodes)
    random.shuffle(nodes)
    wound.target = "every process"
    for node in nodes:
        starts = node.starts
        if node.signal(signal.SIGTERM):
            await _back(node, starts)
            wound.saw.append(f"{node.name} ended with {node.exits[-1]}")
    yield 0.0


# --- Postgres ----------------------------------------------------------------------------------------------------------------


def _end_postgres(number: signal.Signals) -> Inject:
    @asynccontextmanager
    async def inject(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
        database = stage.cluster.database
        pid = database.postmaster()
        wound.target = f"postmaster {pid}"
        away_s = random.choice([0.0, 0.5, 3.0])
        async with AsyncExitStack() as lines:
            # It is started again at once; for longer outages nobody gets through to it.
            if away_s:
                for line in stage.cluster.postgres_lines:
                    line.proxy.refuse()
                    lines.callback(line.proxy.heal)
            if pid is not None and _signal([pid], number):
                wound.saw.append(f"{number.name} to {pid}")
            yield away_s
        await database.answers()

    return inject


@asynccontextmanager
async def terminate_backends(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
    """One at random, five times a second."""
    wound.target = "backends"
    async with stage.cluster.database.connection() as connection:
        for _ in range(int(AGAIN_HZ * 4)):
            if await connection.fetch(TERMINATE):
                wound.saw = [f"{int(wound.saw[0].split()[0]) + 1 if wound.saw else 1} terminated"]
            await asyncio.sleep(1 / AGAIN_HZ)
    yield 0.0


@asynccontextmanager
async def exhaust_connections(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
    """Idle connections up to `max_connections`; and whoever is in, has to come in again."""
    wound.target = "max_connections"
    idle: list[asyncpg.Connection[asyncpg.Record]] = []
    database = stage.cluster.database
    async with database.connection() as connection:
        try:
            await _fill_up(stage, idle, wound)
            for _ in range(4):
                await connection.fetch(TERMINATE)
                await _fill_up(stage, idle, wound)
            yield random.uniform(2, 5)
        finally:
            for one in idle:
                one.terminate()


async def _fill_up(stage: Stage, idle: list[asyncpg.Connection[asyncpg.Record]], wound: Wound) -> None:
    while len(idle) < 200:
        try:
            idle.append(await asyncpg.connect(stage.cluster.database.url, timeout=5))
        except asyncpg.TooManyConnectionsError:
            wound.saw = [f"full with {len(idle)} of ours"]
            return


def _fsync(what: str) -> Inject:
    @asynccontextmanager
    async def inject(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
        database = stage.cluster.database
        delay_ms = random.choice([100, 300, 1_000])
        how = "error=EIO:when=1" if what == "EIO" else f"delay_exit={delay_ms * 1000}"
        wound.target = f"fdatasync {how}"
        async with database.connection() as connection:
            pids = [row["pid"] for row in await connection.fetch(BACKENDS)]
        postmaster = database.postmaster()
        said = stage.folder / f"strace-{time.monotonic_ns()}.txt"
        command = ["strace", "-qq", "-f", "-o", str(said), "-e", "trace=fdatasync", "-e", f"inject=fdatasync:{how}"]
        for pid in [*pids, postmaster]:
            command += ["-p", str(pid)]
        strace = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        try:
            yield random.uniform(2, 5)
        finally:
            with suppress(ProcessLookupError):
                strace.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await strace.wait()
            if strace.returncode is None:
                strace.kill()
                await strace.wait()
            hit = re.findall(r"INJECTED|DELAYED", said.read_text(errors="replace")) if said.exists() else []
            if hit:
                wound.saw.append(f"{len(hit)} flushes hit")
        await database.answers()

    return inject


@asynccontextmanager
async def fill_disk(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
    """All but a little of the file system that Postgres lives on."""
    assert stage.disk is not None, "its needs were looked at"
    filler = stage.disk / "filler"
    wound.target = "the disk of Postgres"
    free = shutil.disk_usage(stage.disk).free
    try:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - ROOM_LEFT_BYTES, 1))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            log = stage.disk / "postgres.log"
            if shutil.disk_usage(stage.disk).free < 8_192 or "No space left" in _tail(log):
                wound.saw.append("no space left")
                break
            await asyncio.sleep(0.1)
        yield random.uniform(1, 3)
    finally:
        filler.unlink(missing_ok=True)
    await stage.cluster.database.answers()


# --- lines -------------------------------------------------------------------------------------------------------------------


def _lines(of: str, how: str) -> Inject:
    @asynccontextmanager
    async def inject(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
        cluster = stage.cluster
        lines = (
            cluster.client_lines
            if of == "clients"
            else [cluster.postgres_line(one) for one in cluster.targets("comet")]
        )
        if random.random() < ALL_LINES:
            hit = cluster.client_lines if of == "clients" else cluster.postgres_lines
        else:
            used = [line for line in lines if line.proxy.connections]
            hit = [random.choice(used or lines)]
        wound.target = ", ".join(line.name for line in hit)
        before = sum(line.passed for line in hit)
        cut = 0
        try:
            for line in hit:
                cut += line.hurt(how, random)
            yield 0.2 if how == "reset" else random.uniform(8, 12) if how not in SLOW else random.uniform(3, 6)
            # A reset bites always; a line that is slow when something went over it; one that holds bytes back when somebody notices.
            if how == "reset" and cut:
                wound.saw.append(f"{cut} connections were reset")
            elif how in SLOW and (went := sum(line.passed for line in hit) - before):
                wound.saw.append(f"{went} bytes went slowly")
        finally:
            for line in hit:
                line.proxy.heal()

    return inject


ALL_LINES: Final = 0.3
SLOW: Final = ("latency", "narrow")


# --- clients -----------------------------------------------------------------------------------------------------------------


def _clients_do(what: str, count: int) -> Inject:
    @asynccontextmanager
    async def inject(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
        client = random.choice(stage.clients)
        wound.target = client.name
        # It tells when it has them: the second connections, or those that take nothing.
        before = client.counted.get(what, 0)
        await client.ask({"do": what, "count": count, "seed": random.getrandbits(32)})
        yield 3.0
        if had := client.counted.get(what, 0) - before:
            wound.saw.append(f"{had} of them")

    return inject


@asynccontextmanager
async def storm(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
    """Clients that come back at once and without end, and say nothing; some of them half a handshake."""
    wound.target = f"{STORM_CLIENTS} clients"
    counts = [0, 0]

    async def rage() -> None:
        while True:
            host, _, port = random.choice(stage.cluster.client_lines).address.rpartition(":")
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    reader, writer = await asyncio.open_connection(host, int(port))
                    counts[0] += 1
                    writer.write(random.choice([HANDSHAKE, HANDSHAKE[:30], b""]))
                    await reader.read(1)
                    counts[1] += 1
                    writer.close()

    tasks = [asyncio.create_task(rage()) for _ in range(STORM_CLIENTS)]
    try:
        yield random.uniform(2, 4)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    if counts[0] > STORM_CLIENTS:
        wound.saw.append(f"{counts[0]} connections")


HANDSHAKE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


# --- clocks and failpoints ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def jump_clock(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
    """One process thinks that it is another hour. Its monotonic clock goes on, as it does when an administrator sets the time."""
    node = random.choice(stage.cluster.nodes)
    jump_s = random.choice([-3600, -600, 600, 3600])
    wound.target = f"{node.name} by {jump_s} s"
    file = stage.cluster.clocks[node.name]
    file.write_text(f"{jump_s:+d}\n")
    try:
        yield random.uniform(4, 8)
        seen_s = await _clock_of(node)
        if abs(seen_s - time.time() - jump_s) < 120:
            wound.saw.append(f"it is {round(seen_s - time.time())} s off")
    finally:
        file.write_text("+0\n")


async def _clock_of(node: Node) -> float:
    """What an HTTP answer of it says of the time; 0 if there is none."""
    host, _, port = node.doors["http"].rpartition(":")
    with suppress(OSError, TimeoutError, ValueError, KeyError):
        async with asyncio.timeout(3):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            writer.close()
        lines = dict(line.split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
        return parsedate_to_datetime(lines["Date"]).timestamp()
    return 0.0


@asynccontextmanager
async def failpoint(stage: Stage, wound: Wound, random: random.Random) -> AsyncIterator[float]:
    """A process that breaks by itself, in the very moment that kills at random seldom hit."""
    place, role = random.choice(PLACES)
    candidates = stage.cluster.targets(role)
    # Only one projector folds, and nobody knows which will: all of them are armed.
    nodes = candidates if role == "projector" else [random.choice(candidates)]
    action = random.choice(["exit", "exit", "stop"])
    armed = f"{place}:{action}:{random.randint(2, 12)}"
    wound.target = f"{', '.join(node.name for node in nodes)} {armed}"
    starts = [node.starts for node in nodes]
    for node in nodes:
        node.once["IMCORE_FAIL"] = armed
        node.signal(signal.SIGKILL)
    for node, before in zip(nodes, starts, strict=True):
        await _back(node, before)
    for (
        line
    ) in stage.cluster.client_lines:  # their clients went to the others, and stay there unless they are sent away
        line.proxy.reset()
    died: list[Node] = []
    stood: list[Node] = []
    try:
        deadline = time.monotonic() + FAILPOINT_S
        while time.monotonic() < deadline and not died and not stood:
            died = [node for node in nodes if node.exits[-1] == failpoints.EXIT_CODE]
            stood = [node for node in nodes if _state(node.pid) == "T"]
            await asyncio.sleep(0.02)
        wound.saw += [f"{node.name} died there" for node in died] + [f"{node.name} stood still there" for node in stood]
        yield random.uniform(2, 8) if stood else 0.0
    finally:
        for node in stood:
            node.signal(signal.SIGCONT)
    # Who did not come to the place is armed still.
    for node in nodes:
        if node not in died and node not in stood:
            before = node.starts
            node.signal(signal.SIGKILL)
            await _back(node, before)
    for node in died:
        await _until(node.ready.is_set)


PLACES: Final = (
    ("after_update_head", "comet"),
    ("before_commit", "comet"),
    ("after_commit", "comet"),
    ("before_reply", "comet"),
    ("before_publish", "comet"),
    ("after_publish", "comet"),
    ("before_cursor_commit", "projector"),
)
FAILPOINT_S: Final = 12.0


# --- all of them -------------------------------------------------------------------------------------------------------------

ROOT, STRACE, CLOCK, DISK = "root", "strace", "libfaketime", "a small disk"

FAULTS: Final = (
    Fault("kill comet", "F1", _kill("comet"), ends=True),
    Fault("kill api", "F2", _kill("api"), bites=False, ends=True),
    Fault("kill projector", "F3", _kill("projector"), bites=False, ends=True),
    Fault("kill everything", "F1 F7 F28", kill_everything, ends=True),
    Fault("stop comet", "F4", _stop("comet", (5, 10)), severs=True),
    Fault("stop api", "F4", _stop("api", (3, 6)), bites=False),
    Fault("stop projector", "F4", _stop("projector", (5, 10)), bites=False, severs=True),
    Fault("failpoint", "F2 F3 F5", failpoint, bites=False, severs=True, ends=True),
    Fault("rolling restart", "F35", rolling_restart, ends=True),
    Fault("postgres immediate stop", "F7", _end_postgres(signal.SIGQUIT)),
    Fault("kill postmaster", "F7", _end_postgres(signal.SIGKILL)),
    Fault("terminate backends", "F8", terminate_backends, bites=False),
    Fault("slow fsync", "F9", _fsync("slow"), (ROOT, STRACE), bites=False),
    Fault("fsync EIO", "F9", _fsync("EIO"), (ROOT, STRACE), bites=False),
    Fault("disk full", "F11", fill_disk, (ROOT, DISK), bites=False, severs=True),
    Fault("exhaust connections", "F12", exhaust_connections, bites=False, severs=True),
    Fault("postgres line blackhole", "F16", _lines("postgres", "blackhole"), severs=True),
    Fault("postgres line blackhole up", "F16", _lines("postgres", "blackhole up"), severs=True),
    Fault("postgres line blackhole down", "F16", _lines("postgres", "blackhole down"), severs=True),
    Fault("postgres line latency", "F17", _lines("postgres", "latency"), bites=False),
    Fault("postgres line stall", "F16", _lines("postgres", "stall down"), bites=False, severs=True),
    Fault("postgres line reset", "F8", _lines("postgres", "reset"), bites=False),
    Fault("client line latency", "F26", _lines("clients", "latency"), bites=False, severs=True),
    Fault("client line narrow", "F26", _lines("clients", "narrow"), bites=False, severs=True),
    Fault("client line reset", "F28", _lines("clients", "reset")),
    Fault("client line blackhole", "F25", _lines("clients", "blackhole"), severs=True),
    Fault("client line blackhole up", "F25", _lines("clients", "blackhole up"), severs=True),
    Fault("client line blackhole down", "F6 F25", _lines("clients", "blackhole down"), severs=True),
    Fault("client line stall", "F6", _lines("clients", "stall down"), severs=True),
    Fault("stop client", "F6", stop_client, bites=False, severs=True),
    Fault("kill client", "F1", kill_client, ends=True),
    Fault("stalled clients", "F6", _clients_do("stall", 4), bites=False),
    Fault("take over", "F30", _clients_do("takeover", 4), bites=False),
    Fault("storm", "F28 F29", storm, bites=False),
    Fault("clock jump", "F27", jump_clock, (CLOCK,), bites=False),
)
BY_NAME: Final = {fault.name: fault for fault in FAULTS}

# What a soak plays: what a process has gathered over hours is seen only in one that lives for hours.
LASTING: Final = tuple(fault.name for fault in FAULTS if not fault.ends)

# What a short run plays, in this order: something of every kind.
SHORT: Final = (
    "kill comet",
    "client line reset",
    "postgres immediate stop",
    "terminate backends",
    "stop comet",
    "client line blackhole",
    "postgres line blackhole",
    "kill postmaster",
    "kill client",
    "stop client",
    "failpoint",
)


# --- small things ------------------------------------------------------------------------------------------------------------


def _signal(pids: Iterable[int], number: signal.Signals) -> int:
    sent = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            sent += 1
    return sent


def _state(pid: int | None) -> str:
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat[stat.rindex(")") + 2]
    return ""


def _tail(log: Path, size: int = 20_000) -> str:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode(errors="replace")
    return ""


async def _until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.02)


async def _back(process: Process, starts: int) -> None:
    """It was started again, for more than the `starts`th time, and takes connections."""
    await _until(lambda: process.starts > starts and process.ready.is_set())
