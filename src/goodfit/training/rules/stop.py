"""When to stop before the budget ends."""

from __future__ import annotations

import dataclasses

from goodfit.core.contracts import StopRule
from goodfit.core.settings import Count


@dataclasses.dataclass(frozen=True)
class None_(StopRule):  # noqa: N801  spelled `none`
    """Trains to the end of the budget.

    Helps: schedules that anneal to the end, whose best weights are the last.
    Hurts: budgets much longer than the model can use.
    Cost: nothing.
    Source: -
    """

    def __call__(self, scores: list[float]) -> bool:
        return False


@dataclasses.dataclass(frozen=True)
class Patience(StopRule):
    """Stops when the validation score has not risen for `evaluations` evaluations; the best weights are kept, unless keep is last.

    Helps: constant learning rates and models that overfit.
    Hurts: annealing schedules: their gain comes at the end.
    Cost: nothing; it saves what would have been wasted.
    Source: lecture "early stopping"; Prechelt 1998.
    """

    evaluations: Count = 10

    def __call__(self, scores: list[float]) -> bool:
        return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= self.evaluations
