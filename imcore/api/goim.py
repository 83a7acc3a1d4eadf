"""goim's routes, as its backends know them: the same parameters, the same bytes in answer.

An answer is `{"code":0,"message":"","data":…}` with HTTP status 200; code is -400 for a request that goim's binding would not take,
with Go's own words for it, and -500 when the push failed. Without data there is no `data`. What goim does not have keeps HTTP's way:
401 and 403 for who is asking, 404 and 405 for where.

A push is stored before it is answered, and reaches who is offline too. With `durable=0` it goes to connected sessions only, as in
goim. `speed` is checked and otherwise not needed: a comet gives each client what its socket takes.

The trap: Go escapes `<`, `>` and `&` in JSON and sorts the keys of maps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from aiohttp import web

from imcore import commands
from imcore.api.asking import Query, check_key, check_service, identity, read_bytes, services
from imcore.balancer import BACKOFF, addresses, directions
from imcore.bus.postgres import Ephemeral
from imcore.database import DATABASE_ERRORS
from imcore.errors import BadRequest, DatabaseUnavailable, Forbidden, ImcoreError, NotAllowed, Unauthenticated
from imcore.nodes import AliveNode
from imcore.projections import queries
from imcore.protocol.packet import INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, check_room

OK, REQUEST_ERROR, SERVER_ERROR = 0, -400, -500
TOP_ROOMS_MAX: Final = 10_000
NOBODY: Final = 0  # goim's member id of those who have none

Handler = Callable[[web.Request], Awaitable[web.Response]]
_is_number = re.compile(r"[+-]?[0-9]+").fullmatch
_NO_DATA: Final = object()


def add_routes(app: web.Application) -> None:
    """Put goim's routes into the application."""
    for path, push in (("keys", push_keys), ("mids", push_mids), ("room", push_room), ("all", push_all)):
        app.router.add_post(f"/goim/push/{path}", _spoken_as_goim(push))
    for path, handler in (
        ("online/top", online_top),
        ("online/room", online_room),
        ("online/total", online_total),
        ("nodes/weighted", nodes_weighted),
        ("nodes/instances", nodes_instances),
    ):
        app.router.add_get(f"/goim/{path}", _spoken_as_goim(handler))


def _spoken_as_goim(handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        check_service(request)
        try:
            return await handler(request)
        except (Forbidden, Unauthenticated, NotAllowed):
            raise
        except ImcoreError as error:
            return result(REQUEST_ERROR if 400 <= error.status < 500 else SERVER_ERROR, message=error.detail)
        except DATABASE_ERRORS:
            return result(SERVER_ERROR, message=DatabaseUnavailable.text())

    return handle


# --- push --------------------------------------------------------------------------------------------------------------------


async def push_keys(request: web.Request) -> web.Response:
    """To connections by their key."""
    query = Bound(request, "keys")
    op, keys = query.int32("operation"), query.texts("keys")
    query.check()
    return await _push(request, query, op, keys=tuple(check_key(key) for key in dict.fromkeys(keys) if key))


async def push_mids(request: web.Request) -> web.Response:
    """To people, on all their connections."""
    query = Bound(request, "mids")
    op, mids = query.int32("operation"), query.int64s("mids")
    query.check()
    return await _push(request, query, op, mids=tuple(mid for mid in dict.fromkeys(mids) if mid != NOBODY))


async def push_room(request: web.Request) -> web.Response:
    """To everybody in a room."""
    query = Bound(request)
    op = query.int32("operation", required=True)
    kind, name = query.string("type"), query.string("room")
    query.check()
    room = check_room(f"{kind}://{name}")
    if not identity(request).may_enter(room):
        raise Forbidden("this room is not allowed to you")
    return await _push(request, query, op, room=room)


async def push_all(request: web.Request) -> web.Response:
    """To everybody."""
    query = Bound(request)
    op = query.int32("operation", required=True)
    query.int32("speed")
    query.check()
    return await _push(request, query, op, everybody=True)


async def _push(
    request: web.Request,
    query: Bound,
    op: int,
    *,
    room: str | None = None,
    mids: tuple[int, ...] = (),
    keys: tuple[str, ...] = (),
    everybody: bool = False,
) -> web.Response:
    have = services(request)
    is_durable = query.flag("durable")
    payload = await read_bytes(request, have.settings.goim_body_bytes_max)
    if op < 1:
        raise BadRequest("operation must be 1 or more")
    ops = identity(request).ops
    if ops is not None and op not in ops:
        raise Forbidden(f"operation {op} is not allowed to you")
    if not is_durable:
        have.push_ephemeral(Ephemeral(op, payload, room, mids, keys, everybody))
        return result(OK)
    drafts = commands.pushes(op, payload, room=room, mids=mids, keys=keys, everybody=everybody)
    for outcome in await have.log.append(drafts):
        if isinstance(outcome, ImcoreError):
            raise outcome
    return result(OK)


# --- online ------------------------------------------------------------------------------------------------------------------


async def online_top(request: web.Request) -> web.Response:
    """The rooms of a type with the most sessions in them."""
    query = Bound(request)
    kind, limit = query.string("type"), query.int64("limit", required=True)
    query.check()
    if limit < 1:
        raise BadRequest("limit must be 1 or more")
    tops = await queries.online_top(services(request).pool, _text(kind), min(limit, TOP_ROOMS_MAX))
    return result(OK, [{"room_id": room.partition("://")[2], "count": count} for room, count in tops])


async def online_room(request: web.Request) -> web.Response:
    """How many sessions are in each of these rooms."""
    query = Bound(request, "rooms")
    kind, names = query.string("type"), query.texts("rooms", required=True)
    query.check()
    rooms = {name: f"{_text(kind)}://{_text(name)}" for name in names}
    counts = await queries.online_rooms(services(request).pool, list(rooms.values()))
    return result(OK, {name: counts[rooms[name]] for name in sorted(rooms)})


async def online_total(request: web.Request) -> web.Response:
    """How many are connected."""
    Bound(request)
    total = await queries.online_total(services(request).pool)
    return result(OK, {"conn_count": total.connections, "ip_count": total.addresses})


def _text(text: str) -> str:
    if "\0" in text:
        raise BadRequest("there is no room with a NUL in its name")
    return text


# --- nodes -------------------------------------------------------------------------------------------------------------------


async def nodes_weighted(request: web.Request) -> web.Response:
    """Where a client should connect to, the best first: names for platform=web, addresses for others."""
    query = Bound(request)
    platform, region = query.string("platform", required=False), query.string("region", required=False)
    query.check()
    have = services(request)
    settings = have.settings
    chosen = have.means.accounts.balancer.choose(await have.nodes(), region or settings.region)
    told = directions(chosen, platform, settings.advertise)
    reply = {
        "domain": told.domain,
        "tcp_port": told.tcp_port,
        "ws_port": told.ws_port,
        "wss_port": told.wss_port,
        "heartbeat": int(settings.heartbeat_s),
        "nodes": told.hosts,
        "backoff": BACKOFF,
        "heartbeat_max": settings.heartbeat_misses,
    }
    return result(OK, {name: value for name, value in reply.items() if value})  # Go leaves out what is zero


async def nodes_instances(request: web.Request) -> web.Response:
    """The registered comets."""
    Bound(request)
    return result(OK, [_instance(node) for node in await services(request).nodes()])


def _instance(node: AliveNode) -> dict[str, object]:
    ports = (("tcp", node.tcp_port), ("ws", node.ws_port), ("wss", node.wss_port))
    return {
        "region": node.region,
        "zone": "",
        "env": "",
        "appid": "goim.comet",
        "hostname": node.hostname,
        "addrs": [f"{scheme}://{address}:{port}" for address in addresses(node) for scheme, port in ports if port],
        "version": "",
        "latest_timestamp": _nanoseconds(node.lease_until),
        "metadata": {
            "addrs": node.address,
            "conn_count": str(node.connections),
            "ip_count": str(node.addresses),
            "node": node.node,
            "offline": "false",
            "weight": str(node.weight),
        },
    }


def _nanoseconds(when: datetime) -> int:
    return int(when.timestamp() * 1_000_000) * 1_000


# --- Go's way with parameters and JSON ---------------------------------------------------------------------------------------


class Bound:
    """goim's parameters, as gin binds them: a number that cannot be read ends it, what is missing is told together.

    Call `check` when all are bound. One thing is stricter: a parameter that goim does not repeat may not be there twice.
    """

    def __init__(self, request: web.Request, *repeated: str) -> None:
        self._query = Query(request, repeated=repeated)
        self._missing: list[str] = []

    def string(self, name: str, *, required: bool = True) -> str:
        """A text; "" if it is not there."""
        value = self._query.text(name) or ""
        if required and not value:
            self._missing.append(name)
        return value

    def texts(self, name: str, *, required: bool = False) -> list[str]:
        """A repeated text."""
        values = self._query.texts(name)
        if required and not values:
            self._missing.append(name)
        return values

    def int32(self, name: str, *, required: bool = False) -> int:
        """A number of 32 bits; 0 if it is not there, and 0 is as good as missing."""
        return self._number(name, INT32_MIN, INT32_MAX, required)

    def int64(self, name: str, *, required: bool = False) -> int:
        """A number of 64 bits."""
        return self._number(name, INT64_MIN, INT64_MAX, required)

    def int64s(self, name: str) -> list[int]:
        """A repeated number of 64 bits."""
        return [_parsed(value, INT64_MIN, INT64_MAX) for value in self._query.texts(name)]

    def flag(self, name: str) -> bool:
        """Ours, not goim's: 1 if it is not there."""
        value = self._query.text(name) or "1"
        if value not in ("0", "1"):
            raise BadRequest(f"{name} must be 0 or 1")
        return value == "1"

    def check(self) -> None:
        """Raises BadRequest, in the words of goim's validator, if something required is missing."""
        if self._missing:
            names = [FIELDS[name] for name in self._missing]
            raise BadRequest(
                "\n".join(
                    f"Key: '.{name}' Error:Field validation for '{name}' failed on the 'required' tag" for name in names
                )
            )

    def _number(self, name: str, low: int, high: int, required: bool) -> int:
        value = _parsed(self._query.text(name) or "0", low, high)
        if required and value == 0:
            self._missing.append(name)
        return value


FIELDS: Final = {"operation": "Op", "type": "Type", "room": "Room", "rooms": "Rooms", "limit": "Limit"}


def _parsed(text: str, low: int, high: int) -> int:
    """strconv.ParseInt. At most 19 digits are ever converted: what is longer, less leading zeros, is out of range."""
    if text == "":
        return 0
    if not text.isascii() or not _is_number(text):
        raise BadRequest(f"strconv.ParseInt: parsing {_quoted(text)}: invalid syntax")
    digits = text.lstrip("+-").lstrip("0") or "0"
    number = int(digits) * (-1 if text[0] == "-" else 1) if len(digits) <= 19 else high + 1
    if not low <= number <= high:
        raise BadRequest(f"strconv.ParseInt: parsing {_quoted(text)}: value out of range")
    return number


_QUOTED: Final = {ord(sign): f"\\{name}" for sign, name in zip('"\\\a\b\f\n\r\t\v', '"\\abfnrtv', strict=True)}


def _quoted(text: str) -> str:
    """strconv.Quote."""
    return f'"{"".join(_shown(sign) for sign in text)}"'


def _shown(sign: str) -> str:
    code = ord(sign)
    if code in _QUOTED or sign.isprintable():
        return _QUOTED.get(code, sign)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def result(code: int, data: object = _NO_DATA, *, message: str = "") -> web.Response:
    """goim's answer, to the byte."""
    told: dict[str, object] = {"code": code, "message": message}
    if data is not _NO_DATA:
        told["data"] = data
    return web.Response(body=go_json(told), headers={"Content-Type": "application/json; charset=utf-8"})


def go_json(value: object) -> bytes:
    """What Go's encoding/json writes: compact, not ASCII only, and safe inside HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode()
