/* The answer as it should be, with what changes beside it while it is written: [null, "better text"].
   Of a chat the assistant's last message is corrected. */

import { drawDifference } from "../diff.js";
import { TextRow } from "../rows.js";

class CorrectionRow extends TextRow {
  constructor(element, answer) {
    super(element);
    this.answer = answer;
    this.original = this.textOf(answer);
    this.button = element.querySelector(".open-correction");
    this.editor = element.querySelector(".editor");
    this.button.addEventListener("click", () => {
      this.open(this.editor.hidden);
      (this.editor.hidden ? this.button : this.input).focus();
    });
    this.input.addEventListener("input", () => this.draw());
    element.querySelector(".discard").addEventListener("click", () => {
      this.value = null;
      this.button.focus();
      element.dispatchEvent(new Event("input", { bubbles: true }));
    });
  }

  open(open) {
    this.editor.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
    if (open) this.element.dispatchEvent(new CustomEvent("writing", { bubbles: true }));
  }

  get last() {
    return Array.isArray(this.answer) ? this.answer.findLastIndex((message) => message.role === "assistant") : -1;
  }

  textOf(answer) {
    return Array.isArray(answer) ? answer[this.last].content : answer;
  }

  get value() {
    const text = this.input.value;
    if (text === this.original) return null;
    return Array.isArray(this.answer) ? this.answer.map((message, i) => (i === this.last ? { ...message, content: text } : message)) : text;
  }

  set value(corrected) {
    this.input.value = corrected === null ? this.original : this.textOf(corrected);
    this.open(corrected !== null);
    this.draw();
  }

  draw() {
    drawDifference(this.element.querySelector(".difference"), this.original, this.input.value);
  }

  done() {
    return this.value !== null;
  }

  focus() {
    this.open(true);
    super.focus();
  }
}

export function correction(section, { item }) {
  const elements = [...section.querySelectorAll("[data-row]")];
  const rows = elements.map((element, i) => new CorrectionRow(element, item.candidates[i].text));
  return {
    rows,
    answer: () => (rows.some((row) => row.done()) ? { corrections: rows.map((row) => row.value) } : {}),
    fill(answer) {
      rows.forEach((row, i) => (row.value = answer.corrections?.[i] ?? null));
    },
    /** C: the first answer that is not being corrected yet. */
    keys: { c: () => (rows.find((row) => row.editor.hidden) ?? rows[0]).focus() },
  };
}
