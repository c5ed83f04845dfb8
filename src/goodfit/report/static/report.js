"use strict";
// Draws each figure.chart from the JSON beside it, in the colors of the page, and redraws it when those or the width change.
(() => {
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const LINES = {
    accent: () => ({stroke: color("--accent"), width: 2}),
    ink: () => ({stroke: color("--ink"), width: 1.5}),
    dashed: () => ({stroke: color("--ink"), width: 1.5, dash: [6, 4]}),
    faint: () => ({stroke: color("--faint") + "80", width: 1}),
    edge: () => ({stroke: color("--faint"), width: 1}),
    guide: () => ({stroke: color("--faint"), width: 1.5, dash: [6, 4]}),
    whisker: () => ({stroke: color("--dim"), width: 1}),
  };
  // Of several runs in one chart: six colors, whose dashes change from one to the next and again after all six.
  const DASHES = [[], [8, 4], [2, 6]];
  for (let k = 0; k < 18; k++) {
    LINES[`run${k}`] = () => ({stroke: color(`--run-${k % 6}`), width: 2, dash: DASHES[(k + Math.floor(k / 6)) % 3]});
  }
  const DOTS = {
    accent: () => ({fill: color("--accent"), stroke: color("--card"), width: 1}),
    ink: () => ({fill: color("--card"), stroke: color("--ink"), width: 1.5}),
    faint: () => ({fill: color("--faint"), stroke: color("--card"), width: 1}),
    ring: () => ({fill: "transparent", stroke: color("--accent"), width: 1.5}),
    cross: () => ({fill: "transparent", stroke: color("--ink"), width: 1.5}),
  };
  for (let k = 0; k < 18; k++) DOTS[`run${k}`] = () => ({fill: color(`--run-${k % 6}`), stroke: "transparent", width: 1});
  const FONT = "system-ui, sans-serif";
  const NEAR = 20;  // pixels between the cursor and a point whose note is shown

  const number = (v, digits) => Math.abs(v) >= 1e5 || (v !== 0 && Math.abs(v) < 1e-4) ? Number(v.toPrecision(digits)).toExponential().replace("e+", "e") : String(Number(v.toPrecision(digits)));
  const value = (unit, v) => v == null ? "–" : unit === "percent" ? (100 * v).toFixed(1) + "\u00a0%" : number(v, 3);
  const tick = (unit, v, digits) => v == null ? "" : unit === "percent" ? Number((100 * v).toFixed(2)) + "\u00a0%" : number(v, digits);

  // All series in one table, sorted by x, since uPlot's series share their x values; an x that one series repeats gets further rows.
  const align = (spec, scale) => {
    const table = new Map();
    spec.series.forEach((s, series) => {
      const seen = new Map();
      s.x.forEach((x, i) => {
        const n = seen.get(x) ?? 0, rows = table.get(x) ?? [];
        (rows[n] ??= {x: x / scale, ys: []}).ys[series] = s.y[i];
        seen.set(x, n + 1); table.set(x, rows);
      });
    });
    const rows = [...table.values()].flat().sort((a, b) => a.x - b.x);
    return [rows.map((row) => row.x), ...spec.series.map((_, series) => rows.map((row) => row.ys[series]))];
  };

  // What the legend shows: the value under the cursor, and the last one while there is no cursor.
  const legend = (format) => (u, v, series, i) => format(v != null || i != null ? v : u.data[series].findLast((y) => y != null));

  const drawMarks = (spec, scale) => (u) => {
    const {ctx, bbox} = u;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = color("--dim");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.font = `${11 * devicePixelRatio}px ${FONT}`;
    for (const mark of spec.marks) {
      const x = Math.round(u.valToPos(mark.x / scale, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      const left = x > bbox.left + bbox.width / 2;
      const low = spec.unit === "percent";  // accuracy curves fill the top, loss curves the bottom
      ctx.textAlign = left ? "right" : "left"; ctx.textBaseline = low ? "bottom" : "top";
      const start = x + (left ? -5 : 5) * devicePixelRatio, width = ctx.measureText(mark.label).width, right = bbox.left + bbox.width;
      const at = left ? Math.max(start, Math.min(bbox.left + width, right)) : Math.min(start, Math.max(right - width, bbox.left));
      ctx.fillText(mark.label, at, low ? bbox.top + bbox.height - 4 * devicePixelRatio : bbox.top + 2 * devicePixelRatio);
    }
    ctx.restore();
  };

  // The first range is a dashed box, later ones are shaded; each label stands a line above the one before.
  const drawRanges = (spec) => (u) => {
    const {ctx, bbox} = u, px = devicePixelRatio;
    ctx.save();
    ctx.beginPath(); ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height); ctx.clip();
    ctx.setLineDash([3 * px, 3 * px]);
    ctx.font = `${11 * px}px ${FONT}`;
    ctx.textAlign = "left"; ctx.textBaseline = "bottom";
    spec.ranges.forEach((range, i) => {
      const [left, right] = [range.low, range.high].map((x) => Math.round(u.valToPos(x, "x", true)));
      ctx.fillStyle = color("--wash"); ctx.strokeStyle = color("--faint"); ctx.lineWidth = px;
      if (i) ctx.fillRect(left, bbox.top, right - left, bbox.height); else ctx.strokeRect(left, bbox.top + px, right - left, bbox.height - 2 * px);
      ctx.fillStyle = color("--dim");
      ctx.fillText(range.label, Math.max(left, bbox.left) + 5 * px, bbox.top + bbox.height - (5 + 14 * i) * px);
    });
    ctx.restore();
  };

  // The points of a series that the x axis shows, in pixels of the canvas, with null at gaps. Unlike uPlot's own paths, these do not join or
  // drop points that share one x.
  const places = (u, s) => s.x.map((x, i) => s.y[i] == null ? null : {x: u.valToPos(x, "x", true), y: u.valToPos(s.y[i], "y", true), i})
    .filter((place) => !place || (place.x >= u.bbox.left && place.x <= u.bbox.left + u.bbox.width));

  // Whether a line turns back, as a way through the plane does: it is drawn through its points in their own order.
  const turns = (s) => s.style === "whisker" || s.x.some((x, i) => i && x < s.x[i - 1]);
  const waypointPaths = (s) => (u) => {
    const path = new Path2D();
    let open = false;
    for (const place of places(u, s)) {
      if (place) path[open ? "lineTo" : "moveTo"](place.x, place.y);
      open = place !== null;
    }
    return {stroke: path};
  };

  const dotPaths = (s) => (u) => {
    const path = new Path2D();
    for (const {x, y, i} of places(u, s).filter(Boolean)) {
      const r = s.radii[i] * devicePixelRatio;
      if (s.style === "cross") { path.moveTo(x - r, y - r); path.lineTo(x + r, y + r); path.moveTo(x - r, y + r); path.lineTo(x + r, y - r); }
      else { path.moveTo(x + r, y); path.arc(x, y, r, 0, 2 * Math.PI); }
    }
    return {fill: path, stroke: path};
  };

  // Shows the note of the point nearest to the cursor beside it.
  const showNote = (spec, note) => (u) => {
    let nearest = null, least = u.cursor.left < 0 ? 0 : NEAR * devicePixelRatio;  // left of 0: there is no cursor
    spec.series.filter((s, i) => s.notes.length && u.series[i + 1].show).forEach((s) => places(u, s).filter(Boolean).forEach(({x, y, i}) => {
      const [dx, dy] = [x - u.bbox.left, y - u.bbox.top], distance = Math.hypot(dx - u.cursor.left * devicePixelRatio, dy - u.cursor.top * devicePixelRatio);
      if (distance < least) [least, nearest] = [distance, {x: dx / devicePixelRatio, y: dy / devicePixelRatio, text: s.notes[i]}];
    }));
    note.hidden = !nearest;
    if (!nearest) return;
    note.textContent = nearest.text;
    note.style.left = `${Math.max(0, Math.min(nearest.x - note.offsetWidth / 2, u.over.clientWidth - note.offsetWidth))}px`;
    note.style.top = `${nearest.y > note.offsetHeight + 14 ? nearest.y - note.offsetHeight - 12 : nearest.y + 12}px`;
  };

  const options = (spec, width, scale) => {
    const noted = spec.series.some((s) => s.notes.length), xLabel = scale === 1 ? spec.x : "epoch";
    const decades = (u, splits) => splits.map((v) => Math.abs(Math.log10(v) % 1) < 1e-6 ? v : null);
    const axis = (log) => ({stroke: color("--dim"), grid: {stroke: color("--line"), width: 1, ...(log ? {filter: decades} : {})}, ticks: {show: false, size: 0}, font: `11px ${FONT}`, labelFont: `11px ${FONT}`, labelSize: 18, labelGap: 2});
    // Asked for all of its data, the x axis shows `xRange`; asked for less, the reader zooms.
    const whole = (u, low, high) => low === u.data[0][0] && high === u.data[0].at(-1) ? spec.xRange : [low, high];
    const x = {time: false, ...(spec.logX ? {distr: 3} : {}), ...(spec.xRange ? {range: whole} : {})};
    const y = spec.log ? {distr: 3} : spec.unit === "percent" ? {range: (u, low, high) => uPlot.rangeNum(low, high, {min: {pad: 0.05, hard: 0, mode: 1}, max: {pad: 0.05, hard: 1, mode: 1}})} : {};
    const edges = spec.series.map((s, i) => s.style === "edge" ? i + 1 : 0).filter(Boolean);
    const line = (s) => ({label: s.label, ...LINES[s.style](), ...(turns(s) ? {paths: waypointPaths(s)} : {}), value: legend((v) => value(spec.unit, v)), points: {show: s.x.length < 40 && !["edge", "guide", "whisker"].includes(s.style), size: 5, fill: color("--card")}});
    const dots = (s) => ({label: (s.style === "cross" ? "× " : "") + s.label, class: s.style === "cross" ? "cross" : "dots", ...DOTS[s.style](), paths: () => null, points: {show: true, paths: dotPaths(s), ...DOTS[s.style]()}});
    const note = document.createElement("div");
    note.className = "note";
    note.hidden = true;
    return {
      width, height: spec.height,
      scales: {x, y},
      axes: [
        {...axis(spec.logX), grid: {stroke: color("--line"), width: 1, ...(spec.logX ? {filter: decades} : {})}, size: 22, label: xLabel, values: (u, vs) => vs.map((v) => tick(spec.xUnit, v, 6))},
        {...axis(spec.log), size: 52, values: (u, vs) => vs.map((v) => tick(spec.unit, v, 3))},
      ],
      series: [
        {label: xLabel, value: legend((v) => v == null ? "–" : scale === 1 ? tick(spec.xUnit, v, 6) : v.toFixed(1))},
        ...spec.series.map((s) => s.radii.length ? dots(s) : line(s)),
      ],
      legend: {live: !noted, markers: {width: 2, dash: (u, i) => ({8: "dashed", 6: "dashed", 2: "dotted"})[u.series[i].dash?.[0]] ?? "solid"}},
      bands: edges.length === 2 ? [{series: edges, fill: color("--faint") + "40"}] : [],
      cursor: {
        x: !noted, y: false, sync: {key: spec.x, scales: ["x", null], setSeries: false}, hover: {skip: [undefined, null]},
        points: {show: !noted, size: 8, width: 2, stroke: color("--card"), fill: (u, i) => u.series[i].stroke(u, i)},
      },
      hooks: {init: [(u) => u.over.append(note)], drawAxes: [drawRanges(spec)], draw: [drawMarks(spec, scale)], setCursor: noted ? [showNote(spec, note)] : []},
    };
  };

  const charts = [...document.querySelectorAll("figure.chart")].map((figure) => ({
    frame: figure.querySelector(".plot"), spec: JSON.parse(figure.querySelector("script").textContent), plot: null, width: 0, choice: 0,
  }));

  // A slider through the choices of a chart, each of which has series of its own.
  const addSlider = (chart) => {
    const {slider, choices} = chart.spec, label = document.createElement("label"), input = document.createElement("input"), shown = document.createElement("output");
    Object.assign(input, {type: "range", min: 0, max: choices.length - 1, step: 1, value: 0});
    const move = () => {
      chart.choice = Number(input.value);
      shown.textContent = choices[chart.choice];
      input.setAttribute("aria-valuetext", choices[chart.choice]);
    };
    input.addEventListener("input", () => { move(); draw(chart); });
    label.className = "slider";
    label.append(slider + " ", input, " ", shown);
    chart.frame.before(label);
    move();
  };

  const draw = (chart) => {
    if (chart.plot) chart.plot.destroy();
    const scale = chart.spec.perEpoch || 1;
    const chosen = chart.spec.choices[chart.choice], spec = {...chart.spec, series: chart.spec.series.filter((s) => !s.choice || s.choice === chosen)};
    chart.width = chart.frame.clientWidth;
    chart.plot = new uPlot(options(spec, chart.width, scale), align(spec, scale), chart.frame);
  };

  const all = () => charts.forEach(draw);
  charts.filter((chart) => chart.spec.choices.length).forEach(addSlider);
  all();
  new ResizeObserver(() => charts.forEach((chart) => { if (chart.frame.clientWidth !== chart.width) draw(chart); })).observe(document.querySelector("main"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  addEventListener("beforeprint", () => { document.documentElement.classList.add("printing"); all(); });
  addEventListener("afterprint", () => { document.documentElement.classList.remove("printing"); all(); });
})();
