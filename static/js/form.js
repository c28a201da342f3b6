/* The form of the comparison on screen. The server wrote it; this puts the keys on it and the answer together.
   A template of one question with one answer needs no Submit: its key is the judgement. */

import { KINDS } from "./kinds/index.js";

const ON_DEMAND = "tiebreak:reasons"; // whether what is optional is open, on this device

export class AnswerForm {
  /** `onSubmit(answer)`, `onChange(answer)` while it is being written. */
  constructor(element, { board, keyboard, words, announce, onSubmit, onChange }) {
    Object.assign(this, { element, board, keyboard, words, announce, onSubmit, onChange });
    this.controllers = [];
    this.current = null;
    element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    element.addEventListener("answered", (event) => this.answered(event.detail));
    element.addEventListener("input", () => this.changed());
    element.addEventListener("writing", () => this.onDemand && this.questions.hidden && this.open(true));
    element.addEventListener("focusin", (event) => {
      this.current = this.rows.find((row) => row.element.contains(event.target)) ?? this.current;
    });
  }

  /** Puts the form of `item` on the page, with an answer that was begun or given before. */
  show(item, answer = {}) {
    this.leave();
    const place = this.element.querySelector(".form");
    place.innerHTML = item.form_html; // written by the server
    this.keyboard.label(place);
    this.element.querySelector("[name=lease]").value = item.lease;
    this.questions = place.querySelector(".questions");
    this.send = place.querySelector(".send");
    this.onDemand = Boolean(this.questions?.hasAttribute("data-on-demand"));
    const order = item.questions.map((question) => question.type);
    const sections = [...place.querySelectorAll(".question")];
    sections.sort((a, b) => order.indexOf(a.dataset.kind) - order.indexOf(b.dataset.kind));
    this.controllers = sections.map((section) => this.control(section, item));
    for (const one of this.controllers) one.fill(answer);
    if (this.onDemand) this.open(localStorage.getItem(ON_DEMAND) === "open" || this.hasReasons());
    else this.showSend();
    this.current = this.rows.find((row) => !row.done()) ?? this.rows[0];
  }

  hasReasons() {
    return this.controllers.some((one) => one.kind !== "choice" && Object.keys(one.answer()).length);
  }

  /** The rows that can be seen, in the template's order. */
  get rows() {
    return this.controllers.flatMap((one) => one.rows).filter((row) => row.element.offsetParent);
  }

  control(section, item) {
    const question = JSON.parse(section.dataset.question);
    const required = section.hasAttribute("data-required");
    const { board, words, announce } = this;
    const context = { item, count: item.candidates.length, question, required, board, words, announce };
    return { section, required, kind: section.dataset.kind, ...KINDS[section.dataset.kind](section, context) };
  }

  leave() {
    for (const one of this.controllers) one.leave?.();
    this.controllers = [];
  }

  /** One key is the judgement: one row of one answer, and nothing else open. */
  get quick() {
    const [row, ...others] = this.rows;
    return Boolean(row?.single) && !others.length && !row.element.matches(".ranking");
  }

  answer() {
    return Object.assign({}, ...this.controllers.map((one) => one.answer()));
  }

  // Keys

  press(name) {
    const claimed = this.controllers.find((one) => one.claims?.(name));
    if (claimed) return claimed.press(name) ?? true;
    if (name === "Enter" || name === "Ctrl+Enter") return this.enter();
    if (name === "ArrowDown" || name === "ArrowUp") return this.move(name === "ArrowDown" ? 1 : -1);
    if (this.current?.press(name)) return true;
    if (!/^\d$/.test(name) && this.rows.some((row) => row !== this.current && row.press(name))) return true;
    const own = this.controllers.find((one) => one.keys?.[name]);
    own?.keys[name]();
    return Boolean(own);
  }

  /** Back to the first row, from which digits start again. */
  restart() {
    this.current = this.rows[0];
  }

  enter() {
    if (this.quick) return false;
    this.submit();
    return true;
  }

  /** Up and down go through the rows while the focus is among them. */
  move(by) {
    const { rows } = this;
    const here = rows.findIndex((row) => row.element.contains(document.activeElement));
    if (here < 0 || rows.length < 2) return false;
    rows[(here + by + rows.length) % rows.length].focus();
    return true;
  }

  // Answers

  changed() {
    this.tellMissing("");
    this.onChange(this.answer());
  }

  /** A row that takes one answer has it: the judgement is complete, or the next row is asked. */
  answered(row) {
    if (this.quick) return this.submit();
    const { rows } = this;
    const here = rows.indexOf(row);
    const inTurn = [...rows.slice(here + 1), ...rows.slice(0, here)];
    const next = inTurn.find((one) => !one.done() && (this.isRequired(one) || (one.single && inTurn.indexOf(one) < rows.length - here - 1)));
    this.current = next ?? row;
    if (next) next.focus();
    else this.send.querySelector("button").focus();
  }

  isRequired(row) {
    return this.controllers.some((one) => one.required && one.rows.includes(row));
  }

  submit() {
    const lacking = this.lacking();
    if (lacking) {
      lacking.row.focus();
      return this.tellMissing(lacking.sentence);
    }
    return this.onSubmit(this.answer());
  }

  /** The first thing in the way of submitting: {row, sentence}. */
  lacking() {
    for (const one of this.controllers) {
      const sentence = one.missing?.(this.words);
      if (sentence) return { row: one.rows[0], sentence };
      const begun = Object.keys(one.answer()).length > 0;
      if (!one.required && !(begun && one.complete)) continue; // what is optional may stay half done
      const complete = one.complete ? one.complete() : begun && one.rows.every((row) => row.done() || !row.single);
      if (!complete) {
        const row = one.rows.find((each) => !each.done()) ?? one.rows[0];
        return { row, sentence: `${this.words.still_to_answer} ${this.nameOf(one, row)}` };
      }
    }
    return null;
  }

  nameOf(one, row) {
    const parts = [one.section.querySelector("h3")?.firstChild.textContent ?? one.section.querySelector(".keys").getAttribute("aria-label")];
    if (one.rows.length > 1) parts.push(row.element.querySelector("legend")?.textContent);
    return parts.filter(Boolean).map((text) => text.trim()).join(" · ");
  }

  tellMissing(sentence) {
    const place = this.send?.querySelector(".missing");
    if (place) place.textContent = sentence;
    else if (sentence) this.announce(sentence);
  }

  // What is optional opens on demand

  open(open) {
    this.questions.hidden = !open;
    this.showSend();
    this.element.dispatchEvent(new CustomEvent("opened"));
    this.current = this.rows[0];
  }

  showSend() {
    if (this.send) this.send.hidden = this.quick && this.rows[0].element.matches(".keys");
  }

  /** R: open and go there, or close; where all is open, go to the place to write. */
  reasons() {
    if (!this.questions) return undefined;
    const inside = this.questions.contains(document.activeElement);
    if (this.onDemand) {
      const open = this.questions.hidden || !inside;
      this.open(open);
      localStorage.setItem(ON_DEMAND, open ? "open" : "closed");
      if (!open) return this.board.prompt.focus({ preventScroll: true });
    }
    const rows = this.rows.filter((row) => this.questions.contains(row.element));
    (this.onDemand ? rows[0] : rows.find((row) => row.writes) ?? rows[0])?.focus();
    return undefined;
  }
}
