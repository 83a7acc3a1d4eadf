"""Which comets a new client is told, by goim's rule: weight against current connections, more for the client's own region.

A comet's figures come with its lease, some seconds old. Until the next ones, each client that was told it first counts as one of its
connections, so that a storm of clients is spread and does not follow stale figures to one comet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from imcore.nodes import AliveNode

NODES_MAX: Final = 5
REGION_GAIN: Final = 1.6
WEIGHT_MIN: Final = 1
WEIGHT_MAX: Final = 1 << 20


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
