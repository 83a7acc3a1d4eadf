"""The connections that are open, of oneself or of whom a service asks for."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from imcore import commands, membership, reads
from imcore.errors import BadRequest, Forbidden, NoSuchRoom, TooManyRooms
from imcore.permissions import table
from imcore.projections import queries
from imcore.protocol.packet import PAGE_ROWS_MAX, check_room
from imcore.verbs.acting import acting, decided, write_down
from imcore.verbs.means import Means
from imcore.verbs.verb import Answer, AnyVerb, Args, Caller, Key, Line, Mid, Millis, Place, verb


class Whose(Args):
    """Whose sessions; a person may leave it out."""

    mid: list[Mid] = Field(default=[], max_length=PAGE_ROWS_MAX)


class SessionLine(Answer):
    """An open connection. `rooms` are the live rooms that it is in, and the room entered."""

    mid: int
    key: str
    platform: str
    rooms: list[str]
    node: str
    address: str
    opened_at_ms: Millis


class Sessions(Answer):
    """Open connections, in the order in which people were asked for."""

    sessions: list[SessionLine]


class Entering(Args):
    """The room that a connection is to enter; "" is none."""

    key: Key
    room: Line = Field(default="", description="a room, or nothing: then it only leaves the one that it has entered")
    mid: Mid | None = Field(default=None, description="whose connection it is; a person leaves it out")


@verb("sessions.list", "GET", "/v1/sessions", answer=Sessions, errors=(Forbidden,))
async def sessions(caller: Caller, means: Means, args: Whose) -> Sessions:
    """Who is online, and where: oneself, or the people that are named by who may ask for others."""
    mids = list(dict.fromkeys(args.mid)) or [acting(caller, None).mid]
    is_own = mids == [caller.mid]
    table().check("sessions.list", caller.identity.actor, is_own=is_own)
    if not is_own:  # devices and addresses of others
        await write_down(caller, means, "sessions.list", mids)
    found = await queries.sessions_of(means.pool, mids)
    return Sessions(
        sessions=[
            SessionLine(
                mid=mid,
                key=one.key,
                platform=one.platform,
                rooms=list(one.rooms),
                node=one.node,
                address=one.address,
                opened_at_ms=int(one.opened_at.timestamp() * 1000),
            )
            for mid in mids
            for one in found[mid]
        ]
    )


@verb("rooms.enter", "POST", "/v1/sessions/{key}/room", answer=Place, errors=(NoSuchRoom, Forbidden, TooManyRooms))
async def enter(caller: Caller, means: Means, args: Entering) -> Place:
    """Have one of one's connections leave the room that it has entered for another, as operation 12 over it would.

    Answered when its comet is told; the connection moves a moment later, and is told so by an event `room_switched`, which is not
    stored. A room with members is joined, if need be.
    """
    actor = acting(caller, args.mid)
    room = check_room(args.room) if args.room else ""
    if room and not caller.identity.may_enter(room):
        raise NoSuchRoom
    whose = actor.mid, args.key
    opened = (await queries.opened(means.pool, [actor.mid])).get(whose)
    if opened is None:  # the rows are a moment behind the log, which may have a connection that was opened just now
        await reads.follow(means.reads, (await means.reads.reader.head()).position)
        opened = (await queries.opened(means.pool, [actor.mid])).get(whose)
    if opened is None:
        raise BadRequest("there is no open connection of this key")
    if room:
        await means.accounts.doors.allow("join", caller.identity, room, caller.key)
    if room and not means.is_live(room):
        joining = membership.Join(room, actor, may_create=means.may_create(caller.identity, room), key=caller.key)
        await decided(caller, means, joining)
    recorded = await means.log.appending(commands.switch_room(actor.mid, args.key, opened, room))
    return Place(position=recorded.position, seq=recorded.seq)


VERBS: Final[tuple[AnyVerb, ...]] = (sessions, enter)
