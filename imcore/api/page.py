"""The page to try everything with: a few files, read once, served from memory.

A browser asks for them again each time and mostly hears "not changed": so a new version of the server has a new page, at once.
"""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web

from imcore import __version__
from imcore.api.asking import answer, services

FOLDER: Final = Path(__file__).with_name("page")
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


def add_routes(app: web.Application) -> None:
    """Put these routes into the application."""
    app[FILES] = {path.relative_to(FOLDER).as_posix(): _file(path) for path in FOLDER.rglob("*") if path.is_file()}
    app.router.add_get("/", index)
    app.router.add_get("/page/config.json", config)
    app.router.add_get("/page/{file:.+}", file)


async def index(request: web.Request) -> web.StreamResponse:
    """The page itself."""
    return _served(request, "index.html")


async def file(request: web.Request) -> web.StreamResponse:
    """What the page consists of."""
    return _served(request, request.match_info["file"])


async def config(request: web.Request) -> web.Response:
    """What the page must know of this server."""
    have = services(request)
    return answer({"ws": have.ws_url, "auth": have.settings.auth_mode, "version": __version__})


def _file(path: Path) -> File:
    body = path.read_bytes()
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return File(body, kind, hashlib.sha256(body).hexdigest()[:32])


def _served(request: web.Request, name: str) -> web.StreamResponse:
    found = request.app[FILES].get(name)
    if found is None:
        raise web.HTTPNotFound
    headers = {"ETag": f'"{found.tag}"', "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
    if any(tag.value in (found.tag, "*") for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    charset = "utf-8" if found.kind.startswith("text/") else None
    return web.Response(body=found.body, content_type=found.kind, charset=charset, headers=headers)
