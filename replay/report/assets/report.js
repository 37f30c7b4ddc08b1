/* SPDX-License-Identifier: GPL-2.0-only */
// Draws the plots of a report. All numbers come from the embedded document, by JSON pointer.
"use strict";
(() => {
  // Of several recordings one is shown, or all.
  const which = document.getElementById("which");
  function show() {
    for (const part of document.querySelectorAll("[data-recording]"))
      part.hidden = which.value !== "" && part.dataset.recording !== which.value;
  }
  if (which) { which.addEventListener("change", show); show(); }
  document.documentElement.className = "";

  const read = id => JSON.parse(document.getElementById(id).textContent);
  const data = read("document");
  const tip = document.getElementById("tip");
  // A number is one allocator's in every plot; 0 is the kernel's.
  const LIGHT = ["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#b27a00", "#3a94c9", "#777777", "#b4b4b4"];
  const DARK = ["#ffffff", "#f0803c", "#4da3e0", "#2cc79a", "#e09ac2", "#e6b73c", "#86cdf5", "#a0a0a0", "#6a6a6a"];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const printing = matchMedia("print");
  let COLOURS = LIGHT, INK = {};
  const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  function ink() {
    COLOURS = dark.matches && !printing.matches ? DARK : LIGHT;
    INK = { grid: style("--grid"), text: style("--dim"), heat: style("--heat") };
  }
  ink();
  const MARGIN = { left: 62, right: 12, bottom: 40 };
  const LANE = 13;
  const FONT = '12px system-ui, "DejaVu Sans", "Liberation Sans", sans-serif';

  const at = pointer => pointer.split("/").slice(1).reduce(
    (value, key) => value[key.replaceAll("~1", "/").replaceAll("~0", "~")], data);

  const shown = value => {
    const size = Math.abs(value);
    if (value === 0) return "0";
    if (size >= 1e9 || size < 1e-4) return value.toExponential(2);
    return Number(value.toPrecision(4)).toLocaleString("en-US", { maximumSignificantDigits: 4 });
  };

  // The quantile that a share of calls taking longer stands for: 0.001 is p99.9.
  const quantile = share => share >= 1 ? "all" : "p" + Number(((1 - share) * 100).toPrecision(12));

  // The values of a series in the axes' units; null where there is none.
  function load(series, spec) {
    const scale = (values, axis) => values.map(v => v === null ? null : v / axis.divisor);
    if (series.x_point) {
      const x = at(series.x_point), y = at(series.y_point);
      const ends = point => [point.low ?? point.value, point.high ?? point.value];
      const [low, high] = ends(y).map(v => v / spec.y.divisor), [left, right] = ends(x).map(v => v / spec.x.divisor);
      return { ...series, x: [x.value / spec.x.divisor], middle: y.value / spec.y.divisor, low: [low], high: [high], left, right };
    }
    if (series.rows) {
      const rows = at(series.rows);
      const [first, ...factors] = series.y_of;
      const product = row => {
        if (row[first] === null) return null;
        const less = (series.less || []).reduce((sum, key) => sum + row[key], 0);
        return factors.reduce((value, key) => value * row[key], row[first] - less);
      };
      const y = scale(rows.map(product), spec.y);
      return { ...series, x: scale(rows.map(row => row[series.x_of]), spec.x), low: y, high: y };
    }
    const low = scale(at(series.low || series.y), spec.y);
    const high = series.high ? scale(at(series.high), spec.y) : low;
    return { ...series, x: scale(at(series.x), spec.x), low, high };
  }

  // Round numbers inside a range, or powers of ten.
  function ticks(low, high, log) {
    const found = [];
    if (log) {
      for (let e = Math.ceil(Math.log10(low) - 1e-9); 10 ** e <= high * (1 + 1e-9); e++) found.push(10 ** e);
      if (found.length > 1) return found;
      found.length = 0;
    }
    const rough = (high - low) / 6;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find(m => m * power >= rough);
    for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k++) found.push(k * step);
    return found;
  }

  class Plot {
    constructor(figure, spec) {
      this.spec = spec;
      this.canvas = figure.querySelector("canvas");
      this.context = this.canvas.getContext("2d");
      this.series = (spec.series || []).map(one => load(one, spec));
      this.lanes = (spec.lanes || []).map(lane => ({ ...lane, at: at(lane.at) }));
      this.hidden = new Set();
      if (spec.kind === "heat") this.cells = at(spec.cells);
      this.all = this.extent();
      this.view = [...this.all];
      this.legend(figure.querySelector(".legend"));
      const csv = figure.querySelector(".csv");
      csv.addEventListener("click", () => { csv.href = `data:text/csv;charset=utf-8,${encodeURIComponent(this.csv())}`; });
      this.listen();
      new ResizeObserver(() => this.draw()).observe(this.canvas);
      this.draw();
    }

    extent() {
      if (this.cells) return [0, at(this.spec.x_most) || 1];
      if (this.spec.x.names) return [-.5, this.spec.x.names.length - .5];
      const values = this.series.flatMap(s => this.isPoints ? [s.left, s.right] : s.x).filter(v => v !== null && (!this.spec.x.log || v > 0));
      let low = Infinity, high = -Infinity;
      for (const v of values) { low = Math.min(low, v); high = Math.max(high, v); }
      if (!(low <= high)) return this.spec.x.log ? [1, 10] : [0, 1];
      if (this.isBars) [low, high] = [0, high * 1.03];
      if (this.isPoints) [low, high] = [0, high * 1.08];
      return low < high ? [low, high] : this.spec.x.log ? [low / 2, low * 2] : [low - .5, low + .5];
    }

    get isBars() { return this.spec.kind === "bars" || this.spec.kind === "stack"; }

    get isPoints() { return this.spec.kind === "points"; }

    get top() { return 10 + LANE * this.shownLanes().length; }

    shownLanes() { return this.lanes.filter(lane => !this.hidden.has(lane.name)); }

    visible() { return this.series.filter(s => !this.hidden.has(s.name)); }

    // The values' range within the view, so that zooming in shows more of them.
    range() {
      if (this.cells) return [0, at(this.spec.y_most)];
      let low = Infinity, high = -Infinity;
      const sums = this.spec.kind === "stack" ? this.sums(this.visible().length) : null;
      for (const s of this.visible()) s.x.forEach((x, i) => {
        if (sums && x >= this.view[0] && x <= this.view[1]) high = Math.max(high, sums[i]);
        if (x < this.view[0] || x > this.view[1] || s.low[i] === null) return;
        if (this.spec.y.log && s.low[i] <= 0) return;
        low = Math.min(low, s.low[i]); high = Math.max(high, s.high[i]);
      });
      if (!(low <= high)) return this.spec.y.log ? [.1, 1] : [0, 1];
      if (this.spec.y.log) return low < high ? [low * .7, high] : [low / 2, high * 2];
      if (this.isBars || this.isPoints || low < high / 2) low = Math.min(low, 0);
      const room = (high - low) * .05 || 1;
      return [low < 0 || low > 0 ? low - room : 0, high + room];
    }

    // What the first visible series of a stack add up to at each position.
    sums(count) {
      const shown = this.visible().slice(0, count), length = this.series.length ? this.series[0].x.length : 0;
      return Array.from({ length }, (_, i) => shown.reduce((sum, s) => sum + s.high[i], 0));
    }

    place(value, [low, high], log, from, to) {
      const f = log ? Math.log : v => v;
      return from + (f(value) - f(low)) / (f(high) - f(low)) * (to - from);
    }

    px(x) { return this.place(x, this.view, this.spec.x.log, MARGIN.left, this.width - MARGIN.right); }
    py(y) { return this.place(y, this.seen, this.spec.y.log, this.height - MARGIN.bottom, this.top); }

    // The value of x at a pixel.
    value(pixel) {
      const part = (pixel - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right);
      const [low, high] = this.view;
      return this.spec.x.log ? low * (high / low) ** part : low + part * (high - low);
    }

    draw() {
      const ratio = window.devicePixelRatio || 1;
      this.width = this.canvas.clientWidth; this.height = this.canvas.clientHeight;
      if (!this.width) return;  // not shown
      this.canvas.width = this.width * ratio; this.canvas.height = this.height * ratio;
      const c = this.context;
      c.setTransform(ratio, 0, 0, ratio, 0, 0);
      c.clearRect(0, 0, this.width, this.height);
      c.font = FONT;
      this.seen = this.range();
      this.axes();
      c.save();
      c.beginPath();
      c.rect(MARGIN.left, 0, this.width - MARGIN.left - MARGIN.right, this.height - MARGIN.bottom);
      c.clip();
      let points = 0;
      if (this.cells) points = this.heat();
      else for (const s of this.visible()) points += this.isPoints ? this.point(s) : this.isBars ? this.bars(s) : this.line(s);
      this.drawLanes();
      if (this.drag) {
        c.fillStyle = "#0072b222";
        c.fillRect(this.drag.from, 0, this.drag.to - this.drag.from, this.height);
      }
      c.restore();
      this.canvas.dataset.points = points;
      this.canvas.dataset.view = this.view.join(" ");
    }

    axes() {
      const c = this.context, { spec } = this;
      const bottom = this.height - MARGIN.bottom;
      c.strokeStyle = INK.grid; c.fillStyle = INK.text; c.lineWidth = 1;
      c.textAlign = "center"; c.textBaseline = "top";
      let taken = 0;
      for (const x of ticks(...this.view, spec.x.log)) {
        const name = spec.x.names ? spec.x.names[x] : shown(x);
        if (name === undefined) continue;
        if (!spec.x.names) this.rule(this.px(x), this.top, this.px(x), bottom);
        const half = c.measureText(name).width / 2, from = this.px(x) - half;
        if (from < taken || from + 2 * half > this.width) continue;  // no word over another
        c.fillText(name, this.px(x), bottom + 5);
        taken = from + 2 * half + 6;
      }
      c.fillText(spec.x.label, (MARGIN.left + this.width) / 2, bottom + 22);
      c.textAlign = "right"; c.textBaseline = "middle";
      const levels = ticks(...this.seen, spec.y.log);
      if (spec.y.quantiles && this.seen[0] < .5 && this.seen[1] > .5) levels.push(.5);
      for (const y of levels) {
        this.rule(MARGIN.left, this.py(y), this.width - MARGIN.right, this.py(y));
        c.fillText(spec.y.quantiles ? quantile(y) : shown(y), MARGIN.left - 5, this.py(y));
      }
      this.shownLanes().forEach((lane, k) => {
        c.fillStyle = COLOURS[lane.colour % COLOURS.length];
        c.fillText(lane.name, MARGIN.left - 5, LANE * (k + .6), MARGIN.left - 8);
      });
      c.fillStyle = INK.text;
      c.save();
      c.translate(12, (this.top + bottom) / 2); c.rotate(-Math.PI / 2); c.textAlign = "center";
      c.fillText(spec.y.label, 0, 0);
      c.restore();
    }

    rule(x0, y0, x1, y1) {
      const c = this.context;
      c.beginPath(); c.moveTo(x0, y0); c.lineTo(x1, y1); c.stroke();
    }

    colour(s) { return COLOURS[(s.colour ?? this.series.indexOf(s)) % COLOURS.length]; }

    // A line through the middle of each band, over the band; broken where there is no value.
    line(s) {
      const c = this.context;
      let points = 0, open = false;
      c.fillStyle = this.colour(s) + "33"; c.strokeStyle = this.colour(s); c.lineWidth = 1.6;
      c.setLineDash(s.dashed ? [6, 5] : []);
      c.beginPath();
      s.x.forEach((x, i) => {
        if (s.low[i] === null || (this.spec.y.log && s.low[i] <= 0)) { open = false; return; }
        const middle = this.py((s.low[i] + s.high[i]) / 2);
        if (open) c.lineTo(this.px(x), middle); else c.moveTo(this.px(x), middle);
        if (s.high[i] > s.low[i]) c.fillRect(this.px(x) - 1, this.py(s.high[i]), 2, this.py(s.low[i]) - this.py(s.high[i]));
        open = true; points++;
      });
      c.stroke();
      c.setLineDash([]);
      return points;
    }

    // A dot with its name beside it, and a bar each way for its interval.
    point(s) {
      const c = this.context, x = this.px(s.x[0]), y = this.py(s.middle);
      c.strokeStyle = c.fillStyle = this.colour(s); c.lineWidth = 1.5;
      this.rule(this.px(s.left), y, this.px(s.right), y);
      this.rule(x, this.py(s.low[0]), x, this.py(s.high[0]));
      c.beginPath(); c.arc(x, y, 4.5, 0, 2 * Math.PI); c.fill();
      const end = x + 8 + c.measureText(s.name).width > this.width - MARGIN.right;
      c.textAlign = end ? "right" : "left"; c.textBaseline = "bottom";
      c.fillText(s.name, end ? x - 8 : x + 8, y - 3);
      return 1;
    }

    bars(s) {
      const c = this.context, stacked = this.spec.kind === "stack";
      const shown = this.visible(), index = shown.indexOf(s), side = stacked ? 1 : shown.length;
      const base = stacked ? this.sums(index) : s.x.map(() => 0);
      const gap = s.x.length > 1 ? Math.min(...s.x.slice(1).map((x, i) => Math.abs(x - s.x[i])).filter(d => d > 0)) : 1;
      const room = Math.abs(this.px(this.view[0] + gap) - this.px(this.view[0]));
      const wide = Math.max(stacked ? 4 : 1, Math.min(stacked ? 12 : 40, room * .9 / side));
      // A bin ends at its position; everything else stands around its own.
      const left = stacked || this.spec.x.names ? -wide * side / 2 : -room;
      c.fillStyle = this.colour(s);
      s.x.forEach((x, i) => {
        if (s.high[i] === null) return;
        const top = this.py(base[i] + s.high[i]);
        c.fillRect(this.px(x) + left + wide * (stacked ? 0 : index), top, wide, this.py(base[i]) - top);
      });
      return s.x.length;
    }

    heat() {
      const c = this.context, times = this.cells.length, sizes = this.cells[0].length;
      const most = Math.max(1, ...this.cells.map(row => Math.max(...row)));
      const [, span] = this.all, [, largest] = this.seen;
      let drawn = 0;
      this.cells.forEach((row, i) => row.forEach((count, k) => {
        if (!count) return;
        const part = this.spec.share ? count : Math.log1p(count) / Math.log1p(most);
        c.fillStyle = `rgba(${INK.heat}, ${.12 + .88 * part})`;
        const x = this.px(span * i / times), y = this.py(largest * (k + 1) / sizes);
        c.fillRect(x, y, this.px(span * (i + 1) / times) - x + .5, this.py(largest * k / sizes) - y + .5);
        drawn++;
      }));
      return drawn;
    }

    drawLanes() {
      const c = this.context;
      this.shownLanes().forEach((lane, k) => {
        c.strokeStyle = COLOURS[lane.colour % COLOURS.length]; c.lineWidth = 1;
        for (const x of lane.at) this.rule(this.px(x), LANE * k + 2, this.px(x), LANE * (k + 1) - 1);
      });
    }

    legend(box) {
      box.replaceChildren();
      const names = [
        ...this.series.map(s => [s.name, this.colour(s), this.isBars ? "area" : s.dashed ? "dashed" : ""]),
        ...this.lanes.map(lane => [lane.name, COLOURS[lane.colour % COLOURS.length], "area"]),
      ];
      for (const [name, colour, kind] of names) {
        const button = document.createElement("button"), patch = document.createElement("i");
        patch.style.borderColor = colour;
        patch.className = kind;
        button.append(patch, name);
        button.setAttribute("aria-pressed", !this.hidden.has(name));
        button.addEventListener("click", () => {
          if (!this.hidden.delete(name)) this.hidden.add(name);
          button.setAttribute("aria-pressed", !this.hidden.has(name));
          this.draw();
        });
        box.append(button);
      }
      if (this.cells) {
        const scale = document.createElement("span"), most = Math.max(...this.cells.map(row => Math.max(...row)));
        scale.className = "scale";
        if (this.spec.share) scale.append("0", document.createElement("i"), `all ${this.spec.share}`);
        else scale.append("1", document.createElement("i"), `${most.toLocaleString("en-US")} mallocs a cell, by logarithm`);
        box.append(scale);
      }
    }

    zoom(low, high) {
      low = Math.max(low, this.all[0]); high = Math.min(high, this.all[1]);
      if (high - low > (this.all[1] - this.all[0]) * 1e-6) this.view = [low, high];
      this.draw();
    }

    // What is drawn, in the axes' units.
    csv() {
      const quote = text => /[",\n]/.test(text) ? `"${String(text).replaceAll('"', '""')}"` : text;
      const { x, y } = this.spec, rows = [];
      if (this.cells) {
        const [, wide] = this.all, [, tall] = this.range(), times = this.cells.length;
        rows.push([x.label, y.label, this.spec.share || "mallocs"]);
        this.cells.forEach((row, i) => row.forEach((v, k) => {
          if (v) rows.push([wide * (i + 1) / times, tall * (k + 1) / row.length, v]);
        }));
      } else {
        rows.push(["series", x.label, `${y.label}, low`, `${y.label}, high`]);
        for (const s of this.series) s.x.forEach((v, i) => rows.push([s.name, x.names ? x.names[v] : v, s.low[i], s.high[i]]));
        for (const lane of this.lanes) for (const v of lane.at) rows.push([lane.name, v, "", ""]);
      }
      return rows.map(row => row.map(v => quote(v ?? "")).join(",")).join("\n") + "\n";
    }

    // Arrows move a cursor along the plot, + and - zoom, Escape shows all.
    key(event) {
      const [low, high] = this.view, step = (this.width - MARGIN.left - MARGIN.right) / 50;
      const x = this.cursor ?? (MARGIN.left + this.width - MARGIN.right) / 2;
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
        const to = x + (event.key === "ArrowLeft" ? -step : step);
        this.cursor = Math.max(MARGIN.left, Math.min(this.width - MARGIN.right, to));
        const box = this.canvas.getBoundingClientRect(), y = this.height / 2;
        this.hover({ offsetX: this.cursor, offsetY: y, clientX: box.left + this.cursor, clientY: box.top + y });
      } else if (event.key === "+" || event.key === "-") this.scale(this.value(x), event.key === "+" ? .7 : 1 / .7);
      else if (event.key === "Escape") { this.view = [...this.all]; this.draw(); tip.hidden = true; }
      else return;
      event.preventDefault();
    }

    // Zoom around a value.
    scale(x, factor) {
      const [low, high] = this.view;
      if (this.spec.x.log) this.zoom(x * (low / x) ** factor, x * (high / x) ** factor);
      else this.zoom(x + (low - x) * factor, x + (high - x) * factor);
    }

    listen() {
      const { canvas } = this;
      canvas.addEventListener("keydown", event => this.key(event));
      canvas.addEventListener("blur", () => { tip.hidden = true; this.draw(); });
      canvas.addEventListener("pointerdown", event => {
        if (event.button) return;
        this.drag = { from: event.offsetX, to: event.offsetX };
        canvas.setPointerCapture(event.pointerId);
      });
      canvas.addEventListener("pointermove", event => {
        if (this.drag) { this.drag.to = event.offsetX; this.draw(); } else this.hover(event);
      });
      canvas.addEventListener("pointerup", event => {
        const drag = this.drag;
        this.drag = null;
        if (drag && Math.abs(event.offsetX - drag.from) > 4) {
          const ends = [this.value(drag.from), this.value(event.offsetX)];
          this.zoom(Math.min(...ends), Math.max(...ends));
        } else this.draw();
      });
      canvas.addEventListener("pointercancel", () => { this.drag = null; this.draw(); });
      canvas.addEventListener("pointerleave", () => { tip.hidden = true; this.draw(); });
      canvas.addEventListener("dblclick", () => { this.view = [...this.all]; this.draw(); });
      canvas.addEventListener("wheel", event => {
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        this.scale(this.value(event.offsetX), event.deltaY < 0 ? .8 : 1.25);
      }, { passive: false });
    }

    hover(event) {
      const x = this.value(event.offsetX);
      this.draw();
      this.context.strokeStyle = "#666";
      this.rule(event.offsetX, this.top, event.offsetX, this.height - MARGIN.bottom);
      const lines = this.cells ? this.cellText(x, event.offsetY) : this.nearest(x);
      const names = this.spec.x.names;
      const where = names ? names[Math.max(0, Math.min(names.length - 1, Math.round(x)))] : shown(x);
      tip.textContent = [`${this.spec.x.label}: ${where}`, ...lines].join("\n");
      tip.hidden = false;
      tip.style.top = `${event.clientY + 14}px`;
      const right = event.clientX > window.innerWidth / 2;
      tip.style.left = right ? "" : `${event.clientX + 14}px`;
      tip.style.right = right ? `${window.innerWidth - event.clientX + 14}px` : "";
    }

    nearest(x) {
      const { x: along, y: up } = this.spec;
      if (this.isPoints) return this.visible().map(s =>
        `${s.name}: ${shown(s.x[0])} (${shown(s.left)} to ${shown(s.right)}), ${shown(s.middle)} (${shown(s.low[0])} to ${shown(s.high[0])}) ${up.label}`);
      const series = this.visible().map(s => {
        let best = -1;
        s.x.forEach((value, i) => {
          if (s.low[i] !== null && (best < 0 || Math.abs(value - x) < Math.abs(s.x[best] - x))) best = i;
        });
        if (best < 0) return `${s.name}: -`;
        if (!this.isBars) this.dot(s, best);
        const band = s.high[best] > s.low[best] ? `${shown(s.low[best])} to ${shown(s.high[best])}` : shown(s.low[best]);
        const where = along.names ? "" : ` at ${shown(s.x[best])}`;
        return `${s.name}: ${band}${up.quantiles ? ` (${quantile(s.low[best])})` : ` ${up.label}`}${where}`;
      });
      const lanes = this.shownLanes().map(lane => {
        const limit = lane.at.find(value => value >= x);
        return `${lane.name}: ${limit === undefined ? "too large" : `class up to ${shown(limit)}`}`;
      });
      return [...series, ...lanes];
    }

    dot(s, i) {
      const c = this.context;
      c.fillStyle = this.colour(s);
      c.beginPath();
      c.arc(this.px(s.x[i]), this.py((s.low[i] + s.high[i]) / 2), 3, 0, 2 * Math.PI);
      c.fill();
    }

    cellText(x, pixel) {
      const part = (this.height - MARGIN.bottom - pixel) / (this.height - MARGIN.bottom - this.top);
      const y = part * this.seen[1];
      const i = Math.floor(x / this.all[1] * this.cells.length), k = Math.floor(part * this.cells[0].length);
      const count = (this.cells[i] || [])[k];
      return count === undefined ? [] : [`${shown(y)} bytes`, this.spec.share ? `${shown(count)} ${this.spec.share}` : `mallocs: ${count}`];
    }
  }

  const specs = read("specifications");
  const plots = [...document.querySelectorAll("figure")].map(figure => new Plot(figure, specs[figure.dataset.plot]));
  const redraw = () => { ink(); for (const plot of plots) { plot.legend(plot.canvas.parentNode.querySelector(".legend")); plot.draw(); } };
  dark.addEventListener("change", redraw);
  printing.addEventListener("change", redraw);

  // Rows that have all the words that are typed are shown. Without scripts there is no field.
  const bodies = [...document.querySelectorAll("tbody")];
  const filter = document.createElement("input"), label = document.createElement("label"), left = document.createElement("output");
  Object.assign(filter, { type: "search", id: "filter", size: 9, placeholder: "/", title: "Words of rows to show; / comes here, Escape shows all" });
  label.append("Rows with ", filter, " ", left);
  document.querySelector("nav").prepend(label);
  function sift() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let kept = 0;
    for (const body of bodies) {
      let here = 0;
      for (const row of body.rows) {
        const text = [...row.cells].map(cell => cell.textContent).join(" ").toLowerCase();
        const out = !words.every(word => text.includes(word));
        row.classList.toggle("out", out);
        here += !out;
      }
      kept += here;
      const fold = body.closest("details");
      if (fold && words.length) fold.open = here > 0;
    }
    left.textContent = words.length ? `${kept} of ${bodies.reduce((sum, body) => sum + body.rows.length, 0)}` : "";
  }
  filter.addEventListener("input", sift);
  document.addEventListener("keydown", event => {
    if (event.key === "/" && !/^(INPUT|SELECT)$/.test(event.target.tagName)) { event.preventDefault(); filter.focus(); filter.select(); }
    if (event.key === "Escape" && event.target === filter) { filter.value = ""; sift(); filter.blur(); }
  });

  // A click on a column's head sorts by it, and again the other way.
  const rank = text => { const n = parseFloat(text.replaceAll(",", "")); return Number.isNaN(n) ? null : n; };
  const UNITS = { KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };
  const amount = text => { const n = rank(text); return n === null ? null : n * (UNITS[text.split(" ")[1]] || 1); };
  for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
    const head = button.parentNode, body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending", column = head.cellIndex;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].textContent.trim();
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [a, b].map(row => head.classList.contains("number") ? amount(key(row)) : key(row));
      const order = x === null || y === null ? (x === null) - (y === null) : typeof x === "string" ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    });
    body.append(...rows);
  });
})();
