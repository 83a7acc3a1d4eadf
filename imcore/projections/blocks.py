"""Whose direct messages a person does not take."""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import PersonBlocked, PersonUnblocked, Recorded
from imcore.projections.projection import Key, Projection, types


class Block(NamedTuple):
    """Somebody is blocked, since then."""

    at_ms: int


TYPES: Final = types(PersonBlocked, PersonUnblocked)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case PersonBlocked(by=by, mid=mid) | PersonUnblocked(by=by, mid=mid):
            return ((by, mid),)
    return ()


def apply(key: Key, row: Block | None, recorded: Recorded) -> Block | None:
    match recorded.fact:
        case PersonBlocked():
            return row or Block(recorded.time_ms)
        case PersonUnblocked():
            return None
    return row


projection: Final = Projection("blocks", tables.blocks, Block, TYPES, keys, apply)
