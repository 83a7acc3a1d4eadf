"""Files for a room: over HTTP from the first byte to the last link, by people who may and people who may not."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientError, ClientSession
from yarl import URL

from api.place import Answer, Place, bearer, serving
from attachments.conftest import S3, s3
from imcore import failpoints, membership
from imcore.api.downloads import DOWNLOADS
from imcore.attachments.s3 import PART_BYTES, Bucket
from imcore.attachments.store import PIECE_BYTES
from imcore.events.types import AttachmentRemoved, AttachmentStored
from imcore.permissions import SERVICE_ACTOR, person
from imcore.projections import uploads
from serving import serving as a_server
from waiting import eventually

__all__ = ["s3"]

R, ROOM = "group://r", "/v1/rooms/group/r"
FILES = f"{ROOM}/attachments"
OWNER, ADMIN, MEMBER, OTHER, STRANGER = 1, 2, 3, 4, 9
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480) + bytes(100)
LIMIT = 1_000


class Files:
    """An API with a folder of files, and what people do there."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder = place, folder

    async def put(
        self,
        by: int | None,
        content: Any = b"hello",
        *,
        name: str = "a.txt",
        kind: str = "text/plain",
        room: str = FILES,
    ) -> Answer:
        return await self.place.post(
            f"{room}?name={quote(name, safe='')}", mid=by, data=content, headers={"Content-Type": kind}
        )

    async def stored(self, by: int | None, content: bytes = b"hello", **rest: Any) -> str:
        told = await self.put(by, content, **rest)
        assert 201 == told.status, told.raw
        id_: str = told.json["id"]
        return id_

    async def link(self, by: int | None, id_: str, **args: object) -> str:
        told = await self.place.post(f"/v1/attachments/{id_}/link", mid=by, json=args)
        assert 200 == told.status, told.raw
        url: str = told.json["url"]
        return url

    async def fetch(self, url: str, method: str = "GET", **headers: str) -> Answer:
        """Without a token."""
        async with self.place.session.request(
            method, URL(f"{self.place.url}{url}", encoded=True), headers=headers
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def facts(self) -> list[AttachmentStored | AttachmentRemoved]:
        page = await self.place.reads.reader.read(0, 10_000)
        return [one.fact for one in page if one.type.startswith("attachment_")]  # type: ignore[misc]

    def open_descriptors(self) -> int:
        """How many of the files are open in this process."""
        here = Path("/proc/self/fd")
        return sum(str(self.folder) in os.readlink(one) for one in here.iterdir() if one.is_symlink())

    def kept(self) -> list[str]:
        """All files in the folder, the unfinished too."""
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())


async def make_room(place: Place, **rest: object) -> None:
    await place.room(R, OWNER, ADMIN, MEMBER, OTHER, **rest)
    for mid, role in ((OWNER, "owner"), (ADMIN, "admin")):
        await place.log.decide(membership.SetRole(R, mid, SERVICE_ACTOR, role))  # type: ignore[arg-type]


@pytest.fixture
async def files(database_url: str, tmp_path: Path) -> AsyncIterator[Files]:
    """A room with an owner, an admin and two members; whoever asks needs a token."""
    folder = tmp_path / "files"
    async with serving(
        database_url, auth_mode="jwt", attachments=str(folder), attachment_bytes_max=LIMIT, rate_limits=False
    ) as place:
        await make_room(place)
        yield Files(place, folder)


@pytest.fixture
def small(database_url: str, tmp_path: Path) -> Callable[..., Any]:
    """The same with other settings."""
    return lambda **flags: serving(database_url, auth_mode="jwt", attachments=str(tmp_path / "files"), **flags)


# --- storing -------------------------------------------------------------------------------------------------------------------


async def test_a_file_is_stored_listed_shown_linked_and_fetched(files: Files) -> None:
    told = await files.put(MEMBER, PNG, name="Foto 写真.png", kind="image/png")
    assert 201 == told.status, told.raw
    id_ = told.json["id"]
    assert {
        "id": id_, "room": R, "mid": MEMBER, "name": "Foto 写真.png", "media_type": "image/png", "size": len(PNG),
        "sha256": hashlib.sha256(PNG).hexdigest(), "width": 640, "height": 480,
        "position": told.json["position"], "stored_at": told.json["stored_at"],
    } == told.json  # fmt: skip
    assert abs(told.json["stored_at"] / 1000 - time.time()) < 60

    assert told.json == (await files.place.get(f"/v1/attachments/{id_}/meta", mid=OTHER)).json
    assert {"attachments": [told.json]} == (await files.place.get(FILES, mid=OTHER)).json
    fetched = await files.fetch(await files.link(OTHER, id_))
    assert (200, PNG) == (fetched.status, fetched.raw)

    (fact,) = await files.facts()
    assert AttachmentStored(
        room=R, id=id_, name="Foto 写真.png", media_type="image/png", size=len(PNG),
        sha256=hashlib.sha256(PNG).hexdigest(), width=640, height=480,
    ) == fact  # fmt: skip
    event = (await files.place.reads.reader.read(told.json["position"] - 1, 1))[0]
    assert (f"user:{MEMBER}", MEMBER) == (event.stream, event.mid)
    assert [id_] == files.kept()


@pytest.mark.parametrize(("size", "status"), [(0, 201), (LIMIT - 1, 201), (LIMIT, 201), (LIMIT + 1, 413)])
@pytest.mark.parametrize("is_told", [True, False], ids=["length", "chunked"])
async def test_the_limit_of_a_file(files: Files, size: int, status: int, is_told: bool) -> None:
    async def in_chunks() -> AsyncIterator[bytes]:
        for at in range(0, size, 100):
            yield bytes(min(100, size - at))

    told = await files.put(MEMBER, bytes(size) if is_told else in_chunks(), kind="application/x-any")

    assert status == told.status, told.raw
    if status == 413:
        assert "too_large" == told.code
        assert ([], []) == (files.kept(), await files.facts())


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..", "a/b", "a\\b", "a\0b", "a\r\nX-Evil: 1", "photo\u202egnp.exe", "x" * 300, "", " "],
)
async def test_hostile_names_are_refused_before_anything_is_written(files: Files, name: str) -> None:
    told = await files.put(MEMBER, name=name)

    assert (400, "bad_request") == (told.status, told.code)
    assert not files.folder.exists()


async def test_a_name_is_needed_and_nothing_else_is_taken(files: Files) -> None:
    for query in ("", "?name=a&name=b", "?name=a&mid=7", "?name=%FF", "?name=a&room=group://x"):
        told = await files.place.post(f"{FILES}{query}", mid=MEMBER, data=b"x")
        assert 400 == told.status, query


@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        ("image/png", b"<script>alert(1)</script>", 415),
        ("image/png", b"", 415),
        ("image/jpeg", PNG, 415),
        ("application/pdf", PNG, 415),
        ("nonsense", b"x", 201),  # aiohttp reads what is no media type as application/octet-stream
        ("text/plain", b"<script>", 201),
        ("text/html", b"<script>", 201),
    ],
)
async def test_a_type_is_held_against_the_bytes(files: Files, kind: str, content: bytes, status: int) -> None:
    told = await files.put(MEMBER, content, kind=kind)

    assert status == told.status, told.raw
    if status == 415:
        assert "wrong_type" == told.code
        assert [] == files.kept()


async def test_what_programs_say_who_were_told_no_type_is_no_type_and_a_form_is_no_file(files: Files) -> None:
    """curl's --data-binary and -F. The form would be kept with what stands around the file in it."""
    told = await files.put(MEMBER, PNG, kind="application/x-www-form-urlencoded")
    assert "image/png" == told.json["media_type"]
    told = await files.put(MEMBER, b"a,b", kind="application/x-www-form-urlencoded")
    assert "application/octet-stream" == told.json["media_type"]
    kept = files.kept()

    form = b"--x\r\nContent-Disposition: form-data; name=file; filename=a.png\r\n\r\n" + PNG + b"\r\n--x--\r\n"
    told = await files.put(MEMBER, form, kind="multipart/form-data; boundary=x")
    assert (415, "wrong_type") == (told.status, told.code)
    assert "form" in told.json["detail"]
    assert kept == files.kept()


async def test_what_is_not_declared_is_recognized_and_an_argument_goes_before_the_header(files: Files) -> None:
    assert "image/png" == (await files.put(MEMBER, PNG, kind="application/octet-stream")).json["media_type"]
    told = await files.place.post(f"{FILES}?name=a&media_type=text/csv", mid=MEMBER, data=b"a,b")
    assert "text/csv" == told.json["media_type"]
    told = await files.place.post(f"{FILES}?name=a&media_type=image/png", mid=MEMBER, data=b"a,b")
    assert 415 == told.status


async def test_only_allowed_types_are_taken_and_recognized_ones_count(small: Callable[..., Any]) -> None:
    async with small(attachment_types="image/*,text/plain") as place:
        await make_room(place)
        files = Files(place, Path(place.settings.attachments))
        assert 201 == (await files.put(MEMBER, PNG, kind="image/png")).status
        assert 201 == (await files.put(MEMBER, b"x", kind="text/plain")).status
        for kind, content in (("text/html", b"x"), ("application/pdf", b"%PDF-1"), ("application/octet-stream", b"x")):
            assert 415 == (await files.put(MEMBER, content, kind=kind)).status


async def test_a_body_that_ends_too_early_leaves_nothing(files: Files) -> None:
    """The client says 500 bytes, sends 100, and goes."""
    host, port = files.place.url.host, files.place.url.port
    assert host is not None
    _, writer = await asyncio.open_connection(host, port)
    token = bearer(mid=MEMBER)["Authorization"]
    writer.write(
        f"POST {FILES}?name=a HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Length: 500\r\n\r\n".encode()
        + bytes(100)
    )
    uploads = files.place.app_uploads
    await eventually(lambda: _true(uploads.under_way == 1))
    writer.close()
    await eventually(lambda: _true(uploads.under_way == 0))

    assert ([], []) == (files.kept(), await files.facts())
    assert 0 == uploads.taken


async def test_a_body_that_is_too_slow_is_refused_and_leaves_nothing(small: Callable[..., Any]) -> None:
    async with small(attachment_upload_s=0.2) as place:
        await make_room(place)
        files = Files(place, Path(place.settings.attachments))

        async def dripping() -> AsyncIterator[bytes]:
            while True:
                yield bytes(100)
                await asyncio.sleep(0.01)  # a client of two bytes a second, in a hurry

        told = await files.put(MEMBER, dripping())

        assert (408, "upload_timeout") == (told.status, told.code)
        assert ([], []) == (files.kept(), await files.facts())
        assert 0 == place.app_uploads.under_way


async def test_a_file_of_somebody_who_logged_out_before_it_was_there_is_not_kept(files: Files) -> None:
    rest = asyncio.Event()

    async def held() -> AsyncIterator[bytes]:
        yield bytes(100)
        await rest.wait()
        yield bytes(100)

    asking = asyncio.create_task(files.put(MEMBER, held()))
    await eventually(lambda: _true(files.place.app_uploads.under_way == 1))
    await files.place.accounts.end_logins(MEMBER, [], MEMBER, everywhere=True)
    rest.set()

    told = await asking
    assert (401, "unauthenticated") == (told.status, told.code)
    assert ([], []) == (files.kept(), await files.facts())


async def test_so_many_uploads_are_under_way_and_no_more(small: Callable[..., Any]) -> None:
    async with small(attachment_uploads_max=3, attachment_uploads_per_user_max=2) as place:
        await make_room(place)
        files, go_on = Files(place, Path(place.settings.attachments)), asyncio.Event()

        async def held() -> AsyncIterator[bytes]:
            yield bytes(100)
            await go_on.wait()

        async with asyncio.TaskGroup() as tasks:
            first = [tasks.create_task(files.put(MEMBER, held())) for _ in range(2)]
            await eventually(lambda: _true(place.app_uploads.under_way == 2))
            told = await files.put(MEMBER)
            assert (429, "rate_limited") == (told.status, told.code), "one person does not keep the others out"
            first.append(tasks.create_task(files.put(OTHER, held())))
            await eventually(lambda: _true(place.app_uploads.under_way == 3))
            told = await files.put(OWNER)
            assert (503, "overloaded") == (told.status, told.code)
            assert "Retry-After" in told.headers
            go_on.set()
        assert [201] * 3 == [task.result().status for task in first]
        assert 201 == (await files.put(OWNER)).status
        assert 2 == place.app_uploads.refused


@pytest.fixture
def no_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day that began in 1970, and does not end while a test stores files."""
    for module in (membership, uploads):
        monkeypatch.setattr(module, "DAY_MS", 2**50)


@pytest.mark.usefixtures("no_midnight")
async def test_a_person_stores_so_much_a_day(small: Callable[..., Any]) -> None:
    async with small(attachment_bytes_per_day_max=10_000) as place:
        await make_room(place)
        files = Files(place, Path(place.settings.attachments))
        first = await files.stored(MEMBER, bytes(5_500))
        told = await files.put(MEMBER, bytes(4_501))
        assert (429, "rate_limited") == (told.status, told.code)
        assert 0 < told.json["retry_after_ms"] <= uploads.DAY_MS
        await files.stored(MEMBER, bytes(4_500))
        assert 200 == (await files.place.delete(f"/v1/attachments/{first}", mid=MEMBER)).status
        assert 429 == (await files.put(MEMBER, b"x")).status, "removing gives nothing back"
        assert 201 == (await files.put(OTHER, bytes(10_000))).status
        assert 201 == (await files.put(None, bytes(20_000))).status, "a service has no allowance"


@pytest.mark.usefixtures("no_midnight")
async def test_a_person_stores_no_more_files_a_day_than_their_keeping_costs(small: Callable[..., Any]) -> None:
    async with small(attachment_bytes_per_day_max=3 * 4_096 - 1) as place:
        await make_room(place)
        files = Files(place, Path(place.settings.attachments))
        assert [201, 201, 429] == [(await files.put(MEMBER, b"x")).status for _ in range(3)]


@pytest.mark.usefixtures("no_midnight")
async def test_at_once_no_more_than_the_allowance_is_stored_either(small: Callable[..., Any]) -> None:
    """All are let in, because nothing is stored yet; under the lock one is the last."""
    async with small(attachment_bytes_per_day_max=10_000, attachment_uploads_per_user_max=8) as place:
        await make_room(place)
        files, go_on = Files(place, Path(place.settings.attachments)), asyncio.Event()

        async def held() -> AsyncIterator[bytes]:
            yield bytes(4_500)
            await go_on.wait()

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(files.put(MEMBER, held())) for _ in range(5)]
            await eventually(lambda: _true(place.app_uploads.under_way == 5))
            go_on.set()
        assert [201, 201, 429, 429, 429] == sorted(task.result().status for task in asked)
        assert 2 == len(files.kept()) == len(await files.facts())


# --- who may -------------------------------------------------------------------------------------------------------------------


async def test_who_is_not_in_the_room_is_told_of_nothing(files: Files) -> None:
    """The same answer for a room, a file, that is there and one that is not."""
    id_, none = await files.stored(MEMBER), "0" * 32
    for method, path, missing in (
        ("POST", f"{FILES}?name=a", "/v1/rooms/group/none/attachments?name=a"),
        ("GET", FILES, "/v1/rooms/group/none/attachments"),
        ("GET", f"/v1/attachments/{id_}/meta", f"/v1/attachments/{none}/meta"),
        ("POST", f"/v1/attachments/{id_}/link", f"/v1/attachments/{none}/link"),
        ("DELETE", f"/v1/attachments/{id_}", f"/v1/attachments/{none}"),
    ):
        there, absent = [await files.place.ask(method, one, mid=STRANGER) for one in (path, missing)]
        assert 404 == there.status, (method, path)
        assert (there.status, there.json) == (absent.status, absent.json), (method, path)
    async with files.place.session.get(f"{files.place.url}/v1/attachments/{id_}/meta") as response:
        assert 401 == response.status
    assert [id_] == files.kept()


async def test_who_was_removed_from_the_room_sees_and_stores_nothing_more(files: Files) -> None:
    own = await files.stored(MEMBER)
    await files.place.log.decide(membership.RemoveMember(R, MEMBER, person(OWNER)))

    assert 404 == (await files.put(MEMBER)).status
    assert 404 == (await files.place.get(FILES, mid=MEMBER)).status
    for path in ("meta", "link"):
        told = await files.place.ask("GET" if path == "meta" else "POST", f"/v1/attachments/{own}/{path}", mid=MEMBER)
        assert (404, "no_such_attachment") == (told.status, told.code)
    assert 404 == (await files.place.delete(f"/v1/attachments/{own}", mid=MEMBER)).status
    assert [own] == files.kept()


async def test_who_is_removed_while_the_file_comes_in_has_stored_nothing(files: Files) -> None:
    go_on = asyncio.Event()

    async def held() -> AsyncIterator[bytes]:
        yield bytes(100)
        await go_on.wait()

    task = asyncio.create_task(files.put(MEMBER, held()))
    await eventually(lambda: _true(files.place.app_uploads.under_way == 1))
    await files.place.log.decide(membership.RemoveMember(R, MEMBER, person(OWNER)))
    go_on.set()

    assert (404, "no_such_room") == ((await task).status, task.result().code)
    assert ([], []) == (files.kept(), await files.facts())


async def test_the_muted_see_and_store_nothing(files: Files) -> None:
    id_ = await files.stored(MEMBER)
    until_ms = int(time.time() * 1000) + 3_600_000
    await files.place.log.decide(membership.Mute(R, MEMBER, person(OWNER), until_ms))

    told = await files.put(MEMBER)
    assert (403, "muted") == (told.status, told.code)
    assert 200 == (await files.place.get(f"/v1/attachments/{id_}/meta", mid=MEMBER)).status
    assert 200 == (await files.place.delete(f"/v1/attachments/{id_}", mid=MEMBER)).status, "their own they may remove"


async def test_where_only_admins_write_only_they_store(files: Files) -> None:
    settings = membership.Settings(writers="admins")
    await files.place.log.decide(membership.ChangeRoom(R, person(OWNER), settings))

    assert (403, 201) == ((await files.put(MEMBER)).status, (await files.put(ADMIN)).status)
    assert 1 == len(files.kept())


async def test_a_room_that_is_dismissed_keeps_its_files_from_people(files: Files) -> None:
    id_ = await files.stored(MEMBER)
    await files.place.log.decide(membership.DismissRoom(R, person(OWNER)))

    assert 404 == (await files.put(OWNER)).status
    assert 404 == (await files.place.get(f"/v1/attachments/{id_}/meta", mid=MEMBER)).status
    assert 200 == (await files.place.delete(f"/v1/attachments/{id_}")).status, "a service may still remove it"
    assert [] == files.kept()


async def test_who_joined_later_sees_what_came_later(files: Files) -> None:
    before = await files.stored(MEMBER)
    await files.place.log.decide(membership.AddMember(R, STRANGER, person(OWNER)))
    after = await files.stored(MEMBER)

    assert [after] == [one["id"] for one in (await files.place.get(FILES, mid=STRANGER)).json["attachments"]]
    assert 404 == (await files.place.post(f"/v1/attachments/{before}/link", mid=STRANGER, json={})).status
    assert 200 == (await files.place.post(f"/v1/attachments/{after}/link", mid=STRANGER, json={})).status


async def test_who_comes_back_still_has_what_is_its_own(files: Files) -> None:
    own, others = await files.stored(MEMBER), await files.stored(OTHER)
    await files.place.log.decide(membership.Leave(R, person(MEMBER)))
    await files.place.log.decide(membership.AddMember(R, MEMBER, person(OWNER)))

    assert [own] == [one["id"] for one in (await files.place.get(FILES, mid=MEMBER)).json["attachments"]]
    assert 200 == (await files.place.get(f"/v1/attachments/{own}/meta", mid=MEMBER)).status
    assert 404 == (await files.place.get(f"/v1/attachments/{others}/meta", mid=MEMBER)).status


async def test_a_room_that_shows_its_history_shows_its_files(small: Callable[..., Any]) -> None:
    async with small() as place:
        await make_room(place, history="all")
        files = Files(place, Path(place.settings.attachments))
        id_ = await files.stored(MEMBER)
        await place.log.decide(membership.AddMember(R, STRANGER, person(OWNER)))

        assert 200 == (await place.get(f"/v1/attachments/{id_}/meta", mid=STRANGER)).status
        assert [id_] == [one["id"] for one in (await place.get(FILES, mid=STRANGER)).json["attachments"]]


@pytest.mark.parametrize(
    ("by", "of", "status"),
    [
        (MEMBER, MEMBER, 200), (ADMIN, ADMIN, 200), (OWNER, OWNER, 200), (OTHER, MEMBER, 403), (MEMBER, OWNER, 403),
        (ADMIN, MEMBER, 200), (OWNER, ADMIN, 200), (ADMIN, OWNER, 403), (STRANGER, MEMBER, 404), (None, OWNER, 200),
    ],
)  # fmt: skip
async def test_who_may_remove_whose(files: Files, by: int | None, of: int, status: int) -> None:
    id_ = await files.stored(of)
    url = await files.link(of, id_)

    told = await files.place.delete(f"/v1/attachments/{id_}", mid=by)

    assert status == told.status, told.raw
    if status == 200:
        assert [] == files.kept()
        assert (404, "no_such_attachment") == ((answer := await files.fetch(url)).status, answer.code)
        assert 404 == (await files.place.delete(f"/v1/attachments/{id_}", mid=by)).status
        assert {"attachments": []} == (await files.place.get(FILES, mid=of)).json
        stored, removed = await files.facts()
        assert (AttachmentStored, AttachmentRemoved(room=R, id=id_)) == (type(stored), removed)
    else:
        assert [id_] == files.kept()
        assert 200 == (await files.fetch(url)).status


async def test_of_two_who_remove_at_once_one_did(files: Files) -> None:
    id_ = await files.stored(MEMBER)
    path = f"/v1/attachments/{id_}"

    told = await asyncio.gather(*(files.place.delete(path, mid=mid) for mid in (MEMBER, ADMIN, OWNER)))

    assert [200, 404, 404] == sorted(one.status for one in told)
    assert 2 == len(await files.facts())


async def test_what_the_owner_of_a_file_that_left_stored_an_admin_may_remove(files: Files) -> None:
    id_ = await files.stored(ADMIN)
    await files.place.log.decide(membership.Leave(R, person(ADMIN)))
    await files.place.log.decide(membership.SetRole(R, MEMBER, SERVICE_ACTOR, "admin"))

    assert 200 == (await files.place.delete(f"/v1/attachments/{id_}", mid=MEMBER)).status


async def test_a_token_for_other_rooms_opens_nothing(files: Files) -> None:
    id_ = await files.stored(MEMBER)
    headers = bearer(mid=MEMBER, rooms=["group://other"])
    for method, path in (("GET", f"{id_}/meta"), ("POST", f"{id_}/link"), ("DELETE", id_)):
        async with files.place.session.request(
            method, f"{files.place.url}/v1/attachments/{path}", headers=headers
        ) as response:
            assert 404 == response.status, path


async def test_live_rooms_keep_no_files(files: Files) -> None:
    assert 400 == (await files.put(MEMBER, room="/v1/rooms/live/1/attachments")).status


# --- links ---------------------------------------------------------------------------------------------------------------------


async def test_a_link_ends(files: Files) -> None:
    id_ = await files.stored(MEMBER)
    links = files.place.attachments.links

    assert 403 == (await files.fetch(links.path(id_, int(time.time()) - 1))).status
    assert 200 == (await files.fetch(links.path(id_, int(time.time()) + 60))).status
    before = int(time.time())
    told = await files.place.post(f"/v1/attachments/{id_}/link", mid=MEMBER, json={"seconds": 60})
    assert before + 60 <= told.json["expires"] <= int(time.time()) + 60
    longest = int(files.place.settings.attachment_link_s)
    for seconds, status in ((0, 400), (1, 200), (longest, 200), (longest + 1, 400), (True, 400), ("1", 400)):
        asked = await files.place.post(f"/v1/attachments/{id_}/link", mid=MEMBER, json={"seconds": seconds})
        assert status == asked.status, seconds


async def test_a_link_that_was_changed_or_is_of_another_file_opens_nothing(files: Files) -> None:
    id_, other = await files.stored(MEMBER), await files.stored(MEMBER)
    url = await files.link(MEMBER, id_)
    expires = int(url.partition("expires=")[2].partition("&")[0])
    for changed in (
        url.replace(id_, other),
        url.replace(f"expires={expires}", f"expires={expires + 1}"),
        url + "A",
        url[:-1],
        url + "&mid=3",
        url.partition("&signature=")[0] + "&signature=",
    ):
        told = await files.fetch(changed)
        assert (403, "forbidden") == (told.status, told.code), changed
    for changed in (
        f"/v1/attachments/{id_}",
        url + "&signature=x",
        url + "&colour=red",
        url.replace(id_, "..%2F..%2Fetc"),
        url.replace(id_, "A" * 32),
    ):
        assert 400 == (await files.fetch(changed)).status, changed
    assert 403 == (await files.fetch(url.replace(id_, "0" * 32))).status, "whether there is such a file, nobody is told"


async def test_a_link_for_one_person_is_good_for_that_member_only(files: Files) -> None:
    id_ = await files.stored(MEMBER)
    url = await files.link(OTHER, id_, for_me=True)

    assert 403 == (await files.fetch(url)).status
    assert 403 == (await files.place.get(url, mid=MEMBER)).status
    assert 200 == (await files.place.get(url, mid=OTHER)).status
    await files.place.log.decide(membership.RemoveMember(R, OTHER, person(OWNER)))
    assert 404 == (await files.place.get(url, mid=OTHER)).status


async def test_no_token_and_no_key_is_in_a_link(files: Files) -> None:
    url = await files.link(MEMBER, await files.stored(MEMBER))
    assert bearer(mid=MEMBER)["Authorization"].split()[1] not in url
    assert {"expires", "signature"} == set(URL(url).query)


# --- fetching ------------------------------------------------------------------------------------------------------------------


async def test_parts_tags_and_heads(files: Files) -> None:
    content = os.urandom(900)
    id_ = await files.stored(MEMBER, content, kind="application/x-any")
    url = await files.link(MEMBER, id_)
    etag = f'"{hashlib.sha256(content).hexdigest()}"'

    whole = await files.fetch(url)
    assert (200, content, "900", "bytes", etag) == (
        whole.status, whole.raw, whole.headers["Content-Length"], whole.headers["Accept-Ranges"], whole.headers["ETag"],
    )  # fmt: skip
    part = await files.fetch(url, Range="bytes=10-19")
    assert (206, content[10:20], "bytes 10-19/900") == (part.status, part.raw, part.headers["Content-Range"])
    assert content[-7:] == (await files.fetch(url, Range="bytes=-7")).raw
    beyond = await files.fetch(url, Range="bytes=900-")
    assert (416, b"", "bytes */900") == (beyond.status, beyond.raw, beyond.headers["Content-Range"])
    known = await files.fetch(url, **{"If-None-Match": etag})
    assert (304, b"", etag) == (known.status, known.raw, known.headers["ETag"])
    assert "Content-Length" not in known.headers, "it would be that of the whole file"
    head = await files.fetch(url, "HEAD")
    assert (200, b"", "900") == (head.status, head.raw, head.headers["Content-Length"])
    assert 200 == (await files.fetch(url)).status, "the connection is still good"


async def test_an_empty_file_is_fetched_too(files: Files) -> None:
    url = await files.link(MEMBER, await files.stored(MEMBER, b""))

    assert (200, b"") == ((told := await files.fetch(url)).status, told.raw)
    assert 416 == (await files.fetch(url, Range="bytes=0-")).status


@pytest.mark.parametrize(
    ("kind", "content", "is_shown"),
    [
        ("image/png", PNG, True), ("text/plain", b"x", True), ("text/html", b"<script>", False), ("image/svg+xml", b"<svg/>", False),
        ("text/javascript", b"x", False), ("application/pdf", b"%PDF-1.7", False), ("application/octet-stream", b"<html>", False),
    ],
)  # fmt: skip
async def test_nothing_that_a_browser_could_run_is_shown(
    files: Files, kind: str, content: bytes, is_shown: bool
) -> None:
    url = await files.link(MEMBER, await files.stored(MEMBER, content, name='a".html', kind=kind))
    told = await files.fetch(url)

    assert told.headers["Content-Disposition"].startswith("inline;" if is_shown else "attachment;")
    assert "filename*=UTF-8''a%22.html" in told.headers["Content-Disposition"]
    assert "nosniff" == told.headers["X-Content-Type-Options"]
    assert "sandbox" in told.headers["Content-Security-Policy"]
    assert told.headers["Content-Type"].startswith(kind)
    assert "private, no-cache" == told.headers["Cache-Control"]


async def test_bytes_that_are_lost_are_told_before_the_answer_begins(files: Files) -> None:
    id_ = await files.stored(MEMBER)
    url = await files.link(MEMBER, id_)
    await files.place.attachments.store.delete(id_)

    assert (404, "no_such_attachment") == ((told := await files.fetch(url)).status, told.code)


async def test_a_file_that_ends_too_early_is_cut_off_and_never_taken_for_whole(small: Callable[..., Any]) -> None:
    async with small() as place:
        await make_room(place)
        files = Files(place, Path(place.settings.attachments))
        id_ = await files.stored(MEMBER, bytes(PIECE_BYTES * 3))
        url = await files.link(MEMBER, id_)
        os.truncate(files.folder / id_[:2] / id_, PIECE_BYTES * 2)

        with pytest.raises(ClientError):
            await files.fetch(url)
        assert 200 == (await place.get(f"/v1/attachments/{id_}/meta", mid=MEMBER)).status


async def test_who_takes_nothing_is_cut_off(small: Callable[..., Any]) -> None:
    """Whoever asks for a large file and reads none of it holds nothing for longer than a slow connection may."""
    async with small(behind_s=0.3) as place:
        await make_room(place)
        files = Files(place, Path(place.settings.attachments))
        told = await files.put(MEMBER, io.BytesIO(bytes(25 * 2**20)), kind="application/x-any")
        url = await files.link(MEMBER, told.json["id"])
        host, port = place.url.host, place.url.port
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        line.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(line, (host, port))
        await loop.sock_sendall(line, f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"H" == await loop.sock_recv(line, 1)
        assert 1 == files.open_descriptors(), "no buffer on the way has room for all of it"

        await eventually(lambda: _true(files.open_descriptors() == 0))
        line.close()


class Slow:
    """Asks for a file over a line of its own, and reads of it what it is told to."""

    def __init__(self, place: Place, *, buffered: int = 4_096) -> None:
        self._place = place
        self._line = socket.socket()
        self._line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffered)
        self._line.setblocking(False)

    async def asks(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._line, (self._place.url.host, self._place.url.port))
        await loop.sock_sendall(self._line, f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"HTTP/1.1 200" == await loop.sock_recv(self._line, 12)

    async def reads(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._line, 65_536)

    def close(self) -> None:
        self._line.close()


async def test_slow_downloads_have_bounds_of_their_own_and_hold_no_place_of_other_requests(
    small: Callable[..., Any],
) -> None:
    async with small(http_requests_max=1, downloads_max=2, downloads_per_address_max=2) as place:
        await make_room(place)
        files, downloads = Files(place, Path(place.settings.attachments)), place.app[DOWNLOADS]
        told = await files.put(MEMBER, io.BytesIO(bytes(25 * 2**20)), kind="application/x-any")
        url = await files.link(MEMBER, told.json["id"])
        slow = [Slow(place), Slow(place)]
        for one in slow:
            await one.asks(url)
        assert 2 == downloads.under_way

        assert 200 == (await place.get(f"/v1/attachments/{told.json['id']}/meta", mid=MEMBER)).status
        assert (503, "overloaded") == ((refused := await files.fetch(url)).status, refused.code)
        assert "Retry-After" in refused.headers
        assert 200 == (await files.fetch(url, "HEAD")).status
        assert 1 == downloads.refused
        for line in slow:
            line.close()
        await eventually(lambda: _true(downloads.under_way == 0))
        assert 200 == (await files.fetch(url)).status


async def test_one_address_does_not_keep_the_others_out(small: Callable[..., Any]) -> None:
    async with small(downloads_per_address_max=1) as place:
        await make_room(place)
        files, downloads = Files(place, Path(place.settings.attachments)), place.app[DOWNLOADS]
        told = await files.put(MEMBER, io.BytesIO(bytes(25 * 2**20)), kind="application/x-any")
        url = await files.link(MEMBER, told.json["id"])
        slow = Slow(place)
        await slow.asks(url)

        assert (429, "rate_limited") == ((one := await files.fetch(url)).status, one.code)
        with downloads.place("another", place.settings):
            assert 2 == downloads.under_way
        slow.close()
        await eventually(lambda: _true(downloads.under_way == 0))


async def test_who_takes_a_little_now_and_then_is_cut_off_when_its_time_is_over(small: Callable[..., Any]) -> None:
    """Each piece is taken in time, and the whole would take for hours."""
    async with small(behind_s=1.0, download_bytes_per_s_min=2**30) as place:
        await make_room(place)
        files, downloads = Files(place, Path(place.settings.attachments)), place.app[DOWNLOADS]
        told = await files.put(MEMBER, io.BytesIO(bytes(25 * 2**20)), kind="application/x-any")
        slow, taken = Slow(place, buffered=262_144), 0
        await slow.asks(await files.link(MEMBER, told.json["id"]))

        with suppress(ConnectionResetError):
            while piece := await slow.reads():
                taken += len(piece)
                await asyncio.sleep(0.02)  # a slow line
        assert taken < 25 * 2**20
        await eventually(lambda: _true(downloads.under_way == 0 and files.open_descriptors() == 0))
        slow.close()


async def test_pages_go_from_the_newest_to_the_oldest(files: Files) -> None:
    ids = [await files.stored(MEMBER) for _ in range(5)]
    found: list[str] = []
    after = ""
    for expected in (2, 2, 1):
        page = (await files.place.get(f"{FILES}?limit=2{after}", mid=OTHER)).json
        found += [one["id"] for one in page["attachments"]]
        assert expected == len(page["attachments"])
        after = f"&after={page.get('next')}"
    assert ids[::-1] == found
    assert "after=None" in after
    for wrong in ("limit=0", "limit=100000", "after=-1", "after=x", "limit=1&limit=2"):
        assert 400 == (await files.place.get(f"{FILES}?{wrong}", mid=OTHER)).status, wrong


async def test_while_the_outcome_is_unknown_the_bytes_stay(files: Files) -> None:
    """The event may be in the log (here it is), and an event never lacks its bytes."""
    failpoints.arm("after_commit:error")
    try:
        told = await files.put(MEMBER)
    finally:
        failpoints.arm("")

    assert (503, "unavailable") == (told.status, told.code)
    (fact,) = await files.facts()
    assert [fact.id] == files.kept()


async def test_a_bucket_serves_as_a_folder_does(database_url: str, s3: S3) -> None:
    store = await Bucket.opened(s3.settings())
    async with serving(database_url, auth_mode="jwt", store=store) as place:
        await make_room(place)
        files, content = Files(place, Path("/nowhere")), os.urandom(PART_BYTES + 1_000)
        told = await files.put(MEMBER, io.BytesIO(content), kind="application/x-any")
        assert 201 == told.status, told.raw
        id_ = told.json["id"]
        url = await files.link(OTHER, id_)

        whole = await files.fetch(url)
        assert (200, content) == (whole.status, whole.raw)
        assert content[-5:] == (await files.fetch(url, Range="bytes=-5")).raw
        assert 200 == (await place.delete(f"/v1/attachments/{id_}", mid=MEMBER)).status
        assert not await store.exists(id_)
        assert 404 == (await files.fetch(url)).status
    await store.close()


async def test_while_the_store_is_away_nothing_is_stored_and_it_is_said(files: Files) -> None:
    files.folder.write_text("a file where the folder should be")

    assert (503, "store_unavailable") == ((told := await files.put(MEMBER)).status, told.code)
    assert [] == await files.facts()


async def test_the_same_verbs_over_a_connection(data_dir: Path) -> None:
    """A whole server: stored over HTTP; listed, shown, linked and removed over a WebSocket; fetched by the link."""
    async with a_server(data_dir) as running, ClientSession(f"http://{running.http}") as http:
        mine = {"Imcore-Mid": "7"}
        async with http.post("/v1/rooms", json={"room": R, "members": [7, 8]}) as made:
            assert 201 == made.status
        async with http.post(
            f"{FILES}?name=a.txt", data=b"hello", headers={**mine, "Content-Type": "text/plain"}
        ) as told:
            stored = await told.json()
            assert 201 == told.status
        async with http.ws_connect(f"ws://{running.ws}/ws") as line:
            await line.send_json({"op": 7, "seq": 1, "body": {"mid": 8}})

            async def call(verb: str, **args: object) -> Any:
                await line.send_json({"op": 38, "seq": 2, "body": {"verb": verb, "args": args}})
                while (packet := await line.receive_json())["op"] != 39:
                    pass
                return packet["body"].get("answer") or packet["body"]["error"]["code"]

            assert {"attachments": [stored]} == await call("attachments.list", room=R)
            assert stored == await call("attachments.show", id=stored["id"])
            link = await call("attachments.link", id=stored["id"])
            assert "forbidden" == await call("attachments.remove", id=stored["id"])
            assert "unknown_op" == await call("attachments.fetch", id=stored["id"])
            assert "no_such_attachment" == await call("attachments.show", id="0" * 32)
        async with http.get(link["url"]) as fetched:
            assert (200, b"hello") == (fetched.status, await fetched.read())
        async with http.get("/metrics") as metrics:
            assert "imcore_attachment_uploads_total" in await metrics.text()
    assert [stored["id"]] == [path.name for path in (data_dir / "imcore" / "attachments").rglob("*") if path.is_file()]


def _true(so: bool) -> Awaitable[bool]:
    async def said() -> bool:
        return so

    return said()
