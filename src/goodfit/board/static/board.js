// The board: its frame, the reader's way through it, and the first loading.
import {alertsView} from "./alerts.js";
import {askView} from "./ask.js";
import {LANGUAGES, el, language, loadWords, meta, problem, select, t} from "./dom.js";
import {lectureView} from "./lecture.js";
import {runView} from "./run.js";
import {runsView} from "./runs.js";
import {connect, load, post, selectAtFirst, store, subscribe} from "./store.js";

const VIEWS = {"": ["Runs", runsView], alerts: ["Alerts", alertsView], ask: ["Ask", askView], lecture: ["Lecture", lectureView]};
const NAMES = {en: "English", ko: "한국어"};
let leave = () => {};

const frame = () => {
  const links = Object.entries(VIEWS).map(([name, [title]]) => el("a", {href: `#/${name}`, "data-view": name}, t(title)));
  const live = el("span.live", {role: "img"}), main = el("main", {id: "main", tabindex: "-1"});
  const choice = LANGUAGES.length > 1 ? select(t("Language"), LANGUAGES.map((name) => [name, NAMES[name] ?? name]), language(), (name) => { localStorage.setItem("board-language", name); location.reload(); }) : null;
  document.getElementById("board").replaceChildren(
    el("a.skip", {href: "#main", onclick: (event) => { event.preventDefault(); main.focus(); }}, t("Skip to the content")),
    el("div.bar-top", {role: "banner"}, el("a.brand", {href: "#/"}, "Goodfit"), el("nav.main-nav", {"aria-label": t("Main")}, links), el("span.space"), el("span.ends", {}, live, choice)),
    main, el("div.unseen", {id: "status", role: "status"}),
  );
  const count = () => {
    const errors = store.alerts.filter((alert) => alert.severity !== "note").length, link = links[1];
    link.replaceChildren(t("Alerts"), ...(errors ? [el("span.count-badge", {}, String(errors))] : []));
    live.className = store.isLive ? "live on" : "live";
    live.setAttribute("aria-label", store.isLive ? t("Live: changes appear by themselves") : t("The board cannot be reached: is it still running?"));
    live.title = live.getAttribute("aria-label");
  };
  count();
  subscribe((change) => { if (change.alerts || change.connection || change.all) count(); });
  return {main, links};
};

const route = ({main, links}) => {
  const [name, ...given] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  const [title, view] = name === "run" ? ["Run", runView] : VIEWS[name] ?? VIEWS[""];
  leave();
  document.title = `${name === "run" ? given[0] : t(title)} · ${t("Goodfit board")}`;
  links.forEach((link) => link.dataset.view === name ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current"));
  leave = view(main, ...given) ?? (() => {});
};

const askToken = () => new Promise((resolve) => {
  const input = el("input", {type: "password", autocomplete: "current-password", required: true}), message = el("div");
  document.getElementById("board").replaceChildren(el("main.login", {}, el("h1", {}, t("Goodfit board")), el("form", {onsubmit: async (event) => {
    event.preventDefault();
    try { await post("/login", {token: input.value}); resolve(); } catch (error) { message.replaceChildren(problem(error)); }
  }}, el("label.field", {}, el("span", {}, t("Token of this board")), input), el("button", {}, t("Open"))), message));
  input.focus();
});

const start = async () => {
  await loadWords();
  try { await load(); } catch (error) {
    if (error.status !== 401 || meta("board-needs-token") !== "yes") throw error;
    await askToken();
    await load();
  }
  selectAtFirst();
  const shown = frame();
  route(shown);
  addEventListener("hashchange", () => { route(shown); scrollTo(0, 0); shown.main.focus({preventScroll: true}); });
  connect();
  performance.mark("board-shown");
};
start().catch((error) => document.getElementById("board").replaceChildren(problem(error)));
