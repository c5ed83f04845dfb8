"""The computational graph of an expression, function or network: forward values, and the gradient that each node gets and passes on."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from goodfit.core.contracts import Loss
from goodfit.core.errors import UsageError, first_line
from goodfit.core.settings import parse_size
from goodfit.inspection.chance import OwnChance
from goodfit.lab.expression import parse_expression
from goodfit.lab.graph import ROLE_OF, Graph, Node
from goodfit.losses.scores import split_outputs
from goodfit.losses.softmax import Softmax
from goodfit.recipe.parts import MODEL_ERRORS, load_catalog, make_model

SYNONYMS = {
    "rdiv": "div",
    "rtruediv": "div",
    "truediv": "div",
    "radd": "add",
    "rsub": "sub",
    "rmul": "mul",
    "rpow": "pow",
    "rmatmul": "matmul",
}
TRACED_IMAGES, TRACED_CLASSES, TRACED_CHANNELS = 2, 3, 3  # of the batch that a network is traced with
Values = Mapping[str, float | Tensor] | Tensor


def trace(subject: str | nn.Module | Callable[..., Tensor], values: Values) -> Graph:
    """Compute an expression, function or network forward and backward, and return each node of its graph with its gradients.

    `values` has the numbers or tensors of the variables of an expression such as "(x + y) * z", or of the arguments of a function of
    tensors, by name, or those of a module in their order; a tensor alone is a module's or function's only argument. Where the output is no
    single number, the gradient is that of its sum; of a network with auxiliary heads, that of its scores. The module itself is not
    changed. An operation that works in place is seen as a node of its own, but not by views of what it changes.

    Raises:
        UsageError: the expression does not read, a value is missing, or the output does not depend on any value as far as torch shows.
    """
    named = values if isinstance(values, Mapping) else {"input": values}
    dtype = torch.get_default_dtype() if isinstance(subject, nn.Module) else torch.float64
    leaves = {name: _to_leaf(x, dtype) for name, x in named.items()}
    recorder = GraphRecorder()
    for name, x in leaves.items():
        recorder.add_leaf(name, "input", x)
    if isinstance(subject, str):
        expression = parse_expression(subject, tuple(named))
        with recorder:
            output: Any = expression(leaves, recorder.rename)
    elif isinstance(subject, nn.Module):
        module = copy.deepcopy(subject)
        for name, p in module.named_parameters():
            recorder.add_leaf(name, "parameter", p)
        with torch.enable_grad(), recorder:
            output = module(*leaves.values())
    else:
        with torch.enable_grad(), recorder:
            output = subject(**leaves) if isinstance(values, Mapping) else subject(*leaves.values())
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return Graph(tuple(recorder.backpropagate(output)))


def trace_network(model: str, size: str = "8", use: Sequence[str] = ()) -> Graph:
    """Trace a model part from two images of random numbers, of `size` in three channels, to the softmax loss of three classes.

    Raises:
        UsageError: there is no such part, or it does not take such images.
    """
    part, sides = load_catalog(use).make(model, "model"), parse_size(size)
    try:
        with OwnChance(0).active():
            module = make_model(part, TRACED_CLASSES, TRACED_CHANNELS, sides)
            images = torch.randn(TRACED_IMAGES, TRACED_CHANNELS, *sides)
            return trace(ClassifierLoss(module, Softmax(), torch.eye(TRACED_CLASSES)[:TRACED_IMAGES]), {"images": images})
    except (*MODEL_ERRORS, NotImplementedError) as error:
        shape = "x".join(map(str, (TRACED_CHANNELS, *sides)))
        raise UsageError(f'The model "{model}" does not take images of {shape}: {first_line(error)}.') from error


class ClassifierLoss(nn.Module):
    """Images [B, C, H, W] -> the mean loss of a network's scores for targets [B, K]."""

    def __init__(self, net: nn.Module, loss: Loss, targets: Tensor) -> None:
        super().__init__()
        self.net, self.loss, self.targets = net, loss, targets

    def forward(self, images: Tensor) -> Tensor:
        return self.loss(split_outputs(self.net(images))[0], self.targets).mean()


def _to_leaf(x: float | Tensor, dtype: torch.dtype) -> Tensor:
    leaf = x.detach().clone() if isinstance(x, Tensor) else torch.tensor(float(x), dtype=dtype)
    return leaf.requires_grad_(leaf.is_floating_point())


@dataclasses.dataclass
class RecordedNode:
    """A node while the graph is recorded: `result` was computed from `arguments` by one operation alone, whose other end they are."""

    name: str
    operation: str
    inputs: tuple[RecordedNode, ...]
    value: Tensor
    arguments: tuple[Tensor, ...] = ()
    result: Tensor | None = None


class GraphRecorder(TorchFunctionMode):
    """Records every function of torch that is called within a `with` block, each with a little graph of its own.

    What a function returns is cut off from what it was computed from, so that the gradient of each node is that of one operation, and
    the chain from node to node is `backpropagate`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[RecordedNode] = []
        self.step_of: dict[int, RecordedNode] = {}  # by the id of the tensor it computed
        self.tensors: list[Tensor] = []  # which stay alive, so that no two have the same id
        self.names: set[str] = set()
        self.numbers = Counter[str]()  # of each name, how many numbers are known to be taken

    def add_leaf(self, name: str, operation: str, x: Tensor) -> RecordedNode:
        """Add a node that nothing computes."""
        return self._add(RecordedNode(self._free_name(name), operation, (), x.detach().clone()), x)

    def rename(self, x: Tensor, name: str) -> None:
        """Call the node that computed a tensor by a name of its own, if it is an operation."""
        step = self.step_of.get(id(x))
        if step is not None and step.result is not None:
            self.names.discard(step.name)
            self.numbers.clear()
            step.name = self._free_name(name)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        places, spec = tree_flatten((args, kwargs or {}))
        sources = [self._find_step(x) for x in places]
        if not any(sources) or not torch.is_grad_enabled():  # without gradients, a change in place is one of the tensor itself
            return func(*args, **(kwargs or {}))
        # Each place gets a copy of its own: x * x has two local gradients, and an operation in place changes the copy alone.
        arguments = {k: places[k].detach().requires_grad_() for k, step in enumerate(sources) if step is not None}
        copies = {k: x.clone() for k, x in arguments.items()}
        new_args, new_kwargs = tree_unflatten([copies.get(k, x) for k, x in enumerate(places)], spec)
        result = func(*new_args, **new_kwargs)
        origin = {id(copied): places[k] for k, copied in copies.items()}
        if result is None and new_args and id(new_args[0]) in origin:  # as of x[0] = 1
            self._record(func, new_args[0], sources, arguments, args[0])
            return None
        outputs, result_spec = tree_flatten(result)
        return tree_unflatten([self._record(func, x, sources, arguments, origin.get(id(x))) for x in outputs], result_spec)

    def _record(
        self, func: Any, result: Any, sources: list[RecordedNode | None], arguments: dict[int, Tensor], changed: Tensor | None
    ) -> Any:
        """Add the node of a result; returns what the caller gets for it, which is the tensor that was changed in place, if one was."""
        if not isinstance(result, Tensor) or not result.requires_grad:
            return result
        operation = name_operation(func)
        inputs = tuple(step for step in sources if step is not None)
        step = RecordedNode(self._free_name(operation), operation, inputs, result.detach().clone(), tuple(arguments.values()), result)
        if changed is None:
            changed = result.detach().clone().requires_grad_()
        else:
            with torch.no_grad():
                changed.copy_(result)
        self._add(step, changed)
        return changed

    def _find_step(self, x: Any) -> RecordedNode | None:
        """The node that a tensor came from; a parameter that is seen for the first time becomes one."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return None
        if (step := self.step_of.get(id(x))) is not None or not x.requires_grad:
            return step
        if not x.is_leaf:
            raise UsageError(
                "Expected operations of torch alone, found a tensor of another kind: a torch.autograd.Function cannot be traced."
            )
        return self.add_leaf("parameter", "parameter", x)

    def _add(self, step: RecordedNode, x: Tensor) -> RecordedNode:
        self.steps.append(step)
        self.step_of[id(x)] = step
        self.tensors.append(x)
        return step

    def _free_name(self, name: str) -> str:
        """The name, with a number where another node has it already."""
        free = name
        while free in self.names:
            self.numbers[name] += 1
            free = f"{name} #{1 + self.numbers[name]}"
        self.names.add(free)
        return free

    def backpropagate(self, output: Any) -> Iterator[Node]:
        """The nodes, each with the sum of what the nodes after it pass to it, beginning with 1 at the output."""
        last = self.step_of.get(id(output)) if isinstance(output, Tensor) else None
        if last is None:
            raise UsageError("Expected an output that torch computes from the values, received one that does not depend on them.")
        received: dict[int, Tensor] = {id(last): torch.ones_like(last.value)}
        nodes = []
        for step in reversed(self.steps):
            gradient = received.get(id(step))
            passed = _differentiate(step, gradient) if gradient is not None else (None,) * len(step.inputs)
            for source, share in zip(step.inputs, passed, strict=True):
                if share is not None:
                    received[id(source)] = received.get(id(source), torch.zeros_like(source.value)) + share
            names, role = tuple(source.name for source in step.inputs), ROLE_OF.get(step.operation, "scales") if step.inputs else ""
            nodes.append(Node(step.name, step.operation, names, step.value, _local_gradients(step), gradient, passed, role))
        return reversed(nodes)


def name_operation(func: Any) -> str:
    """The name of a function of torch as the field has it: `add` for `Tensor.add_` and `1 + x`, `T` for the property."""
    name: str = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
    bare = name.strip("_")
    return SYNONYMS.get(bare, bare)


def _differentiate(step: RecordedNode, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """What an operation passes to each of its arguments of a gradient by its result."""
    if step.result is None:
        return ()
    shares = torch.autograd.grad(step.result, step.arguments, gradient, retain_graph=True, allow_unused=True)
    return tuple(shares)


def _local_gradients(step: RecordedNode) -> tuple[float | None, ...]:
    """The derivative of a single number by each single number that it was computed from; None for others."""
    if step.result is None or step.value.numel() != 1:
        return (None,) * len(step.inputs)
    ones = torch.ones_like(step.value)
    return tuple(float(x) if x is not None and x.numel() == 1 else None for x in _differentiate(step, ones))
