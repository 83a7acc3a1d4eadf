"""The benchmarks tell the truth about what they measure: what is refused is no success, and what is missing is a fault."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from imcore.bench import run
from imcore.bench.chatting import REVOKED_S_MAX
from imcore.bench.figures import Must
from imcore.bench.load import Report, compiler, load, program
from imcore.bench.processes import usage
from imcore.errors import BadConfiguration
from imcore.protocol import binary
from imcore.protocol.packet import PACKET_BYTES_MAX, Op


@pytest.fixture(autouse=True)
def _load_client() -> None:
    """A machine of ours has a compiler; one without skips, and CI may not."""
    if compiler() is None:
        reason = "there is no C compiler (cc) to build the load client with"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def test_the_load_client_compiles_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    first = program()
    made = first.stat().st_mtime_ns

    assert os.access(first, os.X_OK)
    assert (first, made) == (program(), first.stat().st_mtime_ns)


async def test_a_reply_with_a_position_is_an_ack() -> None:
    report = await _sent_to(b'{"position":7,"seq":1}')

    assert report.faults() == []
    assert (20, 20, 0) == (report.sent, report.acked, report.errors)
    assert report.ack_ms.count == 20


async def test_an_error_is_no_ack() -> None:
    """A server that refuses everything at once must not look fast."""
    report = await _sent_to(b'{"error":{"code":"forbidden","text":"no"}}')

    assert (20, 0, 20) == (report.sent, report.acked, report.errors)
    assert {"forbidden": 20} == report.error_codes
    assert report.ack_ms.count == 0
    assert report.faults() == ["20 of 20 sends were answered with an error (forbidden: 20)"]


async def test_a_reply_that_says_nothing_is_no_ack() -> None:
    report = await _sent_to(b"")

    assert {"reply without position": 20} == report.error_codes


async def test_a_reply_to_nothing_is_a_fault() -> None:
    report = await _sent_to(b'{"position":7,"seq":1}', seq_off_by=1000, seconds=3)

    assert report.acked == 0
    assert report.unexpected > 0
    assert report.unanswered > 0


def test_who_cannot_connect_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with load("ws", port, clients=3) as client:  # where somebody was, and nobody is
        report = client.report()

    assert (0, 3) == (report.ready, report.failed)
    assert {"Connection refused": 3} == report.failures


async def test_a_device_comes_back_with_its_cursor_and_tells_what_it_got_twice_and_what_not_at_all() -> None:
    """It is cut off after its first ack; then it is given one event again, and one is left out."""
    auths, report = await _given([[1, 2, 3], [3, 4, 6]])

    assert [("d-0", None), ("d-0", "e.3")] == [(auth["key"], auth.get("cursor")) for auth in auths]
    assert (1, 1, 1, 1, 1) == (report.ready, report.connected, report.closes, report.repeated, report.missing)
    assert (5, 0) == (report.delivered, report.disordered)
    # Percentiles are up to 1.6 % too high.
    assert 0 < report.all_back_s == pytest.approx(report.away_ms.max / 1000, rel=0.02, abs=0.001)
    assert ["1 events are missing between those that came"] == report.device_faults(5)
    assert "0 devices" not in str(report.device_faults(6))
    assert "clients received between 5 and 5 of 6 messages" in report.device_faults(6)


async def test_a_device_that_gets_everything_has_no_fault() -> None:
    _, report = await _given([[1, 2, 3], [3, 4, 5]])

    assert [] == report.device_faults(5)


async def test_a_device_that_hears_something_out_of_order_says_so() -> None:
    _, report = await _given([[1, 3, 2, 4]])

    assert (1, 1) == (report.disordered, report.missing)


async def test_a_device_that_cannot_go_on_where_it_was_says_so() -> None:
    _, report = await _given([[1, 2], [3, 4]], recovered=False)

    assert 1 == report.unrecovered
    assert "1 times a device was told that it could not go on where it was" in report.device_faults(4)


def test_a_must_holds_at_its_limit() -> None:
    assert [True, True, False] == [Must("≤", 10).holds(value) for value in (9.9, 10, 10.1)]
    assert [False, True, True] == [Must("≥", 10).holds(value) for value in (9.9, 10, 10.1)]


def test_cpu_and_memory_of_a_process_are_read(tmp_path: Path) -> None:
    before = usage(os.getpid(), tmp_path)
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    used = usage(os.getpid(), tmp_path).since(before)

    assert 0.05 <= used.server_cpu_s < 5
    assert used.postgres_cpu_s == 0
    assert 0 < used.rss_bytes <= used.peak_bytes


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="no benchmark 'sned-tcp'"):
        run(["sned-tcp"])


def ran_quickly(name: str, folder: Path) -> tuple[int, dict[str, Any]]:
    """The exit code of a short run of one benchmark, and what it found out."""
    code = run([name], quick=True, json_file=folder / "result.json")
    (benchmark,) = orjson.loads((folder / "result.json").read_bytes())["benchmarks"]
    return code, benchmark


@pytest.mark.skipif(importlib.util.find_spec("imcore.cli") is None, reason="there is no server in this tree to measure")
def test_the_server_answers_every_send(tmp_path: Path) -> None:
    code, benchmark = ran_quickly("send-tcp", tmp_path)

    assert [] == benchmark["faults"]
    assert 0 == code
    (report,) = benchmark["reports"]
    assert report["acked"] == report["sent"] > 0


@pytest.mark.skipif(importlib.util.find_spec("imcore.cli") is None, reason="there is no server in this tree to measure")
def test_clients_that_misbehave_disturb_nobody_and_are_seen_to_misbehave(tmp_path: Path) -> None:
    """Nobody else fails, is refused or closed."""
    code, benchmark = ran_quickly("overload", tmp_path)

    assert ([], 0) == (benchmark["faults"], code)
    measured = {figure["name"]: figure["value"] for figure in benchmark["figures"]}
    assert all(measured[f"misbehaving: {what}"] > 0 for what in ("flooded bytes", "stalled", "stormed"))


@pytest.mark.skipif(importlib.util.find_spec("imcore.cli") is None, reason="there is no server in this tree to measure")
def test_a_storm_of_logins_is_one_and_everybody_in_it_is_answered(tmp_path: Path) -> None:
    """With a login, or with when to come back: nobody is left out of the figures."""
    code, benchmark = ran_quickly("login", tmp_path)

    assert ([], 0) == (benchmark["faults"], code)
    let_in, stormed = (report for report in benchmark["reports"] if "offered" in report)
    assert 0 < let_in["ok"] + let_in["refused"] == let_in["offered"]
    assert 0 < stormed["ok"] < stormed["ok"] + stormed["refused"] == stormed["offered"]


@pytest.mark.skipif(importlib.util.find_spec("imcore.cli") is None, reason="there is no server in this tree to measure")
def test_most_logouts_are_over_everywhere_within_two_seconds(tmp_path: Path) -> None:
    """All of them, on a machine that does nothing else: that is for the benchmark itself to say."""
    code, benchmark = ran_quickly("revocation", tmp_path)

    assert ([], 0) == (benchmark["faults"], code)
    measured = {figure["name"]: figure["value"] for figure in benchmark["figures"]}
    for what in ("closed, another comet", "refused, no comet"):
        assert measured[f"p50 of {what}"] <= 1_000 * REVOKED_S_MAX


async def _sent_to(reply: bytes, *, seq_off_by: int = 0, seconds: float = 60) -> Report:
    """What load reports after 20 sends to a server that takes every auth and answers every send with this body; or after so many
    seconds, if not all are answered."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = binary.Decoder(PACKET_BYTES_MAX)
        while data := await reader.read(65_536):
            for packet in decoder.feed(data):
                if packet.op == Op.AUTH:
                    writer.write(binary.encode(1, Op.AUTH_REPLY, packet.seq, b""))
                else:
                    writer.write(binary.encode(1, Op.SEND_REPLY, packet.seq + seq_off_by, reply))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with load("tcp", port, senders=1, window=4, room="group://a", sends=20, seconds=seconds, drain=0.1) as client:
            return await asyncio.to_thread(client.report)


async def _given(visits: list[list[int]], *, recovered: bool = True) -> tuple[list[dict[str, Any]], Report]:
    """The auths of a device that is given events with these seqs, one list a connection, and its report. A connection but the last is
    cut when the device acks."""
    auths: list[dict[str, Any]] = []

    async def say(line: web.WebSocketResponse, op: Op, seq: int, body: dict[str, Any]) -> None:
        await line.send_str(orjson.dumps({"op": op, "seq": seq, "body": body}).decode())

    async def serve(request: web.Request) -> web.WebSocketResponse:
        line = web.WebSocketResponse()
        await line.prepare(request)
        async for message in line:
            packet = orjson.loads(message.data)
            if packet["op"] == Op.AUTH:
                auths.append(packet["body"])
                told = {"cursor": f"e.{visits[0][0] - 1}", "recovered": recovered}
                await say(line, Op.AUTH_REPLY, packet["seq"], told)
                for seq in visits[len(auths) - 1]:
                    said = {"position": seq, "room": "group://a", "seq": seq, "body": {"t": 1, "n": 1}}
                    await say(line, Op.EVENT, 0, said)
            elif packet["op"] == Op.ACK:
                cursor = {"position": packet["body"]["position"], "cursor": f"e.{packet['body']['position']}"}
                await say(line, Op.ACK_REPLY, packet["seq"], cursor)
                if len(auths) < len(visits):
                    await line.close(code=1001)
        return line

    app = web.Application()
    app.router.add_get("/ws", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        distinct = len({seq for visit in visits for seq in visit}) - sum(sorted(visit) != visit for visit in visits)
        with load("json", port, devices="d-", at_once=True, room="group://a", seconds=60, until=distinct) as client:
            return auths, await asyncio.to_thread(client.report)
    finally:
        await runner.cleanup()
