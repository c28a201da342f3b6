/* Answers that were begun, by lease, on this device: they survive a reload, a closed page and a dropped line. */

const MOST = 40;

export class Drafts {
  /** `key` names the store: one for each person. */
  constructor(key) {
    this.key = key;
  }

  read() {
    return JSON.parse(localStorage.getItem(this.key) || "{}");
  }

  write(drafts) {
    const newest = Object.entries(drafts).sort(([, a], [, b]) => b.at - a.at).slice(0, MOST);
    if (newest.length) localStorage.setItem(this.key, JSON.stringify(Object.fromEntries(newest)));
    else localStorage.removeItem(this.key);
  }

  get(lease) {
    return this.read()[lease]?.answer;
  }

  keep(lease, answer) {
    if (!Object.keys(answer).length) return this.drop(lease);
    return this.write({ ...this.read(), [lease]: { answer, at: Date.now() } });
  }

  drop(lease) {
    const drafts = this.read();
    if (!(lease in drafts)) return;
    delete drafts[lease];
    this.write(drafts);
  }
}
