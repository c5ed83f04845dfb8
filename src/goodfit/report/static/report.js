"use strict";
// Draws each figure.chart from the JSON beside it, in the page's own colors, and draws it anew when those or the width change.
(() => {
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const sync = uPlot.sync("training");
  const styles = {
    accent: () => ({stroke: color("--accent"), width: 2}),
    ink: () => ({stroke: color("--ink"), width: 1.5}),
    dashed: () => ({stroke: color("--ink"), width: 1.5, dash: [6, 4]}),
    faint: () => ({stroke: color("--faint") + "80", width: 1}),
    edge: () => ({stroke: color("--faint"), width: 1}),
  };

  const significant = (v, digits) => Math.abs(v) >= 1e5 || (v !== 0 && Math.abs(v) < 1e-4) ? Number(v.toPrecision(digits)).toExponential().replace("e+", "e") : String(Number(v.toPrecision(digits)));
  const value = (spec, v) => v == null ? "–" : spec.unit === "percent" ? (100 * v).toFixed(1) + "\u00a0%" : significant(v, 3);
  const tick = (spec, v) => v == null ? "" : spec.unit === "percent" ? Number((100 * v).toFixed(2)) + "\u00a0%" : significant(v, 3);

  // The index nearest to `from` at which the series has a value: lines with few points answer the cursor too.
  const nearest = (ys, from) => {
    for (let d = 0; d < ys.length; d++) {
      if (ys[from - d] != null) return from - d;
      if (ys[from + d] != null) return from + d;
    }
    return from;
  };

  // What the legend shows: the value under the cursor, and the last one while there is no cursor.
  const legend = (say) => (u, v, series, i) => say(v != null || i != null ? v : u.data[series].findLast((y) => y != null));

  const marks = (spec, scale) => (u) => {
    const {ctx, bbox} = u;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = color("--dim");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    for (const mark of spec.marks) {
      const x = Math.round(u.valToPos(mark.x / scale, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      const left = x > bbox.left + bbox.width / 2;
      const low = spec.unit === "percent";  // accuracy curves fill the top, loss curves the bottom
      ctx.textAlign = left ? "right" : "left"; ctx.textBaseline = low ? "bottom" : "top";
      ctx.fillText(mark.label, x + (left ? -5 : 5) * devicePixelRatio, low ? bbox.top + bbox.height - 4 * devicePixelRatio : bbox.top + 2 * devicePixelRatio);
    }
    ctx.restore();
  };

  const options = (spec, width, scale) => {
    const axis = () => ({stroke: color("--dim"), grid: {stroke: color("--line"), width: 1, ...(spec.log ? {filter: decades} : {})}, ticks: {show: false, size: 0}, font: "11px system-ui, sans-serif", labelFont: "11px system-ui, sans-serif", labelSize: 18, labelGap: 2});
    const decades = (u, splits) => splits.map((v) => Math.abs(Math.log10(v) % 1) < 1e-6 ? v : null);
    const y = spec.log ? {distr: 3} : spec.unit === "percent" ? {range: (u, low, high) => uPlot.rangeNum(low, high, {min: {pad: 0.05, hard: 0, mode: 1}, max: {pad: 0.05, hard: 1, mode: 1}})} : {};
    const edges = spec.series.map((s, i) => s.style === "edge" ? i + 1 : 0).filter(Boolean);
    return {
      width, height: spec.height,
      scales: {x: {time: false}, y},
      axes: [
        {...axis(), grid: {stroke: color("--line"), width: 1}, size: 22, label: scale === 1 ? spec.x : "epoch", values: (u, vs) => vs.map((v) => significant(v, 6))},
        {...axis(), size: 52, values: (u, vs) => vs.map((v) => tick(spec, v))},
      ],
      series: [
        {label: scale === 1 ? spec.x : "epoch", value: legend((v) => v == null ? "–" : scale === 1 ? significant(v, 6) : v.toFixed(1))},
        ...spec.series.map((s) => ({label: s.label, ...styles[s.style](), value: legend((v) => value(spec, v)), points: {show: s.x.length < 40 && s.style !== "edge", size: 5, fill: color("--card")}})),
      ],
      legend: {markers: {width: 2, dash: (u, i) => u.series[i].dash ? "dashed" : "solid"}},
      bands: edges.length === 2 ? [{series: edges, fill: color("--faint") + "40"}] : [],
      cursor: {sync: {key: sync.key, scales: ["x", null], setSeries: false}, dataIdx: (u, series, i) => series ? nearest(u.data[series], i) : i, points: {size: 8, width: 2, stroke: color("--card"), fill: (u, i) => u.series[i].stroke(u, i)}, y: false},
      hooks: {draw: [marks(spec, scale)]},
    };
  };

  const charts = [...document.querySelectorAll("figure.chart")].map((figure) => ({
    frame: figure.querySelector(".plot"), spec: JSON.parse(figure.querySelector("script").textContent), plot: null, width: 0,
  }));

  const draw = (chart) => {
    if (chart.plot) chart.plot.destroy();
    const scale = chart.spec.perEpoch || 1;
    chart.width = chart.frame.clientWidth;
    const tables = chart.spec.series.map((s) => [s.x.map((x) => x / scale), s.y]);
    chart.plot = new uPlot(options(chart.spec, chart.width, scale), uPlot.join(tables), chart.frame);
  };

  const all = () => charts.forEach(draw);
  all();
  new ResizeObserver(() => charts.forEach((chart) => { if (chart.frame.clientWidth !== chart.width) draw(chart); })).observe(document.querySelector("main"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  addEventListener("beforeprint", () => { document.documentElement.classList.add("printing"); all(); });
  addEventListener("afterprint", () => { document.documentElement.classList.remove("printing"); all(); });
})();
