"""Runs the baselines over a ward and gives their findings as lines like the doctor's, so that all are scored alike."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.ward.baselines.chance import repair_at_random
from bench.ward.baselines.forest import HEALTHY, features_of, judge_by_forest
from bench.ward.baselines.rules import RULES
from bench.ward.baselines.signals import Check, Signals, record_signals
from bench.ward.doctor import read_lines
from bench.ward.faults import CAUSES, UNLISTED, system
from bench.ward.fix import recovers
from bench.ward.harm import run_patient
from bench.ward.ward import Ward

RULE_CONFIDENCE = 0.5  # rules state none


def record_all(ward: Ward, path: Path) -> dict[str, Signals]:
    """The signals of every case, trained if they are not in the file yet."""
    known = {row["case"]: _read(row["signals"]) for row in read_lines(path)}
    for name, spec in ward.specs.items():
        if name not in known:
            torch.set_num_threads(1)
            known[name] = record_signals(spec.make(0, ward.data).dictionary(), 0)
            system.MEMORY.clear()
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"case": name, "signals": dataclasses.asdict(known[name])}) + "\n")
    return {name: known[name] for name in ward.specs}


def _read(row: dict[str, Any]) -> Signals:
    return Signals(**{**row, "checks": [Check(**check) for check in row["checks"]]})


def make_line(name: str, causes: list[tuple[str, float]], steps: int, is_fault: bool) -> dict[str, Any]:
    """A line like the doctor's from causes with confidences."""
    named = [{"cause": cause, "component": CAUSES.get(cause), "confidence": p} for cause, p in causes if cause in CAUSES]
    component = named[0]["component"] if named and is_fault else None
    verdict = ("fault" if named else "unknown") if is_fault else "healthy"
    line = {"case": name, "seed": 0, "verdict": verdict, "component": component, "causes": named if is_fault else []}
    return {**line, "alarm": is_fault, "steps": steps, "trial_steps": 0, "seconds": 0.0}


def judge_by_rules(signals: dict[str, Signals]) -> dict[str, list[dict[str, Any]]]:
    """The lines of each published tool; a run that crashes counts as seen by all, without a cause."""
    found: dict[str, list[dict[str, Any]]] = {}
    for tool, rules in RULES.items():
        found[tool] = []
        for name, signal in signals.items():
            causes = [] if signal.error and not signal.checks else rules(signal)
            found[tool].append(make_line(name, [(cause, RULE_CONFIDENCE) for cause in causes], signal.steps, bool(causes or signal.error)))
    return found


def judge_by_trees(ward: Ward, signals: dict[str, Signals], by: str) -> list[dict[str, Any]]:
    """The lines of a forest that leaves out the group of the case: "architecture" or "data"."""
    answers, harms, names = ward.answers, ward.harms(), list(signals)
    features = np.stack([features_of(signals[name]) for name in names])
    causes = [str(answers[name]["cause"] or HEALTHY) for name in names]
    causes = [HEALTHY if name in harms and not harms[name].kind else cause for name, cause in zip(names, causes, strict=True)]
    found = judge_by_forest(features, causes, [str(answers[name][by]) for name in names])
    lines = []
    for name, order in zip(names, found, strict=True):
        is_fault = order[0][0] != HEALTHY
        causes_only = [(cause, p) for cause, p in order if cause not in (HEALTHY, UNLISTED)]
        first_is_unlisted = order[0][0] == UNLISTED
        lines.append(make_line(name, [] if first_is_unlisted else causes_only, signals[name].steps, is_fault))
    return lines


def judge_by_chance(ward: Ward, doctor: list[dict[str, Any]], path: Path) -> tuple[list[dict[str, Any]], dict[str, bool]]:
    """Random repair of every harmful fault with as many trial steps as the doctor took; lines, and what it healed."""
    specs, harms, log = ward.specs, ward.harms(), ward.log
    known = {row["case"]: row for row in read_lines(path)}
    for line in doctor:
        name = Path(line["case"]).name
        if name in known or name not in harms or not specs[name].is_fault or not harms[name].kind:
            continue
        spec, kind = specs[name], harms[name].kind
        cause, treated = repair_at_random(spec.make(0, ward.data), 0, line["trial_steps"])
        healed = False
        if kind in ("accuracy", "report"):
            healed = recovers(run_patient(treated, 0), log.measure(spec, 0, ward.data), log.measure(spec.twin(), 0, ward.data), kind)
        known[name] = {"case": name, "cause": cause, "is_fixed": healed or cause == spec.cause}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(known[name]) + "\n")
    lines = [make_line(name, [(row["cause"], 1 / len(CAUSES))], 0, True) for name, row in known.items()]
    return lines, {name: row["is_fixed"] for name, row in known.items()}
