"""The schema of the JSON form, ready to judge frames."""

from __future__ import annotations

import json
from pathlib import Path

from jsonschema import Draft202012Validator

import imcore.protocol

SCHEMA = json.loads((Path(imcore.protocol.__file__).parent / "schema.json").read_text())
_judges = {
    name: Draft202012Validator({**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{name}"}]})
    for name in ("client_frame", "server_frame")
}


def faults(name: str, frame: object) -> list[str]:
    """What is wrong with a `client_frame` or a `server_frame`; nothing, if it is one."""
    return [f"{error.json_path}: {error.message}" for error in _judges[name].iter_errors(frame)]
