"""goodfit gradcheck: backward against central differences, for every tensor of a network, loss or other part."""

from __future__ import annotations

from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.trust import trust_own_code
from goodfit.core.words import count_of, with_article


def gradcheck(
    part: str,
    /,
    *,
    kind: str = "",
    classes: int = 10,
    channels: int = 3,
    size: str = "",
    samples: int | None = None,
    use: list[str] | None = None,
    json: bool = False,
) -> None:
    """Check the gradients of a network, loss, penalty, layer (activation, norm, noise, pool) or augment against differences in float64.

    Parameters
    ----------
    part
        A part such as "resnet(18)", "svm", "batch" or "flip | crop(4)", or your own class by dotted name.
    kind
        model, loss, penalty, activation, norm, noise, pool or augment, where the name alone does not tell.
    classes
        How many classes there are.
    channels
        Channels of the input.
    size
        Height and width of the input: "32" or "24x32" (default: 32 for networks, 4 for layers and augments).
    samples
        How many numbers of each tensor are moved; 0 moves all of them (default: 5 for networks, all for the rest).
    use
        A Python file with your own parts or modules.
    json
        Print the result as JSON on stdout.
    """
    if classes < 2 or channels < 1 or (samples or 0) < 0:
        received = f"received {classes}, {channels}, {samples}"
        raise UsageError(f"Expected --classes of 2 or more, --channels of 1 or more and --samples of 0 or more, {received}.")
    from goodfit.core.settings import parse_size
    from goodfit.doctor import gradcheck as doctor
    from goodfit.doctor.gradcheck_parts import find_part, part_subject
    from goodfit.recipe.parts import load_catalog
    from goodfit.terminal.streams import print_json, print_lines

    trust_own_code([part], use or [])
    found, kind = find_part(part, kind, load_catalog(use or []))
    side = parse_size(size or ("32" if kind == "model" else "4"))
    n = samples if samples is not None else doctor.DEFAULT_SAMPLES if kind == "model" else 0
    checks = doctor.check_gradients(part_subject(found, kind, classes, channels, side), n)
    wrong = [row for row in checks if not row.passed]
    if json:
        rows = [doctor.to_json(row) for row in checks]
        print_json({"part": part, "kind": kind, "tolerance": doctor.TOLERANCE, "passed": not wrong, "tensors": rows})
    else:
        print_lines(
            *doctor.format_checks(checks).split("\n"), f"{with_article(kind).capitalize()}, {part}: {doctor.summarize_checks(checks)}"
        )
    if wrong:
        errors = "; ".join(map(doctor.describe_error, wrong[:3]))
        raise GoodfitError(f"The gradient of {part} is wrong for {count_of(len(wrong), 'tensor')}: {errors}.")
