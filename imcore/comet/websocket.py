"""The WebSocket carrier: aiohttp takes the HTTP request and the upgrade, then the socket is ours.

After the handshake the transport gets a protocol of our own, so that frames are read in the call that brings them and written as
shared bytes, and aiohttp's request, task and parser are let go: an idle connection costs a third. The frames are checked as RFC 6455
wants (aiohttp 3.14 lets unmasked frames pass, and new messages inside fragmented ones).

The trap: bytes that came with the handshake are in aiohttp's hands. `set_parser` is its way to hand them over.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, hdrs, web

from imcore.comet.connection import Connection
from imcore.comet.encode import JSON_WS, V1_WS
from imcore.comet.tcp import TransportCarrier
from imcore.errors import BadPacket, ImcoreError, InvalidText, PacketTooLarge
from imcore.protocol import binary, text, websocket
from imcore.proxies import client_address, may_connect

if TYPE_CHECKING:
    from imcore.comet.server import Comet

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class WebSocketCarrier(TransportCarrier):
    """One WebSocket client."""

    __slots__ = ("frames", "is_text")

    def __init__(self, comet: Comet, address: str, *, is_text: bool, origin: str = "") -> None:
        super().__init__(comet)
        self.origin = origin
        self.is_text = is_text
        self.frames = websocket.FrameDecoder(comet.settings.packet_bytes_max, TEXT if is_text else BINARY)
        self.address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The upgrade is done."""
        address = self.address
        super().connection_made(transport)
        self.address = address  # as the request told it: there may be a proxy between
        self.connection = Connection(self.comet, self, is_text=self.is_text, codec=JSON_WS if self.is_text else V1_WS)

    def take(self, data: bytes) -> None:
        """Frames, or parts of some."""
        connection = self.connection
        if connection is None or self.closing:
            self.ignore(data)
            return
        packet_bytes_max = self.comet.settings.packet_bytes_max
        for opcode, payload in self.frames.feed(data):
            if opcode == TEXT and self.is_text:
                try:
                    op, seq, value = text.decode(payload)
                except ImcoreError as error:
                    connection.end(error)
                    return
                connection.take_text(op, seq, value, payload)
            elif opcode == BINARY and not self.is_text:
                try:
                    packets = binary.decode_frame(payload, packet_bytes_max)
                except ImcoreError as error:
                    connection.end(error)
                    return
                connection.take_packets(packets)
            elif opcode in (PING, PONG):
                connection.heard_at = self.comet.now()
                # A ping beyond the limit of frames stays without its pong: nobody is made to talk by shouting.
                if opcode == PING and connection.has_token():
                    self.write(websocket.pong(payload))
            elif opcode == CLOSE:
                connection.flush_replies()
                connection.finish("closed")
                self._answer_close(payload)
                return
            if connection.is_ended:
                return
        if self.frames.error is not None:
            code, reason = self.frames.error
            connection.flush_replies()
            connection.finish({1009: PacketTooLarge.code, 1007: InvalidText.code}.get(code, BadPacket.code))
            self.close(code, reason)

    def _answer_close(self, payload: bytes) -> None:
        if self.transport is not None and not self.closing:
            self.transport.write(websocket.frame(CLOSE, payload[:2]))
            self.closing = True
            self.transport.close()

    def close(self, code: int, reason: str) -> None:
        """Send what waits and a close frame, and end."""
        if self.transport is not None and not self.closing:
            self.transport.write(websocket.close_frame(code, reason))
            super().close(code, reason)


class _Handover:
    """Takes from aiohttp the bytes that followed the handshake."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        return


def _refused(comet: Comet, error: ImcoreError) -> web.HTTPException:
    kind = web.HTTPTooManyRequests if error.status == 429 else web.HTTPServiceUnavailable
    wait_s = max(1, -(-comet.returns.delay_ms(error, comet.now()) // 1000))
    return kind(text=f"{error.detail}\n", headers={hdrs.RETRY_AFTER: str(wait_s), hdrs.CONNECTION: "close"})


def _asks_for_websocket(request: web.Request) -> bool:
    """RFC 6455, 4.2.1. Without the word in Connection, or in another version of HTTP, Upgrade means nothing (RFC 9110, 7.8)."""
    headers = request.headers
    options = ",".join(headers.getall(hdrs.CONNECTION, ())).lower().split(",")
    return (
        request.method == "GET"
        and request.version == HttpVersion11
        and headers.get(hdrs.UPGRADE, "").strip().lower() == "websocket"
        and "upgrade" in (option.strip() for option in options)
    )


async def accept(request: web.Request, comet: Comet, *, is_text: bool) -> web.StreamResponse:
    """Turn an HTTP request into a WebSocket connection of the comet.

    Refusals are HTTP answers (400, 403, 426, 429, 503), given before anything is kept.
    """
    headers = request.headers
    address = client_address(request.remote or "", headers.getall("X-Forwarded-For", ()), comet.trusted)
    refusal = comet.refusal(address)
    if refusal is not None:
        raise _refused(comet, refusal)
    refusal = comet.too_often(address)
    if refusal is not None:
        over = asyncio.Event()
        comet.keep_waiting(over.set)
        await over.wait()
        raise _refused(comet, refusal)
    refusal = comet.crowded()
    if refusal is not None:
        raise _refused(comet, refusal)
    if not may_connect(headers.get(hdrs.ORIGIN), headers.get(hdrs.HOST, ""), comet.settings.origins):
        raise web.HTTPForbidden(text="pages of this origin may not connect\n")
    if not _asks_for_websocket(request):
        raise web.HTTPUpgradeRequired(text="this address speaks WebSocket\n", headers={hdrs.UPGRADE: "websocket"})
    if hdrs.TRANSFER_ENCODING in headers or headers.get(hdrs.CONTENT_LENGTH, "0") != "0":
        raise web.HTTPBadRequest(text="a handshake has no body\n")  # and what follows it is frames, not the rest of one
    if headers.get(hdrs.SEC_WEBSOCKET_VERSION) != "13":
        raise web.HTTPUpgradeRequired(
            text="only WebSocket version 13 is spoken here\n", headers={hdrs.SEC_WEBSOCKET_VERSION: "13"}
        )
    key = ",".join(headers.getall(hdrs.SEC_WEBSOCKET_KEY, ()))  # twice is once too often
    try:
        websocket.check_key(key)
    except ImcoreError as error:
        raise web.HTTPBadRequest(text=f"{error.detail}\n") from None
    response = web.StreamResponse(
        status=101,
        headers={
            hdrs.UPGRADE: "websocket",
            hdrs.CONNECTION: "Upgrade",
            hdrs.SEC_WEBSOCKET_ACCEPT: websocket.accept_key(key),
        },
    )
    try:
        await response.prepare(request)
    except ConnectionResetError:
        return response  # the client left during the handshake, and aiohttp finds that out by itself
    transport = request.transport
    if transport is None:
        return response
    protocol = request.protocol
    early = _Handover()
    protocol.set_parser(early)  # type: ignore[arg-type]
    carrier = WebSocketCarrier(comet, address, is_text=is_text, origin=headers.get(hdrs.ORIGIN, ""))
    transport.set_protocol(carrier)
    # aiohttp is told that the connection is lost, so that it lets everything of it go; but not to close the socket.
    protocol.transport = None
    protocol.connection_lost(None)
    carrier.connection_made(transport)
    transport.resume_reading()
    if early.data:
        carrier.data_received(early.data)
    return response
