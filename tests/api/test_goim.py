"""A backend that speaks to goim speaks to imcore, byte for byte."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from api.place import Place, bearer, node, serving
from imcore import commands
from imcore.bus.postgres import Ephemeral
from imcore.events.types import ALL, BASE64, JSON, KEY, ROOM, TEXT, USER, Recorded

DONE = b'{"code":0,"message":""}'


async def stored(api: Place) -> list[Recorded]:
    return await api.reads.reader.read(0)


@pytest.mark.parametrize(
    ("path", "streams"),
    [
        ("keys?operation=1000&keys=a&keys=b", [KEY + "a", KEY + "b"]),
        ("mids?operation=1000&mids=7&mids=9223372036854775807", [USER + "7", USER + "9223372036854775807"]),
        ("room?operation=1000&type=live&room=1000", [ROOM + "live://1000"]),
        ("room?operation=1000&type=group&room=%E7%BE%A4%2F1", [ROOM + "group://群/1"]),
        ("all?operation=1000&speed=32", [ALL]),
        ("all?operation=1000", [ALL]),
        ("mids?operation=%2B1000&mids=007", [USER + "7"]),
    ],
)
async def test_a_push_is_stored_and_answered_as_goim_answers(api: Place, path: str, streams: list[str]) -> None:
    answer = await api.post(f"/goim/push/{path}", data=b'{"hello": "world"}')

    assert (200, DONE) == (answer.status, answer.raw)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    events = await stored(api)
    assert streams == [event.stream for event in events]
    assert {(1000, 0, '{"hello": "world"}', JSON)} == {(e.op, e.mid, e.body, e.format) for e in events}


@pytest.mark.parametrize(
    ("body", "format_", "kept"),
    [
        (b"hi", TEXT, "hi"),
        (b"\xff\0", BASE64, base64.b64encode(b"\xff\0").decode()),
        (b"a\0b", BASE64, base64.b64encode(b"a\0b").decode()),
        (b"", TEXT, ""),
        ("Grüße".encode(), TEXT, "Grüße"),
        (b" [1] ", JSON, " [1] "),
    ],
)
async def test_a_push_may_be_any_bytes(api: Place, body: bytes, format_: int, kept: str) -> None:
    answer = await api.post(
        "/goim/push/all?operation=1000", data=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )

    assert answer.raw == DONE
    (event,) = await stored(api)
    assert (format_, kept) == (event.format, event.body)


async def test_a_push_that_is_not_durable_is_not_stored(api: Place) -> None:
    for path in (
        "all?operation=1001&durable=0",
        "mids?operation=1001&durable=0&mids=7",
        "keys?operation=1001&durable=0&keys=k",
        "room?operation=1001&durable=0&type=live&room=1",
    ):
        assert (await api.post(f"/goim/push/{path}", data=b"x")).raw == DONE

    assert [] == await stored(api)
    assert [
        Ephemeral(1001, b"x", everybody=True),
        Ephemeral(1001, b"x", mids=(7,)),
        Ephemeral(1001, b"x", keys=("k",)),
        Ephemeral(1001, b"x", room="live://1"),
    ] == api.pushed


async def test_nobody_is_pushed_to_twice_and_nobody_at_all_is_no_error(api: Place) -> None:
    assert (await api.post("/goim/push/mids?operation=1000&mids=7&mids=7&mids=0", data=b"x")).raw == DONE
    assert (await api.post("/goim/push/keys?operation=1000&keys=&keys=k&keys=k", data=b"x")).raw == DONE
    assert (await api.post("/goim/push/mids?operation=1000", data=b"x")).raw == DONE
    assert (await api.post("/goim/push/keys?operation=1000", data=b"x")).raw == DONE

    assert [USER + "7", KEY + "k"] == [event.stream for event in await stored(api)]


async def test_what_goims_binding_refuses_is_refused_in_its_words(api: Place) -> None:
    for path, message in [
        ("mids?operation=x&mids=1", r"strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("mids?operation=1000&mids=1.5", r"strconv.ParseInt: parsing \"1.5\": invalid syntax"),
        (
            "mids?operation=1&mids=1&mids=9223372036854775808",
            r"strconv.ParseInt: parsing \"9223372036854775808\": value out of range",
        ),
        (
            "mids?operation=1000&mids=-9223372036854775809",
            r"strconv.ParseInt: parsing \"-9223372036854775809\": value out of range",
        ),
        ("keys?operation=2147483648&keys=a", r"strconv.ParseInt: parsing \"2147483648\": value out of range"),
        ("all?operation=1e3", r"strconv.ParseInt: parsing \"1e3\": invalid syntax"),
        ("all?operation=1000&speed=fast", r"strconv.ParseInt: parsing \"fast\": invalid syntax"),
        ("all?operation=%00%0A", r"strconv.ParseInt: parsing \"\\x00\\n\": invalid syntax"),
        ("all?operation=%EF%BC%91", r"strconv.ParseInt: parsing \"１\": invalid syntax"),
        ("all", "Key: '.Op' Error:Field validation for 'Op' failed on the 'required' tag"),
        ("all?operation=0", "Key: '.Op' Error:Field validation for 'Op' failed on the 'required' tag"),
        (
            "room?operation=1000&type=live",
            "Key: '.Room' Error:Field validation for 'Room' failed on the 'required' tag",
        ),
        (
            "room?operation=1000",
            (
                r"Key: '.Type' Error:Field validation for 'Type' failed on the 'required' tag\n"
                "Key: '.Room' Error:Field validation for 'Room' failed on the 'required' tag"
            ),
        ),
    ]:
        answer = await api.post(f"/goim/push/{path}", data=b"x")

        assert (200, f'{{"code":-400,"message":"{message}"}}'.encode()) == (answer.status, answer.raw)
        assert [] == await stored(api)


async def test_what_cannot_be_kept_is_a_bad_request(api: Place) -> None:
    for path in [
        "all?operation=1000&operation=1001",
        "room?operation=1000&type=live&type=group&room=1",
        "all?operation=-1",
        "room?operation=1000&type=live&room=a&room=b",
        "room?operation=1000&type=LIVE&room=1",
        "all?operation=1000&durable=2",
        "room?operation=1000&type=live&room=%00",
        "room?operation=1000&type=live&room=a%20b",
        "room?operation=1000&type=live&room=%FF",
        "room?operation=1000&type=live&room=" + "x" * 129,
        "keys?operation=1000&keys=%00",
        "keys?operation=1000&keys=" + "k" * 129,
        "mids?operation=0&mids=1",
        "mids?mids=1",
        "keys?operation=1000&keys=a%0Ab",
        "all?operation=1000&durable=false",
        "mids?operation=1000&mids=" + "9" * 5000,
        "all?operation=1000&durable=1&durable=0",
    ]:
        answer = await api.post(f"/goim/push/{path}", data=b"x")

        assert (200, -400) == (answer.status, answer.json["code"])
        assert {"code", "message"} == answer.json.keys()
        assert [] == await stored(api)


async def test_a_body_at_the_limit_passes_and_one_above_does_not(api: Place) -> None:
    limit = api.settings.goim_body_bytes_max

    async def chunks() -> object:
        for _ in range(9):
            yield b"x" * 512

    assert (await api.post("/goim/push/all?operation=1000", data=b"x" * limit)).raw == DONE
    above = await api.post("/goim/push/all?operation=1000", data=b"x" * (limit + 1))
    chunked = await api.post("/goim/push/all?operation=1000", data=chunks())
    assert [-400, -400] == [above.json["code"], chunked.json["code"]]
    assert 1 == len(await stored(api))


async def test_a_push_whose_outcome_is_unknown_fails_as_goims_do(api: Place) -> None:
    for task in api.tasks:
        task.cancel()
    await api.log.drain()

    answer = await api.post("/goim/push/all?operation=1000", data=b"x")

    assert (200, -500) == (answer.status, answer.json["code"])


# --- online ---


async def opened(api: Place, mid: int, key: str, room: str, address: str) -> None:
    await api.pool.execute(
        """INSERT INTO nodes (node, hostname, address, tcp_port, ws_port, wss_port, region, weight, connections, addresses,
             started_at, lease_until, lease_s)
           VALUES ('n', 'n', '', 0, 0, 0, '', 1, 0, 0, now(), now() + interval '1 hour', 3600) ON CONFLICT DO NOTHING"""
    )
    await api.append(
        commands.open_session(mid, key, node="n", platform="web", address=address, rooms=[room], protocol="v1")
    )


async def test_online_is_counted_as_goim_counts(api: Place) -> None:
    await opened(api, 1, "a", "live://10", "10.0.0.1")
    await opened(api, 2, "b", "live://10", "10.0.0.1")
    await opened(api, 3, "c", "live://<9&>", "10.0.0.2")
    await opened(api, 4, "d", "group://10", "10.0.0.2")
    await api.followed()

    top = await api.get("/goim/online/top?type=live&limit=2")
    rooms = await api.get("/goim/online/room?type=live&rooms=11&rooms=10&rooms=%3C9%26%3E&rooms=10")
    total = await api.get("/goim/online/total")

    escaped = rb"\u003c9\u0026\u003e"
    assert (
        b'{"code":0,"message":"","data":[{"room_id":"10","count":2},{"room_id":"%b","count":1}]}' % escaped == top.raw
    )
    assert b'{"code":0,"message":"","data":{"10":2,"11":0,"%b":1}}' % escaped == rooms.raw
    assert total.raw == b'{"code":0,"message":"","data":{"conn_count":4,"ip_count":2}}'


async def test_nobody_online_is_empty_and_not_absent(api: Place) -> None:
    assert (await api.get("/goim/online/top?type=live&limit=2")).raw == b'{"code":0,"message":"","data":[]}'
    assert (await api.get("/goim/online/total")).raw == b'{"code":0,"message":"","data":{"conn_count":0,"ip_count":0}}'


async def test_bad_questions_about_who_is_online(api: Place) -> None:
    for path in [
        "top",
        "top?type=live",
        "top?limit=1",
        "top?type=live&limit=0",
        "top?type=live&limit=-1",
        "top?type=live&limit=x",
        "top?type=live&limit=9223372036854775808",
        "top?type=%00&limit=1",
        "room?type=live",
        "room?rooms=1",
        "top?type=a&type=b&limit=1",
        "room?type=live&rooms=%00",
        "room?type=live&rooms=%FF",
    ]:
        answer = await api.get(f"/goim/online/{path}")

        assert (200, -400) == (answer.status, answer.json["code"])


# --- nodes ---


async def test_nodes_are_told_as_goim_tells_them(api: Place) -> None:
    api.nodes.append(node("comet-1", address="192.0.2.1,192.0.2.2"))

    app = await api.get("/goim/nodes/weighted?platform=android")
    web = await api.get("/goim/nodes/weighted?platform=web")

    figures = (
        b'"tcp_port":3101,"ws_port":3102,"wss_port":3103,"heartbeat":240,"nodes":%b,'
        b'"backoff":{"max_delay":300,"base_delay":3,"factor":1.8,"jitter":0.3},"heartbeat_max":2'
    )
    start = b'{"code":0,"message":"","data":{"domain":"192.0.2.1",'
    assert start + figures % b'["192.0.2.1","192.0.2.2"]' + b"}}" == app.raw
    assert start + figures % b'["comet-1"]' + b"}}" == web.raw


async def test_what_is_advertised_goes_before_what_is_listened_on(database_url: str) -> None:
    told = {
        "domain": "conn.example.com",
        "host_domain": ".example.com",
        "wss_port": 443,
        "tcp_port": 8080,
        "ws_port": 80,
    }
    async with serving(database_url, advertise=told, heartbeat_s=60, heartbeat_misses=3) as api:
        nobody = (await api.get("/goim/nodes/weighted?platform=web")).json["data"]
        api.nodes.append(node("comet-1"))
        somebody = (await api.get("/goim/nodes/weighted?platform=web")).json["data"]

    assert ["conn.example.com"] == nobody["nodes"]
    assert ["comet-1.example.com"] == somebody["nodes"]
    assert ("conn.example.com", 8080, 80, 443, 60, 3) == tuple(
        somebody[name] for name in ("domain", "tcp_port", "ws_port", "wss_port", "heartbeat", "heartbeat_max")
    )


async def test_five_nodes_at_most_the_least_busy_first(api: Place) -> None:
    api.nodes += [node(f"n{n}", connections=100 * n) for n in range(8)]

    told = (await api.get("/goim/nodes/weighted?platform=web")).json["data"]["nodes"]

    assert ["n0", "n1", "n2", "n3", "n4"] == told


async def test_instances_are_told_as_discovery_tells_them(api: Place) -> None:
    api.nodes.append(
        node("c", region="sh", connections=7, addresses=5, lease_until=datetime(2026, 1, 1, tzinfo=UTC), wss_port=0)
    )

    assert (await api.get("/goim/nodes/instances")).raw == (
        b'{"code":0,"message":"","data":[{"region":"sh","zone":"","env":"","appid":"goim.comet","hostname":"c",'
        b'"addrs":["tcp://10.0.0.1:3101","ws://10.0.0.1:3102"],"version":"","latest_timestamp":1767225600000000000,'
        b'"metadata":{"addrs":"10.0.0.1","conn_count":"7","ip_count":"5","node":"c","offline":"false","weight":"10"}}]}'
    )


# --- who may ---

ROUTES = [
    ("POST", "/goim/push/keys?operation=1000&keys=a"),
    ("POST", "/goim/push/mids?operation=1000&mids=1"),
    ("POST", "/goim/push/room?operation=1000&type=live&room=1"),
    ("POST", "/goim/push/all?operation=1000"),
    ("GET", "/goim/online/top?type=live&limit=1"),
    ("GET", "/goim/online/room?type=live&rooms=1"),
    ("GET", "/goim/online/total"),
    ("GET", "/goim/nodes/weighted"),
    ("GET", "/goim/nodes/instances"),
]


async def test_with_tokens_only_services_speak_goim(guarded: Place) -> None:
    for method, path in ROUTES:
        service = await guarded.ask(method, path)
        person = await guarded.ask(method, path, mid=7)
        expired = await guarded.ask(method, path, headers=bearer(service="x", expires_in_s=-60))
        nobody = await guarded.ask(method, path, headers={"Authorization": ""})

        assert [200, 403, 401, 401] == [service.status, person.status, expired.status, nobody.status]
        assert ["forbidden", "unauthenticated", "unauthenticated"] == [person.code, expired.code, nobody.code]
        assert service.json["code"] == 0
        assert nobody.headers["WWW-Authenticate"] == "Bearer"


async def test_a_service_pushes_what_its_token_names(guarded: Place) -> None:
    limited = bearer(service="x", rooms=["live://1"], ops=[1000])
    statuses = [
        (await guarded.post(f"/goim/push/{path}", headers=limited)).status
        for path in (
            "room?operation=1000&type=live&room=1",
            "room?operation=1000&type=live&room=2",
            "room?operation=1001&type=live&room=1",
            "all?operation=1001",
        )
    ]

    assert [200, 403, 403, 403] == statuses


async def test_a_person_of_an_open_server_does_not_push(api: Place) -> None:
    assert (await api.post("/goim/push/all?operation=1000", mid=7)).status == 403
