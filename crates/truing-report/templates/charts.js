// Draws figures as SVG in the page's own colours, so that a change from light to dark needs no new drawing.
// Dragging zooms into a range of x, a double click or Escape zooms back, the arrow keys move along the points.
const SVG = "http://www.w3.org/2000/svg";
const FONT = 12;
const node = (name, attributes = {}, text) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
};
const html = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const ruler = document.createElement("canvas").getContext("2d");
const widthOf = (text) => {
  ruler.font = `${FONT}px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
};
const shortened = (text, room) => {
  if (widthOf(text) <= room) return text;
  let kept = text.length - 1;
  while (kept > 1 && widthOf(`${text.slice(0, kept)}…`) > room) kept -= 1;
  return `${text.slice(0, kept)}…`;
};
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// Round values between two bounds, about `n` of them, and the distance of two.
const ticksOf = (low, high, n, isWhole) => {
  const rough = (high - low) / Math.max(n, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one >= rough * 0.999) ?? rough;
  if (isWhole) step = Math.max(1, Math.ceil(step));
  const values = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) values.push(k * step);
  return { values, step };
};
const decimals = (step) => clamp(-Math.floor(Math.log10(step) + 1e-9) + (/^2\.?5/.test(String(step).replace(/^[0.]+/, "")) ? 1 : 0), 0, 8);
// A value beside an axis whose ticks are `step` apart.
const tickText = (value, step, format) => {
  if (format === "percent") return `${(100 * value).toFixed(decimals(100 * step))} %`;
  if (format === "count") return (value || 0).toLocaleString("en");
  if (Math.abs(value) < step * 1e-6) return "0";
  if (format === "scientific" || Math.abs(value) >= 1e6 || step < 1e-4) return value.toExponential(decimals(step / 10 ** Math.floor(Math.log10(Math.abs(value)))));
  return value.toFixed(decimals(step));
};
// A value as it is read.
const valueText = (value, format) => {
  if (value === null || value === undefined) return "none";
  if (format === "percent") return `${(100 * value).toFixed(1)} %`;
  if (format === "count" || (Number.isInteger(value) && Math.abs(value) < 1e7)) return value.toLocaleString("en");
  if (format === "scientific" || Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
};

// One box for what the pointer is over, shared by all charts.
const tooltip = html("div", "tooltip");
tooltip.setAttribute("role", "status");
tooltip.hidden = true;
document.body.append(tooltip);
const showTooltip = (lines, x, y) => {
  tooltip.replaceChildren(...lines.map(([text, color]) => {
    const line = html("div");
    if (color) line.append(swatch(color));
    line.append(text);
    return line;
  }));
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth - 6 ? x - 14 - width : x + 14;
  tooltip.style.left = `${clamp(left, 6, Math.max(6, innerWidth - width - 6))}px`;
  tooltip.style.top = `${clamp(y - height / 2, 6, Math.max(6, innerHeight - height - 6))}px`;
};
const hideTooltip = () => { tooltip.hidden = true; };
function swatch(color) {
  const made = html("span", "swatch");
  made.style.background = `var(--${color})`;
  return made;
}

class Chart {
  constructor(frame, figure) {
    Object.assign(this, { frame, figure, hidden: new Set(), zoom: null, place: -1 });
    this.title = frame.closest("figure")?.querySelector("h3")?.textContent ?? "chart";
    this.canvas = html("div", "canvas");
    frame.replaceChildren(...(figure.heat ? [heatScale()] : this.legend()), this.canvas);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  // Each name switches its series off and on.
  legend() {
    const named = this.figure.series.filter((one) => one.legend);
    if (named.length < 2) return [];
    const list = html("div", "legend");
    for (const series of named) {
      const button = html("button");
      button.type = "button";
      button.append(swatch(series.color), series.name);
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        const isShown = this.hidden.delete(series.name) || (this.hidden.add(series.name), false);
        button.setAttribute("aria-pressed", String(isShown));
        this.draw();
      });
      list.append(button);
    }
    return [list];
  }

  // What the chart shows, for those who do not see it: its title, its axes and the names of its series.
  label() {
    const { x, y, series, heat } = this.figure;
    if (heat) return `${this.title}: predicted label by true label, ${heat.names.join(", ")}`;
    const names = series.filter((one) => one.legend && one.name).map((one) => one.name);
    const axes = [y.title, x.title].filter(Boolean).join(" by ");
    return [[this.title, axes].filter(Boolean).join(": "), ...names].join(", ");
  }

  shown() {
    return this.figure.series.filter((one) => !this.hidden.has(one.name));
  }

  draw() {
    const width = Math.floor(this.canvas.clientWidth);
    if (width < 40) return;
    this.width = width;
    this.svg = node("svg", { width, role: "img", tabindex: 0, "aria-label": this.label() });
    if (this.figure.heat) drawHeat(this);
    else if (this.figure.lying) this.drawLying();
    else this.drawStanding();
    this.canvas.replaceChildren(this.svg);
  }

  // The bounds of all values that are shown, along y.
  bounds() {
    const { y, bars } = this.figure;
    if (y.range) return y.range;
    let [low, high] = [Infinity, -Infinity];
    const sums = [];
    for (const series of this.shown()) {
      series.y.forEach((value, i) => {
        if (value === null || (this.zoom && (series.x[i] < this.zoom[0] || series.x[i] > this.zoom[1]))) return;
        if (series.mark === "bars" && bars === "stack") {
          sums[series.x[i]] = (sums[series.x[i]] ?? 0) + value;
          value = sums[series.x[i]];
        }
        low = Math.min(low, series.low?.[i] ?? value);
        high = Math.max(high, series.high?.[i] ?? value);
      });
      if (series.mark === "bars") [low, high] = [Math.min(low, 0), Math.max(high, 0)];
    }
    if (low > high) [low, high] = [0, 1];
    if (y.zero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
    const isFlat = high - low < 1e-12 * Math.max(Math.abs(high), 1e-300);
    const room = isFlat ? Math.abs(high) * 0.1 || 1 : (high - low) * 0.06;
    // Room above and below, but not beyond a zero that the values do not cross.
    // An axis from 0 to 0 would show nothing: where all values are 0 there is room above them.
    return [low >= 0 && (y.zero || low - room < 0) ? Math.min(low, 0) : low - room, high <= 0 && y.zero && !isFlat ? 0 : high + room];
  }

  drawStanding() {
    const { figure, svg, width } = this;
    const height = figure.height ?? 260;
    const [low, high] = this.bounds();
    const wholeY = figure.y.format === "count";
    const { values: rows, step } = ticksOf(low, high, 5, wholeY);
    const left = Math.max(...rows.map((value) => widthOf(tickText(value, step, figure.y.format))), 10) + 10;
    const [top, right] = [figure.y.title ? 24 : 10, 12];
    const names = figure.x.categories;
    const inner = width - left - right;
    const band = names ? inner / names.length : 0;
    const isTurned = names?.some((name) => widthOf(name) > band - 6) ?? false;
    const turnedRoom = isTurned ? Math.min(Math.max(...names.map(widthOf)), 130) : 0;
    const bottom = (isTurned ? turnedRoom * 0.78 + 20 : 24) + (figure.x.title ? 16 : 0);
    const whole = Math.max(height, top + bottom + 175);
    svg.setAttribute("height", whole);
    const floor = whole - bottom;
    const y = (value) => floor - ((value - low) / (high - low)) * (floor - top);
    const all = figure.series.flatMap((one) => one.x);
    const span = figure.x.range ? [...figure.x.range] : all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
    if (span[0] === span[1]) { span[0] -= 1; span[1] += 1; }
    const [from, to] = this.zoom ?? span;
    const pad = names || figure.x.range || this.zoom ? 0 : 4;
    const x = names ? (at) => left + (at + 0.5) * band : (value) => left + pad + ((value - from) / (to - from)) * (inner - 2 * pad);
    Object.assign(this, { x, y, band, top, floor, left, right: width - right, from, to });
    for (const value of rows) {
      svg.append(node("line", { class: value === 0 ? "axis" : "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
      svg.append(node("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, tickText(value, step, figure.y.format)));
    }
    if (names) {
      names.forEach((name, at) => {
        const label = isTurned
          ? node("text", { transform: `translate(${x(at) + 3} ${floor + 12}) rotate(-50)`, "text-anchor": "end" }, shortened(name, 130))
          : node("text", { x: x(at), y: floor + 17, "text-anchor": "middle" }, name);
        svg.append(label);
      });
    } else {
      const columns = ticksOf(from, to, Math.max(2, Math.floor(inner / 90)), figure.x.format === "count");
      for (const value of columns.values) {
        svg.append(node("line", { class: "grid", x1: x(value), x2: x(value), y1: top, y2: floor }));
        svg.append(node("text", { x: x(value), y: floor + 17, "text-anchor": "middle" }, tickText(value, columns.step, figure.x.format)));
      }
    }
    if (figure.y.title) svg.append(node("text", { class: "title", x: 0, y: 12 }, figure.y.title));
    if (figure.x.title) svg.append(node("text", { class: "title", x: width - right, y: whole - 4, "text-anchor": "end" }, figure.x.title));
    const inside = node("svg", { x: left, y: top - 6, width: inner, height: floor - top + 12, viewBox: `${left} ${top - 6} ${inner} ${floor - top + 12}` });
    svg.append(inside);
    const barred = this.shown().filter((one) => one.mark === "bars");
    const sums = [];
    for (const series of this.shown()) {
      if (series.mark === "bars") this.bars(inside, series, barred, sums);
      else this.line(inside, series);
    }
    this.pointer = node("g", { class: "pointer" });
    svg.append(this.pointer);
    this.listen(!names);
  }

  line(into, series) {
    const color = `var(--${series.color})`;
    const at = series.x.map((value, i) => (series.y[i] === null ? null : [this.x(value), this.y(series.y[i])]));
    series.low?.forEach((low, i) => {
      if (!at[i] || low === null || series.high[i] === null) return;
      const [top, floor] = [this.y(series.high[i]), this.y(low)];
      const bar = `M${at[i][0]} ${top}V${floor}M${at[i][0] - 5} ${top}h10M${at[i][0] - 5} ${floor}h10`;
      into.append(node("path", { d: bar, style: `stroke:${color};stroke-width:1.5;fill:none` }));
    });
    if (series.mark !== "points") {
      let [path, isDrawing] = ["", false];
      for (const point of at) {
        if (point) path += `${isDrawing ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
        isDrawing = Boolean(point);
      }
      const dash = series.dashed ? ";stroke-dasharray:5 4" : "";
      into.append(node("path", { d: path, style: `stroke:${color};stroke-width:${series.faint ? 1 : 2};fill:none;opacity:${series.faint ? 0.45 : 1}${dash}`, "stroke-linejoin": "round" }));
    }
    if (series.mark !== "line" || at.length === 1) {
      for (const point of at) if (point) into.append(node("circle", { cx: point[0].toFixed(1), cy: point[1].toFixed(1), r: at.length > 60 ? 2.5 : 4, style: `fill:${color};opacity:${at.length > 60 ? 0.55 : 1}` }));
    }
  }

  // Where the bars of one series lie across the band of a category.
  across(series, barred) {
    const thick = this.band * 0.76;
    if (this.figure.bars !== "group") return [-thick / 2, thick];
    const each = thick / barred.length;
    return [-thick / 2 + barred.indexOf(series) * each, each];
  }

  bars(into, series, barred, sums) {
    const [offset, thick] = this.across(series, barred);
    series.x.forEach((at, i) => {
      const base = this.figure.bars === "stack" ? (sums[at] ?? 0) : 0;
      const tip = base + (series.y[i] ?? 0);
      sums[at] = tip;
      const [a, b] = this.figure.lying ? [this.along(base), this.along(tip)] : [this.y(base), this.y(tip)];
      const [start, size] = [Math.min(a, b), Math.abs(a - b)];
      const center = this.figure.lying ? this.row(at) : this.x(at);
      const box = this.figure.lying
        ? { x: start, y: center + offset, width: size, height: Math.max(thick - 1, 1) }
        : { x: center + offset, y: start, width: Math.max(thick - 1, 1), height: size };
      into.append(node("rect", { ...box, style: `fill:var(--${series.color})`, rx: 1 }));
      this.whisker(into, series, i, center + offset + thick / 2);
    });
  }

  // The interval of a value across its bar or through its point; `middle` is its place across the categories.
  whisker(into, series, i, middle) {
    if (series.low?.[i] == null || series.high?.[i] == null) return;
    const end = clamp(this.band * 0.14, 2, 5);
    const place = this.figure.lying ? this.along : this.y;
    const [from, to] = [place(series.low[i]), place(series.high[i])];
    const path = this.figure.lying
      ? `M${from} ${middle}H${to}M${from} ${middle - end}v${2 * end}M${to} ${middle - end}v${2 * end}`
      : `M${middle} ${from}V${to}M${middle - end} ${from}h${2 * end}M${middle - end} ${to}h${2 * end}`;
    into.append(node("path", { d: path, class: "whisker" }));
  }

  // Values as points, one category under the other.
  points(into, series) {
    series.x.forEach((at, i) => {
      if (series.y[i] === null) return;
      this.whisker(into, series, i, this.row(at));
      into.append(node("circle", { cx: this.along(series.y[i]), cy: this.row(at), r: 4.5, style: `fill:var(--${series.color})` }));
    });
  }

  // Bars from left to right, one category under the other.
  drawLying() {
    const { figure, svg, width } = this;
    const names = figure.x.categories;
    this.band = 26;
    const [low, high] = this.bounds();
    const left = clamp(Math.max(...names.map(widthOf)) + 12, 30, width * 0.42);
    const [top, right, bottom] = [4, 26, figure.y.title ? 40 : 24];
    const floor = top + this.band * names.length;
    svg.setAttribute("height", floor + bottom);
    const along = (value) => left + ((value - low) / (high - low)) * (width - left - right);
    const row = (at) => top + (at + 0.5) * this.band;
    Object.assign(this, { along, row, top, floor, left, right: width - right });
    const { values, step } = ticksOf(low, high, Math.max(2, Math.floor((width - left) / 90)), figure.y.format === "count");
    for (const value of values) {
      svg.append(node("line", { class: value === 0 ? "axis" : "grid", x1: along(value), x2: along(value), y1: top, y2: floor }));
      svg.append(node("text", { x: along(value), y: floor + 16, "text-anchor": "middle" }, tickText(value, step, figure.y.format)));
    }
    names.forEach((name, at) => svg.append(node("text", { x: left - 8, y: row(at) + 4, "text-anchor": "end" }, shortened(name, left - 12))));
    if (figure.y.title) svg.append(node("text", { class: "title", x: width - right, y: floor + 34, "text-anchor": "end" }, figure.y.title));
    const barred = this.shown().filter((one) => one.mark === "bars");
    const sums = [];
    for (const series of this.shown()) {
      if (series.mark === "bars") this.bars(svg, series, barred, sums);
      else this.points(svg, series);
    }
    this.pointer = node("g", { class: "pointer" });
    svg.append(this.pointer);
    this.listen(false);
  }

  // The pointer and the keys. `zooms` where x has a range to zoom into.
  listen(zooms) {
    const { svg } = this;
    let start = null;
    const place = (event) => event.clientX - svg.getBoundingClientRect().left;
    const value = (at) => this.from + ((clamp(at, this.left, this.right) - this.left) / (this.right - this.left)) * (this.to - this.from);
    svg.addEventListener("pointermove", (event) => {
      if (start !== null && Math.abs(place(event) - start) > 4) {
        hideTooltip();
        const [a, b] = [start, place(event)].map((at) => clamp(at, this.left, this.right)).sort((one, other) => one - other);
        this.pointer.replaceChildren(node("rect", { class: "zooming", x: a, y: this.top, width: b - a, height: this.floor - this.top }));
        return;
      }
      this.point(place(event), event.clientY - svg.getBoundingClientRect().top, event.clientX, event.clientY);
    });
    svg.addEventListener("pointerleave", () => { if (start === null) this.leave(); });
    svg.addEventListener("blur", () => this.leave());
    if (zooms) {
      svg.classList.add("zooms");
      svg.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        start = place(event);
        svg.setPointerCapture(event.pointerId);
      });
      svg.addEventListener("pointerup", (event) => {
        const [a, b] = [start ?? 0, place(event)].sort((one, other) => one - other);
        const isDrag = start !== null && b - a > 8;
        start = null;
        if (isDrag) this.zoomTo([value(a), value(b)]);
      });
      svg.addEventListener("pointercancel", () => { start = null; this.leave(); });
      svg.addEventListener("dblclick", () => this.zoomTo(null));
    }
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") { this.leave(); if (this.zoom) this.zoomTo(null); }
      if (!by) return;
      event.preventDefault();
      const marks = this.marks();
      if (!marks.length) return;
      this.place = clamp(this.place + by, 0, marks.length - 1);
      const [x, y] = marks[this.place].at;
      const box = svg.getBoundingClientRect();
      this.point(x, y, box.left + x, box.top + y);
    });
  }

  zoomTo(range) {
    this.zoom = range;
    this.leave();
    this.draw();
  }

  leave() {
    hideTooltip();
    this.pointer.replaceChildren();
  }

  // Everything that can be pointed at, from left to right or from top to bottom.
  marks() {
    const { figure } = this;
    const found = [];
    const barred = this.shown().filter((one) => one.mark === "bars");
    const sums = [];
    for (const series of this.shown()) {
      if (!series.hover) continue;
      series.x.forEach((key, i) => {
        const value = series.y[i];
        if (value === null) return;
        if (series.mark === "bars") {
          const base = figure.bars === "stack" ? (sums[key] ?? 0) : 0;
          sums[key] = base + value;
          const [offset, thick] = this.across(series, barred);
          const middle = offset + thick / 2;
          found.push({ series, i, key, at: figure.lying ? [this.along(base + value / 2), this.row(key) + middle] : [this.x(key) + middle, this.y(base + value / 2)] });
        } else if (!this.zoom || (key >= this.from && key <= this.to)) {
          found.push({ series, i, key, at: figure.lying ? [this.along(value), this.row(key)] : [this.x(key), this.y(value)] });
        }
      });
    }
    const axis = figure.lying ? 1 : 0;
    return found.sort((a, b) => a.at[axis] - b.at[axis]);
  }

  point(x, y, clientX, clientY) {
    const { figure } = this;
    const marks = this.marks();
    const isInside = figure.lying ? y >= this.top && y <= this.floor : x >= this.left - 8 && x <= this.right + 8;
    if (!marks.length || !isInside) return this.leave();
    const isScatter = !figure.lying && figure.series.some((one) => one.words?.length && one.mark !== "bars");
    const distance = ({ at }) => (isScatter ? Math.hypot(at[0] - x, at[1] - y) : Math.abs(figure.lying ? at[1] - y : at[0] - x));
    const nearest = marks.reduce((best, one) => (distance(one) < distance(best) ? one : best));
    if (isScatter && distance(nearest) > 40) return this.leave();
    this.pointer.replaceChildren();
    const isLine = nearest.series.mark !== "bars";
    const together = isScatter ? [nearest] : marks.filter((one) => one.key === nearest.key);
    const head = figure.x.categories ? figure.x.categories[nearest.key] : `${figure.x.title || "x"} ${valueText(nearest.key, figure.x.format)}`;
    if (isLine) {
      if (!isScatter && !figure.lying) this.pointer.append(node("line", { x1: nearest.at[0], x2: nearest.at[0], y1: this.top, y2: this.floor }));
      for (const { at, series } of together) this.pointer.append(node("circle", { cx: at[0], cy: at[1], r: 4, style: `fill:var(--${series.color})` }));
    }
    const lines = together.map(({ series, i }) => {
      const interval = series.low?.[i] != null && series.high?.[i] != null ? ` (${valueText(series.low[i], figure.y.format)} to ${valueText(series.high[i], figure.y.format)})` : "";
      const words = series.words?.[i] ? `, ${series.words[i]}` : "";
      return [`${series.name ? `${series.name}: ` : ""}${valueText(series.y[i], figure.y.format)}${interval}${words}`, series.color];
    });
    showTooltip([[head], ...lines], clientX, clientY);
  }
}

// What the depth of a cell's colour means.
function heatScale() {
  const scale = html("div", "scale");
  scale.append("0 %", html("span", "ramp"), "100 %");
  return scale;
}

// A square of shares, by row.
function drawHeat(chart) {
  const { svg, width, figure: { heat } } = chart;
  const { names, shares, words } = heat;
  const left = clamp(Math.max(...names.map(widthOf)) + 12, 30, width * 0.36);
  const cell = clamp((width - left - 8) / names.length, 8, 64);
  const [turned, top] = [Math.min(Math.max(...names.map(widthOf)), 130), 20];
  const floor = top + cell * names.length;
  svg.setAttribute("height", Math.ceil(floor + turned * 0.78 + 40));
  svg.append(node("text", { class: "title", x: 0, y: 12 }, "true label"));
  svg.append(node("text", { class: "title", x: left + cell * names.length, y: floor + turned * 0.78 + 34, "text-anchor": "end" }, "predicted label"));
  const isNamed = (at) => cell >= 13 || at % Math.ceil(13 / cell) === 0;
  chart.pointer = node("g");
  names.forEach((name, row) => {
    const middle = (row + 0.5) * cell;
    if (isNamed(row)) {
      svg.append(node("text", { x: left - 8, y: top + middle + 4, "text-anchor": "end" }, shortened(name, left - 12)));
      svg.append(node("text", { transform: `translate(${left + middle + 3} ${floor + 12}) rotate(-50)`, "text-anchor": "end" }, shortened(name, 130)));
    }
    shares[row].forEach((share, column) => {
      if (share === null) return;
      const box = node("rect", { x: left + column * cell, y: top + row * cell, width: cell - 1, height: cell - 1, class: "cell", style: `fill-opacity:${(0.05 + 0.95 * share).toFixed(3)}` });
      const text = `${names[row]}, predicted ${names[column]}: ${valueText(share, "percent")} (${words[row][column]})`;
      box.addEventListener("pointermove", (event) => showTooltip([[text]], event.clientX, event.clientY));
      box.addEventListener("pointerleave", hideTooltip);
      svg.append(box);
      // Text in a cell has the colour that can be read on its depth; that differs between a light and a dark page.
      const depth = share < 0.05 ? "" : share < 0.57 ? "shallow" : share < 0.88 ? "middle" : "deep";
      if (cell >= 34) svg.append(node("text", { class: depth, x: left + (column + 0.5) * cell, y: top + middle + 4, "text-anchor": "middle", "pointer-events": "none" }, `${(100 * share).toFixed(0)}`));
    });
  });
}

for (const { id, figure } of JSON.parse(document.getElementById("charts").textContent)) {
  new Chart(document.getElementById(id), figure);
}
