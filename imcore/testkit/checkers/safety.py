"""P1 to P21: what must never happen, whatever is killed, stopped, cut or slow.

Each is a function of a run and what it finds goes into a tally. The server assigns positions and seqs, so the order of the log is
known and every predicate is a scan: O(n log n), nothing is searched for.

imcore's mechanism, as it is judged here: seqs are dense per room and count every event; positions are dense over the whole log; one
connection is given events in order of position over all its rooms, beginning right after the position that its auth reply told, so a
cursor is one position; a message is not given back to the connection that sent it; an id is one message of its sender for ever. Rooms
of live types have no members, so nothing is owed there.

What a member is owed ends with the membership: of a room that one was removed from, the rest that had not been delivered yet never
comes. So of a membership that ended, what is missing must be its end.

Devices are taken to accept every operation: of one that does not, P6, P8, P13 and P20 would miss what it did not want.

The trap: only what was stored in the log that is there now can be judged by it. Connections that were told another epoch are judged
among themselves (P14).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from operator import itemgetter
from typing import Final

from imcore.events.types import (
    MESSAGE_SENT,
    SERVICE_MID,
    USER,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    ReadMarked,
    RoleChanged,
)
from imcore.projections.inbox import Inbox
from imcore.testkit.checkers.findings import Bounds, Tally
from imcore.testkit.checkers.run import NEVER, SECOND, Operation, Run, Send, Visit, VisitKey, is_own, outcome_of
from imcore.testkit.history import (
    DRAINED,
    Acking,
    Belonging,
    Delivered,
    Entry,
    Interval,
    Log,
    Paging,
    Reading,
    Sending,
)

REFUSABLE: Final[dict[str, type[Belonging | Reading | Paging]]] = {
    "join": Belonging, "leave": Belonging, "read": Reading, "history": Paging,
}  # fmt: skip
DONE: Final = {
    "join": MemberJoined.type, "leave": MemberLeft.type, "kick": MemberRemoved.type, "role": RoleChanged.type,
}  # fmt: skip
REASONS: Final = frozenset(("new", "expired", "epoch", "too_far", "not_member"))
Check = Callable[[Run, Bounds, Tally], None]


# --- the log -----------------------------------------------------------------------------------------------------------------


def acked_sends_are_stored(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P1. What was acknowledged is in the log, at the place that was told, as it was said; joins, leaves and removals too."""
    for (mid, id_), tries in run.sends.items():
        for one in tries:
            if one.outcome == "ok" and run.is_of_this_log(one.visit):
                tally.checked += 1
                told = one.answer
                entry = run.log.at.get((told.room, told.seq))
                if entry is None:
                    tally.found("an acknowledged message is not in the log", mid=mid, id=id_, told=told)
                elif (entry.kind, entry.mid, entry.id) != (MESSAGE_SENT, mid, id_):
                    tally.found("another event is where an acknowledged message should be", told=told, entry=entry)
                elif entry.hash != told.hash or entry.position != told.position:
                    tally.found("an acknowledged message is stored otherwise", told=told, entry=entry)
    for f, kind in DONE.items():
        for operation, _, v in run.answered(f, Belonging):
            if v.position and run.is_of_this_log(operation.visit) and run.log.has_members(v.room):
                tally.checked += 1
                entry = run.log.at.get((v.room, v.seq))
                if entry is None or (entry.position, entry.kind, entry.whom) != (v.position, kind, v.mid):
                    tally.found("what was acknowledged is not in the log", f=f, told=v, entry=entry)


def nothing_comes_from_nowhere(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P2. What is stored or delivered was sent, and was not refused for sure."""
    sent = {key for key, tries in run.sends.items() if outcome_of(tries) != "fail"}
    for entry in run.log.entries:
        if entry.kind == MESSAGE_SENT:
            tally.checked += 1
            if (entry.mid, entry.id) not in sent:
                refused = (entry.mid, entry.id) in run.sends
                tally.found("a refused message is stored" if refused else "nobody sent what is stored", entry=entry)
    for visit in run.visits.values():
        for _, event in visit.delivered:
            if event.kind == MESSAGE_SENT:
                tally.checked += 1
                if (event.mid, event.id) not in sent:
                    refused = (event.mid, event.id) in run.sends
                    says = "a refused message was delivered" if refused else "nobody sent what was delivered"
                    tally.found(says, event=event, to=visit.key)


def an_id_is_one_message(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P3. An id is in the log once at most, has one answer for ever, and never stands for two messages."""
    first: dict[tuple[int, str], Entry] = {}
    for entry in run.log.entries:
        if entry.kind == MESSAGE_SENT and entry.id:
            tally.checked += 1
            if (other := first.setdefault((entry.mid, entry.id), entry)) is not entry:
                tally.found("one id is stored twice", first=other, second=entry)
    for (mid, id_), tries in run.sends.items():
        answers = {
            (one.answer.room, one.answer.seq, one.answer.position, one.asked.hash)
            for one in tries
            if one.outcome == "ok" and run.is_of_this_log(one.visit)
        }
        tally.checked += 1
        if len(answers) > 1:
            tally.found("one id has two results", mid=mid, id=id_, results=sorted(answers))


def the_log_is_dense(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P4. Seqs of a room are 1, 2, 3, …, and so are positions."""
    log = run.log
    for room, entries in log.rooms.items():
        for n, entry in enumerate(entries, 1):
            tally.checked += 1
            if entry.seq != n:
                tally.found("a room's seqs are not 1, 2, 3, …", room=room, expected=n, entry=entry)
                break
        head = log.heads.get(room, len(entries))
        if head != entries[-1].seq:
            tally.found("a room's head is not its last event", room=room, head=head, last=entries[-1].seq)
    for room in log.heads.keys() - log.rooms.keys():
        tally.found("a room has a head and no events", room=room, head=log.heads[room])
    if log.positions != log.head:
        tally.found("the log's positions are not 1, 2, 3, …", events=log.positions, head=log.head)
    for one, other in pairwise(log.entries):
        if one.position >= other.position:
            tally.found("one position holds two events", first=one, second=other)


def everybody_sees_what_is_stored(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P5. Whatever anybody is shown at a place is what the log has there: one order for all.

    A message may be shown as one of its edits has it, or, when it was recalled, without its words.
    """
    for event, key, _ in _shown(run):
        tally.checked += 1
        entry = run.log.at.get((event.room, event.seq))
        if entry is None:
            tally.found("what was shown is not in the log", event=event, to=key)
        elif tuple(entry) != tuple(event) and (
            tuple(entry) != tuple(event._replace(hash=entry.hash)) or not run.log.reads_as(entry, event.hash)
        ):
            tally.found("what was shown is another event in the log", event=event, entry=entry, to=key)
    for visit in run.visits.values():
        for _, notice in visit.removals if run.is_of_this_log(visit.key) else ():
            tally.checked += 1
            ends = (span.end_position for span in run.log.memberships.get((visit.mid, notice.room), ()))
            if run.log.has_members(notice.room) and notice.position not in ends:
                tally.found("a removal was told that did not happen", notice=notice, to=visit.key)


# --- what is owed ----------------------------------------------------------------------------------------------------------------


def nothing_is_lost(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P6. After the drain, every device of a member has everything since it was first here."""
    if DRAINED not in run.phases:
        tally.void = "no drain was recorded"
        return
    fetched: defaultdict[int, set[int]] = defaultdict(set)
    for operation, _, page in run.answered("history", Paging):
        fetched[operation.asked.u].update(event.position for event in page.events)
    for device, visits in run.devices.items():
        if not any(map(run.is_there, visits)):
            continue  # it did not come back; who should have is the harness's to say
        base = visits[0].opened.position
        for visit in visits[1:]:
            if not visit.opened.recovered:
                base = visit.opened.position  # the client was told to fetch what it shows
        got = set[int]().union(*(visit.got for visit in visits))
        seen = fetched[device[0]]
        for entry, span in run.sight(device[0]).between(base, NEVER):
            if span.is_open and entry.kind != ReadMarked.type and not is_own(entry, device):
                tally.checked += 1
                if entry.position not in got and entry.position not in seen:
                    tally.found("a member was never delivered this", device=device, entry=entry)


def a_connection_goes_forward(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P7. On one connection positions only grow, and so do the seqs of each room."""
    for visit in run.visits.values():
        last: Delivered | None = None
        for _, event in visit.delivered:
            if event.position:
                tally.checked += 1
                if last is not None and event.position <= last.position:
                    tally.found("an event came after a later one", event=event, after=last, to=visit.key)
                else:
                    last = event
        seqs: dict[str, int] = {}
        for _, event in visit.delivered:
            last_seq = seqs.get(event.room, 0)
            if event.seq and event.seq < last_seq:
                tally.found("a room went back", event=event, after=last_seq, to=visit.key)
            seqs[event.room] = max(last_seq, event.seq)


def nothing_is_skipped(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P8. Between two events of a connection nothing that it is owed is missing, in any of its rooms."""
    for visit in run.visits.values():
        if not run.is_of_this_log(visit.key):
            continue
        places = [event.position for _, event in visit.delivered if event.position > visit.opened.position]
        tally.checked += len(places)
        if len(places) > 1:
            for entry in _missing(run, visit, min(places), max(places)):
                tally.found("an event was skipped", entry=entry, to=visit.key)


def nothing_comes_twice(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P9. A connection is given nothing that lies before where it began, or that it has; and begins no earlier than its cursor."""
    for visit in run.visits.values():
        opened = visit.opened
        if opened.recovered and 0 <= opened.cursor and opened.position < opened.cursor:
            tally.found("delivery began before the cursor", opened=opened, to=visit.key)
        seen: set[int] = set()
        for _, event in visit.delivered:
            if event.position:
                tally.checked += 1
                if event.position in seen:
                    tally.found("an event came twice", event=event, to=visit.key)
                elif event.position <= opened.position:
                    tally.found(
                        "an event came that lies before the beginning", event=event, opened=opened, to=visit.key
                    )
                seen.add(event.position)


def a_resume_is_truthful(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P13. Delivery begins right after the position told; recovered means right after the cursor; if not, there is a reason."""
    for visit in run.visits.values():
        opened = visit.opened
        tally.checked += 1
        if opened.recovered:
            if opened.reason:
                tally.found("recovered, and a reason why not", opened=opened, to=visit.key)
            if 0 <= opened.cursor < opened.position:
                tally.found("recovered, with a hole after the cursor", opened=opened, to=visit.key)
            if run.is_of_this_log(visit.key) and opened.position > run.log.head:
                tally.found("recovered from beyond the end of the log", opened=opened, to=visit.key)
        elif opened.reason not in REASONS:
            tally.found("not recovered, for no reason that there is", opened=opened, to=visit.key)
        elif opened.reason == "epoch" and opened.cursor >= 0 and opened.cursor_epoch == opened.epoch:
            tally.found("told of another epoch, which it is not", opened=opened, to=visit.key)
        places = [event.position for _, event in visit.delivered if event.position > opened.position]
        if places and run.is_of_this_log(visit.key):
            for entry in _missing(run, visit, opened.position, min(places)):
                tally.found("what comes right after the beginning is missing", entry=entry, opened=opened, to=visit.key)


def nobody_is_dropped_silently(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P20. Who is still connected at the end has everything up to the end; else it was closed. What waits is bounded."""
    for visit in run.visits.values():
        if run.is_there(visit) and run.is_of_this_log(visit.key):
            tally.checked += 1
            last = max((visit.opened.position, *visit.got))
            for entry in _missing(run, visit, last, NEVER):
                if entry.kind != ReadMarked.type:
                    tally.found("an open connection stopped being served", entry=entry, last=last, to=visit.key)
    for t, fault in run.samples:
        if fault.name == "unsent_bytes":
            tally.checked += 1
            if fault.value > bounds.unsent_bytes_max:
                tally.found("more waits for slow clients than may", at=t, process=fault.target, bytes=fault.value)


# --- order in time ---------------------------------------------------------------------------------------------------------------


def later_is_after(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P10. What was sent after another message of the room was acknowledged comes after it."""
    steps: list[tuple[int, int, Send]] = []
    for tries in run.sends.values():
        for one in tries:
            if one.outcome == "ok" and run.is_of_this_log(one.visit):
                # An id that was tried again has its place from any of its tries.
                steps.append((tries[0].began, 0, one))
                steps.append((one.ended, 1, one))
    steps.sort(key=lambda step: step[:2])
    last: dict[str, Sending] = {}
    for _, kind, one in steps:
        told = one.answer
        before = last.get(told.room)
        if kind == 0:
            tally.checked += 1
            if before is not None and told.seq <= before.seq and told.id != before.id:
                tally.found("a later message has the earlier place", later=told, earlier=before)
        elif before is None or told.seq > before.seq:
            last[told.room] = told


def a_sender_is_in_order(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P11. Messages of one connection to one room, none of them tried again, are stored in the order in which they were sent."""
    sent: defaultdict[tuple[object, str], list[Send]] = defaultdict(list)
    for tries in run.sends.values():
        if len(tries) == 1 and tries[0].outcome == "ok" and tries[0].visit[3]:
            sent[tries[0].visit, tries[0].asked.room].append(tries[0])
    for (visit, _), sends in sent.items():
        sends.sort(key=lambda one: one.began)
        tally.checked += len(sends)
        for one, other in pairwise(sends):
            if one.began < other.began and one.answer.seq >= other.answer.seq:
                tally.found("a sender's messages changed places", first=one.answer, second=other.answer, on=visit)


def history_has_what_was_said(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P12. A page is everything that the reader may see in its range, and what was acknowledged before is there; heads never shrink."""
    steps: list[tuple[int, int, str, int, object]] = []
    for operation, asked, page in run.answered("history", Paging):
        tally.checked += 1
        if run.is_of_this_log(operation.visit):
            _check_page(run, operation, page, tally)
            steps.append((operation.asked.t, 0, page.room, page.head, (operation.visit, asked)))
            steps.append((operation.told_at, 1, page.room, page.head, None))
    for tries in run.sends.values():
        steps += [
            (one.ended, 1, one.answer.room, one.answer.seq, None)
            for one in tries
            if one.outcome == "ok" and run.is_of_this_log(one.visit)
        ]
    steps.sort(key=lambda step: step[:2])
    known: dict[str, int] = {}
    for _, kind, room, seq, reader in steps:
        if kind:
            known[room] = max(known.get(room, 0), seq)
        elif seq < known.get(room, 0):
            tally.found("a history ends before what was there", room=room, head=seq, known=known[room], reader=reader)


def _check_page(run: Run, operation: Operation, page: Paging, tally: Tally) -> None:
    """The page has no hole: it is what lies next to where it was asked from."""
    log, mid = run.log, operation.asked.u
    begins = 1
    if log.has_members(page.room) and page.room not in log.shown and mid != SERVICE_MID:
        if page.events:
            span = log.interval(mid, page.room, page.events[-1].seq)
        else:  # by which membership it was asked is plain only if there was just one
            spans = log.memberships.get((mid, page.room), ())
            span = spans[0] if len(spans) == 1 and spans[0].is_open else None
        if span is None:
            return
        begins = span.first
    if page.after >= 0:
        end = page.events[-1].seq if page.more and page.events else page.head
        wanted = range(max(page.after + 1, begins), end + 1)
    else:
        first = page.events[0].seq if page.more and page.events else begins
        wanted = range(first, min(page.head + 1, page.before if page.before > 0 else NEVER))
    missing = set(wanted) - {event.seq for event in page.events}
    if missing:
        asked, reader = operation.asked.v, operation.visit
        tally.found("a page of history has a hole", asked=asked, reader=reader, seqs=sorted(missing)[:10])


# --- epochs and marks --------------------------------------------------------------------------------------------------------------


def an_epoch_is_one_log(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P14. In one epoch a place holds one event, whoever sees it; epochs do not come back; a cursor of another one is told so."""
    seen: dict[tuple[str, str, int], tuple[object, ...]] = {}
    current = run.log.epoch
    for event, key, _ in _shown(run, any_epoch=True):
        visit = run.visits.get(key)
        epoch = (visit.opened.epoch if visit is not None else "") or current
        tally.checked += 1
        entry = run.log.at.get((event.room, event.seq))
        # Edited or recalled it is the same message.
        said = entry.hash if entry is not None and run.log.reads_as(entry, event.hash) else event.hash
        what = (event.position, event.kind, event.mid, event.id, said, event.whom)
        if (other := seen.setdefault((epoch, event.room, event.seq), what)) != what:
            tally.found("one place held two events", room=event.room, seq=event.seq, first=other, second=what)
    steps: list[tuple[int, int, str]] = []
    for visit in run.visits.values():
        opened = visit.opened
        if opened.epoch:
            tally.checked += 1
            steps += [(visit.asked_at, 0, opened.epoch), (visit.opened_at, 1, opened.epoch)]
            if opened.recovered and opened.cursor >= 0 and opened.cursor_epoch != opened.epoch:
                tally.found("a cursor of another epoch was recovered", opened=opened, to=visit.key)
    # An epoch is over when all that began after some time were told another.
    last: dict[str, int] = {}
    first: dict[str, int] = {}
    for t, kind, epoch in sorted(steps):
        if kind == 0:
            last[epoch] = t  # the last time that somebody asked and was told it
        else:
            first.setdefault(epoch, t)
    order = sorted(first, key=first.__getitem__)
    for epoch, later in pairwise(order):
        if last[epoch] > first[later]:
            tally.found("an epoch came back after another", epoch=epoch, later=later)
    if order and current and order[-1] != current:
        tally.found("the log is of an epoch that clients were not told last", told=order[-1], log=current)


def marks_go_forward(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P15. A read mark, once answered, never goes back, is in the log, and is of a member; an ack is what was acknowledged, or more."""
    log = run.log
    stored: defaultdict[tuple[int, str], int] = defaultdict(int)
    for mark in log.read_marks:
        stored[mark.mid, mark.room] = max(stored[mark.mid, mark.room], mark.seq)
    steps: list[tuple[int, int, int, str, int]] = []
    for operation, _, v in run.answered("read", Reading):
        if not run.is_of_this_log(operation.visit):
            continue
        tally.checked += 1
        mid = operation.asked.u
        steps += [(operation.asked.t, 0, mid, v.room, v.seq), (operation.told_at, 1, mid, v.room, v.seq)]
        joins = log.memberships.get((mid, v.room), ())
        if not joins:
            tally.found("a mark of who is no member", mid=mid, mark=v)
        elif v.seq > log.last_seq(v.room):
            tally.found("a mark beyond the end of the room", mid=mid, mark=v, head=log.last_seq(v.room))
        elif v.seq > max(stored[mid, v.room], joins[-1].first):
            tally.found("a mark was answered and is not in the log", mid=mid, mark=v, stored=stored[mid, v.room])
    steps.sort()
    known: dict[tuple[int, str], int] = {}
    for _, kind, mid, room, seq in steps:
        if kind:
            known[mid, room] = max(known.get((mid, room), 0), seq)
        elif seq < known.get((mid, room), 0):
            tally.found("a read mark went back", mid=mid, room=room, mark=seq, known=known[mid, room])
    _check_acks(run, tally)


def _check_acks(run: Run, tally: Tally) -> None:
    acks: list[tuple[int, int, object, int]] = []
    for operation, asked, told in run.answered("ack", Acking):
        tally.checked += 1
        acks.append((operation.asked.t, 0, operation.visit, told.position))
        acks.append((operation.told_at, 1, operation.visit, told.position))
        if told.position < asked.position:
            tally.found("an ack was answered with less", asked=asked, told=told, on=operation.visit)
        elif run.is_of_this_log(operation.visit) and told.position > run.log.head:
            tally.found("an ack beyond the end of the log", told=told, on=operation.visit)
    acks.sort(key=lambda step: step[:2])
    known: dict[object, int] = {}
    for _, kind, visit, position in acks:
        if kind:
            known[visit] = max(known.get(visit, 0), position)
        elif position < known.get(visit, 0):
            tally.found("a delivery mark went back", on=visit, mark=position, known=known[visit])


def unread_is_exact(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P16. Unread is the count of others' messages after the mark: in every row, and in every answer at rest."""
    log = run.log
    count = _Count(log)
    if (inbox := log.projected.get("inbox")) is not None:
        for (mid, room), row in inbox.live.items():
            assert isinstance(row, Inbox), "rows are of their projection"
            assert isinstance(mid, int), "so are their keys"
            assert isinstance(room, str)
            tally.checked += 1
            unread = count.messages(room, inbox.position) - row.seen - (row.sent - row.sent_seen)
            counted = count.unread(mid, room, row.read_seq, inbox.position)
            if unread != counted:
                tally.found("an inbox counts wrong", mid=mid, room=room, row=row, counted=counted)
    drained = run.phases.get(DRAINED, NEVER)
    for operation, _, v in run.answered("read", Reading):
        if v.unread >= 0 and log.has_members(v.room) and run.is_of_this_log(operation.visit):
            tally.checked += 1
            counted = count.unread(operation.asked.u, v.room, v.seq, NEVER)
            if v.unread != counted if operation.asked.t > drained else v.unread > counted:
                tally.found("unread was told wrong", mid=operation.asked.u, told=v, counted=counted)


class _Count:
    """Counts messages without looking at each."""

    def __init__(self, log: Log) -> None:
        self._places: defaultdict[tuple[int | None, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for entry in log.entries:
            if entry.is_message:
                for who in (None, entry.mid):
                    seqs, positions = self._places[who, entry.room]
                    seqs.append(entry.seq)
                    positions.append(entry.position)

    def messages(self, room: str, upto: int) -> int:
        """Of the room, up to a position."""
        return self._between(None, room, 0, upto)

    def unread(self, mid: int, room: str, after_seq: int, upto: int) -> int:
        """Those of others after a seq, up to a position."""
        return self._between(None, room, after_seq, upto) - self._between(mid, room, after_seq, upto)

    def _between(self, who: int | None, room: str, after_seq: int, upto: int) -> int:
        seqs, positions = self._places[who, room]
        return max(0, bisect_right(positions, upto) - bisect_right(seqs, after_seq))


# --- who may -----------------------------------------------------------------------------------------------------------------------


def only_members_see(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P17a. Whatever anybody is shown lies in a membership of theirs, or is meant for them."""
    log = run.log
    for event, key, is_asked in _shown(run):
        mid, device = key[1], key[2]
        tally.checked += 1
        if mid != SERVICE_MID and not log.sees(mid, device, event.room, event.seq):
            joined = log.memberships.get((mid, event.room), ())
            if is_asked and event.room in log.shown and joined and event.seq < joined[-1].end:
                continue  # its members see what was said before they came, if they ask
            tally.found("somebody was shown what is not theirs", event=event, to=key, memberships=list(joined))


def the_removed_get_nothing_more(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P17b. Nothing of a room comes to who was told to be out of it, nor later than the bound after the removal was acknowledged.

    What has no place in the log (receipts, signals) is held against a removal only if nobody let the removed in again.
    """
    for visit in run.visits.values():
        tally.checked += len(visit.removals)
        _check_removals(run, visit, tally)
    late = int(bounds.revoked_s * SECOND)
    for operation, _, v in run.answered("kick", Belonging):
        if v.room and run.is_of_this_log(operation.visit):
            tally.checked += 1
            done_at = operation.told_at
            for visit in run.people[v.mid]:
                for at, event in visit.delivered[bisect_right(visit.delivered, done_at + late, key=itemgetter(0)) :]:
                    if event.position > v.position:
                        break
                    if not event.is_stored and not _is_out_for_good(run.log, v.mid, v.room, v.position):
                        continue
                    if event.room == v.room and run.is_calm(done_at, at):
                        tally.found(
                            "something of a room came long after the removal", event=event, kick=v, to=visit.key
                        )


def _check_removals(run: Run, visit: Visit, tally: Tally) -> None:
    told: dict[str, int] = {}
    removals = iter([*visit.removals, (NEVER, None)])
    t, notice = next(removals)
    for at, event in visit.delivered if visit.removals else ():
        while t < at and notice is not None:
            told[notice.room] = notice.position
            t, notice = next(removals)
        removed_at = told.get(event.room, 0)
        if event.is_stored:
            is_late = event.position < removed_at
        else:
            is_known = removed_at > 0 and run.is_of_this_log(visit.key)
            is_late = is_known and _is_out_for_good(run.log, visit.mid, event.room, removed_at)
        if is_late:
            says = "something of a room came after its removal was told"
            tally.found(says, event=event, removed_at=removed_at, to=visit.key)


def _is_out_for_good(log: Log, mid: int, room: str, position: int) -> bool:
    """Was this person in the room at no time after this position?

    What is not stored tells no position. So it is held against a removal only if nobody let the removed in again.
    """
    return all(span.end_position <= position for span in log.memberships.get((mid, room), ()))


def only_members_send(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P17c. Every message of a room lies in a membership of its sender."""
    log = run.log
    for entry in log.entries:
        if entry.kind == MESSAGE_SENT and log.has_members(entry.room):
            tally.checked += 1
            if log.interval(entry.mid, entry.room, entry.seq) is None:
                tally.found("a message of who was no member", entry=entry)


def rooms_keep_their_secret(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P17d. A room that is not there and one that is not yours give the same answer."""
    answers: defaultdict[str, dict[tuple[str, str], object]] = defaultdict(dict)
    for f, mid, room, code, text in _refusals(run):
        if "://" in room and run.log.has_members(room) and not run.log.memberships.get((mid, room)):
            tally.checked += 1
            answers[f].setdefault((code, text), (mid, room, "is there" if room in run.log.rooms else "is not there"))
    for f, told in answers.items():
        if len(told) > 1:
            tally.found("strangers are told two things", f=f, answers=told)


def _refusals(run: Run) -> Iterator[tuple[str, int, str, str, str]]:
    """What was refused for sure, and not for being too much or too soon: f, who, room, code and text."""
    passing = {"rate_limited", "overloaded", "conflict", "slow_mode"}
    for (mid, _), tries in run.sends.items():
        for one in tries:
            if one.outcome == "fail" and one.answer.code not in passing:
                yield "send", mid, one.asked.room, one.answer.code, one.answer.text
    for f, kind in REFUSABLE.items():
        for operation, asked, told in run.answered(f, kind, "fail"):
            if told.code not in passing:
                yield f, operation.asked.u, asked.room, told.code, told.text


# --- sessions ------------------------------------------------------------------------------------------------------------------------


def a_takeover_ends_the_older(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P18. When a device comes back, its older connection is closed in time, and nothing that it asks after that is done."""
    late = int(bounds.taken_over_s * SECOND)
    taken: dict[object, int] = {}
    for visits in run.devices.values():
        for older, newer in pairwise(visits):
            if older.opened_at < newer.asked_at and older.closed_at > newer.asked_at:
                tally.checked += 1
                taken[older.key] = newer.opened_at + late
                end = newer.opened_at + late
                if min(older.closed_at, run.lasted[older.key[0]]) > end and run.is_calm(newer.opened_at, end):
                    tally.found("the older connection stayed", older=older.key, newer=newer.key)
    for visit, asked_at, what in _done_on(run):
        if asked_at > taken.get(visit, NEVER):
            tally.found("the older connection was still obeyed", on=visit, what=what)


def a_revoked_session_is_over(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P21. After sessions were ended by order, their connections are given nothing and obeyed in nothing.

    Of what comes after the order in the log they are given nothing at any time; and in time they are over, if nothing is broken.
    """
    late = int(bounds.taken_over_s * SECOND)
    revoked: dict[object, tuple[int, int]] = {}
    for operation, _, v in run.answered("kick", Belonging):
        if v.room:
            continue
        tally.checked += 1
        done_at = operation.told_at
        for visit in run.people[v.mid]:
            if v.key in ("", visit.key[2]) and visit.opened_at < done_at:
                revoked[visit.key] = min((done_at + late, done_at), revoked.get(visit.key, (NEVER, NEVER)))
                for at, event in visit.delivered:
                    is_later = 0 < v.position < event.position and run.is_of_this_log(visit.key)
                    if is_later or (at > done_at + late and run.is_calm(done_at, at)):
                        tally.found("a session that was ended was delivered something", event=event, to=visit.key)
                        break
    for on, asked_at, what in _done_on(run):
        end, done_at = revoked.get(on, (NEVER, NEVER))
        if asked_at > end and run.is_calm(done_at, asked_at):
            tally.found("a session that was ended was obeyed", on=on, what=what)


def rows_are_the_fold(run: Run, bounds: Bounds, tally: Tally) -> None:
    """P19. The rows of every projection are the fold of the log."""
    for name, projected in run.log.projected.items():
        keys = projected.live.keys() | projected.folded.keys()
        tally.checked += len(keys)
        for key in keys:
            live, folded = projected.live.get(key), projected.folded.get(key)
            if live != folded:
                tally.found("a row is not the fold of the log", projection=name, key=key, live=live, folded=folded)


# --- shared -------------------------------------------------------------------------------------------------------------------------


def _shown(run: Run, *, any_epoch: bool = False) -> Iterator[tuple[Delivered, VisitKey, bool]]:
    """Every event that anybody was given or (True) asked for, with the connection; pushes that are not stored left out."""
    for visit in run.visits.values():
        if any_epoch or run.is_of_this_log(visit.key):
            for _, event in visit.delivered:
                if event.position:
                    yield event, visit.key, False
    for operation, _, page in run.answered("history", Paging):
        if any_epoch or run.is_of_this_log(operation.visit):
            for event in page.events:
                yield event, operation.visit, True


def _missing(run: Run, visit: Visit, after: int, before: int) -> Iterable[Entry]:
    """What this connection is owed strictly between two positions and was not given."""
    missing = [
        (entry, span)
        for entry, span in run.sight(visit.mid).between(after, before)
        if entry.position not in visit.got and not is_own(entry, visit.device)
    ]
    if not missing:
        return []
    came: dict[tuple[str, int], int] = {}
    for _, event in visit.delivered:
        span = run.log.interval(visit.mid, event.room, event.seq)
        if span is not None:
            came[event.room, span.first] = max(event.position, came.get((event.room, span.first), 0))
    return [entry for entry, span in missing if _is_owed(entry, span, came)]


def _is_owed(entry: Entry, span: Interval, came: dict[tuple[str, int], int]) -> bool:
    return span.is_open or entry.room.startswith(USER) or came.get((entry.room, span.first), 0) > entry.position


def _done_on(run: Run) -> Iterator[tuple[object, int, object]]:
    """Every operation that was done: on which connection, asked when, and what."""
    for tries in run.sends.values():
        for one in tries:
            if one.outcome == "ok" and one.visit[3]:
                yield one.visit, one.began, one.answer
    for f in ("join", "leave", "ack", "read", "history"):
        for operation in run.operations[f]:
            if operation.outcome == "ok" and operation.asked.conn and operation.done is not None:
                yield operation.visit, operation.asked.t, operation.done.v


PREDICATES: Final[dict[str, Check]] = {
    "P1": acked_sends_are_stored,
    "P2": nothing_comes_from_nowhere,
    "P3": an_id_is_one_message,
    "P4": the_log_is_dense,
    "P5": everybody_sees_what_is_stored,
    "P6": nothing_is_lost,
    "P7": a_connection_goes_forward,
    "P8": nothing_is_skipped,
    "P9": nothing_comes_twice,
    "P10": later_is_after,
    "P11": a_sender_is_in_order,
    "P12": history_has_what_was_said,
    "P13": a_resume_is_truthful,
    "P14": an_epoch_is_one_log,
    "P15": marks_go_forward,
    "P16": unread_is_exact,
    "P17a": only_members_see,
    "P17b": the_removed_get_nothing_more,
    "P17c": only_members_send,
    "P17d": rooms_keep_their_secret,
    "P18": a_takeover_ends_the_older,
    "P19": rows_are_the_fold,
    "P20": nobody_is_dropped_silently,
    "P21": a_revoked_session_is_over,
}
