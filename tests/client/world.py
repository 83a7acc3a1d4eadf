"""Clients' cores and a server's parts, face to face: one seed is one history.

There is no socket, database or clock. Real are, on the server's side, the hub, the encoding of events, the codecs and the reading of
requests; on the client's side the whole core. Made of memory are the log and the wires, and they do what wires do: break, hold back,
split and glue. The server answers late, says "later", forgets to answer what it stored, loses events that it should have sent (so that
the client must find the hole), is killed, and is restored from a backup. Programs are slow, and are killed between dealing with
an event and storing that they did.

What must hold is checked when a program deals with something, and at the end, when everything has come to rest.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import orjson

from comet.wires import packets
from imcore.client.codec import BinaryCodec, JsonCodec
from imcore.client.core import READS_MAX, Acked, Answered, Asked, Core, Entry, Farewell, Opened
from imcore.client.events import Event, Message, Removed, Reset
from imcore.comet.catchup import admit
from imcore.comet.encode import JSON_WS, V2_TCP
from imcore.comet.hub import BEHIND, LIVE, Hub, Place, Session, filtered
from imcore.envelope import envelope
from imcore.errors import BadRequest, GoingAway, IdConflict, ImcoreError, NoSuchRoom, RateLimited, Unavailable
from imcore.events.types import (
    ALL,
    JSON,
    MESSAGE_PUSHED,
    MESSAGE_SENT,
    ROOM,
    SESSION,
    USER,
    Fact,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    Recorded,
    SessionOpened,
)
from imcore.protocol import binary, requests, text
from imcore.protocol.packet import PACKET_BYTES_MAX, Op, Packet
from imcore.protocol.requests import Ack, Auth, Call, Heartbeat, History, Join, Leave, Send

STEPS = 400
ROUNDS_MAX = 3_000
ROOMS = ("group://a", "group://b")
TRACE_LINES = 30


class Broken(AssertionError):
    """A promise was broken. The message names the seed, and the way there."""


class Server:
    """One comet and its log, in memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.epoch = "e1"
        self.log: list[Recorded] = []
        self.heads: Counter[str] = Counter()
        self.ids: dict[tuple[int, str], tuple[Recorded, str]] = {}
        self.members: dict[str, dict[int, int]] = {}  # room -> mid -> position of the join
        self.marks: dict[tuple[int, str], int] = {}
        self.carried_out: Counter[str] = Counter()  # what was called for, which is not in the log
        self.lines: list[Line] = []
        self.hub = Hub(0, ("live",))

    def append(
        self, stream: str, mid: int, key: str, *, fact: Fact | None = None, body: str = "", id_: str | None = None
    ) -> Recorded:
        """One event, committed."""
        self.heads[stream] += 1
        position = len(self.log) + 1
        if fact is None:
            type_, op = (MESSAGE_SENT if id_ else MESSAGE_PUSHED), 1000
        else:
            type_, op, body = fact.type, 0, fact.model_dump_json()
        event = Recorded(position, stream, self.heads[stream], 0, type_, 1, mid, key, id_, op, JSON, position, body)
        self.log.append(event)
        room = event.room
        match fact:
            case MemberJoined(mid=who):
                assert room is not None
                self.members.setdefault(room, {})[who] = position
            case MemberLeft(mid=who) | MemberRemoved(mid=who):
                assert room is not None
                del self.members[room][who]
        self.hub.apply([event])
        return event

    def say(self, line: Line, send: Send) -> tuple[Recorded, bool]:
        """A send, as the log takes it."""
        if line.mid not in self.members.get(send.room, {}):
            raise NoSuchRoom
        known = self.ids.get((line.mid, send.id))
        if known is not None:
            if known[1] != send.body:
                raise IdConflict
            return known[0], True
        event = self.append(ROOM + send.room, line.mid, line.key, body=send.body, id_=send.id)
        self.ids[line.mid, send.id] = event, send.body
        return event, False

    def join(self, room: str, mid: int, key: str) -> tuple[Recorded, bool]:
        since = self.members.get(room, {}).get(mid)
        if since is not None:
            return self.log[since - 1], True
        return self.append(ROOM + room, mid, key, fact=MemberJoined(room=room, mid=mid)), False

    def kick(self, room: str, mid: int) -> None:
        if mid in self.members.get(room, {}):
            self.append(ROOM + room, 0, "", fact=MemberRemoved(room=room, mid=mid))

    def stop(self) -> None:
        """kill -9."""
        for line in list(self.lines):
            line.cut()
        self.hub = Hub(len(self.log), ("live",))

    def restore(self, upto: int) -> None:
        """A backup is played back: what came after it never happened."""
        self.stop()
        self.epoch = f"e{int(self.epoch[1:]) + 1}"
        kept, self.log = self.log[:upto], []
        self.heads, self.ids, self.members, self.marks = Counter(), {}, {}, {}
        self.hub = Hub(0, ("live",))
        for event in kept:
            fact = None if event.type in (MESSAGE_SENT, MESSAGE_PUSHED) else event.fact
            again = self.append(event.stream, event.mid, event.key, fact=fact, body=event.body, id_=event.client_id)
            if event.client_id is not None:
                self.ids[event.mid, event.client_id] = again, event.body


class Line(Session):
    """A connection: the server's side of it, and what is on its way to the client."""

    def __init__(self, world: World, device: Device) -> None:
        super().__init__()
        self.world, self.server, self.device = world, world.server, device
        self.is_text = device.is_text
        self.codec = JSON_WS if self.is_text else V2_TCP
        self.decoder = binary.Decoder(PACKET_BYTES_MAX)
        self.wire: deque[bytes] = deque()
        self.late: list[bytes] = []  # replies that are not written yet
        self.working = 0  # of them, those to what is worked on side by side
        self.is_cut = False
        self.epoch = world.server.epoch
        self.is_faithful = world.rng.random() < 0.5
        self.last = 0
        self.server.lines.append(self)

    # --- to the client ---

    def write(self, data: bytes) -> None:
        told = []
        for packet in packets(self.codec, data):
            if self._loses(packet):
                self.world.counts["events that the server lost"] += 1
                continue
            told.append(self._packet(packet))
        if told and self.is_text and self.world.chance(0.5):
            told = [text.encode_batch(told)]
        self.wire.extend(told)

    def _loses(self, packet: Packet) -> bool:
        """Does the server make a mistake? What was lost before the client has heard anything of a room it cannot miss."""
        if self.is_faithful or self.world.is_ending or not self.world.chance(0.2):
            return False
        event = orjson.loads(packet.body)
        if event.get("type") == "member_joined" and event["body"]["mid"] == self.mid:
            return False  # what is before it is not for us, so nobody can say that it is missing
        place = self.device.core._places.get(event.get("room", event.get("stream")))
        return place is not None and place.is_chained and self.device.core.is_open and self.device.line is self

    def _packet(self, packet: Packet) -> bytes:
        if self.is_text:
            return text.encode(packet.op, packet.seq, packet.body)
        return binary.encode(2, packet.op, packet.seq, packet.body)

    def reply(self, op: int, seq: int, body: object, *, now: bool = False) -> None:
        data = self._packet(Packet(2, op, seq, orjson.dumps(body)))
        if now:
            self.wire.append(data)
        else:
            self.late.append(data)
            self.working += op - 1 in (Op.HISTORY, Op.CALL)
            if self.working > READS_MAX:
                self.world.fail(f"{self.working} requests at once, and a connection may have {READS_MAX}", self.device)

    def write_late(self) -> None:
        """What was held back leaves."""
        self.wire.extend(self.late)
        self.late.clear()
        self.working = 0

    def removed(self, event: Recorded) -> None:
        facts = {"room": event.room, "position": event.position, "type": event.type, "by": event.mid}
        self.reply(Op.REMOVED, 0, facts, now=True)

    def end(self, error: ImcoreError, delay_ms: int = 0) -> None:
        told = {
            "code": error.code,
            "text": error.detail,
            "retry": error.retry,
            "close": error.close,
            "delay_ms": delay_ms,
        }
        self.reply(Op.DISCONNECT, 0, told, now=True)
        self.wire.append(b"")

    def catch_up(self) -> None:
        """A page of what it misses."""
        hub = self.server.hub
        if self.state != BEHIND:
            return
        page = self.server.log[self.position : min(hub.position, self.position + self.world.rng.choice((1, 5, 50)))]
        events = filtered(page, hub.entitled(self), self)
        self.position = page[-1].position if page else self.position
        for event in events:
            self.write(binary.encode(2, Op.EVENT, 0, envelope(event)) if not self.is_text else _text_frame(event))
        hub.settle(self)

    def cut(self) -> None:
        """The connection breaks, for both sides."""
        if not self.is_cut:
            self.is_cut = True
            self.server.hub.remove(self)
            self.server.lines.remove(self)

    # --- from the client ---

    def take(self, data: bytes) -> None:
        if self.is_text:
            op, seq, value = text.decode(data)
            self._handle(op, seq, lambda: requests.from_value(op, value, data))
        else:
            for packet in self.decoder.feed(data):
                ver, op, seq, body = packet
                self._handle(op, seq, lambda op=op, body=body, ver=ver: requests.from_packet(op, body, ver))

    def _handle(self, op: int, seq: int, read: Any) -> None:
        world = self.world
        if op != Op.AUTH and op != Op.HEARTBEAT and not world.is_ending and world.chance(world.limited):
            world.counts["rate limited"] += 1
            self.reply(op + 1, seq, {"error": RateLimited(retry_after_ms=world.rng.randrange(200)).facts()})
            return
        try:
            body = self._answer(read())
        except ImcoreError as error:
            if type(error) is BadRequest:
                world.fail(f"the server does not understand: {error.detail}", self.device)
            body = {"error": error.facts()}
        self.reply(op + 1, seq, body, now=op == Op.AUTH)

    def _answer(self, request: requests.Request) -> object:
        server, world = self.server, self.world
        match request:
            case Auth():
                return self._open(request)
            case Send():
                if not world.is_ending and world.chance(world.unsure):
                    world.counts["outcomes unknown"] += 1
                    if world.chance(0.5):
                        server.say(self, request)
                    raise Unavailable
                event, duplicate = server.say(self, request)
                place: dict[str, object] = {"position": event.position, "seq": event.seq}
                return place | ({"duplicate": True} if duplicate else {})
            case Join(room=room):
                event, duplicate = server.join(room, self.mid, self.key)
                return {"position": event.position, "seq": event.seq} | ({"duplicate": True} if duplicate else {})
            case Leave(room=room):
                if self.mid not in server.members.get(room, {}):
                    raise NoSuchRoom
                event = server.append(ROOM + room, self.mid, self.key, fact=MemberLeft(room=room, mid=self.mid))
                return {"position": event.position, "seq": event.seq}
            case History(room=room, after=after, limit=limit):
                since = server.members.get(room, {}).get(self.mid)
                if since is None:
                    raise NoSuchRoom
                found = [event for event in server.log if event.room == room and event.position >= since]
                found = [event for event in found if event.seq > (after or 0)]
                limit = min(limit, world.rng.choice((1, 3, 500)))
                return {
                    "room": room,
                    "events": [orjson.loads(envelope(event)) for event in found[:limit]],
                    "head": server.heads[ROOM + room],
                    "more": len(found) > limit,
                }
            case Ack(position=position):
                upto = self.position if self.state == BEHIND else server.hub.position
                if position > upto:
                    world.fail(f"{position} is acknowledged, and only {upto} was delivered", self.device)
                mark = (self.mid, self.key)
                server.marks[mark] = max(position, server.marks.get(mark, 0))
                return {"position": server.marks[mark], "cursor": f"{server.epoch}.{server.marks[mark]}"}
            case Call(args={"name": str() as name}):
                if not world.is_ending and world.chance(world.unsure):
                    world.counts["outcomes unknown"] += 1
                    server.carried_out[name] += world.chance(0.5)
                    raise Unavailable
                server.carried_out[name] += 1
                return {"answer": {"times": server.carried_out[name]}}
            case Heartbeat():
                return {"online": 1}
        raise AssertionError(f"nobody asks {request}")

    def _open(self, auth: Auth) -> object:
        server, hub = self.server, self.server.hub
        assert auth.mid is not None
        self.mid, self.key = auth.mid, auth.key
        event = server.append(
            f"{SESSION}{self.mid}", self.mid, self.key, fact=SessionOpened(key=self.key, node="n"), body=""
        )
        hub.flush()
        self.opened = event.position
        start, reason = self._resume(auth.cursor)
        self.floor = start
        person = hub.hold(self.mid)
        rooms = {ROOM + room: here[self.mid] for room, here in server.members.items() if self.mid in here}
        hub.know(person, len(server.log), rooms)
        assert admit(hub, self, person, (), start=start, since=start, place=Place(0, len(server.log)))
        hub.release(person)
        if reason == "new":  # from now on the device is known
            server.marks[self.mid, self.key] = start
        body: dict[str, object] = {
            "mid": self.mid,
            "key": self.key,
            "epoch": server.epoch,
            "position": start,
            "upto": len(server.log),
            "cursor": f"{server.epoch}.{start}",
            "recovered": not reason,
            "heartbeat_s": 240,
            "rooms": [],
        }
        return body | ({"reason": reason} if reason else {})

    def _resume(self, cursor: str) -> tuple[int, str]:
        """As the comet decides it."""
        server = self.server
        if cursor:
            epoch, _, digits = cursor.rpartition(".")
            if epoch != server.epoch:
                return self.opened, "epoch"
            if int(digits) > self.opened:
                return self.opened, "too_far"
            return int(digits), ""
        own = server.marks.get((self.mid, self.key))
        return (0, "new") if own is None else (own, "")


def _text_frame(event: Recorded) -> bytes:
    frame = text.encode(Op.EVENT, 0, envelope(event))
    return bytes([0x81, 127]) + len(frame).to_bytes(8, "big") + frame if len(frame) > 65_535 else _short(frame)


def _short(frame: bytes) -> bytes:
    length = bytes([len(frame)]) if len(frame) < 126 else bytes([126]) + len(frame).to_bytes(2, "big")
    return b"\x81" + length + frame


@dataclass(slots=True)
class Stored:
    """What survives a program."""

    cursor: str = ""
    seen: dict[str, int] = field(default_factory=dict)


class Device:
    """A program and its core; both are made anew when it is killed."""

    def __init__(self, world: World, mid: int, name: str, *, is_text: bool) -> None:
        self.world, self.mid, self.key, self.is_text = world, mid, name, is_text
        self.stored = Stored()
        self.line: Line | None = None
        self.dealt: dict[str, list[tuple[int, Any]]] = {}  # of this era: place -> (seq, id or body), in order
        self.may_repeat: tuple[str, int] | None = None  # dealt with, not stored, and then killed
        self.missed: set[str] = set()  # rooms with a gap that cannot be filled
        self.start = 0
        self.said: dict[str, tuple[str, str]] = {}  # id -> room, words
        self.outcomes: dict[str, Any] = {}
        self.asked: dict[Asked, str] = {}
        self.entry: Entry | None = None
        self.core = self._made()

    def __repr__(self) -> str:
        return self.key

    def _made(self) -> Core:
        core = self.world.core(
            mid=self.mid, key=self.key, chance=self.world.rng.random, backlog_max=self.world.rng.choice((5, 20, 1000))
        )
        core.begin(self.key, self.mid, self.stored.cursor, dict(self.stored.seen))
        return core

    # --- the connection ---

    def connect(self) -> None:
        assert self.line is None
        self.core.connecting()
        self.core.connected(JsonCodec() if self.is_text else BinaryCodec())
        self.line = Line(self.world, self)
        self.line.take(self.core.auth(None))

    def lose(self) -> None:
        if self.line is not None:
            self.line.cut()
            self.line = None
            for unknown in self.core.lost():
                self._answered(unknown.asked, unknown.body, unknown.error)

    def hear(self) -> None:
        """Some of what is on the wire arrives."""
        line = self.line
        assert line is not None
        rng = self.world.rng
        if not line.wire:
            if line.is_cut:
                self.lose()
            return
        data = line.wire.popleft()
        if not data:
            self.lose()
            return
        if not self.is_text:
            while line.wire and line.wire[0] and rng.random() < 0.5:
                data += line.wire.popleft()
            if len(data) > 1 and rng.random() < 0.3:
                at = rng.randrange(1, len(data))
                line.wire.appendleft(data[at:])
                data = data[:at]
        for step in self.core.receive(data, self.world.now):
            match step:
                case Opened() if step.store:
                    self.stored.cursor = step.cursor
                case Acked():
                    self.stored.cursor = step.cursor
                    self._keep(step.seen)
                case Answered(asked=asked):
                    self._answered(asked, step.body, step.error)
                case Farewell(error=error):
                    self.world.counts[f"farewell {error.code}"] += 1

    def speak(self) -> None:
        """What the core has to say goes out; and what it let go is fetched again."""
        if self.core.has_overflowed and not self.core.backlog:
            self.world.counts["overflows"] += 1
            self.lose()
        if self.line is not None and not self.line.is_cut:
            self.core.acknowledge()
            for packet in self.core.take(self.world.now):
                self.line.take(packet)

    def _answered(self, asked: Asked, body: Any, error: Any) -> None:
        id_ = self.asked.pop(asked)
        if asked.op == Op.CALL:
            self._called(id_, error)
            return
        if not id_:
            return
        room, words = self.said[id_]
        if error is None:
            told = (body["position"], body["seq"])
            if self.line is None or self.line.epoch != self.world.server.epoch:
                return  # an answer from before the backup was played back
            event = self.world.server.log[told[0] - 1]
            if self.outcomes.setdefault(id_, told) != told:
                self.world.fail(f"two outcomes of {words}: {self.outcomes[id_]} and {told}", self)
            if event.client_id != id_ or event.seq != body["seq"] or event.room != room:
                self.world.fail(f"{words} is not where the answer says: {told}", self)
        else:
            if error.retry:
                self.world.fail(f"{error.code} is worth a retry, and nobody retried", self)
            self.outcomes[id_] = error.code

    def _called(self, name: str, error: Any) -> None:
        may_repeat = name.startswith("often")
        times = self.world.server.carried_out[name]
        if error is None and not times:
            self.world.fail(f"{name} was answered, and not carried out", self)
        if times > 1 and not may_repeat:
            self.world.fail(f"{name} was carried out {times} times, and may be once", self)
        if error is not None:
            if error.code != "unavailable" or may_repeat:
                self.world.fail(f"{error.code} is no outcome of {name}", self)
            self.world.counts["calls of unknown outcome"] += 1
        else:
            self.world.counts["calls"] += 1
            self.world.counts["calls carried out twice"] += times > 1

    # --- the program ---

    def say(self) -> None:
        room = self.world.rng.choice(ROOMS)
        id_ = str(uuid.UUID(int=self.world.rng.getrandbits(128)))
        words = f"{len(self.said)} of {self.key}"
        self.said[id_] = room, words
        asked = self.core.ask(Op.SEND, {"room": room, "id": id_, "body": words}, room=room, id=id_)
        self.asked[asked] = id_

    def call(self) -> None:
        """Up to some at once, of which some may happen twice."""
        for _ in range(self.world.rng.choice((1, 1, 3, 20))):
            may_repeat = self.world.chance(0.5)
            name = f"{'often' if may_repeat else 'once'} {self.world.rng.getrandbits(64)}"
            body = {"verb": "probe.act", "args": {"name": name}}
            self.asked[self.core.ask(Op.CALL, body, may_repeat=may_repeat)] = name

    def ask(self, op: Op) -> None:
        self.asked[self.core.ask(op, {"room": self.world.rng.choice(ROOMS)})] = ""

    def deal(self) -> None:
        """With the next thing, if the last one is done."""
        if self.entry is None:
            self.entry = self.core.next()
            if self.entry is None:
                return
            self._deal(self.entry)
        elif self.world.is_ending or self.world.chance(0.8):
            entry, self.entry = self.entry, None
            for done in self.core.settle(entry):
                if done.forgets:
                    self.stored.seen = {}
                if done.cursor is not None:
                    self.stored.cursor = done.cursor
                if done.seq:
                    self._keep({done.place: done.seq})

    def _keep(self, seen: dict[str, int]) -> None:
        for place, seq in seen.items():
            self.stored.seen[place] = max(seq, self.stored.seen.get(place, 0))

    def _deal(self, entry: Entry) -> None:
        world, happening = self.world, entry.happening
        match happening:
            case Reset(reason="gap", room=room):
                world.counts["gaps that stayed"] += 1
                self.missed.add(room or "")
            case Reset(reason=reason, position=position):
                world.counts[f"reset {reason}"] += 1
                self.start = position
                self.missed.clear()
                if reason != "new":
                    self.dealt.clear()
                    self.may_repeat = None
            case Removed():
                world.counts["removed"] += 1
            case Event():
                if happening.key == self.key and happening.type == MESSAGE_SENT:
                    world.fail(f"{happening} is the device's own", self)
                if happening.seq == 0:
                    return
                before = self.dealt.setdefault(happening.place, [])
                what = (happening.seq, happening.id or happening.body)
                if (happening.place, happening.seq) == self.may_repeat:
                    self.may_repeat = None
                    world.counts["seen again after a crash"] += 1
                if before and happening.seq <= before[-1][0]:
                    world.fail(f"{what} of {happening.place} came after {before[-1]}", self)
                before.append(what)
                world.counts["messages dealt with" if isinstance(happening, Message) else "other events"] += 1

    def die(self) -> None:
        """kill -9 of the program."""
        self.world.counts["programs killed"] += 1
        self.lose()
        if self.entry is not None and isinstance(self.entry.happening, Event) and self.entry.seq:
            self.may_repeat = (self.entry.place, self.entry.seq)
            self.dealt[self.entry.place].pop()
        self.entry = None
        self.asked.clear()
        self.core = self._made()

    def is_at_rest(self) -> bool:
        core = self.core
        line = self.line
        return (
            line is not None
            and core.is_open
            and not core.backlog
            and not core.awaits
            and not core.has_news
            and not core.has_overflowed
            and self.entry is None
            and not line.wire
            and not line.late
            and line.state == LIVE
        )


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, core: type[Core] = Core) -> None:
        self.seed = seed
        self.core = core
        self.rng = random.Random(seed)
        self.now = 0.0
        self.counts: Counter[str] = Counter()
        self.trace: deque[str] = deque(maxlen=TRACE_LINES)
        self.is_ending = False
        self.limited = self.rng.choice((0.0, 0.05, 0.3))
        self.unsure = self.rng.choice((0.0, 0.1, 0.4))
        self.breaks = self.rng.choice((0.5, 2, 6))
        self.slow = self.rng.choice((1, 4, 20))
        self.has_restores = self.rng.random() < 0.4
        self.server = Server(self)
        self.devices = [
            Device(self, mid, f"{mid}-{n}", is_text=self.rng.random() < 0.5)
            for mid in range(1, self.rng.randint(2, 3) + 1)
            for n in range(self.rng.randint(1, 2))
        ]
        for device in self.devices:
            for room in ROOMS:
                self.server.join(room, device.mid, "")

    def chance(self, of: float) -> bool:
        return self.rng.random() < of

    def fail(self, what: str, device: object) -> None:
        raise Broken(f"seed {self.seed}: {device}: {what}\n" + "\n".join(self.trace))

    def run(self) -> None:
        """The steps, the rest, and what must be true then."""
        for _ in range(STEPS):
            self.step()
        self.is_ending = True
        self.server.stop()
        for _ in range(ROUNDS_MAX):
            self.now += 0.5
            self.server.hub.flush()
            for device in self.devices:
                if device.line is not None and (device.line.is_cut and not device.line.wire):
                    device.lose()
                if device.line is None:
                    device.connect()
                line = device.line
                assert line is not None
                line.catch_up()
                line.write_late()
                device.hear()
                device.speak()
                device.deal()
            if all(device.is_at_rest() for device in self.devices):
                break
        else:
            self.fail(f"no rest: {[(d, d.is_at_rest(), d.core.backlog) for d in self.devices]}", self.server)
        for device in self.devices:
            self._check(device)
            self.counts["gaps filled"] += device.core.counts.filled
            self.counts["sent again"] += device.core.counts.resends
            self.counts["duplicates dropped"] += device.core.counts.duplicates
        if not self.counts["events that the server lost"]:
            # (In a room that one has left meanwhile, own sends of unknown outcome may stay a riddle.)
            gaps = [device for device in self.devices if device.core.counts.filled]
            if gaps:
                self.fail("it filled a gap where there was none", gaps[0])

    def step(self) -> None:
        """One thing happens, to one of them."""
        rng, server = self.rng, self.server
        self.now += rng.random() * 0.1
        device = rng.choice(self.devices)
        line = device.line
        acts = {
            "connect": 4 if line is None else 0,
            "hear": 0 if line is None else 12,
            "speak": 0 if line is None else 6,
            "deal": self.slow,
            "say": 4,
            "call": 0.5,
            "join": 0.3,
            "leave": 0.15,
            "write late": 0 if line is None else 6,
            "catch up": 0 if line is None else 4,
            "flush": 6,
            "break": 0 if line is None else self.breaks / 6,
            "die": 0.3,
            "kick": 0.1,
            "push": 0.5,
            "drain": 0.1,
            "stop": 0.1,
            "restore": 0.15 if self.has_restores else 0,
        }
        (act,) = rng.choices(list(acts), list(acts.values()))
        self.trace.append(f"{device}: {act}")
        match act:
            case "connect":
                device.connect()
            case "hear":
                device.hear()
            case "speak":
                device.speak()
            case "deal":
                device.deal()
            case "say":
                device.say()
            case "call":
                device.call()
            case "join":
                device.ask(Op.JOIN)
            case "leave":
                device.ask(Op.LEAVE)
            case "write late":
                assert line is not None
                rng.shuffle(line.late)
                line.write_late()
            case "catch up":
                assert line is not None
                line.catch_up()
            case "flush":
                server.hub.flush()
            case "break":
                self.counts["breaks"] += 1
                device.lose()
            case "die":
                device.die()
            case "kick":
                server.kick(rng.choice(ROOMS), device.mid)
            case "push":
                server.append(rng.choice((f"{USER}{device.mid}", ALL)), 0, "", body='"pushed"')
            case "drain":
                for one in list(server.lines):
                    one.end(GoingAway(), delay_ms=100)
                    server.hub.remove(one)
            case "stop":
                self.counts["server killed"] += 1
                server.stop()
            case "restore":
                self.counts["restored"] += 1
                server.restore(rng.randrange(len(server.log) // 2, len(server.log) + 1))

    def _check(self, device: Device) -> None:
        server = self.server
        for room in ROOMS:
            since = server.members.get(room, {}).get(device.mid)
            if since is None or room in device.missed:
                continue
            owed = [
                (event.seq, event.client_id or orjson.loads(event.body))
                for event in server.log
                if event.room == room
                and event.position >= since
                and event.position > device.start
                and not (event.key == device.key and event.type == MESSAGE_SENT)
            ]
            dealt = device.dealt.get(room, [])
            mine = [one for one in dealt if owed and one[0] >= owed[0][0]]
            if owed != mine:
                lost = [one for one in owed if one not in mine]
                self.fail(f"of {room} it has {len(mine)} of {len(owed)}; missing {lost[:5]}", device)
        for asked, id_ in device.asked.items():
            self.fail(f"no outcome of {device.said.get(id_, asked.op)}", device)
