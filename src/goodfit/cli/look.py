"""goodfit look: pictures of a run's network at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal


def look(
    run: str,
    /,
    *images: str,
    out: Path = Path("look"),
    layer: str = "",
    cam: Literal["grad_cam", "layer_cam"] = "grad_cam",
    json: bool = False,
    device: str = "auto",
) -> None:
    """Draw what a run's network has learned and what its answers rest on: weights, evidence, activations, dead units, images as points.

    Without images they are validation images of the run, the worst errors and some right answers, and the run's report shows them, too.

    Parameters
    ----------
    run
        The run folder, such as runs/latest.
    images
        Files, folders or patterns.
    out
        The folder for the page, look.html, and the sheets as PNG files.
    layer
        The layer whose activations are drawn, by its name in the network; by default the first and the last with maps.
    cam
        How class activation maps weight channels: grad_cam, or layer_cam, which is finer in early layers.
    json
        Print the answers, layers, units and files as JSON on stdout.
    device
        auto, cpu, cuda, ...
    """
    from goodfit.core.run import Run
    from goodfit.data.folder import find_images

    opened = Run.open(run)  # refused before torch is imported, as images that are not there
    files = find_images(images) if images else []
    from goodfit.runs.look import LookOptions, look_at_run
    from goodfit.terminal.reporter import TerminalReporter
    from goodfit.terminal.streams import print_json, print_lines, print_message

    found = look_at_run(opened, files, LookOptions(layer, cam, out, device), TerminalReporter())
    for note in found["notes"]:
        print_message(f"goodfit: {note}")
    if json:
        print_json(found)
    else:
        print_lines(*format_look(found))


def format_look(found: dict[str, Any]) -> list[str]:
    """Format what `look_at_run` returns: the answers, the layers with dead units, what could not be drawn and why, and the files."""
    from goodfit.core.words import format_percent

    labels = ["" if image["truth"] in (None, image["predicted"]) else f", labeled {image['truth']}" for image in found["images"]]
    answers = [
        f"{image['name']}: {image['predicted']} {format_percent(image['probability'])}{label}"
        for image, label in zip(found["images"], labels, strict=True)
    ]
    units = [
        f"{unit['layer']}: {format_percent(unit['dead'], 0)} of {unit['units']} units are dead." for unit in found["units"] if unit["dead"]
    ]
    return [*answers, *units, *(sheet["text"] for sheet in found["sheets"] if not sheet["file"]), *found["files"]]
