"""Second derivatives of a step's loss, for Newton's method: products of the Hessian with vectors, and the whole Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.errors import UsageError
from goodfit.training.gradient import add_weight, piece_loss, restore_buffers
from goodfit.training.passes import Passes, batch_norms
from goodfit.training.state import Plan, State

HESSIAN_ROWS_AT_ONCE = 256

Pieces = Callable[[], Iterator[Batch]]


def hessian_vector_product(state: State, plan: Plan, pieces: Pieces, passes: Passes, examples: int, vector: Tensor) -> Tensor:
    """The Hessian of the loss times a vector [N], at the current weights; N counts the optimizer's parameters, in order.

    Raises:
        UsageError: batch norms are synchronized among ranks, whose gradient can be taken once only.
    """
    return _accumulate(state, plan, pieces, passes, examples, lambda product: product(vector), torch.zeros_like(vector))


def hessian(state: State, plan: Plan, pieces: Pieces, passes: Passes, examples: int) -> Tensor:
    """The Hessian [N, N] of the loss, at the current weights; for small models. Raises as `hessian_vector_product`."""
    parameters = _parameters(state)
    n = sum(p.numel() for p in parameters)
    identity = torch.eye(n, dtype=parameters[0].dtype, device=parameters[0].device)
    zeros = torch.zeros_like(identity)
    total = _accumulate(state, plan, pieces, passes, examples, lambda product: _apply_to_rows(product, identity), zeros)
    return (total + total.T) / 2


def _parameters(state: State) -> list[nn.Parameter]:
    return [p for group in state.optimizer.param_groups for p in group["params"]]


def _flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Tensors as one vector, in the order of their indices whatever their layout in memory."""
    return torch.cat([x.reshape(-1) for x in tensors])


def _apply_to_rows(product: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`product` of each row of `rows` [N, N], many at once where torch can."""
    try:
        return torch.func.vmap(product, chunk_size=HESSIAN_ROWS_AT_ONCE)(rows)
    except RuntimeError:  # a backward pass without a batching rule, such as that of max pooling of channels-last maps
        return torch.stack([product(row) for row in rows])


@torch.enable_grad()
def _accumulate(
    state: State,
    plan: Plan,
    pieces: Pieces,
    passes: Passes,
    examples: int,
    evaluate: Callable[[Callable[[Tensor], Tensor]], Tensor],
    total: Tensor,
) -> Tensor:
    """Sum over pieces and penalties what `evaluate` returns for the function v -> Hessian times v of each.

    Images and noise are the same as in every other call of the step; buffers are restored.
    """
    model, parameters = state.model, _parameters(state)
    if plan.ranks.size > 1 and plan.sync_norms and batch_norms(model):
        raise UsageError(
            "Expected no batch norm beside second derivatives in several processes, found some: give norm=layer, one process, or"
            " --set sync_norms=false."
        )
    buffers = [b.clone() for b in model.buffers()]
    trainable = [p for p in parameters if p.requires_grad]

    def expand(gradients: Iterable[Tensor]) -> Tensor:
        by_parameter = dict(zip(map(id, trainable), gradients, strict=True))
        return _flatten(by_parameter.get(id(p), torch.zeros_like(p)) for p in parameters)

    def add(term: Tensor) -> None:
        gradient = expand(torch.autograd.grad(term, trainable, create_graph=True, materialize_grads=True))
        if gradient.requires_grad:  # else the term is linear here, and its Hessian zero
            total.add_(evaluate(lambda v: expand(torch.autograd.grad(gradient, trainable, v, retain_graph=True, materialize_grads=True))))

    weight = None
    for index, batch in enumerate(pieces()):
        with passes.run_piece(index, batch.images.device) as copies:
            piece = piece_loss(plan.network(model), batch, examples * copies, plan.loss, plan.precision)
            add(piece.term)
        weight = add_weight(weight, piece)
    passes.sum_([total, *([] if weight is None else [weight])])
    if weight is not None:
        total.div_(weight)
    for penalty in plan.penalties:
        add(penalty(model))
    restore_buffers(model, buffers)
    return total
