"""A server with two bugs, for a test of the harness: now and then an event is not handed to those who should get it; and who is removed
from a room goes on getting what is said there."""

from __future__ import annotations

from typing import Any

from imcore.comet.hub import Hub
from imcore.events.types import MemberRemoved

EVERY = 40
apply, fold = Hub.apply, Hub._fold


def skipping(self: Hub, batch: list[Any]) -> None:
    """One event after the other; some reach nobody."""
    for event in batch:
        audience = self.audiences.pop(event.stream, None) if event.op and event.position % EVERY == 0 else None
        apply(self, [event])
        if audience is not None:
            self.audiences[event.stream] = audience


def keeping(self: Hub, event: Any) -> None:
    """Removals change nothing."""
    if event.type != MemberRemoved.type:
        fold(self, event)


Hub.apply, Hub._fold = skipping, keeping  # type: ignore[method-assign]
