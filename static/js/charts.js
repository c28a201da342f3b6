/* Line charts as SVG with classes and attributes; no style attributes, so that a strict policy holds.
   A chart can be read with the pointer, and with the arrow keys when it has the focus. */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 420;
const HEIGHT = 200;
const EDGE = { left: 46, right: 12, top: 10, bottom: 24 };

/** What charts say, in the person's language; numbers are written as it does, with the usual digits. */
export const words = JSON.parse(document.querySelector("#chart-words")?.textContent ?? "{}");
const numbers = new Intl.NumberFormat(`${document.documentElement.lang}-u-nu-latn`, { maximumSignificantDigits: 3, useGrouping: false });

/** The metrics that get a chart, best known first: the names under which methods log them. */
export const CHARTS = [
  { title: words.loss, names: ["loss"] },
  { title: words.accuracy, names: ["rewards/accuracy", "accuracy"], range: [0, 1] },
  { title: words.margin, names: ["rewards/margin", "margin"] },
  { title: words.accuracy_majority, names: ["accuracy_majority"], range: [0, 1] },
  { title: words.logps, names: ["logps/chosen", "logps/rejected"], together: true },
  { title: words.gradient_norm, names: ["grad_norm", "gradient_norm"] },
  { title: words.learning_rate, names: ["learning_rate"] },
];

/** [[step, value]…] of a metric. */
export function points(rows, name) {
  return rows.filter((row) => Number.isFinite(row[name])).map((row) => [row.step, row[name]]);
}

/** A number with three significant digits. */
export function format(value) {
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 100000)) return value.toExponential(1);
  return numbers.format(value);
}

/** A chart that can be drawn again and again; `element` goes into the page. */
export class Chart {
  constructor(title) {
    this.title = title;
    this.element = document.createElement("figure");
    this.element.className = "chart";
    const caption = document.createElement("figcaption");
    const name = document.createElement("strong");
    name.textContent = title;
    this.reading = document.createElement("output");
    caption.append(name, this.reading);
    this.svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: "0" });
    this.element.append(caption, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.read(null));
    this.svg.addEventListener("blur", () => this.read(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  /** series: [{label, kind, points}]; `kind` is the class of its line. */
  draw(series, range) {
    this.series = series.filter((one) => one.points.length);
    const all = this.series.flatMap((one) => one.points);
    if (!all.length) return;
    this.steps = [...new Set(all.map(([step]) => step))].sort((a, b) => a - b);
    const [first, last] = [this.steps[0], this.steps.at(-1)];
    const [low, high] = range ?? spread(all.map(([, value]) => value));
    this.x = (step) => EDGE.left + ((WIDTH - EDGE.left - EDGE.right) * (step - first)) / (last - first || 1);
    this.y = (value) => HEIGHT - EDGE.bottom - ((HEIGHT - EDGE.top - EDGE.bottom) * (value - low)) / (high - low);
    this.svg.replaceChildren(...this.grid(low, high, first, last));
    for (const one of this.series) this.svg.append(...this.line(one));
    this.cursor = make("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
    this.svg.append(this.cursor);
    this.svg.setAttribute("aria-label", `${this.title}: ${this.series.map(summary).join("; ")}`);
    this.read(this.at ?? null);
  }

  grid(low, high, first, last) {
    const parts = ticks(low, high).flatMap((value) => [
      make("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: this.y(value), y2: this.y(value) }),
      label(format(value), EDGE.left - 6, this.y(value) + 4, "end"),
    ]);
    parts.push(label(String(first), EDGE.left, HEIGHT - 6, "start"));
    if (last > first) parts.push(label(fill(words.step, { step: last }), WIDTH - EDGE.right, HEIGHT - 6, "end"));
    return parts;
  }

  line({ kind, points: found }) {
    const path = found.map(([step, value]) => `${this.x(step).toFixed(1)},${this.y(value).toFixed(1)}`).join(" ");
    const parts = found.length > 1 ? [make("polyline", { class: `line ${kind}`, points: path })] : [];
    const marks = found.length > 12 ? found.slice(-1) : found;
    for (const [step, value] of marks) parts.push(make("circle", { class: `mark ${kind}`, cx: this.x(step), cy: this.y(value), r: 2.5 }));
    return parts;
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const nearest = this.steps?.reduce((best, step) => (Math.abs(this.x(step) - x) < Math.abs(this.x(best) - x) ? step : best));
    this.read(nearest ?? null);
  }

  key(event) {
    const index = this.steps?.indexOf(this.at ?? this.steps.at(-1));
    const next = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: this.steps?.length - 1 }[event.key];
    if (next === undefined || index === undefined) return;
    event.preventDefault();
    this.read(this.steps[Math.max(0, Math.min(this.steps.length - 1, next))]);
  }

  /** Show the values at a step; of the last step, without a cursor, for null. */
  read(step) {
    this.at = step;
    if (!this.series?.length) return;
    const parts = this.series.flatMap((one) => {
      const [, value] = one.points.findLast(([at]) => at <= (step ?? Infinity)) ?? one.points[0];
      const key = document.createElement("span");
      key.className = `key ${one.kind}`;
      return [key, `${one.label} ${format(value)} `];
    });
    this.reading.replaceChildren(...parts, step === null ? "" : fill(words.at, { step }));
    this.cursor.setAttribute("visibility", step === null ? "hidden" : "visible");
    if (step !== null) {
      this.cursor.setAttribute("x1", this.x(step));
      this.cursor.setAttribute("x2", this.x(step));
    }
  }
}

/** A sentence with its `{name}`s filled in. */
function fill(sentence, values) {
  return sentence.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function summary({ label: name, points: found }) {
  const [step, last] = found.at(-1);
  return fill(words.summary, { name, first: format(found[0][1]), last: format(last), step });
}

function spread(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

/** Three to six round numbers between two values. */
function ticks(low, high) {
  const raw = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return found;
}

export function label(text, x, y, anchor) {
  const element = make("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
}

export function make(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
