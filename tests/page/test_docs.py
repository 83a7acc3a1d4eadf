"""The page of the verbs, in a real Chromium: every verb is there to read and to try, by mouse, keyboard and ear."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from chromium import Chromium, Tab

from accounts.place import CHEAP
from api.place import Place, bearer, serving
from api.probes import PROBES, probes
from conftest import Server
from imcore.api.page import FOLDER

pytest_plugins = ["browsing"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

HERE = Path(__file__).parent
SERVED = [one for one in PROBES if "http" in one.doors]
PAGE_BYTES_MAX = 40_000


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(server: Server, template: str) -> AsyncIterator[Place]:
    """A verb of each form, behind tokens."""
    async with server.database(template) as url, serving(url, verbs=probes(), auth_mode="jwt") as place:
        yield place


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def believing(server: Server, template: str) -> AsyncIterator[Place]:
    """The same, for everybody."""
    async with server.database(template) as url, serving(url, verbs=probes()) as place:
        yield place


@asynccontextmanager
async def reading(browser: Chromium, api: Place, fragment: str = "", *, complains: bool = False) -> AsyncIterator[Tab]:
    """The page, when it is there. It has nothing to complain of, unless it is said to."""
    tab = await browser.tab()
    try:
        await tab.look(width=1280, height=900)
        await tab.go(f"{api.url}/docs{fragment}")
        await tab.until("document.body.dataset.ready === 'true'")
        yield tab
        assert complains or [] == tab.complaints
    except Exception as error:
        folder = Path(tempfile.mkdtemp(prefix="imcore-docs-"))
        await tab.screenshot(folder / "docs.png")
        error.add_note(f"What the page complained of: {tab.complaints}. Picture: {folder}")
        raise
    finally:
        browser.tabs.remove(tab)
        await tab.close()


def part(verb: str, selector: str = "") -> str:
    """A script for an element of a verb."""
    return f"document.querySelector({json.dumps(f'[id={json.dumps(verb)}] {selector}'.strip())})"


def field(verb: str, name: str) -> str:
    """A script for the control of an argument."""
    script = f"[...document.querySelectorAll({json.dumps(f'[id={json.dumps(verb)}] .field')})]"
    return f"{script}.find(row => row.firstChild.textContent.split(' ')[0] === {json.dumps(name)})?.children[1]"


def shown(selector: str) -> str:
    """A script for the elements that can be seen."""
    return f"[...document.querySelectorAll({json.dumps(selector)})].filter(one => one.checkVisibility())"


async def fill(tab: Tab, verb: str, **values: str) -> None:
    for name, value in values.items():
        await tab.until(field(verb, name))
        await tab.run(f"Object.assign({field(verb, name)}, {json.dumps({'value': value})}) && null")


async def send(tab: Tab, verb: str) -> str:
    """Press the button; the status that is told."""
    await tab.run(f"{part(verb, '.status')}.textContent = ''")
    await tab.click(part(verb, "button[type=submit]"))
    told: str = await tab.until(f"{part(verb, '.status')}.textContent")
    return told


async def answer(tab: Tab, verb: str) -> object:
    """The JSON that is shown."""
    shown = part(verb, ".told pre[aria-label='The answer']")
    return json.loads(await tab.until(f"{shown}?.textContent"))


async def test_every_verb_is_there_by_subject(browser: Chromium, guarded: Place) -> None:
    async with reading(browser, guarded) as tab:
        assert [one.name for one in SERVED] == await tab.run(
            "[...document.querySelectorAll('.verb')].map(one => one.id)"
        )
        assert ["server", "probe"] == await tab.run(
            "[...document.querySelectorAll('.subject > h2')].map(one => one.textContent)"
        )
        assert [f"#{one.name}" for one in SERVED] == await tab.run(
            "[...document.querySelectorAll('#index a')].map(one => one.hash)"
        )


async def test_a_verb_says_what_it_takes_answers_and_refuses_and_who_may(browser: Chromium, guarded: Place) -> None:
    async with reading(browser, guarded, "#probe.count") as tab:
        text = await tab.until(f"{part('probe.count', '.parts')}?.innerText")
        for word in (
            "Count on.",
            "refuse",
            "room_exists",
            "There is a room of this name already.",
            "under_way",
            "guest",
            "operation 38",
        ):
            assert word in text, word


async def test_a_verb_is_tried_with_a_token(browser: Chromium, guarded: Place) -> None:
    """The token is typed once, is not shown, and goes to the server only."""
    async with reading(browser, guarded, "#probe.echo", complains=True) as tab:
        await fill(
            tab,
            "probe.echo",
            type="group",
            name="a/b",
            mid="9223372036854775807",
            names="x\ny&z",
            loud="false",
            limit="",
        )
        assert "401" in await send(tab, "probe.echo")
        token = bearer(mid=7)["Authorization"].removeprefix("Bearer ")
        await tab.click("document.querySelector('#who-value')")
        await tab.type(token)
        assert "200" in await send(tab, "probe.echo")

        told = {
            "room": "group://a/b",
            "mid": 2**63 - 1,
            "names": ["x", "y&z"],
            "mids": [],
            "loud": False,
            "order": "up",
            "limit": 10,
            "title": "",
        }
        assert told == await answer(tab, "probe.echo"), "numbers are shown as they came"
        assert "password" == await tab.run("document.querySelector('#who-value').type")
        headers = await tab.run(f"{part('probe.echo', '.told pre')}.textContent")
        assert "etag: W/" in headers
        assert "ratelimit:" in headers
        await fill(tab, "probe.echo", limit="0")
        assert "400" in await send(tab, "probe.echo")


async def test_the_columns_scroll_and_the_page_does_not(browser: Chromium, guarded: Place) -> None:
    """However much is open: else the head and the index would leave, and nothing would stand below."""
    async with reading(browser, guarded) as tab:
        await tab.run("document.querySelectorAll('.verb').forEach(one => { one.open = true })")
        await tab.until(
            "document.querySelectorAll('.verb .parts').length === document.querySelectorAll('.verb').length"
        )
        await tab.run("[...document.querySelectorAll('.verb')].at(-1).scrollIntoView()")

        main, page = "document.querySelector('main')", "document.documentElement"
        assert await tab.run(f"{main}.scrollHeight > {main}.clientHeight")
        assert [0, 0] == await tab.run(f"[{page}.scrollTop, {page}.scrollHeight - {page}.clientHeight]")


@pytest.mark.parametrize("auth_mode", ["jwt", "open"])
async def test_who_has_logged_in_asks_as_that_person(
    browser: Chromium, server: Server, template: str, auth_mode: Literal["jwt", "open"]
) -> None:
    """From nothing to one's own account, by mouse: nobody copies a token out of an answer."""
    who = {"login": "alice", "password": "correct horse battery staple"}
    async with (
        server.database(template) as url,
        serving(url, auth_mode=auth_mode, **CHEAP) as api,
        reading(browser, api, "#accounts.register") as tab,
    ):
        for verb, status in (("accounts.register", "201"), ("accounts.login", "200")):
            await tab.run(f"location.hash = '#{verb}'")
            await fill(tab, verb, body=json.dumps(who))
            assert status in await send(tab, verb)
        assert 0 == await tab.run(f"{part('accounts.register', '.told')}.querySelectorAll('button').length")
        await tab.click(part("accounts.login", ".told button"))
        await tab.run("location.hash = '#account.show'")

        await tab.until(part("account.show", "button[type=submit]"))
        assert "200" in await send(tab, "account.show")
        told = await answer(tab, "account.show")
        assert isinstance(told, dict)
        assert "alice" == told["login"]
        await tab.go(f"{api.url}/docs#account.show")
        await tab.until("document.body.dataset.ready === 'true'")
        assert await tab.run("document.querySelector('#who-value').value"), "it is there as long as the tab"


async def test_a_body_and_a_key_are_sent(browser: Chromium, believing: Place) -> None:
    async with reading(browser, believing, "#probe.count") as tab:
        await tab.click("document.querySelector('#who-value')")
        await tab.type("7")
        await fill(tab, "probe.count", **{"Idempotency-Key": "k1", "body": '{"by": 4}'})
        first = await send(tab, "probe.count")
        assert {"count": 4, "filler": ""} == await answer(tab, "probe.count")
        assert first == await send(tab, "probe.count")
        await tab.until(f"{part('probe.count', '.told pre')}.textContent.includes('idempotency-replayed: true')")


async def test_bytes_go_up_and_down(browser: Chromium, believing: Place) -> None:
    async with reading(browser, believing, "#probe.download") as tab:
        await fill(tab, "probe.download", type="group", name="1")
        assert "200" in await send(tab, "probe.download")
        assert "Save the answer" == await tab.run(f"{part('probe.download', '.told a')}.textContent")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("text/plain; charset=utf-8", "Dear Bob, see you: {soon}"),
        ("text/plain", '{"token": "of", "sid": "nobody"}'),
        ("application/json", "null"),
        ("application/json", "[]"),
        ("application/json", "{"),
    ],
)
async def test_an_answer_is_shown_as_it_came_whatever_it_is(
    browser: Chromium, believing: Place, kind: str, text: str
) -> None:
    """Of an attachment it is somebody's text, which is no JSON and logs nobody in."""
    async with reading(browser, believing, "#probe.echo") as tab:
        answered = f"new Response({json.dumps(text)}, {{ headers: {{ 'Content-Type': {json.dumps(kind)} }} }})"
        await tab.run(f"(window.fetch = async () => {answered}) && null")
        await fill(tab, "probe.echo", type="group", name="1", mid="7")

        assert (await send(tab, "probe.echo")).startswith("200")
        told = part("probe.echo", ".told pre[aria-label='The answer']")
        assert text == (await tab.run(f"{told}.textContent")).strip()
        assert 0 == await tab.run(f"{part('probe.echo', '.told')}.querySelectorAll('button').length")


async def test_a_request_is_shown_as_curl(browser: Chromium, believing: Place) -> None:
    async with reading(browser, believing, "#probe.put") as tab:
        await fill(tab, "probe.put", type="group", name="it's", mid="7", body='{"limit": 3}')
        await tab.click(f"{part('probe.put', '.tries')}.children[1]")
        shown = await tab.until(f"{part('probe.put', '.told pre')}?.textContent")
        assert shown.startswith(f"curl -X PUT '{believing.url}/v1/probes/group/it'\\''s/of/7'")
        assert """--data-binary '{"limit": 3}'""" in shown


async def test_a_name_of_dots_is_not_asked_for_somewhere_else(browser: Chromium, believing: Place) -> None:
    """Browsers resolve dots in paths, escaped or not: the request would be another."""
    async with reading(browser, believing, "#probe.drop") as tab:
        await tab.run("location.hash = '#probe.echo'")
        await fill(tab, "probe.echo", type="group", name="..", mid="7")
        assert "a connection can" in await send(tab, "probe.echo")


async def test_the_index_is_filtered_and_says_how_many_are_left(browser: Chromium, guarded: Place) -> None:
    async with reading(browser, guarded) as tab:
        await tab.click("document.querySelector('#filter')")
        await tab.type("DELETE drop")
        await tab.until("document.querySelector('#found').textContent === '1 verbs'")
        assert ["probe.drop"] == await tab.run(f"{shown('.verb')}.map(one => one.id)")
        assert 1 == await tab.run(f"{shown('.subject')}.length")


async def test_it_is_used_with_the_keyboard_alone(browser: Chromium, believing: Place) -> None:
    async with reading(browser, believing, "#server.show") as tab:
        assert "server.show" == await tab.run("document.activeElement.parentElement.id"), "the address led there"
        assert await tab.run(f"{part('server.show')}.open")
        for _ in range(10):
            await tab.press("Tab")
            if await tab.run("document.activeElement.type === 'submit'"):
                break
        await tab.press("Enter")
        assert "200" in await tab.until(f"{part('server.show', '.status')}.textContent")
        await tab.run("document.querySelector('[id=\"probe.drop\"] summary').focus()")
        await tab.press("Enter")
        assert await tab.until(f"{part('probe.drop')}.open")
        await tab.run("document.body.querySelector('.skip').focus()")
        assert await tab.run("document.querySelector('.skip').getBoundingClientRect().left >= 0"), "it is seen"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
async def test_it_is_read_well(browser: Chromium, guarded: Place, dark: bool, width: int) -> None:
    """Contrast, a name for every control, one label for each field, nothing wider than the window."""
    async with reading(browser, guarded) as tab:
        await tab.look(width=width, height=800, dark=dark)
        for one in SERVED:
            await tab.run(f"{part(one.name)}.open = true")
            await tab.until(part(one.name, ".parts"))
        faults = await tab.run((HERE / "readable.js").read_text())
        labelled = f"{shown('input, select, textarea')}.filter(one => !one.labels.length).map(one => one.outerHTML)"
        assert [] == await tab.run(labelled)
        assert [] == [
            fault
            for fault in faults
            if not fault.startswith(("no name: <input", "no name: <select", "no name: <textarea"))
        ]
        assert await tab.run("document.documentElement.scrollWidth <= innerWidth")
        ids = "[...document.querySelectorAll('[id]')].map(one => one.id)"
        assert await tab.run(f"new Set({ids}).size === {ids}.length")


async def test_what_the_server_says_is_text(browser: Chromium, believing: Place) -> None:
    async with reading(browser, believing, "#probe.echo") as tab:
        await fill(tab, "probe.echo", type="group", name="<img/src=x/onerror=alert(1)>", mid="7")
        assert "200" in await send(tab, "probe.echo")
        assert 1 == await tab.run("document.querySelectorAll('img').length"), "that of the page itself"


async def test_it_is_small_and_served_as_strictly_as_the_other_page(believing: Place) -> None:
    told = await believing.get("/docs")
    assert (200, "text/html; charset=utf-8") == (told.status, told.headers["Content-Type"])
    assert "default-src 'self'" in told.headers["Content-Security-Policy"]
    assert PAGE_BYTES_MAX > sum(
        (FOLDER / name).stat().st_size for name in ("docs.html", "docs.js", "docs.css", "elements.js")
    )
    assert "http" not in (FOLDER / "docs.html").read_text().replace("http-equiv", ""), "nothing comes from elsewhere"
