"""The history of a run: what each client did and saw, step by step; and the log as it is at the end, which judges it.

    write = Writer(folder / "client-1.jsonl")                       # one file a process
    me = Recorder(write, process="client-1", mid=7, key="phone")
    async with connect(url, ..., observe=me.observe) as im: ...     # the SDK's steps
    n = me.invoke("kick", Belonging("group://a", mid=9))            # what goes another way, say over HTTP
    me.finish(n, "ok", Belonging("group://a", mid=9, position=41, seq=3))
    me.phase(DRAINED)                                               # a mark in time
    write.close()
    history = merge(folder.glob("*.jsonl"))                         # everything, by time
    log = await authoritative(connection)                           # L, M and V, by SQL, at the end

`records` are what a history is made of, and its files; `recorder` makes them of what the SDK shows; `log` is what judges them.
"""

from __future__ import annotations

from imcore.testkit.history.log import FOR_EVER, Entry, Interval, Log, Projected, ReadMark, authoritative, entry_of
from imcore.testkit.history.recorder import DEFINITE, Recorder, cursor_place
from imcore.testkit.history.records import (
    DRAIN,
    DRAINED,
    PHASES,
    REMOVED,
    VALUES,
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
    Writer,
    body_hash,
    decode,
    encode,
    merge,
    read,
)

__all__ = [
    "DEFINITE",
    "DRAIN",
    "DRAINED",
    "FOR_EVER",
    "PHASES",
    "REMOVED",
    "VALUES",
    "Acking",
    "Belonging",
    "Closed",
    "Delivered",
    "Entry",
    "Fault",
    "Interval",
    "Log",
    "Opened",
    "Paging",
    "Presence",
    "Projected",
    "ReadMark",
    "Reading",
    "Record",
    "Recorder",
    "Sending",
    "Type",
    "Value",
    "Writer",
    "authoritative",
    "body_hash",
    "cursor_place",
    "decode",
    "encode",
    "entry_of",
    "merge",
    "read",
]
