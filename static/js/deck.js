/* The comparisons in our hands: the first is on the screen, one more lies ready behind it. */

import { Offline, post, Refused } from "./api.js";

const RENEW_BEFORE = 5 * 60_000, RENEW_CHECK = 60_000, AGAIN_AFTER = 3000; // milliseconds

export class Deck extends EventTarget {
  /** Tells "first" when another comparison comes to stand first, "refused" with the server's sentence. */
  constructor({ urls, address, queue }) {
    super();
    Object.assign(this, { urls, address, queue, items: [], exhausted: false, fetching: false, lastActive: Date.now() });
    for (const name of ["keydown", "pointerdown"]) addEventListener(name, () => (this.lastActive = Date.now()), { passive: true });
    setInterval(() => this.renew(), RENEW_CHECK);
  }

  get first() {
    return this.items[0];
  }

  keep(item) {
    if (this.items.some((held) => held.lease === item.lease) || this.queue.has(item.lease)) return;
    for (const candidate of item.candidates) if (candidate.image) new Image().src = candidate.image;
    this.items.push(item);
    if (this.items.length === 1) this.tell("first");
  }

  leave() {
    this.items.shift();
    this.tell("first");
  }

  putBack(item) {
    this.items = [item, ...this.items.filter((held) => held.lease !== item.lease)];
    this.exhausted = false;
    this.tell("first");
  }

  /** What the reply to an answer says about the next one: a comparison, null for nothing left, or nothing. */
  take(next) {
    if (next) this.keep(next);
    else if (next === null) this.exhausted = true;
    if (!this.items.length) this.tell("first");
    this.fetchAhead();
  }

  /** Waits for the queue: what it holds still counts as ours. */
  async fetchAhead() {
    if (this.fetching || this.exhausted || this.items.length >= 2 || this.queue.entries.length) return;
    const last = this.items.at(-1);
    this.fetching = true;
    try {
      const item = await post(`${this.urls.next}?html=1${last ? `&after=${last.lease}` : ""}`);
      if (item) this.keep(item);
      else this.exhausted = true;
    } catch (error) {
      if (error instanceof Offline) setTimeout(() => this.fetchAhead(), AGAIN_AFTER);
      else if (!this.items.length) this.tell("refused", error.message);
    } finally {
      this.fetching = false;
    }
    if (this.exhausted && !this.items.length) this.tell("first");
  }

  async renew() {
    const active = Date.now() - this.lastActive < RENEW_BEFORE && !document.hidden;
    for (const item of this.items) {
      if (!active || Date.parse(item.expires_at) - Date.now() > RENEW_BEFORE) continue;
      try {
        item.expires_at = (await post(this.address("renew", item.lease))).expires_at;
      } catch (error) {
        // An answer on an expired lease is honoured while its slot is open, so nothing has to happen here.
        if (!(error instanceof Offline || error instanceof Refused)) throw error;
      }
    }
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
