"""goodfit show: what augmentation makes of the images, as a contact sheet."""

from __future__ import annotations

from pathlib import Path

from goodfit.cli.options import Shorts, ShowOptions, assemble, refuse_early, start_reporter
from goodfit.core.errors import UsageError, refuse_more

MAX_PICTURES = 1000  # in a row or column of the sheet


def show(
    data: str = "",
    /,
    *,
    out: Path = Path("augment.png"),
    images: int = 8,
    draws: int = 6,
    each: bool = False,
    progress: float = 1.0,
    shorts: Shorts | None = None,
    options: ShowOptions | None = None,
) -> None:
    """Write a contact sheet: training images beside what --augment makes of them, with their targets.

    Parameters
    ----------
    data
        The images, as for train.
    out
        The PNG file to write.
    images
        How many images, the classes in turn.
    draws
        How many draws of each image.
    each
        Show each part of the pipe alone, at strengths one can see, or in draws that changed the image.
    progress
        Where in the training, from 0 to 1, for strengths that follow progress.
    """
    if images < 1 or draws < 1 or not 0 <= progress <= 1:
        raise UsageError(
            f"Expected --images and --draws of 1 or more and --progress from 0 to 1, received {images}, {draws} and {progress:g}."
        )
    refuse_more("--images", images, MAX_PICTURES)
    refuse_more("--draws", draws, MAX_PICTURES)
    asked = assemble(data, shorts, options)
    refuse_early(asked)
    reporter = start_reporter(asked)
    from goodfit.core.files import atomic_writer
    from goodfit.runs.augmentation_preview import preview_augmentation
    from goodfit.terminal.sheet import render_sheet
    from goodfit.terminal.streams import print_lines

    rows, titles = preview_augmentation(asked, reporter, images, draws, progress, each)
    if not rows:
        raise UsageError("Expected augmentation to show, received none: give it as --augment.")
    with atomic_writer(out) as file:
        render_sheet(rows, titles).save(file, "PNG")
    print_lines(f"{len(rows)} rows of {max(map(len, rows))} pictures: {out}")
