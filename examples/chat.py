"""Join a room, say one thing and print what is said there, until Ctrl-C. To talk: python examples/chat.py --mid 2"""

from __future__ import annotations

import argparse
import asyncio
import uuid

import aiohttp


async def chat(url: str, mid: int, room: str, text: str, token: str) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(url, heartbeat=60) as socket:

        async def ask(op: int, body: object) -> None:  # the reply has the next operation and the same seq
            await socket.send_json({"op": op, "seq": op, "body": body})

        await ask(7, {"mid": mid, "key": f"chat-{mid}", "platform": "python", "token": token})
        await ask(22, {"room": room})
        await ask(4, {"room": room, "id": str(uuid.uuid4()), "body": {"text": text}})
        async for frame in socket:
            packet = frame.json()
            packets = packet["body"] if packet["op"] == 9 else [packet]  # 9: several in one frame
            for one in packets:
                print(one["op"], one["body"])
            if events := [one["body"] for one in packets if one["op"] == 21]:
                # What is acknowledged does not come again: after a reconnect the server goes on behind it.
                await ask(34, {"position": events[-1]["position"]})


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ws", dest="url", default="ws://127.0.0.1:3102/ws")
    options.add_argument("--mid", type=int, default=1)
    options.add_argument("--room", default="group://lobby")
    options.add_argument("--text", default="Hello from Python")
    options.add_argument("--token", default="")
    asyncio.run(chat(**vars(options.parse_args())))
