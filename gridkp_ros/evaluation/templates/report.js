// Draws the curves: lines with their 95 % bands, legends that switch methods on and off and show the values at a time.
(() => {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const namespace = document.querySelector(".chart svg")?.namespaceURI;
  const DASHES = ["", "7 4", "2 3", "9 3 2 3", "4 2", "1 4", "12 4", "6 2 2 2"];
  const MARKS = [  // by series: circle, square, triangle, diamond
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-3.5-3.5h7v7h-7z", "M0-4.5L4.5 3.5H-4.5z", "M0-5L4.5 0L0 5L-4.5 0z",
  ];
  const hidden = new Set(charts.flatMap((chart) => chart.series.filter((s) => s.off).map((s) => s.key)));
  let at = null;  // time [s] whose values the legends show; null: the last one

  const make = (parent, name, attributes, text = "") => {
    const element = document.createElementNS(namespace, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return parent.appendChild(element);
  };
  const write = (value, decimals) => value.toFixed(decimals).replace("-", "−");
  const known = (series) => series.mean.map((_, i) => i).filter((i) => series.mean[i] !== null);

  const nearest = (chart, time) => time > chart.times.at(-1) ? chart.times.length - 1
    : chart.times.reduce((best, t, i) => Math.abs(t - time) < Math.abs(chart.times[best] - time) ? i : best, 0);

  const ticks = (low, high, count) => {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= raw * 0.999);
    const out = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) out.push(k * step);
    return { values: out, decimals: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (step / power === 2.5 ? 1 : 0)) };
  };

  const range = (chart, shown) => {
    const values = shown.flatMap((s) => [...s.mean, ...s.low, ...s.high]).concat(chart.nominal).filter((v) => v !== null);
    if (!values.length) return [0, 1];
    let low = chart.bottom ?? Math.min(...values), high = chart.top ?? Math.max(...values);
    if (high <= low) [low, high] = [low - 0.5, low + 0.5];
    const room = 0.05 * (high - low);
    return [chart.bottom ?? low - room, chart.top ?? high + room];
  };

  const sample = (svg, series, y, x0, x1) => {
    make(svg, "path", { class: "line", d: `M${x0} ${y}H${x1}`, "stroke-dasharray": DASHES[series.style % 8] });
    make(svg, "path", { class: "mark", d: MARKS[series.style % 4], transform: `translate(${(x0 + x1) / 2} ${y})` });
  };

  const draw = (figure, chart) => {
    const svg = figure.querySelector("svg");
    const width = Math.max(260, Math.round(svg.getBoundingClientRect().width)), height = 250;
    const shown = chart.series.filter((s) => !hidden.has(s.key));
    const [low, high] = range(chart, shown), last = Math.max(...chart.times), up = ticks(low, high, 5);
    const labels = up.values.map((value) => write(value, up.decimals));
    const left = 14 + 7 * Math.max(3, ...labels.map((label) => label.length));
    const right = width - 16, top = 24, bottom = height - 38;
    const x = (t) => left + (right - left) * (t / last), y = (v) => bottom - (bottom - top) * ((v - low) / (high - low));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.querySelectorAll(":scope > :not(title)").forEach((old) => old.remove());

    const along = ticks(0, last, Math.min(8, width / 70));
    up.values.forEach((value, i) => {
      make(svg, "path", { class: "grid-line", d: `M${left} ${y(value)}H${right}` });
      make(svg, "text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, labels[i]);
    });
    for (const value of along.values)
      make(svg, "text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, value.toFixed(along.decimals));
    make(svg, "text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, "time ahead [s]");
    make(svg, "text", { x: 2, y: 12 }, chart.unit ? `[${chart.unit}]` : "");
    for (const value of chart.nominal) make(svg, "path", { class: "nominal", d: `M${left} ${y(value)}H${right}` });

    for (const series of shown) {
      const group = make(svg, "g", { class: `s${series.style % 8}`, "data-series": series.key }), there = known(series);
      const point = (i, v) => `${x(chart.times[i]).toFixed(1)} ${y(v).toFixed(1)}`;
      const sure = there.filter((i) => series.low[i] !== null);
      if (sure.length > 1) {
        const outline = [...sure.map((i) => point(i, series.high[i])), ...sure.toReversed().map((i) => point(i, series.low[i]))];
        make(group, "path", { class: "band", d: `M${outline.join("L")}Z` });
      }
      const d = `M${there.map((i) => point(i, series.mean[i])).join("L")}`;
      make(group, "path", { class: "line", d, "stroke-dasharray": DASHES[series.style % 8] });
      for (const i of there.length < 8 ? there : there.filter((_, k) => k % 4 === 0 || k === there.length - 1))
        make(group, "path", { class: "mark", d: MARKS[series.style % 4], transform: `translate(${point(i, series.mean[i])})` });
    }
    chart.cursor = make(svg, "path", { class: "cursor", d: "" });
    chart.place = { x, top, bottom, left, right, last, width };
  };

  const read = (figure, chart) => {
    const index = nearest(chart, at ?? Infinity), time = chart.times[index];
    figure.querySelector("legend").textContent = `Mean [95 % interval], ${time.toFixed(2)} s ahead`;
    for (const output of figure.querySelectorAll("output")) {
      const s = chart.series.find((one) => one.key === output.dataset.series), value = (v) => write(v, chart.decimals);
      const missing = s.mean[index] === null || s.mean[index] === undefined;
      const interval = missing || s.low[index] === null ? "" : ` [${value(s.low[index])}, ${value(s.high[index])}]`;
      output.textContent = missing ? "not scored here" : `${value(s.mean[index])}${interval} ${chart.unit}`.trim();
    }
    const { x, top, bottom } = chart.place;
    chart.cursor.setAttribute("d", at === null ? "" : `M${x(time)} ${top}V${bottom}`);
  };

  const figures = [...document.querySelectorAll(".chart")].map((figure) => [figure, charts.find((c) => c.key === figure.dataset.chart)]);
  const all = (work) => figures.forEach(([figure, chart]) => work(figure, chart));
  const show = (time) => { at = time; all(read); };

  for (const [figure, chart] of figures) {
    const svg = figure.querySelector("svg");
    const box = figure.querySelector("fieldset");
    for (const series of chart.series) {
      const label = box.appendChild(document.createElement("label")), tick = document.createElement("input");
      tick.type = "checkbox"; tick.checked = !hidden.has(series.key); tick.dataset.series = series.key;
      label.append(tick);
      sample(make(label, "svg", { viewBox: "0 0 40 12", class: `s${series.style % 8}`, "aria-hidden": "true" }), series, 6, 2, 38);
      const value = document.createElement("output");
      value.dataset.series = series.key;
      label.append(series.name, value);
      tick.addEventListener("change", () => {
        tick.checked ? hidden.delete(series.key) : hidden.add(series.key);
        document.querySelectorAll(`input[data-series="${CSS.escape(series.key)}"]`).forEach((one) => { one.checked = tick.checked; });
        all(draw); all(read);
      });
    }
    const point = (event) => {
      const place = chart.place, frame = svg.getBoundingClientRect();
      const x = (event.clientX - frame.left) * (place.width / frame.width);
      show(chart.times[nearest(chart, (x - place.left) / (place.right - place.left) * place.last)]);
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", () => show(null));
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key], index = nearest(chart, at ?? Infinity) + move;
      if (move) { event.preventDefault(); if (index in chart.times) show(chart.times[index]); }
      if (event.key === "Escape") show(null);
    });
  }
  const redraw = () => { all(draw); all(read); };
  redraw();
  addEventListener("resize", redraw);
})();

// Films of single forecasts run while they are in sight, unless the reader's system asks for less motion.
(() => {
  "use strict";
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const watch = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) isIntersecting ? target.play().catch(() => {}) : target.pause();
  });
  document.querySelectorAll("video.short").forEach((video) => watch.observe(video));
})();
