"""How many have registered with which invitation code. The codes themselves are secrets and not in the log: an event knows the name of
one.

It is folded where the registration is decided, so that a code is used up by an account that is there and by nothing else: one that was
refused, lost on its way, or cut off by the death of the server has used nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import AccountRegistered, Recorded
from imcore.projections.projection import Key, Projection, types


class CodeUses(NamedTuple):
    """How many accounts came in by a code."""

    used: int


TYPES: Final = types(AccountRegistered)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case AccountRegistered(code=code) if code:
            return ((code,),)
    return ()


def apply(key: Key, row: CodeUses | None, recorded: Recorded) -> CodeUses | None:
    return CodeUses(1 if row is None else row.used + 1)


projection: Final = Projection("code_uses", tables.code_uses, CodeUses, TYPES, keys, apply)
