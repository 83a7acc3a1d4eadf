"""One client connection: packets in, replies out, whatever the carrier.

Sends, acks and heartbeats are handled in the very call that the bytes arrived in; a send's reply is written when its batch is
committed. What has to read from the database first (auth, history, inbox, …) runs as a task, a few at a time per connection.

Replies gather until the end of the loop's tick, so that the acknowledgements of one batch are one write a connection.

The trap: anything may happen to the connection while its auth waits for the database. After every await, look whether it is still open.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from imcore import commands, membership, reads
from imcore.auth import Claim, Identity
from imcore.comet import encode
from imcore.comet.catchup import admit
from imcore.comet.hub import BEHIND, LIVE, OPENING, Left, Place, Session
from imcore.envelope import envelope
from imcore.errors import (
    BadOrder,
    BadPacket,
    BadRequest,
    Forbidden,
    GoingAway,
    ImcoreError,
    NoSuchRoom,
    Overloaded,
    RateLimited,
    TakenOver,
    TooManyPackets,
    TooManyRooms,
    TryLater,
    Unauthenticated,
    UnknownOperation,
)
from imcore.events import messages
from imcore.events.store import Draft, Outcome
from imcore.events.types import JSON, USER, Recorded, RoomSwitched, room_type
from imcore.paces import Line
from imcore.places import retry_ms
from imcore.protocol import requests
from imcore.protocol.packet import ACCEPTS_MAX, Op, Packet, shown
from imcore.protocol.requests import (
    Ack,
    Auth,
    Call,
    ChangeRoom,
    Extra,
    Heartbeat,
    History,
    Inbox,
    Join,
    Leave,
    Members,
    Read,
    Request,
    Send,
    Subscribe,
    Unsubscribe,
)
from imcore.proxies import subnet
from imcore.verbs.acting import come_in, come_in_after_all
from imcore.verbs.verb import Caller, Stream

if TYPE_CHECKING:
    from imcore.comet.server import Comet

log = logging.getLogger(__name__)

EARLY_PACKETS_MAX: Final = 64  # packets that may wait for the auth reply
EARLY_BYTES_MAX: Final = 65_536  # and no more is read from this client when they have so many bytes
SHOUT_CHARGE: Final = 10.0  # a connection that is closed for shouting counts as so many beginnings of its address
READS_MAX: Final = 8  # tasks of one connection at a time
READS_RETRY_MS_MAX: Final = 10_000  # when all connections read too much

_SEND: Final = int(Op.SEND)
_SEND_REPLY: Final = int(Op.SEND_REPLY)
_AUTH: Final = int(Op.AUTH)
ANSWER_S: Final = 0.5  # how long a connection whose login is over may wait for the answer to what ended it
_NEW, _AUTHENTICATING, _OPEN, _LEAVING, _ENDED = range(5)


class Carrier(Protocol):
    """What moves the bytes of one connection."""

    address: str
    origin: str  # of the page that connects, or ""

    def write(self, data: bytes) -> None:
        """Take bytes to be sent; never blocks."""

    def held(self) -> int:
        """How many bytes wait in this process to be sent."""

    def unsent(self) -> int:
        """How many bytes the client's end has not taken yet, as far as that is known."""

    def has_taken_all(self) -> bool:
        """Has the socket taken every byte that was written? False too where nobody can know any more: it broke."""

    def close(self, code: int, reason: str) -> None:
        """Send what waits, say goodbye, and end."""

    def abort(self) -> None:
        """End now; what waits is lost."""

    def pause_reading(self) -> None:
        """Take nothing more from the client for now."""

    def resume_reading(self) -> None:
        """Go on."""


class Connection(Session):
    """A connection of the comet, from its first byte to its last."""

    __slots__ = (
        "acked",
        "asking",
        "began_at",
        "calls",
        "carrier",
        "checking",
        "comet",
        "early",
        "early_bytes",
        "ended_at",
        "entering",
        "expires_at",
        "heard_at",
        "hushed",
        "identity",
        "is_text",
        "leaving",
        "marked",
        "marked_at",
        "pending",
        "phase",
        "platform",
        "progress_at",
        "progress_unsent",
        "reading",
        "replies",
        "room",
        "shouted",
        "taken",
        "tokens",
        "tokens_at",
        "ver",
        "was_authenticated",
    )

    def __init__(self, comet: Comet, carrier: Carrier, *, is_text: bool, codec: int) -> None:
        super().__init__()
        now = comet.now()
        self.comet = comet
        self.carrier = carrier
        self.is_text = is_text
        self.codec = codec
        self.ver = 2 if is_text else 1
        self.phase = _NEW
        self.room = ""  # the room entered: where a send goes that names none
        self.entering: tuple[list[str], str] | None = None  # see _inside; None when nothing is on its way
        self.platform = ""
        self.identity: Identity | None = None
        self.expires_at: float | None = None
        self.began_at = self.heard_at = now
        self.ended_at = 0.0
        self.was_authenticated = False
        self.tokens = comet.settings.inbound_frames_burst
        self.tokens_at = now
        self.shouted: Line | None = None  # packets refused lately for coming too fast
        self.hushed = False  # nothing is read because of them
        self.pending = 0  # sends whose outcome is not known yet
        # Sends that are about something, which is being looked up, and those behind them; of the pending.
        self.checking: deque[tuple[Draft, Extra | None]] | None = None
        self.reading = 0  # tasks under way
        self.calls = 0  # of them, verbs
        self.leaving: ImcoreError | None = None  # why it ends when they have their answers
        # What waits for the backend's yes, in order. Bounded by sends_pending_per_session_max: above, Overloaded.
        self.asking: deque[tuple[str, int, int, str, Callable[[], None]]] | None = None
        self.replies: list[bytes] | None = None
        self.early: list[Packet | tuple[int, int, object, bytes]] | None = None
        self.early_bytes = 0
        self.progress_at = now
        self.progress_unsent = 0
        self.acked = 0  # what the client said it has
        self.taken = 0  # position up to which the socket took everything, when last looked at
        self.marked = 0  # delivery mark in the log
        self.marked_at = now
        comet.opened(self)

    # --- bytes in ------------------------------------------------------------------------------------------------------------

    def take_packets(self, packets: list[Packet]) -> None:
        """Packets of the binary form, in order."""
        comet = self.comet
        self.heard_at = comet.now()
        if self.heard_at > comet.sure_until:
            comet.postpone(self, lambda: self.take_packets(packets))
            return
        text_bytes_max, goim_bytes_max = comet.text_body_bytes_max, comet.goim_body_bytes_max
        for packet in packets:
            ver, op, seq, body = packet
            if self.phase != _OPEN:
                if self.phase == _AUTHENTICATING:
                    self._keep_early(packet)
                    continue
                if self.phase in (_LEAVING, _ENDED):
                    return
                if not self._is_first(op, ver):
                    return
            elif op == _AUTH:
                self.end(BadOrder("there is only one auth"))
                return
            if not self._may_pass(op, seq):
                continue
            try:
                request = requests.from_packet(op, body, ver, text_bytes_max, goim_bytes_max)
            except ImcoreError as error:
                self._refuse(op, seq, error)
            else:
                self._handle(op, seq, request)

    def take_text(self, op: int, seq: int, value: object, raw: bytes) -> None:
        """One packet of the JSON form."""
        self.heard_at = self.comet.now()
        if self.heard_at > self.comet.sure_until:
            self.comet.postpone(self, lambda: self.take_text(op, seq, value, raw))
            return
        if self.phase != _OPEN:
            if self.phase == _AUTHENTICATING:
                self._keep_early((op, seq, value, raw))
                return
            if self.phase in (_LEAVING, _ENDED) or not self._is_first(op, 2):
                return
        elif op == _AUTH:
            self.end(BadOrder("there is only one auth"))
            return
        if not self._may_pass(op, seq):
            return
        try:
            request = requests.from_value(op, value, raw, self.comet.text_body_bytes_max)
        except ImcoreError as error:
            self._refuse(op, seq, error)
        else:
            self._handle(op, seq, request)

    def _is_first(self, op: int, ver: int) -> bool:
        if op != _AUTH:
            self.end(BadOrder("the first packet must be auth"))
            return False
        if ver not in (1, 2):
            self.end(BadPacket(f"the version is {ver}, not 1 or 2"))
            return False
        if not self.is_text:
            self.ver = ver
            if ver == 2:
                self.codec += encode.V2_TCP - encode.V1_TCP
        return True

    def _keep_early(self, packet: Packet | tuple[int, int, object, bytes]) -> None:
        """What comes before the auth is answered waits for the answer."""
        if self.early is None:
            self.early = []
        if len(self.early) >= EARLY_PACKETS_MAX:
            self.end(BadOrder(f"more than {EARLY_PACKETS_MAX} packets before the auth was answered"))
            return
        self.early.append(packet)
        self.early_bytes += len(packet[3])
        if self.early_bytes >= EARLY_BYTES_MAX:
            self.carrier.pause_reading()

    def has_token(self) -> bool:
        """May another frame pass now? Takes the token for it."""
        if not self.comet.rate_limits:
            return True
        settings = self.comet.settings
        tokens = self.tokens + (self.heard_at - self.tokens_at) * settings.inbound_frames_per_s
        self.tokens_at = self.heard_at
        self.tokens = min(tokens, settings.inbound_frames_burst)
        if self.tokens < 1:
            self.comet.limited += 1
            self._shout()
            return False
        self.tokens -= 1
        return True

    def _shout(self) -> None:
        """A packet came too fast. Nothing more is read until the refused would all have had their turn, so that the client's own socket
        holds it back; if what is here already is too much of that, the connection ends."""
        comet, per_s = self.comet, self.comet.settings.inbound_frames_per_s
        if self.shouted is None:
            self.shouted = Line()
        turn_s = self.shouted.join(self.heard_at, per_s)
        if turn_s * per_s >= comet.settings.inbound_refused_max:
            comet.handshakes.charge(subnet(self.carrier.address), comet.now(), SHOUT_CHARGE)
            self.end(TooManyPackets(retry_after_ms=max(1_000, int(turn_s * 1_000))))
        elif not self.hushed:
            self.hushed = True
            self.carrier.pause_reading()
            comet.loop.call_later((1 - self.tokens) / per_s, self._listen)

    def _listen(self) -> None:
        """Read on, if the refused would all have had their turn."""
        if self.phase == _ENDED or self.shouted is None:
            return
        per_s = self.comet.settings.inbound_frames_per_s
        left = self.shouted.length(self.comet.now(), per_s)
        self.heard_at = self.comet.now()  # it was not listened to
        if left > 1:
            self.comet.loop.call_later(left / per_s, self._listen)
            return
        self.hushed = False
        self.read_on()

    def read_on(self) -> None:
        """Take bytes from the client again, if nothing speaks against it."""
        if not self.full and not self.hushed and self.early_bytes < EARLY_BYTES_MAX:
            self.carrier.resume_reading()

    def _may_pass(self, op: int, seq: int) -> bool:
        """One token a frame; without one the request is refused, and nothing was done."""
        if self.has_token():
            return True
        if self.phase != _ENDED:
            per_s = self.comet.settings.inbound_frames_per_s
            before = 0.0 if self.shouted is None else self.shouted.length(self.heard_at, per_s) - 1
            self._refuse(op, seq, RateLimited(retry_after_ms=int((1 - self.tokens + before) * 1000 / per_s) + 1))
        return False

    # --- requests --------------------------------------------------------------------------------------------------------------

    def _handle(self, op: int, seq: int, request: Request) -> None:
        if type(request) is Send:
            try:
                if self.comet.asks_sends:
                    self._ask_first("send", op, seq, request.room or self.room, partial(self._send, seq, request))
                else:
                    self._send(seq, request)
            except ImcoreError as error:
                self._refuse(op, seq, error)
            return
        try:
            match request:
                case Heartbeat():
                    self._heartbeat(seq)
                case Ack(position=position):
                    self._ack(seq, position)
                case Auth():
                    self._stand_in_line(seq, request)
                case Join(room=room):
                    self._ask_first("join", op, seq, room, partial(self._join, seq, room))
                case Leave(room=room):
                    self._leave(seq, room)
                case ChangeRoom(room=room):
                    self._ask_first("join" if room else "", op, seq, room, partial(self._change_room, seq, room))
                case Subscribe(ops=ops):
                    self._accept(op, seq, None if self.accepts is None else self.accepts | ops)
                case Unsubscribe(ops=ops):
                    if self.accepts is None:
                        raise BadRequest("every operation is accepted; name in accepts those that are wanted")
                    self._accept(op, seq, self.accepts - ops)
                case History():
                    self._read(op, seq, self._history(request))
                case Read(room=room, seq=upto):
                    self._read(op, seq, self._mark_read(room, upto, self._fence))
                case Members():
                    self._read(op, seq, self._members(request))
                case Inbox(after=after, limit=limit):
                    self._read(op, seq, self._inbox(after, limit))
                case Call():
                    self._read(op, seq, self._call(request, self._fence))
                case _:
                    raise UnknownOperation
        except ImcoreError as error:
            self._refuse(op, seq, error)

    def _send(self, seq: int, request: Send) -> None:
        room, client_id, body, op, extra = request
        room = room or self.room
        if not room:
            raise BadRequest("room is missing, and no room is entered")
        comet = self.comet
        is_live = room_type(room) in comet.live_types
        if is_live and "room:" + room not in self.entered:
            raise NoSuchRoom
        if self.pending >= comet.sends_pending_max:
            raise Overloaded("too many sends under way on this connection", retry_after_ms=100)
        identity = self.identity
        assert identity is not None
        self._check_named(room)
        if identity.ops is not None and op not in identity.ops:
            raise Forbidden(f"operation {op} is not allowed to you")
        if comet.rate_limits:
            wait_s = comet.sends.take(self.mid, self.heard_at)
            if wait_s:
                raise RateLimited("too many messages of this user", retry_after_ms=int(wait_s * 1000) + 1)
        draft = commands.send(
            room,
            self.mid,
            client_id,
            body,
            op=op,
            is_member=not is_live,
            key=self.key,
            fence=comet.hub.position,
            origin=self,
            tag=seq,
            done=_sent,
        )
        if extra is not None or self.checking is not None:
            self._check_first(draft, extra)
        else:
            comet.log.submit(draft)
        self.pending += 1

    def _check_named(self, room: str) -> None:
        """To a token that names rooms no other is there, whatever its person is in. Raises NoSuchRoom."""
        identity = self.identity
        assert identity is not None
        if not identity.may_enter(room):
            raise NoSuchRoom

    def _check_first(self, draft: Draft, extra: Extra | None) -> None:
        """What a message is about is looked up before it is submitted. What this connection sends meanwhile waits behind it: it is
        stored in the order in which it was sent. What waits when the connection ends is not stored."""
        if self.checking is None:
            self.checking = deque()
            self.comet.spawn(self._submit_checked(self.checking))
        self.checking.append((draft, extra))

    async def _submit_checked(self, waiting: deque[tuple[Draft, Extra | None]]) -> None:
        comet, identity = self.comet, self.identity
        assert identity is not None
        try:
            while waiting:
                draft, extra = waiting[0]
                try:
                    if extra is not None and self.phase == _OPEN:
                        what = messages.About(extra.reply_to, extra.thread, extra.mentions, None, extra.format)
                        commands.about(draft, what)
                        assert draft.client_id is not None, "a send has an id"
                        room = draft.stream[5:]
                        await comet.guarded(
                            reads.check_about(comet.reads, room, identity.actor, what, client_id=draft.client_id)
                        )
                    if self.phase == _OPEN:
                        comet.log.submit(draft)
                    else:
                        self._not_stored(draft)
                except ImcoreError as error:
                    draft.done(draft, error, False)
                waiting.popleft()
        finally:
            self.checking = None
            for draft, _ in waiting:  # nothing of them was stored: the process stops
                draft.done(draft, Overloaded("the server is stopping", retry_after_ms=1000), False)

    def _not_stored(self, draft: Draft) -> None:
        """The connection was over before the message was submitted. Where it still says something, it says so: a login that is over
        stores nothing more."""
        self.pending -= 1
        error = self.leaving or GoingAway()
        self.comet.refused(error)
        self._say_no(_SEND, draft.tag, error.facts())

    def _ask_first(self, act: str, op: int, seq: int, room: str, then: Callable[[], None]) -> None:
        """Do it, if the service's own backend says yes; at once, if it need not be asked. In the order in which it was asked for."""
        comet = self.comet
        if not comet.doors.asks(act):
            then()
            return
        if self.asking is None:
            self.asking = deque()
        if len(self.asking) >= comet.sends_pending_max:
            raise Overloaded("too many requests under way on this connection", retry_after_ms=100)
        self.asking.append((act, op, seq, room, then))
        if len(self.asking) == 1:
            comet.spawn(self._ask_in_turn())

    async def _ask_in_turn(self) -> None:
        waiting, identity = self.asking, self.identity
        assert waiting is not None
        assert identity is not None
        while waiting:
            act, op, seq, room, then = waiting[0]
            try:
                await self.comet.doors.allow(act, identity, room, self.key)
                if self.phase == _OPEN:
                    then()
            except ImcoreError as error:
                self._refuse(op, seq, error)
            except Exception as error:
                self._failed(op, seq, error)
            waiting.popleft()

    def _heartbeat(self, seq: int) -> None:
        online = self.comet.online(self.room) if self.room else 0
        body = b'{"online":%d}' % online if self.is_text else online.to_bytes(4, "big")
        self.reply(Op.HEARTBEAT_REPLY, seq, body)

    def _ack(self, seq: int, position: int) -> None:
        upto = self.position if self.state == BEHIND else self.comet.hub.position
        if position > upto:
            raise BadRequest(f"position {position} was not delivered yet; the last is {upto}")
        self.acked = max(self.acked, position)
        self.reply(Op.ACK_REPLY, seq, orjson.dumps({"position": self.acked, "cursor": self.comet.cursor(self.acked)}))

    def _join(self, seq: int, room: str) -> None:
        identity, comet = self.identity, self.comet
        assert identity is not None
        if not identity.may_enter(room):
            raise NoSuchRoom
        if room_type(room) in comet.live_types:
            inside, entered = self._inside()
            self._enter(Op.JOIN_REPLY, seq, [*inside, room], entered)
            return
        self._submit_join(room, partial(self._joined, seq))

    def _submit_join(self, room: str, joined: Callable[[membership.Join, list[Recorded] | ImcoreError], None]) -> None:
        """Join a room that has members. `joined` is told at once, but for who would be in too many: then it is looked which of them are
        rooms no more. The hub is not asked: a leave that is on its way, or was answered elsewhere, it may not have come to."""
        comet = self.comet
        joining = self._joining(room, self._fence)

        def done(outcome: list[Recorded] | ImcoreError) -> None:
            if isinstance(outcome, TooManyRooms):
                try:
                    self._begin_reading()
                except ImcoreError as error:
                    joined(joining, error)
                else:
                    comet.spawn(self._join_after_all(joining, outcome, joined))
            else:
                joined(joining, outcome)

        joining.done = done
        comet.log.submit(joining)

    async def _join_after_all(
        self,
        joining: membership.Join,
        refused: TooManyRooms,
        joined: Callable[[membership.Join, list[Recorded] | ImcoreError], None],
    ) -> None:
        comet = self.comet
        try:
            joined(joining, await comet.guarded(come_in_after_all(comet.means, joining, refused)))
        except ImcoreError as error:
            joined(joining, error)
        finally:
            self._end_reading()

    def _joining(self, room: str, fence: int) -> membership.Join:
        identity, means = self.identity, self.comet.means
        assert identity is not None
        joining = membership.Join(room, identity.actor, may_create=means.may_create(identity, room), key=self.key)
        return joining.fenced(self.mid, self.key, fence).within(means.settings.rooms_per_user_max)

    def _joined(self, seq: int, joining: membership.Join, outcome: list[Recorded] | ImcoreError) -> None:
        if isinstance(outcome, ImcoreError):
            self._refuse(Op.JOIN, seq, outcome)
        elif outcome:
            self.reply(Op.JOIN_REPLY, seq, _place(outcome[0]))  # what is audited comes after the join
        else:
            assert joining.existing is not None, "no event means that there was a membership"
            body = {"position": joining.existing.since, "seq": joining.existing.since_seq, "duplicate": True}
            self.reply(Op.JOIN_REPLY, seq, orjson.dumps(body))

    def _leave(self, seq: int, room: str) -> None:
        if room_type(room) in self.comet.live_types:
            inside, entered = self._inside()
            if room not in inside:
                raise NoSuchRoom
            self._enter(Op.LEAVE_REPLY, seq, [one for one in inside if one != room], entered)
            return
        assert self.identity is not None
        leaving = membership.Leave(room, self.identity.actor, key=self.key)

        def left(outcome: list[Recorded] | ImcoreError) -> None:
            if isinstance(outcome, ImcoreError):
                self._refuse(Op.LEAVE, seq, outcome)
            else:
                self.reply(Op.LEAVE_REPLY, seq, _place(outcome[-1]))

        leaving.done = left
        self.comet.log.submit(leaving.fenced(self.mid, self.key, self._fence))

    def _change_room(self, seq: int, room: str) -> None:
        """goim's one room: leave the one entered, enter another."""
        identity, comet = self.identity, self.comet
        assert identity is not None
        if room and not identity.may_enter(room):
            raise NoSuchRoom
        if room and room_type(room) not in comet.live_types:
            # A durable room is entered by being a member of it.
            def joined(joining: membership.Join, outcome: list[Recorded] | ImcoreError) -> None:
                if isinstance(outcome, ImcoreError):
                    self._refuse(Op.CHANGE_ROOM, seq, outcome)
                elif self.phase == _OPEN:
                    try:
                        self._enter(Op.CHANGE_ROOM_REPLY, seq, self._others(), room)
                    except ImcoreError as error:  # the log calls this: what is raised here would end it
                        self._refuse(Op.CHANGE_ROOM, seq, error)

            self._submit_join(room, joined)
            return
        self._enter(Op.CHANGE_ROOM_REPLY, seq, [*self._others(), *([room] if room else ())], room)

    def _enter(self, op: Op, seq: int, rooms: list[str], room: str, *, is_asked: bool = True) -> None:
        """Be in exactly these live rooms, with `room` as the room entered, from the event's place in the log on."""
        rooms = list(dict.fromkeys(rooms))
        if len(rooms) > self.comet.settings.rooms_per_session_max:
            raise BadRequest(f"more than {self.comet.settings.rooms_per_session_max} rooms")

        entering = rooms, room

        def entered(draft: Draft, outcome: Outcome, duplicate: bool) -> None:
            if self.entering is entering:
                self.entering = None
            if isinstance(outcome, ImcoreError):
                if is_asked:
                    self._refuse(op - 1, seq, outcome)
                return
            if self.phase == _OPEN:
                self.room = room
                self.comet.hub.enter(self, rooms, outcome.position)
            if not is_asked:
                self._tell_switched(room)
                return
            is_goim = op == Op.CHANGE_ROOM_REPLY
            self.reply(op, seq, (b"{}" if self.ver == 2 else b"") if is_goim else _place(outcome))

        self.comet.log.submit(
            commands.enter_rooms(self.mid, self.key, self.opened, rooms, fence=self._fence, done=entered)
        )
        self.entering = entering

    def switched(self, room: str) -> None:
        """Leave the room entered for this one: its person asked for it elsewhere. The client did not ask, so it is told by an event."""
        inside = [*self._others(), *([room] if room and self.comet.is_live(room) else ())]
        try:
            self._enter(Op.CHANGE_ROOM_REPLY, 0, inside, room, is_asked=False)
        except ImcoreError as error:  # the hub calls this: what is raised here would end it
            log.info("= a connection stays in its room: %s", error.code)

    def _inside(self) -> tuple[list[str], str]:
        """The live rooms that this connection is in, and the room entered, once everything on its way is committed: a client need
        not wait for one answer before it asks again."""
        return self.entering or ([stream[5:] for stream in self.entered], self.room)

    def _others(self) -> list[str]:
        """The live rooms beside the room entered."""
        inside, entered = self._inside()
        return [one for one in inside if one != entered]

    def _accept(self, op: int, seq: int, ops: frozenset[int] | None) -> None:
        """Want messages of these operations from now on; None is all of them."""
        identity = self.identity
        assert identity is not None
        if ops is not None and len(ops) > ACCEPTS_MAX:
            raise BadRequest(f"more than {ACCEPTS_MAX} operations")
        if identity.ops is not None and (ops is None or not ops <= identity.ops):
            raise Forbidden("these are not all operations that are allowed to you")
        wanted = None if ops is None else sorted(ops)
        self.comet.log.submit(commands.accept_ops(self.mid, self.key, wanted, fence=self._fence))
        self.accepts = ops
        self.reply(op + 1, seq, b"{}" if self.ver == 2 else b"")

    # --- requests that read --------------------------------------------------------------------------------------------------

    def _read(self, op: int, seq: int, answer: Coroutine[object, object, bytes]) -> None:
        try:
            self._begin_reading()
        except ImcoreError:
            answer.close()
            raise
        self.comet.spawn(self._answer(op, seq, answer))

    def _begin_reading(self) -> None:
        """One request more that reads; `_end_reading` must follow. Raises RateLimited, Overloaded."""
        if self.reading >= READS_MAX:
            raise RateLimited("too many requests under way on this connection", retry_after_ms=200)
        if self.comet.reads_under_way >= self.comet.settings.reads_under_way_max:
            raise Overloaded(retry_after_ms=retry_ms(READS_RETRY_MS_MAX))
        self.reading += 1
        self.comet.reads_under_way += 1

    def _end_reading(self) -> None:
        self.reading -= 1
        self.comet.reads_under_way -= 1
        if self.leaving is not None and not self.calls:
            self.end(self.leaving)

    async def _answer(self, op: int, seq: int, answer: Coroutine[object, object, bytes]) -> None:
        try:
            self.reply(op + 1, seq, await self.comet.guarded(answer))
        except ImcoreError as error:
            self._refuse(op, seq, error)
        except Exception as error:
            self._failed(op, seq, error)
        finally:
            self._end_reading()

    async def _history(self, request: History) -> bytes:
        room = request.room
        if room_type(room) in self.comet.live_types and "room:" + room not in self.entered:
            raise NoSuchRoom
        self._check_named(room)
        assert self.identity is not None
        return await reads.history(
            self.comet.reads,
            room,
            self.identity.actor,
            before=request.before,
            after=request.after,
            around=request.around,
            at=request.at,
            limit=request.limit,
        )

    async def _mark_read(self, room: str, upto: int, fence: int) -> bytes:
        self._check_named(room)
        return await reads.mark_read(self.comet.reads, room, self.mid, upto, key=self.key, fence=fence)

    async def _members(self, request: Members) -> bytes:
        self._check_named(request.room)
        identity = self.identity
        assert identity is not None
        return await reads.members(
            self.comet.reads, request.room, identity.actor, after=request.after, limit=request.limit
        )

    async def _inbox(self, after: str, limit: int) -> bytes:
        return await reads.inbox(self.comet.reads, self.mid, after=after, limit=limit)

    async def _call(self, call: Call, fence: int) -> bytes:
        """Any verb, by its name, as HTTP has it too."""
        comet, identity = self.comet, self.identity
        assert identity is not None
        verb = comet.verbs.by_name.get(call.verb)
        if verb is None or "connection" not in verb.doors:
            raise UnknownOperation(f"there is no verb {shown(call.verb)} for connections")
        caller = Caller(identity, self.key, fence, self.carrier.address, connection=self)
        self.calls += 1
        try:
            told = await comet.verbs.call(verb, caller, comet.means, call.args, call.idempotency_key)
        finally:
            self.calls -= 1
        assert not isinstance(told, Stream), "a verb for connections answers JSON"
        return (b'{"answer":%b,"replayed":true}' if told.is_again else b'{"answer":%b}') % told.body

    # --- what verbs ask of the connection that they came over -------------------------------------------------------------------

    async def watch(self, mids: Sequence[int], *, sees_all: bool) -> list[tuple[int, tuple[str, ...]]]:
        """Be told of these people from now on; each person's platforms as they are now."""
        return [*await self.comet.watch(self, mids, sees_all=sees_all)]

    def unwatch(self, mids: Sequence[int] | None) -> None:
        """Be told of these people no more; of nobody, for None."""
        self.comet.watching.end(self, mids)

    def online(self, room: str) -> int | None:
        """How many sessions are in this live room; None if this one is not."""
        return self.comet.online(room) if "room:" + room in self.entered else None

    # --- auth ------------------------------------------------------------------------------------------------------------------

    def _stand_in_line(self, seq: int, auth: Auth) -> None:
        """Open it when its turn has come. The time until then is not the client's, so the deadline of an auth waits too."""
        admission = self.comet.admission
        self.phase = _AUTHENTICATING
        delay_s = admission.ask(self, partial(self._begin, seq, auth))
        if delay_s is not None:
            self.comet.turned_away[TryLater.code] += 1
            self.fail_auth(seq, TryLater(retry_after_ms=int(delay_s * 1000)))
        elif admission.stands(self):
            self.began_at = math.inf

    def _begin(self, seq: int, auth: Auth) -> None:
        self.began_at = self.comet.now()
        self.comet.spawn(self._take_up(seq, auth))

    async def _take_up(self, seq: int, auth: Auth) -> None:
        try:
            await self._open(seq, auth)
        finally:
            self.early_bytes = 0
            self.read_on()
            self.comet.admission.done()

    async def _open(self, seq: int, auth: Auth) -> None:
        """From the auth packet to the first event: verify, commit the session, read what the person is in, catch up."""
        comet = self.comet
        try:
            claim = Claim(token=auth.token, mid=auth.mid, key=auth.key, room=auth.room, accepts=auth.accepts)
            doors = comet.doors
            if doors.must_wait(claim):
                carrier = self.carrier
                waiting = doors.admit(claim, origin=carrier.origin, address=carrier.address)
                identity = await comet.guarded(waiting)
            else:
                identity = doors(claim)
            self._admit(identity, auth)
            for room in (auth.room, *auth.rooms):
                if room and doors.asks("join"):
                    await doors.allow("join", identity, room, auth.key)
            if self.phase != _AUTHENTICATING:
                return
            await self._open_as(identity, seq, auth)
        except ImcoreError as error:
            self.fail_auth(seq, error)
        except Exception:
            log.exception("! an auth failed")
            self.comet.refused(ImcoreError())
            self.fail_auth(seq, ImcoreError())

    def _admit(self, identity: Identity, auth: Auth) -> None:
        comet = self.comet
        if comet.draining:
            raise GoingAway
        if identity.service:
            raise Unauthenticated("a service token opens no connection")
        wanted = [room for room in (auth.room, *auth.rooms) if room]
        for room in wanted:
            if not identity.may_enter(room):
                raise Forbidden(f"room {room} is not allowed to you")
        if identity.ops is not None and auth.accepts is not None and not auth.accepts <= identity.ops:
            raise Forbidden("accepts names operations that are not allowed to you")
        comet.check_room(identity.mid, auth.key)

    async def _open_as(self, identity: Identity, seq: int, auth: Auth) -> None:
        comet = self.comet
        hub = comet.hub
        self._be(identity)
        self.key = auth.key or comet.new_key()
        self.platform = auth.platform
        accepts = auth.accepts
        if accepts is None and self.ver == 1:
            accepts = frozenset()  # goim: what a client does not accept it does not get
        if accepts is None and identity.ops is not None:
            accepts = identity.ops
        self.accepts = accepts
        live = [
            room for room in dict.fromkeys((auth.room, *auth.rooms)) if room and room_type(room) in comet.live_types
        ]
        if len(live) > comet.settings.rooms_per_session_max:
            raise BadRequest(f"more than {comet.settings.rooms_per_session_max} rooms")
        durable = [room for room in dict.fromkeys((auth.room, *auth.rooms)) if room and room not in live]
        person = hub.hold(self.mid)
        recorded: Recorded | None = None
        try:
            opening = comet.log.appending(
                commands.open_session(
                    self.mid,
                    self.key,
                    node=comet.node,
                    platform=auth.platform,
                    address=self.carrier.address,
                    rooms=[*live, *([auth.room] if auth.room and auth.room not in live else [])],
                    protocol=("v1", "v1", "v2", "v2", "json")[self.codec],
                )
            )
            after = comet.said_to_have(auth.cursor)
            place = person.place(auth.key, after)
            try:
                if place is None:
                    known = await comet.loader.load(self.mid, self.key, after)
                    place = Place(known.head, known.newest)
                    hub.know(person, known.head, known.rooms)
                    hub.learn(person, auth.key, place, known.marks, known.left, known.left_from)
                    hub.count(person, known.sessions)
            finally:
                recorded = await opening  # what is opened must be closed, whatever the loader says
            # The hub must be there before the session is: what it gives goes on from here. And all marks up to here have gone by,
            # whichever comet they came from; so have all joins and leaves that were answered before this auth.
            await comet.tail.reached(recorded.position)
            if self.phase != _AUTHENTICATING:
                return
            comet.check_rooms(self.mid, person, durable)
            joinings = [
                come_in(comet.means, self._joining(room, recorded.position))
                for room in durable
                if "room:" + room not in person.rooms
            ]
            if joinings:  # in one batch: a commit for each of a thousand rooms would take longer than an auth may
                await comet.guarded(asyncio.gather(*joinings))
                if self.phase != _AUTHENTICATING:
                    return
            self.opened = recorded.position
            self.room = auth.room
            displaced = comet.displaced(self, person)
            resume = comet.resume(auth.cursor, person, self)
            if resume.reason == "new" and resume.start and self.mid > 0:
                # From now on the device is known, however this session ends; else it would be new again, and begin where others are.
                comet.log.submit(commands.ack(self.mid, self.key, resume.start))
            # A mark of 0 is that of a device that never took anything: what was pushed to everybody before it came is not its.
            self.floor = resume.start if resume.is_known and resume.start else self.opened
            since = resume.start if resume.by_cursor else self.opened
            comet.doors.check(identity)  # it may have been taken back since; from here on the hub sees to that
            if not admit(hub, self, person, live, start=resume.start, since=since, place=place):
                raise TakenOver
            self.acked = self.marked = min(resume.start, hub.position)
            self.taken = self.received = self.acked
            self.phase = _OPEN
            self.was_authenticated = True
            comet.authenticated(self)
            for key, opened in displaced:
                comet.displace(self.mid, key, opened)
            body: dict[str, object] = {
                "mid": self.mid,
                "key": self.key,
                "epoch": comet.history.epoch,
                "position": resume.start,
                "upto": hub.position,
                "cursor": comet.cursor(resume.start),
                "recovered": resume.recovered,
                "heartbeat_s": comet.settings.heartbeat_s,
                "rooms": live,
            }
            if resume.reason:
                body["reason"] = resume.reason
            self.reply(Op.AUTH_REPLY, seq, orjson.dumps(body) if self.ver == 2 else b"")
            if resume.recovered:
                for stream, left in hub.left_since(person, resume.start):
                    self._tell_removed(stream[5:], left)
            self.flush_replies()
            comet.catch_up(self)
            early, self.early = self.early, None
            for packet in early or ():
                if isinstance(packet, Packet):
                    self.take_packets([packet])
                else:
                    self.take_text(*packet)
        finally:
            hub.release(person)
            if recorded is not None and not self.was_authenticated:
                comet.closed(self, recorded.position, "lost", None)

    def fail_auth(self, seq: int, error: ImcoreError) -> None:
        """Tell why, where the form can say it, and close."""
        if self.phase == _ENDED:
            return
        self.comet.auth_failures += 1
        if self.ver == 2:
            self.reply(Op.AUTH_REPLY, seq, orjson.dumps({"error": error.facts()}))
        if error.close is not None:
            self.end(error)
        else:
            # Not with the error's own time to come back, which is the same for everybody.
            self.end(TryLater(error.detail) if error.retry else Unauthenticated(error.detail))

    def _be(self, identity: Identity) -> None:
        self.identity = identity
        self.expires_at = identity.expires_at
        self.mid, self.sid, self.as_of = identity.mid, identity.sid, identity.as_of or 0

    async def renew(self, token: str) -> float | None:
        """Go on with a fresh token of the same login; until when. Raises Unauthenticated, Unavailable: it goes on as before then."""
        assert self.identity is not None, "only who is open calls verbs"
        carrier, claim = self.carrier, Claim(token=token, mid=self.mid, key=self.key)
        renewed = self.comet.doors.renewed(self.identity, claim, origin=carrier.origin, address=carrier.address)
        self._be(await self.comet.guarded(renewed))
        return self.expires_at

    # --- bytes out -------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Bytes that are ready for the wire."""
        self.carrier.write(data)

    def reply(self, op: int, seq: int, body: bytes) -> None:
        """One packet to this connection, with the other replies of this tick."""
        if self.phase == _ENDED:
            return
        data = encode.reply(self.codec, op, seq, body)
        if self.replies is None:
            self.replies = [data]
            self.comet.replying(self)
        else:
            self.replies.append(data)

    def flush_replies(self) -> None:
        """Write the replies that have gathered."""
        replies, self.replies = self.replies, None
        if replies:
            self.carrier.write(replies[0] if len(replies) == 1 else b"".join(replies))

    def _refuse(self, op: int, seq: int, error: ImcoreError) -> None:
        """Say no to one request. Errors with a close code end the connection, and so does any error of an auth."""
        if op == _AUTH:
            self.fail_auth(seq, error)
            return
        if isinstance(error, TakenOver):
            # When all of its requests in this batch were answered: each was certainly not stored.
            self.comet.loop.call_soon(self.end, error)
        elif error.close is not None:
            self.end(error)
            return
        self.comet.refused(error)
        self._say_no(op, seq, error.facts())

    def _say_no(self, op: int, seq: int, facts: dict[str, object]) -> None:
        reply_op = op + 1 if op in _REQUEST_OPS else int(Op.ERROR)
        self.reply(reply_op, seq, orjson.dumps({"error": facts}))

    def _failed(self, op: int, seq: int, error: Exception) -> None:
        """An exception that nobody expected is the fault of one request, so the connection goes on. And a bug stays a bug: the client
        need not ask again, whatever the table says of the error that ends a connection."""
        log.error("! a request failed", exc_info=error, extra={"op": op, "mid": self.mid})
        told = ImcoreError()
        self.comet.refused(told)
        self._say_no(op, seq, told.facts() | {"retry": False})

    def removed(self, event: Recorded) -> None:
        """The person is no longer in the room of this event."""
        self._tell_removed(event.room, Left(event.position, event.mid, event.type))

    def _tell_removed(self, room: str, left: Left) -> None:
        """Version 2: say which room it is no longer in. Version 1 has no word for it."""
        if self.ver == 2:
            body = {"room": room, "position": left.position, "type": left.type, "by": left.by}
            self.reply(Op.REMOVED, 0, orjson.dumps(body))

    def _tell_switched(self, room: str) -> None:
        """Version 2: say which room it is in now, by an event that is stored nowhere. Version 1 has no word for it."""
        if self.ver == 2:
            fact = RoomSwitched(key=self.key, opened=self.opened, room=room)
            time_ms = int(self.comet.wall() * 1000)
            body = fact.model_dump_json()
            stream = f"{USER}{self.mid}"
            event = Recorded(0, stream, 0, 0, fact.type, 1, self.mid, self.key, None, 0, JSON, time_ms, body)
            self.reply(Op.EVENT, 0, envelope(event))

    # --- the end ---------------------------------------------------------------------------------------------------------------

    def end(self, error: ImcoreError, *, is_expected: bool = False) -> None:
        """Close the connection: version 2 is told why, and whether and when to come back; everybody gets the close code."""
        if self.phase == _ENDED:
            return
        code = error.close if error.close is not None else 1011
        delay_ms = self.comet.returns.delay_ms(error, self.comet.now(), is_counted=is_expected)
        if self.ver == 2:
            told = {"code": error.code, "text": error.detail, "retry": error.retry, "close": code, "delay_ms": delay_ms}
            self.reply(Op.DISCONNECT, 0, orjson.dumps(told))
        self.flush_replies()
        self.finish(error.code)
        self.carrier.close(code, error.code)

    def revoked(self, error: ImcoreError) -> None:
        """The login is over. What ended it may have been asked for here, and the answer be on its way: it comes first, then the end.
        That waits a moment only, and nothing else is given or taken meanwhile."""
        if self.phase != _OPEN or not self.calls:
            self.end(error)
            return
        self.phase = _LEAVING
        self.leaving = error
        self.carrier.pause_reading()
        self.comet.watching.end(self)
        self.comet.loop.call_later(ANSWER_S, self.end, error)

    def finish(self, reason: str) -> None:
        """The connection is over, whoever ended it. Doing it again does nothing."""
        if self.phase == _ENDED:
            return
        was_open = self.phase in (_OPEN, _LEAVING)
        self.phase = _ENDED
        self.comet.admission.leave(self)
        self.ended_at = self.comet.now()
        self.early = None
        self.replies = None
        delivered = self.delivered() if was_open else None
        self.comet.hub.remove(self)
        self.comet.ended(self, reason, delivered, was_open=was_open)

    def delivered(self) -> int:
        """Up to where this device has everything: what it acknowledged; in version 1, what its socket took."""
        if self.ver == 2:
            return self.acked
        if self.state not in (LIVE, BEHIND):
            return self.taken
        if self.carrier.has_taken_all() and not self.full:
            # A live session may have caught up beyond the last flush.
            upto = self.position if self.state == BEHIND else max(self.position, self.comet.hub.flushed)
            self.taken = max(self.taken, upto)
        return self.taken

    def socket_full(self) -> None:
        """The carrier holds more unsent bytes than a connection may have."""
        self.full = True
        self.progress_at = self.comet.now()
        self.progress_unsent = self.carrier.unsent()
        self.comet.hub.fall_behind(self)
        self.carrier.pause_reading()

    def socket_free(self) -> None:
        """The carrier can take more."""
        self.full = False
        self.progress_at = self.comet.now()
        self.read_on()
        if self.state == BEHIND:
            self.comet.catch_up(self)

    @property
    def _fence(self) -> int:
        """An open connection is the newest of its key, as far as the hub has come: else the hub would have ended it."""
        return self.comet.hub.position

    @property
    def is_open(self) -> bool:
        """Authenticated, and not ended."""
        return self.phase == _OPEN

    @property
    def is_new(self) -> bool:
        """Not authenticated yet."""
        return self.phase in (_NEW, _AUTHENTICATING)

    @property
    def is_ended(self) -> bool:
        """Over; perhaps its last bytes are still on their way."""
        return self.phase == _ENDED


_REQUEST_OPS: Final = frozenset(
    int(op)
    for op in (
        Op.HEARTBEAT, Op.SEND, Op.AUTH, Op.CHANGE_ROOM, Op.SUBSCRIBE, Op.UNSUBSCRIBE, Op.JOIN, Op.LEAVE, Op.HISTORY,
        Op.READ, Op.MEMBERS, Op.INBOX, Op.ACK, Op.CALL,
    )
)  # fmt: skip
assert OPENING != LIVE


def _place(recorded: Recorded) -> bytes:
    return b'{"position":%d,"seq":%d}' % (recorded.position, recorded.seq)


def _sent(draft: Draft, outcome: Outcome, duplicate: bool) -> None:
    """The outcome of a send, to the connection that it came over."""
    connection = draft.origin
    assert isinstance(connection, Connection)
    connection.pending -= 1
    if type(outcome) is Recorded:
        if duplicate:
            body = b'{"position":%d,"seq":%d,"duplicate":true}' % (outcome.position, outcome.seq)
        else:
            body = b'{"position":%d,"seq":%d}' % (outcome.position, outcome.seq)
        connection.reply(_SEND_REPLY, draft.tag, body)
    else:
        assert isinstance(outcome, ImcoreError)
        connection._refuse(Op.SEND, draft.tag, outcome)


Handler = Callable[[Request], None]
