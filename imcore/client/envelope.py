"""Events of the wire as objects, each of the class that its type has: a message, a fact, what is never stored, or just an event.

A type that this client does not know is an `Event`, with its facts in `body`: a newer server may have more.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

from imcore.client.events import MESSAGE_TYPES, SIGNAL, Event, Message, Origin, Presence, Receipt, Signal, Typing
from imcore.client.facts import FACTS

KINDS: Final[Mapping[str, type[Event]]] = {
    **FACTS,
    **dict.fromkeys(MESSAGE_TYPES, Message),
    "presence": Presence,
    "receipt": Receipt,
    "typing": Typing,
}


def from_envelope(envelope: Mapping[str, Any]) -> Event:
    """An event of the wire. Raises KeyError for what is none."""
    room = envelope.get("room")
    body = envelope["body"]
    type_ = envelope["type"]
    kind = KINDS.get(type_)
    if kind is None:
        kind = Signal if type_.startswith(SIGNAL) else Event
    facts = (
        envelope["position"],
        room,
        f"room:{room}" if room is not None else envelope["stream"],
        envelope["seq"],
        envelope["mid"],
        envelope["key"],
        envelope.get("id"),
        envelope["time"],
        type_,
        envelope.get("op", 0),
        b64decode(body) if envelope.get("base64") else body,
    )
    if kind is not Message or ("about" not in envelope and "edited" not in envelope and "recalled" not in envelope):
        return kind(*facts)
    about = envelope.get("about") or {}
    mentions = about.get("mentions") or ()
    forwarded = about.get("forwarded")
    return Message(
        *facts,
        reply_to=about.get("reply_to"),
        thread=about.get("thread"),
        mentions="all" if mentions == "all" else tuple(mentions),
        forwarded=None if forwarded is None else Origin(forwarded["room"], forwarded["seq"], forwarded["mid"]),
        edits=(envelope.get("edited") or {}).get("count", 0),
        is_recalled="recalled" in envelope,
    )
