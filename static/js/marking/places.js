/* Boxes and points on pictures, as shares of the picture: dragged or clicked, or begun in the middle by a key. */

const SVG = "http://www.w3.org/2000/svg";
const LEAST = 0.01; // of the picture: a smaller drag was a click
const STEP = 0.02, FINE = 0.005;

const clamp = (value, most = 1) => Math.min(most, Math.max(0, value));
const tidy = (values) => values.map((value) => Math.round(value * 1e4) / 1e4);

export class Places {
  /** `frames`: the element around each picture; `kinds` of "box" and "point"; `pick(mark)`, `drop()`. */
  constructor(frames, kinds, { pick, drop }) {
    Object.assign(this, { frames, kinds, pick, drop });
    this.pending = null;
    this.layers = frames.map((frame, candidate) => this.layer(frame, candidate));
    this.listeners = new AbortController();
    frames.forEach((frame, candidate) => {
      frame.classList.add("marking");
      const options = { capture: true, signal: this.listeners.signal };
      frame.addEventListener("pointerdown", (event) => this.start(event, candidate), options);
    });
  }

  leave() {
    this.listeners.abort();
    for (const layer of this.layers) layer.remove();
    for (const frame of this.frames) frame.classList.remove("marking");
  }

  /** An SVG that lies on the picture as the picture lies in its frame. */
  layer(frame) {
    const layer = document.createElementNS(SVG, "svg");
    const image = frame.querySelector("img");
    const size = () => layer.setAttribute("viewBox", `0 0 ${image.naturalWidth || 1} ${image.naturalHeight || 1}`);
    layer.setAttribute("class", "places");
    layer.setAttribute("aria-hidden", "true");
    image.addEventListener("load", () => {
      size();
      this.redraw?.();
    });
    size();
    frame.append(layer);
    return layer;
  }

  share(event, candidate) {
    const layer = this.layers[candidate], { width, height } = layer.viewBox.baseVal;
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(layer.getScreenCTM().inverse());
    return [clamp(point.x / width), clamp(point.y / height)];
  }

  start(event, candidate) {
    if (event.button !== 0 || event.shiftKey || !event.isPrimary) return;
    event.stopPropagation();
    const from = this.share(event, candidate);
    const to = (later) => {
      const point = this.share(later, candidate);
      const corner = [Math.min(from[0], point[0]), Math.min(from[1], point[1])];
      return [...corner, Math.abs(point[0] - from[0]), Math.abs(point[1] - from[1])];
    };
    const move = (later) => this.kinds.includes("box") && this.propose({ candidate, type: "box", box: tidy(to(later)) }, false);
    const stop = (later) => {
      for (const name of ["pointermove", "pointerup", "pointercancel"]) removeEventListener(name, name === "pointermove" ? move : stop);
      const box = to(later);
      if (later.type === "pointercancel") this.cancel();
      else if (this.kinds.includes("box") && box[2] > LEAST && box[3] > LEAST) this.propose({ candidate, type: "box", box: tidy(box) });
      else if (this.kinds.includes("point")) this.propose({ candidate, type: "point", point: tidy(from) });
      else this.cancel();
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", stop);
    addEventListener("pointercancel", stop);
  }

  focused() {
    return this.frames.findIndex((frame) => frame.contains(document.activeElement));
  }

  claims(name) {
    return this.focused() >= 0 && (/Arrow/.test(name) || (name === "Enter" && !this.pending));
  }

  press(name) {
    const candidate = this.focused();
    if (this.pending?.candidate !== candidate) {
      const box = this.kinds.includes("box") && (name !== "Enter" || !this.kinds.includes("point"));
      const middle = box ? { type: "box", box: [0.4, 0.4, 0.2, 0.2] } : { type: "point", point: [0.5, 0.5] };
      return this.propose({ candidate, ...middle });
    }
    const by = name.includes("Ctrl+") ? FINE : STEP;
    const [dx, dy] = { Left: [-by, 0], Right: [by, 0], Up: [0, -by], Down: [0, by] }[/Arrow(\w+)/.exec(name)[1]];
    return this.propose(this.pending.box ? this.shifted(dx, dy, name.includes("Shift+")) : this.movedPoint(dx, dy));
  }

  shifted(dx, dy, resizes) {
    const [x, y, w, h] = this.pending.box;
    const box = resizes
      ? [x, y, Math.max(LEAST, clamp(w + dx, 1 - x)), Math.max(LEAST, clamp(h + dy, 1 - y))]
      : [clamp(x + dx, 1 - w), clamp(y + dy, 1 - h), w, h];
    return { ...this.pending, box: tidy(box) };
  }

  movedPoint(dx, dy) {
    const [x, y] = this.pending.point;
    return { ...this.pending, point: tidy([clamp(x + dx), clamp(y + dy)]) };
  }

  propose(mark, ready = true) {
    this.pending = mark;
    this.redraw();
    if (ready) this.pick(mark);
  }

  cancel() {
    this.pending = null;
    this.redraw();
    this.drop();
  }

  /** `groups`: lists of marks, a colour for each category. */
  draw(groups) {
    this.groups = groups;
    this.redraw();
  }

  redraw() {
    for (const layer of this.layers) layer.replaceChildren();
    (this.groups ?? []).forEach((marks, i) => marks.forEach((mark) => this.shape(mark, `marked-${i}`)));
    if (this.pending) this.shape(this.pending, "pending");
  }

  shape(mark, css) {
    const layer = this.layers[mark.candidate], { width, height } = layer.viewBox.baseVal;
    const shape = document.createElementNS(SVG, mark.box ? "rect" : "circle");
    const [x, y, w, h] = mark.box ?? mark.point;
    const values = mark.box
      ? { x: x * width, y: y * height, width: w * width, height: h * height }
      : { cx: x * width, cy: y * height, r: Math.min(width, height) / 60 };
    for (const [name, value] of Object.entries(values)) shape.setAttribute(name, value);
    shape.setAttribute("class", css);
    layer.append(shape);
  }
}
