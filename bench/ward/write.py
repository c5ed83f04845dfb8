"""Writes cases as files that an outsider can hand to the doctor, with the answers beside the folder."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.ward.cases import Spec, fitting
from bench.ward.controls import CONTROLS, ODD_SETTINGS
from bench.ward.faults import FAULTS
from bench.ward.settings import HELD_OUT_SETTINGS, SETTINGS, Setting

SOURCE = Path(__file__).parent
CASE = '''"""A case."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "{package}.zip"))

from {package}.open import open_case


def case(seed):
    return open_case("{token}", seed, HERE / "data")
'''


def plan_cases(data: list[str], folder: Path, per_cause: int, controls: int, draw: int, held_out: bool = False) -> list[Spec]:
    """Choose the cases: faults over settings and severities in turn, controls half plain and half odd.

    Args:
        data: the data sets there are.
        folder: where they lie.
        per_cause: cases of each cause.
        controls: healthy cases.
        draw: of the choice; another one gives other settings, severities and images.
        held_out: whether from settings on which no rule was developed.
    """
    rng = np.random.default_rng(draw)
    settings = select_settings(HELD_OUT_SETTINGS if held_out else SETTINGS, data)
    specs: list[Spec] = []
    for cause in dict.fromkeys(fault.cause for fault in FAULTS.values()):
        names = [fault.name for fault in FAULTS.values() if fault.cause == cause]
        wanted = max(per_cause, len(names)) if cause == "unlisted" else per_cause
        first = int(rng.integers(3))
        for k in range(wanted):
            name = names[k % len(names)]
            choices = fitting(name, settings, folder)
            if choices:
                taken = {spec.setting for spec in specs[len(specs) - k :]}
                fresh = [choice for choice in choices if choice not in taken] or choices
                specs.append(Spec(str(rng.choice(fresh)), name, (first + k) % 3, draw * 100 + k))
    odd_settings = [] if held_out else select_settings(ODD_SETTINGS, data)
    return specs + plan_controls(settings, odd_settings, folder, controls, draw)


def select_settings(settings: Mapping[str, Setting], data: list[str]) -> list[str]:
    """The names of the settings whose data set there is."""
    return [name for name, setting in settings.items() if setting.data in data]


def plan_controls(settings: list[str], odd_settings: list[str], folder: Path, count: int, draw: int) -> list[Spec]:
    """Choose healthy cases, half of them odd."""
    rng = np.random.default_rng(draw + 1)
    plain = [Spec(settings[k % len(settings)], "plain", 0, draw * 100 + 50 + k // len(settings)) for k in range(count - count // 2)]
    odd: list[Spec] = [Spec(name, "plain", 0, draw * 100 + 50) for name in odd_settings]
    variations = [name for name in CONTROLS if name != "plain"]
    for k in range(count // 2 - len(odd)):
        name = variations[k % len(variations)]
        odd.append(Spec(str(rng.choice(fitting(name, settings, folder))), name, 0, draw * 100 + 60 + k // len(variations)))
    return plain + odd


def file_name(spec: Spec) -> str:
    """A file name that says nothing and stays the same."""
    return "case_" + hashlib.sha256(repr(spec).encode()).hexdigest()[:10] + ".py"


def write_cases(specs: list[Spec], folder: Path, answers: Path) -> None:
    """Write the case files, what they are made by, and the answers; case files of other cases are removed.

    Args:
        specs: the cases.
        folder: of the case files; its subfolder `data` holds the images.
        answers: the JSON file of answers.
    """
    names = {file_name(spec): spec for spec in specs}
    package = pack_source(folder)
    for path in folder.glob("case_*.py"):
        if path.name not in names:
            path.unlink()
    for name, spec in names.items():
        token = base64.urlsafe_b64encode(zlib.compress(json.dumps([spec.setting, spec.change, spec.severity, spec.draw]).encode())).decode()
        (folder / name).write_text(CASE.format(package=package, token=token), encoding="utf-8")
    answers.write_text(json.dumps({name: spec.answer() for name, spec in sorted(names.items())}, indent=1), encoding="utf-8")


def pack_source(folder: Path) -> str:
    """Pack this package as a ZIP file under a name of its own, and return the name.

    Older ones stay, for those who are reading the folder.
    """
    files = sorted(path for path in SOURCE.rglob("*.py"))
    package = "ward_" + hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]
    target = folder / f"{package}.zip"
    if not target.exists():
        with zipfile.ZipFile(target, "w") as archive:
            for path in files:
                text = path.read_text(encoding="utf-8").replace("bench.ward", package)
                archive.writestr(f"{package}/{path.relative_to(SOURCE).as_posix()}", text)
    return package
