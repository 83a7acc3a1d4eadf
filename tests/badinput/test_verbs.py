"""Every argument of every verb with what it cannot hold, over HTTP and over connections.

The cases are made from the verbs' own models: a verb that is new is here without a word. Each place in them is tried that can hold
something: arguments, and what is in lists and objects that are arguments; over HTTP the headers that a verb reads too, and goim's
parameters. What the schema of an argument does not allow is refused as a bad request (or as the door refuses whoever may not ask at
all), what it allows is answered with something that the verb's description knows; and nothing, whatever it is, makes the server fail
or comes to Postgres as data that it cannot take: after each test both logs are read (conftest.py).

Many cases are under way at a time, over few connections: that they meet is no harm, because none waits for another's outcome.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple
from urllib.parse import quote_from_bytes, urlencode

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from badinput.conftest import Place
from badinput.pipes import Answer, answers, request
from badinput.test_values import BAD, INT64_MAX, NO_INTEGERS, NO_STRINGS, NOT_JSON, NOT_UTF8, NUL, WHOLE, Hazard
from badinput.wire import DISCONNECT, ERROR, TCP2, Line, Packet, connected
from imcore.api.openapi import codes, document
from imcore.api.verbs import is_in_query, kinds
from imcore.auth import Identity
from imcore.database import connect
from imcore.database.embedded import running_url
from imcore.errors import ImcoreError
from imcore.verbs import VERBS, idempotency
from imcore.verbs.call import Verbs
from imcore.verbs.verb import AnyVerb, Caller
from verbs.examples import example, fields, good

pytestmark = pytest.mark.asyncio(loop_scope="package")
CALL: Final = 38
CALLS_MAX: Final = 6  # under way at a time; a connection may have 8
HOLE: Final = "@@hole@@"
ALL: Final = Verbs(VERBS)
DOCUMENT: Final = document(ALL, auth_mode="open")
HTTP: Final = [one for one in VERBS if "http" in one.doors]
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
IN_HEADERS: Final = {
    "nothing": "", "blank": " ", "quotes": "\"", "one quote": '"a', "SQL meta": "' OR 1=1 --", "128": "k" * 128, "129": "k" * 129,
    "tab": "a\tb", "two": "a b", "NUL": "a\x00b", "a line end alone": "a\nb", "escape": "\x1b[2J", "above ASCII": "\xe9",
    "no UTF-8": "\xff\xfe", "bytes of UTF-8": "\xc3\xa9", "star": "*", "weak": 'W/"a"', "list": '"a", W/"b" ,"c"', "bad list": '"a",,b',
    "comma": ",", "number": "5", "long": "a" * 8_000, "template": "{{7*7}}", "path": "../../etc/passwd",
}  # fmt: skip


class Asked(NamedTuple):
    """What came of one request; over a connection there is no status."""

    status: int | None
    code: str
    told: str


class Hole(NamedTuple):
    """A place that can hold something: in which argument, which part of it, and the argument with HOLE in that place."""

    name: str
    part: str
    value: Any

    def with_(self, base: Mapping[str, object], hazard: Hazard) -> bytes:
        """All arguments as JSON, with the hazard in the hole."""
        return json.dumps({**base, self.name: self.value}).encode().replace(json.dumps(HOLE).encode(), hazard.text)

    def holds(self, hazard: Hazard) -> Any:
        """The argument with the hazard in it, if that is JSON. A fraction that is whole is made none: to us 1.0 is no integer."""
        text = json.dumps(self.value).encode().replace(json.dumps(HOLE).encode(), hazard.text)
        return json.loads(text, parse_float=lambda digits: 0.5 if float(digits).is_integer() else float(digits))


def holes(verb: AnyVerb) -> list[Hole]:
    """Every place in the verb's arguments."""
    return [
        Hole(name, part, value)
        for name, schema in fields(verb).items()
        for part, value in sorted(_inside(schema).items())
    ]


def _inside(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The places in a value of this schema, the whole of it among them."""
    found: dict[str, Any] = {"": HOLE}
    for choice in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        if choice.get("type") == "array":
            found |= {f"[]{part}": [value] for part, value in _inside(choice.get("items", {})).items()}
        elif choice.get("type") == "object" and "properties" in choice:
            base = example(choice)
            for name, inside in choice["properties"].items():
                found |= {f".{name}{part}": {**base, name: value} for part, value in _inside(inside).items()}
        elif choice.get("type") == "object":
            found[".x"] = {"x": HOLE}
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def known(place: Place) -> dict[str, object]:
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


def assert_told(verb: AnyVerb, asked: Asked, is_allowed: bool, hazard: Hazard, mid: int | None) -> None:
    """It was refused, if the schema does not allow it; and answered as the description of the verb says."""
    refused = door(verb, mid)
    if refused:
        assert refused == asked.code, asked
    elif not is_allowed:
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


async def called(line: Line, frames: Sequence[bytes]) -> list[Asked]:
    """What each call is answered, in their order; several are under way at a time."""
    replies: dict[int, Packet] = {}
    for seq, frame in enumerate(frames):
        if seq >= CALLS_MAX:
            await _reply(line, replies)
        line.say(CALL, seq, frame)
    while len(replies) < len(frames):
        await _reply(line, replies)
    return [Asked(None, reply.code, reply.body[:300].decode()) for _, reply in sorted(replies.items())]


async def _reply(line: Line, replies: dict[int, Packet]) -> None:
    """The next reply to a call. Others may hear of what was done, but nothing is an end or nobody's error."""
    while True:
        packet = await line.hear()
        assert packet.op not in (DISCONNECT, ERROR), packet
        if packet.op == CALL + 1:
            assert packet.seq not in replies, packet
            replies[packet.seq] = packet
            return


@pytest.mark.parametrize("verb", CONNECTION, ids=lambda one: one.name)
async def test_what_an_argument_cannot_hold_is_refused_over_a_connection(
    place: Place, known: dict[str, object], verb: AnyVerb
) -> None:
    mid, mine = place.new_mid(), b'{"verb":%b,"args":' % json.dumps(verb.name).encode()
    base = {**good(verb, **known), **MORE.get(verb.name, {})}
    cases = [(hole, kind, hazard) for hole in holes(verb) for kind, hazard in HAZARDS.items()]
    others = [more for more in MORE_FIELDS if more not in fields(verb)]
    frames = [mine + args + b"}" for args in (
        json.dumps(base).encode(),
        *(hole.with_(base, hazard) for hole, _, hazard in cases),
        *(json.dumps({**base, more: 1}).encode() for more in others),
    )]  # fmt: skip
    if verb.name in ENDING:
        first, *rest = await ended(place, mid, frames)
    else:
        async with connected(place.where, TCP2, mid) as line:
            first, *rest = await called(line, frames)
    assert first.code not in REFUSALS, f"the example is no good: {base}: {first}"
    for (hole, kind, hazard), asked in zip(cases, rest[: len(cases)], strict=True):
        try:
            if is_readable(hazard):
                is_allowed = Draft202012Validator(fields(verb)[hole.name]).is_valid(hole.holds(hazard))
                assert_told(verb, asked, is_allowed, hazard, mid)
            else:
                is_text = hazard.kind in (NUL, NOT_UTF8)
                assert asked.code == ("invalid_text" if is_text else "bad_request"), asked
        except AssertionError as error:
            error.add_note(f"{hole.name}{hole.part}: {kind}: {hole.with_(base, hazard)[:300]!r}")
            raise
    for more, asked in zip(others, rest[len(cases) :], strict=True):
        assert (door(verb, mid) or "bad_request") == asked.code, more


async def ended(place: Place, mid: int, frames: Sequence[bytes]) -> list[Asked]:
    """As `called`, of a verb whose good answer is the end of the connection: it is an answer too, and may come before the end."""
    found: list[Asked] = []
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(connected(place.where, TCP2, mid))
        for frame in frames:
            line.say(CALL, 7, frame)
            (reply,) = await line.replies(1)
            found.append(Asked(None, reply.code, reply.body[:300].decode()))
            if not reply.code:
                await line.fate()
                line = await stack.enter_async_context(connected(place.where, TCP2, mid))
    return found


# --- over HTTP -----------------------------------------------------------------------------------------------------------------


class Request:
    """A request with one hazard in it."""

    def __init__(
        self, verb: AnyVerb, args: Mapping[str, object], hole: Hole | None = None, hazard: Hazard | None = None
    ) -> None:
        self.verb, self.hole, self.hazard = verb, hole, hazard
        in_path = {part.strip("{}") for part in verb.path.split("/") if part.startswith("{")}
        name = "" if hole is None else hole.name
        self.is_in_path, self.is_in_body = name in in_path, name not in in_path and not is_in_query(verb)
        self.path = verb.path
        for one in in_path:
            text = self._text(one, args[one])
            kind, _, rest = text.partition(b"://")
            # No segment is empty: that would be another path.
            parts = (kind, rest) if one == "room" else (text,)
            self.path = self.path.replace(
                f"{{{one}}}", "/".join(quote_from_bytes(part, safe="") or "%00" for part in parts)
            )
        beside = {one: value for one, value in args.items() if one not in in_path}
        self.body: bytes | None = None
        if is_in_query(verb):
            pairs = [
                (one, self._text(one, part))
                for one, value in beside.items()
                for part in (value if isinstance(value, list) else [value])
            ]
            self.path += "?" + urlencode(pairs) if pairs else ""
            self.body = b"hello" if verb.takes else None
        elif hole is not None and hazard is not None and self.is_in_body:
            self.body = hole.with_(beside, hazard)
        else:
            self.body = json.dumps(beside).encode()

    def encoded(self, mid: int | None, **headers: str) -> bytes:
        """As it goes over the line."""
        media_type = {} if self.body is None else {"Content-Type": self.verb.takes or "application/json"}
        who = {} if mid is None else {"Imcore-Mid": str(mid)}
        return request(self.verb.method, self.path, self.body, {**media_type, **who, **headers})

    def is_allowed(self) -> bool:
        """Does the schema of the argument allow what is in the hole?"""
        assert self.hole is not None
        assert self.hazard is not None
        schema = fields(self.verb)[self.hole.name]
        if self.is_in_body:
            return self.hazard.kind == BAD and Draft202012Validator(schema).is_valid(self.hole.holds(self.hazard))
        kind = kinds(self.verb)[self.hole.name]
        try:
            text = self._text(self.hole.name, None).decode()
        except UnicodeDecodeError:
            return False
        value: object = text
        if kind.removeprefix("list of ") == "integer":
            value = int(text) if re.fullmatch("0|-?[1-9][0-9]*", text) and len(text) < 100 else None
        elif kind.removeprefix("list of ") == "boolean":
            value = {"true": True, "false": False}.get(text)
        if value is None or "\0" in text:
            return False
        return Draft202012Validator(schema).is_valid([value] if kind.startswith("list") else value)

    def _text(self, name: str, value: object) -> bytes:
        """In a path or query everything is text: of JSON strings what is in them, of the rest how it is written."""
        if self.hole is None or self.hazard is None or name != self.hole.name:
            return (str(value).lower() if isinstance(value, bool) else str(value)).encode()
        try:
            found = json.loads(self.hazard.text)
        except ValueError:  # UnicodeDecodeError is one
            return self.hazard.text.strip(b'"')[:2_000]
        text = found.encode(errors="surrogatepass") if isinstance(found, str) else self.hazard.text
        return text or (b"\0" if self.is_in_path else b"")


def asked_of(answer: Answer) -> Asked:
    return Asked(answer.status, answer.code, answer.body[:300].decode(errors="replace"))


@pytest.mark.parametrize("verb", HTTP, ids=lambda one: one.name)
async def test_what_an_argument_cannot_hold_is_refused_over_http(
    place: Place, known: dict[str, object], verb: AnyVerb
) -> None:
    base = good(verb, **known)
    requests = [
        one
        for hole in holes(verb)
        for hazard in HAZARDS.values()
        for one in [Request(verb, {**base, hole.name: base.get(hole.name, "")}, hole, hazard)]
        # A list in a query is each of its values once; a line that is too long is the parser's business (tests/api/test_verbs.py).
        if (one.is_in_body or not hole.part) and len(one.path) < 16_000
    ]
    for mid in (place.new_mid(), None):
        first, *rest = await answers(
            place.where.http, [Request(verb, base).encoded(mid), *(one.encoded(mid) for one in requests)]
        )
        assert_described(verb, asked_of(first))
        for one, answer in zip(requests, rest, strict=True):
            asked = asked_of(answer)
            assert one.hole is not None
            assert one.hazard is not None
            try:
                if one.is_in_path and asked.code == "not_found":
                    continue  # no path of ours
                assert_told(verb, asked, one.is_allowed(), one.hazard, mid)
            except AssertionError as error:
                error.add_note(f"{one.hole.name}{one.hole.part}: {one.encoded(mid)[:600]!r}")
                raise


@pytest.mark.parametrize("verb", [one for one in HTTP if not is_in_query(one)], ids=lambda one: one.name)
async def test_a_body_that_is_none_is_refused(place: Place, known: dict[str, object], verb: AnyVerb) -> None:
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
        one, requests = Request(verb, good(verb, **known)), []
        for hazard in bodies.values():
            one.body = hazard.text
            requests.append(one.encoded(mid))
        for kind, answer in zip(bodies, await answers(place.where.http, requests), strict=True):
            expected = [door(verb, mid)] if door(verb, mid) else [*REFUSALS, "too_large"]
            assert answer.code in expected, (kind, answer)
            assert_described(verb, asked_of(answer))


def headers_of(verb: AnyVerb) -> list[str]:
    """The headers that its answer may depend on."""
    known = {"accounts.ticket": ["Origin"], "attachments.fetch": ["Range", "If-Range"]}.get(verb.name, [])
    return [*known, "If-None-Match" if verb.method == "GET" else idempotency.HEADER]


@pytest.mark.parametrize("verb", HTTP, ids=lambda one: one.name)
async def test_a_header_that_is_none_is_refused(place: Place, known: dict[str, object], verb: AnyVerb) -> None:
    """An idempotency key is one or is a bad request; any other odd header is no harm, and answered as without it or refused."""
    base, mid = good(verb, **known), place.new_mid()
    cases = [(name, value) for name in headers_of(verb) for value in IN_HEADERS.values()]
    requests = [Request(verb, base).encoded(mid, **{name: value}) for name, value in cases]
    # Some of these end the connection, so none is behind another.
    for (name, value), answer in zip(cases, await answers(place.where.http, requests, pipelined=False), strict=True):
        asked = asked_of(answer)
        is_key = re.fullmatch(r'[!#-\[\]-~]{1,128}|"[!#-\[\]-~]{1,128}"', value.strip(" \t"))
        if name == idempotency.HEADER and not is_key and not door(verb, mid):
            assert asked.code == "bad_request", (value, asked)
        assert_described(verb, asked)


# --- goim's routes -------------------------------------------------------------------------------------------------------------

OTHER_OP: Final = 5000  # of a push that none of the witnesses wants
GOIM: Final[dict[str, dict[str, object]]] = {
    "POST /goim/push/keys": {"operation": OTHER_OP, "keys": "a", "durable": 1},
    "POST /goim/push/mids": {"operation": OTHER_OP, "mids": 7, "durable": 1},
    "POST /goim/push/room": {"operation": OTHER_OP, "type": "live", "room": "1", "durable": 1},
    "POST /goim/push/all": {"operation": OTHER_OP, "speed": 1, "durable": 1},
    "GET /goim/online/top": {"type": "live", "limit": 3},
    "GET /goim/online/room": {"type": "live", "rooms": "1"},
    "GET /goim/nodes/weighted": {"platform": "web", "clientIP": "127.0.0.1"},
}


def goim_texts() -> Iterator[bytes]:
    """What is tried on goim's parameters, which are text."""
    for hazard in HAZARDS.values():
        try:
            found = json.loads(hazard.text)
        except ValueError:
            yield hazard.text.strip(b'"')[:2_000]
        else:
            yield found.encode(errors="surrogatepass") if isinstance(found, str) else hazard.text


@pytest.mark.parametrize("route", GOIM)
async def test_what_a_parameter_of_goims_cannot_hold_is_refused(place: Place, route: str) -> None:
    """In goim's own way: status 200 and a code, which is never that of a failure."""
    method, _, path = route.partition(" ")
    base, body = GOIM[route], b"hello" if method == "POST" else None
    targets = [
        target
        for name in base
        for text in goim_texts()
        for target in [f"{path}?{urlencode({**base, name: text})}"]
        if len(target) < 16_000
    ]
    assert len(targets) > 60 * len(base)
    good, *found = await answers(
        place.where.http, [request(method, one, body) for one in (f"{path}?{urlencode(base)}", *targets)]
    )
    assert (200, 0) == (good.status, json.loads(good.body)["code"]), good
    for target, answer in zip(targets, found, strict=True):
        assert (200, True) == (answer.status, json.loads(answer.body)["code"] in (0, -400)), (target[:300], answer)


# --- that anybody looks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 FRM events",
        "SELECT 'x'::integer",
        "SELECT 99999999999::integer",
        "SELECT convert_from('\\xff', 'UTF8')",
    ],
)
async def test_what_postgres_cannot_take_would_be_seen(place: Place, statement: str) -> None:
    """Its log is read, and names a syntax error (42601) and data that is none (22P02, 22003, 22021)."""
    url = running_url(place.data)
    assert url is not None
    place.assert_no_complaints()
    connection = await connect(url, application_name="tests")
    try:
        with pytest.raises(Exception, match=r"syntax|invalid|out of range"):
            await connection.execute(statement)
    finally:
        await connection.close()
    with pytest.raises(AssertionError, match=r"postgres\.log"):
        place.assert_no_complaints()
