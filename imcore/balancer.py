"""Which comets a new client is told, by goim's rule: weight against current connections, more for the client's own region.

A comet's figures come with its lease, some seconds old. Until the next ones, each client that was told it first counts as one of its
connections, so that a storm of clients is spread and does not follow stale figures to one comet.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from imcore.config import Advertise
from imcore.nodes import AliveNode

NODES_MAX: Final = 5
REGION_GAIN: Final = 1.6
WEIGHT_MIN: Final = 1
WEIGHT_MAX: Final = 1 << 20
WEB: Final = "web"  # the platform that is told names, because of the certificate
BACKOFF: Final[Mapping[str, float]] = {"max_delay": 300, "base_delay": 3, "factor": 1.8, "jitter": 0.3}  # goim's hints


class Balancer:
    """Chooses comets. Pure but for the count of whom it told since each comet's last figures."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[datetime, int]] = {}

    def choose(self, nodes: Sequence[AliveNode], region: str) -> list[AliveNode]:
        """Up to five comets, the best first."""
        self._told = {node.node: self._kept(node) for node in nodes}
        connections = {node.node: node.connections + self._told[node.node][1] for node in nodes}
        total_weight, total_connections = sum(node.weight for node in nodes), sum(connections.values())

        def weight(node: AliveNode) -> int:
            gain = REGION_GAIN if node.region == region else 1.0
            return current_weight(node.weight, gain, connections[node.node], total_weight, total_connections)

        ranked = sorted(nodes, key=lambda node: (-weight(node), connections[node.node], node.node))
        if ranked:
            until, told = self._told[ranked[0].node]
            self._told[ranked[0].node] = until, told + 1
        return ranked[:NODES_MAX]

    def _kept(self, node: AliveNode) -> tuple[datetime, int]:
        until, told = self._told.get(node.node, (node.lease_until, 0))
        return (until, told) if until == node.lease_until else (node.lease_until, 0)


class Directions(NamedTuple):
    """Where a client should connect to, the best first. Ports are those of the first, 0 where there is none; `comets` are the hosts
    with the ports of each."""

    domain: str
    tcp_port: int
    ws_port: int
    wss_port: int
    hosts: list[str]
    comets: list[tuple[str, int, int, int]]


def directions(chosen: Sequence[AliveNode], platform: str, advertise: Advertise) -> Directions:
    """What a client of this platform is told of the comets that were chosen for it."""
    first = chosen[0] if chosen else None
    domain = advertise.domain or (addresses(first)[0] if first else socket.gethostname())
    comets = [
        (
            host,
            advertise.tcp_port or node.tcp_port,
            advertise.ws_port or node.ws_port,
            advertise.wss_port or node.wss_port,
        )
        for node in chosen
        for host in ([node.hostname + advertise.host_domain] if platform == WEB else addresses(node))
    ]
    return Directions(
        domain,
        advertise.tcp_port or (first.tcp_port if first else 0),
        advertise.ws_port or (first.ws_port if first else 0),
        advertise.wss_port or (first.wss_port if first else 0),
        [host for host, *_ in comets] or [domain],
        comets,
    )


def addresses(node: AliveNode) -> list[str]:
    """The hosts that lead to a comet, for clients that need no certificate of its name."""
    return [address for address in node.address.split(",") if address] or [node.hostname]


def current_weight(fixed: int, gain: float, connections: int, total_weight: int, total_connections: int) -> int:
    """goim's formula, to the rounding: the share by weight less half the share by connections, times all connections."""
    weight = fixed * gain
    total_weight += int(weight) - fixed
    if total_connections <= 0 or total_weight <= 0:
        return 0
    difference = weight / total_weight - connections / total_connections * 0.5
    multiple = difference * total_connections
    floor = math.floor(multiple)
    current = int(weight + (floor if floor - multiple >= -0.5 else math.ceil(multiple)))
    return max(WEIGHT_MIN, current) if difference < 0 else min(WEIGHT_MAX, current)
