"""RFC 6455 as a server reads it: a table of cases by what they are, after the groups of the Autobahn test suite.

Each case is a client's bytes, what must come out,
and the close code that must follow (None: the connection goes on). Every case is
read three times: at once, byte by byte, and cut in two at each place; the outcome must be the same.
"""

from __future__ import annotations

import base64
import hashlib
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imcore.errors import BadRequest
from imcore.protocol.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    FrameDecoder,
    accept_key,
    check_key,
    close_frame,
    frame,
    pong,
)
from protocol.frames import FIN, KEY, RSV1, RSV2, RSV3, client_close, client_frame, header, masked

MAX = 4096
KAPPA = "κόσμε".encode()  # from Autobahn's 6.2


@dataclass(frozen=True)
class Case:
    """A client's bytes, and what they must come to."""

    name: str
    data: bytes
    out: list[tuple[int, bytes]] = field(default_factory=list)
    close: int | None = None
    opcode: int = TEXT


def text(payload: bytes, *, fin: bool = True) -> bytes:
    return client_frame(TEXT, payload, fin=fin)


def more(payload: bytes, *, fin: bool = True) -> bytes:
    return client_frame(CONTINUATION, payload, fin=fin)


SIZES = (0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, MAX - 1, MAX)

# 1: messages in one frame
MESSAGES = [
    *[Case(f"text of {n} bytes", text(b"*" * n), [(TEXT, b"*" * n)]) for n in SIZES],
    *[
        Case(f"binary of {n} bytes", client_frame(BINARY, b"\xfe" * n), [(BINARY, b"\xfe" * n)], opcode=BINARY)
        for n in SIZES
    ],
    Case("a mask of zeros", client_frame(TEXT, b"hello", key=bytes(4)), [(TEXT, b"hello")]),
    Case("a mask with a zero in it", client_frame(TEXT, b"hello", key=b"\0\1\0\2"), [(TEXT, b"hello")]),
    Case("three messages", text(b"a") + text(b"") + text(b"c"), [(TEXT, b"a"), (TEXT, b""), (TEXT, b"c")]),
    Case("the example of RFC 6455, 5.7", bytes.fromhex("818537fa213d7f9f4d5158"), [(TEXT, b"Hello")]),
]

# 2: pings and pongs
PINGS = [
    Case("an empty ping", client_frame(PING), [(PING, b"")]),
    Case("a ping with a payload", client_frame(PING, b"ping"), [(PING, b"ping")]),
    Case("a ping with bytes that are no text", client_frame(PING, b"\0\xff\xfe"), [(PING, b"\0\xff\xfe")]),
    Case("a ping of 125 bytes", client_frame(PING, b"\xfe" * 125), [(PING, b"\xfe" * 125)]),
    Case("a ping of 126 bytes", client_frame(PING, b"\xfe" * 126), close=1002),
    Case("a ping of 70,000 bytes", client_frame(PING, b"x" * 70_000)[:20], close=1002),
    Case("a pong that nobody asked for", client_frame(PONG, b"x") + client_frame(PING), [(PONG, b"x"), (PING, b"")]),
    Case("ten pings", client_frame(PING, b"p") * 10, [(PING, b"p")] * 10),
    Case("a close of 126 bytes", client_frame(CLOSE, b"\x03\xe8" + b"x" * 124), close=1002),
]

# 3: reserved bits (no extension is ever negotiated: RSV1 is no compression here)
RESERVED_BITS = [
    *[
        Case(
            f"bits {rsv >> 4:03b} in {name}",
            text(b"a") + client_frame(op, b"x", rsv=rsv) + text(b"b"),
            [(TEXT, b"a")],
            1002,
        )
        for rsv in (RSV1, RSV2, RSV3, RSV1 | RSV2, RSV1 | RSV3, RSV2 | RSV3, RSV1 | RSV2 | RSV3)
        for op, name in ((TEXT, "a text"), (PING, "a ping"))
    ],
    Case("a reserved bit in a close", client_frame(CLOSE, b"", rsv=RSV3), close=1002),
    Case("a reserved bit in a continuation", text(b"a", fin=False) + client_frame(CONTINUATION, rsv=RSV1), close=1002),
    Case("a reserved bit in a fragment", client_frame(TEXT, b"a", fin=False, rsv=RSV2), close=1002),
]

# 4: reserved opcodes
RESERVED_OPCODES = [
    *[
        Case(f"opcode {op}", text(b"a") + client_frame(op, b"x"), [(TEXT, b"a")], 1002)
        for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    ],
    *[Case(f"opcode {op}, empty", client_frame(op), close=1002) for op in (3, 7, 11, 15)],
    Case("opcode 3 as a fragment", client_frame(3, fin=False), close=1002),
    Case("opcode 5 in a fragmented message", text(b"a", fin=False) + client_frame(5), close=1002),
]

# 5: fragments
FRAGMENTS = [
    Case("two fragments", text(b"hel", fin=False) + more(b"lo"), [(TEXT, b"hello")]),
    Case("five fragments", text(b"a", fin=False) + more(b"b", fin=False) * 3 + more(b"c"), [(TEXT, b"abbbc")]),
    Case("empty fragments", text(b"", fin=False) + more(b"", fin=False) * 9 + more(b""), [(TEXT, b"")]),
    Case("an empty first fragment", text(b"", fin=False) + more(b"x"), [(TEXT, b"x")]),
    Case("an empty last fragment", text(b"x", fin=False) + more(b""), [(TEXT, b"x")]),
    Case(
        "binary fragments",
        client_frame(BINARY, b"\xff", fin=False) + more(b"\0", fin=False) + more(b"\xfe"),
        [(BINARY, b"\xff\0\xfe")],
        opcode=BINARY,
    ),
    Case(
        "a ping between fragments",
        text(b"a", fin=False) + client_frame(PING, b"p") + more(b"b"),
        [(PING, b"p"), (TEXT, b"ab")],
    ),
    Case(
        "a ping and a pong between many",
        text(b"a", fin=False)
        + client_frame(PING)
        + more(b"b", fin=False)
        + client_frame(PONG)
        + more(b"c")
        + text(b"d"),
        [(PING, b""), (PONG, b""), (TEXT, b"abc"), (TEXT, b"d")],
    ),
    Case("a close between fragments", text(b"a", fin=False) + client_close(1000) + more(b"b"), [(CLOSE, b"\x03\xe8")]),
    Case("a ping in fragments", client_frame(PING, b"a", fin=False) + more(b"b"), close=1002),
    Case("a pong in fragments", client_frame(PONG, b"a", fin=False) + more(b"b"), close=1002),
    Case("a close in fragments", client_frame(CLOSE, b"\x03", fin=False) + more(b"\xe8"), close=1002),
    Case("a continuation first", more(b"x"), close=1002),
    Case("an unfinished continuation first", more(b"x", fin=False), close=1002),
    Case("a continuation after a message", text(b"a") + more(b"x"), [(TEXT, b"a")], 1002),
    Case(
        "a continuation after a fragmented message",
        text(b"a", fin=False) + more(b"b") + more(b"x"),
        [(TEXT, b"ab")],
        1002,
    ),
    Case("a message in a fragmented one", text(b"a", fin=False) + text(b"b"), close=1002),
    Case("a message after an empty first fragment", text(b"", fin=False) + text(b"b"), close=1002),
    Case("a fragment in a fragmented message", text(b"a", fin=False) + text(b"b", fin=False), close=1002),
    Case("the other kind in a fragmented message", text(b"a", fin=False) + client_frame(BINARY, b"b"), close=1002),
]

# 6: UTF-8
GOOD_TEXT = {
    "Greek": KAPPA,
    "two, three and four bytes": "é€😀".encode(),
    "the first and last of each length": "\x00\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff".encode(),
    "around the surrogates": "\ud7ff\ue000".encode(),
    "the replacement character": "\ufffd".encode(),
    "non-characters": "\ufdd0\ufffe\U0001ffff".encode(),
    "right to left, zero width": "\u202e\u200b\u200d".encode(),
}
BAD_TEXT = {
    "a surrogate": b"\xed\xa0\x80",
    "a pair of surrogates": b"\xed\xa0\xbd\xed\xb8\x80",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xc0\x80",
    "an overlong in three": b"\xe0\x80\xaf",
    "an overlong in four": b"\xf0\x80\x80\xaf",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "a first byte F5": b"\xf5\x80\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "FF": b"\xff",
    "a continuation byte alone": b"\x80",
    "a character cut short": b"\xce",
    "a character cut by ASCII": b"\xe2\x82a",
    "good, bad, good": KAPPA + b"\xed\xa0\x80" + b"edited",
}
TEXTS = [
    *[Case(f"text: {name}", text(payload), [(TEXT, payload)]) for name, payload in GOOD_TEXT.items()],
    *[
        Case(
            f"text, a fragment a byte: {name}",
            text(b"", fin=False) + b"".join(more(bytes((octet,)), fin=False) for octet in payload) + more(b""),
            [(TEXT, payload)],
        )
        for name, payload in GOOD_TEXT.items()
    ],
    *[
        Case(f"bad text: {name}", text(b"a") + text(payload), [(TEXT, b"a")], 1007)
        for name, payload in BAD_TEXT.items()
    ],
    *[
        Case(f"bad text in fragments: {name}", text(payload[:1], fin=False) + more(payload[1:]), close=1007)
        for name, payload in BAD_TEXT.items()
    ],
    Case("bad text is found at its fragment", text(KAPPA, fin=False) + more(b"\xed\xa0\x80", fin=False), close=1007),
    Case("good text after a bad start of a character", text(b"\xce", fin=False) + more(b"\xba"), [(TEXT, b"\xce\xba")]),
    Case(
        "a character over a ping",
        text(b"\xce", fin=False) + client_frame(PING) + more(b"\xba"),
        [(PING, b""), (TEXT, b"\xce\xba")],
    ),
    Case(
        "a message after one that ended well",
        text(b"\xce", fin=False) + more(b"\xba") + text(KAPPA),
        [(TEXT, b"\xce\xba"), (TEXT, KAPPA)],
    ),
    Case("binary may be anything", client_frame(BINARY, b"\xed\xa0\x80"), [(BINARY, b"\xed\xa0\x80")], opcode=BINARY),
]


# 7: closing
def closes(payload: bytes) -> list[tuple[int, bytes]]:
    return [(CLOSE, payload)]


GOOD_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
BAD_CODES = (0, 1, 999, 1004, 1005, 1006, 1012, 1013, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
CLOSING = [
    Case("a close that says nothing", client_frame(CLOSE), closes(b"")),
    Case("a close of one byte", client_frame(CLOSE, b"\x03"), close=1002),
    Case("a close with a reason", client_close(1000, b"bye"), closes(b"\x03\xe8bye")),
    Case("a close with the longest reason", client_close(1000, b"*" * 123), closes(b"\x03\xe8" + b"*" * 123)),
    Case("a close with a reason in Greek", client_close(1000, KAPPA), closes(b"\x03\xe8" + KAPPA)),
    Case("a close with a reason that is no text", client_close(1000, b"\xed\xa0\x80"), close=1007),
    Case("a close with a bad code and a bad reason", client_close(1005, b"\xff"), close=1002),
    *[Case(f"close {code}", client_close(code), closes(code.to_bytes(2, "big"))) for code in GOOD_CODES],
    *[
        Case(f"close {code} may not be sent", text(b"a") + client_close(code), [(TEXT, b"a")], 1002)
        for code in BAD_CODES
    ],
    Case("a message after a close", client_close(1000) + text(b"x"), closes(b"\x03\xe8")),
    Case("two closes", client_close(1000) * 2, closes(b"\x03\xe8")),
    Case("a ping after a close", client_close(1000) + client_frame(PING), closes(b"\x03\xe8")),
    Case("junk after a close", client_close(1000) + b"\xff" * 100, closes(b"\x03\xe8")),
]

# 5.1, 5.2: masks and lengths
HEADERS = [
    Case("an unmasked text", text(b"a") + frame(TEXT, b"x"), [(TEXT, b"a")], 1002),
    Case("an unmasked ping", frame(PING, b""), close=1002),
    Case("an unmasked close", frame(CLOSE, b""), close=1002),
    Case("an unmasked continuation", text(b"a", fin=False) + frame(CONTINUATION, b""), close=1002),
    Case("5 bytes in the form of 2", header(FIN | TEXT, 5, form=126) + KEY + masked(b"hello"), close=1002),
    Case("125 bytes in the form of 2", header(FIN | TEXT, 125, form=126), close=1002),
    Case("5 bytes in the form of 8", header(FIN | TEXT, 5, form=127), close=1002),
    Case("65,535 bytes in the form of 8", header(FIN | TEXT, 65_535, form=127), close=1002),
    Case("a length of -1", header(FIN | TEXT, 2**64 - 1, form=127), close=1002),
    Case("a length with the first bit set", header(FIN | TEXT, 2**63, form=127), close=1002),
    Case("a message one byte too large", header(FIN | TEXT, MAX + 1), close=1009),
    Case("a message of 2**63 - 1 bytes", header(FIN | TEXT, 2**63 - 1), close=1009),
    Case("a fragment one byte too large", header(TEXT, MAX + 1), close=1009),
    Case(
        "fragments of the greatest size",
        text(b"x" * (MAX - 1), fin=False) + more(b"y"),
        [(TEXT, b"x" * (MAX - 1) + b"y")],
    ),
    Case("fragments one byte too large", text(b"x" * MAX, fin=False) + header(FIN | CONTINUATION, 1), close=1009),
    Case(
        "a ping in a fragmented message of the greatest size",
        text(b"x" * MAX, fin=False) + client_frame(PING, b"p") + more(b""),
        [(PING, b"p"), (TEXT, b"x" * MAX)],
    ),
    Case("binary where text belongs", text(b"a") + client_frame(BINARY, b"x"), [(TEXT, b"a")], 1003),
    Case("text where binary belongs", text(b"x"), close=1003, opcode=BINARY),
    Case("a fragment of binary where text belongs", client_frame(BINARY, b"x", fin=False), close=1003),
]

CASES = [*MESSAGES, *PINGS, *RESERVED_BITS, *RESERVED_OPCODES, *FRAGMENTS, *TEXTS, *CLOSING, *HEADERS]


def read(
    pieces: Iterable[bytes], opcode: int = TEXT, message_bytes_max: int = MAX
) -> tuple[list[tuple[int, bytes]], int | None]:
    decoder = FrameDecoder(message_bytes_max, opcode)
    out = [message for piece in pieces for message in decoder.feed(piece)]
    if decoder.error is not None:
        assert decoder.feed(text(b"later")) == []
        code, reason = decoder.error
        assert 0 < len(reason) <= 123, "it has to fit into a close frame"
        return out, code
    return out, None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_framing(case: Case) -> None:
    assert read([case.data], case.opcode) == (case.out, case.close)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_framing_byte_by_byte(case: Case) -> None:
    assert read((bytes((octet,)) for octet in case.data), case.opcode) == (case.out, case.close)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_framing_cut_in_two(case: Case) -> None:
    step = max(1, len(case.data) // 200)
    for cut in range(0, len(case.data) + 1, step):
        assert read([case.data[:cut], case.data[cut:]], case.opcode) == (case.out, case.close), cut


def test_every_group_has_its_cases() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert len(names) > 180


# --- one by one ------------------------------------------------------------------------------------------------------


def test_a_message_too_large_is_refused_by_its_header() -> None:
    """Before the mask and before any of the payload."""
    whole = header(FIN | TEXT, MAX + 1)

    assert read([whole[:-1]]) == ([], None)
    assert read([whole]) == ([], 1009)


@pytest.mark.parametrize("length", [65_535, 65_536, 65_537, 70_000])
def test_messages_with_a_length_of_8_bytes(length: int) -> None:
    payload = bytes(n % 251 for n in range(length))

    assert read([client_frame(BINARY, payload)], BINARY, 70_000) == ([(BINARY, payload)], None)
    assert read([client_frame(BINARY, payload)], BINARY, length - 1) == ([], 1009)


@pytest.mark.parametrize("length", range(20))
def test_a_mask_goes_over_every_length(length: int) -> None:
    payload = bytes(range(200, 200 + length))
    for key in (b"\1\2\3\4", b"\0\0\0\1", b"\xff\xff\xff\xff", bytes(4)):
        assert read([client_frame(BINARY, payload, key=key)], BINARY) == ([(BINARY, payload)], None)


def test_a_million_empty_fragments_cost_no_memory() -> None:
    """In one fragmented message, 1,000 frames a feed. (A tenth of it here: it is linear.)"""
    decoder = FrameDecoder(MAX, TEXT)
    decoder.feed(text(b"a", fin=False))
    thousand = more(b"", fin=False) * 1000
    tracemalloc.start()
    try:
        for _ in range(100):
            assert decoder.feed(thousand) == []
        assert tracemalloc.get_traced_memory()[0] < 20_000
    finally:
        tracemalloc.stop()
    assert decoder.feed(more(b"b")) == [(TEXT, b"ab")]


def test_fragments_of_one_byte_are_kept_as_one_message() -> None:
    decoder = FrameDecoder(65_536, TEXT)
    decoder.feed(text(b"", fin=False))
    tracemalloc.start()
    try:
        for _ in range(600):
            decoder.feed(more(b"xy", fin=False) * 50)
        assert tracemalloc.get_traced_memory()[0] < 3 * 65_536
    finally:
        tracemalloc.stop()
    assert decoder.feed(more(b"")) == [(TEXT, b"xy" * 30_000)]


def test_after_an_error_nothing_is_kept() -> None:
    decoder = FrameDecoder(MAX, TEXT)
    decoder.feed(text(b"x" * MAX, fin=False) + frame(TEXT, b""))
    for _ in range(100):
        assert decoder.feed(bytes(100_000)) == []

    assert decoder._parts is None
    assert len(decoder._tail) == 0


# --- what the server sends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x00"),
        (125, b"\x7d"),
        (126, b"\x7e\x00\x7e"),
        (65_535, b"\x7e\xff\xff"),
        (65_536, b"\x7f\0\0\0\0\0\x01\0\0"),
    ],
)
def test_a_frame_is_final_unmasked_and_as_short_as_it_can_be(opcode: int, length: int, head: bytes) -> None:
    assert frame(opcode, b"x" * length) == bytes((FIN | opcode,)) + head + b"x" * length


def test_the_bytes_of_control_frames() -> None:
    assert pong(b"Hello") == bytes.fromhex("8a0548656c6c6f")  # RFC 6455, 5.7
    assert close_frame(1000, "") == bytes.fromhex("880203e8")
    assert close_frame(4008, "slow") == bytes.fromhex("88060fa8") + b"slow"


def test_a_long_reason_is_cut_between_characters() -> None:
    assert close_frame(1000, "x" * 200) == bytes.fromhex("887d03e8") + b"x" * 123
    assert close_frame(1000, "é" * 100) == bytes.fromhex("887c03e8") + "é".encode() * 61


def test_a_control_frame_that_is_too_long_is_a_bug_of_ours() -> None:
    with pytest.raises(AssertionError):
        pong(b"x" * 126)


# --- the handshake ---------------------------------------------------------------------------------------------------


def test_the_key_of_the_rfc() -> None:
    check_key("dGhlIHNhbXBsZSBub25jZQ==")
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, 1.3


@given(st.binary(min_size=16, max_size=16))
def test_any_16_bytes_are_a_key(nonce: bytes) -> None:
    key = base64.b64encode(nonce).decode()
    check_key(key)
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    assert accept_key(key) == base64.b64encode(hashlib.sha1(key.encode() + guid).digest()).decode()


NO_KEYS = [
    "", "x", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ== ", "dGhlIHNhbXBsZSBub25jZQ==\r\nX: y", "é" * 24,
    "A" * 24,
    "AAAA", "=" * 24,
]  # fmt: skip


@pytest.mark.parametrize("key", NO_KEYS)
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(BadRequest):
        check_key(key)


# --- noise -----------------------------------------------------------------------------------------------------------

frames = st.one_of(
    st.binary(max_size=30),
    st.builds(
        client_frame,
        st.sampled_from([CONTINUATION, TEXT, TEXT, BINARY, CLOSE, PING, PONG, 3, 11]),
        st.one_of(st.binary(max_size=8), st.text(max_size=8).map(str.encode), st.binary(min_size=120, max_size=140)),
        fin=st.booleans(),
        rsv=st.sampled_from([0, 0, 0, 0, 0, RSV1]),
        key=st.binary(min_size=4, max_size=4),
    ),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 10_000), max_size=10), st.sampled_from([TEXT, BINARY]))
def test_noise_raises_nothing_and_splits_alike(pieces: list[bytes], cuts: list[int], opcode: int) -> None:
    data = b"".join(pieces)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]

    out, code = read([data], opcode, 128)

    assert (out, code) == read([data[start:stop] for start, stop in pairwise(places)], opcode, 128)
    assert code in (None, 1002, 1003, 1007, 1009)
    for kind, payload in out:
        assert kind in (opcode, PING, PONG, CLOSE)
        assert len(payload) <= 128
        if kind == TEXT:
            payload.decode()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4), st.binary(min_size=4, max_size=4)
        ),
        max_size=5,
    ),
    st.lists(st.integers(0, 10_000), max_size=10),
)
def test_messages_arrive_as_they_were_sent(sent: list[tuple[bytes, list[int], bytes]], cuts: list[int]) -> None:
    """However they are fragmented, masked and split."""
    data = b""
    for payload, parts, key in sent:
        places = [0, *sorted(part % (len(payload) + 1) for part in parts), len(payload)]
        fragments = [payload[start:stop] for start, stop in pairwise(places)]
        for n, fragment in enumerate(fragments):
            is_last = n == len(fragments) - 1
            data += client_frame(CONTINUATION if n else BINARY, fragment, fin=is_last, key=key)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]

    got = read([data[start:stop] for start, stop in pairwise(places)], BINARY)

    assert got == ([(BINARY, payload) for payload, _, _ in sent], None)
