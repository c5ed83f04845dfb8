"""Claims: what the lectures say, the effects that an experiment measures of it, and the rule by which these become a verdict."""

from __future__ import annotations

import dataclasses
import importlib
import math
import statistics
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from scipy.special import stdtrit

from goodfit.core.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from goodfit.lab.laboratory import Laboratory

Verdict = Literal["holds", "holds weaker", "undecided", "fails here"]
VERDICTS: tuple[Verdict, ...] = ("fails here", "undecided", "holds weaker", "holds")  # a claim is worth what its least effect is
Scale = Literal["difference", "points", "share", "ratio"]
Curves = dict[tuple[str, str, str], list[tuple[float, float]]]  # lines of charts: (chart, x axis, line) -> points
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Replicate:
    """One experiment with one seed: the value of each effect, in the order of the claim's effects, and what they were computed from.

    `numbers` are rows of a table.
    """

    effects: tuple[float, ...]
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    curves: Curves = dataclasses.field(default_factory=dict)


def tabulate(columns: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The rows of a table "what, of which" from the numbers of each arm by what they are."""
    return {f"{what}, {arm}": float(value) for what, column in columns.items() for arm, value in column.items()}


@dataclasses.dataclass(frozen=True)
class Effect:
    """A number that is larger the truer the claim: at most `none` if there is nothing in it, at least `said` if it is as the lecture says.

    Of the scale "ratio", seeds are averaged as logarithms; "points" are differences of shares.
    """

    name: str
    none: float
    said: float
    scale: Scale = "difference"

    def judge(self, values: Sequence[float]) -> Judgment:
        """Judge the values of paired experiments, one for each seed.

        The rule, with the 95 % interval of their mean (Student's; that of equal values, and of a single one, is the value itself): it holds
        where the interval lies above `none` and the mean reaches `said`, holds weaker where it lies above `none` alone. Otherwise it
        fails here where the interval ends below `said`, and is undecided where it reaches from `none` to `said`.
        """
        to_line, to_value = (math.log, math.exp) if self.scale == "ratio" else (float, float)
        line = [to_line(x) for x in values]
        mean, half = statistics.fmean(line), 0.0
        if len(line) > 1 and max(line) > min(line):
            error = statistics.stdev(line) / math.sqrt(len(line))
            half = float(stdtrit(len(line) - 1, (1 + LEVEL) / 2)) * error
        none, said = to_line(self.none), to_line(self.said)
        if mean - half > none:
            verdict: Verdict = "holds" if mean >= said else "holds weaker"
        else:
            verdict = "fails here" if mean + half < said else "undecided"
        return Judgment(self, tuple(values), to_value(mean), (to_value(mean - half), to_value(mean + half)), verdict)


@dataclasses.dataclass(frozen=True)
class Judgment:
    """An effect with its values by seed, their mean, its 95 % interval (low, high) and the verdict."""

    effect: Effect
    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of the lectures and the experiment that holds it to the test.

    `hypothesis` is what must be seen here if the sentence is true, `limits` what the experiment cannot say. It is repeated with `seeds`
    (quick, full) seeds; `module` and `function` are those of the experiment in goodfit.lab.claims.
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

    def load_experiment(self) -> Callable[[Laboratory, int], Replicate]:
        """The function that does the experiment in a laboratory, with a seed."""
        experiment: Callable[[Laboratory, int], Replicate] = getattr(
            importlib.import_module(f"goodfit.lab.claims.{self.module}"), self.function
        )
        return experiment

    def judge(self, replicates: Sequence[Replicate]) -> tuple[tuple[Judgment, ...], Verdict]:
        """The judgment of each effect, and the least of their verdicts, which is that of the claim."""
        columns = zip(*(replicate.effects for replicate in replicates), strict=True)
        judged = tuple(effect.judge(values) for effect, values in zip(self.effects, columns, strict=True))
        return judged, min((judgment.verdict for judgment in judged), key=VERDICTS.index)


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
