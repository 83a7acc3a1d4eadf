"""Who is online: of people with whom one shares a direct or a small room, as each of them chose; and how many are in a room.

Whoever may not be seen looks like somebody who was never there: strangers, those who hide, ids that nobody has. Services,
moderators and admins see everybody; where that says more to a moderator or an admin than anybody else in its place would be told, it is
in the audit before it is answered. docs/presence.md has the rules and what each of these costs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Final

from pydantic import Field

from imcore import membership, reads
from imcore.errors import Forbidden, NoSuchRoom, Overloaded, Unavailable
from imcore.events.types import VisibleTo
from imcore.permissions import SEE_EVERYBODY, Standing, person, table
from imcore.projections import queries
from imcore.protocol.packet import PAGE_ROWS_MAX
from imcore.verbs.acting import as_now, changed, decided
from imcore.verbs.means import Means
from imcore.verbs.verb import Answer, AnyVerb, Args, Caller, Empty, Mid, Millis, Place, Room, verb

WATCH_MIDS_MAX: Final = 10_000  # of one request; a setting says how many there may be in all


class Device(Answer):
    """One device that is connected. `key` is told of one's own devices, to services, and to moderators and admins of whom they could
    not see as anybody."""

    platform: str
    since: Millis
    key: str = ""


class Presence(Answer):
    """Whether somebody is online. `last_seen` is when it was last heard of, of somebody who is not; null: not known, or not for you."""

    mid: Mid
    online: bool
    platforms: list[str] = Field(description="on which it is online, each once")
    devices: list[Device]
    last_seen: Millis | None


class People(Answer):
    """The people that were asked for, in that order."""

    people: list[Presence]


class Who(Args):
    """Whom it is about; nobody named is oneself."""

    mid: list[Mid] = Field(default_factory=list, max_length=PAGE_ROWS_MAX)


@verb("presence.of", "GET", "/v1/presence", answer=People)
async def of(caller: Caller, means: Means, args: Who) -> People:
    """Who of these people is online, on which devices, and when the others were last seen.

    Of oneself, and of people with whom one shares a direct room or a room with few members (`presence_room_members_max`), if they let
    one. Everybody else looks like somebody who was never there; not so to services, nor to moderators and admins, which is audited. A
    second behind the truth at most, as a rule some milliseconds.
    """
    mids = list(dict.fromkeys(args.mid)) or [caller.mid]
    shown, more = await _visible(caller, means, "presence.of", mids)
    devices = await queries.devices(means.pool, [*shown, *more])
    seen = await queries.seen(means.pool, [mid for mid, of_one in devices.items() if not of_one])
    return People(
        people=[
            _presence(mid, devices.get(mid, ()), seen.get(mid), shows_keys=mid == caller.mid or mid in more)
            for mid in mids
        ]
    )


class RoomPresence(Answer):
    """Who of a room is online. `online` counts people; in a live room, which has no members, the connections in it. `people` are
    they, in rooms with few members; null in others."""

    online: int
    people: list[Presence] | None


class InRoom(Args):
    """A room."""

    room: Room


@verb("presence.room", "GET", "/v1/rooms/{room}/presence", answer=RoomPresence, errors=(NoSuchRoom, Forbidden))
async def of_room(caller: Caller, means: Means, args: InRoom) -> RoomPresence:
    """How many people of a room are online, and in rooms with few members (`presence_room_members_max`) who.

    For members; of a live room for who is in it. People who hide from you are not counted; in large rooms nobody is who does not let
    everybody see them. Services, moderators and admins see them, which is audited of the latter.
    """
    room, actor = args.room, caller.identity.actor
    if means.is_live(room):
        return RoomPresence(online=await _in_live_room(caller, means, room), people=None)
    found = await reads.check(means.reads, "presence.room", room, actor)
    sees_all = actor.role in SEE_EVERYBODY
    as_anybody = reads.is_shown_as_anybody(actor, found)  # unless it is shown more, and that is audited
    if found.room.members > means.settings.presence_room_members_max:
        online = await queries.room_online(means.pool, room, sees_all=sees_all)
        if as_anybody:
            fewer = await queries.room_online(means.pool, room, sees_all=False)
            if online <= fewer or not await reads.sees_more(means.reads, "presence.room", actor, (), room):
                online = fewer
        return RoomPresence(online=online, people=None)
    devices = await queries.room_devices(means.pool, room, caller.mid, sees_all=sees_all)
    shown: Collection[int] = () if sees_all else devices
    if as_anybody:
        theirs = await queries.room_devices(means.pool, room, caller.mid, sees_all=False)
        shown, hidden = theirs, [mid for mid in devices if mid not in theirs]
        if not hidden or not await reads.sees_more(means.reads, "presence.room", actor, hidden, room):
            devices = theirs
    people = [
        _presence(mid, of_one, None, shows_keys=mid == caller.mid or mid not in shown)
        for mid, of_one in devices.items()
    ]
    return RoomPresence(online=len(people), people=people)


class Choice(Args):
    """Who may see you, of those who may at all: everybody, contacts (in a direct room that you opened or wrote in), nobody."""

    visible_to: VisibleTo


@verb("presence.show", "PUT", "/v1/presence", answer=Place)
async def show(caller: Caller, means: Means, args: Choice) -> Place:
    """Choose who may see whether you are online: everybody with whom you share a small or a direct room, contacts only, or nobody.

    A direct room counts when you opened it or wrote in it: that somebody opened one with you tells them nothing of you.
    In force at once, for those who watch you too: to whom you hide you look as if you had gone offline. Your own devices are told by
    the event `visibility_chosen`. Choosing the same again changes nothing.
    """
    choosing = membership.ChooseVisibility(args.visible_to, caller.identity.actor, key=caller.key)
    return changed(await decided(caller, means, choosing))


class State(Answer):
    """Whether somebody is online, and on which platforms."""

    mid: Mid
    online: bool
    platforms: list[str]


class States(Answer):
    """How the people are at this moment; what changes from here on is pushed."""

    people: list[State]


class Watched(Args):
    """Whom to watch."""

    mids: Annotated[list[Mid], Field(min_length=1, max_length=WATCH_MIDS_MAX)]


@verb(
    "presence.watch",
    "POST",
    "/v1/presence/watch",
    answer=States,
    errors=(Overloaded, Unavailable),
    doors=("connection",),
)
async def watch(caller: Caller, means: Means, args: Watched) -> States:
    """Be told when one of these people comes online or goes, or changes platforms, for as long as this connection is open.

    The answer says how they are now. Changes come as events of type `presence` at position 0, never stored; who is back within some
    seconds was never away. People whom you may not see look offline, until the day on which you may see them; not so to moderators
    and admins, which is audited. At most `presence_watched_max` people a connection; after a reconnect ask again.
    """
    assert caller.connection is not None, "this verb is for connections only"
    mids, sees_all = list(dict.fromkeys(args.mids)), False
    if caller.identity.role in SEE_EVERYBODY:
        _, more = await _visible(caller, means, "presence.watch", mids)
        # Whom it may see as anybody it goes on seeing if that changes: the end of the privilege ends the connection.
        sees_all = bool(more) or (await as_now(caller, means)).role in SEE_EVERYBODY
    states = await caller.connection.watch(mids, sees_all=sees_all)
    return States(
        people=[State(mid=mid, online=bool(platforms), platforms=list(platforms)) for mid, platforms in states]
    )


class Unwatched(Args):
    """Whom to watch no more; nobody named is everybody."""

    mids: list[Mid] = Field(default_factory=list, max_length=WATCH_MIDS_MAX)


@verb("presence.unwatch", "DELETE", "/v1/presence/watch", answer=Empty, doors=("connection",))
async def unwatch(caller: Caller, means: Means, args: Unwatched) -> Empty:
    """Be told of these people no more; of nobody, if none are named. Those that were not watched are no error."""
    assert caller.connection is not None, "this verb is for connections only"
    caller.connection.unwatch(args.mids or None)
    return Empty()


async def _visible(
    caller: Caller, means: Means, operation: str, mids: Sequence[int]
) -> tuple[Collection[int], Collection[int]]:
    """Those of these people whom the caller may see as anybody, and those whom it may see besides by what it is on the platform: of
    moderators and admins that is in the audit now."""
    actor = caller.identity.actor
    if actor.role == "service":
        return (), dict.fromkeys(mids)
    pairs = [(caller.mid, mid) for mid in mids if mid != caller.mid]
    sights = await queries.sights(means.pool, pairs, means.settings.presence_room_members_max)
    shown = {mid for mid in mids if mid == caller.mid or sights.get((caller.mid, mid), False)}
    if actor.role not in SEE_EVERYBODY or len(shown) == len(mids):
        return shown, ()
    hidden = dict.fromkeys(mid for mid in mids if mid not in shown)
    return shown, hidden if await reads.sees_more(means.reads, operation, actor, [*hidden]) else ()


async def _in_live_room(caller: Caller, means: Means, room: str) -> int:
    """Connections in it. Over a connection it is known in memory; else the rows are asked."""
    if caller.connection is not None:
        here = caller.connection.online(room)
        if here is not None:
            return here
    actor = caller.identity.actor
    if actor.role != "service":
        standing = await _standing_in_live(caller, means, room)
        if actor.role in SEE_EVERYBODY:
            # Who looks by a privilege has it still, and that is audited; else it is told what anybody would be.
            if standing == "member" or not await reads.sees_more(means.reads, "presence.room", actor, (), room):
                table().check("presence.room", person(actor.mid), standing)
        else:
            table().check("presence.room", actor, standing)
    return (await queries.online_rooms(means.pool, [room]))[room]


async def _standing_in_live(caller: Caller, means: Means, room: str) -> Standing:
    own = (await queries.sessions_of(means.pool, [caller.mid]))[caller.mid]
    return "member" if any(room in session.rooms for session in own) else "stranger"


def _presence(mid: int, devices: Sequence[queries.Device], last_seen_ms: int | None, *, shows_keys: bool) -> Presence:
    return Presence(
        mid=mid,
        online=bool(devices),
        platforms=sorted({device.platform for device in devices}),
        devices=[
            Device(platform=one.platform, since=one.since_ms, key=one.key)
            if shows_keys
            else Device(platform=one.platform, since=one.since_ms)
            for one in devices
        ],
        last_seen=last_seen_ms,
    )


VERBS: Final[tuple[AnyVerb, ...]] = (of, of_room, show, watch, unwatch)
