"""A server that wants tokens: what is none, what is of somebody else, and what one of them does not allow."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from badinput.conftest import Place, attacked
from badinput.wire import (
    AUTH,
    CHANGE_ROOM,
    FORMS,
    JOIN,
    SEND,
    SUBSCRIBE,
    TALKATIVE,
    TCP2,
    UNSUBSCRIBE,
    WS,
    Form,
    assert_closed,
    dialled,
    message,
)
from imcore.auth import SigningKey, load_or_create_keys, mint

pytestmark = pytest.mark.asyncio(loop_scope="package")
forms = pytest.mark.parametrize("form", FORMS, ids=str)
both = pytest.mark.parametrize("form", [TCP2, WS], ids=str)


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def guarded(cluster: Path) -> AsyncIterator[Place]:
    """It believes only what its own key has signed."""
    async with attacked(cluster, "--set", "auth_mode=jwt", witnesses=False) as place:
        yield place
        place.assert_no_complaints()


def signed(place: Place, *, key: SigningKey | None = None, expires_in_s: float = 60, **claims: object) -> str:
    """A token for person 7."""
    return mint(
        key or load_or_create_keys(place.data),
        now=time.time(),
        expires_in_s=expires_in_s,
        mid=7,
        **claims,  # type: ignore[arg-type]
    )


def bad_tokens(place: Place) -> dict[str, str]:
    """By what is wrong with them."""
    good = signed(place)
    head, claims, signature = good.split(".")

    def encoded(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return {
        "none": "",
        "junk": "x",
        "dots": "..",
        "SQL": "' OR 1=1 --",
        "no signature": f"{head}.{claims}.",
        "alg none": f"{encoded({'alg': 'none'})}.{claims}.",
        "alg HS256 under the same kid": f"{encoded({'alg': 'HS256', 'kid': 'x'})}.{claims}.{signature}",
        "another kid": f"{encoded({'alg': 'EdDSA', 'kid': '../../etc/passwd'})}.{claims}.{signature}",
        "a header that is a list": f"{encoded([])}.{claims}.{signature}",
        "a header that is deep": f"{encoded({'a': [[[[]]]], 'kid': {'x': 1}, 'alg': []})}.{claims}.{signature}",
        "other claims": f"{head}.{encoded({'sub': '1', 'iat': 0, 'exp': 2**40})}.{signature}",
        "a signature cut": good[:-4],
        "letters beyond ASCII": f"{head}.{claims}.é",
        "another key": signed(place, key=SigningKey("other", "HS256", b"a secret that the server does not know")),
        "expired": signed(place, expires_in_s=-3_600),
        "as long as a token may be": "a" * 4_096,
    }


@forms
async def test_what_is_no_token_is_refused(guarded: Place, form: Form) -> None:
    """The answer never repeats it."""
    for name, token in bad_tokens(guarded).items():
        async with dialled(guarded.where, form) as line:
            line.say(AUTH, 1, {"token": token, "mid": 7})
            fate = await assert_closed(line, "unauthenticated")
            told = ["unauthenticated"] if form in TALKATIVE else []
            assert told == [packet.code for packet in fate.packets], name
            assert [] == [packet for packet in fate.packets if len(token) > 5 and token.encode() in packet.body]


@both
async def test_nobody_is_who_the_token_does_not_say(guarded: Place, form: Form) -> None:
    async with dialled(guarded.where, form) as line:
        line.say(AUTH, 1, {"token": signed(guarded), "mid": 8})

        await assert_closed(line, "unauthenticated")


@both
async def test_a_service_opens_no_connection(guarded: Place, form: Form) -> None:
    token = mint(load_or_create_keys(guarded.data), now=time.time(), expires_in_s=60, service="backend")
    async with dialled(guarded.where, form) as line:
        line.say(AUTH, 1, {"token": token})

        await assert_closed(line, "unauthenticated")


@both
async def test_a_token_for_some_operations_is_for_no_others(guarded: Place, form: Form) -> None:
    """Not by the auth, not by a send, and not by a subscription later."""
    token, room = signed(guarded, ops=[1000, 1001]), guarded.new_room("live")
    async with dialled(guarded.where, form) as line:
        line.say(AUTH, 1, {"token": token, "accepts": [1000, 1002]})
        assert ["forbidden"] == [reply.code for reply in await line.replies(1)]
    async with dialled(guarded.where, form) as line:
        assert not (await line.ask(AUTH, {"token": token, "accepts": [1000], "room_id": room})).code
        assert not (await line.ask(SUBSCRIBE, [1001])).code
        assert "forbidden" == (await line.ask(SUBSCRIBE, [1001, 1002])).code
        assert not (await line.ask(UNSUBSCRIBE, [1002])).code
        assert not (await line.ask(SEND, message(room, op=1001))).code
        assert "forbidden" == (await line.ask(SEND, message(room, op=1002))).code


@both
async def test_a_token_for_some_rooms_is_for_no_others(guarded: Place, form: Form) -> None:
    token = signed(guarded, rooms=["live://mine"])
    for rooms in ({"room_id": "live://other"}, {"rooms": ["live://mine", "live://other"]}):
        async with dialled(guarded.where, form) as line:
            line.say(AUTH, 1, {"token": token, **rooms})
            assert ["forbidden"] == [reply.code for reply in await line.replies(1)]
    async with dialled(guarded.where, form) as line:
        assert not (await line.ask(AUTH, {"token": token, "room_id": "live://mine"})).code
        for room in ("live://other", "live://mine2", "live://*", "group://mine"):
            assert "no_such_room" == (await line.ask(JOIN, {"room": room})).code
            assert "no_such_room" == (await line.ask(CHANGE_ROOM, room)).code
            assert "no_such_room" == (await line.ask(SEND, message(room))).code
