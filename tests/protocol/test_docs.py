"""docs/protocol.md tells the truth: its tables are those of the program, and its examples are frames.

`python tests/protocol/test_docs.py` writes the table of errors anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from imcore.errors import TABLE
from imcore.protocol import packet, text
from imcore.protocol.binary import decode_frame
from imcore.protocol.packet import Op
from imcore.protocol.requests import from_packet, from_value
from protocol.schema import faults

DOCS = Path(__file__).parents[2] / "docs" / "protocol.md"
SAID = DOCS.read_text()

LIMITS = {
    "a packet, with its header; a WebSocket message": packet.PACKET_BYTES_MAX,
    "a body on goim's operations 2, 7, 12, 14 and 16, in version 1": packet.GOIM_BODY_BYTES_MAX,
    "the `body` of a message, as compact JSON": packet.TEXT_BODY_BYTES_MAX,
    "nesting of a request's JSON": packet.DEPTH_MAX,
    "a room's name, with its type": packet.ROOM_BYTES_MAX,
    "`key`": packet.KEY_BYTES_MAX,
    "`platform`": packet.PLATFORM_BYTES_MAX,
    "`token`": packet.TOKEN_BYTES_MAX,
    "`cursor`": packet.CURSOR_BYTES_MAX,
    "rooms in one auth": packet.ROOMS_MAX,
    "operations in `accepts`, in one subscribe or unsubscribe": packet.ACCEPTS_MAX,
    "people in `mentions`": packet.MENTIONS_MAX,
    "`limit` of a page": packet.PAGE_ROWS_MAX,
}


def between(name: str) -> str:
    """What stands between the markers of that name."""
    return SAID.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]


def examples(kind: str) -> list[str]:
    """Every line of the blocks of that kind."""
    return [
        line
        for block in re.findall(rf"^```{kind}\n(.*?)^```", SAID, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]


def table_of_errors() -> str:
    """Every error that there is, as the page shows it."""
    lines = ["| code | close | HTTP | retry | text |", "|---|---|---|---|---|"]
    lines += [
        f"| `{kind.code}` | {kind.close or ''} | {kind.status} | {'yes' if kind.retry else 'no'} | {kind.text()} |"
        for kind in sorted(TABLE, key=lambda kind: (kind.close or 0, kind.status, kind.code))
    ]
    return "\n".join(lines) + "\n"


def test_the_table_of_errors_is_the_programs() -> None:
    assert between("errors") == table_of_errors()


def test_the_table_of_limits_is_the_programs() -> None:
    rows = re.findall(r"^\| (.+) \| ([0-9,]+)(?: bytes)? \|$", between("limits"), re.MULTILINE)

    assert {what: int(limit.replace(",", "")) for what, limit in rows} == LIMITS


def test_every_operation_is_in_the_table() -> None:
    found: dict[str, int] = {}
    for numbers, names in re.findall(r"^\| ([0-9 /]+) \| ([^|]+) \|", between_headings("Operations"), re.MULTILINE):
        plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", names)
        ops = [int(number) for number in numbers.split("/")]
        found |= dict(zip((name.strip().upper().replace(" ", "_") for name in plain.split("/")), ops, strict=True))

    assert found == {op.name: op.value for op in Op}


def between_headings(name: str) -> str:
    """The section of that name, up to the next one of its level."""
    return SAID.split(f"\n## {name}\n")[1].split("\n## ")[0]


def test_links_within_the_page_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", SAID, re.MULTILINE)
    }

    assert set(re.findall(r"\]\(#([^)]+)\)", SAID)) <= headings


@pytest.mark.parametrize("line", examples("json client"))
def test_the_clients_examples_are_frames_that_the_server_takes(line: str) -> None:
    assert faults("client_frame", orjson.loads(line)) == []
    op, _, value = text.decode(line.encode())
    from_value(op, value, line.encode())


@pytest.mark.parametrize("line", examples("json server"))
def test_the_servers_examples_are_frames(line: str) -> None:
    assert faults("server_frame", orjson.loads(line)) == []
    assert orjson.dumps(orjson.loads(line)).decode() == line, "as compact as the server writes it"


@pytest.mark.parametrize("line", examples("json auth"))
def test_goims_auth_is_taken(line: str) -> None:
    assert faults("client_frame", {"op": 7, "body": orjson.loads(line)}) == []
    from_packet(Op.AUTH, line.encode(), 1)


@pytest.mark.parametrize("line", examples("hex"))
def test_the_bytes_are_packets(line: str) -> None:
    """One each; requests are taken, and the bodies of version 2 are JSON."""
    [one] = decode_frame(bytes.fromhex(line), packet.PACKET_BYTES_MAX)
    if one.op == Op.BATCH:
        assert len(decode_frame(one.body, packet.PACKET_BYTES_MAX)) == 2
    elif one.op in (Op.AUTH, Op.SEND, Op.HEARTBEAT, Op.CHANGE_ROOM, Op.SUBSCRIBE, Op.UNSUBSCRIBE):
        from_packet(one.op, one.body, one.ver)
    elif one.ver == 2:
        assert faults("server_frame", {"op": one.op, "seq": one.seq, "body": orjson.loads(one.body)}) == []


def test_every_operation_has_an_example() -> None:
    shown = {orjson.loads(line)["op"] for line in (*examples("json client"), *examples("json server"))}
    nowhere = {Op.HANDSHAKE, Op.HANDSHAKE_REPLY, Op.PROTO_READY, Op.PROTO_FINISH}

    assert shown == set(Op) - nowhere


if __name__ == "__main__":
    DOCS.write_text(
        SAID.replace(between("errors"), table_of_errors())
        if between("errors")
        else SAID.replace("<!-- errors -->\n", "<!-- errors -->\n" + table_of_errors())
    )
