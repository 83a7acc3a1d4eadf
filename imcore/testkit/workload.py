"""A program that uses the SDK as programs do, and writes down everything that it sees: people with devices who talk in rooms, come
and go, read, look back, and go on where they were when their program was killed.

It never gives up: a send whose outcome is not known is sent again with its id by the next connection of the device. What it records
is what was seen, one line as soon as it happened; and what its own loop was given it keeps in the database of the cursor, in the
SDK's transaction (`HANDLED`): there the promise is that each event is there once, in order, whatever was killed.

It is told what to do in lines of JSON on standard input, and tells what it has done on standard output:

    {"do": "takeover", "count": 3}     devices connect a second time while they are connected
    {"do": "stall", "count": 3}        connections that take nothing, for a while
    {"do": "quiet"}                    no more load                                → {"said": "quiet", "open": sends without outcome}
    {"do": "drain", "idle_s": 3}       everybody comes back from its cursor, reads until idle; new devices read from the beginning
                                                                                   → {"said": "drained"}

Where the people have accounts (`logins`), each device logs in and comes with its token; now and then it logs out, over the API, which
ends its connection on whatever comet, and logs in anew. It does so only when it knows that the logout is over: P21 takes whatever the
device opened before that for the login that was ended. And now and then somebody edits or recalls what it said.

The trap: a client whose connection was taken over goes on with its cursor, so two of them must never have the same cursor file
open. The second connection of a takeover has a cursor of its own, in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import sys
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvloop
from pydantic import BaseModel, ConfigDict

from imcore.client import Client, ClientError, ConnectionClosed, Event, Limits, MemoryCursor, SqliteCursor, connect
from imcore.testkit.history import Belonging, Recorder, Type, Writer

log = logging.getLogger(__name__)

NAMESPACE: Final = uuid.UUID("6f1c3a52-8d0e-4b7f-9a3c-2f6f5f1f7c11")
CONNECTIONS_EACH: Final = 100_000  # connection numbers of one life of a device's client
IN_FLIGHT: Final = 4
SEND_S: Final = 30.0
ASK_S: Final = 10.0
HTTP_S: Final = 8.0
# Somebody who is cut off every few seconds finds out in seconds, and is back in seconds.
LIMITS: Final = Limits(
    connect_s=4.0, answer_s=4.0, heartbeat_s=2.0, ack_s=0.5, backoff_s=0.5, backoff_max_s=4.0, steady_s=10.0
)
DRAIN_S: Final = 90.0
PAGE: Final = 200
SAID_MAX: Final = 20
RECALLS: Final = 0.3  # of what is amended
SECRET, NOWHERE = "group://secret", "group://nowhere"  # one that is there, and none of them is in; and one that is not
BROKEN: Final = 70  # the exit code of a program that found a fault in itself
HANDLED: Final = """
CREATE TABLE IF NOT EXISTS handled (n INTEGER PRIMARY KEY, life INTEGER, place TEXT, seq INTEGER, position INTEGER)
"""
HTTP_DEFINITE: Final = range(400, 500)  # refused, nothing stored; 408 and 409 "conflict" too


class Script(BaseModel):
    """The part of one program."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    seed: int
    folder: Path
    doors: tuple[str, ...]  # URLs of the comets
    apis: tuple[str, ...]  # base URLs
    people: tuple[int, ...]  # mids
    devices_each: int
    rooms: tuple[str, ...]
    sends_per_s: float  # all devices together
    governs: bool  # kicks, brings back and mutes people over HTTP
    governed: tuple[int, ...] = ()  # whom
    governs_per_s: float = 1.0
    idle: tuple[int, ...] = ()  # people who come only at the drain
    logins: Mapping[int, str] = {}  # of people who have accounts, the name; who has none is believed
    password: str = ""
    amends: bool = True  # people edit and recall what they said


def body_of(seed: int, cid: str) -> dict[str, str]:
    """What the message with this id says: it can be checked without having been remembered."""
    return {"h": hashlib.sha256(f"{seed}:{cid}".encode()).hexdigest()[:24]}


class Device:
    """One device of one person, which wants to be connected. `live` is its task."""

    def __init__(self, play: Play, mid: int, number: int) -> None:
        self.play, self.mid, self.key = play, mid, f"device-{mid}-{number}"
        self.random = random.Random(f"{play.script.seed} {self.key} {play.life}")
        self.cursor_file = play.script.folder / f"{self.key}.cursor"
        self.recorder = Recorder(play.write, process=play.process, mid=mid, key=self.key)
        self.im: Client | None = None
        self.here = asyncio.Event()
        self.unknown: list[tuple[str, str]] = []  # room and id of sends without an outcome
        self.last_event_at = time.monotonic()
        self.cursor: SqliteCursor | None = None
        self.seqs: dict[str, int] = {}  # the last of each room that the loop was given
        self.said: deque[tuple[str, int]] = deque(maxlen=SAID_MAX)  # the last that it said
        self.token = ""
        self.leaving = asyncio.Lock()  # held while it logs out
        self._lives = 0

    def observing(self) -> Callable[[tuple[Any, ...]], None]:
        """The recorder, for one more client of this device: each counts its connections from 1."""
        self._lives += 1
        base = self._lives * CONNECTIONS_EACH

        def observe(step: tuple[Any, ...]) -> None:
            self.recorder.observe((step[0], base + step[1], *step[2:]))

        return observe

    @asynccontextmanager
    async def connected(self, cursor: SqliteCursor | MemoryCursor) -> AsyncIterator[Client]:
        """A client of this device."""
        async with connect(
            list(self.play.script.doors),
            token=self.token or None,
            mid=None if self.token else self.mid,
            key=self.key,
            cursor=cursor,
            platform="chaos",
            limits=LIMITS,
            observe=self.observing(),
        ) as im:
            yield im

    async def live(self) -> None:
        """Be connected, and handle what comes. Ends when cancelled."""
        while True:
            # What is committed is with the operating system: a kill of this process loses nothing of it.
            self.cursor = SqliteCursor(self.cursor_file, flush=False)
            self.cursor.database.execute(HANDLED)
            try:
                async with self.leaving:
                    await self.log_in()
                async with self.connected(self.cursor) as im:
                    self.im = im
                    self.here.set()
                    async for event in im.events():
                        self.handle(event)
            except ClientError as error:
                # Another connection took over, or it was refused for good: a program would tell its user; this one tries again.
                log.info("%s: %s", self.key, error)
                if error.code == "unauthenticated":
                    self.token = ""
            finally:
                self.im = None
                self.here.clear()
            await asyncio.sleep(self.random.uniform(0.05, 0.5))

    async def log_in(self) -> None:
        """Have a token, if the person has an account. Tries for as long as that takes."""
        play = self.play
        login = play.script.logins.get(self.mid)
        while login is not None and not self.token:
            asked = {"login": login, "password": play.script.password, "key": self.key}
            status, told = await play.call("POST", "/v1/login", asked)
            if status == 200:
                self.token = told["token"]
            else:
                await asyncio.sleep(self.random.uniform(0.1, 0.5))

    async def log_out(self) -> None:
        """The login is over, and the connection with it; `live` logs in anew, when this is known."""
        async with self.leaving:
            token = self.token
            if not token:
                return
            n = self.recorder.invoke("kick", Belonging("", self.mid, self.key))
            status, told = await self.play.call("POST", "/v1/logout", {}, token)
            outcome: Type = "ok" if status == 200 else "fail" if status in HTTP_DEFINITE else "info"
            place = {name: told[name] for name in ("position", "seq") if name in told and outcome == "ok"}
            self.recorder.finish(n, outcome, Belonging("", self.mid, self.key, code=str(told.get("code", "")), **place))
            if outcome == "ok":
                self.token = ""
                tell("logout", device=self.key)

    async def amend(self) -> None:
        """Let something that it said read otherwise, or be shown no more. Whether it was done nobody need know: the log does."""
        if not self.said:
            return
        room, seq = self.random.choice(self.said)
        path = f"/v1/rooms/{room.replace('://', '/')}/messages/{seq}"
        if self.random.random() < RECALLS:
            await self.play.call("DELETE", path, None, self.token)
        else:
            await self.play.call("PUT", path, {"body": self.play.message()[0]}, self.token)

    def handle(self, event: object) -> None:
        """The application's own part. What is not stored (receipts, presence) is promised to nobody."""
        if isinstance(event, Event) and not event.position:
            return
        self.last_event_at = time.monotonic()
        # What has no place in the log (receipts, signals) promises nothing.
        if isinstance(event, Event) and event.position and self.cursor is not None:
            with self.cursor.storing(event) as database:
                row = (self.play.life, event.room or event.stream, event.seq, event.position)
                database.execute("INSERT INTO handled (life, place, seq, position) VALUES (?, ?, ?, ?)", row)
            if event.room:
                self.seqs[event.room] = event.seq

    async def say(self, room: str, cid: str) -> bool:
        """Send it, or send it again; False if the outcome is still unknown."""
        im = self.im
        if im is None:
            return False
        try:
            sent = await im.send(room, body_of(self.play.script.seed, cid), id=cid, timeout_s=SEND_S)
            self.said.append((room, sent.seq))
        except ClientError as error:
            # Refused for good, or not known: what was sent is in the record, attempt by attempt.
            return not (isinstance(error, ConnectionClosed) or error.retry or error.code in ("unavailable", "timeout"))
        return True

    async def talk(self) -> None:
        """Say something now and then, pipelined. Ends when cancelled."""
        script = self.play.script
        mean_s = len(self.play.devices) / script.sends_per_s
        doors = asyncio.Semaphore(IN_FLIGHT)

        async def one(room: str, cid: str) -> None:
            try:
                if not await self.say(room, cid):
                    self.unknown.append((room, cid))
            finally:
                doors.release()

        async with asyncio.TaskGroup() as tasks:
            while not self.play.is_quiet:
                await asyncio.sleep(self.random.expovariate(1 / mean_s))
                await self.here.wait()
                await doors.acquire()
                if self.unknown:
                    room, cid = self.unknown.pop(0)
                else:
                    room, cid = self.random.choice(script.rooms), self.play.new_id()
                tasks.create_task(one(room, cid))

    async def look(self) -> None:
        """Read marks, pages of history, the inbox, who is online; joins and leaves. Ends when cancelled."""
        script = self.play.script
        while not self.play.is_quiet:
            await asyncio.sleep(self.random.uniform(0.5, 2.5))
            await self.here.wait()
            im, room = self.im, self.random.choice(script.rooms)
            if im is None:
                continue
            with suppress(ClientError, TimeoutError):
                async with asyncio.timeout(ASK_S):
                    match self.random.randrange(14):
                        case 11 | 12 if script.amends:
                            await self.amend()
                        case 13:
                            await self.log_out()
                        case 10:
                            # As a stranger: whether there is such a room, nobody is told.
                            await im.history(self.random.choice([SECRET, NOWHERE]), limit=PAGE)
                        case 0 | 1 | 2:
                            if room in self.seqs:
                                await im.mark_read(room, self.seqs[room])
                        case 3 | 4:
                            page = await im.history(room, limit=PAGE)
                            if page.more and page.events:
                                await im.history(room, before=page.events[0].seq, limit=PAGE)
                        case 5:
                            await im.inbox()
                        case 6 | 7:
                            await im.members(room)
                        case 8:
                            await im.leave(room)
                            await im.join(room)
                        case 9:
                            await im.join(room)

    async def take_over(self) -> None:
        """Connect a second time; the first connection is closed, and `live` comes back and takes over again."""
        with suppress(ClientError, TimeoutError):
            async with asyncio.timeout(ASK_S), self.connected(MemoryCursor()) as im:
                tell("takeover", device=self.key)
                body, cid = self.play.message()
                await im.send(self.random.choice(self.play.script.rooms), body, id=cid, timeout_s=2)

    async def settle(self) -> None:
        """Everything that was sent has an outcome."""
        while self.unknown:
            await self.here.wait()
            room, cid = self.unknown[0]
            if await self.say(room, cid):
                self.unknown.pop(0)
            else:
                await asyncio.sleep(0.1)

    async def read_all(self) -> None:
        """As a device that was never here: every room from its beginning, and the inbox."""
        async with self.connected(MemoryCursor()) as im:
            after = ""
            while True:
                page = await im.inbox(after=after, limit=PAGE)
                for line in page.rooms:
                    seq, more = 0, True
                    while more:
                        events = await im.history(line.room, after=seq, limit=PAGE)
                        more = events.more and bool(events.events)
                        seq = events.events[-1].seq if events.events else seq
                if not page.next:
                    return
                after = page.next


class Play:
    """The whole program."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.life = _next_life(script.folder / f"{script.name}.lives")
        self.process = f"{script.name}.{self.life}"
        self.write = Writer(script.folder / f"history-{script.name}-{self.life}.jsonl")
        self.random = random.Random(f"{script.seed} {self.process}")
        self.devices = [
            Device(self, mid, number) for mid in script.people for number in range(1, script.devices_each + 1)
        ]
        self.governor = Recorder(self.write, process=self.process)
        self.is_quiet = False
        self._ids = 0
        self._living: list[asyncio.Task[None]] = []
        self._busy: list[asyncio.Task[None]] = []
        self._extra: set[asyncio.Task[None]] = set()

    def new_id(self) -> str:
        """An id that no other life and no other program gives, and the same in each run with this seed."""
        self._ids += 1
        return str(uuid.uuid5(NAMESPACE, f"{self.script.seed} {self.process} {self._ids}"))

    def message(self) -> tuple[dict[str, str], str]:
        """A body and its id."""
        cid = self.new_id()
        return body_of(self.script.seed, cid), cid

    async def run(self, lines: asyncio.StreamReader) -> None:
        """Play until standard input ends."""
        self._living = [_vital(device.live()) for device in self.devices]
        self._busy = [_vital(work) for device in self.devices for work in (device.talk(), device.look())]
        if self.script.governs:
            self._busy.append(_vital(self.govern()))
        flushing = _vital(self._flush())
        tell("ready", life=self.life)
        try:
            while line := await lines.readline():
                await self.do(**json.loads(line))
        finally:
            tasks = [*self._living, *self._busy, *self._extra, flushing]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.write.close()

    async def do(self, do: str, count: int = 1, seed: int = 0, idle_s: float = 3.0) -> None:
        """What it is told."""
        chosen = random.Random(seed).sample(self.devices, min(count, len(self.devices)))
        match do:
            case "takeover":
                self._also([device.take_over() for device in chosen])
            case "stall":
                self._also([self.stall(device.mid) for device in chosen])
            case "quiet":
                await self.quiet()
                tell("quiet", open=sum(len(device.unknown) for device in self.devices))
            case "drain":
                await self.drain(idle_s)
                tell("drained")

    def _also(self, work: Sequence[Any]) -> None:
        for one in work:
            task = _vital(one)
            self._extra.add(task)
            task.add_done_callback(self._extra.discard)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            self.write.flush()

    async def quiet(self) -> None:
        """No more load; what is on its way gets its outcome."""
        self.is_quiet = True
        if self._busy:
            _, late = await asyncio.wait(self._busy, timeout=SEND_S + ASK_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)
        self._busy.clear()
        async with asyncio.timeout(DRAIN_S):
            await asyncio.gather(*(device.settle() for device in self.devices))

    async def drain(self, idle_s: float) -> None:
        """Everybody goes and comes back from where its cursor is, and reads until nothing comes any more; then new devices read all."""
        for task in self._living:
            task.cancel()
        await asyncio.gather(*self._living, return_exceptions=True)
        self.devices += [Device(self, mid, 1) for mid in self.script.idle]
        self._living = [_vital(device.live()) for device in self.devices]
        async with asyncio.timeout(DRAIN_S):
            for device in self.devices:
                await device.here.wait()
            while time.monotonic() - max(device.last_event_at for device in self.devices) < idle_s:
                await asyncio.sleep(0.1)
            for mid in (*self.script.people, *self.script.idle):
                await Device(self, mid, 1_000).read_all()
        self.write.flush()

    async def stall(self, mid: int) -> None:
        """A connection in good order that takes nothing from its socket for a while, and is then gone without a word."""
        url = self.random.choice(self.script.doors)
        async with aiohttp.ClientSession() as http:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(ASK_S):
                    # No autoping and no reads: pings of the server stay unanswered too.
                    ws = await http.ws_connect(url.replace("ws://", "http://"), autoping=False, max_msg_size=0)
                    await ws.send_json({"op": 7, "seq": 1, "body": {"mid": mid, "key": f"stalled-{self.new_id()[:8]}"}})
                    tell("stall", mid=mid)
                    await asyncio.sleep(self.random.uniform(2, 6))

    # --- the one who brings people in and throws them out -------------------------------------------------------------------

    async def govern(self) -> None:
        """Kick people in the middle of their sentences, bring them back, mute some for a moment. Ends when cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HTTP_S)) as http:
            while not self.is_quiet:
                await asyncio.sleep(self.random.expovariate(self.script.governs_per_s))
                room, mid = self.random.choice(self.script.rooms), self.random.choice(self.script.governed)
                match self.random.randrange(5):
                    case 0:
                        until_ms = int(time.time() * 1000) + 2_000
                        await self._call(http, "PUT", room, f"/members/{mid}/mute", {"until_ms": until_ms})
                    case 1 | 2:
                        await self._operation(http, "kick", "DELETE", room, f"/members/{mid}", mid, None)
                        await asyncio.sleep(self.random.uniform(0, 1.5 / self.script.governs_per_s))
                        await self._operation(http, "join", "POST", room, "/members", mid, {"mid": mid})
                    case _:
                        await self._operation(http, "join", "POST", room, "/members", mid, {"mid": mid})
            # Everybody is a member at the end, so that a drain has something to say of everybody.
            for room in self.script.rooms:
                for mid in self.script.governed:
                    while await self._operation(http, "join", "POST", room, "/members", mid, {"mid": mid}) == "info":
                        await asyncio.sleep(0.2)

    async def _operation(
        self, http: aiohttp.ClientSession, f: str, method: str, room: str, path: str, mid: int, body: Any
    ) -> Type:
        n = self.governor.invoke(f, Belonging(room, mid))
        status, said = await self._call(http, method, room, path, body)
        outcome: Type = "ok" if 200 <= status < 300 else "fail" if status in HTTP_DEFINITE else "info"
        code = said.get("error", {}).get("code", "")
        place = {name: said[name] for name in ("position", "seq", "duplicate") if name in said}
        self.governor.finish(n, outcome, Belonging(room, mid, code=code, **place))
        return outcome

    async def call(self, method: str, path: str, body: Any, token: str = "") -> tuple[int, dict[str, Any]]:
        """One request to an API, whichever; (0, {}) without an answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{self.random.choice(self.script.apis)}{path}"
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HTTP_S)) as http:
                async with http.request(method, url, json=body, headers=headers) as answer:
                    return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return 0, {}

    async def _call(
        self, http: aiohttp.ClientSession, method: str, room: str, path: str, body: Any
    ) -> tuple[int, dict[str, Any]]:
        kind, _, name = room.partition("://")
        url = f"{self.random.choice(self.script.apis)}/v1/rooms/{kind}/{name}{path}"
        try:
            async with http.request(method, url, json=body) as answer:
                return answer.status, await answer.json()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return 0, {}


def _vital(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task without which the program is not what it should be: when it fails the process ends, and the runner sees that."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task failed", exc_info=error)
            logging.shutdown()
            os._exit(BROKEN)

    task = asyncio.create_task(work)
    task.add_done_callback(ended)
    return task


def _next_life(file: Path) -> int:
    """How often this program was started, this time included. Written before anything is sent."""
    life = int(file.read_text()) + 1 if file.exists() else 1
    file.write_text(str(life))
    return life


def tell(said: str, **more: object) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps({"said": said, **more}) + "\n")
    sys.stdout.flush()


async def _main(script: Script) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await Play(script).run(reader)


def main() -> None:
    """The process."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    uvloop.run(_main(Script.model_validate_json(Path(sys.argv[1]).read_bytes())))


if __name__ == "__main__":
    main()
