"""The verbs as an OpenAPI 3.1 document. Pure: verbs and the permission table in, a document out, the same for the same.

A verb is one operation, whose id is the verb's name. `{room}` of a verb's path is two parameters, `type` and `name`. What query and
body hold are the schemas of the verb's own model; models that several verbs share are written once. Every answer and every error
that can come is there, errors grouped by status with the codes that they may have.

Beside what OpenAPI knows, an operation says `x-permissions` (role, and for people standing in the room, to verdict:
imcore/permissions.yaml) and `x-doors` (whether a connection may call it by its name, with operation 38).

The traps: what a schema cannot say (bytes of UTF-8, above all) is refused all the same, with 400. And answers may get more fields
in a later version, so their schemas are open; `closed` makes them say exactly what is answered today, for tests.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, Final, Literal

from pydantic.json_schema import models_json_schema

from imcore import __version__, errors
from imcore.api.verbs import is_in_query
from imcore.errors import ImcoreError
from imcore.permissions import PLATFORM_ROLES, STANDINGS, Permissions
from imcore.protocol.packet import INT64_MAX
from imcore.verbs import idempotency
from imcore.verbs.call import Verbs
from imcore.verbs.verb import NAME_SCHEMA, TYPE_SCHEMA, AnyVerb

VERSION: Final = "3.1.0"
SCHEMAS: Final = "#/components/schemas/"
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
MID_HEADER: Final = "Imcore-Mid"
ABOUT: Final = """\
Instant messaging over an append-only log. Each operation here is a verb; a connection may call the same verbs by name. An error is
problem details (RFC 9457) whose `code` says which. How to use it: docs/http.md."""

Schema = dict[str, Any]

PROBLEM_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "Problem details (RFC 9457). `retry`: the same request may succeed later, after `retry_after_ms` if that is known.",
    "required": ["type", "title", "status", "detail", "code", "retry"],
    "properties": {
        "type": {"type": "string", "format": "uri", "examples": ["urn:imcore:error:no_such_room"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "examples": ["no_such_room"]},
        "retry": {"type": "boolean"},
        "retry_after_ms": {"type": "integer", "minimum": 0},
    },
}
ROOM_PARAMETERS: Final[tuple[Schema, ...]] = (
    {
        "name": "type",
        "in": "path",
        "required": True,
        "description": "Type of the room: what stands before :// in its name.",
        "schema": {"type": "string", "pattern": TYPE_SCHEMA, "examples": ["group"]},
    },
    {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "Rest of the room's name, percent-encoded; at most 128 bytes.",
        "schema": {"type": "string", "pattern": NAME_SCHEMA, "examples": ["7"]},
    },
)
PARAMETERS: Final[Mapping[str, Schema]] = {
    "IdempotencyKey": {
        "name": idempotency.HEADER,
        "in": "header",
        "description": "The same request again under the same key gets the first answer, and happens once.",
        "schema": {"type": "string", "pattern": r"^([!#-\[\]-~]{1,128}|\"[!#-\[\]-~]{1,128}\")$"},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The ETag of the answer that the client has. What is no tag is that of no answer.",
        "schema": {"type": "string"},
    },
}
HEADERS: Final[Mapping[str, Schema]] = {
    "ETag": {"description": "What the answer says, as a weak tag.", "schema": {"type": "string"}},
    "RateLimit": {
        "description": "To people: how many requests are left now, and in how many seconds all are "
        "(draft-ietf-httpapi-ratelimit-headers-10).",
        "schema": {"type": "string", "examples": ['"requests";r=59;t=1']},
    },
    "RateLimit-Policy": {
        "description": "To people: how many requests may come in a row, and in how many seconds those are given again.",
        "schema": {"type": "string", "examples": ['"requests";q=60;w=2']},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
    "Idempotency-Replayed": {
        "description": "This answer was given before, under the same idempotency key.",
        "schema": {"type": "string", "const": "true"},
    },
}
SECURITY: Final[Mapping[str, Schema]] = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token of a person or of a service."},
    "mid": {
        "type": "apiKey",
        "in": "header",
        "name": MID_HEADER,
        "description": f"Only with auth_mode = open: the person who asks, 1 to {INT64_MAX}. Without it a service asks.",
    },
}


class _Timeout(ImcoreError):
    """The body did not arrive in time."""


_BY_CODE: Final[Mapping[str, type[ImcoreError]]] = {error.code: error for error in errors.TABLE}
_NOT_WORDS = re.compile(r"[^a-zA-Z0-9._-]+").sub
Mode = Literal["validation"]


def document(verbs: Verbs, *, auth_mode: str = "jwt", closed: bool = False) -> Schema:
    """The whole document, for a server of this mode of authentication."""
    served = [verb for verb in verbs.by_name.values() if "http" in verb.doors]
    shared = _Models(served, closed=closed)
    responses: dict[str, Schema] = {}
    paths: dict[str, Schema] = {}
    for verb in served:
        path = paths.setdefault(verb.path.replace("{room}", "{type}/{name}"), {})
        path[verb.method.lower()] = _operation(verb, verbs.permissions, shared, responses, auth_mode)
    told: Schema = {
        "openapi": VERSION,
        "info": {
            "title": "imcore",
            "version": __version__,
            "description": " ".join(ABOUT.split()),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": _tags(served),
        "paths": paths,
        "components": {
            "schemas": {},
            "responses": dict(sorted(responses.items())),
            "parameters": dict(PARAMETERS),
            "headers": dict(HEADERS),
            "securitySchemes": {"mid": SECURITY["mid"]} if auth_mode == "open" else {"token": SECURITY["token"]},
        },
    }
    told["components"]["schemas"] = shared.reached(told, {"Problem": PROBLEM_SCHEMA})
    return told


# --- models ------------------------------------------------------------------------------------------------------------------


class _Models:
    """The models of arguments and answers as schemas, each once."""

    def __init__(self, verbs: Iterable[AnyVerb], *, closed: bool) -> None:
        # What a verb answers leaves out what was not said (encoded), so answers too are as who validates them sees them: a field
        # with a default may be absent.
        mode: Mode = "validation"
        asked = {verb.args: None for verb in verbs}
        told = {verb.answer: None for verb in verbs if not verb.gives}
        inputs = [(model, mode) for model in {**asked, **told}]
        by_model, tree = models_json_schema(inputs, ref_template=SCHEMAS + "{model}")
        self._schemas: dict[str, Schema] = tree.get("$defs", {})
        self._names = {model: str(ref["$ref"]).removeprefix(SCHEMAS) for (model, _), ref in by_model.items()}
        for schema in self._schemas.values():
            _untitled(schema)
        if not closed:
            arguments = set(self._reachable(self._names[model] for model in asked))
            for name in set(self._reachable(self._names[model] for model in told)) - arguments:
                self._schemas[name].pop("additionalProperties", None)

    def ref(self, model: type) -> Schema:
        """Where the schema of this model is."""
        return {"$ref": SCHEMAS + self._names[model]}

    def schema(self, model: type) -> Schema:
        """The schema of this model itself."""
        return self._schemas[self._names[model]]

    def reached(self, told: Schema, more: Mapping[str, Schema]) -> dict[str, Schema]:
        """The schemas that the document names, by name; `more` are not of models."""
        names = sorted({*self._reachable(_named(told)), *more})
        return {name: more[name] if name in more else self._schemas[name] for name in names}

    def _reachable(self, names: Iterable[str]) -> list[str]:
        found: dict[str, None] = {}
        left = list(names)
        while left:
            name = left.pop()
            if name not in found and name in self._schemas:
                found[name] = None
                left += _named(self._schemas[name])
        return list(found)


def _named(part: object) -> Iterator[str]:
    """The schemas that are referred to in here."""
    if isinstance(part, Mapping):
        ref = part.get("$ref")
        if isinstance(ref, str) and ref.startswith(SCHEMAS):
            yield ref.removeprefix(SCHEMAS)
        for inside in part.values():
            yield from _named(inside)
    elif isinstance(part, list):
        for inside in part:
            yield from _named(inside)


def _untitled(schema: Schema) -> None:
    """Without the titles that pydantic makes of names: they say nothing more."""
    schema.pop("title", None)
    for name, field in schema.get("properties", {}).items():
        if isinstance(field, dict) and field.get("title") == name.replace("_", " ").title().strip():
            field.pop("title")
        elif isinstance(field, dict):
            field.pop("title", None)


# --- operations --------------------------------------------------------------------------------------------------------------


def _operation(
    verb: AnyVerb, permissions: Permissions, shared: _Models, responses: dict[str, Schema], auth_mode: str
) -> Schema:
    model = shared.schema(verb.args)
    fields: dict[str, Schema] = model.get("properties", {})
    required = set(model.get("required", ()))
    in_path = [part.strip("{}") for part in verb.path.split("/") if part.startswith("{")]
    parameters: list[Schema] = []
    for name in in_path:
        if name == "room":
            parameters += ROOM_PARAMETERS
        else:
            parameters.append(_parameter(name, fields[name], "path", is_required=True))
    beside = {name: field for name, field in fields.items() if name not in in_path}
    operation: Schema = {
        "operationId": verb.name,
        "tags": [subject(verb)],
        "summary": verb.summary,
        "description": verb.description,
        "parameters": parameters,
    }
    if is_in_query(verb):
        parameters += [_parameter(name, field, "query", is_required=name in required) for name, field in beside.items()]
    if verb.takes:
        operation["requestBody"] = {"required": True, "content": {verb.takes: {}}}
    elif not is_in_query(verb):
        operation["requestBody"] = _body(verb, shared, beside, required)
    if idempotency.keeps(verb):
        parameters.append({"$ref": "#/components/parameters/IdempotencyKey"})
    if verb.method == "GET" and not verb.gives:
        parameters.append({"$ref": "#/components/parameters/IfNoneMatch"})
    operation["responses"] = _responses(verb, permissions, shared, responses)
    operation["security"] = _security(verb, auth_mode)
    operation["x-permissions"] = _permissions(verb, permissions)
    operation["x-doors"] = list(verb.doors)
    return operation


def subject(verb: AnyVerb) -> str:
    """What a verb is about: the first part of its name."""
    return verb.name.partition(".")[0]


def _tags(verbs: Iterable[AnyVerb]) -> list[Schema]:
    """Each subject with the first paragraph of its module, of the module where it comes first."""
    told: dict[str, Schema] = {}
    for verb in verbs:
        words = (sys.modules[verb.run.__module__].__doc__ or "").strip().partition("\n\n")[0]
        told.setdefault(subject(verb), {"name": subject(verb), "description": " ".join(words.split())})
    return list(told.values())


def _parameter(name: str, field: Schema, place: str, *, is_required: bool) -> Schema:
    schema = _without_null(field)
    told: Schema = {"name": name, "in": place, "required": is_required, "schema": schema}
    if "description" in schema:
        told["description"] = schema.pop("description")
    if schema.get("type") == "array":
        told |= {"style": "form", "explode": True}
    return told


def _without_null(field: Schema) -> Schema:
    """What is left out is not there; a query has no null."""
    schema = dict(field)
    if schema.get("default", ...) is None:
        del schema["default"]
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    if not choices:
        return schema
    del schema["anyOf"]
    return {**choices[0], **schema} if len(choices) == 1 else {**schema, "anyOf": choices}


def _body(verb: AnyVerb, shared: _Models, beside: Mapping[str, Schema], required: set[str]) -> Schema:
    needed = [name for name in beside if name in required]
    schema = shared.schema(verb.args)
    if len(beside) == len(schema.get("properties", {})):
        told = shared.ref(verb.args)
    else:
        told = {"type": "object", "properties": dict(beside), "additionalProperties": False}
        if needed:
            told["required"] = needed
    return {"required": bool(needed), "content": {JSON: {"schema": told}}}


def _security(verb: AnyVerb, auth_mode: str) -> list[Schema]:
    if auth_mode == "open":
        return [{}, {"mid": []}]
    return [{}, {"token": []}] if verb.is_open else [{"token": []}]


def _permissions(verb: AnyVerb, permissions: Permissions) -> Schema:
    told: Schema = {}
    for role in PLATFORM_ROLES:
        rule = permissions.rule(verb.name)
        if role not in rule.by_role:
            told[role] = {standing: rule.by_standing[role, standing] for standing in STANDINGS}
        else:
            told[role] = rule.by_role[role]
    return told


# --- answers and errors ------------------------------------------------------------------------------------------------------


def _responses(
    verb: AnyVerb, permissions: Permissions, shared: _Models, responses: dict[str, Schema]
) -> dict[str, Schema]:
    told: dict[str, Schema] = {}
    for status in sorted({verb.status, *verb.statuses}):
        told[str(status)] = _good(verb, status, shared)
    if verb.method == "GET" and not verb.gives:
        told["304"] = {"description": "The client has this answer already.", "headers": _headers("ETag")}
    by_status: dict[int, list[str]] = {}
    for code in codes(verb, permissions):
        by_status.setdefault(_status(code), []).append(code)
    for status, found in sorted(by_status.items()):
        name = _NOT_WORDS("_", "-".join(sorted(found)))
        responses.setdefault(name, _problem(sorted(found)))
        told[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return told


def _good(verb: AnyVerb, status: int, shared: _Models) -> Schema:
    told: Schema = {
        "description": HTTPStatus(status).phrase,
        "headers": _headers("RateLimit", "RateLimit-Policy"),
    }
    if status >= 300:
        return told
    if verb.method == "GET" and not verb.gives and status == 200:
        told["headers"] |= _headers("ETag")
    if idempotency.keeps(verb):
        told["headers"] |= _headers("Idempotency-Replayed")
    if verb.gives:
        told["content"] = {verb.gives: {}}
    elif status != 204:
        told["content"] = {JSON: {"schema": shared.ref(verb.answer)}}
    return told


def _headers(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


@cache
def _common() -> tuple[str, ...]:
    return (
        "bad_request", "invalid_text", "unauthenticated", "forbidden", "rate_limited", "internal", "overloaded", "unavailable",
        "try_later",  # in mode webhook, where it cannot be asked who it is
    )  # fmt: skip


def codes(verb: AnyVerb, permissions: Permissions) -> list[str]:
    """The codes of every error that a request of this verb may be answered with."""
    found = {*_common(), *(error.code for error in verb.errors)}
    if not is_in_query(verb) or verb.takes:
        found |= {"timeout", "too_large"}
    if idempotency.keeps(verb):
        found |= {"idempotency_conflict", "under_way"}
    rule = permissions.rule(verb.name)
    if "muted" in (*rule.by_role.values(), *rule.by_standing.values()):
        found.add("muted")
    if (
        "room" in {field.alias or name for name, field in verb.args.model_fields.items()}
        or "hidden" in rule.by_role.values()
    ):
        found.add("no_such_room")
    return sorted(found)


def _status(code: str) -> int:
    return 408 if code == "timeout" else _BY_CODE[code].status


def _problem(found: list[str]) -> Schema:
    """Errors of one status, by their codes."""
    texts = {code: _Timeout.text() if code == "timeout" else _BY_CODE[code].text() for code in found}
    one = {"properties": {"code": {"enum": found}, "status": {"const": _status(found[0])}}}
    told: Schema = {
        "description": " ".join(f"`{code}`: {text}" for code, text in texts.items()),
        "content": {PROBLEM: {"schema": {"allOf": [{"$ref": SCHEMAS + "Problem"}, one]}}},
    }
    if any(code == "timeout" or _BY_CODE[code].retry for code in found):
        told["headers"] = _headers("Retry-After")
    return told
