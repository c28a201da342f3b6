/* The comparison on screen: prompt and candidates. It shows what it is given and asks the server nothing. */

import { hideDifference, showDifference } from "./diff.js";
import { Zoom } from "./zoom.js";

const FOLD_AFTER = 48; // pixels scrolled

/** The name of a presented position, as the server writes it. */
const nameOf = (index) => (index < 26 ? String.fromCharCode(65 + index) : String(index + 1));

export class Board {
  /** `words`: what it tells, in the person's language. */
  constructor(main, words) {
    this.words = words;
    this.context = main.querySelector("#context");
    this.prompt = main.querySelector("#prompt");
    this.promptText = this.prompt.querySelector(".prose");
    this.foldButton = this.prompt.querySelector(".fold");
    this.panels = main.querySelector("#panels");
    this.tabs = main.querySelector("#tabs");
    this.templates = { text: document.querySelector("#text-candidate"), image: document.querySelector("#image-candidate") };
    this.marking = false;
    this.turned = 0;
    this.foldButton.addEventListener("click", () => this.fold(!this.prompt.classList.contains("folded")));
    this.panels.addEventListener("scroll", (event) => this.linkScroll(event.target), { capture: true, passive: true });
    this.panels.addEventListener("scrollend", () => this.showTab(), { passive: true });
    this.tabs.addEventListener("click", (event) => this.swipe([...this.tabs.children].indexOf(event.target) - this.visibleIndex()));
    addEventListener("blur", () => this.turn(0));
  }

  nameOf(position) {
    return nameOf(position);
  }

  get panelElements() {
    return [...this.panels.children];
  }

  show(item) {
    this.turned = 0;
    this.context.hidden = !item.context_html;
    this.context.querySelector(".prose").innerHTML = item.context_html ?? ""; // these are sanitised by the server
    this.promptText.innerHTML = item.prompt_html;
    this.panels.replaceChildren(...item.candidates.map((candidate, index) => this.panel(candidate, index)));
    this.panels.dataset.count = item.candidates.length;
    this.panels.toggleAttribute("data-wrap", item.candidates.length > 3);
    this.panels.scrollLeft = 0;
    this.adopt(item);
    this.panels.classList.remove("entering");
    requestAnimationFrame(() => this.panels.classList.add("entering"));
  }

  /** Takes over what stands on the page, whether the server or `show` put it there. */
  adopt(item) {
    this.item = item;
    this.scrollers = [...this.panels.querySelectorAll(".scroll")];
    const boxes = [...this.panels.querySelectorAll(".box")];
    this.zoom = boxes.length ? new Zoom(boxes) : null;
    for (const image of this.panels.querySelectorAll(".box img")) this.fit(image);
    this.showTabs(item.candidates.length);
    const isConversation = this.promptText.querySelector(".turn");
    this.promptText.scrollTop = isConversation ? this.promptText.scrollHeight : 0; // its last turn is what is answered
    this.offerFold();
    this.mark();
  }

  panel(candidate, index) {
    const kind = "image" in candidate ? "image" : "text";
    const panel = this.templates[kind].content.firstElementChild.cloneNode(true);
    const name = nameOf(index);
    panel.dataset.side = index;
    panel.querySelector("h2").textContent = name;
    const body = panel.querySelector(".scroll, .box");
    body.setAttribute("aria-label", this.words.answer.replace("%s", name));
    if (kind === "text") {
      body.firstElementChild.innerHTML = candidate.html; // sanitised by the server
    } else {
      const image = body.querySelector("img");
      image.alt = this.words.picture.replace("%s", name);
      image.src = candidate.image;
    }
    return panel;
  }

  /** Small pictures are shown with hard pixels rather than blurred. */
  fit(image) {
    const judge = () => image.classList.toggle("tiny", image.naturalWidth > 0 && image.naturalWidth * 3 < image.clientWidth);
    if (image.complete) judge();
    image.addEventListener("load", judge);
  }

  // Prompt
  fold(folded) {
    this.prompt.classList.toggle("folded", folded);
    this.foldButton.setAttribute("aria-expanded", String(!folded));
    this.foldButton.textContent = folded ? this.words.unfold : this.words.fold;
  }

  offerFold() {
    this.fold(false);
    this.foldButton.hidden = this.promptText.clientHeight < 60;
  }

  // Scrolling
  linkScroll(source) {
    if (!source.classList?.contains("scroll")) return;
    if (!this.oneAtATime()) {
      for (const other of this.scrollers) if (other !== source && other.scrollTop !== source.scrollTop) other.scrollTop = source.scrollTop;
    }
    this.foldOnScroll(source);
  }

  /** Folding gives the text more room; fold only if there is still something to scroll afterwards. */
  foldOnScroll(source) {
    if (this.foldButton.hidden) return;
    const folded = this.prompt.classList.contains("folded");
    const gain = this.promptText.clientHeight;
    if (!folded && source.scrollTop > FOLD_AFTER && source.scrollHeight - source.clientHeight > gain + FOLD_AFTER) this.fold(true);
    else if (folded && source.scrollTop === 0) this.fold(false);
  }

  oneAtATime() {
    return this.panels.scrollWidth > this.panels.clientWidth + 4;
  }

  scrollBy(pages) {
    const visible = this.oneAtATime() ? [this.scrollers[this.visibleIndex()]] : this.scrollers;
    const longest = visible.reduce((a, b) => (b && b.scrollHeight > a.scrollHeight ? b : a), visible[0]);
    if (longest) longest.scrollTop += pages * longest.clientHeight;
  }

  visibleIndex() {
    return Math.round(Math.abs(this.panels.scrollLeft) / this.panels.clientWidth);
  }

  swipe(step) {
    if (!this.oneAtATime()) return;
    const target = this.panels.children[this.visibleIndex() + step];
    target?.scrollIntoView({ inline: "start", block: "nearest" });
  }

  /** A narrow screen names the candidates above the one that it shows. */
  showTabs(count) {
    this.tabs.replaceChildren(...Array.from({ length: count }, (_, index) => {
      const tab = document.createElement("button");
      tab.type = "button";
      tab.textContent = nameOf(index);
      return tab;
    }));
    this.showTab();
  }

  showTab() {
    const shown = this.visibleIndex();
    [...this.tabs.children].forEach((tab, i) => tab.setAttribute("aria-pressed", String(i === shown)));
  }

  // Pictures
  /** Flicker: every picture in its neighbour's place, so that the eye sees what moves. */
  turn(by) {
    if (!this.zoom || this.turned === by) return;
    this.turned = by;
    const panels = [...this.panels.children];
    panels.forEach((panel, i) => (panel.style.order = by ? (i + by) % panels.length : ""));
  }

  // Differences
  toggleMarks() {
    this.marking = !this.marking;
    return this.mark();
  }

  /** What to tell about the marks: "", or a sentence. */
  mark() {
    hideDifference(this.panels);
    if (!this.marking) return "";
    if (this.scrollers.length !== 2) return this.words.only_two;
    const [left, right] = this.scrollers.map((element) => element.firstElementChild);
    if (!showDifference(left, right)) return this.words.too_different;
    return left.querySelector("mark") || right.querySelector("mark") ? "" : this.words.same_words;
  }
}
