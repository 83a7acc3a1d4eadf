"""Who is in as many rooms as a person may be: the log decides who comes in, whatever a comet has not heard of yet."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest

from conftest import copy_cluster, temporary_folder
from system.clients import AUTH, CHANGE_ROOM, JOIN, LEAVE, Clients, Form, Refused
from system.servers import Server, running

CALL = 38
MOST = 2
V2: tuple[Form, ...] = ("v2 tcp", "v2 ws", "json")
LATE_S = 60  # until a server hears of what another has committed, if nothing makes it look into the log
NARROW = ("--auth", "open", "--set", f"rooms_per_user_max={MOST}", "--set", f"quiet_s={LATE_S}")
POOL = "FROM pg_stat_activity WHERE application_name = 'imcore'"  # the others append, project and listen


@pytest.fixture(scope="module")
def narrow(cluster: Path) -> Iterator[Server]:
    """A server where people are in few rooms, and whose database may be spoilt."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, *NARROW) as server:
            yield server


@pytest.fixture(scope="module")
def silent(narrow: Server) -> Iterator[Server]:
    """One more on the same database; the other hears late of what it commits."""
    with temporary_folder() as folder:
        fail = f"fail=before_publish:sleep={LATE_S * 1000}:p=1"
        with running(folder, *NARROW, "--database-url", narrow.url, "--set", fail) as server:
            yield server


async def is_one_too_many(asking: Awaitable[object]) -> None:
    """What is asked is refused for that."""
    with pytest.raises(Refused) as refused:
        await asking
    assert "too_many_rooms" == refused.value.code


@pytest.mark.parametrize("form", V2)
@pytest.mark.parametrize("op", [JOIN, CHANGE_ROOM], ids=["join", "change of room"])
async def test_who_leaves_a_room_may_join_another_in_the_same_breath(
    narrow: Server, connecting: Clients, form: Form, op: int
) -> None:
    """And is refused if the first one stays."""
    rooms = [narrow.new_room() for _ in range(MOST + 2)]
    device = await connecting.connect(narrow, form, mid=narrow.new_mid(), rooms=rooms[:MOST])

    leaving = await device.post(LEAVE, {"room": rooms[0]})
    joining = await device.post(op, {"room": rooms[MOST]} if op == JOIN else rooms[MOST])

    await device.reply(leaving)
    await device.reply(joining)
    await is_one_too_many(device.join(rooms[MOST + 1]))


@pytest.mark.parametrize("form", V2)
async def test_who_left_a_room_elsewhere_may_join_another_at_once(
    narrow: Server, silent: Server, connecting: Clients, form: Form
) -> None:
    """With an auth too: it looks no sooner than its comet has heard of the leave."""
    mid, rooms = narrow.new_mid(), [narrow.new_room() for _ in range(MOST + 2)]
    here = await connecting.connect(narrow, form, mid=mid, key="desk", rooms=rooms[:MOST])
    elsewhere = await connecting.connect(silent, form, mid=mid, key="phone")

    await elsewhere.leave(rooms[0])
    await here.join(rooms[MOST])
    await elsewhere.leave(rooms[1])
    again = await connecting.connect(narrow, form, mid=mid, key="watch", rooms=[rooms[MOST + 1]])

    await is_one_too_many(again.join(rooms[0]))


@pytest.mark.parametrize("form", V2)
async def test_an_auth_that_wants_too_many_rooms_joins_none(
    narrow: Server, silent: Server, connecting: Clients, form: Form
) -> None:
    """Though its comet has not heard yet of the room that the person has just joined elsewhere."""
    mid, rooms = narrow.new_mid(), [narrow.new_room() for _ in range(MOST + 1)]
    elsewhere = await connecting.connect(silent, form, mid=mid, key="phone")
    here = await connecting.connect(narrow, form, mid=mid, key="desk")  # so nothing need be read of it again
    await here.bye()

    await elsewhere.join(rooms[0])
    await is_one_too_many(connecting.connect(narrow, form, mid=mid, key="desk", rooms=rooms[1:]))

    assert [rooms[0]] == [
        event.room for event in await narrow.events() if event.type == "member_joined" and event.mid == mid
    ]


@pytest.mark.parametrize("form", V2)
async def test_an_auth_whose_joins_cannot_be_looked_into_is_told_to_come_back(
    narrow: Server, connecting: Clients, form: Form
) -> None:
    """It is one room too many only if one that is dismissed counts, and the database does not say which are."""
    mid, rooms = narrow.new_mid(), [narrow.new_room() for _ in range(MOST + 1)]
    device = await connecting.connect(narrow, form, mid=mid, key="phone", rooms=rooms[:MOST])
    await device.ask(CALL, {"verb": "rooms.dismiss", "args": {"room": rooms[0]}})
    await device.until(lambda: device.removals, "the room is dismissed")
    await device.ack()
    again = await connecting.open(narrow, form)
    async with narrow.database() as connection:
        await connection.execute("ALTER ROLE CURRENT_USER NOLOGIN")
        try:
            assert await connection.fetchval(f"SELECT count(pg_terminate_backend(pid)) {POOL}")
            who = {"mid": mid, "key": "phone", "room_id": "", "platform": "test", "rooms": [rooms[MOST]]}
            with pytest.raises(Refused) as refused:
                await again.ask(AUTH, who)
        finally:
            await connection.execute("ALTER ROLE CURRENT_USER LOGIN")

    assert ("unavailable", True) == (refused.value.code, refused.value.retry)
    await again.until_gone()
    assert ("try_later", True) == again.told
