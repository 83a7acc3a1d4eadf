/**
 * Every verb of the server, from /openapi.json: what it takes, what it answers, who may; and a form to try it.
 *
 * A verb's inside is made when it is opened first, so a hundred of them cost nothing. The token is kept as long as the tab is open, and is
 * sent to this server only.
 *
 * The trap: everything here is text of the server's, and text of the server may be text of people's. It goes in as text only.
 */

import { make, makeButton, setText } from "./elements.js";

const KEPT = "imcore:docs:who";
const SHOWN_HEADERS = ["etag", "ratelimit", "retry-after", "idempotency-replayed", "allow"];
const JSON_TEXT = /^application\/(problem\+)?json\b/;
const TEXT = /^text\//;
const $ = (id) => document.getElementById(id);

let api;
let lastId = 0;

// --- the document ---------------------------------------------------------------------------------------------------------

/** What a reference stands for. */
function resolved(part) {
  while (part?.$ref) part = part.$ref.slice(2).split("/").reduce((at, name) => at[name], api);
  return part ?? {};
}

/** The kind of a value in few words. */
function kindOf(schema) {
  const it = resolved(schema);
  if (it.const !== undefined) return JSON.stringify(it.const);
  if (it.enum) return it.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (it.anyOf ?? it.oneOf) return (it.anyOf ?? it.oneOf).map(kindOf).join(" or ");
  if (it.allOf) return it.allOf.map(kindOf).join(" and ");
  if (it.type === "array") return `list of ${kindOf(it.items)}`;
  if (Array.isArray(it.type)) return it.type.join(" or ");
  return it.type ?? "anything";
}

/** Its bounds in few words. */
function boundsOf(schema) {
  const it = resolved(schema);
  const said = [];
  if (it.minimum !== undefined && it.minimum > -Number.MAX_SAFE_INTEGER) said.push(`at least ${it.minimum}`);
  if (it.maximum !== undefined && it.maximum < Number.MAX_SAFE_INTEGER) said.push(`at most ${it.maximum}`);
  if (it.minLength) said.push(`at least ${it.minLength} characters`);
  if (it.maxLength !== undefined) said.push(`at most ${it.maxLength} characters`);
  if (it.maxItems !== undefined) said.push(`at most ${it.maxItems}`);
  if (it.default !== undefined && it.default !== null) said.push(`default ${JSON.stringify(it.default)}`);
  return said.join(", ");
}

/** A value of that kind, to begin with: only what must be there, as deep as it must be. */
function exampleOf(schema, deep = 0) {
  const it = resolved(schema);
  if (it.examples?.length) return it.examples[0];
  if (it.const !== undefined) return it.const;
  if (it.default !== undefined) return it.default;
  if (it.enum) return it.enum[0];
  const choice = (it.anyOf ?? it.oneOf ?? it.allOf)?.[0];
  if (choice) return exampleOf(choice, deep + 1);
  if (it.type === "object" || it.properties) {
    const names = deep > 4 ? [] : (it.required ?? []);
    return Object.fromEntries(names.map((name) => [name, exampleOf(it.properties?.[name], deep + 1)]));
  }
  if (it.type === "array") return [];
  if (it.type === "integer" || it.type === "number") return Math.max(it.minimum ?? 0, 0);
  if (it.type === "boolean") return false;
  if (it.pattern?.includes("-[0-9a-fA-F]{12}")) return crypto.randomUUID?.() ?? "00000000-0000-4000-8000-000000000000";
  return it.type === "string" ? "" : null;
}

/** The fields of an object, one a row: name, kind, what it is. Those of inner objects follow theirs. */
function rowsOf(schema, before = "", seen = []) {
  const it = resolved(schema);
  if (it.type === "array" && it.items) return rowsOf(it.items, `${before}[]`, seen);
  const choices = (it.anyOf ?? it.oneOf ?? []).filter((one) => one.type !== "null");
  if (choices.length) return choices.flatMap((one) => rowsOf(one, before, seen));
  if (!it.properties || seen.includes(it)) return [];
  return Object.entries(it.properties).flatMap(([name, field]) => {
    const path = before ? `${before}.${name}` : name;
    const words = (field.description ?? resolved(field).description)?.replace(/\.$/, "");
    const said = [words, boundsOf(field)].filter(Boolean).join("; ");
    const must = it.required?.includes(name) ? "" : "may be absent";
    return [[path, kindOf(field), [said, must].filter(Boolean).join("; ")], ...rowsOf(field, path, [...seen, it])];
  });
}

// --- a verb ---------------------------------------------------------------------------------------------------------------

function table(caption, heads, rows) {
  const whole = make("table");
  whole.append(make("caption", "visually-hidden", caption));
  const head = whole.createTHead().insertRow();
  for (const text of heads) {
    const cell = make("th", "", text);
    cell.scope = "col";
    head.append(cell);
  }
  const body = whole.createTBody();
  for (const [first, ...rest] of rows) {
    const row = body.insertRow();
    const name = make("th");
    name.scope = "row";
    name.append(make("code", "", first));
    row.append(name, ...rest.map((text) => make("td", "", text)));
  }
  const wide = make("div", "wide");
  wide.append(whole);
  return wide;
}

function permissions(said) {
  const rows = Object.entries(said).map(([role, verdict]) =>
    typeof verdict === "string"
      ? [role, verdict]
      : [role, Object.entries(verdict).map(([standing, one]) => `${standing}: ${one}`).join(", ")],
  );
  return table("Who may", ["Role", "Verdict"], rows);
}

/** A control for one argument. `read` gives its texts: none when it is left out. */
function control(name, schema, isRequired) {
  const it = resolved(schema);
  const kind = (it.anyOf ?? []).find((one) => one.type !== "null") ?? it;
  let input;
  if (kind.enum || kind.type === "boolean") {
    input = make("select");
    const values = kind.enum ?? [true, false];
    input.append(...["", ...values].map((one) => new Option(one === "" ? "(left out)" : String(one), String(one))));
  } else if (kind.type === "array") {
    input = make("textarea");
    input.rows = 2;
    input.placeholder = "one a line";
  } else {
    input = make("input");
    input.inputMode = kind.type === "integer" ? "numeric" : "text";
    if (isRequired && it.examples?.length) input.value = String(it.examples[0]);
  }
  input.spellcheck = false;
  input.name = name;
  const read = () => (kind.type === "array" ? input.value.split("\n").filter(Boolean) : input.value === "" ? [] : [input.value]);
  return { input, read };
}

function field(form, name, said, input, isRequired) {
  const row = make("div", "field");
  const label = make("label", "", isRequired ? `${name} (needed)` : name);
  input.id = `field-${++lastId}`;
  label.htmlFor = input.id;
  input.required = isRequired && input.tagName === "INPUT";
  row.append(label, input);
  if (said) {
    const words = make("p", "soft", said);
    words.id = `${input.id}-said`;
    input.setAttribute("aria-describedby", words.id);
    row.append(words);
  }
  form.append(row);
}

function inside(operation, method, path) {
  const parts = make("div", "parts");
  parts.append(make("p", "", operation.description));
  const doors = operation["x-doors"] ?? [];
  if (doors.includes("connection")) {
    const call = make("p", "soft", "Over a connection, operation 38: ");
    call.append(make("code", "", `{"verb":"${operation.operationId}","args":{…}}`));
    parts.append(call);
  }
  parts.append(make("h3", "", "Arguments"), form(operation, method, path));
  parts.append(make("h3", "", "Answers"));
  for (const [status, response] of Object.entries(operation.responses)) {
    const schema = resolved(response).content?.["application/json"]?.schema;
    if (!status.startsWith("2")) continue;
    const rows = schema ? rowsOf(schema) : [];
    parts.append(make("p", "", `${status} ${resolved(response).description}`));
    if (rows.length) parts.append(table(`Answer ${status}`, ["Field", "Kind", "What it is"], rows));
  }
  const errors = Object.entries(operation.responses).filter(([status]) => Number(status) >= 400);
  const codes = errors.flatMap(([status, response]) =>
    resolved(response).description.split(/ (?=`)/).map((one) => {
      const [, code, text] = one.match(/^`(\w+)`: (.*)$/) ?? [null, status, one];
      return [code, status, text];
    }),
  );
  parts.append(make("h3", "", "Errors"), table("Errors", ["Code", "Status", "Means"], codes));
  parts.append(make("h3", "", "Who may"), permissions(operation["x-permissions"] ?? {}));
  return parts;
}

// --- to try it --------------------------------------------------------------------------------------------------------------

function form(operation, method, path) {
  const whole = make("form");
  whole.autocomplete = "off";
  const controls = operation.parameters.map(resolved).map((parameter) => {
    const made = control(parameter.name, parameter.schema, parameter.required);
    const said = [parameter.description?.replace(/\.$/, ""), kindOf(parameter.schema), boundsOf(parameter.schema)].filter(Boolean).join("; ");
    field(whole, parameter.name, said, made.input, parameter.required);
    return { ...parameter, ...made };
  });
  const content = operation.requestBody?.content ?? {};
  const [media] = Object.keys(content);
  let body;
  if (media === "application/json") {
    const rows = rowsOf(content[media].schema);
    if (rows.length) whole.append(table("Fields of the body", ["Field", "Kind", "What it is"], rows));
    body = make("textarea");
    body.rows = 5;
    body.value = JSON.stringify(exampleOf(content[media].schema), null, 2);
    field(whole, "body", "JSON", body, false);
  } else if (media) {
    body = make("input");
    body.type = "file";
    field(whole, "file", media, body, true);
  }
  const tries = make("div", "tries");
  const send = make("button", "button main", `Send ${method}`);
  send.type = "submit";
  const told = make("div", "told");
  const curl = makeButton("button", "Show as curl", () => told.replaceChildren(pre(asCurl(request(path, method, controls, media, body)), "The request")));
  tries.append(send, curl);
  const state = make("p", "status");
  state.setAttribute("role", "status");
  whole.append(tries, state, told);
  whole.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    setText(state, "");
    try {
      await tell(await request(path, method, controls, media, body).go(), state, told);
    } catch (error) {
      state.dataset.good = "false";
      setText(state, `No answer: ${error.message}`);
    } finally {
      send.disabled = false;
    }
  });
  return whole;
}

/** The request as the form says it. */
function request(path, method, controls, media, body) {
  const query = new URLSearchParams();
  const headers = {};
  for (const { name, in: place, read } of controls) {
    for (const value of read()) {
      if (place === "query") query.append(name, value);
      else if (place === "header") headers[name] = value;
    }
    if (place === "path") path = path.replace(`{${name}}`, segment(read()[0] ?? ""));
  }
  const who = $("who-value").value.trim();
  if (who) headers[api.components.securitySchemes.token ? "Authorization" : "Imcore-Mid"] = api.components.securitySchemes.token ? `Bearer ${who}` : who;
  let sent;
  if (media) {
    headers["Content-Type"] = media;
    sent = body.type === "file" ? body.files[0] : body.value;
  }
  const url = new URL(`.${path}`, document.baseURI);
  url.search = query;
  return { method, url, headers, sent, go: () => fetch(url, { method, headers, body: sent, credentials: "omit", cache: "no-store" }) };
}

/** A part of a path. Browsers resolve dots even when they are escaped, so a name of dots cannot be asked for from a page. */
function segment(text) {
  if (text === "." || text === "..") throw new Error("a browser cannot ask for a name of dots; a connection can");
  return encodeURIComponent(text);
}

function asCurl({ method, url, headers, sent }) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = [`curl -X ${method} ${quoted(url.href)}`, ...Object.entries(headers).map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`)];
  if (typeof sent === "string") lines.push(`--data-binary ${quoted(sent)}`);
  else if (sent) lines.push(`--data-binary @${quoted(sent.name)}`);
  return lines.join(" \\\n  ");
}

async function tell(response, state, told) {
  const kind = response.headers.get("Content-Type") ?? "";
  state.dataset.good = String(response.ok || response.status === 304);
  const parts = [];
  let login;
  const heads = SHOWN_HEADERS.filter((name) => response.headers.has(name)).map((name) => `${name}: ${response.headers.get(name)}`);
  if (heads.length) parts.push(pre(heads.join("\n"), "Headers of the answer"));
  if (JSON_TEXT.test(kind)) {
    const text = await response.text();
    parts.push(pre(pretty(text), "The answer"));
    login = response.ok ? loginIn(text) : undefined;
  } else if (TEXT.test(kind)) {
    parts.push(pre(await response.text(), "The answer"));
  } else if (kind) {
    const link = make("a", "", "Save the answer");
    link.href = URL.createObjectURL(await response.blob());
    link.download = "answer";
    parts.push(link);
  }
  if (login) parts.unshift(makeButton("button", "Ask as this person from now on", () => askAs(login, state)));
  told.replaceChildren(...parts);
  setText(state, `${response.status} ${response.statusText}`.trim());
}

/** What to ask with as whom the answer has logged in, if it has; as text, because JavaScript rounds the largest ids. */
function loginIn(text) {
  let told;
  try {
    told = JSON.parse(text);
  } catch { // cut off on its way: it is shown as it came
  }
  if (typeof told?.token !== "string" || !told.sid) return undefined;
  return api.components.securitySchemes.token ? told.token : text.match(/"mid": ?(-?\d+)/)?.[1];
}

function askAs(who, state) {
  $("who-value").value = who;
  sessionStorage.setItem(KEPT, who);
  setText(state, "What you try from now on is asked as this person.");
}

/** JSON with room around it. The numbers of a log may be larger than those of JavaScript, so nothing is read and written again. */
function pretty(text) {
  let deep = 0;
  return text.replace(/"(?:\\.|[^"\\])*"|[[\]{},:]/g, (sign, at) => {
    if (sign === "{" || sign === "[") {
      const isEmpty = /^[[{]\s*[\]}]/.test(text.slice(at, at + 2));
      deep += 1;
      return isEmpty ? sign : `${sign}\n${"  ".repeat(deep)}`;
    }
    if (sign === "}" || sign === "]") {
      deep -= 1;
      return /[[{]/.test(text[at - 1]) ? sign : `\n${"  ".repeat(deep)}${sign}`;
    }
    if (sign === ",") return `,\n${"  ".repeat(deep)}`;
    return sign === ":" ? ": " : sign;
  });
}

function pre(text, name) {
  const element = make("pre", "", text);
  element.tabIndex = 0; // it scrolls
  element.setAttribute("role", "region");
  element.setAttribute("aria-label", name);
  return element;
}

// --- the page -----------------------------------------------------------------------------------------------------------------

function verbElement(operation, method, path) {
  const whole = make("details", "verb");
  whole.id = operation.operationId;
  const summary = make("summary");
  const word = make("span", "method", method);
  word.dataset.method = method;
  summary.append(word, make("code", "path", path), make("span", "said", `${operation.operationId}: ${operation.summary}`));
  whole.append(summary);
  whole.addEventListener("toggle", () => {
    if (whole.open && whole.children.length === 1) whole.append(inside(operation, method, path));
  });
  return whole;
}

function show() {
  setText($("version"), `Version ${api.info.version}.`);
  const { token } = api.components.securitySchemes;
  setText($("who-label"), token ? "Token" : "Imcore-Mid");
  setText($("who-hint"), token ? "Of a person or a service; forgotten when the tab is closed." : "Who asks: a member id. Without it, a service.");
  $("who-value").type = token ? "password" : "text";
  $("who-value").value = sessionStorage.getItem(KEPT) ?? "";
  $("who-value").addEventListener("input", (event) => sessionStorage.setItem(KEPT, event.target.value));
  $("who").addEventListener("submit", (event) => event.preventDefault());

  const bySubject = new Map(api.tags.map((tag) => [tag.name, { tag, verbs: [] }]));
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      bySubject.get(operation.tags[0]).verbs.push({ operation, method: method.toUpperCase(), path });
    }
  }
  for (const { tag, verbs } of bySubject.values()) {
    const section = make("section", "subject");
    section.setAttribute("aria-labelledby", `subject-${tag.name}`);
    const title = make("h2", "", tag.name);
    title.id = `subject-${tag.name}`;
    section.append(title, make("p", "", tag.description));
    const list = make("ul");
    for (const { operation, method, path } of verbs) {
      section.append(verbElement(operation, method, path));
      const link = make("a", "", operation.operationId.slice(tag.name.length + 1));
      link.href = `#${operation.operationId}`;
      link.title = operation.summary;
      link.setAttribute("aria-label", operation.operationId);
      const item = make("li");
      item.dataset.words = `${operation.operationId} ${method} ${path} ${operation.summary}`.toLowerCase();
      item.append(link);
      list.append(item);
    }
    const group = make("div", "group");
    group.append(make("h2", "", tag.name), list);
    $("verbs").append(section);
    $("index").append(group);
  }
}

function filter() {
  const words = $("filter").value.trim().toLowerCase().split(/\s+/);
  let found = 0;
  for (const item of $("index").querySelectorAll("li")) {
    item.hidden = !words.every((word) => item.dataset.words.includes(word));
    document.getElementById(item.firstChild.hash.slice(1)).hidden = item.hidden;
    found += item.hidden ? 0 : 1;
  }
  for (const group of document.querySelectorAll(".group")) group.hidden = !group.querySelector("li:not([hidden])");
  for (const section of document.querySelectorAll(".subject")) section.hidden = !section.querySelector(".verb:not([hidden])");
  setText($("found"), $("filter").value ? `${found} verbs` : "");
}

/** The verb that the address names is open, in sight, and where the keyboard is. */
function open() {
  const verb = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!verb?.matches(".verb")) return;
  verb.open = true;
  verb.scrollIntoView({ block: "start" });
  verb.querySelector("summary").focus({ preventScroll: true });
}

try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`openapi.json: ${answer.status}`);
  api = await answer.json();
  show();
  open();
  $("filter").addEventListener("input", filter);
  addEventListener("hashchange", open);
  document.body.dataset.ready = "true";
} catch (error) {
  setText($("fault"), `The verbs could not be read: ${error.message}`);
}
