"""Reactions and pins: who may, what it does, and what is told of it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from api.place import Answer, Place
from imcore import membership, reacting, reads
from imcore.errors import NoSuchMessage, NoSuchRoom
from imcore.permissions import SERVICE_ACTOR, Actor, person
from imcore.projections import INLINE, queries
from imcore.projections.amendments import Amendment
from imcore.projections.members import Member
from imcore.projections.pins import Pinned
from imcore.projections.reactions import Reaction, ReactionCounts
from imcore.projections.rooms import Room
from imcore.reacting import PINS_MAX, REACTIONS_MAX
from imcore.reads import PAGE_BYTES_MAX, ReactionCount
from imcore.verbs.reactions import PAGE
from projections.place import Place as Rows

G = "group://1"
ROOM = "/v1/rooms/group/1"
UP, HEART, FAMILY = "👍🏽", "❤️", "👨\u200d👩\u200d👧\u200d👦"


async def said(api: Place, *mids: int) -> list[int]:
    """A message of each of these people; their seqs."""
    return [(await api.send(ROOM, mid, "hello")).json["seq"] for mid in mids]


async def react(
    api: Place, mid: int | None, seq: int, reaction: str = UP, method: str = "PUT", room: str = ROOM
) -> Answer:
    return await api.ask(method, f"{room}/messages/{seq}/reactions/{quote(reaction, safe='')}", mid=mid)


async def reactions(api: Place, mid: int | None, seq: int, query: str = "") -> Any:
    return (await api.get(f"{ROOM}/messages/{seq}/reactions{query}", mid=mid)).json


async def test_a_reaction_is_an_event_of_the_room_and_adding_it_again_is_none(api: Place) -> None:
    await api.room(G, 7, 8)
    (seq,) = await said(api, 7)

    added = await react(api, 8, seq)
    again = await react(api, 8, seq)

    assert (200, {"position": 5, "seq": 5}) == (added.status, added.json)
    assert (200, {"unchanged": True}) == (again.status, again.json)
    event = (await api.get(f"{ROOM}/messages?limit=1", mid=7)).json["events"][0]
    assert ("reaction_added", 8, {"room": G, "target": seq, "reaction": UP}) == (
        event["type"],
        event["mid"],
        event["body"],
    )
    assert {"unchanged": True} == (await react(api, 7, seq, method="DELETE")).json
    assert {"position": 6, "seq": 6} == (await react(api, 8, seq, method="DELETE")).json
    assert {"room": G, "seq": seq, "summary": [], "reactions": []} == await reactions(api, 7, seq)


async def test_who_reacts_with_what_is_told_in_pages_and_counted(api: Place) -> None:
    await api.room(G, 7, 8, 9)
    (seq,) = await said(api, 7)
    for mid, reaction in ((8, HEART), (7, UP), (9, HEART), (8, FAMILY)):
        assert 200 == (await react(api, mid, seq, reaction)).status

    page = await reactions(api, 8, seq, "?limit=3")
    assert [
        {"reaction": HEART, "count": 2, "mine": True},
        {"reaction": UP, "count": 1, "mine": False},
        {"reaction": FAMILY, "count": 1, "mine": True},
    ] == page["summary"]
    assert [(HEART, 8), (UP, 7), (HEART, 9)] == [(one["reaction"], one["mid"]) for one in page["reactions"]]
    rest = await reactions(api, 8, seq, f"?after={page['next']}")
    assert [(FAMILY, 8)] == [(one["reaction"], one["mid"]) for one in rest["reactions"]]
    assert "next" not in rest
    hearts = await reactions(api, 8, seq, f"?reaction={quote(HEART)}")
    assert [8, 9] == [one["mid"] for one in hearts["reactions"]]


async def test_the_reactions_to_a_page_of_messages_are_one_query(api: Place) -> None:
    await api.room(G, 7, 8)
    first, second, third = await said(api, 7, 7, 8)
    await react(api, 8, first, HEART)
    await react(api, 7, first, HEART)
    await react(api, 7, third, "+1")

    assert {
        first: [ReactionCount(HEART, 2, mine=True)],
        third: [ReactionCount("+1", 1, mine=False)],
    } == await reads.reactions_of(api.reads, G, [first, second, third], 8, None)
    assert {} == await reads.reactions_of(api.reads, G, [], 8, None)


async def test_a_message_takes_so_many_different_reactions_and_the_known_ones_for_ever(api: Place) -> None:
    await api.room(G, 7, 8)
    (seq,) = await said(api, 7)
    for n in range(REACTIONS_MAX):
        assert 200 == (await react(api, 7, seq, f"r{n}")).status

    assert (400, "bad_request") == ((one := await react(api, 8, seq, "other")).status, one.code)
    assert 200 == (await react(api, 8, seq, "r3")).status
    await react(api, 7, seq, "r0", "DELETE")
    assert 200 == (await react(api, 8, seq, "other")).status


@pytest.mark.parametrize(
    "reaction", [UP, HEART, FAMILY, "🏴\U000e0067\U000e0062\U000e007f", "1️⃣", "🇩🇪", "+1", "thumbs_up", "赞", "‼️", "♾️"]
)
async def test_what_a_reaction_can_be(api: Place, reaction: str) -> None:
    await api.room(G, 7)
    (seq,) = await said(api, 7)

    assert 200 == (await react(api, 7, seq, reaction)).status
    assert [reaction] == [one["reaction"] for one in (await reactions(api, 7, seq))["summary"]]


async def test_a_reaction_is_kept_in_one_normal_form(api: Place) -> None:
    await api.room(G, 7)
    (seq,) = await said(api, 7)

    await react(api, 7, seq, "e\u0301")
    assert {"unchanged": True} == (await react(api, 7, seq, "é")).json


@pytest.mark.parametrize(
    "reaction",
    [
        " ",
        "a b",
        "<b>",
        "\u200d",
        "\ufe0f",
        "👍 ",
        "👍\u202e",
        "a" * 33,
        "赞" * 22,
        "1\u200d",
        "%",
        "'",
        "\u0301",
        "\x7f",
    ],
)
async def test_what_a_reaction_cannot_be(api: Place, reaction: str) -> None:
    await api.room(G, 7)
    (seq,) = await said(api, 7)

    refused = await react(api, 7, seq, reaction)
    assert (400, "bad_request") == (refused.status, refused.code)


@pytest.mark.parametrize("seq", ["0", "-1", "x", str(2**63), "1.0"])
async def test_a_message_has_a_seq(api: Place, seq: str) -> None:
    await api.room(G, 7)
    for path in (f"messages/{seq}/reactions", f"messages/{seq}/receipts"):
        assert 400 == (await api.get(f"{ROOM}/{path}", mid=7)).status
    assert 400 == (await api.put(f"{ROOM}/pins/{seq}", mid=7)).status


async def test_only_messages_that_one_sees_take_anything(api: Place) -> None:
    await api.room(G, 7)
    (early,) = await said(api, 7)
    await api.post(f"{ROOM}/members", json={"mid": 8, "role": "admin"})
    (late,) = await said(api, 7)

    for seq in (early, 1, late + 1, 2**63 - 1):  # before the join, no message, not there
        for refused in (
            await react(api, 8, seq),
            await api.put(f"{ROOM}/pins/{seq}", mid=8),
            await api.get(f"{ROOM}/messages/{seq}/reactions", mid=8),
            await api.get(f"{ROOM}/messages/{seq}/receipts", mid=8),
        ):
            assert (404, "no_such_message") == (refused.status, refused.code)
    assert 200 == (await react(api, 8, late)).status


async def test_where_the_room_shows_its_history_newcomers_react_to_all_of_it(api: Place) -> None:
    await api.room(G, 7, history="all")
    (early,) = await said(api, 7)
    await api.post(f"{ROOM}/members", json={"mid": 8})

    assert 200 == (await react(api, 8, early)).status


async def test_strangers_are_told_of_nothing_and_the_muted_may_only_take_away(api: Place) -> None:
    await api.room(G, 7, 8)
    (seq,) = await said(api, 7)
    await react(api, 8, seq)
    await api.put(f"{ROOM}/members/8/mute", json={"until_ms": int(time.time() * 1000) + 600_000})

    assert (403, "muted") == ((one := await react(api, 8, seq, HEART)).status, one.code)
    assert 1 == len((await reactions(api, 8, seq))["summary"])
    assert 200 == (await react(api, 8, seq, method="DELETE")).status
    for stranger in (
        await react(api, 9, seq),
        await react(api, 9, seq, room="/v1/rooms/group/nowhere"),
        await react(api, 9, seq, method="DELETE"),
        await api.get(f"{ROOM}/messages/{seq}/reactions", mid=9),
        await api.get(f"{ROOM}/messages/{seq}/receipts", mid=9),
        await api.get(f"{ROOM}/pins", mid=9),
        await api.put(f"{ROOM}/pins/{seq}", mid=9),
    ):
        assert (404, "no_such_room") == (stranger.status, stranger.code)
    assert 403 == (await react(api, None, seq)).status  # a service is nobody who could like something


async def test_whom_the_other_has_blocked_may_only_take_away_in_the_room_of_the_two(api: Place) -> None:
    path = "/v1/rooms/direct/7-8"
    await api.log.decide(membership.OpenDirect(8, person(7)))
    (seq,) = [(await api.send(path, 7, "hello")).json["seq"]]
    await react(api, 8, seq, room=path)
    await api.log.decide(membership.BlockPerson(8, person(7)))

    assert (403, "forbidden") == ((one := await react(api, 8, seq, HEART, room=path)).status, one.code)
    assert 200 == (await react(api, 8, seq, method="DELETE", room=path)).status
    assert 200 == (await react(api, 7, seq, HEART, room=path)).status
    await api.log.decide(membership.UnblockPerson(8, person(7)))
    assert 200 == (await react(api, 8, seq, HEART, room=path)).status


async def test_while_all_are_muted_only_admins_react_and_to_announcements_everybody_may(api: Place) -> None:
    await api.room(G, 7, 8)
    await api.put(f"{ROOM}/members/7/role", json={"role": "admin"})
    (seq,) = await said(api, 7)
    await api.log.decide(membership.ChangeRoom(G, SERVICE_ACTOR, membership.Settings(writers="admins")))
    assert 200 == (await react(api, 8, seq)).status
    await api.log.decide(membership.MuteAll(G, SERVICE_ACTOR, 2**53))

    assert (403, "muted") == ((one := await react(api, 8, seq, HEART)).status, one.code)
    assert 200 == (await react(api, 8, seq, method="DELETE")).status
    assert 200 == (await react(api, 7, seq, HEART)).status


async def test_admins_pin_and_members_see_it(api: Place) -> None:
    await api.room(G, 7, 8)
    await api.put(f"{ROOM}/members/8/role", json={"role": "admin"})
    first, second = await said(api, 7, 7)

    assert (403, "forbidden") == ((one := await api.put(f"{ROOM}/pins/{first}", mid=7)).status, one.code)
    assert 200 == (await api.put(f"{ROOM}/pins/{first}", mid=8)).status
    assert 200 == (await api.put(f"{ROOM}/pins/{second}")).status
    assert {"unchanged": True} == (await api.put(f"{ROOM}/pins/{first}", mid=8)).json

    pins = (await api.get(f"{ROOM}/pins", mid=7)).json["pins"]
    assert [(second, 0), (first, 8)] == [(pin["seq"], pin["by"]) for pin in pins]
    assert 403 == (await api.delete(f"{ROOM}/pins/{first}", mid=7)).status
    assert 200 == (await api.delete(f"{ROOM}/pins/{first}", mid=8)).status
    assert {"unchanged": True} == (await api.delete(f"{ROOM}/pins/{first}", mid=8)).json
    assert [second] == [pin["seq"] for pin in (await api.get(f"{ROOM}/pins", mid=7)).json["pins"]]


async def test_a_list_of_pins_says_what_the_messages_say_now(api: Place) -> None:
    """As the history does: with the last words, who reacts, and what a message is about; however much lies between them."""
    await api.room(G, 7, 8)
    first, *_ = await _many(api, 6)
    (between,) = await said(api, 7)
    *_, last = await _many(api, 6)
    (own,) = await said(api, 7)
    for seq in (first, own, last):
        await api.put(f"{ROOM}/pins/{seq}")
    for seq in (own, between):
        assert 200 == (await api.put(f"{ROOM}/messages/{seq}", mid=7, json={"body": "edited"})).status
    await react(api, 8, first, HEART)

    pins = (await api.get(f"{ROOM}/pins", mid=8)).json["pins"]

    assert [last, own, first] == [pin["seq"] for pin in pins]
    events = {event["seq"]: event for event in (await api.get(f"{ROOM}/messages?limit=50", mid=8)).json["events"]}
    assert [events[seq] for seq in (last, own, first)] == [pin["message"] for pin in pins]
    assert ("edited", 1) == (pins[1]["message"]["body"], pins[1]["message"]["edited"]["count"])
    assert [{"reaction": HEART, "count": 1, "mine": True}] == pins[2]["message"]["reactions"]


async def test_pins_are_paged_by_number_and_by_bytes(api: Place) -> None:
    await api.room(G, 7)
    large = "x" * (api.settings.text_body_bytes_max - 2)
    seqs = [(await api.send(ROOM, None, large)).json["seq"] for _ in range(2 + PAGE_BYTES_MAX // len(large))]
    for seq in seqs:
        await api.put(f"{ROOM}/pins/{seq}")

    for query, fewest_pages in (("", 2), ("&limit=3", len(seqs) // 3)):
        found, after, pages = list[int](), "", 0
        while True:
            page = (await api.get(f"{ROOM}/pins?{query}{after}", mid=7)).json
            found += [pin["seq"] for pin in page["pins"]]
            pages += 1
            if "next" not in page:
                break
            after = f"&after={page['next']}"
        assert seqs[::-1] == found
        assert pages >= fewest_pages


@pytest.mark.parametrize("is_back", [False, True])
async def test_a_list_of_pins_under_way_shows_nothing_of_after_a_kick(
    api: Place, monkeypatch: pytest.MonkeyPatch, is_back: bool
) -> None:
    await api.room(G, 7, 8)
    (seq,) = await said(api, 7)
    await api.put(f"{ROOM}/pins/{seq}")

    async def edited() -> None:
        await api.put(f"{ROOM}/messages/{seq}", mid=7, json={"body": "late"})

    await refused_amid_a_kick(api, monkeypatch, (queries, "amendments"), "pins", edited, is_back=is_back)


@pytest.mark.parametrize("is_back", [False, True])
async def test_a_pin_of_after_a_kick_is_in_no_list_that_was_under_way(
    api: Place, monkeypatch: pytest.MonkeyPatch, is_back: bool
) -> None:
    """Of a message of before too."""
    await api.room(G, 7, 8)
    (seq,) = await said(api, 7)

    async def pinned() -> None:
        await api.put(f"{ROOM}/pins/{seq}")

    await refused_amid_a_kick(api, monkeypatch, (queries, "pins"), "pins", pinned, is_back=is_back)
    assert [seq] == [pin["seq"] for pin in (await api.get(f"{ROOM}/pins", mid=7)).json["pins"]]


async def test_a_list_of_pins_names_no_message_that_was_said_after_it_was_asked_for(
    api: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a pin without its message. Nor does it take the place of another pin."""
    await api.room(G, 7, 8)
    seqs = await said(api, 7, 7)
    for seq in seqs:
        await api.put(f"{ROOM}/pins/{seq}")
    read, late = queries.pins, list[int]()

    async def reading(*asked: Any, **rest: Any) -> Any:
        """The pins, read after the room's head was."""
        if not late:
            late.extend(await said(api, 7))
            await api.put(f"{ROOM}/pins/{late[0]}")
        return await read(*asked, **rest)

    monkeypatch.setattr(queries, "pins", reading)

    page = (await api.get(f"{ROOM}/pins?limit=2", mid=8)).json
    assert late, "it has happened"
    assert seqs[::-1] == [pin["message"]["seq"] for pin in page["pins"]]
    assert "next" not in page
    assert late + seqs[:0:-1] == [pin["seq"] for pin in (await api.get(f"{ROOM}/pins?limit=2", mid=8)).json["pins"]]


@pytest.mark.parametrize("is_back", [False, True])
@pytest.mark.parametrize("verb", ["history", "show", "thread", "pins", "reactions"])
async def test_reactions_of_after_a_kick_are_in_no_answer_that_was_under_way(
    api: Place, monkeypatch: pytest.MonkeyPatch, verb: str, is_back: bool
) -> None:
    """Whoever was a member when it was looked at, and no more when the reactions were: though the messages read as they were sent."""
    await api.room(G, 7, 8)
    (first,) = await said(api, 7)
    answer = {"id": str(uuid.uuid4()), "body": "hello", "thread": first}
    seq = (await api.post(f"{ROOM}/messages", mid=7, json=answer)).json["seq"]
    await api.put(f"{ROOM}/pins/{seq}")
    path = {
        "history": "messages",
        "show": f"messages/{seq}",
        "thread": f"messages/{first}/thread",
        "pins": "pins",
        "reactions": f"messages/{seq}/reactions",
    }[verb]

    async def reacted() -> None:
        assert 200 == (await react(api, 7, seq, "late")).status

    await refused_amid_a_kick(api, monkeypatch, (reads, "reactions_of"), path, reacted, is_back=is_back)
    assert b"late" in (await api.get(f"{ROOM}/{path}", mid=7)).raw


@pytest.mark.parametrize("is_back", [False, True])
async def test_who_reacts_after_a_kick_is_in_no_list_that_was_under_way(
    api: Place, monkeypatch: pytest.MonkeyPatch, is_back: bool
) -> None:
    await api.room(G, 7, 8)
    (seq,) = await said(api, 7)

    async def reacted() -> None:
        assert 200 == (await react(api, 7, seq, "late")).status

    await refused_amid_a_kick(
        api, monkeypatch, (reads, "reactions_of"), f"messages/{seq}/reactions", reacted, is_back=is_back, is_after=True
    )


async def refused_amid_a_kick(
    api: Place,
    monkeypatch: pytest.MonkeyPatch,
    reader: tuple[ModuleType, str],
    path: str,
    late: Callable[[], Awaitable[None]],
    *,
    is_back: bool,
    is_after: bool = False,
) -> None:
    """8 asks for this. Just before `reader` reads for it (`is_after`: just after), it is taken out of the room, and what is `late`
    happens there; perhaps it is let in again."""
    read, to_come = getattr(*reader), ["a kick"]

    async def reading(*asked: Any, **rest: Any) -> Any:
        found = await read(*asked, **rest) if is_after else None
        if to_come:
            to_come.clear()
            await api.delete(f"{ROOM}/members/8")
            await late()
            if is_back:
                await api.post(f"{ROOM}/members", json={"mid": 8})
        return found if is_after else await read(*asked, **rest)

    monkeypatch.setattr(*reader, reading)

    told = await api.get(f"{ROOM}/{path}", mid=8)
    assert not to_come, "it has happened"
    assert ((503, "unavailable") if is_back else (404, "no_such_room")) == (told.status, told.code)
    assert b"late" not in told.raw


async def test_a_newcomer_sees_the_pins_of_what_it_sees(api: Place) -> None:
    await api.room(G, 7)
    (early,) = await said(api, 7)
    await api.post(f"{ROOM}/members", json={"mid": 8})
    (late,) = await said(api, 7)
    for seq in (early, late):
        await api.put(f"{ROOM}/pins/{seq}")

    assert [late] == [pin["seq"] for pin in (await api.get(f"{ROOM}/pins", mid=8)).json["pins"]]


async def test_a_room_has_so_many_pins_however_many_are_pinned_at_once(api: Place) -> None:
    await api.room(G, 7)
    seqs = await _many(api, PINS_MAX + 5)

    pinned = await asyncio.gather(*(api.put(f"{ROOM}/pins/{seq}") for seq in seqs))

    assert PINS_MAX == sum(one.status == 200 for one in pinned)
    assert {200, 400} == {one.status for one in pinned}
    assert PINS_MAX == len((await api.get(f"{ROOM}/pins", mid=7)).json["pins"])
    kept = (await api.get(f"{ROOM}/pins", mid=7)).json["pins"][0]["seq"]
    left = next(seq for seq, one in zip(seqs, pinned, strict=True) if one.status == 400)
    assert 400 == (await api.put(f"{ROOM}/pins/{left}")).status
    await api.delete(f"{ROOM}/pins/{kept}")
    assert 200 == (await api.put(f"{ROOM}/pins/{left}")).status


async def _many(api: Place, count: int) -> list[int]:
    """So many messages, of a service."""
    sent = [await api.send(ROOM, None, "hello") for _ in range(count)]
    return [one.json["seq"] for one in sent]


async def test_reactions_that_race_are_counted_exactly(api: Place) -> None:
    people = range(1, 13)
    await api.room(G, *people)
    (seq,) = await said(api, 1)
    asked = [
        (mid, reaction, method) for method in ("PUT", "DELETE", "PUT") for mid in people for reaction in (UP, HEART)
    ]

    await asyncio.gather(*(react(api, mid, seq, reaction, method) for mid, reaction, method in asked))

    rows = Rows("", api.pool, api.log, api.reads.reader)
    await rows.assert_rows_are_the_fold(*INLINE)
    counted = {one["reaction"]: one["count"] for one in (await reactions(api, 1, seq))["summary"]}
    listed = [one["reaction"] for one in (await reactions(api, 1, seq, "?limit=500"))["reactions"]]
    assert counted == {reaction: listed.count(reaction) for reaction in counted}


async def test_what_belongs_to_the_server_is_refused_from_clients(api: Place) -> None:
    await api.room(G, 7)
    (seq,) = await said(api, 7)
    for field in ("mid", "position", "count", "seq"):
        refused = await api.put(f"{ROOM}/messages/{seq}/reactions/ok", mid=7, data=orjson.dumps({field: 9}),
                                headers={"Content-Type": "application/json"})  # fmt: skip
        assert 400 == refused.status


async def test_a_live_room_has_nobody_who_could_react(api: Place) -> None:
    refused = await react(api, 7, 1, room="/v1/rooms/live/1")
    assert (400, "bad_request") == (refused.status, refused.code)


async def test_nobody_reacts_after_the_end_of_its_membership(api: Place) -> None:
    """Whichever comes first in the log: no reaction is behind the removal."""
    await api.room(G, 7, *range(100, 130))
    (seq,) = await said(api, 7)

    outcomes = await asyncio.gather(
        *(one for mid in range(100, 130) for one in (react(api, mid, seq), api.delete(f"{ROOM}/members/{mid}")))
    )

    assert {200, 404} >= {one.status for one in outcomes}
    gone = set[int]()
    for event in await Rows("", api.pool, api.log, api.reads.reader).whole_log():
        if event.type == "member_removed":
            gone.add(orjson.loads(event.body)["mid"])
        assert event.type != "reaction_added" or event.mid not in gone
    assert 30 == len(gone)


@pytest.mark.parametrize("recalled", [0, 9])
def test_a_recalled_message_takes_nothing_and_gives_back(recalled: int) -> None:
    member, room = Member("owner", 1, 1, 0), Room(1, 7, True, "joined", "", 1)
    rows: dict[Any, Any] = {
        ("members", (G, 7)): member, ("bans", (G, 7)): None, ("invitations", (G, 7)): None,
        ("rooms", (G,)): room, ("amendments", (G, 3)): Amendment(0, 0, 0, 0, "", recalled, 7),
        ("reactions", (G, 3, UP, 7)): None, ("reactions", (G, 3, HEART, 7)): Reaction(4, 4),
        ("reaction_counts", (G, 3)): ReactionCounts((HEART,), (1,)), ("pins", (G, 3)): None, ("pin_counts", (G,)): None,
        ("restrictions", (G,)): None,
    }  # fmt: skip
    me = Actor(7, "user")
    adding = (reacting.React(G, 3, UP, me, adds=True), reacting.Pin(G, 3, me, adds=True))
    removing = reacting.React(G, 3, HEART, me, adds=False)

    assert 1 == len(removing.decide(rows))
    for decision in adding:
        if recalled:
            with pytest.raises(NoSuchMessage):
                decision.decide(rows)
        else:
            assert 1 == len(decision.decide(rows))


def test_what_takes_a_message_away_unpins_it() -> None:
    pinned: dict[Any, Any] = {("pins", (G, 3)): Pinned(4, 7, 4), ("pin_counts", (G,)): None}

    assert ["message_unpinned"] == [one.type for one in reacting.unpins(pinned, G, 3, 7)]
    assert [] == reacting.unpins({("pins", (G, 3)): None}, G, 3, 7)


# 20,000 people react to one message with five signs; 5,000 messages have a reaction.
MANY = """
INSERT INTO reactions (room, seq, reaction, mid, position, time_ms)
SELECT 'group://1', 1, 'r' || n % 5, n, n, n FROM generate_series(1, 20000) n
UNION ALL SELECT 'group://1', n, 'r1', 1, 20000 + n, n FROM generate_series(2, 5000) n
"""
MANY_COUNTS = """
INSERT INTO reaction_counts (room, seq, reactions, counts)
SELECT room, seq, array_agg(DISTINCT reaction), array_agg(DISTINCT 1::bigint) FROM reactions GROUP BY room, seq
"""


async def test_what_a_page_shows_is_looked_up_however_many_react(api: Place) -> None:
    await api.pool.execute(MANY)
    await api.pool.execute(MANY_COUNTS)
    await api.pool.execute("VACUUM ANALYZE reactions, reaction_counts")
    page = list(range(1, 101))

    rows = await api.pool.fetch(f"EXPLAIN {reads.REACTIONS_OF}", G, page, 7)
    plan = "\n".join(row[0] for row in rows)
    assert "reactions_pkey" in plan
    assert "reaction_counts_pkey" in plan
    assert "Seq Scan on reactions" not in plan
    rows = await api.pool.fetch(f"EXPLAIN {PAGE}", G, 1, 5_000, None, 101, 7)
    assert "reactions_room_seq_position_idx" in "\n".join(row[0] for row in rows)


async def test_what_only_the_platform_allows_is_audited(api: Place) -> None:
    """A moderator who is not in the room may pin there, and react nowhere."""
    await api.room(G, 7)
    (seq,) = await said(api, 7)
    moderator = Actor(99, "moderator")

    events = await api.log.decide(reacting.Pin(G, seq, moderator, adds=True))

    assert ["message_pinned", "admin_acted"] == [event.type for event in events]
    with pytest.raises(NoSuchRoom):
        await api.log.decide(reacting.React(G, seq, UP, moderator, adds=True))


async def test_a_page_of_messages_shows_their_reactions(api: Place) -> None:
    await api.room(G, 7, 8)
    first, second = await said(api, 7, 8)
    await react(api, 8, first, HEART)
    await react(api, 7, first, HEART)

    events = (await api.get(f"{ROOM}/messages", mid=8)).json["events"]
    shown = {event["seq"]: event.get("reactions") for event in events if event["type"] == "message_sent"}
    assert {first: [{"reaction": HEART, "count": 2, "mine": True}], second: None} == shown
    one = (await api.get(f"{ROOM}/messages/{first}", mid=9 - 1)).json
    assert [{"reaction": HEART, "count": 2, "mine": True}] == one["reactions"]


async def test_a_recall_takes_reactions_and_pin_with_it(api: Place) -> None:
    await api.room(G, 7, 8)
    (seq,) = await said(api, 7)
    await react(api, 8, seq, HEART)
    await api.put(f"{ROOM}/pins/{seq}")

    assert 200 == (await api.delete(f"{ROOM}/messages/{seq}", mid=7)).status

    assert [] == (await api.get(f"{ROOM}/pins", mid=7)).json["pins"]
    assert "reactions" not in (await api.get(f"{ROOM}/messages/{seq}", mid=7)).json
    for refused in (await react(api, 7, seq), await api.put(f"{ROOM}/pins/{seq}")):
        assert (404, "no_such_message") == (refused.status, refused.code)
    assert 200 == (await react(api, 8, seq, HEART, "DELETE")).status
    await Rows("", api.pool, api.log, api.reads.reader).assert_rows_are_the_fold(*INLINE)
