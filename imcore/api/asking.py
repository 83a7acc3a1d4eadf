"""What a request asks, read strictly: everything a handler gets has been checked here.

A parameter that is there twice is refused, because two readers would obey different ones. Numbers are decimal digits and nothing
else. Names in a path are percent-encoded UTF-8. A body has a limit and a deadline (aiohttp has none: two bytes a second would hold a
handler for ever), and is JSON that can be stored.

The trap: aiohttp decodes paths and queries leniently. What is read here is what was on the line.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson
from aiohttp import web

from imcore.api.services import IDENTITY, SERVICES, Services
from imcore.auth import Identity
from imcore.errors import BadRequest, Forbidden, ImcoreError, InvalidText, TooLarge
from imcore.protocol.packet import INT64_MAX, INT64_MIN, KEY_BYTES_MAX, find_control, shown
from imcore.protocol.strict import check_json

PARAMETERS_MAX: Final = 2_000
PROBLEM: Final = "application/problem+json"
_decimal = re.compile(r"0|-?[1-9][0-9]{0,18}").fullmatch
_is_bad_escape = re.compile(r"%(?![0-9A-Fa-f]{2})").search


def services(request: web.Request) -> Services:
    """What the handler works with."""
    return request.app[SERVICES]


def identity(request: web.Request) -> Identity:
    """Who is asking."""
    return request[IDENTITY]


# --- the query ---------------------------------------------------------------------------------------------------------------


class Query:
    """The parameters of a request, each once, but for those in `repeated`. Those that nobody asks for are not looked at.

    Raises BadRequest.
    """

    def __init__(self, request: web.Request, *, repeated: tuple[str, ...] = ()) -> None:
        raw = request.rel_url.raw_query_string
        try:
            if _is_bad_escape(raw):
                raise UnicodeError
            pairs = parse_qsl(raw, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
        except UnicodeError:
            raise BadRequest("the query is not percent-encoded UTF-8") from None
        except ValueError:
            raise BadRequest(f"the query has more than {PARAMETERS_MAX} parameters") from None
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            values = self._values.setdefault(name, [])
            if values and name not in repeated:
                raise BadRequest(f"the parameter {shown(name)} is there twice")
            values.append(value)

    def names(self) -> list[str]:
        """What is there."""
        return list(self._values)

    def text(self, name: str) -> str | None:
        """The value, or None if it is not there."""
        values = self._values.get(name)
        return values[0] if values else None

    def texts(self, name: str) -> list[str]:
        """Every value of a repeated parameter."""
        return self._values.get(name, [])


def integer(name: str, value: str, low: int = INT64_MIN, high: int = INT64_MAX) -> int:
    """The number that these digits are. Raises BadRequest."""
    if not _decimal(value) or not low <= int(value) <= high:
        raise BadRequest(f"{name} is {shown(value)}, not an integer from {low} to {high}")
    return int(value)


def check_key(key: str) -> str:
    """The key of a connection, if it can be one. Raises BadRequest."""
    if not key or len(key.encode()) > KEY_BYTES_MAX or find_control(key):
        raise BadRequest(f"a key has 1 to {KEY_BYTES_MAX} bytes and no control characters")
    return key


# --- the path ----------------------------------------------------------------------------------------------------------------


def decoded(segment: str) -> str:
    """A segment of the path. Raises InvalidText."""
    try:
        if _is_bad_escape(segment):
            raise UnicodeError
        return unquote_to_bytes(segment).decode()
    except UnicodeError:
        raise InvalidText("the path is not percent-encoded UTF-8") from None


# --- who -----------------------------------------------------------------------------------------------------------------------


def check_service(request: web.Request) -> None:
    """Raises Forbidden for persons."""
    if not identity(request).service:
        raise Forbidden("this takes a service token")


# --- the body ----------------------------------------------------------------------------------------------------------------


async def read_bytes(request: web.Request, bytes_max: int) -> bytes:
    """The whole body. Raises TooLarge, BadRequest for a coded one, and 408 when it does not arrive in time."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadRequest("the body comes as it is, without Content-Encoding")
    too_large = f"the body is larger than {bytes_max} bytes"
    if (request.content_length or 0) > bytes_max:
        raise TooLarge(too_large)
    read_s = services(request).settings.http_read_s
    chunks, size = [], 0
    try:
        async with asyncio.timeout(read_s):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > bytes_max:
                    raise TooLarge(too_large)
                chunks.append(chunk)
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"The body did not arrive in {read_s:g} s.") from None
    except (web.RequestPayloadError, ConnectionError, ValueError):
        raise BadRequest("the body is not as its headers say, or the client is gone") from None
    return b"".join(chunks)


def refuse_body(request: web.Request) -> None:
    """Raises BadRequest for a body where none is looked at: whoever sends one believes that it matters."""
    if request.body_exists:
        raise BadRequest(f"a {request.method} here has no body; the arguments are in the query")


async def read_json(request: web.Request) -> dict[str, object]:
    """The JSON object in the body, as it may be stored; no body at all is {}.

    Raises BadRequest, InvalidText or TooLarge.
    """
    raw = await read_bytes(request, services(request).settings.http_body_bytes_max)
    if not raw:
        return {}
    if request.content_type != "application/json":
        raise BadRequest("the Content-Type is not application/json")
    if (request.charset or "utf-8").lower() != "utf-8":
        raise BadRequest("JSON is UTF-8, and no other charset")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise InvalidText from None
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object")
    check_json(raw, value)
    return value


# --- the answer --------------------------------------------------------------------------------------------------------------


def answer(value: object, status: int = 200) -> web.Response:
    """JSON: bytes as they are, anything else encoded."""
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    return web.Response(body=body, status=status, content_type="application/json")


def refusal(error: ImcoreError) -> web.Response:
    """An error of the family as its status and what a client is told, in the form of RFC 9457."""
    facts = error.facts()
    facts["detail"] = facts.pop("text")
    return problem(error.status, error.text(), facts)


def problem(status: int, title: str, facts: Mapping[str, object]) -> web.Response:
    """Problem details (RFC 9457): what kind it is (`type`, `code`, `title`), and this one (`detail`, `retry`, `retry_after_ms`)."""
    told = {"type": f"urn:imcore:error:{facts['code']}", "title": title, "status": status, **facts}
    response = web.Response(body=orjson.dumps(told), status=status, content_type=PROBLEM)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    retry_after_ms = facts.get("retry_after_ms")
    if isinstance(retry_after_ms, int):
        response.headers["Retry-After"] = str(-(-retry_after_ms // 1000))
    return response
