"""Who may see whether a person is online, as that person chose. There is a row only for who keeps it from somebody."""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import Recorded, VisibilityChosen
from imcore.projections.projection import Key, Projection, types


class Visibility(NamedTuple):
    """A choice other than everybody."""

    choice: str


TYPES: Final = types(VisibilityChosen)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case VisibilityChosen(mid=mid):
            return ((mid,),)
    return ()


def apply(key: Key, row: Visibility | None, recorded: Recorded) -> Visibility | None:
    match recorded.fact:
        case VisibilityChosen(choice="everybody"):
            return None
        case VisibilityChosen(choice=choice):
            return Visibility(choice)
    return row


projection: Final = Projection("visibility", tables.visibility, Visibility, TYPES, keys, apply)
