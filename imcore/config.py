"""The settings, read once: defaults, then a TOML file, then the environment, then flags; the later wins.

One flat table of names. The setting `heartbeat_s` is `heartbeat_s = 60` in the file, `IMCORE_HEARTBEAT_S=60` in the environment and
`--set heartbeat_s=60` on the command line. A name that nobody knows is an error and not a warning: a limit that was misspelt is a limit
that is not there. For the same reason every variable that begins with IMCORE_ must be one of these.

In the environment and in flags a list is written with commas (`live,stage`) or as JSON; what has keys (`auth_keys`) only as JSON.

The trap: values are secrets too. Errors and `shown` repeat no value of `auth_keys`, none of `SECRETS` and no password.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from imcore import failpoints
from imcore.errors import BadConfiguration
from imcore.protocol import packet

PREFIX: Final = "IMCORE_"
FILE_VARIABLE: Final = "IMCORE_CONFIG"
HIDDEN: Final = "***"
LEEWAY_S_MAX: Final = 30.0

SECRETS: Final = frozenset(("attachment_link_key", "s3_secret_key"))  # of plain settings: their values are never shown
_is_media_pattern = re.compile(r"\*/\*|[a-z0-9][a-z0-9!#$&^_.+-]*/(?:\*|[a-z0-9][a-z0-9!#$&^_.+-]*)").fullmatch

DEFAULT, FILE, ENVIRONMENT, FLAG = "default", "file", "environment", "flag"


class Address(NamedTuple):
    """Where to listen. Port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def address(text: str) -> Address:
    """Host and port of `host:port`, `[::1]:port` or `:port` (every interface). Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65_535:
        raise ValueError("an address is host:port, with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif ":" in host or "/" in host or any(sign.isspace() for sign in host):
        raise ValueError("an address is host:port; an IPv6 host stands in brackets: [::1]:3102")
    return Address(host, int(port))


def _checked_address(text: str) -> str:
    return str(address(text))


def _checked_network(text: str) -> str:
    return str(ipaddress.ip_network(text))


def _checked_origin(text: str) -> str:
    if text == "*":
        return text
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or "@" in parts.netloc:
        raise ValueError("an origin is scheme://host or scheme://host:port, with nothing behind it, or *")
    return text.lower()


def _checked_room_type(text: str) -> str:
    try:
        packet.check_room(f"{text}://1")
    except Exception as error:
        raise ValueError(str(error)) from None
    return text


def _checked_region(text: str) -> str:
    if not text.isprintable() or len(text) > 64:
        raise ValueError("a region is a short name")
    return text


def _checked_database_url(url: str) -> str:
    if urlsplit(url).scheme not in ("postgresql", "postgres", "postgresql+asyncpg"):
        raise ValueError("a database URL looks like postgresql://user:password@host:5432/name")
    return url


def _checked_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL begins with http:// or https://")
    return text


def _checked_pattern(text: str) -> str:
    if len(text) > 100 or not _is_media_pattern(text):
        raise ValueError("a media type looks like image/png, image/* or */*, in lower case")
    return text


def _checked_endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError("an endpoint is http(s)://host or http(s)://host:port")
    return url


def _checked_failpoints(text: str) -> str:
    failpoints.parse(text)
    return text


AddressText = Annotated[str, AfterValidator(_checked_address)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
PerSecond = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Burst = Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, use_attribute_docstrings=False
    )


class AuthKey(_Part):
    """One key that tokens may be signed with, and the one algorithm it is for."""

    kid: str = Field(min_length=1, max_length=128, description="the name that a token's header gives")
    alg: Literal["EdDSA", "HS256", "RS256", "ES256"] = Field("EdDSA", description="the only algorithm for this key")
    key: str | None = Field(None, repr=False, description="the key itself: PEM, or for HS256 at least 32 bytes of text")
    key_file: str | None = Field(None, description="a file that holds the key")
    issuer: str = Field("", max_length=256, description="the `iss` that its tokens must have; empty: any, or none")
    roles: tuple[Literal["guest", "moderator", "admin"], ...] = Field(
        (),
        description="what the claim `role` of its tokens is believed for; another role makes nobody more than a user",
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> AuthKey:
        if (self.key is None) == (self.key_file is None):
            raise ValueError("a key has either key or key_file")
        return self


class Advertise(_Part):
    """What clients are told to connect to, when that is not what this process listens on (a load balancer, a mapped port)."""

    domain: str = Field("", description="a name that leads to every comet; given when there is no node to name")
    hostname: str = Field("", description="this comet's own name, for platform=web; empty: the machine's name")
    host_domain: str = Field("", description="put behind each comet's name, such as .im.example.com")
    addresses: tuple[str, ...] = Field(
        (), description="this comet's addresses, for other platforms; empty: where it listens"
    )
    tcp_port: Port = Field(0, description="0: the port that it listens on")
    ws_port: Port = Field(0, description="0: the port that it listens on")
    wss_port: Port = Field(0, description="0: the port that it listens on")
    http_url: str = Field(
        "", max_length=256, description="the HTTP API as clients reach it, told at login; empty: where they asked"
    )


class Settings(_Part):
    """Every setting. Each works on a laptop as it is; the description says what breaks when it is wrong."""

    # --- where things are ---
    data: str = Field(
        "./imcore-data",
        min_length=1,
        description="Folder of the embedded Postgres and of the keys made here. Another folder is another, empty server.",
    )
    database_url: Annotated[str, AfterValidator(_checked_database_url)] | None = Field(
        None,
        repr=False,
        description="The Postgres to use; none is the embedded one in `data`. All processes of one service name the same.",
    )
    unsafe: bool = Field(
        False,
        description="Start even on a Postgres that may lose what was acknowledged. True breaks the promise of every ack.",
    )
    http: AddressText = Field(
        "127.0.0.1:3111", description="Where the HTTP API listens. 0.0.0.0:3111 opens it to the network."
    )
    ws: AddressText = Field("127.0.0.1:3102", description="Where WebSocket clients connect.")
    wss: AddressText = Field(
        "127.0.0.1:3103", description="Where WebSocket clients connect with TLS; only with a certificate."
    )
    tcp: AddressText = Field("127.0.0.1:3101", description="Where TCP clients connect.")
    tcps: AddressText | None = Field(None, description="Where TCP clients connect with TLS; only with a certificate.")
    tls_cert: str | None = Field(
        None, description="File of the certificate chain (PEM). Without it there is no TLS here."
    )
    tls_key: str | None = Field(None, description="File of the certificate's key (PEM). Goes with `tls_cert`.")
    workers: int = Field(
        1, ge=1, le=256, description="Comets on the same ports. More than cores wins nothing; each has its own memory."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least grave lines that are written. debug has a line for each packet, and costs speed."
    )
    fail: Annotated[str, AfterValidator(_checked_failpoints)] = Field(
        "", description="Failpoints, for tests only: where this process breaks on purpose. See testing.md."
    )

    # --- who may come in ---
    auth_mode: Literal["open", "jwt", "webhook"] = Field(
        "open",
        description="open believes who gives no token (development, moving from goim); jwt wants signed tokens; webhook asks.",
    )
    auth_keys: tuple[AuthKey, ...] = Field(
        (), description="The keys of tokens: kid, alg, and key or key_file. None in mode jwt: one is made in `data`."
    )
    auth_audience: str = Field(
        "imcore",
        min_length=1,
        description="A token that names audiences must name this one; one that names none passes.",
    )
    auth_issuer: str = Field(
        "imcore",
        min_length=1,
        max_length=256,
        description="The `iss` of the tokens that are signed here. Changing it ends every login's token at once.",
    )
    auth_leeway_s: float = Field(
        10.0,
        ge=0,
        le=LEEWAY_S_MAX,
        description="How wrong clocks may be. Too little refuses good tokens, more keeps dead ones.",
    )
    origins: tuple[Annotated[str, AfterValidator(_checked_origin)], ...] = Field(
        (),
        description="Pages that may connect, such as https://chat.example.com; * is any. None: this host and loopback.",
    )
    trusted_proxies: tuple[Annotated[str, AfterValidator(_checked_network)], ...] = Field(
        (),
        description="Networks whose X-Forwarded-For is believed. Too wide, and clients choose the address they are limited by.",
    )

    auth_webhook_url: Annotated[str, AfterValidator(_checked_url)] | None = Field(
        None,
        repr=False,
        description="In mode webhook: your backend's URL, which is asked who a client is. See accounts.md.",
    )
    auth_webhook_asks: tuple[Literal["connect", "join", "send"], ...] = Field(
        ("connect",),
        description="What it is asked: who connects, and also each join and each send, which costs a round trip.",
    )
    auth_webhook_s: Annotated[float, Field(gt=0, le=30, allow_inf_nan=False)] = Field(
        2.0, description="How long its answer may take. Long: clients wait while your backend is slow."
    )
    auth_webhook_fails: Literal["closed", "open"] = Field(
        "closed", description="When it does not answer: closed refuses, to be tried again; open believes the client."
    )
    auth_webhook_under_way_max: Count = Field(
        100, description="Questions under way at a time. Above, clients are told to try later."
    )

    # --- accounts ---
    registration: Literal["open", "code", "admin", "closed"] = Field(
        "open",
        description="Who may register: everybody; with an invitation code; until an admin says yes nobody; nobody.",
    )
    guests_allowed: bool = Field(True, description="Whether anybody may come as a guest, without an account.")
    activation_webhook_url: Annotated[str, AfterValidator(_checked_url)] | None = Field(
        None,
        repr=False,
        description="Is sent the e-mail address and an activation code of who registers; your side sends the mail.",
    )
    access_token_s: Annotated[float, Field(ge=10, le=900, allow_inf_nan=False)] = Field(
        900.0, description="How long a token is good for. Short: more refreshing; it is never more than 15 minutes."
    )
    refresh_token_s: Annotated[float, Field(ge=60, le=31_536_000, allow_inf_nan=False)] = Field(
        2_592_000.0, description="A login that is not refreshed for so long is over."
    )
    refresh_grace_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = Field(
        10.0,
        description="A refresh token is good for so long after its use once more: its answer may have been lost. Long: so may a thief.",
    )
    ticket_s: Annotated[float, Field(ge=1, le=300, allow_inf_nan=False)] = Field(
        30.0, description="How long a ticket to connect is good for."
    )
    activation_code_s: Seconds = Field(86_400.0, description="How long an activation code is good for.")
    password_memory_kib: Annotated[int, Field(ge=8, le=2**22)] = Field(
        19_456, description="Argon2id's memory for one password, while it is looked at. Less: cheaper to guess."
    )
    password_passes: Annotated[int, Field(ge=1, le=100)] = Field(
        2, description="Argon2id's passes. With the memory above 20 to 30 ms of one core for a login."
    )
    password_lanes: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="Argon2id's lanes: each is a thread of its own."
    )
    password_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="Passwords looked at at the same time. Each takes a core while it lasts, at low priority. More: on more cores.",
    )
    password_queue_max: Count = Field(
        32, description="Passwords in line. Above, who logs in is told at once when to come back."
    )
    logins_per_account_per_s: PerSecond = Field(
        0.1, description="Attempts to log in to one account for long. High: passwords can be guessed."
    )
    logins_per_account_burst: Burst = Field(10.0, description="Attempts that may be made at once after a pause.")
    logins_per_address_per_s: PerSecond = Field(
        5.0, description="Logins, registrations and guests of one address for long. Low: offices behind one wait."
    )
    logins_per_address_burst: Burst = Field(100.0, description="The same at once after a pause.")

    # --- nodes, as goim's clients are told of them ---
    region: Annotated[str, AfterValidator(_checked_region)] = Field(
        "", description="Where this comet is. Clients that ask from there are more likely sent to it."
    )
    weight: int = Field(
        10, ge=0, le=1 << 20, description="Share of new clients against other comets. 0: none, if there are others."
    )
    advertise: Advertise = Field(
        Advertise(), description="What clients are told to connect to. Wrong behind a load balancer if left empty."
    )
    node_lease_s: Seconds = Field(
        15.0,
        description="A comet that was not heard of for so long is dead, and its sessions are closed. Short: false deaths.",
    )

    # --- the life of a connection ---
    heartbeat_s: Seconds = Field(
        240.0, description="Clients are heard of at least so often. Longer than a NAT's memory: dead lines."
    )
    heartbeat_misses: int = Field(
        2, ge=1, le=100, description="Heartbeats that may be missing before the connection is closed."
    )
    auth_timeout_s: Seconds = Field(
        5.0, description="How long a new connection may take to authenticate. Slow phones need some."
    )
    behind_s: Seconds = Field(
        30.0, description="A slow connection without progress is closed after this, and may come back."
    )
    ack_s: Seconds = Field(
        1.0, description="A connection's acks become one event at most so often. Shorter: a larger log."
    )
    implied_ack_s: Seconds = Field(
        10.0,
        description="The same for clients that never ack (goim's), whose socket took the bytes. Longer: more repeated.",
    )
    drain_s: Seconds = Field(
        10.0, description="How long a stop waits for work under way. Shorter than a batch: clients must retry."
    )
    drain_delay_ms: int = Field(
        3_000,
        ge=0,
        le=600_000,
        description="Clients sent away come back within this, spread evenly; within longer, if they are too many for it.",
    )
    returns_per_s: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = Field(
        1_000.0,
        description="Clients sent away or refused come back no faster, on each comet. High: storms. Low: long waits.",
    )

    # --- limits ---
    rate_limits: bool = Field(
        True,
        description="False lifts the limits per connection, user and address. For load tests; else one client takes all.",
    )
    unauthenticated_per_address_max: Count = Field(
        20,
        description="Connections of one address that have not authenticated. Low: offices behind one address cannot come in.",
    )
    handshakes_per_address_per_s: PerSecond = Field(
        100.0,
        description="Connections a second that one address may begin for long. Low: offices behind one address wait.",
    )
    handshakes_per_address_burst: Burst = Field(
        500.0, description="Connections that it may begin at once after a pause."
    )
    connections_max: Count = Field(
        50_000,
        description="Connections of one process, and no more than its open files. Above, who comes is told to try later.",
    )
    admissions_per_s: PerSecond = Field(
        2_000.0,
        description="Connections opened a second by one process. High: when all come at once, those who are there wait.",
    )
    admissions_burst: Burst = Field(2_000.0, description="Connections opened at once after a pause.")
    admissions_under_way_max: Count = Field(
        2_000,
        description="Connections opened at the same time. The others wait in line; low: a slow Postgres makes the line long.",
    )
    admissions_waiting_max: Count = Field(
        20_000, description="Connections in line. Above, who comes is told when to come back, before any work."
    )
    admission_wait_max_s: Seconds = Field(
        5.0, description="The line is no longer than is served in this time. Long: clients give up while they wait."
    )
    connections_per_user_max: Count = Field(
        10, description="Connections of one member id, its devices and tabs, on all comets together."
    )
    connections_per_user_policy: Literal["refuse_new", "close_oldest"] = Field(
        "refuse_new",
        description="Of one connection too many: refuse it, or let it in and close the oldest. refuse_new: dead lines keep others out.",
    )
    rooms_per_session_max: Count = Field(
        packet.ROOMS_MAX, description="Live rooms that one connection may be in. Each costs memory."
    )
    rooms_per_user_max: Count = Field(
        10_000,
        description="Rooms that a person may be in. Other people bring it, unasked, into no more once it is in half of them (rounded "
        "up), by direct rooms that they open too, so that the rest is its own to enter. Each is held for as long as it is connected, "
        "and read when it connects. Too low: people cannot join, be added, or be written to.",
    )
    inbound_frames_per_s: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = Field(
        30.0,
        description="Packets a second that a connection may send for long. Too low: chats of fast typists are refused.",
    )
    inbound_frames_burst: Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)] = Field(
        60.0, description="Packets that it may send at once after a pause."
    )
    inbound_refused_max: Count = Field(
        300,
        description="Packets refused for coming too fast before the connection is closed (4429). Low: hasty bots are cut off.",
    )
    user_sends_per_s: PerSecond = Field(
        30.0, description="Messages a second that one member id may send for long, over all its devices and HTTP."
    )
    user_sends_burst: Burst = Field(60.0, description="Messages that it may send at once after a pause.")
    user_signals_per_s: PerSecond = Field(
        5.0, description="Signals that are not stored (typing) that one member id may send a second for long."
    )
    user_signals_burst: Burst = Field(20.0, description="Signals that it may send at once after a pause.")
    signals_room_members_max: Count = Field(
        500, description="In rooms with more members or sessions signals go to nobody. High: each costs as many writes."
    )
    presence_room_members_max: Annotated[int, Field(ge=2, le=packet.PAGE_ROWS_MAX)] = Field(
        200, description="Members of a room see who of them is online up to this size; in larger ones, how many."
    )
    presence_watched_max: Count = Field(
        500,
        description="People that one connection may watch the presence of. Each costs memory, and writes when it changes.",
    )
    presence_watches_max: Count = Field(
        1_000_000, description="The same of all connections of a process, about 0.2 KiB each. Above: overloaded."
    )
    presence_grace_s: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = Field(
        5.0, description="Who is back within this was never away, for who watches. Short: every tunnel is told."
    )
    presence_recheck_s: Seconds = Field(
        300.0, description="Who may still see whom is asked again at least so often. Short: queries."
    )
    sends_pending_per_session_max: Count = Field(
        1_000,
        description="Sends of one connection that wait for their commit. Low: fast senders are refused, and retry.",
    )
    unsent_bytes_max: Annotated[int, Field(ge=4_096, le=2**30)] = Field(
        2**20,
        description="What a connection may leave untaken; then it reads from the log. Times connections, it is memory.",
    )
    unsent_bytes_process_max: Annotated[int, Field(ge=2**20, le=2**40)] = Field(
        2**29,
        description="The same of all connections of a process. Above, those with most wait, then are closed (4008).",
    )
    packet_bytes_max: Annotated[int, Field(ge=1_024, le=2**24)] = Field(
        packet.PACKET_BYTES_MAX,
        description="The largest packet of a client. It bounds what one client makes the server hold.",
    )
    goim_body_bytes_max: Annotated[int, Field(ge=16, le=2**24)] = Field(
        packet.GOIM_BODY_BYTES_MAX,
        description="The largest body on goim's operations. goim's clients cannot take more.",
    )
    text_body_bytes_max: Annotated[int, Field(ge=16, le=2**24)] = Field(
        packet.TEXT_BODY_BYTES_MAX, description="The largest body of a message, as compact JSON. It is stored for ever."
    )
    edit_within_s: Annotated[float, Field(ge=0)] = Field(
        0.0, description="For how long after it was sent its author may edit a message. 0: always."
    )
    recall_within_s: Annotated[float, Field(ge=0)] = Field(
        120.0,
        description="For how long after it was sent its author may recall a message; admins of the room may always. 0: always.",
    )
    http_body_bytes_max: Annotated[int, Field(ge=1_024, le=2**26)] = Field(
        65_536, description="The largest body of a request to the HTTP API."
    )
    http_read_s: Seconds = Field(
        10.0, description="How long a request to the HTTP API may take to arrive. Slow attackers hold on."
    )
    http_requests_max: Count = Field(
        1_000, description="Requests to the HTTP API under way. Above, they are refused at once as overloaded."
    )
    downloads_max: Count = Field(
        256,
        description="Files on their way out in a process, beside the requests. Above, they are refused as overloaded.",
    )
    downloads_per_address_max: Count = Field(
        32,
        description="Of these, those of one address in this process. Slow readers at one address cannot keep the others out.",
    )
    download_bytes_per_s_min: Annotated[int, Field(ge=1, le=2**40)] = Field(
        16_384,
        description="How fast a file must be taken, as a whole, with `behind_s` for nothing. Low: slow readers hold places for longer.",
    )
    idempotency_s: Annotated[float, Field(ge=60, le=30 * 86_400)] = Field(
        86_400.0,
        description="How long an answer is kept for who repeats the request under its idempotency key. Later it runs again.",
    )
    reads_under_way_max: Count = Field(
        1_000,
        description="Requests of connections that read from the database, under way in a process. The same above.",
    )
    page_events_max: Annotated[int, Field(ge=1, le=10_000)] = Field(
        packet.PAGE_ROWS_MAX, description="Events read from the log at a time for one connection that is behind."
    )

    # --- attachments ---
    attachments: str | None = Field(
        None,
        min_length=1,
        description="Folder of attachments; none is `attachments` in `data`. All processes of one service need the same.",
    )
    attachment_bytes_max: Annotated[int, Field(ge=1, le=2**40)] = Field(
        25 * 2**20, description="The largest file. It bounds how long an upload takes, and what one costs to keep."
    )
    attachment_types: tuple[Annotated[str, AfterValidator(_checked_pattern)], ...] = Field(
        ("*/*",),
        description="Media types that are taken: `image/png`, `image/*`, `*/*`. What a browser could run is never shown in it.",
    )
    attachment_bytes_per_day_max: Annotated[int, Field(ge=1, le=2**50)] = Field(
        2**30,
        description="What one person may store in a day (UTC), each file as 4096 bytes at least. Else one fills the disk.",
    )
    attachment_upload_s: Seconds = Field(
        300.0, description="How long an upload may take. Short: slow lines cannot send large files."
    )
    attachment_uploads_max: Count = Field(
        64,
        description="Uploads under way in a process, a buffer each (5 MiB with S3). Above, they are refused as overloaded.",
    )
    attachment_uploads_per_user_max: Count = Field(
        4, description="Of these, those of one person in this process. One person cannot keep the others out."
    )
    attachment_link_s: Seconds = Field(
        3_600.0, description="How long a link may be good, and is if nobody says less. Nobody can take it back."
    )
    attachment_link_key: Annotated[str, Field(min_length=32, max_length=1_024)] | None = Field(
        None,
        repr=False,
        description="Secret that links are signed with; none is a key made in `data`. On several machines all need the same.",
    )
    s3_bucket: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        None,
        description="Keep attachments in this bucket of an S3-compatible store, and not in a folder. Needs `imcore[s3]`.",
    )
    s3_endpoint: Annotated[str, AfterValidator(_checked_endpoint)] | None = Field(
        None, description="Where the store answers, such as https://s3.example.com; none is AWS."
    )
    s3_region: str = Field(
        "us-east-1", min_length=1, max_length=64, description="The region that requests are signed for."
    )
    s3_prefix: str = Field(
        "", max_length=200, description="What every key in the bucket begins with. Two services in one bucket need two."
    )
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto", description="Whether the bucket stands in the path or in the host name. Stores of one's own want path."
    )
    s3_access_key: Annotated[str, Field(min_length=1, max_length=1_024)] | None = Field(
        None, description="Who we are there; none asks the environment, files and the machine, as AWS's programs do."
    )
    s3_secret_key: Annotated[str, Field(min_length=1, max_length=1_024)] | None = Field(
        None, repr=False, description="The secret of `s3_access_key`."
    )

    # --- the log ---
    live_room_types: tuple[Annotated[str, AfterValidator(_checked_room_type)], ...] = Field(
        ("live",),
        description="Types of rooms without members: only sessions that entered. Changing it orphans memberships.",
    )
    quiet_s: Seconds = Field(
        1.0, description="Look at the log when the bus says nothing. The delay of a message whose bell was lost."
    )
    recent_events_max: Count = Field(16_384, description="Events kept in memory, so that a short break costs no query.")
    people_remembered_max: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        20_000,
        description="People gone offline whose rooms and marks a comet keeps, 1 to 2 KiB each: they return without a query.",
    )
    recent_bytes_max: Annotated[int, Field(ge=2**16, le=2**40)] = Field(
        2**26, description="And no more bytes of bodies than these. Large messages: a shorter memory, not a larger one."
    )
    batch_events_max: Annotated[int, Field(ge=1, le=10_000)] = Field(
        1_000, description="Events of one commit. Larger: fewer commits under load, and longer ones."
    )
    pending_events_max: Count = Field(
        20_000, description="Events waiting to be committed; above, sends are refused as overloaded."
    )
    pending_bytes_max: Annotated[int, Field(ge=2**20, le=2**40)] = Field(
        2**26, description="The same in bytes of bodies, about. It bounds what waits in memory when messages are large."
    )
    pending_reserve_events: Count = Field(
        2_000,
        description="Of these, room that sends do not get: ends of sessions and acks come through when all is full.",
    )
    send_wait_max_s: Seconds = Field(
        2.0, description="A send that would wait longer for its commit is refused at once, with the time to come back."
    )
    append_timeout_s: Seconds = Field(
        10.0, description="When a commit's outcome is given up as unknown; clients then ask again."
    )
    search: bool = Field(
        True, description="Find messages by their words. False: nothing is kept for it, and asking is refused."
    )
    search_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        0.33,
        description="Of its time, how much the fold of words may work. High: all else waits for it. Low: new messages are found late.",
    )
    search_s: Seconds = Field(
        2.0,
        description="How long Postgres may look for one answer. Short: of frequent words, few of the older messages.",
    )
    receipts_members_max: Count = Field(
        100,
        description="In rooms of up to so many, who has read what is told, and pushed to all. Larger: the square of it is written.",
    )
    pool_connections_max: Annotated[int, Field(ge=1, le=1_000)] = Field(
        10, description="Connections of one process to Postgres for reading. All processes together must fit into it."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.auth_mode == "webhook" and self.auth_webhook_url is None:
            raise ValueError("auth_mode webhook needs auth_webhook_url")
        if self.tcps is not None and self.tls_cert is None:
            raise ValueError("tcps needs tls_cert and tls_key")
        kids = [key.kid for key in self.auth_keys]
        if len(set(kids)) < len(kids):
            raise ValueError("two of auth_keys have the same kid")
        if self.goim_body_bytes_max + packet.HEADER_BYTES > self.packet_bytes_max:
            raise ValueError("a body of goim_body_bytes_max does not fit into packet_bytes_max")
        if self.text_body_bytes_max + 1_024 > min(self.packet_bytes_max, self.http_body_bytes_max):
            raise ValueError(
                "text_body_bytes_max leaves too little of packet_bytes_max or http_body_bytes_max around it"
            )
        if self.unsent_bytes_process_max < self.unsent_bytes_max:
            raise ValueError("unsent_bytes_process_max is less than what one connection may have (unsent_bytes_max)")
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            raise ValueError("s3_access_key and s3_secret_key go together")
        if self.pending_reserve_events >= self.pending_events_max:
            raise ValueError("pending_reserve_events leaves nothing of pending_events_max for sends")
        return self


class Shown(NamedTuple):
    """One setting, as it may be printed."""

    name: str
    value: str
    origin: str


class Configuration(NamedTuple):
    """The settings and where each came from: default, file, environment or flag."""

    settings: Settings
    origins: Mapping[str, str]

    def shown(self) -> list[Shown]:
        """Every setting as text fit for a terminal or a log: no password, no key."""
        rows = []
        for name in Settings.model_fields:
            value = getattr(self.settings, name)
            rows.append(
                Shown(name, json.dumps(_public(name, value), ensure_ascii=False), self.origins.get(name, DEFAULT))
            )
        return rows


def load(
    *,
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Configuration:
    """Read the settings. A flag whose value is None was not given; `file`, or else IMCORE_CONFIG, names the TOML file.

    Raises BadConfiguration, which names the setting and, for an unknown one, the nearest that exists.
    """
    environ = environ or {}
    path = file if file is not None else environ.get(FILE_VARIABLE) or None
    values: dict[str, object] = {}
    origins: dict[str, str] = {}

    def take(name: str, value: object, origin: str) -> None:
        values[name], origins[name] = value, origin

    if path is not None:
        for name, value in _table(Path(path)).items():
            _check_known(name, f"the file {path}")
            take(name, value, FILE)
    for variable, text in environ.items():
        if variable.startswith(PREFIX) and variable != FILE_VARIABLE:
            name = variable.removeprefix(PREFIX).lower()
            _check_known(name, "the environment", variable)
            take(name, _from_text(name, text), ENVIRONMENT)
    for name, given in (flags or {}).items():
        if given is not None:
            _check_known(name, "the flags")
            take(name, _from_text(name, given) if isinstance(given, str) else given, FLAG)
    try:
        return Configuration(Settings.model_validate(_tuples(values)), origins)
    except ValidationError as error:
        raise BadConfiguration("; ".join(_faults(error, origins))) from None


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


# --- from text ---------------------------------------------------------------------------------------------------------------


def _table(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"the file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadConfiguration(f"the file {path} is not TOML: {error}") from None


def _check_known(name: str, where: str, called: str = "") -> None:
    if name in Settings.model_fields:
        return
    near = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.5)
    hint = f"; did you mean {variable(near[0]) if called else near[0]}?" if near else ""
    raise BadConfiguration(f"{called or name} in {where} is not a setting{hint}")


def _from_text(name: str, text: str) -> object:
    """What a variable or a flag means: the field's type says how to read it. What does not fit is left for the model to refuse."""
    kinds = _kinds(Settings.model_fields[name].annotation)
    if text == "" and types.NoneType in kinds:
        return None
    if tuple in kinds or any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds):
        if text.lstrip().startswith(("[", "{")):
            try:
                return json.loads(text)
            except ValueError:
                raise BadConfiguration(f"{name} is not JSON") from None
        return [part.strip() for part in text.split(",") if part.strip()]
    if bool in kinds:
        return {
            "true": True,
            "1": True,
            "yes": True,
            "on": True,
            "false": False,
            "0": False,
            "no": False,
            "off": False,
        }.get(text.strip().lower(), text)
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                return text
    return text


def _kinds(annotation: object) -> list[object]:
    """The plain types in an annotation: `Annotated[str, …] | None` is str and NoneType, `tuple[str, …]` is tuple."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(annotation) for kind in _kinds(part)]
    if origin is Literal:
        return [str]
    return [origin or annotation]


def _tuples(value: Any) -> Any:
    """TOML and JSON have lists where the settings, being frozen, have tuples."""
    if isinstance(value, list):
        return tuple(_tuples(part) for part in value)
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return value


# --- to text -----------------------------------------------------------------------------------------------------------------


def _faults(error: ValidationError, origins: Mapping[str, str]) -> Iterable[str]:
    for fault in error.errors(include_input=False, include_url=False, include_context=False):
        place = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if not place:
            yield message
            continue
        origin = origins.get(str(fault["loc"][0]), "")
        if fault["type"] == "extra_forbidden":
            message = "there is no such setting"
        yield f"{place}{f' ({origin})' if origin else ''}: {message[0].lower()}{message[1:]}"


def _public(name: str, value: object) -> object:
    if name in SECRETS and value is not None:
        return HIDDEN
    if name == "database_url" and isinstance(value, str):
        return without_password(value)
    if name.endswith("_webhook_url") and isinstance(value, str):
        return HIDDEN  # what stands in it may be a secret, wherever it stands
    return _plain(value)


def _plain(value: object) -> object:
    if isinstance(value, AuthKey):
        key = {"kid": value.kid, "alg": value.alg}
        return {**key, "key": HIDDEN} if value.key is not None else {**key, "key_file": value.key_file}
    if isinstance(value, BaseModel):
        return {name: _plain(part) for name, part in value if part != type(value).model_fields[name].default}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def without_password(url: str) -> str:
    """A database URL with *** for its password, wherever that stands."""
    try:
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
        name, colon, _ = user.partition(":")
        query = [
            (key, HIDDEN if "pass" in key.lower() else value)
            for key, value in parse_qsl(parts.query, keep_blank_values=True)
        ]
        return parts._replace(
            netloc=f"{name}:{HIDDEN}{at}{host}" if colon else parts.netloc, query=urlencode(query, safe="/*:,")
        ).geturl()
    except ValueError:
        return HIDDEN
