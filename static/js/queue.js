/* What was said and is not yet stored by the server. It survives a reload in localStorage, goes out in order,
   one at a time, and again with the same client_id until the server has answered. */

import { Offline, post } from "./api.js";

const LONGEST_WAIT = 30_000; // milliseconds

export class Queue extends EventTarget {
  /** `key` names the store: one for each person. `address(entry)` is where an entry is posted. */
  constructor(key, address) {
    super();
    this.key = key;
    this.address = address;
    this.sending = null;
    this.failures = 0;
    this.timer = null;
    addEventListener("online", () => this.retry());
  }

  get entries() {
    return JSON.parse(localStorage.getItem(this.key) || "[]");
  }

  set entries(entries) {
    if (entries.length) localStorage.setItem(this.key, JSON.stringify(entries));
    else localStorage.removeItem(this.key);
  }

  has(lease) {
    return this.entries.some((entry) => entry.lease === lease);
  }

  add(entry) {
    this.entries = [...this.entries, entry];
    if (this.timer) this.tell("retrying");
    this.flush();
  }

  /** Takes an entry back that was never sent; false if it may have arrived, whether or not the reply did. */
  withdraw(client_id) {
    if (!this.entries.some((entry) => entry.client_id === client_id && !entry.sent)) return false;
    this.remove(client_id);
    this.tell(this.entries.length ? "saving" : "saved");
    return true;
  }

  retry() {
    clearTimeout(this.timer);
    this.timer = null;
    this.flush();
  }

  async flush() {
    if (this.sending || this.timer) return;
    const entry = this.entries[0];
    if (!entry) return;
    this.sending = entry;
    this.entries = this.entries.map((item) => (item.client_id === entry.client_id ? { ...item, sent: true } : item));
    if (!this.failures) this.tell("saving");
    try {
      const reply = await post(this.address(entry), entry.body);
      this.failures = 0;
      this.settle(entry, "stored", { reply });
    } catch (error) {
      if (error instanceof Offline) this.wait();
      else if (error.status === 401 || error.status === 403) this.stop(error);
      else this.settle(entry, "refused", { error });
      return;
    } finally {
      this.sending = null;
    }
    this.flush();
  }

  settle(entry, outcome, detail) {
    this.sending = null;
    this.remove(entry.client_id);
    if (outcome === "stored" && !this.entries.length) this.tell("saved");
    this.dispatchEvent(new CustomEvent(outcome, { detail: { entry, ...detail } }));
    if (outcome === "refused") this.flush();
  }

  wait() {
    const pause = Math.min(LONGEST_WAIT, 1000 * 2 ** this.failures++) * (0.75 + Math.random() / 2);
    this.timer = setTimeout(() => this.retry(), pause);
    this.tell("retrying");
  }

  stop(error) {
    if (error.problem?.code) this.tell("refused", error.message); // somebody said that this person is to wait
    else this.tell("signed-out");
  }

  remove(client_id) {
    this.entries = this.entries.filter((entry) => entry.client_id !== client_id);
  }

  tell(state, text = "") {
    this.dispatchEvent(new CustomEvent("state", { detail: { state, text, waiting: this.entries.length } }));
  }
}
