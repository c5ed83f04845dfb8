"""A ward on disk: a folder of case files and, beside it, the answers, the harm, the doctor's lines, the fixes and the baselines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from bench.ward.cases import Spec
from bench.ward.controls import CONTROLS
from bench.ward.doctor import read_lines
from bench.ward.fix import is_fixed
from bench.ward.harm import Harm, Log, judge_harm, measure_all
from bench.ward.images import store_images
from bench.ward.score import Verdict
from bench.ward.write import plan_cases, write_cases

SMALL_STRIDE, SMALL_COUNT = 4, 8  # of a small ward: every fourth cause, and so many controls


@dataclasses.dataclass(frozen=True)
class Ward:
    """The folder of case files, and what lies beside it under its name."""

    folder: Path

    def beside(self, ending: str) -> Path:
        """A file beside the folder: its name with something behind it."""
        return self.folder.with_name(self.folder.name + ending)

    @property
    def data(self) -> Path:
        """Where the images lie."""
        return self.folder / "data"

    @property
    def answers(self) -> dict[str, dict[str, Any]]:
        """What each case is."""
        found: dict[str, dict[str, Any]] = json.loads(self.beside("_answers.json").read_text(encoding="utf-8"))
        return found

    @property
    def specs(self) -> dict[str, Spec]:
        """The cases by file name."""
        fields = [field.name for field in dataclasses.fields(Spec)]
        return {name: Spec(*(answer[field] for field in fields)) for name, answer in self.answers.items()}

    @property
    def log(self) -> Log:
        """The outcomes of the cases and their twins."""
        return Log(self.beside("_harm.jsonl"))

    # ---- verbs ------------------------------------------------------------------------------------------------------------------

    def write(self, photos: tuple[Path | None, Path | None], per_cause: int, controls: int, draw: int, held_out: bool) -> int:
        """Write the cases, on as many data sets as there are (`photos`: folders of CIFAR-10 and clothing), and return how many they are."""
        names = store_images(self.data, *photos)
        return self._write(plan_cases(names, self.data, per_cause, controls, draw, held_out))

    def write_small(self, draw: int) -> int:
        """Write a few cases on digits, one fault of every fourth cause, and return how many they are."""
        store_images(self.data, None, None)
        specs = plan_cases(["digits"], self.data, 1, 2 * SMALL_COUNT, draw)
        faults, controls = ([spec for spec in specs if spec.is_fault is kind] for kind in (True, False))
        chosen = faults[draw % SMALL_STRIDE :: SMALL_STRIDE]
        return self._write(chosen + controls[::2][:SMALL_COUNT])

    def _write(self, specs: list[Spec]) -> int:
        write_cases(specs, self.folder, self.beside("_answers.json"))
        return len(specs)

    def measure(self, seeds: int) -> None:
        """Train the cases and their twins; controls that cannot do as well as a twin are not trained."""
        specs = [s for s in self.specs.values() if s.is_fault or (s.change != "plain" and CONTROLS[s.change].is_comparable)]
        measure_all(sorted(specs, key=lambda spec: (spec.setting, spec.draw)), self.log, self.data, seeds)

    def harms(self) -> dict[str, Harm]:
        """The harm of each case that was trained beside its twin."""
        log = self.log
        return {name: judge_harm(s.change, pairs) for name, s in self.specs.items() if (pairs := log.pairs(s)) and s != s.twin()}

    def prune(self) -> list[str]:
        """Remove faults that do no harm and controls that do, and return their names."""
        harms = self.harms()
        removed = [name for name, spec in self.specs.items() if name in harms and spec.is_fault == (harms[name].kind == "")]
        self._write([spec for name, spec in self.specs.items() if name not in removed])
        return removed

    def planned_steps(self) -> dict[str, int]:
        """The steps that each case plans."""
        return {name: spec.make(0, self.data).steps for name, spec in self.specs.items()}

    def fixes(self, lines: list[dict[str, Any]], path: Path) -> dict[str, bool]:
        """Whether the first cause of each line, undone, heals its case; kept in a file and measured once."""
        known = {(row["case"], row["cause"]): row["is_fixed"] for row in read_lines(path)}
        specs, harms, log, found = self.specs, self.harms(), self.log, {}
        for line in lines:
            name = Path(line["case"]).name
            if name not in harms or not specs[name].is_fault or not harms[name].kind:
                continue
            speaks = line["verdict"] != "healthy" and line["causes"]
            cause = line["causes"][0]["cause"] if speaks else None
            if (name, cause) not in known:
                known[name, cause] = is_fixed(specs[name], cause, 0, harms[name], log, self.data)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"case": name, "cause": cause, "is_fixed": known[name, cause]}) + "\n")
            found[name] = known[name, cause]
        return found

    def verdicts(self, lines: list[dict[str, Any]], fixes: dict[str, bool]) -> list[Verdict]:
        """The lines beside what the cases are; the last line of a case counts."""
        answers, planned = self.answers, self.planned_steps()
        harms = {name: harm.kind for name, harm in self.harms().items()}
        named = {Path(line["case"]).name: line for line in lines}
        known = [name for name in named if name in answers]
        return [Verdict(name, answers[name], named[name], harms.get(name), fixes.get(name), planned[name]) for name in known]
