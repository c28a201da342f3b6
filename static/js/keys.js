/* Keys of the judging page. A person may move each letter and digit elsewhere: what is pressed is first
   translated into the key that the page knows. Keys rest while somebody types, and can be switched off. */

const STORE = "tiebreak:keys";

export const keysAreOn = () => localStorage.getItem(STORE) !== "off";

export function switchKeys(on) {
  localStorage.setItem(STORE, on ? "on" : "off");
}

const WRITING = "textarea, select, [contenteditable], input:not([type=radio], [type=checkbox], [type=button], [type=submit])";
const acts = (element) => element.closest("a[href], button, summary, input, label");

/** `map`: {key of the page: key of this person}, whole. */
export class Keyboard {
  constructor(map) {
    this.map = map;
    this.meaning = new Map(Object.entries(map).map(([ours, theirs]) => [theirs, ours]));
  }

  /** Writes this person's keys on everything that names one. */
  label(root) {
    for (const kbd of root.querySelectorAll("kbd[data-key], kbd [data-key]")) {
      kbd.textContent = (this.map[kbd.dataset.key] ?? kbd.dataset.key).toUpperCase();
    }
  }

  /** "1", "s", "Shift+2", "Ctrl+Enter", "ArrowUp", "Space"; "" for a key that means nothing here. */
  name(event) {
    const digit = /^Digit(\d)$/.exec(event.code)?.[1];
    const isSign = event.key.length === 1 && !/[\p{L}\p{N}]/u.test(event.key);
    let key = event.key === " " ? "Space" : digit && isSign ? digit : event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const shift = event.shiftKey && !/^\d$/.test(event.key) ? "Shift+" : ""; // digits behind Shift on French keyboards
    if (/^[a-z0-9]$/.test(key)) key = this.meaning.get(key) ?? "";
    else if (key.length === 1) return key; // +, -, ?, whichever keys they take
    if (!key) return "";
    return `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${shift}${key}`;
  }

  /** `press(name, event)` returns true if the key was its own. */
  listen(press) {
    addEventListener("keydown", (event) => {
      if (event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
      const writing = event.target.closest(WRITING);
      const name = this.name(event);
      if (!name || (name.startsWith("Ctrl+") && name !== "Ctrl+Enter" && !name.includes("Arrow"))) return;
      if (writing ? name !== "Ctrl+Enter" && name !== "Escape" : !keysAreOn() && !/^(Ctrl\+)?Enter$|^Escape$/.test(name)) return;
      if ((name === "Space" || name === "Enter") && acts(event.target) && !(name === "Enter" && event.target.closest("input"))) return;
      if (press(name, event)) event.preventDefault();
    });
  }
}
