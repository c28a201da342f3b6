/* All candidates in order, best first: [[0], [2, 1]]. Digits in order, Shift+digit shares the rank before it,
   Backspace takes the last one back; a click places or takes back; dragging does all of it. */

const DRAG_FROM = 6; // pixels

export function ranking(section, { count, question }) {
  const element = section.querySelector(".row-of");
  const list = element.querySelector(".ranks");
  const pool = element.querySelector(".unranked");
  const chips = [...pool.children];
  let tiers = [];
  let dragged = null;

  const left = () => chips.map((_, i) => i).filter((i) => !tiers.flat().includes(i));
  const complete = () => left().length === 0 || (question.partial && tiers.flat().length > 1);
  const without = (candidate) => tiers.map((tier) => tier.filter((i) => i !== candidate)).filter((tier) => tier.length);

  function draw() {
    const focused = chips.includes(document.activeElement) ? document.activeElement : null;
    list.replaceChildren(...tiers.map((tier) => {
      const item = document.createElement("li");
      item.append(...tier.map((i) => chips[i]));
      return item;
    }));
    pool.replaceChildren(...left().map((i) => chips[i]));
    element.querySelector(".unranked-title").hidden = left().length === 0;
    focused?.focus();
  }

  function change(next) {
    tiers = next;
    draw();
    element.dispatchEvent(new Event("input", { bubbles: true }));
    if (left().length === 0) element.dispatchEvent(new CustomEvent("answered", { bubbles: true, detail: row }));
  }

  function place(candidate, { sharing = false } = {}) {
    const rest = without(candidate);
    if (sharing && question.ties && rest.length) change([...rest.slice(0, -1), [...rest.at(-1), candidate]]);
    else change([...rest, [candidate]]);
  }

  const row = {
    element,
    single: true,
    done: complete,
    focus: () => (pool.querySelector("button") ?? chips[0]).focus(),
    press(name) {
      const [, shift, digit] = /^(Shift\+)?([1-9])$/.exec(name) ?? [];
      if (name === "Backspace" && tiers.length) change(without(tiers.at(-1).at(-1)));
      else if (digit && Number(digit) <= count) place(Number(digit) - 1, { sharing: Boolean(shift) });
      else return false;
      return true;
    },
  };

  chips.forEach((chip, candidate) => {
    chip.addEventListener("click", () => {
      if (dragged) return;
      if (tiers.flat().includes(candidate)) change(without(candidate));
      else place(candidate);
    });
    chip.addEventListener("pointerdown", (event) => startDrag(event, chip, candidate));
  });

  function startDrag(start, chip, candidate) {
    const move = (event) => {
      const [dx, dy] = [event.clientX - start.clientX, event.clientY - start.clientY];
      if (!dragged && Math.hypot(dx, dy) < DRAG_FROM) return;
      dragged = chip;
      chip.classList.add("dragged");
      chip.style.transform = `translate(${dx}px, ${dy}px)`;
    };
    const drop = (event) => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", drop);
      removeEventListener("pointercancel", drop);
      chip.classList.remove("dragged");
      chip.style.transform = "";
      if (!dragged) return;
      if (event.type === "pointerup") dropAt(candidate, event.clientX, event.clientY);
      setTimeout(() => (dragged = null)); // behind the click that follows
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", drop);
    addEventListener("pointercancel", drop);
  }

  /** Onto another rank: shares it. Between two ranks: a rank of its own. Into the pool: not ranked. */
  function dropAt(candidate, x, y) {
    const inside = ({ left: l, right, top, bottom }) => x >= l && x <= right && y >= top && y <= bottom;
    if (inside(pool.getBoundingClientRect())) return change(without(candidate));
    const items = [...list.children].filter((item) => item.children.length > 1 || item.firstElementChild !== chips[candidate]);
    const boxes = items.map((item) => item.getBoundingClientRect());
    const tierOf = (item) => tiers.findIndex((tier) => tier.some((i) => i !== candidate && item.contains(chips[i])));
    const rest = tiers.map((tier) => tier.filter((i) => i !== candidate));
    const middle = boxes.findIndex((box) => y > box.top + box.height / 4 && y < box.bottom - box.height / 4 && inside({ ...box.toJSON(), left: -Infinity, right: Infinity }));
    if (middle >= 0 && question.ties) {
      rest[tierOf(items[middle])].push(candidate);
    } else {
      const before = items.findIndex((item, i) => y < boxes[i].top + boxes[i].height / 2);
      rest.splice(before < 0 ? rest.length : tierOf(items[before]), 0, [candidate]);
    }
    return change(rest.filter((tier) => tier.length));
  }

  return {
    rows: [row],
    complete,
    answer: () => (tiers.length ? { ranking: tiers } : {}),
    fill(answer) {
      tiers = (answer.ranking ?? []).map((tier) => [...tier]);
      draw();
    },
  };
}
