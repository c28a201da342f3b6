/* Selecting characters of an answer, with the mouse or with a caret that the arrows move. Offsets count
   Unicode code points of the whole text, as the server does. */

const characters = (text) => [...text].length;

export class Spans {
  /** `texts`: the element of each candidate's text; `pick({candidate, type, start, end}, quote)`, `drop()`. */
  constructor(texts, { pick, drop }) {
    Object.assign(this, { texts, pick, drop, picked: "" });
    this.caret = document.createElement("div");
    this.caret.className = "caret";
    this.watch = () => this.selected();
    document.addEventListener("selectionchange", this.watch);
  }

  leave() {
    document.removeEventListener("selectionchange", this.watch);
    this.caret.remove();
    CSS.highlights?.clear();
  }

  selected() {
    const selection = getSelection();
    const range = selection.rangeCount ? selection.getRangeAt(0) : null;
    const candidate = range ? this.texts.findIndex((text) => text.contains(range.commonAncestorContainer)) : -1;
    if (candidate < 0) return;
    this.drawCaret(candidate);
    if (range.collapsed) return void this.dropped();
    const text = this.texts[candidate];
    const before = document.createRange();
    before.setStart(text, 0);
    before.setEnd(range.startContainer, range.startOffset);
    const start = characters(before.toString()), quote = range.toString();
    const blank = quote.length - quote.trimStart().length;
    const words = quote.trim();
    if (!words) return void this.dropped();
    const from = start + characters(quote.slice(0, blank));
    const place = { candidate, type: "span", start: from, end: from + characters(words) };
    if (JSON.stringify(place) === this.picked) return; // the event of what a key has picked already
    this.picked = JSON.stringify(place);
    this.pick(place, words);
  }

  dropped() {
    this.cancel();
    this.drop();
  }

  cancel() {
    this.picked = "";
  }

  /** Arrows in the text that has the focus: with Shift they select, with Ctrl by words. */
  claims(name) {
    return /Arrow/.test(name) && this.focused() >= 0;
  }

  focused() {
    return this.texts.findIndex((text) => text.closest(".scroll").contains(document.activeElement));
  }

  press(name) {
    const text = this.texts[this.focused()];
    const selection = getSelection();
    if (!text.contains(selection.anchorNode)) selection.collapse(this.firstVisible(text), 0);
    const [, direction] = /Arrow(\w+)/.exec(name);
    const [way, unit] = { Left: ["left", "character"], Right: ["right", "character"], Up: ["backward", "line"], Down: ["forward", "line"] }[direction];
    selection.modify(name.includes("Shift+") ? "extend" : "move", way, name.includes("Ctrl+") && unit === "character" ? "word" : unit);
    this.selected(); // the event comes later than a quick next key
    this.keepInSight(text);
  }

  firstVisible(text) {
    return document.createTreeWalker(text, NodeFilter.SHOW_TEXT).nextNode() ?? text;
  }

  focusRect() {
    const selection = getSelection();
    const range = document.createRange();
    range.setStart(selection.focusNode, selection.focusOffset);
    return range.getClientRects()[0];
  }

  drawCaret(candidate) {
    const scroll = this.texts[candidate].closest(".scroll");
    const place = this.focusRect();
    if (!place || !scroll.contains(document.activeElement)) return this.caret.remove();
    const frame = scroll.getBoundingClientRect();
    scroll.append(this.caret);
    this.caret.style.left = `${place.left - frame.left + scroll.scrollLeft}px`;
    this.caret.style.top = `${place.top - frame.top + scroll.scrollTop}px`;
    this.caret.style.height = `${place.height}px`;
    return undefined;
  }

  keepInSight(text) {
    const scroll = text.closest(".scroll"), place = this.focusRect();
    if (!place) return;
    const frame = scroll.getBoundingClientRect();
    if (place.bottom > frame.bottom - 24) scroll.scrollTop += place.bottom - frame.bottom + 48;
    else if (place.top < frame.top + 24) scroll.scrollTop -= frame.top - place.top + 48;
  }

  /** Highlights what is marked, a colour for each category. `groups`: lists of spans. */
  draw(groups) {
    if (!CSS.highlights) return;
    CSS.highlights.clear();
    groups.forEach((marks, i) => {
      const ranges = marks.map((mark) => this.range(mark)).filter(Boolean);
      if (ranges.length) CSS.highlights.set(`marked-${i}`, new Highlight(...ranges));
    });
  }

  quote(mark) {
    return [...this.texts[mark.candidate].textContent].slice(mark.start, mark.end).join("");
  }

  range({ candidate, start, end }) {
    const walker = document.createTreeWalker(this.texts[candidate], NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    let seen = 0, begun = false;
    while (walker.nextNode()) {
      const letters = [...walker.currentNode.data];
      const at = (offset) => letters.slice(0, offset - seen).join("").length;
      if (!begun && start < seen + letters.length) {
        range.setStart(walker.currentNode, at(start));
        begun = true;
      }
      if (begun && end <= seen + letters.length) {
        range.setEnd(walker.currentNode, at(end));
        return range;
      }
      seen += letters.length;
    }
    return null;
  }
}
