// A new run that goes on from a checkpoint of another, with other settings.
import {alertCard} from "./alerts.js";
import {busy, el, field, problem, t} from "./dom.js";
import {get, post, store, subscribe} from "./store.js";

const freeName = (key) => {
  const base = `${key.split("/").at(-1).replace(/[^\p{L}\p{N}_+.-]+/gu, "-").replace(/^[^\p{L}\p{N}_]+/u, "") || "run"}-fork`;
  for (let count = 1; ; count += 1) {
    const name = count === 1 ? base : `${base}-${count}`;
    if (!store.rows.has(name)) return name;
  }
};

// The button that opens the dialog, and the dialog.
export const forkOf = (key, ends) => {
  const dialog = el("dialog.fork", {"aria-labelledby": "fork-title"}), title = el("h2", {id: "fork-title"}, t("Fork {name}", {name: key}));
  const close = (text) => el("button", {type: "button", onclick: () => dialog.close()}, text);
  const open = async () => {
    dialog.replaceChildren(title, busy());
    dialog.showModal();
    try { dialog.replaceChildren(title, ...formOf(key, await get("/api/fork", {run: key}), close, ends)); } catch (error) { dialog.replaceChildren(title, problem(error), close(t("Close"))); }
    dialog.querySelector("input, button")?.focus();
  };
  return [el("button.small", {onclick: open}, t("Fork")), dialog];
};

const formOf = (key, {steps, fields}, close, ends) => {
  const known = new Map(fields.map((one) => [one.name, one])), rows = el("div.fork-rows"), message = el("div", {role: "status"});
  const label = (name) => name === "lr" ? t("Learning rate") : name;
  const addRow = (name) => {
    const value = el("input", {value: known.get(name).value, spellcheck: "false", autocomplete: "off"}), help = el("p.dim", {}, known.get(name).help);
    const show = () => {
      value.value = known.get(choice.value).value;
      value.setSelectionRange(0, 0);  // the beginning of a long one is seen
      help.textContent = known.get(choice.value).help;
      value.setAttribute("aria-label", t("Value of {field}", {field: label(choice.value)}));
    };
    const choice = el("select", {"aria-label": t("Setting"), onchange: show}, fields.map((one) => el("option", {value: one.name, selected: one.name === name}, label(one.name))));
    show();
    const row = el("div.fork-row", {}, choice, value, el("button.small", {type: "button", "aria-label": t("Leave it as it is"), onclick: () => row.remove()}, "×"), help);
    rows.append(row);
    return value;
  };
  const addAnother = () => {
    const used = [...rows.querySelectorAll("select")].map((choice) => choice.value), free = fields.find((one) => ![...used, used.includes("lr") ? "optimizer" : ""].includes(one.name));
    if (free) addRow(free.name).focus();
  };
  // What differs from the recipe of the run, by field.
  const changes = () => Object.fromEntries([...rows.children].map((row) => [row.querySelector("select").value, row.querySelector("input").value.trim()]).filter(([name, value]) => value !== known.get(name).value));
  const step = el("select", {}, el("option", {value: ""}, t("the last, now of step {step}", {step: steps.at(-1)})), [...steps].reverse().map((one) => el("option", {value: one}, t("step {step}", {step: one}))));
  const name = el("input", {value: freeName(key), required: true, spellcheck: "false", autocomplete: "off"}), start = el("button.primary", {}, t("Start"));
  let unfollow = () => {};
  ends.push(() => unfollow());
  const submit = async (event) => {
    event.preventDefault();
    start.disabled = true;
    message.replaceChildren(busy(t("Asking…")));
    try {
      const begun = await post("/api/fork", {step: step.value ? Number(step.value) : null, values: changes(), name: name.value.trim()}, {run: key});
      unfollow();
      unfollow = follow(begun, message);
    } catch (error) { message.replaceChildren(problem(error)); }
    start.disabled = false;
  };
  addRow(fields[0].name);
  return [el("form", {onsubmit: submit},
    field(t("Checkpoint"), step),
    el("fieldset", {}, el("legend", {}, t("What is changed; anything else is as it was")), rows, el("button.small", {type: "button", onclick: addAnother}, t("Change another setting"))),
    field(t("Name of the new run"), name), el("p.fork-ends", {}, start, close(t("Close"))), message)];
};

// Says what becomes of a fork that was started: its run once it is there, or why there is none.
const follow = ({name, command}, box) => {
  const show = () => {
    const wrong = store.alerts.find((alert) => alert.cause === `fork ${name}`);
    box.replaceChildren(...(wrong ? [alertCard(wrong, false)] : [el("p", {}, store.rows.has(name) ? el("a", {href: `#/run/${encodeURIComponent(name)}`}, t("Open {name}", {name})) : t("{name} was started; it appears among the runs once it has read its images.", {name})), el("p.formula", {}, command)]));
  };
  show();
  return subscribe(show);
};
