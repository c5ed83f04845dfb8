// A chart of curves of several runs over one another, in the colors of the page; drag to zoom, double-click to zoom out.
import {el, number, percent, t} from "./dom.js";

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const FONT = "11px system-ui, sans-serif";
const DASHES = [[], [8, 4], [2, 5]];  // of the runs from the seventh on, so that no two of eighteen look alike
const STYLES = {
  validation: {width: 2.25, alpha: ""}, train: {width: 1.4, alpha: "b3", dash: [5, 3]}, clean_train: {width: 1.4, alpha: "b3", dash: [1, 3]},
  raw: {width: 1, alpha: "38"}, only: {width: 2, alpha: ""},
};
const SPLITS = {validation: "validation", train: "training", clean_train: "clean training", raw: "training, as logged"};
export const runColor = (place) => color(`--run-${place % 6}`);
export const isShare = (name) => /accuracy|precision|share|top5|exact_match|f1/.test(name);
const NEAR = 40;  // pixels between the pointer and a curve whose value is shown

export class Chart {
  // `zoom(from, to)` is called with the range that the reader has chosen, or with nulls for all of it.
  constructor(title, zoom) {
    this.zoom = zoom;
    this.plot = null;
    this.frame = el("div.plot", {role: "img", "aria-label": title});
    this.note = el("div.note", {hidden: true});
    this.node = el("figure.chart", {}, el("h3", {}, title), this.frame);
    this.title = title;
    this.observer = new ResizeObserver(() => { if (this.plot && this.frame.clientWidth && this.frame.clientWidth !== this.plot.width) this.draw(); });
    this.observer.observe(this.frame);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.redraw = () => this.plot && this.draw();
    this.scheme.addEventListener("change", this.redraw);
  }

  destroy() {
    this.observer.disconnect();
    this.scheme.removeEventListener("change", this.redraw);
    this.plot?.destroy();
    this.plot = null;
  }

  // lines: [{label, place, split, x, y}]; settings: {xLabel, xFormat, log, logX, share, height}
  show(lines, settings) {
    this.lines = lines.map((line) => settings.log ? {...line, y: line.y.map((v) => v > 0 ? v : null)} : line)
      .map((line) => settings.logX ? keep(line, (x) => x > 0) : line).map(sorted).filter((line) => line.x.length);
    this.settings = settings;
    this.draw();
  }

  draw() {
    const shape = JSON.stringify([this.lines.map(({label, place, split}) => [label, place, split]), this.settings, this.frame.clientWidth, this.scheme.matches]);
    const data = uPlot.join(this.lines.length ? this.lines.map((line) => [line.x, line.y]) : [[[], []]]);
    this.frame.setAttribute("aria-label", this.summary());
    if (this.plot && shape === this.shape) { this.plot.setData(data); return; }
    this.shape = shape;
    this.plot?.destroy();
    this.plot = new uPlot(this.options(), data, this.frame);
    this.plot.over.append(this.note);
  }

  summary() {
    const parts = this.lines.filter((line) => line.split !== "raw").map(({label, split, y}) => {
      const values = y.filter((v) => v !== null && v !== undefined);
      return values.length ? `${label}, ${t(SPLITS[split] ?? split)}: ${this.format(values[0])} → ${this.format(values.at(-1))}` : label;
    });
    return `${this.title}. ${parts.join("; ") || t("Nothing to draw.")}`;
  }

  format(v) { return v === null || v === undefined ? "–" : this.settings.share ? percent(v) : number(v); }

  options() {
    const {settings} = this;
    const decades = (u, splits) => splits.map((v) => Math.abs(Math.log10(v) % 1) < 1e-6 ? v : null);
    const axis = (log) => ({stroke: color("--dim"), grid: {stroke: color("--line"), width: 1, ...(log ? {filter: decades} : {})}, ticks: {show: false, size: 0}, font: FONT, labelFont: FONT, labelSize: 18, labelGap: 2});
    const range = settings.share ? {range: (u, low, high) => low === null ? [0, 1] : uPlot.rangeNum(low, high, {min: {pad: 0.05, hard: 0, mode: 1}, max: {pad: 0.05, hard: 1, mode: 1}})} : {};
    return {
      width: Math.max(200, this.frame.clientWidth), height: settings.height ?? 260,
      scales: {x: {time: false, ...(settings.logX ? {distr: 3} : {})}, y: settings.log ? {distr: 3} : range},
      axes: [
        {...axis(settings.logX), size: 22, label: settings.xLabel, values: (u, vs) => vs.map((v) => v === null ? "" : settings.xFormat(v))},
        {...axis(settings.log), size: 54, values: (u, vs) => vs.map((v) => v === null ? "" : settings.share ? `${Number((100 * v).toFixed(2))}\u00a0%` : number(v))},
      ],
      series: [{}, ...this.lines.map((line) => {
        const style = STYLES[line.split] ?? STYLES.only;
        return {label: line.label, stroke: runColor(line.place) + style.alpha, width: style.width, dash: line.split === "validation" || line.split === "only" ? DASHES[Math.floor(line.place / 6) % 3] : style.dash,
          points: {show: line.x.length < 30, size: 5, fill: color("--card")}};
      })],
      legend: {show: false},
      cursor: {y: false, points: {show: false}, drag: {x: true, y: false}, bind: {dblclick: () => () => { this.zoom?.(null, null); return null; }}},
      hooks: {
        setSelect: [(u) => { if (u.select.width > 4) this.zoom?.(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")); }],
        setCursor: [(u) => this.showNote(u)],
      },
    };
  }

  showNote(u) {
    const {left, top, idx} = u.cursor;
    let best = null, least = NEAR;
    if (left >= 0 && idx !== null && idx !== undefined) {
      this.lines.forEach((line, k) => {
        const ys = u.data[k + 1];
        for (let i = idx, n = 0; i >= 0 && n < 400; i--, n++) {
          if (ys[i] === null || ys[i] === undefined) continue;
          const distance = Math.abs(u.valToPos(ys[i], "y") - top);
          if (distance < least) [least, best] = [distance, {line, x: u.data[0][i], y: ys[i]}];
          break;
        }
      });
    }
    this.note.hidden = !best;
    if (!best) return;
    this.note.textContent = `${best.line.label}${best.line.split === "only" ? "" : `, ${t(SPLITS[best.line.split] ?? best.line.split)}`}: ${this.format(best.y)} · ${this.settings.xLabel} ${this.settings.xFormat(best.x)}`;
    const x = u.valToPos(best.x, "x"), y = u.valToPos(best.y, "y");
    this.note.style.left = `${Math.max(0, Math.min(x - this.note.offsetWidth / 2, u.over.clientWidth - this.note.offsetWidth))}px`;
    this.note.style.top = `${y > this.note.offsetHeight + 14 ? y - this.note.offsetHeight - 10 : y + 12}px`;
  }
}

const keep = (line, test) => {
  const chosen = line.x.map((x, i) => i).filter((i) => test(line.x[i]));
  return {...line, x: chosen.map((i) => line.x[i]), y: chosen.map((i) => line.y[i])};
};

// By x, each once: a run that was resumed may have logged a second twice.
const sorted = (line) => {
  if (line.x.every((x, i) => !i || x > line.x[i - 1])) return line;
  const pairs = new Map(line.x.map((x, i) => [x, line.y[i]]));
  const xs = [...pairs.keys()].sort((a, b) => a - b);
  return {...line, x: xs, y: xs.map((x) => pairs.get(x))};
};
