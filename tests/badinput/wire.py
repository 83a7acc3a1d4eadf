"""Raw sockets, and what a server says on them: nothing here keeps a rule unless it is asked to.

A line is one socket in one of the five forms: goim's packets in version 1 or 2, over TCP or in binary frames, or JSON in text frames.
`put` writes bytes as they are, `say` writes a packet as it should be. `hear` is the next packet, `fate` is everything up to the end.
Every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

from imcore.errors import TABLE
from protocol.frames import client_frame

HEADER: Final = struct.Struct(">ihhii")  # packet length, header length, version, operation, sequence
HEARTBEAT, SEND, DISCONNECT, AUTH, BATCH, CHANGE_ROOM, SUBSCRIBE, UNSUBSCRIBE = 2, 4, 6, 7, 9, 12, 14, 16
ERROR, EVENT, JOIN, LEAVE, HISTORY, READ, MEMBERS, INBOX, ACK, REMOVED = 20, 21, 22, 24, 26, 28, 30, 32, 34, 36
PUSH_MIN: Final = 1000
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
NORMAL, PROTOCOL_ERROR, UNSUPPORTED, INVALID_TEXT, TOO_LARGE = 1000, 1002, 1003, 1007, 1009

CLOSE_OF: Final = {error.code: error.close for error in TABLE}
DEADLINE_S: Final = 20.0
PUT_OFF_S: Final = 5.0
FOLLOWING: Final = (INBOX, READ, MEMBERS)  # are answered from rows that follow the log
FOLLOWING_MAX: Final = 20  # how often it is waited for a second that they do
READ_BYTES: Final = 1 << 16
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3


class Where(NamedTuple):
    """A server that listens: host:port of each door."""

    http: str
    ws: str
    tcp: str


class Form(NamedTuple):
    """How packets are written. `path` is None over TCP."""

    path: str | None
    ver: int

    def __str__(self) -> str:
        return f"{self.path or '/tcp'}-v{self.ver}"[1:]

    @property
    def is_text(self) -> bool:
        return self.path == "/ws"


TCP1, TCP2, SUB1, SUB2, WS = Form(None, 1), Form(None, 2), Form("/sub", 1), Form("/sub", 2), Form("/ws", 2)
BINARY_FORMS: Final = (TCP1, TCP2, SUB1, SUB2)
FORMS: Final = (*BINARY_FORMS, WS)
TALKATIVE: Final = (TCP2, SUB2, WS)  # they are told why


class Packet(NamedTuple):
    """One packet of the server. In the JSON form the body is JSON text too."""

    op: int
    seq: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error; "" for anything else."""
        said = self.json if self.body[:1] == b"{" else {}
        found: str = said.get("error", {}).get("code", "")
        return found


class Fate(NamedTuple):
    """What still came, and how it ended: a close code and its reason, or none where only the socket was closed."""

    packets: list[Packet]
    close: int | None
    reason: str


class Gone(Exception):
    """The connection ended before the answer came."""


def packed(op: int, seq: int, body: bytes = b"", *, ver: int = 1, length: int | None = None, header: int = 16) -> bytes:
    """A packet of the binary form, with whatever the header shall say."""
    return HEADER.pack(HEADER.size + len(body) if length is None else length, header, ver, op, seq) + body


def encoded(form: Form, op: int, seq: int, body: object = None) -> bytes:
    """A packet as this form writes it. Bytes are a body as it is; anything else is written as the operation wants it."""
    if form.is_text:
        text = body if isinstance(body, bytes) else _compact(body)
        return client_frame(TEXT, b'{"op":%d,"seq":%d,"body":%b}' % (op, seq, text))
    one = packed(op, seq, body if isinstance(body, bytes) else _goim(op, body), ver=form.ver)
    return one if form.path is None else client_frame(BINARY, one)


def upgrade(path: str, *headers: str, key: str = KEY, version: str = "13") -> bytes:
    """The request of a WebSocket client."""
    lines = (
        f"GET {path} HTTP/1.1",
        "Host: badinput",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {version}",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode()


def new_id() -> str:
    """Of a message."""
    return str(uuid.uuid4())


class Line:
    """One socket to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, form: Form) -> None:
        self.reader, self.writer, self.form = reader, writer, form
        self.pongs: list[bytes] = []
        self.close: int | None = None
        self.reason = ""
        self.has_version = form.is_text  # in the binary form the server learns it from the auth
        self._heard: list[Packet] = []  # taken from the socket, not asked for yet
        self._seq = 0

    # --- to the server ---

    def put(self, data: bytes) -> None:
        """Bytes as they are."""
        self.writer.write(data)

    async def push(self, data: bytes) -> None:
        """Bytes as they are; returns when the socket has them. One that broke takes nothing."""
        self.put(data)
        with suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE_S):
                await self.writer.drain()

    def encoded(self, op: int, seq: int, body: object = None) -> bytes:
        """A packet as this form writes it."""
        return encoded(self.form, op, seq, body)

    def say(self, op: int, seq: int, body: object = None) -> None:
        """A packet."""
        self.has_version |= op == AUTH
        self.put(self.encoded(op, seq, body))

    def end(self) -> None:
        """Nothing more will be written."""
        with suppress(OSError):
            self.writer.write_eof()

    def drop(self, *, reset: bool = False) -> None:
        """End without a word; with `reset`, so that whatever is on the way is thrown away."""
        if reset:
            found: socket.socket = self.writer.get_extra_info("socket")
            with suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    # --- from the server ---

    async def hear(self) -> Packet:
        """The next packet. Raises Gone."""
        async with asyncio.timeout(DEADLINE_S):
            while not self._heard:
                if not await self._take():
                    raise Gone(f"{self.close} {self.reason}")
        return self._heard.pop(0)

    async def replies(self, count: int) -> list[Packet]:
        """The next packets that are no events."""
        found: list[Packet] = []
        while len(found) < count:
            packet = await self.hear()
            if packet.op not in (EVENT, REMOVED) and packet.op < PUSH_MIN:
                found.append(packet)
        return found

    async def ask(self, op: int, body: object = None, seq: int | None = None) -> Packet:
        """The reply to one request; what is answered from rows is asked again while they do not follow the log (on a machine that has
        other things to do). Raises Gone if the connection ends instead."""
        if seq is None:
            self._seq += 1
            seq = self._seq
        for again in range(FOLLOWING_MAX, -1, -1):
            self.say(op, seq, body)
            (packet,) = await self.replies(1)
            if packet.op == DISCONNECT:
                raise Gone(f"{packet}")
            assert (op + 1, seq) == (packet.op, packet.seq), packet
            if not again or op not in FOLLOWING or packet.code != "unavailable":
                break
        return packet

    async def pong(self) -> bytes:
        """The next answer to a ping."""
        async with asyncio.timeout(DEADLINE_S):
            while not self.pongs:
                assert await self._take(), "the connection ended"
        return self.pongs.pop(0)

    async def fate(self) -> Fate:
        """Everything that still comes, up to the end."""
        packets: list[Packet] = []
        with suppress(Gone):
            while True:
                packets.append(await self.hear())
        return Fate(packets, self.close, self.reason)

    async def _take(self) -> bool:
        """One packet or frame from the socket; False at its end."""
        try:
            if self.form.path is None:
                length, header, ver, op, seq = HEADER.unpack(await self.reader.readexactly(HEADER.size))
                assert (HEADER.size, self.form.ver) == (header, ver), "the server's own header"
                self._heard.append(Packet(op, seq, await self.reader.readexactly(length - HEADER.size)))
                return True
            return self._took(*await self._frame())
        except ConnectionError:
            return False
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise  # the server stopped in the middle of something
            return False

    async def _frame(self) -> tuple[int, bytes]:
        first, length = await self.reader.readexactly(2)
        if length > 125:
            length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8), "big")
        assert self.close is None, "nothing comes after a close frame"
        assert first & 0xF0 == 0x80, "whole messages without extensions"
        return first & 0xF, await self.reader.readexactly(length)

    def _took(self, opcode: int, payload: bytes) -> bool:
        if opcode == CLOSE:
            self.close, self.reason = int.from_bytes(payload[:2], "big"), payload[2:].decode()
        elif opcode == PONG:
            self.pongs.append(payload)
        elif self.form.is_text:
            assert opcode == TEXT, opcode
            packet = json.loads(payload)
            inside = packet["body"] if packet["op"] == BATCH else [packet]
            if len(inside) == 1:  # as it was written
                self._heard.append(Packet(packet["op"], packet["seq"], payload.partition(b'"body":')[2][:-1]))
            else:
                self._heard += [Packet(one["op"], one["seq"], _compact(one["body"])) for one in inside]
        else:
            assert opcode == BINARY, opcode
            packets = list(_packets(payload))
            self._heard += list(_packets(packets[0].body)) if packets[0].op == BATCH else packets
        return True


@asynccontextmanager
async def dialled(where: Where, form: Form, *headers: str) -> AsyncIterator[Line]:
    """A connection that has said nothing yet; on a WebSocket, after the handshake. One that is put off is tried again for a while: the
    server may not have noticed yet who went."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PUT_OFF_S
    while True:
        async with touched(where.tcp if form.path is None else where.ws, form) as line:
            if form.path is not None:
                line.put(upgrade(form.path, *headers))
                status = await head_of(line)
                if status in (429, 503):
                    if loop.time() > deadline:
                        raise Gone(f"the handshake was answered with {status}")
                    await asyncio.sleep(0.05)
                    continue
                assert status == 101
            yield line
            return


@asynccontextmanager
async def touched(address: str, form: Form = TCP1) -> AsyncIterator[Line]:
    """A bare socket to an address."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    line = Line(reader, writer, form)
    try:
        yield line
    finally:
        line.drop()


async def head_of(line: Line) -> int:
    """The status of an HTTP answer, whose head is taken from the socket."""
    async with asyncio.timeout(DEADLINE_S):
        status = await line.reader.readline()
        while await line.reader.readline() not in (b"\r\n", b""):
            pass
    return int(status.split()[1]) if status else 0


def claim(mid: int, /, **more: object) -> dict[str, object]:
    """Who connects. Messages of every operation that these tests use are wanted."""
    return {"mid": mid, "accepts": [PUSH_MIN], **more}


@asynccontextmanager
async def connected(where: Where, form: Form, mid: int, /, **more: object) -> AsyncIterator[Line]:
    """A connection that is authenticated.

    A server that stood still for two seconds, on a machine that has other things to do, tells whoever is at the door to come again; and
    one that has not noticed yet who went may find that there are too many. Clients come again, and so does this one, for a while.
    """
    async with AsyncExitStack() as stack:

        async def come() -> Line:
            line = await stack.enter_async_context(dialled(where, form))
            try:
                welcome = await line.ask(AUTH, claim(mid, **more))
                if welcome.code and welcome.json["error"]["retry"]:
                    raise Gone(f"{welcome}")
            except Gone:
                line.drop()
                raise
            assert not welcome.code, welcome
            return line

        loop = asyncio.get_running_loop()
        deadline = loop.time() + DEADLINE_S
        while True:
            try:
                line = await come()
                break
            except Gone:
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(0.05)
        yield line


async def assert_closed(line: Line, code: str) -> Fate:
    """The connection ends because of this error, and is told so as its form tells it. What came before is for the caller."""
    fate = await line.fate()
    close = CLOSE_OF[code]
    if line.form in TALKATIVE and line.has_version:
        assert fate.packets, f"no word before the end: {fate}"
        last = fate.packets.pop()
        assert (DISCONNECT, 0) == (last.op, last.seq)
        assert (code, close) == (last.json["code"], last.json["close"]), last
    assert [] == [packet for packet in fate.packets if packet.op == DISCONNECT]
    expected = (None, "") if line.form.path is None else (close, code)
    assert expected == (fate.close, fate.reason)
    return fate


async def assert_broken(line: Line, close: int) -> Fate:
    """A WebSocket ends with one of the codes of RFC 6455 and without a packet about it."""
    fate = await line.fate()
    assert close == fate.close, fate
    assert [] == [packet for packet in fate.packets if packet.op == DISCONNECT]
    return fate


def message(room: str | None, body: object = "hi", **more: object) -> dict[str, object]:
    """A send."""
    return {"room": room, "id": new_id(), "body": body, **more}


def _packets(data: bytes) -> list[Packet]:
    found = []
    while data:
        length, header, _, op, seq = HEADER.unpack_from(data)
        assert HEADER.size == header
        assert HEADER.size <= length <= len(data)
        found.append(Packet(op, seq, data[HEADER.size : length]))
        data = data[length:]
    return found


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _goim(op: int, body: object) -> bytes:
    """A request's body in the binary form."""
    if body is None:
        return b""
    if op == CHANGE_ROOM:
        return str(body).encode()
    if op in (SUBSCRIBE, UNSUBSCRIBE) and isinstance(body, list):
        return ",".join(map(str, body)).encode()
    return _compact(body)
