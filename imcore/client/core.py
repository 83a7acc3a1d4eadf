"""One device's side of the protocol, without I/O: bytes in, happenings out, bytes out. No socket, no clock, no event loop.

The core outlives its connections. Around it somebody connects (`connected`, `auth`), gives it what arrives (`receive`), writes what it
has to say (`take`, when `due`), tells it when a connection is over (`lost`) and when the program has dealt with something (`settle`).
Time and chance come in as arguments.

- **Each event once, in order.** (place, seq) names an event. What was received before is dropped; what this device sent itself is
  never handed on, because the answer to `send` told of it.
- **A hole is looked into.** In a room whose events all come (version 2, every operation accepted), the next seq is the last plus one,
  but for own sends, which are not echoed. If seqs are missing that no answer explains, everything waits while the room's history is
  asked; what it has is handed on in its place and counted, what it does not have becomes a `Reset`.
- **Nothing asked is forgotten.** A request without an outcome is asked again on the next connection, a send with the id that it had. At
  most `window` sends are under way; a server that says "later" halves it. Of requests that the server works on side by side at most
  `READS_MAX` are under way, as many as it takes.
- **What would happen twice is not asked twice.** A call that may not be repeated, and was written to a connection which broke, ends
  with `Unavailable`: nobody knows whether it was carried out.
- **Who is watched stays watched.** The server forgets it with the connection, so the next one asks again, and what changed
  meanwhile comes as the `Presence` that was missed.
- **A position is acknowledged** when everything up to it is settled, and came over this very connection: the server refuses others.

The trap: what is *received* runs ahead of what is *settled*, and a crash forgets the difference. So what is stored (`Entry.place` and
`seq`, the cursor) follows what is settled only, and the server gives the rest again.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import orjson

from imcore.client.calls import NOTHING_DONE
from imcore.client.codec import Codec, Told
from imcore.client.envelope import from_envelope
from imcore.client.errors import ClientError, Unavailable, from_facts, refused
from imcore.client.events import Event, Happening, Presence, Removed, Reset
from imcore.errors import BadPacket
from imcore.protocol.packet import INT32_MAX, PAGE_ROWS_MAX, Op

READS_MAX: Final = 8  # of the requests that the server works on side by side: more of a connection it refuses
WATCH_MIDS: Final = 2_000  # in one question: more might be no packet
WINDOW_MAX: Final = 64  # sends under way: more than a server takes in one batch gains nothing
OWN_SEQS_MAX: Final = (
    10_000  # remembered in a room where nothing else comes; forgetting one costs a look into the history
)
HOLE_EVENTS_MAX: Final = (
    1_000  # of a larger one only a reset tells: filling it would take memory, and time in which all waits
)
UNKNOWN: Final = "the connection broke before the answer came; whether it was carried out is not known"
RETRY_S: Final = 0.2  # before asking again, where the server names no time; doubles, up to
RETRY_MAX_S: Final = 5.0

_HEARTBEAT: Final = int(Op.HEARTBEAT)
_SEND: Final = int(Op.SEND)
_DISCONNECT: Final = int(Op.DISCONNECT)
_AUTH: Final = int(Op.AUTH)
_AUTH_REPLY: Final = int(Op.AUTH_REPLY)
_EVENT: Final = int(Op.EVENT)
_LEAVE: Final = int(Op.LEAVE)
_HISTORY: Final = int(Op.HISTORY)
_ACK: Final = int(Op.ACK)
_REMOVED: Final = int(Op.REMOVED)
_CALL: Final = int(Op.CALL)
_READS: Final = frozenset(int(op) for op in (Op.HISTORY, Op.READ, Op.MEMBERS, Op.INBOX, Op.CALL))


@dataclass(slots=True, eq=False)
class Asked:
    """A request that has no outcome yet. Kept over connections."""

    op: int
    body: bytes
    n: int = 0  # the order in which requests were made
    room: str = ""  # of a send, or of a call that sends
    may_repeat: bool = True  # twice is as good as once
    id: str = ""
    tries: int = 0  # how often it was written
    refusals: int = 0  # how often the server said "later"
    due: float = 0.0
    is_wanted: bool = True  # somebody waits for the outcome
    is_queued: bool = False  # to be written, now or later
    is_watch: bool = False  # asked for by the core itself: who is watched, again
    is_unsure: bool = False  # it was written to a connection that broke: it may have been carried out


@dataclass(slots=True, eq=False)
class Entry:
    """Something for the program, in order. `happening` is None for what passes it by: what this device sent itself.

    The store is told of `place` and `seq` when it is settled, or, of a Reset of the server's, of its cursor.
    """

    happening: Happening | None
    era: int
    position: int = 0
    place: str = ""
    seq: int = 0
    cursor: str | None = None
    forgets: bool = False  # a Reset after which what is stored means nothing
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """The auth was answered: this is who we are, and delivery begins."""

    mid: int
    key: str
    epoch: str
    position: int
    cursor: str
    recovered: bool
    reason: str
    heartbeat_s: float
    rooms: tuple[str, ...]
    store: bool  # the cursor may be stored at once: nothing is lost by it


@dataclass(frozen=True, slots=True)
class Answered:
    """A request has its outcome: the reply's body, or why not."""

    asked: Asked
    body: Any
    error: ClientError | None


@dataclass(frozen=True, slots=True)
class Acked:
    """The server knows that we have everything up to here; `cursor` says it to the next connection. `seen`: what own sends changed."""

    position: int
    cursor: str
    seen: dict[str, int]


@dataclass(frozen=True, slots=True)
class Farewell:
    """The server ends the connection, and says why and what to do."""

    error: ClientError
    close: int | None
    delay_s: float


Step: TypeAlias = Opened | Answered | Acked | Farewell
Observe: TypeAlias = Callable[[tuple[Any, ...]], object]


class Misunderstood(BadPacket):
    """A packet that says what none of its operation says. `steps` are those of the packets before it."""

    def __init__(self, detail: str, steps: list[Step]) -> None:
        super().__init__(detail)
        self.steps = steps


@dataclass(slots=True)
class Statistics:
    """What happened so far."""

    connects: int = 0
    disconnects: int = 0
    sends: int = 0
    resends: int = 0
    refused_for_now: int = 0
    received: int = 0
    delivered: int = 0
    duplicates: int = 0
    own: int = 0
    gaps: int = 0
    filled: int = 0
    unfilled: int = 0
    resets: int = 0
    acks: int = 0
    overflows: int = 0


@dataclass(slots=True)
class _Place:
    """A room or stream: the last seq received, and own sends beyond it. `is_chained`: the next event has the next seq."""

    seq: int = 0
    is_chained: bool = False
    own: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Hole:
    """Missing seqs of a room, between the last one received and that of the held event."""

    room: str
    before: int
    sends: set[Asked]  # own sends under way when it was found: it may be them
    asked: Asked | None = None
    after: int = 0  # what was asked for begins behind this


class Core:
    """The protocol of one device, after `begin`."""

    def __init__(
        self,
        *,
        key: str = "",
        mid: int | None = None,
        rooms: Iterable[str] = (),
        accepts: Iterable[int] | None = None,
        platform: str = "python",
        live_types: Iterable[str] = ("live",),
        chance: Callable[[], float],
        backlog_max: int = 4_000,
    ) -> None:
        self.mid = mid
        self._is_mid_claimed = mid is not None
        self.key = key
        self.cursor = ""
        self.rooms = dict.fromkeys(rooms)  # entered at every connect
        self.accepts = None if accepts is None else list(accepts)
        self.platform = platform
        self.live_types = set(live_types)
        self.counts = Statistics()
        self.observe: Observe | None = None
        self.connection = 0  # the number of the connection, for `observe`
        self.is_open = False  # the auth was answered
        self.has_overflowed = False  # events of this connection were let go, and come again on the next
        self._chance = chance
        self._backlog_max = backlog_max
        # Who is watched, and on which platforms each was last; bounded by what the server lets one watch.
        self._watched: dict[int, tuple[str, ...]] = {}
        self._places: dict[str, _Place] = {}
        self._moved: set[str] = set()  # places whose seq went on over own sends, which the store was not told of
        self._entries: deque[Entry] = deque()  # for the program, not taken yet; bounded by backlog_max
        self._given: deque[Entry] = deque()  # taken, not settled; bounded by unacked_events_max
        self._era = 0
        self._settled = 0  # everything up to this position is settled
        self._received = 0  # last position that came over this connection
        self._acked = 0
        self._acking: Asked | None = None
        self._codec: Codec | None = None
        self._seq = 0
        self._n = 0
        self._under_way: dict[int, Asked] = {}
        self._sends: list[tuple[int, Asked]] = []  # a heap; bounded by those who wait, and as many who gave up
        self._unwanted = 0  # of them
        self._others: list[Asked] = []
        self._sends_under_way = 0
        self._reads_under_way = 0
        self._window = float(WINDOW_MAX)
        self._paused_until = 0.0
        self._hole: _Hole | None = None
        self._held: list[Told] = []  # came after the hole; bounded with the entries

    def begin(self, key: str, mid: int | None, cursor: str, seen: Mapping[str, int]) -> None:
        """Go on where the store says that this device was; `seen`: place -> last seq that the program dealt with."""
        self.key = key
        self.mid = mid if self.mid is None else self.mid
        self.cursor = cursor
        self._places = {place: _Place(seq, self._is_kept(place)) for place, seq in seen.items()}

    # --- connections ---------------------------------------------------------------------------------------------------------

    def connecting(self) -> None:
        """Somebody tries to connect."""
        assert self._codec is None, "the connection before it was lost"
        self.connection += 1
        if self.observe is not None:
            self.observe(("connecting", self.connection))

    def connected(self, codec: Codec) -> None:
        """There is a new connection, and nothing was said on it."""
        self._codec = codec
        self._seq = 0
        self._received = 0
        self.has_overflowed = False

    def auth(self, token: str | None) -> bytes:
        """The first packet."""
        body: dict[str, object] = {"key": self.key, "platform": self.platform}
        if token is None or self._is_mid_claimed:
            body["mid"] = self.mid
        if self.cursor:
            body["cursor"] = self.cursor
        if self.rooms:
            body["rooms"] = list(self.rooms)
        if self.accepts is not None:
            body["accepts"] = self.accepts
        if self.observe is not None:
            self.observe(("request", self.connection, _AUTH, 1, dict(body)))  # without the token
        if token is not None:
            body["token"] = token
        self._seq = 1
        assert self._codec is not None
        return self._codec.encode(_AUTH, 1, orjson.dumps(body))

    def leaving(self) -> None:
        """It is we who end this connection."""
        if self.observe is not None and self._codec is not None:
            self.observe(("closing", self.connection))

    def lost(self, code: int | None = None, reason: str = "") -> list[Answered]:
        """The connection is over, or there was none. What has no outcome is asked again on the next; what was held comes again.
        Returns what may not be asked again: its outcome is that nobody knows it."""
        if self.observe is not None:
            self.observe(("closed", self.connection, code, reason))
        self.counts.disconnects += self.is_open
        self._codec = None
        self.is_open = False
        if self._hole is not None and self._hole.asked is not None:
            self.forget(self._hole.asked)
        self._hole = None
        held, self._held = self._held, []
        for told in held:
            if told.op == _REMOVED:  # it is not told again
                self._leave(told)
        self._acking = None
        unknown: list[Answered] = []
        for asked in self._under_way.values():
            if not asked.may_repeat:
                if asked.is_wanted:
                    unknown.append(Answered(asked, None, Unavailable(UNKNOWN)))
                continue
            asked.is_unsure = True
            asked.due = 0.0
            self._put(asked)
        self._others = [asked for asked in self._others if not _ends_with_connection(asked)]
        self._under_way.clear()
        self._sends_under_way = self._reads_under_way = 0
        self._paused_until = 0.0
        self._window = float(WINDOW_MAX)
        return unknown

    # --- asking --------------------------------------------------------------------------------------------------------------

    def ask(self, op: int, body: object, *, room: str = "", id: str = "", may_repeat: bool = True) -> Asked:
        """Something to ask, now or on a later connection, until it has an outcome. Raises TypeError for what is no JSON."""
        asked = Asked(op, orjson.dumps(body), room=room, id=id, may_repeat=may_repeat)
        self._n += 1
        asked.n = self._n
        self._put(asked)
        return asked

    def forget(self, asked: Asked) -> None:
        """Nobody waits for this any more. What is under way is still understood when it is answered."""
        asked.is_wanted = False
        if not asked.is_queued:
            return
        if asked.op != _SEND:
            self._others.remove(asked)
            asked.is_queued = False
            return
        self._unwanted += 1
        if self._unwanted * 2 > len(self._sends):  # else those who give up while there is no connection would pile up
            self._sends = [(n, one) for n, one in self._sends if one.is_wanted]
            heapq.heapify(self._sends)
            self._unwanted = 0

    def heartbeat(self) -> None:
        """Ask whether the other side is there."""
        if not any(asked.op == _HEARTBEAT for asked in self._others):
            self.ask(_HEARTBEAT, None)

    @property
    def has_news(self) -> bool:
        """Is anything settled that the server does not know of, and could be told?"""
        return self.is_open and min(self._settled, self._received) > self._acked

    def acknowledge(self) -> None:
        """Tell the server what is settled, if that is news and it is not being told."""
        if self.has_news and self._acking is None:
            self._acking = self.ask(_ACK, {"position": min(self._settled, self._received)})

    @property
    def awaits(self) -> bool:
        """Does somebody wait for an answer, written or not? Heartbeats and acks are nobody's."""
        return bool(self._sends or self._sends_under_way) or any(
            not _ends_with_connection(asked) for asked in (*self._under_way.values(), *self._others)
        )

    @property
    def awaits_answer(self) -> bool:
        """Is there a request on the wire?"""
        return bool(self._under_way)

    def due(self) -> float | None:
        """When `take` has something, if nothing happens before; None: not by itself."""
        if not self.is_open:
            return None
        may_read = self._reads_under_way < READS_MAX
        times = [asked.due for asked in self._others if may_read or asked.op not in _READS]
        if self._sends and self._sends_under_way < int(self._window):
            times.append(self._paused_until)
        return min(times, default=None)

    def take(self, now: float) -> list[bytes]:
        """The packets to write now, each of them one frame of a WebSocket."""
        packets: list[bytes] = []
        if not self.is_open:
            return packets
        if self._others:
            late: list[Asked] = []
            for asked in self._others:
                is_read = asked.op in _READS
                if asked.due > now or (is_read and self._reads_under_way >= READS_MAX):
                    late.append(asked)
                else:
                    self._reads_under_way += is_read
                    packets.append(self._write(asked))
            self._others = late
        while self._sends and self._sends_under_way < int(self._window) and self._paused_until <= now:
            _, asked = heapq.heappop(self._sends)
            asked.is_queued = False
            if not asked.is_wanted:
                self._unwanted -= 1
            else:
                self._sends_under_way += 1
                packets.append(self._write(asked))
        return packets

    def _put(self, asked: Asked) -> None:
        if not asked.is_wanted:
            return
        asked.is_queued = True
        if asked.op == _SEND:
            heapq.heappush(self._sends, (asked.n, asked))
        else:
            self._others.append(asked)

    def _write(self, asked: Asked) -> bytes:
        assert self._codec is not None
        self._seq = seq = self._seq % INT32_MAX + 1
        self._under_way[seq] = asked
        asked.is_queued = False
        if asked.op == _SEND:
            self.counts.sends += 1
            self.counts.resends += asked.tries > 0
        asked.tries += 1
        if self.observe is not None:
            self.observe(("request", self.connection, asked.op, seq, orjson.loads(asked.body)))
        return self._codec.encode(asked.op, seq, asked.body)

    # --- hearing -------------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Step]:
        """What these bytes mean. Events are in `next` afterwards. Raises ImcoreError for what is not this protocol: Misunderstood, with
        what was understood before it, where they are packets."""
        assert self._codec is not None
        steps: list[Step] = []
        for told in self._codec.decode(data):
            op = told.op
            try:
                if op == _EVENT:
                    self._hear_event(told)
                elif op == _REMOVED:
                    self._hear_removed(told)
                elif op == _DISCONNECT:
                    steps.append(self._hear_farewell(told))
                elif op == _AUTH_REPLY and not self.is_open:
                    steps.append(self._hear_opened(told))
                else:
                    self._hear_answer(told, now, steps)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise Misunderstood(f"operation {op} of the server is not understood: {error!r}", steps) from None
        return steps

    def _hear_opened(self, told: Told) -> Step:
        body = told.body
        if self.observe is not None:
            self.observe(("reply", self.connection, told.op, told.seq, body))
        if "error" in body:
            return Farewell(from_facts(body["error"]), None, (body["error"].get("retry_after_ms") or 0) / 1000)
        _must_be(int, body["mid"], body["position"])
        _must_be(str, body["key"], body["epoch"], body["cursor"], body.get("reason", ""))
        _must_be(bool, body["recovered"])
        heartbeat_s = float(body["heartbeat_s"])
        if not heartbeat_s > 0:
            raise ValueError(f"heartbeat_s is {heartbeat_s}")
        had_cursor = bool(self.cursor)
        opened = Opened(
            body["mid"],
            body["key"],
            body["epoch"],
            body["position"],
            body["cursor"],
            body["recovered"],
            body.get("reason", ""),
            heartbeat_s,
            tuple(body["rooms"]),
            store=body["recovered"] and not had_cursor and not self._entries and not self._given,
        )
        self.is_open = True
        self.counts.connects += 1
        self.mid, self.key = opened.mid, opened.key
        self.live_types.update(room.partition("://")[0] for room in opened.rooms)
        if self.observe is not None:
            facts = {
                "recovered": opened.recovered,
                "reason": opened.reason,
                "position": opened.position,
                "cursor": opened.cursor,
            }
            self.observe(("connected", self.connection, facts))
        if opened.recovered:
            for name, place in self._places.items():
                place.is_chained &= had_cursor and self._is_kept(name)
            self.cursor = self.cursor or opened.cursor
        else:
            self._begin_anew(opened)
        mids = list(self._watched)
        for n in range(0, len(mids), WATCH_MIDS):
            self._ask_watch(mids[n : n + WATCH_MIDS])
        return opened

    def _is_kept(self, place: str) -> bool:
        """Does the server give what we miss of this? Of live rooms only where the auth enters them."""
        return place.partition("://")[0] not in self.live_types or place in self.rooms

    def _begin_anew(self, opened: Opened) -> None:
        self.counts.resets += 1
        self.cursor = opened.cursor
        forgets = opened.reason != "new" and opened.reason != "expired"
        if forgets:
            self._places.clear()
            self._era += 1
            self._settled = self._acked = 0
        for place in self._places.values():
            place.is_chained = False
        self._entries.append(
            Entry(
                Reset(opened.reason, opened.position),
                self._era,
                opened.position,
                cursor=opened.cursor,
                forgets=forgets,
            )
        )

    def _hear_farewell(self, told: Told) -> Farewell:
        body = told.body
        close = body.get("close")
        error = from_facts(body)
        return Farewell(error, close if type(close) is int else None, (body.get("delay_ms") or 0) / 1000)

    def _hear_answer(self, told: Told, now: float, steps: list[Step]) -> None:
        asked = self._under_way.pop(told.seq, None)
        if asked is None:
            return
        if self.observe is not None:
            self.observe(("reply", self.connection, told.op, told.seq, told.body))
        is_send = asked.op == _SEND
        self._sends_under_way -= is_send
        self._reads_under_way -= asked.op in _READS
        try:
            self._hear_outcome(asked, told, now, steps)
        except BaseException:
            if not asked.is_queued:
                self._under_way[told.seq] = asked  # that is no outcome: it is asked again
            raise

    def _hear_outcome(self, asked: Asked, told: Told, now: float, steps: list[Step]) -> None:
        is_send = asked.op == _SEND
        error = None
        if isinstance(told.body, dict) and "error" in told.body:
            error = refused(told.body["error"])
            if error.retry and asked.is_wanted and asked.op != _HEARTBEAT and _may_ask_again(asked, error):
                self._ask_later(asked, error, now)
                return
            if asked.is_unsure and error.code == "no_such_room" and asked.op == _LEAVE:
                error = None  # the leave of which the answer was lost was carried out
        if error is None and is_send:
            _must_be(int, told.body["position"], told.body["seq"])
        elif error is None and asked.op == _CALL and "answer" not in told.body:
            raise KeyError("answer")
        elif asked is self._acking and error is None:
            _must_be(int, told.body["position"])
            _must_be(str, told.body["cursor"])
        if asked.room and error is None:
            self._own(asked.room, told.body["seq"] if is_send else told.body["answer"].get("seq", 0))
        if is_send:
            self._window = min(WINDOW_MAX, self._window + 1 / self._window)
        if self._hole is not None:
            self._look_into_hole(asked, told.body, error)
        if asked is self._acking:
            self._acking = None
            if error is None:
                self._acked = max(self._acked, told.body["position"])
                self.cursor = told.body["cursor"]
                self.counts.acks += 1
                steps.append(Acked(told.body["position"], told.body["cursor"], self._own_seen()))
        elif asked.is_watch:
            self._hear_watch(told.body, error)
        elif asked.is_wanted and asked.op != _HEARTBEAT:
            steps.append(Answered(asked, told.body, error))

    def _ask_later(self, asked: Asked, error: ClientError, now: float) -> None:
        self.counts.refused_for_now += 1
        asked.refusals += 1
        if error.code == "unavailable":
            asked.is_unsure = True
        if error.retry_after_ms is not None:
            wait_s = error.retry_after_ms / 1000
        else:
            wait_s = min(RETRY_MAX_S, RETRY_S * 2 ** min(asked.refusals, 10)) * self._chance()
        if asked.op == _SEND:
            self._paused_until = max(self._paused_until, now + wait_s)
            self._window = max(1.0, self._window / 2)
        asked.due = now + wait_s
        self._put(asked)
        if self._hole is not None and asked is not self._hole.asked:
            self._look_into_hole(asked, None, error)  # an answer may be long in coming, and everything waits

    def joined(self, room: str) -> None:
        """A join was answered. Live rooms are entered again at the next connect; members need not join again."""
        if room.partition("://")[0] in self.live_types:
            self.rooms[room] = None

    def left(self, room: str) -> None:
        """A leave was answered."""
        self.rooms.pop(room, None)
        if room in self._places:
            self._places[room].is_chained = False

    # --- events --------------------------------------------------------------------------------------------------------------

    def _hear_event(self, told: Told) -> None:
        if self.observe is not None:
            self.observe(("deliver", self.connection, from_envelope(told.body)))
        self.counts.received += 1
        if self._may_keep(told):
            self._take(from_envelope(told.body))

    def _hear_removed(self, told: Told) -> None:
        if self.observe is not None:
            self.observe(("removed", self.connection, told.body))
        if self.has_overflowed or self._may_keep(told):  # it is not told again, so it is never let go
            self._leave(told)

    def _leave(self, told: Told) -> None:
        body = told.body
        room = body["room"]
        self.rooms.pop(room, None)
        if room in self._places:
            self._places[room].is_chained = False
        # Its position is no place to acknowledge: the notice may come before events of other rooms that lie before it.
        self._entries.append(Entry(Removed(room, body["position"], body["type"], body["by"]), self._era))

    def _may_keep(self, told: Told) -> bool:
        """May this be handed on now? While a hole is looked into it is held; what is too much comes again on the next connection."""
        if self.has_overflowed:
            return False
        if self.backlog >= self._backlog_max:
            self.has_overflowed = True
            self.counts.overflows += 1
            return False
        if self._hole is not None:
            self._held.append(told)
            return False
        return True

    def _take(self, event: Event) -> None:
        seq = event.seq
        if type(seq) is not int or type(event.position) is not int:
            raise TypeError("an event whose place is no number")
        if seq == 0:  # not stored: in no order, and once at most
            if isinstance(event, Presence) and event.mid in self._watched:
                self._watched[event.mid] = tuple(event.platforms)
            self._entries.append(Entry(event, self._era))
            return
        place = self._places.get(event.place)
        if place is None:
            place = self._places[event.place] = _Place()
        if seq <= place.seq:
            self.counts.duplicates += 1
            self._received = event.position
            self._reach()
            return
        if place.is_chained and self.accepts is None and not self._is_my_join(event) and _missing(place, seq):
            self._find_hole(event)
            return
        self._hand_on(event, place)
        self._received = event.position

    def _hand_on(self, event: Event, place: _Place) -> None:
        place.seq = event.seq
        place.is_chained = True
        if place.own:
            place.own = {seq for seq in place.own if seq > event.seq}
            _skip_own(place)
        is_own = event.key == self.key and event.mid == self.mid and event.type == "message_sent"
        self.counts.own += is_own
        entry = Entry(None if is_own else event, self._era, event.position, event.place, event.seq)
        if is_own and not self._entries and not self._given:
            self._settled = max(self._settled, event.position)
            self._moved.add(event.place)
            return
        self._entries.append(entry)

    def _own_seen(self) -> dict[str, int]:
        """What the store may be told of places where only we spoke: nothing waits, so what was received is settled."""
        if self._entries or self._given or self._hole is not None:
            return {}
        moved, self._moved = self._moved, set()
        return {name: place.seq for name in moved if (place := self._places.get(name)) is not None and place.seq}

    def _is_my_join(self, event: Event) -> bool:
        """What was said between an earlier leave and this is not for us."""
        return event.type == "member_joined" and event.body.get("mid") == self.mid

    def _own(self, room: str, seq: int) -> None:
        place = self._places.get(room)
        if place is None:
            place = self._places[room] = _Place()
        if seq > place.seq:
            place.own.add(seq)
            _skip_own(place)
            self._moved.add(room)
            if len(place.own) > OWN_SEQS_MAX:
                place.own = set(sorted(place.own)[OWN_SEQS_MAX // 2 :])

    # --- presence ------------------------------------------------------------------------------------------------------------

    def watched(self, people: Iterable[Mapping[str, Any]]) -> None:
        """A watch was answered: so they are now."""
        self._watched.update({one["mid"]: tuple(one["platforms"]) for one in people})

    def unwatched(self, mids: Iterable[int]) -> None:
        """The end of a watch was answered; nobody named is everybody."""
        for mid in list(mids) or list(self._watched):
            self._watched.pop(mid, None)

    def _ask_watch(self, mids: Sequence[int]) -> None:
        self.ask(_CALL, {"verb": "presence.watch", "args": {"mids": mids}}).is_watch = True

    def _hear_watch(self, body: Any, error: ClientError | None) -> None:
        """They were asked for again, and are so now."""
        if error is not None:
            return  # not to be watched any more, too many, …: the next connection asks again
        for one in body["answer"]["people"]:
            mid, platforms = one["mid"], tuple(one["platforms"])
            if mid in self._watched and self._watched[mid] != platforms:
                self._watched[mid] = platforms
                facts = {"online": bool(platforms), "platforms": list(platforms)}
                event = Presence(0, None, f"user:{mid}", 0, mid, "", None, 0, "presence", 0, facts)
                self._entries.append(Entry(event, self._era))

    # --- holes ---------------------------------------------------------------------------------------------------------------

    def _find_hole(self, event: Event) -> None:
        """Everything from this event on waits."""
        sends = {asked for asked in self._under_way.values() if asked.room and asked.room == event.room}
        self._hole = hole = _Hole(event.place, event.seq, sends)
        self._held.insert(0, Told(_EVENT, 0, event))
        if not sends:
            self._ask_history(hole)

    def _ask_history(self, hole: _Hole) -> None:
        place = self._places[hole.room]
        hole.after = after = place.seq
        # A stream has no history; and a hole that large is for the program to page through, if it wants to.
        if "://" not in hole.room or _missing(place, hole.before) > HOLE_EVENTS_MAX:
            self._close_hole(hole, is_whole=False)
            return
        limit = min(PAGE_ROWS_MAX, hole.before - after - 1)
        hole.asked = self.ask(_HISTORY, {"room": hole.room, "after": after, "limit": limit})

    def _look_into_hole(self, asked: Asked, body: Any, error: ClientError | None) -> None:
        hole = self._hole
        assert hole is not None
        if asked is hole.asked:
            asked.is_wanted = False  # by nobody but us
            self._fill(hole, body, error)
        elif asked in hole.sends:
            hole.sends.discard(asked)
            place = self._places[hole.room]
            if not _missing(place, hole.before):
                self._go_on()
            elif not hole.sends:
                self._ask_history(hole)

    def _fill(self, hole: _Hole, body: Any, error: ClientError | None) -> None:
        place = self._places[hole.room]
        if error is not None:
            self._close_hole(hole, is_whole=False)
            return
        is_whole, found, last = True, 0, 0
        for envelope in body["events"]:
            event = from_envelope(envelope)
            last = event.seq
            if last >= hole.before:
                break
            if event.seq <= place.seq:
                continue
            is_whole &= not _missing(place, event.seq)
            if event.seq not in place.own and not self._is_own_send(event):
                found += 1
            self._hand_on(event, place)
        self.counts.filled += found
        self.counts.gaps += found > 0
        rest = _missing(place, hole.before)
        if (
            rest and body["more"] and hole.after < last < hole.before
        ):  # it came nearer; else what is missing is not shown to us
            hole.asked = None
            self._ask_history(hole)
        else:
            self._close_hole(hole, is_whole=is_whole and not rest)

    def _is_own_send(self, event: Event) -> bool:
        return event.key == self.key and event.mid == self.mid and event.type == "message_sent"

    def _close_hole(self, hole: _Hole, *, is_whole: bool) -> None:
        if not is_whole:
            self.counts.gaps += 1
            self.counts.unfilled += 1
            room = hole.room if "://" in hole.room else None
            self._entries.append(Entry(Reset("gap", 0, room), self._era))
        place = self._places[hole.room]
        place.seq = max(place.seq, hole.before - 1)  # the held event is next, whatever lay before it
        self._go_on()

    def _go_on(self) -> None:
        """The hole is closed: what was held comes in its order, until there is another hole."""
        self._hole = None
        held, self._held = self._held, []
        for n, told in enumerate(held):
            if told.op == _REMOVED:
                self._leave(told)
            else:
                self._take(told.body if isinstance(told.body, Event) else from_envelope(told.body))
            if self._has_hole():
                self._held += held[n + 1 :]
                return

    def _has_hole(self) -> bool:
        return self._hole is not None

    # --- the program ---------------------------------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """How much waits for the program."""
        return len(self._entries) + len(self._held)

    def next(self) -> Entry | None:
        """The next thing for the program, taken from the queue; None if there is none now."""
        if not self._entries:
            return None
        entry = self._entries.popleft()
        self._given.append(entry)
        self.counts.delivered += entry.happening is not None
        return entry

    def settle(self, entry: Entry) -> list[Entry]:
        """This is dealt with. The entries that are settled by it, in order: those that wait for an earlier one come with that."""
        entry.is_done = True
        settled: list[Entry] = []
        given = self._given
        while given and given[0].is_done:
            done = given.popleft()
            settled.append(done)
            if done.position and done.era == self._era:
                self._settled = max(self._settled, done.position)
        self._reach()
        return settled

    @property
    def position(self) -> int:
        """Everything up to here is settled."""
        return self._settled

    @property
    def given(self) -> Sequence[Entry]:
        """What was taken and is not settled."""
        return list(self._given)

    @property
    def unsettled(self) -> int:
        """How much was taken and is not settled, or waits for what is not."""
        return len(self._given)

    def given_upto(self, event: Happening) -> Sequence[Entry]:
        """What was taken and not settled, up to and with this; nothing if it was settled already."""
        given = self.given
        for n, entry in enumerate(given):
            if entry.happening == event:
                return given[: n + 1]
        return ()

    def _reach(self) -> None:
        """Nothing waits for the program: all that came is settled, duplicates too."""
        if not self._entries and not self._given and self._hole is None:
            self._settled = max(self._settled, self._received)


def _must_be(kind: type, *told: object) -> None:
    """Else it would be found out far from here, or be stored. Raises TypeError."""
    for one in told:
        if type(one) is not kind:
            raise TypeError(f"{one!r} is no {kind.__name__}")


def _ends_with_connection(asked: Asked) -> bool:
    """Does it mean nothing on another connection, and is it nobody's question?"""
    return asked.op == _HEARTBEAT or asked.op == _ACK or asked.is_watch


def _may_ask_again(asked: Asked, error: ClientError) -> bool:
    """Of a call only what says that nothing was done, or does no harm twice; and not what another writer won for good."""
    if asked.op != _CALL:
        return True
    return error.code in NOTHING_DONE or (asked.may_repeat and error.code in ("unavailable", "under_way"))


def _missing(place: _Place, before: int) -> int:
    """How many seqs between the last one received and this one are not accounted for."""
    between = before - place.seq - 1
    return between - sum(place.seq < seq < before for seq in place.own) if between > 0 else 0


def _skip_own(place: _Place) -> None:
    if place.is_chained:
        while place.seq + 1 in place.own:
            place.seq += 1
            place.own.discard(place.seq)
