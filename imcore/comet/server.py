"""The comet: the hub, the tasks around it, and the doors that clients come in by.

One process, one hub. The tail gives the hub the events of the log; the flush writes them; sessions that are behind read pages; a sweep
once a second looks after everything that has a deadline, so that an idle connection has no timer of its own.

Flushing is adaptive: the first message after a pause leaves at once; when a flush took long, the next waits in proportion, so that
under load the messages of that while share one write a client.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

import orjson

from imcore import commands, failpoints
from imcore.bus.postgres import Ephemeral
from imcore.bus.tail import Tail
from imcore.comet import encode, watching
from imcore.comet.admission import Admission
from imcore.comet.catchup import CatchUp
from imcore.comet.connection import Connection
from imcore.comet.encode import Run
from imcore.comet.giving_way import giving_way
from imcore.comet.hub import BEHIND, LIVE, Hub, Person, Session
from imcore.comet.loader import Loader, Pages
from imcore.comet.returning import Returns
from imcore.comet.watching import Change, Watching
from imcore.database import DATABASE_ERRORS, heed_cancellation
from imcore.errors import (
    AuthTimeout,
    Displaced,
    GoingAway,
    HeartbeatTimeout,
    ImcoreError,
    SlowConsumer,
    TooManyConnections,
    TryLater,
    Unauthenticated,
    Unavailable,
)
from imcore.events.history import History
from imcore.events.names import Pool
from imcore.events.reader import Reader
from imcore.events.store import Log
from imcore.events.types import (
    ALL,
    GENERATED_KEY,
    JSON,
    KEY,
    MESSAGE_PUSHED,
    PRESENCE,
    ROOM,
    USER,
    Page,
    Recorded,
    device,
    room_type,
)
from imcore.membership import too_many_rooms
from imcore.paces import Line, Paces
from imcore.projections import queries
from imcore.proxies import networks, subnet
from imcore.verbs import VERBS
from imcore.verbs.call import Verbs
from imcore.verbs.means import Means

log = logging.getLogger(__name__)

SWEEP_S: Final = 1.0
WEIGH_S: Final = 0.1  # between looks at all that is unsent, while it is much
SPARED: Final = 1.25  # of the limit: up to here who takes what it holds is not closed
SHED_PER_S: Final = 50.0  # connections closed to make room come back so many a second
FAREWELL_S: Final = 5.0  # a connection that was told to end is cut after this
QUICK_S: Final = 0.01  # a flush that took no longer lets the next one leave at once
REST: Final = 3.0  # after a longer one the next waits so many times what it took beyond that
REST_MAX_S: Final = 0.1
SMALL_FLUSH: Final = 16  # sessions; a smaller flush is not worth measuring
RETRY_S: Final = 0.5
# A process that was away for longer looks at the log before it takes anything from clients: their sessions may be others' by now.
AWAY_S: Final = 2.0
assert AWAY_S > SWEEP_S
FILES_KEPT: Final = 256  # open files that are not for connections of clients
# Who comes too often waits for the refusal: else a client that asks again at once would ask thousands of times a second.
HOLD_S: Final = 1.0
HELD_MAX: Final = 1_000
PUSHES_WAITING_MAX: Final = 1_000
FOLLOWED_S: Final = 1.0  # how long a request waits for rows that follow the log
TELL_S: Final = 0.25  # between frames of presence: what changes meanwhile is one frame a watcher
SIGHTS_MAX: Final = 1_000  # pairs of people asked for at a time

T = TypeVar("T")


class Resume(NamedTuple):
    """Where a device goes on, and how truthfully: with everything after its cursor or mark (`recovered`), or not and why."""

    start: int
    recovered: bool
    reason: str
    is_known: bool
    by_cursor: bool


async def guarded(awaitable: Awaitable[T]) -> T:
    """Wait for something that needs the database. Raises Unavailable instead of what the driver says."""
    try:
        return await awaitable
    except DATABASE_ERRORS as error:
        heed_cancellation()
        log.warning("the database did not answer: %s", error)
        raise Unavailable("the database does not answer; try again", retry_after_ms=1000) from error


class Comet:
    """Everything that connections of one process share. `run` owns its tasks; the carriers' servers are the caller's."""

    def __init__(
        self,
        events: Log,
        reader: Reader,
        pool: Pool,
        means: Means,
        *,
        node: str,
        history: History,
        applied: Callable[[list[Recorded]], None],
    ) -> None:
        self.settings = settings = means.settings
        self.log = events
        self.reader = reader
        self.means = means
        self.verbs = Verbs(VERBS)
        self.reads = means.reads
        self.doors = means.accounts.doors
        self.asks_sends = self.doors.asks("send")
        self._revocations = means.accounts.revocations
        self.node = node
        self.history = history
        self.rate_limits = settings.rate_limits
        self.live_types = frozenset(settings.live_room_types)
        self.trusted = networks(settings.trusted_proxies)
        self.sends_pending_max = settings.sends_pending_per_session_max
        self.text_body_bytes_max = settings.text_body_bytes_max
        self.goim_body_bytes_max = settings.goim_body_bytes_max
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.watching = Watching(
            self.now,
            grace_s=settings.presence_grace_s,
            recheck_s=settings.presence_recheck_s,
            watched_max=settings.presence_watched_max,
            watches_max=settings.presence_watches_max,
        )
        self.hub = Hub(
            history.head,
            settings.live_room_types,
            remembered_max=settings.people_remembered_max,
            watching=self.watching,
        )
        self.tail = Tail(
            history.head,
            reader.read,
            self._apply,
            quiet_s=settings.quiet_s,
            recent_events_max=settings.recent_events_max,
            recent_bytes_max=settings.recent_bytes_max,
        )
        self.pages = Pages(reader, pool)
        self.catching = CatchUp(
            self.hub,
            self.tail.recent,
            self._read_page,
            self._between_pages,
            page_events_max=settings.page_events_max,
        )
        self.loader = Loader(pool, guarded)
        self.guarded = guarded
        self.returns = Returns(per_s=settings.returns_per_s, drain_spread_ms=settings.drain_delay_ms)
        self.sends = means.sends  # of each person, over all of its devices
        self.handshakes: Paces[str] = Paces(
            settings.handshakes_per_address_per_s, settings.handshakes_per_address_burst
        )
        self.connections_max = min(
            settings.connections_max, max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FILES_KEPT)
        )
        self.admission = Admission(
            self.now,
            self.loop.call_later,
            under_way_max=settings.admissions_under_way_max,
            waiting_max=settings.admissions_waiting_max,
            wait_max_s=settings.admission_wait_max_s,
            per_s=settings.admissions_per_s if settings.rate_limits else None,
            burst=settings.admissions_burst,
        )
        self.draining = False
        self.given_up = asyncio.Event()  # by those who watch leases: the next who come need another id of this comet
        self.sure_until = self.now() + AWAY_S  # until then nothing that clients say needs a look at the log first
        self.elsewhere: dict[str, int] = {}  # sessions of other comets by room, as last heard
        self._applied = applied
        self._tasks: asyncio.TaskGroup | None = None
        self._open: set[Connection] = set()  # not ended
        self._ending: set[Connection] = set()  # told to end, socket still there
        self._all_gone = asyncio.Event()  # while draining
        self._new: Counter[str] = Counter()  # unauthenticated connections by address
        self.reads_under_way = 0  # of all connections; at most reads_under_way_max
        self._squeezed: dict[
            Connection, int
        ] = {}  # written nothing until they took most of what they hold; what that was
        self._shed = Line()
        self.unsent_bytes = 0  # of all connections, when last looked at
        self.squeezes = 0
        self._holding = 0  # clients that wait for a refusal; at most HELD_MAX
        self._replying: list[Connection] = []
        self._catching_up: set[Connection] = set()
        # What clients said while this process was not sure. Bounded: they are read from no more, so it is one read of each.
        self._postponed: list[tuple[Connection, Callable[[], None]]] = []
        self._is_looking = False
        self._pushes_waiting = 0  # until the tail has come as far as they; at most PUSHES_WAITING_MAX
        self.signals_shed = 0
        self._is_asking = False  # who may see whom
        self._tell_handle: asyncio.TimerHandle | None = None
        self._flush_handle: asyncio.Handle | None = None
        self._flush_at = 0.0
        self.flushes = 0
        self.connects = 0
        self.auth_failures = 0
        self.limited = 0
        self.too_far = 0
        self.refusals: Counter[str] = Counter()
        self.turned_away: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()

    async def run(self) -> None:
        """Own the tasks of the comet, for ever; ends when cancelled."""
        self.sure_until = self.now() + AWAY_S
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self.tail.run(), name="tail")
                tasks.create_task(self.loader.run(), name="loader")
                tasks.create_task(self.pages.run(), name="pages")
                tasks.create_task(self._sweep(), name="sweep")
                tasks.create_task(self._watch_unsent(), name="unsent")
        finally:
            self._tasks = None

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run it as a task of the comet. What it raises is logged and ends only itself."""
        if self._tasks is None:
            work.close()
            return
        self._tasks.create_task(self._guard(work))

    @staticmethod
    async def _guard(work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except ImcoreError as error:
            log.warning("a task ended: %s", error)
        except Exception:
            log.exception("a task of a connection failed")

    # --- events out ----------------------------------------------------------------------------------------------------------

    def _apply(self, batch: list[Recorded]) -> None:
        self._revocations.take(batch)
        self.hub.apply(batch)
        if self.hub.is_given_up:
            self.hub.is_given_up = False
            self.given_up.set()
        if self.hub.waiting:
            self._schedule_flush()
        if self.watching.people:
            self._look_after_watchers()
        self._applied(batch)

    def _schedule_flush(self) -> None:
        if self._flush_handle is None:
            if self.now() >= self._flush_at:
                self._flush_handle = self.loop.call_soon(self._flush)
            else:
                self._flush_handle = self.loop.call_at(self._flush_at, self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        started = self.now()
        self.flushes += 1
        written = self.hub.flush()
        if self.watching.asking:  # who wrote to somebody may be seen now
            self._look_after_watchers()
        if written > SMALL_FLUSH:
            # The sockets are written at the end of this turn of the loop, so the cost is known two turns later.
            self._flush_at = started + REST_MAX_S
            self.loop.call_soon(self.loop.call_soon, self._flushed, started)

    def _flushed(self, started: float) -> None:
        now = self.now()
        self._flush_at = now + min(max(0.0, now - started - QUICK_S) * REST, REST_MAX_S)
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
            self._schedule_flush()

    def replying(self, connection: Connection) -> None:
        """This connection has replies to write at the end of the tick."""
        if not self._replying:
            self.loop.call_soon(self._flush_replies)
        self._replying.append(connection)

    def _flush_replies(self) -> None:
        replying, self._replying = self._replying, []
        for connection in replying:
            connection.flush_replies()

    def push_ephemeral(self, message: Ephemeral) -> int:
        """Give a message to the live sessions of this comet, without storing it. It has position and seq 0, may be lost, and is
        in no order with stored events; but what the log said up to `position` holds for it, so it waits for that. How many
        sessions got it at once. A signal is the first to be shed: a session whose socket holds anything unsent is passed over.

        A comet that has not seen the end of the log for a lease may not know who was taken out of a room with members, so there
        nobody gets it."""
        op, payload, room, mids, keys, everybody, position, type_, mid, key = message
        if position > self.tail.position:
            if self._pushes_waiting < PUSHES_WAITING_MAX:
                self._pushes_waiting += 1
                self.spawn(self._push_later(message))
            return 0
        format_, body = commands.storable(payload)
        streams = [f"{USER}{mid}" for mid in mids] + [KEY + key for key in keys]
        streams += [ROOM + room] if room is not None else []
        streams += [ALL] if everybody else []
        time_ms = int(self.wall() * 1000)
        reached = 0
        is_blind = time.monotonic() - self.tail.looked_at > self.settings.node_lease_s
        for stream in streams:
            audience = self.hub.audiences.get(stream)
            if audience is None or (is_blind and audience.durable and stream.startswith(ROOM)):
                continue
            event = Recorded(0, stream, 0, 0, type_, 1, mid, key, None, op, format_, time_ms, body)
            run = Run([event])
            if type_ != MESSAGE_PUSHED:
                reached += self._signal(run, list(audience.sessions), is_last=False)
                continue
            for session in audience.sessions:
                if session.state == LIVE:
                    data = (
                        run.all(session.codec)
                        if session.accepts is None
                        else run.accepted(session.codec, session.accepts)
                    )
                    if data:
                        session.write(data)
                        reached += 1
        return reached

    def _signal(self, run: Run, sessions: list[Session], *, is_last: bool) -> int:
        """Give a signal to those of these sessions that are in its audience still and have room; how many that were.

        What is written in a turn of the loop reaches the sockets at its end. So who has no room now is looked at once more when that
        is done: else who is just being given a message would miss the signal beside it.
        """
        (event,) = run.events
        audience = self.hub.audiences.get(event.stream)
        late: list[Session] = []
        reached = 0
        for session in sessions:
            if audience is None or session not in audience.sessions or session.state != LIVE:
                continue
            if session.key == event.key and session.mid == event.mid:
                continue
            if not _has_room(session):
                late.append(session)
                continue
            data = run.all(session.codec)
            if data:
                session.write(data)
                reached += 1
        if late and is_last:
            self.signals_shed += len(late)
        elif late:
            self.loop.call_soon(partial(self._signal, run, late, is_last=True))
        return reached

    async def _push_later(self, message: Ephemeral) -> None:
        try:
            async with asyncio.timeout(self.settings.node_lease_s):
                await self.tail.reached(message.position)
        except TimeoutError:
            return  # it may be lost
        finally:
            self._pushes_waiting -= 1
        self.push_ephemeral(message._replace(position=0))

    # --- presence --------------------------------------------------------------------------------------------------------------

    async def watch(self, session: Connection, mids: Sequence[int], *, sees_all: bool) -> list[Change]:
        """Tell this session from now on when one of these people comes or goes, as far as it may see them; how they are now.

        Raises BadRequest and Overloaded (too many), and Unavailable, when the rows do not follow the log or the database does not
        answer; then nothing has changed.
        """
        fresh = self.watching.begin(session, session.mid, mids, sees_all=sees_all)
        try:
            if unloaded := self.watching.unloaded(mids):
                # Their events are followed from here on, so rows that hold everything up to here leave nothing out.
                if not await self.means.reads.reached(self.hub.position, FOLLOWED_S):
                    raise Unavailable("presence does not follow the log at the moment; ask again", retry_after_ms=1000)
                for mid, devices in (await queries.devices(self.means.pool, unloaded)).items():
                    self.watching.loaded(
                        mid, {device.key: watching.Device(device.opened, device.platform) for device in devices}
                    )
            asked = self.watching.questions_of(session, mids)
            sights = await queries.sights(
                self.means.pool, [one.pair for one in asked], self.settings.presence_room_members_max
            )
            # No await from here on: what is answered is what is shown.
            self.watching.answered(asked, sights)
        except BaseException:
            self.watching.end(session, fresh)
            raise
        if session.is_ended:
            self.watching.end(session)
        self._look_after_watchers()
        return self.watching.shown(session, mids)

    def _look_after_watchers(self) -> None:
        """See to it that who is to be asked for is asked for, and what is to be told is told."""
        if self.watching.asking and not self._is_asking:
            self._is_asking = True
            self.spawn(self._ask_sights())
        wait_s = self.watching.due_in_s()
        if wait_s is None:
            return
        at = self.now() + max(TELL_S, wait_s)
        if self._tell_handle is not None:
            if self._tell_handle.when() <= at:
                return
            self._tell_handle.cancel()
        self._tell_handle = self.loop.call_at(at, self._tell)

    async def _ask_sights(self) -> None:
        try:
            while questions := self.watching.questions(SIGHTS_MAX):
                pairs = [question.pair for question in questions]
                try:
                    sights = await self.guarded(
                        queries.sights(self.means.pool, pairs, self.settings.presence_room_members_max)
                    )
                except ImcoreError:
                    self.watching.again(questions)
                    await asyncio.sleep(RETRY_S)
                    continue
                self.watching.answered(questions, sights)
        finally:
            self._is_asking = False
        self._look_after_watchers()

    def _tell(self) -> None:
        """Write to the watchers what has changed: each person's change is encoded once a form, each watcher gets one frame."""
        self._tell_handle = None
        time_ms = int(self.wall() * 1000)
        packets: dict[tuple[Change, int], bytes] = {}
        for session, changes in self.watching.tick(_has_room):
            assert isinstance(session, Connection), "who watches is a connection"
            form = encode.FORM_OF[session.codec]
            found: list[bytes] = []
            for change in changes:
                packet = packets.get((change, form))
                if packet is None:
                    packet = packets[change, form] = encode.packet(_presence(change, time_ms), form)
                if packet:  # version 1 has no word for it
                    found.append(packet)
            if found:
                session.write(encode.wire(found, session.codec))
        self._look_after_watchers()

    # --- catching up -----------------------------------------------------------------------------------------------------------

    def catch_up(self, session: Connection) -> None:
        """Bring a session that is behind back to live: at once if nothing is missing, else by a task."""
        if session.state != BEHIND or session.full or session in self._catching_up:
            return
        if not self.catching.is_up_to_date(session):
            self._catching_up.add(session)
            self.spawn(self._catch_up(session))

    async def _catch_up(self, session: Connection) -> None:
        try:
            while session.state == BEHIND and not session.full:
                try:
                    await self.catching.run(session)
                except DATABASE_ERRORS as error:
                    heed_cancellation()
                    log.warning("a page cannot be read: %s", error)
                    await asyncio.sleep(RETRY_S)
        finally:
            self._catching_up.discard(session)

    async def _read_page(self, streams: Mapping[str, int], upto: int, limit: int) -> Page:
        page = await self.pages.read(streams, upto, limit)
        if failpoints.armed is not None:
            await failpoints.arrive("mid_replay")
        return page

    @staticmethod
    async def _between_pages() -> None:
        if failpoints.armed is not None:
            await failpoints.arrive("mid_replay")
        await asyncio.sleep(0)

    def resume(self, cursor: str, person: Person, session: Connection) -> Resume:
        """Where this device goes on: its cursor, else its own mark, else what any device of the person has."""
        if cursor:
            epoch, position = _read(cursor)
            if not self.history.reaches(epoch, position):
                return Resume(session.opened, False, "epoch", True, False)
            if position > session.opened:
                self.too_far += 1
                log.warning("a cursor lies beyond the end of the log: was an older copy put back?")
                return Resume(session.opened, False, "too_far", True, False)
            return self._from(position, session, by_cursor=True)
        own = person.marks.get(device(session.key))
        older = person.sessions.get(session.key)
        if isinstance(older, Connection):  # which it takes over
            own = max(own or 0, older.delivered())
        if own is not None:
            return self._from(own, session, by_cursor=False)
        start = max(max(person.marks.values(), default=0), self.history.oldest - 1)
        return Resume(start, False, "new", bool(person.marks), False)

    def _from(self, position: int, session: Connection, *, by_cursor: bool) -> Resume:
        if not self.history.keeps(position):
            return Resume(session.opened, False, "expired", True, False)
        return Resume(position, True, "", True, by_cursor)

    def said_to_have(self, cursor: str) -> int | None:
        """Up to where a device with this cursor has everything; None if that is not for it to say."""
        epoch, position = _read(cursor)
        return position if cursor and self.history.reaches(epoch, position) else None

    def cursor(self, position: int) -> str:
        """What a client keeps to resume after `position`."""
        return f"{self.history.epoch}.{position}"

    # --- so many connections of one user ----------------------------------------------------------------------------------------

    def check_room(self, mid: int, key: str) -> None:
        """Refuse what is certainly one connection too many of this person, before anything is done for it.

        Raises TooManyConnections.
        """
        if not self.rate_limits:
            return
        limit = self.settings.connections_per_user_max
        person = self.hub.people.get(mid)
        if person is None:
            return
        others = person.holders
        if self.settings.connections_per_user_policy == "refuse_new":
            others += len(person.everywhere.keys() - {key})
        if others >= limit:
            raise TooManyConnections(f"more than {limit} connections of this user")

    def displaced(self, session: Connection, person: Person) -> list[tuple[str, int]]:
        """Which of the person's sessions, on whatever comet, have to make room for this one: key and opening of each, the oldest first.

        Of many that come at once their places in the log decide, so that all comets decide alike. Raises TooManyConnections if it is
        this one that must not stay.
        """
        if not self.rate_limits:
            return []
        limit = self.settings.connections_per_user_max
        older = sorted(
            (opened, key) for key, opened in person.everywhere.items() if key != session.key and opened < session.opened
        )
        if len(older) < limit:
            return []
        if self.settings.connections_per_user_policy == "refuse_new":
            raise TooManyConnections(f"more than {limit} connections of this user")
        return [(key, opened) for opened, key in older[: len(older) + 1 - limit]]

    def displace(self, mid: int, key: str, opened: int) -> None:
        """Close this session, wherever it is: its comet reads of it in the log. If that fails, the next that comes does it."""
        try:
            self.log.submit(commands.close_session(mid, key, opened, Displaced.code, None))
        except ImcoreError as error:
            log.warning("a session was not closed to make room: %s", error)

    # --- after having been away -------------------------------------------------------------------------------------------------

    def postpone(self, connection: Connection, take: Callable[[], None]) -> None:
        """Take this from the connection, and more, when the log was looked at.

        A process that stood still does not know what happened meanwhile. What it would append the log refuses, if a session is not the
        newest of its key any more; what it would answer by itself (an ack, a page of history) nobody else would.
        """
        connection.carrier.pause_reading()
        self._postponed.append((connection, take))
        self._look_again()

    def _look_again(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            away_s = self.now() - self.sure_until + AWAY_S
            log.warning("this process was away for %.1f s; it looks at the log before it goes on", away_s)
            self.spawn(self._be_sure())

    async def _be_sure(self) -> None:
        while True:
            try:
                await self.tail.catch_up()
                break
            except DATABASE_ERRORS as error:
                heed_cancellation()
                log.warning("the log cannot be read: %s", error)
                await asyncio.sleep(RETRY_S)
        # No await from here on: what is taken now follows what was read.
        self._is_looking = False
        self.sure_until = self.now() + AWAY_S
        # Whoever wanted to come in may have gone elsewhere by now. Their auth would take the connection over that they have there; and
        # that they have hung up stands behind it in the socket, unread.
        for connection in [one for one in self._open if one.is_new]:
            connection.end(TryLater("the server was not there for a while; connect again"))
        postponed, self._postponed = self._postponed, []
        for connection, take in postponed:
            if not connection.is_ended:
                connection.read_on()
                take()

    # --- connections ------------------------------------------------------------------------------------------------------------

    def refusal(self, address: str) -> ImcoreError | None:
        """Why no connection is taken from this address now, or None. Asked before anything is kept for it."""
        error: ImcoreError | None = None
        limit = self.settings.unauthenticated_per_address_max
        if self.draining:
            error = GoingAway()
        elif self.rate_limits and self._new[address] >= limit:
            error = TooManyConnections(f"more than {limit} unauthenticated connections from this address")
        elif len(self._open) + len(self._ending) >= self.connections_max:
            error = TryLater("the server has as many connections as it can have")
        if error is not None:
            self.turned_away[error.code] += 1
        return error

    def crowded(self) -> ImcoreError | None:
        """Is the line of those who want to open a connection too long already? Who can be told so before anything else is done need
        not come in to hear it."""
        delay_s = self.admission.refusal()
        if delay_s is None:
            return None
        self.turned_away[TryLater.code] += 1
        return TryLater(retry_after_ms=int(delay_s * 1000))

    def too_often(self, address: str) -> ImcoreError | None:
        """Does this address begin connections faster than it may? Then the answer may wait a little: see `keep_waiting`."""
        if not self.rate_limits:
            return None
        wait_s = self.handshakes.take(subnet(address), self.now())
        if not wait_s:
            return None
        self.turned_away[TooManyConnections.code] += 1
        return TooManyConnections(
            "too many connections from this address in a short time", retry_after_ms=int(max(HOLD_S, wait_s) * 1000)
        )

    def keep_waiting(self, then: Callable[[], object]) -> None:
        """Do this to a client that comes too often; not at once, unless too many wait already."""
        if self._holding >= HELD_MAX:
            then()
            return
        self._holding += 1

        def over() -> None:
            self._holding -= 1
            then()

        self.loop.call_later(HOLD_S, over)

    def opened(self, connection: Connection) -> None:
        """A connection came in."""
        self.connects += 1
        self._open.add(connection)
        self._new[connection.carrier.address] += 1

    def authenticated(self, connection: Connection) -> None:
        """It is no stranger any more."""
        address = connection.carrier.address
        self._new[address] -= 1
        if self._new[address] <= 0:
            del self._new[address]

    def ended(self, connection: Connection, reason: str, delivered: int | None, *, was_open: bool) -> None:
        """It is over: the log is told, if the log knew of it."""
        self.watching.end(connection)
        self._open.discard(connection)
        self._ending.add(connection)
        self.endings[reason] += 1
        if was_open:
            if delivered is not None:
                # At once: the next connection of the key may ask before the event is committed.
                self.hub.mark(connection.mid, connection.key, delivered)
            self.closed(connection, connection.opened, reason, delivered)
        if not connection.was_authenticated:
            self.authenticated(connection)

    def closed(self, connection: Connection, opened: int, reason: str, delivered: int | None) -> None:
        """Append the session's end. If that fails, the lease of this node or the next session of the key ends it."""
        if self.history.over.is_set():
            return  # the log knows nothing of the session
        try:
            self.log.submit(commands.close_session(connection.mid, connection.key, opened, reason, delivered))
        except ImcoreError as error:
            log.warning("a session's end was not recorded: %s", error)

    def gone(self, connection: Connection) -> None:
        """Its socket is closed."""
        self._ending.discard(connection)
        if self.draining and not self._ending:
            self._all_gone.set()

    def refused(self, error: ImcoreError) -> None:
        """A request was refused."""
        self.refusals[error.code] += 1

    @property
    def connections(self) -> int:
        """Connections that have not ended, authenticated or not."""
        return len(self._open)

    @property
    def addresses(self) -> int:
        """Distinct client addresses of authenticated connections."""
        return len({connection.carrier.address for connection in self._open if connection.is_open})

    def rooms(self) -> list[str]:
        """Rooms with sessions here."""
        return [stream[len(ROOM) :] for stream in self.hub.audiences if stream.startswith(ROOM)]

    def stats(self) -> dict[str, float]:
        """What the metrics show: by name, or `name|label=value`."""
        hub, tail, admission = self.hub, self.tail, self.admission
        counts: dict[str, float] = {
            "comet_connections": len(self._open),
            "comet_sessions": hub.sessions,
            "comet_connects_total": self.connects,
            "comet_auth_failures_total": self.auth_failures,
            "comet_deliveries_total": hub.deliveries,
            "comet_flushes_total": self.flushes,
            "comet_catching_up": len(self._catching_up),
            "comet_cursors_too_far_total": self.too_far,
            "comet_rate_limited_total": self.limited,
            "comet_admitted_total": admission.admitted,
            "comet_admissions_under_way": admission.under_way,
            "comet_admissions_waiting": admission.waiting,
            "comet_admissions_queued_total": admission.queued,
            "comet_admissions_refused_total": admission.refused,
            "comet_ending": len(self._ending),
            "comet_reads_under_way": self.reads_under_way,
            "comet_loads_waiting": self.loader.waiting,
            "comet_people": len(hub.people),
            "comet_audiences": len(hub.audiences),
            "comet_fresh_streams": len(hub.fresh),
            "comet_marks": len(hub.marks),
            "comet_recalls": len(hub.recalls),
            "comet_sessions_known": hub.sessions_known,
            "comet_senders_paced": len(self.sends),
            "tail_recent_events": tail.recent_events,
            "tail_recent_bytes": tail.recent_bytes,
            "tail_held_events": tail.held_events,
            "comet_unsent_bytes": self.unsent_bytes,
            "comet_squeezed_total": self.squeezes,
            "comet_refusals_held": self._holding,
            "comet_pushes_waiting": self._pushes_waiting,
            "comet_signals_shed_total": self.signals_shed,
            "comet_signallers_paced": len(self.means.signals),
            "comet_watches": self.watching.watches,
            "comet_watched_people": len(self.watching.people),
            "comet_sights_waiting": self.watching.asking,
            "comet_presence_told_total": self.watching.told,
            "comet_presence_passed_over_total": self.watching.passed_over,
            "comet_addresses_paced": len(self.handshakes),
            "comet_handshakes_limited_total": self.handshakes.refused,
            "comet_position": hub.position,
            "comet_remembered": len(hub.remembered),
            "comet_loads_total": self.loader.batches,
            "comet_page_readings_total": self.pages.readings,
            "tail_gaps_total": tail.gaps,
            "tail_gap_events_total": tail.gap_events,
        }
        counts |= {f"comet_refusals_total|code={code}": count for code, count in self.refusals.items()}
        counts |= {f"comet_turned_away_total|code={code}": count for code, count in self.turned_away.items()}
        counts |= {f"comet_endings_total|reason={reason}": count for reason, count in self.endings.items()}
        return counts

    def online(self, room: str) -> int:
        """Sessions in the room, here and as last heard of other comets."""
        return self.hub.in_room(room) + self.elsewhere.get(room, 0)

    def check_rooms(self, mid: int, person: Person, rooms: Sequence[str]) -> None:
        """May this person join all of these rooms, which have members? Raises TooManyRooms if it would be in too many as far as the hub
        has come, so that who wants too many joins none. It is for the caller to wait until the hub has come far enough; and what
        decides of each is asked in the log (membership)."""
        most, inside = self.settings.rooms_per_user_max, person.rooms
        if rooms and len(inside) + sum(ROOM + room not in inside for room in rooms) > max(most, len(inside)):
            raise too_many_rooms(mid, most)

    def is_live(self, room: str) -> bool:
        """Has the room attached sessions only, and no members?"""
        return room_type(room) in self.live_types

    @staticmethod
    def new_key() -> str:
        """A connection key nobody can guess."""
        return GENERATED_KEY + uuid.uuid4().hex

    # --- deadlines ---------------------------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        heartbeat_s = self.settings.heartbeat_s * self.settings.heartbeat_misses
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self.now()
            if now <= self.sure_until:
                self.sure_until = now + AWAY_S
            else:
                self._look_again()
            for connection in list(self._open):
                if now - connection.heard_at > heartbeat_s:
                    connection.end(HeartbeatTimeout())
                elif connection.is_new:
                    if now - connection.began_at > self.settings.auth_timeout_s:
                        connection.end(AuthTimeout())
                elif connection.expires_at is not None and self.doors.has_expired(connection.expires_at):
                    connection.end(Unauthenticated("the token is expired"))
                elif connection.identity is not None and not self.doors.stands(connection.identity):
                    connection.end(Unauthenticated("the token's key was retired"))
                elif connection.full:
                    self._look_for_progress(connection, now)
                else:
                    self._look_after(connection, now)
            self.watching.recheck()
            self._look_after_watchers()
            for overdue in self.admission.overdue():
                assert isinstance(overdue, Connection), "who stands in line is a connection"
                overdue.end(TryLater())
            for connection in [one for one in self._ending if now - one.ended_at > FAREWELL_S]:
                self._ending.discard(connection)
                connection.carrier.abort()

    def _look_for_progress(self, connection: Connection, now: float) -> None:
        unsent = connection.carrier.unsent()
        if unsent < connection.progress_unsent:
            connection.progress_at = now
        elif now - connection.progress_at > self.settings.behind_s:
            connection.end(SlowConsumer())
        connection.progress_unsent = unsent

    def _look_after(self, connection: Connection, now: float) -> None:
        """Delivery marks that are due."""
        settings = self.settings
        if connection.ver == 2:
            mark, due_s = connection.acked, settings.ack_s
        elif connection.received > connection.marked:
            mark, due_s = connection.delivered(), settings.implied_ack_s
        else:
            return
        if mark > connection.marked and now - connection.marked_at >= due_s:
            connection.marked, connection.marked_at = mark, now
            try:
                self.log.submit(commands.ack(connection.mid, connection.key, mark, fence=self.hub.position))
            except ImcoreError as error:
                log.debug("an ack waits: %s", error)

    async def _watch_unsent(self) -> None:
        """Keep what all connections together hold below the limit of the process."""
        most = self.settings.unsent_bytes_process_max
        while True:
            await asyncio.sleep(WEIGH_S if self._squeezed or self.unsent_bytes > most // 2 else SWEEP_S)
            self._weigh(most)

    def _weigh(self, most: int) -> None:
        held = {one: size for some in (self._open, self._ending) for one in some if (size := one.carrier.held())}
        self.unsent_bytes = sum(held.values())
        for connection in list(self._squeezed):
            if not connection.full or connection.is_ended:
                del self._squeezed[connection]
            elif self.unsent_bytes <= most and held.get(connection, 0) <= self.settings.unsent_bytes_max // 4:
                del self._squeezed[connection]
                connection.socket_free()
        for connection in giving_way(held, most):
            before, now = self._squeezed.get(connection), held[connection]
            if connection.is_ended:
                connection.carrier.abort()
            elif connection.is_open and before is None:
                self.squeezes += 1
                self._squeezed[connection] = now
                if not connection.full:
                    connection.socket_full()
            elif before is not None and now < before and self.unsent_bytes <= most * SPARED:
                self._squeezed[connection] = now
            else:
                delay_s = 1 + self._shed.join(self.now(), SHED_PER_S)
                connection.end(SlowConsumer(retry_after_ms=int(delay_s * 1000)))

    @staticmethod
    def wall() -> float:
        """Seconds since 1970, for what a token says of its own time."""
        return time.time()

    def leave(self) -> None:
        """End every connection now, because the log is another one: nobody is given anything more, and nothing is told the log."""
        self.draining = True
        self.log.stop()
        self.send_away()

    def send_away(self) -> None:
        """Tell everybody to connect again, each after a delay of its own."""
        self.returns.expect(len(self._open), self.now())
        for connection in list(self._open):
            connection.end(GoingAway(), is_expected=True)

    async def drain(self) -> None:
        """Take nobody more, and send everybody elsewhere: each is told a delay of its own, so that they do not come all at once."""
        self.draining = True
        self.send_away()
        if self._ending:
            try:
                async with asyncio.timeout(FAREWELL_S):
                    await self._all_gone.wait()
            except TimeoutError:
                log.info("%d connections did not say goodbye", len(self._ending))
        for connection in list(self._ending):
            connection.carrier.abort()


def _has_room(session: object) -> bool:
    """Is everything taken that this session was given? What may be lost or can wait is not put on top of what waits already."""
    assert isinstance(session, Connection), "sessions of a comet are connections"
    return session.state == LIVE and not session.full and not session.carrier.held()


def _presence(change: Change, time_ms: int) -> Recorded:
    body = orjson.dumps({"online": bool(change.platforms), "platforms": change.platforms}).decode()
    return Recorded(0, f"{USER}{change.mid}", 0, 0, PRESENCE, 1, change.mid, "", None, 0, JSON, time_ms, body)


def _read(cursor: str) -> tuple[str, int]:
    """Epoch and position. What is no position lies beyond all."""
    epoch, _, digits = cursor.rpartition(".")
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= 18
    return epoch, int(digits) if is_number else 1 << 62


def settle_memory() -> None:
    """Objects that live as long as the process are no garbage: collections need not look at them again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
