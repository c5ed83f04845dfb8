// What the board knows of the runs, kept up to date by the server's events; and requests to the server.
import {meta, t} from "./dom.js";

export const store = {rows: new Map(), alerts: [], root: "", problem: "", selected: [], isLive: false};
const listeners = new Set();
export const subscribe = (listener) => { listeners.add(listener); return () => listeners.delete(listener); };
const tell = (change) => [...listeners].forEach((listener) => listener(change));

const explain = async (response) => {
  if (response.ok) return response.json();
  const content = await response.json().catch(() => ({}));
  throw Object.assign(new Error(content.error ?? t("The board did not answer as expected.")), {status: response.status});
};
const request = async (path, options) => {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(t("The board cannot be reached: is it still running?"));
  }
  return explain(response);
};
export const query = (values) => new URLSearchParams(Object.entries(values).flatMap(([name, value]) =>
  (Array.isArray(value) ? value : [value]).filter((x) => x !== "" && x !== null && x !== undefined).map((x) => [name, x]))).toString();
export const get = (path, values = {}, signal = undefined) => request(`${path}?${query(values)}`, {signal});
export const post = (path, body, values = {}) => request(`${path}?${query(values)}`, {
  method: "POST", body: body instanceof Blob ? body : JSON.stringify(body), headers: {"X-Board-Token": meta("board-token")},
});

// Runs over one another: each has a place, by which it has its color and dashes, as long as it is selected.
export const MAX_SELECTED = 18;
export const place = (key) => store.selected.indexOf(key);
export const isSelected = (key) => store.selected.includes(key);
export const toggle = (key, is = !isSelected(key)) => {
  const at = place(key);
  if (is && at < 0) {
    const free = store.selected.indexOf(null);
    if (free >= 0) store.selected[free] = key;
    else if (store.selected.length < MAX_SELECTED) store.selected.push(key);
    else return false;
  } else if (!is && at >= 0) {
    store.selected[at] = null;
    while (store.selected.length && store.selected.at(-1) === null) store.selected.pop();
  }
  sessionStorage.setItem("board-selected", JSON.stringify(store.selected));
  tell({selection: true, grown: [], rows: []});
  return true;
};
export const selection = () => store.selected.filter((key) => key !== null && store.rows.has(key));

export const load = async () => {
  const content = await get("/api/runs");
  store.rows = new Map(content.rows.map((row) => [row.key, row]));
  Object.assign(store, {alerts: content.alerts, root: content.root, problem: content.problem});
};
export const selectAtFirst = () => {
  const kept = JSON.parse(sessionStorage.getItem("board-selected") ?? "null");
  const runs = [...store.rows.values()].filter((row) => row.kind === "run" && row.model !== "ensemble");
  const running = runs.filter((row) => row.state === "running");
  store.selected = kept?.some((key) => store.rows.has(key)) ? kept : (running.length ? running : runs).slice(0, 3).map((row) => row.key);
};

export const connect = () => {
  const source = new EventSource("/api/events");
  let isFirst = true;
  source.addEventListener("open", async () => {
    store.isLive = true;
    if (!isFirst) await load().catch(() => {});  // what changed while the line was cut
    isFirst = false;
    tell({all: true, grown: selection(), rows: [...store.rows.values()], connection: true});
  });
  source.addEventListener("error", () => {
    const was = store.isLive;
    store.isLive = false;
    if (was) setTimeout(() => { if (!store.isLive) tell({connection: true, grown: [], rows: []}); }, 4000);
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
  });
  source.addEventListener("change", (event) => {
    const change = JSON.parse(event.data);
    change.rows.forEach((row) => store.rows.set(row.key, row));
    change.gone.forEach((key) => store.rows.delete(key));
    if (change.alerts) store.alerts = change.alerts;
    tell(change);
  });
};
