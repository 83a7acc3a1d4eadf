"""Events as a program gets them: each of the class of its type, with what it says as attributes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

import imcore.client
from client.lines import QUICK, url
from client.test_verbs import WRITER
from imcore.client import (
    Event,
    MemberJoined,
    MemberRemoved,
    Message,
    MessageEdited,
    Presence,
    ReactionAdded,
    ReadMarked,
    Receipt,
    Signal,
    Typing,
    connect,
    facts,
)
from imcore.client.envelope import from_envelope
from imcore.events.types import FACTS, Fact, Int64
from system.servers import Backend, Server

ROOM = "group://r"
SOURCE = Path(facts.__file__)


def event(type_: str, body: object, **more: Any) -> Event:
    """As it comes from the wire."""
    where = {} if "stream" in more else {"room": ROOM}
    return from_envelope(
        {"position": 9, "seq": 3, "mid": 5, "key": "", "time": 0, "type": type_, "body": body, **where, **more}
    )


def test_the_module_is_the_servers_facts() -> None:
    """If this fails: PYTHONPATH=. .venv/bin/python scripts/write-client"""
    assert WRITER["facts"]() == SOURCE.read_text()


@pytest.mark.parametrize(
    "kind", [kind for kind in FACTS if kind.type not in WRITER["UNTOLD"]], ids=lambda kind: kind.type
)
def test_each_fact_has_a_class_of_its_name_that_says_what_it_says(kind: type[Fact]) -> None:
    made = kind.model_construct(**{name: field.get_default() for name, field in kind.model_fields.items()})
    body = {name: f"<{name}>" for name in made.__class__.model_fields}

    told = event(kind.type, body)

    assert type(told).__name__ == kind.__name__
    assert type(told) is getattr(imcore.client, kind.__name__)
    for name in body.keys() - {"format"}:
        assert f"<{name}>" == getattr(told, WRITER["RENAMED"].get(name, name))


def test_what_an_event_is_about_is_matched_by_attributes() -> None:
    match event("reaction_added", {"room": ROOM, "target": 2, "reaction": "+1"}):
        case ReactionAdded(room="group://r", mid=who, target=2, reaction=reaction):
            assert (5, "+1") == (who, reaction)
        case other:
            pytest.fail(f"{other}")
    marked = event("read_marked", {"room": ROOM, "mid": 5, "seq": 8, "messages": 4, "sent": 1}, stream="user:5")
    assert isinstance(marked, ReadMarked)
    assert (5, 8, None, ROOM) == (marked.whom, marked.upto, marked.room, marked.in_room)


@pytest.mark.parametrize(
    ("body", "format_", "words"),
    [({"a": 1}, "json", {"a": 1}), ("plain", "text", "plain"), (base64.b64encode(b"\xff").decode(), "base64", b"\xff")],
)
def test_edited_words_are_as_they_were_meant(
    body: object, format_: Literal["json", "text", "base64"], words: object
) -> None:
    edited = event("message_edited", {"room": ROOM, "target": 2, "body": body, "format": format_})
    assert isinstance(edited, MessageEdited)
    assert (2, words) == (edited.target, edited.words)


def test_what_is_left_out_reads_as_the_server_means_it() -> None:
    joined = event("member_joined", {"room": ROOM, "mid": 5})
    assert isinstance(joined, MemberJoined)
    assert "member" == joined.role


def test_what_is_never_stored_has_classes_too() -> None:
    signals = {"position": 0, "seq": 0}
    here = event("presence", {"online": True, "platforms": ["web"]}, stream="user:5", **signals)
    typing = event("typing", {"typing": False}, **signals)
    signal = event("signal:cursor", {"line": 7}, **signals)
    receipt = event("receipt", {"room": ROOM, "mid": 5, "seq": 12}, **signals)

    assert isinstance(here, Presence)
    assert (5, True, ["web"]) == (here.mid, here.online, here.platforms)
    assert isinstance(typing, Typing)
    assert (ROOM, False) == (typing.room, typing.typing)
    assert isinstance(receipt, Receipt)
    assert (ROOM, 5, 12) == (receipt.room, receipt.whom, receipt.upto)
    assert isinstance(signal, Signal)
    assert ("cursor", {"line": 7}) == (signal.name, signal.body)


def test_what_is_not_known_is_an_event_all_the_same() -> None:
    told = event("room_painted", {"colour": "red"})
    assert (Event, "room_painted", {"colour": "red"}) == (type(told), told.type, told.body)
    assert type(event("message_sent", 1, op=1000)) is Message


def test_a_fact_may_hold_anything_that_json_can() -> None:
    """Facts to come: names that an event has already, models within, lists, and what may be missing."""

    class Part(BaseModel):
        name: str

    class RoomPainted(Fact):
        """`mid` painted it, with `key`."""

        type = "room_painted"
        mid: Int64
        key: str
        position: int
        parts: list[Part] = []
        by: Part | None = None
        choice: Literal["a", "b"] = "a"

    text = WRITER["facts"]((RoomPainted,))
    module: dict[str, Any] = {}
    exec(compile(text, "facts", "exec"), module)
    body = {"mid": 1, "key": "k", "position": 2}
    made = module["RoomPainted"](9, ROOM, f"room:{ROOM}", 3, 5, "", None, 0, "room_painted", 0, body)

    assert (1, "k", 2, (), None, "a") == (made.whom, made.device, made.position_, made.parts, made.by, made.choice)
    assert "`whom` painted it, with `device`." == made.__doc__


async def test_what_happens_in_a_room_comes_typed(server: Server, api: Backend) -> None:
    room = server.new_room()
    mid, other = server.new_mid(), server.new_mid()
    await api.create(room, mid)
    async with connect(url(server, "ws"), mid=mid, limits=QUICK) as im:
        await api.add(room, other)
        await api.kick(room, other)
        happened = []
        async for one in im.events():
            if isinstance(one, (MemberJoined, MemberRemoved)) and one.whom == other:
                happened.append(type(one))
            if len(happened) == 2:
                break
    assert [MemberJoined, MemberRemoved] == happened
