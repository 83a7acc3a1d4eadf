"""Pins: the messages that a room shows first."""

from __future__ import annotations

from typing import Final

from imcore import reacting, reads
from imcore.errors import BadRequest, Forbidden, NoSuchMessage, NoSuchRoom
from imcore.verbs.means import Means
from imcore.verbs.reactions import about_message
from imcore.verbs.verb import Answer, AnyVerb, Args, Caller, Mid, Millis, Place, Position, Room, Seq, verb

# The pins of a room from a seq on, the newest first. There are never more than reacting.PINS_MAX.
PINS: Final = "SELECT seq, position, by, time_ms FROM pins WHERE room = $1 AND seq >= $2 ORDER BY position DESC"


class OnePin(Args):
    """A message."""

    room: Room
    seq: Seq


class Pins(Args):
    """A room."""

    room: Room


class Pinned(Answer):
    """A message that is pinned: by whom, since when."""

    seq: Seq
    by: Mid
    position: Position
    time: Millis


class PinsPage(Answer):
    """All of them, the newest pin first."""

    room: str
    pins: list[Pinned]


@verb("pins.add", "PUT", "/v1/rooms/{room}/pins/{seq}", answer=Place, errors=(NoSuchRoom, NoSuchMessage, Forbidden))
async def add(caller: Caller, means: Means, args: OnePin) -> Place:
    """Pin a message.

    Pinning it again is `unchanged`. A room has at most 100 pins.
    """
    return await _pin(caller, means, args, adds=True)


@verb(
    "pins.remove", "DELETE", "/v1/rooms/{room}/pins/{seq}", answer=Place, errors=(NoSuchRoom, NoSuchMessage, Forbidden)
)
async def remove(caller: Caller, means: Means, args: OnePin) -> Place:
    """Unpin a message, whoever pinned it.

    `unchanged` if it was not pinned.
    """
    return await _pin(caller, means, args, adds=False)


@verb("pins.list", "GET", "/v1/rooms/{room}/pins", answer=PinsPage, errors=(NoSuchRoom,))
async def list_(caller: Caller, means: Means, args: Pins) -> PinsPage:
    """The pinned messages of a room, as far as you see them."""
    sight = await reads.sight(means.reads, "pins.list", args.room, caller.identity.actor)
    rows = await means.pool.fetch(PINS, args.room, sight.first)
    return PinsPage(
        room=args.room,
        pins=[Pinned(seq=seq, position=position, by=by, time=time_ms) for seq, position, by, time_ms in rows],
    )


async def _pin(caller: Caller, means: Means, args: OnePin, *, adds: bool) -> Place:
    if means.is_live(args.room):
        raise BadRequest("a room of this type has no members")
    pinning = reacting.Pin(args.room, args.seq, caller.identity.actor, adds=adds)
    return await about_message(caller, means, args.room, args.seq, pinning)


VERBS: Final[tuple[AnyVerb, ...]] = (add, remove, list_)
