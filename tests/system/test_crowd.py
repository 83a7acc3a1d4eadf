"""Two hundred devices in ten rooms: they talk, come and go, are brought in and thrown out, change connections and come back, all at
once. Afterwards each has exactly what the log says that it should have seen."""

from __future__ import annotations

import asyncio
import math
import os
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from system.checking import History, Visit, assert_sound
from system.clients import FORMS, SEND, Client, Clients, Form, Gone, Refused
from system.servers import Backend, Server, backend

DEVICES = 200
PEOPLE = 150  # so that fifty have two devices
ROOMS = 10
MEMBERS_AT_FIRST = 30
STEPS = 16
CONNECTING_AT_ONCE = 20


@dataclass
class Stay:
    """One connection of a device, and what is known of it."""

    client: Client
    marker: str  # the last push of before it did anything: when that came, it had caught up
    took_over: bool = False
    acked: int = 0


@dataclass
class Device:
    """One device and all its connections, in their order."""

    form: Form
    mid: int
    key: str
    chance: random.Random
    stays: list[Stay] = field(default_factory=list)
    sent: dict[str, dict[str, Any]] = field(default_factory=dict)  # body -> its place, if there was an answer

    @property
    def client(self) -> Client:
        return self.stays[-1].client

    @property
    def is_v1(self) -> bool:
        return self.form.startswith("v1")


class Crowd:
    """Everybody, and what they may do."""

    def __init__(self, server: Server, connecting: Clients, api: Backend, seed: int) -> None:
        self.server, self.connecting, self.api = server, connecting, api
        chance = random.Random(seed)
        people = [server.new_mid() for _ in range(PEOPLE)]
        self.rooms = [server.new_room() for _ in range(ROOMS)]
        self.devices = [
            Device(FORMS[n % len(FORMS)], people[n % PEOPLE], f"device {n}", random.Random(f"{seed} {n}"))
            for n in range(DEVICES)
        ]
        self.people = people
        self.first = [chance.sample(people, MEMBERS_AT_FIRST) for _ in self.rooms]
        self._doors = asyncio.Semaphore(CONNECTING_AT_ONCE)
        self._said = 0

    async def gather(self) -> None:
        """Everybody connects, and then there are rooms."""
        await asyncio.gather(*(self.arrive(device) for device in self.devices))
        for room, members in zip(self.rooms, self.first, strict=True):
            await self.api.create(room, *members)

    async def act(self, device: Device) -> None:
        """What one device does, one thing after another."""
        deeds: list[Callable[[Device], Awaitable[None]]] = [
            *[self.talk] * 9, *[self.come] * 3, *[self.go] * 2, self.bring, self.throw_out, self.return_, self.take_over,
        ]  # fmt: skip
        if not device.is_v1:
            deeds += [self.break_off]
        for _ in range(STEPS):
            with suppress(Refused):  # no member, or already one: others decide that too
                await device.chance.choice(deeds)(device)

    # --- deeds ---

    async def arrive(self, device: Device, *, took_over: bool = False, cursor: str = "") -> None:
        async with self._doors:
            client = await self.connecting.connect(
                self.server, device.form, mid=device.mid, key=device.key, cursor=cursor
            )
            marker = self.words(device)
            await self.api.push("keys", 1000, marker.encode(), keys=[device.key])
            await client.until_heard_of(marker)
        device.stays.append(Stay(client, marker, took_over, client.welcome.get("position", 0)))

    async def talk(self, device: Device) -> None:
        words = self.words(device)
        device.sent[words] = {}
        asked = {"room": device.chance.choice(self.rooms), "id": str(uuid.uuid4()), "body": words}
        try:
            device.sent[words] = await device.client.ask(SEND, asked)
        except Refused:
            del device.sent[words]
            raise

    async def come(self, device: Device) -> None:
        await device.client.join(device.chance.choice(self.rooms))

    async def go(self, device: Device) -> None:
        await device.client.leave(device.chance.choice(self.rooms))

    async def bring(self, device: Device) -> None:
        await self.api.add(device.chance.choice(self.rooms), device.chance.choice(self.people))

    async def throw_out(self, device: Device) -> None:
        with suppress(AssertionError):  # who is not there cannot be thrown out
            await self.api.kick(device.chance.choice(self.rooms), device.chance.choice(self.people))

    async def return_(self, device: Device) -> None:
        """Say goodbye and come back: with a cursor, or trusting the server to know."""
        cursor = await self.acked(device)
        await device.client.bye()
        await self.arrive(device, cursor=device.chance.choice([cursor, ""]))

    async def take_over(self, device: Device) -> None:
        """Come again while the old connection is still there."""
        old = device.client
        cursor = await self.acked(device)
        await self.arrive(device, took_over=True, cursor=device.chance.choice([cursor, ""]))
        await old.until_gone()

    async def break_off(self, device: Device) -> None:
        """In the middle of a word."""
        cursor = await self.acked(device)
        words = self.words(device)
        device.sent[words] = {}
        await device.client.post(
            SEND, {"room": device.chance.choice(self.rooms), "id": str(uuid.uuid4()), "body": words}
        )
        device.client.drop()
        await device.client.until_gone()
        await self.arrive(device, cursor=device.chance.choice([cursor, ""]))

    async def acked(self, device: Device) -> str:
        if device.is_v1:
            return ""
        position = device.client.events[-1].position
        cursor = await device.client.ack()
        device.stays[-1].acked = position
        return cursor

    def words(self, device: Device) -> str:
        self._said += 1
        return f"{self._said} by {device.key}"


async def test_everybody_hears_exactly_what_is_said_where_and_while_they_are(
    crowded: Server, connecting: Clients
) -> None:
    seed = int(os.environ.get("CROWD_SEED") or random.SystemRandom().randrange(2**32))
    before = await crowded.head()
    async with backend(crowded) as api:
        crowd = Crowd(crowded, connecting, api, seed)
        try:
            await crowd.gather()
            async with asyncio.TaskGroup() as actors:
                for device in crowd.devices:
                    actors.create_task(crowd.act(device))
            await api.push("all", 1000, f"the end of {before}".encode())
            for device in crowd.devices:
                await device.client.until_heard(f"the end of {before}")
            history = History(await crowded.events())

            assert [] == history.strangers()
            assert_sends_are_kept(crowd, history)
            assert_sound(history, [visit for device in crowd.devices for visit in visits(device, history)])
        except* (AssertionError, Gone, Refused) as group:
            raise AssertionError(f"CROWD_SEED={seed}") from group


def assert_sends_are_kept(crowd: Crowd, history: History) -> None:
    """Where the reply said that it is, or, if there was no reply, once or not at all."""
    counts = 0
    for device in crowd.devices:
        for words, place in device.sent.items():
            entry = history.at_body.get(words)
            if place:
                assert entry is not None, f"{words} was acknowledged at {place}"
                assert (place["position"], place["seq"]) == (entry.position, entry.seq)
                counts += 1
    assert counts > DEVICES, "there was little talk"
    bodies = [entry.body for entry in history.entries if entry.op and isinstance(entry.body, str)]
    assert len(bodies) == len(set(bodies))


def visits(device: Device, history: History) -> list[Visit]:
    """What to hold against the log: each connection by itself, and that together they leave nothing out."""
    made: list[Visit] = []
    opened = history.opened[device.mid, device.key]
    assert len(opened) == len(device.stays)
    of = partial(Visit, device.mid, device.key, ops=[1000] if device.is_v1 else None, own_may_come=device.is_v1)
    heard = 0
    for n, stay in enumerate(device.stays):
        name = f"{stay.client}, visit {n}"
        if device.is_v1:
            positions = [history.position(event) for event in stay.client.events]
            start = positions[0] - 1
            # After a goodbye nothing comes twice. What was on its way when another connection took over may.
            assert stay.took_over or start >= heard, f"{name}: what is at {start + 1} came twice"
            heard = max(heard, positions[-1])
        else:
            start = stay.client.welcome["position"]
            assert n == 0 or start <= device.stays[n - 1].acked, f"{name}: what was not acknowledged is left out"
        caught_up, is_whole = history.at_body[stay.marker].position, n == len(device.stays) - 1
        made.append(of(opened[n], start, stay.client.events, caught_up=caught_up, is_whole=is_whole, name=name))
    if device.is_v1:
        together = {history.position(event): event for stay in device.stays for event in stay.client.events}
        whole = [together[position] for position in sorted(together)]
        name = f"{device.client}, in all"
        made.append(of(opened[-1], opened[0], whole, caught_up=math.inf, is_whole=True, name=name))
    return made
