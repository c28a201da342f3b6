/* The steps of worked answers: J and K walk them, a click goes to one. */

export class Steps {
  /** `panels`: the element of each candidate; `pick({candidate, type, step})`, `drop()`. */
  constructor(panels, { pick, drop }) {
    this.pick = pick;
    this.drop = drop;
    this.all = panels.flatMap((panel, candidate) => [...panel.querySelectorAll(".step")].map((element) => ({ element, candidate, step: Number(element.dataset.step) })));
    this.at = -1;
    this.listeners = new AbortController();
    this.all.forEach(({ element }, i) => element.addEventListener("click", () => getSelection().isCollapsed && this.go(i), { signal: this.listeners.signal }));
  }

  leave() {
    this.listeners.abort();
  }

  get current() {
    return this.all[this.at];
  }

  walk(by) {
    if (this.all.length) this.go(Math.min(this.all.length - 1, Math.max(0, this.at < 0 ? 0 : this.at + by)));
  }

  go(place) {
    this.at = place;
    const { element, candidate, step } = this.current;
    this.show();
    element.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.pick({ candidate, type: "step", step }, element.textContent.trim());
  }

  cancel() {
    this.at = -1;
    this.show();
  }

  show() {
    for (const [i, { element }] of this.all.entries()) element.classList.toggle("current", i === this.at);
  }

  quote({ candidate, step }) {
    return this.all.find((one) => one.candidate === candidate && one.step === step)?.element.textContent.trim() ?? "";
  }

  /** `groups`: lists of marks, a colour for each category. */
  draw(groups) {
    for (const { element } of this.all) element.className = "step";
    groups.forEach((marks, i) => {
      for (const mark of marks) {
        const found = this.all.find((one) => one.candidate === mark.candidate && one.step === mark.step);
        found?.element.classList.add(mark.first_error ? "first-error" : `marked-${i}`);
      }
    });
    this.show();
  }
}
