"""How good the model is, how sure that is, and what the numbers say about its fit."""

from __future__ import annotations

from goodfit.core import words
from goodfit.report.markup import NOTHING, THIN, Html, bar, joined, listed, millions, percent, tag, with_code
from goodfit.report.reading import findings, gap, interval
from goodfit.report.record import Record, at, number, texts
from goodfit.report.sections import baselines
from goodfit.report.sections.ensemble import made_of


def headline(record: Record) -> Html:
    """The title, the accuracy, the accuracies side by side, and the findings."""
    state = record.state
    return tag(
        "header",
        tag(
            "p.eyebrow",
            f"Goodfit {'training' if record.ensemble is None else 'ensemble'} report",
            tag("span.state", state) if state and state != "finished" else None,
        ),
        tag("h1", titled(at(record.about, "data", "name") or record.recipe.get("data") or record.run.name)),
        tag("p.subtitle", trained(record) if record.ensemble is None else made_of(record)),
        result(figure(record), findings(record)),
        measures(record),
    )


def titled(data: object) -> str:
    """What the images are called: their path's last name."""
    return str(data).rstrip("/").rpartition("/")[2] or str(data)


def result(figure: Html, sentences: list[str]) -> Html:
    """The figure in large type, beside what it says."""
    said = listed([with_code(sentence) for sentence in sentences])
    return tag("div.result", figure, tag("div.findings", tag("h2", "What this says"), said) if sentences else None)


def trained(record: Record) -> str:
    """What was trained, on what, for how long, where: one sentence of what is known."""
    about, recipe = record.about, record.recipe
    images, classes = number(about, "data", "splits", "train"), texts(at(about, "data", "classes"))
    parameters, seconds = number(about, "parameters"), number(about, "seconds", "training")
    gpu, cpu = at(about, "machine", "gpu"), at(about, "machine", "cpu")
    device = gpu if gpu and str(recipe.get("device", "cuda")) != "cpu" else cpu
    size = f" with {millions(parameters)} parameters" if parameters else ""
    said = [
        f"{record.model or 'A model'}{size}" if record.model or size else "",
        f"trained on {words.count_of(int(images), 'image')}" if images else "",
        f"of {words.count_of(len(classes), 'class', 'classes')}" if classes else "",
        f"in {words.format_duration(seconds).replace(' ', THIN)}" if seconds else "",
        f"on {device}" if device else "",
    ]
    known = [part for part in said if part]
    return " ".join(known) + "." if known else ""


def figure(record: Record) -> Html:
    """The accuracy in large type: on test once that was opened, else on validation, else the last one logged."""
    for split in ("test", "validation"):
        accuracy = number(record.scores, split, "accuracy")
        if accuracy is not None:
            low, high = interval(at(record.scores, split, "interval"))
            images = number(record.scores, split, "images")
            return tag(
                "div.figure",
                large(accuracy),
                tag("p", tag("strong", f"accuracy on {split}"), f", {words.count_of(int(images), 'image')}" if images else None),
                tag("p.dim", f"95{THIN}% interval {percent(low)} to {percent(high)}") if low is not None else None,
            )
    for line in reversed(record.evaluations):
        accuracy = number(line, "validation", "accuracy")
        if accuracy is not None:
            return tag("div.figure", large(accuracy), tag("p", f"validation accuracy so far, at {record.when(line.get('step'))}"))
    return tag("div.figure", tag("p.big", "–"), tag("p", "accuracy not measured"))


def large(accuracy: float) -> Html:
    """An accuracy in the largest type there is."""
    return tag("p.big", f"{100 * accuracy:.1f}", tag("span", f"{THIN}%"))


def measures(record: Record) -> Html:
    """The accuracies under one another on one axis."""
    found = gap(record)
    lines: list[tuple[str, str, float | None, float | None, float | None]] = []
    for split, name in (("test", "Test"), ("validation", "Validation")):
        scores = at(record.scores, split)
        low, high = interval(at(scores, "interval"))
        lines.append((name, "main" if split == "test" or not at(record.scores, "test") else "", number(scores, "accuracy"), low, high))
        low, high = interval(at(scores, "balanced_interval"))
        lines.append((f"{name}, balanced over classes", "", number(scores, "balanced_accuracy"), low, high))
        lines.append((f"{name}, top five", "", number(scores, "top5"), None, None))
        lines.append((f"{name}, the best single model", "", number(scores, "gain", "single"), None, None))
    if found and number(record.scores, "validation", "accuracy") is None:
        lines.append(("Validation", "main", found.validation, None, None))
    if found:
        lines.append(("Clean training, without augmentation", "", found.train, None, None))
    known = baselines.lines(record.files.json(baselines.FILE), number(record.about, "data", "splits", "train"))
    lines += [(f"{name}, on validation", "", accuracy, low, high) for name, accuracy, low, high in known]
    if not known:
        lines.append((baselines.MAJORITY, "", record.majority, None, None))
    body = [
        tag(
            f"tr.{kind}" if kind else "tr",
            tag("th", name, attrs={"scope": "row"}),
            tag("td.wide", bar(value, low, high)),
            tag("td.number", percent(value)),
            tag("td.dim", f"{percent(low)} to {percent(high)}" if low is not None else ""),
        )
        for name, kind, value, low, high in lines
        if value is not None
    ]
    if not body:
        return NOTHING
    titles = [
        ("Measured on", ""),
        ("", "wide"),
        ("Accuracy", "number"),
        (f"95{THIN}% interval" if any(line[3] for line in lines) else "", "dim"),
    ]
    head = joined(tag(f"th.{kind}" if kind else "th", title, attrs={"scope": "col"}) for title, kind in titles)
    return tag("div.scroll", tag("table.measures", tag("thead", tag("tr", head)), tag("tbody", *body)), attrs={"tabindex": 0})
