"""Headline: how good the model is, how certain that is, and what the numbers say about its fit."""

from __future__ import annotations

from goodfit.core import words
from goodfit.core.figures import Figure
from goodfit.core.run_files import get
from goodfit.report.gap import measure_gap
from goodfit.report.interpretation import interpret_run
from goodfit.report.markup import (
    EMPTY,
    NBSP,
    Html,
    bar,
    bullet_list,
    format_figure,
    format_interval,
    format_large_count,
    inline_code,
    join,
    tag,
)
from goodfit.report.record import Record, as_interval, as_rows, as_texts, get_number
from goodfit.report.sections.baselines import BASELINES_FILE, MAJORITY_LABEL, read_baselines
from goodfit.report.sections.ensemble import describe_ensemble, describe_outputs


def render_headline(record: Record) -> Html:
    """Render the title, the accuracy, its interpretation, and a table of all accuracies."""
    state = record.state
    return tag(
        "header",
        tag(
            "p.eyebrow",
            f"Goodfit {'training' if record.ensemble is None else 'ensemble'} report",
            tag("span.state", state) if state and state != "finished" else None,
        ),
        tag("h1", format_title(get(record.about, "data", "name") or record.recipe.get("data") or record.run.name)),
        tag("p.subtitle", describe_training(record) if record.ensemble is None else describe_ensemble(record)),
        result_box(render_figure(record), interpret_run(record), record.shell_path),
        render_accuracies(record),
    )


def format_title(data: object) -> str:
    """Return the last part of the path of the data."""
    return str(data).rstrip("/").rpartition("/")[2] or str(data)


def result_box(figure: Html, sentences: list[str], run: str = "RUN") -> Html:
    """Build the box with the figure in large type beside its interpretation, in whose commands RUN stands for `run`."""
    interpretation = bullet_list([inline_code(sentence, run) for sentence in sentences])
    return tag("div.result", figure, tag("div.findings", tag("h2", "What this means"), interpretation) if sentences else None)


def describe_training(record: Record) -> str:
    """Describe in one sentence what was trained, on which data, for how long and where, leaving out what is not known."""
    about, recipe = record.about, record.recipe
    images, classes = get_number(about, "data", "splits", "train"), as_texts(get(about, "data", "classes"))
    parameters, seconds = get_number(about, "parameters"), get_number(about, "seconds", "training")
    gpu, cpu = get(about, "machine", "gpu"), get(about, "machine", "cpu")
    device = gpu if gpu and str(recipe.get("device", "cuda")) != "cpu" else cpu
    size = f" with {format_large_count(parameters)} parameters" if parameters else ""
    clauses = [
        f"{record.model or 'A model'}{size}" if record.model or size else "",
        f"trained on {words.count_of(int(images), 'image')}" if images else "",
        describe_outputs(record, len(classes)) if classes else "",
        f"in {words.format_duration(seconds).replace(' ', NBSP)}" if seconds else "",
        f"on {device}" if device else "",
    ]
    sentence = " ".join(clause for clause in clauses if clause)
    return f"{sentence}." if sentence else ""


def render_figure(record: Record) -> Html:
    """Render the accuracy in large type: on test if that was opened, else on validation, else the last one logged."""
    figure = record.figure
    for split in ("test", "validation"):
        accuracy = get_number(record.scores, split, figure.key)
        if accuracy is not None:
            low, high = as_interval(get(record.scores, split, "interval"))
            images = get_number(record.scores, split, "images")
            return tag(
                "div.figure",
                render_large(figure, accuracy),
                tag("p", tag("strong", f"{figure.name} on {split}"), f", {words.count_of(int(images), 'image')}" if images else None),
                tag("p.dim", f"95{NBSP}% interval {format_interval(low, high, figure)}") if low is not None else None,
            )
    for line in reversed(record.evaluations):
        accuracy = get_number(line, "validation", figure.key)
        if accuracy is not None:
            where = f"validation {figure.name} so far, at {record.describe_step(line.get('step'))}"
            return tag("div.figure", render_large(figure, accuracy), tag("p", where))
    return tag("div.figure", tag("p.big", "–"), tag("p", f"{figure.name} not measured"))


def render_large(figure: Figure, value: float) -> Html:
    """Render an accuracy, or another figure, in the largest type."""
    return tag("p.big", f"{100 * value:.1f}", tag("span", f"{NBSP}%")) if figure.is_share else tag("p.big", f"{value:.3f}")


def render_accuracies(record: Record) -> Html:
    """Render all accuracies as bars below one another."""
    gap, figure = measure_gap(record), record.figure
    lines: list[tuple[str, str, float | None, float | None, float | None]] = []
    for split, name in (("test", "Test"), ("validation", "Validation")):
        scores = get(record.scores, split)
        low, high = as_interval(get(scores, "interval"))
        kind = "main" if split == "test" or not get(record.scores, "test") else ""
        lines.append((name, kind, get_number(scores, figure.key), low, high))
        low, high = as_interval(get(scores, "exact_interval"))
        lines.append((f"{name}, all labels of an image right", "", get_number(scores, "exact_match"), low, high))
        low, high = as_interval(get(scores, "balanced_interval"))
        lines.append((f"{name}, balanced over classes", "", get_number(scores, "balanced_accuracy"), low, high))
        if len(as_rows(get(scores, "classes"))) > 5:  # of five classes the label is always among the five
            lines.append((f"{name}, top five", "", get_number(scores, "top5"), None, None))
        lines.append((f"{name}, the best single model", "", get_number(scores, "gain", "single"), None, None))
    if gap and get_number(record.scores, "validation", figure.key) is None:
        lines.append(("Validation", "main", gap.validation, None, None))
    if gap:
        lines.append(("Clean training, without augmentation", "", gap.train, None, None))
    baselines = read_baselines(record.files.read_json(BASELINES_FILE), get_number(record.about, "data", "splits", "train"))
    lines += [(f"{name}, on validation", "", accuracy, low, high) for name, accuracy, low, high in baselines]
    if not baselines:
        lines.append((MAJORITY_LABEL, "", record.majority_accuracy, None, None))
    body = [
        tag(
            f"tr.{kind}" if kind else "tr",
            tag("th", name, attrs={"scope": "row"}),
            tag("td.wide", bar(value, low, high)),
            tag("td.number", format_figure(figure, value)),
            tag("td.dim", format_interval(low, high, figure)),
        )
        for name, kind, value, low, high in lines
        if value is not None
    ]
    if not body:
        return EMPTY
    titles = [
        ("Measured on", ""),
        ("", "wide"),
        (figure.heading, "number"),
        (f"95{NBSP}% interval" if any(line[3] for line in lines) else "", "dim"),
    ]
    head = join(tag(f"th.{kind}" if kind else "th", title, attrs={"scope": "col"}) for title, kind in titles)
    return tag("div.scroll", tag("table.measures", tag("thead", tag("tr", head)), tag("tbody", *body)), attrs={"tabindex": 0})
