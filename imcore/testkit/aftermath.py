"""What the runner itself can say of a run that is over: which faults bit, how soon sends were acknowledged again, and what the
programs' own loops were given.

The promises about single connections are the checkers'. What a program's loop is given is the SDK's promise, over all connections,
kills and restarts of the program: each event once, in order per room, and none left out while its person is a member.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from imcore.events.types import MESSAGE_SENT
from imcore.testkit.history import Log, Record, Sending
from imcore.testkit.nemesis import BITES_WITHIN_S, Wound

S: Final = 1_000_000_000
BITES: Final = frozenset((("connect", "invoke"), ("close", "ok"), ("resume", "ok"), ("send", "info")))
CURSOR: Final = ".cursor"


def judge_wounds(wounds: Iterable[Wound], records: Sequence[Record]) -> None:
    """Write into each wound whether it bit, and when sends were acknowledged again."""
    noticed = [one.t for one in records if (one.f, one.type) in BITES]
    acknowledged = _acknowledged(records)
    began = [when for when, _ in acknowledged]
    # The earliest acknowledgement of a send that began at or after a moment.
    soonest: list[int] = []
    for _, ended in reversed(acknowledged):
        soonest.append(min(ended, soonest[-1]) if soonest else ended)
    soonest.reverse()
    for wound in wounds:
        n = bisect_left(noticed, wound.begun_ns)
        is_noticed = n < len(noticed) and noticed[n] <= wound.healed_ns + BITES_WITHIN_S * S
        wound.bitten = not wound.failed and (is_noticed or bool(wound.saw))
        n = bisect_left(began, wound.healed_ns)
        wound.recovered_ms = (soonest[n] - wound.healed_ns) / 1e6 if n < len(soonest) else None


def _acknowledged(records: Iterable[Record]) -> list[tuple[int, int]]:
    """When each try of a send that was acknowledged began and ended, by its beginning."""
    begun: dict[tuple[object, ...], int] = {}
    found: list[tuple[int, int]] = []
    for record in records:
        if record.f == "send" and isinstance(record.v, Sending):
            key = (*record[1:6],)
            if record.type == "invoke":
                begun[key] = record.t
            elif (at := begun.pop(key, None)) is not None and record.type == "ok":
                found.append((at, record.t))
    found.sort()
    return found


class Given(NamedTuple):
    """An event that a program's loop was given."""

    life: int
    place: str
    seq: int
    position: int


def given(file: Path) -> list[Given]:
    """What the loop of one device was given, over all lives of its program, in order."""
    with closing(sqlite3.connect(file)) as database:
        rows = database.execute("SELECT life, place, seq, position FROM handled ORDER BY n").fetchall()
    return [Given(*row) for row in rows]


class Loops(NamedTuple):
    """What was given to all loops, and what was wrong with it."""

    devices: int
    events: int
    lives: int
    faults: list[str]


def judge_loops(folder: Path, log: Log) -> Loops:
    """Each event once, in order per room, none left out."""
    faults: list[str] = []
    events = devices = lives = 0
    for file in sorted(folder.glob(f"*{CURSOR}")):
        device = file.name.removesuffix(CURSOR)
        rows = given(file)
        devices += 1
        events += len(rows)
        lives += len({row.life for row in rows})
        faults += loop_faults(device, int(device.split("-")[1]), rows, log)
    return Loops(devices, events, lives, faults)


def loop_faults(device: str, mid: int, rows: Sequence[Given], log: Log) -> list[str]:
    """What is wrong with what one device's loop was given."""
    faults: list[str] = []
    seqs: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        before = seqs[row.place]
        if before and row.seq <= before[-1]:
            how = "a second time" if row.seq in before else f"after {before[-1]}"
            faults.append(f"{device} was given {row.place}#{row.seq} {how} (life {row.life})")
        before.append(row.seq)
        entry = log.at.get((row.place, row.seq))
        if entry is None or entry.position != row.position:
            faults.append(
                f"{device} was given {row.place}#{row.seq} at position {row.position}, which is not in the log"
            )
    for room, had in seqs.items():
        spans = log.memberships.get((mid, room))
        if not spans or not spans[-1].is_open:
            continue
        begin, got = max(spans[-1].first, min(had)), set(had)
        for entry in log.rooms[room]:
            is_own = entry.kind == MESSAGE_SENT and (entry.mid, entry.key) == (mid, device)
            if entry.seq >= begin and not is_own and entry.seq not in got:
                faults.append(f"{device} was never given {room}#{entry.seq}")
    return faults
