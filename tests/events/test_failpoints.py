"""A process that breaks at a named place of its append: what others see, and what its retry is told."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import orjson
import pytest

from events.at_work import assert_sound, connected
from events.test_processes import answer_of, process
from imcore import failpoints
from imcore.database import create_pool
from imcore.events.store import APPEND_TIMEOUT_S, HOLD_S
from waiting import eventually

SEND = {"verb": "send", "room": "live://1", "mid": 7, "is_member": False, "body": '"hello"'}
JOIN = {"verb": "join", "room": "group://1", "mid": 7}
ONE = orjson.dumps(SEND | {"id": "00000000-0000-4000-8000-000000000001"})
OTHER = orjson.dumps(SEND | {"id": "00000000-0000-4000-8000-000000000002"})
HOLDS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"


async def append(url: str, *lines: bytes, fail: str = "") -> tuple[int, list[dict[str, object]]]:
    """A process that appends these: its exit code, and what it said."""
    async with process(url, "append", 0, fail=fail) as one:
        out, _ = await one.communicate(b"\n".join(lines))
        assert one.returncode is not None
        return one.returncode, [orjson.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("line", [ONE, orjson.dumps(JOIN)], ids=["draft", "decision"])
@pytest.mark.parametrize(
    ("place", "is_stored"),
    [("after_update_head", False), ("before_commit", False), ("after_commit", True), ("before_reply", True)],
)
async def test_a_process_that_dies_within_its_append_leaves_all_of_it_or_nothing(
    database_url: str, place: str, is_stored: bool, line: bytes
) -> None:
    """And its retry is told the truth either way."""
    died = await append(database_url, line, fail=f"{place}:exit")
    code, answers = await append(database_url, line)

    assert (failpoints.EXIT_CODE, []) == died
    assert (0, ["ok"]) == (code, [answer["code"] for answer in answers])
    async with create_pool(database_url) as pool:
        events = await assert_sound(pool)
    kept = [event for event in events if event.mid == 7]
    assert 1 == len(kept)
    if line == ONE:
        assert [(is_stored, [list(kept[0])])] == [(answer["duplicate"], answer["events"]) for answer in answers]
    else:  # a second join is no event
        assert [[] if is_stored else [list(kept[0])]] == [answer["events"] for answer in answers]


@pytest.mark.parametrize(
    ("place", "is_stored"), [("after_update_head", False), ("before_commit", False), ("after_commit", True)]
)
async def test_an_error_within_an_append_is_an_unknown_outcome(database_url: str, place: str, is_stored: bool) -> None:
    code, answers = await append(database_url, ONE, fail=f"{place}:error")

    assert (0, ["unavailable", "ok"]) == (code, [answer["code"] for answer in answers])
    assert is_stored is answers[-1]["duplicate"]
    async with create_pool(database_url) as pool:
        assert 1 == len(await assert_sound(pool))


async def test_who_stands_still_with_the_head_in_its_hand_holds_up_the_others_for_a_bounded_time(
    database_url: str,
) -> None:
    """Postgres ends its transaction; when it goes on, its batch has an unknown outcome, and the retry is right."""
    async with process(database_url, "append", 0, fail="before_commit:stop") as stopped:
        assert stopped.stdin is not None
        assert stopped.stdout is not None
        stopped.stdin.write(ONE)
        stopped.stdin.close()
        async with connected(database_url) as connection:
            await eventually(lambda: connection.fetchval(HOLDS))
        started = time.monotonic()
        code, answers = await append(database_url, OTHER)
        took_s = time.monotonic() - started
        os.kill(stopped.pid, signal.SIGCONT)
        first, second = await answer_of(stopped), await answer_of(stopped)
        assert 0 == await asyncio.wait_for(stopped.wait(), APPEND_TIMEOUT_S)

    assert (0, ["ok"]) == (code, [answer["code"] for answer in answers]), "it was told once, and not that it is unknown"
    assert took_s >= HOLD_S / 2, "it had to wait"
    assert ("unavailable", "ok", False) == (first["code"], second["code"], second["duplicate"])
    async with create_pool(database_url) as pool:
        events = await assert_sound(pool)
    assert ["…0002", "…0001"] == [f"…{(event.client_id or '')[-4:]}" for event in events]
