"""What the handlers work with; the process that serves them puts it together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry

from imcore.accounts.doors import Doors
from imcore.auth import Identity
from imcore.config import Settings
from imcore.events.names import Pool
from imcore.events.store import Log
from imcore.nodes import AliveNode
from imcore.paces import Paces
from imcore.reads import Reads
from imcore.verbs.means import Means, PushEphemeral


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a handler may call.

    `means` is what verbs work with. `nodes` lists the comets that are alive. `ready` says of each check "ok" or what is wrong, and must
    not raise. `ws_url` says where the page connects, such as ws://127.0.0.1:3102/ws.
    """

    means: Means
    nodes: Callable[[], Awaitable[Sequence[AliveNode]]]
    ready: Callable[[], Awaitable[Mapping[str, str]]]
    metrics: CollectorRegistry
    ws_url: Callable[[], str]

    @property
    def settings(self) -> Settings:
        """As the process was started with."""
        return self.means.settings

    @property
    def doors(self) -> Doors:
        """Who somebody is."""
        return self.means.accounts.doors

    @property
    def reads(self) -> Reads:
        """What a person may read."""
        return self.means.reads

    @property
    def push_ephemeral(self) -> PushEphemeral:
        """To connected sessions, without storing it."""
        return self.means.push_ephemeral

    @property
    def sends(self) -> Paces[int]:
        """The pace of each person's messages."""
        return self.means.sends

    @property
    def log(self) -> Log:
        """The appender."""
        return self.reads.log

    @property
    def pool(self) -> Pool:
        """Connections to read with."""
        return self.reads.pool


SERVICES: Final = web.AppKey("services", Services)
CORS: Final = web.RequestKey("cors", dict[str, str])
IDENTITY: Final = web.RequestKey("identity", Identity)
ADDRESS: Final = web.RequestKey("address", str)
