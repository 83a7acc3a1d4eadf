"""What is no attachment goes after a day, and nothing else ever does."""

from __future__ import annotations

import logging
import os
import secrets
import time
from pathlib import Path

import pytest

from attachments.conftest import S3
from attachments.test_store import left, new_id, pieces
from imcore.attachments import sweep
from imcore.attachments.folder import Folder
from imcore.attachments.s3 import Bucket
from imcore.attachments.store import Store
from imcore.attachments.sweep import ORPHAN_S, PAGE, STRANGERS, Sweeper
from imcore.database import create_pool
from imcore.events.names import Pool

LATER_S = ORPHAN_S + 3_600


async def known(pool: Pool, *ids: str) -> None:
    """As the projection has it when there was an event."""
    await pool.executemany(
        "INSERT INTO attachments VALUES ($1, 'group://r', 7, 'a', 'text/plain', 1, '', NULL, NULL, 1, 0)",
        [(id_,) for id_ in ids],
    )


async def test_bytes_without_an_event_go_when_they_are_a_day_old(store: Store, database_url: str) -> None:
    attached, orphan = new_id(), new_id()
    for id_ in (attached, orphan):
        await store.put(id_, pieces(b"x"))
    async with create_pool(database_url) as pool:
        await known(pool, attached)

        assert 0 == await Sweeper(store, pool).step()
        assert sorted((attached, orphan)) == await left(store)

        sweeper = Sweeper(store, pool, now=lambda: time.time() + LATER_S)
        assert 1 == await sweeper.step()
        assert [attached] == await left(store)
        assert 1 == sweeper.swept


async def test_the_walk_goes_through_all_pages_and_begins_again(tmp_path: Path, database_url: str) -> None:
    """More than a page, one known on each; an orphan that comes later is found on the next round."""
    store = Folder(tmp_path)
    ids = sorted(secrets.token_hex(16) for _ in range(PAGE + 10))
    for id_ in ids:
        (tmp_path / id_[:2]).mkdir(exist_ok=True)
        (tmp_path / id_[:2] / id_).write_bytes(b"")
    async with create_pool(database_url) as pool:
        await known(pool, ids[0], ids[-1])
        sweeper = Sweeper(store, pool, now=lambda: time.time() + LATER_S)

        assert [PAGE - 1, 9, 0] == [await sweeper.step() for _ in range(3)]
        late = new_id()
        await store.put(late, pieces(b"x"))
        assert 1 == await sweeper.step()
    assert [ids[0], ids[-1]] == await left(store)
    await store.close()


async def test_the_walk_comes_past_what_others_keep_in_the_bucket(
    s3: S3, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a page of it, before the first file: the orphan behind it goes all the same, and nothing else."""
    monkeypatch.setattr(sweep, "PAGE", 20)
    store = await Bucket.opened(s3.settings())
    others = [f"2026/{n}" for n in range(sweep.PAGE + 1)]
    for key in others:
        await store._client.put_object(Bucket=store._bucket, Key=store._prefix + key, Body=b"")
    orphan = "3" * 32
    await store.put(orphan, pieces(b"x"))
    async with create_pool(database_url) as pool:
        sweeper = Sweeper(store, pool, now=lambda: time.time() + LATER_S)

        assert 1 == await sweeper.step()
    assert not await store.exists(orphan)
    kept = await store._client.list_objects_v2(Bucket=store._bucket, Prefix=store._prefix)
    assert (len(others), False) == (kept["KeyCount"], kept["IsTruncated"])
    await store.close()


async def test_a_store_of_somebody_else_is_left_alone(
    tmp_path: Path, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A new, empty database on a folder full of files must not empty it."""
    store = Folder(tmp_path)
    for _ in range(STRANGERS):
        await store.put(new_id(), pieces(b"x"))
    async with create_pool(database_url) as pool:
        sweeper = Sweeper(store, pool, now=lambda: time.time() + LATER_S)
        with caplog.at_level(logging.ERROR):
            assert 0 == await sweeper.step()

        assert STRANGERS == len(await left(store))
        assert "knows none" in caplog.text

        await store.delete((await left(store))[0])
        await sweeper.step()  # the end of the round
        assert STRANGERS - 1 == await sweeper.step(), "a few may be orphans"
    await store.close()


async def test_a_round_tidies_what_was_never_finished(tmp_path: Path, database_url: str) -> None:
    store = Folder(tmp_path)
    (tmp_path / "00").mkdir()
    beside = tmp_path / "00" / f".{'0' * 32}.0011"
    beside.write_bytes(b"half")
    async with create_pool(database_url) as pool:
        sweeper = Sweeper(store, pool)
        await sweeper.step()
        assert beside.exists()

        old_s = time.time() - LATER_S
        os.utime(beside, (old_s, old_s))
        await sweeper.step()
    assert not beside.exists()
    assert 1 == sweeper.swept
    await store.close()
