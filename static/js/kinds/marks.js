/* Places in the candidates: spans and steps of texts, boxes and points on pictures; each gets a category, and
   a severity where the template asks one, by its digit. */

import { Places } from "../marking/places.js";
import { Spans } from "../marking/spans.js";
import { Steps } from "../marking/steps.js";
import { same } from "../rows.js";

const LONGEST_QUOTE = 60; // characters in the list
const COLOURS = 6;

export function marks(section, { question, required, board, words, announce }) {
  const element = section.querySelector(".row-of");
  const [pendingLine, categories, severities, list] = [".pending", ".categories", ".severities", ".marked"].map((css) => element.querySelector(css));
  let marked = [];
  let pending = null; // the place that waits for its category, then for its severity

  const tools = [];
  const hooks = { pick: propose, drop: () => setPending(null) };
  const asks = (...kinds) => question.kinds.some((kind) => kinds.includes(kind));
  const plain = board.panelElements.map((panel) => panel.querySelector(".plain")).filter(Boolean);
  const frames = board.panelElements.map((panel) => panel.querySelector(".box")).filter(Boolean);
  const spans = asks("span") && plain.length ? new Spans(plain, hooks) : null;
  const steps = asks("step") ? new Steps(board.panelElements, hooks) : null;
  const places = asks("box", "point") && frames.length ? new Places(frames, question.kinds, hooks) : null;
  tools.push(...[spans, steps, places].filter(Boolean));
  const toolOf = { span: spans, step: steps, box: places, point: places };

  const titleOf = (options, name) => options.find((option) => option.name === name)?.title ?? name;
  const quoteOf = (mark) => toolOf[mark.type]?.quote?.(mark) ?? "";
  const samePlace = (a, b) => ["candidate", "type", "start", "end", "box", "point", "step"].every((key) => same(a[key] ?? null, b[key] ?? null));

  function propose(place, quote = "") {
    element.dispatchEvent(new CustomEvent("writing", { bubbles: true }));
    setPending({ ...place });
    const found = marked.find((mark) => samePlace(mark, place));
    announce([describePlace(place), quote, found && describeMark(found)].filter(Boolean).join(". "));
  }

  function setPending(place) {
    pending = place;
    const open = Boolean(place);
    categories.hidden = !open || place.category !== undefined;
    severities.hidden = !open || place.category === undefined;
    pendingLine.textContent = open ? `${describePlace(place)} ${shorten(quoteOf(place))}` : "";
  }

  const shorten = (text) => (text ? `“${text.length > LONGEST_QUOTE ? `${text.slice(0, LONGEST_QUOTE)}…` : text}”` : "");

  function describePlace(mark) {
    const kind = mark.type === "step" ? `${words.step} ${mark.step + 1}` : words[mark.type];
    return `${board.nameOf(mark.candidate)} · ${kind}`;
  }

  function describeMark(mark) {
    const parts = [mark.first_error && words.first_error];
    if (mark.category) parts.push(titleOf(question.categories, mark.category));
    if (mark.severity) parts.push(titleOf(question.severities, mark.severity));
    return parts.filter(Boolean).join(", ");
  }

  const behindError = (place) => marked.some((mark) => mark.first_error && mark.candidate === place.candidate && mark.step < place.step);

  function finish(mark) {
    if (mark.type === "step" && behindError(mark)) return announceAndShow(words.behind_error);
    const clean = Object.fromEntries(Object.entries(mark).filter(([, value]) => value !== "" && value !== undefined));
    const others = marked.filter((one) => mark.type !== "step" || !samePlace(one, mark));
    const before = marked.find((one) => mark.type === "step" && samePlace(one, mark));
    if (before?.first_error) clean.first_error = true;
    set([...others.filter((one) => !same(one, clean)), clean]);
    announce(`${describePlace(mark)}: ${describeMark(clean)}`);
    setPending(null);
    getSelection().removeAllRanges();
    spans?.cancel();
    if (places) places.pending = null;
    draw();
    if (mark.type === "step") steps.walk(1);
    return undefined;
  }

  function announceAndShow(sentence) {
    announce(sentence);
    pendingLine.textContent = sentence;
  }

  function choose(name) {
    if (pending.category === undefined) pending.category = name;
    else pending.severity = name;
    if (question.severities.length && pending.severity === undefined) setPending(pending);
    else finish(pending);
  }

  /** One first error for each candidate; X on it again takes it back. */
  function firstError() {
    if (!steps?.current) return;
    const { candidate, step } = steps.current;
    const here = { candidate, type: "step", step };
    const was = marked.find((mark) => samePlace(mark, here))?.first_error;
    const cleared = marked.map((mark) => (mark.candidate === candidate ? { ...mark, first_error: undefined } : mark));
    const labelled = cleared.filter((mark) => was || mark.candidate !== candidate || mark.type !== "step" || mark.step <= step);
    const kept = labelled.filter((mark) => mark.type !== "step" || mark.category || (samePlace(mark, here) && !was));
    const found = kept.find((mark) => samePlace(mark, here));
    if (!was && found) found.first_error = true;
    else if (!was) kept.push({ ...here, first_error: true });
    set(kept.map((mark) => Object.fromEntries(Object.entries(mark).filter(([, value]) => value !== undefined))));
    announce(was ? words.removed : `${describePlace(here)}: ${words.first_error}`);
  }

  function set(next) {
    marked = next;
    draw();
    element.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function draw() {
    const groups = Array.from({ length: COLOURS }, () => ({ span: [], step: [], box: [], point: [] }));
    for (const mark of marked) {
      const place = question.categories.findIndex((option) => option.name === mark.category);
      groups[Math.max(0, place) % COLOURS][mark.type].push(mark);
    }
    spans?.draw(groups.map((group) => group.span));
    steps?.draw(groups.map((group) => group.step));
    places?.draw(groups.map((group) => [...group.box, ...group.point]));
    list.replaceChildren(...marked.map((mark, i) => entry(mark, i)));
  }

  function entry(mark, i) {
    const item = document.createElement("li");
    const text = document.createElement("span");
    text.dir = "auto";
    text.textContent = [describePlace(mark), shorten(quoteOf(mark)), describeMark(mark)].filter(Boolean).join(" ");
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "link";
    remove.textContent = words.remove;
    remove.setAttribute("aria-label", `${words.remove}: ${text.textContent}`);
    remove.addEventListener("click", () => {
      set(marked.filter((_, place) => place !== i));
      announce(words.removed);
      (list.querySelectorAll("button")[i] ?? row).focus();
    });
    item.append(text, " ", remove);
    return item;
  }

  function cancel() {
    for (const tool of tools) tool.cancel?.();
    getSelection().removeAllRanges();
    setPending(null);
  }

  for (const palette of [categories, severities]) {
    palette.addEventListener("pointerdown", (event) => event.preventDefault()); // the selection stays
    palette.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.dataset.first !== undefined) firstError();
      else if (button) choose(button.value);
    });
  }

  function press(name) {
    if (name === "j") return steps.walk(1);
    if (name === "k") return steps.walk(-1);
    if (name === "x") return firstError();
    if (pending && name === "Escape") return cancel();
    if (pending && name === "Enter" && !places?.claims(name)) return choose(palette()[0].value);
    if (pending && palette()[Number(name) - 1]) return choose(palette()[Number(name) - 1].value);
    return tools.find((tool) => tool.claims?.(name))?.press(name);
  }

  const palette = () => [...(categories.hidden ? severities : categories).querySelectorAll("button:not([data-first])")];
  const isNext = (name) => /^[1-9]$/.test(name) && Number(name) <= palette().length;
  const row = {
    element,
    single: false,
    done: () => marked.length > 0,
    press(name) {
      if (name !== "Backspace" || !marked.length || pending) return false;
      set(marked.slice(0, -1));
      announce(words.removed);
      return true;
    },
    focus() {
      const own = element.querySelector("button:not([hidden])") ?? element;
      if (own === element) element.tabIndex = -1;
      own.focus();
    },
  };

  return {
    rows: [row],
    complete: () => true,
    claims: (name) => (pending && (name === "Escape" || isNext(name) || (name === "Enter" && pending.type !== "step"))) || (steps && ["j", "k", "x"].includes(name)) || tools.some((tool) => tool.claims?.(name)),
    press: (name) => {
      press(name);
      return true;
    },
    answer: () => (marked.length || required ? { marks: marked } : {}),
    fill(answer) {
      marked = (answer.marks ?? []).map((mark) => ({ ...mark }));
      setPending(null);
      draw();
    },
    redraw: draw,
    leave() {
      for (const tool of tools) tool.leave();
    },
  };
}
