"""Messages as verbs: about something, edited, recalled, passed on; over a real log."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.place import Place, bearer, serving
from imcore.api.services import SERVICES
from imcore.auth import Identity
from imcore.errors import ImcoreError
from imcore.events.reader import Head, Reader
from imcore.events.types import AUDIT, SERVICE_MID, AdminActed, MessageEdited, MessageRecalled
from imcore.permissions import STANDINGS, PlatformRole, Standing, table
from imcore.projections import amendments, edits, mentions, queries, rebuild, threads
from imcore.projections.projection import AnyProjection
from imcore.protocol.packet import MENTIONS_MAX
from imcore.verbs import VERBS
from imcore.verbs.call import Verbs
from imcore.verbs.verb import Caller, Stream

ROOM, ELSEWHERE = "group://1", "group://2"
ROOM_1 = "/v1/rooms/group/1"
ANNA, BEN, CLEO, DORA = 7, 8, 9, 10
OUTSIDER = 99


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Place]:
    """An API that believes everybody, and lets them ask as often as a test does."""
    async with serving(database_url, rate_limits=False) as place:
        yield place


@pytest.fixture
async def room(api: Place) -> Place:
    """Anna owns the room, Cleo is an admin, Ben and Dora are members; seq 1 to 6."""
    await api.room(ROOM, BEN, CLEO, DORA)
    await api.post(f"{ROOM_1}/members", json={"mid": ANNA, "role": "owner"})
    await api.put(f"{ROOM_1}/members/{CLEO}/role", json={"role": "admin"})
    return api


async def say(api: Place, mid: int, body: object, path: str = ROOM_1, **rest: object) -> int:
    """The seq of a message."""
    told = await api.post(f"{path}/messages", mid=mid, json={"id": str(uuid.uuid4()), "body": body, **rest})
    assert told.status == 201, told.raw
    return int(told.json["seq"])


async def shown(api: Place, seq: int, mid: int = BEN) -> dict[str, Any]:
    told = await api.get(f"{ROOM_1}/messages/{seq}", mid=mid)
    assert told.status == 200, told.raw
    value: dict[str, Any] = told.json
    return value


async def call(api: Place, name: str, args: dict[str, object], mid: int, role: PlatformRole) -> Any:
    """A verb, as somebody of any role."""
    verbs = Verbs(VERBS)
    told = await verbs.call(verbs.by_name[name], Caller(Identity(mid, role=role)), api.app[SERVICES].means, args)
    assert not isinstance(told, Stream)
    return json.loads(told.body)


# --- about something -----------------------------------------------------------------------------------------------------------


async def test_a_message_says_what_it_is_about(room: Place) -> None:
    first = await say(room, ANNA, "who comes?")

    seq = await say(room, BEN, {"text": "I"}, reply_to=first, thread=first, mentions=[ANNA, CLEO, ANNA])

    told = await shown(room, seq)
    assert {"text": "I"} == told["body"]
    assert {"reply_to": first, "thread": first, "mentions": [ANNA, CLEO]} == told["about"]
    assert "about" not in await shown(room, first)


async def test_text_and_bytes_keep_their_format(room: Place) -> None:
    as_text = await say(room, BEN, "plain", format="text")
    as_bytes = await say(room, BEN, "/w==", format="base64", mentions="all")

    assert ("plain", {"format": "text"}) == (
        (await shown(room, as_text))["body"],
        (await shown(room, as_text))["about"],
    )
    told = await shown(room, as_bytes)
    assert ("/w==", True, {"mentions": "all", "format": "base64"}) == (told["body"], told["base64"], told["about"])


async def test_a_retry_is_the_same_message_only_if_it_is_about_the_same(room: Place) -> None:
    first = await say(room, ANNA, "x")
    message = {"id": str(uuid.uuid4()), "body": "y", "reply_to": first}

    answers = [
        await room.post(f"{ROOM_1}/messages", mid=BEN, json={**message, **change})
        for change in ({}, {}, {"reply_to": None}, {"mentions": [ANNA]})
    ]

    assert [201, 200, 409, 409] == [answer.status for answer in answers]
    assert {**answers[0].json, "duplicate": True} == answers[1].json


async def test_a_retry_passes_when_who_was_named_has_left(room: Place) -> None:
    message = {"id": str(uuid.uuid4()), "body": "y", "mentions": [DORA]}
    first = await room.post(f"{ROOM_1}/messages", mid=BEN, json=message)
    await room.post(f"{ROOM_1}/leave", mid=DORA)

    retry = await room.post(f"{ROOM_1}/messages", mid=BEN, json=message)
    another = await room.post(f"{ROOM_1}/messages", mid=BEN, json={**message, "id": str(uuid.uuid4())})

    assert {**first.json, "duplicate": True} == retry.json
    assert (400, "bad_request") == (another.status, another.code)


@pytest.mark.parametrize(
    ("about", "status", "code"),
    [
        ({"reply_to": 7}, 201, ""),
        ({"reply_to": 6}, 404, "no_such_message"),  # a join
        ({"reply_to": 8}, 404, "no_such_message"),  # itself
        ({"thread": 99}, 404, "no_such_message"),
        ({"reply_to": 7, "thread": 99}, 404, "no_such_message"),
        ({"reply_to": 0}, 400, "bad_request"),
        ({"reply_to": -1}, 400, "bad_request"),
        ({"reply_to": 2**63 - 1}, 404, "no_such_message"),
        ({"reply_to": 2**63}, 400, "bad_request"),
        ({"reply_to": True}, 400, "bad_request"),
        ({"reply_to": "7"}, 400, "bad_request"),
        ({"reply_to": 7.0}, 400, "bad_request"),
        ({"thread": [7]}, 400, "bad_request"),
        ({"mentions": []}, 201, ""),
        ({"mentions": [0]}, 400, "bad_request"),
        ({"mentions": 7}, 400, "bad_request"),
        ({"mentions": "ALL"}, 400, "bad_request"),
        ({"mentions": [ANNA, "8"]}, 400, "bad_request"),
        ({"mentions": [True]}, 400, "bad_request"),
        ({"mentions": [2**63]}, 400, "bad_request"),
        ({"mentions": [ANNA, OUTSIDER]}, 400, "bad_request"),
        ({"mentions": [ANNA] * MENTIONS_MAX}, 201, ""),
        ({"mentions": [ANNA] * (MENTIONS_MAX + 1)}, 400, "bad_request"),
        ({"format": "xml"}, 400, "bad_request"),
        ({"format": "json"}, 201, ""),
        ({"format": "text", "body": 1}, 400, "bad_request"),
        ({"format": "text", "body": "😀"}, 201, ""),
        ({"format": "base64", "body": "a"}, 400, "bad_request"),
        ({"format": "base64", "body": "/x=="}, 400, "bad_request"),  # not canonical
        ({"format": "base64", "body": " /w=="}, 400, "bad_request"),
        ({"format": "base64", "body": ""}, 201, ""),
        ({"forwarded": {"room": ROOM, "seq": 1, "mid": 1}}, 400, "bad_request"),
        ({"about": {"reply_to": 7}}, 400, "bad_request"),
    ],
)  # fmt: skip
async def test_what_a_message_may_be_about(room: Place, about: dict[str, object], status: int, code: str) -> None:
    assert 7 == await say(room, ANNA, "first")

    told = await room.post(f"{ROOM_1}/messages", mid=BEN, json={"id": str(uuid.uuid4()), "body": "x", **about})

    assert (status, code) == (told.status, told.code if told.status >= 400 else ""), told.raw


async def test_who_joins_amid_a_thread_goes_on_with_it(room: Place) -> None:
    """It sees what was said in it since, and nothing of before."""
    root = await say(room, ANNA, "old")
    await room.post(f"{ROOM_1}/join", mid=OUTSIDER)
    theirs = await say(room, BEN, "what about this?", thread=root)

    mine = await say(room, OUTSIDER, "I am new here", thread=root, reply_to=theirs)

    listed = (await room.get(f"{ROOM_1}/messages/{root}/thread", mid=OUTSIDER)).json
    assert [theirs, mine] == [event["seq"] for event in listed["events"]]
    for about in ({"thread": 1}, {"thread": mine + 9}, {"thread": root, "reply_to": root}):
        message = {"id": str(uuid.uuid4()), "body": "x", **about}
        refused = await room.post(f"{ROOM_1}/messages", mid=OUTSIDER, json=message)
        assert (404, "no_such_message") == (refused.status, refused.code)


async def test_what_was_said_before_ones_join_cannot_be_answered(room: Place) -> None:
    old = await say(room, ANNA, "old")
    await room.post(f"{ROOM_1}/join", mid=OUTSIDER)
    message = {"id": str(uuid.uuid4()), "body": "x", "reply_to": old}

    assert (await room.post(f"{ROOM_1}/messages", mid=OUTSIDER, json=message)).code == "no_such_message"
    assert (await room.get(f"{ROOM_1}/messages/{old}", mid=OUTSIDER)).code == "no_such_message"
    await room.room("group://open", ANNA, history="all")
    old = await say(room, ANNA, "old", "/v1/rooms/group/open")
    await room.post("/v1/rooms/group/open/join", mid=OUTSIDER)
    assert await say(room, OUTSIDER, "x", "/v1/rooms/group/open", reply_to=old)


async def test_who_is_not_in_the_room_learns_nothing_from_what_it_asks_about(room: Place) -> None:
    message = {"id": str(uuid.uuid4()), "body": "x", "reply_to": await say(room, ANNA, "x"), "mentions": [ANNA]}

    there = await room.post(f"{ROOM_1}/messages", mid=OUTSIDER, json=message)
    nowhere = await room.post("/v1/rooms/group/none/messages", mid=OUTSIDER, json=message)

    assert (404, "no_such_room") == (there.status, there.code)
    assert there.json == nowhere.json


async def test_in_a_live_room_messages_are_answered_and_nobody_is_named(api: Place) -> None:
    path = "/v1/rooms/live/1"
    first = await say(api, ANNA, "x", path)

    assert await say(api, BEN, "y", path, reply_to=first, thread=first)
    named = await api.post(f"{path}/messages", mid=BEN, json={"id": str(uuid.uuid4()), "body": "x", "mentions": [ANNA]})
    assert (400, "bad_request") == (named.status, named.code)


# --- edits ---------------------------------------------------------------------------------------------------------------------


async def test_an_edited_message_reads_so_everywhere_and_its_history_is_kept(room: Place) -> None:
    first = await say(room, ANNA, "x")
    seq = await say(room, BEN, "helo", reply_to=first)

    edit = await room.put(f"{ROOM_1}/messages/{seq}", mid=BEN, json={"body": {"text": "hello"}})
    again = await room.put(f"{ROOM_1}/messages/{seq}", mid=BEN, json={"body": {"text": "hello"}})
    last = await room.put(f"{ROOM_1}/messages/{seq}", mid=BEN, json={"body": "/w==", "format": "base64"})

    assert (200, {"unchanged": True}) == (again.status, again.json)
    told = await shown(room, seq)
    assert ("/w==", True, {"reply_to": first}) == (told["body"], told["base64"], told["about"])
    assert (2, last.json["position"]) == (told["edited"]["count"], told["edited"]["position"])
    page = (await room.get(f"{ROOM_1}/messages", mid=ANNA)).json["events"]
    assert told == next(event for event in page if event["seq"] == seq)
    line = (await room.get("/v1/inbox", mid=BEN)).json["rooms"][0]
    assert told == line["last"]
    kept = (await room.get(f"{ROOM_1}/messages/{seq}/edits", mid=ANNA)).json
    assert "helo" == kept["message"]["body"]
    assert [edit.json["seq"], last.json["seq"]] == [one["seq"] for one in kept["edits"]]
    assert [{"text": "hello"}, "/w=="] == [one["body"]["body"] for one in kept["edits"]]


async def test_edits_are_paged(room: Place) -> None:
    seq = await say(room, BEN, 0)
    for n in range(1, 6):
        await room.put(f"{ROOM_1}/messages/{seq}", mid=BEN, json={"body": n})
    found: list[int] = []
    after = 0
    while True:
        page = (await room.get(f"{ROOM_1}/messages/{seq}/edits?limit=2&after={after}", mid=BEN)).json
        found += [one["body"]["body"] for one in page["edits"]]
        if "next" not in page:
            break
        after = page["next"]
    assert [1, 2, 3, 4, 5] == found


async def test_an_edit_after_a_kick_is_not_shown_however_the_two_race(
    room: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = await say(room, ANNA, "x")
    await room.put(f"{ROOM_1}/messages/{seq}", mid=ANNA, json={"body": "early"})
    head, to_come = Reader.head, ["a kick"]

    async def reading(reader: Reader) -> Head:
        """Read after the membership was."""
        if to_come:
            to_come.clear()
            await room.delete(f"{ROOM_1}/members/{BEN}")
            await room.put(f"{ROOM_1}/messages/{seq}", mid=ANNA, json={"body": "late"})
        return await head(reader)

    monkeypatch.setattr(Reader, "head", reading)

    page = (await room.get(f"{ROOM_1}/messages/{seq}/edits", mid=BEN)).json
    assert not to_come, "it has happened"
    assert ["early"] == [one["body"]["body"] for one in page["edits"]]
    page = (await room.get(f"{ROOM_1}/messages/{seq}/edits", mid=ANNA)).json
    assert ["early", "late"] == [one["body"]["body"] for one in page["edits"]]


@pytest.mark.parametrize("is_back", [False, True])
@pytest.mark.parametrize("verb", ["messages.history", "messages.show", "messages.thread", "messages.forward"])
async def test_words_of_after_a_kick_are_in_no_answer_that_was_under_way(
    room: Place, monkeypatch: pytest.MonkeyPatch, verb: str, is_back: bool
) -> None:
    """Whoever was a member when it was looked at, and no more when the words were: of a message of before too. Who is in the room again
    may ask again, and is shown what it sees now."""
    first = await say(room, ANNA, "x")
    seq = await say(room, ANNA, "early", thread=first)
    await room.room(ELSEWHERE, BEN)
    read, to_come = queries.amendments, ["a kick"]

    async def reading(*asked: Any, **rest: Any) -> queries.Amended:
        """What became of messages, read after the membership was."""
        if to_come:
            to_come.clear()
            await room.delete(f"{ROOM_1}/members/{BEN}")
            await room.put(f"{ROOM_1}/messages/{seq}", mid=ANNA, json={"body": "late"})
            if is_back:
                await room.post(f"{ROOM_1}/members", json={"mid": BEN})
        return await read(*asked, **rest)

    monkeypatch.setattr(queries, "amendments", reading)
    method, path, body = {
        "messages.history": ("GET", f"{ROOM_1}/messages", None),
        "messages.show": ("GET", f"{ROOM_1}/messages/{seq}", None),
        "messages.thread": ("GET", f"{ROOM_1}/messages/{first}/thread", None),
        "messages.forward": (
            "POST", f"{ROOM_1}/messages/{seq}/forward", {"to": ELSEWHERE, "id": str(uuid.uuid4())}
        ),
    }[verb]  # fmt: skip

    told = await room.ask(method, path, mid=BEN, json=body)

    assert not to_come, "it has happened"
    assert ((503, "unavailable") if is_back else (404, "no_such_room")) == (told.status, told.code)
    assert b"late" not in told.raw
    assert b"late" not in (await room.get("/v1/rooms/group/2/messages", mid=BEN)).raw
    assert "late" == (await shown(room, seq, ANNA))["body"]


async def test_only_the_author_edits(room: Place) -> None:
    seq = await say(room, BEN, "mine")

    codes = [
        (await room.put(f"{ROOM_1}/messages/{seq}", mid=mid, json={"body": "yours"})).code
        for mid in (ANNA, CLEO, DORA, OUTSIDER, None)
    ]

    assert ["forbidden"] * 3 + ["no_such_room", "forbidden"] == codes
    await room.put(f"{ROOM_1}/members/{BEN}/mute", json={"until_ms": 2**53})
    assert "muted" == (await room.put(f"{ROOM_1}/messages/{seq}", mid=BEN, json={"body": "x"})).code
    assert "mine" == (await shown(room, seq))["body"]


async def test_where_one_may_not_speak_one_says_nothing_by_an_edit(room: Place) -> None:
    seq, admins = await say(room, BEN, "x"), await say(room, CLEO, "y")
    for rule in ({"verb": "rooms.mute_all", "until_ms": 2**53}, {"verb": "rooms.change", "writers": "admins"}):
        verb = str(rule.pop("verb"))
        await call(room, verb, {"room": ROOM, **rule}, ANNA, "user")

        assert (await room.put(f"{ROOM_1}/messages/{seq}", mid=BEN, json={"body": verb})).status == 403
        assert (await room.put(f"{ROOM_1}/messages/{admins}", mid=CLEO, json={"body": verb})).status == 200
        await call(room, "rooms.mute_all", {"room": ROOM, "until_ms": 0}, ANNA, "user")
    assert 200 == (await room.delete(f"{ROOM_1}/messages/{seq}", mid=BEN)).status


async def test_what_is_no_message_is_not_edited(room: Place) -> None:
    for seq in (1, 2, 99, 2**63 - 1):
        told = await room.put(f"{ROOM_1}/messages/{seq}", mid=ANNA, json={"body": "x"})
        assert (404, "no_such_message") == (told.status, told.code)
    for wrong in ("0", "-1", "x", "1.0", str(2**63), "%00"):
        assert 400 == (await room.put(f"{ROOM_1}/messages/{wrong}", mid=ANNA, json={"body": "x"})).status
    seq = await say(room, ANNA, "x")
    for body in ({}, {"body": 1, "format": "text"}, {"body": "x" * 20_000}, {"body": 1, "seq": seq}):
        assert (await room.put(f"{ROOM_1}/messages/{seq}", mid=ANNA, json=body)).status in (400, 413)


async def test_after_its_time_a_message_stays_as_it_is(database_url: str) -> None:
    async with serving(database_url, edit_within_s=0.001, recall_within_s=0.001) as api:
        await api.room(ROOM, BEN)
        await api.post(f"{ROOM_1}/members", json={"mid": ANNA, "role": "owner"})
        seq, owners = await say(api, BEN, "x"), await say(api, ANNA, "y")
        await asyncio.sleep(0.01)  # the time itself is under test

        assert "forbidden" == (await api.put(f"{ROOM_1}/messages/{seq}", mid=BEN, json={"body": "z"})).code
        assert "forbidden" == (await api.delete(f"{ROOM_1}/messages/{seq}", mid=BEN)).code
        assert 200 == (await api.delete(f"{ROOM_1}/messages/{seq}", mid=ANNA)).status
        assert 200 == (await api.delete(f"{ROOM_1}/messages/{owners}", mid=ANNA)).status


# --- recalls -------------------------------------------------------------------------------------------------------------------


async def test_what_was_recalled_is_in_nobodys_answer_any_more(room: Place) -> None:
    root = await say(room, ANNA, "root")
    seq = await say(room, BEN, "secret one", thread=root, mentions=[ANNA])
    await room.put(f"{ROOM_1}/messages/{seq}", mid=BEN, json={"body": "secret two"})

    recall = await room.delete(f"{ROOM_1}/messages/{seq}", mid=BEN)
    again = await room.delete(f"{ROOM_1}/messages/{seq}", mid=BEN)

    assert (200, {"unchanged": True}) == (again.status, again.json)
    told = await shown(room, seq)
    assert (None, {"by": BEN, "position": recall.json["position"]}) == (told["body"], told["recalled"])
    assert {"thread": root} == told["about"]
    for path in (
        f"{ROOM_1}/messages", f"{ROOM_1}/messages?after=0", f"{ROOM_1}/messages?around={seq}", f"{ROOM_1}/messages/{seq}",
        f"{ROOM_1}/messages/{root}/thread", f"{ROOM_1}/messages/{seq}/edits", "/v1/inbox", "/v1/mentions",
    ):  # fmt: skip
        answer = await room.get(path, mid=ANNA)
        assert 200 == answer.status
        assert b"secret" not in answer.raw, path
    for refused in (
        await room.put(f"{ROOM_1}/messages/{seq}", mid=BEN, json={"body": "x"}),
        await room.post(f"{ROOM_1}/messages/{seq}/forward", mid=BEN, json={"to": ROOM, "id": str(uuid.uuid4())}),
    ):
        assert (404, "no_such_message") == (refused.status, refused.code)
    head = (await room.get(f"{ROOM_1}/messages", mid=ANNA)).json["head"]
    seqs = [event["seq"] for event in (await room.get(f"{ROOM_1}/messages?limit=500", mid=BEN)).json["events"]]
    assert list(range(seqs[0], head + 1)) == seqs, "its place stays"


async def test_a_recalled_message_still_counts_as_unread(room: Place) -> None:
    seq = await say(room, BEN, "x")
    await room.delete(f"{ROOM_1}/messages/{seq}", mid=BEN)

    assert 1 == (await room.get("/v1/inbox", mid=DORA)).json["rooms"][0]["unread"]


@pytest.mark.parametrize(
    ("author", "by", "status"),
    [
        (BEN, BEN, 200), (BEN, DORA, 403), (BEN, CLEO, 200), (BEN, ANNA, 200), (BEN, OUTSIDER, 404), (BEN, None, 200),
        (CLEO, BEN, 403), (CLEO, CLEO, 200), (CLEO, ANNA, 200), (ANNA, CLEO, 403), (ANNA, ANNA, 200), (ANNA, None, 200),
    ],
)  # fmt: skip
async def test_who_recalls_whose(room: Place, author: int, by: int | None, status: int) -> None:
    seq = await say(room, author, "x")

    told = await room.delete(f"{ROOM_1}/messages/{seq}", mid=by)

    assert status == told.status, told.raw


async def test_an_admin_recalls_what_somebody_said_who_has_left(room: Place) -> None:
    seq = await say(room, BEN, "x")
    await room.post(f"{ROOM_1}/leave", mid=BEN)

    assert "no_such_room" == (await room.delete(f"{ROOM_1}/messages/{seq}", mid=BEN)).code
    assert 200 == (await room.delete(f"{ROOM_1}/messages/{seq}", mid=CLEO)).status


@pytest.mark.parametrize("role", ["moderator", "admin"])
async def test_whom_the_platform_trusts_recalls_anything_and_that_is_audited(room: Place, role: PlatformRole) -> None:
    seq = await say(room, ANNA, "x")

    await call(room, "messages.recall", {"room": ROOM, "seq": seq}, OUTSIDER, role)

    assert {"by": OUTSIDER} == {"by": (await shown(room, seq))["recalled"]["by"]}
    (acted,) = await room.reads.reader.read_on(AUDIT, 0, 9)
    said = AdminActed(verb="messages.recall", role=role, room=ROOM, mid=ANNA, detail=f"message {seq}")
    assert (OUTSIDER, said) == (acted.mid, acted.fact)


async def test_what_a_moderator_may_do_as_anybody_is_not_audited(room: Place) -> None:
    seq = await say(room, BEN, "x")

    await call(room, "messages.recall", {"room": ROOM, "seq": seq}, BEN, "moderator")

    assert [] == await room.reads.reader.read_on(AUDIT, 0, 9)


async def test_a_moderator_who_reads_where_it_is_no_member_is_audited(room: Place) -> None:
    seq = await say(room, BEN, "x")

    assert "x" == (await call(room, "messages.show", {"room": ROOM, "seq": seq}, OUTSIDER, "moderator"))["body"]
    await call(room, "messages.history", {"room": ROOM}, BEN, "moderator")

    (acted,) = await room.reads.reader.read_on(AUDIT, 0, 9)
    assert AdminActed(verb="messages.show", role="moderator", room=ROOM) == acted.fact
    with pytest.raises(ImcoreError) as refused:
        await call(room, "messages.history", {"room": "group://none"}, OUTSIDER, "moderator")
    assert "no_such_room" == refused.value.code


READ_IN_A_ROOM = (
    "rooms.show", "rooms.members", "rooms.changes", "rooms.bans", "rooms.invitations", "rooms.requests", "messages.history",
    "messages.show", "messages.thread", "messages.edits", "reactions.list", "pins.list", "receipts.list", "presence.room",
    "attachments.list", "attachments.show", "attachments.link",
)  # fmt: skip


@pytest.mark.parametrize("name", READ_IN_A_ROOM)
async def test_what_is_read_by_privilege_alone_is_audited_once_and_else_never(api: Place, name: str) -> None:
    """Of a private room: to its owner, moderator or not, all of it is open."""
    await api.room(ROOM, ANNA, public=False)
    await api.put(f"{ROOM_1}/members/{ANNA}/role", json={"role": "owner"})
    seq = await say(api, ANNA, "x")
    args: dict[str, object] = {"room": ROOM}
    if name.startswith("attachments.") and name != "attachments.list":
        kind = {"Content-Type": "text/plain"}
        stored = await api.post(f"{ROOM_1}/attachments?name=a.txt", mid=ANNA, data=b"hello", headers=kind)
        args = {"id": stored.json["id"]}
    elif name.startswith(("messages.", "reactions.", "receipts.")) and name != "messages.history":
        args["seq"] = seq
    elif name == "rooms.changes":
        args["after"] = 0

    await call(api, name, args, ANNA, "moderator")
    await call(api, name, args, SERVICE_MID, "service")
    assert [] == await api.reads.reader.read_on(AUDIT, 0, 9)

    await call(api, name, args, OUTSIDER, "moderator")
    (acted,) = await api.reads.reader.read_on(AUDIT, 0, 9)
    assert (OUTSIDER, AdminActed(verb=name, role="moderator", room=ROOM)) == (acted.mid, acted.fact)


async def test_a_pin_by_privilege_is_audited_once(room: Place) -> None:
    seq = await say(room, ANNA, "x")

    await call(room, "pins.add", {"room": ROOM, "seq": seq}, OUTSIDER, "moderator")

    (acted,) = await room.reads.reader.read_on(AUDIT, 0, 9)
    assert "pins.add" in acted.body


async def test_of_an_edit_and_a_recall_at_once_the_later_finds_what_the_earlier_did(room: Place) -> None:
    """Nothing is edited after it was recalled, whatever the order in which they come."""
    for n in range(20):
        seq = await say(room, BEN, "x")
        edit, recall, _ = await asyncio.gather(
            room.put(f"{ROOM_1}/messages/{seq}", mid=BEN, json={"body": f"edit {n}"}),
            room.delete(f"{ROOM_1}/messages/{seq}", mid=CLEO),
            room.delete(f"{ROOM_1}/messages/{seq}", mid=BEN),
        )
        assert recall.status == 200
        assert edit.status in (200, 404)
        assert (await shown(room, seq))["body"] is None
    recalled: set[int] = set()
    for event in await room.reads.reader.read_on("room:" + ROOM, 0, 500):
        if event.type == MessageRecalled.type:
            assert isinstance(event.fact, MessageRecalled)
            assert event.fact.target not in recalled, "recalled once"
            recalled.add(event.fact.target)
        elif event.type == MessageEdited.type:
            assert isinstance(event.fact, MessageEdited)
            assert event.fact.target not in recalled


# --- forwards ------------------------------------------------------------------------------------------------------------------


async def test_a_message_is_passed_on_as_it_reads_now_with_where_it_is_from(room: Place) -> None:
    await room.room(ELSEWHERE, BEN)
    seq = await say(room, ANNA, "old", mentions=[BEN])
    await room.put(f"{ROOM_1}/messages/{seq}", mid=ANNA, json={"body": "new", "format": "text"})
    order = {"to": ELSEWHERE, "id": str(uuid.uuid4())}

    first = await room.post(f"{ROOM_1}/messages/{seq}/forward", mid=BEN, json=order)
    await room.put(f"{ROOM_1}/messages/{seq}", mid=ANNA, json={"body": "newer"})
    retry = await room.post(f"{ROOM_1}/messages/{seq}/forward", mid=BEN, json=order)

    assert (201, 200) == (first.status, retry.status)
    assert {**first.json, "duplicate": True} == retry.json
    told = (await room.get(f"/v1/rooms/group/2/messages/{first.json['seq']}", mid=BEN)).json
    assert ("new", BEN) == (told["body"], told["mid"])
    assert {"forwarded": {"room": ROOM, "seq": seq, "mid": ANNA}, "format": "text"} == told["about"]
    other = await say(room, ANNA, "other")
    taken = await room.post(f"{ROOM_1}/messages/{other}/forward", mid=BEN, json=order)
    assert (409, "id_conflict") == (taken.status, taken.code)


async def test_to_pass_on_takes_to_see_the_one_and_to_speak_in_the_other(room: Place) -> None:
    await room.room(ELSEWHERE, OUTSIDER, BEN)
    seq = await say(room, ANNA, "x")

    async def forward(mid: int, to: str) -> str:
        order = {"to": to, "id": str(uuid.uuid4())}
        told = await room.post(f"{ROOM_1}/messages/{seq}/forward", mid=mid, json=order)
        return "" if told.status == 201 else str(told.code)

    assert "" == await forward(BEN, ELSEWHERE)
    assert "no_such_room" == await forward(OUTSIDER, ELSEWHERE)
    assert "no_such_room" == await forward(DORA, ELSEWHERE)
    assert "no_such_room" == await forward(BEN, "group://none")
    await room.put(f"/v1/rooms/group/2/members/{BEN}/mute", json={"until_ms": 2**53})
    assert "muted" == await forward(BEN, ELSEWHERE)


async def test_a_token_that_does_not_name_the_other_room_passes_nothing_on_to_it(guarded: Place) -> None:
    await guarded.room(ROOM, BEN)
    await guarded.room(ELSEWHERE, BEN)
    inside = bearer(mid=BEN, rooms=[ROOM])
    sent = await guarded.post(f"{ROOM_1}/messages", headers=inside, json={"id": str(uuid.uuid4()), "body": 1})
    order = {"to": ELSEWHERE, "id": str(uuid.uuid4())}

    told = await guarded.post(f"{ROOM_1}/messages/{sent.json['seq']}/forward", headers=inside, json=order)

    assert "no_such_room" == told.code


# --- pages ---------------------------------------------------------------------------------------------------------------------


async def test_history_around_a_seq_has_both_sides(room: Place) -> None:
    seqs = [await say(room, BEN, n) for n in range(10)]  # 7 to 16

    async def around(query: str) -> tuple[list[int], bool, bool]:
        page = (await room.get(f"{ROOM_1}/messages?{query}", mid=ANNA)).json
        return [event["seq"] for event in page["events"]], page["more"], page["more_after"]

    assert list(range(7, 17)) == seqs
    assert ([8, 9, 10, 11], True, True) == await around("around=10&limit=4")
    assert ([9, 10, 11], True, True) == await around("around=10&limit=3")
    assert ([10], True, True) == await around("around=10&limit=1")
    assert ([13, 14, 15, 16], True, False) == await around("around=15&limit=4")
    assert ([5, 6, 7], False, True) == await around("around=5&limit=6")  # Anna came with seq 5
    assert ([15, 16], True, False) == await around("around=9223372036854775807&limit=4")
    assert ([16], True, False) == await around("around=17&limit=1"), "a client that goes on has where to go on from"
    assert ([5], False, True) == await around("around=1&limit=1")
    for query in ("around=0", "around=-1", "around=x", "around=1&after=1", "around=1&before=1", "around=1&around=1"):
        assert 400 == (await room.get(f"{ROOM_1}/messages?{query}", mid=ANNA)).status


async def test_history_around_a_time_begins_at_the_first_event_that_is_not_before_it(room: Place) -> None:
    """Whoever looks for a day finds it, in a long room too, and sees no more than from its join on."""
    for n in range(10):
        await say(room, BEN, n)  # 7 to 16
    async with room.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")  # else nobody changes the log
        await connection.execute("UPDATE events SET recorded_at = to_timestamp(1000 + seq * 10)")

    async def at(time_ms: int, limit: int, mid: int = ANNA) -> tuple[list[int], bool, bool]:
        page = (await room.get(f"{ROOM_1}/messages?at={time_ms}&limit={limit}", mid=mid)).json
        return [event["seq"] for event in page["events"]], page["more"], page["more_after"]

    for seq in range(7, 16):
        for time_ms in (1_000_000 + seq * 10_000, 1_000_001 + (seq - 1) * 10_000):
            assert ([seq - 1, seq], True, seq < 16) == await at(time_ms, 2)
    assert ([8, 9, 10, 11], True, True) == await at(1_095_000, 4)
    assert ([5, 6], False, True) == await at(0, 4), "Anna came with seq 5"
    for late in (1_160_001, 9_223_372_036_854_775_807):
        assert ([15, 16], True, False) == await at(late, 4)
        assert ([16], True, False) == await at(late, 1)
    for query in (
        "at=-1",
        "at=x",
        "at=1.5",
        "at=9223372036854775808",
        "at=1&around=1",
        "at=1&after=1",
        "at=1&before=1",
    ):
        assert 400 == (await room.get(f"{ROOM_1}/messages?{query}", mid=ANNA)).status
    assert 404 == (await room.get(f"{ROOM_1}/messages?at=1", mid=99)).status


async def test_a_thread_is_paged_without_what_else_is_said(room: Place) -> None:
    root, other = await say(room, ANNA, "root"), await say(room, ANNA, "other")
    parts = []
    for n in range(5):
        parts.append(await say(room, BEN, n, thread=root))
        await say(room, BEN, "noise", thread=other)
    found: list[int] = []
    after = 0
    while True:
        page = (await room.get(f"{ROOM_1}/messages/{root}/thread?limit=2&after={after}", mid=DORA)).json
        found += [event["seq"] for event in page["events"]]
        if "next" not in page:
            break
        after = page["next"]
    assert parts == found
    assert "no_such_message" == (await room.get(f"{ROOM_1}/messages/1/thread", mid=DORA)).code
    assert "no_such_room" == (await room.get(f"{ROOM_1}/messages/{root}/thread", mid=OUTSIDER)).code


async def test_of_a_thread_who_came_later_sees_what_was_said_since(room: Place) -> None:
    root = await say(room, ANNA, "root")
    await say(room, ANNA, "before", thread=root)
    await room.post(f"{ROOM_1}/join", mid=OUTSIDER)
    seq = await say(room, ANNA, "after", thread=root)

    page = (await room.get(f"{ROOM_1}/messages/{root}/thread", mid=OUTSIDER)).json

    assert [seq] == [event["seq"] for event in page["events"]]


# --- mentions ------------------------------------------------------------------------------------------------------------------


async def counted(api: Place, mid: int) -> int:
    return int((await api.get("/v1/inbox", mid=mid)).json["rooms"][0]["mentions"])


async def listed(api: Place, mid: int, query: str = "") -> list[int]:
    return [one["seq"] for one in (await api.get(f"/v1/mentions?{query}", mid=mid)).json["mentions"]]


async def test_unread_mentions_are_counted_exactly(room: Place) -> None:
    first = await say(room, ANNA, "x", mentions=[BEN, CLEO])
    everybody = await say(room, BEN, "y", mentions="all")
    recalled = await say(room, ANNA, "z", mentions=[BEN])
    last = await say(room, ANNA, "w", mentions=[BEN])
    await say(room, ANNA, "nobody")
    await room.delete(f"{ROOM_1}/messages/{recalled}", mid=ANNA)

    assert {BEN: 2, CLEO: 2, ANNA: 1, DORA: 1} == {mid: await counted(room, mid) for mid in (BEN, CLEO, ANNA, DORA)}
    assert [last, first] == await listed(room, BEN)
    assert [everybody, first] == await listed(room, CLEO)
    await room.put(f"{ROOM_1}/read", mid=BEN, json={"seq": first})
    await room.put(f"{ROOM_1}/read", mid=CLEO, json={"seq": everybody})
    assert {BEN: 1, CLEO: 0} == {mid: await counted(room, mid) for mid in (BEN, CLEO)}
    assert ([last], [last, first]) == (await listed(room, BEN, "unread=true"), await listed(room, BEN))
    assert [] == await listed(room, CLEO, "unread=true")


async def test_who_comes_later_was_not_named_before(room: Place) -> None:
    await say(room, ANNA, "x", mentions="all")
    await room.post(f"{ROOM_1}/join", mid=OUTSIDER)
    assert (0, []) == (await counted(room, OUTSIDER), await listed(room, OUTSIDER))

    seq = await say(room, ANNA, "x", mentions="all")
    assert (1, [seq]) == (await counted(room, OUTSIDER), await listed(room, OUTSIDER))
    await room.post(f"{ROOM_1}/leave", mid=OUTSIDER)
    assert [] == await listed(room, OUTSIDER)


async def test_mentions_are_paged_over_all_rooms_newest_first(room: Place) -> None:
    await room.room(ELSEWHERE, ANNA, BEN)
    places = []
    for n in range(6):
        path = ROOM_1 if n % 2 else "/v1/rooms/group/2"
        places.append((path[-1], await say(room, ANNA, n, path, mentions="all" if n % 3 else [BEN])))
    found = []
    query = "limit=2"
    while True:
        page = (await room.get(f"/v1/mentions?{query}", mid=BEN)).json
        found += [(one["room"][-1], one["seq"]) for one in page["mentions"]]
        if "next" not in page:
            break
        query = f"limit=2&after={page['next']}"
    assert places[::-1] == found
    assert 400 == (await room.get("/v1/mentions")).status, "a service says for whom"
    assert places[::-1] == [
        (one["room"][-1], one["seq"]) for one in (await room.get(f"/v1/mentions?mid={BEN}")).json["mentions"]
    ]
    assert 403 == (await room.get(f"/v1/mentions?mid={BEN}", mid=ANNA)).status


async def test_of_a_dismissed_room_no_mentions_are_listed(room: Place) -> None:
    await room.room(ELSEWHERE, ANNA, BEN)
    await say(room, ANNA, "x", mentions=[BEN])
    seq = await say(room, ANNA, "y", "/v1/rooms/group/2", mentions=[BEN])

    assert 200 == (await room.delete(ROOM_1)).status

    assert [seq] == await listed(room, BEN)
    assert [seq] == await listed(room, BEN, "unread=true")


# --- all together --------------------------------------------------------------------------------------------------------------


async def test_the_rows_are_what_the_log_says(room: Place) -> None:
    root = await say(room, ANNA, "x", mentions=[BEN])
    for n in range(4):
        seq = await say(room, BEN, n, thread=root, mentions="all")
        await room.put(f"{ROOM_1}/messages/{seq}", mid=BEN, json={"body": f"edit {n}"})
    await room.delete(f"{ROOM_1}/messages/{seq}", mid=CLEO)
    await room.followed()
    projections: tuple[AnyProjection, ...] = (
        amendments.projection, mentions.projection, threads.projection, edits.projection,
    )  # fmt: skip
    for projection in projections:
        found = await rebuild.audit(room.pool, projection)
        assert ([], []) == (found.differences, found.failures), projection.name
        rebuilt = await rebuild.rebuild(room.pool, projection)
        assert rebuilt.rows > 0


async def stand(api: Place, path: str, standing: Standing, mid: int) -> None:
    """Let somebody have this standing in a room, as far as there is one."""
    if standing == "banned":
        await call(api, "rooms.ban", {"room": "group://open", "mid": mid}, SERVICE_MID, "service")
    if standing == "invited":
        await call(api, "rooms.invite", {"room": "group://open", "mid": mid}, SERVICE_MID, "service")
    if standing in ("stranger", "invited", "banned"):
        return
    role = {"owner": "owner", "room_admin": "admin"}.get(standing, "member")
    await api.post(f"{path}/members", json={"mid": mid, "role": role})
    if standing == "muted":
        await api.put(f"{path}/members/{mid}/mute", json={"until_ms": 2**53})


async def told(api: Place, name: str, args: dict[str, object], mid: int, role: PlatformRole) -> str:
    """The code of the error, or nothing."""
    try:
        await call(api, name, args, mid, role)
    except ImcoreError as error:
        return error.code
    return ""


READING = ("messages.history", "messages.show", "messages.thread", "messages.edits")


@pytest.mark.parametrize("standing", STANDINGS)
@pytest.mark.parametrize("role", ["user", "guest", "moderator", "admin"])
async def test_the_table_is_kept(api: Place, role: PlatformRole, standing: Standing) -> None:
    """Every operation on messages, by every role and standing, on what is one's own and on others'."""
    open_room, path, mid = "group://open", "/v1/rooms/group/open", 1_000
    await api.room(open_room, DORA, mid, history="all")
    seqs = {True: await say(api, mid, "own", path), False: await say(api, DORA, "others", path)}
    await api.delete(f"{path}/members/{mid}")
    await stand(api, path, standing, mid)
    codes = {"hidden": "no_such_room", "muted": "muted", "no": "forbidden", "yes": "", "below": ""}  # Dora is a member

    for name in (*READING, "messages.edit", "messages.recall"):
        for is_own, seq in seqs.items():
            args: dict[str, object] = {"room": open_room}
            if name != "messages.history":
                args["seq"] = seq
            if name == "messages.edit":
                args["body"] = "x"
            verdict = table().verdict(name, role, standing)
            expected = codes.get(verdict, "" if is_own else "forbidden")
            assert expected == await told(api, name, args, mid, role), (name, is_own, verdict)
