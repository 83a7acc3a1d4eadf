"""Good arguments for any verb, made from its own schema: what a test begins with before it puts something bad in one place."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from jsonschema import Draft202012Validator

from imcore.verbs.verb import AnyVerb

Schema = Mapping[str, Any]

# Tried in this order where a pattern says what text must look like. A model whose pattern none of them is needs an example of its own.
CANDIDATES: Final = (
    "a", "group://1", "0190a5d2-7c1e-7b3a-9f00-1234567890ab", "abcdefgh", "a1b2c3d4e5f6",
    "A" * 22, "a" * 32, "0" * 64, "1", "👍",
    "text/plain", "https://example.com/a.png", "a@example.com", "en", "2026-11-26", "#aabbcc", "#000", "A" * 43,
)  # fmt: skip


@cache
def model(verb: AnyVerb) -> dict[str, Any]:
    """The schema of a verb's arguments."""
    schema: dict[str, Any] = verb.args.model_json_schema()
    return schema


def fields(verb: AnyVerb) -> dict[str, dict[str, Any]]:
    """The schema of each argument, with what it refers to put in its place."""
    schema = model(verb)
    found: dict[str, dict[str, Any]] = {
        name: resolved(field, schema) for name, field in schema.get("properties", {}).items()
    }
    return found


def resolved(part: Any, schema: Schema) -> Any:
    """A schema without references."""
    if isinstance(part, Mapping):
        if "$ref" in part:
            name = part["$ref"].rpartition("/")[2]
            return {**resolved(schema["$defs"][name], schema), **{k: v for k, v in part.items() if k != "$ref"}}
        return {name: resolved(inside, schema) for name, inside in part.items()}
    return [resolved(inside, schema) for inside in part] if isinstance(part, list) else part


def good(verb: AnyVerb, **known: object) -> dict[str, object]:
    """Arguments that the verb takes: all that it needs, and those of the others that are known and of the right kind."""
    needed = model(verb).get("required", ())
    found = {name: example(field) for name, field in fields(verb).items() if name in needed}
    for name, field in fields(verb).items():
        if name in known and Draft202012Validator(field).is_valid(known[name]):
            found[name] = known[name]
    return found


def example(schema: Schema) -> Any:
    """A value of this kind. Raises LookupError for a pattern that nothing here is of."""
    if "const" in schema:
        return schema["const"]
    for source in ("examples", "enum"):
        if schema.get(source):
            return schema[source][0]
    if schema.get("default") is not None:
        return schema["default"]
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if choice.get("type") != "null":
            return example(choice)
    match schema.get("type"):
        case "integer" | "number":
            return max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1, 1)
        case "boolean":
            return True
        case "array":
            return [example(schema["items"])] * max(1, schema.get("minItems", 1))
        case "object":
            return {
                name: example(field)
                for name, field in schema.get("properties", {}).items()
                if name in schema.get("required", ())
            }
        case "string":
            return _text(schema)
    return "anything"


def _text(schema: Schema) -> str:
    pattern, least, most = schema.get("pattern", ""), schema.get("minLength", 0), schema.get("maxLength", 1_000)
    for text in (*CANDIDATES, "a" * least):
        if re.search(pattern, text) and least <= len(text) <= most:
            return text
    raise LookupError(f"nothing here is of the pattern {pattern}: give the field examples")


def new_id() -> str:
    """A UUID that nobody used."""
    return str(uuid.uuid4())
