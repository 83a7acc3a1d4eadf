"""The client as programs use it, over both carriers, on a real server."""

from __future__ import annotations

import asyncio
import errno
import math
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from client.lines import QUICK, WAYS, Way, address, hear, proxy, so, url
from conftest import copy_cluster, temporary_folder
from imcore.client import (
    Change,
    Client,
    ConnectionClosed,
    Event,
    Forbidden,
    ForeignCursor,
    Http,
    IdConflict,
    Limits,
    MemoryCursor,
    Message,
    MessageEdited,
    MessageRecalled,
    NoSuchRoom,
    Origin,
    Removed,
    Reset,
    SqliteCursor,
    State,
    TakenOver,
    TooLarge,
    Unauthenticated,
    connect,
)
from system.servers import Backend, Server, backend, running
from system.test_doors import Doors, doors, token
from waiting import eventually

__all__ = ["doors"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_message_is_stored_and_heard(server: Server, way: Way) -> None:
    room = server.new_room()
    async with (
        connect(url(server, way), mid=server.new_mid(), limits=QUICK) as alice,
        connect(url(server, way), mid=server.new_mid(), limits=QUICK) as bob,
    ):
        joined = await alice.join(room)
        await bob.join(room)
        sent = await alice.send(room, {"text": "hello"})

        (heard,) = await hear(bob, 1)

        assert (room, 1, False) == (joined.room, joined.seq, joined.duplicate)
        assert (sent.position, sent.room, sent.seq, sent.id) == (heard.position, heard.room, heard.seq, heard.id)
        assert ({"text": "hello"}, alice.mid, alice.key, 1000) == (heard.body, heard.mid, heard.key, heard.op)
        assert heard.is_message
        assert State.CONNECTED == bob.state


@pytest.mark.parametrize("way", WAYS)
async def test_what_this_device_sends_is_not_in_its_own_loop_and_other_devices_hear_it(
    server: Server, way: Way
) -> None:
    mid, room = server.new_mid(), server.new_room()
    async with (
        connect(url(server, way), mid=mid, limits=QUICK) as phone,
        connect(url(server, way), mid=mid, limits=QUICK) as laptop,
    ):
        await phone.join(room)
        await phone.send(room, "from the phone")
        await laptop.send(room, "from the laptop")

        assert ["from the laptop"] == [message.body for message in await hear(phone, 1)]
        assert ["from the phone"] == [message.body for message in await hear(laptop, 1)]


@pytest.mark.parametrize("way", WAYS)
async def test_everything_can_be_asked(server: Server, way: Way) -> None:
    room = server.new_room()
    async with connect(url(server, way), mid=server.new_mid(), limits=QUICK) as im:
        other = server.new_mid()
        async with connect(url(server, way), mid=other, limits=QUICK) as bob:
            await im.join(room)
            await bob.join(room)
            for n in range(5):
                await bob.send(room, n)

            page = await im.history(room, limit=2)
            before = await im.history(room, before=5, limit=10)
            after = await im.history(room, after=4)
            inbox = await im.inbox()
            mark = await im.mark_read(room, 4)
            members = await im.members(room, limit=1)
            await im.rooms.mute(room, other, until_ms=10**15)
            rest = await im.members(room, after=members.next)
            assert {im.mid, other} == await im.present(room)
            await bob.leave(room)
            assert {im.mid} == await im.present(room)
            with pytest.raises(NoSuchRoom) as refused:
                await bob.send(room, "from outside")

        assert ([3, 4], 7, True) == ([event.body for event in page.events], page.head, page.more)
        assert [1, 2, 3, 4] == [event.seq for event in before.events]
        assert [5, 6, 7] == [event.seq for event in after.events]
        (line,) = inbox.rooms
        assert (room, 7, 5, "owner") == (line.room, line.head, line.unread, line.role)
        assert line.last is not None
        assert 4 == line.last.body
        assert (room, 4, 3) == (mark.room, mark.seq, mark.unread)
        assert [im.mid, other] == [one.mid for one in (*members.members, *rest.members)]
        assert [0, 10**15] == [one.muted_until_ms for one in (*members.members, *rest.members)]
        assert ("no_such_room", False) == (refused.value.code, refused.value.retry)


async def test_all_events_are_there_for_who_wants_them(server: Server, api: Backend) -> None:
    """A reset at the first connect, joins, messages, and the end of a membership. Who loops over messages gets those only."""
    mid, room = server.new_mid(), server.new_room()
    async with connect(url(server, "ws"), mid=mid, limits=QUICK) as im:
        await api.create(room, mid)
        await api.push_room(room, 1007, b"\xff\x00 bytes")
        await api.push("mids", 1000, b"only for you", mids=[mid])
        await api.kick(room, mid)

        async with asyncio.timeout(60):
            events = im.events()
            reset, joined, pushed, direct, removed = [await anext(events) for _ in range(5)]

    assert Reset("new", 0) == reset
    assert isinstance(joined, Event)
    assert ("member_joined", False) == (joined.type, joined.is_message)
    assert isinstance(pushed, Message)
    assert isinstance(direct, Message)
    assert (b"\xff\x00 bytes", 1007, room) == (pushed.body, pushed.op, pushed.room)
    assert ("only for you", None, f"user:{mid}") == (direct.body, direct.room, direct.place)
    assert isinstance(removed, Removed)
    assert (room, "member_removed", 0) == (removed.room, removed.type, removed.by)


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_message_is_about_and_what_becomes_of_it_is_typed(server: Server, api: Backend, way: Way) -> None:
    anna, ben, room, other = server.new_mid(), server.new_mid(), server.new_room(), server.new_room()
    await api.create(room, anna, ben)
    await api.create(other, anna, ben)
    path = f"/v1/rooms/{room.replace('://', '/')}/messages"
    async with (
        connect(url(server, way), mid=anna, limits=QUICK) as alice,
        connect(url(server, way), mid=ben, limits=QUICK) as bob,
    ):
        root = await alice.send(room, "root")
        answer = await alice.send(room, b"\xff\x00", reply_to=root.seq, thread=root.seq, mentions=[ben])
        await alice.send(room, "to all", mentions="all", is_text=True)
        await api.edit(f"{path}/{root.seq}", anna, "changed")
        await api.recall(f"{path}/{answer.seq}")
        await api.forward(f"{path}/{root.seq}", ben, other)

        heard: list[Event] = []
        async for event in bob.events():
            if isinstance(event, Event) and event.type not in ("member_joined", "room_created"):
                heard.append(event)
                if len(heard) == 6:
                    break

        first, second, third, edited, recalled, passed = heard
        assert isinstance(first, Message)
        assert ((), None, None, 0, False) == (
            first.mentions,
            first.reply_to,
            first.forwarded,
            first.edits,
            first.is_recalled,
        )
        assert isinstance(second, Message)
        assert (b"\xff\x00", root.seq, root.seq, (ben,)) == (
            second.body,
            second.reply_to,
            second.thread,
            second.mentions,
        )
        assert second.names(ben)
        assert not second.names(anna)
        assert isinstance(third, Message)
        assert ("to all", "all", True) == (third.body, third.mentions, third.names(anna))
        assert isinstance(edited, MessageEdited)
        assert (root.seq, "changed") == (edited.target, edited.words)
        assert isinstance(recalled, MessageRecalled)
        assert (answer.seq, anna) == (recalled.target, recalled.author)
        assert isinstance(passed, Message)
        assert (Origin(room, root.seq, anna), "changed") == (passed.forwarded, passed.body)

        page = await bob.history(room, around=answer.seq, limit=2)
        now = {event.seq: event for event in page.events if isinstance(event, Message)}
        assert ("changed", 1) == (now[root.seq].body, now[root.seq].edits)
        assert (None, True) == (now[answer.seq].body, now[answer.seq].is_recalled)
        assert page.more
        assert page.more_after
        late = await bob.history(room, at=2**62, limit=4)
        assert ([late.head - 1, late.head], False) == ([event.seq for event in late.events], late.more_after)
        assert 1 == next(one for one in (await bob.inbox()).rooms if one.room == room).mentions
        assert (0, 0) == (bob.statistics.gaps, bob.statistics.resets - 1)


@pytest.mark.parametrize("way", WAYS)
async def test_a_live_room_is_entered_again_at_each_connect(server: Server, api: Backend, way: Way) -> None:
    named, joined, left = (server.new_room("live") for _ in range(3))
    async with (
        proxy(server.ws if way == "ws" else server.tcp) as line,
        connect(address(way, line.address), mid=server.new_mid(), rooms=[named, left], limits=QUICK) as im,
    ):
        await im.join(joined)
        await im.leave(left)
        line.cut()
        await eventually(lambda: so(im.statistics.connects == 2 and im.state == State.CONNECTED))
        for room in (named, left, joined):
            await api.push_room(room, 1000, room.encode())

        assert [named, joined] == [message.body for message in await hear(im, 2)]


async def test_the_same_send_again_is_told_the_first_place(server: Server) -> None:
    room, id_ = server.new_room(), str(uuid.uuid4())
    async with connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as im:
        await im.join(room)
        first = await im.send(room, "once", id=id_)
        again = await im.send(room, "once", id=id_.upper())
        with pytest.raises(IdConflict):
            await im.send(room, "something else", id=id_)

    assert (first.position, first.seq, True) == (again.position, again.seq, again.duplicate)


async def test_what_cannot_be_sent_is_said_before_it_leaves(server: Server) -> None:
    room = server.new_room()
    async with connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as im:
        await im.join(room)
        with pytest.raises(TypeError):
            await im.send(room, object())
        for no_number in (math.nan, {"a": [math.inf]}, [None, (-math.inf,)]):  # null is what would arrive
            with pytest.raises(TypeError, match="finite"):
                await im.send(room, no_number)
            with pytest.raises(TypeError, match="finite"):
                await im.call("rooms.signal", {"room": room, "type": "cursor", "body": no_number})
        with pytest.raises(ValueError):
            await im.send("no room", "hello")
        with pytest.raises(TooLarge):
            await im.send(room, "x" * 20_000)  # the server says so
        with pytest.raises(TooLarge):
            await im.send(room, "x" * 70_000)  # the server would hang up

        assert 2 == (await im.send(room, [None, 1.5, "it is still connected"], id=uuid.uuid4())).seq
        assert 1 == im.statistics.connects


@pytest.mark.parametrize(
    "bad",
    ["", "http://host/ws", "ws://", "tcp://host", "host:3101", "tcp://host:0", "ws://host:99999/ws", "wss://host:x/ws"],
)
def test_what_is_no_address_is_said_at_once(bad: str) -> None:
    with pytest.raises(ValueError):
        connect(bad, mid=1)
    with pytest.raises(ValueError):
        connect([], mid=1)
    with pytest.raises(ValueError):
        connect("ws://host/ws", mid=1, rooms=["nowhere"])


@pytest.mark.parametrize(
    "limits",
    [Limits(sends_max=0), Limits(calls_max=0), Limits(call_s=-1), Limits(heartbeat_s=0), Limits(queue_events_max=0)],
)
def test_a_limit_that_would_stop_everything_is_said_at_once(limits: Limits) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        connect("ws://host/ws", mid=1, limits=limits)
    connect("ws://host/ws", mid=1, limits=Limits(backoff_s=0, backoff_max_s=0, ack_s=0, steady_s=0))


def test_acks_are_one_of_two() -> None:
    with pytest.raises(ValueError, match="'Auto'"):
        connect("ws://host/ws", mid=1, acks="Auto")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("token", "words"),
    [(lambda: "a token", "async function"), (b"a token", "is bytes"), (lambda: None, "async function")],
)
async def test_what_is_no_token_is_said_as_such(server: Server, token: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        async with connect(url(server, "ws"), token=token, limits=QUICK):
            pass
    async with Http(f"http://{server.http}", token=token) as http:
        with pytest.raises(TypeError, match=words):
            await http.server.show()


async def test_a_token_that_cannot_be_had_is_not_blamed_on_the_server(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def token() -> str:
        raise OSError("the issuer is down")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5), connect(url(server, "ws"), token=token, limits=QUICK):
            pass

    assert caplog.messages[0].startswith("x asking for a token: the issuer is down (unreachable); again in ")


async def test_an_address_where_no_json_is_spoken_is_named_as_such(server: Server) -> None:
    with pytest.raises(ConnectionClosed, match=r"no JSON at this address; where it does, the path is /ws") as told:
        async with connect(f"ws://{server.ws}/sub", mid=server.new_mid(), limits=QUICK):
            pass
    assert ("unsupported", 1003) == (told.value.code, told.value.close)


@pytest.mark.parametrize("way", WAYS)
async def test_who_is_taken_over_stops_and_says_so(server: Server, way: Way) -> None:
    """In its loop, and to whoever sends. What had come before is still given."""
    mid, room = server.new_mid(), server.new_room()
    states: list[State] = []
    async with connect(url(server, way), mid=mid, key="phone", limits=QUICK, on_state=states.append) as first:
        await first.join(room)
        async with connect(url(server, way), mid=mid, key="phone", limits=QUICK) as second:
            with pytest.raises(TakenOver) as ended:
                await hear(first, 1)
            with pytest.raises(TakenOver):
                await first.send(room, "too late")
            assert 2 == (await second.send(room, "from the second")).seq

    assert ("taken_over", 4409, False) == (ended.value.code, ended.value.close, ended.value.retry)
    assert [State.CONNECTING, State.CONNECTED, State.CLOSED] == states


async def test_a_client_that_was_not_entered_says_so(server: Server) -> None:
    """And does not wait for what cannot come."""
    im = connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK)
    with pytest.raises(RuntimeError, match="async with"):
        await im.send(server.new_room(), "hello")
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="async with"):
            async for _ in im:
                pass
        with pytest.raises(RuntimeError, match="async with"):
            async for _ in im.events():
                pass


async def test_a_callback_that_looks_on_stops_nobody(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    states: list[State] = []

    def fail(state: State) -> None:
        states.append(state)
        raise ValueError("this callback has a bug")

    before = asyncio.all_tasks()
    async with asyncio.timeout(10):
        async with connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK, on_state=fail) as im:
            assert 1 == (await im.join(server.new_room())).seq

    assert [State.CONNECTING, State.CONNECTED, State.CLOSED] == states
    assert before == asyncio.all_tasks()
    assert 3 == sum("on_state failed" in record.message for record in caplog.records)


async def test_when_the_block_ends_so_do_its_loops_and_its_sends(server: Server) -> None:
    room = server.new_room()
    async with connect(url(server, "tcp"), mid=server.new_mid(), limits=QUICK) as im:
        await im.join(room)
        looping = asyncio.create_task(_bodies(im))
        await im.send(room, "hello")
    async with asyncio.timeout(60):
        assert [] == await looping
    with pytest.raises(ConnectionClosed) as ended:
        await im.send(room, "after the end")
    assert "closed" == ended.value.code
    assert State.CLOSED == im.state


async def test_a_client_that_is_closed_in_its_loop_has_dealt_with_the_event_and_leaves_nothing_open(
    server: Server, tmp_path: Path
) -> None:
    room, mid, path = server.new_room(), server.new_mid(), tmp_path / "cursor.db"
    heard: list[object] = []
    async with connect(url(server, "ws"), mid=server.new_mid(), rooms=[room], limits=QUICK) as other:
        for words in ("first", "second"):
            async with connect(url(server, "ws"), mid=mid, cursor=SqliteCursor(path), rooms=[room], limits=QUICK) as im:
                await other.send(room, words)
                async for message in im:
                    heard.append(message.body)
                    await im.close()
            assert [] == [one.path for one in psutil.Process().open_files() if one.path.startswith(str(path))]

    assert ["first", "second"] == heard


class Fragile(MemoryCursor):
    """A cursor that cannot be stored from some time on."""

    is_full = False

    async def keep(self, change: Change) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "no space left")
        await super().keep(change)


async def test_a_cursor_that_cannot_be_stored_at_the_end_leaves_nothing_behind(server: Server) -> None:
    room, cursor = server.new_room(), Fragile()
    before = asyncio.all_tasks()
    async with connect(url(server, "ws"), mid=server.new_mid(), rooms=[room], limits=QUICK) as other:
        im = connect(url(server, "ws"), mid=server.new_mid(), cursor=cursor, rooms=[room], limits=QUICK)
        await im.__aenter__()
        await other.send(room, "hello")
        await hear(im, 1)
        cursor.is_full = True
        with pytest.raises(OSError, match="no space left"):
            await im.__aexit__(None, None, None)

        assert State.CLOSED == im.state
    assert before == asyncio.all_tasks()


async def test_who_does_not_wait_for_the_goodbye_leaves_nothing_behind(server: Server) -> None:
    """The last ack is not answered here, and whoever closes is cancelled meanwhile."""
    room = server.new_room()
    before = asyncio.all_tasks()
    async with connect(url(server, "ws"), mid=server.new_mid(), rooms=[room], limits=QUICK) as other:
        async with proxy(server.tcp) as line:
            im = connect(address("tcp", line.address), mid=server.new_mid(), rooms=[room], limits=Limits(ack_s=60))
            await im.__aenter__()
            sent = await other.send(room, "hello")
            await hear(im, 1)
            line.mode = "one way"
            leaving = asyncio.create_task(im.__aexit__(None, None, None))
            await eventually(lambda: so(im.position == sent.position))
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving

            assert State.CLOSED == im.state
            line.cut()
    await eventually(lambda: so(before == asyncio.all_tasks()))


async def test_two_loops_at_once_are_a_mistake_and_two_in_a_row_are_none(server: Server) -> None:
    room = server.new_room()
    async with (
        connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as im,
        connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as other,
    ):
        await im.join(room)
        await other.join(room)
        looping = asyncio.create_task(hear(im, 1))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await hear(im, 1)
        await other.send(room, "one")
        await other.send(room, "two")

        assert ["one", "two"] == [message.body for message in (*await looping, *await hear(im, 1))]


async def test_rate_limits_are_waited_for(cluster: Path) -> None:
    """200 sends at once where 30 a second are allowed: slow, in order, and none is lost."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open", "--set", "inbound_frames_per_s=100") as server:
            async with connect(url(server, "ws"), mid=1, limits=QUICK) as im:
                await im.join("group://a")
                sent = await asyncio.gather(*(im.send("group://a", n) for n in range(200)))
                refused = im.statistics.refused_for_now
            bodies = [entry.body for entry in await server.events() if entry.type == "message_sent"]

    assert sorted(bodies) == list(range(200))
    assert sorted(one.seq for one in sent) == list(range(2, 202))
    assert refused > 0


async def test_an_overloaded_server_is_asked_again(cluster: Path) -> None:
    """It takes four sends of a connection at a time, and the client has more to say."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        small = ("--no-rate-limits", "--set", "sends_pending_per_session_max=4")
        with running(folder, "--auth", "open", *small) as server:
            async with connect(url(server, "tcp"), mid=1, limits=QUICK) as im:
                await im.join("group://a")
                sent = await asyncio.gather(*(im.send("group://a", n) for n in range(200)))
                refused = im.statistics.refused_for_now
            bodies = [entry.body for entry in await server.events() if entry.type == "message_sent"]

    assert sorted(bodies) == list(range(200))
    assert sorted(one.seq for one in sent) == list(range(2, 202))
    assert refused > 0


async def test_at_most_so_many_sends_are_under_way_and_the_others_wait(server: Server) -> None:
    room = server.new_room()
    steps: list[tuple[object, ...]] = []
    limits = Limits(sends_max=3)
    async with connect(url(server, "tcp"), mid=server.new_mid(), limits=limits, observe=steps.append) as im:
        await im.join(room)
        await asyncio.gather(*(im.send(room, n) for n in range(50)))

    under_way = most = 0
    for step in steps:
        if step[0] in ("request", "reply") and step[2] in (4, 5):
            under_way += 1 if step[0] == "request" else -1
            most = max(most, under_way)
    assert 3 == most


# --- who is it? ---


async def test_a_token_that_is_no_good_is_an_error_at_once(doors: Doors) -> None:
    for way in WAYS:
        with pytest.raises(Unauthenticated) as refused:
            async with connect(url(doors.server, way), token="not a token", limits=QUICK):
                pass
        assert ("unauthenticated", 4401, False) == (refused.value.code, refused.value.close, refused.value.retry)


SHORT_S = 3.0  # of a token: long enough to connect with


async def test_a_fresh_token_is_asked_for_at_each_connect(doors: Doors) -> None:
    """The first one is stale, and the second expires while the client is connected."""
    mid = doors.server.new_mid()
    lives_s = iter([-1.0, SHORT_S])
    given: list[float] = []

    async def fresh() -> str:
        given.append(next(lives_s, 60.0))
        return doors.made_token(mid, given[-1])

    async with connect(url(doors.server, "ws"), token=fresh, limits=QUICK) as im:
        await eventually(lambda: so(im.statistics.connects == 2 and im.state == State.CONNECTED))

        assert mid == im.mid
        assert [-1.0, SHORT_S, 60.0] == given


async def test_a_token_that_is_always_refused_ends_the_client(doors: Doors) -> None:
    asked = 0

    async def stale() -> str:
        nonlocal asked
        asked += 1
        return doors.made_token(doors.mid, -5)

    with pytest.raises(Unauthenticated):
        async with connect(url(doors.server, "tcp"), token=stale, limits=QUICK):
            pass
    assert 3 == asked


async def test_what_the_token_does_not_allow_is_refused_for_good(doors: Doors) -> None:
    narrow = token(doors.server.data, str(doors.mid), "--room", "group://mine")
    with pytest.raises(Forbidden):
        async with connect(url(doors.server, "ws"), token=narrow, rooms=["group://yours"], limits=QUICK):
            pass


@pytest.mark.parametrize("scheme", ["wss", "tcps"])
async def test_over_tls_it_is_the_same(doors: Doors, scheme: str) -> None:
    mid, room = doors.server.new_mid(), doors.server.new_room()
    where = f"{scheme}://localhost:{doors.server.addresses[scheme].rpartition(':')[2]}"
    where += "/ws" if scheme == "wss" else ""
    async with backend(doors.server, doors.service) as api:
        await api.create(room, mid)
    async with connect(where, token=doors.made_token(mid), tls=doors.tls, limits=QUICK) as im:
        assert 3 == (await im.send(room, "x" * 16_000)).seq


@pytest.mark.parametrize("scheme", ["wss", "tcps"])
async def test_who_cannot_show_a_certificate_is_told_nothing(doors: Doors, scheme: str) -> None:
    """The client tries again, because certificates are renewed; and sends no token."""
    where = f"{scheme}://localhost:{doors.server.addresses[scheme].rpartition(':')[2]}"
    where += "/ws" if scheme == "wss" else ""
    steps: list[tuple[object, ...]] = []
    im = connect(where, token="secret", limits=QUICK, observe=steps.append)
    connecting = asyncio.create_task(im.__aenter__())
    await eventually(lambda: so(len(steps) > 5))
    connecting.cancel()
    await asyncio.wait([connecting])

    assert {"connecting", "closed"} == {step[0] for step in steps}
    assert "unreachable" == next(step[3] for step in steps if step[0] == "closed")


async def test_a_cursor_belongs_to_one_person(server: Server) -> None:
    mine = MemoryCursor()
    async with connect(url(server, "ws"), mid=server.new_mid(), cursor=mine, limits=QUICK):
        pass
    with pytest.raises(ForeignCursor):
        async with connect(url(server, "ws"), mid=server.new_mid(), cursor=mine, limits=QUICK):
            pass


async def test_a_cursor_is_closed_also_by_who_does_not_come_in(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "cursor.db"
    async with connect(url(server, "ws"), mid=server.new_mid(), cursor=SqliteCursor(path), limits=QUICK):
        pass
    theirs = SqliteCursor(path)
    with pytest.raises(ForeignCursor):
        async with connect(url(server, "ws"), mid=server.new_mid(), cursor=theirs, limits=QUICK):
            pass
    assert [] == [one.path for one in psutil.Process().open_files() if one.path.startswith(str(path))]


async def test_a_guest_stays_the_same_guest(server: Server) -> None:
    """Nobody says who it is, so the server does; the cursor remembers."""
    cursor = MemoryCursor()
    people = []
    for _ in range(2):
        async with connect(url(server, "ws"), cursor=cursor, limits=QUICK) as im:
            people.append((im.mid, im.key))
    assert people[0] == people[1]
    assert (people[0][0] or 0) < 0


# --- observation ---


async def test_every_step_of_the_protocol_can_be_observed(server: Server, api: Backend) -> None:
    mid, room = server.new_mid(), server.new_room()
    steps: list[tuple[object, ...]] = []
    async with (
        connect(url(server, "ws"), mid=mid, key="k", limits=QUICK, observe=steps.append) as im,
        connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as other,
    ):
        await im.join(room)
        await other.join(room)
        sent = await im.send(room, "mine")
        await other.send(room, "theirs")
        await hear(im, 1)
        await api.kick(room, mid)
        await eventually(lambda: so(any(step[0] == "removed" for step in steps)))

    assert ("connecting", 1) == steps[0]
    assert ("request", 1, 7, 1, {"key": "k", "platform": "python", "mid": mid}) == steps[1]
    kinds = [step[0] for step in steps]
    connected = steps[kinds.index("connected")]
    assert ("connected", 1) == connected[:2]
    assert isinstance(connected[2], dict)
    assert {"recovered", "reason", "position", "cursor"} == set(connected[2])
    asked = next(step for step in steps if step[:3] == ("request", 1, 4))
    reply = next(step for step in steps if step[:3] == ("reply", 1, 5))
    assert asked[3] == reply[3]
    assert {"room": room, "id": sent.id, "body": "mine", "op": 1000} == asked[4]
    assert {"position": sent.position, "seq": sent.seq} == reply[4]
    heard = [step[2].body for step in steps if step[0] == "deliver" and isinstance(step[2], Message)]
    assert ["theirs"] == heard
    removed = steps[kinds.index("removed")]
    assert isinstance(removed[2], dict)
    assert room == removed[2]["room"]
    assert "closed" == kinds[-1]


async def _bodies(im: Client) -> list[object]:
    return [message.body async for message in im]
