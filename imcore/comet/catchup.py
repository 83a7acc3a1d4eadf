"""The way back to live: where a session begins, what it reads, and when there is nothing more to read.

Recent events come from memory, older ones are pages of the log. Reading them and letting others have their turn is the caller's
business (`read` and `pause`); what is decided here is decided between two awaits.

What was recalled meanwhile is given without its words: pages of the log come so, and of what is in memory the hub knows.

The trap: anything may happen during a read. The hub moves on, the person is removed from a room, the socket fills, the connection
ends. So what a page may hold is asked again after the read, and turning live follows the last page without an await between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from imcore.comet.encode import FORM_OF, packet, wire
from imcore.comet.hub import BEHIND, Hub, Person, Place, Session, filtered
from imcore.events.types import Page, Recorded

CHUNK_BYTES: Final = (
    65_536  # written at a time: a page of large messages is 8 MB, and the socket may be full before its end
)
SCAN_EVENTS_MAX: Final = 2_000  # looked through in memory before others have their turn

Recent = Callable[[int, int], list[Recorded] | None]
Read = Callable[[Mapping[str, int], int, int], Awaitable[Page]]


def admit(
    hub: Hub, session: Session, person: Person, rooms: Iterable[str], *, start: int, since: int, place: Place
) -> bool:
    """Take a session into the hub, where it goes on after `start`, and into these live rooms, where it goes on after `since`. False
    if there is a newer session of its key.

    `place` is where its other streams ended when that was looked up: if it has the newest event of them, there is nothing to read up
    to there.

    The hub must have come to the session's own place in the log. Earlier, it would give the session what was said before that.
    """
    assert session.opened <= hub.position, "the caller waits until the hub has come to the session's place"
    hub.enter(session, rooms, since)
    if place.newest <= start:
        # Nobody looked into the live rooms.
        start = max(start, min(place.head, since) if session.entered else place.head)
    return hub.add(session, person, min(start, hub.position))


class CatchUp:
    """Brings sessions that are behind back to live.

    `recent(after, limit)` gives events from memory or None, `read(streams, upto, limit)` a page of the log: the next events of these
    streams, at most so many, each after its own position and none after `upto`, and up to where they are all.
    """

    def __init__(
        self,
        hub: Hub,
        recent: Recent,
        read: Read,
        pause: Callable[[], Awaitable[None]],
        *,
        page_events_max: int,
        scan_events_max: int = SCAN_EVENTS_MAX,
    ) -> None:
        self.hub = hub
        self._recent = recent
        self._read = read
        self._pause = pause
        self._page_events_max = page_events_max
        self._scan_events_max = scan_events_max

    def is_up_to_date(self, session: Session) -> bool:
        """Is nothing missing? Then the session, if it was behind, is live now."""
        hub = self.hub
        if session.position < hub.position and hub.is_fresh(session, hub.entitled(session)) is False:
            session.position = hub.position
        return hub.settle(session)

    async def run(self, session: Session) -> None:
        """Page by page until the session is live, its socket is full or it has ended. One task a session.

        Raises what `read` raises; running it again goes on where it was.
        """
        hub = self.hub
        while session.state == BEHIND and not session.full:
            if self.is_up_to_date(session):
                return
            recent = self._recent(session.position, self._scan_events_max)
            if recent is not None and session.position >= hub.recalls_from:
                events = filtered(recent, hub.entitled(session), session)
                upto = recent[-1].position
            else:
                limit = hub.position
                page = await self._read(hub.entitled(session), limit, self._page_events_max)
                if session.state != BEHIND or session.full:
                    return
                # Who was removed from a room while the page was read gets nothing of it any more.
                events = filtered(page.events, hub.entitled(session), session)
                upto = page.upto
            self._write(session, hub.hide(events), upto)
            if hub.settle(session):
                return
            await self._pause()

    def _write(self, session: Session, events: list[Recorded], upto: int) -> None:
        """Write these events, or as many as the socket takes; what is left is read again when it takes more."""
        form = FORM_OF[session.codec]
        packets: list[bytes] = []
        size = 0
        for n, event in enumerate(events, 1):
            one = packet(event, form)
            if one:
                packets.append(one)
                size += len(one)
                if size >= CHUNK_BYTES and n < len(events):
                    session.position = session.received = event.position
                    session.write(wire(packets, session.codec))
                    packets, size = [], 0
                    if session.full or session.state != BEHIND:
                        self.hub.deliveries += n
                        return
        session.position = upto
        if events:
            session.received = events[-1].position
            self.hub.deliveries += len(events)
        if packets:
            session.write(wire(packets, session.codec))
