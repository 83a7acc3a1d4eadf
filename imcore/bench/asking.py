"""Questions to the HTTP API over a connection that stays, and how long each answer took. One thread, one question at a time."""

from __future__ import annotations

import time
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self
from urllib.parse import quote

import orjson

from imcore.errors import ImcoreError

ANSWER_S: Final = 30.0


class WrongAnswer(ImcoreError):
    """The HTTP API answered something else than a benchmark needs."""

    code: ClassVar[str] = "wrong_answer"


class Answer(NamedTuple):
    """A status, what was said, and how long it took from the first byte sent to the last one read."""

    status: int
    body: Any
    ms: float


class Asking:
    """One client of the API at http://host:port."""

    def __init__(self, http: str) -> None:
        self._connection = HTTPConnection(http.removeprefix("http://"), timeout=ANSWER_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, object] | None = None,
        *,
        mid: int | None = None,
        token: str = "",
        may_be: tuple[int, ...] = (),
    ) -> Answer:
        """Ask, as nobody in particular, as this member (where the server believes that) or with a token.

        Raises WrongAnswer for another status than 2xx and those that may be.
        """
        headers = {"Content-Type": "application/json"}
        if mid is not None:
            headers["Imcore-Mid"] = str(mid)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        started = time.perf_counter()
        try:
            self._connection.request(method, path, None if body is None else orjson.dumps(body), headers)
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, HTTPException) as error:
            self._connection.close()
            raise WrongAnswer(f"{method} {path} was not answered: {error!r}") from None
        ms = (time.perf_counter() - started) * 1000
        if response.status // 100 != 2 and response.status not in may_be:
            raise WrongAnswer(f"{method} {path} was answered with {response.status}: {text[:200]!r}")
        return Answer(response.status, orjson.loads(text) if text else None, ms)


def room_path(room: str) -> str:
    """Where a room is."""
    type_, _, name = room.partition("://")
    return f"/v1/rooms/{quote(type_, safe='')}/{quote(name, safe='')}"


def percentile(values: list[float], share: float) -> float:
    """The value that so large a share of these is not above; 0 of none."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))]
