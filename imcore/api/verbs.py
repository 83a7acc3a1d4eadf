"""The verbs over HTTP: a route for each, which puts its arguments together and writes its answer down.

Arguments come from the path, and beside it from the query (GET, DELETE, and where the body is no JSON) or from the JSON body. Each
comes from one place only: what is in the path may not be in the body too. A parameter that the verb does not know is refused.

A GET's answer carries an `ETag` of what it says, and is not repeated to who has it already. It is made and checked again each
time: what is saved is the way, not the work. Answers of the other methods are kept under idempotency keys (`imcore.verbs.idempotency`).

The trap: in a query everything is text. What becomes of it is decided by the model's own schema, so that a number is written as digits
and a boolean as true or false, and nothing else is taken for one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import quote

from aiohttp import ETag, hdrs, web
from aiohttp.helpers import ETAG_ANY

from imcore.api.asking import Query, answer, decoded, identity, integer, read_json, refuse_body, services
from imcore.api.downloads import DOWNLOADS, LEAVE, longest_s
from imcore.api.services import ADDRESS
from imcore.errors import BadRequest, ImcoreError, WrongType
from imcore.protocol.packet import shown
from imcore.verbs import idempotency
from imcore.verbs.call import Verbs
from imcore.verbs.verb import AnyVerb, Caller, Stream, Upload

log = logging.getLogger(__name__)

IN_QUERY: Final = ("GET", "DELETE")
FORM: Final = "application/x-www-form-urlencoded"
FORM_OF_FILES: Final = "multipart/form-data"
TAG_BYTES: Final = 16
WRITE_BYTES: Final = 16_384  # at a time: so little a slow line takes within behind_s
OPEN_ROUTES: Final = web.AppKey("open routes", frozenset[tuple[str, str]])

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_name = re.compile(r"{(\w+)}").fullmatch


def add_routes(app: web.Application, verbs: Verbs) -> None:
    """Put the verbs' routes into the application, and say which of them are for people without a token."""
    is_open: set[tuple[str, str]] = set()
    for verb in verbs.by_name.values():
        if "http" not in verb.doors:
            continue
        handler = Route(verbs, verb)
        if verb.method == "GET":  # and HEAD
            route = app.router.add_get(handler.pattern, handler.handle)
        else:
            route = app.router.add_route(verb.method, handler.pattern, handler.handle)
        assert route.resource is not None, "a route with a path has a resource"
        if verb.is_open:
            is_open.add((verb.method, route.resource.canonical))
    app[OPEN_ROUTES] = frozenset(is_open)


class Route:
    """One verb as a handler."""

    def __init__(self, verbs: Verbs, verb: AnyVerb) -> None:
        self._verbs, self._verb = verbs, verb
        self._segments = verb.path.split("/")
        self.pattern = pattern(verb, verbs.by_name.values())
        self._kinds = kinds(verb)
        self._in_query = is_in_query(verb)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Ask the verb, and write down what it answers."""
        verb = self._verb
        caller = Caller(
            identity(request),
            address=request[ADDRESS],
            origin=request.headers.get(hdrs.ORIGIN, ""),
            upload=_upload(request) if verb.takes else None,
            headers=request.headers,
        )
        self._verbs.admit(verb, caller)  # before anything is read for somebody who may not
        refuse_conditions(request)
        key = idempotency.key_of(request.headers.getall(idempotency.HEADER, []))
        values = await self._values(request)
        args = self._verbs.checked(verb, caller, values)
        services(request).means.accounts.doors.check(caller.identity)  # a body may take its time
        told = await self._verbs.told(verb, caller, services(request).means, args, values, key)
        if isinstance(told, Stream):
            return await streamed(request, told)
        response = tagged(request, answer(told.body, told.status))
        if told.is_again:
            response.headers[idempotency.REPLAYED] = "true"
        return response

    async def _values(self, request: web.Request) -> dict[str, object]:
        """The arguments, from wherever they are. Raises BadRequest for one that is in two places."""
        values = self._in_path(request)
        if self._in_query:
            given = self._of_query(request)
            if not self._verb.takes:
                refuse_body(request)
        else:
            given = await self._of_body(request)
        if twice := values.keys() & given.keys():
            raise BadRequest(f"{min(twice)} is in the path, and may not be given again")
        return {**given, **values}

    def _in_path(self, request: web.Request) -> dict[str, object]:
        """What stands in the path, percent-decoded strictly."""
        values: dict[str, object] = {}
        raw = iter(request.rel_url.raw_path.split("/"))
        for segment in self._segments:
            text = decoded(next(raw))
            if segment == "{room}":
                values["room"] = f"{text}://{decoded(next(raw))}"
            elif found := _name(segment):
                values[found[1]] = self._read(found[1], [text])
        return values

    def _of_query(self, request: web.Request) -> Mapping[str, object]:
        query = Query(request, repeated=tuple(name for name, kind in self._kinds.items() if kind.startswith("list")))
        for name in query.names():
            if name not in self._kinds:
                raise BadRequest(f"there is no parameter {shown(name)} here")
        return {name: self._read(name, query.texts(name)) for name in query.names()}

    async def _of_body(self, request: web.Request) -> Mapping[str, object]:
        for name in Query(request).names():
            raise BadRequest(f"there is no parameter {shown(name)} here; the arguments are in the body")
        return await read_json(request)

    def _read(self, name: str, texts: list[str]) -> object:
        kind = self._kinds[name]
        values = [_value(name, text, kind.removeprefix("list of ")) for text in texts]
        return values if kind.startswith("list") else values[0]


def is_in_query(verb: AnyVerb) -> bool:
    """Do the arguments that are not in the path stand in the query, and not in a JSON body?"""
    return verb.method in IN_QUERY or bool(verb.takes)


def kinds(verb: AnyVerb) -> dict[str, str]:
    """What each argument is: integer, boolean, string, or a list of one of them."""
    schema = verb.args.model_json_schema()
    return {name: _kind(part) for name, part in schema.get("properties", {}).items()}


def _kind(part: Mapping[str, Any]) -> str:
    for choice in part.get("anyOf", ()):
        if choice.get("type") != "null":
            return _kind(choice)
    kind = part.get("type", "string")
    return f"list of {_kind(part['items'])}" if kind == "array" else str(kind)


def _value(name: str, text: str, kind: str) -> object:
    if kind == "integer":
        return integer(name, text)
    if kind == "boolean":
        if text not in ("true", "false"):
            raise BadRequest(f"{name} is {shown(text)}, not true or false")
        return text == "true"
    if "\0" in text:
        raise BadRequest(f"{name} has a control character in it")
    return text


def pattern(verb: AnyVerb, verbs: Iterable[AnyVerb]) -> str:
    """The path as aiohttp matches it. What is a word in the same place of another verb's path is no argument here.

    Otherwise DELETE of …/members/changes would be that of a member, and OPTIONS would say that it is allowed.
    """
    segments = _expanded(verb)
    others = [segments_ for one in verbs if len(segments_ := _expanded(one)) == len(segments)]
    made = []
    for at, segment in enumerate(segments):
        found = _name(segment)
        words = {other[at] for other in others if found and other[:at] == segments[:at] and not _name(other[at])}
        but = f"(?!(?:{'|'.join(sorted(map(re.escape, words)))})(?:/|$))" if words else ""
        made.append(f"{{{found[1]}:{but}[^/]+}}" if found else segment)
    return "/".join(made)


def _expanded(verb: AnyVerb) -> list[str]:
    return verb.path.replace("{room}", "{type}/{name}").split("/")


def tagged(request: web.Request, response: web.Response) -> web.Response:
    """The answer of a GET with the tag of what it says; or, to who has that already, the tag alone.

    The tag is weak: JSON that says the same is the same. Raises BadRequest for a condition that is none.
    """
    if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD) or response.status != 200:
        return response
    assert isinstance(response.body, bytes)
    response.etag = ETag(hashlib.blake2b(response.body, digest_size=TAG_BYTES).hexdigest(), is_weak=True)
    if not has_already(request, response.etag.value):
        return response
    return web.Response(status=304, headers={hdrs.ETAG: response.headers[hdrs.ETAG]})


def refuse_conditions(request: web.Request) -> None:
    """Raises BadRequest for a change that is to be made only if nobody else has made one: nothing here looks at that, and to pass the
    condition over would be to overwrite what its sender has not seen."""
    if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
        return
    for name in (hdrs.IF_MATCH, hdrs.IF_UNMODIFIED_SINCE):
        if name in request.headers:
            raise BadRequest(f"{name} is not heeded: tags are weak, and no change hangs on one")


def has_already(request: web.Request, tag: str) -> bool:
    """Does the request name this tag as what its sender has? Weak or strong is the same here (RFC 9110, 13.1.2)."""
    return any(one.value in (tag, ETAG_ANY) for one in request.if_none_match or ())


def _upload(request: web.Request) -> Upload:
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise BadRequest("the body comes as it is, without Content-Encoding")
    declared = request.content_type if hdrs.CONTENT_TYPE in request.headers else ""
    if declared == FORM_OF_FILES:  # it would be kept with its lines of dashes, and no program could read it
        raise WrongType("the body is the file itself, and not a form with it (with curl --data-binary @file, not -F)")
    if declared == FORM:  # what programs say who were not told, curl among them
        declared = ""
    return Upload(declared, request.content_length, _received(request))


async def _received(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises BadRequest when it ends too early; how long it may take is the verb's business."""
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (web.RequestPayloadError, ConnectionError, ValueError):
        raise BadRequest("the body is not as its headers say, or the client is gone") from None


async def streamed(request: web.Request, stream: Stream) -> web.StreamResponse:
    """An answer that is no JSON, as it comes.

    Once it has begun its status is said. What goes wrong later can only cut the connection, so that nobody takes a part for the whole;
    a client that takes nothing for `behind_s`, or all of it too slowly (`download_bytes_per_s_min`), is cut off too. Raises
    Overloaded and RateLimited when too many are under way.
    """
    headers: dict[str, str] = {hdrs.CONTENT_TYPE: stream.media_type}
    if stream.name:
        headers[hdrs.CONTENT_DISPOSITION] = f"attachment; filename*=UTF-8''{quote(stream.name, safe='')}"
    response = web.StreamResponse(status=stream.status, headers={**headers, **stream.headers})
    response.content_length = stream.size
    settings = services(request).settings
    async with aclosing(stream.chunks):
        if request.method == hdrs.METH_HEAD:
            await response.prepare(request)
            return response
        with request.app[DOWNLOADS].place(request[ADDRESS], settings):
            request[LEAVE]()
            await response.prepare(request)
            is_whole = False
            try:
                async with asyncio.timeout(longest_s(stream.size, settings)):
                    async for chunk in stream.chunks:
                        for at in range(0, len(chunk), WRITE_BYTES):
                            async with asyncio.timeout(settings.behind_s):
                                await response.write(chunk[at : at + WRITE_BYTES])
                    await response.write_eof()
                is_whole = True
            except (ImcoreError, TimeoutError, ConnectionError) as error:
                log.info("! an answer was cut off: %s", type(error).__name__)
            finally:
                if not is_whole and request.transport is not None:
                    request.transport.abort()
    return response
