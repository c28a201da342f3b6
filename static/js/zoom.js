/* Pictures in equal boxes, zoomed and moved together. Styles are set through the CSS object model only. */

const CLOSEST = 16;

export class Zoom {
  constructor(boxes) {
    this.boxes = boxes;
    this.pointers = new Map();
    this.reset();
    for (const box of boxes) this.listen(box);
  }

  reset() {
    this.scale = 1;
    this.x = this.y = 0; // of the picture's corner, as a share of the box
    this.draw();
  }

  /** Scales by `factor` around a point of the box, given in shares of its width and height. */
  by(factor, px = 0.5, py = 0.5) {
    const scale = Math.min(CLOSEST, Math.max(1, this.scale * factor));
    this.x = px - ((px - this.x) * scale) / this.scale;
    this.y = py - ((py - this.y) * scale) / this.scale;
    this.scale = scale;
    this.draw();
  }

  move(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.draw();
  }

  draw() {
    this.x = Math.min(0, Math.max(1 - this.scale, this.x));
    this.y = Math.min(0, Math.max(1 - this.scale, this.y));
    for (const box of this.boxes) {
      box.classList.toggle("zoomed", this.scale > 1);
      const transform = this.scale === 1 ? "" : `translate(${this.x * 100}%, ${this.y * 100}%) scale(${this.scale})`;
      for (const layer of box.querySelectorAll("img, svg")) layer.style.transform = transform;
    }
  }

  listen(box) {
    const share = (event) => {
      const frame = box.getBoundingClientRect();
      return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    };
    box.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.by(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), ...share(event));
    }, { passive: false });
    box.addEventListener("dblclick", (event) => (this.scale > 1 ? this.reset() : this.by(3, ...share(event))));
    box.addEventListener("pointerdown", (event) => {
      this.pointers.set(event.pointerId, share(event));
      if (this.scale > 1) box.setPointerCapture(event.pointerId);
    });
    box.addEventListener("pointermove", (event) => this.drag(event, share(event)));
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
      box.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
  }

  /** One pointer moves the pictures, two also zoom them by the change of their distance. */
  drag(event, point) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, point);
    if (other) {
      const distance = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1e-6;
      this.by(distance(point) / distance(before), other[0], other[1]);
    } else if (this.scale > 1) {
      this.move(point[0] - before[0], point[1] - before[1]);
    }
  }
}
