"""The command line of the ward: `python -m bench.ward write FOLDER`, then harm, prune, run, score and baselines; or all of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

from bench.ward.baselines.judge import judge_by_chance, judge_by_rules, judge_by_trees, record_all
from bench.ward.doctor import DOCTOR, read_lines, run_doctor
from bench.ward.score import Verdict, print_scores, score
from bench.ward.ward import Ward
from goodfit.doctor.calibration import FILE, Calibration

SHOWN = ("top-1 cause", "top-3 causes", "component", "functional fix", "alarm", "false alarms, plain", "false alarms, odd")


def main() -> None:
    """Run one command, or all in order."""
    options = _parse(sys.argv[1:])
    torch.set_num_threads(1)
    ward = Ward(options.folder)
    commands = ("write", "harm", "prune", "run", "score", "baselines") if options.command == "all" else (options.command,)
    for command in commands:
        if command == "write":
            _write(ward, options)
        elif command == "harm":
            ward.measure(options.seeds)
            print_harms(ward)
        elif command == "prune":
            print(f"removed: {ward.prune()}")
        elif command == "run":
            run_doctor(ward.folder, _lines(ward, options), options.doctor.split() if options.doctor else DOCTOR)
        elif command == "score":
            lines = read_lines(_lines(ward, options))
            print_scores(ward.verdicts(lines, ward.fixes(lines, ward.beside("_fixes.jsonl"))))
        elif command == "calibrate":
            print(calibrate(ward, read_lines(_lines(ward, options))))
        else:
            compare_baselines(ward, read_lines(_lines(ward, options)))


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ward", description=__doc__)
    parser.add_argument("command", choices=("write", "harm", "prune", "run", "score", "baselines", "calibrate", "all"))
    parser.add_argument("folder", type=Path, help="of the case files; answers and results lie beside it")
    parser.add_argument("--small", action="store_true", help="few cases, on digits only: all of it in five minutes")
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10 as parquet")
    parser.add_argument("--clothing", type=Path, help="folder of photos, as split/class/photo")
    parser.add_argument("--per-cause", type=int, default=6)
    parser.add_argument("--controls", type=int, default=300)
    parser.add_argument("--draw", type=int, default=1, help="another number gives other cases")
    parser.add_argument("--held-out", action="store_true", help="networks and data on which no rule was developed")
    parser.add_argument("--seeds", type=int, default=2, help="of the trainings that harm is measured by")
    parser.add_argument("--lines", type=Path, help="the doctor's JSON lines, by default beside the folder")
    parser.add_argument("--doctor", help="the command to examine a case with, by default `python -m goodfit doctor`")
    options = parser.parse_args(words)
    if options.small:
        options.seeds = 1
    return options


def _lines(ward: Ward, options: argparse.Namespace) -> Path:
    return options.lines or ward.beside("_lines.jsonl")


def _write(ward: Ward, options: argparse.Namespace) -> None:
    if options.small:
        count = ward.write_small(options.draw)
    else:
        photos = options.cifar10, options.clothing
        count = ward.write(photos, options.per_cause, options.controls, options.draw, options.held_out)
    print(f"{count} cases in {ward.folder}")


def print_harms(ward: Ward) -> None:
    """Print what each fault and each control costs against its twin."""
    harms = ward.harms()
    for name, spec in sorted(ward.specs.items(), key=lambda item: (str(item[1].cause), item[1].change)):
        if name in harms:
            harm = harms[name]
            verdict = harm.kind or ("no harm" if spec.is_fault else "healthy")
            figures = f"lost {harm.lost:+.3f}  misreported {harm.misreported:+.3f}  slower {harm.slower:+.2f}"
            print(f"{spec.cause or 'control'!s:26} {spec.change:30} {spec.severity} {spec.setting:20} {figures}  {verdict}")


def calibrate(ward: Ward, lines: list[dict[str, Any]]) -> Calibration:
    """Write what the doctor said of the healthy cases into its file of healthy trainings."""
    healthy = [v for v in ward.verdicts(lines, {}) if v.kind in ("plain", "odd")]
    confidences = sorted((v.confidence if v.line["causes"] else 1.0 for v in healthy if v.line["alarm"]), reverse=True)
    origin = f"python -m bench.ward calibrate, of {len(healthy)} healthy cases on {len({v.answer['data'] for v in healthy})} data sets"
    calibration = Calibration(len(healthy), tuple(confidences), origin)
    FILE.write_text(json.dumps(dataclasses.asdict(calibration)) + "\n", encoding="utf-8")
    return calibration


def compare_baselines(ward: Ward, doctor: list[dict[str, object]]) -> None:
    """Print the figures of the published rules, the forest and random repair, and of the doctor if it was run."""
    signals = record_all(ward, ward.beside("_signals.jsonl"))
    found = judge_by_rules(signals)
    for by in ("architecture", "data"):
        if len({answer[by] for answer in ward.answers.values()}) > 1:
            found[f"forest, leaving out the {by}"] = judge_by_trees(ward, signals, by)
    tables: dict[str, list[Verdict]] = {}
    for name, lines in found.items():
        tables[name] = ward.verdicts(lines, ward.fixes(lines, ward.beside("_fixes.jsonl")))
    if doctor:
        lines, fixes = judge_by_chance(ward, doctor, ward.beside("_chance.jsonl"))
        tables["random repair"] = ward.verdicts(lines, fixes)
        tables["doctor"] = ward.verdicts(doctor, ward.fixes(doctor, ward.beside("_fixes.jsonl")))
    for name, verdicts in tables.items():
        figures = score(verdicts)
        print(f"\n{name}")
        for key in SHOWN:
            print(f"    {key:24s} {figures[key]}")


if __name__ == "__main__":
    main()
