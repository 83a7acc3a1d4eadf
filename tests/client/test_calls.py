"""Calling verbs: what is repeated and what is not, how many are under way, and both carriers against a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from math import inf, nan

import orjson
import pytest
from aiohttp import web

from client.lines import QUICK, WAYS, Way, address, proxy, so, url
from client.test_core import ROOM, Talk
from imcore.client import (
    CallTimeout,
    Forbidden,
    Http,
    Limits,
    NoSuchRoom,
    Presence,
    Unauthenticated,
    Unavailable,
    UnknownOperation,
    connect,
    pages,
)
from imcore.client.calls import Verb, to_json
from imcore.client.core import READS_MAX, Answered
from imcore.client.verbs import Server as TheServer
from imcore.protocol.packet import Op
from system.servers import Backend, Server
from waiting import eventually

# --- the core ---


def call(talk: Talk, name: str, **rest: object) -> object:
    """As the client asks it."""
    return talk.core.ask(Op.CALL, {"verb": name, "args": {}}, **rest)  # type: ignore[arg-type]


def outcomes(steps: list[object]) -> list[tuple[object, str]]:
    """Bodies, and the codes of errors."""
    return [(one.body, one.error.code if one.error else "") for one in steps if isinstance(one, Answered)]


@dataclass
class Reading:
    """What a program may send as it is."""

    celsius: float | None


class Known(Enum):
    NOTHING = nan


@pytest.mark.parametrize(
    "value", [nan, [None, (-inf,)], {"a": [nan]}, [Reading(nan)], {"a": Reading(inf)}, Known.NOTHING]
)
def test_no_number_arrives_as_null(value: object) -> None:
    with pytest.raises(TypeError, match="finite"):
        to_json(value)
    assert b'[null,{"celsius":null},{"celsius":-1.5}]' == to_json([None, Reading(None), Reading(-1.5)])


def test_what_may_not_be_repeated_ends_with_its_connection_and_the_rest_is_asked_again() -> None:
    talk = Talk()
    call(talk, "make", may_repeat=False)
    call(talk, "list")
    talk.requests()
    call(talk, "not written yet", may_repeat=False)

    lost = talk.core.lost()
    talk.connect()

    assert [(None, "unavailable")] == outcomes([*lost])
    assert ["not written yet", "list"] == [body["verb"] for _, _, body in talk.requests()]


@pytest.mark.parametrize(
    ("code", "may_repeat", "is_asked_again"),
    [
        ("rate_limited", False, True),
        ("overloaded", False, True),
        ("unavailable", True, True),
        ("unavailable", False, False),
        ("under_way", True, True),
        ("conflict", True, False),
        ("internal", True, False),
        ("forbidden", True, False),
    ],
)
def test_later_is_heeded_where_nothing_was_done_or_twice_does_no_harm(
    code: str, may_repeat: bool, is_asked_again: bool
) -> None:
    talk = Talk()
    call(talk, "make", may_repeat=may_repeat)
    ((_, seq, _),) = talk.requests()
    error = {"code": code, "text": "", "retry": code != "forbidden", "retry_after_ms": 300}

    told = talk.tell(Op.CALL_REPLY, seq, {"error": error})
    talk.now = 0.29
    assert [] == talk.requests()
    talk.now = 0.3

    assert ([] if is_asked_again else [(None, code)]) == [(None, one) for _, one in outcomes([*told])]
    assert int(is_asked_again) == len(talk.requests())


def test_no_more_are_under_way_than_a_server_takes() -> None:
    """Histories count too; heartbeats and sends do not wait for them, and nothing is due while all places are taken."""
    talk = Talk()
    for n in range(READS_MAX):
        call(talk, f"{n}")
    talk.core.ask(Op.HISTORY, {"room": ROOM})
    call(talk, "last")
    first = talk.requests()
    assert [f"{n}" for n in range(READS_MAX)] == [body["verb"] for _, _, body in first]
    assert None is talk.core.due()

    talk.core.heartbeat()
    assert [Op.HEARTBEAT] == [op for op, _, _ in talk.requests()]
    talk.tell(Op.CALL_REPLY, first[3][1], {"answer": {}})
    assert [Op.HISTORY] == [op for op, _, _ in talk.requests()]
    talk.tell(Op.CALL_REPLY, first[0][1], {"answer": {}})
    assert ["last"] == [body["verb"] for _, _, body in talk.requests()]


def test_a_new_connection_has_all_places_free() -> None:
    talk = Talk()
    for n in range(READS_MAX * 2):
        call(talk, f"{n}", may_repeat=n % 2 == 0)
    talk.requests()
    talk.break_off()

    assert READS_MAX == len(talk.requests())


def test_a_message_sent_by_a_call_is_no_hole() -> None:
    """It is not echoed, as no send is. Told of its seq in time, nobody need look into the history."""
    talk = Talk()
    talk.say(1)
    call(talk, "messages.send", room=ROOM)
    ((_, seq, _),) = talk.requests()
    talk.say(3)
    assert [] == talk.requests(), "the answer may be on its way"
    talk.tell(Op.CALL_REPLY, seq, {"answer": {"position": 102, "seq": 2}})

    assert [] == talk.requests()
    assert ["1", "3"] == [one.body for one in talk.taken() if one is not None]  # type: ignore[union-attr]
    assert 0 == talk.core.counts.gaps


def test_who_was_watched_is_watched_again_and_what_changed_meanwhile_is_told() -> None:
    talk = Talk()
    talk.core.watched([{"mid": mid, "platforms": ["web"]} for mid in (1, 2, 3)])
    here = {"mid": 3, "type": "presence", "position": 0, "op": 0, "body": {"online": False, "platforms": []}}
    talk.say(0, "user:3", **here)
    talk.core.unwatched([2])
    talk.break_off()
    ((op, seq, body),) = talk.requests()
    assert not talk.core.awaits, "it is nobody's question"
    people = [{"mid": 1, "online": True, "platforms": ["ios", "web"]}, {"mid": 3, "online": False, "platforms": []}]
    assert [] == talk.tell(Op.CALL_REPLY, seq, {"answer": {"people": people}})

    assert (Op.CALL, {"verb": "presence.watch", "args": {"mids": [1, 3]}}) == (op, body)
    assert [(3, []), (1, ["ios", "web"])] == [
        (one.mid, one.platforms) for one in talk.taken() if isinstance(one, Presence)
    ]
    talk.core.unwatched([])
    talk.break_off()
    assert [] == talk.requests()


def test_many_are_watched_again_in_questions_that_are_packets() -> None:
    talk = Talk()
    talk.core.watched([{"mid": 2**62 + mid, "platforms": []} for mid in range(5_000)])
    talk.break_off()
    asked = talk.requests()
    assert [2_000, 2_000, 1_000] == [len(body["args"]["mids"]) for _, _, body in asked]
    assert max(len(orjson.dumps(body)) for _, _, body in asked) < 65_000
    talk.core.lost()  # the questions end with their connection, and the next has its own
    talk.connect()
    assert 3 == len(talk.requests())


# --- over a connection ---


@pytest.mark.parametrize("way", WAYS)
async def test_a_verb_is_a_method_and_a_call_by_name_is_the_same(server: Server, way: Way) -> None:
    async with connect(url(server, way), mid=server.new_mid(), limits=QUICK) as im:
        shown = await im.server.show()
        told = await im.call("server.show")

    assert isinstance(shown, TheServer)
    assert ("imcore", "open", 500) == (shown.name, shown.auth_mode, shown.limits.page_rows)
    assert (told["version"], told["limits"]["page_rows"]) == (shown.version, 500)


async def test_what_is_refused_is_raised(server: Server) -> None:
    async with connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as im:
        with pytest.raises(UnknownOperation, match=r"no verb 'no\.such'"):
            await im.call("no.such")
        with pytest.raises(UnknownOperation, match="HTTP only"):
            await im.perform(Verb("files.keep", doors=("http",)), {})
        with pytest.raises(UnknownOperation, match="HTTP only"):
            im.download(Verb("files.show", "GET"), {})
        with pytest.raises(TypeError):
            await im.call("server.show", {"no": object()})


async def test_many_calls_at_once_are_all_answered(server: Server) -> None:
    """More than the server takes of a connection, and more than the client keeps under way."""
    limits = Limits(calls_max=20)
    async with connect(url(server, "tcp"), mid=server.new_mid(), limits=limits) as im:
        answers = await asyncio.gather(*(im.server.show() for _ in range(200)))

    assert {"imcore"} == {one.name for one in answers}
    assert 0 == im.statistics.refused_for_now


@pytest.mark.parametrize("may_repeat", [True, False])
async def test_a_call_whose_answer_is_lost_is_repeated_or_of_unknown_outcome(server: Server, may_repeat: bool) -> None:
    async with proxy(server.ws) as between:
        async with connect(address("ws", between.address), mid=server.new_mid(), limits=QUICK) as im:
            between.mode = "one way"
            calling = asyncio.create_task(im.call("server.show", retry=may_repeat))
            await eventually(lambda: so(im._core.awaits_answer))
            between.cut()
            between.mode = "open"
            if may_repeat:
                assert "imcore" == (await calling)["name"]
            else:
                with pytest.raises(Unavailable, match="not known"):
                    await calling
                assert "imcore" == (await im.server.show()).name


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_no_good_twice_happens_once_over_a_connection_that_breaks(server: Server, way: Way) -> None:
    """To make a room again is an error; that it was made is what the repeated call is told."""
    mid, room = server.new_mid(), server.new_room()
    async with (
        Http(f"http://{server.http}", mid=mid) as http,
        proxy(server.tcp if way == "tcp" else server.ws) as between,
        connect(address(way, between.address), mid=mid, limits=QUICK) as im,
    ):
        await im.server.show()
        between.mode = "one way"
        making = asyncio.create_task(im.rooms.create(room, title="t"))
        shown = await eventually(lambda: http.rooms.show(room))  # it was made, and nobody was told
        between.cut()
        between.mode = "open"
        made = await making

    assert (room, "t") == (made.room, shown.title)


async def test_a_caller_may_say_that_it_is_never_asked_again(server: Server) -> None:
    async with proxy(server.ws) as between:
        async with connect(address("ws", between.address), mid=server.new_mid(), limits=QUICK) as im:
            await im.server.show()
            between.mode = "one way"
            making = asyncio.create_task(im.call("rooms.create", {"room": server.new_room()}, retry=False))
            await eventually(lambda: so(im._core.awaits_answer))
            between.cut()
            between.mode = "open"
            with pytest.raises(Unavailable, match="not known"):
                await making


async def test_a_call_without_an_answer_in_time_says_so(server: Server) -> None:
    async with proxy(server.tcp) as between:
        async with connect(address("tcp", between.address), mid=server.new_mid(), limits=QUICK) as im:
            between.mode = "silent"
            with pytest.raises(CallTimeout, match=r"server\.show within 0\.2 s"):
                await im.call("server.show", timeout_s=0.2)
            between.cut()


async def test_lists_come_page_by_page(server: Server, api: Backend) -> None:
    room = server.new_room()
    mids = [server.new_mid() for _ in range(5)]
    await api.create(room, *mids)
    async with connect(url(server, "ws"), mid=mids[0], limits=QUICK) as im:
        found = [[one.mid for one in page.members] async for page in pages(im.rooms.members, room, limit=2)]
    assert [mids[:2], mids[2:4], mids[4:]] == found


# --- over HTTP ---

PROBE = Verb("probe.make", "POST", "/v1/probe/{room}", ("http",))
LIST = Verb("probe.list", "GET", "/v1/probe/{room}")
KEEP = Verb("probe.keep", "POST", "/v1/files", ("http",), takes="*/*")
FETCH = Verb("probe.fetch", "GET", "/v1/files/{name}", ("http",), gives="*/*")


def problem(status: int, code: str, *, retry: bool = True, **headers: str) -> web.Response:
    """As the server says it."""
    body = {"type": "", "title": "", "status": status, "code": code, "retry": retry, "detail": f"{code}!"}
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/problem+json",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )  # fmt: skip


class Script:
    """An HTTP server that answers as it was told to, one after the other, and keeps what it was asked."""

    def __init__(self, *answers: web.StreamResponse | None) -> None:
        self._answers: Iterator[web.StreamResponse | None] = iter(answers)
        self.asked: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.bodies.append(await request.read())
        answer = next(self._answers, None) or web.json_response({"n": len(self.asked)})
        if answer.status == 444:  # hangs up
            assert request.transport is not None
            request.transport.abort()
        return answer


@asynccontextmanager
async def scripted(*answers: web.StreamResponse | None) -> AsyncIterator[Script]:
    """Such a server while the block runs."""
    script = Script(*answers)
    runner = web.ServerRunner(web.Server(script.handle))  # type: ignore[arg-type]
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        script.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield script
    finally:
        await runner.cleanup()


async def test_the_same_verbs_over_http(server: Server) -> None:
    async with Http(f"http://{server.http}", mid=server.new_mid()) as http:
        shown = await http.server.show()
        assert shown.version == (await http.call("server.show"))["version"]
        with pytest.raises(UnknownOperation):
            await http.call("no.such")
        with pytest.raises(UnknownOperation, match="connection only"):
            await http.perform(Verb("rooms.typing", doors=("connection",)), {})
        with pytest.raises(NoSuchRoom) as caught:
            await http.perform(Verb("x", "GET", "/v1/rooms/{room}"), {"room": "group://no-such"})
    assert ("no_such_room", False) == (caught.value.code, caught.value.retry)


async def test_a_call_over_http_is_tried_again_with_one_key() -> None:
    """A busy server, a proxy that has none behind it, a line that breaks: asked again, and recognised as the same."""
    busy = problem(503, "unavailable"), web.Response(status=502, text="<html>"), web.Response(status=444)
    async with scripted(*busy) as script, Http(script.url) as http:
        answer = await http.perform(PROBE, {"room": "group://r", "title": "t"})
        await http.perform(PROBE, {"room": "group://r"})
        await http.perform(LIST, {"room": "group://r"})

    assert {"n": 4} == answer
    keys = [one.headers.get("Idempotency-Key") for one in script.asked]
    assert 1 == len(set(keys[:4]))
    assert 2 == len(set(keys[:5]))
    assert None is keys[5], "what reads needs none"
    assert [b'{"title":"t"}'] * 4 == script.bodies[:4]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(403, "forbidden", retry=False), Forbidden),
        (problem(409, "conflict"), None),
        (problem(500, "internal"), None),
        (web.Response(status=404, text="<html>"), None),
    ],
)
async def test_what_will_not_get_better_is_raised_at_once(answer: web.Response, kind: type[Exception] | None) -> None:
    async with scripted(answer) as script, Http(script.url) as http:
        with pytest.raises(kind or Exception) as caught:
            await http.perform(PROBE, {"room": "group://r"})

    assert 1 == len(script.asked)
    assert kind is None or "forbidden!" in str(caught.value)


async def test_it_waits_as_long_as_it_is_told() -> None:
    began = time.monotonic()
    async with scripted(problem(429, "rate_limited", Retry_After="1")) as script, Http(script.url) as http:
        await http.perform(LIST, {"room": "group://r"})
    assert 1.0 <= time.monotonic() - began


async def test_what_the_server_keeps_no_answer_of_is_not_repeated_blindly() -> None:
    """Registering again would find the name taken, and refreshing again would end the login."""
    refresh = Verb("accounts.refresh", "POST", "/v1/refresh", is_open=True)
    answers = problem(429, "rate_limited", Retry_After="0"), web.Response(status=444), problem(503, "unavailable")
    async with scripted(*answers) as script, Http(script.url) as http:
        with pytest.raises(Unavailable):
            await http.perform(refresh, {})
        with pytest.raises(Unavailable):
            await http.perform(refresh, {})
    assert [None] * 3 == [one.headers.get("Idempotency-Key") for one in script.asked]


async def test_a_deadline_ends_the_tries() -> None:
    async with scripted(problem(429, "rate_limited", Retry_After="60")) as script, Http(script.url) as http:
        for timeout_s in (0.2, 2, 20):  # long enough for the first try
            with pytest.raises(CallTimeout):
                await http.call("server.show", timeout_s=timeout_s)
            if script.asked:
                break
    assert 1 == len(script.asked)


async def test_a_refused_token_is_replaced_once() -> None:
    given = iter(["old", "new", "newer"])

    async def token() -> str:
        return next(given)

    async with scripted(problem(401, "unauthenticated", retry=False)) as script, Http(script.url, token=token) as http:
        await http.perform(LIST, {"room": "group://r"})
    assert ["Bearer old", "Bearer new"] == [one.headers["Authorization"] for one in script.asked]

    refusals = [problem(401, "unauthenticated", retry=False) for _ in range(2)]
    given = iter(["old", "new", "newer"])
    async with scripted(*refusals) as script, Http(script.url, token=token) as http:
        with pytest.raises(Unauthenticated):
            await http.perform(LIST, {"room": "group://r"})
    assert 2 == len(script.asked)


async def test_files_go_up_and_come_down() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for n in range(3):
            yield bytes([n]) * 1_000

    down = web.Response(
        body=b"x" * 200_000,
        content_type="image/png",
        headers={"Content-Disposition": "attachment; filename*=UTF-8''a%20b.png"},
    )
    first, second = problem(503, "overloaded"), problem(503, "overloaded")
    async with scripted(None, first, None, second, down) as script, Http(script.url) as http:
        await http.upload(KEEP, {"name": "a b"}, chunks(), "image/png")
        await http.upload(KEEP, {}, b"again", "text/plain")
        with pytest.raises(Exception, match="overloaded"):  # an iterator is read once only
            await http.upload(KEEP, {}, chunks(), "image/png")
        async with http.download(FETCH, {"name": "a/b"}) as file:
            pieces = [piece async for piece in file]
        async with http.follow("/v1/files/x?signature=a%2Fb") as linked:
            assert b'{"n": 6}' == await linked.read()

    assert [
        "/v1/files?name=a%20b",
        "/v1/files",
        "/v1/files",
        "/v1/files",
        "/v1/files/a%2Fb",
        "/v1/files/x?signature=a%2Fb",
    ] == [one.raw_path for one in script.asked]
    assert [3_000, 5, 5, 3_000, 0, 0] == [len(body) for body in script.bodies]
    assert ("image/png", "image/png") == (script.asked[0].content_type, file.media_type)
    assert (200_000, "a b.png", 200_000) == (file.size, file.name, sum(map(len, pieces)))


async def test_what_is_no_address_and_what_is_not_open_is_told() -> None:
    with pytest.raises(ValueError, match="ws://"):
        Http("ws://host")
    with pytest.raises(RuntimeError):
        await Http("http://127.0.0.1:1").perform(LIST, {"room": "group://r"})


async def test_a_call_whose_answer_is_lost_is_answered_again_and_not_done_again(server: Server, api: Backend) -> None:
    """The line breaks behind the request. The next try gets the first answer, and not that there is such a room."""
    room, mid = server.new_room(), server.new_mid()

    async def is_there() -> bool:
        async with Http(f"http://{server.http}", mid=mid) as direct:
            try:
                return (await direct.rooms.show(room)).room == room
            except NoSuchRoom:
                return False

    async with proxy(server.http) as between, Http(f"http://{between.address}", mid=mid) as http:
        await http.server.show()
        between.mode = "one way"
        making = asyncio.create_task(http.rooms.create(room))
        await eventually(is_there)
        between.cut()
        between.mode = "open"
        assert room == (await making).room
