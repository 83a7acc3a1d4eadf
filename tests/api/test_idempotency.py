"""Under a key a request happens once, whoever is told of it how often; and what a key holds is nobody else's."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.place import Answer, Place, bearer, serving
from api.probes import Counter, counter, probes
from imcore import failpoints
from imcore.auth import Identity
from imcore.client import Limits, http
from imcore.config import Settings
from imcore.database import expiry, sweep_expired
from imcore.verbs import idempotency
from imcore.verbs.verb import Caller

COUNT = "/v1/count"


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Place]:
    """The verbs of these tests, behind tokens."""
    async with serving(database_url, verbs=probes(), auth_mode="jwt") as place:
        yield place


def counting(api: Place) -> Counter:
    """What the verbs have counted."""
    from imcore.api.services import SERVICES

    return counter(api.app[SERVICES].means)


async def ask(api: Place, key: str | None, path: str = COUNT, *, mid: int | None = 7, **body: Any) -> Answer:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await api.post(path, mid=mid, json=body, headers=headers)


async def rows(api: Place) -> int:
    found: int = await api.pool.fetchval("SELECT count(*) FROM idempotency")
    return found


async def age(api: Place, column: str) -> None:
    """Everything that was claimed or kept ends now."""
    await api.pool.execute(f"UPDATE idempotency SET {column} = now()")


async def test_the_same_request_again_gets_the_first_answer_and_does_not_happen(api: Place) -> None:
    first = await ask(api, "k1")
    again = [await ask(api, "k1") for _ in range(3)]

    assert (200, {"count": 1, "filler": ""}) == (first.status, first.json)
    assert "Idempotency-Replayed" not in first.headers
    assert [(200, first.raw, "true")] * 3 == [
        (one.status, one.raw, one.headers["Idempotency-Replayed"]) for one in again
    ]
    assert 1 == counting(api).count


async def test_the_status_is_kept_too(api: Place) -> None:
    await ask(api, "k1")
    second = await ask(api, "k2")

    assert [201, 201] == [second.status, (await ask(api, "k2")).status]


async def test_without_a_key_it_happens_each_time(api: Place) -> None:
    assert [1, 2] == [(await ask(api, None)).json["count"] for _ in range(2)]
    assert 0 == await rows(api)


async def test_the_order_of_fields_is_no_other_request_and_a_value_is(api: Place) -> None:
    json = {"Content-Type": "application/json", "Idempotency-Key": "k1"}
    first = await api.post(COUNT, mid=7, data=b'{"by":2,"bytes":1}', headers=json)
    turned = await api.post(COUNT, mid=7, data=b'{ "bytes":1,\n"by":2}', headers=json)
    other = await api.post(COUNT, mid=7, data=b'{"by":3,"bytes":1}', headers=json)
    elsewhere = await api.ask("DELETE", "/v1/drops/7", mid=7, headers={"Idempotency-Key": "k1"})

    assert first.raw == turned.raw
    assert [(422, "idempotency_conflict", False)] * 2 == [
        (one.status, one.code, one.json["retry"]) for one in (other, elsewhere)
    ]
    assert 2 == counting(api).count


async def test_arguments_in_path_and_query_count_too(api: Place) -> None:
    key = {"Idempotency-Key": "k1"}
    first = await api.delete("/v1/drops/7?quietly=true", mid=7, headers=key)
    again = await api.delete("/v1/drops/7?quietly=true", mid=7, headers=key)
    other = await api.delete("/v1/drops/8?quietly=true", mid=7, headers=key)
    louder = await api.delete("/v1/drops/7", mid=7, headers=key)

    assert [200, 200, 422, 422] == [one.status for one in (first, again, other, louder)]
    assert first.raw == again.raw


async def test_a_key_is_its_owners(api: Place) -> None:
    counts = [(await ask(api, "k1", mid=mid)).json["count"] for mid in (7, 8, None, 7, None)]

    assert [1, 2, 3, 1, 3] == counts


async def test_who_may_not_ask_any_more_gets_no_answer_from_before(api: Place) -> None:
    """The same key with a token that does not name the room."""
    key = {"Idempotency-Key": "k1"}
    path = "/v1/probes/group/1/of/7"
    wide = await api.put(path, json={}, headers={**bearer(mid=7), **key})
    narrow = await api.put(path, json={}, headers={**bearer(mid=7, rooms=["group://2"]), **key})
    again = await api.put(path, json={}, headers={**bearer(mid=7, rooms=["group://1"]), **key})

    assert [201, 404, 201] == [one.status for one in (wide, narrow, again)]


async def test_while_it_is_under_way_the_same_is_told_to_wait_and_another_that_it_is_taken(api: Place) -> None:
    here = counting(api)
    first = asyncio.create_task(ask(api, "k1", wait=True))
    await here.waiting.wait()
    same, other = await ask(api, "k1", wait=True), await ask(api, "k1")
    here.go_on.set()

    assert (409, "under_way", True) == (same.status, same.code, same.json["retry"])
    assert same.json["retry_after_ms"] == idempotency.RETRY_MS
    assert "1" == same.headers["Retry-After"]
    assert (422, "idempotency_conflict") == (other.status, other.code)
    assert (await first).raw == (await ask(api, "k1", wait=True)).raw
    assert 1 == here.count


async def test_of_many_at_once_one_happens(api: Place) -> None:
    answers = await asyncio.gather(*(ask(api, "k1", mid=None) for _ in range(40)))

    assert 1 == counting(api).count
    assert {200, 409} >= {one.status for one in answers}
    assert 1 == len({one.raw for one in answers if one.status == 200})


async def test_a_refusal_frees_the_key(api: Place) -> None:
    """Nothing came of it: to ask again is to ask anew."""
    assert [409, 409] == [(await ask(api, "k1", refuse="exists")).status for _ in range(2)]
    assert 0 == await rows(api)
    assert 200 == (await ask(api, "k1", by=1)).status
    assert [False] * 3 == counting(api).tried


async def test_what_nobody_knows_the_outcome_of_runs_again_at_once_and_knows_that_it_did(api: Place) -> None:
    """The key stays that of the same request, until one of its tries has an outcome."""
    here = counting(api)
    told = [await ask(api, "k1", refuse="unavailable") for _ in range(2)]
    assert [(503, "unavailable")] * 2 == [(one.status, one.code) for one in told]
    assert 422 == (await ask(api, "k1")).status, "another request"
    assert [False, True] == here.tried
    assert (200, False) == ((await ask(api, "k2")).status, here.tried[-1]), "another key"


async def test_who_is_stopped_in_the_middle_leaves_the_key_to_the_same_request(api: Place) -> None:
    """A server that stops does so to whatever is under way; the next one is asked at once."""
    from imcore.api.services import SERVICES

    here, verbs, means = counting(api), probes(), api.app[SERVICES].means
    caller = Caller(Identity(7))
    for n in range(2):
        here.waiting.clear()
        values = {"wait": True}
        stopped = asyncio.create_task(verbs.call(verbs.by_name["probe.count"], caller, means, values, "k1"))
        async with asyncio.timeout(10):  # it runs, and is not told to wait
            await here.waiting.wait()
        stopped.cancel()
        await asyncio.wait([stopped])
        assert (True, n + 1) == (stopped.cancelled(), here.count)

    here.go_on.set()
    assert (200, 422) == ((await ask(api, "k1", wait=True)).status, (await ask(api, "k1")).status)
    assert [False, True, True] == here.tried


async def test_who_is_stopped_does_not_wait_long_for_a_database_that_does_not_answer(
    api: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imcore.api.services import SERVICES

    monkeypatch.setattr(idempotency, "LET_GO_S", 0.1)
    here, verbs, means = counting(api), probes(), api.app[SERVICES].means
    running = verbs.call(verbs.by_name["probe.count"], Caller(Identity(7)), means, {"wait": True}, "k1")
    stopped = asyncio.create_task(running)
    await here.waiting.wait()
    async with api.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE idempotency")
        stopped.cancel()
        await asyncio.wait([stopped], timeout=5)
        assert stopped.cancelled()
    assert (409, "under_way") == ((again := await ask(api, "k1", wait=True)).status, again.code)


async def test_a_claim_is_over_before_a_client_gives_up(api: Place) -> None:
    """So whose server died in the middle is answered by the next one, by clients as they are when nothing is said."""
    await ask(api, "k1", refuse="bug")
    claimed_s = await api.pool.fetchval(
        "SELECT extract(epoch FROM claimed_until - (expires_at - make_interval(secs => $1)))::float FROM idempotency",
        Settings().idempotency_s,
    )
    assert idempotency.claim_s(Settings()) == pytest.approx(claimed_s)
    assert claimed_s + http.BACKOFF_MAX_S + idempotency.RETRY_MS / 1000 < min(http.CALL_S, Limits().call_s)
    slow = Settings(append_timeout_s=40, send_wait_max_s=5)
    assert 65 == idempotency.claim_s(slow), "no shorter than the log may take"


@pytest.mark.parametrize("lost", ["before_commit", "after_commit"])
async def test_a_room_that_a_lost_try_made_is_its_makers(database_url: str, lost: str) -> None:
    """The log says that nobody knows; the same request again, under the same key, is told of the room and not that there is one."""
    key, body = {"Idempotency-Key": "k1"}, {"room": "group://1", "title": "Tea", "topic": "green", "members": [8, 9]}
    async with serving(database_url) as place:
        failpoints.arm(f"{lost}:error")
        try:
            unknown = await place.post("/v1/rooms", mid=7, json=body, headers=key)
        finally:
            failpoints.arm("")
        assert (503, "unavailable") == (unknown.status, unknown.code)
        made = await place.post("/v1/rooms", mid=7, json=body, headers=key)
        again = await place.post("/v1/rooms", mid=7, json=body, headers=key)
        others = await place.post("/v1/rooms", mid=8, json=body, headers=key)
        anew = await place.post("/v1/rooms", mid=7, json=body, headers={"Idempotency-Key": "k2"})
        head = await place.reads.reader.stream_head("room:group://1")

    assert (201, "group://1", 5) == (made.status, made.json["room"], made.json["seq"])
    assert (head.seq, head.position) == (made.json["seq"], made.json["position"])
    assert (made.raw, "true") == (again.raw, again.headers["Idempotency-Replayed"])
    assert [(409, "room_exists")] * 2 == [(one.status, one.code) for one in (others, anew)]


async def test_a_room_that_was_there_before_a_lost_try_is_no_new_one(database_url: str) -> None:
    key, body = {"Idempotency-Key": "k1"}, {"room": "group://1"}
    async with serving(database_url) as place:
        assert 201 == (await place.post("/v1/rooms", mid=7, json=body)).status
        failpoints.arm("before_commit:error")
        try:
            unknown = await place.post("/v1/rooms", mid=7, json=body, headers=key)
        finally:
            failpoints.arm("")
        again = await place.post("/v1/rooms", mid=7, json=body, headers=key)
    assert ("unavailable", "room_exists") == (unknown.code, again.code)


async def test_a_claim_that_nobody_answers_ends_by_itself(api: Place) -> None:
    """The process died, or had a bug, between the claim and the answer. Until then nobody runs it beside one that may be alive."""
    assert 500 == (await ask(api, "k1", refuse="bug")).status
    assert (409, "under_way") == ((again := await ask(api, "k1", refuse="bug")).status, again.code)
    await age(api, "claimed_until")

    assert 422 == (await ask(api, "k1")).status, "it is that request's still"
    assert 500 == (await ask(api, "k1", refuse="bug")).status
    assert 2 == counting(api).count


async def test_who_took_too_long_does_not_write_over_who_came_after(api: Place) -> None:
    here = counting(api)
    slow = asyncio.create_task(ask(api, "k1", wait=True))
    await here.waiting.wait()
    await age(api, "claimed_until")
    here.waiting.clear()
    second = asyncio.create_task(ask(api, "k1", wait=True))
    await here.waiting.wait()
    here.go_on.set()
    await asyncio.gather(slow, second)

    assert (await second).raw == (await ask(api, "k1", wait=True)).raw


async def test_after_its_time_a_key_is_free_for_anything(api: Place) -> None:
    await ask(api, "k1")
    await age(api, "expires_at")

    other = await ask(api, "k1", by=2)
    assert (3, 1) == (other.json["count"], await rows(api))


@pytest.mark.parametrize("over", [0, 1])
async def test_an_answer_is_kept_up_to_a_size(api: Place, over: int) -> None:
    around = len((await ask(api, None, by=1)).raw)
    size = idempotency.ANSWER_BYTES_MAX - around + over
    first = await ask(api, "k1", bytes=size)
    again = await ask(api, "k1", bytes=size)

    assert idempotency.ANSWER_BYTES_MAX + over == len(first.raw)
    assert (first.raw == again.raw) is not bool(over)
    assert 2 == first.json["count"]
    assert 1 - over == await rows(api)


async def test_secrets_and_answers_to_nobody_are_kept_nowhere(api: Place) -> None:
    told = [(await ask(api, "k1", "/v1/secrets")).json["count"] for _ in range(2)]
    anybody = [(await ask(api, "k1", "/v1/open")).json["count"] for _ in range(2)]

    assert [1, 2, 3, 4] == told + anybody
    assert 0 == await rows(api)


async def test_nobody_claims_a_key_for_what_is_refused_at_the_door(api: Place) -> None:
    key = {"Idempotency-Key": "k1"}
    assert 401 == (await api.post(COUNT, json={}, headers={"Authorization": "", **key})).status
    assert 400 == (await ask(api, "k1", by=10)).status
    assert 400 == (await ask(api, "k1", unknown=1)).status
    assert 0 == await rows(api)
    assert 200 == (await ask(api, "k1")).status


@pytest.mark.parametrize(
    "key", ["x" * 128, '"' + "x" * 128 + '"', str(uuid.uuid4()), "a'; DROP TABLE events;--".replace(" ", "_"), "!~"]
)
async def test_a_key_is_any_printable_word(api: Place, key: str) -> None:
    assert [1, 1] == [(await ask(api, key)).json["count"] for _ in range(2)]


async def test_quotes_are_not_part_of_a_key(api: Place) -> None:
    assert (await ask(api, '"k1"')).raw == (await ask(api, "k1")).raw


@pytest.mark.parametrize("key", ["", " ", "x" * 129, '""', '"x', "a b", "ä", '"a"b"', "a\\b"])
async def test_what_is_no_key_is_refused(api: Place, key: str) -> None:
    refused = await ask(api, key)
    assert (400, "bad_request") == (refused.status, refused.code)
    assert 0 == counting(api).count


async def test_two_keys_are_none(api: Place) -> None:
    from multidict import CIMultiDict

    headers = CIMultiDict([*bearer(mid=7).items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    async with api.session.post(f"{api.url}{COUNT}", headers=headers) as response:
        assert 400 == response.status


async def test_what_expired_is_swept_in_bounded_steps(api: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "SWEEP_ROWS_MAX", 3)
    for n in range(8):
        await ask(api, f"old{n}")
    await age(api, "expires_at")
    await ask(api, "new")

    assert 8 == await sweep_expired(api.pool, "idempotency")
    assert 1 == await rows(api)
    assert 0 == await sweep_expired(api.pool, "idempotency")


async def test_sweeping_looks_at_what_expired_only(api: Place) -> None:
    """The index is in the order in which they expire."""
    await api.pool.execute(
        """INSERT INTO idempotency (mid, role, key, request, claim, claimed_until, expires_at)
           SELECT n, 'user', 'k', '', gen_random_uuid(), now(), now() + make_interval(hours => 1 + n) FROM generate_series(1, 5000) n"""
    )
    await api.pool.execute("ANALYZE idempotency")
    plan = await api.pool.fetch(
        "EXPLAIN " + expiry.SWEEP.format(table="idempotency").replace("$1", "0").replace("$2", "1000")
    )
    assert any("idempotency_expires_at_idx" in row[0] for row in plan), plan
