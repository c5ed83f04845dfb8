"""Noticing that training makes a pretrained start worse: it then goes back to the last good weights, once, at a tenth of the rate."""

from __future__ import annotations

import torch
from torch import Tensor

from goodfit.core.errors import Diverged
from goodfit.training.state import Plan, State

WINDOW = 10  # steps whose mean loss is compared with that of the start
START_STEPS = 3  # whose mean loss is that of the start: the warm-up hardly moves the weights in them
MAX_FACTOR, MAX_EXCESS = 2.0, 0.2  # how much higher than at the start the loss may be; images that are augmented raise it too
RATE_FACTOR = 0.1


def rescue_if_worse(state: State, plan: Plan, loss: Tensor) -> list[str]:
    """Compare the training loss with that of the start every few steps; go back if it is far worse, and return a sentence to log.

    Without a pretrained start, or once it has gone back, nothing is compared; ranks that are apart compare their mean loss when they meet.
    """
    if plan.start is None or state.rescue_factor < 1:
        return []
    state.recent_losses.append(loss)
    t = plan.t(state)
    if len(state.recent_losses) < WINDOW or not plan.ranks_meet(state.step, t):
        return []
    losses = [float(x) for x in state.recent_losses]
    state.recent_losses = []
    if plan.is_apart(t):
        total = torch.tensor(losses, dtype=torch.float64)
        plan.ranks.sum_([total])
        losses = (total / plan.ranks.size).tolist()
    if state.start_loss is None:
        state.start_loss = min(MAX_FACTOR * losses[0], sum(losses[:START_STEPS]) / START_STEPS)
    mean = sum(losses) / len(losses)
    if mean <= MAX_FACTOR * state.start_loss + MAX_EXCESS:
        return []
    return go_back(state, plan, Diverged(f"The training loss rose to {mean:.3g} from {state.start_loss:.3g} at the pretrained start."))


def go_back(state: State, plan: Plan, error: Diverged) -> list[str]:
    """Go back to the last good weights and a tenth of the rate, and return the sentence to log.

    Raises:
        Diverged: the `error`, where there is no pretrained start or training has gone back before.
    """
    if plan.start is None or state.rescue_factor < 1:
        raise error
    weights = plan.last_good(state) if plan.last_good else plan.start
    state.model.load_state_dict(weights)
    plan.ranks.broadcast_(state.model.state_dict().values())  # rank 0 alone reads checkpoints
    if state.average is not None:
        state.average.load_state_dict(state.model.state_dict())
        state.average_updates = 0
    state.optimizer.state.clear()
    state.recent_losses = []
    state.rescue_factor = RATE_FACTOR
    what = str(error).split(":")[0].rstrip(".")
    return [f"{what}: back to the last good weights, and the learning rate is multiplied by {RATE_FACTOR:g}."]
