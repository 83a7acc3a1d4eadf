/**
 * The end of the log, as far as the people on this page may see it: one cell an event, by position.
 *
 * Positions are dense, so where a number is left out there is an event that is not for this page: connects, acks,
 * what is said in other rooms.
 */

import { isMessage } from "./rooms.js";

const CELLS = 60;

export class Tape {
  #list; #head; #events = []; #epoch = ""; #timer = 0;

  constructor(list, head) {
    this.#list = list;
    this.#head = head;
  }

  /** Another epoch is another log. */
  begin(epoch) {
    if (this.#epoch && epoch !== this.#epoch) this.#events = [];
    this.#epoch = epoch;
  }

  add({ position, room, stream, seq, type }) {
    const events = this.#events;
    let at = events.length;
    while (at > 0 && events[at - 1].position > position) at -= 1;
    if (at > 0 && events[at - 1].position === position) return;
    events.splice(at, 0, { position, place: `${room ?? stream} · ${seq}`, type });
    if (events.length > CELLS) events.shift();
    this.#timer ||= setTimeout(() => this.#render(), 16);
  }

  #render() {
    this.#timer = 0;
    const list = this.#list;
    const atEnd = list.scrollWidth - list.scrollLeft - list.clientWidth < 60;
    const cells = [];
    let before = this.#events[0]?.position;
    for (const event of this.#events) {
      const between = event.position - before - 1;
      if (between > 0) {
        const note = `${between} ${between === 1 ? "event" : "events"} not for these people: connects, acks, other rooms`;
        const gap = cell("gap", [["", `+${between}`]]);
        gap.title = note;
        cells.push(gap);
      }
      before = event.position;
      const item = cell("event", [
        ["position", String(event.position)],
        ["type", event.type],
        ["place", event.place],
      ]);
      item.dataset.position = String(event.position);
      item.classList.toggle("is-message", isMessage(event));
      item.title = item.textContent;
      cells.push(item);
    }
    list.replaceChildren(...cells);
    if (atEnd) list.scrollLeft = list.scrollWidth;
    this.#head.textContent = before ? `position ${before.toLocaleString("en")}` : "nothing yet";
  }
}

function cell(kind, parts) {
  const item = document.createElement("li");
  item.className = kind;
  for (const [name, text] of parts) {
    const span = document.createElement("span");
    span.className = name;
    span.textContent = text;
    item.append(span, " ");
  }
  return item;
}
