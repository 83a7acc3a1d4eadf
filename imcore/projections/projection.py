"""A projection: a name, a table, and two pure functions from events to rows.

`keys` says which rows an event concerns, `apply` what becomes of one of them (None: there is no row). Everything else is made
from the table: rows of many keys are read in one statement, and what changed is written in one more and one for the deleted.

An event that cannot be folded (its body is not what its type says, or the database refuses the row) is a *failure*: the rows
then hold everything before it and nothing of it, and the caller decides whether to try again or to go past it.

The trap: a failure that only the database sees, say U+0000 in a text, is one of a whole page of rows. `fold_page` looks for it by
halves behind a savepoint, so that the transaction around it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

import asyncpg
import orjson
from pydantic import ValidationError
from sqlalchemy import ARRAY, Column, Table
from sqlalchemy.dialects import postgresql

from imcore.events.names import Connection
from imcore.events.types import Fact, Recorded

Key: TypeAlias = tuple[str | int, ...]
R = TypeVar("R", bound=tuple[Any, ...])  # a NamedTuple: its fields are the table's other columns, in order

REFUSED_ROW: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.exceptions.ProgramLimitExceededError,  # a key too long for its index
)
_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]


def types(*facts: type[Fact]) -> frozenset[str]:
    """The stored names of these facts."""
    return frozenset(fact.type for fact in facts)


@dataclass(frozen=True, slots=True)
class Projection(Generic[R]):
    """What is folded from which events into which table. The table's primary key is the key; `row` holds the other columns.

    `types` are all event types that `keys` may say something about: others cost one look into a set. `reads_messages`: it looks into
    the bodies of messages, which are read for nobody else in a rebuild.
    """

    name: str
    table: Table
    row: type[R]
    types: frozenset[str]
    keys: Callable[[Recorded], tuple[Key, ...]]
    apply: Callable[[Key, R | None, Recorded], R | None]
    reads_messages: bool = False


AnyProjection: TypeAlias = Projection[Any]  # the rows of one never meet another's, so their types need not agree


class Failure(NamedTuple):
    """The first event of a page that could not be folded, and why."""

    recorded: Recorded
    error: Exception

    def text(self) -> str:
        """The reason without anything of the event's body, fit for logs and tables."""
        if isinstance(self.error, ValidationError):
            said = "; ".join(f"{problem['loc']}: {problem['msg']}" for problem in self.error.errors())
        else:
            said = str(self.error)
        return f"{type(self.error).__name__}: {said}".replace("\0", "\\0")[:2000]


def fold(projection: Projection[R], events: Iterable[Recorded], rows: dict[Key, R] | None = None) -> dict[Key, R]:
    """The rows after these events, beginning with none, or with `rows`, which are changed. Raises what `keys` and `apply` raise."""
    if rows is None:
        rows = {}
    for recorded in events:
        if recorded.type in projection.types:
            for key in projection.keys(recorded):
                row = projection.apply(key, rows.get(key), recorded)
                if row is None:
                    rows.pop(key, None)
                else:
                    rows[key] = row
    return rows


class RowTable(Generic[R]):
    """The rows of a projection in one table: its own, or another of the same columns."""

    def __init__(self, projection: Projection[R], name: str | None = None) -> None:
        table = projection.table
        self.projection = projection
        self.name = name or table.name
        names = [column.name for column in table.columns]
        self._keys = [column.name for column in table.primary_key]
        self._values = names[len(self._keys) :]
        assert names[: len(self._keys)] == self._keys, "a projection's key columns come first"
        assert tuple(self._values) == projection.row._fields, "a row has the other columns, in order"  # type: ignore[attr-defined]
        self._lists = frozenset(n for n, column in enumerate(table.columns) if isinstance(column.type, ARRAY))
        self.load_query, self._save, self._delete = _statements(table, self.name, self._keys, self._values)

    async def load(self, connection: Connection, keys: Collection[Key]) -> dict[Key, R]:
        """The rows of these keys; those that are not there are left out."""
        if not keys:
            return {}
        found = await connection.fetch(self.load_query, *zip(*keys, strict=True))
        return dict(self.row(record) for record in found)

    async def save(self, connection: Connection, before: Mapping[Key, R | None], after: Mapping[Key, R | None]) -> None:
        """Write what is different: rows that are new or changed, and rows that are gone. A key left out is no row."""
        changed: list[tuple[object, ...]] = []
        gone: list[Key] = []
        for key, row in after.items():
            if row is None:
                if before.get(key) is not None:
                    gone.append(key)
            elif row != before.get(key):
                changed.append((*key, *row))
        if changed:
            columns: list[Sequence[object]] = list(zip(*changed, strict=True))
            for n in self._lists:
                columns[n] = [orjson.dumps(value).decode() for value in columns[n]]
            await connection.execute(self._save, *columns)
        if gone:
            await connection.execute(self._delete, *zip(*gone, strict=True))

    def row(self, record: asyncpg.Record) -> tuple[Key, R]:
        """A key and a row, from a record with the table's columns in order."""
        values = tuple(record)
        if self._lists:
            values = tuple(tuple(value) if n in self._lists else value for n, value in enumerate(values))
        split = len(self._keys)
        return values[:split], self.projection.row(*values[split:])


async def fold_page(connection: Connection, table: RowTable[R], events: Sequence[Recorded]) -> Failure | None:
    """Fold a page of events into the table, inside the caller's transaction.

    On a failure the rows hold everything before its event, and nothing of it or of what follows.
    """
    steps, failure = _steps(table.projection, events)
    if not steps:
        return failure
    before = await table.load(connection, {key for _, keys in steps for key in keys})
    after: dict[Key, R | None] = dict(before)
    failure = _apply(table.projection, after, steps) or failure
    if after == before:
        return failure
    try:
        async with connection.transaction():
            await table.save(connection, before, after)
    except REFUSED_ROW as error:
        if len(events) == 1:
            return Failure(events[0], error)
        half = len(events) // 2
        return await fold_page(connection, table, events[:half]) or await fold_page(connection, table, events[half:])
    return failure


Step: TypeAlias = tuple[Recorded, tuple[Key, ...]]


def _steps(projection: AnyProjection, events: Iterable[Recorded]) -> tuple[list[Step], Failure | None]:
    """Which rows the events concern, in order, up to the first event that does not say so."""
    steps: list[Step] = []
    wanted, keys = projection.types, projection.keys
    for recorded in events:
        if recorded.type in wanted:
            try:
                concerned = keys(recorded)
            except Exception as error:  # whatever a body makes it raise: all other events must not wait for this one
                return steps, Failure(recorded, error)
            if concerned:
                steps.append((recorded, concerned))
    return steps, None


def _apply(projection: Projection[R], rows: dict[Key, R | None], steps: Iterable[Step]) -> Failure | None:
    """Take the steps in order, up to the first that fails; of that one, nothing."""
    apply = projection.apply
    for recorded, keys in steps:
        try:
            if len(keys) == 1:
                key = keys[0]
                rows[key] = apply(key, rows.get(key), recorded)
            else:
                rows.update([(key, apply(key, rows.get(key), recorded)) for key in keys])
        except Exception as error:  # as above
            return Failure(recorded, error)
    return None


def _statements(table: Table, name: str, keys: list[str], values: list[str]) -> tuple[str, str, str]:
    columns = list(table.columns)
    wanted = ", ".join(
        f"unnest(${n}::{_array(column)}) AS {column.name}" for n, column in enumerate(columns[: len(keys)], 1)
    )
    # The rows of many keys at once.
    load = f"""
    SELECT {", ".join(f"row.{column}" for column in [*keys, *values])}
    FROM (SELECT {wanted}) AS wanted JOIN {name} AS row USING ({", ".join(keys)})
    """
    given = ", ".join(f"${n}::{_array(column)}" for n, column in enumerate(columns, 1))
    # Rows that are new or changed.
    save = f"""
    INSERT INTO {name} ({", ".join([*keys, *values])})
    SELECT {", ".join(_given(column) for column in columns)}
    FROM unnest({given}) AS given({", ".join([*keys, *values])})
    ON CONFLICT ({", ".join(keys)}) DO UPDATE SET {", ".join(f"{value} = excluded.{value}" for value in values)}
    """
    # Rows that are gone.
    delete = f"""
    DELETE FROM {name} AS row USING (SELECT {wanted}) AS wanted
    WHERE {" AND ".join(f"row.{key} = wanted.{key}" for key in keys)}
    """
    return load, save, delete


def _array(column: Column[Any]) -> str:
    """What a column's values travel as. unnest would flatten lists of lists, so a list travels as JSON."""
    return "text[]" if isinstance(column.type, ARRAY) else f"{column.type.compile(dialect=_DIALECT)}[]"


def _given(column: Column[Any]) -> str:
    if isinstance(column.type, ARRAY):
        kind = column.type.compile(dialect=_DIALECT)
        return f"ARRAY(SELECT json_array_elements_text(given.{column.name}::json))::{kind}"
    return f"given.{column.name}"
