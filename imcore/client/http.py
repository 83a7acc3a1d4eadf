"""The verbs over HTTP, for programs that keep no connection open: `async with Http(url, token=…) as http`, then
`await http.rooms.create(…)`.

- **A call happens once.** What changes something carries an `Idempotency-Key`, the same over all its tries, so that a try whose answer
  was lost is answered again and not done again. Where the server keeps no answers (registering, logging in, another password, giving an
  account up, uploads, signals), a lost answer raises Unavailable.
- **"Later" is heeded.** What the server, or what stands before it, says may succeed later is asked again: after `Retry-After`, or after
  a random time that grows with each failure, until `timeout_s` is over.
- **A token may be short-lived**: an async function is asked for one at each call, and once more when the server refuses what it gave.

The trap: a body that comes from an iterator can be read once only, so such an upload is tried once only."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import orjson
from yarl import URL

from imcore.client.calls import NOTHING_DONE, Content, Download, Token, Verb, ask_for, new_id, refuse, to_json
from imcore.client.errors import CallTimeout, ClientError, Unauthenticated, Unavailable, UnknownOperation, refused
from imcore.client.verbs import VERBS, Subjects

CALL_S: Final = 30.0  # over all tries
TRY_S: Final = 10.0  # for the headers of one answer
BACKOFF_S: Final = 0.2  # the first wait is between 0 and this; it doubles with each failure, up to
BACKOFF_MAX_S: Final = 5.0
CHUNK_BYTES: Final = 1 << 16
LATER: Final = frozenset(
    {408, 425, 429, 502, 503, 504}
)  # of whatever stands before the server and speaks no problem details
NOT_BY_ITSELF: Final = frozenset({"conflict", "internal"})  # asked again unchanged, they end the same way


class Http(Subjects):
    """A caller of the API at `url` (`https://host` or `http://host:3111`). To be used inside of `async with`, by one event loop.

    `token`: a signed token, or an async function that gives one. Without, `mid` says who this is (servers in open mode), and neither is
    needed for what is open to everybody. `timeout_s` is for one call with all its tries.

    Raises ValueError for what is no address.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        mid: int | None = None,
        timeout_s: float = CALL_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an address such as https://host")
        self.url = url.rstrip("/")
        self.token = token
        self.mid = mid
        self._timeout_s = timeout_s
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Http:
        """Nothing is asked yet."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close what is kept open."""
        await self.close()

    async def close(self) -> None:
        """Close what is kept open. Doing it again does nothing."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # --- calls -----------------------------------------------------------------------------------------------------------------

    async def call(
        self,
        verb: str,
        args: Mapping[str, object] | None = None,
        *,
        retry: bool = False,
        timeout_s: float | None = None,
    ) -> Any:
        """Ask for a verb by its name; the answer's JSON. `http.rooms.create(…)` and its like are the same, typed.

        Raises Refused (NoSuchRoom, Forbidden, …), Unauthenticated, CallTimeout, Unavailable when the outcome is unknown,
        UnknownOperation for a verb that this client knows no route of, and TypeError for what is no JSON.
        """
        known = VERBS.get(verb)
        if known is None:
            raise UnknownOperation(f"there is no route of a verb {verb} here")
        return await self._json(known, dict(args or {}), retry=retry, timeout_s=timeout_s)

    async def perform(self, verb: Verb, args: dict[str, object], *, retry: bool = False) -> Any:
        """`call` for a verb that is known. `retry` matters only where the server keeps no answers."""
        return await self._json(verb, args, retry=retry)

    async def upload(self, verb: Verb, args: dict[str, object], content: Content, media_type: str) -> Any:
        """The answer to what takes a body that is no JSON."""
        return await self._json(verb, args, content=content, media_type=media_type)

    @asynccontextmanager
    async def download(self, verb: Verb, args: dict[str, object]) -> AsyncIterator[Download]:
        """What answers with a body that is no JSON, as it comes."""
        response = await self._response(verb, args)
        try:
            yield _Download(response)
        finally:
            response.close()

    def follow(self, link: str) -> AbstractAsyncContextManager[Download]:
        """What a link of the server leads to, such as that of a file: a path with its query, which may need no token."""
        return self.download(Verb("link", "GET", link, ("http",), gives="*/*"), {})

    async def _json(self, verb: Verb, args: dict[str, object], **rest: Any) -> Any:
        response = await self._response(verb, args, **rest)
        async with response:
            raw = await response.read()
        return orjson.loads(raw) if raw else {}

    async def _response(
        self,
        verb: Verb,
        args: dict[str, object],
        *,
        content: Content | None = None,
        media_type: str = "",
        retry: bool = False,
        timeout_s: float | None = None,
    ) -> aiohttp.ClientResponse:
        """The headers of a good answer, after as many tries as it takes."""
        if "http" not in verb.doors:
            raise UnknownOperation(f"{verb.name} goes over a connection only: see imcore.client.connect")
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        url, body = request_of(verb, args)
        headers = {"Accept": verb.gives or "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if content is not None:
            headers["Content-Type"] = media_type
        if verb.takes_key:
            headers["Idempotency-Key"] = new_id()
        may_repeat = retry or verb.takes_key or verb.may_repeat(args)  # with an unknown outcome
        may_read = content is None or isinstance(content, bytes)
        failures, has_new_token = 0, False
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    wait_s = random.random() * min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(failures, 10))
                    try:
                        return await self._try(
                            verb, url, headers, body if content is None else content, () if may_repeat else (_once,)
                        )
                    except Unauthenticated:
                        if not callable(self.token) or has_new_token or not may_read:
                            raise
                        has_new_token = True
                        refuse(self.token)
                        wait_s = 0.0
                    except ClientError as error:
                        if not error.retry or error.code in NOT_BY_ITSELF or not may_read:
                            raise
                        if not may_repeat and error.code not in NOTHING_DONE:
                            raise
                        if error.retry_after_ms is not None:
                            wait_s += error.retry_after_ms / 1000
                    except (aiohttp.ClientError, OSError, TimeoutError) as error:
                        if not (may_repeat and may_read):
                            raise Unavailable(
                                f"whether it was carried out is not known: {error or 'no answer'}"
                            ) from None
                    failures += 1
                    await asyncio.sleep(wait_s)
        except TimeoutError:
            raise CallTimeout(verb.name, timeout_s) from None

    async def _try(
        self,
        verb: Verb,
        url: str,
        headers: Mapping[str, str],
        body: Content | None,
        around: Sequence[aiohttp.ClientMiddlewareType],
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("not open: use `async with Http(…) as http`")
        headers = {**headers, **(await self._credentials())}
        # An upload takes as long as it takes; the caller's deadline ends it.
        async with asyncio.timeout(None if verb.takes else TRY_S):
            response = await self._session.request(
                verb.method,
                URL(f"{self.url}{url}", encoded=True),
                headers=headers,
                data=body,
                ssl=self._tls or True,
                middlewares=around,
            )
        if response.status < 300:
            return response
        async with response:
            raise await _refusal(response)

    async def _credentials(self) -> dict[str, str]:
        token = await ask_for(self.token)
        if token is not None:
            return {"Authorization": f"Bearer {token}"}
        return {} if self.mid is None else {"Imcore-Mid": str(self.mid)}


class _Download(Download):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.media_type = response.headers.get("Content-Type", "application/octet-stream")
        self.size = response.content_length
        disposition = response.content_disposition
        self.name = (disposition.filename if disposition is not None else None) or ""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.content.iter_chunked(CHUNK_BYTES):
            yield chunk

    async def read(self) -> bytes:
        return await self._response.read()


def request_of(verb: Verb, args: Mapping[str, object]) -> tuple[str, bytes | None]:
    """Path and query, and the JSON body. Raises TypeError for an argument of the path that is missing, and for what is no JSON."""
    rest = dict(args)
    if verb.name == "link":
        return verb.path, None
    segments = []
    for segment in verb.path.split("/"):
        if not segment.startswith("{"):
            segments.append(segment)
            continue
        name = segment[1:-1]
        value = rest.pop(name, None)
        if value is None:
            raise TypeError(f"{verb.name} needs {name}")
        if name == "room":
            kind, _, value = str(value).partition("://")
            segments.append(_quoted(kind))
        segments.append(_quoted(str(value)))
    path = "/".join(segments)
    if verb.method in ("GET", "DELETE") or verb.takes:
        query = [pair for name, value in rest.items() for pair in _pairs(name, value)]
        return (f"{path}?{urlencode(query, quote_via=quote)}" if query else path), None
    return path, to_json(rest)


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    # aiohttp asks for a PUT or DELETE once more by itself when the connection breaks; by these errors, and by no others.
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def _quoted(segment: str) -> str:
    # "." and ".." would be taken for steps in the path.
    return quote(segment, safe="") if segment.strip(".") else segment.replace(".", "%2E")


def _pairs(name: str, value: object) -> list[tuple[str, str]]:
    """A parameter of a query, as many times as it has values."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [(name, "true" if value else "false")]
    if isinstance(value, (list, tuple)):
        return [pair for one in value for pair in _pairs(name, one)]
    return [(name, str(value))]


async def _refusal(response: aiohttp.ClientResponse) -> ClientError:
    """What the answer says is wrong."""
    facts: dict[str, object] = {"code": f"http_{response.status}", "text": f"HTTP {response.status} {response.reason}"}
    facts["retry"] = response.status in LATER
    with suppress(orjson.JSONDecodeError):
        told = orjson.loads(await response.read())
        if isinstance(told, dict) and isinstance(told.get("code"), str):
            facts = {**told, "text": told.get("detail", "")}
    after = response.headers.get("Retry-After", "")
    if after.isdigit():
        facts.setdefault("retry_after_ms", int(after) * 1000)
    return refused(facts)
