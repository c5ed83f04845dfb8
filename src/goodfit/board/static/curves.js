// The charts of some runs: which numbers, by what, how smooth; they grow as the logs do.
import {Chart, isShare} from "./chart.js";
import {checkbox, duration, el, number, problem, select, slider, t} from "./dom.js";
import {get, place, store, subscribe} from "./store.js";

const kept = () => JSON.parse(localStorage.getItem("board-curves") ?? "{}");
const DEFAULTS = {x: "step", smoothing: 0.02, logX: false, logY: false, split: "both", names: null};
const TITLES = {
  loss: "Loss", accuracy: "Accuracy", lr: "Learning rate", grad_norm: "Gradient norm", update_ratio: "Update to weight ratio",
  images_per_s: "Images per second", data_share: "Share of a step spent waiting for images", balanced_accuracy: "Balanced accuracy",
  mean_average_precision: "Mean average precision", r2: "R2",
};
export const titleOf = (name) => t(TITLES[name] ?? name.replaceAll("_", " "));
const MIN_PAUSE = 900;  // milliseconds between two requests of the same charts

export class Curves {
  // `keys()` are the runs that are shown now; `large` charts fill the width.
  constructor(keys, {height = 250} = {}) {
    this.keys = keys;
    this.height = height;
    this.settings = {...DEFAULTS, ...kept()};
    this.window = null;
    this.charts = new Map();
    this.names = ["loss", "accuracy"];
    this.grid = el("div.charts.large");
    this.controls = el("div.controls");
    this.message = el("div");
    this.node = el("div.curves", {}, this.controls, this.message, this.grid, this.key = el("p.dim.key"));
    this.unsubscribe = subscribe((change) => {
      if (change.selection || change.grown.some((key) => this.keys().includes(key))) this.refresh();
    });
    this.drawControls();
    this.refresh();
  }

  destroy() {
    this.unsubscribe();
    clearTimeout(this.timer);
    this.gone = true;
    this.charts.forEach((chart) => chart.destroy());
  }

  set(changes) {
    Object.assign(this.settings, changes);
    localStorage.setItem("board-curves", JSON.stringify(this.settings));
    if ("x" in changes) this.window = null;
    this.refresh(true);
  }

  drawControls() {
    const {settings} = this;
    this.chips = el("div.chips", {role: "group", "aria-label": t("What is drawn")});
    this.controls.replaceChildren(
      this.chips,
      select(t("By"), [["step", t("step")], ["epoch", t("epoch")], ["elapsed", t("time")]], settings.x, (x) => this.set({x})),
      select(t("Curves of"), [["both", t("training and validation")], ["validation", t("validation")], ["train", t("training")]], settings.split, (split) => this.set({split})),
      slider(t("Smoothing"), {min: 0, max: 0.2, step: 0.005, value: settings.smoothing, show: (v) => v ? `${(100 * v).toFixed(1)}\u00a0%` : t("none"), done: (smoothing) => this.set({smoothing})}),
      checkbox(t("log y"), settings.logY, (logY) => this.set({logY})),
      checkbox(t("log x"), settings.logX, (logX) => this.set({logX})),
      this.reset = el("button.small", {hidden: true, onclick: () => { this.window = null; this.refresh(true); }}, t("Show all")),
    );
  }

  drawChips(names) {
    const text = names.join();
    if (text === this.chipNames) return;
    this.chipNames = text;
    this.chips.replaceChildren(...names.map((name) => el("button.chip", {"aria-pressed": String(this.shown().includes(name)), onclick: (event) => {
      const shown = this.shown().includes(name) ? this.shown().filter((other) => other !== name) : [...this.shown(), name];
      this.set({names: shown});
      event.target.setAttribute("aria-pressed", String(shown.includes(name)));
    }}, titleOf(name))));
  }

  // The loss and the figure of the runs, unless the reader has chosen others.
  shown() {
    const figures = [...new Set(this.keys().map((key) => store.rows.get(key)?.figure).filter(Boolean))];
    return this.settings.names ?? ["loss", ...(figures.length ? figures : ["accuracy"])];
  }

  refresh(now = false) {
    if (this.gone || (this.timer && !now)) return;
    clearTimeout(this.timer);
    const pause = now ? 0 : Math.max(0, MIN_PAUSE - (Date.now() - (this.asked ?? 0)));
    this.timer = setTimeout(() => { this.timer = null; this.ask(); }, pause);
  }

  async ask() {
    if (this.isAsking) { this.isStale = true; return; }
    this.isAsking = true;
    this.asked = Date.now();
    const run = this.keys(), names = this.shown(), {settings} = this;
    try {
      const points = Math.min(1600, Math.max(300, Math.round((this.grid.clientWidth || 800) * 1.2 / Math.max(1, run.length / 3))));
      const window = this.window ? {from: this.window[0], to: this.window[1]} : {};
      const found = run.length ? await Promise.all(names.map((name) => get("/api/curves", {run, name, x: settings.x, smoothing: settings.smoothing, points, ...window}))) : [];
      if (!this.gone) this.draw(names, run, found);
    } catch (error) {
      this.message.replaceChildren(problem(error));
    } finally {
      this.isAsking = false;
      if (this.isStale) { this.isStale = false; this.refresh(); }
    }
  }

  draw(names, run, found) {
    const known = [...new Set(found.flatMap((runs) => runs.flatMap((curves) => curves.names)))];
    this.drawChips([...new Set([...names, ...known])]);
    this.reset.hidden = !this.window;
    const {settings} = this, xLabel = {step: t("step"), epoch: t("epoch"), elapsed: t("time")}[settings.x];
    const xFormat = settings.x === "elapsed" ? duration : (v) => number(v, 6);
    for (const [name, chart] of this.charts) if (!names.includes(name)) { chart.destroy(); chart.node.remove(); this.charts.delete(name); }
    names.forEach((name, k) => {
      let chart = this.charts.get(name);
      if (!chart) {
        chart = new Chart(titleOf(name), (from, to) => { this.window = from === null ? null : [from, to]; this.refresh(true); });
        this.charts.set(name, chart);
        this.grid.append(chart.node);
      }
      const lines = found[k]?.flatMap(({run: key, curves}) => this.choose(key, curves, run.length)) ?? [];
      chart.show(lines, {xLabel, xFormat, log: settings.logY, logX: settings.logX, share: isShare(name), height: this.height});
    });
    const isEmpty = run.length > 0 && found.every((runs) => runs.every((curves) => !curves.curves.length));
    this.message.replaceChildren(...(run.length === 0 ? [el("p.dim", {}, t("Choose runs in the list to see their curves."))]
      : isEmpty ? [el("p.dim", {}, t("No training step is logged yet."))] : []));
    this.key.textContent = settings.split === "both" && run.length ? t("Solid lines are validation, dashed ones training. Drag across a chart to zoom, double-click to zoom out.") : "";
    this.onDrawn?.(found[0] ?? []);
  }

  choose(key, curves, count) {
    const splits = new Set(curves.map((curve) => curve.split)), row = store.rows.get(key);
    const wanted = {both: ["raw", "train", "clean_train", "validation"], validation: ["validation"], train: ["raw", "train"]}[this.settings.split];
    const isOnly = !splits.has("validation");
    return curves.filter(({split}) => (wanted.includes(split) || isOnly) && !(count > 1 && ["raw", "clean_train"].includes(split)))
      .map((curve) => ({...curve, label: row?.name ?? key, place: Math.max(0, place(key)), split: isOnly && curve.split === "train" ? "only" : curve.split}));
  }
}
