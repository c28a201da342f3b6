/* Guidelines, history and the session's figures beside the work: one key away, none of them in the way. */

export class Drawer {
  /** `urls`: where parts come from when they are opened; `onClose()`, `onLoad(part, element)`. */
  constructor(element, { urls, titles, onClose, onLoad }) {
    Object.assign(this, { element, urls, titles, onClose, onLoad });
    this.title = element.querySelector("h2");
    element.querySelector("#close-drawer").addEventListener("click", () => this.close());
    for (const link of document.querySelectorAll("[data-opens]")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        this.toggle(link.dataset.opens);
      });
    }
  }

  get shows() {
    return this.element.hidden ? null : this.element.dataset.shows;
  }

  close() {
    this.element.hidden = true;
    this.onClose();
  }

  async toggle(name) {
    if (this.shows === name) return this.close();
    this.element.hidden = false;
    this.element.dataset.shows = name;
    this.title.textContent = this.titles[name];
    for (const part of this.element.querySelectorAll("[data-part]")) part.hidden = part.dataset.part !== name;
    this.title.focus();
    return this.load(name);
  }

  async load(name) {
    if (!this.urls[name]) return;
    const part = this.element.querySelector(`[data-part=${name}]`);
    await window.htmx.ajax("GET", this.urls[name], { target: part, swap: "innerHTML" });
    this.onLoad(name, part);
  }
}
