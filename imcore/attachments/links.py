"""Links that end: whoever has one may fetch one attachment, until then, without a token.

A link is an id, the second at which it ends, optionally the one person it is for, and an HMAC over the three. It cannot be taken back
alone: it ends with its time, with the attachment, and all links end with the key. So they are short.

Every API process of a service needs the same key: it is the setting `attachment_link_key`, or else a file in the data folder, made by
who comes first, as the server's own signing key is.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from imcore.errors import BadConfiguration, Forbidden
from imcore.flushing import write_once

KEY_BYTES: Final = 32
KEY_FILE: Final = "attachment-links.key"
# What is signed begins with this, so that no other signature of the same key, of today or of later, is one of a link.
PURPOSE: Final = b"imcore attachment link 1\n"


class Links:
    """Makes links and knows its own. `key` is what all processes share."""

    def __init__(self, key: bytes) -> None:
        assert len(key) >= KEY_BYTES, "config and load_or_create_key see to it"
        self._key = key

    def path(self, id_: str, expires: int, mid: int | None = None) -> str:
        """The address of a link, from the API's root on. It ends at the second `expires`; with `mid` it is for that person."""
        query: dict[str, object] = {"expires": expires}
        if mid is not None:
            query["mid"] = mid
        query["signature"] = self._signature(id_, expires, mid)
        return f"/v1/attachments/{id_}?{urlencode(query)}"

    def check(self, id_: str, expires: int, mid: int | None, signature: str, now: float) -> None:
        """Pass a link of this server that has not ended. Raises Forbidden, and says no more than that."""
        expected = self._signature(id_, expires, mid)
        is_ours = hmac.compare_digest(expected.encode(), signature.encode(errors="replace"))
        if not is_ours or now >= expires:
            raise Forbidden("this link is not valid, or its time is over")

    def _signature(self, id_: str, expires: int, mid: int | None) -> str:
        said = f"{id_}\n{expires}\n{'' if mid is None else mid}".encode()
        digest = hmac.digest(self._key, PURPOSE + said, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def load_or_create_key(data: Path) -> bytes:
    """The key in the data folder; made, readable by nobody else, if it is not there. Who comes first makes it for all.

    Raises BadConfiguration when it cannot be made or read.
    """
    path = data / "keys" / KEY_FILE
    try:
        if not path.exists():
            write_once(path, secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise BadConfiguration(f"the key {path} cannot be made or read: {error.strerror}") from None
    if len(key) != KEY_BYTES:
        raise BadConfiguration(f"the key {path} is not of {KEY_BYTES} bytes")
    return key
