// Ask runs about an image: dropped, pasted, chosen, or one of the validation images; several runs side by side.
import {announce, busy, el, number, percent, problem, slider, t} from "./dom.js";
import {get, post, selection, store} from "./store.js";

const MAX_RUNS = 6;
export const askView = (main, key = "", name = "") => {
  const runs = () => [...store.rows.values()].filter((row) => row.kind === "run" && row.value !== null);
  const chosen = new Set(key ? [key] : selection().filter((run) => runs().some((row) => row.key === run)).slice(0, MAX_RUNS));
  if (!chosen.size && runs().length) chosen.add(runs()[0].key);
  const preview = el("div.preview"), results = el("div.answers-grid", {"aria-live": "polite"}), strip = el("div.strip");
  let last = null, reject = 0, address = null;

  const ask = async (body, values) => {
    last = [body, values];
    if (!chosen.size) { results.replaceChildren(problem({message: t("Choose a run first.")})); return; }
    results.replaceChildren(busy(t("Asking…")));
    try {
      const {truth, answers} = await post("/api/ask", body, {run: [...chosen], ...values});
      results.replaceChildren(...answers.map((answer, k) => answerCard(answer, [...chosen][k], truth)));
      announce(t("{count} answers.", {count: answers.length}));
      showReject();
    } catch (error) { results.replaceChildren(problem(error)); }
  };
  const show = (source, alt) => preview.replaceChildren(el("figure.card", {}, el("div.frame", {}, el("img", {src: source, alt})), el("figcaption", {}, el("span.dim.name", {}, alt))));
  const take = (file) => {
    if (!file) return;
    if (address) URL.revokeObjectURL(address);
    address = URL.createObjectURL(file);
    show(address, file.name || t("the image"));
    ask(file, {});
  };
  const drop = el("div.drop", {tabindex: "-1"},
    el("p", {}, t("Drop an image here, paste one, or")),
    el("label.button", {}, t("choose a file"), el("input.unseen", {type: "file", accept: "image/*", onchange: (event) => take(event.target.files[0])})), preview);
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); take(event.dataTransfer.files[0]); });
  const paste = (event) => take([...event.clipboardData.files].find((file) => file.type.startsWith("image/")));
  addEventListener("paste", paste);

  const drawStrip = async () => {
    const first = [...chosen][0];
    strip.replaceChildren();
    if (!first) return;
    try {
      const {images} = await get("/api/images", {run: first, order: "doubtful", count: 12});
      const pictures = await get("/api/pictures", {run: first, name: images.map((image) => image.name)});
      strip.replaceChildren(el("h2", {}, t("Or one of its most doubtful validation images")), el("div.thumbs", {}, pictures.map(({name: image, picture}) => picture && el("button.thumb", {"aria-label": t("Ask about {name}", {name: image}), onclick: () => { show(picture, image); ask("", {name: image}); }},
        el(picture.startsWith("data:image/png") ? "img.pixels" : "img", {src: picture, alt: ""})))));
    } catch (error) { strip.replaceChildren(el("p.dim", {}, t("Its validation images cannot be shown: {why}", {why: error.message}))); }
  };

  const rejectBox = el("div.reject-control", {}, slider(t("Reject below"), {min: 0, max: 1, step: 0.01, value: 0, show: (v) => v ? percent(v, 0) : t("nothing"), change: (value) => { reject = value; showReject(); }}));
  const showReject = () => results.querySelectorAll(".answer").forEach((card) => card.reject?.(reject));

  const answerCard = (answer, run, truth) => {
    const head = el("h2", {}, el("a", {href: `#/run/${encodeURIComponent(run)}`}, answer.run));
    if (answer.problem) return el("article.answer", {}, head, problem({message: answer.problem}));
    const {prediction} = answer;
    if (answer.task === "numbers") {
      return el("article.answer", {}, head, el("table", {}, el("tbody", {}, Object.entries(prediction.numbers).map(([output, x]) => el("tr", {}, el("th", {scope: "row"}, output), el("td.number", {}, number(x)), el("td.dim", {}, prediction.intervals[output]?.map((end) => number(end)).join(" – ") ?? ""))))));
    }
    const verdict = el("p.said"), gain = el("p.dim");
    const bars = el("div.bars", {}, prediction.classes.map((label, k) => {
      const share = prediction.probabilities[k];
      return el("div.bar-row", {}, el("span.bar-label", {}, label), el("span.bar-track", {"aria-hidden": "true"}, el("b", {style: {width: `${100 * share}%`}}), el("i.reject")), el("span.bar-value", {}, percent(share)));
    }));
    const card = el("article.answer", {}, head, verdict, bars, gain,
      answer.cam ? el("div.evidence", {}, picture(answer.seen, t("What the network sees")), picture(answer.cam, t("Grad-CAM: where the answer comes from"))) : null,
      answer.near?.length ? el("div", {}, el("h3", {}, t("The training images most like it, to this network")), el("div.thumbs", {}, answer.near.map((near) => el("figure.card", {}, el("div.frame", {}, near.picture ? el("img.pixels", {src: near.picture, alt: near.name}) : null), el("figcaption", {}, el("strong", {}, near.truth), el("span.dim", {}, ` ${near.likeness.toFixed(2)}`)))))) : null,
      answer.near_problem ? el("p.dim", {}, t("No training images to compare with: {why}", {why: answer.near_problem})) : null,
      el("p.dim", {}, t("{ms} ms", {ms: Math.round(1000 * answer.seconds)})));
    card.reject = (below) => {
      const sure = prediction.probabilities[0], isRejected = answer.task === "classes" && sure < below;
      card.classList.toggle("rejected", isRejected);
      bars.querySelectorAll(".reject").forEach((line) => { line.style.left = `${100 * below}%`; line.hidden = !below; });
      const said = answer.task === "labels" ? prediction.labels.join(", ") || t("no label") : isRejected ? t("Not sure enough to answer") : prediction.classes[0];
      verdict.replaceChildren(el("strong", {}, said), ...(truth ? [el("span.dim", {}, ` ${truth === prediction.classes[0] ? t("and so it is labeled") : t("labeled {truth}", {truth})}`)] : []));
      const rows = answer.rejection.filter((row) => row.below !== undefined).sort((a, b) => a.below - b.below), row = rows.findLast((x) => x.below <= below);
      gain.textContent = below && row ? t("Of validation images, {coverage} are answered then, with an accuracy of {accuracy}.", {coverage: percent(row.coverage, 0), accuracy: percent(row.accuracy)}) : "";
    };
    return card;
  };
  const picture = (source, caption) => el("figure.card", {}, el("div.frame", {}, el("img.pixels", {src: source, alt: caption})), el("figcaption", {}, caption));

  const picks = el("fieldset.picks", {}, el("legend", {}, t("Who answers")), runs().slice(0, 60).map((row) => el("label.check", {}, el("input", {type: "checkbox", checked: chosen.has(row.key), onchange: (event) => {
    if (event.target.checked && chosen.size >= MAX_RUNS) { event.target.checked = false; announce(t("Up to {count} runs answer.", {count: MAX_RUNS})); return; }
    if (event.target.checked) chosen.add(row.key); else chosen.delete(row.key);
    if (last) ask(...last); else drawStrip();
  }}), " ", row.key)));
  main.replaceChildren(el("h1", {}, t("Ask")), el("div.ask", {}, el("div.ask-left", {}, drop, picks, rejectBox), el("div.ask-right", {}, results)), strip);
  if (!runs().length) results.replaceChildren(el("p.dim", {}, t("No run has a finished model yet.")));
  drawStrip();
  if (name) {
    get("/api/pictures", {run: key, name}).then(([found]) => found?.picture && show(found.picture, name)).catch(() => {});
    ask("", {name});
  }
  return () => { removeEventListener("paste", paste); if (address) URL.revokeObjectURL(address); };
};
