"""docs/accounts.md tells the truth: its commands are run one after the other, and answered with the status that it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import orjson

from api.place import Place
from imcore.config import Settings
from imcore.verbs import accounts

PAGE = Path(__file__).parents[2] / "docs" / "accounts.md"
COMMAND = re.compile(r"^# (\d+)\n(curl .+)$", re.MULTILINE)


async def test_the_commands_are_answered_as_the_page_says(guarded: Place) -> None:
    known = {"IMCORE": ""}
    commands = COMMAND.findall(PAGE.read_text(encoding="utf-8"))
    assert len(commands) >= 9
    for status, command in commands:
        said = shlex.split(re.sub(r"\$([A-Z]+)", lambda found: known[found[1]], command))[1:]
        method, path, headers, body = "GET", "", dict[str, str](), None
        while said:
            match said.pop(0):
                case "-X":
                    method = said.pop(0)
                case "-H":
                    name, _, value = said.pop(0).partition(": ")
                    headers[name] = value
                case "-d":
                    body = said.pop(0).encode()
                case url:
                    path = url
        told = await guarded.ask(method, path, token="", headers=headers, data=body)
        assert int(status) == told.status, (command, told.raw)
        answer = orjson.loads(told.raw)
        for variable, field in (("TOKEN", "token"), ("REFRESH", "refresh_token"), ("MID", "mid")):
            if field in answer:
                known[variable] = str(answer[field])


def test_the_page_knows_every_setting_of_its_own_and_names_none_that_is_not() -> None:
    named = set(
        re.findall(
            r"`((?:auth_webhook|password|logins|activation|ticket|refresh|access|guests)_[a-z_]+)", PAGE.read_text()
        )
    )
    settings = set(Settings.model_fields) | {"refresh_token", "refresh_expires_in_s"}

    assert not [name for name in named if not any(one.startswith(name.rstrip("_*")) for one in settings)]
    assert {"auth_webhook_fails", "access_token_s", "ticket_s"} <= named


def test_the_page_says_where_every_verb_is_that_ends_something() -> None:
    text = PAGE.read_text()
    for verb in accounts.VERBS:
        if verb.name in (
            "accounts.logout",
            "devices.remove",
            "account.deactivate",
            "accounts.suspend",
            "accounts.set_role",
        ):
            assert f"`{verb.method} {verb.path}`" in text, verb.name
