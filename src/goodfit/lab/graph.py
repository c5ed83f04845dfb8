"""A computational graph: its nodes with their values, the gradients they get and pass on, and what each gate does with a gradient."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from goodfit.lab.lesson import replace_nonfinite
from goodfit.terminal.lesson import format_graph

ROLES = {  # of a gate: what it does with the gradient it gets; of all others, it scales it by the local gradient
    "distributes": "add sub sum mean cat stack avg_pool2d adaptive_avg_pool2d expand",
    "routes": "max min maximum minimum amax amin relu clamp max_pool2d adaptive_max_pool2d getitem index_select gather chunk split",
    "switches": "mul matmul mm bmm linear conv1d conv2d conv3d einsum dot",
    "passes": "reshape view flatten squeeze unsqueeze transpose permute contiguous clone T identity to double float",
}
ROLE_OF = {operation: role for role, operations in ROLES.items() for operation in operations.split()}


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of a computational graph: an input, a parameter, or an operation on other nodes.

    `inputs` are the names of the nodes it gets its values from; `local` has, for each, the derivative of this node by it where both are
    single numbers, else None. `received` is the gradient of the graph's output by this node's `value`, None where the output does not
    depend on it; `passed` has what of it goes to each input. `role` says what a gate does with a gradient: it distributes it to all
    inputs, routes it to those that it let through, switches the inputs' values, passes it on as it is, or scales it.
    """

    name: str
    operation: str
    inputs: tuple[str, ...]
    value: Tensor
    local: tuple[float | None, ...] = ()
    received: Tensor | None = None
    passed: tuple[Tensor | None, ...] = ()
    role: str = ""

    def measure(self) -> dict[str, Any]:
        """The node in numbers, with the norm of every tensor that is more than a single one."""
        values = {"value": _plain(self.value), "local": list(self.local), "received": _plain(self.received)}
        names = {"name": self.name, "operation": self.operation, "inputs": list(self.inputs), "shape": list(self.value.shape)}
        return {**names, **values, "passed": [_plain(x) for x in self.passed], "role": self.role}


@dataclasses.dataclass(frozen=True)
class Graph:
    """The nodes of a computational graph in the order in which they were computed; the last one that has a gradient is the output."""

    nodes: tuple[Node, ...]

    def __getitem__(self, name: str) -> Node:
        """The node of a name."""
        (found,) = [node for node in self.nodes if node.name == name]
        return found

    def gradient_of(self, name: str) -> Tensor:
        """The gradient of the output by the value of a node; zero where the output does not depend on it."""
        node = self[name]
        return torch.zeros_like(node.value) if node.received is None else node.received

    def __str__(self) -> str:
        return format_graph([node.measure() for node in self.nodes])

    def to_dict(self) -> dict[str, Any]:
        """What --json prints, where numbers that are not finite are null."""
        return {"nodes": replace_nonfinite([node.measure() for node in self.nodes])}


def _plain(x: Tensor | None) -> float | None:
    """A single number as it is, the norm of more of them; None where there is none."""
    if x is None:
        return None
    return float(x) if x.numel() == 1 else float(torch.linalg.vector_norm(x.double()))
