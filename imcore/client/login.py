"""Somebody who is logged in on this device: a token that is always good, for connections and for HTTP.

    async with log_in("http://127.0.0.1:3111", "alice", "correct horse battery staple") as alice:
        await alice.http.rooms.create(…)
        async with alice.connect() as im:
            await im.send(…)

The token is short-lived. It is refreshed when it is asked for and has not long to live, or when a server refused it; a connection is
given the next one before its own is over. A login outlives the process: keep `refresh_token`, which `on_change` is called with
whenever it is another, and `resume` with it.

The trap: a refresh token is good once. Two programs that share one end the login for both, and so may one whose answer is lost on the
way; then somebody must log in anew (`Unauthenticated`).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, TypeAlias

from imcore.client.calls import NOTHING_DONE
from imcore.client.client import Client, connect
from imcore.client.errors import ClientError, Unavailable
from imcore.client.http import Http
from imcore.client.verbs import LoggedIn

MARGIN: Final = 0.1  # of a token's life that must be left of it when it is given to anybody
MARGIN_MAX_S: Final = 60.0

Begin: TypeAlias = Callable[[Http], Awaitable[LoggedIn]]
OnChange: TypeAlias = Callable[[str], object]


class Login:
    """A login, to be entered with `async with`, which logs in. Made by `log_in`, `come_as_guest` or `resume`.

    Leaving it does not log out: `log_out` does. `http` calls verbs as this person; called itself it gives a good token, so it may stand
    wherever a token may.
    """

    def __init__(self, url: str, begin: Begin, *, tls: ssl.SSLContext | None, on_change: OnChange | None) -> None:
        self.http = Http(url, token=self, tls=tls)
        self._open = Http(url, tls=tls)  # refreshing is for whoever has no token any more
        self._tls = tls
        self._begin = begin
        self._on_change = on_change
        self._granted: LoggedIn | None = None
        self._good_until = 0.0
        self._refreshing = asyncio.Lock()

    async def __aenter__(self) -> Login:
        """Log in. Raises WrongLogin, AccountInactive, Unauthenticated, and what else HTTP may end with."""
        await self._open.__aenter__()
        await self.http.__aenter__()
        try:
            self._keep(await self._begin(self._open))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close what is kept open; the login stays."""
        await self.close()

    async def close(self) -> None:
        """Close what is kept open; the login stays. Doing it again does nothing."""
        await self.http.close()
        await self._open.close()

    # --- what it is ------------------------------------------------------------------------------------------------------------

    @property
    def granted(self) -> LoggedIn:
        """All that the server said at the last login or refresh."""
        if self._granted is None:
            raise RuntimeError("not logged in: use `async with log_in(…) as login`")
        return self._granted

    @property
    def mid(self) -> int:
        """Who this is."""
        return self.granted.mid

    @property
    def key(self) -> str:
        """Which device."""
        return self.granted.auth.key

    @property
    def refresh_token(self) -> str:
        """What `resume` takes, once."""
        return self.granted.refresh_token

    @property
    def urls(self) -> tuple[str, ...]:
        """Where to connect, the best first: WebSockets over TLS where there are any, else without, else TCP."""
        comets = self.granted.connect
        # What is told is the address of goim's binary frames; the client speaks JSON on WebSockets.
        web = [one.removesuffix("/sub") + "/ws" for one in comets.wss or comets.ws]
        return tuple(web or [f"tcp://{one}" for one in comets.tcp])

    def connect(self, **options: Any) -> Client:
        """A client of this person on this device, as `imcore.client.connect` makes it with these options."""
        url = options.pop("url", self.urls)
        return connect(url, **{"token": self, "key": self.key, "tls": self._tls, **options})

    # --- the token -------------------------------------------------------------------------------------------------------------

    async def __call__(self) -> str:
        """A token that is good for a while. Raises Unauthenticated when the login is over."""
        if time.monotonic() >= self._good_until:
            async with self._refreshing:
                await self._refresh()
        return self.granted.token

    async def _refresh(self) -> None:
        if time.monotonic() >= self._good_until:
            self._keep(await self._open.accounts.refresh(refresh_token=self.refresh_token))

    @property
    def good_for_s(self) -> float:
        """How long the token that there is may still be given to anybody."""
        return max(0.0, self._good_until - time.monotonic())

    def refused(self) -> None:
        """The token was refused: the next one is another."""
        self._good_until = 0.0

    async def change_password(self, old: str, new: str) -> None:
        """Another password. Every other login of this person is over; this one goes on, and its connections come back by themselves.

        It is asked once: the first try ends the login that a second would need. If its answer is lost, this logs in anew with the new
        password, as the same device. `login.http.account.password(…)` would leave this without its login.

        Raises WrongLogin, and Unavailable when it is not known which password holds: the old one was not changed, or will be yet, or
        nobody could be asked. Then this login is good as long as the old password is; after that `log_in` with the new one."""
        async with self._refreshing:  # who is refused meanwhile waits for the token that comes with the answer
            await self._refresh()
            async with Http(self.http.url, token=self.granted.token, tls=self._tls) as http:
                name = (await http.account.show()).login  # a login that was resumed does not know it
                try:
                    self._keep(await http.account.password(old=old, new=new))
                except ClientError as error:
                    if not error.retry or error.code in NOTHING_DONE:
                        raise
                    self._keep(await self._again(name, new))

    async def _again(self, name: str, password: str) -> LoggedIn:
        """A login of the same device with a password that may not be the one. Raises Unavailable."""
        device = self.granted.auth
        try:
            return await self._open.accounts.login(
                login=name,
                password=password,
                key=device.key,
                platform=device.platform,
                room_id=device.room_id,
                accepts=None if device.accepts is None else list(device.accepts),
                retry=True,
            )
        except ClientError as error:
            raise Unavailable(f"whether the password is another is not known: {error.text}") from error

    async def log_out(self, *, everywhere: bool = False) -> None:
        """End this login, or all of this person's. Their connections are closed."""
        await self.http.accounts.logout(everywhere=everywhere)

    def _keep(self, granted: LoggedIn) -> None:
        self._granted = granted
        margin_s = min(MARGIN_MAX_S, granted.expires_in_s * MARGIN)
        self._good_until = time.monotonic() + granted.expires_in_s - margin_s
        if self._on_change is not None:
            self._on_change(granted.refresh_token)


def log_in(
    url: str,
    login: str,
    password: str,
    *,
    key: str | None = None,
    platform: str = "python",
    tls: ssl.SSLContext | None = None,
    on_change: OnChange | None = None,
) -> Login:
    """A login with a password at the API at `url`. `key` names the device; left out, the server makes one."""

    async def begin(http: Http) -> LoggedIn:
        return await http.accounts.login(login=login, password=password, key=key, platform=platform, retry=True)

    return Login(url, begin, tls=tls, on_change=on_change)


def come_as_guest(
    url: str,
    *,
    key: str | None = None,
    platform: str = "python",
    tls: ssl.SSLContext | None = None,
    on_change: OnChange | None = None,
) -> Login:
    """A login of somebody new, without an account."""

    async def begin(http: Http) -> LoggedIn:
        return await http.accounts.guest(key=key, platform=platform)

    return Login(url, begin, tls=tls, on_change=on_change)


def resume(
    url: str, refresh_token: str, *, tls: ssl.SSLContext | None = None, on_change: OnChange | None = None
) -> Login:
    """A login of an earlier process, with the refresh token that it kept."""

    async def begin(http: Http) -> LoggedIn:
        return await http.accounts.refresh(refresh_token=refresh_token)

    return Login(url, begin, tls=tls, on_change=on_change)
