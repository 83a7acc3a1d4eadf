"""What comes before a WebSocket: HTTP as it should not be, and who may say where it comes from."""

from __future__ import annotations

import pytest

from badinput.conftest import STRICT, Place
from badinput.wire import (
    AUTH,
    HEARTBEAT,
    JOIN,
    KEY,
    PROTOCOL_ERROR,
    SUB2,
    TCP1,
    WS,
    Form,
    assert_broken,
    assert_closed,
    claim,
    dialled,
    head_of,
    packed,
    touched,
    upgrade,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")
sockets = pytest.mark.parametrize("form", [SUB2, WS], ids=str)

HEADERS_MAX = 128
FIELD_BYTES_MAX = 8_190


def request(*more: str, line: str = "GET /ws HTTP/1.1", without: str = "none") -> bytes:
    """A handshake with another first line, without one of its headers, and with others."""
    usual = (
        "Host: badinput",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
    )
    kept = [header for header in usual if not header.startswith(without)]
    return "\r\n".join((line, *kept, *more, "", "")).encode("latin-1")


def instead(header: str) -> bytes:
    """A handshake in which this header is another."""
    return request(header, without=header.partition(":")[0])


REFUSED: dict[str, tuple[int, bytes]] = {
    "version 8": (426, instead("Sec-WebSocket-Version: 8")),
    "version 14": (426, instead("Sec-WebSocket-Version: 14")),
    "two versions": (426, instead("Sec-WebSocket-Version: 13, 8")),
    "no version": (426, request(without="Sec-WebSocket-Version")),
    "no key": (400, request(without="Sec-WebSocket-Key")),
    "key of 15 bytes": (400, instead("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA")),
    "key of 17 bytes": (400, instead("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=")),
    "key that is no base64": (400, instead("Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==")),
    "key that is no ASCII": (400, instead("Sec-WebSocket-Key: \xff\xfe")),
    "two keys": (400, request(f"Sec-WebSocket-Key: {KEY}")),
    "POST": (426, request(line="POST /ws HTTP/1.1")),
    "POST that says it is GET": (426, request("X-HTTP-Method-Override: GET", line="POST /ws HTTP/1.1")),
    "HEAD": (426, request(line="HEAD /ws HTTP/1.1")),
    "a method that is none": (400, request(line="JOIN /ws HTTP/1.1")),
    "HTTP/1.0": (426, request(line="GET /ws HTTP/1.0")),
    "HTTP/0.9": (426, b"GET /ws\r\n\r\n"),
    "HTTP/2.0 in words": (426, request(line="GET /ws HTTP/2.0")),
    "HTTP/1.2": (400, request(line="GET /ws HTTP/1.2")),
    "no Upgrade": (426, request(without="Upgrade")),
    "another Upgrade": (426, instead("Upgrade: h2c")),
    "no Connection": (426, request(without="Connection")),
    "Connection: close": (426, instead("Connection: close")),
    "Connection: xupgrade": (426, instead("Connection: xupgrade")),
    "no Host": (400, request(without="Host")),
    "two Hosts": (400, request("Host: other")),
    "control character in the Host": (400, instead("Host: bad\x01input")),
    "page of another site": (403, request("Origin: http://evil.example")),
    "page whose name ends in ours": (403, request("Origin: http://evil-badinput")),
    "page of our host's subdomain": (403, request("Origin: http://evil.badinput")),
    "page without a name": (403, request("Origin: null")),
    "page of another scheme": (403, request("Origin: file://badinput")),
    "Origin that is no URL": (403, request("Origin: http://[")),
    "Host that is no host, with an Origin": (403, request("Host: [::1", "Origin: http://badinput", without="Host")),
    "129 headers": (400, request(*(f"X-{n}: 1" for n in range(HEADERS_MAX - 4)))),
    "a header above the limit": (400, request("X: " + "a" * (FIELD_BYTES_MAX + 1))),
    "a first line above the limit": (400, request(line=f"GET /ws?{'a' * FIELD_BYTES_MAX} HTTP/1.1")),
    "NUL in a header": (400, request("X: a\x00b")),
    "NUL in the path": (400, request(line="GET /ws\x00 HTTP/1.1")),
    "blank in the path": (400, request(line="GET /w s HTTP/1.1")),
    "a header folded": (400, request("X: a\r\n b")),
    "a header without a name": (400, request(": a")),
    "a header without a colon": (400, request("Xa")),
    "blank before the colon": (400, request("X : a")),
    "lines without CR": (400, request().replace(b"\r\n", b"\n")),
    "length and chunks": (400, request("Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    "chunks": (400, request("Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\n\r\n"),
    "chunks that never come": (400, request("Transfer-Encoding: chunked")),
    "an unknown coding": (400, request("Transfer-Encoding: xchunked")),
    "a body": (400, request("Content-Length: 1") + b"a"),
    "a body that never comes": (400, request("Content-Length: 1000000")),
    "two lengths": (400, request("Content-Length: 0", "Content-Length: 1")),
    "a length below 0": (400, request("Content-Length: -1")),
    "an absolute URI with an impossible port": (400, request(line="GET http://badinput:99999/ws HTTP/1.1")),
    "an absolute URI that is none": (400, request(line="GET http://[::1/ws HTTP/1.1")),
    "another expectation": (417, request("Expect: a miracle")),
    "no such path": (404, request(line="GET /nowhere HTTP/1.1")),
    "a path above ours": (404, request(line="GET /../ws HTTP/1.1")),
    "two slashes": (404, request(line="GET //ws HTTP/1.1")),
    "CONNECT": (404, request(line="CONNECT badinput:80 HTTP/1.1")),
    "OPTIONS *": (404, request(line="OPTIONS * HTTP/1.1")),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)),
    "goim's packets": (400, packed(AUTH, 1, b'{"mid":1}')),
    "garbage": (400, bytes(range(256)) * 4),
    "a colour for the terminal": (400, b"\x1b[31mGET\x1b[0m /ws HTTP/1.1\r\n\r\n"),
}


@pytest.mark.parametrize(("status", "said"), REFUSED.values(), ids=REFUSED)
async def test_a_bad_handshake_is_refused(place: Place, status: int, said: bytes) -> None:
    async with touched(place.where.ws, WS) as line:
        line.put(said)

        assert status == await head_of(line)


async def test_what_is_no_http_fills_no_log(place: Place) -> None:
    """aiohttp would write a traceback for each of them, and anybody can send one."""
    before = sum(log.stat().st_size for log in place.logs)
    for status, said in REFUSED.values():
        async with touched(place.where.ws, WS) as line:
            line.put(said)
            assert status == await head_of(line)

    assert sum(log.stat().st_size for log in place.logs) - before < 100 * len(REFUSED)


TAKEN: dict[str, bytes] = {
    "as usual": request(),
    "other words in Connection": instead("Connection: Keep-Alive,UPGRADE , x"),
    "two Connections": request("Connection: x"),
    "Upgrade in capitals": instead("Upgrade: WebSocket"),
    "extensions and subprotocols, which are not agreed to": request(
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "Sec-WebSocket-Protocol: chat"
    ),
    "another Host": instead("Host: other.example:99999"),
    "a page of this host": request("Origin: http://badinput"),
    "a page of this machine": request("Origin: http://localhost:8000"),
    "128 headers": request(*(f"X-{n}: 1" for n in range(HEADERS_MAX - 5))),
    "an absolute URI": request(line="GET http://other.example/ws HTTP/1.1"),
    "a path with escapes": request(line="GET /%77s HTTP/1.1"),
    "a query": request(line="GET /ws?token=%00%zz&mid='+OR+1=1 HTTP/1.1"),
    "empty lines before it": b"\r\n\r\n" + request(),
    "a length of 0": request("Content-Length: 0"),
}


@pytest.mark.parametrize("said", TAKEN.values(), ids=TAKEN)
async def test_an_odd_handshake_is_taken(place: Place, said: bytes) -> None:
    async with touched(place.where.ws, WS) as line:
        line.put(said)
        assert 101 == await head_of(line)
        line.has_version = True

        assert not (await line.ask(AUTH, claim(place.new_mid()))).code


@sockets
async def test_frames_in_the_segment_of_the_handshake_are_taken(place: Place, form: Form) -> None:
    """As many as may wait for the auth, with the last one in half."""
    assert form.path is not None
    async with touched(place.where.ws, form) as line:
        asked = line.encoded(AUTH, 1, claim(place.new_mid())) + line.encoded(JOIN, 2, {"room": place.new_room()})
        last = line.encoded(HEARTBEAT, 3)
        line.put(upgrade(form.path) + asked + last[:5])
        assert 101 == await head_of(line)
        assert [AUTH + 1, JOIN + 1] == [reply.op for reply in await line.replies(2)]

        line.put(last[5:])

        assert [3] == [reply.seq for reply in await line.replies(1)]


@sockets
async def test_a_bad_frame_in_the_segment_of_the_handshake_ends_the_connection(place: Place, form: Form) -> None:
    assert form.path is not None
    async with touched(place.where.ws, form) as line:
        line.put(upgrade(form.path) + b"\x81\x00")
        assert 101 == await head_of(line)

        await assert_broken(line, PROTOCOL_ERROR)


@sockets
async def test_the_handshake_may_come_in_pieces(place: Place, form: Form) -> None:
    assert form.path is not None
    async with touched(place.where.ws, form) as line:
        for octet in upgrade(form.path) + line.encoded(AUTH, 1, claim(place.new_mid())):
            await line.push(bytes((octet,)))

        assert 101 == await head_of(line)
        assert [AUTH + 1] == [reply.op for reply in await line.replies(1)]


async def test_a_request_before_the_handshake_is_answered_before_it(place: Place) -> None:
    """In one segment: two requests, the handshake, the auth."""
    async with touched(place.where.ws, WS) as line:
        nowhere = b"GET /nowhere HTTP/1.1\r\nHost: badinput\r\n\r\n"
        line.put(nowhere + nowhere + request() + line.encoded(AUTH, 1, claim(place.new_mid())))

        for status in (404, 404, 101):
            assert status == await head_of(line)
            if status == 404:
                await line.reader.readexactly(len("404: Not Found"))
        assert [AUTH + 1] == [reply.op for reply in await line.replies(1)]


async def test_a_request_after_the_handshake_is_no_frame(place: Place) -> None:
    async with touched(place.where.ws, WS) as line:
        line.put(request() + request())
        assert 101 == await head_of(line)

        await assert_broken(line, PROTOCOL_ERROR)


async def test_a_second_try_on_the_same_socket_may_succeed(place: Place) -> None:
    """A refusal is an answer, and the socket is good for another request."""
    async with touched(place.where.ws, WS) as line:
        line.put(instead("Sec-WebSocket-Key: short"))
        assert 400 == await head_of(line)
        await line.reader.readline()
        line.put(request())

        assert 101 == await head_of(line)
        assert not (await line.ask(AUTH, claim(place.new_mid()))).code


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Client-IP", "True-Client-IP"])
async def test_nobody_says_that_it_has_another_address(strict: Place, header: str) -> None:
    """As many strangers as one address may have, each with an address that it made up: the next one is refused all the same."""
    strangers = STRICT["unauthenticated_per_address_max"]
    async with dialled(strict.where, TCP1), dialled(strict.where, WS, f"{header}: 203.0.113.1"):
        async with dialled(strict.where, SUB2, f"{header}: 203.0.113.2") as third:
            assert 3 == strangers
            async with touched(strict.where.ws, WS) as line:
                line.put(upgrade("/ws", f"{header}: 203.0.113.3"))
                assert 429 == await head_of(line)
            async with touched(strict.where.tcp) as line:
                assert [] == (await assert_closed(line, "too_many_connections")).packets
            assert not (await third.ask(AUTH, claim(strict.new_mid()))).code
