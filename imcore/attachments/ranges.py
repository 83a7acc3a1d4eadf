"""Which bytes of a file a request wants, and whether it has them already (RFC 9110, 13 and 14). Pure.

One range is answered; a request for several is answered with the whole file, as it may be. What cannot be read is as if it were not
there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_range = re.compile(r"bytes=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.ASCII | re.IGNORECASE).fullmatch
_tags = re.compile(r'(?:W/)?"[^"]*"').findall


class Part(NamedTuple):
    """The bytes from `start` up to and without `end`, and the status that says so: 200 all, 206 some, 304 none that are news, 416 none
    that are there."""

    status: int
    start: int
    end: int


def wanted(headers: Mapping[str, str], size: int, etag: str) -> Part:
    """What is to be answered to a request with these headers, for a file of this size and tag."""
    known = headers.get("If-None-Match")
    if known is not None and (known.strip() == "*" or etag in (tag.removeprefix("W/") for tag in _tags(known))):
        return Part(304, 0, 0)
    whole = Part(200, 0, size)
    asked = _range(headers.get("Range", ""))
    if asked is None or headers.get("If-Range", etag).strip() != etag:
        return whole
    first, last = asked.groups()
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return whole  # not a range
    elif last:
        start, end = max(0, size - int(last)), size
    else:
        return whole
    return Part(206, start, end) if start < end else Part(416, 0, 0)
