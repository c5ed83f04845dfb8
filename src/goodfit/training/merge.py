"""Merging the weights of ranks that move apart: once in a while for good, and for as long as they are evaluated and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.errors import Diverged
from goodfit.core.parameters import has_parameters
from goodfit.training.checkpoint import from_json_tree, tensor_values, to_json_tree
from goodfit.training.metric_log import MetricLog
from goodfit.training.rescue import go_back
from goodfit.training.state import Plan, State


class Merger:
    """Merges the weights of the ranks of a plan as its part `sync` says; where their gradients are averaged, its methods do nothing.

    What is evaluated, saved and kept are the merged weights: their mean, or the center of elastic averaging. Floating-point buffers, such
    as running statistics, are merged as weights are; what the optimizer remembers is each rank's own. A state that comes from a checkpoint
    of as many ranks goes on from what was each rank's own, any other from the merged weights.

    The methods must be called by all ranks, apart from `react` and `counted`.
    """

    def __init__(self, state: State, plan: Plan) -> None:
        self.state, self.plan = state, plan
        self.sync: Any = plan.parts.get("sync")
        self.divergence: Diverged | None = None  # of this rank, which the others do not know of yet
        self.is_active = plan.merge_every > 0 and has_parameters(state.model)
        self.last_step = state.step if self._has_ended() else None  # after which the weights stay merged
        self.center = self._copy_weights()
        if self.is_active and self.last_step is None and len(state.rank_trees) == plan.ranks.size:
            tree = state.rank_trees[plan.ranks.rank]
            restore_weights(state, tree)
            state.optimizer.load_state_dict(tree["optimizer"])
            state.recent_losses = tree["recent_losses"]
        state.rank_trees = []

    def react(self, error: Diverged, t: float) -> list[str]:
        """React to a number that is not finite in a step that began at progress t: go back, and return the sentence to log.

        Ranks that are apart go on, without that step, until they meet.

        Raises:
            Diverged: the `error`, where there is nothing to go back to.
        """
        if not self.plan.is_apart(t):
            return go_back(self.state, self.plan, error)
        self.divergence = self.divergence or error
        return []

    def merge_if_due(self, t: float, log: MetricLog) -> None:
        """Merge the weights for good after a step that began at progress t, at each multiple of `every` steps.

        Raises:
            Diverged: a number was not finite on some rank, and there is nothing to go back to.
        """
        if self.is_active and self.plan.is_apart(t) and self.state.step % self.plan.merge_every == 0:
            self.agree(log)
            self._merge()

    @contextlib.contextmanager
    def merged(self, log: MetricLog) -> Iterator[None]:
        """Within the block the state has the merged weights, and in `rank_trees` what it had; after it that again, unless training ended.

        At the end of training they are merged for good first.

        Raises:
            Diverged: a number was not finite on some rank, and there is nothing to go back to.
        """
        state = self.state
        if not self.is_active or state.step == self.last_step:
            yield
            return
        self.agree(log)
        if (has_ended := self._has_ended()) and state.step % self.plan.merge_every:
            self._merge()
        own = rank_tree(state)
        state.rank_trees = self.plan.ranks.gather(own)
        weights = self.center if self.sync.keeps_center else self._means(state.model)
        torch._foreach_copy_(self._weights(state.model), weights)
        if state.average is not None:
            torch._foreach_copy_(self._weights(state.average), self._means(state.average))
        yield
        state.rank_trees = []
        if has_ended or self._has_ended():  # an evaluation may change what is left of a budget in minutes, and may stop
            self.last_step = state.step
        else:
            restore_weights(state, own)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what this rank sends within the block as sent to train."""
        traffic = self.plan.ranks.traffic
        bytes_before, messages_before = traffic.bytes_sent, traffic.messages
        yield
        self.state.bytes_sent += traffic.bytes_sent - bytes_before
        self.state.messages += traffic.messages - messages_before

    def agree(self, log: MetricLog) -> None:
        """Tell all ranks of a number that was not finite on any; all then go back.

        Raises:
            Diverged: there is nothing to go back to.
        """
        ranks = self.plan.ranks
        if (bad_step := log.flush()) is not None and self.divergence is None:
            self.divergence = Diverged(f"Training diverged at step {bad_step - 1}: its loss or gradient is not finite.")
        count = torch.tensor([float(self.divergence is not None)])
        ranks.sum_([count])
        if not count:
            return
        texts = ranks.broadcast_object(ranks.gather(str(self.divergence or "")))
        self.divergence = None
        log.add_events(self.state.step, go_back(self.state, self.plan, Diverged(next(filter(None, texts)))))
        self.center = self._copy_weights()

    def _merge(self) -> None:
        with self.counted():
            means = self._means(self.state.model)
        for own, mean, center in zip(self._weights(self.state.model), means, self.center, strict=True):
            self.sync(own, mean, center, self.plan.ranks.size)

    def _has_ended(self) -> bool:
        return self.plan.t(self.state) >= 1 or bool(self.state.stopped)

    def _weights(self, model: nn.Module) -> list[Tensor]:
        """The weights and floating-point buffers of a model that training may change, each once."""
        phases = self.plan.trainable
        learned = frozenset[str]().union(*(phase.trainable for phase in phases))
        fixed = frozenset.intersection(*(phase.fixed for phase in phases)) if phases else frozenset[str]()
        parameters = {name for name, _ in model.named_parameters()}
        changing = [
            x
            for name, x in model.state_dict().items()
            if x.is_floating_point() and not (phases and (name not in learned if name in parameters else name.rpartition(".")[0] in fixed))
        ]
        return list({x.data_ptr(): x for x in changing}.values())  # tied ones have two names

    def _copy_weights(self) -> list[Tensor]:
        return [x.clone() for x in self._weights(self.state.model)] if self.is_active else []

    def _means(self, model: nn.Module) -> list[Tensor]:
        """The means of the weights of a model over the ranks."""
        means = [x.clone() for x in self._weights(model)]
        self.plan.ranks.sum_(means)
        torch._foreach_div_(means, float(self.plan.ranks.size))
        return means


def rank_tree(state: State) -> dict[str, Any]:
    """A copy, on the host, of what differs between ranks that are apart."""
    tensors: dict[str, Tensor] = {}
    tree = to_json_tree({**tensor_values(state), "recent_losses": [float(x) for x in state.recent_losses]}, tensors)
    return from_json_tree(tree, tensors)  # type: ignore[no-any-return]


def restore_weights(state: State, tree: dict[str, Any]) -> None:
    """Set the weights of the model and of its average to those of a `rank_tree`."""
    state.model.load_state_dict(tree["model"])
    if state.average is not None:
        state.average.load_state_dict(tree["average"])
