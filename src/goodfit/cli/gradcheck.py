"""goodfit gradcheck: backward against central differences, for every tensor of a network, loss or other part."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from goodfit.core.errors import GoodfitError, UsageError, one_of
from goodfit.core.words import a, count

if TYPE_CHECKING:
    from goodfit.core.catalog import Catalog, Part
    from goodfit.doctor.gradcheck import Subject

KINDS = ("model", "loss", "penalty", "activation", "norm", "noise", "pool")  # what has a gradient of its own
BATCH = 4


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
    """Check the gradients of a network, loss, penalty or layer (activation, norm, noise, pool) against central differences in float64.

    Parameters
    ----------
    part
        A part such as "resnet(18)", "svm" or "batch", or your own class by dotted name.
    kind
        model, loss, penalty, activation, norm, noise or pool, where the name alone does not tell.
    classes
        How many classes there are.
    channels
        Channels of the input.
    size
        Height and width of the input: "32" or "24x32" (default: 32 for networks, 4 for layers).
    samples
        How many numbers of each tensor are moved; 0 moves all of them (default: 5 for networks, all for the rest).
    use
        A Python file with your own parts or modules.
    json
        Print the result as JSON on stdout.
    """
    if classes < 2 or channels < 1 or (samples or 0) < 0:
        said_so = f"received {classes}, {channels}, {samples}"
        raise UsageError(f"Expected --classes of 2 or more, --channels of 1 or more and --samples of 0 or more, {said_so}.")
    if kind and kind not in KINDS:
        raise UsageError(one_of("kind with a gradient", kind, KINDS))
    from goodfit.doctor.gradcheck import SAMPLES, TOLERANCE, check, plain, said, table
    from goodfit.recipe.build import catalog
    from goodfit.recipe.size import parse_size

    found, seat = find(part, kind, catalog(use or []))
    side = parse_size(size or ("32" if seat == "model" else "4"))
    most = samples if samples is not None else SAMPLES if seat == "model" else 0
    checked = check(subject(found, seat, classes, channels, side), most)
    wrong = [row for row in checked if not row.passed]
    if json:
        from json import dumps

        print(dumps({"part": part, "kind": seat, "tolerance": TOLERANCE, "passed": not wrong, "tensors": [plain(x) for x in checked]}))
    else:
        kinks = sum(row.kinks for row in checked)
        print(table(checked))
        print(f"{a(seat).capitalize()}, {part}: {count(len(checked), 'tensor')}, relative error at most {TOLERANCE:g}", end="")
        print(f"; {count(kinks, 'number')} at a kink, where any slope between both sides is right." if kinks else ".")
    if wrong:
        raise GoodfitError(
            f"The gradient of {part} is wrong for {count(len(wrong), 'tensor')}: {'; '.join(said(row) for row in wrong[:3])}."
        )


def find(text: str, kind: str, known: Catalog) -> tuple[Part, str]:
    """The part that a text names, and its kind; a dotted name or a module of a --use file stands for a network, unless `kind` says else.

    Raises:
        UsageError: nothing with a gradient has this name, or several things do.
    """
    found = re.match(r"\s*([\w.]+)", text)
    name = found.group(1) if found else text
    if kind:
        return known.make(own(text, name), kind), kind
    kinds = [k for k in KINDS if name in known.kinds.get(k, {})]
    if len(kinds) > 1:
        raise UsageError(f'"{name}" is the name of {" and of ".join(a(k) for k in kinds)}: say which with --kind.')
    if kinds:
        return known.make(text, kinds[0]), kinds[0]
    other = next((k for k, parts in known.kinds.items() if name in parts), "")
    if other:
        raise UsageError(f'"{name}" is {a(other)}, which has no gradient to check. Expected {", ".join(KINDS[:-1])} or {KINDS[-1]}.')
    full = own(text, name)
    if "." not in full.split("(")[0]:
        raise UsageError(one_of("part with a gradient", name, sorted({n for k in KINDS for n in known.kinds.get(k, {})})))
    return dotted(full, known)


def own(text: str, name: str) -> str:
    """The text with the name of a class in a --use file made dotted; that file's module has a name made from its content."""
    import sys

    from goodfit.core.catalog import USED, Part

    for module, content in list(sys.modules.items()):
        made = getattr(content, name, None) if module.startswith(USED) and name.isidentifier() else None
        if callable(made) and not (isinstance(made, type) and issubclass(made, Part)):
            return text.strip().replace(name, f"{module}.{name}", 1)
    return text


def dotted(text: str, known: Catalog) -> tuple[Part, str]:
    """A dotted name as the part it is; any other class stands for a network."""
    refused: UsageError | None = None
    for kind in KINDS:
        try:
            return known.make(text, kind), kind
        except UsageError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def subject(part: Part, kind: str, classes: int, channels: int, size: tuple[int, int]) -> Subject:
    """The part at work on random images, scores or weights."""
    import torch

    from goodfit.core.catalog import Foreign, steps
    from goodfit.core.device import seed_noise
    from goodfit.doctor.gradcheck import CPU, of_loss, of_module, of_penalty
    from goodfit.layers.activation import width_of
    from goodfit.models.mlp import Mlp
    from goodfit.recipe.build import make_model

    seed_noise(0, CPU)
    bound: Any = part if isinstance(part, Foreign) else part.bind(facts(classes, channels, size))
    if kind == "loss":
        return of_loss(bound, classes)
    if kind == "penalty":
        return of_penalty(steps(bound), Mlp((8,))(classes, channels, (4, 4)))  # type: ignore[arg-type]
    wide = channels * width_of(bound) if kind == "activation" else channels
    images = torch.randn(BATCH, wide, *size, dtype=torch.float64)
    if kind == "model":
        return of_module(make_model(bound, classes, channels, size), images)
    return of_module(bound(channels) if kind == "norm" else bound(), images)


def facts(classes: int, channels: int, size: tuple[int, int]) -> Any:
    """What a part may ask of its data, for data that is not there: classes of different sizes, colors that vary alike."""
    from goodfit.core.contracts import Facts
    from goodfit.core.progress import Length, Lengths

    covariance = tuple(tuple(0.06 if i == j else 0.03 for j in range(channels)) for i in range(channels))
    return Facts(
        tuple(f"class {k}" for k in range(classes)), tuple(10 + k for k in range(classes)), channels, size,
        (0.5,) * channels, (0.25,) * channels, covariance, Lengths(10, 8, Length.read("100 steps")),
    )  # fmt: skip
