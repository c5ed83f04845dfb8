"""goodfit export: a run's classifier as a file for other programs, or as a folder for others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from goodfit.core.errors import UsageError
from goodfit.core.trust import trust_own_code

if TYPE_CHECKING:
    from goodfit.core.run import Run
    from goodfit.predict.export import Exported


def export(
    run: str,
    /,
    *,
    onnx: Path | None = None,
    int8: bool = False,
    pt2: Path | None = None,
    hub: Path | None = None,
    terms: Annotated[str, Parameter(name="--license")] = "",
    views: str = "",
    json: bool = False,
) -> None:
    """Write the classifier of a run or an ensemble as one ONNX file: decoded images of any size go in, probabilities come out.

    Preprocessing (to the same bits), views, temperature and the average over an ensemble's members are inside. Before the file is written
    its answers to a few images are compared with the run's. Needs the extra: pip install "goodfit[export]".

    Parameters
    ----------
    run
        The folder of a run or an ensemble, such as runs/latest.
    onnx
        The file to write (default: model.onnx in the folder).
    int8
        Compute with 8-bit integers (default file: model.int8.onnx), calibrated on training images. What that costs on the validation
        images, and how many times as fast it is, is said before the file is written.
    pt2
        Write the same for torch instead, as a program that torch.export.load reads, such as model.pt2.
    hub
        Write a folder in the layout of the Hugging Face Hub instead: weights, configuration, and a model card made from the run.
    terms
        With --hub: the license under which others may use the weights.
    views
        Views of each image whose answers are averaged, in place of the run's own, such as flip_pair or "ten_crop((224, 256))".
    json
        Print path, inputs, outputs and difference, the largest one of its probabilities from the run's, as JSON on stdout.
    """
    check_forms((bool(onnx) or int8, bool(pt2), bool(hub)), terms, bool(views) or json)
    from dataclasses import asdict

    from goodfit.core.run import Run

    trust_own_code([views])
    opened = Run.open(run)  # refused before torch is imported
    from goodfit.core.words import format_bytes
    from goodfit.terminal.streams import print_json, print_lines

    if hub:
        from goodfit.runs.hub_folder import write_hub_folder

        print_lines(str(write_hub_folder(opened, hub, terms).path))
        return
    made = write_file(opened, onnx, int8, pt2, views)
    if json:
        print_json({**asdict(made), "path": str(made.path)})
        return
    near = "" if int8 else f"; within {made.difference:.1g} of the run's"
    print_lines(f"{made.path} ({format_bytes(made.path.stat().st_size)}): {made.inputs} -> {made.outputs}{near}.")


def check_forms(forms: tuple[bool, bool, bool], terms: str, has_file_options: bool) -> None:
    """Refuse options that do not go together; `forms` says whether --onnx or --int8, --pt2 and --hub are given.

    Raises:
        UsageError: some are of several forms.
    """
    if sum(forms) > 1:
        raise UsageError("Expected one of --onnx (with --int8 or without), --pt2 and --hub at a time, received several.")
    if terms and not forms[2]:
        raise UsageError("Expected --license beside --hub alone, received no --hub.")
    if forms[2] and has_file_options:
        raise UsageError("Expected --hub without --views and --json: the folder has the run's own views.")


def write_file(run: Run, onnx: Path | None, int8: bool, pt2: Path | None, views: str) -> Exported:
    """Write the file that was asked for."""
    from goodfit.terminal.reporter import TerminalReporter

    if int8:
        from goodfit.predict.quantize import export_int8

        return export_int8(run, onnx, views, TerminalReporter())
    if pt2:
        from goodfit.predict.program import export_program

        return export_program(run, pt2, views, TerminalReporter())
    from goodfit.predict.export import export as write

    return write(run, onnx, views, TerminalReporter())
