"""The bytes of events, for every form and carrier."""

from __future__ import annotations

import base64

import pytest

from comet.facts import happened, said
from comet.wires import CODECS, frames, inside, packets, positions
from imcore.comet import encode
from imcore.comet.encode import (
    FORM_JSON,
    FORM_OF,
    FORM_V1,
    FORM_V2,
    FRAME_BYTES_MAX,
    JSON_WS,
    V1_TCP,
    V1_WS,
    V2_TCP,
    V2_WS,
    Run,
)
from imcore.events.types import BASE64, ROOM, TEXT, MemberJoined, Recorded
from imcore.protocol.packet import Op

ROOM_7 = "group://7"
ANNA, BEN = 5, 6

FIRST = said(9, ROOM_7, '{"t":1}', mid=ANNA, key="k")
SECOND = said(11, ROOM_7, "2", mid=BEN, op=1001)
JOIN = happened(10, ROOM + ROOM_7, MemberJoined(room=ROOM_7, mid=BEN), mid=BEN)

FIRST_JSON = b'{"position":9,"room":"group://7","seq":9,"mid":5,"key":"k","time":1764000000000,"type":"message_sent","op":1000,"body":{"t":1}}'
SECOND_JSON = b'{"position":11,"room":"group://7","seq":11,"mid":6,"key":"","time":1764000000000,"type":"message_sent","op":1001,"body":2}'
assert (127, 122) == (len(FIRST_JSON), len(SECOND_JSON))

# A header is the packet's length, its own, version, operation and sequence.
FIRST_V1 = bytes.fromhex("00000017 0010 0001 000003e8 00000000") + b'{"t":1}'
SECOND_V1 = bytes.fromhex("00000011 0010 0001 000003e9 00000000") + b"2"
FIRST_V2 = bytes.fromhex("0000008f 0010 0002 00000015 00000000") + FIRST_JSON
SECOND_V2 = bytes.fromhex("0000008a 0010 0002 00000015 00000000") + SECOND_JSON
BATCH_V1 = bytes.fromhex("00000038 0010 0001 00000009 00000000") + FIRST_V1 + SECOND_V1
BATCH_V2 = bytes.fromhex("00000129 0010 0001 00000009 00000000") + FIRST_V2 + SECOND_V2


def test_the_bytes_of_one_event() -> None:
    run = Run([FIRST])

    assert FIRST_V1 == run.all(V1_TCP)
    assert b"\x82\x17" + FIRST_V1 == run.all(V1_WS)
    assert FIRST_V2 == run.all(V2_TCP)
    assert b"\x82\x7e\x00\x8f" + FIRST_V2 == run.all(V2_WS)
    assert b'\x81\x7e\x00\x98{"op":21,"seq":0,"body":' + FIRST_JSON + b"}" == run.all(JSON_WS)


def test_the_bytes_of_a_run() -> None:
    """Back to back on TCP; on a WebSocket one frame with a packet of operation 9, as goim has it."""
    run = Run([FIRST, SECOND])

    assert FIRST_V1 + SECOND_V1 == run.all(V1_TCP)
    assert b"\x82\x38" + BATCH_V1 == run.all(V1_WS)
    assert FIRST_V2 + SECOND_V2 == run.all(V2_TCP)
    assert b"\x82\x7e\x01\x29" + BATCH_V2 == run.all(V2_WS)
    assert (
        b'\x81\x7e\x01\x46{"op":9,"seq":0,"body":['
        b'{"op":21,"seq":0,"body":' + FIRST_JSON + b"},"
        b'{"op":21,"seq":0,"body":' + SECOND_JSON + b"}]}"
    ) == run.all(JSON_WS)


def test_version_1_shows_messages_only() -> None:
    assert b"" == encode.packet(JOIN, FORM_V1)
    assert b"" == Run([JOIN]).all(V1_TCP) == Run([JOIN]).all(V1_WS)
    assert b"\x82\x17" + FIRST_V1 == Run([FIRST, JOIN]).all(V1_WS), "one that is left is no batch"


@pytest.mark.parametrize("codec", [V2_TCP, V2_WS, JSON_WS])
def test_version_2_shows_everything(codec: int) -> None:
    assert [9, 10, 11] == positions(codec, Run([FIRST, JOIN, SECOND]).all(codec))


@pytest.mark.parametrize(
    ("event", "body"),
    [
        (said(1, ROOM_7, '{"t":"ž"}'), '{"t":"ž"}'.encode()),
        (said(1, ROOM_7, "any text", format_=TEXT), b"any text"),
        (said(1, ROOM_7, base64.b64encode(b"\x00\xff").decode(), format_=BASE64), b"\x00\xff"),
    ],
)
def test_version_1_gets_the_body_as_its_sender_gave_it(event: Recorded, body: bytes) -> None:
    (packet,) = packets(V1_TCP, Run([event]).all(V1_TCP))

    assert body == packet.body


# --- chosen ones -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_what_was_chosen_is_encoded_as_if_there_were_nothing_else(codec: int) -> None:
    run = Run([FIRST, SECOND])

    assert Run([FIRST]).all(codec) == run.some(codec, [True, False])
    assert run.all(codec) == run.some(codec, [True, True])
    assert b"" == run.some(codec, [False, False])


@pytest.mark.parametrize("codec", CODECS)
def test_messages_of_other_operations_are_left_out_and_facts_are_not(codec: int) -> None:
    run = Run([FIRST, JOIN, SECOND])

    assert Run([JOIN, SECOND]).all(codec) == run.accepted(codec, frozenset({1001, 7}))
    assert Run([JOIN]).all(codec) == run.accepted(codec, frozenset())


# --- shared ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_are_made_once_for_everybody(codec: int) -> None:
    run = Run([FIRST, SECOND])

    assert run.all(codec) is run.all(codec)
    assert run.all(codec) is run.accepted(codec, frozenset({1000, 1001, 1002})), (
        "who accepts all of it gets what all get"
    )
    assert run.accepted(codec, frozenset({1000})) is run.accepted(codec, frozenset({1000, 5}))


def test_an_event_is_encoded_once_a_form_whatever_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    packet = encode.packet

    def counted(event: Recorded, form: int) -> bytes:
        asked.append((event.position, form))
        return packet(event, form)

    monkeypatch.setattr(encode, "packet", counted)
    run = Run([FIRST, SECOND])

    for codec in CODECS:
        run.all(codec)
        run.some(codec, [True, False])
        run.accepted(codec, frozenset({1001}))

    assert [(position, form) for form in (FORM_V1, FORM_V2, FORM_JSON) for position in (9, 11)] == sorted(
        asked, key=lambda one: (one[1], one[0])
    )


# --- long runs ---------------------------------------------------------------------------------------------------------------


def packet_of(size: int, codec: int) -> bytes:
    """One that takes so many bytes in a frame."""
    body = "x" * (size - len(encode.packet(said(1, ROOM_7, " ", op=1000), FORM_OF[codec])) - 1)
    made = encode.packet(said(1, ROOM_7, f'"{body}"'), FORM_OF[codec])
    assert size == len(made)
    return made


def packets_a_frame(sizes: list[int], codec: int) -> list[int]:
    """How packets of these sizes are spread over frames; their order is kept."""
    made = [packet_of(size, codec) for size in sizes]
    data = encode.wire(made, codec)
    assert [packets(codec, encode.wire([one], codec))[0] for one in made] == packets(codec, data)
    return [len(inside(codec, frame)) for frame in frames(data)]


@pytest.mark.parametrize("codec", [V1_WS, V2_WS, JSON_WS])
def test_a_run_is_as_many_frames_as_it_takes(codec: int) -> None:
    rest = FRAME_BYTES_MAX - 20_000

    assert [3] == packets_a_frame([10_000, 10_000, rest - 1], codec)
    assert [3] == packets_a_frame([10_000, 10_000, rest], codec)
    assert [2, 1] == packets_a_frame([10_000, 10_000, rest + 1], codec)
    assert [2, 2, 1] == packets_a_frame([15_000] * 5, codec)


@pytest.mark.parametrize("codec", [V1_WS, V2_WS, JSON_WS])
def test_an_event_that_is_longer_than_a_frame_should_be_stands_alone(codec: int) -> None:
    small, large = 1_000, FRAME_BYTES_MAX + 1

    assert [1] == packets_a_frame([large], codec)
    assert [1, 2] == packets_a_frame([large, small, small], codec)
    assert [2, 1] == packets_a_frame([small, small, large], codec)


@pytest.mark.parametrize("codec", [V1_TCP, V2_TCP])
def test_on_tcp_a_run_needs_no_frames(codec: int) -> None:
    made = [packet_of(20_000, codec), packet_of(20_000, codec)]

    assert b"".join(made) == encode.wire(made, codec)


@pytest.mark.parametrize("codec", CODECS)
def test_nothing_is_no_bytes(codec: int) -> None:
    assert b"" == encode.wire([], codec)


# --- replies -----------------------------------------------------------------------------------------------------------------


def test_the_bytes_of_a_reply() -> None:
    version_1 = bytes.fromhex("00000012 0010 0001 00000003 00000007") + b"{}"
    version_2 = bytes.fromhex("00000012 0010 0002 00000003 00000007") + b"{}"

    assert version_1 == encode.reply(V1_TCP, Op.HEARTBEAT_REPLY, 7, b"{}")
    assert b"\x82\x12" + version_1 == encode.reply(V1_WS, Op.HEARTBEAT_REPLY, 7, b"{}")
    assert version_2 == encode.reply(V2_TCP, Op.HEARTBEAT_REPLY, 7, b"{}")
    assert b"\x82\x12" + version_2 == encode.reply(V2_WS, Op.HEARTBEAT_REPLY, 7, b"{}")
    assert b'\x81\x1a{"op":3,"seq":7,"body":{}}' == encode.reply(JSON_WS, Op.HEARTBEAT_REPLY, 7, b"{}")


def test_a_reply_without_a_body() -> None:
    assert bytes.fromhex("00000010 0010 0001 00000008 00000000") == encode.reply(V1_TCP, Op.AUTH_REPLY, 0, b"")
    assert b'\x81\x1c{"op":8,"seq":0,"body":null}' == encode.reply(JSON_WS, Op.AUTH_REPLY, 0, b"")
