"""What moves the bytes: a WebSocket by aiohttp, or a TCP connection. Thin: they know nothing of packets.

A carrier gives what arrives as bytes that a codec understands (a frame, or any part of a stream) and b"" at the end, after which
`close_code` says what a WebSocket gave as its reason. Nothing is read that nobody asked for: who does not call `read` makes the other
side wait, after some hundred KiB.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp

from imcore.client.codec import REPLY_BYTES_MAX, BinaryCodec, Codec, JsonCodec

READ_BYTES: Final = 1 << 18
SCHEMES: Final = frozenset({"ws", "wss", "tcp", "tcps"})


class Carrier(Protocol):
    """One connection."""

    close_code: int | None

    async def write(self, packets: list[bytes]) -> None:
        """Write these. Raises ConnectionError when the connection is gone."""

    async def read(self) -> bytes:
        """What came next; b"" is the end."""

    async def close(self) -> None:
        """End, in order if the other side answers. Doing it again does nothing. Nothing is open afterwards, also where it was cancelled
        because the other side does not answer, or takes nothing of what was written."""


class HandshakeRefused(Exception):
    """An HTTP answer where a WebSocket was asked for."""

    def __init__(self, status: int, retry_after_s: float, text: str) -> None:
        self.status = status
        self.retry_after_s = retry_after_s
        super().__init__(f"HTTP {status} {text}".strip())


def check_url(url: str) -> str:
    """The address, if there is a carrier for it. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise ValueError(f"{url!r} is not an address such as wss://host/ws or tcps://host:3101")
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no address: {error}") from None
    if parts.scheme in ("tcp", "tcps") and not port:
        raise ValueError(f"{url!r} names no port")
    return url


def codec_for(url: str) -> Codec:
    """The form that is spoken there: JSON on a WebSocket, the binary one over TCP."""
    return JsonCodec() if urlsplit(url).scheme in ("ws", "wss") else BinaryCodec()


async def connect(url: str, tls: ssl.SSLContext | None) -> Carrier:
    """A new connection. Raises OSError, aiohttp.ClientError or HandshakeRefused."""
    parts = urlsplit(url)
    if parts.scheme in ("tcp", "tcps"):
        context = (tls or ssl.create_default_context()) if parts.scheme == "tcps" else None
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context, limit=READ_BYTES)
        return TcpCarrier(reader, writer)
    http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))  # the caller has a deadline for all of it
    try:
        return WebSocketCarrier(await http.ws_connect(url, ssl=tls or True, max_msg_size=REPLY_BYTES_MAX), http)
    except aiohttp.WSServerHandshakeError as error:
        await http.close()
        after = "" if error.headers is None else error.headers.get("Retry-After", "")
        raise HandshakeRefused(error.status, float(after) if after.isdigit() else 0.0, error.message) from None
    except BaseException:
        await http.close()
        raise


class WebSocketCarrier:
    """A WebSocket whose text frames are packets."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, http: aiohttp.ClientSession) -> None:
        self._socket, self._http = socket, http
        self._transport: asyncio.Transport | None = getattr(getattr(socket, "_writer", None), "transport", None)
        self.close_code: int | None = None

    async def write(self, packets: list[bytes]) -> None:
        """A frame each."""
        try:
            for packet in packets:
                await self._socket.send_frame(packet, aiohttp.WSMsgType.TEXT)
        except (aiohttp.ClientError, RuntimeError) as error:
            raise ConnectionError(str(error)) from None

    async def read(self) -> bytes:
        """The next text frame."""
        message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            text: str = message.data
            return text.encode()
        if message.type is aiohttp.WSMsgType.BINARY:
            raise ConnectionError("a binary frame, where JSON is spoken")
        self.close_code = self._socket.close_code
        return b""

    async def close(self) -> None:
        """With a close frame."""
        try:
            with suppress(aiohttp.ClientError, OSError):
                await self._socket.close()
        finally:
            if self._transport is not None:
                self._transport.abort()  # else it waits for what was written to be taken, and that may be never
            await self._http.close()


class TcpCarrier:
    """Packets back to back."""

    close_code: int | None = None  # there is none: op 6 says it

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def write(self, packets: list[bytes]) -> None:
        """All at once."""
        self._writer.write(b"".join(packets))
        await self._writer.drain()

    async def read(self) -> bytes:
        """What is there."""
        return await self._reader.read(READ_BYTES)

    async def close(self) -> None:
        """Say that nothing more comes."""
        self._writer.close()
        try:
            with suppress(OSError):
                await self._writer.wait_closed()
        finally:
            self._writer.transport.abort()  # as above
