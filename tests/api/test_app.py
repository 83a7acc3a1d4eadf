"""What holds for every route: who is asking is known, errors have one form, nothing is waited for without end, nothing leaks."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import time
from dataclasses import replace
from http import HTTPStatus

import asyncpg
import orjson
import pytest
from aiohttp import web

from api.place import Answer, Place, bearer, serving
from imcore.api import page as page_routes
from imcore.api.app import REQUESTS, Services
from imcore.config import Settings
from imcore.errors import Overloaded
from imcore.nodes import AliveNode
from imcore.verbs import VERBS
from waiting import eventually

ROOM_1 = "/v1/rooms/group/1"
# Every route of /v1, with what stands for its variables.
ROUTES = [
    ("POST", "/v1/rooms"), ("GET", ROOM_1), ("GET", f"{ROOM_1}/members"), ("POST", f"{ROOM_1}/members"),
    ("DELETE", f"{ROOM_1}/members/7"), ("PUT", f"{ROOM_1}/members/7/role"), ("PUT", f"{ROOM_1}/members/7/mute"),
    ("POST", f"{ROOM_1}/join"), ("POST", f"{ROOM_1}/leave"), ("POST", f"{ROOM_1}/messages"), ("GET", f"{ROOM_1}/messages"),
    ("PUT", f"{ROOM_1}/read"), ("GET", "/v1/sessions"), ("GET", "/v1/inbox"), ("GET", "/metrics"),
]  # fmt: skip
WITH_BODY = [route for route in ROUTES if route[0] in ("POST", "PUT")]
JSON = {"Content-Type": "application/json"}


def is_error(answer: Answer) -> bool:
    told = answer.json
    needed = {"type", "title", "status", "detail", "code", "retry"}
    return (
        answer.headers["Content-Type"] == "application/problem+json"
        and needed <= told.keys() <= {*needed, "retry_after_ms"}
        and (told["status"], told["type"]) == (answer.status, f"urn:imcore:error:{told['code']}")
        and "Traceback" not in answer.raw.decode()
    )


async def raw(api: Place, sent: bytes, *, read_s: float = 20, upto: bytes = b"\0") -> bytes:
    """What the server answers to these bytes until it closes, or until nothing more comes; or up to these, which come last."""
    assert api.url.host is not None
    reader, writer = await asyncio.open_connection(api.url.host, api.url.port)
    received = b""
    try:
        writer.write(sent)
        await writer.drain()
        while upto not in received and (chunk := await asyncio.wait_for(reader.read(65_536), read_s)):
            received += chunk
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return received


# --- who is asking ---


@pytest.mark.parametrize(
    "credentials",
    [
        {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer  "}, {"Authorization": "Basic Zm9vOmJhcg=="},
        {"Authorization": "Bearer a.b.c"}, {"Authorization": "Bearer " + "x" * 5000}, bearer(mid=7, expires_in_s=-3600),
        {"Authorization": bearer(mid=7)["Authorization"][:-4] + "AAAA"}, {"Authorization": "", "Imcore-Mid": "7"},
        {"Authorization": "", "Cookie": "token=" + bearer(mid=7)["Authorization"][7:]},
    ],
)  # fmt: skip
async def test_without_a_good_token_nothing_is_told(guarded: Place, credentials: dict[str, str]) -> None:
    await guarded.room("group://1", 7)
    for method, path in [
        *ROUTES,
        ("GET", "/v1/none"),
        ("GET", f"{ROOM_1}?token=" + bearer(mid=7)["Authorization"][7:]),
    ]:
        answer = await guarded.ask(method, path, headers=credentials)

        assert (401, "unauthenticated") == (answer.status, answer.code), path
        assert is_error(answer)


async def test_probes_and_the_page_need_no_token(guarded: Place) -> None:
    for path in ("/healthz", "/readyz", "/", "/page/config.json", "/page/client.js"):
        assert (await guarded.get(path, headers={"Authorization": ""})).status == 200, path


async def test_headers_that_say_who_come_once(api: Place) -> None:
    for twice in (b"Imcore-Mid: 7\r\nImcore-Mid: 8", b"Authorization: Bearer a\r\nAuthorization: Bearer b"):
        answer = await raw(api, b"GET /v1/inbox HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n\r\n" % twice)
        assert answer.startswith(b"HTTP/1.1 400 ")


async def test_in_mode_open_a_person_is_named_by_number(api: Place) -> None:
    for mid in ["0", "-1", "9223372036854775808", "x", "", "7.0", "+7", "07", "true", "7, 8"]:
        assert (await api.get("/v1/inbox", headers={"Imcore-Mid": mid})).status == 400
        assert (await api.get("/v1/inbox", headers={"Imcore-Mid": "9223372036854775807"})).status == 200


# --- from which page ---


async def test_pages_of_other_origins_are_refused(api: Place) -> None:
    """A page in a developer's browser must not push through an open server on the same machine."""
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1.evil.example",
        "file://",
        "http://localhost@evil.example",
    ):
        answer = await api.post("/goim/push/all?operation=1000", data=b"x", headers={"Origin": origin})
        assert (403, "forbidden") == (answer.status, answer.code), origin
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert (await api.reads.reader.head()).position == 0


async def test_allowed_pages_may_read_answers_and_errors(database_url: str) -> None:
    async with serving(database_url, origins=("https://chat.example",)) as api:
        headers = {"Origin": "https://chat.example"}
        good = await api.get("/v1/inbox", mid=7, headers=headers)
        bad = await api.get(ROOM_1, mid=7, headers=headers)
        asked = await api.ask("OPTIONS", "/v1/inbox", headers={**headers, "Access-Control-Request-Method": "PUT"})
        other = await api.get("/v1/inbox", mid=7, headers={"Origin": "https://chat.example.evil"})

    assert [200, 404, 204, 403] == [answer.status for answer in (good, bad, asked, other)]
    assert {"https://chat.example"} == {one.headers["Access-Control-Allow-Origin"] for one in (good, bad, asked)}
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in good.headers


# --- errors ---


async def test_what_is_not_there_and_what_is_not_allowed(api: Place) -> None:
    missing = await api.get("/v1/none")
    method = await api.delete("/v1/rooms")

    assert (404, "not_found") == (missing.status, missing.code)
    assert (405, "not_allowed", "GET, HEAD, OPTIONS, POST") == (method.status, method.code, method.headers["Allow"])
    assert is_error(missing)
    assert is_error(method)


async def test_a_bug_is_a_500_that_says_nothing(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> list[AliveNode]:
        raise RuntimeError("the secret of the house")

    async with serving(database_url, wrap=lambda services: replace(services, nodes=broken)) as api:
        answer = await api.get("/goim/nodes/instances")

    assert (500, "internal") == (answer.status, answer.code)
    assert is_error(answer)
    assert b"secret" not in answer.raw
    assert "the secret of the house" in caplog.text
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("error", [asyncpg.ConnectionDoesNotExistError("gone"), OSError("no route"), TimeoutError()])
async def test_a_database_that_is_away_is_not_an_answer_but_a_503(database_url: str, error: Exception) -> None:
    def without_database(services: Services) -> Services:
        class Pool:
            async def fetchrow(self, *arguments: object) -> None:
                raise error

            fetch = fetchrow

        reads = replace(services.reads, pool=Pool())  # type: ignore[arg-type]
        return replace(services, means=replace(services.means, reads=reads))

    async with serving(database_url, wrap=without_database) as api:
        ours = await api.get(ROOM_1)
        goims = await api.get("/goim/online/total")

    assert (503, "unavailable", True) == (ours.status, ours.code, ours.json["retry"])
    assert (200, -500) == (goims.status, goims.json["code"])


async def test_too_much_at_once_is_told_with_the_time_to_wait(database_url: str) -> None:
    def full(services: Services) -> Services:
        def submit(item: object) -> None:
            raise Overloaded(retry_after_ms=1500)

        services.log.submit = submit  # type: ignore[method-assign]
        return services

    async with serving(database_url, wrap=full) as api:
        answer = await api.post(f"{ROOM_1}/join", mid=7)

    assert (503, "overloaded", 1500) == (answer.status, answer.code, answer.json["retry_after_ms"])
    assert answer.headers["Retry-After"] == "2"


# --- bodies ---


async def test_bodies_are_bounded_typed_and_uncoded(api: Place) -> None:
    await api.room("group://1", 7)
    limit = api.settings.http_body_bytes_max
    for method, path in WITH_BODY:

        async def chunks() -> object:
            for _ in range(limit // 1024 + 1):
                yield b" " * 1024

        large = await api.ask(method, path, mid=7, data=b" " * (limit + 1), headers=JSON)
        chunked = await api.ask(method, path, mid=7, data=chunks(), headers=JSON)
        form = await api.ask(method, path, mid=7, data=b"{}", headers={"Content-Type": "text/plain"})
        untyped = await api.ask(method, path, mid=7, data=b"{}", headers={"Content-Type": "application/octet-stream"})
        coded = await api.ask(
            method, path, mid=7, data=gzip.compress(b"{}"), headers={**JSON, "Content-Encoding": "gzip"}
        )

        assert [(413, "too_large")] * 2 == [(answer.status, answer.code) for answer in (large, chunked)]
        assert [(400, "bad_request")] * 3 == [(answer.status, answer.code) for answer in (form, untyped, coded)]


async def test_a_body_at_the_limit_is_read(api: Place) -> None:
    body = b'{"room":"group://1"}'.ljust(api.settings.http_body_bytes_max)

    assert (await api.post("/v1/rooms", data=body, headers=JSON)).status == 201


@pytest.mark.parametrize("path", ["/v1/rooms", "/goim/push/all?operation=1000"])
async def test_a_body_that_does_not_come_is_given_up(database_url: str, path: str) -> None:
    """After its own deadline, which is far from the default."""
    async with serving(database_url, http_read_s=0.2) as api:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        started = time.monotonic()
        answer = await raw(api, head.encode() + b'{"ro', upto=b'"retry":true')

        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"retry":true' in answer
        assert time.monotonic() - started < Settings.model_fields["http_read_s"].default
        assert (await api.get("/healthz")).status == 200


async def test_a_client_that_goes_away_amid_its_body_is_no_fault_of_the_database(
    api: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert api.url.host is not None
    _, writer = await asyncio.open_connection(api.url.host, api.url.port)
    writer.write(
        b"POST /v1/rooms HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    await writer.drain()
    await api.get("/healthz")  # the server has taken the head by now
    writer.close()

    async def answered() -> bool:
        return any("POST /v1/rooms" in record.getMessage() for record in caplog.records)

    await eventually(answered)
    assert [record.getMessage() for record in caplog.records if record.name == "imcore.access"][-1].endswith(" 400")
    assert "database" not in caplog.text


async def test_one_slow_client_holds_up_nobody(database_url: str) -> None:
    async with serving(database_url, http_read_s=30) as api:
        assert api.url.host is not None
        slow = [await asyncio.open_connection(api.url.host, api.url.port) for _ in range(50)]
        for _, writer in slow:
            writer.write(b"POST /v1/rooms HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        await eventually(lambda: asyncio.sleep(0, api.app[REQUESTS].under_way == len(slow)))

        assert (await asyncio.wait_for(api.get("/v1/inbox", mid=7), 20)).status == 200
        assert len(slow) == api.app[REQUESTS].under_way, "they wait for their bodies still"
        for _, writer in slow:
            writer.close()


async def test_what_is_no_http_is_a_400_and_the_next_request_is_served(api: Place) -> None:
    for request_ in [
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/rooms HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(200)) + b"\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/rooms HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ]:
        answer = await raw(api, request_, read_s=1)

        assert answer.startswith(b"HTTP/1.") or answer == b""
        assert not re.match(rb"HTTP/1.\d [25]", answer), answer[:200]
        assert b"Traceback" not in answer
        assert (await api.get("/healthz")).status == 200


# --- parameters ---


async def test_a_parameter_that_is_there_twice_is_refused(api: Place) -> None:
    await api.room("group://1", 7)
    for method, path in [route for route in ROUTES if route[0] == "GET" and route[1] != "/metrics"]:
        for query in ("limit=5&limit=5", "limit=5&limit=6", "x=1&x=2", "limit=5&%6Cimit=6", "x=%FF", "a=%"):
            assert (await api.ask(method, f"{path}?{query}", mid=7)).status == 400, query


# --- how often ---


async def test_a_person_is_held_back_and_a_service_is_not(database_url: str) -> None:
    async with serving(database_url, inbound_frames_per_s=0.01, inbound_frames_burst=5) as api:
        persons = [(await api.get("/v1/inbox", mid=7)) for _ in range(6)]
        other = await api.get("/v1/inbox", mid=8)
        services = [(await api.get("/v1/inbox?mid=7")).status for _ in range(20)]

    assert [200] * 5 + [429] == [answer.status for answer in persons]
    assert 0 < persons[-1].json["retry_after_ms"] <= 100_001
    assert other.status == 200
    assert {200} == set(services)


async def test_limits_of_rate_can_be_lifted(database_url: str) -> None:
    async with serving(database_url, inbound_frames_per_s=1, inbound_frames_burst=1, rate_limits=False) as api:
        assert {200} == {(await api.get("/v1/inbox", mid=7)).status for _ in range(10)}


# --- what is logged and measured ---


async def test_the_log_has_a_line_and_no_secret(guarded: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        token = bearer(mid=7)["Authorization"][7:]
        await guarded.get(f"/v1/inbox?token={token}", mid=7)
        await guarded.get("/v1/inbox", headers={"Authorization": f"Bearer {token[:-3]}xyz"})
        await guarded.post("/v1/rooms", data=b"the secret of the house", headers=JSON)

    lines = [record for record in caplog.records if record.name == "imcore.access"]
    assert ["GET /v1/inbox 400", "GET /v1/inbox 401", "POST /v1/rooms 400"] == [line.getMessage() for line in lines]
    assert (7, "127.0.0.1") == (vars(lines[0])["mid"], vars(lines[0])["address"])
    told = " ".join(str(vars(record)) for record in caplog.records)
    assert "eyJ" not in told
    assert "secret of the house" not in told


async def test_the_address_is_the_one_behind_trusted_proxies_only(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    forwarded = {"X-Forwarded-For": "203.0.113.9, 198.51.100.7"}
    async with serving(database_url) as api:
        await api.get("/healthz", headers=forwarded)
    async with serving(database_url, trusted_proxies=("127.0.0.0/8", "198.51.100.0/24")) as api:
        await api.get("/healthz", headers=forwarded)

    lines = [record for record in caplog.records if record.name == "imcore.access"]
    assert ["127.0.0.1", "203.0.113.9"] == [vars(line)["address"] for line in lines]


async def test_those_without_a_token_are_paced_by_all_the_addresses_that_one_client_has(database_url: str) -> None:
    async with serving(
        database_url,
        auth_mode="jwt",
        inbound_frames_per_s=0.01,
        inbound_frames_burst=2.0,
        trusted_proxies=("127.0.0.0/8",),
    ) as api:

        async def ask(address: str) -> int:
            return (await api.get("/v1/server", token="", headers={"X-Forwarded-For": address})).status

        assert [200, 200, 429] == [await ask(f"2001:db8::{n}") for n in range(3)]
        assert 200 == await ask("2001:db8:0:1::1")


async def test_figures_are_for_services(guarded: Place) -> None:
    assert (await guarded.get("/metrics", mid=7)).status == 403
    await guarded.room("group://1", 7)

    answer = await guarded.get("/metrics")

    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = answer.raw.decode()
    assert 'imcore_log_appended_total{worker="0"} 2.0' in text
    assert 'imcore_http_requests_total{method="POST",route="/v1/rooms",status="201"} 1.0' in text
    assert 'imcore_http_requests_total{method="GET",route="/metrics",status="403"} 1.0' in text
    assert "process_resident_memory_bytes" in text


async def test_a_route_is_measured_under_its_pattern(api: Place) -> None:
    for n in range(20):
        await api.get(f"/v1/rooms/group/{n}")
        await api.get(f"/none/{n}")

    lines = (await api.get("/metrics")).raw.decode().splitlines()
    assert len([line for line in lines if line.startswith("imcore_http_requests_total{")]) == 2


async def test_ready_says_what_is_wrong(api: Place) -> None:
    good = await api.get("/readyz")
    api.checks["database"] = "cannot connect"
    bad = await api.get("/readyz")

    assert (200, True) == (good.status, good.json["ready"])
    assert (503, False, "cannot connect") == (bad.status, bad.json["ready"], bad.json["checks"]["database"])
    assert (await api.get("/healthz")).json == {"alive": True}


async def test_ready_waits_for_no_check_for_ever(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imcore.api.metrics.READY_S", 0.05)

    async def never() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(database_url, wrap=lambda services: replace(services, ready=never)) as api:
        assert (await api.get("/readyz")).status == 503


# --- the page ---


async def test_the_page_is_served_and_cached_by_what_it_is(api: Place) -> None:
    answer = await api.get("/")

    assert (200, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert (page_routes.FOLDER / "index.html").read_bytes() == answer.raw
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; connect-src 'self' ws: wss:")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-cache"
    again = await api.get("/", headers={"If-None-Match": answer.headers["ETag"]})
    assert (304, b"") == (again.status, again.raw)
    changed = await api.get("/", headers={"If-None-Match": '"other"'})
    assert changed.status == 200


async def test_every_file_of_the_page_is_there(api: Place) -> None:
    for path in page_routes.FOLDER.rglob("*"):
        if path.is_file():
            answer = await api.get(f"/page/{path.relative_to(page_routes.FOLDER).as_posix()}")
            assert (200, path.read_bytes()) == (answer.status, answer.raw), path


async def test_the_page_knows_its_server(api: Place, guarded: Place) -> None:
    from imcore import __version__

    told = await api.get("/page/config.json")

    assert told.json == {"ws": "ws://127.0.0.1:3102/ws", "auth": "open", "version": __version__}
    assert told.headers["Cache-Control"] == "no-store"
    assert (await guarded.get("/page/config.json")).json["auth"] == "jwt"


async def test_nothing_but_the_page_is_served(api: Place) -> None:
    for name in ["../page.py", "%2e%2e/page.py", "..%2fpage.py", "/etc/passwd", "none.js", "%00", "config.json/"]:
        assert (await api.get(f"/page/{name}")).status == 404


# --- all of it ---


async def test_whatever_comes_no_answer_is_a_500(database_url: str) -> None:
    """Every route with every kind of rubbish in every place."""
    async with serving(database_url, rate_limits=False) as api:
        for mid in (None, 7):
            await ask_rubbish(api, mid)


async def ask_rubbish(api: Place, mid: int | None) -> None:
    await api.post("/v1/rooms", json={"room": "group://1", "members": [7]})
    rubbish = [
        "%00",
        "%FF",
        "-1",
        "9" * 30,
        "%27%20OR%201%3D1",
        "%E2%80%AE",
        "true",
        "%7B%7B7*7%7D%7D",
        "..",
        "%2E%2E%2F",
        "NaN",
        "1e400",
    ]
    values: list[object] = [None, True, -1, 2**63 - 1, 1.5, "", "x" * 300, [], {}, [[[]]], {"a": {"b": 1}}]
    fields = ("room", "mid", "role", "until_ms", "seq", "id", "body", "op", "members", "title", "public", "history")
    statuses: set[int] = set()
    for method, path in ROUTES:
        for text in rubbish:
            for asked in (
                f"{path}?after={text}&limit={text}&mid={text}",
                path.replace("group/1", f"{text}/{text}"),
                f"{path}/{text}",
            ):
                statuses.add((await api.ask(method, asked, mid=mid)).status)
        if (method, path) in WITH_BODY:
            for value in values:
                for field in fields:
                    data = orjson.dumps({"room": "group://9", field: value})
                    statuses.add((await api.ask(method, path, mid=mid, data=data, headers=JSON)).status)
    assert not {status for status in statuses if status >= 500}, statuses
    assert {HTTPStatus.OK, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND} <= statuses


def test_every_route_is_in_the_tables_of_these_tests() -> None:
    """A new route without a row here has no test of who may use it."""
    from api.test_goim import ROUTES as GOIMS
    from imcore.api import goim, metrics

    app = web.Application()
    for routes in (goim, metrics):
        routes.add_routes(app)

    def pattern(path: str) -> str:
        path = re.sub(r"\?.*", "", path).replace("/rooms/group/1", "/rooms/{type}/{name}")
        return re.sub(r"/members/7", "/members/{mid}", path)

    verbs = {(verb.method, verb.path.replace("{room}", "{type}/{name}")) for verb in VERBS}
    known = {(method, pattern(path)) for method, path in [*ROUTES, *GOIMS]} - verbs
    known |= {("GET", "/healthz"), ("GET", "/readyz")}
    found = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    assert {route for route in found if route[0] != "HEAD"} == known
