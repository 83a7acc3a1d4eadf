"""Addresses that stay somebody's own while nobody listens there.

A server that is killed and started again at its addresses must find them free. But it had them from the kernel, which gives a port
that nobody listens at to the next who connects to anywhere: to another test's client, or to this one's own, which tries to come back
and then speaks to itself.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def kept(count: int) -> Iterator[list[str]]:
    """So many addresses (host:port) which the kernel gives to nobody while the block runs. Who listens there sets SO_REUSEADDR.

    Each is bound and never listens, so that a connection to it is refused until somebody does.
    """
    with ExitStack() as stack:
        addresses = []
        for _ in range(count):
            place = stack.enter_context(socket.socket())
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(("127.0.0.1", 0))
            addresses.append(f"127.0.0.1:{place.getsockname()[1]}")
        yield addresses
