/* The answer as it should be, with what changes beside it while it is written: [null, "better text"]. */

import { drawDifference } from "../diff.js";
import { TextRow } from "../rows.js";

class CorrectionRow extends TextRow {
  constructor(element, original) {
    super(element);
    this.original = original;
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
    this.element.dispatchEvent(new CustomEvent("writing", { bubbles: true }));
  }

  get value() {
    return this.input.value === this.original ? null : this.input.value;
  }

  set value(text) {
    this.input.value = text ?? this.original;
    this.open(text !== null);
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
  const originals = item.candidates.map((candidate) => candidate.correctable ?? candidate.text);
  const rows = [...section.querySelectorAll("[data-row]")].map((element, i) => new CorrectionRow(element, originals[i]));
  return {
    rows,
    answer: () => (rows.some((row) => row.done()) ? { corrections: rows.map((row) => row.value) } : {}),
    fill(answer) {
      rows.forEach((row, i) => (row.value = answer.corrections?.[i] ?? null));
    },
    /** C: the first editor, then the next one. */
    keys: {
      c() {
        const here = rows.findIndex((row) => row.element.contains(document.activeElement));
        rows[(here + 1) % rows.length].focus();
      },
    },
  };
}
