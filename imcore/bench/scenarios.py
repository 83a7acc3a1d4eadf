"""What is measured: one function a scenario, from a `Bench` to an `Outcome`.

Each has a server of its own on an empty database, so none is helped or hurt by those before it. A scenario whose
clients fail, whose sends are refused or whose messages do not all arrive has faults, and then its figures count for
nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final

from imcore.bench import chatting
from imcore.bench.figures import Figure, Outcome, at_least, at_most
from imcore.bench.load import Carrier, Report, load
from imcore.bench.measuring import (
    GROUP_ROOM,
    KIB,
    LIVE_ROOM,
    MIB,
    Bench,
    Run,
    Scenario,
    costs,
    maybe_at_most,
    twice,
    window,
)
from imcore.bench.misbehaving import misbehaving
from imcore.bench.probe import LOOK_S, Presence, Probe, mids
from imcore.bench.processes import Usage, tree
from imcore.bench.server import Server, ServerFailed, serve

RECOVER_S: Final = 60


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
        *costs(done.usage, done.events, "event"),
    )
    return Outcome(figures, (f"{done.refused} events were refused",) if done.refused else ())


def _send(bench: Bench, carrier: Carrier, rate_min: float, p99_ms_max: float | None = None) -> Outcome:
    with serve(bench.folder) as server:
        run = window(
            server, carrier,
            clients=256, senders=256, window=4, room=GROUP_ROOM, rooms=256,
            warm_up=bench.size(2, 0), seconds=bench.size(10, 1),
        )  # fmt: skip
        faults = run.report.faults() + server.faults()
    times = run.report.ack_ms
    figures = (
        at_least("acknowledged sends", run.report.acked_per_s, "/s", rate_min),
        Figure("p50", times.p50, "ms"),
        maybe_at_most("p99", times.p99, "ms", p99_ms_max),
        *costs(run.usage, run.report.window_acked, "send", run.report.window_cpu_s),
    )
    return Outcome(figures, tuple(faults), (run.report,))


def _send_one(bench: Bench) -> Outcome:
    with serve(bench.folder) as server:
        run = window(
            server, "ws", senders=1, room=GROUP_ROOM, rooms=1, warm_up=bench.size(1, 0), seconds=bench.size(5, 1)
        )
        faults = run.report.faults() + server.faults()
    times = run.report.ack_ms
    figures = (
        at_most("p50", times.p50, "ms", 0.8),
        Figure("p99", times.p99, "ms"),
        Figure("acknowledged sends", run.report.acked_per_s, "/s"),
        *costs(run.usage, run.report.window_acked, "send", run.report.window_cpu_s),
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
        run = window(
            server, carrier,
            clients=clients + 1, senders=1, rate=rate, room=LIVE_ROOM, connect_rate=2000,
            warm_up=bench.size(2, 0), seconds=bench.size(seconds, 2),
        )  # fmt: skip
        faults = run.report.faults() + run.report.delivery_faults(run.report.acked) + server.faults()
    times, delivered = run.report.delivery_ms, run.report.window_delivered
    figures = (
        maybe_at_most("p50", times.p50, "ms", p50_ms_max),
        maybe_at_most("p99", times.p99, "ms", p99_ms_max),
        Figure("deliveries", run.report.delivered_per_s, "/s"),
        Figure("bytes per read", run.report.window_bytes / max(1, run.report.window_reads), "B"),
        *costs(run.usage, delivered, "delivery", run.report.window_cpu_s, server_us_max=cpu_us_max),
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
        *costs(used, clients, "connection", report.cpu_s),
    )
    return Outcome(figures, tuple(faults), (report,))


def _overload(bench: Bench) -> Outcome:
    """Clients in a room, alone and then beside a hundred that flood it, stall in it and storm the door. Every limit is as it comes; but
    in a quick run the machine may let in fewer a second than come, and all of them from one address."""
    clients, seconds = bench.size(1_000, 100), bench.size(15, 2)
    runs: list[Run] = []
    counted: dict[str, int] = {}
    lenient = ("--set", "unauthenticated_per_address_max=1000") if bench.quick else ()
    with serve(bench.folder, *lenient, rate_limits=True) as server:
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
                runs.append(Run(client.report(), used))
        faults = [fault for run in runs for fault in run.report.faults()]
        faults += server.faults()
    if not counted.get("authenticated"):
        faults.append("nobody misbehaved")
    alone, beside = runs
    figures = (
        *twice("deliveries", alone.report.delivery_ms, beside.report.delivery_ms),
        *twice("sends", alone.report.ack_ms, beside.report.ack_ms),
        Figure("server CPU alone", 100 * alone.usage.server_cpu_s / alone.report.window_s, "%"),
        Figure("server CPU beside", 100 * beside.usage.server_cpu_s / beside.report.window_s, "%"),
        Figure("peak memory", beside.usage.peak_bytes / MIB, "MiB"),
        *(Figure(f"misbehaving: {name}", float(count), "") for name, count in sorted(counted.items())),
    )
    return Outcome(figures, tuple(faults), (alone.report, beside.report))


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
        *costs(used, back.delivered, "event", back.cpu_s),
    )
    return Outcome(figures, tuple(faults), (joined, stored, back))


def _comeback(bench: Bench, *, at_once: bool, back_s_max: float) -> Outcome:
    """Devices whose comets are killed, all at once, come back and catch up; others go on sending to their rooms from another one."""
    devices, rooms = bench.size(10_000, 200), bench.size(100, 10)
    rate, sends = bench.size(20, 10), bench.size(1_000, 60)
    before_s = bench.size(4, 1)  # so that nobody's cursor is the one that it began with
    with serve(bench.folder, "--workers", "2") as others, ExitStack() as comets:
        database = ("--workers", "2", "--database-url", others.database_url)
        comet = comets.enter_context(serve(bench.folder, *database))
        with load(
            "json", comet.port("json"),
            clients=devices, devices="device-", at_once=at_once, room=GROUP_ROOM, rooms=rooms, connect_rate=300, ready_within=180,
            until=sends * devices // rooms, seconds=bench.size(180, 60),
        ) as crowd:  # fmt: skip
            crowd.wait_for("measuring")
            with load(
                "json", others.port("json"),
                clients=rooms, senders=rooms, rate=rate, sends=sends, room=GROUP_ROOM, rooms=rooms, first_mid=1_000_000,
                seconds=sends / rate + 30,
            ) as speakers:  # fmt: skip
                speakers.wait_for("measuring")
                time.sleep(before_s)
                comet.kill()
                killed_at = time.monotonic()
                comet = comets.enter_context(serve(bench.folder, *database, *comet.addresses))
                down_s = time.monotonic() - killed_at
                before = _beside(comet, others)
                crowd.wait_for("back")
                used = _beside(comet, others).since(before)
                said = speakers.report()
            crowd.wait_for("measured")
            back = crowd.report()
        faults = back.device_faults(sends // rooms) + said.faults() + comet.faults() + others.faults()
    if back.closes < devices:
        faults.append(f"only {back.closes} of {devices} devices were cut off")
    figures = (
        at_most("all back and caught up", back.all_back_s, "s", back_s_max),
        Figure("nobody to connect to", down_s, "s"),
        Figure("p50 of a device", back.away_ms.p50 / 1000, "s"),
        Figure("p99 of a device", back.away_ms.p99 / 1000, "s"),
        Figure("tries of a device", back.tries / devices, ""),
        Figure("others' sends, p50", said.ack_ms.p50, "ms"),
        Figure("others' sends, p99", said.ack_ms.p99, "ms"),
        *costs(used, devices, "comeback"),
    )
    return Outcome(figures, tuple(faults), (back, said))


def _beside(comet: Server, others: Server) -> Usage:
    """What a comet has used, and the Postgres that it shares."""
    return comet.usage()._replace(postgres_cpu_s=others.usage().postgres_cpu_s)


def _stalled(bench: Bench) -> Outcome:
    """Members of a room stop reading; the others get each message as soon as without them, the server keeps little, and when they
    read again they get everything. Measured without them before and after, because machines have moods."""
    clients, rate, seconds = bench.size(100, 20), 100, bench.size(60, 3)
    sends, alone_s = rate * seconds, bench.size(20, 2)
    # So much in the time that the stalled fill the kernel's buffers and the server's, and are closed after behind_s.
    room: dict[str, str | float] = {"room": GROUP_ROOM, "rooms": 1, "body": 3000}
    with serve(bench.folder) as server:

        def healthy(first_mid: int, sends: int) -> Report:
            with load(
                "json", server.port("json"),
                clients=clients + 1, senders=1, rate=rate, sends=sends, seconds=sends / rate + 30, first_mid=first_mid, **room,
            ) as client:  # fmt: skip
                return client.report()

        alone = [healthy(1_000_000, rate * alone_s)]
        with load(
            "json", server.port("json"),
            clients=clients, devices="stalled-", stall=clients, receive_bytes=65_536, until=sends * clients,
            seconds=seconds + 180, **room,
        ) as client:  # fmt: skip
            client.wait_for("measuring")
            before = server.usage()
            beside = healthy(2_000_000, sends)
            after = server.usage()
            client.read_again()
            client.wait_for("measured")
            stalled = client.report()
        alone.append(healthy(3_000_000, rate * alone_s))
        faults = server.faults() + stalled.device_faults(sends)
    for report in (*alone, beside):
        faults += report.faults() + report.delivery_faults(report.acked)
    p99 = max(report.delivery_ms.p99 for report in alone)
    figures = (
        Figure("p99 without the stalled", p99, "ms"),
        Figure("p99 beside the stalled", beside.delivery_ms.p99, "ms"),
        at_most("beside against without", beside.delivery_ms.p99 / max(p99, 1e-6), "", 1.2),
        at_most("more memory", (after.peak_bytes - before.rss_bytes) / MIB, "MiB", 100),
        Figure("stalled that were closed and came back", stalled.closes, ""),
        Figure("repeated after coming back", stalled.repeated, "events"),
    )
    return Outcome(figures, tuple(faults), (*alone, beside, stalled))


def _recovery(bench: Bench) -> Outcome:
    """Postgres is killed, stopped, frozen and away, a comet is killed: how soon is all as before, and is anybody called offline who is
    not?"""
    people, rounds = bench.size(50, 10), bench.size(10, 2)
    lease_s = bench.size(15, 3)  # the first is the default
    lease = ("--set", f"node_lease_s={lease_s}")
    acked_s: list[float] = []
    outages_s: list[float] = []
    with (
        serve(bench.folder, *lease) as server,
        load("ws", server.port("ws"), clients=people, room=LIVE_ROOM, seconds=600) as there,
    ):
        there.wait_for("measuring")
        database = ("--database-url", server.database_url)
        with serve(bench.folder, *database, *lease) as comet, load(
            "ws", comet.port("ws"), clients=people, first_mid=500_000, room=LIVE_ROOM, seconds=600
        ) as doomed:  # fmt: skip
            doomed.wait_for("measuring")
            lost = Presence(server.http, mids(500_000, people))
            _until(lambda: lost.online() == set(mids(500_000, people)))
            with Presence(server.http, mids(1, people)) as present:
                killed_at = time.monotonic()
                comet.kill()
                offline_s = lost.until_offline(killed_at + 60) - killed_at
                probe = Probe(server.port("tcp"), 900_000, GROUP_ROOM + "0")
                for n in range(rounds):
                    probe.send(time.monotonic() + RECOVER_S)
                    acked, outage = _restart_postgres(server, probe, (signal.SIGKILL, signal.SIGQUIT)[n % 2])
                    acked_s.append(acked)
                    outages_s.append(outage)
                _freeze_postgres(server, lease_s + 3)
                probe.send(time.monotonic() + RECOVER_S)
                with server.without_postgres():
                    time.sleep(lease_s + 3)
                probe.send(time.monotonic() + RECOVER_S)
                time.sleep(bench.size(3, 1))  # whoever is called offline by mistake is so now
                probe.close()
            doomed.stop()
        there.stop()
        faults = there.report().faults() + server.faults()
    if not present.answers:
        faults.append("nobody could be asked who is online")
    figures = (
        at_most("first acknowledged send after Postgres is back", max(acked_s), "s", 5),
        Figure("without acknowledgements, at most", max(outages_s), "s"),
        at_most("sessions of a killed comet offline", offline_s, "s", lease_s + 2),
        at_most("somebody who is there called offline", present.offline_s, "s", 0),
        Figure("asked who is online", present.answers, "times"),
        Figure("without an answer", present.unanswered, "times"),
    )
    return Outcome(figures, tuple(faults))


def _restart_postgres(server: Server, probe: Probe, how: signal.Signals) -> tuple[float, float]:
    """End Postgres like this; imcore starts it again. Seconds from its being back to the first acknowledgement, and from the last
    one before to that."""
    before = server.postmaster()
    assert before is not None, "it runs"
    last = time.monotonic()
    os.kill(before, how)
    back = _Watch(lambda: server.running_url() is not None and server.postmaster() != before)
    with back:
        while True:
            acked = probe.send(time.monotonic() + RECOVER_S)
            if back.at and acked >= back.at:
                return acked - back.at, acked - last
            if not back.at:
                last = acked


def _freeze_postgres(server: Server, seconds: float) -> None:
    """Everybody who asks waits."""
    postmaster = server.postmaster()
    assert postmaster is not None, "it runs"
    frozen = tree(postmaster)
    for pid in frozen:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in frozen:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class _Watch:
    """Tells when something became so."""

    def __init__(self, is_so: Callable[[], bool]) -> None:
        self.at = 0.0
        self._is_so = is_so
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        _until(self._is_so)
        self.at = time.monotonic()


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RECOVER_S
    while not is_so():
        if time.monotonic() > deadline:
            raise ServerFailed("it did not become so in time")
        time.sleep(LOOK_S)


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
    Scenario(
        "comeback",
        "10,000 devices whose comet is killed come back, each after a random wait",
        partial(_comeback, at_once=False, back_s_max=20),
    ),
    Scenario("comeback-at-once", "the same without the wait", partial(_comeback, at_once=True, back_s_max=30)),
    Scenario("stalled", "100 clients that stop reading beside 100 that do not", _stalled),
    Scenario("recovery", "Postgres and a comet are killed", _recovery),
    Scenario("login", "messages beside 20 logins/s, and beside a storm of 500/s", chatting.login),
    Scenario("revocation", "from a logout to the end of its connections and requests", chatting.revocation),
    Scenario("room-100000", "sends, joins, lists and inboxes of a room of 100,000 members", chatting.big_room),
)
