"""The schema knows every operation, agrees with the parser, and refuses what is wrong."""

from __future__ import annotations

import copy

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from imcore.errors import TABLE, ImcoreError
from imcore.protocol import text
from imcore.protocol.packet import Op
from imcore.protocol.requests import from_value
from protocol.schema import SCHEMA, faults

ID = "0190a5d2-7c1e-7b3a-9f00-1234567890ab"
ROOM = "group://team-a"
ENVELOPE = {
    "position": 41, "room": ROOM, "seq": 3, "mid": 7, "key": "k", "id": ID, "time": 1764000000000,
    "type": "message_sent", "op": 1000,
    "body": {"text": "hi"},
}  # fmt: skip
REPLIES: dict[int, dict[str, object]] = {
    3: {"online": 0},
    5: {"position": 1, "seq": 1},
    8: {"mid": -5, "key": "k", "epoch": "e", "position": 0, "upto": 0, "cursor": "e.0", "recovered": False, "heartbeat_s": 0.5,
    "rooms": [],
        "reason": "new"},
    13: {},
    15: {},
    17: {},
    23: {"position": 1, "seq": 1, "duplicate": True},
    25: {"position": 1, "seq": 1},
    27: {"room": ROOM, "events": [ENVELOPE], "head": 3, "more": False},
    29: {"room": ROOM, "seq": 0, "unread": 0},
    31: {"room": ROOM, "version": 9, "members": [{"mid": 7, "role": "admin", "since": 4, "online": True}], "next": 7},
    33: {"rooms": [{"room": ROOM, "head": 3, "read": 0, "unread": 3, "mentions": 1, "role": "owner", "last": ENVELOPE}]},
    35: {"position": 0, "cursor": "e.0"},
    39: {"answer": {"anything": 1}},
}  # fmt: skip
NOTICES: dict[int, dict[str, object]] = {
    6: {"code": "going_away", "text": "x", "retry": True, "close": 4001, "delay_ms": 0},
    20: {"error": {"code": "unknown_op", "text": "x", "retry": False}},
    21: ENVELOPE,
    36: {"room": ROOM, "position": 9, "type": "member_removed", "by": 0},
}


def server(op: int, body: object, seq: int = 0) -> list[str]:
    return faults("server_frame", {"op": op, "seq": seq, "body": body})


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_every_operation_of_the_server_is_known() -> None:
    """And none that is not: what the server sends is all here."""
    replies = {op for op in Op if op.name.endswith("_REPLY")} - {Op.HANDSHAKE_REPLY}

    assert set(REPLIES) == replies
    assert set(NOTICES) == {Op.DISCONNECT, Op.ERROR, Op.EVENT, Op.REMOVED}
    for op in range(-1, 50):
        known = op in REPLIES or op in NOTICES
        assert (server(op, (REPLIES | NOTICES).get(op, {})) == []) is known


@pytest.mark.parametrize("op", sorted(REPLIES))
def test_any_reply_may_be_an_error(op: int) -> None:
    for kind in TABLE:
        told = {"code": kind.code, "text": kind.text(), "retry": kind.retry}
        assert server(op, {"error": told}, seq=-7) == []
        assert server(op, {"error": {**told, "retry_after_ms": 100}}) == []
    assert server(op, {"error": {"code": "x"}}) != []
    assert server(op, {"error": {"code": "x", "text": "y", "retry": False}, "position": 1}) != []


@pytest.mark.parametrize("op", sorted(REPLIES | NOTICES))
def test_a_servers_body_has_every_key_and_no_other(op: int) -> None:
    body = (REPLIES | NOTICES)[op]
    optional = {"duplicate", "reason", "next", "id", "op", "base64"}

    assert server(op, {**body, "unheard_of": 1}) != []
    assert server(op, None) != []
    assert server(op, []) != []
    for key in body:
        rest = {name: value for name, value in body.items() if name != key}
        assert (server(op, rest) == []) is (key in optional)


def test_a_packet_of_the_server_has_all_three_keys() -> None:
    whole = {"op": 13, "seq": 1, "body": {}}
    assert faults("server_frame", whole) == []
    for key in whole:
        assert faults("server_frame", {name: value for name, value in whole.items() if name != key}) != []
    assert faults("server_frame", {**whole, "ver": 2}) != []
    assert faults("server_frame", {**whole, "seq": 2**31}) != []


def test_a_batch_is_of_packets_and_not_of_batches() -> None:
    packets = [{"op": op, "seq": 0, "body": body} for op, body in (REPLIES | NOTICES).items()]
    batch = {"op": 9, "seq": 0, "body": packets}

    assert faults("server_frame", batch) == []
    assert server(9, []) != []
    assert server(9, [batch]) != []
    assert server(9, [*packets, {"op": 13, "seq": 0}]) != []


@pytest.mark.parametrize(
    "change",
    [
        {"position": -1}, {"position": "1"}, {"position": 2**63}, {"seq": -1}, {"seq": None}, {"mid": None},
        {"mid": True}, {"key": None},
        {"id": ID.upper()}, {"id": None}, {"time": 1.5}, {"time": "now"}, {"type": ""}, {"type": "Message"},
        {"op": None},
        {"room": "x"}, {"stream": "user:7"}, {"base64": False}, {"base64": True},
    ],
)  # fmt: skip
def test_what_is_no_envelope(change: dict[str, object]) -> None:
    assert server(21, ENVELOPE) == []
    assert server(21, {**ENVELOPE, **change}) != []


def test_an_envelope_is_of_a_room_or_of_a_stream() -> None:
    rest = copy.deepcopy(ENVELOPE)
    del rest["room"]

    assert server(21, {**rest, "stream": "user:7"}) == []
    assert server(21, {**rest, "stream": "all:", "body": "aGkA", "base64": True}) == []
    assert server(21, rest) != []


fields = st.sampled_from(
    ["mid", "key", "room_id", "rooms", "platform", "accepts", "token", "cursor", "room", "id", "body", "op",
     "position", "before", "around", "at", "reply_to", "thread", "mentions", "format",
     "after", "limit", "seq"]
)  # fmt: skip
values: st.SearchStrategy[object] = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.integers(-3, 1100), st.just(1.5),
    st.sampled_from([ID, ID.upper(), ROOM, "", "x", "all", "text", "base64", "aGk=", "aGl="]),
    st.lists(st.one_of(st.integers(-(2**31) - 1, 2**31), st.sampled_from([ROOM, "x", None])), max_size=3),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([2, 4, 7, 12, 14, 16, 22, 24, 26, 28, 30, 32, 34, 5, 9, 21, 99]),
    st.dictionaries(fields, values, max_size=5) | values,
)
def test_the_schema_and_the_parser_take_the_same_requests(op: int, body: object) -> None:
    raw = text.encode(op, 1, orjson.dumps(body))
    try:
        from_value(op, text.decode(raw)[2], raw)
    except ImcoreError:
        is_taken = False
    else:
        is_taken = True

    assert (faults("client_frame", orjson.loads(raw)) == []) is is_taken
