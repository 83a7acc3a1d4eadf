"""Many HTTP requests over few connections, written by hand: no library tidies them.

A request does not wait for the answer to the one before it (pipelining, RFC 9112, 9.3.2), so that client and server work at the same
time, and a thousand cases take a second or two. Where the server ends a connection, what it left unanswered is asked again on another.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from badinput.wire import DEADLINE_S, Line, touched

LANES: Final = 4
UNANSWERED_MAX: Final = 8  # of a lane: more are not asked for before an answer came
FOLLOWING_MAX: Final = 20  # how often it is waited for a second that rows follow the log


class Answer(NamedTuple):
    """An HTTP answer. The names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of the error, if it is one."""
        is_problem = self.headers.get("content-type", "").startswith("application/problem+json")
        found: Any = json.loads(self.body)["code"] if is_problem else ""
        return str(found)


def request(method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """A request as it goes over the line. Header values may be any of the signs up to U+00FF."""
    lines = [f"{method} {target} HTTP/1.1", "Host: badinput"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + (body or b"")


async def answers(address: str, requests: Sequence[bytes], *, pipelined: bool = True) -> list[Answer]:
    """What each is answered, in their order; with `pipelined` false each waits for the one before it. What is answered from rows is
    asked again while they do not follow the log: so many cases make a busy machine busier."""
    found: list[Answer | None] = [None] * len(requests)
    lanes = [range(lane, len(requests), LANES) for lane in range(min(LANES, len(requests)))]
    async with asyncio.TaskGroup() as tasks:
        for lane in lanes:
            tasks.create_task(_ask(address, requests, lane, found, UNANSWERED_MAX if pipelined else 1))
    for _ in range(FOLLOWING_MAX):
        late = [n for n, one in enumerate(found) if one is not None and one.code == "unavailable"]
        if not late:
            break
        await _ask(address, requests, late, found, 1)
    return [one for one in found if one is not None]


async def _ask(
    address: str, requests: Sequence[bytes], lane: Sequence[int], found: list[Answer | None], unanswered_max: int
) -> None:
    while lane:
        answered = 0
        async with touched(address) as line:
            asked = 0
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while answered < len(lane):
                    while asked < len(lane) and asked - answered < unanswered_max:
                        line.put(requests[lane[asked]])
                        asked += 1
                    one = found[lane[answered]] = await _answer(line, requests[lane[answered]])
                    answered += 1
                    if one.headers.get("connection") == "close":
                        break
        assert answered, f"no answer to {requests[lane[0]][:300]!r}"
        lane = lane[answered:]


async def _answer(line: Line, asked: bytes) -> Answer:
    """The next answer on the line."""
    async with asyncio.timeout(DEADLINE_S):
        head = await line.reader.readuntil(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields if field)
        }
        number = int(status.split()[1])
        assert "transfer-encoding" not in headers, f"an answer of unknown length to {asked[:300]!r}"
        length = 0 if number in (204, 304) else int(headers["content-length"])
        return Answer(number, headers, await line.reader.readexactly(length))
