"""Clients that stop, crawl or are away while ten thousand messages are said: each gets all of them, once and in order, and nobody else
waits for them."""

from __future__ import annotations

import asyncio
import time
import uuid

from system.checking import History, assert_sound, visit_of
from system.clients import FORMS, SEND, Client, Clients, Form, text_of
from system.conftest import BEHIND_S
from system.servers import Server
from waiting import eventually

MESSAGES = 10_000
IN_FLIGHT = 200
FILLING = "." * 400  # all of them are more than a kernel takes: up to 4 MB for a connection
RECEIVE_BYTES = 65_536
CRAWL_S = 0.25  # between reads of at most RECEIVE_BYTES
CRAWLED_MESSAGES = 600
CLOSED_S = 60
LAG_S = BEHIND_S  # who waited for the one that stopped would wait until that is closed


async def test_nobody_loses_a_message_by_being_slow_and_nobody_waits_for_the_slow(
    crowded: Server, connecting: Clients
) -> None:
    """The one that stops reading is closed with a code that says "come back", the one that crawls is not, and a client that is well
    gets each message within seconds."""
    server, room = crowded, crowded.new_room()
    speaker = await connecting.connect(server, "v2 tcp", mid=server.new_mid(), room=room)

    async def connect(form: Form, cursor: str = "") -> Client:
        return await connecting.connect(server, form, mid=mids[form], key=form, room=room, cursor=cursor)

    mids: dict[Form, int] = {form: server.new_mid() for form in FORMS}
    well = [await connect("json"), await connect("v1 tcp")]
    away, gone = await connect("v2 ws"), await connect("v1 ws")
    await away.ack()
    await away.bye()
    await gone.bye()
    stopped = await connecting.connect(
        server, "json", mid=server.new_mid(), key="stopped", room=room, receive_bytes=RECEIVE_BYTES
    )
    crawling = await connecting.connect(
        server, "v2 tcp", mid=server.new_mid(), key="crawling", room=room, receive_bytes=RECEIVE_BYTES
    )
    await stopped.ack()
    stopped.stop_reading()
    crawling.pause_s = CRAWL_S

    talking = asyncio.create_task(_talk(speaker, room))
    await eventually(lambda: _is_closed(server, stopped), CLOSED_S)
    stopped.go_on()  # in time: who does not hear the goodbye for some seconds is cut off
    await stopped.until_gone()
    said_at = await talking
    crawled = len(crawling.events)
    await crawling.until(lambda: len(crawling.events) >= min(crawled + CRAWLED_MESSAGES, MESSAGES))
    crawling.pause_s = 0
    back = await connecting.connect(
        server, "json", mid=stopped.mid, key="stopped", cursor=stopped.cursor, receive_bytes=RECEIVE_BYTES
    )
    home = [await connect("v2 ws", cursor=away.cursor), await connect("v1 ws")]
    for client in (*well, crawling, back, *home):
        await client.until_heard(_words(MESSAGES - 1))

    assert (4008, ("slow_consumer", True)) == (stopped.code, stopped.told)
    for client in well:
        lag_s = max(event.at - said_at[_number(event.body)] for event in client.events if event.op)
        assert lag_s < LAG_S, f"{client} waited {lag_s:.1f} s"
    for client in (well[1], home[1]):
        assert list(range(MESSAGES)) == [_number(said) for said in client.said]
    assert home[0].welcome["recovered"]
    assert back.welcome["recovered"]
    history = History(await server.events())
    assert_sound(history, [visit_of(stopped, history)])
    assert_sound(
        history,
        [
            visit_of(client, history, number, is_whole=True)
            for client, number in ((well[0], 0), (crawling, 0), (back, 1), (home[0], 1))
        ],
    )
    numbers = [_number(said) for said in stopped.said]
    again = [_number(said) for said in back.said]
    assert list(range(MESSAGES)) == sorted({*numbers, *again})


async def _talk(speaker: Client, room: str) -> list[float]:
    """Say all messages, a window of them at a time, and tell when each was said."""
    said_at: list[float] = []
    replies: list[asyncio.Future[object]] = []
    for n in range(MESSAGES):
        said_at.append(time.monotonic())
        replies.append(await speaker.post(SEND, {"room": room, "id": str(uuid.uuid4()), "body": _words(n)}))
        if n >= IN_FLIGHT:
            await speaker.reply(replies[n - IN_FLIGHT])
    for reply in replies[-IN_FLIGHT:]:
        await speaker.reply(reply)
    return said_at


async def _is_closed(server: Server, client: Client) -> bool:
    async with server.database() as connection:
        reason: str | None = await connection.fetchval(
            "SELECT body::json->>'reason' FROM event_log WHERE type = 'session_closed' AND mid = $1", client.mid
        )
    return reason == "slow_consumer"


def _words(n: int) -> str:
    return f"{n} {FILLING}"


def _number(body: object) -> int:
    return int(text_of(body).split()[0])
