"""Clients as others write them: goim's frames over TCP and WebSocket, and the JSON form. Nothing here comes from the server's code.

A client reads all the time, in a task of its own: replies go to whoever asked, events to `events`, in order of arrival. What a test
waits for, it waits for with `until`. Every frame on /ws, both ways, is held against the schema.

The trap: a reader that stops reading still has buffers. `receive_bytes` makes the socket's small, so that little is on the way.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import time
import uuid
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple, Protocol, cast, get_args

import aiohttp
from jsonschema import Draft202012Validator

HEADER: Final = struct.Struct(">ihhii")  # packet length, header length, version, operation, sequence
DEADLINE_S: Final = 60.0
READ_BYTES: Final = 65_536
TURNS: Final = 5

Form = Literal["v1 tcp", "v1 ws", "v2 tcp", "v2 ws", "json"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)

HEARTBEAT, SEND, DISCONNECT, AUTH, BATCH, CHANGE_ROOM, SUBSCRIBE, UNSUBSCRIBE = 2, 4, 6, 7, 9, 12, 14, 16
ERROR, EVENT, JOIN, LEAVE, HISTORY, READ, MEMBERS, INBOX, ACK, REMOVED = 20, 21, 22, 24, 26, 28, 30, 32, 34, 36
PUSH_MIN: Final = 1000


class Where(Protocol):
    """A server that listens: host:port of each door."""

    @property
    def tcp(self) -> str: ...

    @property
    def ws(self) -> str: ...


class Packet(NamedTuple):
    """One packet. The body is what JSON says, or bytes where the form has no JSON."""

    op: int
    seq: int
    body: Any


class Event(NamedTuple):
    """What arrived, and when. In version 1 there is nothing but operation and body, and the place is 0."""

    position: int
    stream: str
    seq: int
    type: str
    op: int
    mid: int
    body: Any
    at: float = 0.0


def text_of(body: object) -> str:
    """What was said, whichever form it came in: version 1 has the bytes of the JSON."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
    return str(json.loads(text)) if text.startswith('"') else text


class Refused(Exception):
    """The server said no to one request."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__(f"{facts['code']}: {facts['text']}")
        self.code: str = facts["code"]
        self.retry: bool = facts["retry"]


class Gone(Exception):
    """The connection ended before the answer came."""


# --- frames ------------------------------------------------------------------------------------------------------------------


def frame(ver: int, op: int, seq: int, body: bytes = b"") -> bytes:
    """A packet in goim's form."""
    return HEADER.pack(HEADER.size + len(body), HEADER.size, ver, op, seq) + body


def parsed(data: bytes) -> tuple[list[tuple[int, int, int, bytes]], bytes]:
    """The whole packets at the front (version, operation, sequence, body), and what is left."""
    packets, at = [], 0
    while len(data) - at >= HEADER.size:
        length, header, ver, op, seq = HEADER.unpack_from(data, at)
        assert header == HEADER.size, f"the header says that it is {header} bytes long"
        if len(data) - at < length:
            break
        packets.append((ver, op, seq, data[at + HEADER.size : at + length]))
        at += length
    return packets, data[at:]


def body_of(ver: int, op: int, body: bytes) -> object:
    """What a body of the binary form says."""
    if op >= PUSH_MIN:
        return body
    if op == HEARTBEAT + 1 and len(body) == 4:
        return {"online": int.from_bytes(body, "big")}
    return json.loads(body) if body else {}


def bytes_of(op: int, body: object) -> bytes:
    """A request's body in the binary form."""
    if op in (SUBSCRIBE, UNSUBSCRIBE):
        return ",".join(str(number) for number in cast(Iterable[int], body)).encode()
    if op == CHANGE_ROOM:
        return str(body).encode()
    return b"" if body is None else json.dumps(body).encode()


# --- the schema --------------------------------------------------------------------------------------------------------------

_SCHEMA: Final = json.loads((files("imcore.protocol") / "schema.json").read_text())


@cache
def _judges(side: str) -> dict[int, Draft202012Validator]:
    """Of each operation its own part of the schema: to try all of them takes milliseconds a frame."""
    parts = [part["$ref"].rpartition("/")[2] for part in _SCHEMA["$defs"][side]["oneOf"]]
    return {
        _SCHEMA["$defs"][name]["properties"]["op"]["const"]: Draft202012Validator(
            {"$defs": _SCHEMA["$defs"], "$ref": f"#/$defs/{name}"}
        )
        for name in parts
    }


@lru_cache(maxsize=32_768)
def fault(side: str, text: str) -> str:
    """What is wrong with a frame on /ws; "" for nothing. The same event for many is looked at once."""
    packet = json.loads(text)
    if side == "server_packet" and packet.get("op") == BATCH:
        if set(packet) != {"op", "seq", "body"} or packet["seq"] != 0 or not packet["body"]:
            return f"no batch: {text[:300]}"
        return next(filter(None, (fault(side, _compact(inner)) for inner in packet["body"])), "")
    judge = _judges(side).get(packet.get("op"))
    if judge is None:
        return f"the schema knows no such operation: {text[:300]}"
    return next((f"{error.json_path}: {error.message}: {text[:300]}" for error in judge.iter_errors(packet)), "")


def _compact(packet: object) -> str:
    """As the server writes it, so that it is the same text alone and in a batch."""
    return json.dumps(packet, separators=(",", ":"), ensure_ascii=False)


# --- lines -------------------------------------------------------------------------------------------------------------------


class Line(Protocol):
    """What carries packets."""

    async def say(self, op: int, seq: int, body: object) -> None:
        """Send a request."""

    async def hear(self) -> list[Packet] | None:
        """What came next; None is the end."""

    def code(self) -> int | None:
        """The close code, on a WebSocket that is closed."""

    async def part(self) -> None:
        """Say that nothing more will be sent; what the server has sent can still be heard."""

    def drop(self) -> None:
        """End without a word."""

    async def over(self) -> None:
        """Return when nothing is left of it."""

    def socket(self) -> socket.socket:
        """What is underneath."""


class TcpLine:
    """goim's packets back to back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ver: int) -> None:
        self._reader, self._writer, self._ver = reader, writer, ver
        self._rest = b""
        self._inner = _inner(writer.transport)

    async def say(self, op: int, seq: int, body: object) -> None:
        self._writer.write(frame(self._ver, op, seq, bytes_of(op, body)))
        with suppress(ConnectionError):
            await self._writer.drain()

    async def hear(self) -> list[Packet] | None:
        try:
            data = await self._reader.read(READ_BYTES)
        except ConnectionError:
            return None
        if not data:
            return None
        packets, self._rest = parsed(self._rest + data)
        for ver, op, _, _ in packets:
            assert op != BATCH, "over TCP there is no outer packet"
            assert ver == self._ver, f"version {ver} on a connection of version {self._ver}"
        return [Packet(op, seq, body_of(ver, op, body)) for ver, op, seq, body in packets]

    def code(self) -> int | None:
        return None

    async def part(self) -> None:
        if not self._writer.can_write_eof():  # TLS has no half of a goodbye
            self._writer.close()
            return
        with suppress(OSError):
            self._writer.write_eof()

    def drop(self) -> None:
        self._writer.transport.abort()

    async def over(self) -> None:
        with suppress(OSError):
            await self._writer.wait_closed()
        await _over(self._inner)

    def socket(self) -> socket.socket:
        return cast(socket.socket, self._writer.get_extra_info("socket"))


class WebSocketLine:
    """/sub: packets in binary frames, several of them under operation 9. /ws: JSON in text frames."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, form: Form) -> None:
        connection = ws._response.connection
        assert connection is not None, "it was just opened"
        self._ws, self._is_json, self._ver = ws, form == "json", 1 if form == "v1 ws" else 2
        self._closed: int | None = None
        self._inner = _inner(connection.transport)

    async def say(self, op: int, seq: int, body: object) -> None:
        with suppress(ConnectionError):
            if not self._is_json:
                await self._ws.send_bytes(frame(self._ver, op, seq, bytes_of(op, body)))
                return
            text = json.dumps({"op": op, "seq": seq} | ({} if body is None else {"body": body}))
            assert not (wrong := fault("client_frame", text)), wrong
            await self._ws.send_str(text)

    async def hear(self) -> list[Packet] | None:
        message = await self._ws.receive()
        if message.type == aiohttp.WSMsgType.CLOSE:
            self._closed = message.data
            with suppress(ConnectionError):
                await self._ws.close(code=message.data)
            return None
        if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
            self._closed = self._ws.close_code
            return None
        assert (message.type == aiohttp.WSMsgType.TEXT) is self._is_json
        if self._is_json:
            assert not (wrong := fault("server_packet", message.data)), wrong
            said = json.loads(message.data)
            inner = said["body"] if said["op"] == BATCH else [said]
            return [Packet(one["op"], one["seq"], one["body"]) for one in inner]
        packets, rest = parsed(message.data)
        assert not rest, "a frame holds whole packets"
        ((ver, op, seq, body),) = packets  # one a frame; a batch is one too
        if op == BATCH:
            assert (ver, seq) == (1, 0), "the outer header of a batch is always the same"
            packets, rest = parsed(body)
            assert not rest, "a batch holds whole packets"
        return [Packet(op, seq, body_of(ver, op, body)) for ver, op, seq, body in packets]

    def code(self) -> int | None:
        return self._closed

    async def part(self) -> None:
        """A WebSocket says goodbye with a close frame, and the server answers after everything it had to say."""
        with suppress(ConnectionError):
            await self._ws._writer.close(1000)

    def drop(self) -> None:
        connection = self._ws._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._ws._response.close()

    async def over(self) -> None:
        await _over(self._inner)

    def socket(self) -> socket.socket:
        return cast(socket.socket, self._ws.get_extra_info("socket"))


def _inner(transport: asyncio.BaseTransport | None) -> asyncio.WriteTransport | None:
    """Under TLS, the transport of the socket. CPython (3.11) at times forgets it unclosed when a connection over TLS is aborted."""
    protocol = getattr(transport, "_ssl_protocol", None)
    return cast("asyncio.WriteTransport | None", getattr(protocol, "_transport", None))


async def _over(inner: asyncio.WriteTransport | None) -> None:
    if inner is not None:
        inner.abort()
    for _ in range(TURNS):  # of the loop: aborting takes some, and nothing tells when it is done
        await asyncio.sleep(0)


# --- clients -----------------------------------------------------------------------------------------------------------------


class Client:
    """One connection of a device. `Clients.connect` makes them, and ends them with the test."""

    def __init__(self, line: Line, form: Form) -> None:
        self._line = line
        self.form = form
        self.mid = 0
        self.key = ""
        self.welcome: dict[str, Any] = {}
        self.events: list[Event] = []
        self.receipts: list[dict[str, Any]] = []
        self.removals: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []  # without a request of ours
        self.farewell: dict[str, Any] | None = None
        self.cursor = ""
        self.pause_s = 0.0  # between two reads
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._seq = 0
        self._news = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._fault: BaseException | None = None
        self._listening = asyncio.create_task(self._listen())

    @property
    def is_gone(self) -> bool:
        """Has the connection ended?"""
        return self._listening.done()

    @property
    def code(self) -> int | None:
        """With which close code it ended; over TCP, what the last packet said."""
        if self.form.endswith("tcp"):
            return None if self.farewell is None else self.farewell["close"]
        return self._line.code()

    @property
    def told(self) -> tuple[str, bool] | None:
        """Why the server ends the connection, and whether to come back; None if it did not say."""
        return None if self.farewell is None else (self.farewell["code"], self.farewell["retry"])

    @property
    def line_socket(self) -> socket.socket:
        """The socket underneath, while it is open."""
        return self._line.socket()

    # --- asking ---

    async def post(self, op: int, body: object = None) -> asyncio.Future[Any]:
        """Send a request; the future is the body of its reply."""
        self._seq += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.is_gone:
            future.set_exception(Gone())
            return future
        self._asked[self._seq] = future
        await self._line.say(op, self._seq, body)
        return future

    async def ask(self, op: int, body: object = None) -> Any:
        """The body of the reply. Raises Refused, and Gone when the connection ends first."""
        return await self.reply(await self.post(op, body))

    async def reply(self, future: asyncio.Future[Any]) -> Any:
        """The body of the reply that was asked for. Raises as `ask` does."""
        async with asyncio.timeout(DEADLINE_S):
            return await future

    async def send(self, room: str, body: object, id_: str | None = None) -> dict[str, Any]:
        """A message to a room; where it is."""
        place: dict[str, Any] = await self.ask(SEND, {"room": room, "id": id_ or str(uuid.uuid4()), "body": body})
        return place

    async def join(self, room: str) -> dict[str, Any]:
        place: dict[str, Any] = await self.ask(JOIN, {"room": room})
        return place

    async def leave(self, room: str) -> dict[str, Any]:
        place: dict[str, Any] = await self.ask(LEAVE, {"room": room})
        return place

    async def ack(self) -> str:
        """Everything that came is dealt with; the cursor after it."""
        if self.events:
            reply = await self.ask(ACK, {"position": self.events[-1].position})
            self.cursor = reply["cursor"]
        return self.cursor

    # --- waiting ---

    async def until(self, is_so: Callable[[], object], what: str = "", seconds: float = DEADLINE_S) -> None:
        """Return when it is so; whenever something arrives it is looked at again."""
        try:
            async with asyncio.timeout(seconds):
                while not is_so():
                    self._news.clear()
                    if self.is_gone:
                        assert is_so(), f"{self} ended ({self.code}, {self.farewell}) before {what or 'it was so'}"
                        return
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{self}: not {what or 'so'} in {seconds} s; {self._state()}") from None

    async def until_said(self, count: int, seconds: float = DEADLINE_S) -> list[Any]:
        """The bodies of the first `count` messages. That there are no more of them is for the test to show."""
        await self.until(lambda: len(self.said) >= count, f"{count} messages", seconds)
        return self.said

    async def until_heard(self, words: str) -> None:
        """The last message is this."""
        await self.until(lambda: self.said and text_of(self.said[-1]) == words, f"{words!r}")

    async def until_heard_of(self, words: str) -> None:
        """One of the messages is this."""
        await self.until(lambda: words in self.texts, f"{words!r}")

    async def until_gone(self, seconds: float = DEADLINE_S) -> int | None:
        """The close code with which the connection ended."""
        await self.until(lambda: self.is_gone, "gone", seconds)
        return self.code

    @property
    def said(self) -> list[Any]:
        """The bodies of the messages that came."""
        return [event.body for event in self.events if event.op]

    @property
    def texts(self) -> list[str]:
        """The same as text."""
        return [text_of(body) for body in self.said]

    def _state(self) -> str:
        tail = [f"{event.type or event.op} {event.body!r}"[:80] for event in self.events[-3:]]
        return (
            f"{len(self.events)} events, the last {tail}; {'gone' if self.is_gone else 'there'} {self.farewell or ''}"
        )

    def __str__(self) -> str:
        return f"{self.form} {self.mid}/{self.key}"

    # --- reading ---

    def stop_reading(self) -> None:
        """As a process that was stopped: what comes stays in the socket."""
        self._may_read.clear()

    def go_on(self) -> None:
        """Read again."""
        self._may_read.set()

    async def _listen(self) -> None:
        try:
            while True:
                await self._may_read.wait()
                packets = await self._line.hear()
                if packets is None:
                    self._line.drop()  # hang up too
                    return
                if not self._may_read.is_set():
                    await self._may_read.wait()
                for packet in packets:
                    self._take(packet)
                self._news.set()
                if self.pause_s:
                    await asyncio.sleep(self.pause_s)
        except AssertionError as error:
            self._fault = error
        finally:
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(Gone(f"{self.told}"))
                    future.exception()  # nobody may be waiting
            self._news.set()
            asyncio.get_running_loop().call_soon(self._news.set)  # when the task is done

    def _take(self, packet: Packet) -> None:
        op, seq, body = packet
        if op >= PUSH_MIN:
            self.events.append(Event(0, "", 0, "", op, 0, body, time.monotonic()))
        elif op == EVENT and body["type"] == "receipt":
            self.receipts.append(body)  # which no log holds: tests of the log's events need not know of them
        elif op == EVENT:
            self.events.append(_event(body))
        elif op == REMOVED:
            self.removals.append(body)
        elif op == DISCONNECT:
            self.farewell = body
        elif op == ERROR and seq not in self._asked:
            self.errors.append(body)
        else:
            future = self._asked.pop(seq, None)
            assert future is not None, f"a reply to nothing: {packet}"
            if future.done():
                return
            if isinstance(body, dict) and "error" in body:
                future.set_exception(Refused(body["error"]))
                future.exception()
            else:
                future.set_result(body)

    # --- the end ---

    async def bye(self) -> None:
        """Leave as one does: say so, and hear what the server had already sent."""
        await self._line.part()
        await self.until_gone()

    def drop(self) -> None:
        """Leave as a phone in a tunnel does."""
        self._line.drop()

    async def end(self) -> None:
        """Make sure that it is over, and that nothing was wrong with what the server said."""
        self._may_read.set()
        self._line.drop()
        self._listening.cancel()
        await asyncio.wait([self._listening])
        await self._line.over()
        if self._fault is not None:
            raise self._fault


def _event(body: Mapping[str, Any]) -> Event:
    said = b64decode(body["body"]) if body.get("base64") else body["body"]
    stream = "room:" + body["room"] if "room" in body else body["stream"]
    op = body.get("op", 0)
    return Event(body["position"], stream, body["seq"], body["type"], op, body["mid"], said, time.monotonic())


class Clients:
    """Makes connections, and ends those that are left."""

    def __init__(self) -> None:
        self._all: list[Client] = []
        self._sessions: dict[int | None, aiohttp.ClientSession] = {}

    async def open(
        self,
        where: Where,
        form: Form,
        *,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        receive_bytes: int | None = None,
    ) -> Client:
        """A connection that has said nothing yet."""
        line: Line
        if form.endswith("tcp"):
            host, _, port = where.tcp.rpartition(":")
            line_socket = _socket(receive_bytes)
            try:
                await asyncio.get_running_loop().sock_connect(line_socket, (host, int(port)))
            except OSError:
                line_socket.close()
                raise
            reader, writer = await asyncio.open_connection(
                sock=line_socket, limit=READ_BYTES, ssl=tls, server_hostname="localhost" if tls else None
            )
            line = TcpLine(reader, writer, 1 if form == "v1 tcp" else 2)
        else:
            path, scheme = "ws" if form == "json" else "sub", "wss" if tls else "ws"
            ws = await self._session(receive_bytes).ws_connect(
                f"{scheme}://{where.ws}/{path}",
                headers=headers,
                ssl=tls or True,
                server_hostname="localhost" if tls else None,
                max_msg_size=0,
                autoclose=False,  # over TLS it forgets the code when the server has hung up
            )
            line = WebSocketLine(ws, form)
        client = Client(line, form)
        self._all.append(client)
        return client

    async def connect(
        self,
        where: Where,
        form: Form,
        *,
        mid: int | None = None,
        key: str = "",
        room: str = "",
        rooms: Iterable[str] = (),
        accepts: Iterable[int] | None = (PUSH_MIN,),
        cursor: str = "",
        token: str = "",
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        receive_bytes: int | None = None,
    ) -> Client:
        """A device that has authenticated. Raises Refused, and Gone when the server just hangs up."""
        client = await self.open(where, form, tls=tls, headers=headers, receive_bytes=receive_bytes)
        who: dict[str, object] = {"key": key, "room_id": room, "platform": "test"}
        if mid is not None:
            who["mid"] = mid
        if form.startswith("v1"):
            who["accepts"] = list(accepts or ())
        else:
            who |= {"rooms": list(rooms), "cursor": cursor}
        if token:
            who["token"] = token
        client.mid, client.key, client.cursor = mid or 0, key, cursor
        client.welcome = await client.ask(AUTH, who)
        if client.welcome:
            client.mid, client.key = client.welcome["mid"], client.welcome["key"]
            client.cursor = client.welcome["cursor"]
        return client

    async def raw_websocket(self, where: Where, path: str = "sub") -> aiohttp.ClientWebSocketResponse:
        """A WebSocket for tests that look at every byte; closed with the others."""
        return await self._session(None).ws_connect(f"ws://{where.ws}/{path}")

    async def end(self) -> None:
        """End all of them. Raises what was wrong with the first that heard something wrong."""
        faults = await asyncio.gather(*(client.end() for client in self._all), return_exceptions=True)
        for session in self._sessions.values():
            await session.close()
        for fault in faults:
            if fault is not None:
                raise fault

    def _session(self, receive_bytes: int | None) -> aiohttp.ClientSession:
        session = self._sessions.get(receive_bytes)
        if session is None:
            connector = aiohttp.TCPConnector(limit=0, socket_factory=lambda _: _socket(receive_bytes))
            session = self._sessions[receive_bytes] = aiohttp.ClientSession(connector=connector)
        return session


def _socket(receive_bytes: int | None) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    if receive_bytes is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)  # before connecting: it bounds the window
    return made


@asynccontextmanager
async def clients() -> AsyncIterator[Clients]:
    """Connections for one test."""
    made = Clients()
    try:
        yield made
    finally:
        await made.end()
