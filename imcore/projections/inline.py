"""Projections that are written in the append's own transaction, so that a send is checked against their rows there.

They are at the head of the log always: no checkpoint, no lag. Only a decision may append the events that change them, because
only its batch loads and saves rows; it must name the rows that its events change among its `keys`.
"""

from __future__ import annotations

from collections.abc import Sequence

from imcore.errors import ImcoreError, Muted, NoSuchRoom
from imcore.events.names import Connection
from imcore.events.store import Draft, Key, Rows
from imcore.events.types import ROOM, Recorded
from imcore.projections import INLINE, members
from imcore.projections.projection import AnyProjection, RowTable


class InlineProjections:
    """The inline projections together, as the log wants them (see events.store.Inline)."""

    def __init__(self, projections: Sequence[AnyProjection] = INLINE) -> None:
        self._tables = {projection.name: RowTable(projection) for projection in projections}
        self.types = frozenset(type_ for projection in projections for type_ in projection.types)

    def guard_key(self, draft: Draft) -> Key:
        """The sender's membership of the room that the draft goes to."""
        return members.projection.name, (draft.stream.removeprefix(ROOM), draft.mid)

    def refusal(self, row: object | None, now_ms: int) -> ImcoreError | None:
        """Why somebody with this membership may not send now, or None."""
        if row is None:
            return NoSuchRoom()
        assert isinstance(row, members.Member), "a guard looks at a membership"
        return Muted() if row.muted_until_ms > now_ms else None

    async def load(self, connection: Connection, keys: set[Key]) -> Rows:
        """The rows of these keys, one statement a projection; None for those that are not there."""
        rows: Rows = dict.fromkeys(keys)
        for name, table in self._tables.items():
            found = await table.load(connection, [key for projection, key in keys if projection == name])
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


def _of(name: str, rows: Rows) -> dict[tuple[str | int, ...], tuple[object, ...] | None]:
    return {key: row for (projection, key), row in rows.items() if projection == name}  # type: ignore[misc]
