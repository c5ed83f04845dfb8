"""goodfit audit: what is wrong with images and labels, before training."""

from __future__ import annotations

from pathlib import Path

from goodfit.cli.options import AuditOptions, Shorts, assemble, refuse_early, start_reporter
from goodfit.core.errors import UsageError


def audit(
    data: str = "",
    /,
    *,
    run: Path | None = None,
    quick: bool = False,
    html: Path | None = None,
    json: bool = False,
    shorts: Shorts | None = None,
    options: AuditOptions | None = None,
) -> None:
    """Look for what makes training or its scores wrong: broken and blank images, duplicates, leaks, wrong labels, splits that differ.

    The findings are kept by the content of the images and their splits, so that the next audit of the same takes no time.

    Parameters
    ----------
    data
        The images, as for train; those of --run if left out.
    run
        A run or a study of folds on these images: also its accuracy without leaked images, labels that its predictions contradict, and the
        splits before and after its transforms.
    quick
        Only what takes no comparing of images one by one.
    html
        Also write a page with pictures of the worst.
    json
        Print the findings with their numbers and images as JSON on stdout.
    """
    if not data and run is None:
        raise UsageError('Expected the images to audit, such as "photos/" or "digits", or --run, received neither.')
    asked = assemble(data, shorts, options)
    refuse_early(asked)
    reporter = start_reporter(asked)
    from goodfit import api
    from goodfit.terminal.audit import format_audit
    from goodfit.terminal.streams import print_json, print_lines

    found, table = api.open_audit(asked, run, quick, reporter)
    if html:
        from goodfit.core.files import write_atomic
        from goodfit.doctor.audit.page import render_audit

        reporter.show_activity("drawing the page")
        assert table.data is not None
        write_atomic(html, render_audit(found, table.data))
    if json:
        print_json(found.plain())
        return
    print_lines(*format_audit(found.plain()))
    if html:
        print_lines(f"Audit: {html}")
