"""The HTTP application: all routes, and around each of them the same five questions.

    told what went wrong? ▸ from which page? ▸ who is asking? ▸ too often, or too many? ▸ handler

Errors of the family become their status and problem details (RFC 9457). Anything else is a 500 that says nothing, with the
traceback in the log only. One line of log an answer: never a token, a query or a body.

The trap: open means open. Without a token a request comes from a service, and any program on the machine can make one; but no page of
another origin can, because browsers say where a page is from, and that is checked first.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import hdrs, web

from imcore.accounts.doors import TICKET
from imcore.api import goim, metrics, page, verbs
from imcore.api.asking import integer, problem, refusal, services
from imcore.api.downloads import DOWNLOADS, LEAVE, Downloads, Leave
from imcore.api.openapi import MID_HEADER
from imcore.api.services import ADDRESS, CORS, IDENTITY, SERVICES, Services
from imcore.auth import ANONYMOUS, SERVICE, Claim, Identity
from imcore.database import DATABASE_ERRORS
from imcore.errors import (
    BadRequest,
    Forbidden,
    ImcoreError,
    NotAllowed,
    Overloaded,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from imcore.paces import Paces
from imcore.places import retry_ms
from imcore.protocol.packet import INT64_MAX
from imcore.proxies import Networks, client_address, may_connect, networks, subnet
from imcore.verbs import VERBS, idempotency
from imcore.verbs.call import Verbs

__all__ = ["Services", "make_app"]

log = logging.getLogger(__name__)
access_log = logging.getLogger("imcore.access")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Who asks for these is nobody in particular: probes, and browsers before anybody has signed in.
OPEN_PATHS: Final = ("/", "/docs", "/openapi.json", "/healthz", "/readyz")
# What pages of other origins may say, and may read, beside what browsers let them anyway.
READ_HEADERS: Final = (hdrs.AUTHORIZATION, hdrs.CONTENT_TYPE, hdrs.IF_NONE_MATCH, idempotency.HEADER, MID_HEADER)
TOLD_HEADERS: Final = (
    hdrs.ALLOW, hdrs.CONTENT_DISPOSITION, "ETag", hdrs.RETRY_AFTER, idempotency.REPLAYED, "RateLimit", "RateLimit-Policy",
)  # fmt: skip
PAGE_PATHS: Final = "/page/"
METRICS_PATH: Final = "/metrics"
PATH_SHOWN_MAX: Final = 200

PACE: Final = web.RequestKey("pace", dict[str, str])
REQUESTS: Final = web.AppKey("requests", metrics.Requests)
_TRUSTED: Final = web.AppKey("trusted", Networks)
_PACES: Final = web.AppKey("paces", Paces[int | str])
_STRANGERS: Final = web.AppKey("strangers", Paces[str])  # of addresses whose tokens were no good


def make_app(services: Services, serving: Verbs | None = None) -> web.Application:
    """The application, with these verbs or all. It has no tasks of its own, and needs an event loop only when it is served."""
    # client_max_size bounds what aiohttp reads by itself, which nothing here asks it to: see asking.read_bytes.
    app = web.Application(middlewares=[told, from_page, identified, paced, bounded], client_max_size=1)
    app[SERVICES] = services
    app[REQUESTS] = metrics.Requests()
    app[_TRUSTED] = networks(services.settings.trusted_proxies)
    app[_PACES] = Paces(services.settings.inbound_frames_per_s, services.settings.inbound_frames_burst)
    app[_STRANGERS] = Paces(services.settings.inbound_frames_per_s, services.settings.inbound_frames_burst)
    services.metrics.register(app[REQUESTS])
    app[DOWNLOADS] = Downloads()
    services.metrics.register(app[DOWNLOADS])
    serving = serving or Verbs(VERBS)
    verbs.add_routes(app, serving)
    page.add_routes(app, serving)
    for routes in (goim, metrics):
        routes.add_routes(app)
    app.on_response_prepare.append(_headed)
    return app


async def _headed(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer says in its head, those that are written as they come too."""
    response.headers[hdrs.X_CONTENT_TYPE_OPTIONS] = "nosniff"
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    response.headers.update(request.get(CORS, {}))
    response.headers.update(request.get(PACE, {}))


# --- what went wrong -----------------------------------------------------------------------------------------------------------


@web.middleware
async def told(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer, good or bad, in its form; counted, and logged in a line."""
    started = time.perf_counter()
    request[ADDRESS] = client_address(
        request.remote or "", request.headers.getall(hdrs.X_FORWARDED_FOR, []), request.app[_TRUSTED]
    )
    try:
        response = await handler(request)
    except ImcoreError as error:
        response = refusal(error)
    except web.HTTPException as error:
        response = _of_http(error)
    except DATABASE_ERRORS as error:
        log.warning("the database did not answer: %s: %s", type(error).__name__, error)
        response = refusal(Unavailable(retry_after_ms=1000))
    except Exception:
        log.exception("a request failed", extra={"method": request.method, "route": _route(request)})
        response = refusal(ImcoreError())
    seconds = time.perf_counter() - started
    request.app[REQUESTS].count(_route(request), request.method, response.status, seconds)
    who = request.get(IDENTITY)
    access_log.info(
        "%s %s %d",
        request.method,
        request.rel_url.raw_path[:PATH_SHOWN_MAX],
        response.status,
        extra={"ms": round(seconds * 1000, 1), "address": request[ADDRESS], "mid": None if who is None else who.mid},
    )
    return response


def _of_http(error: web.HTTPException) -> web.Response:
    """aiohttp's own refusals, in our form."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        # OPTIONS asks just for that, anywhere.
        response = web.Response(status=204) if error.method == hdrs.METH_OPTIONS else refusal(NotAllowed())
        response.headers[hdrs.ALLOW] = ", ".join(sorted({*error.allowed_methods, hdrs.METH_OPTIONS}))
        return response
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return refusal(TooLarge())
    if isinstance(error, web.HTTPNotFound):
        return _problem(404, "not_found", "There is nothing at this address.", "There is nothing at this address.")
    if isinstance(error, web.HTTPRequestTimeout):
        return _problem(408, "timeout", "The body did not arrive in time.", error.text or "", retry=True)
    if error.status >= 500:
        return refusal(ImcoreError())
    return _problem(error.status, BadRequest.code, BadRequest.text(), error.reason)


def _problem(status: int, code: str, title: str, detail: str, *, retry: bool = False) -> web.Response:
    return problem(status, title, {"code": code, "detail": detail, "retry": retry})


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return "none" if resource is None else resource.canonical


# --- from which page -----------------------------------------------------------------------------------------------------------


@web.middleware
async def from_page(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Pages of other origins are refused, and those of allowed ones are told that they may read the answer."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return await handler(request)
    if not may_connect(origin, request.host, services(request).settings.origins):
        raise Forbidden("pages of this origin may not connect")
    cors: dict[str, str] = {hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin, hdrs.VARY: hdrs.ORIGIN}
    if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
        cors[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = "GET, POST, PUT, PATCH, DELETE"
        cors[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ", ".join(READ_HEADERS)
        cors[hdrs.ACCESS_CONTROL_MAX_AGE] = "600"
        return web.Response(status=204, headers=cors)
    cors[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ", ".join(TOLD_HEADERS)
    request[CORS] = cors
    return await handler(request)


# --- who is asking ---------------------------------------------------------------------------------------------------------------


@web.middleware
async def identified(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A token, or in mode open without one a word, becomes an identity.

    Tokens that are no good are paced by the address, because there is no person yet. One that is verified here costs little, and is
    looked at whatever came before: nobody is kept out by junk of his neighbours. But a question to the user's backend holds a place of
    few, and takes its pace before it is asked; every answer but no gives it back.
    """
    if request.path not in OPEN_PATHS and not request.path.startswith(PAGE_PATHS):
        request[IDENTITY] = await _identity(request)
    return await handler(request)


def _take_of_strangers(request: web.Request) -> None:
    """One more token of this address that is no good, or may be none. Raises RateLimited."""
    if services(request).settings.rate_limits:
        wait_s = request.app[_STRANGERS].take(subnet(request[ADDRESS]), time.monotonic())
        if wait_s:
            raise RateLimited("too many bad tokens come from this address", retry_after_ms=int(wait_s * 1000) + 1)


def _give_to_strangers(request: web.Request) -> None:
    """It was good after all."""
    if services(request).settings.rate_limits:
        request.app[_STRANGERS].charge(subnet(request[ADDRESS]), time.monotonic(), -1)


async def _identity(request: web.Request) -> Identity:
    have = services(request)
    for header in (hdrs.AUTHORIZATION, MID_HEADER):
        if len(request.headers.getall(header, [])) > 1:
            raise BadRequest(f"the header {header} is there twice")
    if hdrs.AUTHORIZATION not in request.headers:
        if have.settings.auth_mode == "open":
            named = request.headers.get(MID_HEADER)
            return SERVICE if named is None else have.doors(Claim(mid=integer(MID_HEADER, named, 1, INT64_MAX)))
        if _is_open(request):
            return ANONYMOUS
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("the header Authorization: Bearer … is needed")
    claim = Claim(token=token)
    if token.startswith(TICKET) or not have.doors.must_wait(claim):
        try:
            return have.doors(claim)
        except Unauthenticated:
            _take_of_strangers(request)
            raise
    _take_of_strangers(request)
    is_none = False
    try:
        origin = request.headers.get(hdrs.ORIGIN, "")
        return await have.doors.admit(claim, act="request", origin=origin, address=request[ADDRESS])
    except Unauthenticated:
        is_none = True
        raise
    finally:
        if not is_none:
            _give_to_strangers(request)


def _is_open(request: web.Request) -> bool:
    """Is this for people without a token too?"""
    method = hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method
    return (method, _route(request)) in request.app[verbs.OPEN_ROUTES]


# --- too often -------------------------------------------------------------------------------------------------------------------


@web.middleware
async def paced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A person may ask as often over HTTP as over a connection; of those without a token an address. Services are not held back.

    Every answer says how much is left, in the fields of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy` (so many in a
    row, given again in so many seconds) and `RateLimit` (so many are left now, and all are back in so many seconds).
    """
    who, settings = request.get(IDENTITY), services(request).settings
    if who is not None and not who.service and settings.rate_limits:
        paces, key, now = request.app[_PACES], who.mid or subnet(request[ADDRESS]), time.monotonic()
        wait_s = paces.take(key, now)
        burst, per_s = settings.inbound_frames_burst, settings.inbound_frames_per_s
        left, whole_s = paces.left(key, now)
        request[PACE] = {
            "RateLimit-Policy": f'"requests";q={burst:.0f};w={math.ceil(burst / per_s)}',
            "RateLimit": f'"requests";r={left};t={math.ceil(whole_s)}',
        }
        if wait_s:
            raise RateLimited(retry_after_ms=int(wait_s * 1000) + 1)
    return await handler(request)


# --- too many --------------------------------------------------------------------------------------------------------------------


@web.middleware
async def bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Only so many requests are under way; who comes beyond that is told so at once. Operators are answered all the same.

    A download leaves when it begins (`downloads`)."""
    if request.path in OPEN_PATHS or request.path == METRICS_PATH:
        return await handler(request)
    requests = request.app[REQUESTS]
    if requests.under_way >= services(request).settings.http_requests_max:
        requests.refused += 1
        raise Overloaded(retry_after_ms=retry_ms())
    requests.under_way += 1
    request[LEAVE] = leave = Leave(requests)
    try:
        return await handler(request)
    finally:
        leave()
