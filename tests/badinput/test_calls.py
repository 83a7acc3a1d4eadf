"""Verbs by name over a connection: whatever is asked for wrongly is told so, and costs the connection nothing."""

from __future__ import annotations

import pytest

from badinput.conftest import Place
from badinput.wire import FORMS, Form, connected

pytestmark = pytest.mark.asyncio(loop_scope="package")
CALL = 38
NO_KEY = "idempotency_key is not 1 to 128 printable characters of ASCII"


@pytest.mark.parametrize("form", FORMS, ids=str)
async def test_a_verb_answers_over_every_form(place: Place, form: Form) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        reply = await line.ask(CALL, {"verb": "server.show"})
        assert (CALL + 1, "imcore") == (reply.op, reply.json["answer"]["name"])


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({}, "bad_request", "verb is missing"),
        ({"verb": 7}, "bad_request", "verb is 7, not a string"),
        ({"verb": "x" * 65}, "bad_request", "verb is longer than 64 bytes"),
        ({"verb": "server.show", "args": []}, "bad_request", "args is a list, not an object"),
        ({"verb": "server.show", "args": {"a": 1}}, "bad_request", "a: extra inputs are not permitted"),
        ({"verb": "server.show", "idempotency_key": 7}, "bad_request", "idempotency_key is 7, not a string"),
        ({"verb": "server.show", "idempotency_key": ["k"]}, "bad_request", "idempotency_key is a list, not a string"),
        *(
            ({"verb": "server.show", "idempotency_key": key}, "bad_request", NO_KEY)
            for key in ("", "x" * 129, "a b", "ä", 'a"b', "a\\b", "a\n")
        ),
        ({"verb": "no.such"}, "unknown_op", "there is no verb 'no.such' for connections"),
        ({"verb": "\u001b[2J"}, "unknown_op", "there is no verb '\\x1b[2J' for connections"),
    ],
)
@pytest.mark.parametrize("form", FORMS, ids=str)
async def test_what_is_asked_for_wrongly_is_told_so(
    place: Place, form: Form, body: object, code: str, said: str
) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        refused = await line.ask(CALL, body)
        assert (CALL + 1, code, said) == (refused.op, refused.code, refused.json["error"]["text"])
        assert CALL + 1 == (await line.ask(CALL, {"verb": "server.show", "args": None})).op


@pytest.mark.parametrize(
    "args",
    [
        {}, {"q": ""}, {"q": 7}, {"q": ["a"]}, {"q": "a" * 257}, {"q": "a" * 10_000}, {"q": "a\nb"}, {"q": "a", "limit": True},
        {"q": "a", "limit": 1.0}, {"q": "a", "limit": "5"}, {"q": "a", "before": 0},
        {"q": "a", "by": None, "room": "r"}, {"q": "&|!:*"},
        {"q": "a", "mid": 7},
    ],
)  # fmt: skip
async def test_a_search_that_cannot_be_is_told_so(place: Place, args: object) -> None:
    async with connected(place.where, FORMS[-1], place.new_mid()) as line:
        refused = await line.ask(CALL, {"verb": "messages.search", "args": args})
        assert (CALL + 1, "bad_request") == (refused.op, refused.code)


@pytest.mark.parametrize(
    "q", ["' OR 1=1 --", "a & b | !c <-> d:*", "100%_", "\u202e\u200d", "$$", '"', "中文", "é" * 256]
)
async def test_a_search_for_anything_is_answered(place: Place, q: str) -> None:
    async with connected(place.where, FORMS[-1], place.new_mid()) as line:
        reply = await line.ask(CALL, {"verb": "messages.search", "args": {"q": q}})
        assert (CALL + 1, True) == (reply.op, "answer" in reply.json or reply.code == "bad_request")


async def test_reactions_and_pins_are_asked_for_over_a_connection(place: Place) -> None:
    async with connected(place.where, FORMS[-1], place.new_mid()) as line:
        asked = {"room": "group://nowhere", "seq": 1}
        for verb, args in (
            ("reactions.add", {**asked, "reaction": "👍"}),
            ("reactions.list", asked),
            ("pins.add", asked),
            ("receipts.list", asked),
        ):
            assert "no_such_room" == (await line.ask(CALL, {"verb": verb, "args": args})).code
        for reaction in ("", "a b", "\u200d", "x" * 33, 7):
            told = await line.ask(CALL, {"verb": "reactions.add", "args": {**asked, "reaction": reaction}})
            assert "bad_request" == told.code
