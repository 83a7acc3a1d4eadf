"""What this server is, for clients that meet it: its version, how it knows people, and its limits."""

from __future__ import annotations

import time
from typing import Final, Literal

from pydantic import Field

from imcore import __version__
from imcore.protocol.packet import PAGE_ROWS_MAX
from imcore.verbs.means import Means
from imcore.verbs.verb import Answer, AnyVerb, Caller, Millis, Nothing, verb


class Limits(Answer):
    """What a request may be at most; see docs/configuration.md for each."""

    text_body_bytes: int
    http_body_bytes: int
    page_rows: int
    rooms_per_session: int
    rooms_per_user: int
    connections_per_user: int


class Server(Answer):
    """This server."""

    name: Literal["imcore"] = "imcore"
    version: str
    auth_mode: str = Field(description="how it knows who somebody is: open, jwt, …")
    live_room_types: list[str] = Field(description="types of rooms that have no members, only sessions in them")
    heartbeat_s: float
    limits: Limits
    time: Millis


@verb("server.show", "GET", "/v1/server", answer=Server, is_open=True)
async def show(caller: Caller, means: Means, args: Nothing) -> Server:
    """What this server is: version, mode of authentication, limits, and its clock."""
    settings = means.settings
    return Server(
        name="imcore",
        version=__version__,
        auth_mode=settings.auth_mode,
        live_room_types=list(settings.live_room_types),
        heartbeat_s=settings.heartbeat_s,
        limits=Limits(
            text_body_bytes=settings.text_body_bytes_max,
            http_body_bytes=settings.http_body_bytes_max,
            page_rows=PAGE_ROWS_MAX,
            rooms_per_session=settings.rooms_per_session_max,
            rooms_per_user=settings.rooms_per_user_max,
            connections_per_user=settings.connections_per_user_max,
        ),
        time=int(time.time() * 1000),
    )


VERBS: Final[tuple[AnyVerb, ...]] = (show,)
