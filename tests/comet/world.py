"""Comets, their log, a bus that keeps no promise, and devices that come and go: one seed is one history.

There is no socket, database or clock, and nothing runs by itself. The coroutines of the real code are stepped by hand, so every await
is a place where anything else may happen, and what happens next is a draw of one seeded generator.

Real are the tail, the hub, the way back to live and the bytes; made of memory are the log, the bus, the sockets, and of a connection
its opening. `Rules` says which real parts are used, so that a test can plant a bug into one of them.

What must hold is checked where it can first be seen to fail: when bytes are written, when somebody is told of a removal, when a session
is ended, and at the end, after everything was delivered and everybody is connected.
"""

from __future__ import annotations

import random
import types
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from comet.memory_log import FOR_EVER, Draft, MemoryLog, room_stream, session_stream
from comet.wires import CODECS, positions
from imcore.bus.tail import Tail
from imcore.comet import catchup
from imcore.comet.catchup import CatchUp
from imcore.comet.encode import V1_TCP, V1_WS
from imcore.comet.hub import BEHIND, CLOSED, LIVE, Hub, Place, Session
from imcore.errors import ImcoreError, TakenOver
from imcore.events.types import (
    ALL,
    KEY,
    MESSAGE_OP,
    MESSAGE_SENT,
    ROOM,
    USER,
    DeliveryAcked,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    Page,
    Recorded,
    RoomsEntered,
    SessionOpened,
)

LIVE_TYPES = ("live",)
OPS = (MESSAGE_OP, MESSAGE_OP + 1)
STEPS = 240
ROUNDS_MAX = 400  # of the end, when everything should come to rest
TRACE_LINES = 24


class Broken(AssertionError):
    """A promise was broken. The message names the seed, what happened, and the way there."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The real parts, or bugs in their place."""

    hub: type[Hub] = Hub
    tail: type[Tail] = Tail
    catch_up: type[CatchUp] = CatchUp
    admit: Callable[..., bool] = catchup.admit
    waits: bool = True  # an opening waits until the hub has come to its place in the log
    cursor_shift: int = 0


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let others do something."""
    yield


class Device:
    """A client with a key of its own, and what it remembers."""

    def __init__(self, mid: int, key: str, codec: int, accepts: frozenset[int] | None) -> None:
        self.mid = mid
        self.key = key
        self.codec = codec
        self.accepts = accepts
        self.cursor: int | None = None
        self.live: tuple[str, ...] = ()  # the live rooms that it wants to be in
        self.socket: Socket | None = None  # the one it listens to
        self.opens: list[int] = []  # positions

    def __repr__(self) -> str:
        return self.key


class Socket(Session):
    """A connection: the server's side of it, and the bytes on their way to the device."""

    def __init__(self, world: World, node: Node, device: Device) -> None:
        super().__init__()
        self.world = world
        self.node = node
        self.device = device
        self.mid, self.key, self.codec, self.accepts = device.mid, device.key, device.codec, device.accepts
        self.start = 0
        self.since = 0  # of the live rooms that it came with
        self.came_with: frozenset[str] = frozenset()
        self.entering: list[tuple[int, frozenset[str]]] = []  # position, and the live rooms from there on
        self.is_admitted = False
        self.is_over = False
        self.is_entering = False
        self.seen = 0  # no change of memberships after this was known to the comet
        self.last = 0
        self.written: set[int] = set()
        self.unsent: deque[int] = deque()  # positions; 0 is a reply
        self.told: dict[str, int] = {}  # removals: stream -> position
        self.told_from = 0  # removals after this must be told

    def __repr__(self) -> str:
        return f"{self.key}@{self.opened}"

    # --- what the comet does to it ---

    def write(self, data: bytes) -> None:
        world = self.world
        if self.full:
            world.fail("bytes were written to a full socket", self)
        for position in positions(self.codec, data):
            self._check(position)
            self.last = position
            self.written.add(position)
            self.unsent.append(position)
        world.note(self, "gets", self.last)
        self.fill_up()

    def fill_up(self) -> None:
        """Tell the hub if this is more than a socket takes."""
        if len(self.unsent) > self.world.shape.socket and not self.full:
            self.full = True
            self.world.counts["sockets full"] += 1
            self.node.hub.fall_behind(self)

    def removed(self, event: Recorded) -> None:
        world = self.world
        world.note(self, "is told of its removal", event.position)
        world.counts["removed while " + ("live" if self.state == LIVE else "behind")] += 1
        if self.state == LIVE and event.position > self.seen:
            joined = next(
                one.joined for one in world.log.memberships[event.stream, self.mid] if one.left == event.position
            )
            for position in world.log.streams[event.stream]:
                is_owed = max(joined, self.start + 1) <= position < event.position and self.shows(
                    world.log.at(position)
                )
                if is_owed and position not in self.written:
                    world.fail(f"a live session was removed without having got {position}", self, position)
        self.told[event.stream] = event.position

    def end(self, error: ImcoreError) -> None:
        world = self.world
        assert isinstance(error, TakenOver)
        world.counts["taken over"] += 1
        world.note(self, "is taken over", self.opened)
        if not any(opened > self.opened for opened in self.device.opens):
            world.fail("a session was taken over, and there is no newer one", self)
        while self.unsent and world.chance(0.5):
            self.drain()
        self.node.hub.remove(self)
        self.over()

    # --- what happens to it ---

    def drain(self) -> None:
        """The device gets what comes next."""
        position = self.unsent.popleft()
        if position and self.device.socket is self:
            self.device.cursor = position

    def over(self) -> None:
        """It has ended."""
        self.is_over = True
        self.seen = max(self.seen, self.node.tail.position)
        self.unsent.clear()
        self.node.sockets.remove(self)
        if self.device.socket is self:
            self.device.socket = None

    def lose(self) -> None:
        """The network is gone."""
        self.world.note(self, "is lost", self.node.hub.position)
        self.node.hub.remove(self)
        self.over()

    # --- what it may and must get ---

    def shows(self, event: Recorded) -> bool:
        """Is this what such a device wants to see, in a form that shows it?"""
        if event.op == 0:
            return self.codec not in (V1_TCP, V1_WS)
        if (
            event.key == self.key
            and event.mid == self.mid
            and event.type == MESSAGE_SENT
            and event.position > self.opened
        ):
            return False
        return self.accepts is None or event.op in self.accepts

    def _check(self, position: int) -> None:
        world = self.world
        event = world.log.at(position)
        if position <= self.last:
            world.fail(f"{position} came after {self.last}", self, position, self.last)
        if position <= self.start:
            world.fail(f"{position} came, and the session goes on after {self.start}", self, position)
        if not self.shows(event):
            world.fail(f"{position} is nothing for this device (its own, or not accepted)", self, position)
        if position < self.told.get(event.stream, 0):
            world.fail(f"{position} came after the removal was told", self, position)
        if not self._may(event):
            world.fail(f"{position} in {event.stream} is not for this person at this place", self, position)

    def _may(self, event: Recorded) -> bool:
        stream, position = event.stream, event.position
        if stream.startswith(ROOM + "live:"):
            return self._entered(stream, position)[0]
        if stream.startswith(ROOM):
            return any(
                one.joined <= position < one.left for one in self.world.log.memberships.get((stream, self.mid), ())
            )
        return stream in (f"{USER}{self.mid}", KEY + self.key) or (stream == ALL and position > self.floor)

    def _entered(self, stream: str, position: int) -> tuple[bool, bool]:
        """Was it in this live room at this place, and for how much longer: until now?"""
        since = self.since if stream in self.came_with else FOR_EVER
        stays = True
        for at, streams in self.entering:
            if at < position:
                since = FOR_EVER if stream not in streams else min(since, at)
            elif stream not in streams:
                stays = False
        return since < position, stays

    def missing(self, upto: int) -> int | None:
        """The first event that it must have got, and has not.

        Of a room that the person is no longer in nothing is owed: what was not written when the comet came to know of it is
        never written.
        """
        log = self.world.log
        seen = self.seen if self.is_over else self.node.tail.position
        for stream, places in log.streams.items():
            within = places[bisect_right(places, self.start) : bisect_right(places, upto)]
            if not within:
                continue
            if stream.startswith(ROOM + "live:"):
                owed = [position for position in within if self._entered(stream, position) == (True, True)]
            elif stream.startswith(ROOM):
                owed = [
                    position
                    for one in log.memberships.get((stream, self.mid), ())
                    if one.left == FOR_EVER or one.left > seen
                    for position in within
                    if one.joined <= position < one.left
                ]
            elif stream == ALL:
                owed = [position for position in within if position > self.floor]
            elif stream in (f"{USER}{self.mid}", KEY + self.key):
                owed = within
            else:
                continue
            for position in owed:
                if position not in self.written and self.shows(log.at(position)):
                    return position
        return None


class Node:
    """A comet: the real hub, tail and way back to live, and the tasks that the server would give them."""

    def __init__(self, world: World, name: str) -> None:
        rules, shape = world.rules, world.shape
        self.world = world
        self.name = name
        self.hub = rules.hub(world.log.head, LIVE_TYPES, remembered_max=shape.remembered)
        self.tail = rules.tail(
            world.log.head,
            self._read_log,
            self.hub.apply,
            recent_events_max=shape.ring,
            held_events_max=shape.held,
            read_events_max=shape.read,
        )
        self.catching = rules.catch_up(
            self.hub,
            self._recent,
            self._read_streams,
            turn,
            page_events_max=shape.page,
            scan_events_max=shape.scan,
        )
        self.sockets: list[Socket] = []
        self.heads: dict[int, int] = {}  # of each person: the head at which the memberships were read
        self.looking = False
        self._catching_up: list[Socket] = []

    def __repr__(self) -> str:
        return self.name

    async def _read_log(self, after: int, limit: int) -> list[Recorded]:
        world = self.world
        await turn()
        world.may_break()
        page = world.log.read(after, limit)
        await turn()
        world.counts["gaps read"] += page != []
        return page

    def _recent(self, after: int, limit: int) -> list[Recorded] | None:
        found = self.tail.recent(after, limit)
        self.world.counts["pages from memory"] += found is not None
        return found

    async def _read_streams(self, streams: Mapping[str, int], upto: int, limit: int) -> Page:
        world = self.world
        before = self.hub.position
        await turn()
        world.may_break()
        if world.chance(0.3):  # many share the reading
            limit = world.rng.randint(1, limit)
        page = world.log.read_streams(streams, upto, limit)
        await turn()
        world.counts["pages read"] += 1
        world.counts["pages during which the hub moved"] += self.hub.position != before
        return Page(page, page[-1].position if len(page) == limit else upto)

    async def look(self) -> None:
        """What a ring, an early batch or the quiet makes the tail do."""
        try:
            await self.tail.catch_up()
        except OSError:
            self.world.counts["reads that broke"] += 1
        finally:
            self.looking = False

    def catch_up(self, socket: Socket) -> None:
        """Bring a session that is behind back to live."""
        if socket.state != BEHIND or socket.full or socket in self._catching_up:
            return
        if not self.catching.is_up_to_date(socket):
            self._catching_up.append(socket)
            self.world.spawn(self, self._catch_up(socket))

    async def _catch_up(self, socket: Socket) -> None:
        try:
            while socket.state == BEHIND and not socket.full:
                try:
                    await self.catching.run(socket)
                except OSError:
                    self.world.counts["reads that broke"] += 1
                await turn()
        finally:
            self._catching_up.remove(socket)

    async def open(self, socket: Socket) -> None:
        """From the auth to the first page, as a connection does it."""
        world, hub, device = self.world, self.hub, socket.device
        person = hub.hold(device.mid)
        try:
            after = device.cursor if device.socket is socket else None
            place = person.place(device.key, after)
            if place is not None:
                world.counts["remembered"] += not person.sessions and person.holders == 1
                opened = self._opened(socket)
                await turn()
            else:
                if world.chance(0.5):
                    opened = self._opened(socket)
                    await turn()
                    known = world.log.known(device.mid, device.key, after)
                else:
                    known = world.log.known(device.mid, device.key, after)
                    await turn()
                    opened = self._opened(socket)
                await turn()
                world.counts["heads behind the hub"] += person.changes is not None and known.head < hub.position
                world.counts["heads ahead of the hub"] += person.changes is not None and known.head > hub.position
                if person.changes is not None:
                    self.heads[device.mid] = known.head
                place = Place(known.head, known.newest)
                hub.know(person, known.head, known.rooms)
                hub.learn(person, device.key, place, known.marks, known.left, known.left_from)
                hub.count(person, known.sessions)
            if world.chance(0.2):
                self._join(device.mid)
                await turn()
            while world.rules.waits and hub.position < opened:
                await turn()
            if socket.is_over:
                return
            socket.opened = opened
            socket.seen = max(self.heads[device.mid], place.head)
            self._resume(socket, after, person.marks)
            socket.came_with = frozenset(room_stream(room) for room in device.live)
            start = max(0, socket.start + world.rules.cursor_shift)
            is_admitted = world.rules.admit(
                hub, socket, person, device.live, start=start, since=socket.since, place=place
            )
            if not is_admitted:
                world.counts["refused as older"] += 1
                if not any(other > opened for other in device.opens):
                    world.fail("a session was refused, and there is no newer one", socket)
                socket.over()
                return
            socket.is_admitted = True
            socket.told_from = hub.position  # who is new has the inbox still to fetch
            if after is not None or device.key in person.marks:
                told = dict(hub.left_since(person, socket.start))
                socket.told_from = socket.start
                socket.told = {stream: one.position for stream, one in told.items()}
                left = world.log.departed(device.mid, socket.start, hub.position)
                world.counts["left while away"] += len(left)
                # The memberships may have been read when more had happened.
                later = world.log.departed(device.mid, socket.start, socket.seen)
                are_all = {stream for stream in left if left[stream] == later.get(stream)} <= told.keys()
                if not are_all or not told.keys() <= left.keys() | later.keys():
                    world.fail(f"it is told that it left {told}, and it left {left}", socket, socket.start)
            if device.socket is socket and device.cursor is None:
                device.cursor = socket.start
            world.note(socket, f"is admitted to {self.name}, behind at", socket.position)
            self.catch_up(socket)
        finally:
            hub.release(person)

    def _join(self, mid: int) -> None:
        """The auth names a room."""
        room = self.world.rng.choice(self.world.shape.rooms)
        if mid not in self.world.log.members.get(room_stream(room), {}):
            self.world.commit([Draft(room_stream(room), MemberJoined(room=room, mid=mid), mid)], self)

    def _opened(self, socket: Socket) -> int:
        device = socket.device
        fact = SessionOpened(key=device.key, node=self.name)
        (recorded,) = self.world.commit([Draft(session_stream(device.mid), fact, device.mid, device.key)], self)
        device.opens.append(recorded.position)
        self.world.note(socket, f"opens on {self.name}", recorded.position)
        return recorded.position

    def _resume(self, socket: Socket, cursor: int | None, marks: Mapping[str, int]) -> None:
        """Where it goes on: cursor, own mark, the mark of another device, or the beginning."""
        device = socket.device
        own = marks.get(device.key, 0)
        if own < self.world.log.acked(device.mid, device.key, self.hub.position):
            self.world.fail(f"the mark of the device is {own}, and the log has a later one", socket)
        others = max(marks.values(), default=0)
        if cursor is not None:
            socket.start = socket.floor = socket.since = cursor
        elif own or others:
            socket.start = socket.floor = own or others
            socket.since = socket.opened
        else:
            socket.start = 0
            socket.floor = socket.since = socket.opened

    async def enter(self, socket: Socket, rooms: tuple[str, ...]) -> None:
        """The device enters exactly these live rooms."""
        while self.world.chance(0.8):  # the device may be elsewhere by then
            await turn()
        while socket.is_entering:  # one process appends in order, and says so in order
            await turn()
        if socket.is_over:
            return
        device = socket.device
        fact = RoomsEntered(key=device.key, opened=socket.opened, rooms=rooms)
        (recorded,) = self.world.commit([Draft(session_stream(device.mid), fact, device.mid, device.key)], self)
        socket.entering.append((recorded.position, frozenset(room_stream(room) for room in rooms)))
        if device.socket is socket:
            device.live = rooms
        self.world.note(socket, f"enters {', '.join(rooms) or 'nothing'}", recorded.position)
        socket.is_entering = True
        await turn()
        socket.is_entering = False
        if not socket.is_over:
            self.hub.enter(socket, rooms, recorded.position)

    def stop(self) -> None:
        """The process is killed."""
        for socket in list(self.sockets):
            socket.over()


@dataclass(frozen=True, slots=True)
class Shape:
    """How large and how bad a world is; drawn anew for each seed."""

    nodes: int
    people: int
    devices: int  # of each person
    rooms: tuple[str, ...]
    live: tuple[str, ...]
    socket: int  # events that a socket takes before it is full
    ring: int
    held: int
    read: int
    page: int
    scan: int
    lost: float
    repeated: float
    rings: float  # how many batches are only a doorbell for the others
    in_order: float
    broken: float
    remembered: int  # people whose last session has gone

    @classmethod
    def drawn(cls, rng: random.Random) -> Shape:
        """One of many."""
        return cls(
            nodes=rng.choice((1, 2, 2, 3)),
            people=rng.randint(2, 4),
            devices=rng.choice((1, 2, 2)),
            rooms=tuple(f"g://{n}" for n in range(rng.randint(1, 3))),
            live=tuple(f"live://{n}" for n in range(rng.randint(1, 2))),
            socket=rng.choice((2, 6, 20, 1000)),
            ring=rng.choice((1, 4, 16, 100)),
            held=rng.choice((2, 8, 100)),
            read=rng.choice((2, 7, 100)),
            page=rng.choice((1, 3, 8, 100)),
            scan=rng.choice((1, 5, 100)),
            lost=rng.choice((0.0, 0.1, 0.5, 1.0)),
            repeated=rng.choice((0.0, 0.1, 0.3)),
            rings=rng.choice((0.0, 0.3, 1.0)),
            in_order=rng.choice((0.2, 0.9)),
            broken=rng.choice((0.0, 0.1)),
            remembered=rng.choice((0, 1, 2, 100)),
        )


class World:
    """Everything of one seed. `run` does the steps, brings the world to rest, and checks it."""

    def __init__(self, seed: int, rules: Rules | None = None) -> None:
        self.seed = seed
        self.rules = rules or Rules()
        self.rng = random.Random(seed)
        self.shape = Shape.drawn(self.rng)
        self.log = MemoryLog()
        self.counts: Counter[str] = Counter()
        self.trace: list[tuple[object, str, int]] = []
        self.bus: list[tuple[Node, list[Recorded] | int]] = []
        self.tasks: list[tuple[Node, Coroutine[object, None, None]]] = []
        self.sockets: list[Socket] = []  # all that ever were
        self.is_ending = False
        self.nodes = [Node(self, f"comet {n}") for n in range(self.shape.nodes)]
        self.devices = [
            self._device(mid, n) for mid in range(1, self.shape.people + 1) for n in range(self.shape.devices)
        ]
        weights: dict[Callable[[], None], float] = {
            self._speak: 8,
            self._change_members: 4,
            self._connect: 4,
            self._enter: 3,
            self._lose: 1.5,
            self._restart: 0.3,
            self._acknowledge: 1,
            self._reply: 3,
            self._deliver: 14,
            self._look: 4,
            self._go_on: 20,
            self._flush: 10,
            self._drain: 10,
        }
        self._actions = list(weights)
        self._weights = [weight * self.rng.choice((0.3, 1, 1, 2)) for weight in weights.values()]

    def _device(self, mid: int, n: int) -> Device:
        codec = self.rng.choice(CODECS)
        accepts = self.rng.choice((None, None, frozenset(OPS[:1]), frozenset(OPS)))
        return Device(mid, f"{mid}{'abc'[n]}", codec, accepts)

    def run(self) -> None:
        """Raises Broken."""
        for action in self.rng.choices(self._actions, self._weights, k=STEPS):
            action()
        self._come_to_rest()
        self._check()

    # --- chance -----------------------------------------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        """True so often."""
        return self.rng.random() < share

    def may_break(self) -> None:
        """The database does not answer now and then."""
        if not self.is_ending and self.chance(self.shape.broken):
            raise OSError("the database is gone")

    # --- failing ----------------------------------------------------------------------------------------------------------------

    def note(self, who: object, what: str, position: int) -> None:
        """A line of the trace, written out only if it is needed."""
        self.trace.append((who, what, position))

    def fail(self, what: str, who: Socket, *about: int) -> NoReturn:
        """Say what is wrong, and how it came to it: the lines about this device, its comet and these events."""
        of_it = (who, who.device, who.node)
        lines = [
            f"  {n:5} {whom!r} {did} {position}"
            for n, (whom, did, position) in enumerate(self.trace)
            if any(whom is one for one in of_it)
            or (isinstance(whom, Socket) and whom.device is who.device)
            or position in about
        ]
        story = "\n".join(lines[-TRACE_LINES:])
        raise Broken(f"seed {self.seed}: {who!r} on {who.node.name}: {what}\n{self.shape}\n{story}")

    # --- steps ------------------------------------------------------------------------------------------------------------------

    def commit(self, drafts: list[Draft], origin: Node | None) -> list[Recorded]:
        """Append, and put it on the bus."""
        batch = self.log.append(drafts)
        for event in batch:
            self.note(event.stream, event.type, event.position)
        self._publish(batch, origin)
        return batch

    def _publish(self, batch: list[Recorded], origin: Node | None) -> None:
        for node in self.nodes:
            is_own = node is origin
            if self.chance(self.shape.lost * (0.1 if is_own else 1)):
                continue
            message = batch[-1].position if not is_own and self.chance(self.shape.rings) else batch
            self.bus.append((node, message))

    def spawn(self, node: Node, work: Coroutine[object, None, None]) -> None:
        """A task of a comet, up to its first await."""
        self._step((node, work))

    def _step(self, task: tuple[Node, Coroutine[object, None, None]]) -> None:
        try:
            task[1].send(None)
        except StopIteration:
            return
        self.tasks.append(task)

    def _go_on(self) -> None:
        if self.tasks:
            self._step(self.tasks.pop(self.rng.randrange(len(self.tasks))))

    def _speak(self) -> None:
        """A batch of messages: sent by devices, over HTTP, or pushed."""
        origin = self.rng.choice(self.nodes)
        drafts = [draft for _ in range(self.rng.randint(1, 4)) if (draft := self._message()) is not None]
        if drafts:
            self.commit(drafts, origin)

    def _message(self) -> Draft | None:
        rng, op = self.rng, self.rng.choice(OPS)
        device = rng.choice(self.devices)
        if rng.random() < 0.3:
            stream = rng.choice(
                (f"{USER}{device.mid}", KEY + device.key, ALL, *map(room_stream, self.shape.rooms + self.shape.live))
            )
            return Draft(stream, None, op=op)
        socket = device.socket
        rooms = self.log.rooms_of(device.mid)
        if socket is not None and socket.is_admitted:
            rooms += sorted(socket.entered)  # in whatever order the hub came to keep them
        if not rooms:
            return None
        is_over_http = socket is None or not socket.is_admitted or rng.random() < 0.2
        return Draft(rng.choice(rooms), None, device.mid, "" if is_over_http else device.key, op)

    def _change_members(self) -> None:
        """Joins, leaves and removals in one batch with what is said around them."""
        rng = self.rng
        batch: list[Recorded] = []
        for _ in range(rng.randint(1, 4)):
            mid, room = rng.randint(1, self.shape.people), rng.choice(self.shape.rooms)
            stream = room_stream(room)
            if rng.random() < 0.4:
                draft = Draft(stream, None, mid, op=OPS[0])
            elif mid not in self.log.members.get(stream, {}):
                draft = Draft(stream, MemberJoined(room=room, mid=mid), mid)
            elif rng.random() < 0.5:
                draft = Draft(stream, MemberLeft(room=room, mid=mid), mid)
            else:
                draft = Draft(stream, MemberRemoved(room=room, mid=mid))
            (event,) = self.log.append([draft])
            self.note(stream, f"{event.type} {mid}", event.position)
            batch.append(event)
        self._publish(batch, rng.choice(self.nodes))

    def _connect(self) -> None:
        """A device connects, perhaps while the comets believe that it still is connected, perhaps having forgotten its cursor."""
        rng = self.rng
        device = rng.choice(self.devices)
        if device.socket is not None and rng.random() < 0.6:
            return
        self._connect_one(device)

    def _connect_one(self, device: Device) -> None:
        rng = self.rng
        if rng.random() < 0.1:
            device.cursor = None
        if rng.random() < 0.3:
            device.live = tuple(room for room in self.shape.live if rng.random() < 0.6)
        node = rng.choice(self.nodes)
        older = device.socket
        socket = device.socket = Socket(self, node, device)
        node.sockets.append(socket)
        self.sockets.append(socket)
        self.spawn(node, node.open(socket))
        if older is not None and rng.random() < 0.5:
            self._enter_by(older)  # a request that was on its way

    def _enter(self) -> None:
        socket = self.rng.choice(self.devices).socket
        if socket is not None:
            self._enter_by(socket)

    def _enter_by(self, socket: Socket) -> None:
        if socket.is_admitted:
            rooms = tuple(room for room in self.shape.live if self.rng.random() < 0.6)
            self.spawn(socket.node, socket.node.enter(socket, rooms))

    def _lose(self) -> None:
        sockets = self.rng.choice(self.nodes).sockets
        if sockets:
            self.rng.choice(sockets).lose()

    def _restart(self) -> None:
        n = self.rng.randrange(len(self.nodes))
        old = self.nodes[n]
        self.counts["restarts"] += 1
        self.note(old, "is killed at", old.hub.position)
        old.stop()
        for node, work in self.tasks:
            if node is old:
                work.close()
        self.tasks = [task for task in self.tasks if task[0] is not old]
        new = self.nodes[n] = Node(self, old.name)
        # What was on its way to the old process may still reach the new one.
        self.bus = [(new if node is old else node, message) for node, message in self.bus]

    def _acknowledge(self) -> None:
        device = self.rng.choice(self.devices)
        if device.socket is not None and device.socket.is_admitted and device.cursor is not None:
            fact = DeliveryAcked(key=device.key, position=device.cursor)
            self.commit([Draft(session_stream(device.mid), fact, device.mid, device.key)], device.socket.node)

    def _reply(self) -> None:
        """Replies to requests fill sockets too; worst when something was handed out and is not flushed."""
        admitted = [socket for socket in self.rng.choice(self.nodes).sockets if socket.is_admitted]
        worst = [socket for socket in admitted if socket.out is not None]
        if admitted:
            socket = self.rng.choice(worst or admitted)
            socket.unsent.extend([0] * self.rng.randint(1, self.shape.socket + 1))
            socket.fill_up()

    def _deliver(self) -> None:
        if not self.bus:
            return
        n = 0 if self.chance(self.shape.in_order) else self.rng.randrange(len(self.bus))
        node, message = self.bus[n]
        if self.is_ending or not self.chance(self.shape.repeated):
            del self.bus[n]
        if isinstance(message, int):
            node.tail.ring(message)
            self._look_at(node)
        else:
            node.tail.offer(message)

    def _look(self) -> None:
        self._look_at(self.rng.choice(self.nodes))

    def _look_at(self, node: Node) -> None:
        if not node.looking:
            node.looking = True
            self.spawn(node, node.look())

    def _flush(self) -> None:
        node = self.rng.choice(self.nodes)
        if node.hub.waiting:
            node.hub.flush()

    def _drain(self) -> None:
        """Some device takes something off its socket."""
        sockets = self.rng.choice(self.nodes).sockets
        if sockets:
            socket = self.rng.choice(sockets)
            self._drain_one(socket, self.rng.randint(1, 12))

    def _drain_one(self, socket: Socket, count: int) -> None:
        for _ in range(min(count, len(socket.unsent))):
            socket.drain()
        if socket.full and len(socket.unsent) <= self.shape.socket // 2:
            socket.full = False
            socket.node.catch_up(socket)

    # --- the end ----------------------------------------------------------------------------------------------------------------

    def _come_to_rest(self) -> None:
        """Nothing more happens but what must: everybody connects, and everything arrives."""
        self.is_ending = True
        for _ in range(ROUNDS_MAX):
            for device in self.devices:
                if device.socket is None:
                    self._connect_one(device)
            for _ in range(len(self.bus)):
                self._deliver()
            for _ in range(4 * len(self.tasks)):
                self._go_on()
            for node in self.nodes:
                self._look_at(node)
                node.hub.flush()
                for socket in list(node.sockets):
                    self._drain_one(socket, len(socket.unsent))
            are_at_head = all(node.hub.position == self.log.head for node in self.nodes)
            are_open = all(socket.is_admitted for node in self.nodes for socket in node.sockets)
            if not self.bus and are_at_head and are_open and all(self._is_at_rest(device) for device in self.devices):
                return
        for device in self.devices:
            if not self._is_at_rest(device):
                socket = device.socket or next(one for one in reversed(self.sockets) if one.device is device)
                self.fail(
                    f"it does not come to rest: state {socket.state} at {socket.position} of {self.log.head}", socket
                )
        raise Broken(f"seed {self.seed}: the bus does not run dry")

    def _is_at_rest(self, device: Device) -> bool:
        socket = device.socket
        return (
            socket is not None
            and socket.is_admitted
            and socket.state == LIVE
            and not socket.unsent
            and not socket.node.hub.waiting
        )

    def _check(self) -> None:
        for socket in self.sockets:
            if not socket.is_admitted:
                continue
            upto = socket.last if socket.is_over else self.log.head
            missing = socket.missing(upto)
            if missing is not None:
                self.fail(f"{missing} in {self.log.at(missing).stream} never came", socket, missing)
            if not socket.is_over:
                for stream, left in self.log.departed(socket.mid, socket.told_from, self.log.head).items():
                    if socket.told.get(stream) != left.position:
                        self.fail(f"nobody told it that it left {stream}", socket, left.position)
        for node in self.nodes:
            for socket in node.sockets:
                if socket.device.socket is not socket and socket.state != CLOSED:
                    self.fail("it is still there, and the device has a newer session", socket)
        self._leave_nothing()

    def _leave_nothing(self) -> None:
        """When the last session has gone nothing is kept but what is remembered, and that is true."""
        for _, work in self.tasks:
            work.close()
        for node in self.nodes:
            for socket in list(node.sockets):
                socket.lose()
            hub = node.hub
            if hub.people != hub.remembered or hub.audiences or hub.sessions:
                raise Broken(f"seed {self.seed}: {node.name} keeps {hub.people} {hub.audiences} {hub.sessions}")
            if len(hub.remembered) > self.shape.remembered:
                raise Broken(f"seed {self.seed}: {node.name} remembers {len(hub.remembered)} people")
            for mid, person in hub.remembered.items():
                rooms = {stream: here[mid] for stream, here in self.log.members.items() if mid in here}
                if rooms != person.rooms:
                    raise Broken(f"seed {self.seed}: {node.name} has {person.rooms} for {mid}, and it is {rooms}")
