"""Whose name is it: what two names may not have in common (see imcore.accounts.names) -> the account. For ever: a name is not given
twice, whatever becomes of who had it."""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import AccountRegistered, Recorded
from imcore.projections.projection import Key, Projection, types


class Handle(NamedTuple):
    """A name that is taken, and by whom."""

    mid: int


TYPES: Final = types(AccountRegistered)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case AccountRegistered(handle=handle):
            return ((handle,),)
    return ()


def apply(key: Key, row: Handle | None, recorded: Recorded) -> Handle | None:
    match recorded.fact:
        case AccountRegistered(mid=mid):
            return row or Handle(mid)
    return row


projection: Final = Projection("handles", tables.handles, Handle, TYPES, keys, apply)
