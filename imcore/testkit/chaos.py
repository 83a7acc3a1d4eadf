"""A run: a cluster, programs that use it, a nemesis; then quiet, a drain, and the checks.

Everything that is needed to look at a run again is in its folder: what was asked for, with the seed (`run.json`), the histories,
what the nemesis did, the logs of all processes and of Postgres, the report. The exit code is 1 if a promise was broken, and also if
the run proves nothing: too few acknowledged sends, or a fault that never had an effect.

The trap: with the same seed the same faults come in the same order with the same choices, and the clients say the same. The
machine's timing is another one. So a seed repeats what was done to the cluster, not what happened in it; the history says that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from imcore import failpoints
from imcore.testkit import faults as every
from imcore.testkit import growth
from imcore.testkit.cluster import Cluster, Happened, Layout, cluster
from imcore.testkit.history import DRAIN, DRAINED, Closed, Log, Record, Recorder, Writer, authoritative, merge, read
from imcore.testkit.nemesis import Nemesis, Wound
from imcore.testkit.stage import ClientProcess, Stage
from imcore.testkit.workload import SECRET, Script

log = logging.getLogger(__name__)

CLOCK_LIBRARIES: Final = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
)
DISK_BYTES: Final = 6 << 30  # sparse: it takes what is written to it
SOMEBODY_ELSE: Final = 1 << 52
PASSWORD: Final = "correct horse battery staple"
WARM_UP_S: Final = 2.0
READY_S: Final = 60.0
QUIET_S: Final = 150.0
DRAINED_S: Final = 150.0
TOLD_TO_END: Final = (0, -signal.SIGKILL, failpoints.EXIT_CODE)
SETTLED_S: Final = 30.0
ENOUGH_S: Final = 300.0  # how long the load of a script goes on at most after its last fault
LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """What is played."""

    folder: Path
    seed: int
    seconds: float = 300.0
    script: tuple[str, ...] = ()  # these faults in this order, instead of a mix of all for `seconds`
    faults: tuple[str, ...] = ()  # the mix is of these; none: all
    people: int = 8
    devices_each: int = 2
    idle: int = 2
    rooms: int = 4
    programs: int = 2
    sends_per_s: float = 60.0
    governs_per_s: float = 1.0
    gap_s: tuple[float, float] = (1.0, 4.0)
    hold: float = 1.0
    ok_sends_min: int = 1_000
    ok_min: Mapping[str, int] = field(
        default_factory=dict
    )  # of other operations, by name; only a script waits for them
    accounts: bool = True  # people log in, and out; else they are believed
    amends: bool = True  # people edit and recall what they said
    idle_s: float = 3.0
    command: str = "chaos"  # how it was asked for
    layout: Layout = field(default_factory=Layout)
    settings: Mapping[str, object] = field(default_factory=dict)
    node_environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Played:
    """A run that is over, and not judged yet."""

    options: Options
    records: list[Record]
    log: Log
    wounds: list[Wound]
    happened: list[Happened]
    left_out: dict[str, str]  # fault -> why it could not be inflicted here
    faults_found: list[str]  # what the runner itself saw to be wrong
    started_ns: int
    ended_ns: int
    figures: dict[str, float] = field(default_factory=dict)


def clock_library() -> str | None:
    """libfaketime, if it is installed."""
    return next((path for path in CLOCK_LIBRARIES if os.path.exists(path)), None)


def possible() -> dict[str, str]:
    """What faults need, and why it is not here; "" if it is."""
    is_root = os.geteuid() == 0
    return {
        every.ROOT: "" if is_root else "not root",
        every.STRACE: "" if shutil.which("strace") else "strace is not installed",
        every.CLOCK: "" if clock_library() else "libfaketime is not installed",
        every.DISK: ""
        if is_root and shutil.which("mkfs.ext4") and Path("/dev/loop-control").exists()
        else "no loop devices",
    }


@asynccontextmanager
async def small_disk(folder: Path) -> AsyncIterator[Path]:
    """A file system of its own in a file, mounted while the block runs. Needs root."""
    image, place = folder / "disk.img", folder / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    await _command("mkfs.ext4", "-q", "-m", "0", str(image))
    await _command("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        # The logs stay, the disk goes.
        for said in place.glob("postgres.log*"):
            shutil.copy(said, folder)
        await _command("umount", "--lazy", str(place))
        image.unlink()
        place.rmdir()


async def _command(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    code = await process.wait()
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}")


async def play(options: Options, last: Callable[[Stage], Awaitable[None]] | None = None) -> Played:
    """Run it to its end; nothing of it is left running. `last` is called when everybody has everything, before the log is read."""
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(one.name != "run.log" for one in folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty, and a run keeps everything that it makes")
    missing = possible()
    chosen, left_out = _choose(options, missing)
    (folder / "run.json").write_text(json.dumps(_told(options), indent=2, default=str))
    happened: list[Happened] = []
    async with AsyncExitStack() as stack:
        needs_disk = any(every.DISK in fault.needs for fault in chosen)
        disk = await stack.enter_async_context(small_disk(folder)) if needs_disk else None
        made = await stack.enter_async_context(
            cluster(
                folder,
                seed=options.seed,
                tell=happened.append,
                layout=options.layout,
                settings=options.settings,
                disk=disk,
                clock_library=clock_library() if any(every.CLOCK in fault.needs for fault in chosen) else None,
                environment=options.node_environment,
            )
        )
        stage = Stage(folder, made, [], disk, happened)
        return await _play(options, stage, chosen, left_out, last)


def _choose(options: Options, missing: Mapping[str, str]) -> tuple[list[Any], dict[str, str]]:
    names = options.script or options.faults or tuple(every.BY_NAME)
    chosen, left_out = [], {}
    for name in dict.fromkeys(names):
        fault = every.BY_NAME[name]
        why = ", ".join(filter(None, (missing[need] for need in fault.needs)))
        if why:
            left_out[name] = why
        else:
            chosen.append(fault)
    return chosen, left_out


async def _play(
    options: Options,
    stage: Stage,
    chosen: Sequence[Any],
    left_out: dict[str, str],
    last: Callable[[Stage], Awaitable[None]] | None,
) -> Played:
    rooms = [f"group://r{n}" for n in range(1, options.rooms + 1)]
    count = options.people + options.idle
    logins = await _register(stage.cluster, options.seed, count) if options.accounts else {}
    everybody = list(logins) or list(range(1, count + 1))
    await _make_rooms(stage.cluster, rooms, everybody)
    started_ns = time.monotonic_ns()
    async with _programs(options, stage, rooms, everybody, logins) as programs:
        with Writer(stage.folder / "history-nemesis.jsonl", buffer_bytes_max=0) as write:
            async with _sampled(stage, write):
                wounds, found = await _act(options, stage, chosen, programs, write)
        if last is not None:
            await last(stage)
        async with stage.cluster.database.connection() as connection:
            truth = await authoritative(connection)
        figures = await _figures(stage.cluster)
    found += await _nobody_is_left(stage.cluster)
    # One that does not get ready may say why and end: the database is away. One that was ready ends when it is told to.
    found += [
        f"{one.who} ended by itself with {one.more['code']}"
        for one in stage.happened
        if one.what == "ended" and one.more["was_ready"] and one.more["code"] not in TOLD_TO_END
    ]
    records = await asyncio.to_thread(_histories, stage)
    ended_ns = time.monotonic_ns()
    return Played(options, records, truth, wounds, stage.happened, left_out, found, started_ns, ended_ns, figures)


async def _act(
    options: Options,
    stage: Stage,
    chosen: Sequence[Any],
    programs: Sequence[ClientProcess],
    write: Callable[[Record], None],
) -> tuple[list[Wound], list[str]]:
    """Load and faults; then everything is healed, the load ends, and everybody reads to the end. What was done, and what was wrong."""
    journal = stage.folder / "nemesis.jsonl"
    nemesis = Nemesis(stage, chosen, options.seed, journal, gap_s=options.gap_s, hold=options.hold, write=write)
    await asyncio.sleep(WARM_UP_S)
    if options.script:
        possible_ones = {fault.name for fault in chosen}
        await nemesis.script(name for name in options.script if name in possible_ones)
        await _enough(options, stage)
    else:
        await nemesis.run(options.seconds)
    log.info("everything is healed; the load ends")
    recorder = Recorder(write, process="nemesis")
    found = await _all_well(stage.cluster)
    found += await _quiet(programs)
    recorder.phase(DRAIN)
    found += await _drain(programs, options.idle_s)
    recorder.phase(DRAINED)
    return nemesis.wounds, found


async def _enough(options: Options, stage: Stage) -> None:
    """Return when enough was done to say something. A script is over after its last fault, however little that let others do: on a
    machine that is slow, or has other things to do, the load goes on for longer."""
    least = {"send": options.ok_sends_min, **options.ok_min}
    until = time.monotonic() + ENOUGH_S
    while time.monotonic() < until:
        done = await asyncio.to_thread(_done, stage.folder)
        if all(done[name] >= count for name, count in least.items()):
            return
        await asyncio.sleep(LOOK_S)


def _done(folder: Path) -> Counter[str]:
    """How many operations succeeded so far, by name."""
    return Counter(record.f for record in merge(folder.glob("history-*.jsonl")) if record.type == "ok")


@asynccontextmanager
async def _programs(
    options: Options, stage: Stage, rooms: Sequence[str], everybody: Sequence[int], logins: Mapping[int, str]
) -> AsyncIterator[list[ClientProcess]]:
    """The programs, started and ready; ended with the block."""
    busy, idle = everybody[: options.people], everybody[options.people :]
    shares = [busy[n :: options.programs] for n in range(options.programs)]
    for n, people in enumerate(shares, 1):
        name = f"program-{n}"
        script = Script(
            name=name,
            seed=options.seed,
            folder=stage.folder,
            doors=tuple(f"ws://{line.address}/ws" for line in stage.cluster.client_lines),
            apis=tuple(f"http://{line.address}" for line in stage.cluster.api_lines),
            people=tuple(people),
            devices_each=options.devices_each,
            rooms=tuple(rooms),
            sends_per_s=options.sends_per_s / options.programs,
            governs=n == 1,
            governed=tuple(busy),
            governs_per_s=options.governs_per_s,
            idle=tuple(idle) if n == 1 else (),
            logins=logins,
            password=PASSWORD if logins else "",
            amends=options.amends,
        )
        file = stage.folder / f"{name}.json"
        file.write_text(script.model_dump_json(indent=2))
        stage.clients.append(
            ClientProcess.make(
                name, file, stage.folder / f"{name}.log", stage.happened.append, random.Random(f"{options.seed} {name}")
            )
        )
    tasks = [asyncio.create_task(client.run(), name=client.name) for client in stage.clients]
    try:
        async with asyncio.timeout(READY_S):
            for client in stage.clients:
                await client.ready.wait()
        yield stage.clients
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _histories(stage: Stage) -> list[Record]:
    """Everything that was recorded. A program that was killed could not write down that its connections ended: that is done here."""
    records = merge(stage.folder.glob("history-*.jsonl"))
    killed = {
        f"{one.who}.{one.more['start']}": one.at_ns
        for one in stage.happened
        if one.what == "ended" and one.who.startswith("program") and one.more["code"]
    }
    open_: dict[tuple[str, int, str, int], None] = {}
    for record in records:
        if record.p in killed and record.conn:
            if record.f == "close":
                open_.pop(record[1:5], None)
            elif record.f == "connect":
                open_[record[1:5]] = None
    with Writer(stage.folder / "history-killed.jsonl") as write:
        for visit in open_:
            write(Record(killed[visit[0]], *visit, 0, "ok", "close", Closed(0, "killed")))
    records += read(stage.folder / "history-killed.jsonl")
    records.sort(key=lambda record: record.t)
    return records


@asynccontextmanager
async def _sampled(stage: Stage, write: Callable[[Record], None]) -> AsyncIterator[None]:
    """Memory, descriptors, tasks and what waits are watched."""
    watching = asyncio.create_task(growth.watch(stage, stage.folder / "samples.jsonl", write))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        if not watching.cancelled() and (error := watching.exception()) is not None:
            raise error


async def _quiet(programs: Iterable[ClientProcess]) -> list[str]:
    """No more load, and every send has its outcome; what is wrong."""
    found: list[str] = []
    for program in programs:
        await program.ask({"do": "quiet"})
    for program in programs:
        try:
            if count := (await program.until("quiet", QUIET_S))["open"]:
                found.append(f"Q1: {count} sends of {program.name} have no outcome though everything is healed")
        except TimeoutError:
            found.append(f"Q1: sends of {program.name} have no outcome {QUIET_S:g} s after everything was healed")
    return found


async def _drain(programs: Iterable[ClientProcess], idle_s: float) -> list[str]:
    """Everybody comes back and reads until nothing comes any more; what is wrong."""
    found: list[str] = []
    for program in programs:
        await program.ask({"do": "drain", "idle_s": idle_s})
    for program in programs:
        try:
            await program.until("drained", DRAINED_S)
        except TimeoutError:
            found.append(f"Q2: {program.name} did not have everything within {DRAINED_S:g} s")
    return found


async def _register(made: Cluster, seed: int, count: int) -> dict[int, str]:
    """So many people with accounts; each one's member id, and the name that it logs in with."""
    logins: dict[int, str] = {}
    async with aiohttp.ClientSession() as http:
        for n in range(1, count + 1):
            body = {"login": f"chaos{seed}.{n}", "password": PASSWORD}
            async with http.post(f"http://{made.api_lines[0].address}/v1/accounts", json=body) as answer:
                assert answer.status == 201, await answer.text()
                logins[(await answer.json())["mid"]] = body["login"]
    return logins


async def _make_rooms(made: Cluster, rooms: Iterable[str], members: Sequence[int]) -> None:
    async with aiohttp.ClientSession() as http:
        for room, who in [*((room, list(members)) for room in rooms), (SECRET, [SOMEBODY_ELSE])]:
            body = {"room": room, "members": who, "public": room != SECRET}
            async with http.post(f"http://{made.api_lines[0].address}/v1/rooms", json=body) as answer:
                assert answer.status == 201, await answer.text()


async def _all_well(made: Cluster) -> list[str]:
    """Every process says that it is of use; what is wrong."""
    await made.database.answers()
    well: set[str] = set()
    deadline = time.monotonic() + READY_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
        while len(well) < len(made.nodes) and time.monotonic() < deadline:
            for node in made.nodes:
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with http.get(f"http://{node.doors['http']}/readyz") as answer:
                        if answer.status == 200:
                            well.add(node.name)
            await asyncio.sleep(0.1)
    return [f"Q1: {one.name} is not well after everything was healed" for one in made.nodes if one.name not in well]


async def _nobody_is_left(made: Cluster) -> list[str]:
    """When everybody has gone, nobody is shown as online: sessions of what was killed are closed too."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        async with made.database.connection() as connection:
            ghosts = await connection.fetch("SELECT mid, key, node FROM sessions")
        if not ghosts:
            return []
        if time.monotonic() > deadline:
            return [f"Q5: {len(ghosts)} sessions are open and nobody is connected, {dict(ghosts[0])} for one"]
        await asyncio.sleep(0.2)


async def _figures(made: Cluster) -> dict[str, float]:
    """What the processes say of themselves at the end."""
    told: dict[str, float] = {}
    async with aiohttp.ClientSession() as http:
        for node in made.nodes:
            for name, value in (await growth.metrics(http, node)).items():
                told[f"{node.name} {name}"] = value
    return told


def _told(options: Options) -> dict[str, Any]:
    return {**asdict(options), "python": platform.python_version(), "machine": platform.platform(), "argv": sys.argv}
