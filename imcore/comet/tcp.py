"""The TCP carrier: packets back to back."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

from imcore.comet.connection import Connection
from imcore.comet.encode import V1_TCP
from imcore.protocol.binary import Decoder

if TYPE_CHECKING:
    from imcore.comet.server import Comet


IGNORED_BYTES_MAX: Final = 1 << 18  # of a client that goes on after it was told that this is the end
TAKEN_BYTES: Final = 8_192  # decoded at a time


class TransportCarrier(asyncio.Protocol):
    """What TCP and WebSocket have in common: a transport, its limits, and its end."""

    __slots__ = ("address", "closing", "comet", "connection", "ignored", "origin", "transport")

    def __init__(self, comet: Comet) -> None:
        self.comet = comet
        self.address = ""
        self.origin = ""
        self.closing = False
        self.ignored = 0
        self.transport: asyncio.Transport | None = None
        self.connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket is there."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=self.comet.settings.unsent_bytes_max)
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else ""

    def data_received(self, data: bytes) -> None:
        """Bytes from the client. The loop reads a quarter of a megabyte at a time; of what a shouting client writes, that is sixteen
        thousand packets, and its end comes after a few hundred. The others should not wait for all of them to be decoded."""
        if len(data) <= TAKEN_BYTES:
            self.take(data)
        else:
            for at in range(0, len(data), TAKEN_BYTES):
                self.take(data[at : at + TAKEN_BYTES])

    def take(self, data: bytes) -> None:
        """The next bytes from the client, not too many."""
        raise NotImplementedError

    def eof_received(self) -> None:
        """The client leaves. What is written from now on may go nowhere, so nothing more counts as taken."""
        if self.connection is not None:
            self.connection.finish("closed")

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        self.closing = True
        if self.connection is not None:
            self.connection.finish("lost" if error is not None else "closed")
            self.comet.gone(self.connection)
        self.transport = None
        self.connection = None

    def pause_writing(self) -> None:
        """More is unsent than a connection may have."""
        if self.connection is not None and not self.closing:
            self.connection.socket_full()

    def resume_writing(self) -> None:
        """The socket took enough of it."""
        if self.connection is not None and not self.closing:
            self.connection.socket_free()

    def ignore(self, data: bytes) -> None:
        """Something came after the end. Reading on would let a client that shouts go on with it."""
        self.ignored += len(data)
        if self.ignored > IGNORED_BYTES_MAX and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def write(self, data: bytes) -> None:
        """Take bytes to be sent; never blocks."""
        if self.transport is not None and not self.closing:
            self.transport.write(data)

    def held(self) -> int:
        """How many bytes wait in this process."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def unsent(self) -> int:
        """How many bytes the client's end has not taken yet: what waits here, and what the kernel holds.

        The kernel is asked because it takes megabytes at a time and then nothing until a third of them is gone: whoever reads slowly
        would seem to stand still.
        """
        if self.transport is None:
            return 0
        held = 0
        with suppress(OSError):  # where sockets cannot be asked
            queue = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
            held = int.from_bytes(queue, sys.byteorder)
        return self.transport.get_write_buffer_size() + held

    def has_taken_all(self) -> bool:
        """Has the socket taken every byte that was written? One that broke has thrown away what waited, and its buffer is empty."""
        transport = self.transport
        return transport is not None and not transport.is_closing() and transport.get_write_buffer_size() == 0

    def close(self, code: int, reason: str) -> None:
        """Send what waits, and end. The client is heard (and ignored) until it closes its side: closing a socket with unread bytes
        would reset it, and the client would never see what was said last. The comet aborts those that do not."""
        if self.transport is not None and not self.closing:
            self.closing = True
            self.transport.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            else:
                self.transport.close()

    def abort(self) -> None:
        """End now; what waits is lost."""
        if self.transport is not None:
            self.closing = True
            self.transport.abort()

    def pause_reading(self) -> None:
        """Take nothing more from the client for now."""
        if self.transport is not None and not self.closing:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if self.transport is not None and not self.closing:
            self.transport.resume_reading()


class TcpCarrier(TransportCarrier):
    """One TCP client."""

    __slots__ = ("decoder",)

    def __init__(self, comet: Comet) -> None:
        super().__init__(comet)
        self.decoder = Decoder(comet.settings.packet_bytes_max)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket is there; it may be refused at once."""
        super().connection_made(transport)
        refusal = self.comet.refusal(self.address)
        if refusal is None and self.comet.too_often(self.address) is not None:
            # Nothing of it is read, so nothing is kept for it but the socket.
            self.pause_reading()
            self.comet.keep_waiting(self.abort)
            return
        self.connection = Connection(self.comet, self, is_text=False, codec=V1_TCP)
        if refusal is not None:
            self.connection.end(refusal)

    def take(self, data: bytes) -> None:
        """Packets, or the beginnings of some."""
        connection = self.connection
        if connection is None or self.closing:
            self.ignore(data)
            return
        packets = self.decoder.feed(data)
        if packets:
            connection.take_packets(packets)
        if self.decoder.error is not None:
            connection.end(self.decoder.error)
