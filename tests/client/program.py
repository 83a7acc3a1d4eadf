"""A program that is killed: it writes down what its loop gives it, and goes on where its cursor says.

python -m client.program URL MID CURSOR WORDS how, where `how` is file, sqlite or storing. Each message is a line of WORDS, written
before the next is asked for; with `storing` it is a row of the cursor's own database instead.
"""

from __future__ import annotations

import asyncio
import os
import sys

from imcore.client import FileCursor, Limits, SqliteCursor, connect


async def main(url: str, mid: str, path: str, words: str, how: str) -> None:
    cursor = FileCursor(path) if how == "file" else SqliteCursor(path)
    out = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    limits = Limits(backoff_s=0.05, ack_s=0.02)
    async with connect(url, mid=int(mid), cursor=cursor, rooms=["group://lobby"], limits=limits) as im:
        if isinstance(cursor, SqliteCursor):
            cursor.database.execute("CREATE TABLE IF NOT EXISTS words (seq INTEGER, body TEXT)")
        print("ready", flush=True)
        async for message in im:
            if how == "storing":
                assert isinstance(cursor, SqliteCursor)
                with cursor.storing(message) as database:
                    database.execute("INSERT INTO words VALUES (?, ?)", (message.seq, message.body))
            else:
                os.write(out, f"{message.seq} {message.body}\n".encode())
            if message.body == "the end":
                break
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
