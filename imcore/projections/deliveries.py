"""What each device has received: where it goes on when it comes back. Never goes back, and outlives the session."""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import SESSION, DeliveryAcked, Recorded, SessionClosed, device
from imcore.projections.projection import Key, Projection, types


class Delivery(NamedTuple):
    """Everything up to and including `position` was delivered to the device."""

    position: int


TYPES: Final = types(DeliveryAcked, SessionClosed)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case DeliveryAcked(key=key):
            return ((int(recorded.stream.removeprefix(SESSION)), device(key)),)
        case SessionClosed(key=key, delivered=int()):
            return ((int(recorded.stream.removeprefix(SESSION)), device(key)),)
    return ()


def apply(key: Key, row: Delivery | None, recorded: Recorded) -> Delivery | None:
    match recorded.fact:
        case DeliveryAcked(position=position) | SessionClosed(delivered=int(position)):
            return row if row is not None and row.position >= position else Delivery(position)
    return row


projection: Final = Projection("deliveries", tables.deliveries, Delivery, TYPES, keys, apply)
