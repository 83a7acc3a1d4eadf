"""How each operation is asked for, so that nothing but the permission table can refuse it.

A case prepares what the operation needs (a ban that can be lifted, a message that can be recalled) and says with what to ask.
`targets` are those to whom or to whose it is done, where that matters: oneself, and people of each rank in the room. `others` are
answers that other rules give where the table allows, each with its reason.

The trap: an operation that is missing here fails the test, and so it must.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from yarl import URL

from imcore.permissions import PlatformRole
from permissions.world import FOR_EVER_MS, PASSWORD, Scene, Somebody, message
from verbs.asking import BY_NAME
from waiting import eventually

Args = dict[str, Any]
Prepare = Callable[[Scene, str], Awaitable[Args]]

RANKED: Final = ("self", "member", "room_admin", "owner")
NOBODY: Final = ("",)


@dataclass(frozen=True)
class Case:
    """One operation."""

    args: Prepare
    targets: tuple[str, ...] = NOBODY
    # What another rule answers where the table allows: (role, standing, target) -> code. What is None there matches everything.
    others: Mapping[tuple[str | None, str | None, str | None], str] = field(default_factory=dict)
    changes: bool = True  # does it write?
    upload: bytes = b""
    on_self: bool = False  # does "below" mean oneself too?
    hidden: str = "no_such_room"  # how what is hidden is refused
    fresh: bool = False  # the actor is not the same afterwards: each time another one

    def other(self, *asked: str | None) -> str:
        """The code that another rule answers, or "" """
        for pattern, code in self.others.items():
            if all(part is None or part == one for part, one in zip(pattern, asked, strict=True)):
                return code
        return ""


def plain(**args: Any) -> Prepare:
    """These arguments, whatever the scene."""

    async def prepare(scene: Scene, target: str) -> Args:
        return dict(args)

    return prepare


def in_room(**args: Any) -> Prepare:
    """The room and these."""

    async def prepare(scene: Scene, target: str) -> Args:
        return {"room": scene.room, **args}

    return prepare


def on_person(**args: Any) -> Prepare:
    """The room, the target and these."""

    async def prepare(scene: Scene, target: str) -> Args:
        return {"room": scene.room, "mid": scene.mid(target), **args}

    return prepare


def on_message(**args: Any) -> Prepare:
    """The room, a message of the target's and these."""

    async def prepare(scene: Scene, target: str) -> Args:
        return {"room": scene.room, "seq": await scene.seq(target or "member"), **args}

    return prepare


async def _sent(scene: Scene, target: str) -> Args:
    return {"room": scene.room, **message()}


async def _forwarded(scene: Scene, target: str) -> Args:
    """Into a room in which the actor may speak: to see the one is this operation, and to speak in the other is messages.send."""
    to = scene.world.new_room()
    mid = scene.actor.mid
    await scene.world.service("rooms.create", room=to, members=[mid] if mid else [])
    return {"room": scene.room, "seq": await scene.seq("member"), "to": to, "id": str(uuid.uuid4())}


async def _stranger(scene: Scene) -> int:
    return (await scene.world.new("user")).mid


async def _new_member(scene: Scene, target: str) -> Args:
    return {"room": scene.room, "mid": await _stranger(scene)}


async def _unbanned(scene: Scene, target: str) -> Args:
    mid = scene.world.friend.mid
    await scene.world.service("rooms.ban", room=scene.room, mid=mid)
    return {"room": scene.room, "mid": mid}


async def _invited(scene: Scene, target: str) -> Args:
    mid = scene.world.friend.mid
    await scene.world.service("rooms.invite", room=scene.room, mid=mid)
    return {"room": scene.room, "mid": mid}


async def _asked(scene: Scene, target: str) -> Args:
    """Somebody stands before the door."""
    ask = scene.world.service
    await ask("rooms.change", room=scene.room, public=True, approval=True)
    await scene.world.friend.ask("rooms.ask", room=scene.room)
    await ask("rooms.change", room=scene.room, public=False, approval=False)
    return {"room": scene.room, "mid": scene.world.friend.mid}


async def _public(scene: Scene, target: str) -> Args:
    await scene.world.service("rooms.change", room=scene.room, public=True)
    return _own(scene)


async def _shown(scene: Scene, target: str) -> Args:
    await scene.world.service("rooms.change", room=scene.room, public=True)
    return {"room": scene.room}


async def _with_approval(scene: Scene, target: str) -> Args:
    await scene.world.service("rooms.change", room=scene.room, public=True, approval=True)
    return _own(scene)


def _own(scene: Scene) -> Args:
    """The room; a service says for whom."""
    args: Args = {"room": scene.room}
    if scene.actor.role == "service":
        args["mid"] = scene.world.friend.mid
    return args


async def _left(scene: Scene, target: str) -> Args:
    if scene.actor.role == "service":
        await scene.world.service("rooms.add", room=scene.room, mid=scene.world.friend.mid)
    return _own(scene)


async def _accepted(scene: Scene, target: str) -> Args:
    if scene.actor.role == "service":
        await scene.world.service("rooms.invite", room=scene.room, mid=scene.world.friend.mid)
    return _own(scene)


async def _entered(scene: Scene, target: str) -> Args:
    whose = scene.world.friend if scene.actor.role == "service" else scene.actor
    if whose.mid:
        await whose.ask("server.show", "connection")

        async def is_open() -> bool:
            return bool((await scene.world.service("sessions.list", mid=[whose.mid]))["sessions"])

        await eventually(is_open)
    return {"key": "asker", "room": f"live://{uuid.uuid4().hex}", **await _mine(scene, target)}


async def _created(scene: Scene, target: str) -> Args:
    return {"room": scene.world.new_room()}


async def _mine(scene: Scene, target: str) -> Args:
    """One's own; a service says whose."""
    return {"mid": scene.world.friend.mid} if scene.actor.role == "service" else {}


async def _mine_of(scene: Scene, target: str) -> Args:
    return {"of": scene.world.friend.mid} if scene.actor.role == "service" else {}


async def _mine_listed(scene: Scene, target: str) -> Args:
    return {"mid": [scene.world.friend.mid if scene.actor.role == "service" else scene.actor.mid]}


async def _to_friend(scene: Scene, target: str) -> Args:
    return {"room": scene.room, "mid": scene.world.friend.mid}


async def _with_friend(scene: Scene, target: str) -> Args:
    mid = scene.world.friend.mid
    return {"mid": mid, "of": scene.world.member.mid} if scene.actor.role == "service" else {"mid": mid}


async def _with_stranger(scene: Scene, target: str) -> Args:
    return {"mid": await _stranger(scene), **await _mine_of(scene, target)}


async def _watched(scene: Scene, target: str) -> Args:
    return {"mids": [scene.world.friend.mid]}


async def _attachment(scene: Scene, target: str) -> Args:
    """A file of the target's."""
    whose = getattr(scene.world, target) if target in ("member", "room_admin", "owner") else scene.world.member
    if target == "self" and scene.standing in ("member", "room_admin", "owner"):
        whose = scene.actor
    elif target == "self" and scene.standing == "muted":
        service = scene.world.service
        await service("rooms.mute", room=scene.room, mid=scene.actor.mid, until_ms=0)
        stored = await _stored(scene, scene.actor)
        await service("rooms.mute", room=scene.room, mid=scene.actor.mid, until_ms=FOR_EVER_MS)
        return {"id": stored}
    return {"id": await _stored(scene, whose)}


async def _stored(scene: Scene, whose: Somebody) -> str:
    args = {"room": scene.room, "name": "a.txt", "media_type": "text/plain"}
    told = await whose.ask.ask(BY_NAME["attachments.store"], args, upload=b"hello")
    assert not told.code, told
    return str(told.body["id"])


async def _fetched(scene: Scene, target: str) -> Args:
    id_ = await _stored(scene, scene.world.member)
    link = await scene.world.member.ask("attachments.link", id=id_)
    query = URL(link["url"]).query
    return {"id": id_, "expires": int(query["expires"]), "signature": query["signature"]}


async def _password(scene: Scene, target: str) -> Args:
    return {"old": PASSWORD, "new": PASSWORD + "!"}


async def _renewal(scene: Scene, target: str) -> Args:
    return {"token": scene.actor.ask.token or "none"}


async def _activation(scene: Scene, target: str) -> Args:
    return {"mid": (await scene.world.new("user")).mid}


async def _login(scene: Scene, target: str) -> Args:
    return {"login": (await scene.world.new("user")).login, "password": PASSWORD, "key": "other"}


async def _code(scene: Scene, target: str) -> Args:
    return {"login": (await scene.world.new("user")).login, "password": PASSWORD, "email": "a@example.com"}


async def _refresh(scene: Scene, target: str) -> Args:
    return {"refresh_token": (await scene.world.new("user")).refresh_token}


async def _registration(scene: Scene, target: str) -> Args:
    return {"login": f"u{uuid.uuid4().hex[:12]}", "password": PASSWORD}


async def _profile(scene: Scene, target: str) -> Args:
    return {"mid": scene.world.friend.mid}


async def _account(scene: Scene, target: str) -> Args:
    return {"mid": await _of_role(scene, target)}


async def _role(scene: Scene, target: str) -> Args:
    return {"mid": await _of_role(scene, target), "role": "user"}


async def _of_role(scene: Scene, target: str) -> int:
    return scene.actor.mid if target == "self" else (await scene.world.new(ROLES[target])).mid


ROLES: Final[Mapping[str, PlatformRole]] = {"user": "user", "moderator": "moderator", "admin": "admin"}
OF_ROLES: Final = ("self", "user", "moderator", "admin")

CASES: Final[dict[str, Case]] = {
    "server.show": Case(plain(), changes=False),
    # --- rooms ---
    "rooms.create": Case(_created),
    "rooms.show": Case(_shown, changes=False),
    "rooms.change": Case(in_room(topic="new")),
    "rooms.dismiss": Case(in_room()),
    "rooms.directory": Case(plain(), changes=False),
    "rooms.read": Case(in_room(seq=1)),
    "inbox.list": Case(_mine, changes=False),
    # --- members ---
    "rooms.members": Case(in_room(), changes=False),
    "rooms.changes": Case(in_room(after=0), changes=False),
    "rooms.join": Case(_public),
    "rooms.leave": Case(_left),
    "rooms.add": Case(_new_member, targets=("member",)),
    "rooms.kick": Case(on_person(), targets=RANKED),
    "rooms.set_role": Case(on_person(role="member"), targets=RANKED, on_self=True),
    "rooms.transfer": Case(on_person(), targets=("member",)),
    "rooms.mute": Case(on_person(until_ms=FOR_EVER_MS), targets=RANKED),
    "rooms.mute_all": Case(in_room(until_ms=FOR_EVER_MS)),
    "rooms.ban": Case(on_person(), targets=RANKED),
    "rooms.unban": Case(_unbanned),
    "rooms.bans": Case(in_room(), changes=False),
    # --- invitations and requests to join ---
    "rooms.invite": Case(_to_friend),
    "rooms.uninvite": Case(_invited),
    "rooms.invitations": Case(in_room(), changes=False),
    "rooms.accept": Case(_accepted),
    "rooms.decline": Case(_accepted),
    "rooms.ask": Case(_with_approval),
    "rooms.requests": Case(in_room(), changes=False),
    "rooms.approve": Case(_asked),
    "rooms.reject": Case(_asked),
    "invitations.mine": Case(_mine, changes=False),
    # --- two people ---
    "direct.open": Case(_with_friend),
    "blocks.add": Case(_with_stranger),
    "blocks.remove": Case(_with_stranger),
    "blocks.list": Case(_mine_of, changes=False),
    # --- connections ---
    "sessions.list": Case(_mine_listed, changes=False),
    "rooms.enter": Case(_entered),
    # --- messages ---
    "messages.send": Case(_sent),
    "messages.history": Case(in_room(), changes=False),
    "messages.show": Case(on_message(), changes=False),
    "messages.thread": Case(on_message(), changes=False),
    "messages.edits": Case(on_message(), changes=False),
    "messages.edit": Case(on_message(body="better"), targets=RANKED),
    "messages.recall": Case(on_message(), targets=RANKED, on_self=True),
    "messages.forward": Case(_forwarded),
    "mentions.list": Case(_mine, changes=False),
    "messages.search": Case(plain(q="hello"), changes=False),
    "reactions.add": Case(on_message(reaction="👍")),
    "reactions.remove": Case(on_message(reaction="👍")),
    "reactions.list": Case(on_message(), changes=False),
    "pins.add": Case(on_message()),
    "pins.remove": Case(on_message()),
    "pins.list": Case(in_room(), changes=False),
    "receipts.list": Case(on_message(), changes=False),
    # --- who is online, and signals ---
    "presence.of": Case(_mine_listed, changes=False),
    "presence.room": Case(in_room(), changes=False),
    "presence.show": Case(plain(visible_to="everybody")),
    "presence.watch": Case(_watched),
    "presence.unwatch": Case(plain()),
    "rooms.typing": Case(in_room()),
    "rooms.signal": Case(in_room(type="wave")),
    # --- attachments ---
    "attachments.store": Case(in_room(name="a.txt", media_type="text/plain"), upload=b"hello"),
    "attachments.list": Case(in_room(), changes=False),
    "attachments.show": Case(_attachment, changes=False, hidden="no_such_attachment"),
    "attachments.link": Case(_attachment, changes=False, hidden="no_such_attachment"),
    "attachments.fetch": Case(_fetched, changes=False),
    "attachments.remove": Case(_attachment, targets=RANKED, on_self=True, hidden="no_such_attachment"),
    # --- accounts ---
    "account.show": Case(plain(), changes=False),
    "account.change": Case(plain(name="Somebody")),
    "account.password": Case(_password, fresh=True),
    "account.deactivate": Case(plain(), fresh=True),
    "account.renew": Case(_renewal),
    # Whoever has no role for it needs the code, which nobody was sent here.
    "accounts.activate": Case(
        _activation,
        others={(role, None, None): "forbidden" for role in ("anonymous", "guest", "user")},
    ),
    "accounts.guest": Case(plain()),
    "accounts.list": Case(plain(), changes=False),
    "accounts.login": Case(_login),
    "accounts.logout": Case(plain(), fresh=True),
    "accounts.profile": Case(_profile, changes=False),
    "accounts.refresh": Case(_refresh),
    "accounts.register": Case(_registration),
    "accounts.restore": Case(_account, targets=OF_ROLES, fresh=True),
    "accounts.send_code": Case(_code),
    "accounts.set_role": Case(_role, targets=OF_ROLES, on_self=True, fresh=True),
    "accounts.suspend": Case(_account, targets=OF_ROLES, fresh=True),
    "accounts.ticket": Case(plain()),
    "audit.list": Case(plain(), changes=False),
    "codes.create": Case(plain()),
    "devices.list": Case(plain(), changes=False),
    "devices.remove": Case(plain(key="another")),
}
