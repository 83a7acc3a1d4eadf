"""Which operations are legal when: one small table.

    new ──auth──▶ authenticating ──opened──▶ open ──closed──▶ closed

The first packet is auth and there is only one. Ask when a packet is about to be handled, not when its bytes arrive:
packets that a client sent before it saw the auth reply wait their turn, and are then legal.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from imcore.errors import BadOrder
from imcore.protocol.packet import Op

_AUTH: Final = int(Op.AUTH)


class State(Enum):
    """Where a connection stands."""

    NEW = "new"
    AUTHENTICATING = "authenticating"
    OPEN = "open"
    CLOSED = "closed"


_OPEN: Final = State.OPEN  # a look-up in an Enum is slow

_REFUSED: Final = {
    State.NEW: "the first packet must be auth",
    State.AUTHENTICATING: "the auth is not answered yet",
    State.OPEN: "there is only one auth",
    State.CLOSED: "the connection is closed",
}


class Order:
    """The state of one connection. `check` moves it to authenticating; the owner says when it opens and closes."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.NEW

    def check(self, op: int) -> None:
        """Passes an operation that may be handled now. Raises BadOrder for any other."""
        if self.state is _OPEN and op != _AUTH:
            return
        if self.state is State.NEW and op == _AUTH:
            self.state = State.AUTHENTICATING
            return
        raise BadOrder(_REFUSED[self.state])

    def opened(self) -> None:
        """The auth was accepted."""
        assert self.state is State.AUTHENTICATING, f"opened while {self.state.value}"
        self.state = _OPEN

    def closed(self) -> None:
        """The connection ends, from whatever state; nothing is legal any more."""
        self.state = State.CLOSED
