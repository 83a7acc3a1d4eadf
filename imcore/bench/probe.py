"""One client that does not give up, and an eye on who is online: what a person sees of an outage, with the moments.

The load client counts; this looks at single messages, so it may be slow, and is written in Python. A message is sent with its id again
and again until it is acknowledged, over as many connections as it takes.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlencode

from imcore.protocol import binary
from imcore.protocol.packet import PACKET_BYTES_MAX, Op

AGAIN_S: Final = 0.02
ANSWER_S: Final = 15.0  # longer than the server takes to give up a commit
READ_BYTES: Final = 65_536
ASK_S: Final = 5.0
LOOK_S: Final = 0.02


class Probe:
    """A person in a room, over TCP in version 2."""

    def __init__(self, port: int, mid: int, room: str) -> None:
        self._port, self._mid, self._room = port, mid, room
        self._line: socket.socket | None = None
        self._decoder = binary.Decoder(PACKET_BYTES_MAX)
        self._seq = 0
        self.refused = 0  # answers that said no, or that did not come

    def send(self, deadline: float) -> float:
        """Say something; when (on the monotonic clock) it was acknowledged. Raises TimeoutError at the deadline."""
        id_ = str(uuid.uuid4())
        while time.monotonic() < deadline:
            with suppress(OSError):
                if "position" in self._ask(Op.SEND, {"room": self._room, "id": id_, "body": "probe"}):
                    return time.monotonic()
            self.refused += 1
            time.sleep(AGAIN_S)
        raise TimeoutError("nothing was acknowledged in time")

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _ask(self, op: Op, body: dict[str, object]) -> dict[str, object]:
        try:
            if self._line is None:
                self._line = socket.create_connection(("127.0.0.1", self._port), ANSWER_S)
                self._decoder = binary.Decoder(PACKET_BYTES_MAX)
                self._call(Op.AUTH, {"mid": self._mid, "key": "probe", "room_id": self._room})
            return self._call(op, body)
        except OSError:
            self.close()
            raise

    def _call(self, op: Op, body: dict[str, object]) -> dict[str, object]:
        assert self._line is not None, "it was opened"
        self._seq += 1
        self._line.sendall(binary.encode(2, op, self._seq, json.dumps(body).encode()))
        while data := self._line.recv(READ_BYTES):
            for packet in self._decoder.feed(data):
                if packet.op == op + 1 and packet.seq == self._seq:
                    answer: dict[str, object] = json.loads(packet.body)
                    return answer
                if packet.op == Op.DISCONNECT:
                    raise ConnectionError("sent away")
        raise ConnectionError("hung up")


class Presence:
    """Asks again and again who of some people is online, in a thread of its own."""

    def __init__(self, http: str, mids: Iterable[int]) -> None:
        self._url = f"{http}/v1/sessions?{urlencode([('mid', mid) for mid in mids])}"
        self._wanted = set(mids)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence")
        self.answers = 0
        self.unanswered = 0  # nobody was told anything
        self.offline_s = 0.0  # for how long somebody was told to be offline

    def __enter__(self) -> Presence:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def online(self) -> set[int] | None:
        """Who is online; None if there was no answer."""
        try:
            with urllib.request.urlopen(self._url, timeout=ASK_S) as answer:
                return {session["mid"] for session in json.load(answer)["sessions"]}
        except (OSError, urllib.error.URLError):
            return None

    def until_offline(self, deadline: float) -> float:
        """When (on the monotonic clock) none of them was online any more. Raises TimeoutError."""
        while time.monotonic() < deadline:
            if self.online() == set():
                return time.monotonic()
            time.sleep(LOOK_S)
        raise TimeoutError("somebody is still online")

    def _run(self) -> None:
        looked_at = time.monotonic()
        while not self._over.wait(LOOK_S):
            found, now = self.online(), time.monotonic()
            if found is None:
                self.unanswered += 1
            else:
                self.answers += 1
                if self._wanted - found:
                    self.offline_s += now - looked_at
            looked_at = now


def mids(first: int, count: int) -> Sequence[int]:
    """The people whom a load client connects."""
    return range(first, first + count)
