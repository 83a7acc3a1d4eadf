"""A person's own view: the connections that are open, the inbox, and how far it has read."""

from __future__ import annotations

from aiohttp import web
from pydantic import Field

from imcore import reads
from imcore.api.asking import (
    Body,
    Query,
    answer,
    check_text,
    identity,
    integer,
    person,
    read_body,
    refuse_live,
    room_of,
    services,
)
from imcore.errors import BadRequest, Forbidden
from imcore.projections import queries
from imcore.protocol.packet import INT64_MAX, INT64_MIN, PAGE_ROWS_MAX, ROOM_BYTES_MAX
from imcore.protocol.requests import INBOX_ROWS


class ReadUpTo(Body):
    """The body of PUT …/read."""

    seq: int = Field(ge=0, le=INT64_MAX)


def add_routes(app: web.Application) -> None:
    """Put these routes into the application."""
    app.router.add_get("/v1/sessions", sessions)
    app.router.add_get("/v1/inbox", inbox)
    app.router.add_put(r"/v1/rooms/{type:[^/]+}/{name:[^/]+}/read", mark_read)


async def sessions(request: web.Request) -> web.Response:
    """Who is online, and where: of the people that a service names, or one's own."""
    named = Query(request, repeated=("mid",)).texts("mid")
    mids = list(dict.fromkeys(integer("mid", one) for one in named))
    if len(mids) > PAGE_ROWS_MAX:
        raise BadRequest(f"more than {PAGE_ROWS_MAX} people")
    if not mids:
        mids = [person(request, None)]
    elif not identity(request).service and mids != [identity(request).mid]:
        raise Forbidden("a person sees its own sessions only")
    found = await queries.sessions_of(services(request).pool, mids)
    return answer(
        {
            "sessions": [
                {
                    "mid": mid,
                    "key": one.key,
                    "platform": one.platform,
                    "rooms": one.rooms,
                    "node": one.node,
                    "address": one.address,
                    "opened_at_ms": int(one.opened_at.timestamp() * 1000),
                }
                for mid in mids
                for one in found[mid]
            ]
        }
    )


async def inbox(request: web.Request) -> web.Response:
    """A page of the rooms that the person is in, with what is unread."""
    query = Query(request)
    mid = person(request, query.integer("mid", INT64_MIN, INT64_MAX))
    after = check_text("after", query.text("after") or "", ROOM_BYTES_MAX)
    return answer(await reads.inbox(services(request).reads, mid, after=after, limit=query.limit(INBOX_ROWS)))


async def mark_read(request: web.Request) -> web.Response:
    """Move one's read mark on. Nobody reads for somebody else."""
    room = room_of(request)
    if identity(request).service:
        raise Forbidden("a person marks what it has read itself")
    refuse_live(request, room)
    body = await read_body(request, ReadUpTo)
    return answer(await reads.mark_read(services(request).reads, room, identity(request).mid, body.seq))
