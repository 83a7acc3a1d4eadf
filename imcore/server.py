"""Where everything is built and joined: a process of imcore, with the roles that it was given.

`serve` brings up the database, the log, and then what the roles need: `comet` (client connections), `api` (HTTP), `projector` (the
asynchronous projections, and the end of sessions whose comet died). All of them in one process is the default; with `workers`, more
processes with the role comet share the same ports, and if one dies it is started again.

The way down is the way up backwards: clients are told to go elsewhere, what was accepted is committed, the projections are given a
moment, then everything closes. A second signal does not wait.

When the log went back in time (see events.history) there is no way down: every connection is ended at once, and everything but the
database and the addresses is built anew, so that nothing is left that knows what is no more.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import ssl
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aiohttp import web

from imcore import failpoints, nodes, reads
from imcore.accounts import Accounts, ready_keys
from imcore.api.app import make_app
from imcore.api.door import Door
from imcore.api.services import Services
from imcore.attachments import opening as attachments
from imcore.attachments.sweep import Sweeper
from imcore.attachments.uploads import Uploads
from imcore.auth import OwnKeys
from imcore.bus.postgres import Ephemeral, PostgresBus
from imcore.comet.server import Comet, settle_memory
from imcore.comet.tcp import TcpCarrier
from imcore.comet.websocket import accept
from imcore.config import Address, Settings, address
from imcore.database import (
    DATABASE_ERRORS,
    Opened,
    connect,
    count_statements,
    create_pool,
    heed_cancellation,
    refuse_unsafe,
)
from imcore.errors import BadConfiguration
from imcore.events import history
from imcore.events.history import History
from imcore.events.names import OwnConnection, Pool
from imcore.events.reader import Reader
from imcore.events.store import HOLD_S, Log
from imcore.events.types import Recorded
from imcore.metrics import registry
from imcore.paces import Paces
from imcore.projections import ASYNCHRONOUS, LEISURELY, queries
from imcore.projections.inline import InlineProjections
from imcore.projections.runner import Runner
from imcore.receipts import Receipts
from imcore.verbs.idempotency import sweep_for_ever
from imcore.verbs.means import Means

log = logging.getLogger(__name__)

BACKLOG: Final = 4096
RESTART_S: Final = 1.0
SECOND_SIGNAL_S: Final = 1.0
REPORT_S: Final = 1.0
READY_S: Final = 2.0
READY_LAG_EVENTS: Final = 100_000
KEEPALIVE_S: Final = 15.0  # of HTTP; aiohttp takes it as the deadline of the request's header too
LINGER_S: Final = 2.0  # how long a refused request's body is still read, so that the answer arrives
BEGIN_AGAIN_S: Final = 0.5
KEEP_S: Final = 1.0  # between writings of what the next run is to know
LAST_SEEN: Final = "last-seen.json"
SEARCH_PAGE_EVENTS: Final = 200  # a fold holds up everybody else in the process: 20 µs a message
ALL_ROLES: Final = frozenset(("comet", "api", "projector"))


def listening(where: Address, *, shared: bool) -> socket.socket:
    """A bound socket. `shared`: other processes listen on the same port too."""
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind((where.host, where.port))
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise BadConfiguration(f"cannot listen on {where}: {error.strerror}") from None
    return found


def bound(listener: socket.socket) -> Address:
    """The address in force."""
    host, port = listener.getsockname()[:2]
    return Address(host, port)


@dataclass
class Workers:
    """The other comet processes on the same ports, and what each last told of itself."""

    settings: Settings
    count: int
    reports: dict[int, dict[str, float]] = field(default_factory=dict)
    restarts: int = 0

    async def run(self) -> None:
        """Keep them running; ends them when cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(1, self.count + 1):
                tasks.create_task(self._keep(number))

    async def _keep(self, number: int) -> None:
        while True:
            await self._run_one(number)
            self.restarts += 1
            self.settings = self.settings.model_copy(update={"fail": ""})  # a failpoint would end it again and again
            log.error("worker %d ended; starting it again", number)
            await asyncio.sleep(RESTART_S)

    async def _run_one(self, number: int) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "imcore.worker", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            # The settings go through a pipe, because they hold secrets; and while it is open the worker knows that we live.
            process.stdin.write(self.settings.model_dump_json().encode() + b"\n")
            while line := await process.stdout.readline():
                self.reports[number] = json.loads(line)
            await process.wait()
        finally:
            self.reports.pop(number, None)
            if process.returncode is None:
                process.stdin.close()
                await asyncio.shield(process.wait())


class Process:
    """One running process of imcore; `serve` makes it."""

    def __init__(self, settings: Settings, roles: frozenset[str]) -> None:
        self.settings = settings
        self.roles = roles
        self.keys = OwnKeys(Path(settings.data))  # which outlive the log that they were made beside
        self.node = new_node()
        self.addresses: dict[str, str] = {}
        self.comet: Comet | None = None
        self.bus: PostgresBus | None = None
        self.waiting: Runner  # set before the first event
        self.seeking: Runner | None = None
        self.receipts: Receipts | None = None
        self.accounts: Accounts  # so is this
        self.workers: Workers | None = None
        self.uploads: Uploads | None = None
        self.sweeper: Sweeper | None = None
        self.shared = False
        self.is_main = True  # no worker of another process
        self.history = History(lambda: [self.node], self.ended)
        self.statements: Counter[str] = Counter()  # by what the connection is for
        self.position = 0  # the last that this process has appended; without a comet also what it has heard of

    # --- what happens when events are there -----------------------------------------------------------------------------------

    def committed(self, batch: list[Recorded]) -> None:
        """This process has appended a batch."""
        self.history.saw(batch[-1])
        self.position = max(self.position, batch[-1].position)
        if self.comet is not None:
            self.comet.tail.offer(batch)
        else:
            self.accounts.revocations.take(batch)
            self._wake(batch[-1].position)
        if self.bus is not None:
            self.bus.publish(batch[-1].position)

    def applied(self, batch: list[Recorded]) -> None:
        """The comet has taken a batch, from whatever process."""
        self.history.saw(batch[-1])
        self._wake(batch[-1].position)

    def heard(self, position: int) -> None:
        """The bus rang."""
        if self.comet is not None:
            self.comet.tail.ring(position)
        else:
            self.position = max(self.position, position)
            self._wake(position)

    def _wake(self, position: int) -> None:
        self.waiting.wake(position)
        if self.seeking is not None:
            self.seeking.wake(position)

    def push_ephemeral(self, message: Ephemeral) -> int:
        """Give a message to connected sessions, here and in the other processes, without storing it. How many got it here at once.

        On each comet it waits for the log up to `position`, and up to where this process knows it."""
        known = max(self.position, 0 if self.comet is None else self.comet.tail.position)
        message = message._replace(position=max(message.position, known))
        if self.bus is not None:
            self.bus.pass_on(message)
        return self.passed_on(message)

    def passed_on(self, message: Ephemeral) -> int:
        """A message was pushed without storing it, here or by another process. How many got it here at once."""
        return 0 if self.comet is None else self.comet.push_ephemeral(message)

    def recent(self, after: int, limit: int) -> list[Recorded] | None:
        """Events from memory, if there are any."""
        return None if self.comet is None else self.comet.tail.recent(after, limit)

    def ended(self) -> None:
        """The log is another one: nobody hears or says anything more."""
        if self.comet is not None:
            self.comet.leave()

    def opened(self, purpose: str) -> Opened:
        """What is done with each connection to the database before its use: count its statements, and ask whether it leads to the log
        that this process knows."""

        async def opened(connection: OwnConnection) -> None:
            count_statements(connection, self.statements, purpose)
            await self.history.check(connection)

        return opened

    @property
    def last_seen(self) -> Path:
        """The file with what the next run is to know of the log."""
        return Path(self.settings.data) / LAST_SEEN

    def begin_again(self) -> None:
        """As a process that was just started, on the addresses that this one has."""
        fields = {name: where for name, where in self.addresses.items() if name in type(self.settings).model_fields}
        self.settings = self.settings.model_copy(update=fields)
        self.node = new_node()
        self.comet = self.bus = self.workers = self.seeking = None
        self.position = 0
        self.history = History(lambda: [self.node], self.ended)


async def _connect_at_leisure(process: Process, url: str) -> OwnConnection:
    """A connection for rows that can be folded again: its commits do not wait for the disk. Rows and checkpoint are lost together."""
    connection = await connect(url, application_name="imcore search", opened=process.opened("search"))
    await connection.execute("SET synchronous_commit = off")
    return connection


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[str]:
    """The database of these settings, migrated and safe; the embedded one runs while the block does."""
    async with AsyncExitStack() as stack:
        url = settings.database_url
        if url is None:
            from imcore.database.embedded import (
                embedded,
            )  # 0.2 s that a process with a database of its own does not need

            url = await stack.enter_async_context(embedded(Path(settings.data)))
        from imcore.database.migrations import upgrade

        await upgrade(url)
        checking = await connect(url, application_name="imcore start")
        try:
            await refuse_unsafe(checking, unsafe=settings.unsafe)
        finally:
            await checking.close()
        yield url


async def serve(
    settings: Settings,
    *,
    roles: frozenset[str] = ALL_ROLES,
    announce: Callable[[dict[str, object]], None],
    stop: asyncio.Event,
    shared_ports: bool = False,
    report: Callable[[dict[str, float]], None] | None = None,
) -> None:
    """Run until `stop` is set; everything accepted is committed when this returns.

    `announce` is called once, when clients can connect, with the addresses in force. Raises the family's errors when it cannot start.
    """
    failpoints.arm(settings.fail)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(database(settings))
        process = Process(settings, roles)
        process.shared = shared_ports or settings.workers > 1
        process.is_main = not shared_ports
        while True:
            async with AsyncExitStack() as running:
                await _run(process, url, running, announce, stop, report)
            if not process.history.over.is_set() or stop.is_set():
                return
            log.error("the log is another one than before; everything begins anew")
            gc.unfreeze()
            process.begin_again()
            announce = _say_nothing


def _say_nothing(line: dict[str, object]) -> None:
    """It was announced where this process listens."""


async def _begin(process: Process, url: str, stop: asyncio.Event) -> None:
    """Look at the log for the first time."""

    async def look() -> None:
        connection = await connect(url, application_name="imcore start")
        try:
            await process.history.begin(connection, history.kept(process.last_seen) if process.is_main else None)
        finally:
            connection.terminate()

    await _when_there(process, stop, look)


async def _when_there(process: Process, stop: asyncio.Event, look: Callable[[], Awaitable[None]]) -> None:
    """Do this. Waits for a database that is away, as long as there was one before."""
    while True:
        try:
            await look()
            return
        except DATABASE_ERRORS as error:
            heed_cancellation()
            if not process.addresses or stop.is_set():
                raise
            log.warning("the log cannot be looked at: %s", error)
            await asyncio.sleep(BEGIN_AGAIN_S)


async def _run(
    process: Process,
    url: str,
    stack: AsyncExitStack,
    announce: Callable[[dict[str, object]], None],
    stop: asyncio.Event,
    report: Callable[[dict[str, float]], None] | None,
) -> None:
    settings, roles = process.settings, process.roles
    await _begin(process, url, stop)
    pool: Pool = await stack.enter_async_context(
        create_pool(
            url,
            application_name="imcore",
            connections_max=settings.pool_connections_max,
            opened=process.opened("read"),
        )
    )
    events = Log(
        lambda: connect(url, application_name="imcore append", hold_s=HOLD_S, opened=process.opened("append")),
        InlineProjections(),
        process.committed,
        batch_events_max=settings.batch_events_max,
        pending_events_max=settings.pending_events_max,
        pending_reserve_events=settings.pending_reserve_events,
        pending_bytes_max=settings.pending_bytes_max,
        send_wait_max_s=settings.send_wait_max_s,
        append_timeout_s=settings.append_timeout_s,
    )
    reader = Reader(pool, events.names)
    runner = process.waiting = Runner(
        lambda: connect(url, application_name="imcore projector", opened=process.opened("project")),
        reader,
        ASYNCHRONOUS,
        recent=process.recent,
        lead="projector" in roles,
    )
    seeking: Runner | None = None
    if settings.search:
        seeking = process.seeking = Runner(
            lambda: _connect_at_leisure(process, url),
            reader,
            LEISURELY,
            recent=process.recent,
            lead="projector" in roles,
            page_events_max=SEARCH_PAGE_EVENTS,
            rest=1 / settings.search_share - 1,
        )
    receipts = process.receipts = Receipts(pool, process.push_ephemeral, settings.receipts_members_max)
    reading = reads.Reads(
        pool=pool,
        reader=reader,
        log=events,
        reached=runner.reached,
        live_types=frozenset(settings.live_room_types),
        presence_room_members_max=settings.presence_room_members_max,
        searched=None if seeking is None else seeking.reached,
        marked=receipts.marked,
    )
    if settings.workers > 1 or settings.database_url is not None or process.shared:
        process.bus = PostgresBus(lambda: connect(url, application_name="imcore bus"), process.heard, process.passed_on)
    sends: Paces[int] = Paces(settings.user_sends_per_s, settings.user_sends_burst)
    if settings.auth_mode == "open":
        log.warning("auth_mode is open: whoever gives no token is believed; use jwt where strangers can connect")
    if roles & {"api", "comet"}:  # nobody comes in anywhere else
        await _when_there(process, stop, lambda: ready_keys(settings, process.keys, pool))
    accounts = process.accounts = Accounts(settings, events, pool, nodes=lambda: nodes.alive(pool), keys=process.keys)
    stack.push_async_callback(accounts.close)
    await _when_there(process, stop, accounts.begin)
    kept = await attachments.opened(settings)
    stack.push_async_callback(kept.store.close)
    process.uploads = kept.uploads
    means = Means(
        settings=settings,
        reads=reading,
        push_ephemeral=process.push_ephemeral,
        sends=sends,
        signals=Paces(settings.user_signals_per_s, settings.user_signals_burst),
        accounts=accounts,
        attachments=kept,
    )
    comet: Comet | None = None
    if "comet" in roles:
        comet = process.comet = Comet(
            events, reader, pool, means,
            node=process.node, history=process.history, applied=process.applied,
        )  # fmt: skip

    # What takes long is done before anything runs: a comet that stood still would look at the log before it takes anything.
    app = make_app(_services(process, means)) if "api" in roles else None
    settle_memory()
    async with asyncio.TaskGroup() as tasks:
        owned = [tasks.create_task(events.run(), name="log")]
        if process.bus is not None:
            owned.append(tasks.create_task(process.bus.run(), name="bus"))
        owned.append(tasks.create_task(runner.run(), name="projector"))
        owned.append(tasks.create_task(receipts.run(), name="receipts"))
        if seeking is not None:
            owned.append(tasks.create_task(seeking.run(), name="search"))
        owned.append(tasks.create_task(process.history.watch(pool), name="history"))
        if process.is_main:
            owned.append(tasks.create_task(_keep(process), name="last seen"))
        if "projector" in roles:
            owned.append(tasks.create_task(nodes.Reaper(events, pool).run(), name="reaper"))
            owned.append(tasks.create_task(sweep_for_ever(pool), name="idempotency sweeper"))
            process.sweeper = Sweeper(kept.store, pool)
            owned.append(tasks.create_task(process.sweeper.run(), name="sweeper"))
        follows, sweeps = comet is None, "projector" in roles
        owned.append(tasks.create_task(accounts.run(follows=follows, sweeps=sweeps), name="accounts"))
        if comet is not None:
            owned.append(tasks.create_task(comet.run(), name="comet"))
        if report is not None and comet is not None:
            owned.append(tasks.create_task(_report(process, comet, events, report), name="report"))
        keeping: asyncio.Task[None] | None = None
        try:
            async with AsyncExitStack() as doors:
                if comet is not None:
                    await _open_comet_doors(process, comet, doors)
                if app is not None:
                    process.addresses["http"] = str(await _open_http(app, address(settings.http), doors))
                if comet is not None:
                    owned.append(tasks.create_task(_lease(process, comet, pool), name="lease"))
                if settings.workers > 1:
                    ports: dict[str, object] = {
                        name: where for name, where in process.addresses.items() if name != "http"
                    }
                    given = settings.model_copy(update={**ports, "database_url": url, "workers": 1})
                    process.workers = Workers(given, settings.workers - 1)
                    keeping = tasks.create_task(process.workers.run(), name="workers")
                announce({**process.addresses, "pid": os.getpid(), "auth": settings.auth_mode, "node": process.node})
                await _first_of(stop, process.history.over)
                if keeping is not None:
                    keeping.cancel()  # the workers drain beside us
                if process.history.over.is_set():
                    for task in owned:
                        task.cancel()
                    pool.terminate()
                else:
                    log.info("stopping: clients are sent elsewhere")
            # The doors are closed now: nobody new comes in.
            if process.history.over.is_set():
                if keeping is not None:
                    await asyncio.wait([keeping])
                if comet is not None:
                    await comet.drain()
                return
            if comet is not None:
                await comet.drain()
            async with asyncio.timeout(settings.drain_s):
                if keeping is not None:
                    await asyncio.wait([keeping])  # while the projections, which they wait for, still run here
                await events.drain()
                if events.position:
                    await runner.reached(events.position, settings.drain_s / 2)
                if comet is not None:
                    await nodes.unregister(pool, process.node)
        except TimeoutError:
            log.warning("not everything was settled in %s s", settings.drain_s)
        finally:
            for task in owned:
                task.cancel()


async def _first_of(*events: asyncio.Event) -> None:
    """Return when one of them is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


async def _keep(process: Process) -> None:
    """Write down what the next run is to know of the log, for ever; and at the end, when nothing more is appended."""
    written: object = None
    try:
        while True:
            if process.history.witness != written:
                written = process.history.witness
                history.keep(process.last_seen, process.history)
            await asyncio.sleep(KEEP_S)
    finally:
        history.keep(process.last_seen, process.history)


async def _open_comet_doors(process: Process, comet: Comet, doors: AsyncExitStack) -> None:
    """TCP and WebSocket, with and without TLS as configured."""
    settings = process.settings
    loop = asyncio.get_running_loop()
    tls = _tls(settings)
    for name, where in (("tcp", settings.tcp), ("tcps", settings.tcps)):
        if not where or (name == "tcps" and tls is None):
            continue
        listener = listening(address(where), shared=process.shared)
        server = await loop.create_server(
            lambda: TcpCarrier(comet), sock=listener, backlog=BACKLOG, ssl=tls if name == "tcps" else None
        )
        doors.callback(server.close)
        process.addresses[name] = str(bound(listener))
    app = web.Application()

    async def binary(request: web.Request) -> web.StreamResponse:
        return await accept(request, comet, is_text=False)

    async def text(request: web.Request) -> web.StreamResponse:
        return await accept(request, comet, is_text=True)

    app.router.add_route("*", "/sub", binary)
    app.router.add_route("*", "/ws", text)
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=LINGER_S,
        handle_signals=False,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    doors.push_async_callback(runner.cleanup)
    for name, where in (("ws", settings.ws), ("wss", settings.wss)):
        if not where or (name == "wss" and tls is None):
            continue
        listener = listening(address(where), shared=process.shared)
        site = web.SockSite(runner, listener, backlog=BACKLOG, ssl_context=tls if name == "wss" else None)
        await site.start()
        process.addresses[name] = str(bound(listener))


async def _open_http(app: web.Application, where: Address, doors: AsyncExitStack) -> Address:
    runner = Door(
        app,
        access_log=None,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=LINGER_S,
        handle_signals=False,
        shutdown_timeout=5.0,
    )
    await runner.setup()
    doors.push_async_callback(runner.cleanup)
    listener = listening(where, shared=False)
    await web.SockSite(runner, listener, backlog=BACKLOG).start()
    return bound(listener)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise BadConfiguration(f"the TLS certificate cannot be read: {error}") from None
    return context


async def _lease(process: Process, comet: Comet, pool: Pool) -> None:
    """Say every third of a lease that this comet lives. One that was declared dead sends its clients away and starts anew.

    It is asked at once when the log has closed sessions of it for that reason: who comes back before it has another id is sent away
    once more."""
    settings = process.settings
    registered = False
    while True:
        comet.given_up.clear()
        try:
            if not registered:
                await nodes.register(pool, _node(process), settings.node_lease_s)
                registered = True
            registered = await nodes.renew(pool, comet.node, comet.connections, comet.addresses)
            if not registered:
                log.error("this comet was declared dead; its clients connect again")
                process.node = comet.node = new_node()
                comet.send_away()
                continue
            if process.bus is not None:
                await _count_elsewhere(process, comet, pool)
        except DATABASE_ERRORS as error:
            heed_cancellation()
            log.warning("the lease of this comet could not be renewed: %s", error)
        with suppress(TimeoutError):
            async with asyncio.timeout(settings.node_lease_s / 3):
                await comet.given_up.wait()


def _node(process: Process) -> nodes.Node:
    """What clients and other nodes are told of this comet."""
    settings, advertise = process.settings, process.settings.advertise
    ports = {name: address(where).port for name, where in process.addresses.items()}
    return nodes.Node(
        node=process.node,
        hostname=advertise.hostname or socket.gethostname(),
        address=",".join(advertise.addresses) or address(settings.tcp).host,
        tcp_port=advertise.tcp_port or ports.get("tcp", 0),
        ws_port=advertise.ws_port or ports.get("ws", 0),
        wss_port=advertise.wss_port or ports.get("wss", 0),
        region=settings.region,
        weight=settings.weight,
    )


def new_node() -> str:
    """An id that no run had before."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"


async def _count_elsewhere(process: Process, comet: Comet, pool: Pool) -> None:
    rooms = comet.rooms()
    async with pool.acquire() as connection:
        comet.elsewhere = await queries.online_elsewhere(connection, rooms, process.node) if rooms else {}


async def _report(process: Process, comet: Comet, events: Log, report: Callable[[dict[str, float]], None]) -> None:
    while True:
        report(stats(process, comet, events))
        await asyncio.sleep(REPORT_S)


def stats(process: Process, comet: Comet | None, events: Log, runner: Runner | None = None) -> dict[str, float]:
    """What the metrics show of one process."""
    told: dict[str, float] = {
        "log_appended_total": events.appended,
        "log_batches_total": events.batches,
        "log_pending": events.pending,
        "log_pending_sends_max": events.backlog.sends_max,
        "log_wait_seconds": events.backlog.expected_s(events.pending),
        "log_refused_total": events.backlog.refused,
        "log_batch_seconds": events.batch_s,
        "log_position": events.position,
        "tasks": len(asyncio.all_tasks()),
        "log_names": len(events.names.ids),
    }
    told |= {f"statements_total|purpose={purpose}": count for purpose, count in process.statements.items()}
    told |= process.accounts.stats()
    bus = process.bus
    if bus is not None:
        told |= {"bus_waiting": bus.waiting, "bus_dropped_total": bus.dropped}
    if process.receipts is not None:
        told |= {"receipts_waiting": process.receipts.waiting, "receipts_dropped_total": process.receipts.dropped}
    if process.uploads is not None:
        told |= {
            "attachment_uploads_under_way": process.uploads.under_way,
            "attachment_uploads_total": process.uploads.taken,
            "attachment_uploads_refused_total": process.uploads.refused,
        }
    if process.sweeper is not None:
        told["attachment_swept_total"] = process.sweeper.swept
    if comet is not None:
        told |= comet.stats()
    if runner is not None:
        told |= {
            "projection_position": runner.position,
            "projection_lag_events": runner.lag_events,
            "projection_waiting": runner.waiting,
            "projection_pages_total": runner.pages,
            "projection_events_total": runner.events,
            "projection_quarantined_total": runner.quarantined,
        }
        if process.seeking is not None:
            told |= {
                "search_lag_events": process.seeking.lag_events,
                "search_events_total": process.seeking.events,
                "search_quarantined_total": process.seeking.quarantined,
            }
    return told


def _services(process: Process, means: Means) -> Services:
    """What the HTTP API works with."""
    events = means.log

    def counts() -> dict[int, dict[str, float]]:
        workers = process.workers
        told = {0: stats(process, process.comet, events, process.waiting)}
        if workers is not None:
            told[0]["workers_restarts_total"] = workers.restarts
            told |= workers.reports
        return told

    async def ready() -> dict[str, str]:
        checks: dict[str, str] = {}
        try:
            async with asyncio.timeout(READY_S):
                head = (await means.reads.reader.head()).position
            checks["database"] = "ok"
        except DATABASE_ERRORS:
            return {"database": "does not answer"}
        pending = events.pending
        checks["log"] = "ok" if pending < events.pending_events_max // 2 else f"{pending} events wait to be appended"
        if process.comet is not None:
            behind = head - process.comet.hub.position
            checks["tail"] = "ok" if behind < READY_LAG_EVENTS else f"{behind} events behind the log"
            if process.comet.draining:
                checks["comet"] = "stopping"
        return checks

    return Services(
        means=means,
        nodes=means.accounts.nodes,
        ready=ready,
        metrics=registry(counts),
        ws_url=lambda: f"ws://{process.addresses.get('ws', process.settings.ws)}/ws",
    )


def install_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT drain; another one, a second later or more, ends the process at once. (A terminal and make both pass on the
    first.)"""
    loop = asyncio.get_running_loop()
    first_at = 0.0

    def on_signal() -> None:
        nonlocal first_at
        if stop.is_set() and loop.time() > first_at + SECOND_SIGNAL_S:
            os._exit(1)
        if not stop.is_set():
            first_at = loop.time()
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def told(line: Mapping[str, object]) -> None:
    """One JSON line on stdout."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
