// A map of many points on a canvas: dragging zooms into a box, a double click zooms back, a click picks a point.
class PointMap {
  constructor(host, onPick) {
    Object.assign(this, { host, onPick, groups: [], hidden: new Set(), view: null, key: null });
    this.canvas = html("canvas");
    this.names = html("div", "legend");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "map of the prompts");
    host.replaceChildren(this.canvas, this.names);
    new ResizeObserver(() => this.draw()).observe(host);
    this.listen();
  }

  // Shows groups of points. A new `key` means other coordinates, so the view starts anew.
  show(groups, key) {
    if (key !== this.key) this.view = null;
    Object.assign(this, { groups, key });
    this.hidden.clear();
    this.names.replaceChildren(...groups.map((group) => {
      const button = html("button");
      const mark = html("span", "swatch");
      mark.style.background = group.color;
      button.append(mark, `${group.name} (${group.points.length.toLocaleString("en")})`);
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        const isShown = this.hidden.delete(group) || (this.hidden.add(group), false);
        button.setAttribute("aria-pressed", String(isShown));
        this.draw();
      });
      return button;
    }));
    this.draw();
  }

  visible() {
    return this.groups.filter((group) => !this.hidden.has(group));
  }

  // Where values lie on the canvas, with the same scale along both axes.
  place() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    let view = this.view;
    if (!view) {
      view = [Infinity, Infinity, -Infinity, -Infinity];
      for (const group of this.groups) {
        for (const { x, y } of group.points) view = [Math.min(view[0], x), Math.min(view[1], y), Math.max(view[2], x), Math.max(view[3], y)];
      }
    }
    const [left, low, right, high] = view;
    const scale = Math.min((width - 16) / (right - left || 1), (height - 16) / (high - low || 1));
    const [middleX, middleY] = [(left + right) / 2, (low + high) / 2];
    return {
      x: (value) => width / 2 + (value - middleX) * scale,
      y: (value) => height / 2 - (value - middleY) * scale,
      valueOf: (atX, atY) => [middleX + (atX - width / 2) / scale, middleY - (atY - height / 2) / scale],
    };
  }

  draw(box) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    Object.assign(this.canvas, { width: width * ratio, height: height * ratio });
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const { x, y } = this.place();
    for (const [isFound, opacity, radius] of [[false, 0.12, 2], [undefined, 0.8, 2.5], [true, 1, 3.5]]) {
      pen.globalAlpha = opacity;
      for (const group of this.visible()) {
        pen.fillStyle = group.color;
        for (const point of group.points) {
          if (point.isFound !== isFound) continue;
          pen.beginPath();
          pen.arc(x(point.x), y(point.y), radius, 0, 2 * Math.PI);
          pen.fill();
        }
      }
    }
    if (box) {
      pen.globalAlpha = 1;
      pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
      pen.strokeRect(Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.abs(box[2] - box[0]), Math.abs(box[3] - box[1]));
    }
  }

  nearest(atX, atY) {
    const { x, y } = this.place();
    let [best, distance] = [null, 12];
    for (const group of this.visible()) {
      for (const point of group.points) {
        const away = Math.hypot(x(point.x) - atX, y(point.y) - atY);
        if (away < distance) [best, distance] = [point, away];
      }
    }
    return best;
  }

  listen() {
    const { canvas } = this;
    let start = null;
    const at = (event) => [event.offsetX, event.offsetY];
    const isDrag = ([x, y]) => start && Math.hypot(x - start[0], y - start[1]) > 6;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      start = at(event);
      if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const here = at(event);
      if (isDrag(here)) {
        hideTooltip();
        this.draw([...start, ...here]);
        return;
      }
      const point = this.nearest(...here);
      if (point) showTooltip(point.lines, event.clientX, event.clientY); else hideTooltip();
    });
    canvas.addEventListener("pointerup", (event) => {
      const here = at(event);
      if (isDrag(here)) {
        const { valueOf } = this.place();
        const [[a, b], [c, d]] = [valueOf(...start), valueOf(...here)];
        this.view = [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];
      } else {
        const point = this.nearest(...here);
        if (point) this.onPick(point);
      }
      start = null;
      this.draw();
    });
    canvas.addEventListener("pointercancel", () => { start = null; this.draw(); });
    canvas.addEventListener("pointerleave", hideTooltip);
    const zoomBack = () => { this.view = null; this.draw(); };
    canvas.addEventListener("dblclick", zoomBack);
    canvas.addEventListener("keydown", (event) => { if (event.key === "Escape") zoomBack(); });
  }
}
