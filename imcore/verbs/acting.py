"""For whom a verb acts, and what it answers for what was decided.

A person acts for itself. A service says for whom it acts, and what is done then is done as that person would do it; what it does in its
own name names nobody. What a moderator or an admin of the server sees of others by that right alone is written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from imcore.accounts import queries as account_queries
from imcore.accounts.decisions import Look
from imcore.errors import BadRequest, Forbidden, TooManyRooms
from imcore.events.store import Decision
from imcore.events.types import AUDIT, SERVICE_MID, MemberJoined, Recorded
from imcore.membership import RoomDecision, whom
from imcore.permissions import Actor, person
from imcore.projections import queries
from imcore.projections.members import Member
from imcore.roles import PRIVILEGED, as_held
from imcore.verbs.means import Means
from imcore.verbs.verb import Caller, Other, Place

LIVE: Final = "a room of this type has no members: connections enter it (operation 12, or rooms in auth)"


def acting(caller: Caller, named: int | None) -> Actor:
    """Who does it: the person that asks, or the one whom a service names.

    Raises BadRequest when a service names nobody, and Forbidden when a person names somebody else.
    """
    if caller.identity.service:
        if named is None:
            raise BadRequest("mid is missing: a service says for whom")
        return person(somebody(named))
    if named is not None and somebody(named) != caller.mid:
        raise Forbidden("a person acts for nobody else")
    return caller.identity.actor


def somebody(mid: int) -> int:
    """The member id, which is a person's. Raises BadRequest."""
    if mid == SERVICE_MID:
        raise BadRequest("mid: 0 is the service, and nobody's member id")
    return mid


def refuse_live(means: Means, room: str) -> None:
    """Raises BadRequest for what only rooms with members have."""
    if means.is_live(room):
        raise BadRequest(LIVE)


async def decided(caller: Caller, means: Means, decision: Decision) -> list[Recorded]:
    """What the decision made happen, without what is audited. Raises what refused it."""
    if caller.key:
        decision = decision.fenced(caller.mid, caller.key, caller.fence)
    if isinstance(decision, RoomDecision):
        made = await come_in(means, decision.within(means.settings.rooms_per_user_max))
    else:
        made = await means.log.decide(decision)
    return [event for event in made if event.stream != AUDIT]


async def come_in(means: Means, decision: RoomDecision) -> list[Recorded]:
    """What it made happen. Whom it would bring into too many rooms is refused only when those that are dismissed were taken off: they
    are counted for nobody else."""
    try:
        return await means.log.decide(decision)
    except TooManyRooms as refused:
        return await come_in_after_all(means, decision, refused)


async def come_in_after_all(means: Means, decision: RoomDecision, refused: TooManyRooms) -> list[Recorded]:
    """The same, once the log has refused it for too many rooms. Raises `refused` where none of them are dismissed."""
    dismissed = await queries.dismissed_of(means.pool, decision.comers)
    if not dismissed:
        raise refused
    return await means.log.decide(decision.within(decision.rooms_max, dismissed))


async def write_down(caller: Caller, means: Means, operation: str, mids: Sequence[int] = (), detail: str = "") -> None:
    """Put into the audit that a moderator or an admin looks at what is others', before it is answered. Nothing for anybody else.

    The log keeps it for ever: so of many people it says how many, and the first. Raises what the permission table says of what the
    caller is by then, whatever its token says.
    """
    if caller.identity.role in PRIVILEGED:
        mid, said = whom(mids)
        await means.log.decide(Look(operation, caller.identity.actor, mid, detail or said))


async def as_now(caller: Caller, means: Means) -> Actor:
    """Who asks; if its token says that it has a privilege, as the lesser of that and what its account says now, which is one row.

    For what is read by a privilege and leaves no line in the audit. If it is asked after the reading, nothing of after the end of the
    privilege is shown. Raises Unauthenticated for whose account is suspended or given up.
    """
    actor = caller.identity.actor
    if actor.role not in PRIVILEGED:
        return actor
    own = await account_queries.account(means.pool, actor.mid)
    return actor if own is None else as_held(actor, own.state, own.role)


def changed(events: Sequence[Recorded]) -> Place:
    """Where it happened, or that it was so already."""
    return Place(position=events[-1].position, seq=events[-1].seq) if events else Place(unchanged=True)


def joined(events: Sequence[Recorded], existing: Member | None) -> Place | Other:
    """Where somebody joined: now, or, with status 200, before."""
    if events:  # who is muted still is told that after the join
        last = [event for event in events if event.type == MemberJoined.type][-1]
        return Place(position=last.position, seq=last.seq)
    assert existing is not None, "no event means that there was a membership"
    return Other(200, Place(position=existing.since, seq=existing.since_seq, duplicate=True))
