"""goodfit export: a run's classifier as a file for other programs."""

from __future__ import annotations

from pathlib import Path

from goodfit.core.trust import trust_own_code


def export(
    run: str,
    /,
    *,
    onnx: Path | None = None,
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
    views
        Views of each image whose answers are averaged, in place of the run's own, such as flip_pair or "ten_crop((224, 256))".
    json
        Print path, inputs, outputs and difference, the largest one of its probabilities from the run's, as JSON on stdout.
    """
    from dataclasses import asdict

    from goodfit.core.run import Run

    trust_own_code([views])
    Run.open(run)  # refused before torch is imported
    from goodfit.core.words import format_bytes
    from goodfit.predict.export import export as write
    from goodfit.terminal.reporter import TerminalReporter
    from goodfit.terminal.streams import print_json, print_lines

    made = write(run, onnx, views, TerminalReporter())
    if json:
        print_json({**asdict(made), "path": str(made.path)})
        return
    print_lines(
        f"{made.path} ({format_bytes(made.path.stat().st_size)}): {made.inputs} -> {made.outputs};"
        f" within {made.difference:.1g} of the run's."
    )
