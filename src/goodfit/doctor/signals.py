"""What was seen of a training as rows of dimensionless numbers, one for each step."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.doctor.course import Look, StepRecord
from goodfit.doctor.replay import clean_step
from goodfit.inspection.chance import OwnChance
from goodfit.inspection.dissection import LossFunction, StepSigns, norm

REFERENCE_RATE, MAX_REFERENCE_STEPS = 1e-3, 8  # of AdamW, at which nearly every network learns
SAME_DIRECTION, SHORTER = 0.999, 0.98  # cosine and ratio of norms from which on an applied gradient is a clipped fresh one
MAX_PAUSE_SHARE, PAUSE = 0.1, 3.0  # gaps longer than so many median steps are pauses if no more than this share of them are


@dataclasses.dataclass(frozen=True)
class Signals:
    """What was seen of a training. `reference` is the median update ratio of `measure_reference_update`, NaN where it is unknown."""

    records: Sequence[StepRecord]
    dissected: Mapping[int, StepSigns]
    looks: Mapping[int, Look]
    classes: int
    reference: float

    def rows(self) -> list[dict[str, Any]]:
        """A row for each step; those that were taken apart or looked at have more keys, and what could not be measured is None.

        - `loss_over_chance`: the loss over ln K, that of equal scores. `label_entropy`: of the batch, 1 for labels drawn evenly from all
          classes. `wait_share`: of the time from step to step that went by waiting for the batch.
        - `update_ratio`: norm of the change over that of the weights; `update_over_reference`: in units of what AdamW at 1e-3 does to the
          same network at the start.
        - `fresh_cosine`, `applied_over_fresh`: how the gradient that the optimizer got points and how long it is, by that recomputed on
          the same batch; `descent`: cosine of the change with the direction down the fresh gradient. `clip_share`: share of the steps so
          far that got a shortened gradient. `gradient_ratio`: norm of the fresh gradient over that of the weights; `gradient_spread`:
          the largest over the smallest such ratio of a weight.
        - `dead`, `flat`: the largest share of dead units and of saturated outputs of a layer; `mode_gap`: loss of the same images in
          training mode less that in evaluation mode, over ln K.
        """
        chance, n_clipped, n_dissected, rows = math.log(max(self.classes, 2)), 0, 0, []
        for record in self.records:
            row = {
                "step": record.step, "loss": record.loss, "loss_over_chance": record.loss / chance, "rate": record.rate,
                "images": record.images, "label_entropy": record.label_entropy, "seconds": record.seconds,
                "wait_share": record.wait / max(record.wait + record.seconds, 1e-12),
            }  # fmt: skip
            if (signs := self.dissected.get(record.step)) is not None:
                n_dissected += 1
                n_clipped += is_clipped(signs)
                row |= {
                    "update_ratio": signs.update_ratio, "update_over_reference": signs.update_ratio / self.reference,
                    "fresh_cosine": signs.applied_cosine, "applied_over_fresh": signs.applied_norm / max(signs.fresh_norm, 1e-30),
                    "descent": signs.descent, "clip_share": n_clipped / n_dissected, "gradient_ratio": signs.gradient_ratio,
                    "gradient_spread": signs.gradient_spread,
                }  # fmt: skip
            if (look := self.looks.get(record.step)) is not None:
                row |= {
                    "train_loss": look.train_loss, "train_accuracy": look.train_accuracy, "validation_loss": look.validation_loss,
                    "validation_accuracy": look.validation_accuracy, "mode_gap": (look.noisy_loss - look.train_loss) / chance,
                    "dead": look.dead, "flat": look.flat, "weight_norm": look.weight_norm,
                }  # fmt: skip
            rows.append({key: value if not isinstance(value, float) or math.isfinite(value) else None for key, value in row.items()})
        return rows


def is_clipped(signs: StepSigns) -> bool:
    """Whether the optimizer got the fresh gradient, but shortened."""
    return signs.applied_cosine > SAME_DIRECTION and signs.applied_norm < SHORTER * signs.fresh_norm


def measure_reference_update(model: nn.Module, loss: LossFunction, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The median norm of the change over that of the weights, of a copy of a network in some steps of AdamW at 1e-3; NaN without batches.

    What is healthy depends on the network: this makes update ratios comparable.
    """
    copied, ratios = copy.deepcopy(model).train(), []
    parameters = [p for p in copied.parameters() if p.requires_grad]
    if not parameters:
        return math.nan
    optimizer = torch.optim.AdamW(parameters, lr=REFERENCE_RATE, weight_decay=0.0)
    with OwnChance(0).active(), torch.enable_grad():
        for images, labels in batches[:MAX_REFERENCE_STEPS]:
            before = [p.detach().clone() for p in copied.parameters()]
            clean_step(copied, optimizer, loss, images, labels)
            changes = [p.detach() - old for p, old in zip(copied.parameters(), before, strict=True)]
            ratios.append(norm(changes) / max(norm(before), 1e-30))
    return statistics.median(ratios) if ratios else math.nan


def remove_pauses(records: Sequence[StepRecord]) -> list[StepRecord]:
    """The records with the rare long gaps between two steps, in which the network is evaluated or saved, shortened to the median one."""
    if not records:
        return []
    longest = PAUSE * statistics.median(record.seconds for record in records)
    is_pause = [record.wait > longest for record in records]
    if sum(is_pause) > MAX_PAUSE_SHARE * len(records):
        return list(records)
    wait, processor = (statistics.median(getattr(record, name) for record in records) for name in ("wait", "wait_processor"))
    return [
        dataclasses.replace(record, wait=wait, wait_processor=processor) if pause else record
        for record, pause in zip(records, is_pause, strict=True)
    ]
