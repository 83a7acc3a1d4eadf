"""The written verbs are those of the server, and the writer writes what any verb needs."""

from __future__ import annotations

import importlib.util
import runpy
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from pydantic import Field, JsonValue

from imcore import errors
from imcore.client import Client, Http, calls
from imcore.client import errors as client_errors
from imcore.client import verbs as written
from imcore.client.calls import Calls, Content, Download, Verb
from imcore.client.http import request_of
from imcore.verbs import VERBS
from imcore.verbs.means import Means
from imcore.verbs.verb import Answer, AnyVerb, Args, Caller, Empty, Limit, Mid, Nothing, Place, Room, Stream, Uuid, verb

ROOT = Path(__file__).parents[2]
WRITER = runpy.run_path(str(ROOT / "scripts" / "write-client"))
SOURCE = ROOT / "imcore" / "client" / "verbs.py"


# --- verbs that have everything a verb can have ---


class Colour(Args):
    """What it looks like."""

    name: str
    strength: int = 1


class Make(Args):
    room: Room
    title: str = Field(max_length=10, description="what people read")
    kind: Literal["private", "public"] = "private"
    members: list[Mid] = []
    colour: Colour | None = None
    loud: bool = False
    more: JsonValue = None
    ends: int | None = None


class Within(Args):
    room: Room
    mid: Mid
    retry: bool = False
    limit: Limit = 50
    after: str = ""
    words: list[str] = []


class Say(Args):
    room: Room
    body: JsonValue
    id: Uuid | None = None


class Odd(Args):
    from_: int = Field(alias="from")
    content: str = ""


class One(Answer):
    """One of them."""

    name: str
    of: int = 0


class Some(Answer):
    """A page."""

    rows: list[One]
    best: One | None = None
    by_name: dict[str, list[One]] = {}
    either: One | Place | None = None
    role: Literal["owner", "member"] = "member"
    token: str = ""
    facts: JsonValue = None
    next: str | None = None


class Limits(Answer):
    """There is another of this name, of another subject."""

    rows: int


@verb("probe.make", "POST", "/v1/probe/{room}", answer=Some, errors=(errors.NoSuchRoom, errors.Forbidden))
async def make(caller: Caller, means: Means, args: Make) -> Some:
    """Make one.

    In full."""
    raise NotImplementedError


@verb("probe.list", "GET", "/v1/probe/{room}/{mid}", answer=Some)
async def listed(caller: Caller, means: Means, args: Within) -> Some:
    """A page of them."""
    raise NotImplementedError


@verb("probe.say", "POST", "/v1/probe/{room}/say", answer=Place)
async def say(caller: Caller, means: Means, args: Say) -> Place:
    """Say it, once."""
    raise NotImplementedError


@verb("probe.import", "PATCH", "/v1/probe", answer=Empty, doors=("connection",))
async def odd(caller: Caller, means: Means, args: Odd) -> Empty:
    r"""Names that Python has \\ for itself."""
    raise NotImplementedError


@verb("members.count", "GET", "/v1/count", answer=Limits)
async def count(caller: Caller, means: Means, args: Nothing) -> Limits:
    """How many."""
    raise NotImplementedError


@verb("probe.upload", "POST", "/v1/files", answer=One, takes="*/*", doors=("http",))
async def upload(caller: Caller, means: Means, args: Odd) -> One:
    """Keep a file."""
    raise NotImplementedError


@verb("probe.fetch", "GET", "/v1/files/{name}", answer=Empty, gives="*/*", doors=("http",))
async def fetch(caller: Caller, means: Means, args: Colour) -> Stream:
    """Give a file back."""
    raise NotImplementedError


PROBES: list[AnyVerb] = [*VERBS, make, listed, say, odd, count, upload, fetch]
TEXT = WRITER["document"](PROBES)


class Carrier(Calls):
    """Keeps what is asked, and answers as it was told to."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answer: Any = {}

    async def perform(self, verb: Verb, args: dict[str, object], *, retry: bool = False) -> Any:
        self.asked.append((verb.name, args, retry))
        return self.answer

    async def upload(self, verb: Verb, args: dict[str, object], content: Content, media_type: str) -> Any:
        self.asked.append((verb.name, args, content, media_type))
        return self.answer

    def download(self, verb: Verb, args: dict[str, object]) -> AbstractAsyncContextManager[Download]:
        self.asked.append((verb.name, args))
        return self._download()

    @asynccontextmanager
    async def _download(self) -> AsyncIterator[Download]:
        yield self.answer


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The module that is written for the probes."""
    file = tmp_path_factory.mktemp("probe") / "probe_verbs.py"
    file.write_text(TEXT)
    spec = importlib.util.spec_from_file_location("probe_verbs", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["probe_verbs"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["probe_verbs"]


def over(probe: ModuleType, carrier: Carrier) -> Any:
    """The probes' subjects over this carrier."""
    return type("Over", (Carrier, probe.Subjects), {"__init__": lambda self: self.__dict__.update(vars(carrier))})()


# --- what is written ---


def test_the_module_is_the_servers_verbs() -> None:
    """If this fails: PYTHONPATH=. .venv/bin/python scripts/write-client"""
    assert WRITER["document"]() == SOURCE.read_text()


def test_each_verb_is_a_method_of_its_subject_on_every_carrier() -> None:
    for one in VERBS:
        subject, _, name = one.name.partition(".")
        for carrier in (Client, Http):
            made = getattr(carrier, WRITER["safe"](subject, WRITER["TAKEN_SUBJECTS"]))
            methods = {kind.__name__: kind for kind in vars(written).values() if isinstance(kind, type)}
            kind = methods[made.fget.__annotations__["return"]]
            assert callable(getattr(kind, WRITER["safe"](name)))


def test_no_subject_hides_what_a_client_has() -> None:
    subjects = {name for name in vars(written.Subjects) if not name.startswith("_")}
    own = {
        name
        for kind in (Client, Http)
        for one in kind.__mro__[:-1]
        if one is not written.Subjects
        for name in vars(one)
    }
    own = {name for name in own if not name.startswith("_")}
    assert own <= WRITER["TAKEN_SUBJECTS"]
    assert not subjects & own


def test_every_error_that_a_verb_names_is_one_of_the_clients() -> None:
    for one in VERBS:
        for kind in one.errors:
            assert hasattr(client_errors, kind.__name__), f"{one.name} raises {kind.__name__}"


def test_what_is_written_is_right_in_its_types_and_as_it_is_formatted(types: list[str], tmp_path: Path) -> None:
    """For any verbs; those of the server are checked with everything else."""
    file = tmp_path / "probe_verbs.py"
    file.write_text(TEXT)
    (tmp_path / "use.py").write_text(
        "from __future__ import annotations\n"
        "from probe_verbs import Subjects\n"
        "async def use(im: Subjects) -> int:\n"
        "    page = await im.probe.make('group://r', title='t', colour={'name': 'red'}, kind='public', retry=True)\n"
        "    await im.probe.import_(from_=7)\n"
        "    place = await im.probe.say('group://r', body={'any': 1})\n"
        "    return len([one.name for one in page.rows]) + place.seq + (await im.members_.count()).rows\n"
    )
    command = [*types, str(file), str(tmp_path / "use.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert 0 == done.returncode, done.stdout + done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(file)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr


async def test_what_is_left_out_is_not_sent_and_what_is_given_is(probe: ModuleType) -> None:
    im = over(probe, carrier := Carrier())
    im.answer = {"rows": []}
    await im.probe.make("group://r", title="t")
    await im.probe.make("group://r", title="t", members=[7], colour={"name": "red"}, loud=True, retry=True)
    await im.probe.list("group://r", 7, retry=True, limit=50, words=["a", "b"])
    await im.probe.import_(from_=3)

    assert [
        ("probe.make", {"room": "group://r", "title": "t"}, False),
        (
            "probe.make",
            {"room": "group://r", "title": "t", "members": [7], "colour": {"name": "red"}, "loud": True},
            True,
        ),
        ("probe.list", {"room": "group://r", "mid": 7, "retry": True, "words": ["a", "b"]}, False),
        ("probe.import", {"from": 3}, False),
    ] == carrier.asked


async def test_answers_become_objects_and_what_is_new_is_passed_over(probe: ModuleType) -> None:
    im = over(probe, Carrier())
    row = {"name": "a", "of": 1, "colour": "a newer server has them"}
    im.answer.update({"rows": [row], "by_name": {"a": [row]}, "best": None, "role": "emperor", "either": {"seq": 1}})
    page = await im.probe.list("group://r", 7)

    one = probe.One(name="a", of_=1)
    assert ([one], {"a": [one]}, None, "emperor", {"seq": 1}, None) == (
        page.rows, page.by_name, page.best, page.role, page.either, page.next,
    )  # fmt: skip


async def test_nobody_prints_a_token_by_printing_an_answer(probe: ModuleType) -> None:
    im = over(probe, Carrier())
    im.answer.update({"rows": [], "token": "it opens doors"})
    page = await im.probe.list("group://r", 7)
    assert "it opens doors" == page.token
    assert "doors" not in repr(page)


async def test_an_empty_answer_is_none_and_files_go_both_ways(probe: ModuleType) -> None:
    im = over(probe, carrier := Carrier())
    assert None is await im.probe.import_(from_=1)
    im.answer["name"] = "kept"
    kept = await im.probe.upload(b"bytes", from_=2, media_type="text/plain")
    async with im.probe.fetch("kept", strength=2) as file:
        assert im.answer == file

    assert "kept" == kept.name
    assert [
        ("probe.upload", {"from": 2}, b"bytes", "text/plain"),
        ("probe.fetch", {"name": "kept", "strength": 2}),
    ] == carrier.asked[1:]


async def test_only_what_is_as_good_twice_is_repeated(probe: ModuleType) -> None:
    table = probe.VERBS
    assert {"probe.list", "server.show", "members.count", "probe.fetch"} == {
        name
        for name, one in table.items()
        if one.may_repeat({}) and name in {p.name for p in PROBES[-7:]} | {"server.show"}
    }
    im = over(probe, carrier := Carrier())
    await im.probe.say("group://r", body=1)
    await im.probe.say("group://r", body=1, id="0190a5d2-7c1e-7b3a-9f00-1234567890ab")
    (_, made, _), (_, own, _) = carrier.asked
    assert {"room", "body", "id"} == made.keys() == own.keys(), "what needs an id is given one"
    assert ("0190a5d2-7c1e-7b3a-9f00-1234567890ab", True) == (own["id"], table["probe.say"].may_repeat(made))
    assert table["probe.say"].may_repeat({"id": "0190a5d2-7c1e-7b3a-9f00-1234567890ab"})
    assert not table["probe.make"].may_repeat({"id": "it takes none"})
    assert (("connection",), ("http",)) == (table["probe.import"].doors, table["probe.upload"].doors)


def test_what_is_told_once_is_asked_once() -> None:
    """What it did to the login that asks, it would be told of in the second try."""
    once = {name for name, one in written.VERBS.items() if one.has_secrets and one.method != "GET"}
    assert {"account.password", "account.deactivate"} < once
    assert not [name for name in once if written.VERBS[name].may_repeat({}) or written.VERBS[name].takes_key]


def test_docstrings_say_what_it_does_what_it_takes_and_what_it_raises(probe: ModuleType) -> None:
    said = probe.ProbeVerbs.make.__doc__
    assert said is not None
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    assert ["Make one.", "In full.", "- `title`: what people read", "Raises NoSuchRoom, Forbidden."] == lines


def test_two_models_of_one_name_are_two(probe: ModuleType) -> None:
    assert {"rows"} == set(probe.MembersLimits.__slots__)
    assert "page_rows" in probe.Limits.__slots__


# --- over HTTP ---


@pytest.mark.parametrize(
    ("args", "path", "body"),
    [
        ({"room": "group://a/b", "mid": -7, "limit": 3}, "/v1/probe/group/a%2Fb/-7?limit=3", None),
        ({"room": "group://..", "mid": 7, "retry": False, "words": ["a b", "c&d", "我"]},
         "/v1/probe/group/%2E%2E/7?retry=false&words=a%20b&words=c%26d&words=%E6%88%91", None),
    ],
)  # fmt: skip
def test_arguments_of_a_get_are_in_its_path_and_query(
    probe: ModuleType, args: dict[str, object], path: str, body: bytes | None
) -> None:
    assert (path, body) == request_of(probe.VERBS["probe.list"], args)


def test_other_arguments_are_in_the_body_and_a_path_needs_all_of_its_own(probe: ModuleType) -> None:
    assert ("/v1/probe/group/r", b'{"title":"t"}') == request_of(
        probe.VERBS["probe.make"], {"room": "group://r", "title": "t"}
    )
    assert ("/v1/files?from=7", None) == request_of(probe.VERBS["probe.upload"], {"from": 7})
    with pytest.raises(TypeError, match="needs room"):
        request_of(probe.VERBS["probe.make"], {"title": "t"})


def test_the_names_that_the_writer_keeps_free_are_those_that_the_module_imports() -> None:
    imported = {name for module, names in WRITER["IMPORTS"] for name in names if module == "imcore.client.calls"}
    assert imported <= set(vars(calls))
