"""Every field of every request, of the right type, of the wrong type, and at its limits; in both forms alike."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imcore.errors import BadPacket, BadRequest, ImcoreError, InvalidText, TooLarge, UnknownOperation
from imcore.protocol import text
from imcore.protocol.packet import (
    ACCEPTS_MAX,
    CURSOR_BYTES_MAX,
    GOIM_BODY_BYTES_MAX,
    KEY_BYTES_MAX,
    MENTIONS_MAX,
    PLATFORM_BYTES_MAX,
    ROOMS_MAX,
    TEXT_BODY_BYTES_MAX,
    TOKEN_BYTES_MAX,
    Op,
)
from imcore.protocol.requests import (
    Ack,
    Auth,
    Call,
    ChangeRoom,
    Extra,
    Heartbeat,
    History,
    Inbox,
    Join,
    Leave,
    Members,
    Read,
    Request,
    Send,
    Subscribe,
    Unsubscribe,
    from_packet,
    from_value,
)

ID = "0190a5d2-7c1e-7b3a-9f00-1234567890ab"
ROOM = "group://team-a"
CLIENT_OPS = {2, 4, 7, 12, 14, 16, 22, 24, 26, 28, 30, 32, 34, 38}
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def frame(op: int, body: object) -> Request:
    """A request in the JSON form."""
    raw = text.encode(op, 1, orjson.dumps(body))
    got, _, value = text.decode(raw)
    return from_value(got, value, raw)


def both(op: int, body: object, ver: int = 2) -> Request:
    """A request with a JSON object for a body, in both forms; they must agree, in refusing too."""
    try:
        one: Request | ImcoreError = from_packet(op, orjson.dumps(body), ver)
    except ImcoreError as error:
        with pytest.raises(type(error), match=f"^{re.escape(error.detail)}$"):
            frame(op, body)
        raise
    assert frame(op, body) == one
    return one


def refused(op: int, body: object, says: str, kind: type[ImcoreError] = BadRequest) -> None:
    with pytest.raises(kind, match=says) as caught:
        both(op, body)
    assert type(caught.value) is kind
    assert len(caught.value.detail) < 200


# --- operations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op", [*(op for op in Op if op not in CLIENT_OPS), 18, 19, 37, 99, 1000, -1, -(2**31), 2**31 - 1]
)
def test_operations_of_the_server_and_unknown_ones_are_refused(op: int) -> None:
    for body in (b"", b"{}", b"junk", b'{"room":"g://a"}'):
        with pytest.raises(UnknownOperation):
            from_packet(op, body, 1)
    refused(op, {}, "operation", UnknownOperation)
    refused(op, {"room": ROOM}, "operation", UnknownOperation)


@pytest.mark.parametrize("op", sorted(CLIENT_OPS))
@pytest.mark.parametrize("ver", [-(2**15), -1, 0, 3, 2**15 - 1])
def test_there_are_versions_1_and_2(op: int, ver: int) -> None:
    with pytest.raises(BadPacket, match=f"version is {ver}"):
        from_packet(op, b"{}", ver)


def test_requests_are_frozen_and_have_no_dict() -> None:
    for request in (Heartbeat(), Join(ROOM), NOBODY, Send("", ID, "1", 1000)):
        assert not hasattr(request, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Join(ROOM).room = "x"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Send("", ID, "1", 1000).room = "x"  # type: ignore[misc]


@pytest.mark.parametrize("op", sorted(CLIENT_OPS - {Op.HEARTBEAT, Op.CHANGE_ROOM, Op.SUBSCRIBE, Op.UNSUBSCRIBE}))
@pytest.mark.parametrize("body", ["", "{", "[]", "1", "null", "true", '"room"', "junk"])
def test_a_body_is_a_json_object(op: int, body: str) -> None:
    with pytest.raises(BadRequest, match="the body is"):
        from_packet(op, body.encode(), 2)
    if body in ("[]", "1", "null", "true", '"room"'):
        with pytest.raises(BadRequest, match="the body is"):
            frame(op, orjson.loads(body))


@pytest.mark.parametrize("op", sorted(CLIENT_OPS - {Op.HEARTBEAT, Op.SUBSCRIBE, Op.UNSUBSCRIBE}))
@pytest.mark.parametrize("tail", [b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\xff"])
def test_bytes_that_are_no_utf8_are_invalid_text(op: int, tail: bytes) -> None:
    with pytest.raises(InvalidText):
        from_packet(op, b'{"room":"g://' + tail + b'"}', 2)


# --- heartbeat -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"anything", b"\0\xff", b"{}"])
def test_a_heartbeat_says_nothing(body: bytes) -> None:
    assert from_packet(2, body, 1) == from_packet(2, body, 2) == Heartbeat()


@pytest.mark.parametrize("body", [None, {}, "x", 1])
def test_a_heartbeat_says_nothing_in_json(body: object) -> None:
    assert frame(2, body) == Heartbeat()


# --- goim's limit ----------------------------------------------------------------------------------------------------


def test_an_auth_of_version_1_is_as_long_as_goim_lets_it_be() -> None:
    for length in (GOIM_BODY_BYTES_MAX - 1, GOIM_BODY_BYTES_MAX):
        assert from_packet(7, b'{"mid":1}'.ljust(length), 1) == Auth(1, "", "", (), "", None, "", "")
    with pytest.raises(TooLarge, match=f"{GOIM_BODY_BYTES_MAX} is the limit"):
        from_packet(7, b'{"mid":1}'.ljust(GOIM_BODY_BYTES_MAX + 1), 1)


@pytest.mark.parametrize("op", [2, 7, 12, 14, 16])
def test_goims_limit_is_for_goims_requests_in_version_1(op: int) -> None:
    with pytest.raises(TooLarge):
        from_packet(op, b" " * (GOIM_BODY_BYTES_MAX + 1), 1)
    for length, ver in ((GOIM_BODY_BYTES_MAX, 1), (GOIM_BODY_BYTES_MAX + 1, 2)):
        with suppress(BadRequest):  # white space is hardly a request, but it is not too large
            from_packet(op, b" " * length, ver)


# --- auth ------------------------------------------------------------------------------------------------------------

NOBODY = Auth(None, "", "", (), "", None, "", "")


def test_goims_auth() -> None:
    body = b'{"mid":123,"key":"","room_id":"live://1000","platform":"web","accepts":[1000,1001,1002]}'
    wanted = Auth(123, "", "live://1000", (), "web", frozenset({1000, 1001, 1002}), "", "")

    assert from_packet(7, body, 1) == from_packet(7, body, 2) == frame(7, orjson.loads(body)) == wanted


def test_our_auth() -> None:
    body = {"token": "a.b.c", "cursor": "e.17", "key": "phone", "rooms": ["live://1", "live://2", "live://1"]}

    assert both(7, body) == Auth(None, "phone", "", ("live://1", "live://2"), "", None, "a.b.c", "e.17")


def test_everything_in_an_auth_may_be_left_out_or_null() -> None:
    assert both(7, {}) == NOBODY
    assert (
        both(7, dict.fromkeys(("mid", "key", "room_id", "rooms", "platform", "accepts", "token", "cursor"))) == NOBODY
    )


def test_nothing_accepted_is_not_the_same_as_nothing_said() -> None:
    """Version 1 clients get nothing that they do not accept; version 2 clients that say nothing get everything."""
    assert cast(Auth, both(7, {"accepts": []})).accepts == frozenset()
    assert cast(Auth, both(7, {})).accepts is None


def test_what_an_auth_does_not_know_is_ignored() -> None:
    assert both(7, {"role": "owner", "is_admin": True, "sender_id": 1, "service": True, "room": "live://x"}) == NOBODY


@pytest.mark.parametrize("mid", [INT64_MIN, -1, 0, 1, 2**53 + 1, INT64_MAX])
def test_a_mid_is_64_bits(mid: int) -> None:
    """Below 0 are guests: one that comes back says the mid that it was given."""
    assert cast(Auth, both(7, {"mid": mid})).mid == mid


@pytest.mark.parametrize("mid", [True, False, 1.0, 1.5, "1", [], {}])
def test_a_mid_is_nothing_but_an_integer(mid: object) -> None:
    refused(7, {"mid": mid}, "^mid is ")


@pytest.mark.parametrize(
    "digits",
    [b"9223372036854775808", b"-9223372036854775809", b"18446744073709551615", b"18446744073709551616", b"1e3"],
)
def test_a_mid_beyond_64_bits_is_refused(digits: bytes) -> None:
    raw = b'{"mid":%b}' % digits
    with pytest.raises(BadRequest):
        from_packet(7, raw, 1)
    whole = text.encode(7, 1, raw)
    with pytest.raises(BadRequest):
        from_value(7, text.decode(whole)[2], whole)


@pytest.mark.parametrize(
    ("name", "bytes_max"),
    [
        ("key", KEY_BYTES_MAX),
        ("platform", PLATFORM_BYTES_MAX),
        ("token", TOKEN_BYTES_MAX),
        ("cursor", CURSOR_BYTES_MAX),
    ],
)
def test_texts_of_an_auth(name: str, bytes_max: int) -> None:
    for value in ("", "x", "é😀", "x" * (bytes_max - 1), "x" * bytes_max, "é" * (bytes_max // 2)):
        assert getattr(both(7, {name: value}), name) == value
    for value in ("x" * (bytes_max + 1), "é" * (bytes_max // 2) + "x"):
        refused(7, {name: value}, f"^{name} is longer than {bytes_max} bytes")
    others: list[object] = [1, True, 1.5, [], {}, ["x"]]
    for wrong in others:
        refused(7, {name: wrong}, f"^{name} is .*, not a string")
    for forged in ("a\r\nb", "a\x1b[31m", "\x7f", "\x85", "\u2028"):
        refused(7, {name: forged}, f"^{name} has a control character")
    refused(7, {name: "a\0b"}, "U\\+0000", InvalidText)


def test_the_rooms_of_an_auth() -> None:
    assert cast(Auth, both(7, {"room_id": ""})).room == ""
    refused(7, {"room_id": "1000"}, "^room_id: room '1000': not of the form")
    refused(7, {"room_id": 1000}, "^room_id is 1000, not a string")
    refused(7, {"rooms": "live://1"}, "^rooms is a string, not a list")
    refused(7, {"rooms": ["live://1", 2]}, "^a name in rooms is 2, not a string")
    refused(7, {"rooms": [None]}, "^a name in rooms is missing|null")
    refused(7, {"rooms": [""]}, "^room '': not of the form")
    many = [f"live://{n}" for n in range(ROOMS_MAX)]
    assert cast(Auth, both(7, {"rooms": many})).rooms == tuple(many)
    refused(7, {"rooms": [*many, "live://x"]}, f"{ROOMS_MAX} is the limit")


def test_what_an_auth_accepts() -> None:
    edges = [-(2**31), -1, 0, 1000, 2**31 - 1]
    assert cast(Auth, both(7, {"accepts": edges})).accepts == frozenset(edges)
    many = list(range(ACCEPTS_MAX))
    assert cast(Auth, both(7, {"accepts": many})).accepts == frozenset(many)
    refused(7, {"accepts": [*many, 1]}, f"{ACCEPTS_MAX} is the limit")
    others: list[object] = [2**31, -(2**31) - 1, True, 1.0, "1000", None, []]
    for wrong in others:
        refused(7, {"accepts": [1000, wrong]}, "^a number in accepts is ")
    no_lists: list[object] = [1000, "1000", {}, True]
    for not_a_list in no_lists:
        refused(7, {"accepts": not_a_list}, "^accepts is .*not a list")


# --- send ------------------------------------------------------------------------------------------------------------


def test_a_send() -> None:
    assert both(4, {"room": ROOM, "id": ID, "body": {"text": "hi"}, "op": 2000}) == Send(
        ROOM, ID, '{"text":"hi"}', 2000
    )


@pytest.mark.parametrize(
    "body", [{"id": ID, "body": 1}, {"id": ID, "body": 1, "room": None, "op": None}, {"id": ID, "body": 1, "room": ""}]
)
def test_room_and_operation_of_a_send_may_be_left_out(body: object) -> None:
    assert both(4, body) == Send("", ID, "1", 1000)


@pytest.mark.parametrize("ver", [1, 2])
def test_a_send_is_the_same_in_both_versions(ver: int) -> None:
    assert from_packet(4, b'{"id":"%b","body":"x"}' % ID.encode(), ver) == Send("", ID, '"x"', 1000)


@pytest.mark.parametrize(
    "body", [None, True, 0, -1.5, "", "x", [], {}, [1, {"a": None}], "‮ \u200b\ufffd é e\u0301 " + "\u0301" * 4096]
)
def test_any_json_is_a_body_and_is_kept_as_it_was(body: object) -> None:
    got = both(4, {"id": ID, "body": body})

    assert isinstance(got, Send)
    assert got.body == orjson.dumps(body).decode()
    assert orjson.loads(got.body) == body


def test_a_body_is_made_compact() -> None:
    raw = b'{ "body" : { "b" : [ 1 , 2.0 ] , "a" : "\\u00e9\\/" } , "id" : "%b" }' % ID.encode()

    assert from_packet(4, raw, 2) == Send("", ID, '{"b":[1,2.0],"a":"é/"}', 1000)


def test_a_body_as_large_as_is_allowed() -> None:
    for text_bytes in (TEXT_BODY_BYTES_MAX - 1, TEXT_BODY_BYTES_MAX):
        assert len(cast(Send, both(4, {"id": ID, "body": "x" * (text_bytes - 2)})).body) == text_bytes
    refused(4, {"id": ID, "body": "x" * (TEXT_BODY_BYTES_MAX - 1)}, f"{TEXT_BODY_BYTES_MAX} is the limit", TooLarge)
    refused(4, {"id": ID, "body": "é" * (TEXT_BODY_BYTES_MAX // 2)}, f"{TEXT_BODY_BYTES_MAX} is the limit", TooLarge)


def test_the_limits_of_bodies_are_settings() -> None:
    raw = b'{"id":"%b","body":"%b"}' % (ID.encode(), b"x" * 98)
    whole = text.encode(4, 1, raw)
    value = text.decode(whole)[2]

    assert from_packet(4, raw, 1, text_body_bytes_max=100) == from_value(4, value, whole, text_body_bytes_max=100)
    with pytest.raises(TooLarge, match="99 is the limit"):
        from_packet(4, raw, 1, text_body_bytes_max=99)
    with pytest.raises(TooLarge, match="99 is the limit"):
        from_value(4, value, whole, text_body_bytes_max=99)
    long_auth = b'{"mid":1}'.ljust(GOIM_BODY_BYTES_MAX + 1)
    assert isinstance(from_packet(7, long_auth, 1, goim_body_bytes_max=GOIM_BODY_BYTES_MAX + 1), Auth)


def test_white_space_around_a_body_does_not_count() -> None:
    body = b" " * 20_000 + b'"' + b"x" * (TEXT_BODY_BYTES_MAX - 2) + b'"'

    assert isinstance(from_packet(4, b'{"id":"%b","body":%b}' % (ID.encode(), body), 2), Send)


def test_the_id_of_a_send_is_a_uuid_in_lower_case() -> None:
    assert cast(Send, both(4, {"id": ID.upper(), "body": 1})).id == ID
    assert cast(Send, both(4, {"id": "0" * 8 + "-0000-0000-0000-" + "F" * 12, "body": 1})).id.endswith("ffff")


@pytest.mark.parametrize(
    "id",
    [
        "", "x", ID[:-1], ID + "0", ID.replace("-", ""), "{" + ID + "}", "urn:uuid:" + ID, ID.replace("a", "g"),
        " " + ID[1:],
        ID[:-1] + "\n", ID.replace("-", "_"), ID[:7] + "-" + ID[7] + ID[9:], ID[:-1] + "٣", "-" * 36, ID.replace("0",
        "+"),
        "x" * 10_000, "\x1b[31m" + "x" * 31,
    ],
)  # fmt: skip
def test_what_is_no_uuid_is_refused(id: str) -> None:
    refused(4, {"id": id, "body": 1}, "^id .* is not a UUID")


@pytest.mark.parametrize(
    ("id", "says"), [(None, "id is missing"), (7, "id is 7, not"), (True, "id is a boolean"), ([], "id is a list")]
)
def test_an_id_is_a_string(id: object, says: str) -> None:
    refused(4, {"id": id, "body": 1}, f"^{says}")


def test_id_and_body_of_a_send_must_be_there() -> None:
    refused(4, {"body": 1}, "^id is missing")
    refused(4, {"id": ID}, "^body is missing")


@pytest.mark.parametrize("op", [1000, 1001, 2**31 - 1])
def test_the_operation_of_a_send(op: int) -> None:
    assert cast(Send, both(4, {"id": ID, "body": 1, "op": op})).op == op


@pytest.mark.parametrize("op", [999, 0, -1, 4, 2**31, True, 1000.0, "1000", [1000]])
def test_the_operation_of_a_send_is_from_1000(op: object) -> None:
    refused(4, {"id": ID, "body": 1, "op": op}, "^op is ")


@pytest.mark.parametrize("room", ["x", "Live://x", "live://", "live://a b", "live://" + "x" * 129])
def test_the_room_of_a_send_is_a_room(room: str) -> None:
    refused(4, {"id": ID, "body": 1, "room": room}, "^room '")


@pytest.mark.parametrize("room", [1, True, [], {}, 1.5])
def test_the_room_of_a_send_is_a_string(room: object) -> None:
    refused(4, {"id": ID, "body": 1, "room": room}, "^room is .*not a string")


@pytest.mark.parametrize(
    ("fields", "extra"),
    [
        ({}, None),
        ({"reply_to": None, "thread": None, "mentions": None, "format": None}, None),
        ({"mentions": [], "format": "json"}, None),
        ({"reply_to": 1}, Extra(reply_to=1)),
        ({"reply_to": INT64_MAX, "thread": 3}, Extra(reply_to=INT64_MAX, thread=3)),
        ({"mentions": [7, -8, 7, INT64_MIN]}, Extra(mentions=(7, -8, INT64_MIN))),
        ({"mentions": list(range(1, MENTIONS_MAX + 1))}, Extra(mentions=tuple(range(1, MENTIONS_MAX + 1)))),
        ({"mentions": "all"}, Extra(mentions=(0,))),
        ({"format": "text", "body": "é"}, Extra(format="text")),
        ({"format": "base64", "body": "/w=="}, Extra(format="base64")),
        ({"format": "base64", "body": ""}, Extra(format="base64")),
    ],
)
@pytest.mark.parametrize(
    "plain", [{}, {"room": ROOM}, {"op": 1000}, {"room": ROOM, "op": 1000}, {"room": None, "op": None}]
)
def test_what_a_message_is_about_is_read_beside_it(
    fields: dict[str, object], extra: Extra | None, plain: dict[str, object]
) -> None:
    """Whatever of the other keys is there."""
    body = {"id": ID, "body": "x", **plain, **fields}

    assert both(4, body) == Send(ROOM if plain.get("room") else "", ID, f'"{body["body"]}"', 1000, extra)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"reply_to": 0}, "reply_to is 0, not an integer from 1"),
        ({"reply_to": True}, "reply_to is a boolean"),
        ({"reply_to": 1.0}, "reply_to is a fraction"),
        ({"reply_to": "1"}, "reply_to is a string"),
        ({"thread": -1}, "thread is -1, not an integer from 1"),
        ({"thread": [1]}, "thread is a list"),
        ({"mentions": 7}, 'mentions is 7, not a list of mids, or "all"'),
        ({"mentions": "everybody"}, "mentions is a string"),
        ({"mentions": {}}, "mentions is an object"),
        ({"mentions": [0]}, "a mid in mentions is 0, not the mid of a person"),
        ({"mentions": [7, None]}, "a mid in mentions is missing"),
        ({"mentions": [7, True]}, "a mid in mentions is a boolean"),
        ({"mentions": [7.0]}, "a mid in mentions is a fraction"),
        ({"mentions": list(range(1, MENTIONS_MAX + 2))}, "mentions has 101 people, and 100 is the limit"),
        ({"format": "xml"}, "format is none of"),
        ({"format": 1}, "format is none of"),
        ({"format": ["text"]}, "format is none of"),
        ({"format": "text", "body": 1}, "body is 1, not a string, as its format is text"),
        ({"format": "base64", "body": "a"}, "body is not base64"),
        ({"format": "base64", "body": "/x=="}, "body is not base64"),
        ({"format": "base64", "body": "/w==\n"}, "body is not base64"),
        ({"format": "base64", "body": "ü"}, "body is not base64"),
    ],
)
def test_what_a_message_cannot_be_about(fields: dict[str, object], says: str) -> None:
    refused(4, {"id": ID, "body": "x", **fields}, says)


def test_the_same_key_twice_is_refused_beside_the_body_too() -> None:
    raw = b'{"id":"%b","body":1,"mentions":"all","mentions":[7]}' % ID.encode()
    with pytest.raises(BadRequest, match="the key 'mentions' is twice"):
        from_packet(4, raw, 2)


def test_what_a_send_does_not_know_is_ignored() -> None:
    extra = {"mid": 1, "key": "k", "seq": 1, "position": 1, "time": 1, "role": "owner", "sender_id": 1, "epoch": "e"}

    assert both(4, {"id": ID, "body": 1, **extra}) == Send("", ID, "1", 1000)


# --- goim's requests without JSON ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ver", [1, 2])
def test_change_room_is_text_in_the_binary_form(ver: int) -> None:
    assert from_packet(12, b"live://1001", ver) == ChangeRoom("live://1001")
    assert from_packet(12, "live://é".encode(), ver) == ChangeRoom("live://é")
    assert from_packet(12, b"", ver) == ChangeRoom("")
    for bad in (b"1001", b'"live://1001"', b"live://a\0", b"live://1001\n", b" "):
        with pytest.raises(BadRequest, match=r"^room "):
            from_packet(12, bad, ver)


def test_change_room_is_a_string_in_the_json_form() -> None:
    assert frame(12, "live://1001") == ChangeRoom("live://1001")
    assert frame(12, "") == ChangeRoom("")
    for bad, says in (
        ("1001", "^room '1001'"),
        (None, "missing"),
        (1, "is 1, not"),
        ({"room": ROOM}, "is an object"),
        ([], "a list"),
    ):
        with pytest.raises(BadRequest, match=says):
            frame(12, bad)
    with pytest.raises(InvalidText):
        frame(12, "live://a\0")


@pytest.mark.parametrize(("op", "kind"), [(14, Subscribe), (16, Unsubscribe)])
def test_subscriptions(op: int, kind: type[Subscribe] | type[Unsubscribe]) -> None:
    for ver in (1, 2):
        assert from_packet(op, b"1000", ver) == kind(frozenset({1000}))
        assert from_packet(op, b"1000,1001,1000", ver) == kind(frozenset({1000, 1001}))
        assert from_packet(op, b"-2147483648,2147483647", ver) == kind(frozenset({-(2**31), 2**31 - 1}))
        assert from_packet(op, b"", ver) == kind(frozenset())
    assert frame(op, [1000, 1001, 1000]) == kind(frozenset({1000, 1001}))
    assert frame(op, []) == kind(frozenset())


@pytest.mark.parametrize("op", [14, 16])
@pytest.mark.parametrize(
    "body",
    [b",", b"1000,", b",1000", b"1,,2", b"1 ,2", b" 1", b"1\n", b"+1", b"1.0", b"1e3", b"0x10", b"1_000", b"--1",
     b"-", b"x",
     "١".encode(), b"[1000]", b"2147483648", b"-2147483649", b"9" * 4000, b"\xff"],
)  # fmt: skip
def test_what_is_no_list_of_numbers_is_refused(op: int, body: bytes) -> None:
    with pytest.raises(BadRequest):
        from_packet(op, body, 1)


@pytest.mark.parametrize("op", [14, 16])
@pytest.mark.parametrize("body", [None, "1000", 1000, {}, [True], ["1000"], [1000.0], [2**31], [None], [[1000]]])
def test_what_is_no_list_of_numbers_is_refused_in_json(op: int, body: object) -> None:
    with pytest.raises(BadRequest):
        frame(op, body)


@pytest.mark.parametrize("op", [14, 16])
def test_as_many_numbers_as_are_allowed(op: int) -> None:
    numbers = list(range(ACCEPTS_MAX))
    assert cast(Subscribe, from_packet(op, ",".join(map(str, numbers)).encode(), 2)).ops == frozenset(numbers)
    assert cast(Subscribe, frame(op, numbers)).ops == frozenset(numbers)
    with pytest.raises(BadRequest, match="is the limit"):
        from_packet(op, b",".join([b"1"] * (ACCEPTS_MAX + 1)), 1)
    with pytest.raises(BadRequest, match="is the limit"):
        frame(op, [1] * (ACCEPTS_MAX + 1))


# --- ours ------------------------------------------------------------------------------------------------------------

SAMPLES: list[tuple[int, dict[str, object], Request]] = [
    (22, {"room": ROOM}, Join(ROOM)),
    (24, {"room": ROOM}, Leave(ROOM)),
    (26, {"room": ROOM}, History(ROOM, None, None, 50)),
    (26, {"room": ROOM, "before": None, "after": None, "limit": None}, History(ROOM, None, None, 50)),
    (26, {"room": ROOM, "before": 1}, History(ROOM, 1, None, 50)),
    (26, {"room": ROOM, "around": 1, "before": None}, History(ROOM, None, None, 50, 1)),
    (26, {"room": ROOM, "at": 0}, History(ROOM, None, None, 50, None, 0)),
    (26, {"room": ROOM, "after": 0, "limit": 1}, History(ROOM, None, 0, 1)),
    (26, {"room": ROOM, "before": INT64_MAX, "after": None, "limit": 500}, History(ROOM, INT64_MAX, None, 500)),
    (28, {"room": ROOM, "seq": 0}, Read(ROOM, 0)),
    (28, {"room": ROOM, "seq": INT64_MAX}, Read(ROOM, INT64_MAX)),
    (30, {"room": ROOM}, Members(ROOM, None, 100)),
    (30, {"room": ROOM, "after": 0, "limit": 500}, Members(ROOM, 0, 500)),
    (32, {}, Inbox("", 100)),
    (32, {"after": "", "limit": 7}, Inbox("", 7)),
    (32, {"after": ROOM}, Inbox(ROOM, 100)),
    (38, {"verb": "a.b", "args": {"c": 1}}, Call("a.b", {"c": 1})),
    (38, {"verb": "a.b", "args": None}, Call("a.b", {})),
    (38, {"verb": "a.b", "idempotency_key": None}, Call("a.b", {})),
    (38, {"verb": "a.b", "idempotency_key": "!~" * 64}, Call("a.b", {}, "!~" * 64)),
    (34, {"position": 0}, Ack(0)),
    (34, {"position": INT64_MAX}, Ack(INT64_MAX)),
]


@pytest.mark.parametrize(("op", "body", "wanted"), SAMPLES)
def test_our_requests(op: int, body: dict[str, object], wanted: Request) -> None:
    assert both(op, body) == wanted
    assert both(op, {**body, "mid": 9, "role": "owner", "sender_id": 1, "unknown": [{}]}) == wanted


@pytest.mark.parametrize("op", [22, 24, 26, 28, 30])
def test_a_room_must_be_there(op: int) -> None:
    rest = {"seq": 1} if op == 28 else {}
    refused(op, rest, "^room is missing")
    refused(op, {"room": None, **rest}, "^room is missing")
    refused(op, {"room": "", **rest}, "^room '': not of the form")
    refused(op, {"room": "x", **rest}, "^room 'x': not of the form")
    refused(op, {"room": 5, **rest}, "^room is 5, not a string")
    refused(op, {"room": [ROOM], **rest}, "^room is a list, not a string")
    refused(op, {"room": "g://\0", **rest}, "U\\+0000", InvalidText)


NUMBERS = [
    (26, {"room": ROOM}, "before", 1, INT64_MAX),
    (26, {"room": ROOM}, "after", 0, INT64_MAX),
    (26, {"room": ROOM}, "limit", 1, 500),
    (28, {"room": ROOM}, "seq", 0, INT64_MAX),
    (30, {"room": ROOM}, "after", INT64_MIN, INT64_MAX),
    (30, {"room": ROOM}, "limit", 1, 500),
    (32, {}, "limit", 1, 500),
    (34, {}, "position", 0, INT64_MAX),
]


@pytest.mark.parametrize(("op", "body", "name", "low", "high"), NUMBERS)
def test_numbers_at_their_limits(op: int, body: dict[str, object], name: str, low: int, high: int) -> None:
    for value in (low, low + 1, high - 1, high):
        assert getattr(both(op, {**body, name: value}), name) == value
    if low > INT64_MIN:
        refused(op, {**body, name: low - 1}, f"^{name} is {low - 1}, not an integer from {low} to {high}")
    if high < INT64_MAX:
        refused(op, {**body, name: high + 1}, f"^{name} is {high + 1}, not an integer from {low} to {high}")
        refused(op, {**body, name: 10**9}, f"^{name} is")
    else:
        refused(op, {**body, name: high + 1}, "does not fit into 64 bits")


@pytest.mark.parametrize(("op", "body", "name", "low", "high"), NUMBERS)
@pytest.mark.parametrize("value", [True, False, 1.0, 1.5, "1", "", [], [1], {}])
def test_numbers_are_integers(op: int, body: dict[str, object], name: str, low: int, high: int, value: object) -> None:
    refused(op, {**body, name: value}, f"^{name} is .*, not an integer")


def test_seq_and_position_must_be_there() -> None:
    refused(28, {"room": ROOM}, "^seq is missing")
    refused(34, {}, "^position is missing")
    refused(34, {"position": None}, "^position is missing")


def test_a_page_goes_one_way() -> None:
    refused(26, {"room": ROOM, "before": 9, "after": 3}, "exclude each other")


def test_the_start_of_an_inbox_page_is_a_room() -> None:
    refused(32, {"after": "x"}, "^after: room 'x'")
    refused(32, {"after": 7}, "^after is 7, not a string")


# --- noise -----------------------------------------------------------------------------------------------------------

names = st.sampled_from(
    ["mid", "key", "room_id", "rooms", "platform", "accepts", "token", "cursor", "room", "id", "body", "op",
     "position", "before",
     "after", "limit", "seq"]
)  # fmt: skip
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.sampled_from([ID, ROOM, "", 0, 1, 1000]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
ops = st.one_of(st.sampled_from(sorted(CLIENT_OPS)), st.integers(-(2**31), 2**31 - 1))


@settings(max_examples=400, deadline=None)
@given(ops, st.dictionaries(names, values, max_size=8) | values)
def test_any_json_gives_a_request_or_one_of_our_errors(op: int, body: object) -> None:
    _told(lambda: frame(op, body))


@settings(max_examples=400, deadline=None)
@given(
    ops,
    st.binary(max_size=60) | st.text(max_size=40).map(lambda said: said.encode(errors="surrogatepass")),
    st.sampled_from([1, 2]),
)
def test_any_bytes_give_a_request_or_one_of_our_errors(op: int, body: bytes, ver: int) -> None:
    _told(lambda: from_packet(op, body, ver))


def _told(ask: Callable[[], Request]) -> None:
    """A refusal goes back to the client as it is: not our fault, no reason to close, short, and safe to print."""
    try:
        ask()
    except ImcoreError as error:
        fault = error
    else:
        return
    assert fault.status < 500
    assert fault.close is None
    assert len(fault.detail) < 200
    assert fault.detail.isascii()
    assert fault.detail.isprintable()
