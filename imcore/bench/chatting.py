"""What accounts and rooms cost: people who log in, people who log out, and a room with very many in it."""

from __future__ import annotations

import random
import socket
import statistics
import threading
import time
import uuid
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

import orjson

from imcore.bench import logins
from imcore.bench.asking import Asking, WrongAnswer, percentile, room_path
from imcore.bench.figures import Figure, Outcome, at_least, at_most
from imcore.bench.load import load
from imcore.bench.logins import Counted, logging_in
from imcore.bench.measuring import GROUP_ROOM, LIVE_ROOM, Bench, Run, twice, window
from imcore.bench.server import Server, serve
from imcore.protocol import binary
from imcore.protocol.packet import PACKET_BYTES_MAX, Op

STEADY: Final = 22.0  # logins a second: a tenth more than must be answered
STORM: Final = 500
QUICK_STORM: Final = 200  # several times what can be let in, too
MUST: Final = 20.0
REFUSED_MS_MAX: Final = 250.0
REVOKED_S_MAX: Final = 2.0
LOOK_S: Final = 0.005
UNREVOKED: Final = 30.0  # so many seconds after a logout something is wrong
READ_BYTES: Final = 65_536
OWNER: Final = 1
FIRST_JOINER: Final = 2_000_000
INBOX_OWNER: Final = 7_000_000
FEW: Final = 10


def login(bench: Bench) -> Outcome:
    """Messages to a room, alone and beside people who log in, with Argon2id as it comes: so many that all are let in, and so many that
    most are refused. Alone is measured before and after, because machines have moods."""
    people = bench.size(200, 5)
    faults: list[str] = []
    with serve(bench.folder) as server:
        logins.register(server.http, people)
        alone, _ = _listen(bench, server, 1, people, 0)
        steady, let_in = _listen(bench, server, 1_000_000, people, STEADY)
        storm, stormed = _listen(bench, server, 2_000_000, people, bench.size(STORM, QUICK_STORM))
        again, _ = _listen(bench, server, 3_000_000, people, 0)
        faults += server.faults()
    assert let_in is not None, "people logged in"
    assert stormed is not None, "people logged in"
    for run in (alone, steady, storm, again):
        faults += run.report.faults() + run.report.delivery_faults(run.report.acked)
    faults += let_in.faults() + stormed.faults()
    if not stormed.refused:
        faults.append("nobody was refused, so there was no storm")
    before = max((alone.report, again.report), key=lambda report: report.delivery_ms.p99)
    acked = max((alone.report, again.report), key=lambda report: report.ack_ms.p99)
    figures = (
        at_least("logins", let_in.ok_per_s, "/s", MUST),
        at_most("refused, without a storm", 100 * let_in.refused / let_in.offered, "%", 0),
        Figure("p50 of a login", let_in.ok_p50_ms, "ms"),
        Figure("p99 of a login", let_in.ok_p99_ms, "ms"),
        *twice("deliveries", before.delivery_ms, steady.report.delivery_ms, whom="beside logins"),
        *twice("sends", acked.ack_ms, steady.report.ack_ms, whom="beside logins"),
        Figure("offered in the storm", stormed.offered / stormed.seconds, "/s"),
        at_least("logins in the storm", stormed.ok_per_s, "/s", MUST),
        Figure("refused in the storm", 100 * stormed.refused / stormed.offered, "%"),
        Figure("p50 of a refusal", stormed.refused_p50_ms, "ms"),
        at_most("p99 of a refusal", stormed.refused_p99_ms, "ms", REFUSED_MS_MAX),
        *twice("deliveries", before.delivery_ms, storm.report.delivery_ms, whom="in the storm", times_max=3)[1:],
        *twice("sends", acked.ack_ms, storm.report.ack_ms, whom="in the storm", times_max=3)[1:],
        *(
            Figure(f"server CPU {when}", 100 * run.usage.server_cpu_s / run.report.window_s, "%")
            for when, run in (("alone", alone), ("beside logins", steady), ("in the storm", storm))
        ),
    )
    reports = (alone.report, steady.report, let_in, storm.report, stormed, again.report)
    return Outcome(figures, tuple(faults), reports)


def _listen(bench: Bench, server: Server, first_mid: int, people: int, rate: float) -> tuple[Run, Counted | None]:
    """Messages to people in a room, while so many a second log in."""
    with load(
        "ws", server.port("ws"),
        clients=bench.size(500, 50) + 1, first_mid=first_mid, senders=1, rate=25, room=LIVE_ROOM, connect_rate=500,
        warm_up=bench.size(4, 1), seconds=bench.size(20, 1),
    ) as client, ExitStack() as beside:  # fmt: skip
        client.wait_for("ready")
        others = beside.enter_context(logging_in(server.http, people, rate)) if rate else None
        client.wait_for("measuring")
        before = server.usage()
        client.wait_for("measured")
        used = server.usage().since(before)
        counted = None if others is None else others.stop()
        return Run(client.report(), used), counted


def revocation(bench: Bench) -> Outcome:
    """Somebody with a connection to two comets logs out: how long after the answer is each closed, and the token refused by another
    process? One of these has a comet, which follows the log; one has none, and looks at the rows."""
    rounds = bench.size(40, 4)
    ended = _Ended([], [], [], [])
    with (
        serve(bench.folder) as host,  # of the database: those that share one ring each other's bell
        serve(bench.folder, *host.sharing) as server,
        serve(bench.folder, *host.sharing) as other,
        serve(bench.folder, *host.sharing, "--roles", "api") as door,
    ):
        logins.register(server.http, 1)
        for _ in range(rounds):
            _log_out(server, other, door, ended)
        faults = [fault for one in (host, server, other, door) for fault in one.faults()]
    figures = (
        at_most("connection closed, same process", max(ended.here_s), "s", REVOKED_S_MAX),
        at_most("connection closed, another comet", max(ended.there_s), "s", REVOKED_S_MAX),
        at_most("request refused, another comet", max(ended.asked_s), "s", REVOKED_S_MAX),
        at_most("request refused, no comet", max(ended.asked_door_s), "s", REVOKED_S_MAX),
        Figure("p50 of closed, another comet", 1000 * statistics.median(ended.there_s), "ms"),
        Figure("p50 of refused, no comet", 1000 * statistics.median(ended.asked_door_s), "ms"),
        Figure("logouts", rounds, ""),
    )
    return Outcome(figures, tuple(faults))


class _Ended(NamedTuple):
    """Seconds from each logout's answer until it was so; below zero if it was so before."""

    here_s: list[float]
    there_s: list[float]
    asked_s: list[float]
    asked_door_s: list[float]


def _log_out(server: Server, other: Server, door: Server, ended: _Ended) -> None:
    """One login, two connections with it, and its end."""
    with Asking(server.http) as asking, Asking(other.http) as elsewhere, Asking(door.http) as at_door:
        name = logins.names(1)[0]
        granted = asking.ask("POST", "/v1/login", {"login": name, "password": logins.PASSWORD, "key": "phone"}).body
        token = granted["token"]
        for one in (elsewhere, at_door):
            one.ask("GET", "/v1/account", token=token)
        here = _Line(server.port("tcp"), granted["auth"])
        there = _Line(other.port("tcp"), {**granted["auth"], "key": "tablet"})
        asking.ask("POST", "/v1/logout", {}, token=token)
        said_at = time.monotonic()
        refusals = [_Refusal(one, token) for one in (elsewhere, at_door)]
        for watched, into in (
            (here, ended.here_s),
            (there, ended.there_s),
            (refusals[0], ended.asked_s),
            (refusals[1], ended.asked_door_s),
        ):
            into.append(watched.ended() - said_at)


class _Watched(threading.Thread):
    """Something that ends, and when it did."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._at = 0.0

    def run(self) -> None:
        self._wait()
        self._at = time.monotonic()

    def ended(self) -> float:
        """When, on the monotonic clock. Raises WrongAnswer if it does not end."""
        self.join(UNREVOKED)
        if not self._at:
            raise WrongAnswer(f"a token was good for {UNREVOKED:.0f} s after its logout")
        return self._at

    def _wait(self) -> None:
        raise NotImplementedError


class _Line(_Watched):
    """A connection of a person over TCP, until it is closed."""

    def __init__(self, port: int, auth: dict[str, object]) -> None:
        super().__init__()
        self._socket = socket.create_connection(("127.0.0.1", port), UNREVOKED)
        self._decoder = binary.Decoder(PACKET_BYTES_MAX)
        self._socket.sendall(binary.encode(2, Op.AUTH, 1, orjson.dumps(auth)))
        if Op.AUTH_REPLY not in self._read():
            raise WrongAnswer("a token that was just given is not let in")
        self.start()

    def _read(self) -> list[int]:
        """The operations of what came; none at the end."""
        while data := self._socket.recv(READ_BYTES):
            if ops := [packet.op for packet in self._decoder.feed(data)]:
                return ops
        return []

    def _wait(self) -> None:
        with self._socket, suppress(ConnectionError):
            while ops := self._read():
                if Op.DISCONNECT in ops:
                    return


class _Refusal(_Watched):
    """Asks with a token again and again, until that is refused."""

    def __init__(self, asking: Asking, token: str) -> None:
        super().__init__()
        self._asking, self._token = asking, token
        self.start()

    def _wait(self) -> None:
        while self._asking.ask("GET", "/v1/account", token=self._token, may_be=(401,)).status != 401:
            time.sleep(LOOK_S)


def big_room(bench: Bench) -> Outcome:
    """The same things done in a room of very many and in one of ten; and a person who is in very many rooms."""
    from imcore.bench import crowd  # asyncpg and the log: the other scenarios do without

    people, rooms = bench.size(100_000, 2_000), bench.size(1_000, 50)
    tries = bench.size(200, 10)
    big, small = GROUP_ROOM + "big", GROUP_ROOM + "small"
    faults: list[str] = []
    with serve(bench.folder) as server, Asking(server.http) as asking:
        url = server.database_url
        crowd.create_rooms(url, [big, small], OWNER)
        started = time.monotonic()
        crowd.join(url, big, range(OWNER + 1, OWNER + people))
        filled_s = time.monotonic() - started
        crowd.join(url, small, range(OWNER + 1, OWNER + FEW))
        crowd.settle(url)
        sends = {room: _Sends([], []) for room in (big, small)}
        for _ in range(bench.size(3, 1)):  # in turns, so that what else the machine does is the same for both
            for room, costs in sends.items():
                run = window(
                    server, "tcp",
                    first_mid=OWNER, senders=1, room=room, warm_up=bench.size(1, 0), seconds=bench.size(5, 1),
                )  # fmt: skip
                faults += run.report.faults()
                used = run.usage.server_cpu_s + run.usage.postgres_cpu_s
                costs.ack_ms.append(run.report.ack_ms.p50)
                costs.cpu_us.append(1e6 * used / max(1, run.report.window_acked))
        joins: dict[str, list[float]] = {big: [], small: []}
        for mid in range(FIRST_JOINER, FIRST_JOINER + tries):
            for room, took in joins.items():
                took.append(asking.ask("POST", f"{room_path(room)}/join", {}, mid=mid).ms)
        pages = {limit: _pages(asking, big, people, limit, tries) for limit in (100, 500)}
        inbox = _inbox(bench, server, asking, rooms)
        faults += server.faults()
    ack, cpu = ({room: statistics.median(costs[n]) for room, costs in sends.items()} for n in (0, 1))
    joined = {room: statistics.median(took) for room, took in joins.items()}
    figures = (
        Figure(f"p50 of a send among {people:,}", ack[big], "ms"),
        Figure("p50 of a send among 10", ack[small], "ms"),
        at_most("p50 of a send, times as long", ack[big] / ack[small], "×", 1.5),
        Figure(f"CPU of a send among {people:,}", cpu[big], "µs"),
        Figure("CPU of a send among 10", cpu[small], "µs"),
        at_most("CPU of a send, times as much", cpu[big] / cpu[small], "×", 1.5),
        Figure(f"p50 of a join among {people:,}", joined[big], "ms"),
        Figure("p50 of a join among 10", joined[small], "ms"),
        at_most("p50 of a join, times as long", joined[big] / joined[small], "×", 1.5),
        *(
            at_most(f"p99 of a page of {limit} members", percentile(took, 0.99), "ms", 20)
            for limit, took in pages.items()
        ),
        at_most(f"p50 of an inbox of {rooms:,} rooms, one query", statistics.median(inbox), "ms", 50),
        Figure("p99 of it", percentile(inbox, 0.99), "ms"),
        Figure("joins while the room filled", people / filled_s, "/s"),
    )
    return Outcome(figures, tuple(faults))


class _Sends(NamedTuple):
    ack_ms: list[float]
    cpu_us: list[float]


def _pages(asking: Asking, room: str, people: int, limit: int, tries: int) -> list[float]:
    """Milliseconds of each of some pages of the list of members, from anywhere in it."""
    took = []
    for _ in range(tries):
        after = random.randrange(max(1, people - limit))
        answer = asking.ask("GET", f"{room_path(room)}/members?after={after}&limit={limit}", mid=OWNER)
        if len(answer.body["members"]) != limit:
            raise WrongAnswer(f"a page has {len(answer.body['members'])} members, not {limit}")
        took.append(answer.ms)
    return took


def _inbox(bench: Bench, server: Server, asking: Asking, rooms: int) -> list[float]:
    """Milliseconds of the query for the whole inbox of a person in so many rooms, all of them unread, and named in each."""
    from imcore.bench import crowd

    prefix, url = "group://inbox-", server.database_url
    crowd.create_rooms(url, [f"{prefix}{n}" for n in range(rooms)], INBOX_OWNER, [INBOX_OWNER + 1])
    with load(
        "tcp", server.port("tcp"),
        clients=rooms, senders=rooms, window=1, room=prefix, rooms=rooms, sends=3 * rooms, first_mid=INBOX_OWNER + 2, seconds=60,
        connect_rate=500,
    ) as client:  # fmt: skip
        if faults := client.report().faults():
            raise WrongAnswer("; ".join(faults))
    for n in range(rooms):
        said: dict[str, object] = {"id": str(uuid.uuid4()), "body": "you", "mentions": [INBOX_OWNER]}
        asking.ask("POST", f"{room_path(f'{prefix}{n}')}/messages", said, mid=INBOX_OWNER + 1)
    crowd.settle(url)
    return crowd.inbox_ms(url, INBOX_OWNER, rooms, bench.size(60, 10))
