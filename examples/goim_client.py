"""A goim client over TCP, with nothing but the standard library: enter a live room and print what is pushed.

python examples/goim_client.py, and in another terminal: python examples/push.py "Hello, room"

A packet is a header of 16 bytes (packet length, header length, version, operation, sequence; big-endian) and a body.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct

HEADER = struct.Struct(">ihhii")
HEARTBEAT, HEARTBEAT_REPLY, AUTH, AUTH_REPLY = 2, 3, 7, 8
HEARTBEAT_S = 60  # goim asks for one in four minutes; many a router forgets a quiet connection sooner


def packet(op: int, seq: int, body: bytes = b"") -> bytes:
    return HEADER.pack(HEADER.size + len(body), HEADER.size, 1, op, seq) + body


async def receive(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    length, header, _, op, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
    return op, await reader.readexactly(length - header)


async def beat(writer: asyncio.StreamWriter) -> None:
    for seq in range(2, 2**31):
        await asyncio.sleep(HEARTBEAT_S)
        writer.write(packet(HEARTBEAT, seq))
        await writer.drain()


async def listen(address: str, identity: dict[str, object]) -> None:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(packet(AUTH, 1, json.dumps(identity).encode()))
    op, _ = await receive(reader)  # who is refused is disconnected here
    assert op == AUTH_REPLY
    print(f"in {identity['room_id']}", flush=True)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(beat(writer))
        while True:
            op, body = await receive(reader)
            if op == HEARTBEAT_REPLY:
                print(f"{int.from_bytes(body, 'big')} in the room", flush=True)
            else:
                print(f"operation {op}: {body.decode(errors='replace')}", flush=True)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tcp", default="127.0.0.1:3101")
    options.add_argument("--mid", type=int, default=123)
    options.add_argument("--key", default="", help="names this device; chosen by the server if empty")
    options.add_argument("--room", default="live://1000")
    options.add_argument("--accepts", type=int, nargs="*", default=[1000, 1001, 1002], help="operations to receive")
    options.add_argument("--token", default="")
    given = options.parse_args()
    who = {"mid": given.mid, "key": given.key, "room_id": given.room, "platform": "python", "accepts": given.accepts}
    asyncio.run(listen(given.tcp, {**who, "token": given.token} if given.token else who))
