/* What the keys do that belong to no question: scrolling, zooming, and everything beside the work. An action
   that returns false was not meant; one marked `repeats` goes on while its key is held down. */

const repeating = (action) => Object.assign(action, { repeats: true });

export function actionsOf({ board, form, drawer, undo, toggleMarks, skip, help }) {
  const isImages = () => Boolean(board.zoom);
  const pages = (by) => repeating(() => !isImages() && board.scrollBy(by));
  const zoom = (by) => repeating(() => board.zoom?.by(by));
  const arrow = (dx, dy) => repeating((event) => {
    if (event.target.closest("input, .drawer")) return false; // radio buttons have arrows of their own
    if (isImages() && board.zoom.scale > 1) return board.zoom.move(dx, dy);
    if (dx) return board.swipe(-Math.sign(dx) * (getComputedStyle(board.panels).direction === "rtl" ? -1 : 1));
    if (isImages() || event.target.closest(".scroll, .prose, .questions")) return false;
    return board.scrollBy(-dy);
  });
  return {
    s: skip,
    z: undo,
    d: () => !isImages() && toggleMarks(),
    r: () => form.reasons(),
    g: () => void drawer.toggle("guidelines"),
    h: () => void drawer.toggle("history"),
    t: () => void drawer.toggle("session"),
    "?": help,
    Escape: () => {
      if (drawer.shows) return drawer.close();
      form.restart();
      return board.prompt.focus({ preventScroll: true });
    },
    Space: () => (isImages() ? board.turn(1) : board.scrollBy(0.9)),
    "Shift+Space": pages(-0.9),
    PageDown: pages(0.9),
    PageUp: pages(-0.9),
    "+": zoom(1.25),
    "=": zoom(1.25),
    "-": zoom(0.8),
    f: () => board.zoom?.reset(),
    ArrowLeft: arrow(0.1, 0),
    ArrowRight: arrow(-0.1, 0),
    ArrowUp: arrow(0, 0.1),
    ArrowDown: arrow(0, -0.1),
  };
}
