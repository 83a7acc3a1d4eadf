/**
 * Somebody who has logged in with a name and a password: a token whenever one is needed, a fresh one before the old one ends.
 *
 * Nothing of it is kept anywhere: who closes the page logs in again.
 *
 * The trap: a refresh token is for one use, so whoever asks while one is being exchanged waits for the same answer.
 */

import { Refused } from "./client.js";

const EARLY_MS = 60_000; // before its end a token is not given any more, or halfway if it lives for less than twice that

export class Login {
  #told; #until; #asking = null;

  constructor(told) {
    this.#take(told);
    this.mid = told.mid;
  }

  /**
   * Log in as `login` from the device `key`, with a new account if `isNew`. Throws Refused, and the reason of `signal` when nobody wants
   * it any more: then nobody is logged in. The request itself goes on, because who gives that up never learns what it has begun.
   */
  static async begin(login, password, { key, isNew, signal }) {
    if (isNew) await post("v1/accounts", { login, password });
    signal.throwIfAborted();
    const begun = new Login(await post("v1/login", { login, password, key, platform: "web" }));
    if (signal.aborted) begun.end();
    signal.throwIfAborted();
    return begun;
  }

  /** For how long the token that there is will be given. */
  get leftMs() {
    return Math.max(0, this.#until - Date.now());
  }

  /** A token that is good. Throws Refused when the login is over, and TypeError when the server does not answer. */
  async token() {
    if (this.leftMs === 0) {
      this.#asking ??= post("v1/refresh", { refresh_token: this.#told.refresh_token })
        .then((told) => this.#take(told))
        .finally(() => (this.#asking = null));
      await this.#asking;
    }
    return this.#told.token;
  }

  /** The server took the token for none: the next one is another. */
  refused() {
    this.#until = 0;
  }

  /** Log out, with a token that is good. A server that cannot be told has the login among the devices until it ends by itself. */
  async end() {
    const logOut = async () => post("v1/logout", {}, await this.token());
    try {
      await logOut().catch((error) => {
        if (error.code !== "unauthenticated") throw error;
        this.refused();
        return logOut();
      });
    } catch { // the login is over, or the server away: the page forgets it anyway
    }
  }

  #take(told) {
    const lives = told.expires_in_s * 1000;
    this.#told = told;
    this.#until = Date.now() + lives - Math.min(EARLY_MS, lives / 2);
  }
}

async function post(path, body, token = "") {
  const response = await fetch(new URL(`../${path}`, import.meta.url), {
    method: "POST",
    headers: { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) },
    body: JSON.stringify(body),
    credentials: "omit",
    cache: "no-store",
  });
  const told = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused({ ...told, text: told.detail ?? `${response.status}`, retry: response.status >= 500 || response.status === 429 });
  return told;
}
