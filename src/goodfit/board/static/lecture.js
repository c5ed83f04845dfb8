// The lecture to play with. All numbers come from the server's parts; here they are drawn and moved.
import {Chart, runColor} from "./chart.js";
import {busy, el, number, percent, problem, select, slider, t} from "./dom.js";
import {post} from "./store.js";

const PARTS = {race: ["Optimizers racing", raceView], net: ["A net in the plane", netView], convolution: ["Convolution", convolutionView]};
const PAUSE = 180;  // milliseconds of silence before what the reader moves is computed

export const lectureView = (main, part = "race") => {
  const [title, view] = PARTS[part] ?? PARTS.race, content = el("div");
  main.replaceChildren(el("h1", {}, t(title)),
    el("nav.tabs", {"aria-label": t("Lecture")}, Object.entries(PARTS).map(([name, [text]]) => el("a", {href: `#/lecture/${name}`, "aria-current": PARTS[name][1] === view ? "page" : null}, t(text)))), content);
  return view(content);
};

// Asks for a computation when the reader has stopped moving things; the last one asked for is the one shown.
const computation = (what, given, message, show) => {
  let timer = 0, count = 0;
  const run = async () => {
    const mine = ++count;
    message.replaceChildren(busy(t("Computing…")));
    try {
      const found = await post(`/api/lecture/${what}`, given());
      if (mine === count) { message.replaceChildren(); show(found); }
    } catch (error) { if (mine === count) message.replaceChildren(problem(error)); }
  };
  return {ask: () => { clearTimeout(timer); timer = setTimeout(run, PAUSE); }, end: () => { clearTimeout(timer); count++; }};
};

// A picture of the plane: a canvas as wide as there is room, drawn anew in the colors of the page.
const plane = (label, ratio, draw) => {
  const canvas = el("canvas", {role: "img", "aria-label": label}), box = el("div.plane", {}, canvas);
  const redraw = () => {
    const width = box.clientWidth, px = devicePixelRatio;
    if (!width) return;
    canvas.width = width * px; canvas.height = width * ratio * px; canvas.style.height = `${width * ratio}px`;
    const context = canvas.getContext("2d");
    context.scale(px, px);
    draw(context, width, width * ratio);
  };
  const observer = new ResizeObserver(redraw), scheme = matchMedia("(prefers-color-scheme: dark)");
  observer.observe(box);
  scheme.addEventListener("change", redraw);
  return {box, canvas, redraw, end: () => { observer.disconnect(); scheme.removeEventListener("change", redraw); }};
};
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const rate = (exponent) => number(10 ** exponent, 2);
const drag = (canvas, move) => {
  const at = (event) => { const box = canvas.getBoundingClientRect(); move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height); };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); at(event); });
  canvas.addEventListener("pointermove", (event) => { if (canvas.hasPointerCapture(event.pointerId)) at(event); });
};

// ---- optimizers racing -------------------------------------------------------------------------------------------------------------

function raceView(main) {
  const STARTS = {ravine: [-4, 1], banana: [-1, 1.5], saddle: [1.5, 0.01]};
  const state = {surface: "ravine", start: [...STARTS.ravine], lr: -1.1, steps: 100}, message = el("div"), legend = el("p.legend"), controls = el("div.controls");
  let found = null, shown = 0, frame = 0;
  const losses = new Chart(t("Loss at each step"));
  const draw = (context, width, height) => {
    if (!found) return;
    const [[left, right], [bottom, top]] = found.extent;
    const x = (v) => (v - left) / (right - left) * width, y = (v) => (top - v) / (top - bottom) * height;
    const line = (points, stop = points.length) => {
      context.beginPath();
      let open = false;
      points.slice(0, stop).forEach(([a, b]) => { if (b === null || a === null) open = false; else { context[open ? "lineTo" : "moveTo"](x(a), y(b)); open = true; } });
      context.stroke();
    };
    context.strokeStyle = css("--line"); context.lineWidth = 1.5;
    found.contours.forEach((points) => line(points));
    found.racers.forEach(({path}, k) => {
      context.strokeStyle = context.fillStyle = runColor(k); context.lineWidth = 2.2;
      const last = Math.min(Math.floor(shown), path.length - 1), [a, b] = path[last];
      line(path, last + 1);
      context.beginPath(); context.arc(x(a), y(b), 5, 0, 7); context.fill();
    });
    context.strokeStyle = css("--ink"); context.lineWidth = 2;
    context.beginPath(); context.arc(x(state.start[0]), y(state.start[1]), 8, 0, 7); context.stroke();
  };
  const picture = plane(t("The ways of the optimizers down the surface"), 0.62, draw);
  const play = () => {
    cancelAnimationFrame(frame);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { shown = state.steps; picture.redraw(); return; }
    shown = 0;
    const step = () => { shown += Math.max(0.5, state.steps / 160); picture.redraw(); if (shown < state.steps) frame = requestAnimationFrame(step); };
    frame = requestAnimationFrame(step);
  };
  const work = computation("race", () => ({...state, lr: 10 ** state.lr}), message, (content) => {
    found = content;
    legend.replaceChildren(...content.racers.map(({name, left, losses: values}, k) => el("span", {}, el("i", {style: {background: runColor(k)}}), `${name}: ${left ? t("left the picture") : number(values.at(-1), 2)}`)));
    losses.show(content.racers.map(({name, losses: values}, k) => ({label: name, place: k, split: "only", x: values.map((_, i) => i), y: values})), {xLabel: t("step"), xFormat: String, log: true, height: 260});
    play();
  });
  const drawControls = () => {
    const ends = found?.extent ?? [[-5, 1.5], [-1.6, 1.6]];
    controls.replaceChildren(
      select(t("Surface"), [["ravine", t("ravine")], ["banana", t("banana")], ["saddle", t("saddle")]], state.surface, (surface) => { Object.assign(state, {surface, start: [...STARTS[surface]]}); found = null; work.ask(); drawControls(); }),
      slider(t("Learning rate"), {min: -3, max: 0.5, step: 0.05, value: state.lr, show: rate, change: (lr) => { state.lr = lr; work.ask(); }}),
      slider(t("Steps"), {min: 10, max: 400, step: 10, value: state.steps, change: (steps) => { state.steps = steps; work.ask(); }}),
      ...["w0", "w1"].map((name, k) => slider(t("Start, {name}", {name}), {min: ends[k][0], max: ends[k][1], step: 0.01, value: state.start[k], show: (v) => v.toFixed(2), change: (v) => { state.start[k] = v; picture.redraw(); work.ask(); }})),
      el("button", {onclick: play}, t("Play again")));
  };
  drag(picture.canvas, (u, v) => {
    if (!found) return;
    const [[left, right], [bottom, top]] = found.extent, clip = (x) => Math.min(1, Math.max(0, x));
    state.start = [left + clip(u) * (right - left), top - clip(v) * (top - bottom)];
    drawControls(); picture.redraw(); work.ask();
  });
  main.append(el("p", {}, t("Five optimizers start at the ring and descend at one learning rate. Drag the ring, or use the sliders: a rate that is right for one is too small or too large for another.")),
    controls, message, el("div.lecture-grid", {}, el("div", {}, picture.box, legend), losses.node));
  drawControls();
  work.ask();
  return () => { work.end(); picture.end(); losses.destroy(); cancelAnimationFrame(frame); };
}

// ---- a net in the plane ------------------------------------------------------------------------------------------------------------

function netView(main) {
  const state = {data: "moons", points: [], noise: 0.15, hidden: 8, act: "relu", lr: -1, steps: 200, seed: 0, brush: 0};
  const message = el("div"), controls = el("div.controls"), said = el("p", {"aria-live": "off"});
  const losses = new Chart(t("Loss at each step"));
  let found = null, shown = 0, timer = 0;
  const draw = (context, width, height) => {
    if (!found) return;
    const [[left, right], [bottom, top]] = found.extent, side = found.grid, frame = found.frames[shown];
    frame.grid.forEach((label, k) => {
      context.fillStyle = runColor(label) + "33";
      const [a, b] = [k % side, Math.floor(k / side)], edge = (n, all) => Math.round(n * all / side);  // whole pixels, so that no seams show
      context.fillRect(edge(a, width), edge(b, height), edge(a + 1, width) - edge(a, width), edge(b + 1, height) - edge(b, height));
    });
    found.points.forEach(([a, b, label]) => {
      context.fillStyle = runColor(label); context.strokeStyle = css("--card");
      context.beginPath(); context.arc((a - left) / (right - left) * width, (top - b) / (top - bottom) * height, 4.5, 0, 7); context.fill(); context.stroke();
    });
  };
  const picture = plane(t("The points, and the regions in which the net answers each class"), 0.75, draw);
  const show = (k) => {
    shown = k;
    const {step, loss, accuracy} = found.frames[k];
    said.textContent = t("Step {step}: loss {loss}, {accuracy} of the points right.", {step, loss: number(loss), accuracy: percent(accuracy, 0)});
    place.querySelector("input").value = k; place.querySelector(".shown").textContent = step;
    picture.redraw();
  };
  const place = slider(t("Step"), {min: 0, max: 20, step: 1, value: 0, change: (k) => { clearInterval(timer); if (found) show(Math.min(k, found.frames.length - 1)); }});
  const play = () => {
    clearInterval(timer);
    if (!found) return;
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { show(found.frames.length - 1); return; }
    show(0);
    timer = setInterval(() => { if (shown + 1 < found.frames.length) show(shown + 1); else clearInterval(timer); }, 130);
  };
  const work = computation("net", () => ({data: state.data, points: state.points, noise: state.noise, hidden: state.hidden, act: state.act, lr: 10 ** state.lr, steps: state.steps, seed: state.seed}), message, (content) => {
    found = content;
    place.querySelector("input").max = content.frames.length - 1;
    losses.show([{label: t("loss"), place: 0, split: "only", x: content.frames.map(({step}) => step), y: content.frames.map(({loss}) => loss)}], {xLabel: t("step"), xFormat: String, height: 220});
    play();
  });
  const set = (changes) => { Object.assign(state, changes); work.ask(); };
  const drawControls = () => controls.replaceChildren(
    select(t("Points"), [["moons", t("two moons")], ["clusters", t("three clusters")], ["own", t("my own")]], state.data, (data) => {
      if (data === "own") state.points = found?.points ?? [];
      set({data}); drawControls();
    }),
    state.data === "own" ? select(t("A click adds a point of class"), [["0", "0"], ["1", "1"], ["2", "2"]], String(state.brush), (brush) => { state.brush = Number(brush); })
      : slider(t("Noise"), {min: 0, max: 0.6, step: 0.05, value: state.noise, show: (v) => v.toFixed(2), change: (noise) => set({noise})}),
    slider(t("Hidden units"), {min: 1, max: 64, step: 1, value: state.hidden, change: (hidden) => set({hidden})}),
    select(t("Activation"), ["relu", "tanh", "sigmoid"].map((name) => [name, name]), state.act, (act) => set({act})),
    slider(t("Learning rate"), {min: -3, max: 1, step: 0.1, value: state.lr, show: rate, change: (lr) => set({lr})}),
    slider(t("Steps"), {min: 20, max: 400, step: 20, value: state.steps, change: (steps) => set({steps})}),
    el("button", {onclick: () => set({seed: state.seed + 1})}, t("Other first weights")), el("button", {onclick: play}, t("Play again")));
  picture.canvas.addEventListener("click", (event) => {
    if (state.data !== "own" || !found) return;
    const box = picture.canvas.getBoundingClientRect(), [[left, right], [bottom, top]] = found.extent;
    state.points = [...state.points, [left + (event.clientX - box.left) / box.width * (right - left), top - (event.clientY - box.top) / box.height * (top - bottom), state.brush]];
    work.ask();
  });
  main.append(el("p", {}, t("A net with one hidden layer learns which point is of which class. Its regions grow as it learns: with few units they are simple, with many they bend around single points.")),
    controls, message, el("div.lecture-grid", {}, el("div", {}, picture.box, place, said), losses.node));
  drawControls();
  work.ask();
  return () => { work.end(); picture.end(); losses.destroy(); clearInterval(timer); };
}

// ---- convolution -------------------------------------------------------------------------------------------------------------------

function convolutionView(main) {
  const state = {size: 8, kernel: "edge", stride: 1, padding: 0}, message = el("div"), sums = el("p.formula", {"aria-live": "polite"}), arithmetic = el("p");
  const input = el("div.cells", {tabindex: "0", role: "application"}), filter = el("div.cells"), output = el("div.cells");
  let found = null, at = [0, 0];
  const cells = (node, rows, style) => {
    node.style.setProperty("--columns", rows[0].length);
    node.replaceChildren(...rows.flatMap((row, i) => row.map((v, j) => el(`span.cell${style(i, j)}`, {"data-i": i, "data-j": j}, String(v)))));
  };
  const show = () => {
    const {image, output: maps, padding, stride} = found, n = image.length, [row, column] = at;
    const top = row * stride, left = column * stride, isIn = (i, j) => i >= top && i < top + 3 && j >= left && j < left + 3;
    cells(input, image, (i, j) => `${i < padding || j < padding || i >= n - padding || j >= n - padding ? ".pad" : ""}${isIn(i, j) ? ".window" : ""}`);
    cells(filter, found.filter, () => ".window");
    cells(output, maps, (i, j) => i === row && j === column ? ".window" : "");
    const terms = found.filter.flatMap((line, i) => line.map((w, j) => [w, image[top + i][left + j]])).filter(([w]) => w);
    sums.textContent = `${terms.map(([w, v]) => `${w}·${v}`).join(" + ")} = ${maps[row][column]}`;
    input.setAttribute("aria-label", t("The image with the window of the filter; arrow keys move it. Row {row}, column {column} of the output is {value}.", {row: row + 1, column: column + 1, value: maps[row][column]}));
  };
  const move = (row, column) => {
    const last = found.output.length - 1, clip = (v) => Math.min(last, Math.max(0, v));
    at = [clip(row), clip(column)];
    show();
  };
  input.addEventListener("keydown", (event) => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (!step || !found) return;
    event.preventDefault();
    move(at[0] + step[0], at[1] + step[1]);
  });
  const point = (event, isOutput) => {
    const cell = document.elementFromPoint(event.clientX, event.clientY)?.closest(".cell");
    if (!found || !cell || cell.parentNode !== (isOutput ? output : input)) return;
    const [i, j] = [Number(cell.dataset.i), Number(cell.dataset.j)], half = isOutput ? 0 : 1;
    move(isOutput ? i : Math.round((i - half) / found.stride), isOutput ? j : Math.round((j - half) / found.stride));
  };
  for (const [node, isOutput] of [[input, false], [output, true]]) {
    node.addEventListener("pointerdown", (event) => { event.preventDefault(); input.focus({preventScroll: true}); point(event, isOutput); });
    node.addEventListener("pointermove", (event) => { if (event.buttons) point(event, isOutput); });
  }
  const work = computation("convolution", () => state, message, (content) => {
    found = content;
    arithmetic.textContent = t("(side {side} + 2 · padding {padding} − filter 3) / stride {stride}, rounded down, + 1 = {out}. {parameters} parameters, {macs} multiply-adds.", {side: state.size, ...state, out: content.side, parameters: content.parameters, macs: content.macs});
    move(...at);
  });
  const set = (changes) => { Object.assign(state, changes); work.ask(); };
  main.append(el("p", {}, t("A filter slides over the image of a digit. Drag the window, or move it by the arrow keys: each output is the sum of the products below it.")),
    el("div.controls", {},
      select(t("Filter"), [["edge", t("vertical edges")], ["blur", t("blur")], ["sharpen", t("sharpen")], ["identity", t("identity")]], state.kernel, (kernel) => set({kernel})),
      slider(t("Side of the image"), {min: 3, max: 8, step: 1, value: state.size, change: (size) => set({size})}),
      slider(t("Stride"), {min: 1, max: 4, step: 1, value: state.stride, change: (stride) => set({stride})}),
      slider(t("Padding"), {min: 0, max: 3, step: 1, value: state.padding, change: (padding) => set({padding})})),
    message, arithmetic,
    el("div.convolution", {}, el("figure", {}, input, el("figcaption", {}, t("image, with its border of zeros"))), el("figure", {}, filter, el("figcaption", {}, t("filter"))), el("figure", {}, output, el("figcaption", {}, t("output")))), sums);
  work.ask();
  return () => work.end();
}
