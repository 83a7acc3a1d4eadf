"""Where a device keeps how far its program has come: in memory, in a file, in SQLite.

What is kept belongs together and is written together: the server's cursor, and for each room or stream the last seq that the program
dealt with. The cursor moves about once a second (with an ack), the seqs with every event; after a crash the server gives everything
after the cursor again, and the seqs say what of it the program had already.

A `Cursor` is the port. Its guarantee: when `keep` returns, all of that change is kept, and after a crash either all of it or nothing
is there. It serves one client at a time.

- `MemoryCursor`: as long as the process. Given to another client of the process it goes on there.
- `FileCursor`: JSON, replaced as a whole and flushed to the disk with each event: for some rooms and some events a second.
- `SqliteCursor`: a row a room, a commit an event: for many. `storing` lets a program write what it makes of an event into the same
  transaction, and then a crash at any moment neither repeats nor forgets its work.

The trap: two processes on one file would be one device in two places. The server ends the older connection of the two (`TakenOver`).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from imcore.client.events import Event

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of this device: who it is, and how far it has come. `seen`: place -> last seq that was dealt with."""

    key: str = ""
    mid: int | None = None
    cursor: str = ""
    seen: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What is new. None leaves it as it is; `forgets` drops what was seen before."""

    key: str | None = None
    mid: int | None = None
    cursor: str | None = None
    seen: Mapping[str, int] = field(default_factory=dict)
    forgets: bool = False


class Cursor(Protocol):
    """Keeps how far a device has come."""

    async def load(self) -> Kept:
        """What was kept."""

    async def keep(self, change: Change) -> None:
        """All of this, before it returns; or, if it raises, none of it."""

    async def close(self) -> None:
        """Nothing more will be kept; doing it again does nothing."""


class MemoryCursor:
    """As long as the process lives."""

    def __init__(self) -> None:
        self._kept = Kept()
        self._seen: dict[str, int] = {}

    async def load(self) -> Kept:
        """What was kept by an earlier client of this process."""
        return Kept(self._kept.key, self._kept.mid, self._kept.cursor, dict(self._seen))

    async def keep(self, change: Change) -> None:
        """Remember it."""
        self._kept = _changed(self._kept, change, self._seen)

    async def close(self) -> None:
        """Nothing to do."""


class FileCursor:
    """A JSON file. Each change writes a new file beside it, flushes it to the disk and renames it, so the old or the new one is there,
    whole, whatever happens."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._kept = Kept()
        self._seen: dict[str, int] = {}
        self._changes = self._written = 0
        self._writing = threading.Lock()

    async def load(self) -> Kept:
        """What the file says. Raises ValueError for a file that is something else."""
        text = await asyncio.to_thread(self._read)
        if text:
            self._kept, self._seen = _from_json(text, self._path)
        return Kept(self._kept.key, self._kept.mid, self._kept.cursor, dict(self._seen))

    async def keep(self, change: Change) -> None:
        """On the disk when it returns. In a thread: a flush takes as long as the disk likes."""
        kept = _changed(self._kept, change, self._seen)
        facts = {"version": VERSION, "key": kept.key, "mid": kept.mid, "cursor": kept.cursor, "seen": self._seen}
        text = orjson.dumps(facts, option=orjson.OPT_INDENT_2)
        self._kept = kept
        self._changes += 1
        await asyncio.to_thread(self._write, self._changes, text)

    async def close(self) -> None:
        """Nothing is open."""

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""

    def _write(self, change: int, text: bytes) -> None:
        with self._writing:
            if change < self._written:  # whoever waited for it was cancelled, and a newer one came first
                return
            new = self._path.with_name(self._path.name + ".new")
            with new.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the rename
            finally:
                os.close(folder)
            self._written = change


class SqliteCursor:
    """A SQLite database: a file of its own, or one that the program has anyway.

    Its statements run in the event loop: each is one row by its key and takes tens of microseconds, less than the way to a thread and
    back. The flush of a commit is the exception, and a slow disk makes the loop wait for it. With `flush=False` nothing is flushed at
    a commit: then kill -9 loses nothing, but after a power cut the last events may be seen again.
    """

    TABLES: Final = """
    CREATE TABLE IF NOT EXISTS imcore_device (
      one INTEGER PRIMARY KEY CHECK (one = 1), key TEXT NOT NULL, mid INTEGER, cursor TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS imcore_seen (place TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
    INSERT OR IGNORE INTO imcore_device VALUES (1, '', NULL, '');
    """
    # A place never goes back: what `storing` wrote before is not undone by an ack that comes later.
    SEEN: Final = "INSERT INTO imcore_seen VALUES (?, ?) ON CONFLICT (place) DO UPDATE SET seq = max(seq, excluded.seq)"
    DEVICE: Final = (
        "UPDATE imcore_device SET key = coalesce(?, key), mid = coalesce(?, mid), cursor = coalesce(?, cursor)"
    )

    def __init__(self, path: str | Path, *, flush: bool = True) -> None:
        self._path = path
        self._flush = flush
        self._database: sqlite3.Connection | None = None
        self._stored: dict[str, int] = {}  # by `storing`: what the client says again needs no transaction of its own

    @property
    def database(self) -> sqlite3.Connection:
        """The connection, for statements of the program; between two events nothing is open on it."""
        if self._database is None:
            self._database = sqlite3.connect(self._path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute(f"PRAGMA synchronous = {'FULL' if self._flush else 'NORMAL'}")
            self._database.executescript(self.TABLES)
        return self._database

    async def load(self) -> Kept:
        """What the tables say; they are made if they are not there."""
        key, mid, cursor = self.database.execute("SELECT key, mid, cursor FROM imcore_device").fetchone()
        return Kept(key, mid, cursor, dict(self.database.execute("SELECT place, seq FROM imcore_seen")))

    async def keep(self, change: Change) -> None:
        """Committed when it returns."""
        stored = self._stored
        if change.forgets:
            stored.clear()
        seen = [(place, seq) for place, seq in change.seen.items() if seq > stored.get(place, 0)]
        device = (change.key, change.mid, change.cursor)
        if not seen and not change.forgets and device == (None, None, None):
            return
        with self._transaction() as database:
            if change.forgets:
                database.execute("DELETE FROM imcore_seen")
            database.executemany(self.SEEN, seen)
            if device != (None, None, None):
                database.execute(self.DEVICE, device)

    @contextmanager
    def storing(self, event: Event) -> Iterator[sqlite3.Connection]:
        """A transaction for what the program makes of this event. It is committed at the end together with the fact that the event is
        dealt with, and rolled back, both, when the block raises. Do not await in it."""
        with self._transaction() as database:
            yield database
            if event.seq:
                database.execute(self.SEEN, (event.place, event.seq))
        if event.seq:
            self._stored[event.place] = event.seq

    async def close(self) -> None:
        """Close the database."""
        if self._database is not None:
            self._database.close()
            self._database = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = self.database
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            with suppress(sqlite3.OperationalError):  # an error of SQLite may have rolled back already
                database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")


def _changed(kept: Kept, change: Change, seen: dict[str, int]) -> Kept:
    """What is kept from now on; `seen` is changed in place, because it is large and changes with each event."""
    if change.forgets:
        seen.clear()
    for place, seq in change.seen.items():
        seen[place] = max(seq, seen.get(place, 0))
    return Kept(
        kept.key if change.key is None else change.key,
        kept.mid if change.mid is None else change.mid,
        kept.cursor if change.cursor is None else change.cursor,
    )


def _from_json(text: bytes, path: Path) -> tuple[Kept, dict[str, int]]:
    try:
        facts: dict[str, Any] = orjson.loads(text)
        if facts["version"] != VERSION:
            raise ValueError(f"{path} is of version {facts['version']}, and this program knows {VERSION}")
        return Kept(facts["key"], facts["mid"], facts["cursor"]), dict(facts["seen"])
    except (KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a cursor: {error!r}") from None
