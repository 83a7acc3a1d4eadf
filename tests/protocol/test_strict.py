r"""What JSON may not hold: the matrix by name, and a slow judge that must always agree.

The judge reads with the standard library, keeps every pair,
and walks the result. The real check reads nothing twice if it can help
it; random texts full of escapes, white space,
long numbers and repeated keys show that its short ways never miss anything.
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext, suppress

import orjson
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from imcore.errors import BadRequest, ImcoreError, InvalidText
from imcore.protocol import text
from imcore.protocol.packet import DEPTH_MAX, PACKET_BYTES_MAX
from imcore.protocol.requests import Request, Send, from_packet, from_value
from imcore.protocol.strict import check_json

ID = "0190a5d2-7c1e-7b3a-9f00-1234567890ab"


def verdict(raw: bytes) -> type[ImcoreError] | None:
    try:
        check_json(raw, orjson.loads(raw))
    except ImcoreError as error:
        return type(error)
    return None


def in_packet(body: bytes) -> Request:
    """A send in the binary form."""
    return from_packet(4, body, 2)


def in_frame(body: bytes) -> Request:
    """A send in the JSON form."""
    raw = text.encode(4, 7, body)
    return from_value(4, text.decode(raw)[2], raw)


def in_another_frame(body: bytes) -> Request:
    """A send in the JSON form, as few write it."""
    raw = b'{ "body" : %b, "op" : 4 }' % body
    return from_value(4, text.decode(raw)[2], raw)


class Pairs(list[tuple[str, object]]):
    """An object, with all its pairs."""


def judge(value: object, depth: int = 0) -> set[str]:
    """Everything that is wrong, the slow way."""
    if isinstance(value, str):
        return {"nul"} if "\0" in value else set()
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return {"integer"}
    if not isinstance(value, list):
        return set()
    faults = {"depth"} if depth == DEPTH_MAX else set()
    inner: list[object] = list(value)
    if isinstance(value, Pairs):
        keys = [key for key, _ in value]
        if len(set(keys)) < len(keys):
            faults.add("twice")
        inner = [*keys, *(one for _, one in value)]
    return faults.union(*(judge(one, depth + 1) for one in inner)) if inner else faults


def kind(faults: set[str]) -> type[ImcoreError] | None:
    return InvalidText if "nul" in faults else BadRequest if faults else None


# --- the matrix ------------------------------------------------------------------------------------------------------

REFUSED = {
    "U+0000 in a value": (rb'{"a":"x\u0000y"}', InvalidText),
    "U+0000 in a key": (rb'{"a\u0000":1}', InvalidText),
    "U+0000 in a nested key": (rb'{"a":[{"\u0000":1}]}', InvalidText),
    "U+0000 after an escaped backslash": (rb'["\\\u0000"]', InvalidText),
    "U+0000 after an escaped backslash and text": (rb'["\\u0000\\\\\u0000"]', InvalidText),
    "33 lists": (b"[" * 33 + b"]" * 33, BadRequest),
    "33 objects": (b'{"a":' * 33 + b"1" + b"}" * 33, BadRequest),
    "33 of both": (b'[{"a":' * 16 + b"[1]" + b"}]" * 16, BadRequest),
    "33 deep, late": (b"[" + b"[],{}," * 500 + b"[" * 32 + b"]" * 32 + b"]", BadRequest),
    "1,000 deep": (b"[" * 1000 + b"]" * 1000, BadRequest),
    "2**63": (b"[9223372036854775808]", BadRequest),
    "-2**63 - 1": (b"[-9223372036854775809]", BadRequest),
    "2**64 - 1": (b"[18446744073709551615]", BadRequest),
    "2**64": (b'{"a":18446744073709551616}', BadRequest),
    "2**64 with white space": (b'{"a" :\n18446744073709551616\t}', BadRequest),
    "alone": (b"18446744073709551616", BadRequest),
    "300 digits": (b"[" + b"7" * 300 + b"]", BadRequest),
    "a key twice": (b'{"room":1,"room":2}', BadRequest),
    "a key twice, spelled with an escape": (rb'{"room":1,"\u0072oom":2}', BadRequest),
    "a key twice, with an escaped slash": (rb'{"a/b":1,"a\/b":2}', BadRequest),
    "a key twice, far apart": (b'{"id":1,' + b",".join(b'"k%d":0' % n for n in range(500)) + b',"id":2}', BadRequest),
    "a key twice, deep": (b'{"a":[{"b":{"c":1,"c":1}}]}', BadRequest),
    "the empty key twice": (b'{"":1,"":2}', BadRequest),
    "a key with a mark, twice": (rb'{"a\"":1,"a\u0022":2}', BadRequest),
    "a key twice, marks evened out": (rb'{"a":1,"a":2,"b":"\u0022\u0022"}', BadRequest),
    "a key twice, a dropped object": (b'{"a":{"x":1},"a":1}', BadRequest),
}
PASSED = {
    "an escaped backslash before u0000": rb'["\\u0000"]',
    "two escaped backslashes before u0000": rb'["\\\\u0000"]',
    "U+0001": rb'["\u0001"]',
    "u0000 as text": b'["u0000"]',
    "32 lists": b"[" * 32 + b"]" * 32,
    "32 objects": b'{"a":' * 32 + b"1" + b"}" * 32,
    "a thousand lists side by side": b"[" + b"[]," * 1000 + b"[]]",
    "brackets in strings": b'["' + b"[{" * 100 + b'"]',
    "brackets after an escaped mark": rb'["\"' + b"[" * 100 + rb'\\"]',
    "2**63 - 1": b"[9223372036854775807]",
    "-2**63": b"[-9223372036854775808]",
    "2**53 + 1": b"[9007199254740993]",
    "19 digits": b'{"id":1234567890123456789}',
    "long digits in a string": b'["18446744073709551616"]',
    "long digits as a key": b'{"18446744073709551616":1}',
    "a number in a string with commas around": b'["a,18446744073709551616,b"]',
    "a long fraction": b"[3.14159265358979323846264338327950288]",
    "a long whole part": b"[314159265358979323846264338327950288.5]",
    "a long number with an exponent": b"[18446744073709551616e1]",
    "a long exponent": b"[1e00000000000000000000000001]",
    "an exponent after a fraction": b"[1.18446744073709551616e-18]",
    "zero with a sign": b"[-0]",
    "equal keys in objects side by side": b'[{"room":1},{"room":2}]',
    "equal keys above and below": b'{"room":{"room":{"room":1}}}',
    "keys that differ in case": b'{"room":1,"Room":2}',
    "keys that look alike": '{"é":1,"e\u0301":2}'.encode(),
    "a key as a value": b'{"room":"room","a":"\\"room\\""}',
    "a mark by its number": rb'{"a":"\u0022","b":"\u0022"}',
    "escapes": rb'{"a":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}',
    "__proto__": b'{"__proto__":1,"constructor":2}',
    "a scalar": b"1",
    "a string alone": b'"x"',
}


@pytest.mark.parametrize(("raw", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(raw: bytes, error: type[ImcoreError]) -> None:
    assert verdict(raw) is error


@pytest.mark.parametrize("raw", PASSED.values(), ids=PASSED.keys())
def test_passed(raw: bytes) -> None:
    assert verdict(raw) is None


@pytest.mark.parametrize(("raw", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_in_a_message_in_either_form(raw: bytes, error: type[ImcoreError]) -> None:
    if raw.startswith(b"[" * 33):
        raw = raw[1:-1]  # the request is one level
    body = b'{"id":"%b","body":%b}' % (ID.encode(), raw)
    for form in (in_packet, in_frame, in_another_frame):
        with pytest.raises(error):
            form(body)


@pytest.mark.parametrize("raw", PASSED.values(), ids=PASSED.keys())
def test_passed_in_a_message_in_either_form(raw: bytes) -> None:
    if raw in (PASSED["32 lists"], PASSED["32 objects"]):
        raw = raw[1:-1] if raw.startswith(b"[") else raw[5:-1]  # the request is one level
    body = b'{"id":"%b","body":%b}' % (ID.encode(), raw)
    wanted = Send("", ID, orjson.dumps(orjson.loads(raw)).decode(), 1000)

    assert in_packet(body) == in_frame(body) == in_another_frame(body) == wanted


def test_both_forms_take_the_same_depth() -> None:
    """The packet around a request is no level of it."""
    for levels, passes in ((DEPTH_MAX - 1, True), (DEPTH_MAX, False)):
        body = b'{"id":"%b","body":%b}' % (ID.encode(), b"[" * levels + b"]" * levels)
        for form in (in_packet, in_frame):
            with nullcontext() if passes else pytest.raises(BadRequest, match="nested deeper"):
                form(body)


@pytest.mark.parametrize(
    "frame",
    [
        '{"op":4,"op":4,"seq":1,"body":B}',
        '{"op":22,"op":4,"body":B}',
        '{"op":4,"seq":1,"seq":2,"body":B}',
        '{"op":4,"seq":1,"body":null,"body":B}',
        '{"op":4,"seq":1,"body":{"room":"live://a"},"body":B}',
        '{"body":B,"op":4,"\\u006fp":4}',
        '{"op":4,"seq":{"a":1,"a":2},"seq":1,"body":B}',
    ],
)
def test_the_keys_of_the_packet_itself_are_there_once(frame: str) -> None:
    raw = frame.replace("B", '{"id":"%s","body":1}' % ID).encode()  # noqa: UP031 - braces
    op, _, value = text.decode(raw)
    with pytest.raises(BadRequest, match="twice"):
        from_value(op, value, raw)


def test_a_message_may_talk_about_our_keys() -> None:
    said = {"room": "room", "id": 1, "op": {"op": 9, "seq": 2, "body": '"room":"room"'}, "body": "\\u0000", "seq": 1}
    body = orjson.dumps({"room": "g://a", "id": ID, "body": said, "op": 2000})

    wanted = Send("g://a", ID, orjson.dumps(said).decode(), 2000)
    assert in_packet(body) == in_frame(body) == in_another_frame(body) == wanted


# --- against the judge -----------------------------------------------------------------------------------------------

space = st.sampled_from(["", "", "", " ", "\n\t"])
strings = st.lists(
    st.sampled_from(
        [
            "a", "id", "room", "op", "é", "😀", "[", "{", "]", ":", ",", " ", "18446744073709551616", '\\"', "\\\\",
            "\\/", "\\n",
            "\\u0000", "\\u0022", "\\u0061", "\\u00e9", "\\ud83d\\ude00", "u0000", "u0022",
        ]
    ),
    max_size=4,
).map(lambda parts: '"' + "".join(parts) + '"')  # fmt: skip
numbers = st.sampled_from(
    ["0", "-1", "1.5", "1e5", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
     "18446744073709551616",
     "0.18446744073709551616", "1844674407370955161600e-3", "1234567890123456789"]
)  # fmt: skip
atoms = st.one_of(strings, numbers, st.sampled_from(["true", "false", "null"]))


def _list(parts: list[str], gap: str) -> str:
    return "[" + gap + f"{gap},{gap}".join(parts) + gap + "]"


def _object(parts: list[tuple[str, str]], gap: str) -> str:
    return "{" + gap + f"{gap},{gap}".join(f"{key}{gap}:{gap}{value}" for key, value in parts) + gap + "}"


texts = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds(_list, st.lists(inner, max_size=4), space),
        st.builds(_object, st.lists(st.tuples(strings, inner), max_size=4), space),
        st.builds(lambda part, levels: "[" * levels + part + "]" * levels, inner, st.integers(28, 34)),
    ),
    max_leaves=12,
)


@settings(max_examples=600, deadline=None)
@given(texts)
@example(r'{"a":1,"a":2,"b":"\u0022\u0022"}')
@example(r'{"a":"\u0022","b":["\u0022"],"b":1}')
def test_the_judge_agrees(raw: str) -> None:
    value = json.loads(raw, object_pairs_hook=Pairs)

    assert verdict(raw.encode()) is kind(judge(value))


@settings(max_examples=600, deadline=None)
@given(texts, space)
def test_the_judge_agrees_on_messages_in_either_form(raw: str, gap: str) -> None:
    """The short way of a send and the long way are one and the same rule."""
    body = _object([('"id"', f'"{ID}"'), ('"body"', raw)], gap).encode()
    assume(len(body) < 16_000)
    wanted = kind(judge(json.loads(body, object_pairs_hook=Pairs)))

    for form in (in_packet, in_frame, in_another_frame):
        if wanted is None:
            assert form(body) == Send("", ID, orjson.dumps(orjson.loads(raw)).decode(), 1000)
        else:
            with pytest.raises(wanted) as caught:
                form(body)
            assert type(caught.value) is wanted


# --- what it costs ---------------------------------------------------------------------------------------------------

_START = b'{"id":"%b","body":' % ID.encode()
HOSTILE = {
    "brackets side by side": b"[" + b",".join([b"[]"] * 21_000) + b"]",
    "towers side by side": b"[" + b",".join([b"[" * 30 + b"]" * 30] * 1000) + b"]",
    "a tower": b"[" * 1000 + b"]" * 1000,
    "objects, the last with a key twice": b"[" + b",".join([b"{}"] * 21_000) + b',{"":1,"":2}]',
    "one object of many keys": b"{" + b",".join(b'"%d":1' % n for n in range(6000)) + b',"0":1}',
    "numbers of 19 digits": b"[" + b",".join([b"1" * 19] * 3200) + b"]",
    "a number of 60,000 digits": b"1" * 60_000,
    "a fraction of 60,000 digits": b"0." + b"1" * 60_000,
    "numbers and a long one": b"[" + b",".join([b"-1"] * 20_000) + b"," + b"9" * 19 + b"]",
    "backslashes": b'"' + b"\\\\" * 30_000 + b'\\u0000"',
    "escaped marks": b'"' + b'\\"' * 30_000 + b'\\u0022"',
    "escaped NULs that are none": b'"' + b"\\\\u0000" * 8_000 + b'"',
    "strings": b"[" + b",".join([b'"\\u0022"'] * 6_000) + b"]",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_frame_costs_little(body: bytes) -> None:
    """Linear time: 64 KB take milliseconds (1 to 6 when measured),
    whatever is in them. A quadratic look would take minutes."""
    raw = _START + body + b"}"
    assert len(raw) <= PACKET_BYTES_MAX
    took_s = []
    for _ in range(3):  # the best of three: a collection of garbage of the whole test run may fall into one
        began = time.process_time()
        with suppress(ImcoreError):
            from_packet(4, raw, 2)
        took_s.append(time.process_time() - began)
    assert min(took_s) < 0.2


@pytest.mark.parametrize(
    "said",
    ["hi", {"text": 'line\nline "quoted"', "id": 1, "body": {"op": [1.5, None]}}, "é😀", ["room", "[" * 20], 2**53],
)
def test_ordinary_messages_take_the_short_way(said: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking exactly costs four times as much (when measured: 2.5 µs for 150 bytes, and 9)."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("looked exactly")

    body = orjson.dumps({"room": "group://team-a", "id": ID, "body": said})
    spaced = json.dumps({"room": "group://team-a", "id": ID, "body": said, "op": 1000}).encode()
    monkeypatch.setattr(json, "loads", refuse)

    for one in (body, spaced):
        in_packet(one)
        in_frame(one)
        raw = b'{"op": 4, "seq": 7, "body": %b}' % one
        from_value(4, text.decode(raw)[2], raw)
    with pytest.raises(AssertionError, match="looked exactly"):
        in_another_frame(body)
