"""Rooms and who is in them. Persons act by their rank in the room; services for anybody.

Live rooms are not made and have no members: connections enter them.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from aiohttp import web
from pydantic import Field

from imcore import commands, reads
from imcore.api.asking import (
    Body,
    Query,
    answer,
    check_text,
    identity,
    is_live,
    may_create,
    mid_of,
    person,
    read_body,
    refuse_live,
    room_of,
    services,
)
from imcore.errors import BadRequest, Forbidden, NoSuchRoom
from imcore.events.store import Decision
from imcore.events.types import ROOM, Recorded, Role
from imcore.projections import queries
from imcore.projections.members import Member
from imcore.protocol.packet import INT64_MAX, INT64_MIN, check_room
from imcore.protocol.requests import MEMBERS_ROWS

NEW_MEMBERS_MAX: Final = 1_000
TITLE_BYTES_MAX: Final = 256

Mid = Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX)]  # guests have negative ones


class NewRoom(Body):
    """The body of POST /v1/rooms."""

    room: str
    public: bool = True
    history: Literal["joined", "all"] = "joined"
    title: str = ""
    members: list[Mid] = Field(default=[], max_length=NEW_MEMBERS_MAX)


class Somebody(Body):
    """For whom; a person may leave it out."""

    mid: Mid | None = None


class NewMember(Body):
    """The body of POST …/members."""

    mid: Mid
    role: Role = "member"


class NewRole(Body):
    """The body of PUT …/role."""

    role: Role


class NewMute(Body):
    """The body of PUT …/mute; 0 ends it."""

    until_ms: int = Field(ge=0, le=INT64_MAX)


def add_routes(app: web.Application) -> None:
    """Put these routes into the application."""
    room = r"/v1/rooms/{type:[^/]+}/{name:[^/]+}"
    member = room + r"/members/{mid:[^/]+}"
    app.router.add_post("/v1/rooms", create)
    app.router.add_get(room, show)
    app.router.add_get(room + "/members", members)
    app.router.add_post(room + "/members", add_member)
    app.router.add_delete(member, remove_member)
    app.router.add_put(member + "/role", set_role)
    app.router.add_put(member + "/mute", mute)
    app.router.add_post(room + "/join", join)
    app.router.add_post(room + "/leave", leave)


async def create(request: web.Request) -> web.Response:
    """Make a room: whoever makes it owns it; a service makes rooms without an owner."""
    body = await read_body(request, NewRoom)
    room = check_room(body.room)
    refuse_live(request, room)
    if not identity(request).may_enter(room) or not may_create(request, room):
        raise Forbidden("this room is not yours to make")
    if 0 in body.members:
        raise BadRequest("members: 0 is the service, and nobody's member id")
    made = await services(request).log.decide(
        commands.CreateRoom(
            room,
            identity(request).mid,
            public=body.public,
            history=body.history,
            title=check_text("title", body.title, TITLE_BYTES_MAX),
            members=body.members,
        )
    )
    return answer({"room": room, "position": made[-1].position, "seq": made[-1].seq}, 201)


async def show(request: web.Request) -> web.Response:
    """What a room is: to members, to services, and if it is public to whoever may enter."""
    Query(request)
    room, who = room_of(request), identity(request)
    pool = services(request).pool
    if is_live(request, room):
        online = (await queries.online_rooms(pool, [room]))[room]
        head = (await services(request).reads.reader.stream_head(ROOM + room)).seq
        return answer({"room": room, "live": True, "public": True, "history": "all", "head": head, "online": online})
    found = await queries.room(pool, room)
    membership = None if found is None or who.service else await queries.member(pool, room, who.mid)
    if found is None or not (found.public or who.service or membership):
        raise NoSuchRoom
    told: dict[str, object] = {
        "room": room,
        "live": False,
        "public": found.public,
        "history": found.history,
        "title": found.title,
        "members": found.members,
        "created": found.created,
        "creator": found.creator,
        "head": (await services(request).reads.reader.stream_head(ROOM + room)).seq,
    }
    if membership is not None:
        told["me"] = membership._asdict()
    return answer(told)


async def members(request: web.Request) -> web.Response:
    """A page of the members."""
    room, query = room_of(request), Query(request)
    refuse_live(request, room)
    after, limit = query.integer("after", INT64_MIN, INT64_MAX), query.limit(MEMBERS_ROWS)
    return answer(await reads.members(services(request).reads, room, identity(request).mid, after=after, limit=limit))


async def add_member(request: web.Request) -> web.Response:
    """Bring somebody in."""
    room, body = room_of(request), await read_body(request, NewMember)
    adding = commands.AddMember(room, _somebody(body.mid), identity(request).mid, role=body.role)
    return _joined(await _decided(request, room, adding), adding.existing)


async def remove_member(request: web.Request) -> web.Response:
    """Kick somebody out."""
    room = room_of(request)
    removing = commands.RemoveMember(room, _somebody(mid_of(request)), identity(request).mid)
    return _changed(await _decided(request, room, removing))


async def set_role(request: web.Request) -> web.Response:
    """Change what somebody may do."""
    room, mid = room_of(request), mid_of(request)
    role = (await read_body(request, NewRole)).role
    return _changed(await _decided(request, room, commands.SetRole(room, _somebody(mid), identity(request).mid, role)))


async def mute(request: web.Request) -> web.Response:
    """Keep somebody from sending for a while."""
    room, mid = room_of(request), mid_of(request)
    until_ms = (await read_body(request, NewMute)).until_ms
    return _changed(await _decided(request, room, commands.Mute(room, _somebody(mid), identity(request).mid, until_ms)))


async def join(request: web.Request) -> web.Response:
    """Come in by oneself."""
    room = room_of(request)
    mid = _somebody(person(request, (await read_body(request, Somebody)).mid))
    await services(request).doors.allow("join", identity(request), room)
    joining = commands.Join(room, mid, may_create=may_create(request, room))
    return _joined(await _decided(request, room, joining), joining.existing)


async def leave(request: web.Request) -> web.Response:
    """Go out by oneself."""
    room = room_of(request)
    mid = _somebody(person(request, (await read_body(request, Somebody)).mid))
    return _changed(await _decided(request, room, commands.Leave(room, mid)))


def _somebody(mid: int) -> int:
    if mid == 0:
        raise BadRequest("mid: 0 is the service, and nobody's member id")
    return mid


async def _decided(request: web.Request, room: str, decision: Decision) -> list[Recorded]:
    refuse_live(request, room)
    return await services(request).log.decide(decision)


def _joined(events: list[Recorded], existing: Member | None) -> web.Response:
    if events:
        return answer({"position": events[-1].position, "seq": events[-1].seq}, 201)
    assert existing is not None, "no event means that there was a membership"
    return answer({"position": existing.since, "seq": existing.since_seq, "duplicate": True})


def _changed(events: list[Recorded]) -> web.Response:
    if events:
        return answer({"position": events[-1].position, "seq": events[-1].seq})
    return answer({"unchanged": True})
