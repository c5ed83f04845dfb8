"""Scores a doctor's lines against the answers and the measured harm: causes, fixes, false alarms, calibration, latency and cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy import stats

SURE = 0.9  # the confidence from which a wrong cause is a confidently wrong one
UNSURE = 0.5  # below it, a known cause may be named for a fault that is not in the list
RESAMPLES = 2000
BINS = 10  # of confidences


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One case with what it is and what the doctor said of it.

    Attributes:
        name: of the case file.
        answer: what it is, as `Spec.answer` gives it.
        line: the doctor's JSON object.
        harm: the kind of harm, "" for none; None if it was not measured, and then it is taken to be there.
        is_fixed: whether the remedy recovered 90 % of the gap; None if it was not measured.
        planned: steps of the training.
        has_failed: whether a healthy case ends far below what it reaches with another seed: it is no healthy training.
    """

    name: str
    answer: dict[str, Any]
    line: dict[str, Any]
    harm: str | None = None
    is_fixed: bool | None = None
    planned: int = 0
    has_failed: bool = False

    @property
    def kind(self) -> str:
        """plain, odd, failed, benign, fault or unlisted."""
        kind = str(self.answer["kind"])
        if self.has_failed:
            return "failed"
        return "benign" if kind in ("fault", "unlisted") and self.harm == "" else kind

    @property
    def named(self) -> list[str]:
        """The causes named, most likely first."""
        return [cause["cause"] for cause in self.line.get("causes", [])]

    @property
    def confidence(self) -> float:
        """The confidence in the first cause, 0 if there is none."""
        return float(self.line["causes"][0]["confidence"]) if self.line.get("causes") else 0.0

    @property
    def component(self) -> str | None:
        """The component named, if it says that something is wrong."""
        if self.line["verdict"] == "healthy":
            return None
        return self.line.get("component") or next((cause["component"] for cause in self.line.get("causes", [])), None)

    def is_among(self, first: int) -> bool:
        """Whether the cause, or one that means the same, is among the first named; a healthy verdict names none."""
        right = {self.answer["cause"], *self.answer["accept"]}
        return self.line["verdict"] != "healthy" and bool(right & set(self.named[:first]))

    @property
    def is_component_right(self) -> bool:
        return self.component == self.answer["component"] or self.is_among(1)

    @property
    def is_confidently_wrong(self) -> bool:
        """Whether it names a wrong cause with a confidence of `SURE` or more, where it would say that something is wrong."""
        return self.line["verdict"] != "healthy" and self.confidence >= SURE and not self.is_among(1)

    @property
    def is_open_right(self) -> bool:
        """Whether an unlisted fault is met as it should be: unknown, or an unsure cause, of the right component."""
        admits = self.line["verdict"] == "unknown" or (self.line["verdict"] != "healthy" and self.confidence < UNSURE)
        return admits and self.component == self.answer["component"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, over `count` cases."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.count}" if self.count else "-"


def macro_mean(verdicts: Iterable[Verdict], value: Callable[[Verdict], bool | float | None]) -> Estimate:
    """The mean over causes of the mean over their cases; the interval is a bootstrap over causes. Values of None are left out."""
    groups: dict[str, list[float]] = {}
    for verdict in verdicts:
        found = value(verdict)
        if found is not None:
            groups.setdefault(str(verdict.answer["cause"]), []).append(float(found))
    if not groups:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    means = np.array([np.mean(group) for group in groups.values()])
    draws = means[np.random.default_rng(0).integers(0, len(means), (RESAMPLES, len(means)))].mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(means.mean()), float(low), float(high), sum(map(len, groups.values())))


def share(flags: list[bool]) -> Estimate:
    """A share with its exact (Clopper-Pearson) 95 % interval."""
    if not flags:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    interval = stats.binomtest(sum(flags), len(flags)).proportion_ci()
    return Estimate(sum(flags) / len(flags), float(interval.low), float(interval.high), len(flags))


def calibration_error(confidences: list[float], rights: list[bool]) -> float:
    """The expected calibration error in equal bins of confidence."""
    if not confidences:
        return float("nan")
    bins = np.minimum((np.array(confidences) * BINS).astype(int), BINS - 1)
    confidence, right = np.array(confidences), np.array(rights, float)
    return float(sum((bins == k).mean() * abs(confidence[bins == k].mean() - right[bins == k].mean()) for k in set(bins.tolist())))


def risk_at(confidences: list[float], rights: list[bool], coverage: float) -> float:
    """The share of wrong causes among the most confident share of cases."""
    count = round(coverage * len(rights))
    if not count:
        return float("nan")
    order = np.argsort(-np.array(confidences), kind="stable")[:count]
    return float(1 - np.array(rights, float)[order].mean())


# ---- the table ------------------------------------------------------------------------------------------------------------------------


def score(verdicts: list[Verdict]) -> dict[str, Any]:
    """All figures of a doctor, with their intervals where they have one."""
    faults = [v for v in verdicts if v.kind == "fault"]
    unlisted = [v for v in verdicts if v.kind == "unlisted"]
    healthy = {kind: [v for v in verdicts if v.kind == kind] for kind in ("plain", "odd", "benign", "failed")}
    alarms = {kind: share([bool(v.line["alarm"]) for v in group]) for kind, group in healthy.items()}
    spoken = [v for v in verdicts if v.line["verdict"] != "healthy" and v.named]
    confidences, rights = [v.confidence for v in spoken], [v.is_among(1) and v.kind == "fault" for v in spoken]
    steps = [v.line["steps"] for v in faults if v.line["verdict"] != "healthy"]
    return {
        "top-1 cause": macro_mean(faults, lambda v: v.is_among(1)),
        "top-3 causes": macro_mean(faults, lambda v: v.is_among(3)),
        "component": macro_mean(faults, lambda v: v.is_component_right),
        "functional fix": macro_mean(faults, lambda v: v.is_fixed),
        "found at all": macro_mean(faults, lambda v: v.line["verdict"] != "healthy"),
        "alarm": macro_mean(faults, lambda v: bool(v.line["alarm"])),
        "confidently wrong": share([v.is_confidently_wrong for v in faults + unlisted]),
        "unlisted: unsure, right component": share([v.is_open_right for v in unlisted]),
        "unlisted: component": share([v.component == v.answer["component"] for v in unlisted]),
        "false alarms, plain": alarms["plain"],
        "false alarms, odd": alarms["odd"],
        "false alarms, all healthy": share([bool(v.line["alarm"]) for v in healthy["plain"] + healthy["odd"]]),
        "alarms, benign faults": alarms["benign"],
        "alarms, controls that failed": alarms["failed"],
        "calibration error": calibration_error(confidences, rights),
        **{f"risk at coverage {c:.2f}": risk_at(confidences, rights, c) for c in (0.5, 0.8, 1.0)},
        "steps to the verdict, median": float(np.median(steps)) if steps else float("nan"),
        "steps to the verdict, 90 %": float(np.quantile(steps, 0.9)) if steps else float("nan"),
        "trial steps / planned, faults": _trial_share(faults),
        "trial steps / planned, healthy": _trial_share(healthy["plain"] + healthy["odd"]),
        "seconds a case, median": float(np.median([v.line["seconds"] for v in verdicts])) if verdicts else float("nan"),
        "causes": len({v.answer["cause"] for v in faults}),
    }


def _trial_share(verdicts: list[Verdict]) -> float:
    shares = [v.line["trial_steps"] / v.planned for v in verdicts if v.planned]
    return float(np.mean(shares)) if shares else float("nan")


def score_groups(verdicts: list[Verdict], by: str) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
    """Top-1, functional fix and false alarms by "architecture", "data", "cause" or "component"."""
    found = {}
    for group in sorted({str(v.answer[by]) for v in verdicts}):
        members = [v for v in verdicts if str(v.answer[by]) == group]
        faults = [v for v in members if v.kind == "fault"]
        alarms = share([bool(v.line["alarm"]) for v in members if v.kind in ("plain", "odd")])
        found[group] = macro_mean(faults, lambda v: v.is_among(1)), macro_mean(faults, lambda v: v.is_fixed), alarms
    return found


def print_scores(verdicts: list[Verdict], show_failures: bool = True) -> None:
    """Print the table, its parts, and every case that was not met as it should be."""
    for name, value in score(verdicts).items():
        print(f"{name:36s} {value:.3f}" if isinstance(value, float) else f"{name:36s} {value}")
    for by in ("component", "data", "architecture", "cause"):
        print(f"\n{by:30s} {'top-1':36s} {'fixed':36s} false alarms")
        for group, (first, fixed, alarms) in score_groups(verdicts, by).items():
            print(f"{group:30s} {first!s:36s} {fixed!s:36s} {alarms}")
    if not show_failures:
        return
    print("\nfailures")
    for v in sorted(verdicts, key=lambda v: (v.kind, str(v.answer["cause"]))):
        wrong = not v.is_among(1) if v.kind == "fault" else not v.is_open_right if v.kind == "unlisted" else bool(v.line["alarm"])
        if wrong:
            a = v.answer
            case = f"{a['change']}({a['severity']}) of {a['setting']}"
            print(f"{v.name} {v.kind}: {case}; {a['cause']} -> {v.line['verdict']} {v.named[:3]} {v.confidence:.2f}")
