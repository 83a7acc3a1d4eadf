"""A bot that answers "!echo words" with the words, and "!count" with how many messages it saw in the room before.

python examples/bot.py --mid 100. Kill it at any moment and start it again: it goes on where it was, and answers nothing twice.
"""

from __future__ import annotations

import argparse
import uuid

from imcore.client import Bot, Client, Message, SqliteCursor, connect

options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("--url", default="ws://127.0.0.1:3102/ws", help="or tcp://127.0.0.1:3101")
options.add_argument("--mid", type=int, default=100)
options.add_argument("--token", default="")
options.add_argument("--room", default="group://lobby")
options.add_argument("--db", default="bot.db")
given = options.parse_args()

store = SqliteCursor(given.db)
store.database.execute("CREATE TABLE IF NOT EXISTS seen (room TEXT, seq INTEGER, PRIMARY KEY (room, seq))")
bot = Bot(connect(given.url, mid=given.mid, token=given.token or None, cursor=store, platform="bot"))


@bot.on_start
async def enter(im: Client) -> None:
    await im.join(given.room)
    print(f"in {given.room}", flush=True)


@bot.on_message
async def answer(im: Client, message: Message) -> None:
    if message.room is None or message.id is None or not isinstance(message.body, str):
        return
    (count,) = store.database.execute("SELECT count(*) FROM seen WHERE room = ?", (message.room,)).fetchone()
    reply = {"!count": f"{count} messages"}.get(message.body, message.body.removeprefix("!echo "))
    if reply != message.body:
        # The id of the answer follows from that of the question: asked again after a crash, it is the same message.
        await im.send(message.room, reply, id=str(uuid.uuid5(uuid.UUID(message.id), "answer")))
    with store.storing(message) as database:  # what it keeps, and that the message is dealt with, in one transaction
        database.execute("INSERT INTO seen VALUES (?, ?)", (message.room, message.seq))


if __name__ == "__main__":
    bot.run()
