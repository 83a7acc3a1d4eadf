/**
 * The page: who is on it, side by side, and the strip of the log below.
 *
 * `/` shows the people of the last visit (at first Alice and Bob); `/?me=3&name=Carol` shows one person alone, for a
 * window of its own; `&room=team` is the room to join. Where people have no
 * accounts, names are this browser's own.
 */

import { make, setText } from "./elements.js";
import { Login } from "./login.js";
import { Panel, deviceKey } from "./panel.js";
import { Tape } from "./tape.js";

const KNOWN = ["Alice", "Bob", "Carol", "Dave", "Erin", "Frank", "Grace", "Heidi", "Ivan", "Judy"];
const LOBBY = "group://lobby";
const PREFIX = "imcore:";

/** localStorage under a prefix; in a browser that refuses it, memory. */
class Store {
  #prefix; #memory = new Map();

  constructor(prefix) {
    this.#prefix = PREFIX + prefix;
  }

  get(name) {
    if (this.#memory.has(name)) return this.#memory.get(name);
    try {
      return localStorage.getItem(this.#prefix + name) ?? undefined;
    } catch {
      return undefined;
    }
  }

  set(name, value) {
    try {
      localStorage.setItem(this.#prefix + name, value);
      this.#memory.delete(name);
    } catch { // full, or not allowed
      this.#memory.set(name, value);
    }
  }
}

class Names {
  #store = new Store("");
  #known = null; // read when first asked, and again after another window has learnt one

  of(mid) {
    this.#known ??= JSON.parse(this.#store.get("names") || "{}");
    return this.#known[mid] ?? KNOWN[mid - 1] ?? (mid === 0 ? "Server" : `Person ${mid}`);
  }

  knows(mid) {
    return this.of(mid) === this.#known[mid];
  }

  learn(mid, name) {
    if (mid <= 0 || name === this.of(mid)) return;
    this.#known[mid] = name;
    this.#store.set("names", JSON.stringify(this.#known));
  }

  forget() {
    this.#known = null;
  }
}

const find = (id) => document.getElementById(id);
const names = new Names();
const settings = new Store("");
const tape = new Tape(find("tape"), find("log-head"));
const panels = [];

start();

async function start() {
  const config = await configuration();
  if (config === null) {
    find("people").replaceChildren(make("p", "notice", "The server does not answer. Reload the page to ask again."));
    return;
  }
  const query = new URLSearchParams(location.search);
  const alone = member(query.get("me"));
  const url = address(config.ws);
  const isOpen = config.auth === "open";
  const room = query.get("room");
  const first = room ? [LOBBY, room.includes("://") ? room : `group://${room}`] : [LOBBY];

  const add = (mid, { name = names.of(mid), token = "", login = null } = {}) => {
    names.learn(mid, name);
    const store = new Store(`${mid}:`);
    const closed = alone ? null : close;
    const panel = new Panel({ person: { mid, name }, token, login, url, names, store, tape, first, changed, closed });
    panels.push(panel);
    find("people").append(panel.element);
    panel.client.connect();
    remember();
    return panel;
  };
  const close = (panel) => {
    panel.client.disconnect();
    panel.login?.end();
    panels.splice(panels.indexOf(panel), 1);
    panel.element.remove();
    remember();
    find("add").focus();
  };
  const remember = () => {
    if (!alone && isOpen) settings.set("people", JSON.stringify(panels.map((panel) => panel.person.mid)));
    document.body.dataset.people = String(panels.length);
  };

  if (alone) {
    const link = make("a", "", "See two people side by side");
    link.href = ".";
    find("hint").replaceChildren(link);
  }
  find("add").hidden = alone !== null && isOpen;
  find("add").addEventListener("click", async () => {
    if (isOpen) {
      const taken = new Set(panels.map((panel) => panel.person.mid));
      let mid = 1;
      while (taken.has(mid)) mid += 1;
      const panel = add(mid);
      panel.element.scrollIntoView({ block: "nearest", inline: "end" });
      panel.part("text").focus({ preventScroll: true });
    } else {
      const person = await signIn();
      if (person) add(person.mid, person);
    }
  });

  if (!isOpen) find("add").click();
  else if (alone !== null) add(alone, { name: query.get("name")?.trim().slice(0, 40) || names.of(alone) });
  else for (const mid of people()) add(mid);
  // Where a keyboard is at hand, one can write at once; on a phone it would push the page away.
  if (matchMedia("(hover: hover)").matches) panels[0]?.part("text").focus({ preventScroll: true });

  addEventListener("online", () => panels.forEach((panel) => panel.client.nudge()));
  addEventListener("storage", () => {
    names.forget();
    panels.forEach((panel) => panel.refresh());
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState !== "visible") return;
    for (const panel of panels) {
      panel.client.nudge();
      panel.refresh();
    }
  });

  function changed() {
    const unread = panels.reduce((sum, panel) => sum + panel.unread, 0);
    const title = alone ? `${names.of(alone)} – imcore` : "imcore";
    document.title = unread ? `(${unread}) ${title}` : title;
  }
}

async function configuration() {
  try {
    const response = await fetch(new URL("config.json", import.meta.url), { cache: "no-store" });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

/** Where the WebSocket is for this browser: a server that listens everywhere, or for its own machine only, cannot know. */
function address(ws) {
  const [, scheme, host, rest] = /^(wss?:)\/\/(\[[^\]]*\]|[^:/]*)(.*)$/.exec(ws) ?? [];
  if (scheme === undefined) return new URL(ws, location.href.replace(/^http/, "ws")).href;
  const isNowhere = ["", "0.0.0.0", "[::]"].includes(host);
  const isHere = (name) => /^(127\.|localhost$|\[::1\]$)/.test(name);
  const isElsewhere = isHere(host) && !isHere(location.hostname);
  return `${scheme}//${isNowhere || isElsewhere ? location.hostname : host}${rest}`;
}

/** A member id from text; null for what is none. */
function member(text) {
  const mid = Number(text ?? "");
  return Number.isSafeInteger(mid) && mid > 0 ? mid : null;
}

function people() {
  try {
    const mids = JSON.parse(settings.get("people")).filter((mid) => Number.isSafeInteger(mid) && mid > 0);
    if (mids.length > 0) return [...new Set(mids)];
  } catch { // the first visit
  }
  return [1, 2];
}

/** Ask for a name and a password, or a token, until it is good or nobody wants to. The member id is what the server says, or the token. */
function signIn() {
  const dialog = find("sign-in");
  const form = find("sign-in-form");
  const [name, password, token, fault] = ["name", "password", "token", "fault"].map((id) => find(`sign-in-${id}`));
  const enable = (isEnabled) => [...form.elements].forEach((one) => (one.disabled = !isEnabled));
  return new Promise((resolve) => {
    const attempt = new AbortController(); // over with this dialog: what is answered later finds the next one, which it must not touch
    const done = (person) => {
      attempt.abort();
      form.reset();
      form.querySelector("details").open = false;
      setText(fault, "");
      enable(true);
      form.onsubmit = dialog.onclose = null;
      if (dialog.open) dialog.close();
      resolve(person);
    };
    form.onsubmit = async (event) => {
      event.preventDefault();
      const { value: act } = event.submitter;
      if (act === "") return done(null);
      const who = { name: name.value.trim(), token: token.value.trim() };
      if (who.token) return done({ ...who, mid: subject(who.token) });
      enable(false);
      try {
        const key = deviceKey(new Store(`login:${who.name}:`));
        const login = await Login.begin(who.name, password.value, { key, isNew: act === "register", signal: attempt.signal });
        new Store(`${login.mid}:`).set("key", key);
        done({ name: who.name, mid: login.mid, login });
      } catch (error) {
        if (attempt.signal.aborted) return;
        setText(fault, error.message);
        enable(true);
        password.focus();
      }
    };
    // Escape. The event comes a moment later than the end, and may be that of the dialog before.
    dialog.onclose = () => dialog.open || done(null);
    dialog.showModal();
  });
}

function subject(token) {
  try {
    const claims = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    return member(claims.sub ?? claims.mid) ?? 0;
  } catch {
    return 0;
  }
}
