"""What each connection should have received, computed from the log, and what is wrong with what it did receive.

A member sees a room from its join to just before its leave, by position: nothing outside of that, ever, and everything inside of it.
One thing may be missing: of a membership that ended while the connection was still catching up, what the connection had not come to
yet. `caught_up` is a position at which the connection is known to have caught up.

Version 1 shows no positions. Its messages are found in the log by their bodies, which must be unique.

The checks are themselves checked, in test_checking.py, by planting what they must find.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from system.clients import Client, Event, text_of
from system.servers import Entry


class Span(NamedTuple):
    """A membership, or a stream that is one's own: from this position to before that one."""

    first: int
    end: float


@dataclass
class Visit:
    """One connection: where delivery began, and what came.

    `opened` is the position of its session_opened: what the device sent after that is not sent back to it. What it sent before, over
    another connection, it gets like everything else (`own_may_come`: perhaps). `is_whole`: it was there to the end of the log.
    """

    mid: int
    key: str
    opened: int
    start: int
    events: Sequence[Event]
    ops: Collection[int] | None = None  # None: every event; else messages of these operations only, as in version 1
    caught_up: float = 0
    own_may_come: bool = False
    is_whole: bool = False
    name: str = ""


@dataclass
class History:
    """The log, ready to be asked who should have seen what."""

    entries: list[Entry]
    spans: dict[tuple[str, int], list[Span]] = field(default_factory=lambda: defaultdict(list))
    opened: dict[tuple[int, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    at_body: dict[Any, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.entries:
            match entry.type:
                case "member_joined":
                    self.spans[entry.room, entry.body["mid"]].append(Span(entry.position, math.inf))
                case "member_left" | "member_removed":
                    joined = self.spans[entry.room, entry.body["mid"]]
                    joined[-1] = joined[-1]._replace(end=entry.position)
                case "session_opened":
                    self.opened[entry.mid, entry.key].append(entry.position)
                case "message_sent" | "message_pushed" if isinstance(entry.body, int | str):
                    self.at_body[str(entry.body)] = entry

    def span(self, entry: Entry, mid: int, key: str) -> Span | None:
        """By which right this device sees the event; None: it does not."""
        if entry.stream in (f"user:{mid}", f"key:{key}", "all:"):
            return Span(0, math.inf)
        for span in self.spans.get((entry.room, mid), ()):
            if span.first <= entry.position < span.end:
                return span
        return None

    def faults(self, visit: Visit) -> list[str]:
        """What is wrong with what this connection received."""
        faults: list[str] = []
        got: dict[int, Event] = {}
        last = visit.start
        for event in visit.events:
            if event.type and not event.op and not event.position:
                continue  # a receipt or a signal, which no log holds
            entry = self._entry(event)
            if entry is None:
                faults.append(f"is not in the log: {event}")
                continue
            if event.position and event[:6] != (*entry[:4], entry.op, entry.mid):
                faults.append(f"is another event in the log: {event} {entry}")
            if entry.position in got:
                faults.append(f"came twice: {entry}")
            elif entry.position <= last:
                faults.append(f"came after {last}, or after what it began with: {entry}")
            got[entry.position] = event
            last = max(last, entry.position)
            if self.span(entry, visit.mid, visit.key) is None:
                faults.append(f"is not for it to see: {entry}")
            if self._is_own(entry, visit):
                faults.append(f"is its own: {entry}")
        end = math.inf if visit.is_whole else last
        faults += [
            f"is missing: {entry}"
            for entry in self.entries
            if visit.start < entry.position <= end and entry.position not in got and self._is_owed(entry, visit)
        ]
        return [f"{visit.name or visit.mid}: {fault}" for fault in faults]

    def position(self, event: Event) -> int:
        """Where in the log what arrived is."""
        entry = self._entry(event)
        assert entry is not None, f"not in the log: {event}"
        return entry.position

    def strangers(self) -> list[Entry]:
        """Messages of senders who were no members at that place."""
        return [
            entry
            for entry in self.entries
            if entry.type == "message_sent" and entry.room and self.span(entry, entry.mid, entry.key) is None
        ]

    def _is_owed(self, entry: Entry, visit: Visit) -> bool:
        span = self.span(entry, visit.mid, visit.key)
        if span is None or self._is_own(entry, visit) or (visit.own_may_come and _is_by(entry, visit)):
            return False
        if visit.ops is not None and entry.op not in visit.ops:
            return False
        if entry.stream == "all:" and entry.position <= visit.opened:
            return False  # a device that was never there before is not "everybody"
        return span.end > visit.caught_up or span.end == math.inf

    def _entry(self, event: Event) -> Entry | None:
        if event.position:
            return self.entries[event.position - 1] if event.position <= len(self.entries) else None
        return self.at_body.get(text_of(event.body))

    @staticmethod
    def _is_own(entry: Entry, visit: Visit) -> bool:
        return _is_by(entry, visit) and entry.position > visit.opened


def _is_by(entry: Entry, visit: Visit) -> bool:
    """Did this device send it?"""
    return entry.type == "message_sent" and (entry.mid, entry.key) == (visit.mid, visit.key)


def visit_of(client: Client, history: History, number: int = 0, **more: Any) -> Visit:
    """The visit of a client that told where it began (version 2): the `number`th of its device."""
    return Visit(
        client.mid,
        client.key,
        history.opened[client.mid, client.key][number],
        client.welcome["position"],
        client.events,
        name=str(client),
        **more,
    )


def assert_sound(history: History, visits: Iterable[Visit]) -> None:
    """Nothing is wrong with any of them."""
    faults = [fault for visit in visits for fault in history.faults(visit)]
    assert not faults, f"{len(faults)} faults, the first: " + "\n".join(faults[:10])
