"""What is measured: one function a scenario, from a `Bench` to an `Outcome`.

Each has a server of its own on an empty database, so none is helped or hurt by those before it. A scenario whose
clients fail, whose sends are refused or whose messages do not all arrive has faults, and then its figures count for
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from imcore.bench.figures import Figure, Outcome, at_least, at_most
from imcore.bench.load import Carrier, Report, Times, load
from imcore.bench.misbehaving import misbehaving
from imcore.bench.processes import Usage
from imcore.bench.server import Server, serve

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


def _append(bench: Bench) -> Outcome:
    from imcore.bench import append  # psutil, Alembic and the log: the other scenarios do without

    done = append.measure(
        bench.folder / "append",
        seconds=bench.size(10, 1),
        warm_up_s=bench.size(2, 0),
        batch_events=100,
        rooms=256,
    )
    figures = (
        at_least("events", done.events / done.seconds, "/s", 40_000),
        Figure("p50", done.p50_ms, "ms"),
        Figure("p99", done.p99_ms, "ms"),
        *_costs(done.usage, done.events, "event"),
    )
    return Outcome(figures, (f"{done.refused} events were refused",) if done.refused else ())


def _send(bench: Bench, carrier: Carrier, rate_min: float, p99_ms_max: float | None = None) -> Outcome:
    with serve(bench.folder) as server:
        run = _window(
            server, carrier,
            clients=256, senders=256, window=4, room=GROUP_ROOM, rooms=256,
            warm_up=bench.size(2, 0), seconds=bench.size(10, 1),
        )  # fmt: skip
        faults = run.report.faults() + server.faults()
    times = run.report.ack_ms
    figures = (
        at_least("acknowledged sends", run.report.acked_per_s, "/s", rate_min),
        Figure("p50", times.p50, "ms"),
        _at_most("p99", times.p99, "ms", p99_ms_max),
        *_costs(run.usage, run.report.window_acked, "send", run.report.window_cpu_s),
    )
    return Outcome(figures, tuple(faults), (run.report,))


def _send_one(bench: Bench) -> Outcome:
    with serve(bench.folder) as server:
        run = _window(
            server, "ws", senders=1, room=GROUP_ROOM, rooms=1, warm_up=bench.size(1, 0), seconds=bench.size(5, 1)
        )
        faults = run.report.faults() + server.faults()
    times = run.report.ack_ms
    figures = (
        at_most("p50", times.p50, "ms", 0.8),
        Figure("p99", times.p99, "ms"),
        Figure("acknowledged sends", run.report.acked_per_s, "/s"),
        *_costs(run.usage, run.report.window_acked, "send", run.report.window_cpu_s),
    )
    return Outcome(figures, tuple(faults), (run.report,))


def _fanout(
    bench: Bench,
    carrier: Carrier,
    clients: int,
    rate: float,
    *,
    seconds: int = 10,
    p50_ms_max: float | None = None,
    p99_ms_max: float | None = None,
    cpu_us_max: float | None = None,
) -> Outcome:
    """One sender's messages to everybody in a live room. The sender is one client more; its copies are not judged."""
    clients = bench.size(clients, max(100, clients // 10))
    with serve(bench.folder) as server:
        run = _window(
            server, carrier,
            clients=clients + 1, senders=1, rate=rate, room=LIVE_ROOM, connect_rate=2000,
            warm_up=bench.size(2, 0), seconds=bench.size(seconds, 2),
        )  # fmt: skip
        faults = run.report.faults() + run.report.delivery_faults(run.report.acked) + server.faults()
    times, delivered = run.report.delivery_ms, run.report.window_delivered
    figures = (
        _at_most("p50", times.p50, "ms", p50_ms_max),
        _at_most("p99", times.p99, "ms", p99_ms_max),
        Figure("deliveries", run.report.delivered_per_s, "/s"),
        Figure("bytes per read", run.report.window_bytes / max(1, run.report.window_reads), "B"),
        *_costs(run.usage, delivered, "delivery", run.report.window_cpu_s, server_us_max=cpu_us_max),
    )
    return Outcome(figures, tuple(faults), (run.report,))


def _storm(bench: Bench) -> Outcome:
    clients = bench.size(10_000, 500)
    with serve(bench.folder) as server:
        before = server.usage()
        with load("ws", server.port("ws"), clients=clients, room=LIVE_ROOM, ready_within=30) as client:
            client.wait_for("ready")
            used = server.usage().since(before)
            report = client.report()
        faults = report.faults() + server.faults()
    figures = (
        at_most("all ready", report.ready_s, "s", 5),
        Figure("p50 of connecting", report.connect_ms.p50, "ms"),
        Figure("p99 of connecting", report.connect_ms.p99, "ms"),
        *_costs(used, clients, "connection", report.cpu_s),
    )
    return Outcome(figures, tuple(faults), (report,))


def _overload(bench: Bench) -> Outcome:
    """Clients in a room, alone and then beside a hundred that flood it, stall in it and storm the door. Every limit is as it comes."""
    clients, seconds = bench.size(1_000, 100), bench.size(15, 2)
    runs: list[_Run] = []
    counted: dict[str, int] = {}
    with serve(bench.folder, rate_limits=True) as server:
        for crowd in (0, bench.size(100, 12)):
            with load(
                "ws", server.port("ws"),
                clients=clients + 1, first_mid=1 + 100_000 * crowd, senders=1, rate=25, room=LIVE_ROOM, connect_rate=50,
                warm_up=bench.size(5, 1), seconds=seconds,
            ) as client:  # fmt: skip
                client.wait_for("ready")
                with misbehaving(server.port("tcp"), LIVE_ROOM, crowd) as others:
                    client.wait_for("measuring")
                    before = server.usage()
                    client.wait_for("measured")
                    used = server.usage().since(before)
                    counted = others.stop()
                runs.append(_Run(client.report(), used))
        faults = [fault for run in runs for fault in run.report.faults()]
        faults += server.faults()
    if not counted.get("authenticated"):
        faults.append("nobody misbehaved")
    alone, beside = runs
    figures = (
        *_twice("deliveries", alone.report.delivery_ms, beside.report.delivery_ms),
        *_twice("sends", alone.report.ack_ms, beside.report.ack_ms),
        Figure("server CPU alone", 100 * alone.usage.server_cpu_s / alone.report.window_s, "%"),
        Figure("server CPU beside", 100 * beside.usage.server_cpu_s / beside.report.window_s, "%"),
        Figure("peak memory", beside.usage.peak_bytes / MIB, "MiB"),
        *(Figure(f"misbehaving: {name}", float(count), "") for name, count in sorted(counted.items())),
    )
    return Outcome(figures, tuple(faults), (alone.report, beside.report))


def _twice(what: str, alone: Times, beside: Times) -> tuple[Figure, ...]:
    """How much longer it takes when others misbehave."""
    return (
        Figure(f"p99 of {what} alone", alone.p99, "ms"),
        Figure(f"p99 of {what} beside", beside.p99, "ms"),
        at_most(f"p99 of {what}, times as long", beside.p99 / max(alone.p99, 1e-3), "×", 2),
    )


def _idle(bench: Bench) -> Outcome:
    """Memory of connections that do nothing, as growth over some that are there already and stay.

    So what the first ones load is not counted, and nothing that they gave back is filled again.
    """
    first, more = bench.size(500, 50), bench.size(5_000, 250)
    with serve(bench.folder) as server:
        port = server.port("ws")
        with load("ws", port, clients=first, room=LIVE_ROOM, seconds=120) as there:
            there.wait_for("measuring")
            before = _settled(server, bench)
            with load("ws", port, clients=more, first_mid=1_000_000, room=LIVE_ROOM, seconds=120) as client:
                client.wait_for("measuring")
                after = _settled(server, bench)
                client.stop()
                there.stop()
                reports = (there.report(), client.report())
        faults = reports[0].faults() + reports[1].faults() + server.faults()
    figures = (
        at_most("memory per connection", (after.rss_bytes - before.rss_bytes) / more / KIB, "KiB", 20),
        Figure("memory at first", before.rss_bytes / MIB, "MiB"),
        Figure("peak memory", after.peak_bytes / MIB, "MiB"),
    )
    return Outcome(figures, tuple(faults), reports)


def _settled(server: Server, bench: Bench) -> Usage:
    # Memory is a state, not a rate: what the connects left behind is given back, or is part of the price.
    time.sleep(bench.size(3, 1))
    return server.usage()


def _catch_up(bench: Bench) -> Outcome:
    """Members are away while their rooms fill; then all come back at once and receive everything, in order."""
    rooms, members, messages = 20, bench.size(100, 40), bench.size(100_000, 4_000)
    expected = messages * members // rooms
    with serve(bench.folder) as server:
        port = server.port("json")
        with load("json", port, clients=members, first_mid=1_000, room=GROUP_ROOM, rooms=rooms) as client:
            joined = client.report()
        with load(
            "json",
            port,
            clients=rooms,
            senders=rooms,
            window=32,
            room=GROUP_ROOM,
            rooms=rooms,
            sends=messages,
            seconds=120,
        ) as client:
            stored = client.report()
        before = server.usage()
        with load(
            "json", port,
            clients=members, first_mid=1_000, room=GROUP_ROOM, rooms=rooms, auth_extra=f'"cursor":"{joined.cursor}"',
            until=expected, seconds=bench.size(120, 20),
        ) as client:  # fmt: skip
            client.wait_for("measured")
            used = server.usage().since(before)
            back = client.report()
        faults = joined.faults() + stored.faults() + back.faults() + server.faults()
    if back.delivered != expected:
        faults.append(f"{back.delivered} of {expected} messages were delivered")
    if back.disordered:
        faults.append(f"{back.disordered} deliveries were repeated or out of order")
    figures = (
        # From the first connect to the last message: connecting is part of coming back.
        at_least("events", back.delivered / max(back.last_delivery_s, 1e-6), "/s", 50_000),
        Figure("all caught up", back.last_delivery_s, "s"),
        *_costs(used, back.delivered, "event", back.cpu_s),
    )
    return Outcome(figures, tuple(faults), (joined, stored, back))


SCENARIOS: Final = (
    Scenario("append", "events appended by one process in batches of 100", _append),
    Scenario(
        "send-tcp",
        "256 TCP clients, 4 sends in flight each",
        partial(_send, carrier="tcp", rate_min=40_000, p99_ms_max=50),
    ),
    Scenario("send-ws", "the same over WebSocket, goim's frames", partial(_send, carrier="ws", rate_min=35_000)),
    Scenario("send-json", "the same over WebSocket, JSON", partial(_send, carrier="json", rate_min=30_000)),
    Scenario("send-one", "one client, one send in flight", _send_one),
    Scenario(
        "fanout-ws",
        "40 messages/s to 1,000 WebSocket clients",
        partial(_fanout, carrier="ws", clients=1_000, rate=40, p50_ms_max=10, p99_ms_max=25, cpu_us_max=8),
    ),
    Scenario(
        "fanout-tcp",
        "100 messages/s to 5,000 TCP clients",
        partial(_fanout, carrier="tcp", clients=5_000, rate=100, p99_ms_max=250, cpu_us_max=0.85),
    ),
    Scenario(
        "fanout-small",
        "2 messages/s to 100 WebSocket clients",
        partial(_fanout, carrier="ws", clients=100, rate=2, seconds=15, p50_ms_max=5),
    ),
    Scenario("storm", "10,000 WebSocket clients connect at once", _storm),
    Scenario("overload", "1,000 clients in a room, alone and beside 100 that flood, stall and storm", _overload),
    Scenario("idle", "memory of idle WebSocket connections", _idle),
    Scenario("catchup", "stored events to clients that come back", _catch_up),
)


class _Run(NamedTuple):
    report: Report
    usage: Usage


def _window(server: Server, carrier: Carrier, **options: str | float) -> _Run:
    """One load client, and what the server used in its measured window."""
    with load(carrier, server.port(carrier), **options) as client:
        client.wait_for("measuring")
        before = server.usage()
        client.wait_for("measured")
        used = server.usage().since(before)
        return _Run(client.report(), used)


def _at_most(name: str, value: float, unit: str, limit: float | None) -> Figure:
    return Figure(name, value, unit) if limit is None else at_most(name, value, unit, limit)


def _costs(
    used: Usage, count: int, what: str, clients_cpu_s: float | None = None, *, server_us_max: float | None = None
) -> tuple[Figure, ...]:
    """CPU a message, of each who took part, and the server's memory."""
    each = 1e6 / max(1, count)
    return (
        _at_most(f"server CPU per {what}", used.server_cpu_s * each, "µs", server_us_max),
        Figure(f"Postgres CPU per {what}", used.postgres_cpu_s * each, "µs"),
        *(() if clients_cpu_s is None else (Figure(f"clients' CPU per {what}", clients_cpu_s * each, "µs"),)),
        Figure("peak memory", used.peak_bytes / MIB, "MiB"),
    )
