// The list of runs: sorted, filtered, tagged; beside it the curves of those that are chosen and what tells them apart.
import {Curves} from "./curves.js";
import {announce, date, duration, el, field, figure, percent, problem, select, t} from "./dom.js";
import {MAX_SELECTED, get, isSelected, place, post, query, selection, store, subscribe, toggle} from "./store.js";

const COLUMNS = [  // name, title, what is sorted by, whether the first click shows the largest
  ["name", "Run", (row) => row.name.toLowerCase(), false], ["value", "Score", (row) => row.value ?? -Infinity, true],
  ["state", "State", (row) => row.state, false], ["started", "Started", (row) => row.started, true], ["model", "Model", (row) => row.model, false],
  ["data", "Data", (row) => row.data, false], ["seconds", "Time", (row) => row.seconds ?? -1, true],
];
const FIRST_ROWS = 250;  // that are drawn at first
const state = {sort: "started", down: true, text: "", only: "", tag: "", open: new Set(), limit: FIRST_ROWS};
export const runLink = (key) => `#/run/${encodeURIComponent(key)}`;
export const stateBadge = (row) => {
  const share = ["running", "paused"].includes(row.state) && row.t !== null && row.t !== undefined ? ` ${percent(row.t, 0)}` : "";
  return el(`span.badge.${row.state.replace(/\W/g, "-") || "none"}`, {}, t(row.state || "unknown"), share);
};

export const runsView = (main) => {
  const curves = new Curves(selection);
  const body = el("tbody"), more = el("div"), differences = el("div.differences"), count = el("p.dim.count");
  const heads = COLUMNS.map(([name, title]) => el("th.head", {scope: "col"}, el("button.sort", {onclick: () => sortBy(name)}, t(title))));
  const search = el("input", {type: "search", id: "filter", value: state.text, placeholder: t("name, recipe, state, tag"), oninput: () => { state.text = search.value; state.limit = FIRST_ROWS; draw(); }});
  const tagChoice = el("div.tagchoice");
  const table = el("table.runs", {}, el("caption.unseen", {}, t("Runs and studies")), el("thead", {}, el("tr", {}, el("th.pick", {scope: "col"}, el("span.unseen", {}, t("Show"))), ...heads)), body);
  const drawn = new Map();  // rows of the table by key, with what they were made of

  const sortBy = (name) => {
    const column = COLUMNS.find(([other]) => other === name);
    [state.down, state.sort] = [state.sort === name ? !state.down : column[3], name];
    draw();
    announce(t("Sorted by {name}.", {name: t(column[1])}));
  };
  const matches = (row) => {
    const text = [row.key, row.model, row.data, row.state, t(row.state), row.recipe, ...(row.tags ?? [])].join("\n").toLowerCase();
    return state.text.toLowerCase().split(/\s+/).every((word) => text.includes(word)) && (!state.only || row.state === state.only) && (!state.tag || row.tags?.includes(state.tag));
  };
  const ordered = () => {
    const by = COLUMNS.find(([name]) => name === state.sort)[2], sign = state.down ? -1 : 1;
    const compare = (a, b) => { const [x, y] = [by(a), by(b)]; return sign * (x < y ? -1 : x > y ? 1 : 0) || (a.key < b.key ? -1 : 1); };
    const rows = [...store.rows.values()], isFiltered = state.text || state.only || state.tag;
    const found = rows.filter((row) => matches(row)), keys = new Set(found.map((row) => row.key));
    const top = found.filter((row) => !row.study || (isFiltered && !keys.has(row.study))).sort(compare);
    return top.flatMap((row) => row.kind !== "run" && (state.open.has(row.key) || isFiltered)
      ? [row, ...rows.filter((member) => member.study === row.key && (!isFiltered || keys.has(member.key) || !found.some((x) => x.study === row.key))).sort(compare)] : [row]);
  };

  const draw = () => {
    const focus = document.activeElement?.dataset?.focus, rows = ordered(), shown = rows.slice(0, state.limit);
    const nodes = shown.map((row) => {
      const made = JSON.stringify([row, place(row.key), state.open.has(row.key)]), known = drawn.get(row.key);
      if (known?.made === made) return known.node;
      const node = drawRow(row);
      drawn.set(row.key, {made, node});
      return node;
    });
    if (nodes.length !== body.children.length || nodes.some((node, k) => body.children[k] !== node)) body.replaceChildren(...nodes);
    if (focus && document.activeElement?.dataset?.focus !== focus) body.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
    heads.forEach((head, k) => head.setAttribute("aria-sort", COLUMNS[k][0] !== state.sort ? "none" : state.down ? "descending" : "ascending"));
    more.replaceChildren(...(rows.length > shown.length ? [el("button", {onclick: () => { state.limit *= 4; draw(); }}, t("Show more"))] : []));
    const runs = [...store.rows.values()].filter((row) => row.kind === "run").length;
    count.textContent = store.rows.size ? t("{shown} of {runs} runs", {shown: rows.filter((row) => row.kind === "run").length, runs}) : t("No runs yet: goodfit train makes the first.");
    const tags = [...new Set([...store.rows.values()].flatMap((row) => row.tags ?? []))].sort();
    const made = tags.join("\n");
    if (made !== tagChoice.made) {
      tagChoice.made = made;
      tagChoice.replaceChildren(...(tags.length ? [select(t("Tag"), [["", t("all")], ...tags.map((tag) => [tag, tag])], state.tag, (tag) => { state.tag = tag; draw(); })] : []));
    }
  };

  const drawRow = (row) => {
    const isRun = row.kind === "run";
    const pick = isRun && row.model !== "ensemble" ? el("input", {type: "checkbox", checked: isSelected(row.key), "data-focus": `pick ${row.key}`, "aria-label": t("Show the curves of {name}", {name: row.name}), onchange: (event) => {
      if (!toggle(row.key, event.target.checked)) { event.target.checked = false; announce(t("Up to {count} runs are shown.", {count: MAX_SELECTED})); }
    }}) : !isRun ? el("button.fold", {"aria-expanded": String(state.open.has(row.key)), "data-focus": `fold ${row.key}`, "aria-label": t("Show the runs of {name}", {name: row.name}), onclick: () => {
      if (!state.open.delete(row.key)) state.open.add(row.key);
      draw();
    }}, state.open.has(row.key) ? "▾" : "▸") : null;
    const line = isSelected(row.key) ? el(`i.line.run${place(row.key)}`, {"aria-hidden": "true"}) : null;
    const link = isRun ? el("a", {href: runLink(row.key), "data-focus": `link ${row.key}`}, row.name)
      : ["search", "folds"].includes(row.kind) ? el("a", {href: `/report/${row.key.split("/").map(encodeURIComponent).join("/")}/report.html`, target: "_blank", rel: "noopener"}, row.name) : el("span", {}, row.name);
    const kind = isRun ? null : el("span.dim", {}, ` ${t(row.kind)}, ${t("{count} runs", {count: row.runs})}`);
    const interval = row.interval.length === 2 && row.figure === "accuracy" ? `${percent(row.interval[0])} – ${percent(row.interval[1])}` : null;
    const cells = {
      value: el("td.number.value", {title: interval ? t("95 % interval {interval}", {interval}) : null}, figure(row)), state: el("td.state-cell", {}, row.state ? stateBadge(row) : null, row.causes?.length ? el("span.causes", {title: row.causes.join(", ")}, ` ${row.causes[0].replaceAll("_", " ")}`) : null),
      started: el("td.started", {title: row.started.slice(0, 19).replace("T", " ")}, date(row.started)), model: el("td.model", {title: row.model}, el("code", {}, row.model)), data: el("td.data", {}, row.data.replace(/\/+$/, "").split("/").at(-1)), seconds: el("td.number.seconds", {}, duration(row.seconds)),
    };
    return el(row.study ? "tr.member" : "tr", {"data-key": row.key}, el("td.pick", {}, pick), el("th.name", {scope: "row"}, line, link, kind, tagsOf(row)), ...COLUMNS.slice(1).map(([name]) => cells[name]));
  };

  curves.onDrawn = () => {};
  let compared = "";
  const drawDifferences = async () => {
    const keys = selection(), text = keys.join("\n");
    if (text === compared) return;
    compared = text;
    if (keys.length < 2) { differences.replaceChildren(); return; }
    try {
      const found = await get("/api/differences", {run: keys});
      if (text === compared) differences.replaceChildren(...renderDifferences(keys, found));
    } catch (error) { differences.replaceChildren(problem(error)); }
  };
  const states = ["running", "paused", "finished", "stopped early", "interrupted", "terminated", "diverged", "failed", "killed", "damaged"];
  main.replaceChildren(
    el("h1.unseen", {}, t("Runs")),
    el("div.desk", {},
      el("div.list", {},
        el("div.filters", {}, field(t("Filter"), search), select(t("State"), [["", t("all")], ...states.map((name) => [name, t(name)])], state.only, (only) => { state.only = only; draw(); }), tagChoice),
        count, store.problem ? problem({message: store.problem}) : null,
        el("div.scroll", {tabindex: "0", role: "region", "aria-label": t("Runs and studies")}, table), more),
      el("div.side-panel", {}, curves.node, differences)),
  );
  draw();
  drawDifferences();
  let frame = 0;
  const unsubscribe = subscribe((change) => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => { draw(); if (change.selection || change.rows.some((row) => isSelected(row.key))) drawDifferences(); });
  });
  return () => { unsubscribe(); curves.destroy(); cancelAnimationFrame(frame); };
};

const tagsOf = (row) => {
  const box = el("span.tags");
  const show = () => box.replaceChildren(...(row.tags ?? []).map((tag) => el("span.tag", {}, tag)), el("button.edit", {"aria-label": t("Tags of {name}", {name: row.name}), "data-focus": `tags ${row.key}`, onclick: edit}, row.tags?.length ? "✎" : `+ ${t("tag")}`));
  const edit = () => {
    const input = el("input", {value: (row.tags ?? []).join(", "), "aria-label": t("Tags of {name}, separated by commas", {name: row.name})});
    const form = el("form.tagform", {onsubmit: async (event) => {
      event.preventDefault();
      try {
        row.tags = (await post("/api/tags", {tags: input.value.split(",")}, {run: row.key})).tags;
        show();
        box.querySelector("button")?.focus();
      } catch (error) { box.append(problem(error)); }
    }, onkeydown: (event) => { if (event.key === "Escape") { show(); box.querySelector("button")?.focus(); } }}, input, el("button.small", {}, t("Save")));
    box.replaceChildren(form);
    input.focus();
  };
  show();
  return box;
};

const renderDifferences = (keys, {differences, costs}) => {
  const names = [...new Set(costs.flatMap(Object.keys))];
  const lines = [
    ...differences.map(({field: name, values}) => [name, values.map((value) => el("code", {}, value))]),
    ...names.map((name) => [t(name), costs.map((cost) => cost[name] ?? "–")]),
  ];
  const head = el("tr", {}, el("th", {scope: "col"}, t("Setting")), keys.map((key) => el("th", {scope: "col"}, el(`i.line.run${place(key)}`, {"aria-hidden": "true"}), store.rows.get(key).name)));
  const rows = lines.map(([name, values]) => el("tr", {}, el("th", {scope: "row"}, name), values.map((value) => el("td", {}, value))));
  return [
    el("h2", {}, t("What tells them apart")),
    differences.length ? null : el("p.dim", {}, t("Their recipes are the same.")),
    el("div.scroll", {tabindex: "0", role: "region", "aria-label": t("What tells them apart")}, el("table", {}, el("thead", {}, head), el("tbody", {}, rows))),
    el("p", {}, el("a", {href: `/comparison?${query({run: keys})}`, target: "_blank", rel: "noopener"}, t("Compare them image by image"))),
  ].filter(Boolean);
};
