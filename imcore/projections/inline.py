"""Projections that are written in the append's own transaction, so that a send is checked against their rows there.

They are at the head of the log always: no checkpoint, no lag. Only a decision may append the events that change them, because
only its batch loads and saves rows; it must name the rows that its events change among its `keys`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from imcore import tables
from imcore.errors import ImcoreError, Muted, NoSuchRoom
from imcore.events.names import Connection
from imcore.events.store import ADMINS_WRITE, ALL_MUTED, IS_BLOCKED, MEMBER, TOO_SOON, Draft, Key, Rows, restricted
from imcore.events.types import ROOM, Recorded
from imcore.projections import INLINE, members, projection, restrictions
from imcore.projections.members import Member
from imcore.projections.projection import AnyProjection, RowTable
from imcore.projections.restrictions import Restriction


class SlowSend(NamedTuple):
    """When a member last sent to a room in slow mode."""

    sent_at_ms: int


# No fold: whether a message counts depends on the room's rules at its place.
SLOW_SENDS: Final = projection.Projection(
    "slow_sends", tables.slow_sends, SlowSend, frozenset(), lambda recorded: (), lambda key, row, recorded: row
)


def refusal(
    member: Member | None, restriction: Restriction | None, last: SlowSend | None, now_ms: int
) -> ImcoreError | None:
    """Why somebody with this membership may not send now, or None. imcore_append says the same in SQL."""
    rules = restriction or restrictions.NONE
    if rules.dismissed or member is None:
        return NoSuchRoom()
    if member.muted_until_ms > now_ms:
        return Muted()
    if member.blocked:
        return restricted(IS_BLOCKED)
    if member.role != "member":
        return None
    if rules.muted_until_ms > now_ms:
        return restricted(ALL_MUTED)
    if rules.writers == "admins":
        return restricted(ADMINS_WRITE)
    if rules.slow_mode_s and last is not None:
        since_ms = max(0, now_ms - last.sent_at_ms)
        if since_ms < rules.slow_mode_s * 1000:
            return restricted(TOO_SOON, rules.slow_mode_s * 1000 - since_ms)
    return None


class InlineProjections:
    """The inline projections together, as the log wants them (see events.store.Inline)."""

    def __init__(self, projections: Sequence[AnyProjection] = INLINE) -> None:
        self._tables = {projection.name: RowTable(projection) for projection in (*projections, SLOW_SENDS)}
        self.types = frozenset(type_ for projection in projections for type_ in projection.types)

    def guard_keys(self, draft: Draft) -> Sequence[Key]:
        """What restricts the room that the draft goes to; of a member, its membership, and when it sent last."""
        room = draft.stream.removeprefix(ROOM)
        rules: Key = restrictions.projection.name, (room,)
        if draft.guard != MEMBER:
            return (rules,)
        return rules, (members.projection.name, (room, draft.mid)), (SLOW_SENDS.name, (room, draft.mid))

    def refusal(self, rows: Rows, draft: Draft, now_ms: int) -> ImcoreError | None:
        """Why the draft may not pass, or None."""
        rules, *own = (rows[key] for key in self.guard_keys(draft))
        assert rules is None or isinstance(rules, Restriction)
        if not own:
            return NoSuchRoom() if rules is not None and rules.dismissed else None
        member, last = own
        assert member is None or isinstance(member, Member)
        assert last is None or isinstance(last, SlowSend)
        return refusal(member, rules, last, now_ms)

    def passed(self, rows: Rows, draft: Draft, now_ms: int) -> None:
        """The member has sent now, if anybody will ask."""
        rules, *own = self.guard_keys(draft)
        restriction = rows[rules]
        if own and isinstance(restriction, Restriction) and restriction.slow_mode_s:
            rows[own[1]] = SlowSend(now_ms)

    async def load(self, connection: Connection, keys: set[Key]) -> Rows:
        """The rows of these keys, one statement a projection; None for those that are not there."""
        rows: Rows = dict.fromkeys(keys)
        for name, table in self._tables.items():
            wanted = [key for projection, key in keys if projection == name]
            if table.projection is SLOW_SENDS:
                wanted = [key for key in wanted if _is_slow(rows.get((restrictions.projection.name, key[:1])))]
            found = await table.load(connection, wanted)
            rows.update(((name, key), row) for key, row in found.items())
        return rows

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        """Fold one event into the rows."""
        if recorded.type not in self.types:
            return
        for name, table in self._tables.items():
            projection = table.projection
            if recorded.type in projection.types:
                for key in projection.keys(recorded):
                    assert (name, key) in rows, f"a decision names the rows that it changes; {name} {key} is missing"
                    rows[name, key] = projection.apply(key, rows[name, key], recorded)

    async def save(self, connection: Connection, before: Rows, after: Rows) -> None:
        """Write what changed."""
        for name, table in self._tables.items():
            await table.save(connection, _of(name, before), _of(name, after))


def _is_slow(restriction: object | None) -> bool:
    return isinstance(restriction, Restriction) and restriction.slow_mode_s > 0


def _of(name: str, rows: Rows) -> dict[tuple[str | int, ...], tuple[object, ...] | None]:
    return {key: row for (projection, key), row in rows.items() if projection == name}  # type: ignore[misc]
