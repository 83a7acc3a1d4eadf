/**
 * One person on the page: the connection, the rooms, the conversation, the box to write in.
 *
 * Everything shown is made from state by `#render`, which runs a moment after the state changed, once for all changes
 * of that moment, and keeps the elements that are right already.
 *
 * A room is *looked at* when it is the one shown, at its end, on a visible page. After an absence it also takes a
 * touch, a key or a turn of the wheel: otherwise what was missed would count as read before anybody saw that it was
 * missed.
 */

import { BODY_BYTES_MAX, Client, Lost, bytesOf } from "./client.js";
import { arrange, label, make, makeButton, paint, setText } from "./elements.js";
import { messageItem, noticeItem, noticeText, textOf } from "./message.js";
import { Room, isMessage } from "./rooms.js";

const PAGE_EVENTS = 50;
const GROUP_MS = 5 * 60_000; // messages of one person within this time stand under one name
const MARK_MS = 1_000;
const LEARN_MS = 3_000;
const ASKING_MAX = 4; // names at once: of a connection the server does 8 such requests, and the page has others
const NEAR_PX = 60;

const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });

export class Panel {
  /**
   * `person` is {mid, name}, `login` is theirs where they have one (login.js), `names` and `store` as page.js has them,
   * `tape` the strip of the log, `first` the room to join when there is none, then those to join in any case, `changed` is
   * called when the count of unread messages may have changed.
   */
  constructor({ person, token, login, url, names, store, tape, first, changed, closed }) {
    Object.assign(this, { person, login, names, store, tape, first, changed });
    this.url = url;
    this.rooms = new Map();
    this.room = null; // the one shown
    this.listed = null; // the one that was last brought into view in the list
    this.connection = { state: "offline" };
    this.isBack = false; // online, and the rooms are known
    this.stick = true; // the end of the messages is in view
    this.onScreen = true;
    this.timer = 0;
    this.items = new Map(); // key -> {element, facts}: the conversation as it is drawn
    this.opened = new Set(); // long messages that are shown whole
    this.met = new Set(); // people whose names were asked for, or will be
    this.unnamed = []; // those of them whose turn has not come
    this.asking = 0; // how many are being asked for
    this.element = document.querySelector("#panel").content.firstElementChild.cloneNode(true);
    this.client = new Client({ url, mid: person.mid || null, key: deviceKey(store), token, login, store });
    this.#label(closed);
    this.#listen();
    for (const message of this.client.unsent) this.#roomOf(message.room).pending.push(message);
  }

  get unread() {
    return [...this.rooms.values()].reduce((sum, room) => sum + room.unread, 0);
  }

  /** Names changed, the window came to the front: draw again. */
  refresh() {
    this.#look();
    this.#draw();
  }

  part(name) {
    return this.element.querySelector(`.${name}`);
  }

  // --- wiring ---

  #label(closed) {
    const { name, mid } = this.person;
    const id = `person-${mid}`;
    this.element.dataset.mid = mid;
    this.element.setAttribute("aria-labelledby", id);
    const title = this.part("name");
    title.id = id;
    title.textContent = name;
    title.title = `member id ${mid}`;
    paint(this.part("avatar"), mid, name);
    this.part("rooms").setAttribute("aria-label", `Rooms of ${name}`);
    this.part("messages").setAttribute("aria-label", `Messages, as ${name} sees them`);
    this.part("text").setAttribute("aria-label", `Message from ${name}`);
    this.part("enter-name").setAttribute("aria-label", `Name of a room for ${name} to join or create`);
    const alone = this.part("window");
    alone.href = `?${new URLSearchParams({ me: mid, name })}`;
    label(alone, `Open ${name} in a window of their own`);
    alone.hidden = !closed;
    label(this.part("close"), `Close the panel of ${name}`);
    this.part("close").hidden = !closed;
    this.part("close").addEventListener("click", () => closed?.(this));
  }

  #listen() {
    const { client } = this;
    const on = (type, act) => client.addEventListener(type, ({ detail }) => {
      act(detail);
      this.#draw();
    });
    on("state", (facts) => {
      if (this.connection.state === "online") for (const room of this.rooms.values()) room.leave();
      this.connection = facts;
      if (facts.state !== "online") this.isBack = false;
    });
    on("online", (session) => this.#arrive(session));
    on("event", (event) => this.#take(event));
    on("sent", ({ id, room, body, time, position, seq }) => {
      const event = { room, seq, position, id, body, time, mid: this.person.mid, type: "message_sent" };
      this.#roomOf(room).take(event);
      this.tape.add(event);
    });
    on("refused", ({ id, room, error }) => {
      const message = this.#roomOf(room).pending.find((pending) => pending.id === id);
      if (message) message.error = error;
    });
    on("removed", (ended) => this.#removed(ended));

    this.part("switch").addEventListener("click", () => {
      if (["offline", "stopped"].includes(this.connection.state)) client.connect();
      else client.disconnect();
    });
    this.part("enter").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#enter(this.part("enter-name").value);
    });
    this.part("leave").addEventListener("click", () => this.#leave());
    this.part("compose").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    const text = this.part("text");
    text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    text.addEventListener("input", () => {
      this.#say("");
      this.#fit();
    });
    const list = this.part("messages");
    list.addEventListener("scroll", () => {
      this.stick = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_PX;
      if (list.scrollTop < NEAR_PX && !this.stick) this.#older();
      this.#look();
      this.#draw();
    });
    this.part("newer").addEventListener("click", () => {
      this.#touch();
      list.scrollTop = list.scrollHeight;
      list.focus();
    });
    for (const type of ["pointerdown", "wheel", "keydown"]) {
      this.part("talk").addEventListener(type, () => this.#touch(), { passive: true });
    }
    new ResizeObserver(() => this.stick && !this.room?.missed && (list.scrollTop = list.scrollHeight)).observe(list);
    new IntersectionObserver(([entry]) => {
      this.onScreen = entry.isIntersecting;
      this.#look();
    }, { threshold: 0.25 }).observe(list);
  }

  #roomOf(name) {
    if (!this.rooms.has(name)) this.rooms.set(name, new Room(name, this.person.mid));
    return this.rooms.get(name);
  }

  // --- what comes ---

  #take(event) {
    this.tape.add(event);
    if (event.type === "read_marked") this.rooms.get(event.body.room)?.readTo(event.body.seq);
    if (!event.room) return;
    const room = this.#roomOf(event.room);
    room.take(event);
    if (!this.isBack) return; // the rooms are not known yet, so neither is what this means
    if (this.room === null && event.type === "member_joined" && event.body.mid === this.person.mid) this.#show(room);
    if (room !== this.room || this.stick) room.trim();
    this.#look();
    if (room === this.room && isMessage(event) && event.mid !== this.person.mid) {
      this.part("spoken").textContent = `${this.names.of(event.mid)}: ${textOf(event).slice(0, 300)}`;
    }
  }

  /** A connection began: learn the rooms, then show one. What was missed is on its way meanwhile. */
  async #arrive(session) {
    this.tape.begin(session.epoch);
    this.person.mid = session.mid; // a token may know better
    if (!session.recovered) for (const room of this.rooms.values()) room.forget();
    for (const connection = this.connection; connection === this.connection && !this.isBack; ) {
      await this.#try(() => this.#learnRooms());
      if (!this.isBack) await new Promise((resolve) => setTimeout(resolve, LEARN_MS));
    }
    await this.#try(() => this.#joinFirst());
    const wanted = this.rooms.get(this.store.get("room")) ?? this.rooms.values().next().value ?? null;
    await this.#show(this.rooms.get(this.room?.name) ?? wanted);
    const { missed, divider } = this.room ?? {};
    if (missed) this.part("spoken").textContent = missedText(divider.count);
    for (const room of this.rooms.values()) this.#mark(room);
  }

  async #learnRooms() {
    const rows = [];
    for (let page = {}; page; ) {
      const reply = await this.client.inbox(page);
      rows.push(...reply.rooms);
      page = reply.next ? { after: reply.next } : null;
    }
    for (const row of rows) this.#roomOf(row.room).takeRow(row);
    const known = new Set(rows.map((row) => row.room));
    for (const room of this.rooms.values()) {
      if (!known.has(room.name) && room.pending.length === 0) this.rooms.delete(room.name);
    }
    this.isBack = true;
    this.#say("");
  }

  /** Who is in no room finds one; and the room that the address names is joined. */
  async #joinFirst() {
    for (const name of this.first) {
      if (this.rooms.has(name) || (name === this.first[0] && this.rooms.size > 0)) continue;
      await this.#join(name).catch((error) => {
        if (error.code !== "no_such_room") throw error; // where rooms are made by backends only
      });
    }
  }

  /** Somebody else ended it: who looks at the room is told, because it is gone from the page. Who left knows. */
  #removed({ room, type, by }) {
    const shown = this.room?.name === room ? this.room.title : null;
    this.#drop(room);
    if (shown === null || type === "member_left") return;
    this.#say(type === "room_dismissed" ? `${shown} was ended.` : `You were taken out of ${shown} by ${this.#nameOf(by)}.`);
  }

  #drop(name) {
    const isShown = this.room?.name === name;
    this.rooms.delete(name);
    if (isShown) this.#show(this.rooms.values().next().value ?? null);
  }

  // --- what the person does ---

  async #enter(text) {
    const name = text.trim();
    if (name === "" || !this.#isOnline("join a room")) return;
    await this.#try(async () => {
      const room = await this.#join(name.includes("://") ? name : `group://${name.replace(/\s+/gu, "-")}`);
      this.part("enter-name").value = "";
      await this.#show(room);
      this.#focus("text");
    });
  }

  async #join(name) {
    const { position, seq, duplicate } = await this.client.join(name).catch((error) => this.#make(name, error));
    const room = this.#roomOf(name);
    if (!duplicate) this.tape.add({ position, room: name, seq, type: "member_joined" });
    room.head = Math.max(room.head, seq);
    return room;
  }

  /** Where a join makes no rooms, who has logged in makes them by asking for it. What cannot be made is what could not be joined. */
  async #make(room, error) {
    if (error.code !== "no_such_room" || !this.login) throw error;
    return this.client.call("rooms.create", { room }).catch(() => {
      throw error;
    });
  }

  async #leave() {
    if (!this.room || !this.#isOnline("leave a room")) return;
    const { name } = this.room;
    await this.#try(async () => {
      const { position, seq } = await this.client.leave(name);
      this.tape.add({ position, room: name, seq, type: "member_left" });
      this.#drop(name);
      this.#focus("enter-name");
    });
  }

  /** Go on typing here, unless somebody has begun to type elsewhere while the server was asked. */
  #focus(name) {
    const focused = document.activeElement;
    if (focused === null || focused === document.body || this.element.contains(focused)) this.part(name).focus();
  }

  /** Make this the room that is shown. */
  async #show(room) {
    if (this.room !== room) {
      if (this.room) this.room.divider = null;
      this.room = room;
      this.stick = true;
      this.items.clear();
      this.part("messages").replaceChildren();
      this.store.set("room", room?.name ?? "");
    }
    this.#draw();
    if (room && !room.loaded) await this.#try(() => this.#load(room, { limit: PAGE_EVENTS }));
    this.#look();
    this.#draw();
  }

  async #older() {
    const { room } = this;
    if (!room?.loaded || !room.more || room.events.length === 0 || this.connection.state !== "online") return;
    await this.#try(() => this.#load(room, { before: room.events[0].seq, limit: PAGE_EVENTS }));
    this.#draw();
  }

  async #load(room, page) {
    if (room.isLoading) return;
    room.isLoading = true;
    try {
      const reply = await this.client.history(room.name, page);
      for (const event of reply.events.slice(-20)) if (!page.before) this.tape.add(event);
      room.takePage(reply, page.before !== undefined);
    } finally {
      room.isLoading = false;
    }
  }

  #send() {
    const box = this.part("text");
    const text = box.value.trim();
    if (text === "" || !this.room) return;
    const over = bytesOf({ text }) - BODY_BYTES_MAX;
    if (over > 0) {
      this.#say(`This is ${over.toLocaleString("en")} bytes longer than a message may be.`);
      return;
    }
    this.#write(this.room, text);
    box.value = "";
    this.#fit();
  }

  #write(room, text) {
    room.look();
    room.divider = null;
    this.#mark(room);
    this.stick = true;
    room.pending.push(this.client.send(room.name, { text }));
    this.#say("");
    this.#draw();
  }

  /** A sign that somebody is there, and looks. */
  #touch() {
    if (!this.room?.missed || !this.isBack) return;
    this.room.look();
    this.#mark(this.room);
    this.#draw();
  }

  #look() {
    const { room } = this;
    if (!room?.loaded || room.missed || room.unread === 0 || !this.isBack) return;
    if (!this.stick || !this.onScreen || document.visibilityState !== "visible") return;
    room.look();
    this.#mark(room);
    this.#draw();
  }

  /** Tell the server how far the person has read, at most once a second for a room. */
  #mark(room) {
    if (room.read <= room.marked || room.timer || this.connection.state !== "online") return;
    const wait = Math.max(0, (room.markedAt ?? 0) + MARK_MS - Date.now());
    room.timer = setTimeout(() => this.#try(async () => {
      room.timer = 0;
      room.markedAt = Date.now();
      room.readTo((await this.client.read(room.name, room.read)).seq);
      this.#mark(room);
    }), wait);
  }

  #isOnline(what) {
    if (this.connection.state === "online") return true;
    this.#say(`${this.person.name} must be online to ${what}.`);
    return false;
  }

  /** What was asked of the server may be refused, which is said, or lost, which the next connection makes good. */
  async #try(act) {
    try {
      await act();
    } catch (error) {
      if (error instanceof Lost) return;
      if (error.name !== "Refused") throw error;
      this.#say(error.message);
    }
  }

  #say(text) {
    this.part("fault").textContent = text;
  }

  #fit() {
    const box = this.part("text");
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight + 2}px`;
  }

  // --- what is drawn ---

  #draw() {
    this.changed();
    this.timer ||= setTimeout(() => {
      this.timer = 0;
      this.#render();
    }, 16);
  }

  #render() {
    this.#renderConnection();
    this.#renderRooms();
    this.#renderTalk();
    this.#renderMessages();
  }

  #renderConnection() {
    const { state, code, text } = this.connection;
    const { name } = this.person;
    const [status, offer, note] = {
      offline: ["Offline", "Come back", `${name} is offline. What is sent to ${name} waits in the log.`],
      connecting: ["Connecting…", "Go offline", ""],
      online: ["Online", "Go offline", ""],
      waiting: ["Reconnecting…", "Go offline", text || `No connection to ${this.url}. It is tried again by itself.`],
      stopped: code === "taken_over"
        ? ["Opened elsewhere", "Use it here", `${name} is connected in another window now.`]
        : ["Disconnected", "Try again", text || "The server ended the connection."],
    }[state];
    this.element.dataset.state = state;
    setText(this.part("status"), status);
    setText(this.part("switch"), offer);
    this.part("switch").setAttribute("aria-label", `${offer}: ${name}`);
    this.part("away").hidden = note === "";
    setText(this.part("away"), note);
  }

  #renderRooms() {
    const list = this.part("room-list");
    const old = new Map([...list.children].map((item) => [item.dataset.room, item]));
    arrange(list, [...this.rooms.values()].map((room) => {
      const item = old.get(room.name) ?? this.#roomItem(room.name);
      const last = room.last;
      setText(item.querySelector(".room-title"), room.title);
      setText(item.querySelector(".room-by"), last ? `${this.#nameOf(last.mid)}: ` : "No messages yet");
      setText(item.querySelector("bdi"), last ? textOf(last).slice(0, 120) : "");
      const badge = item.querySelector(".badge");
      badge.hidden = room.unread === 0;
      setText(badge, room.unread > 999 ? "999+" : String(room.unread));
      const button = item.querySelector("button");
      button.setAttribute("aria-current", String(room === this.room));
      button.setAttribute("aria-label", `${room.title}${room.unread ? `, ${room.unread} unread` : ""}`);
      return item;
    }));
    if (this.listed === this.room) return;
    this.listed = this.room; // another room is shown: have its place in the list in view, without moving the page
    const item = [...list.children].find((other) => other.dataset.room === this.room?.name);
    if (!item) return;
    const nav = this.part("rooms");
    nav.scrollLeft = item.offsetLeft - nav.offsetLeft - NEAR_PX;
    list.scrollTop = item.offsetTop - list.offsetTop - NEAR_PX;
  }

  #roomItem(name) {
    const item = make("li");
    item.dataset.room = name;
    const button = makeButton("room", "", async () => {
      await this.#show(this.rooms.get(name));
      this.#touch();
    });
    button.title = name;
    const last = make("span", "room-last");
    last.append(make("span", "room-by"), make("bdi"));
    button.append(make("span", "room-title"), make("span", "badge"), last);
    item.append(button);
    return item;
  }

  #renderTalk() {
    const { room } = this;
    this.part("room-head").hidden = !room;
    this.part("compose").hidden = !room;
    if (!room) return;
    setText(this.part("room-name"), room.title);
    this.part("room-name").title = room.name;
    setText(this.part("room-facts"), room.name);
    label(this.part("leave"), `Leave ${room.title}`);
  }

  #renderMessages() {
    const list = this.part("messages");
    const { room } = this;
    // Where one reads, the first event in view stays where it is, whatever comes above it.
    const inView = (item) => item.dataset.seq && item.offsetTop + item.offsetHeight > list.scrollTop;
    const anchor = this.stick ? null : [...list.children].find(inView);
    const anchorTop = anchor?.offsetTop ?? 0;
    const hadFocus = list.contains(document.activeElement) ? document.activeElement.closest("li") : null;

    const items = new Map();
    for (const [key, facts, build] of this.#items()) {
      const before = this.items.get(key);
      const now = JSON.stringify(facts);
      items.set(key, before?.facts === now ? before : { element: build(), facts: now, replaces: before?.element });
    }
    this.items = items;
    arrange(list, [...items.values()].map(({ element }) => element));

    const divider = items.get("divider")?.element;
    const end = list.scrollHeight - list.clientHeight;
    if (this.stick) list.scrollTop = room?.missed && divider ? Math.min(end, divider.offsetTop - 8) : end;
    else if (anchor) {
      const now = list.querySelector(`[data-seq="${anchor.dataset.seq}"]`) ?? anchor;
      list.scrollTop += now.offsetTop - anchorTop;
    }
    if (hadFocus && !hadFocus.isConnected) {
      const instead = [...items.values()].find(({ replaces }) => replaces === hadFocus)?.element;
      (instead?.querySelector("button") ?? list).focus({ preventScroll: true });
    }
    const newer = this.part("newer");
    newer.hidden = this.stick;
    setText(newer, room?.unread ? `↓ ${room.unread.toLocaleString("en")} new` : "↓ To the end");
  }

  /** What stands in the conversation: [key, the facts that it is made of, how to make it], in order. */
  *#items() {
    const { room } = this;
    if (!room) {
      if (this.isBack) yield ["nowhere", [], () => make("li", "empty", "In no room yet. Join one by its name.")];
      return;
    }
    const { divider } = room;
    let before = null;
    let today = "";
    let isMissed = false;
    if (room.more) yield ["older", [], () => this.#olderItem()];
    for (const event of room.entries()) {
      const date = day.format(event.time);
      if (date !== today) yield [`day ${date}`, [], () => make("li", "day", date)];
      const isOwn = event.mid === this.person.mid;
      if (divider && !isMissed && event.seq > divider.after && isMessage(event) && !isOwn) {
        isMissed = true;
        before = null;
        yield ["divider", [divider.count], () => make("li", "divider", missedText(divider.count))];
      }
      if (isMessage(event)) {
        const name = this.#nameOf(event.mid);
        const key = event.id ? `${event.mid} ${event.id}` : event.seq;
        const isFirst = date !== today || before?.mid !== event.mid || event.time - before.time > GROUP_MS;
        const look = { isOwn, isFirst, isOpen: this.opened.has(key), state: isOwn ? this.#stateOf(event) : "" };
        const build = () => messageItem({ ...event, name }, look, this.#actsOn(room, event, key));
        yield [key, [look, name, event.seq, event.edited?.position, event.recalled?.position], build];
      } else {
        const text = noticeText(event, (mid) => this.#nameOf(mid));
        yield [event.seq, [text], () => noticeItem(event, text)];
      }
      before = isMessage(event) ? event : null;
      today = date;
    }
    if (room.loaded && !room.last && room.pending.length === 0) {
      yield ["empty", [], () => make("li", "empty", "Nothing said since you joined. Write something.")];
    }
  }

  /** Where people have accounts they have names, too: asked for once, and drawn when they are known. Who has none keeps the number. */
  #meet(mid) {
    if (!this.login || mid <= 0 || this.names.knows(mid) || this.met.has(mid)) return;
    this.met.add(mid);
    this.unnamed.push(mid);
    if (this.asking < ASKING_MAX) this.#askNames();
  }

  async #askNames() {
    this.asking += 1;
    while (this.unnamed.length > 0) {
      const mid = this.unnamed.shift();
      const person = await this.client.call("accounts.profile", { mid }).catch((error) => {
        if (error instanceof Lost) this.met.delete(mid);
        else if (error.retry) setTimeout(() => this.met.delete(mid), LEARN_MS);
      });
      if (person) {
        this.names.learn(mid, person.name);
        this.refresh();
      }
    }
    this.asking -= 1;
  }

  #nameOf(mid) {
    if (mid === this.person.mid) return "You";
    this.#meet(mid);
    return this.names.of(mid);
  }

  #actsOn(room, event, key) {
    return {
      open: () => {
        if (!this.opened.delete(key)) this.opened.add(key);
        this.stick = false;
        this.#draw();
      },
      again: () => {
        room.discard(event.id);
        this.#write(room, textOf(event));
      },
      discard: () => {
        room.discard(event.id);
        this.#draw();
      },
    };
  }

  #stateOf({ seq, position, error }) {
    if (seq) return `sent ✓ at ${position.toLocaleString("en")}`;
    if (error) return `not sent: ${error.message}`;
    return this.connection.state === "online" ? "sending…" : "waiting for the connection";
  }

  #olderItem() {
    const item = make("li", "older");
    item.append(makeButton("button quiet", "Earlier messages", () => {
      this.stick = false;
      this.#older();
    }));
    return item;
  }
}

const missedText = (count) => `${count.toLocaleString("en")} missed while you were away`;

/** The name of this device for this person: the server resumes, and closes a second connection, by it. */
export function deviceKey(store) {
  if (!store.get("key")) store.set("key", `web-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`);
  return store.get("key");
}
