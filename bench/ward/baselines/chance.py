"""Random repair: as many remedies, drawn at random, as the doctor's trials cost; the one that helps most in a short trial is taken."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from bench.ward.harm import run_patient
from bench.ward.patient import Patient, train
from bench.ward.remedies import REMEDIES

TRIAL_STEPS = 40


def repair_at_random(patient: Patient, seed: int, trial_steps: int) -> tuple[str, Patient]:
    """Try remedies drawn at random and return the best with the patient treated by it.

    Args:
        patient: the case.
        seed: of the case and the draw.
        trial_steps: training steps that may be spent; at least one remedy is drawn, and a single one is not tried.
    """
    rng = np.random.default_rng([seed, 71])
    count = max(1, trial_steps // TRIAL_STEPS)
    causes = [str(cause) for cause in rng.permutation(sorted(REMEDIES))[:count]]
    if len(causes) > 1:
        causes.sort(key=lambda cause: _loss_after_trial(REMEDIES[cause](patient), seed))
    return causes[0], REMEDIES[causes[0]](patient)


def _loss_after_trial(patient: Patient, seed: int) -> float:
    """Cross-entropy on validation images after a short training; infinity if it fails."""
    case = patient.dictionary()
    try:
        model, _ = train(case, seed, min(TRIAL_STEPS, case["steps"]))
        model.eval()
        with torch.no_grad():
            losses = [functional.cross_entropy(model(images), labels) for images, labels in case["validation"]()]
        value = float(torch.stack(losses).mean())
    except (RuntimeError, IndexError, ValueError):
        return float("inf")
    return value if np.isfinite(value) else float("inf")


def outcome_of_repair(patient: Patient, seed: int, trial_steps: int) -> tuple[str, object]:
    """The remedy that random repair takes, and the outcome of the training with it."""
    cause, treated = repair_at_random(patient, seed, trial_steps)
    return cause, run_patient(treated, seed)
