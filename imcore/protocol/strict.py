r"""What JSON may not hold, though orjson reads it: U+0000, deep nesting, integers beyond 64 bits, a key twice.

Each of them has poisoned an event store somewhere: Postgres stores `\u0000` in a json column and fails on every later
read of it; other parsers stop at a depth that orjson passes; orjson turns 2**64 into a float without a word; and of two
equal keys one reader takes the first and another the last, so that what was checked is not what is obeyed.

`raw` has been read by orjson before it comes here, so it is JSON. Ordinary input passes on a few searches in C; only
what trips one of them is looked at exactly, in linear time and without recursion, and that look alone decides.

Repeated keys are found by counting quotation marks: orjson kept only the last of equal keys, so what it kept has fewer
of them than what came. The trap: `\u0022` is a mark that came as none, so it forces the exact look.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Final

import orjson

from imcore.errors import BadRequest, InvalidText
from imcore.protocol.packet import DEPTH_MAX, INT64_MAX, INT64_MIN, shown

_BACKSLASH: Final = ord("\\")  # `int in bytes` takes 24 ns, `bytes in bytes` 140: it tries the number first and catches
_SHAPE: Final = bytes.maketrans(b"123456789[", b"000000000{")
_LONG_NUMBER: Final = b"0" * 19  # of any digits, after _SHAPE: with fewer it always fits into 64 bits

_nul = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search  # after an odd number of backslashes it is only text
_string = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_long_integers = re.compile(rb"(?<![0-9.eE+-])-?([0-9]{19,}+)(?![.eE])").finditer
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def looks_plain(raw: bytes) -> bool:
    """True when nothing but a repeated key can be wrong with `raw`, and the count of marks shows those. Hot."""
    shape = raw.translate(_SHAPE)
    return (
        shape.count(b"{") <= DEPTH_MAX
        and shape.find(_LONG_NUMBER) < 0
        and (_BACKSLASH not in raw or (raw.find(b"\\u0000") < 0 and raw.find(b"\\u0022") < 0))
    )


def check_json(raw: bytes, value: object, *, in_frame: bool = False) -> None:
    """Refuses what may not be stored. `value` is what orjson made of `raw`.

    With `in_frame`, `raw` is a packet of the JSON form and `value` its body. The packet does not count towards the
    depth, so both forms of the protocol take the same bodies.

    Raises InvalidText for U+0000 and BadRequest for the rest.
    """
    if not looks_plain(raw):
        if b"\\u0000" in raw and _nul(raw):
            raise InvalidText
        _check_depth(raw, DEPTH_MAX + in_frame)
        _check_integers(raw)
    if in_frame or b"\\u0022" in raw or raw.count(b'"') != orjson.dumps(value).count(b'"'):
        check_keys(raw)


def check_keys(raw: bytes) -> None:
    """Refuses a key that is twice in one object, wherever. Depth and integers have been checked: the parser is safe."""
    json.loads(raw.decode(), object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    kept = dict(pairs)
    if len(kept) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadRequest(f"the key {shown(key)} is twice in one object")
            seen.add(key)
    return kept


def _check_depth(raw: bytes, depth_max: int) -> None:
    if raw.count(b"{") + raw.count(b"[") <= depth_max:
        return
    brackets = _string.sub(b"", raw).translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > depth_max:
        raise BadRequest(f"the JSON is nested deeper than {DEPTH_MAX}")


def _check_integers(raw: bytes) -> None:
    if raw.translate(_SHAPE).find(_LONG_NUMBER) >= 0 and _exceeds(raw) and _exceeds(_string.sub(b'""', raw)):
        raise BadRequest("an integer does not fit into 64 bits")


def _exceeds(raw: bytes) -> bool:
    # JSON has no leading zeros, so 20 digits never fit; int() never sees more than 19 (it is quadratic).
    return any(len(number[1]) > 19 or not INT64_MIN <= int(number[0]) <= INT64_MAX for number in _long_integers(raw))
