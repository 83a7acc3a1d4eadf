"""The page to try imcore with, in a real Chromium against a real server."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from chromium import Chromium, Json, Tab

from conftest import copy_cluster, temporary_folder
from ports import kept
from serving import PROGRAM, Running, serving
from waiting import eventually

pytest_plugins = ["browsing"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

MIDS = itertools.count(101)
LOBBY, TEAM = "group://lobby", "group://the-team"
HERE = Path(__file__).parent


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def imcore(cluster: Path) -> AsyncIterator[Running]:
    """One server for all tests of the page: each has people of its own, who see what was said since they came."""
    with temporary_folder() as folder:
        async with serving(made_ready(cluster, folder)) as running:
            yield running


@pytest.fixture
def ready(cluster: Path, data_dir: Path) -> Path:
    """A folder for a server of one test."""
    return made_ready(cluster, data_dir)


def made_ready(cluster: Path, folder: Path) -> Path:
    """This folder, with a Postgres that need not be made before a server starts there."""
    (folder / "imcore").mkdir()
    copy_cluster(cluster, folder / "imcore")
    return folder


@asynccontextmanager
async def looking(browser: Chromium, *, complains: bool = False) -> AsyncIterator[Window]:
    """A window whose page has nothing to complain of, unless it is said to. If the block fails, pictures of all windows are kept."""
    before = len(browser.tabs)
    window = Window(await browser.tab())
    try:
        await window.tab.look(width=1280, height=800)
        yield window
        assert complains or [] == window.tab.complaints
    except Exception as error:
        folder = Path(tempfile.mkdtemp(prefix="imcore-page-"))
        for number, tab in enumerate(browser.tabs[before:]):
            await tab.screenshot(folder / f"{number}.png")
        error.add_note(f"What the page complained of: {window.tab.complaints}. Pictures: {folder}")
        raise
    finally:
        browser.tabs.remove(window.tab)
        await window.tab.close()


class Window:
    """What a person does on the page and sees there. People are named by their member ids."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self._url = ""
        self._people: tuple[int, ...] = ()

    async def open(self, imcore: Running) -> tuple[int, int]:
        """Open the page with an Alice and a Bob who were never there before."""
        alice, bob = next(MIDS), next(MIDS)
        kept = {"people": [alice, bob], "names": {alice: "Alice", bob: "Bob"}}
        await self.tab.before_each_page(
            "".join(
                f"localStorage['imcore:{name}'] = JSON.stringify({json.dumps(value)});" for name, value in kept.items()
            )
        )
        await self.go(imcore.page, alice, bob)
        return alice, bob

    async def go(self, url: str, *people: int) -> None:
        """Open this address, and wait until these people are online and in a room."""
        self._url, self._people = url, people
        await self.tab.go(url)
        for mid in people:
            await self.until_online(mid)
            await self.tab.until(part(mid, ".notice, .message"))

    async def reload(self) -> None:
        """Open the page once more, for the same people."""
        await self.go(self._url, *self._people)

    async def until_online(self, mid: int) -> None:
        await self.tab.until(f"{part(mid)}?.dataset.state === 'online'")

    async def until_offline(self, mid: int) -> None:
        await self.tab.until(f"{part(mid)}.dataset.state === 'offline'")

    async def write(self, mid: int, text: str) -> None:
        """Write into the box of this person, and press Enter."""
        await self.tab.click(part(mid, ".text"))
        await self.tab.type(text)
        await self.tab.press("Enter")

    async def until_shown(self, mid: int, *texts: str) -> None:
        """Wait until exactly these messages stand in the conversation of this person."""
        await self.tab.until(f"JSON.stringify({contents(mid)}) === JSON.stringify({json.dumps(texts)})")

    async def until_sent(self, mid: int) -> None:
        """Wait until all that this person wrote is acknowledged."""
        await self.tab.until(f"{part(mid, '.own')} && !{part(mid, '.sending')}")

    async def until_unread(self, mid: int, count: int, room: str = LOBBY) -> None:
        """Wait until so many messages are unread for this person."""
        badge = in_list(mid, room, ".badge")
        await self.tab.until(f"({badge}.hidden ? 0 : Number({badge}.textContent)) === {count}")


def part(mid: int, selector: str = "") -> str:
    """A script for an element in the panel of a person."""
    whole = f".panel[data-mid='{mid}'] {selector}".strip()
    return f"document.querySelector({json.dumps(whole)})"


def in_list(mid: int, room: str, selector: str = "") -> str:
    """A script for an element of a room in the list of a person."""
    return part(mid, f"[data-room='{room}'] {selector}")


def contents(mid: int) -> str:
    """A script for the texts of the messages that a person sees, in order."""
    return f"[...{part(mid, '.messages')}.querySelectorAll('.content')].map(element => element.textContent)"


async def sign_in(window: Window, name: str, password: str, act: str) -> None:
    """Fill in the dialog, and press the button."""
    await window.tab.until("document.querySelector('dialog[open]')")
    for id_, text in (("name", name), ("password", password)):
        await window.tab.run(f"document.querySelector('#sign-in-{id_}').select()")
        await window.tab.type(text)
    await window.tab.click(f"document.querySelector('#sign-in [value={act}]')")


async def member(window: Window, name: str) -> int:
    """The id of who has this name and is online."""
    panels = "[...document.querySelectorAll('.panel[data-state=online]')]"
    found = f"{panels}.find(one => one.querySelector('.name').textContent === {name!r})"
    return int(await window.tab.until(f"{found}?.dataset.mid"))


# The server's answers to logins wait, each until its function in `answers` is called; `isRead` when the page has read one.
SLOW_LOGIN = """
window.answers = [];
const ask = window.fetch;
window.fetch = async (url, ...rest) => {
  const answer = await ask(url, ...rest);
  if (String(url).endsWith("/v1/login")) {
    await new Promise((go) => answers.push(() => [go()]));
    const read = answer.json.bind(answer);
    answer.json = () => read().finally(() => setTimeout(() => (window.isRead = true)));
  }
  return answer;
};
"""

# Of whom the page asks the profile, in `asked`, and with which codes the server refuses, in `refused`.
OVERHEARD = """
[window.asked, window.refused] = [[], []];
window.WebSocket = class extends WebSocket {
  constructor(...where) {
    super(...where);
    this.addEventListener("message", ({ data }) => {
      const told = JSON.parse(data);
      for (const { op, body } of told.op === 9 ? told.body : [told]) {
        const error = op === 20 ? (body?.error ?? body) : body?.error;
        if (error) refused.push(error.code);
      }
    });
  }
  send(text) {
    const { op, body } = JSON.parse(text);
    if (op === 38 && body.verb === "accounts.profile") asked.push(body.args.mid);
    super.send(text);
  }
};
"""

# --- the promises ------------------------------------------------------------------------------------------------------------


async def test_a_first_visitor_finds_two_people_in_a_room(browser: Chromium, imcore: Running) -> None:
    """Nothing has to be set up, and a third is a click away."""
    async with looking(browser) as window:
        await window.tab.before_each_page("localStorage.clear()")
        await window.go(imcore.page, 1, 2)
        assert ["Alice", "Bob"] == await window.tab.run(
            "[...document.querySelectorAll('.panel .name')].map(element => element.textContent)"
        )
        assert ["lobby", "lobby"] == [await window.tab.run(f"{part(mid, '.room-name')}.textContent") for mid in (1, 2)]

        await window.tab.click("document.querySelector('#add')")

        await window.until_online(3)
        await window.tab.until(f"{part(1, '.messages')}.textContent.includes('Carol joined')")


async def test_what_one_writes_both_see(browser: Chromium, imcore: Running) -> None:
    """At once as being sent, then with its place; and the log at the bottom shows it at that position."""
    async with looking(browser) as window:
        alice, bob = await window.open(imcore)

        await window.write(alice, "Hello, Bob")

        await window.until_shown(alice, "Hello, Bob")
        await window.until_shown(bob, "Hello, Bob")
        await window.until_sent(alice)
        state = await window.tab.run(f"{part(alice, '.own .state')}.textContent")
        position = state.removeprefix("sent ✓ at ")
        await window.tab.until(f"document.querySelector('#tape .is-message[data-position=\"{position}\"]')")
        await window.write(bob, "Hello, Alice")
        await window.until_shown(alice, "Hello, Bob", "Hello, Alice")
        by = await window.tab.run(f"{part(alice, '.theirs .by')}.textContent")
        assert "Bob" == by


async def test_who_comes_back_sees_what_was_missed(browser: Chromium, imcore: Running) -> None:
    """The unread count stays until somebody looks; then the server knows it too, also after a reload."""
    async with looking(browser) as window:
        alice, bob = await window.open(imcore)
        await window.write(alice, "before")
        await window.until_shown(bob, "before")
        await window.tab.click(part(bob, ".switch"))
        await window.until_offline(bob)
        for text in ("one", "two", "three"):
            await window.write(alice, text)
        await window.until_sent(alice)
        await window.until_shown(bob, "before")

        await window.tab.click(part(bob, ".switch"))

        await window.until_shown(bob, "before", "one", "two", "three")
        await window.tab.until(f"{part(bob, '.divider')}?.textContent === '3 missed while you were away'")
        first_missed = await window.tab.run(f"{part(bob, '.divider + .message .content')}.textContent")
        assert "one" == first_missed
        await window.until_unread(bob, 3)
        await window.tab.until("document.title === '(3) imcore'")

        await window.tab.click(part(bob, ".messages"))

        await window.tab.until(f"{part(bob, '.badge')}.hidden")
        await until_read(imcore, bob)
        await window.reload()
        await window.until_shown(bob, "before", "one", "two", "three")
        await window.until_unread(bob, 0)
        assert not await window.tab.run(f"Boolean({part(bob, '.divider')})")


async def test_what_is_written_offline_is_sent_once_on_return(browser: Chromium, imcore: Running) -> None:
    """Also by a page that was loaded anew meanwhile: it is kept in the browser until it is acknowledged."""
    async with looking(browser) as window:
        alice, bob = await window.open(imcore)
        await window.tab.click(part(bob, ".switch"))
        await window.until_offline(bob)
        await window.write(bob, "from nowhere")
        await window.tab.until(f"{part(bob, '.sending .state')}?.textContent === 'waiting for the connection'")
        await window.until_shown(alice)

        await window.reload()

        await window.until_shown(alice, "from nowhere")
        await window.until_sent(bob)
        await window.until_shown(bob, "from nowhere")


async def test_a_reload_keeps_what_was_said(browser: Chromium, imcore: Running) -> None:
    async with looking(browser) as window:
        alice, bob = await window.open(imcore)
        await window.write(alice, "first")
        await window.until_shown(bob, "first")
        await window.write(bob, "second")
        await window.until_sent(bob)

        await window.reload()

        await window.until_shown(alice, "first", "second")
        await window.until_shown(bob, "first", "second")


async def test_two_windows_talk_and_a_second_one_of_the_same_person_takes_over(
    browser: Chromium, imcore: Running
) -> None:
    """Where a person was is said, and not fought over: it comes back there only when asked to."""
    carol, dave = next(MIDS), next(MIDS)
    async with looking(browser) as carols, looking(browser) as daves:
        await carols.go(f"{imcore.page}?me={carol}&name=Carol", carol)
        await daves.go(f"{imcore.page}?me={dave}&name=Dave+the+Brave", dave)
        await carols.write(carol, "Hello from my window")
        await daves.until_shown(dave, "Hello from my window")
        await daves.write(dave, "and from mine")
        await carols.until_shown(carol, "Hello from my window", "and from mine")
        await carols.tab.until(f"{part(carol, '.theirs .by')}.textContent === 'Dave the Brave'")

        async with looking(browser) as second:
            await second.go(f"{imcore.page}?me={carol}", carol)
            await second.until_shown(carol, "Hello from my window", "and from mine")
            await carols.tab.until(f"{part(carol)}.dataset.state === 'stopped'")
            assert "Opened elsewhere" == await carols.tab.run(f"{part(carol, '.status')}.textContent")

            await carols.tab.click(part(carol, ".switch"))

            await carols.until_online(carol)
            await second.tab.until(f"{part(carol)}.dataset.state === 'stopped'")


HOSTILE = (
    "<b>bold</b> <script>alert(1)</script> <img src=x onerror=alert(1)> &amp; &lt;",
    "שלום עולם, and مرحبا بالعالم: who is first?",
    "\u202eoverridden\u202c and \u2067isolated\u2069 text",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞",
    "x" * 10_000,
    "https://example.org/" + "a-long-path/" * 40,
    "{{constructor}} ${7*7} %s \\u0041 ' \" ` javascript:alert(1)",
)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
async def test_text_is_text_and_never_overflows(browser: Chromium, imcore: Running, width: int, height: int) -> None:
    async with looking(browser) as window:
        await window.tab.look(width=width, height=height)
        alice, bob = await window.open(imcore)

        for text in HOSTILE:
            await window.write(alice, text)

        await window.until_shown(bob, *HOSTILE)
        await window.until_shown(alice, *HOSTILE)
        assert not await window.tab.run("document.querySelector('.content *')?.outerHTML")
        wide = "[...document.querySelectorAll('body, .panel, .who, .talk, .messages, .bubble, .room, .compose, .log')]"
        assert [] == await window.tab.run(
            f"{wide}.filter(element => element.scrollWidth > element.clientWidth + 1).map(element => element.className)"
        )
        assert await window.tab.run("document.documentElement.scrollWidth <= innerWidth")
        await window.tab.click(f"[...{part(bob, '.messages')}.querySelectorAll('.more')].at(-1)")
        await window.tab.until(f"{part(bob, '.more[aria-expanded=true]')}")


async def test_older_messages_come_on_the_way_up(browser: Chromium, imcore: Running) -> None:
    """A page at a time, in order and without a hole, and what one reads stays where it is."""
    async with looking(browser) as window:
        alice = next(MIDS)
        await window.go(f"{imcore.page}?me={alice}", alice)
        position = await say(imcore, next(MIDS), *(f"number {n}" for n in range(130)))
        # The page has acknowledged the last of them, so none of them will be sent to it again.
        await window.tab.until(f"/\\d+$/.exec(localStorage['imcore:{alice}:cursor']) >= {position}")
        await window.reload()
        await window.tab.until(f"{contents(alice)}.at(-1) === 'number 129'")
        shown = await window.tab.run(contents(alice))
        assert len(shown) < 130

        while shown[0] != "number 0":
            seen = await window.tab.run(f"({part(alice, '.messages')}.scrollTop = 0, {contents(alice)}.length)")
            await window.tab.until(f"{contents(alice)}.length > {seen}")
            assert await window.tab.run(f"{part(alice, '.messages')}.scrollTop > 0")
            shown = await window.tab.run(contents(alice))

        assert [f"number {n}" for n in range(130)] == shown


async def test_what_is_not_stored_is_no_part_of_the_conversation(browser: Chromium, imcore: Running) -> None:
    """A receipt, a signal: they have no place among the events, and nothing waits for what would come before them."""
    async with looking(browser) as window:
        alice, other = next(MIDS), next(MIDS)
        await window.go(f"{imcore.page}?me={alice}", alice)
        position = await say(imcore, other, "before")
        await window.until_shown(alice, "before")
        await window.tab.until(f"/\\d+$/.exec(localStorage['imcore:{alice}:cursor']) >= {position}")
        await window.reload()
        await window.until_online(alice)
        await window.until_shown(alice, "before")
        await window.tab.run("window.passed = []")

        async with connected(imcore, other) as socket, connected(imcore, alice) as phone:
            row = next(row for row in (await ask(socket, 32, {}))["rooms"] if row["room"] == LOBBY)
            await ask(socket, 28, {"room": LOBBY, "seq": row["head"]})
            await ask(
                socket, 38, {"verb": "rooms.signal", "args": {"room": LOBBY, "type": "cursor", "body": {"line": 7}}}
            )
            await until_heard(phone, "receipt", "signal:cursor")
            await ask(socket, 4, {"room": LOBBY, "id": str(uuid.uuid4()), "body": {"text": "after"}})

        await window.until_shown(alice, "before", "after")
        assert not await window.tab.run(f"{part(alice, '.messages')}.textContent.includes('#0')")


async def test_rooms_are_made_by_name_and_count_what_is_unread(browser: Chromium, imcore: Running) -> None:
    async with looking(browser) as window:
        alice, bob = await window.open(imcore)
        for mid in (alice, bob):
            await window.tab.click(part(mid, ".enter-name"))
            await window.tab.type("the team")
            await window.tab.press("Enter")
            await window.tab.until(f"{part(mid, '.room-name')}.textContent === 'the-team'")
        await window.tab.click(in_list(bob, LOBBY, "button"))
        await window.tab.until(f"{part(bob, '.room-name')}.textContent === 'lobby'")

        await window.write(alice, "only for the team")

        await window.until_unread(bob, 1, TEAM)
        await window.until_unread(bob, 0, LOBBY)
        await window.tab.click(in_list(bob, TEAM, "button"))
        await window.until_shown(bob, "only for the team")
        await window.tab.until(f"{in_list(bob, TEAM, '.badge')}.hidden")

        await window.tab.click(part(bob, ".leave"))

        await window.tab.until(f"!{in_list(bob, TEAM)}")
        await window.tab.until(f"{part(alice, '.messages')}.textContent.includes('Bob left')")


async def test_what_happens_in_a_room_is_said_in_words_and_its_end_too(browser: Chromium, imcore: Running) -> None:
    """No name of a type stands there, and who is taken out, or whose room ends, is told so instead of an empty page."""
    async with looking(browser) as window:
        alice, owner, team = next(MIDS), next(MIDS), "group://talk"
        await window.go(f"{imcore.page}?me={alice}", alice)
        async with connected(imcore, owner) as socket:

            async def call(verb: str, **args: object) -> None:
                told = await ask(socket, 38, {"verb": verb, "args": {"room": team, **args}})
                assert "answer" in told, told

            for room in (team, f"{team}-2"):
                made = {"room": room, "members": [alice], "title": "t"}
                assert "answer" in await ask(socket, 38, {"verb": "rooms.create", "args": made})
            await window.tab.click(in_list(alice, team, "button"))
            await window.tab.until(f"{part(alice, '.room-name')}.textContent === 'talk'")
            sent = await ask(socket, 4, {"room": team, "id": str(uuid.uuid4()), "body": {"text": "hello"}})
            await call("rooms.change", topic="x", slow_mode_s=5)
            await call("rooms.mute_all", until_ms=10**15)
            await call("reactions.add", seq=sent["seq"], reaction="👍")
            await call("pins.add", seq=sent["seq"])
            await call("rooms.ban", mid=999)

            for words in (
                "changed the topic, how often one writes", "muted everybody", f"reacted to #{sent['seq']} with 👍",
                f"pinned #{sent['seq']}", "banned",
            ):  # fmt: skip
                await window.tab.until(f"{part(alice, '.messages')}.textContent.includes({words!r})")
            said = await window.tab.run(f"{part(alice, '.messages')}.textContent")
            assert not re.search("room_|member_|message_|reaction_", said), said

            await call("rooms.kick", mid=alice)
            await window.tab.until(f"{part(alice, '.fault')}.textContent.includes('You were taken out of talk by')")
            await window.tab.click(in_list(alice, f"{team}-2", "button"))
            await window.tab.until(f"{part(alice, '.room-name')}.textContent === 'talk-2'")
            assert "answer" in await ask(socket, 38, {"verb": "rooms.dismiss", "args": {"room": f"{team}-2"}})
            await window.tab.until(f"{part(alice, '.fault')}.textContent === 'talk-2 was ended.'")


async def test_a_server_that_comes_back_is_found_again(browser: Chromium, ready: Path) -> None:
    """What was written meanwhile arrives once, and nobody has to press anything."""
    with kept(3) as places:
        async with looking(browser, complains=True) as window:
            async with serving(ready, at=places) as imcore:
                alice, bob = await window.open(imcore)
                await window.write(alice, "before")
                await window.until_shown(bob, "before")
            await window.tab.until(f"{part(alice)}.dataset.state === 'waiting'")
            await window.write(alice, "into the void")
            await window.until_shown(alice, "before", "into the void")

            async with serving(ready, at=places):
                await window.until_online(alice)
                await window.until_online(bob)

                await window.until_sent(alice)
                await window.until_shown(bob, "before", "into the void")
                await window.until_shown(alice, "before", "into the void")


async def test_what_is_read_elsewhere_is_read_here(browser: Chromium, imcore: Running) -> None:
    """The mark is the person's, not the device's."""
    async with looking(browser) as window:
        alice, bob = await window.open(imcore)
        await window.tab.click(part(bob, ".switch"))
        await window.until_offline(bob)
        await window.write(alice, "news")
        await window.until_sent(alice)
        await window.tab.click(part(bob, ".switch"))
        await window.tab.until(part(bob, ".divider"))
        await window.until_unread(bob, 1)

        async with connected(imcore, bob) as phone:
            (row,) = (await ask(phone, 32, {}))["rooms"]
            await ask(phone, 28, {"room": LOBBY, "seq": row["head"]})

        await window.tab.until(f"{in_list(bob, LOBBY, '.badge')}.hidden")


async def test_a_message_reads_as_it_was_edited_and_not_at_all_when_it_was_taken_back(
    browser: Chromium, imcore: Running
) -> None:
    """At once, and after a reload, when the history has it so."""
    async with looking(browser) as window:
        alice, bob = await window.open(imcore)
        await window.write(alice, "frist")
        await window.until_shown(bob, "frist")
        seq = int(await window.tab.run(f"{part(bob, '.message')}.dataset.seq"))
        async with connected(imcore, alice) as phone:
            await ask(phone, 38, {"verb": "messages.edit", "args": {"room": LOBBY, "seq": seq, "body": "first"}})
            await window.until_shown(bob, "first")
            await window.reload()
            await window.until_shown(bob, "first")
            await ask(phone, 38, {"verb": "messages.recall", "args": {"room": LOBBY, "seq": seq}})
        await window.until_shown(bob, "(taken back)")
        await window.until_shown(alice, "(taken back)")
        await window.reload()
        await window.until_shown(bob, "(taken back)")


async def test_a_server_that_wants_tokens_is_given_one(browser: Chromium, ready: Path) -> None:
    """And who has a wrong one is told so."""
    async with looking(browser) as window, serving(ready, "--auth", "jwt") as imcore:
        await window.tab.go(imcore.page)
        for name, token in (("Grace", await token_of(7, ready)), ("Mallory", "not.a.token")):
            await window.tab.until("document.querySelector('dialog[open]')")
            await window.tab.click("document.querySelector('#sign-in-name')")
            await window.tab.type(name)
            await window.tab.click("document.querySelector('#sign-in summary')")
            await window.tab.click("document.querySelector('#sign-in-token')")
            await window.tab.type(token)
            await window.tab.click("document.querySelector('#sign-in .main')")
            await window.tab.until(f"[...document.querySelectorAll('.name')].at(-1)?.textContent === '{name}'")
            await window.tab.click("document.querySelector('#add')")

        await window.until_online(7)
        await window.tab.until(f"{part(7, '.empty')}?.textContent.startsWith('In no room yet')")
        await window.tab.until(f"{part(0)}.dataset.state === 'stopped'")
        assert "token" in await window.tab.run(f"{part(0, '.away')}.textContent")


async def test_people_register_log_in_and_talk(browser: Chromium, ready: Path) -> None:
    """Where nobody is believed, with nothing but the page: the first makes the room that the second comes into."""

    async with looking(browser, complains=True) as window, serving(ready, "--auth", "jwt") as imcore:
        await window.tab.go(imcore.page)
        await sign_in(window, "grace", "correct horse", "login")
        await window.tab.until("document.querySelector('#sign-in-fault').textContent")
        await sign_in(window, "grace", "correct horse battery", "register")
        grace = await member(window, "grace")
        await window.tab.until(part(grace, f"[data-room='{LOBBY}']"))
        await window.tab.click("document.querySelector('#add')")
        await sign_in(window, "heidi", "battery staple horse", "register")
        heidi = await member(window, "heidi")
        await window.tab.until(part(heidi, ".notice"))
        await window.write(grace, "hello")
        await window.until_shown(heidi, "hello")
        await window.write(heidi, "hello yourself")
        await window.until_shown(grace, "hello", "hello yourself")
        complaints = [one for one in window.tab.complaints if "401" not in one]
        assert [] == complaints

        await window.tab.go(imcore.page)
        await window.tab.until("document.querySelector('dialog[open]')")
        await window.tab.run("localStorage.clear()")  # as in a browser of another person: it knows nobody's name
        await window.tab.go(imcore.page)
        await sign_in(window, "grace", "correct horse battery", "login")
        assert grace == await member(window, "grace")
        await window.until_shown(grace, "hello", "hello yourself")
        await window.tab.until(f"{part(grace, '.messages')}.innerText.includes('heidi')")


@pytest.mark.parametrize("password", ["correct horse battery", "wrong horse"])
async def test_who_gives_a_login_up_is_not_logged_in(browser: Chromium, ready: Path, password: str) -> None:
    """Escape while the server looks: what it says comes too late, and touches nothing of the next one who logs in."""
    async with looking(browser, complains=True) as window, serving(ready, "--auth", "jwt") as imcore:
        await register(imcore, "grace", "heidi")
        await window.tab.before_each_page(SLOW_LOGIN)
        await window.tab.go(imcore.page)
        await sign_in(window, "grace", password, "login")
        await window.tab.until("window.answers.length")
        await window.tab.press("Escape")
        await window.tab.until("!document.querySelector('dialog[open]')")
        await window.tab.click("document.querySelector('#add')")
        await window.tab.until("document.querySelector('dialog[open]')")
        form = "document.querySelector('#sign-in-form')"
        assert await window.tab.run(f"[...{form}.elements].every(one => !one.disabled)")

        await window.tab.run("window.answers.pop()() && null")
        await window.tab.until("window.isRead")
        await until_only_here(imcore, "grace")
        assert "" == await window.tab.run("document.querySelector('#sign-in-fault').textContent")
        await sign_in(window, "heidi", "correct horse battery", "login")
        await window.tab.until("window.answers.length")
        await window.tab.run("window.answers.pop()() && null")
        await member(window, "heidi")
        assert 1 == await window.tab.run("document.querySelectorAll('.panel').length")


@pytest.mark.parametrize("lives_s", [0, 900], ids=["its time is over", "the server took it back"])
async def test_who_logs_out_is_logged_out_with_whatever_token(browser: Chromium, ready: Path, lives_s: int) -> None:
    """Also after a night asleep, when the token that is at hand is none any more."""
    async with looking(browser, complains=True) as window, serving(ready, "--auth", "jwt") as imcore:
        await register(imcore, "grace")
        told = await log_in(imcore, "grace", key="laptop")
        await window.tab.go(imcore.page)
        await window.tab.until("document.querySelector('dialog[open]')")
        at_hand = json.dumps({**told, "token": "none.any.more", "expires_in_s": lives_s})

        await window.tab.run(f"import('/page/login.js').then(({{ Login }}) => new Login({at_hand}).end())")

        await until_only_here(imcore, "grace")


async def test_names_are_asked_for_once_also_of_people_without_any(browser: Chromium, ready: Path) -> None:
    """As where a backend of one's own makes the tokens: the server is not asked again with each message that comes."""
    authors = list(range(901, 913))
    async with (
        looking(browser) as window,
        serving(ready, "--auth", "jwt") as imcore,
        aiohttp.ClientSession(f"http://{imcore.http}", raise_for_status=True) as service,
    ):
        service.headers["Authorization"] = f"Bearer {await token_of('--service', ready)}"

        async def say_as(mid: int, text: str) -> None:
            message = {"mid": mid, "id": str(uuid.uuid4()), "body": {"text": text}}
            async with service.post("/v1/rooms/group/lobby/messages", json=message):
                pass

        async with service.post("/v1/rooms", json={"room": LOBBY, "members": authors}):
            pass
        await register(imcore, "grace")
        await window.tab.before_each_page(OVERHEARD)
        await window.tab.go(imcore.page)
        await sign_in(window, "grace", "correct horse battery", "login")
        grace = await member(window, "grace")
        await window.tab.until(part(grace, ".notice"))

        for mid in authors:
            await say_as(mid, "hello")
        await window.until_shown(grace, *("hello" for _ in authors))
        await window.tab.until(f"window.refused.length >= {len(authors)}")
        for text in ("one", "two", "three"):
            await say_as(authors[0], text)
            await window.tab.until(f"{contents(grace)}.at(-1) === {text!r}")
        await window.write(grace, "bye")
        await window.until_sent(grace)

        assert authors == sorted(await window.tab.run("window.asked"))
        assert ["no_such_account"] * len(authors) == await window.tab.run("window.refused")


async def test_a_keyboard_is_enough(browser: Chromium, imcore: Running) -> None:
    """Everything is reached with Tab, in the order in which it stands, and does what Enter says."""
    async with looking(browser) as window:
        alice = next(MIDS)
        await window.go(f"{imcore.page}?me={alice}", alice)
        await window.tab.run("document.activeElement.blur()")
        reached = []
        for _ in range(20):
            await window.tab.press("Tab")
            reached.append(await window.tab.run("document.activeElement.className.split(' ')[0]"))
            if reached[-1] == "text":
                break
        assert ["switch", "room", "enter-name"] == [
            name for name in reached if name in ("switch", "room", "enter-name")
        ]

        await window.tab.type("typed")
        await window.tab.press("Enter", shift=True)
        await window.tab.type("in two lines")
        await window.tab.press("Enter")

        await window.until_shown(alice, "typed\nin two lines")
        await window.until_sent(alice)
        await window.tab.run(f"{part(alice, '.switch')}.focus()")
        await window.tab.press("Enter")
        await window.until_offline(alice)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_text_is_readable(browser: Chromium, imcore: Running, dark: bool) -> None:
    """WCAG AA: 4.5 to 1, for every text on the page, whatever the colour scheme; and every control has a name."""
    async with looking(browser) as window:
        await window.tab.look(width=1280, height=800, dark=dark)
        alice, bob = await window.open(imcore)
        await window.write(alice, "Can you read this?")
        await window.until_shown(bob, "Can you read this?")
        await window.tab.click(part(bob, ".switch"))
        await window.until_offline(bob)
        await window.write(alice, "and this?")
        await window.write(bob, "not yet")
        await window.tab.until(part(bob, ".sending"))

        faults = await window.tab.run((HERE / "readable.js").read_text())

        assert [] == faults


async def test_the_page_asks_nobody_else(imcore: Running) -> None:
    """It is there without the internet, and tells the browser to hold it to that."""
    async with aiohttp.ClientSession() as http:
        for path in ("", "page/page.css", "page/page.js", "page/client.js", "page/icon.svg"):
            async with http.get(imcore.page + path) as response:
                assert 200 == response.status, path
                text = await response.text()
                policy = response.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'self'; connect-src 'self' ws: wss:")
                assert "unsafe" not in policy
                assert "nosniff" == response.headers["X-Content-Type-Options"]
                assert [] == re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S*", text)
        async with http.get(imcore.page + "page/config.json") as response:
            config = await response.json()
        assert {"ws", "auth", "version"} <= config.keys()


# --- another client ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(imcore: Running, mid: int) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A client of our own, as this person."""
    async with aiohttp.ClientSession() as http, http.ws_connect(f"ws://{imcore.ws}/ws") as socket:
        await ask(socket, 7, {"mid": mid, "key": f"test-{uuid.uuid4()}"})
        yield socket


async def ask(socket: aiohttp.ClientWebSocketResponse, op: int, body: Json) -> Json:
    """The reply to one request, which is asked again while the server says that it may succeed later."""
    while True:
        await socket.send_json({"op": op, "seq": 1, "body": body})
        while (packet := await socket.receive_json(timeout=60))["op"] != op + 1:
            pass
        reply: Json = packet["body"]
        if not reply.get("error", {}).get("retry"):
            return reply


async def until_heard(socket: aiohttp.ClientWebSocketResponse, *types: str) -> None:
    """Wait until an event of each of these types has come."""
    awaited = set(types)
    while awaited:
        packet = await socket.receive_json(timeout=60)
        for each in packet["body"] if packet["op"] == 9 else [packet]:
            awaited -= {each["body"]["type"]} if each["op"] == 21 else set()


async def register(imcore: Running, *logins: str) -> None:
    """Accounts with these names."""
    async with aiohttp.ClientSession(f"http://{imcore.http}", raise_for_status=True) as http:
        for login in logins:
            async with http.post("/v1/accounts", json={"login": login, "password": "correct horse battery"}):
                pass


async def log_in(imcore: Running, login: str, *, key: str) -> Json:
    """What the server says to somebody who logs in on another device."""
    async with aiohttp.ClientSession(f"http://{imcore.http}", raise_for_status=True) as http:
        who = {"login": login, "password": "correct horse battery", "key": key}
        async with http.post("/v1/login", json=who) as answer:
            told: Json = await answer.json()
            return told


async def until_only_here(imcore: Running, login: str) -> None:
    """Wait until no device of this person is logged in but that which asks."""
    token = (await log_in(imcore, login, key="here"))["token"]
    async with aiohttp.ClientSession(f"http://{imcore.http}", raise_for_status=True) as http:

        async def is_so() -> bool:
            async with http.get("/v1/devices", headers={"Authorization": f"Bearer {token}"}) as answer:
                return {"here"} == {one["key"] for one in (await answer.json())["devices"]}

        await eventually(is_so)


async def token_of(who: int | str, data_dir: Path) -> str:
    """A token for this person, or for a service ("--service"), from the server's own hand."""
    process = await asyncio.create_subprocess_exec(
        *(*PROGRAM, "token", str(who), "--data", str(data_dir / "imcore")), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert 0 == process.returncode
    return printed.decode().strip()


async def until_read(imcore: Running, mid: int) -> None:
    """Wait until the server holds nothing unread for this person."""
    async with connected(imcore, mid) as socket:

        async def is_read() -> bool:
            return not any(row["unread"] for row in (await ask(socket, 32, {}))["rooms"])

        await eventually(is_read)


async def say(imcore: Running, mid: int, *texts: str) -> int:
    """Join the lobby and send these messages; returns the position of the last."""
    async with connected(imcore, mid) as socket:
        await ask(socket, 22, {"room": LOBBY})
        for text in texts:
            sent = await ask(socket, 4, {"room": LOBBY, "id": str(uuid.uuid4()), "body": {"text": text}})
        return int(sent["position"])
