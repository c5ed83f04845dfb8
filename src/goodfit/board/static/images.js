// The validation images of a run: the worst, the most doubtful, one class taken for another, or by name.
import {busy, el, field, percent, problem, select, t} from "./dom.js";
import {get} from "./store.js";

const COUNT = 24;  // of a page
export const imagesView = (main, key) => {
  const asked = {order: "worst", truth: "", predicted: "", text: "", start: 0}, choices = el("div.filters"), list = el("div"), pages = el("div.pages");
  let timer = 0, stop = new AbortController();
  const set = (changes) => { Object.assign(asked, {start: 0}, changes); clearTimeout(timer); timer = setTimeout(load, "text" in changes ? 250 : 0); };
  const drawChoices = (classes) => {
    const names = [["", t("any")], ...classes.map((name) => [name, name])];
    choices.replaceChildren(
      select(t("Order"), [["worst", t("worst first")], ["doubtful", t("most doubtful first")], ["name", t("by name")]], asked.order, (order) => set({order})),
      select(t("Labeled"), names, asked.truth, (truth) => set({truth})), select(t("Taken for"), names, asked.predicted, (predicted) => set({predicted})),
      field(t("Name"), el("input", {type: "search", value: asked.text, oninput: (event) => set({text: event.target.value})})),
    );
  };
  const load = async () => {
    stop.abort();
    stop = new AbortController();
    const {signal} = stop;
    try {
      const found = await get("/api/images", {run: key, ...asked, count: COUNT}, signal);
      if (!choices.children.length) drawChoices(found.classes);
      const frames = found.images.map(() => el("div.frame", {}, el("span.gone", {}, "…")));
      list.replaceChildren(el("p.dim", {}, t("{count} images", {count: found.total})), el("div.cards", {}, found.images.map((image, k) => el("figure.card", {}, frames[k], el("figcaption", {},
        el("strong", {}, image.predicted, el("span.dim", {}, ` ${percent(image.probability, 0)}`)), image.predicted === image.truth ? null : el("span", {}, t("labeled"), " ", el("em", {}, image.truth)),
        el("span.dim.name", {title: image.name}, image.name.split("/").at(-1)),
        el("a", {href: `#/ask/${encodeURIComponent(key)}/${encodeURIComponent(image.name)}`, "aria-label": t("Why? Ask about {name}", {name: image.name})}, t("Why?")))))));
      pages.replaceChildren(
        el("button", {disabled: asked.start === 0, onclick: () => { asked.start -= COUNT; load(); }}, t("Previous")),
        el("button", {disabled: asked.start + COUNT >= found.total, onclick: () => { asked.start += COUNT; load(); }}, t("Next")));
      await fill(found.images, frames, signal);
    } catch (error) { if (error.name !== "AbortError") list.replaceChildren(problem(error)); }
  };
  const fill = async (images, frames, signal) => {
    if (!images.length) return;
    try {
      const pictures = await get("/api/pictures", {run: key, name: images.map((image) => image.name)}, signal);
      pictures.forEach(({picture}, k) => frames[k].replaceChildren(picture ? el(picture.startsWith("data:image/png") ? "img.pixels" : "img", {src: picture, alt: `${images[k].truth}, ${images[k].name}`}) : el("span.gone", {}, t("no picture"))));
    } catch (error) {
      if (error.name === "AbortError") return;
      frames.forEach((frame) => frame.replaceChildren(el("span.gone", {}, t("no picture"))));
      list.prepend(problem(error));
    }
  };
  main.append(choices, list, pages);
  list.append(busy());
  load();
  return () => { stop.abort(); clearTimeout(timer); };
};
