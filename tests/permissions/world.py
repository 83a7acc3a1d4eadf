"""A server with tokens, and somebody of every role; rooms in which somebody has any standing."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imcore import auth
from imcore.permissions import PlatformRole, Standing
from system.servers import Server
from verbs.asking import Asker, Askers, asking

PASSWORD = "correct horse battery staple"
RENEW_S = 300  # a token is good for 900
FOR_EVER_MS = 2**53


@dataclass
class Somebody:
    """A person, or a service, or nobody."""

    role: PlatformRole
    mid: int
    ask: Asker
    login: str = ""
    refresh_token: str = ""


@dataclass
class World:
    """Who there is. `actors` are those whose rights are looked at, one of each role; `member`, `room_admin` and `owner` are in every
    room, as what their names say; `friend` is what somebody else is."""

    service: Asker
    actors: dict[PlatformRole, Somebody]
    member: Somebody
    room_admin: Somebody
    owner: Somebody
    friend: Somebody
    askers: Askers
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    renewed_at: float = field(default_factory=time.monotonic)

    async def renew(self) -> None:
        """Everybody logs in anew, if that is long ago: on a busy machine more is asked than one token is good for."""
        if time.monotonic() < self.renewed_at + RENEW_S:
            return
        self.actors["guest"] = await self.new("guest")
        for somebody in (*self.actors.values(), self.member, self.room_admin, self.owner, self.friend):
            if somebody.login:
                told = await self.askers.one()("accounts.login", login=somebody.login, password=PASSWORD, key="asker")
                await somebody.ask.close()
                somebody.ask, somebody.refresh_token = self.askers.one(told["token"]), told["refresh_token"]
        self.renewed_at = time.monotonic()

    def new_room(self, kind: str = "group") -> str:
        """A name that no room has."""
        return f"{kind}://p{next(self.numbers)}"

    async def new(self, role: PlatformRole) -> Somebody:
        """Somebody of this role whom nobody has met."""
        if role == "guest":
            return await _guest(self.askers)
        if role in ("user", "moderator", "admin"):
            return await _user(self.askers, f"u{uuid.uuid4().hex[:12]}", role)
        return self.actors[role]

    async def scene(self, actor: Somebody, standing: Standing | None) -> Scene:
        """A new room, in which the actor has this standing."""
        room = self.new_room()
        ask = self.service
        await ask(
            "rooms.create", room=room, public=False, members=[self.member.mid, self.room_admin.mid, self.owner.mid]
        )
        await ask("rooms.set_role", room=room, mid=self.room_admin.mid, role="admin")
        await ask("rooms.set_role", room=room, mid=self.owner.mid, role="owner")
        scene = Scene(self, room, actor, standing)
        match standing:
            case "invited":
                await ask("rooms.invite", room=room, mid=actor.mid)
            case "banned":
                await ask("rooms.ban", room=room, mid=actor.mid)
            case "muted":
                await ask("rooms.add", room=room, mid=actor.mid)
                scene.said["self"] = (await ask("messages.send", room=room, **message(), mid=actor.mid))["seq"]
                await ask("rooms.mute", room=room, mid=actor.mid, until_ms=FOR_EVER_MS)
            case "member" | "room_admin" | "owner":
                await ask("rooms.add", room=room, mid=actor.mid)
                if standing != "member":
                    role = "admin" if standing == "room_admin" else "owner"
                    await ask("rooms.set_role", room=room, mid=actor.mid, role=role)
        return scene


@dataclass
class Scene:
    """A room, and somebody who has a standing in it. `said` is the seq of a message of each of the people, once they said one."""

    world: World
    room: str
    actor: Somebody
    standing: Standing | None
    said: dict[str, int] = field(default_factory=dict)

    def mid(self, whose: str) -> int:
        """The member id of: self, member, room_admin, owner, friend."""
        if whose == "self":
            return self.actor.mid
        somebody = getattr(self.world, whose)
        assert isinstance(somebody, Somebody)
        return somebody.mid

    async def seq(self, whose: str) -> int:
        """A message of somebody's in the room. The actor's own may be impossible: then it is one of somebody else."""
        if whose not in self.said:
            mid = self.mid(whose)
            if whose == "self" and mid and self.standing not in ("muted", "member", "room_admin", "owner"):
                mid = self.world.member.mid
            named: dict[str, Any] = {"mid": mid} if mid else {}
            self.said[whose] = (await self.world.service("messages.send", room=self.room, **message(), **named))["seq"]
        return self.said[whose]


def message(text: str = "hello") -> dict[str, Any]:
    """What a send needs beside the room."""
    return {"id": str(uuid.uuid4()), "body": {"text": text}}


async def _user(askers: Askers, login: str, role: PlatformRole) -> Somebody:
    nobody = askers.one()
    made = await nobody("accounts.register", login=login, password=PASSWORD)
    if role != "user":
        await askers.made[0]("accounts.set_role", mid=made["mid"], role=role)
    told = await nobody("accounts.login", login=login, password=PASSWORD, key="asker")
    return Somebody(role, made["mid"], askers.one(told["token"]), login, told["refresh_token"])


async def _guest(askers: Askers) -> Somebody:
    told = await askers.one()("accounts.guest", key="asker")
    return Somebody("guest", told["mid"], askers.one(told["token"]), refresh_token=told["refresh_token"])


@asynccontextmanager
async def world(server: Server, data: Path) -> AsyncIterator[World]:
    """Everybody, on a running server of mode jwt."""
    key = auth.load_or_create_keys(data)
    async with asking(server.http, server.ws) as askers:
        token = auth.mint(key, now=time.time(), expires_in_s=3600, service="tests")
        service = askers.one(token)
        roles: list[tuple[str, PlatformRole]] = [
            ("user", "user"), ("moderator", "moderator"), ("admin", "admin"), ("member", "user"), ("room_admin", "user"),
            ("owner", "user"), ("friend", "user"),
        ]  # fmt: skip
        people = {
            name: await _user(askers, f"{name.replace('_', '')}{uuid.uuid4().hex[:8]}", role) for name, role in roles
        }
        actors: dict[PlatformRole, Somebody] = {
            "anonymous": Somebody("anonymous", 0, askers.one()),
            "guest": await _guest(askers),
            "user": people["user"],
            "service": Somebody("service", 0, service),
            "moderator": people["moderator"],
            "admin": people["admin"],
        }
        yield World(service, actors, people["member"], people["room_admin"], people["owner"], people["friend"], askers)
