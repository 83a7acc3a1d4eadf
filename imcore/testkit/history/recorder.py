"""The recorder: what the SDK shows of its steps, and what is told by hand, as records.

An answer that refuses is a failure only if it says for sure that nothing was stored. Everything else leaves the outcome open: a code
that says so, a code that we do not know, and no answer before the connection ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from imcore.errors import TABLE, Unavailable
from imcore.events.types import MESSAGE_TYPES
from imcore.protocol.packet import Op
from imcore.testkit.history.records import (
    PHASES,
    REMOVED,
    Acking,
    Belonging,
    Closed,
    Delivered,
    Fault,
    Opened,
    Paging,
    Presence,
    Reading,
    Record,
    Sending,
    Type,
    Value,
    body_hash,
)

DEFINITE: Final = frozenset(kind.code for kind in TABLE if kind.close is None and kind is not Unavailable)
PENDING_MAX: Final = 100_000  # operations of one client that have no outcome yet


class Recorder:
    """One device of one person, recorded. `observe` is what the SDK is given; the rest is for what goes another way.

    Changes nothing and keeps little: at most `PENDING_MAX` operations without an outcome; beyond that the oldest is of
    unknown outcome. An answer that is not of the protocol's form raises KeyError, as it would in the SDK.
    """

    def __init__(
        self,
        write: Callable[[Record], None],
        *,
        process: str,
        mid: int = 0,
        key: str = "",
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.mid = mid
        self.key = key
        self._write = write
        self._process = process
        self._now_ns = now_ns
        self._last = 0
        self._pending: dict[tuple[int, int], tuple[str, Value]] = {}  # (connection, n) -> what has no outcome yet
        self._cursors: dict[int, tuple[int, str]] = {}
        self._leaving: set[int] = set()

    def observe(self, step: tuple[Any, ...]) -> None:
        """One step of the SDK: see `observe` of imcore.client.connect."""
        match step:
            case ("deliver", conn, event):
                self._put(conn, 0, "ok", "deliver", _event(event))
            case ("request", conn, op, n, body):
                self._request(conn, op, n, body if isinstance(body, dict) else {})
            case ("reply", conn, op, n, body):
                self._reply(conn, op, n, body if isinstance(body, dict) else {})
            case ("removed", conn, body):
                self._put(conn, 0, "ok", "deliver", Delivered(body.get("position", 0), body["room"], kind=REMOVED))
            case ("connecting", conn, *_):
                self._pending[conn, 0] = ("connect", Opened())
                self._put(conn, 0, "invoke", "connect", Opened())
            case ("connected", conn, body):
                self._connected(conn, body)
            case ("closing", conn, *_):
                self._leaving.add(conn)
            case ("closed", conn, code, reason):
                self.end(conn, code or 0, reason or "")

    def invoke(self, f: str, v: Value) -> int:
        """An operation begins that the SDK does not show; its number, for `finish`."""
        self._last += 1
        self._begin(0, -self._last, f, v)
        return -self._last

    def finish(self, n: int, type_: Type, v: Value | None = None) -> None:
        """What became of it. Without a value, that of the invoke."""
        f, asked = self._pending.pop((0, n))
        self._put(0, n, type_, f, asked if v is None else v)

    def note(self, f: str, v: Value, *, type_: Type = "ok") -> None:
        """Something that was not asked for."""
        self._put(0, 0, type_, f, v)

    def phase(self, name: str) -> None:
        """A mark in time: DRAIN or DRAINED."""
        assert name in PHASES, name
        self._put(0, 0, "info", "nemesis", Fault(name, bites=False))

    def end(self, conn: int, code: int, reason: str) -> None:
        """The connection is over: whatever has no outcome yet may have been done or not."""
        for at, n in [place for place in self._pending if place[0] == conn]:
            f, asked = self._pending.pop((at, n))
            self._put(conn, n, "info", f, asked)
        self._cursors.pop(conn, None)
        self._put(conn, 0, "ok", "close", Closed(code, reason, conn in self._leaving))
        self._leaving.discard(conn)

    def _put(self, conn: int, n: int, type_: Type, f: str, v: Value) -> None:
        self._write(Record(self._now_ns(), self._process, self.mid, self.key, conn, n, type_, f, v))

    def _begin(self, conn: int, n: int, f: str, v: Value) -> None:
        if len(self._pending) >= PENDING_MAX:  # a server that answers nothing must not fill our memory
            oldest, (old_f, asked) = next(iter(self._pending.items()))
            del self._pending[oldest]
            self._put(*oldest, "info", old_f, asked)
        self._pending[conn, n] = (f, v)
        self._put(conn, n, "invoke", f, v)

    def _connected(self, conn: int, body: Mapping[str, Any]) -> None:
        self._pending.pop((conn, 0), None)
        cursor, cursor_epoch = self._cursors.get(conn, (-1, ""))
        _, epoch = cursor_place(body.get("cursor"))
        opened = Opened(
            body.get("position", 0),
            cursor,
            cursor_epoch,
            body.get("epoch") or epoch,
            bool(body.get("recovered")),
            body.get("reason") or "",
        )
        self._put(conn, 0, "ok", "connect", opened)
        if opened.recovered or opened.reason not in ("", "new"):
            self._put(conn, 0, "ok", "resume", opened)

    def _request(self, conn: int, op: int, n: int, body: Mapping[str, Any]) -> None:
        room = body.get("room") or ""
        match op:
            case Op.SEND:
                said = Sending(room, str(body.get("id", "")).lower(), body_hash(body.get("body")))
                self._begin(conn, n, "send", said)
            case Op.AUTH:
                if body.get("cursor"):
                    self._cursors[conn] = cursor_place(body["cursor"])
            case Op.ACK:
                self._begin(conn, n, "ack", Acking(body.get("position", 0)))
            case Op.JOIN | Op.LEAVE:
                self._begin(conn, n, "join" if op == Op.JOIN else "leave", Belonging(room, self.mid))
            case Op.READ:
                self._begin(conn, n, "read", Reading(room, body.get("seq", 0)))
            case Op.INBOX:
                self._begin(conn, n, "read", Reading(""))
            case Op.HISTORY:
                asked = {name: body[name] for name in ("before", "after", "limit") if body.get(name) is not None}
                self._begin(conn, n, "history", Paging(room, **asked))
            case Op.MEMBERS:
                self._begin(conn, n, "presence", Presence())

    def _reply(self, conn: int, op: int, n: int, body: Mapping[str, Any]) -> None:
        if op == Op.AUTH_REPLY and (error := body.get("error")) and (conn, 0) in self._pending:
            del self._pending[conn, 0]
            self._put(conn, 0, "fail", "connect", Opened(code=str(error.get("code", ""))))
        if (found := self._pending.pop((conn, n), None) if n else None) is None:
            return
        f, asked = found
        error = body.get("error")
        if isinstance(error, dict):
            code, text = str(error.get("code", "")), str(error.get("text", ""))
            assert isinstance(asked, Sending | Belonging | Acking | Reading | Paging | Presence), "these are asked for"
            refused = asked._replace(code=code, text=text)
            self._put(conn, n, "fail" if code in DEFINITE else "info", f, refused)
            return
        for v in _answers(asked, body):
            self._put(conn, n, "ok", f, v)


def _answers(asked: Value, body: Mapping[str, Any]) -> Iterable[Value]:
    """What a reply says of what was asked."""
    place = {name: body[name] for name in ("position", "seq", "duplicate") if name in body}
    match asked:
        case Sending() | Belonging():
            return (asked._replace(**place),)
        case Acking():
            return (Acking(body.get("position", 0)),)
        case Reading(room=""):
            return [Reading(line["room"], line["read"], line["unread"]) for line in body.get("rooms", ())]
        case Reading():
            return (asked._replace(seq=body.get("seq", 0), unread=body.get("unread", -1)),)
        case Paging():
            events = tuple(_told(event) for event in body.get("events", ()))
            return (asked._replace(events=events, head=body.get("head", 0), more=bool(body.get("more"))),)
        case Presence():
            return [Presence(line["mid"], bool(line["online"])) for line in body.get("members", ())]
    return (asked,)


def _event(event: Any) -> Delivered:
    """An event as the SDK hands it out."""
    return _delivered(
        event.position, event.room or event.stream, event.seq, event.type, event.mid, event.key, event.id, event.body
    )


def _told(event: Mapping[str, Any]) -> Delivered:
    """An event as the protocol tells it."""
    return _delivered(
        event["position"], event.get("room") or event.get("stream", ""), event["seq"], event["type"], event["mid"],
        event.get("key", ""), event.get("id"), event.get("body"),
    )  # fmt: skip


def _delivered(
    position: int, room: str, seq: int, kind: str, mid: int, key: str, id_: object, body: object
) -> Delivered:
    whom = body.get("mid", 0) if isinstance(body, dict) and kind not in MESSAGE_TYPES else 0
    said = body_hash(body) if kind in MESSAGE_TYPES else ""
    return Delivered(position, room, seq, kind, mid, key, str(id_) if id_ else "", said, whom)


def cursor_place(cursor: object) -> tuple[int, str]:
    """The position and epoch of a cursor; (-1, "") if it is none. Clients must not do this: it is how cursors look today."""
    epoch, _, digits = str(cursor or "").rpartition(".")
    return (int(digits), epoch) if epoch and digits.isdigit() else (-1, "")
