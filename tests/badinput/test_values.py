"""Every field of every request with what it cannot hold, and with what is odd but legal and comes back as it was.

What is refused is refused with the request's reply operation and sequence, and the connection goes on. What is no JSON ends it in the
JSON form, where the packet itself cannot be read any more. An auth that is refused ends the connection in every form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from badinput.conftest import Place
from badinput.wire import (
    ACK,
    AUTH,
    CHANGE_ROOM,
    EVENT,
    HEARTBEAT,
    HISTORY,
    INBOX,
    INVALID_TEXT,
    JOIN,
    LEAVE,
    MEMBERS,
    PUSH_MIN,
    READ,
    SEND,
    SUB2,
    SUBSCRIBE,
    TCP1,
    TCP2,
    TEXT,
    TOO_LARGE,
    UNSUBSCRIBE,
    WS,
    Form,
    Line,
    assert_broken,
    assert_closed,
    claim,
    connected,
    dialled,
    message,
    new_id,
)
from protocol.frames import client_frame
from waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="package")
both = pytest.mark.parametrize("form", [TCP2, WS], ids=str)
three = pytest.mark.parametrize("form", [TCP1, SUB2, WS], ids=str)

DEPTH_MAX = 32
INT64_MAX = 2**63 - 1
HOLE = "@@"  # where a bad value goes, in a body that is good otherwise

# --- what is bad -----------------------------------------------------------------------------------------------------

NOT_JSON, NOT_UTF8, NUL, BAD = "not JSON", "not UTF-8", "NUL", "bad"


class Hazard(NamedTuple):
    """JSON text in place of a value, and what is wrong with it."""

    text: bytes
    kind: str


IN_STRINGS: dict[str, Hazard] = {
    "surrogate": Hazard(b'"\xed\xa0\x80"', NOT_UTF8),
    "overlong NUL": Hazard(b'"\xc0\x80"', NOT_UTF8),
    "beyond Unicode": Hazard(b'"\xf5\x80\x80\x80"', NOT_UTF8),
    "cut off": Hazard(b'"\xe2\x82"', NOT_UTF8),
    "FF": Hazard(b'"\xff"', NOT_UTF8),
    "raw NUL": Hazard(b'"a\x00"', NOT_JSON),
    "raw line end": Hazard(b'"a\r\n"', NOT_JSON),
    "raw escape": Hazard(b'"\x1b[31m"', NOT_JSON),
    "escaped NUL": Hazard(rb'"\u0000"', NUL),
    "escaped NUL after backslashes": Hazard(rb'"\\\\\u0000"', NUL),
    "high surrogate": Hazard(rb'"\ud800"', NOT_JSON),
    "low surrogate": Hazard(rb'"\udc00"', NOT_JSON),
    "surrogates the wrong way round": Hazard(rb'"\udc00\ud800"', NOT_JSON),
    "bad escape": Hazard(rb'"\x00"', NOT_JSON),
    "no end": Hazard(b'"a', NOT_JSON),
}
NO_NUMBERS: dict[str, Hazard] = {
    "NaN": Hazard(b"NaN", NOT_JSON),
    "Infinity": Hazard(b"-Infinity", NOT_JSON),
    "1e400": Hazard(b"1e400", NOT_JSON),
    "1e131071": Hazard(b"1e131071", NOT_JSON),
    "4301 digits": Hazard(b"9" * 4_301, NOT_JSON),
    "leading zero": Hazard(b"01", NOT_JSON),
    "plus": Hazard(b"+1", NOT_JSON),
    "hexadecimal": Hazard(b"0x10", NOT_JSON),
    "2^64": Hazard(b"18446744073709551616", BAD),
    "-2^63 - 1": Hazard(b"-9223372036854775809", BAD),
    "2^63": Hazard(b"9223372036854775808", BAD),
    "309 digits": Hazard(b"1" * 309, BAD),
}
NO_INTEGERS: dict[str, Hazard] = {
    "1.0": Hazard(b"1.0", BAD),
    "1e3": Hazard(b"1e3", BAD),
    "1.5": Hazard(b"1.5", BAD),
    "true": Hazard(b"true", BAD),
    '"5"': Hazard(b'"5"', BAD),
    "[]": Hazard(b"[]", BAD),
    "{}": Hazard(b"{}", BAD),
    **NO_NUMBERS,
}
NO_STRINGS: dict[str, Hazard] = {
    "5": Hazard(b"5", BAD),
    "true": Hazard(b"true", BAD),
    "[]": Hazard(b"[]", BAD),
    '["a"]': Hazard(b'["a"]', BAD),
    "{}": Hazard(b"{}", BAD),
    **IN_STRINGS,
}
WHOLE: dict[str, Hazard] = {
    "number": Hazard(b"5", BAD),
    "string": Hazard(b'"group://a"', BAD),
    "true": Hazard(b"true", BAD),
    "list": Hazard(b'[{"room":"group://a"}]', BAD),
    "depth 33": Hazard(b'{"a":%b}' % (b"[" * DEPTH_MAX + b"]" * DEPTH_MAX), BAD),
    "depth 1025": Hazard(b"[" * 1_025 + b"]" * 1_025, NOT_JSON),
    "depth 30000": Hazard(b'{"a":' * 10_000, NOT_JSON),
    "the same key twice": Hazard(b'{"room":"group://a","room":"group://b"}', BAD),
    "the same key twice, once escaped": Hazard(rb'{"room":"group://a","\u0072oom":"group://b"}', BAD),
    "the same key twice, deep inside": Hazard(b'{"a":[{"b":{"c":1,"c":1}}]}', BAD),
    "NUL in a key": Hazard(rb'{"\u0000":1}', NUL),
    "NUL in a key inside": Hazard(rb'{"a":{"b\u0000":1}}', NUL),
    "2^64 in a key nobody knows": Hazard(b'{"a":18446744073709551616}', BAD),
    "surrogate in a key": Hazard(rb'{"\ud800":1}', NOT_JSON),
    "no UTF-8 in a key": Hazard(b'{"\xff":1}', NOT_UTF8),
    "NaN inside": Hazard(b'{"a":NaN}', NOT_JSON),
    "1e131071 inside": Hazard(b'{"a":[1e131071]}', NOT_JSON),
    "single quotes": Hazard(b"{'a':1}", NOT_JSON),
    "comment": Hazard(b"{} /* x */", NOT_JSON),
    "comma at the end": Hazard(b'{"a":1,}', NOT_JSON),
    "unfinished": Hazard(b'{"a":', NOT_JSON),
    "nothing but a brace": Hazard(b"{", NOT_JSON),
}
# Of a packet's whole body; in the JSON form these are inside of the packet's own JSON and mean something else.
BODIES: dict[str, Hazard] = {
    "nothing": Hazard(b"", NOT_JSON),
    "null": Hazard(b"null", BAD),
    "BOM": Hazard(b"\xef\xbb\xbf{}", NOT_JSON),
    "UTF-16": Hazard("{}".encode("utf-16"), NOT_UTF8),
    "UTF-16 without BOM": Hazard("{}".encode("utf-16-le"), NOT_JSON),
    "bytes after it": Hazard(b"{}x", NOT_JSON),
    "two of them": Hazard(b"{}{}", NOT_JSON),
    "NUL after it": Hazard(b"{}\x00", NOT_JSON),
}

# --- where it goes ---------------------------------------------------------------------------------------------------

ROOM_BODY: dict[str, Any] = {"room": "group://values"}
GOOD: dict[int, dict[str, Any]] = {
    AUTH: claim(1, key="k", room_id="live://a", rooms=["live://b"], platform="p", token="t", cursor="c"),
    SEND: {"room": "group://values", "id": "0190a5d2-7c1e-7b3a-9f00-1234567890ab", "body": "hi", "op": 1000},
    JOIN: ROOM_BODY,
    LEAVE: ROOM_BODY,
    HISTORY: {**ROOM_BODY, "after": 0, "limit": 10},
    READ: {**ROOM_BODY, "seq": 1},
    MEMBERS: {**ROOM_BODY, "after": 0, "limit": 10},
    INBOX: {"after": "group://a", "limit": 10},
    ACK: {"position": 0},
}


def holes() -> Iterator[tuple[int, str, dict[str, Any], dict[str, Hazard]]]:
    """Each field of each request with JSON, the body with a hole in its place, and what may not go into it."""
    for op, body in GOOD.items():
        for name, value in body.items():
            if (op, name) == (SEND, "body"):
                hazards = IN_STRINGS | NO_NUMBERS
            else:
                hazards = NO_INTEGERS if isinstance(value, int) else NO_STRINGS
            if isinstance(value, list):
                kind = NO_INTEGERS if isinstance(value[0], int) else NO_STRINGS
                yield op, f"{name}[]", {**body, name: [*value, HOLE]}, kind
                hazards = {name: hazard for name, hazard in hazards.items() if not hazard.text.startswith(b"[")}
            yield op, name, {**body, name: HOLE}, hazards
    yield HISTORY, "before", {**ROOM_BODY, "before": HOLE}, NO_INTEGERS


def filled(body: dict[str, Any], hazard: Hazard) -> bytes:
    """The body with the hazard in its hole."""
    return json.dumps(body).encode().replace(json.dumps(HOLE).encode(), hazard.text)


CASES = [pytest.param(op, body, hazards, id=f"{op}-{name}") for op, name, body, hazards in holes()]


async def assert_refused(line: Line, op: int, body: bytes, hazard: Hazard) -> bool:
    """Refused as its form and kind want it. Does the connection go on?"""
    line.say(op, 5, body)
    if line.form.is_text and hazard.kind == NOT_UTF8:
        assert [] == (await assert_broken(line, INVALID_TEXT)).packets
        return False
    if line.form.is_text and hazard.kind == NOT_JSON:
        assert [] == (await assert_closed(line, "bad_packet")).packets
        return False
    (reply,) = await line.replies(1)
    code = "invalid_text" if hazard.kind in (NUL, NOT_UTF8) else "bad_request"
    assert (op + 1, 5, code) == (reply.op, reply.seq, reply.code), (hazard, reply)
    if op == AUTH:
        assert [] == (await assert_closed(line, "unauthenticated")).packets
        return False
    return True


async def assert_all_refused(place: Place, form: Form, op: int, bodies: dict[str, tuple[bytes, Hazard]]) -> None:
    """One after the other, on one connection as long as it goes on."""
    left = dict(bodies)
    while left:
        is_auth = op == AUTH
        async with dialled(place.where, form) if is_auth else connected(place.where, form, place.new_mid()) as line:
            while left:
                name = next(iter(left))
                body, hazard = left.pop(name)
                try:
                    goes_on = await assert_refused(line, op, body, hazard)
                except Exception as error:
                    error.add_note(f"{form}, operation {op}: {name}: {body[:200]!r}")
                    raise
                if not goes_on:
                    break


@both
@pytest.mark.parametrize(("op", "body", "hazards"), CASES)
async def test_a_field_refuses_what_it_cannot_hold(
    place: Place, form: Form, op: int, body: dict[str, Any], hazards: dict[str, Hazard]
) -> None:
    bodies = {name: (filled(body, hazard), hazard) for name, hazard in hazards.items()}
    await assert_all_refused(place, form, op, bodies)


@both
@pytest.mark.parametrize("op", GOOD)
async def test_a_body_refuses_what_it_cannot_be(place: Place, form: Form, op: int) -> None:
    hazards = WHOLE if form.is_text else WHOLE | BODIES
    if op == INBOX:  # whose body is nothing, in words
        hazards = {name: hazard for name, hazard in hazards.items() if name not in ("nothing", "null")}
    bodies = {name: (hazard.text, hazard) for name, hazard in hazards.items()}
    await assert_all_refused(place, form, op, bodies)


async def test_a_frame_refuses_what_is_no_packet(place: Place) -> None:
    """Each ends its connection: nobody can say what it was an answer to."""
    no_packets = {
        **{name: hazard.text for name, hazard in BODIES.items() if hazard.kind != NOT_UTF8},
        "number": b"5",
        "string": b'"hi"',
        "list": b'[{"op":2}]',
        "no op": b'{"seq":1}',
        "op null": b'{"op":null}',
        "op of a string": b'{"op":"2"}',
        "op true": b'{"op":true}',
        "op 2.0": b'{"op":2.0}',
        "op 2^31": b'{"op":2147483648}',
        "op -2^31 - 1": b'{"op":-2147483649}',
        "op 2^64": b'{"op":18446744073709551616}',
        "seq 2^31": b'{"op":2,"seq":2147483648}',
        "seq 1.0": b'{"op":2,"seq":1.0}',
        "seq of a string": b'{"op":2,"seq":"1"}',
        "seq null": b'{"op":2,"seq":null}',
        "seq true": b'{"op":2,"seq":true}',
    }
    for name, payload in no_packets.items():
        async with connected(place.where, WS, place.new_mid()) as line:
            line.put(client_frame(TEXT, payload))
            assert [] == (await assert_closed(line, "bad_packet")).packets, name


@both
async def test_json_may_be_as_deep_as_the_limit_and_no_deeper(place: Place, form: Form) -> None:
    """At it and above; the body of a message is one level below its request."""
    room = place.new_room()
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        for depth, code in ((DEPTH_MAX, ""), (DEPTH_MAX + 1, "bad_request"), (1_000, "bad_request")):
            nested = b"[" * (depth - 1) + b"]" * (depth - 1)
            send = b'{"id":"%b","body":%b}' % (new_id().encode(), nested)
            assert code == (await line.ask(SEND, send)).code
            assert code == (await line.ask(JOIN, b'{"room":"%b","x":%b}' % (room.encode(), nested))).code


@both
async def test_as_many_keys_as_a_packet_holds_cost_nothing(place: Place, form: Form) -> None:
    """Unknown ones are ignored, even those that other languages trip over."""
    room = place.new_room()
    keys = b",".join(b'"k%d":0' % n for n in range(6_000))
    odd = b'"__proto__":{"mid":1},"constructor":{},"":0,"mid":1,"is_admin":true,"position":9,"time":0,"type":"x","key":"y"'
    mid = place.new_mid()
    async with connected(place.where, form, mid, key="mine") as line:
        assert not (await line.ask(JOIN, b'{"room":"%b",%b,%b}' % (room.encode(), keys, odd))).code
        sent = await line.ask(
            SEND, b'{"room":"%b","id":"%b","body":{%b},%b}' % (room.encode(), new_id().encode(), odd, odd)
        )
        assert not sent.code
        event = (await line.ask(HISTORY, {"room": room})).json["events"][-1]
        assert (mid, "mine", "message_sent", sent.json["position"]) == (
            event["mid"],
            event["key"],
            event["type"],
            event["position"],
        )


@both
@pytest.mark.parametrize(
    "body",
    [b"{%b}" % b",".join(b'"%d":0' % n for n in range(100_000)), b"[" * 100_000 + b"]" * 100_000],
    ids=["a hundred thousand keys", "a hundred thousand deep"],
)
async def test_what_is_too_large_for_a_packet_is_not_looked_at(place: Place, form: Form, body: bytes) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        line.say(JOIN, 9, body)
        if form.is_text:
            assert [] == (await assert_broken(line, TOO_LARGE)).packets
        else:
            assert [] == (await assert_closed(line, "packet_too_large")).packets


# --- goim's bodies that are no JSON ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [TCP1, TCP2], ids=str)
async def test_goims_bodies_refuse_what_they_cannot_be(place: Place, form: Form) -> None:
    numbers = [b"a", b",", b"1000,", b",1000", b"1000,,1001", b"1000 1001", b"1000;1001", b"1.0", b"[1000]", b"1e3"]
    numbers += [
        b"2147483648",
        b"-2147483649",
        b"9" * 11,
        b"+1",
        b"--1",
        b"0x3e8",
        b"1000\x00",
        b"\xff",
        "١٠٠٠".encode(),
    ]
    async with connected(place.where, form, place.new_mid()) as line:
        for op in (SUBSCRIBE, UNSUBSCRIBE):
            for body in (*numbers, ",".join(map(str, range(1_000, 1_000 + 1_025)))[:4_096].encode()):
                if len(body) < 4_096:
                    assert "bad_request" == (await line.ask(op, body)).code, body
        for body in (b"\xff", b"live://\xed\xa0\x80", b"live://\xc0\x80"):
            assert "invalid_text" == (await line.ask(CHANGE_ROOM, body)).code
        assert not (await line.ask(HEARTBEAT, b"a body that nobody reads \xff\x00")).code


# --- rooms -----------------------------------------------------------------------------------------------------------

BAD_ROOMS: dict[str, str] = {
    "no type": "://a",
    "no ://": "group",
    "a colon only": "group:a",
    "a slash too few": "group:/a",
    "no name": "group://",
    "type in capitals": "Group://a",
    "type with a digit first": "1group://a",
    "type with a dash": "my-group://a",
    "type of 33": "g" * 33 + "://a",
    "blank": "group://a b",
    "blank at the end": "group://a ",
    "no-break space": "group://a\u00a0b",
    "ideographic space": "group://a\u3000b",
    "line separator": "group://a\u2028b",
    "tab": "group://a\tb",
    "CRLF": "group://a\r\nSet-Cookie: b=1",
    "ANSI escape": "group://\x1b[31mred",
    "CSI in one character": "group://\x9b31m",
    "delete": "group://a\x7f",
    "129 bytes of name": "group://" + "a" * 129,
    "161 bytes": "g" * 32 + "://" + "a" * 126,
    "129 bytes in 65 letters": "group://" + "é" * 64 + "a",
    "the stream of another person": "user:7",
    "the stream of a room": "room:group://a b",
}
ODD_ROOMS: dict[str, str] = {
    "160 bytes": "g" * 32 + "://" + "a" * 125,
    "128 bytes of name": "group://" + "a" * 128,
    "128 bytes in 64 letters": "group://" + "é" * 64,
    "one letter": "g://a",
    "path": "group://../../../../etc/passwd",
    "escaped path": "group://%2e%2e%2f%00",
    "SQL": "group://';DROP/**/TABLE/**/events;--",
    "SQL pattern": "group://%_%",
    "dollars": "group://$$;SELECT/**/1;$$",
    "backslash": "group://\\x00\\",
    "quotes": "group://'\"`",
    "template": "group://{{7*7}}${7*7}<%=7*7%>",
    "page": "group://<script>alert(1)</script>",
    "star": "group://*",
    "another ://": "group://group://a",
    "bidi": "group://\u202e\u2066gnp.exe",
    "zero width": "group://a\u200b\u200d\ufeff",
    "no character": "group://\uffff\U0010ffff",
    "emoji": "group://👩‍👩‍👧‍👦",
    "composed": "group://é",
    "decomposed": "group://e\u0301",
}


@both
@pytest.mark.parametrize("room", BAD_ROOMS.values(), ids=BAD_ROOMS)
async def test_a_bad_room_is_refused_wherever_it_stands(place: Place, form: Form, room: str) -> None:
    asked: list[tuple[int, Any]] = [
        (SEND, message(room)),
        (JOIN, {"room": room}),
        (LEAVE, {"room": room}),
        (HISTORY, {"room": room}),
        (READ, {"room": room, "seq": 1}),
        (MEMBERS, {"room": room}),
        (INBOX, {"after": room}),
        (CHANGE_ROOM, room),
    ]
    async with connected(place.where, form, place.new_mid()) as line:
        for op, body in asked:
            reply = await line.ask(op, body)
            assert "bad_request" == reply.code, (op, reply)
            assert len(reply.body) < 400
    for name, value in (("room_id", room), ("rooms", [room])):
        async with dialled(place.where, form) as line:
            line.say(AUTH, 1, claim(1, **{name: value}))
            assert ["bad_request"] == [reply.code for reply in await line.replies(1)]


@three
@pytest.mark.parametrize("room", ODD_ROOMS.values(), ids=ODD_ROOMS)
async def test_an_odd_room_is_a_room_like_any_other(place: Place, form: Form, room: str) -> None:
    """Joined, sent to, read and left under exactly this name."""
    async with connected(place.where, form, place.new_mid()) as line:
        joined = await line.ask(JOIN, {"room": room})
        assert not joined.code
        sent = (await line.ask(SEND, message(room))).json
        page = (await line.ask(HISTORY, {"room": room, "after": joined.json["seq"] - 1})).json
        rooms = (await line.ask(INBOX, {})).json["rooms"]
        members = (await line.ask(MEMBERS, {"room": room})).json

        assert room == page["room"]
        assert [(room, joined.json["seq"]), (room, sent["seq"])] == [
            (one["room"], one["seq"]) for one in page["events"]
        ]
        assert [room] == [one["room"] for one in rooms]
        assert room == members["room"]
        assert not (await line.ask(LEAVE, {"room": room})).code


async def test_rooms_that_look_alike_are_not_the_same(place: Place) -> None:
    """Composed and decomposed, with and without a sign that nobody sees."""
    async with connected(place.where, TCP2, place.new_mid()) as line:
        for room in ("group://alike-é", "group://alike-a"):
            assert not (await line.ask(JOIN, {"room": room})).code
        for room in ("group://alike-e\u0301", "group://alike-a\u200b", "group://alike-A", "group://alike-\u0430"):
            assert "no_such_room" == (await line.ask(SEND, message(room))).code


# --- ids -------------------------------------------------------------------------------------------------------------


@both
async def test_an_id_is_a_uuid_of_36_characters(place: Place, form: Form) -> None:
    good = "0190a5d2-7c1e-7b3a-9f00-1234567890ab"
    bad = [
        "", "a", good[:-1], good + "0", good.replace("-", ""), f"{{{good}}}", f"urn:uuid:{good}", f" {good[1:]}",
        good.replace("-", "_"), good.replace("a", "g"), f"{good[:-1]}é", f"{good[:-1]}\u0661", f"{good}\n",
        "0190a5d27c1e-7b3a-9f00-12345678-90ab", "' OR 1=1 --aaaaaaaaaaaaaaaaaaaaaaaaaa", "-" * 36, "NULL",
    ]  # fmt: skip
    room = place.new_room()
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        for one in bad:
            assert "bad_request" == (await line.ask(SEND, {"id": one, "body": 1})).code, one
        assert "bad_request" == (await line.ask(SEND, {"body": 1})).code


@both
async def test_an_id_is_the_same_in_capitals(place: Place, form: Form) -> None:
    """And another message under it is refused."""
    room, one = place.new_room(), new_id()
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        first = (await line.ask(SEND, {"id": one, "body": "a"})).json
        second = (await line.ask(SEND, {"id": one.upper(), "body": "a"})).json
        other = await line.ask(SEND, {"id": one.title(), "body": "b"})

        assert {**first, "duplicate": True} == second
        assert "id_conflict" == other.code
        assert one == (await line.ask(HISTORY, {"room": room})).json["events"][-1]["id"]


# --- at the limits ---------------------------------------------------------------------------------------------------


@both
async def test_a_body_may_be_as_long_as_the_limit_and_no_longer(place: Place, form: Form) -> None:
    room = place.new_room()
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        for length, code in ((16_383, ""), (16_384, ""), (16_385, "too_large")):
            assert code == (await line.ask(SEND, message(room, "a" * (length - 2)))).code, length
            in_two = "é" * ((length - 2) // 2) + "a" * (length % 2)
            assert code == (await line.ask(SEND, message(room, in_two))).code, length
        blanks = b'{"id":"%b","body":[%b]}' % (new_id().encode(), b" " * 40_000)
        assert not (await line.ask(SEND, blanks)).code, "what counts is what is kept"


@both
@pytest.mark.parametrize(
    ("name", "most", "above"),
    [
        ("key", "k" * 128, "k" * 129),
        ("key", "é" * 64, "é" * 64 + "a"),
        ("platform", "p" * 64, "p" * 65),
        ("cursor", "c" * 256, "c" * 257),
        ("accepts", [*range(1_000, 2_024)], [*range(1_000, 2_025)]),
        ("accepts", [2**31 - 1, -(2**31), 0], [2**31]),
        ("accepts", [], [-(2**31) - 1]),
        ("rooms", [f"live://{n}" for n in range(1_000)], [f"live://{n}" for n in range(1_001)]),
        ("mid", INT64_MAX, INT64_MAX + 1),
        ("mid", -(2**63), -(2**63) - 1),
    ],
)
async def test_a_field_of_the_auth_may_be_at_its_limit_and_not_above(
    place: Place, form: Form, name: str, most: object, above: object
) -> None:
    async with connected(place.where, form, place.new_mid(), **{name: most}):
        pass
    async with dialled(place.where, form) as line:
        line.say(AUTH, 1, claim(place.new_mid(), **{name: above}))
        assert ["bad_request"] == [reply.code for reply in await line.replies(1)]
        await assert_closed(line, "unauthenticated")


@both
@pytest.mark.parametrize(("length", "code"), [(4_096, "unauthenticated"), (4_097, "bad_request")])
async def test_a_token_is_looked_at_up_to_its_limit_and_refused_above(
    place: Place, form: Form, length: int, code: str
) -> None:
    """One that is given is verified in every mode, so that this one is refused as what it is: no token, or nothing to look at."""
    async with dialled(place.where, form) as line:
        line.say(AUTH, 1, claim(place.new_mid(), token="t" * length))
        assert [code] == [reply.code for reply in await line.replies(1)]
        await assert_closed(line, "unauthenticated")


@both
@pytest.mark.parametrize("name", ["key", "platform", "token", "cursor"])
@pytest.mark.parametrize("sign", ["\r\n", "\x1b[31m", "\x7f", "\x9b", "\u2028", "\u0001"])
async def test_no_control_character_comes_into_a_name(place: Place, form: Form, name: str, sign: str) -> None:
    async with dialled(place.where, form) as line:
        line.say(AUTH, 1, claim(1, **{name: f"a{sign}b"}))
        assert ["bad_request"] == [reply.code for reply in await line.replies(1)]


async def test_goims_own_limit_holds_for_goims_operations(place: Place) -> None:
    """4,096 bytes, on the operations of goim and in version 1."""
    async with connected(place.where, TCP1, place.new_mid()) as line:
        for op in (SUBSCRIBE, UNSUBSCRIBE):
            many = ",".join(["1000"] * 819).encode() + b",1"
            assert 4_096 == len(many)
            assert not (await line.ask(op, many)).code
            assert "too_large" == (await line.ask(op, many + b"0")).code
        assert not (await line.ask(HEARTBEAT, bytes(4_096))).code
        assert "too_large" == (await line.ask(HEARTBEAT, bytes(4_097))).code
        assert "too_large" == (await line.ask(CHANGE_ROOM, b"live://" + b"a" * 4_090)).code
    auth = json.dumps(claim(place.new_mid())).encode()
    async with dialled(place.where, TCP1) as line:
        assert not (await line.ask(AUTH, auth.ljust(4_096))).code
    async with dialled(place.where, TCP1) as line:
        line.say(AUTH, 1, auth.ljust(4_097))
        assert [] == (await assert_closed(line, "unauthenticated")).packets
    async with dialled(place.where, TCP2) as line:
        assert not (await line.ask(AUTH, auth.ljust(4_097))).code


@both
async def test_a_message_has_an_operation_for_messages(place: Place, form: Form) -> None:
    room = place.new_room()
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        for op in (-(2**31), -1, 0, 1, 4, 36, 999, 2**31, INT64_MAX):
            assert "bad_request" == (await line.ask(SEND, message(room, op=op))).code, op
        for op in (1_000, 1_001, 2**31 - 1):
            assert not (await line.ask(SEND, message(room, op=op))).code, op
        events = (await line.ask(HISTORY, {"room": room, "after": 1})).json["events"]
        assert [1_000, 1_001, 2**31 - 1] == [event["op"] for event in events]


@both
async def test_no_more_operations_are_accepted_than_the_limit(place: Place, form: Form) -> None:
    """In one request, and by several together."""
    async with connected(place.where, form, place.new_mid(), accepts=[]) as line:
        assert "bad_request" == (await line.ask(SUBSCRIBE, [*range(1_000, 2_025)])).code
        assert not (await line.ask(SUBSCRIBE, [*range(1_000, 2_024)])).code
        assert "bad_request" == (await line.ask(SUBSCRIBE, [3_000])).code
        assert not (await line.ask(UNSUBSCRIBE, [1_000])).code
        assert not (await line.ask(SUBSCRIBE, [3_000])).code


@both
async def test_who_accepts_everything_does_so_until_it_says_what(place: Place, form: Form) -> None:
    """To accept one more operation is not to accept only that; and all but one cannot be said."""
    room = place.new_room()
    async with (
        connected(place.where, form, place.new_mid(), room_id=room, accepts=None) as line,
        connected(place.where, TCP2, place.new_mid(), room_id=room) as speaker,
    ):
        assert not (await line.ask(SUBSCRIBE, [1_001])).code
        assert "bad_request" == (await line.ask(UNSUBSCRIBE, [1_001])).code
        assert not (await speaker.ask(SEND, message(room, "hi", op=1_002))).code

        assert b"hi" in await heard_body(line)


@both
async def test_a_cursor_of_junk_is_one_of_another_log(place: Place, form: Form) -> None:
    """The client is told to fetch anew, and never given a place that it made up."""
    async with connected(place.where, TCP2, place.new_mid()) as line:
        epoch = (await line.ask(ACK, {"position": 0})).json["cursor"].rpartition(".")[0]
    junk = {
        "epoch": ["x", ".", "..", f"{epoch}", f"{epoch[:-1]}.1", f"{epoch.upper()}x.1", "' OR 1=1 --.1", f" {epoch}.1",
                  "AAAA", "eyJhbGciOiJub25lIn0.e30.", "\ufeff.1"],
        "too_far": [f"{epoch}.", f"{epoch}.-1", f"{epoch}.x", f"{epoch}.1e3", f"{epoch}.9223372036854775807",
                    f"{epoch}.{'9' * 200}", f"{epoch}.١", f"{epoch}.+1", f"{epoch}. 1", f"{epoch}.1_0", f"{epoch}.0x1"],
    }  # fmt: skip
    for reason, cursors in junk.items():
        for cursor in cursors:
            async with dialled(place.where, form) as line:
                welcome = (await line.ask(AUTH, claim(place.new_mid(), cursor=cursor))).json
                assert (False, reason) == (welcome["recovered"], welcome["reason"]), cursor


# --- what comes back as it was ---------------------------------------------------------------------------------------

ODD_TEXT: dict[str, str] = {
    "SQL meta": "' \" ; -- /* */ \\ % _ $$ $1 ' OR 1=1 \\' \\\\ E'\\x00' :name ?",
    "escapes that are only text": "\\u0000 \\x00 \\0 %00 &#0;",
    "no characters": "\uffff\ufffe\U0010ffff\ufdd0",
    "replacement": "\ufffd",
    "bidi": "\u202eabc\u202c\u2066x\u2069\u200f",
    "zero width": "a\u200b\u200c\u200d\u2060\ufeff",
    "combining": "Z" + "\u0301" * 4_096,
    "composed and not": "é e\u0301 \u212b Å",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 😀",
    "controls": "\u0001\u0007\b\t\n\x0b\f\r\x1b[31m\x7f\u0080\u009b\u2028\u2029",
    "line ends": "a\r\nX-Injected: 1\r\n\r\n<html>",
    "templates": "{{7*7}} ${jndi:ldap://x} <%= 1 %> #{1} `id` $(id)",
    "page": "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>",
    "surrogate pair": "\U0001f600\U00010000",
    "long": "長" * 5_000,
}


@three
@pytest.mark.parametrize("odd", ODD_TEXT.values(), ids=ODD_TEXT)
async def test_odd_text_comes_back_to_the_byte(place: Place, form: Form, odd: str) -> None:
    """To those who hear it in each form and to who reads it later; as a value, as a key, and with escapes that it did not need."""
    room = place.new_room()
    bodies = [
        json.dumps(body, ensure_ascii=False, separators=(",", ":")) for body in (odd, {odd[:1_000]: [odd[:3_000]]})
    ]
    async with (
        connected(place.where, form, place.new_mid(), room_id=room) as speaker,
        connected(place.where, TCP1, place.new_mid(), room_id=room) as goim,
        connected(place.where, WS, place.new_mid(), room_id=room) as listener,
    ):
        for body in bodies:
            for said in (body, json.dumps(json.loads(body))):
                sent = b'{"room":"%b","id":"%b","body":%b}' % (room.encode(), new_id().encode(), said.encode())
                assert not (await speaker.ask(SEND, sent)).code
        heard = [await heard_body(goim) for _ in range(4)]
        read = (await speaker.ask(HISTORY, {"room": room, "limit": 4})).json["events"]

        expected = [json.loads(bodies[0])] * 2 + [json.loads(bodies[1])] * 2
        assert expected == [event["body"] for event in read]
        assert expected == [json.loads(body) for body in heard]
        assert heard[0] == heard[1], "one message is one text, however it was escaped"
        for said_to_goim in heard:
            assert said_to_goim in await heard_body(listener)


async def heard_body(line: Line) -> bytes:
    """The body of the next message: as it is in version 1, with its envelope in the others."""
    while True:
        packet = await line.hear()
        if packet.op >= PUSH_MIN:
            return packet.body
        if packet.op == EVENT and packet.json["type"] == "message_sent":
            return packet.body


@both
async def test_numbers_that_json_may_hold_come_back(place: Place, form: Form) -> None:
    room = place.new_room()
    numbers = "[0,-1,9007199254740993,9223372036854775807,-9223372036854775808,1.5,1e308,5e-324,-0.0,1.0,true,null]"
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        sent = b'{"id":"%b","body":%b}' % (new_id().encode(), numbers.encode())
        assert not (await line.ask(SEND, sent)).code

        (event,) = (await line.ask(HISTORY, {"room": room, "limit": 1})).json["events"]

        assert repr(json.loads(numbers)) == repr(event["body"])


@both
@pytest.mark.parametrize("odd", [ODD_TEXT["SQL meta"], ODD_TEXT["emoji"], ODD_TEXT["bidi"], ODD_TEXT["templates"]])
async def test_odd_names_come_back_to_the_byte(place: Place, form: Form, odd: str) -> None:
    """A key, in the welcome and in events. What is asked for under it is asked for again after a takeover."""
    room, mid = place.new_room(), place.new_mid()
    async with dialled(place.where, form) as line:
        welcome = (await line.ask(AUTH, claim(mid, key=odd, platform=odd[:16], room_id=room))).json
        assert odd == welcome["key"]
        assert not (await line.ask(SEND, message(room))).code
        (event,) = (await line.ask(HISTORY, {"room": room, "limit": 1})).json["events"]
        assert odd == event["key"]
        sessions = await eventually(lambda: place.sessions_of(mid))
        assert [(odd, odd[:16])] == [(one["key"], one["platform"]) for one in sessions]
        async with connected(place.where, form, mid, key=odd):
            await assert_closed(line, "taken_over")


# --- pages -----------------------------------------------------------------------------------------------------------


@both
async def test_a_page_has_a_size_that_makes_sense(place: Place, form: Form) -> None:
    room = place.new_room()
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        for op, body in ((HISTORY, {"room": room}), (MEMBERS, {"room": room}), (INBOX, {})):
            for limit in (-(2**63), -1, 0, 501, 10**9, INT64_MAX):
                assert "bad_request" == (await line.ask(op, {**body, "limit": limit})).code, (op, limit)
            for fine in (1, 500, None):
                assert not (await line.ask(op, {**body, "limit": fine})).code, (op, fine)


@both
async def test_a_page_beyond_the_end_is_the_last_one_or_empty(place: Place, form: Form) -> None:
    room = place.new_room()
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        assert not (await line.ask(SEND, message(room))).code
        for before in (2, 3, 4, 10**9, INT64_MAX):
            page = (await line.ask(HISTORY, {"room": room, "before": before})).json
            assert [1, 2][: before - 1] == [event["seq"] for event in page["events"]]
        for after in (2, 3, 10**9, INT64_MAX):
            page = (await line.ask(HISTORY, {"room": room, "after": after})).json
            assert ([], False) == (page["events"], page["more"])
        for wrong in ({"before": 0}, {"before": -1}, {"after": -1}, {"before": 1, "after": 1}):
            assert "bad_request" == (await line.ask(HISTORY, {"room": room, **wrong})).code, wrong
        for after in (-(2**63), 0, INT64_MAX):
            assert not (await line.ask(MEMBERS, {"room": room, "after": after})).code
        for seq in (3, 10**9, INT64_MAX):
            assert 2 == (await line.ask(READ, {"room": room, "seq": seq})).json["seq"], "the head"
        assert "bad_request" == (await line.ask(READ, {"room": room, "seq": -1})).code
        for position in (10**9, INT64_MAX, -1):
            assert "bad_request" == (await line.ask(ACK, {"position": position})).code


@both
async def test_nobody_learns_whether_a_room_exists(place: Place, form: Form) -> None:
    """To who is not in it, it answers in the same words as one that is not there."""
    there, nowhere = place.new_room(), place.new_room()
    async with connected(place.where, TCP2, place.new_mid(), room_id=there) as member:
        assert not (await member.ask(SEND, message(there))).code
        async with connected(place.where, form, place.new_mid()) as line:
            for op, more in ((HISTORY, {}), (MEMBERS, {}), (READ, {"seq": 1}), (LEAVE, {}), (SEND, message("x"))):
                answers = {(await line.ask(op, {**more, "room": room})).body for room in (there, nowhere)}
                assert 1 == len(answers)
                assert b"no_such_room" in answers.pop()
            for room in ("live://nobody-is-here", "live://x"):
                for op, more in ((HISTORY, {}), (LEAVE, {}), (SEND, message("x")), (READ, {"seq": 1}), (MEMBERS, {})):
                    assert "no_such_room" == (await line.ask(op, {**more, "room": room})).code
