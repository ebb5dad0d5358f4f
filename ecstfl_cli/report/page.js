"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const shown = data.classes.map(() => true);
  const charts = [];
  const SVG = "http://www.w3.org/2000/svg";
  const LEFT = 38, RIGHT = 8, TOP = 8, PLOT = 150, STRIP = 20, GAP = 6, AXIS = 22;
  const HEIGHT = TOP + PLOT + GAP + STRIP + AXIS;
  // Charts that are drawn at once, pixels of a mean where points are dense, and rows of a table that is printed.
  const LAZY = 40, PART = 4, PRINTED = 60;

  const svg = (name, attributes, parent) => {
    const node = document.createElementNS(SVG, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (parent) parent.append(node);
    return node;
  };
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const percent = (permille) => `${Math.round(permille / 10)}%`;

  function clock(seconds, step) {
    const decimals = step < 0.1 ? 2 : step < 1 ? 1 : 0;
    const rounded = Number(seconds.toFixed(decimals));
    const hours = Math.floor(rounded / 3600), minutes = Math.floor(rounded / 60) % 60;
    const rest = (rounded % 60).toFixed(decimals).padStart(decimals ? decimals + 3 : 2, "0");
    return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
  }

  function ticks(from, to, room) {
    const steps = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
    const step = steps.find((s) => (to - from) / s <= room / 70) || 86400;
    const values = [];
    for (let n = Math.ceil(from / step - 1e-9); n * step <= to + 1e-9; n++) values.push(n * step);
    return { step, values };
  }

  // One for each source: its faces share the time axis, the zoom and the cursor.
  class View {
    constructor(end) {
      this.end = Math.max(end, 0.1);
      this.charts = [];
      this.whole();
    }
    whole() { this.show(0, this.end); }
    show(from, to) {
      const width = clamp(to - from, Math.min(0.2, this.end), this.end);
      this.from = clamp((from + to - width) / 2, 0, this.end - width);
      this.to = this.from + width;
      for (const chart of this.charts) if (chart.drawn) chart.draw();
    }
    zoom(factor, about) {
      const centre = about === undefined ? (this.from + this.to) / 2 : about;
      this.show(centre - (centre - this.from) * factor, centre + (this.to - centre) * factor);
    }
    pan(part) {
      const by = clamp(part * (this.to - this.from), -this.from, this.end - this.to);
      this.show(this.from + by, this.to + by);
    }
    point(time) {
      this.time = time;
      for (const chart of this.charts) if (chart.drawn) chart.mark();
    }
  }

  class Chart {
    constructor(element, face, view) {
      Object.assign(this, { element, face, view, drawn: false });
      this.tip = element.appendChild(document.createElement("div"));
      this.tip.className = "tip";
      this.tip.hidden = true;
      this.coarse = element.closest(".face").querySelector(".coarse");
      this.readout = document.getElementById(element.dataset.readout);
      view.charts.push(this);
      this.listen();
    }

    x(time) { return LEFT + ((time - this.view.from) / (this.view.to - this.view.from)) * this.room; }
    y(permille) { return TOP + PLOT * (1 - permille / 1000); }
    time(x) { return this.view.from + ((x - LEFT) / this.room) * (this.view.to - this.view.from); }

    draw(width) {
      this.drawn = true;
      this.width = width || this.element.clientWidth || 700;
      this.room = this.width - LEFT - RIGHT;
      if (this.svg) this.svg.remove();
      this.svg = svg("svg", { viewBox: `0 0 ${this.width} ${HEIGHT}`, height: HEIGHT, "aria-hidden": "true" });
      this.element.prepend(this.svg);
      const clip = `clip-${this.element.id}`;
      svg("rect", { x: LEFT, y: 0, width: this.room, height: HEIGHT },
        svg("clipPath", { id: clip }, svg("defs", {}, this.svg)));
      this.axes();
      this.series(svg("g", { class: "series", "clip-path": `url(#${clip})` }, this.svg));
      this.strip(svg("g", { class: "strip", "clip-path": `url(#${clip})` }, this.svg));
      this.brush = svg("rect", { class: "brush", y: TOP, height: PLOT + GAP + STRIP, width: 0 }, this.svg);
      this.cursor = svg("line", { class: "cursor", y1: TOP, y2: TOP + PLOT + GAP + STRIP }, this.svg);
      this.mark();
    }

    axes() {
      for (const part of [0, 250, 500, 750, 1000]) {
        svg("line", { class: "grid", x1: LEFT, x2: LEFT + this.room, y1: this.y(part), y2: this.y(part) }, this.svg);
        if (part % 500 === 0) {
          const label = { x: LEFT - 5, y: this.y(part) + 4, "text-anchor": "end" };
          svg("text", label, this.svg).textContent = percent(part);
        }
      }
      const { step, values } = ticks(this.view.from, this.view.to, this.room);
      for (const value of values) {
        const x = this.x(value);
        svg("line", { class: "grid", x1: x, x2: x, y1: TOP, y2: TOP + PLOT }, this.svg);
        // Labels of the first and last tick stay in the picture.
        const near = x < LEFT + 14 ? "start" : x > this.width - 22 ? "end" : "middle";
        svg("text", { x, y: HEIGHT - 6, "text-anchor": near }, this.svg).textContent = clock(value, step);
      }
    }

    // First and last point of what is in sight, one more on each side.
    sight() {
      const times = this.face.t;
      return [Math.max(0, before(times, this.view.from * 1000)), Math.min(times.length - 1, before(times, this.view.to * 1000) + 1)];
    }

    // The points in sight; where they are closer than pixels can show, means over equal parts of the time.
    points() {
      const { t, p, gap } = this.face;
      const [first, last] = this.sight();
      const width = 1000 * PART * (this.view.to - this.view.from) / this.room;
      this.coarse.textContent = "";
      if (last - first < this.room / 2) return { t: t.slice(first, last + 1), p: p.map((values) => values.slice(first, last + 1)), gap };
      const times = [], means = p.map(() => []);
      for (let i = first; i <= last;) {
        const part = Math.floor(t[i] / width);
        let end = i + 1;
        while (end <= last && Math.floor(t[end] / width) === part && t[end] - t[end - 1] <= gap) end++;
        const mean = (values) => { let sum = 0; for (let j = i; j < end; j++) sum += values[j]; return sum / (end - i); };
        times.push(mean(t));
        p.forEach((values, k) => means[k].push(mean(values)));
        i = end;
      }
      this.coarse.textContent = `At this zoom the lines are means of ${(width / 1000).toPrecision(2)} s.`;
      return { t: times, p: means, gap: Math.max(gap, 2.5 * width) };
    }

    series(group) {
      const { t, p, gap } = this.points();
      const xs = t.map((time) => this.x(time / 1000).toFixed(1));
      const base = this.y(0).toFixed(1);
      const fresh = t.map((time, i) => i === 0 || time - t[i - 1] > gap);
      p.forEach((values, k) => {
        if (!shown[k] || !t.length) return;
        let line = "", area = "";
        values.forEach((value, i) => {
          const y = this.y(value).toFixed(1);
          const ends = i + 1 === t.length || fresh[i + 1];
          line += `${fresh[i] ? "M" : "L"}${xs[i]} ${y}`;
          area += `${fresh[i] ? `M${xs[i]} ${base}` : ""}L${xs[i]} ${y}${ends ? `L${xs[i]} ${base}Z` : ""}`;
          // A point alone is a short line.
          if (fresh[i] && ends) line += "h3";
        });
        svg("path", { class: "area", d: area, fill: data.colours[k] }, group);
        svg("path", { class: "line", d: line, stroke: data.colours[k] }, group);
      });
    }

    strip(group) {
      const y = TOP + PLOT + GAP;
      for (const [start, end, k, mean] of this.face.segments) {
        if (end < this.view.from || start > this.view.to) continue;
        const left = Math.max(this.x(start), LEFT), right = Math.min(this.x(end), LEFT + this.room);
        const width = Math.max(right - left - 1, 1);
        const rect = svg("rect", { x: left, y, width, height: STRIP, fill: data.colours[k], rx: 2 }, group);
        const pale = mean < 500;
        if (pale) rect.setAttribute("class", "pale");
        svg("title", {}, rect).textContent =
          `${data.classes[k]}, ${clock(start, 0.5)} to ${clock(end, 0.5)}, on average ${percent(mean)}`;
        if (width > 7.2 * data.classes[k].length + 8) {
          const label = svg("text", { x: left + width / 2, y: y + 14, "text-anchor": "middle" }, group);
          label.textContent = data.classes[k];
          label.style.fill = pale ? "var(--text)" : data.inks[k];
        }
      }
    }

    mark() {
      const time = this.view.time;
      const inSight = time !== undefined && time >= this.view.from && time <= this.view.to;
      this.cursor.setAttribute("visibility", inSight ? "visible" : "hidden");
      this.tip.hidden = !inSight || this.view.active !== this;
      if (!inSight) return;
      const x = this.x(time);
      this.cursor.setAttribute("x1", x);
      this.cursor.setAttribute("x2", x);
      if (this.view.active === this) this.tell(time, x);
    }

    tell(time, x) {
      const { t, p, gap } = this.face;
      let i = Math.max(0, before(t, time * 1000));
      if (i + 1 < t.length && t[i + 1] - time * 1000 < time * 1000 - t[i]) i++;
      const step = (this.view.to - this.view.from) / this.room;
      const head = document.createElement("div");
      const here = Math.abs(t[i] - time * 1000) <= gap;
      head.textContent = here ? clock(t[i] / 1000, step * 4) : `${clock(time, step * 4)}: not seen`;
      const lines = [head];
      const values = p.map((series) => series[i]);
      const most = values.indexOf(Math.max(...values));
      if (here) values.forEach((value, k) => shown[k] && lines.push(entry(k, value, k === most)));
      this.tip.replaceChildren(...lines);
      const width = this.tip.offsetWidth;
      this.tip.style.left = `${x + 14 + width > this.width ? Math.max(0, x - width - 14) : x + 14}px`;
      if (this.speaks) this.readout.textContent = here ? `${head.textContent}: ${data.classes[most]} ${percent(values[most])}` : head.textContent;
    }

    listen() {
      const { element, view } = this;
      const position = (event) => clamp(event.clientX - this.svg.getBoundingClientRect().left, LEFT, LEFT + this.room);
      element.addEventListener("pointerdown", (event) => {
        if (event.button === 0 && this.drawn) this.from = position(event);
      });
      element.addEventListener("pointermove", (event) => {
        if (!this.drawn) return;
        const x = position(event);
        this.speaks = false;
        view.active = this;
        view.point(this.time(x));
        if (this.from === undefined || Math.abs(x - this.from) < 6) return;
        if (!element.hasPointerCapture(event.pointerId)) element.setPointerCapture(event.pointerId);
        this.brush.setAttribute("x", Math.min(x, this.from));
        this.brush.setAttribute("width", Math.abs(x - this.from));
      });
      element.addEventListener("pointerup", (event) => {
        const start = this.from, x = position(event);
        this.stop();
        if (start === undefined || Math.abs(x - start) < 6) return;
        view.show(this.time(Math.min(x, start)), this.time(Math.max(x, start)));
      });
      element.addEventListener("pointercancel", () => this.stop());
      element.addEventListener("pointerleave", () => { view.active = undefined; view.point(undefined); });
      element.addEventListener("dblclick", () => view.whole());
      element.addEventListener("blur", () => { view.active = undefined; view.point(undefined); });
      element.addEventListener("keydown", (event) => this.key(event));
    }

    stop() {
      this.from = undefined;
      if (this.brush) this.brush.setAttribute("width", 0);
    }

    key(event) {
      const { view } = this;
      const { from, to } = view;
      const step = (to - from) / (event.shiftKey ? 10 : 60);
      const now = view.time === undefined ? from : view.time;
      const moves = { ArrowLeft: now - step, ArrowRight: now + step, Home: from, End: to };
      if (event.key in moves) {
        const time = clamp(moves[event.key], 0, view.end);
        view.active = this;
        this.speaks = true;
        if (time < from || time > to) view.show(time - (to - from) / 2, time + (to - from) / 2);
        view.point(time);
      } else if (event.key === "+" || event.key === "=") view.zoom(0.5, view.time);
      else if (event.key === "-") view.zoom(2, view.time);
      else if (event.key === "0" || event.key === "Escape") view.whole();
      else return;
      event.preventDefault();
    }
  }

  // Index of the last value that is not above `value`, -1 where there is none.
  function before(sorted, value) {
    let low = 0, high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] <= value) low = middle + 1; else high = middle;
    }
    return low - 1;
  }

  function entry(k, value, most) {
    const line = document.createElement("div");
    if (most) line.className = "most";
    const swatch = document.createElement("span"), name = document.createElement("span"), number = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = data.colours[k];
    name.textContent = data.classes[k];
    number.textContent = percent(value);
    line.append(swatch, name, number);
    return line;
  }

  function build() {
    const views = data.sources.map((source) => new View(source.end));
    for (const element of document.querySelectorAll(".chart")) {
      const { source, face } = element.dataset;
      const chart = new Chart(element, data.sources[source].faces[face], views[source]);
      charts.push(chart);
      const box = element.closest(".face");
      for (const button of box.querySelectorAll("[data-zoom]")) {
        button.addEventListener("click", () => ({
          in: () => chart.view.zoom(0.5), out: () => chart.view.zoom(2), whole: () => chart.view.whole(),
          left: () => chart.view.pan(-0.5), right: () => chart.view.pan(0.5),
        })[button.dataset.zoom]());
      }
      for (const button of box.querySelectorAll("[data-time]")) {
        button.addEventListener("click", () => {
          const time = Number(button.dataset.time), { from, to } = chart.view;
          chart.view.active = chart;
          chart.speaks = true;
          if (time < from || time > to) chart.view.show(time - (to - from) / 2, time + (to - from) / 2);
          chart.view.point(time);
        });
      }
    }
    // A few charts at once; of many, those that come into sight.
    const observer = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        const chart = charts.find((one) => one.element === target);
        if (isIntersecting && !chart.drawn) chart.draw();
      }
    }, { rootMargin: "600px" });
    if (charts.length <= LAZY) charts.forEach((chart) => chart.draw());
    else charts.forEach((chart) => observer.observe(chart.element));
    let wide = window.innerWidth;
    window.addEventListener("resize", () => {
      if (window.innerWidth === wide) return;
      wide = window.innerWidth;
      charts.forEach((chart) => chart.drawn && chart.draw());
    });
    const opened = [];
    window.addEventListener("beforeprint", () => {
      for (const details of document.querySelectorAll("details:not([open])")) {
        if (details.querySelectorAll("tr").length > PRINTED) continue;
        details.open = true;
        opened.push(details);
      }
      charts.forEach((chart) => chart.draw(720));
    });
    window.addEventListener("afterprint", () => {
      opened.splice(0).forEach((details) => { details.open = false; });
      charts.forEach((chart) => chart.draw());
    });
  }

  for (const button of document.querySelectorAll(".classes [data-class]")) {
    button.addEventListener("click", () => {
      const k = Number(button.dataset.class);
      shown[k] = !shown[k];
      button.setAttribute("aria-pressed", String(shown[k]));
      charts.forEach((chart) => chart.drawn && chart.draw());
    });
  }

  function sort(table, column, header) {
    const down = header.getAttribute("aria-sort") !== "ascending" ? 1 : -1;
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const numeric = header.classList.contains("number");
    const compare = numeric ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b), undefined, { numeric: true });
    body.append(...[...body.rows].sort((a, b) => down * compare(a, b)));
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    table.querySelectorAll("thead th").forEach((header, column) => {
      header.querySelector("button").addEventListener("click", () => sort(table, column, header));
    });
  }
  for (const input of document.querySelectorAll("input[data-filter]")) {
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase();
      for (const part of document.querySelectorAll(input.dataset.filter)) {
        part.hidden = !part.textContent.toLowerCase().includes(words);
      }
    });
  }
  build();
  document.documentElement.dataset.ready = "true";
})();
