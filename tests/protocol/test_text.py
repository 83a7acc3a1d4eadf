"""The JSON form: what is a packet, and what is not."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imcore.errors import BadPacket
from imcore.protocol.text import decode, encode, encode_batch

INT32 = st.integers(-(2**31), 2**31 - 1)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
).filter(lambda value: "\\ud" not in json.dumps(value))


@given(INT32, INT32, JSON)
def test_what_is_encoded_is_decoded(op: int, seq: int, body: object) -> None:
    assert decode(encode(op, seq, orjson.dumps(body))) == (op, seq, body)


def test_the_bytes_of_a_packet() -> None:
    assert encode(5, 7, b'{"position":12,"seq":3}') == b'{"op":5,"seq":7,"body":{"position":12,"seq":3}}'
    assert encode_batch([encode(21, 0, b"1"), encode(21, 0, b"2")]) == (
        b'{"op":9,"seq":0,"body":[{"op":21,"seq":0,"body":1},{"op":21,"seq":0,"body":2}]}'
    )


def test_sequence_and_body_may_be_left_out() -> None:
    assert decode(b'{"op":2}') == (2, 0, None)
    assert decode(b'{"seq":9,"op":2}') == (2, 9, None)


def test_keys_in_any_order_white_space_and_unknown_keys() -> None:
    assert decode(b'\n{ "x" : {"op":1}, "body" : [1] ,\t"op" : 4 , "seq" : -1 }\r\n') == (4, -1, [1])


@pytest.mark.parametrize("value", [-(2**31), -1, 0, 2**31 - 1])
def test_operation_and_sequence_are_32_bits(value: int) -> None:
    assert decode(b'{"op":%d,"seq":%d}' % (value, value)) == (value, value, None)


@pytest.mark.parametrize(
    "value",
    ["2147483648", "-2147483649", "1e3", "1.0", "true", "false", "null", '"4"', "[4]", "{}", "18446744073709551616"],
)
def test_operation_and_sequence_are_nothing_but_integers(value: str) -> None:
    with pytest.raises(BadPacket, match=r"^op "):
        decode(f'{{"op":{value}}}'.encode())
    with pytest.raises(BadPacket, match=r"^seq "):
        decode(f'{{"op":2,"seq":{value}}}'.encode())


NOT_PACKETS = {
    "nothing": b"",
    "white space": b"  ",
    "no op": b"{}",
    "a number": b"4",
    "a string": b'"op"',
    "null": b"null",
    "a list": b'[{"op":2}]',
    "cut short": b'{"op":2',
    "bytes after": b'{"op":2}x',
    "two packets": b'{"op":2}{"op":2}',
    "not a number": b'{"op":2,"body":NaN}',
    "infinity": b'{"op":2,"body":Infinity}',
    "too great for a float": b'{"op":2,"body":1e400}',
    "5,000 digits": b'{"op":2,"body":' + b"1" * 5000 + b"}",
    "a BOM": b'\xef\xbb\xbf{"op":2}',
    "UTF-16": '{"op":2}'.encode("utf-16"),
    "UTF-16 without a BOM": '{"op":2}'.encode("utf-16-le"),
    "a surrogate in bytes": b'{"op":2,"body":"\xed\xa0\x80"}',
    "an overlong NUL": b'{"op":2,"body":"\xc0\x80"}',
    "beyond Unicode": b'{"op":2,"body":"\xf5\x80\x80\x80"}',
    "a character cut short": b'{"op":2,"body":"\xe2\x82"}',
    "a lone surrogate": rb'{"op":2,"body":"\ud800"}',
    "a lone low surrogate": rb'{"op":2,"body":"\udc00"}',
    "a NUL in bytes": b'{"op":2,"body":"\0"}',
    "a line break in a string": b'{"op":2,"body":"\n"}',
    "single quotes": b"{'op':2}",
    "a comment": b'{"op":2}//',
    "a comma too many": b'{"op":2,}',
    "1,025 deep": b'{"op":2,"body":' + b"[" * 1025 + b"]" * 1025 + b"}",
    "100,000 deep": b'{"op":2,"body":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 deep and open": b"[" * 100_000,
}


@pytest.mark.parametrize("data", NOT_PACKETS.values(), ids=NOT_PACKETS.keys())
def test_what_is_not_a_packet_is_refused(data: bytes) -> None:
    with pytest.raises(BadPacket) as caught:
        decode(data)
    assert len(caught.value.detail) < 200


@given(st.binary(max_size=100) | st.text(alphabet='{}[]":,opseqbdy0123456789 \\u', max_size=60).map(str.encode))
def test_noise_raises_nothing_but_bad_packet(data: bytes) -> None:
    try:
        op, seq, _ = decode(data)
    except BadPacket:
        return
    assert type(op) is int
    assert type(seq) is int
