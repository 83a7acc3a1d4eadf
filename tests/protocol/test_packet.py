"""Operations, limits and the names of rooms."""

from __future__ import annotations

import pytest

from imcore.errors import BadRequest
from imcore.protocol import packet
from imcore.protocol.packet import ROOM_BYTES_MAX, SHOWN_CHARS_MAX, Op, check_room, shown

GOIM = {
    "HANDSHAKE": 0, "HANDSHAKE_REPLY": 1, "HEARTBEAT": 2, "HEARTBEAT_REPLY": 3, "SEND": 4, "SEND_REPLY": 5,
    "DISCONNECT": 6,
    "AUTH": 7, "AUTH_REPLY": 8, "BATCH": 9, "PROTO_READY": 10, "PROTO_FINISH": 11, "CHANGE_ROOM": 12,
    "CHANGE_ROOM_REPLY": 13, "SUBSCRIBE": 14, "SUBSCRIBE_REPLY": 15, "UNSUBSCRIBE": 16, "UNSUBSCRIBE_REPLY": 17,
}  # fmt: skip
OURS = {
    "ERROR": 20, "EVENT": 21, "JOIN": 22, "JOIN_REPLY": 23, "LEAVE": 24, "LEAVE_REPLY": 25, "HISTORY": 26,
    "HISTORY_REPLY": 27, "READ": 28, "READ_REPLY": 29, "MEMBERS": 30, "MEMBERS_REPLY": 31, "INBOX": 32,
    "INBOX_REPLY": 33,
    "ACK": 34, "ACK_REPLY": 35, "REMOVED": 36, "CALL": 38, "CALL_REPLY": 39,
}  # fmt: skip


def test_operations_keep_their_numbers_for_ever() -> None:
    assert {op.name: op.value for op in Op} == GOIM | OURS


def test_a_reply_is_the_next_number() -> None:
    for op in Op:
        if op.name.endswith("_REPLY"):
            assert Op[op.name.removesuffix("_REPLY")] + 1 == op


def test_limits_are_the_ones_of_the_design() -> None:
    assert packet.HEADER_BYTES == 16
    assert packet.PACKET_BYTES_MAX == 64 * 1024
    assert packet.GOIM_BODY_BYTES_MAX == 4 * 1024
    assert packet.TEXT_BODY_BYTES_MAX == 16 * 1024
    assert packet.DEPTH_MAX == 32
    assert packet.ROOM_BYTES_MAX == 160
    assert packet.ACCEPTS_MAX == 1024
    assert packet.KEY_BYTES_MAX == 128
    assert packet.PAGE_ROWS_MAX == 500


@pytest.mark.parametrize(
    "room",
    [
        "live://1000",
        "g://a",
        "a" * 32 + "://x",
        "t_9://" + "x" * 128,
        "team://équipe-žluťoučký",
        "team://" + "é" * 64,
        "team://👩‍👩‍👧",
        "a" * 29 + "://" + "x" * 128,
        "live://a/../b",
        "live://a://b",
        "live://';DROP/**/TABLE/**/events;--",
        "live://%_$$*{{7*7}}",
    ],
)
def test_rooms_are_type_and_name(room: str) -> None:
    assert check_room(room) is room


@pytest.mark.parametrize(
    ("room", "fault"),
    [
        ("", "not of the form"),
        ("1000", "not of the form"),
        ("live:/1000", "not of the form"),
        ("://x", "the type"),
        ("Live://x", "the type"),
        ("9live://x", "the type"),
        ("_live://x", "the type"),
        ("live-x://x", "the type"),
        (" live://x", "the type"),
        ("a" * 33 + "://x", "the type"),
        ("live://", "empty"),
        ("live://a b", "white space"),
        ("live://a ", "white space"),
        ("live://a\n", "white space"),
        ("live://a\r\nSet-Cookie:x", "white space"),
        ("live://a\tb", "white space"),
        ("live://a\u00a0b", "white space"),
        ("live://a\u2028b", "white space"),
        ("live://a\u3000b", "white space"),
        ("live://a\0b", "control"),
        ("live://a\x1b[31m", "control"),
        ("live://a\x7f", "control"),
        ("live://a\x85b", "control"),
        ("live://a\ud800", "surrogate"),
        ("live://" + "x" * 129, "longer than 128 bytes"),
        ("live://" + "é" * 64 + "x", "longer than 128 bytes"),
        ("live://" + "é" * 128, "longer than 128 bytes"),
        ("a" * 30 + "://" + "x" * 128, "longer than 160 bytes"),
        ("a" * 32 + "://" + "é" * 63, "longer than 160 bytes"),
    ],
)
def test_a_bad_room_is_told_what_is_wrong_with_it(room: str, fault: str) -> None:
    with pytest.raises(BadRequest, match=fault):
        check_room(room)


def test_a_room_of_exactly_the_limit_passes() -> None:
    room = "a" * 32 + "://" + "x" * 125
    assert len(room) == ROOM_BYTES_MAX
    assert check_room(room) == room
    with pytest.raises(BadRequest):
        check_room(room + "x")


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "\x1b[2J" * 1000, "é" * 1000, "\n" * 1000, "'\"\\" * 1000, "\ud800" * 90]
)
def test_an_error_repeats_little_of_the_input_and_nothing_that_a_terminal_obeys(text: str) -> None:
    said = shown(text)

    assert len(said) <= SHOWN_CHARS_MAX
    assert said.isascii()
    assert said.isprintable()
    with pytest.raises(BadRequest) as caught:
        check_room(text)
    assert caught.value.detail.isascii()
    assert len(caught.value.detail) < 200
