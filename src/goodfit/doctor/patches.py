"""What to change of a recipe against a cause: fields of the recipe as text, each of which builds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from goodfit.augment.erase import Erase
from goodfit.core.parts import Part, Pipe, part_name, pipe_parts, spell
from goodfit.core.progress import Length
from goodfit.core.settings import parse_size
from goodfit.doctor.finding import Finding, Verdict
from goodfit.layers import noise
from goodfit.layers.activation import LeakyRelu, Relu
from goodfit.layers.init import He
from goodfit.layers.norm import Batch
from goodfit.recipe.recipe import Recipe
from goodfit.schedules.shapes import Warmup

Patch = dict[str, str]
Change = Callable[[Any], Any]  # from the value of a setting to a better one

RATE_FACTOR = 10.0  # by which a learning rate changes where no trial has found a better one
LONGER = 3.0  # times the budget that was too short
MOMENTUM, MAX_WEIGHT_DECAY, MIN_BATCH, MIN_SIZE = 0.9, 1e-4, 64, 32
SCHEDULE = "warmup | cosine"
MORE_AUGMENTATION = "flip | crop(4) | erase"  # where there is none


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a patch is written for: a recipe with nothing left open, its parts by seat, and the factor of the rate that a trial found."""

    recipe: Recipe
    parts: Mapping[str, Part]
    rate_factor: float = 0.0

    def set(self, seat: str, changes: Mapping[str, Change]) -> Patch:
        """The part of a seat with some of its settings changed, and those of the parts within it; empty where it has none of them."""
        part = self.parts[seat]
        changed = change_settings(part, changes)
        return {} if changed == part else {seat: spell(changed, full=True)}


def change_settings(part: Part, changes: Mapping[str, Change]) -> Part:
    """A part with some settings changed wherever it, or a part within it, has them."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if field.name in changes:
            values[field.name] = changes[field.name](value)
        elif isinstance(value, Part):
            values[field.name] = change_settings(value, changes)
    return dataclasses.replace(part, **values)  # type: ignore[type-var]


def to(value: Any) -> Change:
    """The change to a value, whatever was there."""
    return lambda old: value


def at_most(limit: float) -> Change:
    """The change that keeps a number within a limit."""
    return lambda old: min(old, limit)


def set_rate(default: float) -> Callable[[Trained], Patch]:
    """The optimizer with its learning rate times the factor that a trial found, or else times the default."""
    return lambda trained: trained.set("optimizer", {"lr": lambda lr: float(f"{lr * (trained.rate_factor or default):.3g}")})


def set_fields(fields: Patch) -> Callable[[Trained], Patch]:
    """The same fields for every recipe, without those that it has already."""
    return lambda trained: {name: text for name, text in fields.items() if str(trained.recipe.plain()[name]) != text}


def set_settings(seat: str, changes: Mapping[str, Change]) -> Callable[[Trained], Patch]:
    """The part of a seat with some settings changed."""
    return lambda trained: trained.set(seat, changes)


def weaken_momentum(trained: Trained) -> Patch:
    """The usual momentum, or the usual first beta."""
    return trained.set("optimizer", {"momentum": at_most(MOMENTUM), "betas": lambda betas: (min(betas[0], MOMENTUM), betas[1])})


def weaken_decay(trained: Trained) -> Patch:
    """A mild weight decay, and no penalties."""
    return trained.set("optimizer", {"weight_decay": at_most(MAX_WEIGHT_DECAY)}) | set_fields({"penalty": "none"})(trained)


def add_warmup(trained: Trained) -> Patch:
    """The schedule after a warm-up."""
    return {"schedule": spell(Pipe((Warmup(), *pipe_parts(trained.parts["schedule"]))), full=True)}


def strengthen_augmentation(trained: Trained) -> Patch:
    """The augmentation with erasing behind it; the usual one where there is none."""
    parts = pipe_parts(trained.parts["augment"])
    if not parts:
        return {"augment": MORE_AUGMENTATION}
    return {} if any(part_name(part) == "erase" for part in parts) else {"augment": spell(Pipe((*parts, Erase())), full=True)}


def lengthen(trained: Trained) -> Patch:
    """A longer budget."""
    length = Length.read(trained.recipe.budget)
    return {"budget": f"{length.amount * LONGER:g} {length.unit}s"}


def enlarge_batch(trained: Trained) -> Patch:
    """A batch that is large enough for batch norm; where all images are fewer, norms by group."""
    return {"batch_size": str(MIN_BATCH)}


def enlarge_images(trained: Trained) -> Patch:
    """Images of twice the side, up to a sensible size at least."""
    height, width = parse_size(trained.recipe.size)
    factor = max(2, -(-MIN_SIZE // min(height, width)))
    return {"size": f"{height * factor}x{width * factor}"}


NO_DROPOUT = set_settings("model", {"drop": to(noise.None_()), "branch": to(noise.None_())})
HE = set_settings("model", {"init": to(He())})
BATCH_NORM = set_settings("model", {"norm": to(Batch()), "init": to(He())})
RELU = set_settings("model", {"act": to(Relu()), "init": to(He())})


def weaken_all(trained: Trained) -> Patch:
    """Mild weight decay, no dropout, and the mildest augmentation."""
    return weaken_decay(trained) | NO_DROPOUT(trained) | set_fields({"augment": "flip"})(trained)


def lift_freezing(trained: Trained) -> Patch:
    """Train all of the network."""
    return {} if part_name(trained.parts["trainable"]) == "all" else {"trainable": "all"}


PATCHES: dict[str, Callable[[Trained], Patch]] = {
    "augmentation_too_strong": set_fields({"augment": "none"}),
    "batch_too_small_for_norm": enlarge_batch,
    "capacity_too_small": set_fields({"model": "auto"}),
    "class_imbalance": set_fields({"class_weights": "balanced"}),
    "clip_too_tight": set_fields({"clip": "0.0", "clip_value": "0.0"}),
    "constant_init": HE,
    "data_starved": set_fields({"workers": "2"}),
    "dead_relu": set_settings("model", {"act": to(LeakyRelu()), "init": to(He())}),
    "decay_too_early": set_fields({"schedule": SCHEDULE}),
    "dropout_too_strong": NO_DROPOUT,
    "duplicates_in_train": set_fields({"duplicates": "drop"}),
    "exploding_gradient": BATCH_NORM,
    "frozen_by_mistake": lift_freezing,
    "init_too_large": HE,
    "init_too_small": HE,
    "inputs_not_scaled": set_fields({"mean": "auto", "std": "auto"}),
    "inputs_scaled_twice": set_fields({"mean": "auto", "std": "auto"}),
    "leakage_exact": set_fields({"duplicates": "drop"}),
    "low_precision": set_fields({"precision": "fp32"}),
    "lr_too_high": set_rate(1 / RATE_FACTOR),
    "lr_too_low": set_rate(RATE_FACTOR),
    "missing_nonlinearity": RELU,
    "missing_skip": set_fields({"model": "resnet(20)"}),
    "momentum_too_high": weaken_momentum,
    "no_decay": set_fields({"schedule": SCHEDULE}),
    "no_warmup": add_warmup,
    "not_shuffled": set_fields({"sampler": "shuffle"}),
    "overfitting": strengthen_augmentation,
    "regularized_too_much": weaken_all,
    "resolution_too_low": enlarge_images,
    "saturated": RELU,
    "stopped_too_early": set_fields({"stop": "none"}),
    "threads_oversubscribed": set_fields({"threads": "auto"}),
    "trained_too_short": lengthen,
    "vanishing_gradient": BATCH_NORM,
    "weight_decay_too_strong": weaken_decay,
    "wrong_loss": set_fields({"loss": "softmax"}),
}


def make_patch(cause: str, trained: Trained) -> Patch:
    """The fields of a recipe to change against a cause, with their new values as text; none where no field helps."""
    return PATCHES[cause](trained) if cause in PATCHES else {}


def with_patches(verdict: Verdict, trained: Trained, without: Collection[str] = ()) -> Verdict:
    """A verdict whose findings have the fields of the recipe to change, but for those of some causes."""
    findings = (finding if finding.cause in without else with_patch(finding, trained) for finding in verdict.findings)
    return dataclasses.replace(verdict, findings=tuple(findings))


def with_patch(finding: Finding, trained: Trained) -> Finding:
    """A finding with the fields of the recipe to change."""
    patch = make_patch(finding.cause, dataclasses.replace(trained, rate_factor=finding.rate_factor))
    return dataclasses.replace(finding, patch=patch)
