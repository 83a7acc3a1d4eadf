// A server that follows a script: what stands where the WebSocket was, in the tests of client.js.
// `sockets` are the connections in order; each has what the client sent as `sent`, and says what a test lets it say.
window.sockets = [];
window.WebSocket = class {
  static OPEN = 1;
  readyState = 0;
  sent = [];

  constructor(url) {
    this.url = url;
    sockets.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
  }

  open() {
    this.readyState = 1;
    this.onopen?.();
  }

  say(...packets) {
    for (const packet of packets) this.onmessage?.({ data: JSON.stringify(packet) });
  }

  /** Open, and accept the auth that comes at once. */
  welcome(facts = {}) {
    this.open();
    this.accept(facts);
  }

  accept(facts = {}) {
    this.reply(7, {
      mid: 1, key: "k", epoch: "e", position: 100, cursor: "e.100", recovered: false, heartbeat_s: 240, rooms: [], ...facts,
    });
  }

  /** Answer the last request of this operation. */
  reply(op, body) {
    const { seq } = this.sent.findLast((packet) => packet.op === op);
    this.say({ op: op + 1, seq, body });
  }

  end(code) {
    this.readyState = 3;
    this.onclose?.({ code, reason: "" });
  }

  /** The bodies of the requests of this operation. */
  asked(op) {
    return this.sent.filter((packet) => packet.op === op).map((packet) => packet.body);
  }
};

window.message = (seq, position = 100 + seq, facts = {}) => ({
  op: 21,
  seq: 0,
  body: { position, room: "group://r", seq, mid: 2, key: "other", time: 0, type: "message_sent", op: 1000, body: { text: `${seq}` }, ...facts },
});

/** A client at the script, with what it told in `told`: "type detail" for each event. */
window.started = async (store = new Map(), login = null) => {
  const { Client } = await import("/page/client.js");
  const client = new Client({ url: "ws://script/ws", mid: 1, key: "k", store, login });
  client.told = [];
  const details = {
    event: ({ seq }) => seq, state: ({ state, code }) => (code ? `${state} ${code}` : state), online: () => "",
    sent: ({ seq, body }) => `${body.text} at ${seq}`, refused: ({ body, error }) => `${body.text} ${error.code}`, removed: ({ room }) => room,
  };
  for (const [type, show] of Object.entries(details)) {
    client.addEventListener(type, ({ detail }) => client.told.push(`${type} ${show(detail)}`.trim()));
  }
  client.store = store;
  client.connect();
  return client;
};

/** Wait for a fact, for a minute. */
window.until = async (ask) => {
  for (const deadline = Date.now() + 60_000; !ask(); ) {
    if (Date.now() > deadline) throw new Error(`not so after a minute: ${ask}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
