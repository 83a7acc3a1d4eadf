"""The way back to live, step by step. That it holds whatever happens between the steps is the simulation's business."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest

from comet.facts import happened, said
from comet.listener import LIVE_TYPES, Listener, alive, behind
from imcore.bus.tail import Tail
from imcore.comet import hub as hub_module
from imcore.comet.catchup import CHUNK_BYTES, CatchUp, admit
from imcore.comet.hub import BEHIND, CLOSED, LIVE, Hub, Place
from imcore.events.types import ALL, ROOM, MemberRemoved, MessageEdited, MessageRecalled, Page, Recorded

ANNA, BEN = 1, 2
A, B, STAGE = "group://a", "group://b", "live://stage"


class Shelf:
    """A comet at position 9 of a log, of which `kept` is in memory. `meanwhile` happens during each read."""

    def __init__(self, *, kept: int = 0, page_events_max: int = 4) -> None:
        self.log = [said(n, B if n % 3 == 0 else A) for n in range(1, 10)]
        self.kept = kept
        self.hub = Hub(0, LIVE_TYPES)
        self.hub.apply(self.log[:])
        self.hub.fresh_from = self.hub.position  # as after a restart
        self.asked: list[tuple[int, int]] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.catch_up = CatchUp(
            self.hub,
            self.recent,
            self.read,
            lambda: asyncio.sleep(0),
            page_events_max=page_events_max,
            scan_events_max=2,
        )

    def recent(self, after: int, limit: int) -> list[Recorded] | None:
        return None if after < len(self.log) - self.kept else self.log[after : after + limit]

    async def read(self, streams: Mapping[str, int], upto: int, limit: int) -> Page:
        self.asked.append((streams[ALL], upto))
        page = [one for one in self.log[:upto] if one.position > streams.get(one.stream, upto)][:limit]
        await asyncio.sleep(0)
        self.meanwhile()
        return Page(page, page[-1].position if len(page) == limit else upto)

    def grow(self, *events: Recorded) -> None:
        self.log += events
        self.hub.apply(list(events))

    def grows_meanwhile(self, event: Recorded) -> None:
        def grow() -> None:
            if len(self.log) < event.position:
                self.grow(event)

        self.meanwhile = grow


async def test_pages_are_read_until_the_session_has_come_to_the_hub() -> None:
    shelf = Shelf()
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A, B], start=0)

    await shelf.catch_up.run(anna)

    assert [*range(1, 10)] == anna.heard
    assert [(0, 9), (4, 9), (8, 9)] == shelf.asked
    assert LIVE == anna.state


async def test_what_is_in_memory_is_not_read() -> None:
    shelf = Shelf(kept=9)
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A], start=0)

    await shelf.catch_up.run(anna)

    assert ([1, 2, 4, 5, 7, 8], []) == (anna.heard, shelf.asked)
    assert LIVE == anna.state


async def test_memory_goes_on_where_pages_end() -> None:
    shelf = Shelf(kept=5)
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A, B], start=0)

    await shelf.catch_up.run(anna)

    assert ([*range(1, 10)], [(0, 9)]) == (anna.heard, shelf.asked)


async def test_who_misses_nothing_is_live_without_a_read() -> None:
    shelf = Shelf()
    anna = behind(shelf.hub, ANNA, "anna", rooms=["group://c"])
    shelf.grow(said(10, A))

    await shelf.catch_up.run(anna)

    assert (LIVE, 10, []) == (anna.state, anna.position, shelf.asked)


def recall(position: int, target: int, room: str = A) -> Recorded:
    return happened(position, ROOM + room, MessageRecalled(room=room, target=target, author=99), mid=BEN)


async def test_what_was_recalled_is_given_from_memory_without_its_words() -> None:
    shelf = Shelf(kept=20)
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A], start=0)
    secret, edit = said(10, A, '"secret"'), MessageEdited(room=A, target=10, body="secret")
    shelf.grow(secret, happened(11, ROOM + A, edit), recall(12, 10), said(13, A))

    await shelf.catch_up.run(anna)

    assert ([1, 2, 4, 5, 7, 8, 10, 11, 12, 13], []) == (anna.heard, shelf.asked)
    assert b"secret" not in b"".join(anna.written)
    assert b'"body":null,"recalled":{"by":2,"position":12}' in b"".join(anna.written)


async def test_what_is_recalled_while_a_page_is_read_is_not_in_it() -> None:
    shelf = Shelf()
    shelf.grow(said(10, A, '"secret"'))
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A], start=9)
    shelf.grows_meanwhile(recall(11, 10))

    await shelf.catch_up.run(anna)

    assert [10, 11] == anna.heard
    assert b"secret" not in b"".join(anna.written)


async def test_whoever_is_live_gets_messages_as_they_were_sent() -> None:
    shelf = Shelf()
    anna = alive(shelf.hub, ANNA, "anna", rooms=[A])
    shelf.grow(said(10, A, '"first"'), recall(11, 10))
    shelf.hub.flush()

    assert [10, 11] == anna.heard
    assert b"first" in b"".join(anna.written)


async def test_who_is_behind_the_recalls_in_memory_reads_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are forgotten only the log can tell."""
    monkeypatch.setattr(hub_module, "RECALLS_MAX", 2)
    shelf = Shelf(kept=20)
    shelf.grow(*(recall(position, position - 9) for position in range(10, 14)))
    assert (2, 11) == (len(shelf.hub.recalls), shelf.hub.recalls_from)
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A], start=10)
    ben = behind(shelf.hub, BEN, "ben", rooms=[A], start=11)

    await shelf.catch_up.run(ben)
    assert ([12, 13], []) == (ben.heard, shelf.asked)
    await shelf.catch_up.run(anna)
    assert ([11, 12, 13], [(10, 13)]) == (anna.heard, shelf.asked)


async def test_what_comes_during_a_read_is_read_next() -> None:
    shelf = Shelf()
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A], start=7)
    shelf.grows_meanwhile(said(10, A))

    await shelf.catch_up.run(anna)

    assert ([8, 10], [(7, 9), (9, 10)]) == (anna.heard, shelf.asked)


async def test_who_is_removed_during_a_read_gets_nothing_of_the_room() -> None:
    shelf = Shelf(page_events_max=100)
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A, B], start=0)
    shelf.grows_meanwhile(happened(10, ROOM + A, MemberRemoved(room=A, mid=ANNA)))

    await shelf.catch_up.run(anna)

    assert [A, 3, 6, 9] == anna.heard


async def test_a_page_that_fills_the_socket_is_the_last_and_the_session_stays_behind() -> None:
    """Else it would be live, and everything would go to a socket that takes nothing."""
    shelf = Shelf(page_events_max=100)
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A], start=0)

    def fill() -> None:
        anna.full = True
        shelf.hub.fall_behind(anna)

    anna.on_write = fill
    await shelf.catch_up.run(anna)

    assert (BEHIND, 9) == (anna.state, anna.position)
    anna.full = False
    await shelf.catch_up.run(anna)
    assert (LIVE, [1, 2, 4, 5, 7, 8]) == (anna.state, anna.heard)


async def test_a_socket_that_fills_in_the_middle_of_a_page_gets_no_more_of_it() -> None:
    """A page of large messages is many times what a connection may leave untaken. What was not written is read again."""
    shelf = Shelf(page_events_max=100)
    shelf.log[1] = said(2, A, f'"{"x" * CHUNK_BYTES}"')
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A], start=0)

    def fill() -> None:
        anna.full = True

    anna.on_write = fill
    await shelf.catch_up.run(anna)

    assert (BEHIND, 2, 2, [1, 2]) == (anna.state, anna.position, anna.received, anna.heard)
    assert 2 == shelf.hub.deliveries
    anna.full = False
    anna.on_write = lambda: None
    await shelf.catch_up.run(anna)
    assert (LIVE, [1, 2, 4, 5, 7, 8]) == (anna.state, anna.heard)


async def test_nothing_is_written_when_the_socket_filled_during_the_read() -> None:
    shelf = Shelf()
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A], start=0)
    shelf.meanwhile = lambda: setattr(anna, "full", True)

    await shelf.catch_up.run(anna)

    assert (BEHIND, 0, []) == (anna.state, anna.position, anna.heard)


async def test_nothing_is_written_to_a_session_that_ended_during_the_read() -> None:
    shelf = Shelf()
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A], start=0)
    shelf.meanwhile = lambda: shelf.hub.remove(anna)

    await shelf.catch_up.run(anna)

    assert (CLOSED, []) == (anna.state, anna.heard)


async def test_after_an_error_it_goes_on_where_it_was() -> None:
    shelf = Shelf()
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A, B], start=0)

    def fail_once() -> None:
        if len(shelf.asked) == 2:
            raise OSError

    shelf.meanwhile = fail_once
    with pytest.raises(OSError):
        await shelf.catch_up.run(anna)
    await shelf.catch_up.run(anna)

    assert [*range(1, 10)] == anna.heard


async def test_those_who_are_live_hear_what_is_said_while_another_is_on_a_long_way_back() -> None:
    """Between any two pages, and not when it has arrived."""
    shelf = Shelf(page_events_max=1)
    ben = alive(shelf.hub, BEN, "ben", rooms=[B])
    anna = behind(shelf.hub, ANNA, "anna", rooms=[A], start=0)
    running = asyncio.ensure_future(shelf.catch_up.run(anna))
    order: list[tuple[int, int]] = []
    for position in (10, 11, 12):
        while len(anna.heard) < position - 9:
            await asyncio.sleep(0)
        shelf.grow(said(position, B))
        shelf.hub.flush()
        order.append((len(ben.heard), len(anna.heard)))
    await running

    assert [(1, 1), (2, 2), (3, 3)] == order
    assert [1, 2, 4, 5, 7, 8] == anna.heard


# --- coming in ---------------------------------------------------------------------------------------------------------------


def admitted(shelf: Shelf, *, live: tuple[str, ...] = (), start: int, since: int, head: int, newest: int) -> Listener:
    session = Listener(ANNA, "anna")
    session.opened = 9
    person = shelf.hub.hold(ANNA)
    shelf.hub.know(person, head, {})
    assert admit(shelf.hub, session, person, live, start=start, since=since, place=Place(head, newest))
    return session


def test_who_has_the_newest_event_of_its_streams_begins_where_that_was_looked_up() -> None:
    assert 7 == admitted(Shelf(), start=3, since=9, head=7, newest=3).position
    assert 3 == admitted(Shelf(), start=3, since=9, head=7, newest=4).position


def test_nobody_begins_ahead_of_the_hub() -> None:
    assert 9 == admitted(Shelf(), start=3, since=9, head=12, newest=3).position


def test_who_comes_back_to_a_live_room_does_not_skip_what_was_said_there() -> None:
    """The newest event that was looked up is that of the other streams."""
    anna = admitted(Shelf(), live=(STAGE,), start=3, since=3, head=7, newest=2)

    assert (3, {ROOM + STAGE: 3}) == (anna.position, anna.entered)


def test_who_is_new_to_a_live_room_reads_from_its_place_on() -> None:
    """Reading the head took longer than opening."""
    assert 9 == admitted(Shelf(), live=(STAGE,), start=3, since=9, head=20, newest=3).position


def test_the_hub_must_have_come_to_the_place_of_the_session() -> None:
    shelf = Shelf()
    session = Listener(ANNA, "anna")
    session.opened = 10
    person = shelf.hub.hold(ANNA)
    shelf.hub.know(person, 9, {})

    with pytest.raises(AssertionError, match="waits until the hub"):
        admit(shelf.hub, session, person, (), start=3, since=3, place=Place(9, 9))


async def test_the_tail_says_when_it_has_come_to_a_position() -> None:
    """So that an opening can wait for its own place in the log."""
    tail = Tail(5, _nothing, lambda batch: None)
    await tail.reached(5)
    waiting = [asyncio.ensure_future(tail.reached(position)) for position in (6, 7, 8)]
    await asyncio.sleep(0)
    waiting[1].cancel()

    tail.offer([said(6, A), said(7, A)])
    await asyncio.sleep(0)

    assert [True, True, False] == [one.done() for one in waiting]
    tail.offer([said(8, A)])
    await waiting[2]


def _nothing(after: int, limit: int) -> Awaitable[list[Recorded]]:
    raise AssertionError("nothing is read")
