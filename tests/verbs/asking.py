"""To ask for a verb over either door, by its definition: the tests know no route and no frame."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from imcore.verbs import VERBS
from imcore.verbs.verb import AnyVerb

Door = Literal["http", "connection"]
BY_NAME = {verb.name: verb for verb in VERBS}
DISCONNECT, AUTH, CALL = 6, 7, 38
DEADLINE_S = 20


class Told(NamedTuple):
    """What came back: the code of the error ("" if it is none), and the answer or the error."""

    code: str
    body: Any


class Request(NamedTuple):
    """A verb's HTTP request."""

    method: str
    target: str
    body: bytes | None
    headers: dict[str, str]


def request_of(verb: AnyVerb, args: Mapping[str, Any]) -> Request:
    """The request that asks for the verb with these arguments."""
    rest = dict(args)
    segments = []
    for segment in verb.path.split("/"):
        if segment == "{room}":
            kind, _, name = rest.pop("room").partition("://")
            segments += [quote(kind, safe=""), quote(name, safe="")]
        elif segment.startswith("{"):
            segments.append(quote(str(rest.pop(segment.strip("{}"))), safe=""))
        else:
            segments.append(segment)
    target = "/".join(segments)
    if verb.method in ("GET", "DELETE") or verb.takes:
        pairs = [
            (name, str(one).lower() if isinstance(one, bool) else str(one))
            for name, value in rest.items()
            for one in (value if isinstance(value, list) else [value])
        ]
        headers = {"Content-Type": verb.takes} if verb.takes else {}
        return Request(verb.method, f"{target}?{urlencode(pairs)}" if pairs else target, None, headers)
    return Request(verb.method, target, orjson.dumps(rest), {"Content-Type": "application/json"})


class Ended(Exception):
    """The server ended the connection."""


@dataclass
class Asker:
    """One person with a token ("" is nobody), on one server, over both doors; the connection is made when it is needed first."""

    http: aiohttp.ClientSession
    api: str
    comet: str
    token: str
    headers: dict[str, str] = field(default_factory=dict)
    farewell: object = None  # why the server ended the connection
    _line: aiohttp.ClientWebSocketResponse | None = None
    _seqs: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def ask(self, verb: AnyVerb, args: Mapping[str, Any], door: Door = "http", upload: bytes = b"") -> Told:
        """Ask for it."""
        async with asyncio.timeout(DEADLINE_S):
            return await (self._over_http(verb, args, upload) if door == "http" else self._over_line(verb, args))

    async def __call__(self, name: str, door: Door = "http", **args: Any) -> Any:
        """The answer of the verb of this name. Raises AssertionError if it is refused."""
        told = await self.ask(BY_NAME[name], args, door)
        assert not told.code, f"{name} {args}: {told.body}"
        return told.body

    async def _over_http(self, verb: AnyVerb, args: Mapping[str, Any], upload: bytes) -> Told:
        request = request_of(verb, args)
        headers = {**self.headers, **request.headers}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        async with self.http.request(
            request.method,
            URL(f"http://{self.api}{request.target}", encoded=True),
            data=request.body or upload,
            headers=headers,
        ) as response:
            raw = await response.read()
            if response.content_type == "application/problem+json":
                problem = orjson.loads(raw)
                return Told(problem["code"], problem)
            assert response.status < 400, (response.status, raw[:200])
            return Told("", orjson.loads(raw) if response.content_type == "application/json" else raw)

    async def _over_line(self, verb: AnyVerb, args: Mapping[str, Any]) -> Told:
        line = self._line
        if line is None or line.closed:
            line = self._line = await self.http.ws_connect(f"http://{self.comet}/ws", heartbeat=None)
            reply = await self._reply(line, AUTH, {"token": self.token, "key": "asker"})
            if "error" in reply:
                await line.close()
                return Told(reply["error"]["code"], reply["error"])
        reply = await self._reply(line, CALL, {"verb": verb.name, "args": dict(args)})
        if "error" in reply:
            return Told(reply["error"]["code"], reply["error"])
        return Told("", reply["answer"])

    async def _reply(self, line: aiohttp.ClientWebSocketResponse, op: int, body: object) -> Any:
        seq = next(self._seqs)
        await line.send_str(orjson.dumps({"op": op, "seq": seq, "body": body}).decode())
        while True:
            message = await line.receive()
            if message.type != aiohttp.WSMsgType.TEXT:
                raise Ended(message, self.farewell)
            frame = orjson.loads(message.data)
            for packet in frame["body"] if frame["op"] == 9 else [frame]:
                if packet["op"] == DISCONNECT:
                    self.farewell = packet["body"]
                if packet["op"] == op + 1 and packet["seq"] == seq:
                    return packet["body"]

    async def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            await self._line.close()


@asynccontextmanager
async def asking(api: str, comet: str) -> AsyncIterator[Askers]:
    """Makes askers, and ends them with the block."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        askers = Askers(http, api, comet)
        stack.push_async_callback(askers.close)
        yield askers


@dataclass
class Askers:
    """Everybody who asks in a test."""

    http: aiohttp.ClientSession
    api: str
    comet: str
    made: list[Asker] = field(default_factory=list)

    def one(self, token: str = "", **headers: str) -> Asker:
        """Somebody with this token."""
        asker = Asker(self.http, self.api, self.comet, token, headers)
        self.made.append(asker)
        return asker

    async def close(self) -> None:
        """End them all."""
        for asker in self.made:
            await asker.close()
