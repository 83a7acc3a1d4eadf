"""Signals: what the others in a room may know for a moment, and nobody later. "Is typing" is one; applications have their own.

They are never stored, may be lost, and are the first thing that a server under load leaves out: a connection that has not taken
everything it was given is passed over, in rooms with more than `signals_room_members_max` members nobody gets them, and each person has
a pace for them that is not that of messages. Whoever is not in the room when a signal is given does not get it, on whatever comet.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Final

import orjson
from pydantic import Field, JsonValue

from imcore import reads
from imcore.bus.postgres import Ephemeral
from imcore.errors import Forbidden, Muted, NoSuchRoom, RateLimited, TooLarge
from imcore.events.types import SIGNAL, TYPING
from imcore.permissions import table
from imcore.projections import inline
from imcore.projections.restrictions import Restriction
from imcore.verbs.means import Means
from imcore.verbs.verb import AnyVerb, Args, Caller, Empty, Room, verb

SIGNAL_BYTES_MAX: Final = 1_024
SIGNAL_NAME_CHARACTERS_MAX: Final = 32


class Typing(Args):
    """Where, and whether it begins or ends."""

    room: Room
    typing: bool = Field(default=True, description="false: not any more")


@verb(
    "rooms.typing",
    "POST",
    "/v1/rooms/{room}/typing",
    answer=Empty,
    errors=(NoSuchRoom, Muted, Forbidden, RateLimited),
    is_passing=True,
)
async def typing(caller: Caller, means: Means, args: Typing) -> Empty:
    """Tell the others in the room that you are typing, or not any more: an event of type `typing` at position 0, never stored.

    Every few seconds while it goes on is right; whoever hears nothing for longer than that takes it as over. Not to the connection that
    says it. In rooms with many members (`signals_room_members_max`) nobody is told, and the answer is the same.
    """
    await _signal(caller, means, "rooms.typing", args.room, TYPING, orjson.dumps({"typing": args.typing}))
    return Empty()


class Signal(Args):
    """A signal of the application's own."""

    room: Room
    type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=SIGNAL_NAME_CHARACTERS_MAX)]
    body: JsonValue = None


@verb(
    "rooms.signal",
    "POST",
    "/v1/rooms/{room}/signals",
    answer=Empty,
    errors=(NoSuchRoom, Muted, Forbidden, RateLimited, TooLarge),
    is_passing=True,
)
async def signal(caller: Caller, means: Means, args: Signal) -> Empty:
    """Tell the others in the room something that is never stored: an event of type `signal:<type>` at position 0, with your body.

    The body is JSON of at most 1,024 bytes. As with `rooms.typing` it may be lost, and in rooms with many members nobody is told.
    """
    body = orjson.dumps(args.body)
    if len(body) > SIGNAL_BYTES_MAX:
        raise TooLarge(f"body is {len(body)} bytes long, and {SIGNAL_BYTES_MAX} is the limit of a signal")
    await _signal(caller, means, "rooms.signal", args.room, SIGNAL + args.type, body)
    return Empty()


async def _signal(caller: Caller, means: Means, operation: str, room: str, type_: str, body: bytes) -> None:
    settings = means.settings
    if settings.rate_limits:
        wait_s = means.signals.take(caller.mid, asyncio.get_running_loop().time())
        if wait_s:
            raise RateLimited("too many signals of this user", retry_after_ms=int(wait_s * 1000) + 1)
    position = 0
    if means.is_live(room):
        # Only a connection is in such a room.
        here = None if caller.connection is None else caller.connection.online(room)
        table().check(operation, caller.identity.actor, "stranger" if here is None else "member")
        size = here or 0
    else:
        found = await reads.check(means.reads, operation, room, caller.identity.actor)
        # Who may not send says nothing by a signal either. (It is no message, so slow mode is not asked.)
        rules = Restriction(found.room.writers, found.room.muted_until_ms, dismissed=found.room.dismissed > 0)
        refused = inline.refusal(found.member, rules, None, time.time_ns() // 1_000_000)
        if refused is not None:
            raise refused
        size, position = found.room.members, found.head
    if size <= settings.signals_room_members_max:
        # Who is in the room each comet says itself, as the log was when the rows were read: this process may have appended nothing for
        # hours.
        means.push_ephemeral(
            Ephemeral(0, body, room=room, type=type_, mid=caller.mid, key=caller.key, position=position)
        )


VERBS: Final[tuple[AnyVerb, ...]] = (typing, signal)
