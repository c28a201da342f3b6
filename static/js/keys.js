/* One key, one action. Keys rest while somebody types, and can be switched off altogether. */

const STORE = "tiebreak:keys";

export const keysAreOn = () => localStorage.getItem(STORE) !== "off";

export function switchKeys(on) {
  localStorage.setItem(STORE, on ? "on" : "off");
}

const types = (element) => element.closest("input, textarea, select, [contenteditable]");
const acts = (element) => element.closest("a[href], button, summary, input");

/** `actions` maps a key (lower case, "Space", "Shift+Space") to a function; true from it means "not mine". */
export function listenToKeys(actions) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !keysAreOn()) return;
    if (document.querySelector("dialog[open]") || types(event.target)) return;
    let name = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (name === "Space" && acts(event.target)) return;
    if (name === "Space" && event.shiftKey) name = "Shift+Space";
    const action = actions[name];
    if (!action || (event.repeat && !action.repeats)) return;
    if (action(event) !== true) event.preventDefault();
  });
}

/** Marks an action that a key held down repeats. */
export function repeating(action) {
  action.repeats = true;
  return action;
}
