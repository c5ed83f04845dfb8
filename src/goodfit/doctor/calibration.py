"""How rare a finding as sure is among healthy trainings: a conformal p-value, and the level of confidence from which the doctor alarms.

Of each healthy training of the ward the most anomalous finding counts: the material one with the highest confidence, 0 where there is none.
`python -m bench.ward calibrate` writes `healthy.json`.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

MAX_FALSE_ALARMS = 0.01  # of healthy trainings
MIN_ALARM = 0.5  # the doctor does not stop a person for what it holds to be less likely than not, however rare
FILE = Path(__file__).with_name("healthy.json")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How many healthy trainings were examined, and the highest confidence of a material finding in each that had any."""

    trainings: int
    confidences: tuple[float, ...]
    origin: str = ""

    def p_value(self, confidence: float) -> float:
        """The share of healthy trainings, this one counted among them, with a finding at least as sure.

        Source: Vovk et al. 2005, Algorithmic Learning in a Random World (conformal p-value; Bates et al. 2023 for outliers).
        """
        as_sure = sum(healthy >= confidence for healthy in self.confidences) if confidence > 0 else self.trainings
        return (1 + as_sure) / (1 + self.trainings)

    @property
    def alarm_level(self) -> float:
        """The least confidence from `MIN_ALARM` on that at most `MAX_FALSE_ALARMS` of the healthy trainings reach."""
        allowed = int(MAX_FALSE_ALARMS * self.trainings)
        levels = sorted({MIN_ALARM, *(confidence + 1e-9 for confidence in self.confidences if confidence >= MIN_ALARM)})
        return next(level for level in levels if sum(healthy >= level for healthy in self.confidences) <= allowed)


@cache
def read_calibration() -> Calibration:
    """The calibration that comes with the doctor."""
    values = json.loads(FILE.read_text(encoding="utf-8"))
    return Calibration(values["trainings"], tuple(values["confidences"]), values["origin"])
