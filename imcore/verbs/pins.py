"""Pins: the messages that a room shows first."""

from __future__ import annotations

from typing import Final

from imcore import reacting, reads
from imcore.errors import Forbidden, NoSuchMessage, NoSuchRoom
from imcore.verbs.acting import refuse_live
from imcore.verbs.means import Means
from imcore.verbs.messages import Envelope
from imcore.verbs.reactions import about_message
from imcore.verbs.verb import Answer, AnyVerb, Args, Caller, Limit, Mid, Millis, Place, Position, Room, Seq, verb

PAGE_ROWS: Final = reacting.PINS_MAX


class OnePin(Args):
    """A message."""

    room: Room
    seq: Seq


class PageOfPins(Args):
    """Which pins of a room: `after` is the position of a pin."""

    room: Room
    after: Position | None = None
    limit: Limit = PAGE_ROWS


class Pinned(Answer):
    """A message that is pinned: by whom, since when, and how it reads now (left out where the log does not hold it any more)."""

    seq: Seq
    by: Mid
    position: Position
    time: Millis
    message: Envelope | None = None


class PinsPage(Answer):
    """The newest pin first; with `next`, ask again with `after=next`."""

    room: str
    pins: list[Pinned]
    next: Position | None = None


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
async def list_(caller: Caller, means: Means, args: PageOfPins) -> bytes:
    """The pinned messages of a room, as far as you see them, with what they say now.

    The newest pin comes first. All of them are one page, if they are not more than 1 MiB.
    """
    refuse_live(means, args.room)
    return await reads.pins(means.reads, args.room, caller.identity.actor, after=args.after, limit=args.limit)


async def _pin(caller: Caller, means: Means, args: OnePin, *, adds: bool) -> Place:
    pinning = reacting.Pin(args.room, args.seq, caller.identity.actor, adds=adds)
    return await about_message(caller, means, args.room, args.seq, pinning)


VERBS: Final[tuple[AnyVerb, ...]] = (add, remove, list_)
