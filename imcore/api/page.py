"""The pages to try everything with, and the document that describes it: a few files, read once, served from memory.

`/` is a client that shows what it does, `/docs` every verb with a form to call it, made in the browser of `/openapi.json`.

A browser asks for them again each time and mostly hears "not changed": so a new version of the server has a new page, at once.
"""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path
from typing import Final, NamedTuple

import orjson
from aiohttp import web

from imcore import __version__
from imcore.api.asking import answer, services
from imcore.api.openapi import document
from imcore.api.services import SERVICES
from imcore.api.verbs import has_already
from imcore.verbs.call import Verbs

FOLDER: Final = Path(__file__).with_name("page")
DESCRIPTION: Final = "openapi.json"  # which is also at /page/openapi.json: the pages name what they need in one way
TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
POLICY: Final = (
    "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class File(NamedTuple):
    """One file of the page."""

    body: bytes
    kind: str
    tag: str


FILES: Final = web.AppKey("files", dict[str, File])


def add_routes(app: web.Application, verbs: Verbs) -> None:
    """Put these routes into the application."""
    files = {path.relative_to(FOLDER).as_posix(): _file(path.name, path.read_bytes()) for path in FOLDER.rglob("*.*")}
    described = document(verbs, auth_mode=app[SERVICES].settings.auth_mode)
    app[FILES] = {**files, DESCRIPTION: _file(DESCRIPTION, orjson.dumps(described))}
    app.router.add_get("/", index)
    app.router.add_get("/docs", docs)
    app.router.add_get("/openapi.json", description)
    app.router.add_get("/page/config.json", config)
    app.router.add_get("/page/{file:.+}", file)


async def index(request: web.Request) -> web.StreamResponse:
    """The page itself."""
    return _served(request, "index.html")


async def docs(request: web.Request) -> web.StreamResponse:
    """Every verb, to read and to try."""
    return _served(request, "docs.html")


async def description(request: web.Request) -> web.StreamResponse:
    """The verbs as an OpenAPI document."""
    return _served(request, DESCRIPTION)


async def file(request: web.Request) -> web.StreamResponse:
    """What the page consists of."""
    return _served(request, request.match_info["file"])


async def config(request: web.Request) -> web.Response:
    """What the page must know of this server."""
    have = services(request)
    return answer({"ws": have.ws_url(), "auth": have.settings.auth_mode, "version": __version__})


def _file(name: str, body: bytes) -> File:
    kind = TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return File(body, kind, hashlib.sha256(body).hexdigest()[:32])


def _served(request: web.Request, name: str) -> web.StreamResponse:
    found = request.app[FILES].get(name)
    if found is None:
        raise web.HTTPNotFound
    headers = {"ETag": f'"{found.tag}"', "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
    if has_already(request, found.tag):
        return web.Response(status=304, headers=headers)
    charset = "utf-8" if found.kind.startswith("text/") else None
    return web.Response(body=found.body, content_type=found.kind, charset=charset, headers=headers)
