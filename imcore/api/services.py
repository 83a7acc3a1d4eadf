"""What the handlers work with; the process that serves them puts it together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry

from imcore.auth import Authenticate, Identity
from imcore.config import Settings
from imcore.events.names import Pool
from imcore.events.store import Log
from imcore.nodes import AliveNode
from imcore.paces import Paces
from imcore.reads import Reads


class PushEphemeral(Protocol):
    """Gives a message to connected sessions without storing it, at once; returns how many got it. It may be lost."""

    def __call__(
        self,
        op: int,
        payload: bytes,
        *,
        room: str | None = None,
        mids: tuple[int, ...] = (),
        keys: tuple[str, ...] = (),
        everybody: bool = False,
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a handler may call.

    `nodes` lists the comets that are alive. `ready` says of each check "ok" or what is wrong, and must not raise. `ws_url` is where
    the page connects, such as ws://127.0.0.1:3102/ws. `sends` is the pace of each person's messages in this
    process, whichever door they come in by.
    """

    settings: Settings
    reads: Reads
    authenticate: Authenticate
    nodes: Callable[[], Awaitable[Sequence[AliveNode]]]
    push_ephemeral: PushEphemeral
    ready: Callable[[], Awaitable[Mapping[str, str]]]
    metrics: CollectorRegistry
    ws_url: str
    sends: Paces[int]

    @property
    def log(self) -> Log:
        """The appender."""
        return self.reads.log

    @property
    def pool(self) -> Pool:
        """Connections to read with."""
        return self.reads.pool


SERVICES: Final = web.AppKey("services", Services)
IDENTITY: Final = web.RequestKey("identity", Identity)
ADDRESS: Final = web.RequestKey("address", str)
