"""What stands in the body of a message: the payload is kept to the byte, and what it is about beside it."""

from __future__ import annotations

import base64

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as some

from imcore.comet.encode import FORM_V1, packet
from imcore.envelope import edited, envelope
from imcore.events import messages
from imcore.events.messages import EVERYBODY_MID, PLAIN, RECALLED, VERSION_ABOUT, About, Origin
from imcore.events.types import BASE64, JSON, MESSAGE_SENT, TEXT, MessageEdited, Recorded
from imcore.protocol.packet import HEADER_BYTES

ID = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"


def message(said: About, payload: str) -> Recorded:
    version, body = messages.stored(said, payload)
    return Recorded(41, "room:group://7", 3, 2, MESSAGE_SENT, version, 5, "phone", ID, 1000, JSON, 1764000000000, body)


TEXTS = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SEQS = some.integers(1, 2**63 - 1)
MIDS = some.integers(-(2**63), 2**63 - 1)
VALUES = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**63), 2**63 - 1) | some.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(TEXTS | some.just("body"), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
ABOUTS = some.builds(
    About,
    reply_to=some.just(0) | SEQS,
    thread=some.just(0) | SEQS,
    format=some.just("json"),
    mentions=some.just((EVERYBODY_MID,)) | some.lists(MIDS.filter(bool), max_size=4, unique=True).map(tuple),
    forwarded=some.none()
    # Names that look like the seam between what a message is about and what it says.
    | some.builds(Origin, some.sampled_from(('group://,"body":', 'group://a",', 'group://"format":"base64"')), SEQS, MIDS),
)  # fmt: skip


def test_a_message_about_nothing_is_kept_as_it_came() -> None:
    assert (1, '{"text":"hi"}') == messages.stored(PLAIN, '{"text":"hi"}')


def test_what_a_message_is_about_stands_before_its_payload() -> None:
    assert (2, '{"about":{"reply_to":3,"mentions":[7,9]},"body":{"text":"hi"}}') == messages.stored(
        About(reply_to=3, mentions=(7, 9)), '{"text":"hi"}'
    )
    assert (2, '{"about":{"thread":1,"mentions":"all","format":"text"},"body":"hi"}') == messages.stored(
        About(thread=1, mentions=(EVERYBODY_MID,), format="text"), '"hi"'
    )


@given(said=ABOUTS, value=VALUES)
def test_version_1_of_the_protocol_gets_the_payload_to_the_byte(said: About, value: object) -> None:
    payload = orjson.dumps(value)

    event = message(said, payload.decode())

    assert payload == packet(event, FORM_V1)[HEADER_BYTES:]
    assert payload == messages.payload(event)
    assert said == messages.about(event)


@given(said=ABOUTS, value=VALUES)
def test_version_2_of_the_protocol_gets_both_side_by_side(said: About, value: object) -> None:
    told = orjson.loads(envelope(message(said, orjson.dumps(value).decode())))

    assert value == told["body"]
    assert (said == PLAIN) == ("about" not in told)
    assert said.reply_to == told.get("about", {}).get("reply_to", 0)


@given(text=TEXTS, raw=some.binary(), said=ABOUTS)
def test_text_and_bytes_are_what_they_were(text: str, raw: bytes, said: About) -> None:
    as_text = message(said._replace(format="text"), orjson.dumps(text).decode())
    as_bytes = message(said._replace(format="base64"), orjson.dumps(base64.b64encode(raw).decode()).decode())

    assert (text.encode(), raw) == (messages.payload(as_text), messages.payload(as_bytes))
    assert ((TEXT, text), BASE64) == (messages.written(as_text), messages.written(as_bytes)[0])
    told = orjson.loads(envelope(as_bytes))
    assert (raw, True) == (base64.b64decode(told["body"]), told["base64"])
    assert text == orjson.loads(envelope(as_text))["body"]


def test_a_client_whose_payload_looks_like_ours_is_not_mistaken() -> None:
    payload = '{"about":{"reply_to":3},"body":1}'

    event = message(PLAIN, payload)

    assert (payload.encode(), PLAIN) == (messages.payload(event), messages.about(event))
    assert "about" not in orjson.loads(envelope(event))


@given(said=ABOUTS, value=VALUES)
def test_a_recalled_message_says_nothing_but_where_it_stood(said: About, value: object) -> None:
    gone = messages.hidden(message(said, orjson.dumps({"secret": value}).decode()), 9, 77)

    told = orjson.loads(envelope(gone))
    assert (None, {"by": 9, "position": 77}, RECALLED) == (told["body"], told["recalled"], gone.format)
    assert set(told.get("about", {})) <= {"reply_to", "thread"}
    assert said.thread == told.get("about", {}).get("thread", 0)
    assert b"secret" not in envelope(gone)
    assert b"" == packet(gone, FORM_V1), "version 1 has no word for it"


def test_an_edit_of_a_recalled_message_says_nothing() -> None:
    fact = MessageEdited(room="group://7", target=3, body="secret", format="text")
    event = message(PLAIN, "")._replace(type=fact.type, op=0, body=fact.model_dump_json())

    assert 3 == messages.target(event)
    gone = messages.hidden(event, 9, 77)
    assert {"room": "group://7", "target": 3, "body": None, "format": "json"} == orjson.loads(gone.body)
    assert isinstance(gone.fact, MessageEdited)


def test_what_concerns_no_message_has_no_target() -> None:
    joined = message(PLAIN, "")._replace(type="member_joined", op=0, body='{"room":"group://7","mid":5}')

    assert (3, 0) == (messages.target(message(PLAIN, "1")), messages.target(joined))


@pytest.mark.parametrize(
    ("said", "format_", "body", "about", "shown"),
    [
        (PLAIN, JSON, '{"text":"new"}', None, {"body": {"text": "new"}}),
        (PLAIN, TEXT, "new", {"format": "text"}, {"body": "new"}),
        (About(reply_to=2), TEXT, "new", {"reply_to": 2, "format": "text"}, {"body": "new"}),
        (About(reply_to=2, format="text"), JSON, "1", {"reply_to": 2}, {"body": 1}),
        (About(format="base64"), JSON, "1", None, {"body": 1}),
        (About(format="text"), BASE64, "/w==", None, {"body": "/w==", "base64": True}),
    ],
)
def test_an_edited_message_reads_as_its_last_edit(
    said: About, format_: int, body: str, about: object, shown: dict[str, object]
) -> None:
    told = orjson.loads(edited(message(said, '"old"'), format_, body, position=50, time_ms=1000, count=2))

    assert about == told.get("about")
    assert {**shown, "edited": {"position": 50, "time": 1000, "count": 2}} == {
        name: told[name] for name in ("body", "base64", "edited") if name in told
    }
    assert VERSION_ABOUT == 2
