"""Chromium, driven over the Chrome DevTools protocol: one WebSocket, JSON both ways, a session for each tab.

A package that drives browsers brings 40 MB and a driver to match; what the tests of one page need is here. Every wait has a
deadline and is for a fact of the page. What a page complains of (exceptions, console errors, refused resources) is kept in
`Tab.complaints`.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp

from waiting import eventually

START_S: Final = 60
ANSWER_S: Final = 90  # to a script too, which may wait for a minute itself
UNTIL_S: Final = 60
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024  # a screenshot
KEYS: Final = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, "")}

# JSON of the DevTools protocol: several hundred types, of which we read a field or two.
Json = dict[str, Any]


def find_chromium() -> str | None:
    """The browser's program, if this machine has one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


# Where to press on an element: null until it stands still from one look to the next with nothing over it. What is reached is noted.
AIM = """(() => {
  const element = ELEMENT;
  if (!element) return null;
  element.scrollIntoView({ block: "nearest" });
  const { x, y, width, height } = element.getBoundingClientRect();
  const middle = [x + width / 2, y + height / 2];
  const before = window.aimedAt;
  const aim = (window.aimedAt = { element, at: String(middle), missed: false });
  if (before?.element !== element || before.at !== aim.at) return null;
  if (!element.contains(document.elementFromPoint(...middle))) return null;
  addEventListener("click", event => { aim.missed = !element.contains(event.target); }, { capture: true, once: true });
  return middle;
})()"""


class Failed(Exception):
    """The browser, or the script in the page, answered with an error."""


class Tab:
    """One page in the browser."""

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self.complaints: list[str] = []
        self._browser, self._target, self._session = browser, target, session

    async def do(self, method: str, **params: object) -> Json:
        """One command of the DevTools protocol to this tab."""
        return await self._browser.do(method, params, self._session)

    async def go(self, url: str) -> None:
        """Open an address. Returns when the page before it is gone, and before the new one is complete: wait for what you need."""
        await self.run("window.isLeft = true")
        answer = await self.do("Page.navigate", url=url)
        if answer.get("errorText"):
            raise Failed(f"{url}: {answer['errorText']}")
        if "loaderId" in answer:  # else it is another place in the same page
            await self.until("!window.isLeft")

    async def before_each_page(self, script: str) -> None:
        """Run this in every page that is opened from now on, before its own scripts."""
        await self.do("Page.addScriptToEvaluateOnNewDocument", source=script)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        answer = await self.do(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if problem := answer.get("exceptionDetails"):
            raise Failed(problem.get("exception", {}).get("description") or problem["text"])
        return answer["result"].get("value")

    async def until(self, script: str, seconds: float = UNTIL_S) -> Any:
        """Wait until the expression is true (or an element), and return its value."""
        value = f"(value => value instanceof Node || value)({script})"  # an element itself does not travel
        try:
            return await eventually(lambda: self.run(value), seconds)
        except AssertionError as error:
            raise AssertionError(f"{script}: {error}") from None

    async def click(self, script: str) -> None:
        """Press the mouse on the middle of the element that the expression names, when it is there, at rest, and not under another.

        Messages that come in may move it between the look and the press: a press that reached something else is made again.
        """
        while True:
            x, y = await self.until(AIM.replace("ELEMENT", script))
            for kind in ("mousePressed", "mouseReleased"):
                await self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
            if await self.run("window.aimedAt?.missed") is not True:
                return

    async def type(self, text: str) -> None:
        """Put text where the focus is, as an input method does."""
        await self.do("Input.insertText", text=text)

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key."""
        code, text = KEYS[key]
        common: Json = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        await self.do("Input.dispatchKeyEvent", type="keyDown", **({"text": text} if text else {}), **common)
        await self.do("Input.dispatchKeyEvent", type="keyUp", **common)

    async def look(self, *, width: int, height: int, dark: bool = False) -> None:
        """Be a window of this size, in this colour scheme, and without transitions."""
        await self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        await self.do("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A picture of the window, or of the whole page, as PNG."""
        answer = await self.do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    async def close(self) -> None:
        """Close the tab, as a person does."""
        await self._browser.do("Target.closeTarget", {"targetId": self._target})

    def hear(self, method: str, params: Json) -> None:
        """An event of this tab."""
        match method:
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(
                    " ".join(str(one.get("value", one.get("description"))) for one in params["args"])
                )
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())


class Chromium:
    """A running browser; `chromium` starts one."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.tabs: list[Tab] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Json]] = {}
        self._hearers: dict[str, Callable[[str, Json], None]] = {}

    async def tab(self) -> Tab:
        """A new, empty tab in a window of its own (in one window only the tab in front would be visible)."""
        target = (await self.do("Target.createTarget", {"url": "about:blank", "newWindow": True}))["targetId"]
        session = (await self.do("Target.attachToTarget", {"targetId": target, "flatten": True}))["sessionId"]
        tab = Tab(self, target, session)
        self.tabs.append(tab)
        self._hearers[session] = tab.hear
        for domain in ("Page", "Runtime", "Log"):
            await tab.do(f"{domain}.enable")
        return tab

    async def do(self, method: str, params: Mapping[str, object], session: str = "") -> Json:
        """One command of the DevTools protocol. Raises Failed."""
        number = next(self._numbers)
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        command: Json = {"id": number, "method": method, "params": params}
        try:
            await self._socket.send_json({**command, "sessionId": session} if session else command)
            async with asyncio.timeout(ANSWER_S):
                return await answer
        finally:
            del self._asked[number]

    async def listen(self) -> None:
        """Hand out what the browser says, until it ends."""
        async for message in self._socket:
            said: Json = message.json()
            if "id" not in said:
                if hear := self._hearers.get(said.get("sessionId", "")):
                    hear(said["method"], said["params"])
            elif (answer := self._asked.get(said["id"])) and not answer.done():
                if "error" in said:
                    answer.set_exception(Failed(said["error"]["message"]))
                else:
                    answer.set_result(said["result"])
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(Failed("the browser ended"))


@asynccontextmanager
async def chromium(program: str) -> AsyncIterator[Chromium]:
    """A browser with an empty profile, which ends with the block."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program,
            *("--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"),
            *(
                "--disable-component-update",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--force-color-profile=srgb",
            ),
            *(("--no-sandbox",) if os.geteuid() == 0 else ()),  # the sandbox refuses to be root
            *(f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # it starts processes of its own, and they end together
        )
        try:
            url = await _address(Path(profile) / "DevToolsActivePort", process)
            async with (
                aiohttp.ClientSession() as http,
                http.ws_connect(url, max_msg_size=MESSAGE_BYTES_MAX) as socket,
                asyncio.TaskGroup() as tasks,
            ):
                browser = Chromium(socket)
                listener = tasks.create_task(browser.listen())
                yield browser
                listener.cancel()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _address(file: Path, process: asyncio.subprocess.Process) -> str:
    async def written() -> list[str]:
        if process.returncode is not None:
            raise Failed(f"the browser ended with {process.returncode}")
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return lines if len(lines) == 2 and lines[0].endswith("\n") and lines[1].startswith("/devtools/") else []

    port, path = await eventually(written, START_S)
    return f"ws://127.0.0.1:{port.strip()}{path.strip()}"
