"""What is recorded is what happened, survives a kill, and is judged by the log as it is."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest

from imcore.events.types import (
    USER,
    MemberLeft,
    MemberRemoved,
    RoomCreated,
    SessionClosed,
    SessionOpened,
)
from imcore.testkit.history import (
    DRAINED,
    FOR_EVER,
    REMOVED,
    VALUES,
    Acking,
    Belonging,
    Closed,
    Delivered,
    Fault,
    Interval,
    Opened,
    Paging,
    Presence,
    Reading,
    ReadMark,
    Record,
    Recorder,
    Sending,
    Value,
    Writer,
    authoritative,
    body_hash,
    decode,
    encode,
    merge,
    read,
)
from imcore.testkit.history.log import HELD
from projections.place import Place, message, place

R = "group://r"
FILLED: dict[str, Value] = {
    "connect": Opened(4, 3, "e", "f", True, "epoch", "going_away"),
    "resume": Opened(4),
    "join": Belonging(R, 7),
    "leave": Belonging(R, 7, position=3, seq=1),
    "kick": Belonging("", 7, "phone"),
    "role": Belonging(R, 7, role="admin", duplicate=True),
    "send": Sending(R, "id", "hash", 9, 2, True, "muted", "text"),
    "deliver": Delivered(9, R, 2, "message_sent", 7, "phone", "id", "hash", 0),
    "ack": Acking(9),
    "read": Reading(R, 9, 0),
    "history": Paging(R, after=0, limit=2, events=(Delivered(1, R, 1), Delivered(2, R, 2, whom=9)), head=9, more=True),
    "presence": Presence(7, True),
    "close": Closed(4008, "slow_consumer", True),
    "nemesis": Fault("kill", "postgres", False, True, 0.5),
}


# --- files -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", VALUES)
def test_a_record_is_read_as_it_was_written(f: str) -> None:
    record = Record(5, "p", 7, "phone", 1, 2, "ok", f, FILLED[f])

    assert record == decode(encode(record))
    assert {"t", "p", "u", "dev", "conn", "n", "type", "f", "v"} == orjson.loads(encode(record)).keys()


def test_a_file_of_each_process_is_one_history_by_time(tmp_path: Path) -> None:
    for process, times in (("a", (1, 4, 5)), ("b", (2, 3, 6))):
        with Writer(tmp_path / f"{process}.jsonl") as write:
            for t in times:
                write(Record(t, process, 1, "", 0, 0, "ok", "close", Closed()))

    assert [1, 2, 3, 4, 5, 6] == [record.t for record in merge(tmp_path.glob("*.jsonl"))]


def test_a_line_that_was_cut_off_is_left_out_and_a_broken_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    whole = encode(Record(1, "a", 1, "", 0, 0, "ok", "close", Closed()))
    file.write_bytes(whole + whole[:-5])
    assert 1 == len(list(read(file)))

    file.write_bytes(whole[:-5] + b"\n" + whole)
    with pytest.raises(ValueError):
        list(read(file))
    file.write_bytes(b'{"t":1,"f":"dance"}\n')
    with pytest.raises(ValueError):
        list(read(file))


def test_a_writer_holds_little_back(tmp_path: Path) -> None:
    record = Record(1, "a", 1, "", 0, 0, "ok", "close", Closed())
    with Writer(tmp_path / "a", buffer_bytes_max=1000) as write:
        for _ in range(100):
            write(record)
            assert write.records * len(encode(record)) - write.path.stat().st_size <= 1000
    assert 100 == len(list(read(write.path)))


def test_what_was_invoked_survives_a_kill_with_everything_before_it(tmp_path: Path) -> None:
    """Or a message that is in the log would come from nowhere."""
    program = f"""
import os, signal
from pathlib import Path
from imcore.testkit.history import *
me = Recorder(Writer(Path({str(tmp_path / "a")!r})), process="a", mid=7)
me.note("deliver", Delivered(1, "group://r"))
me.invoke("send", Sending("group://r", "id"))
me.note("deliver", Delivered(2, "group://r"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert -signal.SIGKILL == subprocess.run([sys.executable, "-c", program], check=False).returncode
    assert ["deliver", "send"] == [record.f for record in read(tmp_path / "a")]


# --- the recorder ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """As the SDK hands them out."""

    position: int
    room: str | None
    stream: str
    seq: int
    mid: int
    key: str
    id: str | None
    time_ms: int
    type: str
    op: int
    body: Any


def observed(*steps: tuple[Any, ...]) -> list[Record]:
    records: list[Record] = []
    clock = count(1)
    me = Recorder(records.append, process="p", mid=7, key="phone", now_ns=lambda: next(clock))
    for step in steps:
        me.observe(step)
    assert [*range(1, len(records) + 1)] == [record.t for record in records]
    assert {("p", 7, "phone")} == {record[1:4] for record in records}
    return records


def asked(op: int, body: object, reply: object) -> list[tuple[str, int, str, Value]]:
    """A request and its reply, as they are recorded."""
    records = observed(("request", 3, op, 5, body), ("reply", 3, op + 1, 5, reply))
    assert {(3, 5)} == {record[4:6] for record in records}
    return [(record.type, record.n, record.f, record.v) for record in records]


def test_a_connection_is_asked_for_and_opened() -> None:
    reply = {"recovered": True, "reason": "", "position": 41, "cursor": "e.41"}
    records = observed(
        ("connecting", 1),
        ("request", 1, 7, 1, {"token": "t", "cursor": "e.41"}),
        ("reply", 1, 8, 1, reply),
        ("connected", 1, reply),
    )
    opened = Opened(41, 41, "e", "e", True)

    assert [("invoke", "connect", Opened()), ("ok", "connect", opened), ("ok", "resume", opened)] == [
        record[6:] for record in records
    ]


def test_a_new_device_resumes_nothing_and_one_that_is_not_recovered_says_why() -> None:
    new = observed(("connecting", 1), ("connected", 1, {"recovered": False, "reason": "new", "position": 0}))
    other = observed(("connecting", 1), ("connected", 1, {"recovered": False, "reason": "epoch", "position": 9}))

    assert ["connect", "connect"] == [record.f for record in new]
    assert ("resume", "epoch") == (other[-1].f, other[-1].v.reason)  # type: ignore[union-attr]


def test_a_send_is_known_by_its_id_and_what_it_said() -> None:
    said = Sending(R, "0a", body_hash({"text": "hi"}))
    request = {"room": R, "id": "0A", "body": {"text": "hi"}}

    assert [("invoke", 5, "send", said), ("ok", 5, "send", said._replace(position=41, seq=3, duplicate=True))] == asked(
        4, request, {"position": 41, "seq": 3, "duplicate": True}
    )


@pytest.mark.parametrize(
    ("code", "type_"),
    [
        ("muted", "fail"), ("rate_limited", "fail"), ("overloaded", "fail"), ("id_conflict", "fail"), ("no_such_room", "fail"),
        ("unavailable", "info"), ("internal", "info"), ("going_away", "info"), ("of_next_year", "info"),
    ],
)  # fmt: skip
def test_only_a_refusal_for_sure_is_a_failure(code: str, type_: str) -> None:
    _, (found, _, _, v) = asked(4, {"room": R, "id": "a", "body": 1}, {"error": {"code": code, "text": "t"}})

    assert (type_, code, "t") == (found, v.code, v.text)  # type: ignore[union-attr]


def test_what_has_no_answer_when_the_connection_ends_may_have_been_done() -> None:
    records = observed(
        ("request", 1, 4, 2, {"room": R, "id": "a", "body": 1}),
        ("request", 2, 4, 2, {"room": R, "id": "b", "body": 1}),
        ("closed", 1, None, None),
        ("reply", 1, 5, 2, {"position": 1, "seq": 1}),
        ("reply", 2, 5, 2, {"position": 2, "seq": 2}),
    )

    assert [(1, "invoke"), (2, "invoke"), (1, "info"), (1, "ok"), (2, "ok")] == [(r.conn, r.type) for r in records]
    assert Closed() == records[3].v


def test_an_auth_that_is_refused_is_a_connection_that_failed() -> None:
    refused = {"error": {"code": "unauthenticated", "text": "no", "retry": False}}
    records = observed(
        ("connecting", 1), ("request", 1, 7, 1, {}), ("reply", 1, 8, 1, refused), ("closed", 1, 4401, "no")
    )

    assert [("invoke", "connect"), ("fail", "connect"), ("ok", "close")] == [(r.type, r.f) for r in records]
    assert Opened(code="unauthenticated") == records[1].v


def test_bytes_are_hashed_as_the_log_has_them() -> None:
    assert body_hash("aGkA") == body_hash(b"hi\0")


@pytest.mark.parametrize(
    ("op", "request_", "reply", "f", "asks", "answers"),
    [
        (22, {"room": R}, {"position": 4, "seq": 2}, "join", Belonging(R, 7), [Belonging(R, 7, position=4, seq=2)]),
        (24, {"room": R}, {"position": 4, "seq": 2}, "leave", Belonging(R, 7), [Belonging(R, 7, position=4, seq=2)]),
        (34, {"position": 4}, {"position": 5, "cursor": "e.5"}, "ack", Acking(4), [Acking(5)]),
        (28, {"room": R, "seq": 4}, {"room": R, "seq": 5, "unread": 1}, "read", Reading(R, 4), [Reading(R, 5, 1)]),
        (
            32, {}, {"rooms": [{"room": R, "head": 9, "read": 3, "unread": 2}]}, "read", Reading(""), [Reading(R, 3, 2)],
        ),
        (
            30, {"room": R}, {"members": [{"mid": 1, "online": False}, {"mid": 7, "online": True}]}, "presence",
            Presence(), [Presence(1, False), Presence(7, True)],
        ),
    ],
)  # fmt: skip
def test_every_operation_has_its_record(
    op: int, request_: object, reply: object, f: str, asks: Value, answers: list[Value]
) -> None:
    assert [("invoke", 5, f, asks), *(("ok", 5, f, answer) for answer in answers)] == asked(op, request_, reply)


def test_a_page_of_history_is_recorded_event_by_event() -> None:
    events = [
        {
            "position": 4,
            "room": R,
            "seq": 2,
            "mid": 1,
            "key": "k",
            "id": "a",
            "type": "message_sent",
            "op": 1000,
            "body": "x",
        },
        {
            "position": 5,
            "room": R,
            "seq": 3,
            "mid": 1,
            "key": "",
            "type": "member_removed",
            "body": {"room": R, "mid": 9},
        },
    ]
    _, (_, _, _, page) = asked(26, {"room": R, "after": 1, "limit": 9}, {"events": events, "head": 7, "more": True})

    said = Delivered(4, R, 2, "message_sent", 1, "k", "a", body_hash("x"))
    assert page == Paging(
        R, after=1, limit=9, events=(said, Delivered(5, R, 3, "member_removed", 1, whom=9)), head=7, more=True
    )


def test_what_is_delivered_and_what_ends_it() -> None:
    records = observed(
        ("deliver", 1, Event(4, R, "", 2, 1, "k", "a", 0, "message_sent", 1000, {"b": 1, "a": 2})),
        ("deliver", 1, Event(5, None, "user:7", 1, 0, "", None, 0, "message_pushed", 1000, "x")),
        ("removed", 1, {"room": R, "position": 6, "type": "member_removed", "by": 1}),
        ("closing", 1),
        ("closed", 1, 1000, "bye"),
    )

    assert [
        Delivered(4, R, 2, "message_sent", 1, "k", "a", body_hash({"a": 2, "b": 1})),
        Delivered(5, "user:7", 1, "message_pushed", hash=body_hash("x")),
        Delivered(6, R, kind=REMOVED),
        Closed(1000, "bye", by_client=True),
    ] == [record.v for record in records]


def test_what_goes_another_way_is_recorded_by_hand() -> None:
    records: list[Record] = []
    me = Recorder(records.append, process="p", mid=1)
    kicked = me.invoke("kick", Belonging(R, 9))
    other = me.invoke("kick", Belonging(R, 8))
    me.finish(other, "fail")
    me.finish(kicked, "ok", Belonging(R, 9, position=4, seq=2))
    me.phase(DRAINED)

    assert [("invoke", 9), ("invoke", 8), ("fail", 8), ("ok", 9)] == [(r.type, r.v.mid) for r in records[:4]]  # type: ignore[union-attr]
    assert ("nemesis", "info", Fault(DRAINED, bites=False)) == (records[4].f, records[4].type, records[4].v)


# --- the log -----------------------------------------------------------------------------------------------------------------


async def judged(here: Place) -> Any:
    async with here.pool.acquire() as connection:
        return await authoritative(connection)


async def test_the_log_says_who_said_what_where_and_who_was_there(database_url: str) -> None:
    async with place(database_url) as here:
        await here.in_room(RoomCreated(room=R, history="all"), mid=1)
        await here.join(R, 1, 2)
        (said,) = await here.submit(message(R, 1, "hello"))
        await here.in_room(MemberLeft(room=R, mid=2), mid=2)
        await here.join(R, 2)
        await here.in_room(MemberRemoved(room=R, mid=2), mid=1)
        await here.join(R, 2)
        await here.mark(R, 1, 4)
        opened = await here.in_session(1, SessionOpened(key="phone", node="a", rooms=("live://1", "live://2")))
        log = await judged(here)

    assert (opened.position, opened.position) == (log.head, log.positions)
    assert [*range(1, 9)] == [entry.seq for entry in log.rooms[R]]
    assert {R: 8, f"{USER}1": 1} == log.heads
    entry = log.at[R, said.seq]
    assert (said.position, 1, body_hash("hello"), True) == (entry.position, entry.mid, entry.hash, entry.is_message)
    assert [Interval(3, 5, 3, 5), Interval(6, 7, 6, 7), Interval(8, FOR_EVER, 8, FOR_EVER)] == log.memberships[2, R]
    assert [3, 4, 6, 8] == [entry.seq for entry, _ in log.visible(2) if entry.room == R]
    assert [False, True, True, False, True, False, True] == [log.sees(2, "", R, seq) for seq in range(2, 9)]
    assert [ReadMark(9, 1, R, 4)] == log.read_marks
    assert {R} == log.shown


async def test_the_rows_are_read_with_their_fold_as_far_as_they_have_come(database_url: str) -> None:
    """However far behind the log they are, and whatever types their columns have."""
    async with place(database_url) as here:
        await here.join(R, 1, 2)
        await here.send(R, 1, 3)
        (opened,) = [await here.in_session(1, SessionOpened(key="phone", node="a", rooms=("live://1", "live://2")))]
        await here.in_session(1, SessionClosed(key="gone", opened=1, reason="left", delivered=4))
        behind = await judged(here)
        async with asyncio.TaskGroup() as tasks:
            runner = here.runner()
            task = tasks.create_task(runner.run())
            assert await runner.reached(opened.position + 1, 60)
            caught_up = await judged(here)
            task.cancel()

    inline = {"rooms": 1, "members": 2, "room_counts": 2}
    following = {"sessions": 1, "seen": 1, "deliveries": 1, "inbox": 2, "receipts": 2}
    for log, rows in ((behind, inline), (caught_up, inline | following)):
        assert rows == {name: len(log.projected[name].live) for name in HELD if log.projected[name].live}
        for name, projected in log.projected.items():
            assert projected.live == projected.folded, name
