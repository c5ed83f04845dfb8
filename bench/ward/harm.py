"""Harm: what a fault costs against its healthy twin in accuracy, in truth of the figure that is reported, in time and in memory."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import psutil
import torch
from scipy import stats

from bench.ward.cases import Spec
from bench.ward.faults import CAUSES, FAULTS, system
from bench.ward.patient import Patient

MIN_POINTS = 0.02  # of accuracy, lost or reported wrongly
MIN_COST = 0.25  # more time per step
MIN_MEMORY = 8e6  # bytes that grew over the run
MAX_P = 0.05  # of a one-sided paired test, from three seeds on
SLOW = ("data_starved", "threads_oversubscribed")  # causes that cost time only, which few steps show
TIMED_STEPS = 40
THREADS = 1


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one training went.

    Attributes:
        honest: accuracy on images that no fault touches.
        reported: accuracy as the user measures it.
        seconds: median wall time of a step with its data.
        memory: bytes by which the process grew after the first tenth.
        repeats: whether a second training with the same seed had the same losses; None if not tried.
        error: what stopped it.
    """

    honest: float
    reported: float
    seconds: float
    memory: float
    repeats: bool | None = None
    error: str = ""


def run_patient(patient: Patient, seed: int, check_repeat: bool = False) -> Outcome:
    """Train a patient as its user would, and measure it."""
    torch.set_num_threads(THREADS)
    try:
        model, losses, seconds, memory = _train(patient, seed)
        case = patient.dictionary()
        reported = float(case["evaluate"](model, case["validation"]()))
        honest = patient.honest_accuracy(model)
        repeats = losses == _train(patient, seed)[1] if check_repeat else None
        return Outcome(honest, reported, statistics.median(seconds), memory, repeats)
    except (RuntimeError, IndexError, ValueError) as error:
        return Outcome(0.0, 0.0, 0.0, 0.0, None, f"{type(error).__name__}: {error}"[:200])
    finally:
        system.MEMORY.clear()
        torch.set_num_threads(THREADS)


def _train(patient: Patient, seed: int) -> tuple[torch.nn.Module, list[float], list[float], float]:
    """The user's loop with a clock; returns the model, losses, seconds of each step, and bytes."""
    case = patient.dictionary()
    torch.manual_seed(seed)
    model = case["model"]()
    optimizer = case["optimizer"](model)
    schedule = case["schedule"] and case["schedule"](optimizer)
    losses: list[float] = []
    seconds: list[float] = []
    start_memory, last = 0, time.perf_counter()
    for epoch in count():
        for images, labels in case["train"](epoch):
            model.train()
            losses.append(float(case["step"](model, optimizer, case["loss"], images, labels).detach()))
            if schedule and case["schedule_every"] == "step":
                schedule.step()
            now = time.perf_counter()
            seconds.append(now - last)
            last = now
            if len(losses) == 1 + case["steps"] // 10:
                start_memory = psutil.Process().memory_info().rss
            if len(losses) >= case["steps"]:
                return model, losses, seconds, psutil.Process().memory_info().rss - start_memory
        if schedule and case["schedule_every"] == "epoch":
            schedule.step()
    raise AssertionError("the epochs have no end")


# ---- over many cases -----------------------------------------------------------------------------------------------------------------

Key = tuple[str, str, int, int, int]


class Log:
    """The outcomes measured so far, kept as JSON lines in a file.

    A row is known by its setting, change, severity, draw and seed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Key, Outcome] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            row = json.loads(line)
            self.rows[_key(Spec(**row["spec"]), row["seed"])] = Outcome(**row["outcome"])

    def measure(self, spec: Spec, seed: int, folder: Path) -> Outcome:
        """The outcome of a case, trained if it is not known yet."""
        key = _key(spec, seed)
        if key not in self.rows:
            patient = spec.make(seed, folder)
            if spec.cause in SLOW:
                patient = patient.but(steps=min(patient.steps, TIMED_STEPS))
            self.rows[key] = outcome = run_patient(patient, seed, check_repeat=spec.cause == "nondeterministic")
            row = {"spec": dataclasses.asdict(spec), "seed": seed, "outcome": dataclasses.asdict(outcome)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return self.rows[key]

    def seeds_of(self, spec: Spec) -> list[int]:
        """The seeds with which a case and its twin are known."""
        seeds = [key[-1] for key in self.rows if key[:-1] == _key(spec, 0)[:-1]]
        return sorted(seed for seed in seeds if _key(spec.twin(), seed) in self.rows)

    def pairs(self, spec: Spec) -> list[tuple[Outcome, Outcome]]:
        """The outcomes of a case beside those of its twin, by seed."""
        return [(self.rows[_key(spec, seed)], self.rows[_key(spec.twin(), seed)]) for seed in self.seeds_of(spec)]


def _key(spec: Spec, seed: int) -> Key:
    return spec.setting, spec.change, spec.severity, spec.draw, seed


def measure_all(specs: Iterable[Spec], log: Log, folder: Path, seeds: int) -> None:
    """Train every case and its twin with so many seeds; what is in the log is not trained again."""
    for spec in specs:
        for seed in range(seeds):
            log.measure(spec.twin(), seed, folder)
            log.measure(spec, seed, folder)


# ---- the judgement -------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Harm:
    """What a fault costs, as means over seeds.

    Attributes:
        lost: honest accuracy lost against the twin.
        misreported: how much the reported accuracy is above the honest one, more than the twin's is.
        slower: share by which a step takes longer; it is harm for faults of the machine and for outputs that nobody needs.
        kind: "accuracy", "report", "time", "memory", "chance", or "" if there is none.
    """

    lost: float
    misreported: float
    slower: float
    kind: str


def judge_harm(change: str, pairs: list[tuple[Outcome, Outcome]]) -> Harm:
    """Judge the harm of a fault from the outcomes with and without it, by seed."""
    cause = FAULTS[change].cause if change in FAULTS else ""
    lost = [twin.honest - case.honest for case, twin in pairs]
    wrong = [(case.reported - case.honest) - (twin.reported - twin.honest) for case, twin in pairs]
    if cause == "validation_too_small":  # whose figure is wrong to either side
        wrong = [abs(value) for value in wrong]
    slower = statistics.mean(case.seconds / twin.seconds - 1 for case, twin in pairs)
    is_costly = CAUSES.get(cause) == "system" or cause == "wrong_outputs"
    kind = ""
    if cause not in SLOW and is_material(lost):
        kind = "accuracy"
    elif cause not in SLOW and (is_material(wrong) or is_material([-value for value in wrong])):
        kind = "report"
    elif is_costly and slower >= MIN_COST:
        kind = "time"
    elif is_costly and statistics.mean(case.memory - twin.memory for case, twin in pairs) >= MIN_MEMORY:
        kind = "memory"
    elif any(case.repeats is False for case, _ in pairs):
        kind = "chance"
    return Harm(statistics.mean(lost), statistics.mean(wrong), slower, kind)


def is_material(differences: list[float]) -> bool:
    """Whether differences reach two points in the mean, and beyond chance if there are three seeds or more."""
    if statistics.mean(differences) < MIN_POINTS:
        return False
    if len(differences) < 3 or len(set(differences)) == 1:
        return True
    return bool(stats.ttest_1samp(differences, 0, alternative="greater").pvalue < MAX_P)
