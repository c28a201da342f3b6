/* Which candidate is best; with best–worst also which is worst, by Shift and its digit. */

import { same } from "../rows.js";

/** A bar of buttons, of which one is pressed. `values`: what each of them stands for. */
class Bar {
  constructor(element, values, keys) {
    Object.assign(this, { element, values, keys, single: true });
    this.buttons = [...element.querySelectorAll("button")];
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      event.preventDefault();
      this.pick(this.buttons.indexOf(button));
    });
  }

  get value() {
    const place = this.buttons.findIndex((button) => button.getAttribute("aria-pressed") === "true");
    return this.values[place];
  }

  set value(value) {
    this.buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(value !== undefined && same(this.values[i], value))));
  }

  pick(place) {
    this.value = this.values[place];
    this.element.dispatchEvent(new CustomEvent("answered", { bubbles: true, detail: this }));
    this.element.dispatchEvent(new Event("input", { bubbles: true }));
  }

  done() {
    return this.value !== undefined;
  }

  press(name) {
    const place = this.keys.findIndex((keys) => keys.includes(name));
    if (place >= 0) this.pick(place);
    return place >= 0;
  }

  focus() {
    (this.buttons.find((button) => button.getAttribute("aria-pressed") === "true") ?? this.buttons[0]).focus();
  }
}

function readButton(button) {
  const { choice, strength } = button.dataset;
  const position = /^\d+$/.test(choice) ? Number(choice) : choice;
  return strength ? { choice: position, strength: Number(strength) } : { choice: position };
}

export function choice(section, { count, question }) {
  const [bestBar, worstBar] = section.querySelectorAll(".keys");
  const buttons = [...bestBar.querySelectorAll("button")];
  const keysOf = (button) => (bestBar.classList.contains("seven") && button.value === "0" ? ["0", "4"] : [button.value]);
  const best = new Bar(bestBar, buttons.map(readButton), buttons.map(keysOf));
  const positions = worstBar ? [...worstBar.querySelectorAll("button")].map((button) => Number(button.value)) : [];
  const worst = worstBar && new Bar(worstBar, positions, positions.map((i) => [`Shift+${i + 1}`]));
  const positional = () => typeof best.value?.choice === "number";
  if (worst) worst.done = () => worst.value !== undefined || (best.done() && !positional());
  return {
    rows: worst ? [best, worst] : [best],
    missing: (words) => (worst && positional() && worst.value === best.value.choice ? words.best_is_worst : ""),
    answer() {
      if (!best.done()) return {};
      const last = worst ? worst.value : question.worst && count === 2 ? 1 - best.value.choice : undefined;
      if (!positional() || last === undefined || last === best.value.choice) return { ...best.value };
      const middle = Array.from({ length: count }, (_, i) => i).filter((i) => i !== best.value.choice && i !== last);
      return { ...best.value, ranking: [[best.value.choice], ...(middle.length ? [middle] : []), [last]] };
    },
    fill(answer) {
      const given = answer.choice ?? undefined;
      best.value = given === undefined ? undefined : { choice: given, strength: answer.strength ?? null };
      if (worst) worst.value = answer.ranking?.at(-1)?.[0];
    },
  };
}
