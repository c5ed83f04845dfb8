"""Claims: what the lectures say, the effects that an experiment measures of it, and the rule by which these become a verdict."""

from __future__ import annotations

import dataclasses
import importlib
import math
import statistics
import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from scipy.special import stdtrit

from goodfit.core.errors import UsageError, unknown_name
from goodfit.lab.replicate import NothingToJudge, Replicate

if TYPE_CHECKING:
    from goodfit.lab.laboratory import Laboratory

Verdict = Literal["holds", "holds weaker", "undecided", "fails here"]
VERDICTS: tuple[Verdict, ...] = ("fails here", "undecided", "holds weaker", "holds")  # a claim is worth what its least effect is
Scale = Literal["difference", "points", "share", "ratio"]
Images = Literal["none", "first", "first and digits", "all and digits"]
LEVEL = 0.95
RULE = (
    "An effect is a number that is the larger the truer the claim. It holds if the 95 % interval of its mean over seeds (Student's)"
    " lies above the null, which it would be if there were nothing in the claim, and the mean reaches what is claimed or, if the lecture"
    " names no size, what would matter to a person. It holds weaker if the interval lies above the null and the mean is smaller. Otherwise"
    " it fails here if the interval ends below half of the way from the null to what is claimed, and is undecided if not. Where a"
    " training never got as far as it should, the effect is a lower bound, which cannot fail. A claim gets the least verdict of its"
    " effects. The interval is over seeds, on one set of images. Small nets, small images, short trainings: no verdict is one about"
    " ImageNet."
)


@dataclasses.dataclass(frozen=True)
class Effect:
    """A number that is larger the truer the claim: `null` if there is nothing in it, `claimed` or more if it is as the lecture says.

    Of the scale "ratio", seeds are averaged as logarithms; "points" are differences of shares.
    """

    name: str
    null: float
    claimed: float
    scale: Scale = "difference"

    def judge(self, values: Sequence[float], is_bound: bool = False) -> Judgment:
        """Judge the values of experiments, one for each seed, by RULE; equal values have an interval of no width, one value has none.

        Source: Student 1908.
        """
        to_line, to_value = (math.log, math.exp) if self.scale == "ratio" else (float, float)
        line, null, claimed = [to_line(x) for x in values], to_line(self.null), to_line(self.claimed)
        mean, half = statistics.fmean(line), math.inf if len(line) < 2 else 0.0
        if len(line) > 1 and max(line) > min(line):
            half = float(stdtrit(len(line) - 1, (1 + LEVEL) / 2)) * statistics.stdev(line) / math.sqrt(len(line))
        low, high = mean - half, mean + half
        if low > null:
            verdict: Verdict = "holds" if mean >= claimed else "holds weaker"
        else:
            verdict = "undecided" if is_bound or high >= (null + claimed) / 2 else "fails here"
        ends = (to_value(low), to_value(high)) if math.isfinite(half) else (-math.inf, math.inf)
        if self.scale == "share":
            ends = max(0.0, ends[0]), min(1.0, ends[1])
        return Judgment(self, tuple(values), to_value(mean), ends, verdict, is_bound)

    def accepts(self, value: float) -> bool:
        """Whether a value can be judged."""
        return math.isfinite(value) and (self.scale != "ratio" or value > 0)


@dataclasses.dataclass(frozen=True)
class Judgment:
    """An effect with its values by seed, their mean, its 95 % interval (low, high) and the verdict; a bound is at least as large."""

    effect: Effect
    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    verdict: Verdict
    is_bound: bool


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of the lectures and the experiment that holds it to the test.

    `hypothesis` is what must be seen here if the sentence is true, `limits` what the experiment cannot say. It is repeated with `seeds`
    (quick, full) seeds on the `images`; `module` and `function` are those of the experiment in goodfit.lab.claims.
    """

    item: str
    topic: str
    slide: str
    hypothesis: str
    metric: str
    limits: str
    seeds: tuple[int, int]
    effects: tuple[Effect, ...]
    module: str
    function: str
    images: Images = "first"

    def run_experiment(self, lab: Laboratory, seed: int) -> Replicate:
        """Do the experiment in a laboratory, with a seed.

        Raises:
            UsageError: the images do not allow it.
            NothingToJudge: no effect follows from what came out.
        """
        experiment = getattr(importlib.import_module(f"goodfit.lab.claims.{self.module}"), self.function)
        found: Replicate = experiment(lab, seed)
        for effect, value in zip(self.effects, found.effects, strict=True):
            if not effect.accepts(value):
                raise NothingToJudge(f'the effect "{effect.name}" is {value}')
        return found

    def judge(self, replicates: Sequence[Replicate]) -> tuple[tuple[Judgment, ...], Verdict]:
        """The judgment of each effect, and the least of their verdicts, which is that of the claim."""
        judged = tuple(
            effect.judge([found.effects[k] for found in replicates], any(k in found.bounds for found in replicates))
            for k, effect in enumerate(self.effects)
        )
        return judged, min((judgment.verdict for judgment in judged), key=VERDICTS.index)

    def select_images(self, data: Sequence[str]) -> list[str]:
        """Which images the experiment sees, of the `data` that it is given."""
        chosen = {"none": [], "first": data[:1], "first and digits": [*data[:1], "digits"], "all and digits": [*data, "digits"]}
        return list(dict.fromkeys(chosen[self.images]))


def read_claims() -> dict[str, Claim]:
    """Every claim by its item, in the lectures' order."""
    text = (resources.files("goodfit.lab.claims") / "claims.toml").read_text(encoding="utf-8")
    return {row["item"]: _read_claim(row) for row in tomllib.loads(text)["claim"]}


def _read_claim(row: dict[str, Any]) -> Claim:
    module, _, function = row.pop("experiment").partition(".")
    effects, seeds = tuple(Effect(**effect) for effect in row.pop("effect")), row.pop("seeds")
    return Claim(**row, seeds=(seeds[0], seeds[1]), effects=effects, module=module, function=function)


def find_claim(item: str) -> Claim:
    """The claim of an item, such as S052.

    Raises:
        UsageError: there is no such claim.
    """
    claims = read_claims()
    if item.upper() not in claims:
        raise UsageError(unknown_name("claim", item, list(claims)))
    return claims[item.upper()]
