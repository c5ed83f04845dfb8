"""Functional fix: whether undoing the cause that the doctor names first recovers nine tenths of what the fault took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.ward.cases import Spec
from bench.ward.harm import Harm, Log, Outcome, run_patient
from bench.ward.remedies import REMEDIES

RECOVERED = 0.9


def is_fixed(spec: Spec, named: str | None, seed: int, harm: Harm, log: Log, folder: Path) -> bool:
    """Whether the remedy of a cause heals a case.

    The remedy of the cause that was injected, or of one that means the same, is the twin. Any other is the generic remedy
    of the named cause, with which the case is trained.

    Args:
        spec: of the case, which has a harmful fault.
        named: the first cause, or None if none was named.
        seed: the case's.
        harm: what the fault costs.
        log: of the outcomes of the case and its twin.
        folder: where the images lie.
    """
    answer = spec.answer()
    if named is None:
        return False
    if named == answer["cause"] or named in _list(answer["accept"]):
        return True
    remedy = REMEDIES.get(named)
    if remedy is None or harm.kind not in ("accuracy", "report"):
        return False
    treated = run_patient(remedy(spec.make(seed, folder)), seed)
    return recovers(treated, log.measure(spec, seed, folder), log.measure(spec.twin(), seed, folder), harm.kind)


def recovers(treated: Outcome, case: Outcome, twin: Outcome, kind: str) -> bool:
    """Whether a treated case has nine tenths of its gap to the twin back, in accuracy or in the truth of the report."""
    if treated.error:
        return False
    if kind == "accuracy":
        return treated.honest - case.honest >= RECOVERED * (twin.honest - case.honest)
    wrong = [abs(outcome.reported - outcome.honest) for outcome in (treated, case, twin)]
    return wrong[1] - wrong[0] >= RECOVERED * (wrong[1] - wrong[2])


def _list(value: Any) -> list[str]:
    return list(value)
