"""The door of the HTTP API: what listens, and what is told to who says something that is no HTTP.

aiohttp answers for itself what its parser refuses (a line that is too long, a header that is none), before any application is asked, in
plain text that repeats what it was sent. Here that is told like every other error, and repeats nothing.

The trap: aiohttp has no place to put this. `Handler` overrides what it says of an error, `Server` makes these handlers, and `Door` that
server, from the application as AppRunner does it. Whoever raises aiohttp's version looks here; a test asks for too long a line.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from imcore.api.asking import refusal
from imcore.errors import BadRequest, ImcoreError

LINE_BYTES_MAX: Final = 16_384  # method, path and query: room for 500 member ids
FIELD_BYTES_MAX: Final = 8_190  # of one header; a token may have 4,096


class Handler(RequestHandler):
    """One connection."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is said of a request that is none. It is in the log as aiohttp has it there (see logs.NoHttp)."""
        told = super().handle_error(request, status, exc, message)
        error = ImcoreError() if told.status >= 500 else BadRequest("the request is not HTTP as it is understood here")
        response = refusal(error)
        response.set_status(told.status)
        response.headers.update({"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"})
        response.force_close()
        return response


class Server(web.Server):
    """Makes a handler for each connection."""

    def __call__(self) -> RequestHandler:
        return Handler(self, loop=self._loop, **self._kwargs)


class Door(web.AppRunner):
    """An application with this door. Bounds what a line and a header may have."""

    def __init__(self, app: web.Application, **options: Any) -> None:
        super().__init__(app, max_line_size=LINE_BYTES_MAX, max_field_size=FIELD_BYTES_MAX, **options)

    async def _make_server(self) -> Server:
        made = await super()._make_server()
        return Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )
