// One run: its curves as they grow, its mistakes, images, alerts, recipe and machine, by the report's own sections.
import {alertCard} from "./alerts.js";
import {Curves} from "./curves.js";
import {busy, el, fragment, problem, t} from "./dom.js";
import {forkOf} from "./fork.js";
import {imagesView} from "./images.js";
import {stateBadge} from "./runs.js";
import {get, post, store, subscribe} from "./store.js";

const TABS = {  // with the sections of the report that each shows
  curves: ["Curves", ["headline"]], mistakes: ["Mistakes", ["confusion", "classes", "worst"]], images: ["Images", []],
  doctor: ["Doctor", ["doctor"]], network: ["Network", ["look", "ensemble"]], augmentation: ["Augmentation", ["augmentation"]],
  recipe: ["Recipe", ["recipe"]], data: ["Data and machine", ["data", "openings", "timing", "machine"]],
};
export const reportLink = (key) => `/report/${key === "." ? "" : `${key.split("/").map(encodeURIComponent).join("/")}/`}report.html`;

export const runView = (main, key, tab = "curves") => {
  const row = () => store.rows.get(key);
  if (!row()) { main.replaceChildren(el("h1", {}, t("There is no such run.")), el("p", {}, el("a", {href: "#/"}, t("All runs")))); return () => {}; }
  const base = `#/run/${encodeURIComponent(key)}`, ends = [], content = el("div.content");
  const badge = el("span"), pane = TABS[tab] ? tab : "curves";
  const show = () => badge.replaceChildren(stateBadge(row() ?? {state: "damaged"}));
  show();
  main.replaceChildren(
    el("div.runhead", {}, el("p.path", {}, el("a", {href: "#/"}, t("Runs")), " / ", el("strong", {}, key), " ", badge),
      el("p.links", {}, el("a", {href: reportLink(key), target: "_blank", rel: "noopener"}, t("Report")), el("a", {href: `#/ask/${encodeURIComponent(key)}`}, t("Ask it")), row().model === "ensemble" ? null : forkOf(key, ends))),
    el("nav.tabs", {"aria-label": t("Parts of the run")}, Object.entries(TABS).map(([name, [title]]) => el("a", {href: `${base}/${name}`, "aria-current": name === pane ? "page" : null}, t(title)))),
    content,
  );
  main.prepend(el("h1.unseen", {}, `${row().name}: ${t(TABS[pane][0])}`));
  if (pane === "curves") {
    const curves = new Curves(() => [key], {height: 300}), events = el("div");
    curves.onDrawn = ([found]) => events.replaceChildren(...(found?.events.length ? [el("h2", {}, t("Events")), el("ul", {}, found.events.map(([step, text]) => el("li", {}, t("step {step}", {step}), ": ", text)))] : []));
    content.append(alertsOf(key, ends), steeringOf(key, ends), curves.node, events);
    ends.push(() => curves.destroy());
  }
  if (pane === "doctor") content.append(alertsOf(key, ends));
  if (pane === "images") ends.push(imagesView(content, key));
  const sections = el("div.sections");
  content.append(sections);
  const load = async () => {
    const names = TABS[pane][1];
    if (!names.length) return;
    if (!sections.children.length) sections.replaceChildren(busy());
    try {
      const found = await get("/api/sections", {run: key, names: names.join(",")});
      sections.replaceChildren(...(found.length ? found.map(({html}) => el("div.piece", {}, headed(fragment(html)))) : [el("p.dim", {}, t("The run has nothing to show here yet."))]));
    } catch (error) { sections.replaceChildren(problem(error)); }
  };
  load();
  let before = row().state, due = 0;
  ends.push(subscribe((change) => {
    if (!row()) return;
    show();
    const isNew = row().state !== before || (change.grown.includes(key) && pane === "curves" && Date.now() > due);
    before = row().state;
    if (isNew) { due = Date.now() + 10000; load(); }
  }));
  return () => ends.forEach((end) => end());
};

// The page has a heading of its own.
const headed = (piece) => {
  piece.querySelectorAll("h1").forEach((title) => title.replaceWith(el("h2.title", {}, title.textContent)));
  return piece;
};

// What is asked of a training that runs, from its next step on.
const steeringOf = (key, ends) => {
  const box = el("div"), said = el("p.dim", {role: "status"});
  const ask = async (button, body) => {
    button.disabled = true;
    said.textContent = t("Asking…");
    try { said.textContent = (await post("/api/steer", body, {run: key})).said; } catch (error) { said.textContent = error.message; }
    button.disabled = false;
  };
  const button = (text, body, question) => el("button", {onclick: (event) => { if (!question || confirm(t(question))) ask(event.target, body); }}, t(text));
  const factor = el("select", {"aria-label": t("Factor of the learning rate")}, ["0.1", "0.5", "2", "10"].map((x) => el("option", {value: x}, `× ${x}`)));
  const panel = el("fieldset.steering", {}, el("legend", {}, t("Steer")),
    el("span", {}, t("Learning rate")), factor, el("button", {onclick: (event) => ask(event.target, {command: "lr", factor: Number(factor.value)})}, t("Change")),
    button("Keep a snapshot", {command: "snapshot"}), el("span.pause"),
    button("Save and stop", {command: "stop"}, "Save and stop this training? --resume auto continues it."),
    button("Finish now", {command: "finish"}, "End this training at its next step, as a stop rule would?"), said);
  let before = "";
  const show = () => {
    const now = store.rows.get(key)?.state ?? "";
    if (now === before) return;
    before = now;
    box.replaceChildren(...(["running", "paused"].includes(now) ? [panel] : []));
    panel.querySelector(".pause").replaceChildren(now === "paused" ? button("Go on", {command: "continue"}) : button("Pause", {command: "pause"}));
  };
  show();
  ends.push(subscribe(show));
  return box;
};

const alertsOf = (key, ends) => {
  const box = el("div.alerts");
  const show = () => box.replaceChildren(...store.alerts.filter((alert) => alert.run === key).map((alert) => alertCard(alert, false)));
  show();
  ends.push(subscribe((change) => { if (change.alerts || change.all) show(); }));
  return box;
};
