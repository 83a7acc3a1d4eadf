"""The HTTP API at work: on a database, with a log and projections that follow it, and no comet."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from aiohttp import ClientResponse, ClientSession, web
from yarl import URL

from imcore import auth, reads
from imcore.accounts import Accounts
from imcore.api.app import Services, make_app
from imcore.api.door import Door
from imcore.api.services import SERVICES
from imcore.attachments.opening import Attachments, folder, kept_in
from imcore.attachments.store import Store
from imcore.attachments.uploads import Uploads
from imcore.auth import OwnKeys, SigningKey
from imcore.bus.postgres import Ephemeral
from imcore.config import Settings, load
from imcore.database import connect, create_pool
from imcore.errors import ImcoreError
from imcore.events.names import Pool
from imcore.events.reader import Reader
from imcore.events.store import Draft, Log
from imcore.events.types import Recorded
from imcore.metrics import registry
from imcore.nodes import AliveNode
from imcore.paces import Paces
from imcore.projections import ASYNCHRONOUS, LEISURELY
from imcore.projections.inline import InlineProjections
from imcore.projections.runner import Runner
from imcore.verbs.call import Verbs
from imcore.verbs.means import Means

KEY = SigningKey("tests", "HS256", b"a secret that only the tests know")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.raw)

    @property
    def code(self) -> object:
        """The code of the error, if it is one."""
        return self.json["code"]


@dataclass
class Place:
    """A running API. `nodes`, `checks` and `pushed` stand for the comet's side."""

    url: URL
    settings: Settings
    session: ClientSession
    pool: Pool
    log: Log
    reads: reads.Reads
    app: web.Application
    nodes: list[AliveNode]
    checks: dict[str, str]
    pushed: list[Ephemeral]
    accounts: Accounts
    keys: OwnKeys
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    marks: list[tuple[str, int, int]] = field(default_factory=list)  # read marks that receipts were told of

    async def ask(
        self,
        method: str,
        path: str,
        *,
        mid: int | None = None,
        token: str | None = None,
        json: object = None,
        **rest: Any,
    ) -> Answer:
        """One request: as the person `mid`, or as a service; with this token instead, and with none if it is "". The path goes out
        as it is written here."""
        who = self.credentials(mid) if token is None else {"Authorization": f"Bearer {token}"} if token else {}
        headers = {**who, **rest.pop("headers", {})}
        if json is not None:
            rest["data"], headers["Content-Type"] = orjson.dumps(json), "application/json"
        async with self.session.request(
            method, URL(f"{self.url}{path}", encoded=True), headers=headers, **rest
        ) as response:
            return await answered(response)

    @property
    def attachments(self) -> Attachments:
        """Where files are."""
        return self.app[SERVICES].means.attachments

    @property
    def app_uploads(self) -> Uploads:
        """Files on their way in."""
        return self.attachments.uploads

    async def get(self, path: str, **rest: Any) -> Answer:
        return await self.ask("GET", path, **rest)

    async def post(self, path: str, **rest: Any) -> Answer:
        return await self.ask("POST", path, **rest)

    async def put(self, path: str, **rest: Any) -> Answer:
        return await self.ask("PUT", path, **rest)

    async def patch(self, path: str, **rest: Any) -> Answer:
        return await self.ask("PATCH", path, **rest)

    async def delete(self, path: str, **rest: Any) -> Answer:
        return await self.ask("DELETE", path, **rest)

    def credentials(self, mid: int | None) -> dict[str, str]:
        if self.settings.auth_mode == "jwt":
            return bearer(mid=mid) if mid is not None else bearer(service="tests")
        return {} if mid is None else {"Imcore-Mid": str(mid)}

    async def room(self, room: str, *members: int, **rest: object) -> Answer:
        """A room made by a service."""
        made = await self.post("/v1/rooms", json={"room": room, "members": list(members), **rest})
        assert made.status == 201, made.raw
        return made

    async def send(self, path: str, mid: int | None, body: object, *, by: int | None = None) -> Answer:
        """A message; `by` is the member that it names."""
        message = {"id": str(uuid.uuid4()), "body": body, **({} if by is None else {"mid": by})}
        return await self.post(f"{path}/messages", mid=mid, json=message)

    async def append(self, *drafts: Draft) -> list[Recorded]:
        outcomes = await self.log.append(drafts)
        return [outcome for outcome in outcomes if not isinstance(outcome, ImcoreError)]

    async def followed(self) -> None:
        """The projections have everything."""
        head = (await self.reads.reader.head()).position
        assert await self.reads.reached(head, 60)
        assert self.reads.searched is None or await self.reads.searched(head, 60)


async def answered(response: ClientResponse) -> Answer:
    return Answer(response.status, response.headers, await response.read())


def bearer(
    *,
    mid: int | None = None,
    service: str | None = None,
    rooms: list[str] | None = None,
    ops: list[int] | None = None,
    expires_in_s: float = 60,
) -> dict[str, str]:
    """A header with a signed token."""
    token = auth.mint(KEY, now=time.time(), expires_in_s=expires_in_s, mid=mid, service=service, rooms=rooms, ops=ops)
    return {"Authorization": f"Bearer {token}"}


def node(name: str, **figures: Any) -> AliveNode:
    """A comet that is alive."""
    told: dict[str, Any] = {
        "hostname": name, "address": f"10.0.0.{len(name)}", "tcp_port": 3101, "ws_port": 3102, "wss_port": 3103,
        "region": "", "weight": 10, "connections": 0, "addresses": 0,
        "started_at": datetime(2026, 1, 1, tzinfo=UTC), "lease_until": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=15),
    }  # fmt: skip
    return AliveNode(node=name, **{**told, **figures})


@asynccontextmanager
async def serving(
    database_url: str,
    *,
    store: Store | None = None,
    wrap: Callable[[Services], Services] = lambda services: services,
    verbs: Verbs | None = None,
    keys: OwnKeys | None = None,
    **flags: Any,
) -> AsyncIterator[Place]:
    """The API with these settings, until the block ends; with the keys of another, or its own."""
    if flags.get("auth_mode") == "jwt":
        assert isinstance(KEY.key, bytes)
        flags["auth_keys"] = [{"kid": KEY.kid, "alg": KEY.alg, "key": KEY.key.decode()}]
    settings = load(flags=flags).settings
    with tempfile.TemporaryDirectory() as data:
        async with _serving(database_url, settings, keys or OwnKeys(Path(data)), store, wrap, verbs) as place:
            yield place


@asynccontextmanager
async def _serving(
    database_url: str,
    settings: Settings,
    keys: OwnKeys,
    store: Store | None,
    wrap: Callable[[Services], Services],
    verbs: Verbs | None,
) -> AsyncIterator[Place]:
    async with create_pool(database_url) as pool:

        def committed(batch: list[Recorded]) -> None:
            accounts.revocations.take(batch)
            runner.wake(batch[-1].position)
            seeking.wake(batch[-1].position)

        log = Log(lambda: connect(database_url), InlineProjections(), committed)
        reader = Reader(pool, log.names)
        runner = Runner(lambda: connect(database_url), reader, ASYNCHRONOUS)
        seeking = Runner(lambda: connect(database_url), reader, LEISURELY, rest=0.1)
        marks: list[tuple[str, int, int]] = []
        reading = reads.Reads(
            pool,
            reader,
            log,
            runner.reached,
            frozenset(settings.live_room_types),
            settings.presence_room_members_max,
            searched=seeking.reached if settings.search else None,
            marked=lambda *mark: marks.append(mark),
        )
        nodes: list[AliveNode] = []
        checks = {"database": "ok", "log": "ok", "tail": "ok"}
        pushed: list[Ephemeral] = []

        async def alive() -> list[AliveNode]:
            return nodes

        async def ready() -> dict[str, str]:
            return checks

        def push_ephemeral(message: Ephemeral) -> int:
            pushed.append(message)
            return 0

        accounts = Accounts(settings, log, pool, nodes=alive, keys=keys)
        await accounts.begin()
        services = Services(
            means=Means(
                settings=settings,
                reads=reading,
                push_ephemeral=push_ephemeral,
                sends=Paces(settings.user_sends_per_s, settings.user_sends_burst),
                signals=Paces(settings.user_signals_per_s, settings.user_signals_burst),
                accounts=accounts,
                attachments=kept_in(settings, store or folder(settings), b"a key that only the tests know of"),
            ),
            nodes=alive,
            ready=ready,
            metrics=registry(lambda: {0: {"log_appended_total": log.appended}}),
            ws_url=lambda: "ws://127.0.0.1:3102/ws",
        )
        app = make_app(wrap(services), verbs)
        # As the server does it; aiohttp's own TestServer cancels handlers whose client is gone.
        served = Door(app, access_log=None, keepalive_timeout=15, handle_signals=False, shutdown_timeout=1)
        tasks = [
            asyncio.create_task(log.run()),
            asyncio.create_task(runner.run()),
            asyncio.create_task(seeking.run()),
            asyncio.create_task(accounts.run(follows=True, sweeps=False)),
        ]
        await served.setup()
        await web.TCPSite(served, "127.0.0.1", 0).start()
        host, port = served.addresses[0][:2]
        try:
            async with ClientSession(auto_decompress=False) as session:
                yield Place(
                    URL.build(scheme="http", host=host, port=port),
                    settings,
                    session,
                    pool,
                    log,
                    reading,
                    app,
                    nodes,
                    checks,
                    pushed,
                    accounts,
                    keys,
                    tasks,
                    marks,
                )
        finally:
            await served.cleanup()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await accounts.close()
