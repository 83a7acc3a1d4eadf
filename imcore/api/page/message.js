/**
 * An event as an item of the conversation: a message in a bubble, everything else as a small notice.
 */

import { make, makeButton, paint } from "./elements.js";

const LONG_CHARS = 1_200; // longer ones are shown in part until somebody asks
const LONG_LINES = 14;

const hour = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

/** What an event says: ours have a text; a push may be anything. */
export function textOf({ body, base64, recalled }) {
  if (recalled) return "(taken back)";
  if (base64) return `(${Math.floor((body.replace(/=+$/, "").length * 3) / 4).toLocaleString("en")} bytes)`;
  if (typeof body === "string") return body;
  return typeof body?.text === "string" ? body.text : JSON.stringify(body) ?? "";
}

/**
 * A message, or one on its way: {mid, name, body, time}, with {seq, position} once it is stored. `look` says how:
 * {isOwn, isFirst (of several by one person), isOpen (shown whole, however long), state}. `acts` are what its buttons
 * do: {open, again, discard}.
 */
export function messageItem(entry, look, acts) {
  const { isOwn, isFirst, isOpen, state } = look;
  const item = make("li", `message ${isOwn ? "own" : "theirs"}`);
  item.classList.toggle("first", isFirst);
  item.classList.toggle("failed", Boolean(entry.error));
  item.classList.toggle("sending", !entry.seq && !entry.error);
  if (entry.seq) item.dataset.seq = entry.seq;
  if (!isOwn) {
    const avatar = make("span", "avatar small");
    avatar.setAttribute("aria-hidden", "true");
    paint(avatar, entry.mid, entry.name);
    item.append(avatar);
  }
  const bubble = make("div", "bubble");
  const by = make("p", isFirst && !isOwn ? "by" : "by visually-hidden", entry.name);
  const content = make("p", "content", textOf(entry));
  by.dir = content.dir = "auto";
  bubble.append(by, content);
  const { length } = content.textContent;
  if (length > LONG_CHARS || content.textContent.split("\n", LONG_LINES + 1).length > LONG_LINES) {
    content.classList.toggle("clamped", !isOpen);
    const offer = isOpen ? "Show less" : `Show all ${length.toLocaleString("en")} characters`;
    const more = makeButton("more", offer, acts.open);
    more.setAttribute("aria-expanded", String(isOpen));
    bubble.append(more);
  }
  bubble.append(meta(entry, state));
  if (entry.error) {
    const choices = make("p", "message-choices");
    choices.append(makeButton("more", "Try again", acts.again), " ", makeButton("more", "Discard", acts.discard));
    bubble.append(choices);
  }
  item.append(bubble);
  return item;
}

function meta({ time, seq, position, edited }, state) {
  const line = make("p", "meta");
  const clock = make("time", "", hour.format(time));
  clock.dateTime = new Date(time).toISOString();
  clock.title = full.format(time);
  line.append(clock);
  if (seq) {
    const place = make("span", "seq", `#${seq}`);
    place.title = `event ${seq} of this room, position ${position} of the log`;
    line.append(" ", place);
  }
  if (edited) line.append(" ", make("span", "state", "edited"));
  if (state) line.append(" ", make("span", "state", state));
  return line;
}

export function noticeItem(event, text) {
  const item = make("li", "notice", text);
  item.dataset.seq = event.seq;
  item.title = `${event.type}, position ${event.position} of the log, ${full.format(event.time)}`;
  item.append(" ", make("span", "seq", `#${event.seq}`));
  return item;
}

/** What happened, in words; `nameOf` gives the name of a member id. */
export function noticeText({ type, mid, body }, nameOf) {
  const by = nameOf(mid);
  const who = nameOf(body?.mid ?? mid);
  const whom = who === "You" ? "you" : who;
  switch (type) {
    case "room_created": return `${by} created the room`;
    case "member_joined": return who === by ? `${who} joined` : `${by} brought ${whom} in`;
    case "member_left": return `${who} left`;
    case "member_removed": return `${by} removed ${whom}`;
    case "member_muted": return body?.until_ms ? `${by} muted ${whom}` : `${by} let ${whom} speak again`;
    case "message_edited": return `${by} edited #${body?.target}`;
    case "message_recalled": return `${by} took #${body?.target} back`;
    case "role_changed": return `${by} made ${whom} ${body?.role}`;
    case "member_banned": return `${by} banned ${whom}`;
    case "member_unbanned": return `${by} lets ${whom} come in again`;
    case "join_requested": return `${who} asks to be let in`;
    case "join_rejected": return `${by} did not let ${whom} in`;
    case "room_changed": return `${by} changed ${changes(body)}`;
    case "room_muted": return body?.until_ms ? `${by} muted everybody` : `${by} let everybody speak again`;
    case "room_dismissed": return `${by} ended the room`;
    case "reaction_added": return `${by} reacted to #${body?.target} with ${body?.reaction}`;
    case "reaction_removed": return `${by} took ${body?.reaction} back from #${body?.target}`;
    case "message_pinned": return `${by} pinned #${body?.target}`;
    case "message_unpinned": return `${by} unpinned #${body?.target}`;
    default: return type;
  }
}

const SETTINGS = {
  title: "the title", topic: "the topic", public: "who comes in", approval: "who comes in", history: "what newcomers see",
  writers: "who writes", slow_mode_s: "how often one writes", members_max: "how many may come in",
};

/** Which settings a change of the room is about. */
function changes(body) {
  const said = Object.entries(SETTINGS).filter(([name]) => (body?.[name] ?? null) !== null);
  return [...new Set(said.map(([, words]) => words))].join(", ") || "the room";
}
