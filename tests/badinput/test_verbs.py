"""Every argument of every verb with what it cannot hold, over HTTP and over connections.

The cases are made from the verbs' own models: a verb that is new is here without a word. What the schema of an argument does not
allow is refused as a bad request (or as the door refuses whoever may not ask at all), what it allows is answered with something that
the verb's description knows; and nothing, whatever it is, makes the server fail or comes to Postgres as data that it cannot take.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from yarl import URL

from badinput.conftest import Place
from badinput.test_values import BAD, INT64_MAX, NO_INTEGERS, NO_STRINGS, NOT_JSON, NOT_UTF8, NUL, WHOLE, Hazard
from badinput.wire import TCP2, connected
from imcore.api.openapi import codes, document
from imcore.api.verbs import is_in_query
from imcore.auth import Identity
from imcore.errors import ImcoreError
from imcore.verbs import VERBS
from imcore.verbs.call import Verbs
from imcore.verbs.verb import AnyVerb, Caller
from verbs.examples import fields, good

pytestmark = pytest.mark.asyncio(loop_scope="package")
CALL: Final = 38
HOLE: Final = "@@hole@@"
ALL: Final = Verbs(VERBS)
DOCUMENT: Final = document(ALL, auth_mode="open")
HTTP: Final = [one for one in VERBS if "http" in one.doors and not one.takes]
CONNECTION: Final = [one for one in VERBS if "connection" in one.doors]
REFUSALS: Final = ("bad_request", "invalid_text")
# What an example needs beside what its schema says: whoever connects without a token has no login that could end alone.
MORE: Final[dict[str, dict[str, object]]] = {"accounts.logout": {"everywhere": True}}
ENDING: Final = ("accounts.logout",)  # whose good answer is the end of the connection

# Legal JSON that is odd: answered somehow, and stored as it is if at all.
ODD: Final[dict[str, Hazard]] = {
    name: Hazard(json.dumps(value, ensure_ascii=False).encode(), BAD)
    for name, value in {
        "0": 0, "-1": -1, "1": 1, "10^9": 10**9, "2^31": 2**31, "2^53 + 1": 2**53 + 1, "2^63 - 1": 2**63 - 1, "-2^63": -(2**63),
        "empty": "", "space": " ", "quotes": "' OR 1=1 --", "SQL meta": "\"; DROP TABLE events; --$$%_\\",
        "template": "{{7*7}}${7*7}",
        "path": "../../etc/passwd", "dots": "..", "escape": "\x1b[2J", "lines": "a\r\nSet-Cookie: x=1",
        "bidi": "\u202e\u200b", "line end": "\u2028",
        "NUL in words": "\\u0000", "long": "x" * 300, "very long": "é" * 20_000, "emoji": "👩‍👩‍👧‍👦",
        "not a character": "\uffff", "room": "group://'; --",
        "other room": "group://elsewhere", "base64": "AAAA====", "number": "5",
        "null": None, "true": True, "list": [], "nested": [[[[]]]],
        "object": {}, "many": list(range(2_000)), "prototype": {"__proto__": {"role": "owner"}}, "fraction": 0.5,
    }.items()
}  # fmt: skip
# What is tried on an argument: what is odd, what no text and no integer can be.
HAZARDS: Final = {**ODD, **{f"no string: {name}": one for name, one in NO_STRINGS.items()}, **NO_INTEGERS}
MORE_FIELDS: Final = (
    "role",
    "is_admin",
    "sender_id",
    "sender",
    "seq_",
    "ts",
    "room_id",
    "epoch",
    "membership",
    "__proto__",
    "constructor",
    "",
)


class Asked(NamedTuple):
    """What came of one request; over a connection there is no status."""

    status: int | None
    code: str
    told: str


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def http(place: Place) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections to the HTTP API."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def known(place: Place, http: aiohttp.ClientSession) -> dict[str, object]:
    """A room with a member and a message in it, so that good arguments are of something that is there."""
    mid, room = place.new_mid(), place.new_room()
    async with connected(place.where, TCP2, mid) as line:
        for op, body in (
            (22, {"room": room}),
            (4, {"room": room, "id": "0190a5d2-7c1e-7b3a-9f00-1234567890ab", "body": "hi"}),
        ):
            assert not (await line.ask(op, body)).code
    return {"room": room, "mid": mid, "seq": 2}


def caller(mid: int | None) -> Caller:
    return Caller(Identity(mid) if mid is not None else Identity(0, role="service"))


def door(verb: AnyVerb, mid: int | None) -> str:
    """The code with which whoever may not ask at all is refused, or ""."""
    try:
        ALL.admit(verb, caller(mid))
    except ImcoreError as error:
        return error.code
    return ""


def is_readable(hazard: Hazard) -> bool:
    """Can a frame with this in it be read, so that anybody looks at which verb it is for?"""
    if hazard.kind != BAD:
        return False
    value = json.loads(hazard.text)
    return not isinstance(value, int) or -INT64_MAX - 1 <= value <= INT64_MAX


def takes(schema: Mapping[str, Any], hazard: Hazard) -> bool:
    """Does the schema allow this value?"""
    if hazard.kind != BAD:
        return False
    value = json.loads(hazard.text)
    if isinstance(value, float) and value.is_integer():  # 1.0 is an integer to JSON Schema, and not to us
        return "integer" not in json.dumps(schema) and Draft202012Validator(schema).is_valid(value)
    return Draft202012Validator(schema).is_valid(value)


def assert_told(verb: AnyVerb, asked: Asked, schema: Mapping[str, Any], hazard: Hazard, mid: int | None) -> None:
    """It was refused, if the schema does not allow it; and answered as the description of the verb says."""
    refused = door(verb, mid)
    if refused:
        assert refused == asked.code, asked
    elif not takes(schema, hazard):
        # A body that is too large is told so before it is looked at.
        assert asked.code in REFUSALS or (asked.code == "too_large" and len(hazard.text) > 16_000), asked
    assert_described(verb, asked)


def assert_described(verb: AnyVerb, asked: Asked) -> None:
    if asked.code:
        assert asked.code in codes(verb, ALL.permissions), asked
    if asked.status is None:
        return
    assert asked.status < 500, asked
    if not asked.code:
        operation = DOCUMENT["paths"].get(verb.path.replace("{room}", "{type}/{name}"), {}).get(verb.method.lower(), {})
        assert not operation or str(asked.status) in operation["responses"], asked


# --- over connections --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", CONNECTION, ids=lambda one: one.name)
async def test_what_an_argument_cannot_hold_is_refused_over_a_connection(
    place: Place, known: dict[str, object], verb: AnyVerb
) -> None:
    mid, mine = place.new_mid(), b'{"verb":%b,"args":' % json.dumps(verb.name).encode()
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(connected(place.where, TCP2, mid))

        async def ask(args: bytes) -> Asked:
            nonlocal line
            line.say(CALL, 7, mine + args + b"}")
            (reply,) = await line.replies(1)
            if verb.name in ENDING and not reply.code:  # the end is an answer too, and may come before it
                await line.fate()
                line = await stack.enter_async_context(connected(place.where, TCP2, mid))
            else:
                assert (CALL + 1, 7) == (reply.op, reply.seq), reply
            return Asked(None, reply.code, reply.body[:300].decode())

        base = {**good(verb, **known), **MORE.get(verb.name, {})}
        first = await ask(json.dumps(base).encode())
        assert first.code not in REFUSALS, f"the example is no good: {base}: {first}"
        for name, schema in fields(verb).items():
            for kind, hazard in HAZARDS.items():
                args = json.dumps({**base, name: HOLE}).encode().replace(json.dumps(HOLE).encode(), hazard.text)
                asked = await ask(args)
                try:
                    if is_readable(hazard):
                        assert_told(verb, asked, schema, hazard, mid)
                    else:
                        is_text = hazard.kind in (NUL, NOT_UTF8)
                        assert asked.code == ("invalid_text" if is_text else "bad_request"), asked
                except AssertionError as error:
                    error.add_note(f"{name}: {kind}: {args[:300]!r}")
                    raise
        for more in MORE_FIELDS:
            if more not in fields(verb):
                refused = await ask(json.dumps({**base, more: 1}).encode())
                assert (door(verb, mid) or "bad_request") == refused.code, more


# --- over HTTP -----------------------------------------------------------------------------------------------------------------


class Request:
    """A request with one hazard in it, put together by hand: no library tidies it."""

    def __init__(self, verb: AnyVerb, args: Mapping[str, object], name: str = "", hazard: Hazard | None = None) -> None:
        self.verb, self.hazard, self.name = verb, hazard, name
        in_path = {part.strip("{}") for part in verb.path.split("/") if part.startswith("{")}
        self.path = verb.path
        for one in in_path:
            text = self._text(one, args[one])
            kind, _, rest = text.partition("://")
            escaped = f"{quote(kind, safe='%')}/{quote(rest, safe='%')}" if one == "room" else quote(text, safe="%")
            self.path = self.path.replace(f"{{{one}}}", escaped)
        beside = {one: value for one, value in args.items() if one not in in_path}
        self.body: bytes | None = None
        if is_in_query(verb):
            pairs = [
                (one, self._text(one, part))
                for one, value in beside.items()
                for part in (value if isinstance(value, list) else [value])
            ]
            self.path += "?" + urlencode(pairs, safe="%") if pairs else ""
        else:
            self.body = json.dumps(beside).encode()
            if name in beside and hazard is not None:
                self.body = json.dumps({**beside, name: HOLE}).encode().replace(json.dumps(HOLE).encode(), hazard.text)

    @property
    def is_in_body(self) -> bool:
        return self.body is not None and f"{{{self.name}}}" not in self.verb.path

    def _text(self, name: str, value: object) -> str:
        """In a path or query everything is text: of JSON strings what is in them, of the rest how it is written."""
        if name != self.name or self.hazard is None:
            return str(value).lower() if isinstance(value, bool) else str(value)
        try:
            found = json.loads(self.hazard.text)
            text = found if isinstance(found, str) else self.hazard.text.decode()
            return quote(text, safe="") or "%00"
        except (ValueError, UnicodeError):
            return "".join(f"%{byte:02X}" for byte in self.hazard.text.strip(b'"')[:2_000])

    async def ask(self, place: Place, http: aiohttp.ClientSession, mid: int | None) -> Asked:
        headers = {} if mid is None else {"Imcore-Mid": str(mid)}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        url = URL(f"http://{place.where.http}{self.path}", encoded=True)
        async with http.request(self.verb.method, url, data=self.body, headers=headers) as response:
            text = (await response.read()).decode(errors="replace")
            is_problem = response.content_type == "application/problem+json"
            return Asked(response.status, json.loads(text)["code"] if is_problem else "", text[:300])


@pytest.mark.parametrize("as_service", [False, True], ids=["person", "service"])
@pytest.mark.parametrize("verb", HTTP, ids=lambda one: one.name)
async def test_what_an_argument_cannot_hold_is_refused_over_http(
    place: Place, http: aiohttp.ClientSession, known: dict[str, object], verb: AnyVerb, as_service: bool
) -> None:
    mid = None if as_service else place.new_mid()
    base = good(verb, **known)
    first = await Request(verb, base).ask(place, http, mid)
    assert_described(verb, first)
    for name, schema in fields(verb).items():
        for kind, hazard in HAZARDS.items():
            request = Request(verb, {**base, name: base.get(name, "")}, name, hazard)
            if len(request.path) > 8_000:
                continue  # that is the parser's business: tests/api/test_verbs.py
            asked = await request.ask(place, http, mid)
            try:
                if request.is_in_body:
                    assert_told(verb, asked, schema, hazard, mid)
                elif asked.code != "not_found":
                    assert_described(verb, asked)
            except AssertionError as error:
                error.add_note(f"{name}: {kind}: {verb.method} {request.path[:300]} {(request.body or b'')[:300]!r}")
                raise


@pytest.mark.parametrize("verb", [one for one in HTTP if not is_in_query(one)], ids=lambda one: one.name)
async def test_a_body_that_is_none_is_refused(
    place: Place, http: aiohttp.ClientSession, known: dict[str, object], verb: AnyVerb
) -> None:
    bodies = {
        **WHOLE,
        "bytes after it": Hazard(b"{} x", NOT_JSON),
        "BOM": Hazard(b"\xef\xbb\xbf{}", NOT_JSON),
        "UTF-16": Hazard("{}".encode("utf-16"), NOT_JSON),
        "many keys": Hazard(json.dumps({f"k{n}": 1 for n in range(5_000)}).encode(), BAD),
        **{
            f"more: {name}": Hazard(json.dumps({name or "_": 1}).encode(), BAD)
            for name in MORE_FIELDS
            if name not in fields(verb)
        },
    }
    for mid in (None, place.new_mid()):
        for kind, hazard in bodies.items():
            request = Request(verb, good(verb, **known))
            request.body = hazard.text
            asked = await request.ask(place, http, mid)
            expected = [door(verb, mid)] if door(verb, mid) else [*REFUSALS, "too_large"]
            assert asked.code in expected, (kind, asked)
            assert_described(verb, asked)
