/* Rows of a form: what the kinds of questions share. A row is {element, single, done(), press(name), focus()};
   the keys go to the row that has the focus, and from a row that takes one answer on to the next. */

/** Two answers that mean the same: keys in any order, null like nothing. */
export function same(a, b) {
  if (a === null || b === null || typeof a !== "object" || typeof b !== "object") return (a ?? null) === (b ?? null);
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].every((key) => same(a[key] ?? null, b[key] ?? null));
}

const changed = (input) => input.dispatchEvent(new Event("input", { bubbles: true }));
const answered = (row) => row.element.dispatchEvent(new CustomEvent("answered", { bubbles: true, detail: row }));

/** A fieldset of radio buttons, of which one is the answer. */
class RadioRow {
  constructor(element) {
    this.element = element;
    this.single = true;
    this.path = element.dataset.row;
    this.inputs = [...element.querySelectorAll("input")];
    element.addEventListener("click", (event) => {
      if (event.target.matches(".face")) setTimeout(() => answered(this)); // once the button behind it is checked
    });
  }

  get checked() {
    return this.inputs.find((input) => input.checked);
  }

  get value() {
    return this.checked && JSON.parse(this.checked.value);
  }

  set value(value) {
    for (const input of this.inputs) input.checked = value !== undefined && same(JSON.parse(input.value), value);
  }

  done() {
    return Boolean(this.checked);
  }

  press(name) {
    if (name === "Backspace") {
      if (!this.checked) return false;
      this.value = undefined;
      changed(this.inputs[0]);
      return true;
    }
    const input = this.inputs.find((one) => one.dataset.key === name);
    if (!input) return false;
    input.checked = true;
    changed(input);
    answered(this);
    return true;
  }

  focus() {
    (this.checked ?? this.inputs[0]).focus();
  }
}

/** A fieldset of ticks, of which any number is the answer. */
class TickRow {
  constructor(element) {
    this.element = element;
    this.single = false;
    this.path = element.dataset.row;
    this.inputs = [...element.querySelectorAll("input")];
  }

  get values() {
    return this.inputs.filter((input) => input.checked).map((input) => JSON.parse(input.value));
  }

  set values(values) {
    for (const input of this.inputs) input.checked = values.includes(JSON.parse(input.value));
  }

  done() {
    return this.values.length > 0;
  }

  press(name) {
    const input = this.inputs.find((one) => one.dataset.key === name);
    if (!input) return false;
    input.checked = !input.checked;
    changed(input);
    return true;
  }

  focus() {
    this.inputs[0].focus();
  }
}

/** A place to write: keys go through to the text. */
export class TextRow {
  constructor(element) {
    this.element = element;
    this.single = false;
    this.writes = true;
    this.input = element.querySelector("textarea");
  }

  done() {
    return this.input.value.trim() !== "";
  }

  press() {
    return false;
  }

  focus() {
    this.input.focus();
  }
}

export const radioRows = (section) => [...section.querySelectorAll("[data-row]")].map((element) => new RadioRow(element));
export const tickRows = (section) => [...section.querySelectorAll("[data-row]")].map((element) => new TickRow(element));
