"""When a number stops being finite: in which step, for which images, in which tensor first."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.device import autocast
from goodfit.core.errors import Diverged
from goodfit.core.words import list_some
from goodfit.losses.scores import at_least_fp32, split_outputs
from goodfit.training.state import Plan


def divergence_error(model: nn.Module, pieces: Iterable[Batch], plan: Plan, step: int) -> Diverged:
    """The error that names the step, the images and the first non-finite tensor, found by running the step's pieces again.

    All ranks of the plan look at their share, and return the same error.
    """
    images: list[str] = []
    first = next((f"the parameter {name}" for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())), "")
    for piece in pieces if not first else ():
        name, affected = _first_in_forward(model, piece, plan)
        first = first or name
        images += [str(int(i)) for i in piece.ids[affected]]
    found = plan.ranks.broadcast_object(plan.ranks.gather((first, images)))
    first, images = next((text for text, _ in found if text), ""), [image for _, those in found for image in those]
    if not first:
        names = [name for name, p in model.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
        first = f"the gradient of {names[-1]}" if names else "the norm of the gradient (it overflows)"
    affected_images = f" Images: {list_some(images, 8)}." if images else ""
    return Diverged(
        f"Training diverged at step {step}: {first} is not finite.{affected_images}"
        f" What was saved before is kept; a lower learning rate, --clip 1 or a longer warmup usually helps."
    )


def _first_in_forward(model: nn.Module, piece: Batch, plan: Plan) -> tuple[str, Tensor]:
    """The name of the first non-finite tensor of a forward pass ("" if all are finite), and the images [B] it touches."""
    first: list[tuple[str, Tensor]] = []

    def check(name: str, x: object) -> None:
        if not first and isinstance(x, Tensor) and x.is_floating_point() and not bool(torch.isfinite(x).all()):
            per_image = x.dim() > 0 and len(x) == len(piece)
            bad = ~torch.isfinite(x).flatten(1).all(1) if per_image and x.dim() > 1 else torch.ones(len(piece), dtype=torch.bool)
            first.append((name, bad.cpu()))

    check("the input", piece.images)
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: check(f"the output of {name}", out))
        for name, module in model.named_modules()
        if name and not any(module.children())
    ]
    try:
        with torch.no_grad(), autocast(plan.device, plan.precision):
            output = model(piece.images)
    finally:
        for hook in hooks:
            hook.remove()
    check("the loss", plan.loss(at_least_fp32(split_outputs(output)[0]), piece.targets)[:, None])
    return first[0] if first else ("", torch.zeros(len(piece), dtype=torch.bool))
