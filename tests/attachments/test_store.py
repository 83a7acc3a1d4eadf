"""What a store promises, held against a real folder and a real server that speaks S3."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from attachments.conftest import S3
from imcore.attachments import s3 as s3_module
from imcore.attachments.folder import Folder
from imcore.attachments.s3 import PART_BYTES, Bucket, beyond
from imcore.attachments.store import PIECE_BYTES, Store, is_id
from imcore.errors import BadConfiguration, StoreUnavailable

LATER_S = 3_600.0
PATIENCE_S = 15.0
WITHIN_S = (1.0, 4.0, 16.0)  # in which a store that works has answered, on machines more and more busy


def new_id() -> str:
    return secrets.token_hex(16)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(store: Store, id_: str, start: int, end: int) -> bytes:
    return b"".join([piece async for piece in store.get(id_, start, end)])


async def left(store: Store) -> list[str]:
    return [kept.id for kept in await store.page("", 100)]


@pytest.mark.parametrize(
    "size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1]
)
async def test_what_is_put_is_got(store: Store, size: int) -> None:
    """At, below and above every size at which something changes inside."""
    id_, content = new_id(), os.urandom(size)

    await store.put(id_, pieces(content[: size // 3], content[size // 3 :]))

    assert content == await read(store, id_, 0, size)
    assert await store.exists(id_)


async def test_any_part_of_it_is_got_alone(store: Store) -> None:
    id_, content = new_id(), os.urandom(PIECE_BYTES * 2 + 10)
    await store.put(id_, pieces(content))

    for start, end in ((0, 1), (5, 5), (PIECE_BYTES - 1, PIECE_BYTES + 1), (len(content) - 1, len(content))):
        assert content[start:end] == await read(store, id_, start, end)


async def test_what_is_not_there_is_a_key_error(store: Store) -> None:
    for end in (0, 1):
        with pytest.raises(KeyError):
            await read(store, new_id(), 0, end)
    assert not await store.exists(new_id())


async def test_deleted_is_gone_and_deleting_again_is_no_error(store: Store) -> None:
    id_ = new_id()
    await store.put(id_, pieces(b"x"))

    await store.delete(id_)
    await store.delete(id_)

    assert not await store.exists(id_)
    assert [] == await left(store)


@pytest.mark.parametrize("size", [10, PART_BYTES + 10])
async def test_an_upload_that_fails_leaves_nothing(store: Store, size: int) -> None:
    class Gone(Exception):
        pass

    async def breaking() -> AsyncIterator[bytes]:
        yield bytes(size)
        raise Gone

    id_ = new_id()
    with pytest.raises(Gone):
        await store.put(id_, breaking())

    assert not await store.exists(id_)
    assert [] == await left(store)
    assert 0 == await store.tidy(time.time() + LATER_S), "there is nothing to tidy either"


async def test_an_upload_that_is_cancelled_leaves_nothing(store: Store) -> None:
    under_way = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield bytes(PART_BYTES + 10)
        under_way.set()
        await asyncio.Event().wait()

    id_ = new_id()
    task = asyncio.create_task(store.put(id_, stalling()))
    await under_way.wait()
    assert [] == await left(store), "nobody sees a part of it"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not await store.exists(id_)
    assert 0 == await store.tidy(time.time() + LATER_S)


async def test_pages_go_through_everything_in_order_and_once(store: Store) -> None:
    ids = sorted(new_id() for _ in range(7))
    for id_ in reversed(ids):
        await store.put(id_, pieces(b"x"))

    found: list[str] = []
    while page := await store.page(found[-1] if found else "", 3):
        assert all(abs(time.time() - kept.written_s) < 60 for kept in page)
        found += [kept.id for kept in page]

    assert ids == found


async def test_many_at_once_do_not_meet(store: Store) -> None:
    contents = {new_id(): os.urandom(1_000) for _ in range(20)}

    await asyncio.gather(*(store.put(id_, pieces(content)) for id_, content in contents.items()))

    assert list(contents.values()) == await asyncio.gather(*(read(store, id_, 0, 1_000) for id_ in contents))


async def test_a_reader_that_stops_in_the_middle_lets_go(store: Store) -> None:
    id_ = new_id()
    await store.put(id_, pieces(bytes(PIECE_BYTES * 2)))

    reading = store.get(id_, 0, PIECE_BYTES * 2)
    assert await anext(reading)
    await reading.aclose()

    await store.delete(id_)
    assert not await store.exists(id_)


def test_only_hexadecimal_of_one_length_is_an_id() -> None:
    assert is_id("0123456789abcdef" * 2)
    for text in (
        "",
        "../../../../etc/passwd",
        "0" * 31,
        "0" * 33,
        "0123456789ABCDEF" * 2,
        "0" * 31 + "\n",
        "0" * 32 + "\n",
        "/" + "0" * 31,
    ):
        assert not is_id(text), text


# --- a bucket ------------------------------------------------------------------------------------------------------------------


async def test_a_page_goes_on_past_whatever_others_keep_in_the_bucket(s3: S3) -> None:
    """More of it than fits into a page, before, between and after the files: as logs, by date, and under names nearly like ours."""
    store = await Bucket.opened(s3.settings())
    ids = ["0" * 32, "5" * 32, "a" * 31 + "0", "f" * 32]
    others = [f"{folder}{n}" for folder in ("-/", "2026/01/", "5555", "A", "archive/", "x") for n in range(4)]
    for key in (*others, *(f"{'5' * 32}.{n}" for n in range(4)), *(f"{'a' * 31}/{n}" for n in range(4))):
        await store._client.put_object(Bucket=store._bucket, Key=store._prefix + key, Body=b"not ours")
    for id_ in ids:
        await store.put(id_, pieces(b"x"))

    for limit in (1, 3, 100):
        found: list[str] = []
        while page := await store.page(found[-1] if found else "", limit):
            found += [kept.id for kept in page]
        assert ids == found
    await store.close()


def test_what_others_keep_is_passed_without_passing_an_id() -> None:
    """Of any two names, one of somebody else's and an id after it: what is asked for next lies between them. It always goes on."""
    seed = random.randrange(2**32)
    draws = random.Random(seed)
    for _ in range(20_000):
        id_ = "".join(draws.choices("0f9a", k=32))
        cut = draws.randrange(33)
        name = id_[:cut] + "".join(draws.choices("/0:9A`afgz\xff", k=draws.randrange(4)))
        next_ = beyond(name)
        assert next_ is None or next_ >= name, (seed, name, next_)
        assert id_ <= name or (next_ is not None and next_ < id_), (seed, name, next_, id_)
    assert ["20260", "b", None] == [beyond("2026/01/a.jpg"), beyond("archive/1"), beyond("x")]


# --- a folder ------------------------------------------------------------------------------------------------------------------


async def test_a_folder_is_sharded_and_readable_by_nobody_else(tmp_path: Path) -> None:
    store, id_ = Folder(tmp_path / "deep" / "files"), new_id()
    await store.put(id_, pieces(b"x"))

    path = tmp_path / "deep" / "files" / id_[:2] / id_
    assert (b"x", 0o600, 0o700) == (path.read_bytes(), path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777)
    assert 1 == path.stat().st_nlink, "what was written beside is gone"
    await store.close()


async def test_a_link_in_the_folder_leads_nowhere(tmp_path: Path) -> None:
    """Whoever can write into the folder must not make the server read another file."""
    store, id_ = Folder(tmp_path / "files"), new_id()
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    (tmp_path / "files" / id_[:2]).mkdir(parents=True)
    (tmp_path / "files" / id_[:2] / id_).symlink_to(secret)

    with pytest.raises(StoreUnavailable):
        await read(store, id_, 0, 7)
    await store.close()


async def test_what_a_killed_upload_left_in_a_folder_is_tidied_when_it_is_old(tmp_path: Path) -> None:
    store, id_ = Folder(tmp_path / "files"), new_id()
    await store.put(id_, pieces(b"x"))
    beside = tmp_path / "files" / id_[:2] / f".{new_id()}.0011"
    beside.write_bytes(b"half")

    assert 0 == await store.tidy(time.time() - 60)
    assert 1 == await store.tidy(time.time() + 60)
    assert not beside.exists()
    assert await store.exists(id_)
    await store.close()


async def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Folder(tmp_path / "file" / "files")

    with pytest.raises(BadConfiguration):
        await store.check()
    with pytest.raises(StoreUnavailable):
        await store.put(new_id(), pieces(b"x"))
    await store.close()


async def test_the_loop_goes_on_while_files_are_written(tmp_path: Path) -> None:
    store, turns = Folder(tmp_path / "files"), 0

    async def counting() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(counting())
    await store.put(new_id(), pieces(*[bytes(PIECE_BYTES)] * 20))
    task.cancel()

    assert turns > 20, "each piece is a turn in a thread"
    await store.close()


# --- a bucket ------------------------------------------------------------------------------------------------------------------


async def test_what_a_killed_upload_left_in_a_bucket_is_tidied_when_it_is_old(s3: S3) -> None:
    store, id_ = await Bucket.opened(s3.settings()), new_id()
    await store._client.create_multipart_upload(Bucket="files", Key=store._prefix + id_)

    assert 0 == await store.tidy(0), "it is younger than 1970 (this server says 2010 of every upload)"
    assert 1 == await store.tidy(time.time() + LATER_S)
    assert 0 == await store.tidy(time.time() + LATER_S)
    await store.close()


class InPages:
    """A client of a store that lists only so many unfinished uploads at a time; the store of the tests lists all."""

    def __init__(self, client: Any, most: int, *, says_where: bool = True) -> None:
        self._client, self._most, self._says_where = client, most, says_where
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def list_multipart_uploads(
        self, *, KeyMarker: str = "", UploadIdMarker: str = "", **asked: Any
    ) -> dict[str, Any]:
        self.asked += 1
        answer: dict[str, Any] = await self._client.list_multipart_uploads(**asked)
        uploads = sorted(answer.get("Uploads", ()), key=lambda one: (one["Key"], one["UploadId"]))
        after = [one for one in uploads if (one["Key"], one["UploadId"]) > (KeyMarker, UploadIdMarker)]
        shown = after[: self._most]
        page = {"Uploads": shown, "IsTruncated": len(after) > len(shown)}
        if page["IsTruncated"] and self._says_where:
            page |= {"NextKeyMarker": shown[-1]["Key"], "NextUploadIdMarker": shown[-1]["UploadId"]}
        return page


async def test_all_that_killed_uploads_left_in_a_bucket_is_tidied_however_much_it_is(s3: S3) -> None:
    """A store lists a thousand at a time. Some are others', some of one key, and a store that does not say where to go on is left."""
    store = await Bucket.opened(s3.settings())
    twice = new_id()
    for name in (*(new_id() for _ in range(5)), twice, twice, *(f"others/{n}" for n in range(4))):
        await store._client.create_multipart_upload(Bucket="files", Key=store._prefix + name)
    real = store._client

    store._client = InPages(real, 2, says_where=False)
    assert 2 >= await store.tidy(time.time() + LATER_S)
    assert 1 == store._client.asked
    store._client = InPages(real, 2)
    await store.tidy(time.time() + LATER_S)

    left = await real.list_multipart_uploads(Bucket="files", Prefix=store._prefix)
    assert [f"{store._prefix}others/{n}" for n in range(4)] == sorted(one["Key"] for one in left["Uploads"])
    store._client = real
    await store.close()


@asynccontextmanager
async def a_line_to(s3: S3, cut: Callable[[bytes], bool]) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A line to the store, on which nothing goes either way any more once what came says so: its address, and whether it is so."""
    host, port = s3.endpoint.removeprefix("http://").split(":")
    stands_still, tasks = asyncio.Event(), set[asyncio.Task[None]]()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while content := await reader.read(65_536):
                if stands_still.is_set() or cut(content):
                    stands_still.set()
                    await asyncio.Event().wait()
                writer.write(content)
                await writer.drain()
        finally:
            writer.transport.abort()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        for one in (pass_on(reader, back), pass_on(there, writer)):
            tasks.add(asyncio.create_task(one))

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", stands_still
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def is_told(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], still: asyncio.Event, ask: Callable[[], Awaitable[None]]
) -> None:
    """Whoever asks is told that the store is unavailable, when these times are over. If it did not stand still by then, it only was
    slow, and is asked again with more patience."""
    for within_s in WITHIN_S:
        for name in names:
            monkeypatch.setattr(s3_module, name, within_s)
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(ask(), PATIENCE_S + 2 * within_s)
        if still.is_set():
            return
    raise AssertionError("it never stood still")


@pytest.mark.parametrize(
    ("size", "at"),
    [(10, b"PUT /"), (PART_BYTES + 10, b"partNumber=1"), (PART_BYTES + 10, b"partNumber=2"), (PART_BYTES + 10, b"POST /files/")],
    ids=["a small one", "in its first part", "in its second part", "before it has begun"],
)  # fmt: skip
async def test_an_upload_into_a_store_that_stands_still_ends(
    s3: S3, monkeypatch: pytest.MonkeyPatch, size: int, at: bytes
) -> None:
    """Long before botocore gives up, which counts no time while bytes are on their way; and however long an upload may take."""
    async with a_line_to(s3, lambda content: content.startswith((b"PUT", b"POST")) and at in content) as (where, still):
        store = await Bucket.opened(s3.settings(s3_endpoint=where))

        await is_told(monkeypatch, ("ANSWER_S", "CARRY_S"), still, lambda: store.put(new_id(), pieces(bytes(size))))
        await store.close()


async def test_who_puts_the_parts_together_may_take_longer_than_who_answers(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a store that never does is unavailable, too."""
    async with a_line_to(s3, lambda content: b"<CompleteMultipartUpload" in content) as (where, still):
        store = await Bucket.opened(s3.settings(s3_endpoint=where))
        content = bytes(PART_BYTES + 10)
        await is_told(monkeypatch, ("ANSWER_S", "COMPLETE_S"), still, lambda: store.put(new_id(), pieces(content)))
        await store.close()


async def test_a_download_from_a_store_that_stands_still_ends(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle: what came is given, and then it is said."""
    direct, id_, size = await Bucket.opened(prefix := s3.settings()), new_id(), PART_BYTES - 1
    await direct.put(id_, pieces(os.urandom(size)))
    await direct.close()
    came = 0

    def cut(content: bytes) -> bool:
        nonlocal came
        came += len(content)
        return came > 4 * PIECE_BYTES

    async with a_line_to(s3, cut) as (where, still):
        store, got = await Bucket.opened(prefix.model_copy(update={"s3_endpoint": where})), list[bytes]()

        async def get() -> None:
            nonlocal came
            came = 0
            got.clear()
            async for piece in store.get(id_, 0, size):
                got.append(piece)

        await is_told(monkeypatch, ("READ_S",), still, get)
        assert 0 < sum(map(len, got)) < size
        await store.close()


@pytest.mark.parametrize("wrong", [{"s3_secret_key": "wrong"}, {"s3_bucket": "another"}])
async def test_a_bucket_that_cannot_be_used_is_refused_at_the_start(s3: S3, wrong: dict[str, object]) -> None:
    with pytest.raises(BadConfiguration, match="cannot be used") as caught:
        await Bucket.opened(s3.settings(**wrong))
    assert s3.secret not in str(caught.value)


async def test_who_asks_a_store_that_stands_still_is_told_so(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and says nothing: botocore would wait for half a minute, three times."""
    monkeypatch.setattr(s3_module, "ANSWER_S", 0.2, raising=False)
    monkeypatch.setattr(s3_module, "START_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = await Bucket.opened(s3.settings(s3_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}"))
        for asking in (read(store, new_id(), 0, 1), store.exists(new_id()), store.delete(new_id()), store.page("", 9)):
            with pytest.raises(StoreUnavailable):
                async with asyncio.timeout(PATIENCE_S):
                    await asking
        await store.close()


async def test_a_store_that_does_not_answer_is_unavailable(s3: S3) -> None:
    """That is no reason not to start: only files are away."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and does not listen: nobody is there, and nobody else can come
        store = await Bucket.opened(s3.settings(s3_endpoint=f"http://127.0.0.1:{deaf.getsockname()[1]}"))

        told = await asyncio.gather(  # at once: each is tried again after a while
            *(store.put(new_id(), pieces(b"x")), store.exists(new_id()), store.delete(new_id()), store.page("", 1)),
            read(store, new_id(), 0, 1),
            return_exceptions=True,
        )
        assert [StoreUnavailable] * 5 == [type(one) for one in told]
        await store.close()


async def test_two_services_in_one_bucket_do_not_meet(s3: S3) -> None:
    one, other = await Bucket.opened(s3.settings()), await Bucket.opened(s3.settings())
    id_ = new_id()
    await one.put(id_, pieces(b"x"))

    assert not await other.exists(id_)
    assert [] == await left(other)
    await one.close()
    await other.close()
