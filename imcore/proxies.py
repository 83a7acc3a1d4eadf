"""Who is at the other end of an HTTP request: the address behind trusted proxies, and the page that a browser runs.

X-Forwarded-For is believed from the right, hop by hop, as long as each hop is a trusted proxy: what a client puts in itself stands
further left and is never reached. Origin is compared exactly, never by parts; a request without one comes from no page, and no cookie
is ever read here, so it passes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TypeAlias
from urllib.parse import urlsplit

Networks: TypeAlias = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


def networks(named: Iterable[str]) -> Networks:
    """Networks by their names, which the settings have checked."""
    return [ipaddress.ip_network(name) for name in named]


def client_address(peer: str, forwarded: Sequence[str], trusted: Networks) -> str:
    """The address of the client: the peer, or, if that is a trusted proxy, the nearest hop before it that is not.

    `forwarded` are the X-Forwarded-For headers in their order.
    """
    hops = [hop.strip() for header in forwarded for hop in header.split(",")]
    address = peer
    while hops and _is_in(address, trusted):
        hop = hops.pop()
        try:
            address = str(ipaddress.ip_address(hop))
        except ValueError:
            break
    return address


def subnet(address: str) -> str:
    """What limits of an address are counted for: an IPv4 address itself; of IPv6 the first 64 bits, of which one client has all."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64))


def may_connect(origin: str | None, host: str, allowed: Sequence[str]) -> bool:
    """May a page of this origin open a connection? Without a list: pages of this very host, and of this machine."""
    if origin is None or "*" in allowed:
        return True
    origin = origin.lower()
    if allowed:
        return origin in allowed
    try:
        parts = urlsplit(origin)
        name = parts.hostname
        own = urlsplit(f"//{host.lower()}").hostname
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and name is not None and (name in LOOPBACK or name == own)


def _is_in(address: str, trusted: Networks) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)
