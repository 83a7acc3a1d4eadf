"""An event as JSON: whatever is in it, it is valid, complete and in the form of the protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as some

import imcore.protocol
from imcore.envelope import envelope
from imcore.events.types import BASE64, JSON, TEXT, Recorded

SCHEMA = json.loads((Path(imcore.protocol.__file__).parent / "schema.json").read_text())
ID = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"
MESSAGE = Recorded(
    41, "room:group://7", 3, 2, "message_sent", 1, 5, "phone", ID, 1000, JSON, 1764000000000, '{"text":"hi"}'
)


def told(event: Recorded) -> Any:
    value = orjson.loads(envelope(event))
    jsonschema.validate(value, {"$ref": "#/$defs/envelope", "$defs": SCHEMA["$defs"]})
    return value


def test_a_message_in_a_room() -> None:
    assert envelope(MESSAGE) == (
        b'{"position":41,"room":"group://7","seq":3,"mid":5,"key":"phone","id":"%b","time":1764000000000,'
        b'"type":"message_sent","op":1000,"body":{"text":"hi"}}' % ID.encode()
    )


def test_a_fact_has_neither_id_nor_op() -> None:
    event = MESSAGE._replace(type="member_left", client_id=None, op=0, key="", body='{"room":"group://7","mid":5}')

    assert told(event) == {
        "position": 41, "room": "group://7", "seq": 3, "mid": 5, "key": "", "time": 1764000000000, "type": "member_left",
        "body": {"room": "group://7", "mid": 5},
    }  # fmt: skip


@pytest.mark.parametrize("stream", ["user:7", "key:phone", "all:", "session:7"])
def test_what_is_in_no_room_names_its_stream(stream: str) -> None:
    value = told(MESSAGE._replace(stream=stream, type="message_pushed", client_id=None, mid=0))

    assert stream == value["stream"]
    assert "room" not in value


def test_bodies_are_json_or_text_or_base64() -> None:
    assert told(MESSAGE._replace(format=JSON, body=' [1, "x"] '))["body"] == [1, "x"]
    assert told(MESSAGE._replace(format=TEXT, body='"quoted" \\ \n ü'))["body"] == '"quoted" \\ \n ü'
    value = told(MESSAGE._replace(format=BASE64, body="/w=="))
    assert ("/w==", True) == (value["body"], value["base64"])


TEXTS = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(room=TEXTS, key=TEXTS, body=TEXTS, format_=some.sampled_from((JSON, TEXT)))
def test_any_text_in_any_place_keeps_it_valid(room: str, key: str, body: str, format_: int) -> None:
    stored = orjson.dumps(body).decode() if format_ == JSON else body

    value = orjson.loads(envelope(MESSAGE._replace(stream=f"room:{room}", key=key, body=stored, format=format_)))

    assert (room, key, body) == (value["room"], value["key"], value["body"])
