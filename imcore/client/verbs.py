"""The verbs, typed: `await im.rooms.create(…)`, over a connection and over HTTP. Written by scripts/write-client; edit that.

From the one definition in imcore.verbs. Answers are read leniently: what an older client does not know is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from imcore.client.calls import Calls, Subject, Verb

VERBS: Final[Mapping[str, Verb]] = {
    verb.name: verb for verb in (Verb("server.show", "GET", "/v1/server", is_open=True),)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may be at most; see docs/configuration.md for each."""

    text_body_bytes: int
    http_body_bytes: int
    page_rows: int
    rooms_per_session: int
    rooms_per_user: int
    connections_per_user: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Limits:
        """From its JSON."""
        return cls(
            text_body_bytes=told["text_body_bytes"],
            http_body_bytes=told["http_body_bytes"],
            page_rows=told["page_rows"],
            rooms_per_session=told["rooms_per_session"],
            rooms_per_user=told["rooms_per_user"],
            connections_per_user=told["connections_per_user"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """This server."""

    name: str = "imcore"
    version: str
    # how it knows who somebody is: open, jwt, …
    auth_mode: str
    # types of rooms that have no members, only sessions in them
    live_room_types: Sequence[str]
    heartbeat_s: float
    limits: Limits
    # milliseconds since 1970
    time: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Server:
        """From its JSON."""
        return cls(
            name=told.get("name", "imcore"),
            version=told["version"],
            auth_mode=told["auth_mode"],
            live_room_types=told["live_room_types"],
            heartbeat_s=told["heartbeat_s"],
            limits=Limits.of(told["limits"]),
            time=told["time"],
        )


class ServerVerbs(Subject):
    """The verbs of server."""

    __slots__ = ()

    async def show(self) -> Server:
        """What this server is: version, mode of authentication, limits, and its clock."""
        return Server.of(await self._calls.perform(VERBS["server.show"], {}))


class Subjects(Calls):
    """Every verb, by subject, over whatever carries calls."""

    @property
    def server(self) -> ServerVerbs:
        """The verbs of server."""
        return ServerVerbs(self)
