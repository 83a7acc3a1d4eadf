"""Settings come from four places, an unknown name is an error, and no secret is ever shown."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from imcore.config import Address, Settings, address, load, variable, without_password
from imcore.errors import BadConfiguration

ROOT = Path(__file__).parent.parent
URL = "postgresql://imcore:hunter2@db.example/imcore"


def file(folder: Path, text: str) -> Path:
    path = folder / "imcore.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(**places: object) -> str:
    with pytest.raises(BadConfiguration) as caught:
        load(**places)  # type: ignore[arg-type]
    return str(caught.value)


def test_everything_has_a_default() -> None:
    settings = load().settings

    assert settings == Settings()
    assert (None, "open", "127.0.0.1:3111", 1) == (
        settings.database_url, settings.auth_mode, settings.http, settings.workers,
    )  # fmt: skip


def test_flags_go_before_environment_before_file_before_default(tmp_path: Path) -> None:
    path = file(tmp_path, "weight = 1\nheartbeat_s = 1\nquiet_s = 1.5\n")
    environ = {"IMCORE_HEARTBEAT_S": "2", "IMCORE_QUIET_S": "2", "HOME": "/", "PATH": ""}

    loaded = load(file=path, environ=environ, flags={"quiet_s": 3.0, "workers": None})

    assert (1, 2.0, 3.0, 1) == (
        loaded.settings.weight, loaded.settings.heartbeat_s, loaded.settings.quiet_s, loaded.settings.workers,
    )  # fmt: skip
    origins = {row.name: row.origin for row in loaded.shown()}
    assert ("file", "environment", "flag", "default") == (
        origins["weight"], origins["heartbeat_s"], origins["quiet_s"], origins["workers"],
    )  # fmt: skip


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    path = file(tmp_path, "weight = 7\n")

    assert load(environ={"IMCORE_CONFIG": str(path)}).settings.weight == 7
    assert load(environ={"IMCORE_CONFIG": ""}).settings.weight == 10


def test_every_setting_can_be_said_in_every_place(tmp_path: Path) -> None:
    """What a file can say, the environment can: each value, written as JSON, comes back as itself."""
    import json

    settings = Settings.model_validate(
        {
            "auth_keys": ({"kid": "a", "alg": "HS256", "key": "x" * 32},),
            "advertise": {"domain": "x.example", "addresses": ("192.0.2.1",)},
            "tls_cert": "a", "tls_key": "b", "tcps": "0.0.0.0:3104", "database_url": URL, "origins": ("https://a.example", "*"),
            "trusted_proxies": ("10.0.0.0/8",), "live_room_types": ("live", "stage"), "rate_limits": False,
                "auth_webhook_url": "https://a.example/who", "activation_webhook_url": "http://a.example",
            "attachments": "/srv/files", "attachment_link_key": "x" * 32, "attachment_types": ("image/*", "text/plain"),
            "s3_bucket": "b", "s3_endpoint": "http://s3.example:9000", "s3_access_key": "a", "s3_secret_key": "b",
        }
    )  # fmt: skip
    dumped = settings.model_dump(mode="json")
    environ = {variable(name): one if isinstance(one, str) else json.dumps(one) for name, one in dumped.items()}

    assert load(environ=environ).settings == settings
    assert load(flags=dumped).settings == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert load(environ={"IMCORE_LIVE_ROOM_TYPES": "live, stage,"}).settings.live_room_types == ("live", "stage")
    for text, meant in (("true", True), ("1", True), ("ON", True), ("no", False), ("0", False)):
        assert load(environ={"IMCORE_UNSAFE": text}).settings.unsafe is meant


@pytest.mark.parametrize("wrong", ["heartbet_s", "hartbeat_s", "heartbeat", "HEARTBEAT_S"])
def test_an_unknown_name_is_an_error_that_knows_a_better_one(tmp_path: Path, wrong: str) -> None:
    assert "IMCORE_HEARTBEAT_S" in refused(environ={f"IMCORE_{wrong.upper()}X": "1"})
    if wrong.islower():
        in_file = refused(file=file(tmp_path, f"{wrong} = 1\n"))
        assert wrong in in_file
        assert "did you mean heartbeat_s?" in in_file
        assert "did you mean heartbeat_s?" in refused(flags={wrong: 1})


def test_a_name_like_no_other_is_an_error_too() -> None:
    assert "IMCORE_QQQ in the environment is not a setting" in refused(environ={"IMCORE_QQQ": "1"})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("workers", [0, 257, "x", "1.5", True]), ("heartbeat_s", [0, -1, "nan", "inf", "x", 86_401]), ("weight", [-1, 2**20 + 1]),
        ("http", ["", "3111", "x:y", "x:70000", "a b:1", "::1:80", "http://x:1"]), ("auth_mode", ["", "none", "JWT"]),
        ("origins", ["evil.example", "https://a.example/path", "https://u@a.example", "ftp://a.example"]),
        ("trusted_proxies", ["10.0.0.1/8", "everything"]), ("live_room_types", ["Live", "a b", "1x"]), ("unsafe", ["maybe", ""]),
        ("database_url", ["mysql://x", "x"]), ("auth_leeway_s", [-1, 31]), ("log_level", ["trace"]), ("auth_keys", ["[", "a"]),
        ("auth_keys", [[{"kid": "a"}], [{"kid": "a", "key": "x", "key_file": "y"}], [{"kid": "", "key": "x"}], [{"key": "x"}]]),
        ("auth_keys", [[{"kid": "a", "key": "x", "alg": "none"}], [{"kid": "a", "key": "x"}, {"kid": "a", "key": "y"}]]),
        ("advertise", [{"port": 1}, {"wss_port": 70_000}]), ("packet_bytes_max", [1023, 4_000]), ("text_body_bytes_max", [65_536]),
    ],
)  # fmt: skip
def test_an_impossible_value_is_an_error_that_names_it(name: str, values: list[object]) -> None:
    for value in values:
        assert name in refused(flags={name: value}), value


def test_what_goes_together_stays_together() -> None:
    assert "tls_cert and tls_key" in refused(flags={"tls_cert": "a"})
    assert "tcps needs" in refused(flags={"tcps": ":3104"})
    assert "pending_reserve_events" in refused(flags={"pending_events_max": 2_000})
    assert "unsent_bytes_process_max" in refused(flags={"unsent_bytes_max": 2**29 + 1})
    load(flags={"pending_events_max": 2_001, "unsent_bytes_max": 2**29})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "none.toml" in refused(file=tmp_path / "none.toml")
    assert "not TOML" in refused(file=file(tmp_path, "weight ="))
    (tmp_path / "imcore.toml").write_bytes(b"\xff")
    assert "imcore.toml" in refused(file=tmp_path / "imcore.toml")


def test_addresses() -> None:
    assert Address("", 0) == address(":0")
    assert Address("::1", 80) == address("[::1]:80")
    assert "[::1]:80" == str(address("[::1]:80"))
    assert Address("im.example.com", 65_535) == address("im.example.com:65535")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        load().settings.weight = 5  # type: ignore[misc]


# --- secrets ---


def test_no_secret_is_shown() -> None:
    url = "postgresql://imcore:hunter2@db.example/imcore?password=hunter2&host=/tmp"
    keys = [{"kid": "a", "alg": "HS256", "key": "hunter2" * 5}, {"kid": "b", "key_file": "/etc/b.pem"}]

    loaded = load(flags={"database_url": url, "auth_keys": keys})

    shown = {row.name: row.value for row in loaded.shown()}
    assert list(Settings.model_fields) == list(shown)
    assert '"postgresql://imcore:***@db.example/imcore?password=***&host=/tmp"' == shown["database_url"]
    assert (
        '[{"kid": "a", "alg": "HS256", "key": "***"}, {"kid": "b", "alg": "EdDSA", "key_file": "/etc/b.pem"}]'
        == shown["auth_keys"]
    )
    assert "hunter2" not in repr(loaded) + str(loaded.settings) + " ".join(shown.values())


@pytest.mark.parametrize(
    "environ",
    [
        {"IMCORE_DATABASE_URL": "mysql://u:hunter2@h/d"},
        {"IMCORE_AUTH_KEYS": '[{"kid":"a","alg":"RS512","key":"hunter2"}]'},
        {"IMCORE_AUTH_KEYS": '[{"kid":"a","key":"hunter2","more":"hunter2"}]'},
        {"IMCORE_AUTH_KEYS": '[{"kid":"hunter2"'},
        {"IMCORE_AUTH_KEYS": "hunter2"},
        {"IMCORE_HEARTBEAT_S": "hunter2"},
    ],
)
def test_no_error_repeats_a_value(environ: dict[str, str]) -> None:
    assert "hunter2" not in refused(environ=environ)


def test_urls_without_a_password_stay_as_they_are() -> None:
    for url in ("postgresql://imcore@/imcore?host=/tmp/x", "postgresql://h:5432/d"):
        assert url == without_password(url)
    assert "***" == without_password("postgresql://[u:hunter2@h")


# --- documents ---


def test_every_setting_says_what_breaks() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_document_is_of_these_settings() -> None:
    """If this fails: PYTHONPATH=. .venv/bin/python scripts/write-configuration"""
    script = runpy.run_path(str(ROOT / "scripts" / "write-configuration"))

    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == script["document"]()


def test_the_examples_in_the_document_are_settings() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    examples = [block.partition("```")[0] for block in text.split("```toml")[1:]]

    assert len(examples) == 2
    for example in examples:
        load(flags=tomllib.loads(example))
