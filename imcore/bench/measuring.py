"""What scenarios share: what each is told and called, a measured window, and figures that several of them have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from imcore.bench.figures import Figure, Outcome, at_most
from imcore.bench.load import Carrier, Report, Times, load
from imcore.bench.processes import Usage
from imcore.bench.server import Server

KIB: Final = 1024
MIB: Final = 1024 * 1024
LIVE_ROOM: Final = "live://bench"
GROUP_ROOM: Final = "group://bench-"


@dataclass(frozen=True, slots=True)
class Bench:
    """What every scenario is told: whether to be quick, and where to put its data."""

    quick: bool
    folder: Path

    def size(self, full: int, quick: int) -> int:
        """How many, or how long."""
        return quick if self.quick else full


class Scenario(NamedTuple):
    """A name for the command line, a line of help, and what to do."""

    name: str
    text: str
    run: Callable[[Bench], Outcome]


class Run(NamedTuple):
    """What a load client said, and what the server used in its measured window."""

    report: Report
    usage: Usage


def window(server: Server, carrier: Carrier, **options: str | float) -> Run:
    """One load client, and what the server used in its measured window."""
    with load(carrier, server.port(carrier), **options) as client:
        client.wait_for("measuring")
        before = server.usage()
        client.wait_for("measured")
        used = server.usage().since(before)
        return Run(client.report(), used)


def maybe_at_most(name: str, value: float, unit: str, limit: float | None) -> Figure:
    """A figure that is better when it is lower, or one that only informs."""
    return Figure(name, value, unit) if limit is None else at_most(name, value, unit, limit)


def costs(
    used: Usage, count: int, what: str, clients_cpu_s: float | None = None, *, server_us_max: float | None = None
) -> tuple[Figure, ...]:
    """CPU a message, of each who took part, and the server's memory."""
    each = 1e6 / max(1, count)
    return (
        maybe_at_most(f"server CPU per {what}", used.server_cpu_s * each, "µs", server_us_max),
        Figure(f"Postgres CPU per {what}", used.postgres_cpu_s * each, "µs"),
        *(() if clients_cpu_s is None else (Figure(f"clients' CPU per {what}", clients_cpu_s * each, "µs"),)),
        Figure("peak memory", used.peak_bytes / MIB, "MiB"),
    )


def twice(what: str, alone: Times, beside: Times, *, whom: str = "beside", times_max: float = 2) -> tuple[Figure, ...]:
    """How much longer it takes beside others, at most twice as long, or as is said."""
    return (
        Figure(f"p99 of {what} alone", alone.p99, "ms"),
        Figure(f"p99 of {what} {whom}", beside.p99, "ms"),
        at_most(f"p99 of {what} {whom}, times as long", beside.p99 / max(alone.p99, 1e-3), "×", times_max),
    )
