"""Messages over HTTP: stored once, seen by those who may, in order, and never half a page of somebody else's."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

import pytest

from api.place import Place, bearer, serving
from imcore import commands

ROOM_1 = "/v1/rooms/group/1"
ID = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"


def bodies(page: Any) -> list[object]:
    return [event["body"] for event in page["events"] if event["type"].startswith("message")]


async def test_a_message_is_stored_and_read_back_as_it_was(api: Place) -> None:
    await api.room("group://1", 7)

    sent = await api.post(f"{ROOM_1}/messages", mid=7, json={"id": ID.upper(), "body": {"text": "hello"}, "op": 1005})

    assert (201, {"position": 3, "seq": 3}) == (sent.status, sent.json)
    page = (await api.get(f"{ROOM_1}/messages", mid=7)).json
    (event,) = [event for event in page["events"] if event["seq"] == 3]
    assert abs(event.pop("time") / 1000 - time.time()) < 60
    assert event == {
        "position": 3, "room": "group://1", "seq": 3, "mid": 7, "key": "", "id": ID, "type": "message_sent", "op": 1005,
        "body": {"text": "hello"},
    }  # fmt: skip
    assert (3, False) == (page["head"], page["more"])


@pytest.mark.parametrize(
    "body", [None, True, 0, -1.5, 2**63 - 1, "", "ü😀", [], {}, {"a": [1, {"b": None}]}, "x" * 16_382]
)
async def test_a_body_is_any_json(api: Place, body: object) -> None:
    await api.room("group://1", 7)

    sent = await api.post(
        f"{ROOM_1}/messages",
        mid=7,
        headers={"Content-Type": "application/json"},
        data=json.dumps({"id": ID, "body": body}),
    )

    assert sent.status == 201, sent.raw
    (kept,) = bodies((await api.get(f"{ROOM_1}/messages", mid=7)).json)
    assert body == kept


async def test_a_retry_is_told_where_the_first_one_is(api: Place) -> None:
    await api.room("group://1", 7)
    message = {"id": ID, "body": "hello"}

    first = await api.post(f"{ROOM_1}/messages", mid=7, json=message)
    retry = await api.post(f"{ROOM_1}/messages", mid=7, json={**message, "id": ID.upper()})
    other = await api.post(f"{ROOM_1}/messages", mid=7, json={**message, "body": "bye"})

    assert (201, 200) == (first.status, retry.status)
    assert {**first.json, "duplicate": True} == retry.json
    assert (409, "id_conflict") == (other.status, other.code)


async def test_twenty_retries_at_once_are_one_message(api: Place) -> None:
    await api.room("group://1", 7)

    answers = await asyncio.gather(
        *(api.post(f"{ROOM_1}/messages", mid=7, json={"id": ID, "body": "x"}) for _ in range(20))
    )

    assert [200] * 19 + [201] == sorted(answer.status for answer in answers)
    assert ["x"] == bodies((await api.get(f"{ROOM_1}/messages", mid=7)).json)


async def test_a_service_sends_as_a_member_or_in_its_own_name(api: Place) -> None:
    await api.room("group://1", 7)

    assert (await api.send(ROOM_1, None, "as seven", by=7)).status == 201
    assert (await api.send(ROOM_1, None, "as a service")).status == 201
    assert (await api.send(ROOM_1, None, "as a stranger", by=8)).status == 404
    assert (await api.send("/v1/rooms/group/none", None, "x")).status == 404
    assert (await api.send(ROOM_1, 7, "as eight", by=8)).status == 403
    assert (await api.send(ROOM_1, 7, "as oneself", by=7)).status == 201
    events = (await api.get(f"{ROOM_1}/messages")).json["events"]
    assert [(7, "as seven"), (0, "as a service"), (7, "as oneself")] == [(e["mid"], e["body"]) for e in events[2:]]


async def test_whoever_may_enter_a_live_room_speaks_and_reads_there(guarded: Place) -> None:
    inside, outside = bearer(mid=7, rooms=["live://*"]), bearer(mid=8, rooms=["group://*"])
    path = "/v1/rooms/live/1/messages"

    sent = await guarded.post(path, headers=inside, json={"id": ID, "body": "hi"})
    refused = await guarded.post(path, headers=outside, json={"id": ID, "body": "hi"})

    assert (201, 404) == (sent.status, refused.status)
    assert ["hi"] == bodies((await guarded.get(path, headers=inside)).json)
    assert (await guarded.get(path, headers=outside)).status == 404
    assert (await guarded.get("/v1/rooms/live/2/messages", headers=inside)).json == {
        "room": "live://2", "events": [], "head": 0, "more": False,
    }  # fmt: skip


async def test_a_token_limits_the_operations(guarded: Place) -> None:
    await guarded.room("group://1", 7)
    limited = bearer(mid=7, ops=[1001])

    statuses = [
        (
            await guarded.post(f"{ROOM_1}/messages", headers=limited, json={"id": str(uuid.uuid4()), "body": 1, **op})
        ).status
        for op in ({}, {"op": 1001}, {"op": 1002})
    ]

    assert [403, 201, 403] == statuses


# --- history ---


async def said(api: Place, count: int) -> None:
    await api.append(
        *(commands.send("group://1", 7, str(uuid.uuid4()), str(n), op=1000, is_member=True) for n in range(count))
    )


async def test_history_is_paged_both_ways(api: Place) -> None:
    await api.room("group://1", 7)
    await said(api, 10)  # seq 3 to 12

    async def seqs(query: str) -> tuple[list[int], bool]:
        page = (await api.get(f"{ROOM_1}/messages?{query}", mid=7)).json
        return [event["seq"] for event in page["events"]], page["more"]

    assert ([9, 10, 11, 12], True) == await seqs("limit=4")
    assert ([5, 6, 7, 8], True) == await seqs("limit=4&before=9")
    assert ([2, 3, 4], False) == await seqs("limit=4&before=5")  # 1 was before its join
    assert ([2, 3], True) == await seqs("limit=2&after=0")
    assert ([11, 12], False) == await seqs("limit=4&after=10")
    assert ([], False) == await seqs("after=12")
    assert ([], False) == await seqs("before=1")
    assert ([], False) == await seqs("after=9223372036854775807")
    assert (list(range(2, 13)), False) == await seqs("before=9223372036854775807")


@pytest.mark.parametrize(("history", "seen"), [("joined", ["after"]), ("all", ["before", "after"])])
async def test_who_comes_later_sees_what_the_room_shows(api: Place, history: str, seen: list[str]) -> None:
    await api.room("group://1", 7, history=history)
    await api.send(ROOM_1, 7, "before")
    await api.post(f"{ROOM_1}/join", mid=8)
    await api.send(ROOM_1, 7, "after")

    assert seen == bodies((await api.get(f"{ROOM_1}/messages", mid=8)).json)
    assert seen == bodies((await api.get(f"{ROOM_1}/messages?after=0", mid=8)).json)
    assert ["before", "after"] == bodies((await api.get(f"{ROOM_1}/messages")).json)


async def test_who_comes_back_sees_nothing_of_the_time_between(api: Place) -> None:
    await api.room("group://1", 7, 8)
    await api.send(ROOM_1, 7, "first")
    await api.post(f"{ROOM_1}/leave", mid=8)
    await api.send(ROOM_1, 7, "between")
    await api.post(f"{ROOM_1}/join", mid=8)
    await api.send(ROOM_1, 7, "last")

    assert ["last"] == bodies((await api.get(f"{ROOM_1}/messages?after=0", mid=8)).json)


async def test_a_page_never_holds_what_was_said_after_a_removal(api: Place) -> None:
    """Whoever is asking while it is removed gets a page that ends before that, or nothing."""
    for attempt in range(10):
        room = f"/v1/rooms/group/race{attempt}"
        await api.room(f"group://race{attempt}", 7, 8)

        async def remove_and_speak(room: str = room) -> None:
            await api.delete(f"{room}/members/8")
            await api.send(room, 7, "secret")

        answers = [api.get(f"{room}/messages?after=0", mid=8) for _ in range(8)]
        pages = await asyncio.gather(remove_and_speak(), *answers)

        for page in pages[1:]:
            assert page is not None
            assert b"secret" not in page.raw


async def test_a_page_has_a_size(api: Place) -> None:
    await api.room("group://1", 7)
    large = json.dumps("x" * 16_000)
    await api.append(
        *(commands.send("group://1", 7, str(uuid.uuid4()), large, op=1000, is_member=True) for _ in range(200))
    )

    newest = await api.get(f"{ROOM_1}/messages?limit=500", mid=7)
    oldest = await api.get(f"{ROOM_1}/messages?limit=500&after=0", mid=7)

    for page in (newest, oldest):
        assert 2**20 - 20_000 < len(page.raw) < 2**20 + 20_000
        assert page.json["more"]
    assert newest.json["events"][-1]["seq"] == 202
    assert oldest.json["events"][0]["seq"] == 2
    before = newest.json["events"][0]["seq"]
    assert (await api.get(f"{ROOM_1}/messages?before={before}", mid=7)).json["events"][-1]["seq"] == before - 1


async def test_what_is_no_text_comes_as_base64(api: Place) -> None:
    await api.post("/goim/push/room?operation=1000&type=live&room=1", data=b"\xff")

    (event,) = (await api.get("/v1/rooms/live/1/messages", mid=7)).json["events"]

    assert ("/w==", True, 0) == (event["body"], event["base64"], event["mid"])


async def test_a_service_reads_a_room_that_only_pushes_made(api: Place) -> None:
    await api.post("/goim/push/room?operation=1000&type=group&room=1", data=b"1")

    assert [1] == bodies((await api.get(f"{ROOM_1}/messages")).json)
    assert (await api.get(f"{ROOM_1}/messages", mid=7)).status == 404
    assert (await api.get("/v1/rooms/group/none/messages")).status == 404


# --- bad input ---


async def test_a_message_of_the_wrong_form_is_refused(api: Place) -> None:
    await api.room("group://1", 7)
    for message in [
        {},
        {"id": ID},
        {"body": 1},
        {"id": 1, "body": 1},
        {"id": "x", "body": 1},
        {"id": ID + "\n", "body": 1},
        {"id": None, "body": 1},
        {"id": ID[:-1], "body": 1},
        {"id": "{" + ID + "}", "body": 1},
        {"id": ID.replace("-", ""), "body": 1},
        {"id": ID, "body": 1, "op": 999},
        {"id": ID, "body": 1, "op": 0},
        {"id": ID, "body": 1, "op": -1},
        {"id": ID, "body": 1, "op": 2**31},
        {"id": ID, "body": 1, "op": True},
        {"id": ID, "body": 1, "op": "1000"},
        {"id": ID, "body": 1, "op": 1000.0},
        {"id": ID, "body": 1, "op": None},
        {"id": ID, "body": 1, "mid": True},
        {"id": ID, "body": 1, "mid": "7"},
        {"id": ID, "body": 1, "mid": 2**63},
        {"id": ID, "body": 1, "seq": 1},
        {"id": ID, "body": 1, "sender_id": 1},
        {"id": ID, "body": 1, "position": 1},
        {"id": ID, "body": 1, "time": 1},
        {"id": ID, "body": 1, "room": "group://1"},
    ]:
        answer = await api.post(f"{ROOM_1}/messages", mid=7, json=json.loads(json.dumps(message)))

        assert answer.status == 400, answer.raw
        assert (await api.reads.reader.head()).position == 2


async def test_json_that_cannot_be_kept_is_refused(api: Place) -> None:
    await api.room("group://1", 7)
    for body, code in [
        (b'"\\u0000"', "invalid_text"),
        (b'{"a\\u0000":1}', "invalid_text"),
        (b'"\xed\xa0\x80"', "invalid_text"),
        (b'"\xc0\x80"', "invalid_text"),
        (b'"\\ud800"', "bad_request"),
        (b"1e400", "bad_request"),
        (b"NaN", "bad_request"),
        (b"Infinity", "bad_request"),
        (b"9223372036854775808", "bad_request"),
        (b"-9223372036854775809", "bad_request"),
        (b"1" * 4301, "bad_request"),
        (b"[" * 33 + b"]" * 33, "bad_request"),
        (b'{"a":' * 1025 + b"1" + b"}" * 1025, "bad_request"),
        (b"[" * 30_000, "bad_request"),
        (b'{"a":1,"a":2}', "bad_request"),
        (b"1 2", "bad_request"),
        (b"", "bad_request"),
        (b'"' + b"x" * 16_383 + b'"', "too_large"),
        (b'"\x00"', "bad_request"),
        (b"[1,]", "bad_request"),
        (b"'x'", "bad_request"),
    ]:
        answer = await api.post(
            f"{ROOM_1}/messages",
            mid=7,
            data=b'{"id":"%b","body":%b}' % (ID.encode(), body),
            headers={"Content-Type": "application/json"},
        )

        assert code == answer.code, answer.raw
        assert (await api.reads.reader.head()).position == 2


async def test_json_as_deep_as_allowed_passes(api: Place) -> None:
    await api.room("group://1", 7)

    answer = await api.post(
        f"{ROOM_1}/messages",
        mid=7,
        data=b'{"id":"%b","body":%b}' % (ID.encode(), b"[" * 31 + b"]" * 31),
        headers={"Content-Type": "application/json"},
    )

    assert answer.status == 201, answer.raw


async def test_a_body_is_one_json_object(api: Place) -> None:
    await api.room("group://1", 7)
    for raw in [
        b"\xef\xbb\xbf{}",
        b'{"id":1}'.decode().encode("utf-16"),
        b"[]",
        b'"x"',
        b"1",
        b"null",
        b"{",
        b"{}{}",
        b"\0",
    ]:
        answer = await api.post(f"{ROOM_1}/messages", mid=7, data=raw, headers={"Content-Type": "application/json"})

        assert answer.status == 400


async def test_the_same_key_twice_is_refused(api: Place) -> None:
    await api.room("group://1", 7)
    raw = b'{"id":"%b","body":1,"mid":7,"mid":8}' % ID.encode()

    assert (
        await api.post(f"{ROOM_1}/messages", data=raw, headers={"Content-Type": "application/json"})
    ).code == "bad_request"


async def test_bad_pages(api: Place) -> None:
    await api.room("group://1", 7)
    for query in [
        "before=0",
        "before=-1",
        "before=9223372036854775808",
        "after=-1",
        "after=1.0",
        "after=",
        "before=1&after=1",
        "after=1&after=1",
        "limit=",
        "limit=1e1",
        "after=%D9%A1",
        "before=true",
        "after=%00",
        "after=%FF",
        "after=%",
    ]:
        assert (await api.get(f"{ROOM_1}/messages?{query}", mid=7)).status == 400


@pytest.mark.parametrize(
    "text", ["' OR 1=1 --", '"; DROP TABLE events; --', "%_\\", "$$", "{{7*7}}", "\u202e\u200b", "a\x1b[31m"]
)
async def test_text_is_only_text(api: Place, text: str) -> None:
    await api.room("group://1", 7)

    assert (await api.send(ROOM_1, 7, text)).status == 201
    assert [text] == bodies((await api.get(f"{ROOM_1}/messages", mid=7)).json)


async def test_limits_are_settings(database_url: str) -> None:
    async with serving(database_url, text_body_bytes_max=100) as api:
        await api.room("group://1", 7)

        assert (await api.send(ROOM_1, 7, "x" * 98)).status == 201
        assert (await api.send(ROOM_1, 7, "x" * 99)).status == 413
