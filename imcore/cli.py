"""The command line: where the settings are read, once, and everything begins."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from imcore import __version__
from imcore.config import Configuration, Settings, load
from imcore.errors import BadConfiguration, ImcoreError
from imcore.logs import set_up

app = typer.Typer(
    name="imcore",
    help="Instant messaging whose source of truth is an append-only event log in Postgres.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
database = typer.Typer(help="The tables: bring them up to date, or back.", no_args_is_help=True)
app.add_typer(database, name="db")
accounts = typer.Typer(help="Accounts: make the first admin.", no_args_is_help=True)
app.add_typer(accounts, name="account")
keys = typer.Typer(help="The keys that this service signs tokens with.", no_args_is_help=True)
app.add_typer(keys, name="keys")

ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file with settings.")]
Data = Annotated[str | None, typer.Option("--data", help="Folder of the embedded Postgres and of keys.")]
Url = Annotated[str | None, typer.Option("--database-url", help="Use this Postgres instead.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; see `imcore config`."),
]
Text = str | None


def settings_from(config: Path | None, given: list[str] | None, **flags: object) -> Configuration:
    """Read the settings; `--set` fills what has no flag of its own."""
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE")
        flags[name.replace("-", "_")] = value
    return load(file=config, environ=os.environ, flags=flags)


@app.command()
def serve(
    config: ConfigFile = None,
    data: Data = None,
    database_url: Url = None,
    http: Annotated[Text, typer.Option(help="host:port of the HTTP API; port 0 is any free one.")] = None,
    ws: Annotated[Text, typer.Option(help="host:port for WebSocket clients.")] = None,
    tcp: Annotated[Text, typer.Option(help="host:port for TCP clients.")] = None,
    auth: Annotated[
        Text, typer.Option(help="open (believes everybody), jwt (signed tokens) or webhook (asks your backend).")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Comets on the same ports.")] = None,
    roles: Annotated[
        str, typer.Option(help="What this process does: of comet, api and projector, those named; with commas.")
    ] = "comet,api,projector",
    no_rate_limits: Annotated[
        bool, typer.Option("--no-rate-limits", help="Lift the limits per connection, user and address: for load tests.")
    ] = False,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Start on a Postgres that may lose what was acknowledged.")
    ] = False,
    given: Set = None,
) -> None:
    """Run imcore: every role in one process, or those named. Prints one JSON line with the addresses when it is ready."""
    chosen = frozenset(roles.split(","))
    settings = settings_from(
        config,
        given,
        data=data,
        database_url=database_url,
        http=http,
        ws=ws,
        tcp=tcp,
        auth_mode=auth,
        workers=workers,
        rate_limits=False if no_rate_limits else None,
        unsafe=True if unsafe else None,
    ).settings
    set_up(settings.log_level)
    from imcore.server import ALL_ROLES, install_signals, told
    from imcore.server import serve as run_server

    if not chosen <= ALL_ROLES:
        raise typer.BadParameter(f"{roles!r} names other roles than {', '.join(sorted(ALL_ROLES))}")

    def announce(line: dict[str, object]) -> None:
        told(line)
        if "http" in line:
            sys.stderr.write(f"\n  Open http://{line['http']}/ in a browser to try it. Ctrl-C stops.\n\n")

    async def go() -> None:
        stop = asyncio.Event()
        install_signals(stop)
        await run_server(settings, roles=chosen, announce=announce, stop=stop)

    _run(go())


@database.command("upgrade")
def db_upgrade(config: ConfigFile = None, data: Data = None, database_url: Url = None, given: Set = None) -> None:
    """Bring the tables up to date."""

    async def go(url: str) -> None:
        from imcore.database.migrations import current, upgrade

        await upgrade(url)
        print(f"the tables are at revision {await current(url)}")

    _with_database(settings_from(config, given, data=data, database_url=database_url).settings, go)


@database.command("downgrade")
def db_downgrade(
    revision: Annotated[str, typer.Argument(help="The revision to go back to; base is none at all.")],
    config: ConfigFile = None,
    data: Data = None,
    database_url: Url = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    given: Set = None,
) -> None:
    """Take the tables back to an older revision. This can destroy data."""
    settings = settings_from(config, given, data=data, database_url=database_url).settings
    if not yes:
        typer.confirm("This can destroy data. Go on?", abort=True)

    async def go(url: str) -> None:
        from imcore.database.migrations import current, downgrade

        await downgrade(url, revision)
        print(f"the tables are at revision {await current(url) or 'none'}")

    _with_database(settings, go)


@database.command("current")
def db_current(config: ConfigFile = None, data: Data = None, database_url: Url = None, given: Set = None) -> None:
    """Say which revision the tables are at."""

    async def go(url: str) -> None:
        from imcore.database.migrations import current, newest

        print(f"the tables are at revision {await current(url) or 'none'}, the newest is {newest()}")

    _with_database(settings_from(config, given, data=data, database_url=database_url).settings, go)


@database.command("new-epoch")
def db_new_epoch(
    config: ConfigFile = None,
    data: Data = None,
    database_url: Url = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    given: Set = None,
) -> None:
    """Say that the log is another one than before, as after an older state of the database was put back. Every client loads anew."""
    settings = settings_from(config, given, data=data, database_url=database_url).settings
    if not yes:
        typer.confirm("Every client drops what it has and loads anew. Go on?", abort=True)

    async def go(url: str) -> None:
        from imcore.database import connect
        from imcore.events.history import break_off

        connection = await connect(url)
        try:
            print(f"the epoch is {await break_off(connection)} now")
        finally:
            await connection.close()

    _with_database(settings, go)


@app.command()
def rebuild(
    names: Annotated[list[str], typer.Argument(help="Projections, as rooms, members, inbox.")],
    config: ConfigFile = None,
    data: Data = None,
    database_url: Url = None,
    given: Set = None,
) -> None:
    """Fold projections again from the first event and swap them in, with the service running."""

    async def go(url: str) -> None:
        from imcore.database import create_pool
        from imcore.projections.rebuild import rebuild as rebuild_one

        async with create_pool(url, application_name="imcore rebuild", connections_max=2) as pool:
            for projection in chosen:
                done = await rebuild_one(pool, projection)
                print(
                    f"{projection.name}: {done.rows} rows as of position {done.position}, {len(done.failures)} in quarantine"
                )

    chosen = _projections(names)
    _with_database(settings_from(config, given, data=data, database_url=database_url).settings, go)


@app.command()
def audit(
    names: Annotated[list[str] | None, typer.Argument(help="Projections; none: all.")] = None,
    config: ConfigFile = None,
    data: Data = None,
    database_url: Url = None,
    given: Set = None,
) -> None:
    """Compare projections with the fold of the log; exit code 1 if they differ. Changes nothing."""
    differing: list[str] = []

    async def go(url: str) -> None:
        from imcore.database import create_pool
        from imcore.projections.rebuild import audit as audit_one

        async with create_pool(url, application_name="imcore audit", connections_max=2) as pool:
            for projection in chosen:
                found = await audit_one(pool, projection)
                print(f"{projection.name}: {len(found.differences)} differences as of position {found.position}")
                for difference in found.differences[:10]:
                    print(f"  {difference.key}: the log says {difference.expected}, the row is {difference.actual}")
                if found.differences:
                    differing.append(projection.name)

    chosen = _projections(names)
    _with_database(settings_from(config, given, data=data, database_url=database_url).settings, go)
    if differing:
        raise typer.Exit(1)


def _projections(names: list[str] | None) -> list[Any]:
    from imcore.projections import PROJECTIONS

    for name in names or ():
        if name not in PROJECTIONS:
            raise typer.BadParameter(f"{name} is none of {', '.join(PROJECTIONS)}")
    return [PROJECTIONS[name] for name in names or PROJECTIONS]


@app.command("config")
def show_config(
    config: ConfigFile = None, given: Set = None, as_json: Annotated[bool, typer.Option("--json")] = False
) -> None:
    """Print the settings in force and where each comes from. Secrets are hidden."""
    shown = settings_from(config, given).shown()
    if as_json:
        print(json.dumps({row.name: {"value": json.loads(row.value), "from": row.origin} for row in shown}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for row in shown:
        table.add_row(row.name, row.value, row.origin)
    Console(soft_wrap=True, width=None if sys.stdout.isatty() else 200).print(table)


@app.command()
def token(
    mid: Annotated[int, typer.Argument(help="The member id; 0 for a service.")] = 0,
    service: Annotated[bool, typer.Option("--service", help="A token for a backend: pushes, rooms.")] = False,
    room: Annotated[list[str] | None, typer.Option(help="Rooms it may enter (also type://* and *); none: any.")] = None,
    op: Annotated[list[int] | None, typer.Option(help="Operations it may send and receive; none: any.")] = None,
    ttl_s: Annotated[float, typer.Option(help="How long it is good for; of a person at most 3600.")] = 3600,
    config: ConfigFile = None,
    data: Data = None,
    given: Set = None,
) -> None:
    """Mint a token, signed with the first private key of the settings, or the one kept in the data folder."""
    from imcore.auth import PERSON_TOKEN_S_MAX, load_or_create_keys, mint, signing_key

    settings = settings_from(config, given, data=data, auth_mode="jwt").settings
    if not service and mid < 1:
        raise typer.BadParameter("a member id is 1 or more (or use --service)")
    if not service and ttl_s > PERSON_TOKEN_S_MAX:
        raise typer.BadParameter(
            f"--ttl-s of a person is {PERSON_TOKEN_S_MAX:.0f} at most: so long a logout is remembered"
        )
    key = signing_key(settings.auth_keys) if settings.auth_keys else load_or_create_keys(Path(settings.data))
    who: dict[str, Any] = {"service": "imcore token"} if service else {"mid": mid}
    who |= {"issuer": settings.auth_issuer, "audience": settings.auth_audience}
    print(mint(key, now=time.time(), expires_in_s=ttl_s, rooms=room, ops=op, **who))


@accounts.command("create")
def account_create(
    name: Annotated[str, typer.Argument(help="The name to log in with.")],
    role: Annotated[str, typer.Option(help="user, moderator or admin.")] = "user",
    config: ConfigFile = None,
    data: Data = None,
    database_url: Url = None,
    given: Set = None,
) -> None:
    """Make an account that can be used at once. The password is asked for, or read from standard input."""
    roles = ("user", "moderator", "admin")
    if role not in roles:
        raise typer.BadParameter(f"{role!r} is none of {', '.join(roles)}")
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    settings = settings_from(config, given, data=data, database_url=database_url).settings

    async def go(url: str) -> None:
        from imcore.accounts import alone
        from imcore.database.migrations import upgrade

        await upgrade(url)
        async with alone(url, settings) as works:
            made = await works.register(name, password, by=OPERATOR, address="", role=role)  # type: ignore[arg-type]
        print(made.mid)

    from imcore.auth import OPERATOR

    _with_database(settings, go)


@keys.command("list")
def keys_list(config: ConfigFile = None, data: Data = None, given: Set = None) -> None:
    """The names of the keys, the oldest first; the last signs."""
    for kid in _own_keys(config, data, given).kids:
        print(kid)


@keys.command("rotate")
def keys_rotate(config: ConfigFile = None, data: Data = None, given: Set = None) -> None:
    """Make a new key. It signs ten seconds later, when every process knows it; the older ones verify on until they are retired."""
    print(_own_keys(config, data, given).rotate())


@keys.command("retire")
def keys_retire(
    kid: Annotated[str, typer.Argument(help="The name of the key.")],
    config: ConfigFile = None,
    data: Data = None,
    given: Set = None,
) -> None:
    """Take a key away: tokens that it signed are refused within a second. A quarter of an hour after a rotation nobody has one."""
    _own_keys(config, data, given).retire(kid)


def _own_keys(config: Path | None, data: str | None, given: list[str] | None) -> Any:
    from imcore.auth import OwnKeys

    return OwnKeys(Path(settings_from(config, given, data=data).settings.data))


@app.command()
def tail(
    config: ConfigFile = None,
    data: Data = None,
    database_url: Url = None,
    after: Annotated[
        int | None,
        typer.Option(help="Begin after this position; 0 is the whole log. Default: the last ten events."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on when the end is reached.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    stream: Annotated[Text, typer.Option(help="Only this stream, such as room:group://lobby.")] = None,
    given: Set = None,
) -> None:
    """Follow the log. With the embedded Postgres this looks into the one that is running in the data folder."""
    from imcore.tailing import follow_log

    settings = settings_from(config, given, data=data, database_url=database_url).settings
    _with_database(
        settings, lambda url: follow_log(url, after=after, follow=follow, as_json=as_json, stream=stream), running=True
    )


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Scenarios; none: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short and small: does it run at all?")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if a figure misses what it must be.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")] = None,
) -> None:
    """Measure: appends, acknowledged sends, fan-out, connect storm, idle memory, catch-up."""
    from imcore.bench import run

    raise typer.Exit(run(names or [], quick=quick, check=check, json_file=json_file))


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _with_database(settings: Settings, go: Any, *, running: bool = False) -> None:
    """Run `go(url)` on the database of the settings: theirs, the embedded one that runs already, or one started for it."""

    there_is_data = Path(settings.data, "postgres").is_dir()

    async def with_url() -> None:
        if settings.database_url is not None:
            await go(settings.database_url)
            return
        from imcore.database.embedded import embedded, running_url

        found = running_url(Path(settings.data))
        if found is not None:
            await go(found)
            return
        if running and not there_is_data:
            raise BadConfiguration(f"there is no data in {settings.data}; name the folder with --data")
        async with embedded(Path(settings.data)) as url:
            await go(url)

    _run(with_url())


def _run(work: Any) -> None:
    import uvloop

    try:
        uvloop.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except ImcoreError as error:
        _fail(error)
    except BaseExceptionGroup as group:
        known, other = group.split(ImcoreError)
        if other is not None or known is None:
            raise
        first: Any = known
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        _fail(first)


def _fail(error: ImcoreError) -> None:
    print(f"imcore: {error.code}: {error}", file=sys.stderr)
    raise typer.Exit(1)


def main() -> None:
    """The console script."""
    try:
        app()
    except ImcoreError as error:
        print(f"imcore: {error.code}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
