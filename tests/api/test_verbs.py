"""A request is read strictly, wherever an argument stands; and what every answer of a verb says in its head."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from urllib.parse import quote

import orjson
import pytest
import pytest_asyncio

from api.place import Place, bearer, serving
from api.probes import probes
from api.test_app import raw
from conftest import Server

ECHO = "/v1/probes/group/1/of/7"
JSON = {"Content-Type": "application/json"}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: Server, template: str) -> AsyncIterator[Place]:
    """The verbs of these tests, believing everybody. They leave nothing behind."""
    async with server.database(template) as url, serving(url, verbs=probes(), rate_limits=False) as place:
        yield place


async def on_the_line(
    api: Place, path: str, method: str = "GET", *headers: str, body: bytes = b""
) -> tuple[int, bytes]:
    """Status and body of what is asked for byte by byte; no library tidies the path."""
    lines = (f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", "")
    answer = await raw(api, "\r\n".join(lines).encode() + body)
    head, _, told = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), told


# --- the path ---


@pytest.mark.parametrize(
    "name",
    [
        ".", "..", "...", "a/b", "/", "//", "../..", "a/../b", "%2F", "%", "%2e%2e", "a?b", "a#b", "a+b", "a&b=c", ";",
        "a;b", ":", "://",
        "\\", "Ünï", "\u202e", "名", "😀", "'\"--", "{room}", "x" * 128, "*", "~", "é" * 64,
    ],
)  # fmt: skip
async def test_a_room_of_any_name_is_reached_by_its_escaped_name(api: Place, name: str) -> None:
    """Whatever a room is called: slashes and dots are names like others, as long as they are escaped or left alone on the way."""
    status, told = await on_the_line(api, f"/v1/probes/group/{quote(name, safe='')}/of/7")

    assert (200, f"group://{name}") == (status, orjson.loads(told)["room"])
    everything = "".join(f"%{byte:02x}" for byte in name.encode())
    status, told = await on_the_line(api, f"/v1/probes/group/{everything}/of/7")
    assert (200, f"group://{name}") == (status, orjson.loads(told)["room"])


@pytest.mark.parametrize("dots", [".", "..", "%2E", "%2e%2E", ".%2e"])
async def test_dots_are_a_name_and_lead_nowhere(api: Place, dots: str) -> None:
    """A server that resolved them would do in one room what a proxy before it allowed in another."""
    status, told = await on_the_line(api, f"/v1/probes/group/{dots}/of/7")
    assert (200, 2) == (status, orjson.loads(told)["room"].count("/"))
    for path in (
        f"/v1/probes/group/x/{dots}/1/of/7",
        f"/page/{dots}/v1/server",
        f"/{dots}/v1/server",
        f"/v1/{dots}/v1/server",
    ):
        assert 404 == (await on_the_line(api, path))[0], path


@pytest.mark.parametrize(
    "path",
    [
        "/v1/server/", "//v1/server", "/v1//server", "/v1/server//", "/V1/server", "/v1/Server", "/v1/server;x=1",
        "/v1/server%20",
        "/v1%2Fserver", "/v1/server%00", "/v1/probes/group//of/7", "/v1/probes//1/of/7", "/v1/probes/group/1/of/",
        "/v1/probes/group/1/of",
        "/v1/probes/group/1/of/7/", "/v1/probes/group/a/b/of/7", "/v1/server.json",
    ],
)  # fmt: skip
async def test_a_path_is_what_it_is_and_nothing_near_it(api: Place, path: str) -> None:
    status, told = await on_the_line(api, path)
    assert (404, "not_found") == (status, orjson.loads(told)["code"])


@pytest.mark.parametrize(
    "name",
    ["%", "%2", "%zz", "%ff", "%c0%af", "%ed%a0%80", "a%00b", "%0a", "a%20b", "%c2%85", "x" * 129, "%c3%a9" * 65],
)
async def test_what_is_no_name_is_refused(api: Place, name: str) -> None:
    status, told = await on_the_line(api, f"/v1/probes/group/{name}/of/7")
    assert (400, True) == (status, orjson.loads(told)["code"] in ("bad_request", "invalid_text"))


@pytest.mark.parametrize("kind", ["Group", "9", "%41", "a-b", "x" * 33, "gr%C3%BCn", "*", ".."])
async def test_what_is_no_type_is_refused(api: Place, kind: str) -> None:
    assert 400 == (await on_the_line(api, f"/v1/probes/{kind}/1/of/7"))[0]


@pytest.mark.parametrize(
    "mid",
    [
        "07",
        "+7",
        "-0",
        "7.0",
        "7e0",
        "0x7",
        "%37.",
        "7%20",
        "true",
        "9223372036854775808",
        "-9223372036854775809",
        "9" * 400,
        "٧",
    ],
)
async def test_a_number_in_the_path_is_digits(api: Place, mid: str) -> None:
    assert 400 == (await on_the_line(api, f"/v1/probes/group/1/of/{quote(mid, safe='%+')}"))[0]


async def test_the_least_and_the_greatest_number_come_as_they_are(api: Place) -> None:
    for mid in (-(2**63), 2**63 - 1):
        status, told = await on_the_line(api, f"/v1/probes/group/1/of/{mid}")
        assert (200, mid) == (status, orjson.loads(told)["mid"])


async def test_a_very_long_path_is_refused_before_anything_is_done(api: Place) -> None:
    for length in (20_000, 200_000):
        status, told = await on_the_line(api, "/v1/probes/group/" + "x" * length)
        assert (400, "bad_request") == (status, orjson.loads(told)["code"])
        assert len(told) < 300, "nothing of it is repeated"
    assert 404 == (await on_the_line(api, "/v1/" + "x" * 4_000))[0]


async def test_the_whole_address_on_the_line_is_the_same_request(api: Place) -> None:
    """RFC 9112, 3.2.2: a server takes the absolute form too. Its host is nothing that is believed."""
    status, told = await on_the_line(api, f"http://elsewhere.example{ECHO}?limit=3")
    assert (200, 3) == (status, orjson.loads(told)["limit"])


async def test_a_line_has_room_for_as_many_people_as_a_page(api: Place) -> None:
    """500 ids of twenty digits; the model says how many it takes."""
    query = "&".join(f"mids={-(2**63) + n}" for n in range(500))
    status, told = await on_the_line(api, f"{ECHO}?{query}")
    assert (400, "mids: list should have at most 3 items after validation, not 500") == (
        status,
        orjson.loads(told)["detail"],
    )


# --- the query ---


@pytest.mark.parametrize(
    "query",
    [
        "limit=5&limit=5", "limit=5&LIMIT=5", "limit=5&%6cimit=6", "loud=true&loud=false", "limit[]=5", "limit=", "limit",
        "limit=0",
        "limit=501", "limit=-1", "limit=1000000000", "limit=1.0", "limit=%205", "limit=5%00", "limit=null", "limit=true",
        "loud=1",
        "loud=True", "loud=", "loud=null", "order=UP", "order=", "order=up%20", "mids=1&mids=x", "mids=1,2", "mids=",
        "mids=1&mids=2&mids=3&mids=4",
        "names=", "names=a%00b", "names=%ff", "names=%", "title=a%0Ab", "title=%00", "title=12345678901234567",
        "title=%C2%85", "mid=7",
        "room=group://2", "type=group", "name=1", "unknown=1", "=1", "&&x", "__proto__=1", "limit=5;loud=true",
        "limit=%ED%A0%80",
    ],
)  # fmt: skip
async def test_a_query_is_read_strictly(api: Place, query: str) -> None:
    """What is there twice, of another kind, out of bounds, in the path already or not known is refused; nothing is guessed."""
    status, told = await on_the_line(api, f"{ECHO}?{query}")
    assert (400, True) == (status, orjson.loads(told)["code"] in ("bad_request", "invalid_text")), told


async def test_a_query_says_exactly_what_it_says(api: Place) -> None:
    status, told = await on_the_line(
        api, f"{ECHO}?limit=500&loud=false&order=down&mids=-1&mids=9&names=a&names=%26%3D+b&title=%C3%BC%E2%80%A8"[:-9]
    )
    assert 200 == status
    assert {
        "room": "group://1", "mid": 7, "names": ["a", "&= b"], "mids": [-1, 9], "loud": False, "order": "down",
        "limit": 500, "title": "ü",
    } == orjson.loads(told)  # fmt: skip


async def test_a_verb_with_a_body_takes_no_query(api: Place) -> None:
    told = await api.put(f"{ECHO}?limit=5", json={})
    assert (400, "there is no parameter 'limit' here; the arguments are in the body") == (
        told.status,
        told.json["detail"],
    )


# --- the body ---


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    "form", [("Content-Length: 2", b"{}"), ("Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n")]
)
async def test_where_no_body_is_looked_at_none_is_taken(api: Place, method: str, form: tuple[str, bytes]) -> None:
    """Who puts arguments there would believe that they were obeyed."""
    path = ECHO if method == "GET" else "/v1/drops/7"
    status, told = await on_the_line(api, path, method, form[0], "Content-Type: application/json", body=form[1])
    assert (400, f"a {method} here has no body; the arguments are in the query") == (
        status,
        orjson.loads(told)["detail"],
    )
    assert 200 == (await on_the_line(api, path, method, "Content-Length: 0"))[0]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 201), ("Application/JSON", 201), ("application/json; charset=utf-8", 201),
        ("application/json;charset=UTF-8", 201),
        ('application/json; charset="utf-8"', 201), ("application/json; charset=utf-16", 400),
        ("application/json; charset=latin-1", 400),
        ("application/json; charset=ascii", 400), ("text/plain", 400), ("text/json", 400), ("application/problem+json",
        400), ("*/*", 400),
        ("application/x-www-form-urlencoded", 400), ("multipart/form-data; boundary=x", 400), ("", 400),
        ("application/json, text/plain", 400),
    ],
)  # fmt: skip
async def test_a_body_is_json_in_utf_8(api: Place, kind: str, status: int) -> None:
    told = await api.put(ECHO, data=b"{}", headers={"Content-Type": kind})
    assert status == told.status


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b'"x"', b"7", b"null", b"{", b"{}{}", b"{} x", b"\xef\xbb\xbf{}", b"{\x00}", '{}'.encode("utf-16"),
        b"{'limit':5}", b"{limit:5}",
        b'{"limit":5,}', b'{"limit":5,"limit":6}', b'{"limit":5,"\\u006cimit":6}', b'{"limit":NaN}', b'{"limit":1e400}',
        b'{"limit":5.0}',
        b'{"limit":"5"}', b'{"limit":true}', b'{"limit":null}', b'{"limit":[5]}', b'{"limit":18446744073709551616}',
        b'{"limit":01}',
        b'{"title":"\\u0000"}', b'{"title":"\\ud800"}', b'{"title":"\xff"}', b'{"title":"\\u2028"}', b'{"names":"a"}',
        b'{"names":[1]}',
        b'{"names":{"0":"a"}}', b'{"mids":[true]}', b'{"mid":7}', b'{"room":"group://2"}', b'{"role":"owner"}',
        b'{"__proto__":{}}', b'{"":1}',
        b'{"title":' + b"[" * 40 + b"]" * 40 + b"}", b'{"title":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"limit":' + b"9" * 4_301 + b"}",
    ],
)  # fmt: skip
async def test_a_body_is_read_strictly(api: Place, body: bytes) -> None:
    told = await api.put(ECHO, data=body, headers=JSON)
    assert (400, True) == (told.status, told.code in ("bad_request", "invalid_text"))


async def test_no_body_is_no_arguments(api: Place) -> None:
    for body in (None, b"", b"{}", b" \n{ }\t"):
        assert 201 == (await api.put(ECHO, data=body, headers=JSON)).status


# --- the method ---


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
async def test_a_header_changes_no_method(api: Place, header: str) -> None:
    told = await api.put(ECHO, json={}, headers={header: "DELETE"})
    assert 201 == told.status
    told = await api.post(ECHO, json={}, headers={header: "PUT"})
    assert 405 == told.status
    assert 405 == (await api.post(f"{ECHO}?_method=PUT", json={})).status


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "TRACE", "PROPFIND"])
async def test_another_method_is_told_which_there_are(api: Place, method: str) -> None:
    answer = await raw(api, f"{method} {ECHO} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head = answer.partition(b"\r\n\r\n")[0].decode()
    assert head.startswith("HTTP/1.1 405 "), head
    assert "Allow: GET, HEAD, OPTIONS, PUT" in head.split("\r\n")


async def test_a_word_of_one_path_is_no_argument_of_another(api: Place) -> None:
    """Whatever the order in which verbs are listed."""
    found = await api.get("/v1/drops/all")
    other = await api.delete("/v1/drops/all")
    asked = await api.ask("OPTIONS", "/v1/drops/all")

    assert [200, 405, 204] == [one.status for one in (found, other, asked)]
    assert {"GET, HEAD, OPTIONS"} == {one.headers["Allow"] for one in (other, asked)}
    assert 200 == (await api.delete("/v1/drops/7")).status
    assert 400 == (await api.delete("/v1/drops/alls")).status
    assert 405 == (await api.get("/v1/drops/7")).status


async def test_options_says_what_may_be_done(api: Place) -> None:
    there, not_there = await api.ask("OPTIONS", ECHO), await api.ask("OPTIONS", "/v1/none")

    assert (204, "GET, HEAD, OPTIONS, PUT", b"") == (there.status, there.headers["Allow"], there.raw)
    assert 404 == not_there.status


async def test_head_is_get_without_the_words(api: Place) -> None:
    got, head = await api.get(ECHO), await api.ask("HEAD", ECHO)

    assert (200, b"") == (head.status, head.raw)
    for name in ("Content-Type", "Content-Length", "ETag"):
        assert got.headers[name] == head.headers[name]
    assert 400 == (await api.ask("HEAD", f"{ECHO}?limit=0")).status
    assert 405 == (await api.ask("HEAD", "/v1/count")).status


# --- who has it already ---


async def test_what_the_client_has_is_not_sent_again(api: Place) -> None:
    first = await api.get(ECHO)
    tag = first.headers["ETag"]
    assert re.fullmatch(r'W/"[0-9a-f]{32}"', tag)
    for condition in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = await api.get(ECHO, headers={"If-None-Match": condition})
        assert (304, b"", tag) == (again.status, again.raw, again.headers["ETag"]), condition
    for condition in ('"other"', 'W/"other"'):
        assert first.raw == (await api.get(ECHO, headers={"If-None-Match": condition})).raw
    assert 304 == (await api.ask("HEAD", ECHO, headers={"If-None-Match": tag})).status
    changed = await api.get(f"{ECHO}?limit=11", headers={"If-None-Match": tag})
    assert (200, True) == (changed.status, changed.headers["ETag"] != tag)


@pytest.mark.parametrize("condition", ["", "x", "W/", '"', 'W/"', b"\x01".hex(), '"a" "b"', "," * 1000])
async def test_a_condition_that_is_none_changes_nothing(api: Place, condition: str) -> None:
    assert 200 == (await api.get(ECHO, headers={"If-None-Match": condition})).status


@pytest.mark.parametrize("name", ["If-Match", "If-Unmodified-Since"])
async def test_a_change_on_a_condition_is_not_made_without_it(api: Place, name: str) -> None:
    """What is only read or sent again hangs on no such condition."""
    given = {name: 'W/"0123456789abcdef0123456789abcdef"'}

    refused = await api.put(ECHO, json={}, headers=given)

    assert (400, "bad_request") == (refused.status, refused.code)
    assert 200 == (await api.get(ECHO, headers=given)).status


async def test_only_what_was_read_has_a_tag(api: Place) -> None:
    written = await api.put(ECHO, json={}, headers={"If-None-Match": "*"})
    refused = await api.get(f"{ECHO}?limit=0", headers={"If-None-Match": "*"})
    streamed = await api.get("/v1/downloads/group/1", headers={"If-None-Match": "*"})

    assert [(201, None), (400, None), (200, None)] == [
        (one.status, one.headers.get("ETag")) for one in (written, refused, streamed)
    ]


async def test_an_answer_is_kept_by_no_cache_on_the_way(api: Place) -> None:
    assert "no-store" == (await api.get(ECHO)).headers["Cache-Control"]


# --- no JSON ---


async def test_bytes_go_up_and_down(api: Place) -> None:
    up = await api.post(
        "/v1/uploads?name=x", data=b"\x00" * 70_000, headers={"Content-Type": "application/octet-stream"}
    )
    down = await api.get("/v1/downloads/group/1")

    assert (200, 70_000) == (up.status, up.json["count"])
    assert (200, b"bytes", "5") == (down.status, down.raw, down.headers["Content-Length"])


async def test_what_is_streamed_has_the_same_head(database_url: str) -> None:
    """It is written before the handler ends, so whoever looks at answers afterwards comes too late."""
    async with serving(database_url, verbs=probes(), origins=("https://chat.example",)) as api:
        down = await api.get("/v1/downloads/group/1", mid=7, headers={"Origin": "https://chat.example"})

    assert ("nosniff", "no-store") == (down.headers["X-Content-Type-Options"], down.headers["Cache-Control"])
    assert "https://chat.example" == down.headers["Access-Control-Allow-Origin"]
    assert "RateLimit" in down.headers


# --- how much is left ---


async def test_people_are_told_how_much_is_left(database_url: str) -> None:
    async with serving(database_url, verbs=probes(), inbound_frames_per_s=0.1, inbound_frames_burst=3) as api:
        answers = [await api.get(ECHO, mid=7) for _ in range(4)]
        bad = await api.get(f"{ECHO}?limit=0", mid=8)
        service = await api.get(ECHO)

    assert [200, 200, 200, 429] == [one.status for one in answers]
    assert {'"requests";q=3;w=30'} == {one.headers["RateLimit-Policy"] for one in answers}
    told = [re.fullmatch(r'"requests";r=(\d+);t=(\d+)', one.headers["RateLimit"]) for one in answers]
    assert [2, 1, 0, 0] == [int(one[1]) for one in told if one]
    assert [10, 20, 30, 30] == [int(one[2]) for one in told if one]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 10
    assert '"requests";r=2;t=10' == bad.headers["RateLimit"]
    assert "RateLimit" not in service.headers


# --- pages of other origins ---


async def test_pages_of_allowed_origins_may_say_and_read_what_clients_do(database_url: str) -> None:
    async with serving(database_url, verbs=probes(), origins=("https://chat.example",)) as api:
        origin = {"Origin": "https://chat.example"}
        asked = await api.ask("OPTIONS", ECHO, headers={**origin, "Access-Control-Request-Method": "PUT"})
        got = await api.get(ECHO, mid=7, headers=origin)
        refused = await api.get(f"{ECHO}?limit=0", mid=7, headers=origin)

    for name in ("Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Imcore-Mid"):
        assert name in asked.headers["Access-Control-Allow-Headers"].split(", ")
    for name in ("ETag", "RateLimit", "RateLimit-Policy", "Retry-After", "Idempotency-Replayed"):
        for one in (got, refused):
            assert name in one.headers["Access-Control-Expose-Headers"].split(", ")
    assert "PUT" in asked.headers["Access-Control-Allow-Methods"]


# --- at once ---


async def test_a_hundred_of_every_form_at_once(api: Place) -> None:
    answers = await asyncio.gather(
        *(
            api.ask(method, ECHO, mid=7, json={} if method == "PUT" else None)
            for method in ("GET", "PUT")
            for _ in range(50)
        )
    )
    assert {200, 201} == {one.status for one in answers}


async def test_tokens_that_name_rooms_reach_those_only(database_url: str) -> None:
    async with serving(database_url, verbs=probes(), auth_mode="jwt") as api:
        for name, status in (("1", 200), ("%31", 200), ("2", 404), ("%2E%2E%2Fgroup%2F1", 404), ("1%2F..%2F2", 404)):
            told = await api.get(f"/v1/probes/group/{name}/of/7", headers=bearer(mid=7, rooms=["group://1"]))
            assert status == told.status, name
