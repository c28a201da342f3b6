/* The plot of the quality page: each annotator's time against their agreement with others, with intervals.
   Read with the pointer, or with the arrow keys when it has the focus; the table below it has the numbers. */

import { format, label, make } from "./charts.js";

const WIDTH = 640;
const HEIGHT = 260;
const EDGE = { left: 46, right: 16, top: 12, bottom: 36 };
const NAMES_UP_TO = 12;

const figure = document.getElementById("scatter");
const people = JSON.parse(document.getElementById("scatter-points").textContent).sort((a, b) => a.x - b.x);
draw(figure, people);

function draw(element, points) {
  const reading = document.createElement("output");
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: "0", "aria-label": element.dataset.title });
  const last = Math.max(...points.map((point) => point.x)) * 1.1;
  const low = Math.max(0, Math.floor(Math.min(...points.map((point) => point.low)) * 10) / 10);
  const x = (value) => EDGE.left + ((WIDTH - EDGE.left - EDGE.right) * value) / last;
  const y = (value) => HEIGHT - EDGE.bottom - ((HEIGHT - EDGE.top - EDGE.bottom) * (value - low)) / (1 - low);
  const step = 1 - low > 0.5 ? 0.2 : 0.1;
  for (let share = 1; share >= low - 1e-9; share -= step) {
    svg.append(
      make("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(share), y2: y(share) }),
      label(`${Math.round(100 * share)} %`, EDGE.left - 6, y(share) + 4, "end"),
    );
  }
  const chance = parseFloat(element.dataset.chance);
  if (chance > low) svg.append(make("line", { class: "chance", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(chance), y2: y(chance) }));
  for (const part of [0, 0.25, 0.5, 0.75, 1]) svg.append(label(format(part * last), x(part * last), HEIGHT - EDGE.bottom + 14, "middle"));
  svg.append(label(element.dataset.x, WIDTH - EDGE.right, HEIGHT - 4, "end"));
  // Names stand beside their points, on the side and at the height where nothing stands yet.
  const taken = points.map((point) => ({ x: x(point.x) - 5, width: 10, y: y(point.y) + 4 }));
  const isFree = (place) => !taken.some((other) => place.x < other.x + other.width && other.x < place.x + place.width && Math.abs(place.y - other.y) < 12);
  const placeOf = (point) => {
    const width = 7 * point.name.length;
    const places = [0, -12, 12, -24, 24].flatMap((up) => [
      { x: x(point.x) + 7, width, y: y(point.y) + 4 + up, side: "start" },
      { x: x(point.x) - 7 - width, width, y: y(point.y) + 4 + up, side: "end" },
    ]);
    const place = places.filter((one) => one.x + width < WIDTH).find(isFree) ?? places[1];
    taken.push(place);
    return place;
  };
  for (const point of points) {
    const group = make("g", point.flag ? { class: "flagged" } : {});
    group.append(make("line", { class: "whisker", x1: x(point.x), x2: x(point.x), y1: y(point.low), y2: y(point.high) }));
    group.append(make("circle", { class: "person", cx: x(point.x), cy: y(point.y), r: 4 }));
    if (points.length <= NAMES_UP_TO) {
      const place = placeOf(point);
      const name = label(point.name, place.side === "end" ? place.x + place.width : place.x, place.y, place.side);
      name.setAttribute("class", "name");
      group.append(name);
    }
    svg.append(group);
  }
  element.append(svg, reading);
  let at = -1;
  const read = (index) => {
    at = index;
    const point = points[index];
    reading.textContent = point ? `${point.name}: ${Math.round(100 * point.y)} % (${Math.round(100 * point.low)}–${Math.round(100 * point.high)} %), ${format(point.x)} s, ${point.n}` : element.dataset.y;
  };
  read(-1);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const where = [((event.clientX - box.left) / box.width) * WIDTH, ((event.clientY - box.top) / box.height) * HEIGHT];
    const far = points.map((point) => Math.hypot(x(point.x) - where[0], y(point.y) - where[1]));
    read(far.indexOf(Math.min(...far)));
  });
  svg.addEventListener("pointerleave", () => read(-1));
  svg.addEventListener("keydown", (event) => {
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: points.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    read(Math.max(0, Math.min(points.length - 1, next)));
  });
}
