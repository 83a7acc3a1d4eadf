"""Messages to a room and from it, over HTTP: the same send and the same history as a connection's.

A send is stored when it is answered, and stored once: the same id again gets the first answer, marked as a duplicate.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import orjson
from aiohttp import web
from pydantic import Field

from imcore import commands, reads
from imcore.api.asking import Body, Query, answer, identity, is_live, read_body, room_of, services
from imcore.errors import BadRequest, Forbidden, ImcoreError, NoSuchRoom, RateLimited, TooLarge
from imcore.events.store import Draft, Log, Outcome
from imcore.events.types import SERVICE_MID, Recorded
from imcore.projections import queries
from imcore.protocol.packet import INT32_MAX, INT64_MAX, INT64_MIN, PUSH_OP_MIN
from imcore.protocol.requests import HISTORY_ROWS

UUID: Final = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"


class NewMessage(Body):
    """The body of POST …/messages. `body` is any JSON."""

    id: Annotated[str, Field(pattern=UUID)]
    body: object
    op: int = Field(default=PUSH_OP_MIN, ge=PUSH_OP_MIN, le=INT32_MAX)
    mid: Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX)] | None = None


def add_routes(app: web.Application) -> None:
    """Put these routes into the application."""
    messages = r"/v1/rooms/{type:[^/]+}/{name:[^/]+}/messages"
    app.router.add_post(messages, send)
    app.router.add_get(messages, history)


async def send(request: web.Request) -> web.Response:
    """Store and deliver a message: as whoever asks, or for a service as the member it names, or in its own name."""
    room, who, have = room_of(request), identity(request), services(request)
    message = await read_body(request, NewMessage)
    if message.mid is not None and not who.service and message.mid != who.mid:
        raise Forbidden("a person sends for nobody else")
    mid = who.mid if message.mid is None else message.mid
    if who.ops is not None and message.op not in who.ops:
        raise Forbidden(f"operation {message.op} is not allowed to you")
    text = orjson.dumps(message.body)
    if len(text) > have.settings.text_body_bytes_max:
        raise TooLarge(f"body is {len(text)} bytes long, and {have.settings.text_body_bytes_max} is the limit")
    if have.settings.rate_limits and not who.service:
        wait_s = have.sends.take(mid, asyncio.get_running_loop().time())
        if wait_s:
            raise RateLimited("too many messages of this user", retry_after_ms=int(wait_s * 1000) + 1)
    await have.doors.allow("send", who, room)
    is_member = mid != SERVICE_MID and not is_live(request, room)
    if mid == SERVICE_MID and not is_live(request, room) and await queries.room(have.pool, room) is None:
        raise NoSuchRoom  # a room that is there stays, so nothing can come between
    draft = commands.send(room, mid, message.id.lower(), text.decode(), op=message.op, is_member=is_member)
    recorded, is_duplicate = await _stored(have.log, draft)
    place: dict[str, object] = {"position": recorded.position, "seq": recorded.seq}
    return answer({**place, "duplicate": True}) if is_duplicate else answer(place, 201)


async def history(request: web.Request) -> web.Response:
    """A page of the room's events."""
    room, query = room_of(request), Query(request)
    before, after = query.integer("before", 1, INT64_MAX), query.integer("after", 0, INT64_MAX)
    if before is not None and after is not None:
        raise BadRequest("before and after exclude each other")
    limit = query.limit(HISTORY_ROWS)
    mid = identity(request).mid
    return answer(await reads.history(services(request).reads, room, mid, before=before, after=after, limit=limit))


async def _stored(log: Log, draft: Draft) -> tuple[Recorded, bool]:
    """Where the message is, and whether it was there before."""
    future: asyncio.Future[tuple[Recorded, bool]] = asyncio.get_running_loop().create_future()

    def done(draft: Draft, outcome: Outcome, duplicate: bool) -> None:
        if future.done():
            return
        if isinstance(outcome, ImcoreError):
            future.set_exception(outcome)
        else:
            future.set_result((outcome, duplicate))

    draft.done = done
    log.submit(draft)
    return await future
