"""A run made ready to be judged: operations with their outcomes, sends by their id, connections with what they were given.

One pass over the records. A send is known by who sent it and its id, however often it was tried: it is ok if any try was, failed only
if every try was refused for sure, and else its outcome is open. A connection counts from the answer to its auth to its close.

The trap: a record is what a client knew. It hears late, and not at all when it is stopped; so what is judged by time looks at faults.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar

from imcore.events.types import MESSAGE_SENT
from imcore.testkit.history import (
    DRAIN,
    DRAINED,
    PHASES,
    REMOVED,
    Closed,
    Delivered,
    Entry,
    Fault,
    Interval,
    Log,
    Opened,
    Record,
    Sending,
    Value,
)

NEVER: Final = 1 << 63
SECOND: Final = 1_000_000_000

Outcome: TypeAlias = Literal["ok", "fail", "info"]
VisitKey: TypeAlias = tuple[str, int, str, int]  # process, person, device, connection
V = TypeVar("V", bound=Value)


class Operation(NamedTuple):
    """What was asked, and the answer; None if the run ended before one came."""

    asked: Record
    done: Record | None

    @property
    def outcome(self) -> Outcome:
        """ok, fail, or info where nobody knows."""
        return "info" if self.done is None else self.done.type  # type: ignore[return-value]

    @property
    def visit(self) -> VisitKey:
        """The connection that it went over."""
        return self.asked[1:5]

    @property
    def told_at(self) -> int:
        """When it was answered."""
        return NEVER if self.done is None else self.done.t


class Send(NamedTuple):
    """One try of a send. `asked` and `answer` are its values, `began` and `ended` its times."""

    visit: VisitKey
    began: int
    ended: int
    outcome: Outcome
    asked: Sending
    answer: Sending


@dataclass(slots=True)
class Visit:
    """One connection: who, when, where delivery began, what came (in order of arrival) and how it ended."""

    key: VisitKey
    asked_at: int
    opened_at: int = NEVER
    opened: Opened = field(default_factory=Opened)
    delivered: list[tuple[int, Delivered]] = field(default_factory=list)
    removals: list[tuple[int, Delivered]] = field(default_factory=list)
    closed_at: int = NEVER
    closed: Closed | None = None
    heard_at: int = 0  # the last sign of life from the server
    got: set[int] = field(default_factory=set)  # positions

    @property
    def mid(self) -> int:
        """Whose it is."""
        return self.key[1]

    @property
    def device(self) -> tuple[int, str]:
        """The device that it is of."""
        return self.key[1:3]

    @property
    def is_open(self) -> bool:
        """Its auth was answered."""
        return self.opened_at != NEVER


class Window(NamedTuple):
    """A fault, from its beginning to when it was healed (or the end of the run)."""

    began: int
    ended: int
    fault: Fault


class Sample(NamedTuple):
    """A figure measured during the run."""

    t: int
    fault: Fault


@dataclass(slots=True)
class Sight:
    """What a person sees as a member, by position; `positions` for searching."""

    positions: list[int]
    entries: list[tuple[Entry, Interval]]

    def between(self, after: int, before: int) -> Iterator[tuple[Entry, Interval]]:
        """What lies strictly between two positions."""
        first, last = bisect_right(self.positions, after), bisect_left(self.positions, before)
        for n in range(first, last):
            yield self.entries[n]


class Run:
    """The records of a run and the log that judges them, indexed once."""

    def __init__(self, history: Sequence[Record], log: Log) -> None:
        self.history = history
        self.log = log
        self.counts: Counter[tuple[str, str]] = Counter()  # (f, type)
        self.sends: defaultdict[tuple[int, str], list[Send]] = defaultdict(list)
        self.visits: dict[VisitKey, Visit] = {}
        self.operations: defaultdict[str, list[Operation]] = defaultdict(list)  # other than sends, by f
        self.windows: list[Window] = []
        self.phases: dict[str, int] = {}
        self.samples: list[Sample] = []
        self._sights: dict[int, Sight] = {}
        self._pending: dict[tuple[str, int, str, int, int], Record] = {}
        self._answered: set[tuple[str, int, str, int, int]] = set()
        for record in history:
            self._take(record)
        for key, asked in self._pending.items():
            if key not in self._answered:
                self._settle(asked, None)
        self.attempts: defaultdict[int, list[Visit]] = defaultdict(list)  # by person, those too that were never opened
        for visit in self.visits.values():
            self.attempts[visit.mid].append(visit)
        self.visits = {key: visit for key, visit in self.visits.items() if visit.is_open}
        self.devices: defaultdict[tuple[int, str], list[Visit]] = defaultdict(list)
        self.people: defaultdict[int, list[Visit]] = defaultdict(list)
        for visit in sorted(self.visits.values(), key=lambda visit: visit.opened_at):
            self.devices[visit.device].append(visit)
            self.people[visit.mid].append(visit)
        for tries in self.sends.values():
            tries.sort(key=lambda one: one.began)
        self.windows.sort()
        self._troubles: list[list[int]] = []  # when there was any fault: windows that overlap are one
        for window in self.windows:
            if self._troubles and window.began <= self._troubles[-1][1]:
                self._troubles[-1][1] = max(self._troubles[-1][1], window.ended)
            else:
                self._troubles.append([window.began, window.ended])
        self.is_one_log = all(visit.opened.epoch in ("", log.epoch) for visit in self.visits.values())
        self.lasted: dict[str, int] = {record.p: record.t for record in history}  # the last that is known of a process
        self.began = history[0].t if history else 0
        self.ended = history[-1].t if history else 0

    # --- questions ---

    def sight(self, mid: int) -> Sight:
        """What this person sees."""
        sight = self._sights.get(mid)
        if sight is None:
            entries = self.log.visible(mid)
            sight = self._sights[mid] = Sight([entry.position for entry, _ in entries], entries)
        return sight

    def is_of_this_log(self, key: VisitKey) -> bool:
        """Was the connection served from the log as it is now, or from one that was replaced?

        What went over no connection is of this log if there never was another.
        """
        visit = self.visits.get(key)
        return self.is_one_log if visit is None else visit.opened.epoch in ("", self.log.epoch)

    def is_there(self, visit: Visit) -> bool:
        """Was it connected when everybody had everything? Of a client that was killed no close is recorded, and nothing else later."""
        drained = self.phases.get(DRAINED, -1)
        is_newest = all(
            other.opened_at <= visit.opened_at or other.opened_at > drained for other in self.devices[visit.device]
        )
        lived = self.lasted[visit.key[0]] >= self.phases.get(DRAIN, 0)
        return visit.opened_at <= drained < visit.closed_at and is_newest and lived

    def answered(self, f: str, kind: type[V], type_: Outcome = "ok") -> Iterator[tuple[Operation, V, V]]:
        """Operations that were answered so, with what was asked and what was told."""
        for operation in self.operations[f]:
            asked, done = operation
            if done is not None and done.type == type_ and isinstance(asked.v, kind) and isinstance(done.v, kind):
                yield operation, asked.v, done.v

    def is_calm(self, first: int, last: int) -> bool:
        """Was there no fault at any time between?"""
        n = bisect_right(self._troubles, last, key=itemgetter(0)) - 1
        return n < 0 or self._troubles[n][1] < first

    # --- the pass ---

    def _take(self, record: Record) -> None:
        t, p, u, dev, conn, n, type_, f, v = record
        self.counts[f, type_] += 1
        if f == "deliver":
            assert isinstance(v, Delivered)
            visit = self._visit((p, u, dev, conn), t)
            visit.heard_at = t
            if v.kind == REMOVED:
                visit.removals.append((t, v))
            else:
                visit.delivered.append((t, v))
                visit.got.add(v.position)
        elif n:
            key = (p, u, dev, conn, n)
            if type_ == "invoke":
                self._pending[key] = record
            elif f in ("read", "presence"):  # an inbox or a list of members is several answers
                if (asked := self._pending.get(key)) is not None:
                    self._answered.add(key)
                    self._settle(asked, record)
            elif (asked := self._pending.pop(key, None)) is not None:
                self._settle(asked, record)
            if type_ in ("ok", "fail") and conn:
                self._visit((p, u, dev, conn), t).heard_at = t
        elif f == "connect":
            visit = self._visit((p, u, dev, conn), t)
            if type_ == "ok":
                assert isinstance(v, Opened)
                visit.opened, visit.opened_at, visit.heard_at = v, t, t
        elif f == "close":
            assert isinstance(v, Closed)
            visit = self._visit((p, u, dev, conn), t)
            visit.closed, visit.closed_at = v, t
        elif f == "nemesis":
            assert isinstance(v, Fault)
            if v.name in PHASES:
                self.phases[v.name] = t
            elif type_ == "info":
                self.samples.append(Sample(t, v))
        elif f in ("presence", "read"):
            self._settle(record, record)

    def _visit(self, key: VisitKey, t: int) -> Visit:
        visit = self.visits.get(key)
        if visit is None:
            visit = self.visits[key] = Visit(key, t)
        return visit

    def _settle(self, asked: Record, done: Record | None) -> None:
        v = asked.v
        if isinstance(v, Sending):
            outcome = "info" if done is None else done.type
            answer = v if done is None else done.v
            assert isinstance(answer, Sending), "a send is answered as a send"
            assert outcome != "invoke", "an answer asks nothing"
            ended = NEVER if done is None else done.t
            self.sends[asked.u, v.id].append(Send(asked[1:5], asked.t, ended, outcome, v, answer))
        elif isinstance(v, Fault):
            self.windows.append(Window(asked.t, NEVER if done is None else done.t, v))
        else:
            self.operations[asked.f].append(Operation(asked, done))


def outcome_of(tries: Sequence[Send]) -> Outcome:
    """What became of a send, over all its tries."""
    outcomes = {one.outcome for one in tries}
    return "ok" if "ok" in outcomes else "info" if "info" in outcomes else "fail"


def is_own(entry: Entry | Delivered, device: tuple[int, str]) -> bool:
    """Did this very device say it? Then it need not be delivered to it."""
    return entry.mid == device[0] and entry.key == device[1] and entry.kind == MESSAGE_SENT
