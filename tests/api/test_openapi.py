"""The document describes what is served: every verb, each argument where it is read, every answer, every error that can come."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.place import Place, serving
from api.probes import PROBES, probes
from imcore.api.openapi import codes, document
from imcore.permissions import PLATFORM_ROLES, STANDINGS, table
from imcore.verbs import VERBS
from imcore.verbs.call import Verbs
from imcore.verbs.idempotency import keeps

REPOSITORY = Path(__file__).parents[2]
HTTP = [one for one in VERBS if "http" in one.doors]


def script() -> ModuleType:
    """scripts/write-openapi, which has no suffix."""
    path = REPOSITORY / "scripts" / "write-openapi"
    loader = importlib.machinery.SourceFileLoader("write_openapi", str(path))
    spec = importlib.util.spec_from_loader("write_openapi", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def operations(told: dict[str, Any]) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """By the name of the verb: method, path, operation."""
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, methods in told["paths"].items()
        for method, operation in methods.items()
    }


@pytest.mark.parametrize("mode", ["jwt", "open"])
@pytest.mark.parametrize("verbs", [Verbs(VERBS), probes()], ids=["served", "probes"])
def test_the_document_is_openapi(verbs: Verbs, mode: str) -> None:
    told = document(verbs, auth_mode=mode)

    assert [] == [error.message for error in OpenAPIV31SpecValidator(told).iter_errors()]
    for name, schema in told["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert name.replace("_", "").replace(".", "").replace("-", "").isalnum()


def test_every_verb_for_http_is_there_and_no_other() -> None:
    told = operations(document(Verbs(VERBS)))

    assert {one.name for one in HTTP} == set(told)
    for one in HTTP:
        method, path, operation = told[one.name]
        assert (one.method, one.path.replace("{room}", "{type}/{name}")) == (method, path)
        assert (one.summary, list(one.doors)) == (operation["summary"], operation["x-doors"])


@pytest.mark.parametrize("one", [one for one in (*HTTP, *PROBES) if "http" in one.doors], ids=lambda one: one.name)
def test_each_argument_is_in_one_place(one: Any) -> None:
    told = document(probes() if one in PROBES else Verbs(VERBS))
    operation = operations(told)[one.name][2]
    placed = [part["name"] for part in operation["parameters"] if "name" in part and part["in"] in ("path", "query")]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if "$ref" in body:
        body = told["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    placed += body.get("properties", {})
    names = [part.alias or name for name, part in one.args.model_fields.items()]
    expected = [name for name in names if not (name == "room" and "{room}" in one.path)]
    assert sorted([*expected, *(["type", "name"] if "{room}" in one.path else [])]) == sorted(placed)
    if "{room}" in one.path:
        assert not {"{type}", "{name}"} & set(one.path.split("/")), "they are the room's"
    for part in operation["parameters"]:
        assert "null" not in str(part.get("schema")), "what a query does not hold is left out"
    if one.method in ("GET", "DELETE"):
        assert "requestBody" not in operation


def test_what_a_parameter_may_be_is_what_its_model_says() -> None:
    parameters = {
        part["name"]: part for part in operations(document(probes()))["probe.echo"][2]["parameters"] if "name" in part
    }

    assert [True, True, True, False] == [parameters[name]["required"] for name in ("type", "name", "mid", "limit")]
    assert {"type": "integer", "minimum": 1, "maximum": 500, "default": 10} == parameters["limit"]["schema"]
    assert {"type": "boolean"} == parameters["loud"]["schema"]
    assert ["up", "down"] == parameters["order"]["schema"]["enum"]
    assert ("array", 3, True) == (
        parameters["mids"]["schema"]["type"],
        parameters["mids"]["schema"]["maxItems"],
        parameters["mids"]["explode"],
    )
    assert 16 == parameters["title"]["schema"]["maxLength"]


def test_answers_are_open_for_later_fields_and_requests_are_not() -> None:
    loose, exact = document(probes()), document(probes(), closed=True)

    assert "additionalProperties" not in loose["components"]["schemas"]["Counted"]
    assert False is exact["components"]["schemas"]["Counted"]["additionalProperties"]
    for told in (loose, exact):
        assert False is told["components"]["schemas"]["Count"]["additionalProperties"]


def test_statuses_and_bodies_are_those_of_the_verb() -> None:
    told = operations(document(probes()))

    assert {"200", "201", "400", "401", "403", "408", "409", "413", "422", "429", "500", "503"} == set(
        told["probe.count"][2]["responses"]
    )
    assert "304" in told["probe.echo"][2]["responses"]
    assert ["application/octet-stream"] == list(told["probe.download"][2]["responses"]["200"]["content"])
    assert ["application/octet-stream"] == list(told["probe.upload"][2]["requestBody"]["content"])
    assert "422" not in told["probe.secret"][2]["responses"], "no key has an effect there"


def test_every_error_that_can_come_has_its_code() -> None:
    by_name = {one.name: one for one in PROBES}
    permissions = probes().permissions

    assert {"room_exists", "under_way", "idempotency_conflict", "too_large", "timeout"} <= set(
        codes(by_name["probe.count"], permissions)
    )
    assert "no_such_room" in codes(by_name["probe.echo"], permissions)
    assert "no_such_room" in codes(by_name["probe.hidden"], permissions)
    assert not {"too_large", "under_way", "no_such_room"} & set(codes(by_name["server.show"], permissions))


def test_where_the_muted_may_not_speak_and_slow_mode_holds_back_it_is_said() -> None:
    verbs = Verbs(VERBS)
    told = {name: set(codes(verb, verbs.permissions)) for name, verb in verbs.by_name.items()}

    assert all({"muted", "slow_mode"} <= told[name] for name in ("messages.send", "messages.forward"))
    for name, found in told.items():
        if "muted" in verbs.permissions.rule(name).by_standing.values():
            assert "muted" in found, name
    assert "muted" not in told["messages.show"]


def test_every_verb_may_find_that_it_cannot_be_asked_who_asks() -> None:
    for name, (_, _, operation) in operations(document(Verbs(VERBS))).items():
        assert "try_later" in operation["responses"]["503"]["$ref"], name


def test_who_asks_is_said_as_the_mode_wants_it() -> None:
    guarded, believing = document(probes()), document(probes(), auth_mode="open")

    assert ["token"] == list(guarded["components"]["securitySchemes"])
    assert ["mid"] == list(believing["components"]["securitySchemes"])
    assert [{"token": []}] == operations(guarded)["probe.echo"][2]["security"]
    assert [{}, {"token": []}] == operations(guarded)["probe.open"][2]["security"]
    assert [{}, {"mid": []}] == operations(believing)["probe.echo"][2]["security"]


def test_permissions_are_those_of_the_table() -> None:
    for name, (_, _, operation) in operations(document(Verbs(VERBS))).items():
        said = operation["x-permissions"]
        assert list(PLATFORM_ROLES) == list(said)
        for role in PLATFORM_ROLES:
            found = said[role]
            by_standing = found if isinstance(found, dict) else dict.fromkeys(STANDINGS, found)
            assert by_standing == {one: table().verdict(name, role, one) for one in STANDINGS}


async def test_the_document_is_served_to_anybody_and_cached_by_what_it_is(guarded: Place) -> None:
    nobody = {"Authorization": ""}
    told = await guarded.get("/openapi.json", headers=nobody)

    assert (200, "application/json") == (told.status, told.headers["Content-Type"])
    assert document(Verbs(VERBS)) == told.json
    again = await guarded.get("/openapi.json", headers={**nobody, "If-None-Match": told.headers["ETag"]})
    assert (304, b"") == (again.status, again.raw)


async def test_a_server_describes_the_mode_that_it_is_in(database_url: str) -> None:
    async with serving(database_url, verbs=probes()) as api:
        assert document(probes(), auth_mode="open") == (await api.get("/openapi.json")).json


def test_the_copy_in_the_documentation_is_todays() -> None:
    """After a change of verbs: scripts/write-openapi."""
    written = script()

    assert written.described() == written.PATH.read_text(encoding="utf-8")
    assert orjson.loads(written.described())["openapi"].startswith("3.1")


def test_the_table_of_verbs_is_todays() -> None:
    """After a change of verbs: scripts/write-openapi."""
    text = script().PAGE.read_text(encoding="utf-8")

    assert script().page(text) == text
    for one in VERBS:
        assert f"| `{one.name}` |" in text


def test_no_secret_is_kept_under_a_key() -> None:
    """Neither in an answer nor as a digest of what was asked, from which a password could be guessed."""
    for one in VERBS:
        said = {*one.args.model_fields, *one.answer.model_fields}
        if any(word in name for name in said for word in ("password", "token", "ticket", "secret", "code")):
            assert not keeps(one), one.name
