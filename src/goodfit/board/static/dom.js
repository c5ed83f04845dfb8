// Building the page: elements whose text is never HTML, words in the reader's language, and numbers.

export const meta = (name) => document.querySelector(`meta[name="${name}"]`)?.content ?? "";
export const LANGUAGES = meta("board-languages").split(" ");

let words = {};
export const language = () => localStorage.getItem("board-language") ?? LANGUAGES.find((name) => navigator.language.startsWith(name)) ?? "en";
export const loadWords = async () => {
  document.documentElement.lang = language();
  if (language() !== "en") words = await (await fetch(`/static/lang-${language()}.json`)).json();
};
// The English text is the key; {name} is replaced.
export const t = (text, values = {}) => (words[text] ?? text).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

// el("button.small", {onclick, "aria-label": …}, "text", child): children that are null or false are left out.
export const el = (spec, attributes = {}, ...children) => {
  const [name, ...classes] = spec.split(".");
  const node = document.createElement(name);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (["value", "checked", "textContent", "disabled", "selected"].includes(key)) node[key] = value;
    else if (key === "style") for (const [property, text] of Object.entries(value)) node.style.setProperty(property, text);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
};

// What the server has made as HTML of the report, where text is escaped; no script in it runs.
export const fragment = (html) => {
  const page = new DOMParser().parseFromString(html, "text/html");
  page.querySelectorAll("script, noscript").forEach((node) => node.remove());
  const piece = document.createDocumentFragment();
  piece.append(...page.body.childNodes);
  return piece;
};

export const field = (label, control) => el("label.field", {}, el("span", {}, label), control);
export const select = (label, options, value, change) => field(label, el("select", {onchange: (event) => change(event.target.value)},
  options.map(([name, text]) => el("option", {value: name, selected: name === value}, text))));
export const slider = (label, {min, max, step, value, show = String, change, done}) => {
  const output = el("span.shown", {}, show(value));  // no <output>, which a label would name in place of the input
  const input = el("input", {type: "range", min, max, step, value, "aria-valuetext": show(value), oninput: () => {
    output.textContent = show(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
    change?.(Number(input.value));
  }, onchange: () => done?.(Number(input.value))});
  return el("label.field", {}, el("span", {}, label, " ", output), input);
};
export const checkbox = (label, checked, change) => el("label.check", {}, el("input", {type: "checkbox", checked, onchange: (event) => change(event.target.checked)}), " ", label);

export const announce = (text) => { document.getElementById("status").textContent = text; };
export const problem = (error) => el("p.problem", {role: "alert"}, error.message ?? String(error));
export const busy = (text = t("Loading…")) => el("p.dim", {}, text);

export const percent = (share, digits = 1) => share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)}\u00a0%`;
export const figure = (row) => row.value === null ? "–" : row.figure === "r2" ? row.value.toFixed(3) : percent(row.value);
export const number = (x, digits = 3) => x === null || x === undefined || Number.isNaN(x) ? "–"
  : x !== 0 && (Math.abs(x) < 1e-4 || Math.abs(x) >= 1e6) ? Number(x.toPrecision(digits)).toExponential() : String(Number(x.toPrecision(Math.max(digits, 3))));
export const duration = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)}\u00a0s`;
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
  return hours ? `${hours}\u00a0h ${minutes % 60}\u00a0min` : `${minutes}\u00a0min ${Math.floor(seconds % 60)}\u00a0s`;
};
// Without the year where it is this one.
export const date = (text) => text.slice(text.startsWith(String(new Date().getFullYear())) ? 5 : 0, 16).replace("T", " ");
