"""The records of a run: one step of one client each, with a value by its kind; and their files, one a process.

A `Record` is one step. An operation has an `invoke` and then `ok` (done, says the server), `fail` (refused, nothing was stored) or
`info` (anything else: it may have been done or not); the two have the same connection and number `n`. What just happens to a client
(deliver, close, presence seen) has no invoke. Times are CLOCK_MONOTONIC, one clock for all processes of a machine. The value `v` has
a type by `f`, see VALUES; a field at its default is left out of the file.

Phases and faults are records too, of `f` nemesis: `invoke` when a fault begins, `ok` when it is healed, and `info` for a phase:
DRAIN when the load has ended, everything is healed and everybody has come back, DRAINED when everybody has been idle for a while.

The trap: a client that is killed takes its buffer with it, and a send that nobody remembers looks like a message from nowhere. So an
invoke is handed to the operating system before `write` returns, with everything before it; `buffer_bytes_max=0` does so with every
record.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

import orjson

from imcore.events.types import MESSAGE_SENT

Type: TypeAlias = Literal["invoke", "ok", "fail", "info"]
DRAIN: Final = "drain"
DRAINED: Final = "drained"
PHASES: Final = frozenset((DRAIN, DRAINED))
REMOVED: Final = "removed"  # the kind of a delivered notice that one is no longer in a room
BUFFER_BYTES_MAX: Final = 64 << 10


# --- values: what a record tells, by f -----------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """connect, resume. invoke: `cursor` and its `cursor_epoch` as given. ok: the same, and where delivery begins (`position`).

    A connection that is open has an ok of connect; one that came back also one of resume, with `recovered` and the `reason`.
    """

    position: int = 0
    cursor: int = -1  # the position of the cursor that the client gave; -1: it gave none
    cursor_epoch: str = ""
    epoch: str = ""
    recovered: bool = False
    reason: str = ""
    code: str = ""


class Sending(NamedTuple):
    """send. invoke: `room`, `id` and the `hash` of the body; ok: its place too; fail and info: a `code`."""

    room: str
    id: str
    hash: str = ""
    position: int = 0
    seq: int = 0
    duplicate: bool = False
    code: str = ""
    text: str = ""


class Belonging(NamedTuple):
    """join, leave, kick, role: `mid` is whom it is about. A kick of no room ends sessions: of `key`, or all of the person."""

    room: str
    mid: int
    key: str = ""
    role: str = ""
    position: int = 0
    seq: int = 0
    duplicate: bool = False
    code: str = ""
    text: str = ""


class Delivered(NamedTuple):
    """deliver, and an event in a page of history. `room` is the stream's name where the event is in no room (user:7, all:).

    `kind` is the event's type, or "removed" for the notice of being in a room no more. `mid`, `key`: who did it, from where. `whom`:
    who joined, left or was removed. What was told only to those who were there (receipts, who types) has position and seq 0.
    """

    position: int
    room: str
    seq: int = 0
    kind: str = MESSAGE_SENT
    mid: int = 0
    key: str = ""
    id: str = ""
    hash: str = ""
    whom: int = 0

    @property
    def is_stored(self) -> bool:
        """Has it a place in the log?"""
        return self.position > 0


class Acking(NamedTuple):
    """ack: everything up to `position` is dealt with."""

    position: int
    code: str = ""
    text: str = ""


class Reading(NamedTuple):
    """read. invoke: the mark to set. ok: the mark in force, and what is unread after it; -1: not told.

    Lines of an inbox are of f read too, each an ok with the number of the inbox's invoke, whose `room` is empty.
    """

    room: str
    seq: int = 0
    unread: int = -1
    code: str = ""
    text: str = ""


class Paging(NamedTuple):
    """history. invoke: what was asked for (-1: left out); ok: that, and the page."""

    room: str
    before: int = -1
    after: int = -1
    limit: int = -1
    events: tuple[Delivered, ...] = ()
    head: int = 0
    more: bool = False
    code: str = ""
    text: str = ""


class Presence(NamedTuple):
    """presence: `mid` was shown online or not. With an invoke (which names nobody) it is what was so between the two."""

    mid: int = 0
    online: bool = False
    code: str = ""
    text: str = ""


class Closed(NamedTuple):
    """close: the connection is over. `code` 0: without a word. `by_client`: because it wanted to."""

    code: int = 0
    reason: str = ""
    by_client: bool = False


class Fault(NamedTuple):
    """nemesis. `name` of the fault and its `target`. `bites`: clients should have noticed. `harmless`: no send should have failed.

    A figure that was measured on the way is an info record: its name, the process, and the value.
    """

    name: str
    target: str = ""
    bites: bool = True
    harmless: bool = False
    value: float = 0.0


Value: TypeAlias = (
    Opened | Sending | Belonging | Delivered | Acking | Reading | Paging | Presence | Closed | Fault
)  # fmt: skip
VALUES: Final[Mapping[str, Callable[..., Value]]] = {
    "connect": Opened,
    "resume": Opened,
    "join": Belonging,
    "leave": Belonging,
    "kick": Belonging,
    "role": Belonging,
    "send": Sending,
    "deliver": Delivered,
    "ack": Acking,
    "read": Reading,
    "history": Paging,
    "presence": Presence,
    "close": Closed,
    "nemesis": Fault,
}


class Record(NamedTuple):
    """One step of one client: when, which process, person, device and connection; operation number; type, f and its value."""

    t: int
    p: str
    u: int
    dev: str
    conn: int
    n: int
    type: Type
    f: str
    v: Value


def body_hash(body: object) -> str:
    """What a message said, in 16 characters: the same for the sender's value, the receiver's and the log's."""
    if isinstance(body, bytes):  # the log and the protocol have them so
        body = base64.b64encode(body).decode()
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


# --- files ---------------------------------------------------------------------------------------------------------------------


def encode(record: Record) -> bytes:
    """A record as one line."""
    t, p, u, dev, conn, n, type_, f, v = record
    told: dict[str, object] = {"t": t, "p": p, "u": u, "dev": dev, "conn": conn, "n": n, "type": type_, "f": f}
    defaults = v._field_defaults
    told["v"] = {name: value for name, value in zip(v._fields, v, strict=True) if defaults.get(name) != value}
    return orjson.dumps(told, default=list, option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes, names: dict[str, str] | None = None) -> Record:
    """The record of a line. `names` keeps one copy of each text that comes again and again. Raises ValueError."""
    told: dict[str, Any] = orjson.loads(line)
    kept: Callable[[str], str] = str if names is None else lambda text: names.setdefault(text, text)
    try:
        f = told["f"]
        v = {name: kept(value) if isinstance(value, str) else value for name, value in told["v"].items()}
        if "events" in v:
            v["events"] = tuple(Delivered(*event) for event in v["events"])
        return Record(
            told["t"], kept(told["p"]), told["u"], kept(told["dev"]), told["conn"], told["n"], told["type"], kept(f),
            VALUES[f](**v),
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a record: {line[:200]!r}") from error


class Writer:
    """Writes records to a file of one process, in the order in which they come. Holds at most `buffer_bytes_max` of them back.

    An invoke, and everything before it, is with the operating system when the call returns: a kill of this process does not lose it.
    """

    def __init__(self, path: Path, *, buffer_bytes_max: int = BUFFER_BYTES_MAX) -> None:
        self.path = path
        self.records = 0
        self._buffer = bytearray()
        self._bytes_max = buffer_bytes_max
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __call__(self, record: Record) -> None:
        """Take one record."""
        self._buffer += encode(record)
        self.records += 1
        if record.type == "invoke" or len(self._buffer) > self._bytes_max:
            self.flush()

    def flush(self) -> None:
        """Hand over what is held back."""
        while self._buffer:
            del self._buffer[: os.write(self._file, self._buffer)]

    def close(self) -> None:
        """Hand over everything, and end."""
        if self._file >= 0:
            self.flush()
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path, names: dict[str, str] | None = None) -> Iterator[Record]:
    """The records of one file, in order. A last line that was cut off by a kill is left out; any other is a ValueError."""
    names = {} if names is None else names
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decode(line, names)


def merge(paths: Iterable[Path]) -> list[Record]:
    """The records of all files by time; those of one file stay in their order."""
    names: dict[str, str] = {}
    records: list[Record] = []
    for path in sorted(paths):
        records += read(path, names)
    records.sort(key=itemgetter(0))  # stable, and nearly linear: each file is in order already
    return records
