/**
 * What one person knows of one room. No DOM, no network.
 *
 * `events` is a part of the room's stream without a hole, ascending by seq: a page of history and what came after it.
 * Unread is the server's count as of one seq, and from there on what came in.
 *
 * The trap: the count comes from a projection, which may be a moment behind the events. So an event is counted only
 * if it lies after the seq that the count is for.
 */

const KEEP_EVENTS = 300; // when as many again have come, the older ones are dropped, and read again if asked for

export const isMessage = (event) => event.type === "message_sent" || event.type === "message_pushed";

export class Room {
  events = [];
  pending = []; // own messages, until they have a seq: {id, body, time, error?}
  last = null; // the last message, for the list of rooms
  head = 0; // the last seq known
  read = 0; // the person has looked at everything up to here
  marked = 0; // and the server knows it up to here
  unread = 0;
  missed = null; // {after, base}: seq and count before what came in an absence, until somebody looks
  divider = null; // {after, count}: where the page says so; it stays while one looks
  more = false; // are there older events on the server?
  loaded = false;
  #away = null; // {after, base}: how it was when the connection ended

  constructor(name, mid) {
    this.name = name;
    this.mid = mid;
  }

  get title() {
    return this.name.startsWith("group://") ? this.name.slice("group://".length) : this.name;
  }

  /** What stands in the conversation: the events, then what is on its way. */
  entries() {
    return [...this.events, ...this.pending.map((message) => ({ ...message, mid: this.mid, type: "message_sent" }))];
  }

  /** Forget a message that was refused. */
  discard(id) {
    this.pending = this.pending.filter((message) => message.id !== id);
  }

  /** An event came. */
  take(event) {
    if (event.id && event.mid === this.mid) this.discard(event.id);
    if (!this.#insert(event)) return;
    if (event.type === "message_edited" || event.type === "message_recalled") this.#amend(event);
    if (isMessage(event) && event.seq >= (this.last?.seq ?? 0)) this.last = event;
    if (event.seq <= this.head) return;
    this.head = event.seq;
    if (this.#isUnread(event)) this.unread += 1;
  }

  /** A page of history, which touches or overlaps what is here. */
  takePage({ events, more }, isOlder) {
    for (const event of events) this.take(event);
    if (isOlder || !this.loaded) this.more = more;
    this.loaded = true;
  }

  /** The connection ended: what comes from here on is missed. */
  leave() {
    if (this.#away === null && this.head > 0) this.#away = this.missed ?? { after: this.head, base: this.unread };
  }

  /** The room as the server tells it, after a connection began. */
  takeRow(row) {
    const away = this.#away ?? { after: row.read, base: 0 };
    this.#away = null;
    const isAhead = this.read > row.read; // looked at, but the mark did not arrive: what came after it is counted here
    const from = isAhead ? this.read : row.head;
    const later = this.events.filter((event) => event.seq > from && this.#isUnread(event)).length;
    this.unread = (isAhead ? 0 : row.unread) + later;
    if (!isAhead) this.head = Math.max(this.head, row.head);
    this.marked = row.read;
    this.read = Math.max(this.read, row.read);
    if (row.last && row.last.seq >= (this.last?.seq ?? 0)) this.last = row.last;
    if (this.unread > away.base) this.#miss(away);
  }

  /** The person looks at the room. True if there is something to tell the server. */
  look() {
    if (this.unread > 0) this.read = this.head;
    this.unread = 0;
    this.missed = null;
    return this.read > this.marked;
  }

  /** The person has read up to `seq`, here or on another device. */
  readTo(seq) {
    this.marked = Math.max(this.marked, seq);
    if (seq <= this.read) return;
    this.read = seq;
    this.unread = this.events.filter((event) => event.seq > seq && this.#isUnread(event)).length;
    if (this.unread === 0) this.missed = null;
  }

  /** Forget the events: what follows does not touch them. */
  forget() {
    this.events = [];
    this.loaded = this.more = false;
    this.head = this.read = this.marked = this.unread = 0;
    this.missed = this.divider = this.last = this.#away = null;
  }

  trim() {
    if (this.events.length < 2 * KEEP_EVENTS) return;
    this.events = this.events.slice(-KEEP_EVENTS);
    this.more = true;
  }

  #miss({ after, base }) {
    this.missed = { after: this.missed?.after ?? after, base: this.missed?.base ?? base };
    this.divider = { after: this.missed.after, count: this.unread - this.missed.base };
  }

  #isUnread(event) {
    return isMessage(event) && event.mid !== this.mid;
  }

  /** A message reads otherwise from here on, or says nothing any more. A page of history has it so already. */
  #amend({ type, mid, position, body }) {
    const amended = (message) => {
      if (message?.seq !== body.target || message.recalled || message.edited?.position >= position) return message;
      return type === "message_recalled"
        ? { ...message, body: null, base64: false, recalled: { by: mid, position } }
        : { ...message, body: body.body, base64: body.format === "base64", edited: { position } };
    };
    this.events = this.events.map(amended);
    this.last = amended(this.last);
  }

  #insert(event) {
    const { events } = this;
    let at = events.length;
    while (at > 0 && events[at - 1].seq > event.seq) at -= 1;
    if (at > 0 && events[at - 1].seq === event.seq) return false;
    events.splice(at, 0, event);
    return true;
  }
}
