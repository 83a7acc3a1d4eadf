"""A connection that keeps everything that the hub gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from comet.wires import positions
from imcore.comet.encode import V2_TCP
from imcore.comet.hub import Hub, Session
from imcore.errors import ImcoreError
from imcore.events.types import ROOM, Recorded

LIVE_TYPES = ("live",)


class Listener(Session):
    """Bytes, removals and the end, in the order in which they came."""

    def __init__(self, mid: int, key: str, codec: int = V2_TCP, accepts: Iterable[int] | None = None) -> None:
        super().__init__()
        self.mid, self.key, self.codec = mid, key, codec
        self.accepts = None if accepts is None else frozenset(accepts)
        self.written: list[bytes] = []
        self.heard: list[int | str] = []  # positions, and the rooms that it was removed from
        self.ended: ImcoreError | None = None
        self.on_write: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.heard += positions(self.codec, data)
        self.on_write()

    def removed(self, event: Recorded) -> None:
        self.heard.append(event.room)

    def switched(self, room: str) -> None:
        self.heard.append(f"into {room}")

    def end(self, error: ImcoreError) -> None:
        assert self.ended is None, "a session ends once"
        self.ended = error

    def __repr__(self) -> str:
        return self.key


def behind(
    hub: Hub,
    mid: int,
    key: str,
    *,
    rooms: Mapping[str, int] | Iterable[str] = (),
    live: Iterable[str] = (),
    opened: int = 0,
    start: int | None = None,
    codec: int = V2_TCP,
    accepts: Iterable[int] | None = None,
) -> Listener:
    """A session of somebody who is in these rooms (since a position, or from the beginning), behind at `start` or at the hub."""
    joins = rooms if isinstance(rooms, Mapping) else dict.fromkeys(rooms, 0)
    session = Listener(mid, key, codec, accepts)
    session.opened = opened
    person = hub.hold(mid)
    hub.know(person, hub.position, {ROOM + room: since for room, since in joins.items()})
    hub.enter(session, live, opened)
    assert hub.add(session, person, hub.position if start is None else start)
    hub.release(person)
    return session


def alive(hub: Hub, mid: int, key: str, **details: object) -> Listener:
    """The same, live."""
    session = behind(hub, mid, key, **details)  # type: ignore[arg-type] # what it takes is said there
    assert hub.settle(session)
    return session
