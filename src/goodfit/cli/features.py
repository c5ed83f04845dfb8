"""goodfit features: what a net sees in images, as vectors in a file."""

from __future__ import annotations

from pathlib import Path

from goodfit.cli.options import FeaturesOptions, Shorts, assemble, refuse_early, start_reporter
from goodfit.core.errors import UsageError


def features(
    source: str,
    data: str,
    /,
    *,
    stage: str = "head",
    out: Path = Path("features.npz"),
    test: bool = False,
    shorts: Shorts | None = None,
    options: FeaturesOptions | None = None,
) -> None:
    """Write the features of a stage, with labels, names and splits, to an .npz file.

    Maps are averaged over their pixels. The arrays are features [N, D] float32, labels [N], names [N], splits [N] and classes [K].

    Parameters
    ----------
    source
        A run folder, a file of weights, or the name of published ones, as for --from.
    data
        The images, as for train.
    stage
        A stage by name, or head for what the head takes in.
    out
        The file to write.
    test
        The test images, too. For the images that a run was trained on that opens its test split, which is logged in the run.
    """
    if out.suffix != ".npz":
        raise UsageError(f'Expected --out to end in .npz, received "{out}".')
    if options is not None and options.source is not None:
        raise UsageError("Expected the source in the first place alone, received --from, too.")
    asked = assemble(data, shorts, options).but(source=source)
    refuse_early(asked)
    reporter = start_reporter(asked)
    from goodfit.core.run import Run
    from goodfit.core.words import count_of
    from goodfit.recipe.prepare import open_source
    from goodfit.recipe.transfer.features import save_features
    from goodfit.runs.openings import open_test_split
    from goodfit.terminal.streams import print_lines

    opened, net = open_source(asked, reporter)
    run = Run(Path(source).expanduser())
    if test and run.read("about.json").get("data", {}).get("digest") == opened.data.digest:
        open_test_split(run, reporter)
    shape = save_features(net, opened.data, stage, out, ("train", "validation", "test") if test else ("train", "validation"))
    print_lines(f"{count_of(shape[0], 'image')}, {count_of(shape[1], 'feature')} of {stage}: {out}")
