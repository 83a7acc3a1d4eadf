"""Two people: the conversation that is theirs alone, and whose messages and invitations one does not take."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from imcore import membership
from imcore.errors import Forbidden, TooManyRooms
from imcore.events.types import direct_room
from imcore.projections import queries
from imcore.protocol.requests import MEMBERS_ROWS
from imcore.verbs.acting import acting, changed, decided, joined, refuse_live, somebody
from imcore.verbs.means import Means
from imcore.verbs.verb import Answer, AnyVerb, Args, Caller, Limit, Mid, Millis, Other, Place, page, verb

Of = Field(default=None, description="for whom a service acts; a person leaves it out")


class With(Args):
    """The other person."""

    mid: Mid
    of: Mid | None = Of


class MyBlocks(Args):
    """A page of those whom one has blocked."""

    of: Mid | None = Of
    after: Mid | None = None
    limit: Limit = MEMBERS_ROWS


class Opened(Place):
    """The room of the two, and where one came into it."""

    room: str


class BlockedLine(Answer):
    """Somebody who is blocked."""

    mid: int
    at_ms: Millis


class Blocks(Answer):
    """A page of those who are blocked, in order of mid. `next`, if there is more, is the `after` of the next page."""

    blocks: list[BlockedLine]
    next: int = 0


@verb(
    "direct.open",
    "PUT",
    "/v1/direct/{mid}",
    answer=Opened,
    status=201,
    statuses=(200,),
    errors=(Forbidden, TooManyRooms),
)
async def open_direct(caller: Caller, means: Means, args: With) -> Opened | Other:
    """The direct conversation with somebody: one room for the two of them, whoever opens it, and however often."""
    actor, mid = acting(caller, args.of), somebody(args.mid)
    room = direct_room(actor.mid, mid)
    refuse_live(means, room)
    await means.accounts.doors.let_in(caller.identity, room, [actor.mid, mid], caller.key)
    opening = membership.OpenDirect(mid, actor, key=caller.key)
    told = joined(await decided(caller, means, opening), opening.existing)
    if isinstance(told, Other):
        assert isinstance(told.answer, Place)
        return Other(200, Opened(room=room, **told.answer.model_dump(exclude_unset=True)))
    return Opened(room=room, **told.model_dump(exclude_unset=True))


@verb("blocks.add", "PUT", "/v1/blocks/{mid}", answer=Place, errors=(Forbidden,))
async def block(caller: Caller, means: Means, args: With) -> Place:
    """Take no direct messages of somebody any more, and no invitation. That person learns of it when it sends one.

    Nor does it bring one into a room any more, or into a new one.
    """
    blocking = membership.BlockPerson(somebody(args.mid), acting(caller, args.of), key=caller.key)
    return changed(await decided(caller, means, blocking))


@verb("blocks.remove", "DELETE", "/v1/blocks/{mid}", answer=Place, errors=(Forbidden,))
async def unblock(caller: Caller, means: Means, args: With) -> Place:
    """Take direct messages and invitations of somebody again."""
    unblocking = membership.UnblockPerson(somebody(args.mid), acting(caller, args.of), key=caller.key)
    return changed(await decided(caller, means, unblocking))


@verb("blocks.list", "GET", "/v1/blocks", answer=Blocks, errors=(Forbidden,))
async def blocks(caller: Caller, means: Means, args: MyBlocks) -> Blocks:
    """Whose direct messages one does not take."""
    actor = acting(caller, args.of)
    lines = await queries.blocks_page(means.pool, actor.mid, args.after, args.limit + 1)
    return page(Blocks, "blocks", [BlockedLine(**line._asdict()) for line in lines], args.limit, "mid")


VERBS: Final[tuple[AnyVerb, ...]] = (open_direct, block, unblock, blocks)
