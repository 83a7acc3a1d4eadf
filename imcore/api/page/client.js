/**
 * A client of imcore's JSON protocol: one WebSocket, one packet object a text frame (docs/protocol.md).
 *
 * What it promises to the program above it:
 *
 * - `event` comes once for each (room, seq), in the order of seq, with nothing left out. What arrives twice is
 *   dropped; what is missing for longer than GAP_MS is fetched.
 * - A message given to `send` is kept until the server has stored it or refused it for good. It is sent again after a
 *   lost connection, under the same id, so it is stored once. Messages leave in the order in which they were given.
 * - The cursor, the unsent messages and nothing else are kept in `store`; with them the next page goes on where this
 *   one ended.
 *
 * The trap: a reply to a send may overtake the events before it. So only positions that came as events are
 * acknowledged, and an own message takes its place among the others before what follows it is handed on.
 */

export const Op = Object.freeze({
  HEARTBEAT: 2, SEND: 4, DISCONNECT: 6, AUTH: 7, BATCH: 9, ERROR: 20, EVENT: 21, JOIN: 22, LEAVE: 24, HISTORY: 26,
  READ: 28, MEMBERS: 30, INBOX: 32, ACK: 34, REMOVED: 36, CALL: 38,
});

export const BODY_BYTES_MAX = 16_384; // of a message, as JSON text

const ANSWER_MS = 15_000; // a connection that answers nothing for so long is given up
const ACK_MS = 1_000;
const GAP_MS = 1_000;
const BACKOFF_MS = 500; // doubles with each failure, up to:
const BACKOFF_MAX_MS = 20_000;
const RENEW_MS = 5_000; // between two tries to stay with a fresh token
const STEADY_MS = 5_000; // a connection that lived for so long ends the doubling
const PAGE_EVENTS = 500;
const TRIES = 5;

const NOTHING_DONE = new Set(["rate_limited", "overloaded"]); // what says that, and to come later

// Coming back would end the same way. The server says so itself (operation 6); the code is for when that was lost.
const FINAL_CLOSES = new Map([
  [1002, "protocol_error"], [1003, "unsupported"], [1007, "invalid_text"], [4400, "bad_packet"],
  [4401, "unauthenticated"], [4403, "bad_order"], [4409, "taken_over"], [4410, "displaced"], [4413, "packet_too_large"],
]);

/** The server said no. `retry`: the same request may succeed later. */
export class Refused extends Error {
  constructor({ code = "unknown", text = "", retry = false, retry_after_ms = 0 }) {
    super(text || code);
    Object.assign(this, { name: "Refused", code, retry, retryAfterMs: retry_after_ms });
  }
}

/** The connection ended before the answer came; whether the request was carried out is unknown. */
export class Lost extends Error {
  name = "Lost";
  message = "the connection was lost";
}

/**
 * Events: `state` {state, code, text, retryAt}, `online` {…the auth reply}, `event` {…envelope}, `sent` {id, room,
 * body, time, position, seq}, `refused` {id, room, body, time, error}, `removed` {room, position, type, by}, `passing`
 * {…envelope of what is not stored, and has no place in the order: a push, presence, typing, a receipt, a signal};
 * the facts are in `detail`.
 *
 * States: `offline` (nobody wants a connection), `connecting`, `online`, `waiting` (to try again at `retryAt`),
 * `stopped` (trying again is pointless: `code` says why, "taken_over" above all).
 */
export class Client extends EventTarget {
  state = "offline";
  #url; #who; #store; #login;
  #socket = null;
  #wanted = false;
  #failures = 0;
  #farewell = null; // what the server gave as its reason to end the connection
  #timers = new Map(); // by name, so that none runs twice and all end with the connection
  #seq = 0;
  #asked = new Map(); // seq of a request -> what to call with (reply, error)
  #rooms = new Map(); // room -> {next: the seq that comes next, ahead: seq -> envelope, null for an own message}
  #arrived = 0; // the last position that came as an event
  #acked = 0;
  #outbox;
  #sending = false;

  /**
   * `store` has `get(name)` and `set(name, value)` for strings: a Map, or something that lasts. `login` gives tokens in place of `token`,
   * as login.js has it, so that the connection outlives each of them.
   */
  constructor({ url, mid, key, token = "", login = null, platform = "web", store = new Map() }) {
    super();
    this.#login = login;
    this.#url = url;
    this.#who = { mid, key, token, platform, room_id: "" };
    this.#store = store;
    this.#outbox = JSON.parse(store.get("outbox") || "[]");
  }

  /** Messages that are not acknowledged yet, oldest first: {id, room, body, time}. */
  get unsent() {
    return [...this.#outbox];
  }

  connect() {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#failures = 0;
    this.#open();
  }

  disconnect() {
    this.#wanted = false;
    if (this.state === "online") this.#acknowledge();
    this.#hangUp();
    this.#become("offline");
  }

  /** The network is back, or the page is: don't wait any longer, and find out whether the connection still lives. */
  nudge() {
    if (this.state === "waiting") this.#open();
    else if (this.state === "online") this.#ask(Op.HEARTBEAT, null, () => {});
  }

  /** Keep a message until it is stored, also over a reload. Returns {id, room, body, time}; `sent` or `refused` follows. */
  send(room, body) {
    body = storable(body);
    const bytes = bytesOf(body);
    if (bytes > BODY_BYTES_MAX) throw new RangeError(`the body is ${bytes} bytes long, ${BODY_BYTES_MAX} is the limit`);
    const message = { id: uuid(), room, body, time: Date.now() };
    this.#outbox.push(message);
    this.#keepOutbox();
    this.#pump();
    return message;
  }

  async join(room) {
    const reply = await this.#request(Op.JOIN, { room });
    if (!reply.duplicate && !this.#rooms.has(room)) this.#rooms.set(room, { next: reply.seq + 1, ahead: new Map() });
    return reply;
  }

  leave = (room) => this.#request(Op.LEAVE, { room });
  history = (room, page = {}) => this.#request(Op.HISTORY, { room, ...page });
  read = (room, seq) => this.#request(Op.READ, { room, seq });
  members = (room, page = {}) => this.#request(Op.MEMBERS, { room, ...page });
  inbox = (page = {}) => this.#request(Op.INBOX, page);

  /**
   * A verb by its name, such as "rooms.create"; resolves with its answer. It is asked again only where nothing was done: after
   * `Lost`, or `unavailable`, nobody knows whether it was carried out.
   */
  call = async (verb, args = {}) => (await this.#request(Op.CALL, { verb, args })).answer;

  // --- the connection ---

  #open() {
    this.#hangUp();
    this.#become("connecting");
    this.#farewell = null;
    let socket;
    try {
      socket = new WebSocket(this.#url);
    } catch (error) { // not an address, or ws: from a page of https:
      this.#wanted = false;
      this.#become("stopped", { code: "bad_address", text: error.message });
      return;
    }
    this.#socket = socket;
    this.#expectAnswer();
    socket.onopen = () => this.#authenticate();
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data), socket);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
  }

  #authenticate() {
    if (!this.#login) {
      this.#introduce(this.#who.token);
      return;
    }
    const socket = this.#socket;
    const here = (act) => (value) => socket === this.#socket && act(value);
    this.#login.token().then(here((token) => this.#introduce(token)), here((error) => {
      this.#farewell = error;
      this.#lost();
    }));
  }

  #introduce(token) {
    const auth = { ...this.#who, token, cursor: this.#store.get("cursor") ?? null };
    this.#ask(Op.AUTH, auth, (session, error) => {
      if (error instanceof Lost) return;
      if (error) {
        this.#farewell = error;
        this.#lost();
      } else this.#opened(session);
    });
  }

  #opened(session) {
    if (!session.recovered) { // the program above reads the history again
      this.#rooms.clear();
      this.#arrived = this.#acked = session.position;
    }
    this.#store.set("cursor", session.cursor); // where the server goes on; what lies after it is on its way
    this.#after("steady", STEADY_MS, () => (this.#failures = 0));
    this.#beat((session.heartbeat_s || 240) * 1000);
    if (this.#login) this.#renew(this.#login.leftMs);
    for (const room of this.#rooms.keys()) this.#drain(room);
    this.#become("online");
    this.#emit("online", session);
    this.#pump();
  }

  #beat(ms) {
    this.#after("heartbeat", ms, () => this.#ask(Op.HEARTBEAT, null, () => this.#beat(ms)));
  }

  /** Before the token ends that the connection began with. Without success the server ends it, and the way back has a fresh one. */
  #renew(ms) {
    this.#after("renew", ms, () => {
      this.#login.token().then((token) => this.call("account.renew", { token })).catch(() => {})
        .then(() => this.state === "online" && this.#renew(Math.max(this.#login.leftMs, RENEW_MS)));
    });
  }

  #lost(code = 0, reason = "") {
    const why = this.#farewell ?? { code: FINAL_CLOSES.get(code) ?? "", text: reason, retry: !FINAL_CLOSES.has(code) };
    this.#hangUp();
    if (!this.#wanted) return;
    // Of a login only the refusal of a fresh token is final, and that is said over HTTP.
    const isStale = why.code === "unauthenticated" && this.#login?.leftMs > 0;
    if (isStale) this.#login.refused();
    if (why.retry === false && !isStale) {
      this.#wanted = false;
      this.#become("stopped", { code: why.code, text: why.text || why.message });
      return;
    }
    // Half of it is chance, so that clients which lost the same server do not come back in step.
    const backoff = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** this.#failures++);
    const delay = (why.delay_ms ?? why.retryAfterMs ?? 0) + backoff * (0.5 + Math.random() / 2);
    this.#after("retry", delay, () => this.#open());
    this.#become("waiting", { retryAt: Date.now() + delay, code: why.code, text: why.text || why.message });
  }

  #hangUp() {
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    this.#sending = false;
    const asked = [...this.#asked.values()];
    this.#asked.clear();
    for (const answer of asked) answer(null, new Lost());
  }

  // --- packets ---

  #receive({ op, seq, body }, socket) {
    if (socket !== this.#socket) return; // an earlier packet of this frame ended the connection
    switch (op) {
      case Op.BATCH:
        for (const packet of body) this.#receive(packet, socket);
        break;
      case Op.EVENT:
        this.#take(body);
        break;
      case Op.REMOVED:
        this.#rooms.delete(body.room);
        this.#emit("removed", body);
        break;
      case Op.DISCONNECT:
        this.#farewell = body;
        break;
      default: {
        const answer = this.#asked.get(seq);
        this.#asked.delete(seq);
        this.#cancel("answer");
        if (this.#asked.size > 0) this.#expectAnswer();
        const error = op === Op.ERROR ? (body?.error ?? body) : body?.error;
        answer?.(body, error ? new Refused(error) : null);
      }
    }
  }

  #ask(op, body, answer) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return answer(null, new Lost());
    this.#seq = (this.#seq % 0x7fffffff) + 1;
    this.#asked.set(this.#seq, answer);
    if (!this.#timers.has("answer")) this.#expectAnswer();
    this.#socket.send(JSON.stringify({ op, seq: this.#seq, body }));
  }

  #expectAnswer() {
    this.#after("answer", ANSWER_MS, () => this.#lost());
  }

  /** A request other than a send: asked again if the server says "later", given up with the connection. */
  async #request(op, body) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await new Promise((resolve, reject) => {
          if (this.state !== "online") reject(new Lost());
          else this.#ask(op, body, (reply, error) => (error ? reject(error) : resolve(reply)));
        });
      } catch (error) {
        const again = op === Op.CALL ? NOTHING_DONE.has(error.code) : error.retry;
        if (!again || tries === TRIES) throw error;
        await new Promise((resolve) => setTimeout(resolve, laterMs(error)));
      }
    }
  }

  // --- events, in order ---

  #take(envelope) {
    if (envelope.seq === 0) { // it has no place in any order, and nothing to acknowledge
      this.#emit("passing", envelope);
      return;
    }
    this.#arrived = Math.max(this.#arrived, envelope.position);
    if (envelope.room) this.#place(envelope.room, envelope.seq, envelope);
    else this.#emit("event", envelope);
    if (!this.#timers.has("ack")) this.#after("ack", ACK_MS, () => this.#acknowledge());
  }

  #place(room, seq, envelope) {
    if (!this.#rooms.has(room)) this.#rooms.set(room, { next: seq, ahead: new Map() });
    const { next, ahead } = this.#rooms.get(room);
    if (seq >= next && !ahead.has(seq)) ahead.set(seq, envelope);
    this.#drain(room);
  }

  #drain(room) {
    const feed = this.#rooms.get(room);
    while (feed.ahead.has(feed.next)) {
      const envelope = feed.ahead.get(feed.next);
      feed.ahead.delete(feed.next++);
      if (envelope) this.#emit("event", envelope);
    }
    const timer = `gap ${room}`;
    if (feed.ahead.size === 0) this.#cancel(timer);
    else if (!this.#timers.has(timer)) this.#after(timer, GAP_MS, () => this.#fill(room, feed));
  }

  #fill(room, feed) {
    this.#ask(Op.HISTORY, { room, after: feed.next - 1, limit: PAGE_EVENTS }, (page, error) => {
      if (error instanceof Lost || this.#rooms.get(room) !== feed) return;
      for (const envelope of page?.events ?? []) {
        if (envelope.seq >= feed.next && !feed.ahead.has(envelope.seq)) feed.ahead.set(envelope.seq, envelope);
      }
      // What the history does not have either is not for us, and will never come.
      if (feed.ahead.size > 0) feed.next = Math.min(...feed.ahead.keys());
      this.#drain(room);
    });
  }

  #acknowledge() {
    this.#cancel("ack");
    const position = this.#arrived;
    if (position <= this.#acked) return;
    if ([...this.#rooms.values()].some((feed) => feed.ahead.size > 0)) { // "everything up to here" would not be true
      this.#after("ack", ACK_MS, () => this.#acknowledge());
      return;
    }
    this.#ask(Op.ACK, { position }, (reply, error) => {
      if (error?.retry) this.#after("ack", ACK_MS, () => this.#acknowledge());
      if (error) return;
      this.#acked = Math.max(this.#acked, position);
      this.#store.set("cursor", reply.cursor);
    });
  }

  // --- own messages ---

  #pump() {
    const message = this.#outbox[0];
    if (this.state !== "online" || this.#sending || !message) return;
    this.#sending = true;
    const { id, room, body } = message;
    this.#ask(Op.SEND, { room, id, body }, (reply, error) => {
      this.#sending = false;
      if (error instanceof Lost) return; // it stays first, and goes again when we are back
      if (error?.retry) {
        this.#sending = true;
        this.#after("send", laterMs(error), () => {
          this.#sending = false;
          this.#pump();
        });
        return;
      }
      this.#outbox.shift();
      this.#keepOutbox();
      if (error) this.#emit("refused", { ...message, error });
      else {
        this.#emit("sent", { ...message, position: reply.position, seq: reply.seq });
        // In a room of which nothing came yet, what is missed may still be on its way, and lies before.
        if (this.#rooms.has(room)) this.#place(room, reply.seq, null);
      }
      this.#pump();
    });
  }

  #keepOutbox() {
    this.#store.set("outbox", JSON.stringify(this.#outbox));
  }

  // --- the rest ---

  #after(name, ms, act) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(name, setTimeout(() => {
      this.#timers.delete(name);
      act();
    }, ms));
  }

  #cancel(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  #become(state, facts = {}) {
    this.state = state;
    this.#emit("state", { state, ...facts });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** When to ask again. Half a second and a bit of chance, if the server does not say. */
const laterMs = (refused) => refused.retryAfterMs || BACKOFF_MS * (1 + Math.random());

/** How long a body is as the server counts it. */
export function bytesOf(body) {
  return new TextEncoder().encode(JSON.stringify(body)).length;
}

/** Half a surrogate pair and U+0000 are no text that can be stored; they become the sign for what cannot be shown. */
function storable(body) {
  return JSON.parse(JSON.stringify(body), (_, value) =>
    typeof value === "string" ? value.replace(/[\p{Surrogate}\0]/gu, "\ufffd") : value);
}

/** crypto.randomUUID is there on https: and localhost only; this is everywhere. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
