/* What a person did since they sat down: kept on this device, shown when they ask, never in the way. */

const PAUSE = 10 * 60_000; // milliseconds without an answer that end a session
const REMINDER = "tiebreak:break"; // minutes of work after which to remind, "0" for never

const middle = (values) => {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

export class Session {
  constructor(key) {
    this.key = key;
    this.state = JSON.parse(localStorage.getItem(key) || "null");
    this.shownAt = Date.now();
    this.remindedAt = 0;
  }

  /** A comparison came on the screen. */
  shown() {
    this.shownAt = Date.now();
  }

  answered(change = 1) {
    const now = Date.now();
    if (!this.state || now - this.state.last > PAUSE) this.state = { from: this.shownAt, last: now, seconds: [] };
    if (change > 0) this.state.seconds.push(Math.round((now - this.shownAt) / 100) / 10);
    else this.state.seconds.pop();
    this.state.last = now;
    localStorage.setItem(this.key, JSON.stringify(this.state));
  }

  get running() {
    return this.state && Date.now() - this.state.last <= PAUSE ? this.state : null;
  }

  get count() {
    return this.running?.seconds.length ?? 0;
  }

  get median() {
    return this.count ? middle(this.state.seconds) : null;
  }

  get minutes() {
    return this.running ? Math.round((Date.now() - this.state.from) / 60_000) : 0;
  }

  get reminder() {
    return Number(localStorage.getItem(REMINDER) ?? 0);
  }

  set reminder(minutes) {
    localStorage.setItem(REMINDER, String(minutes));
    this.remindedAt = 0;
  }

  /** Whether to remind of a break now: once for each time that the wished minutes have passed. */
  breakIsDue() {
    const due = this.reminder > 0 && this.minutes - this.remindedAt >= this.reminder;
    if (due) this.remindedAt = this.minutes;
    return due;
  }

  /** Writes the figures into elements that name one: data-figure="count". */
  draw(root) {
    const figures = { count: this.count, median: this.median === null ? "–" : `${this.median.toLocaleString(`${document.documentElement.lang}-u-nu-latn`, { maximumFractionDigits: 1 })} s`, minutes: this.minutes };
    for (const element of root.querySelectorAll("[data-figure]")) element.textContent = figures[element.dataset.figure];
    const choice = root.querySelector("[name=reminder]");
    if (choice) choice.value = String(this.reminder);
  }
}
