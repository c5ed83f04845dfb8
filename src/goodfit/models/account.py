"""What a model is made of and what it costs, layer by layer, without running it: on the meta device only shapes flow."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from goodfit.core.words import count
from goodfit.core.words import size as bytes_said

BYTES = 4  # of a number in float32


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer: its output [C, H, W] or [N] for one image; multiply-adds and ops are of the batch.

    `ops` is the slides' count, multiply-adds and one add per bias; `activations` the numbers it puts out, zero where it works in place.
    """

    name: str
    type: str
    output: tuple[int, ...]
    parameters: int
    macs: int
    ops: int
    activations: int


@dataclasses.dataclass(frozen=True)
class Account:
    """The rows of a model in the order they run, for a batch of images of `channels` and `size`."""

    rows: tuple[Row, ...]
    channels: int
    size: tuple[int, int]
    batch: int

    @property
    def totals(self) -> dict[str, int]:
        """Sums over the rows: parameters, macs, ops, activations, and activation_bytes in float32."""
        sums = {name: sum(getattr(row, name) for row in self.rows) for name in ("parameters", "macs", "ops", "activations")}
        return {**sums, "activation_bytes": BYTES * sums["activations"]}

    def to_dict(self) -> dict[str, Any]:
        """`{"input", "layers", "totals"}`, ready for JSON."""
        shape = [self.batch, self.channels, *self.size]
        return {"input": shape, "layers": [dataclasses.asdict(row) for row in self.rows], "totals": self.totals}

    def table(self) -> str:
        """The account as aligned text."""
        head = ("layer", "type", "output", "parameters", "multiply-adds", "activations")
        body = [(r.name, r.type, "x".join(map(str, r.output)), f"{r.parameters:,}", f"{r.macs:,}", f"{r.activations:,}") for r in self.rows]
        t = self.totals
        lines = [head, *body, ("total", "", "", f"{t['parameters']:,}", f"{t['macs']:,}", f"{t['activations']:,}")]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = [
            "  ".join(word.ljust(n) if i < 3 else word.rjust(n) for i, (word, n) in enumerate(zip(line, widths, strict=True))).rstrip()
            for line in lines
        ]
        input_said = f"{count(self.batch, 'image')} of {self.channels}x{self.size[0]}x{self.size[1]}"
        memory = f"{bytes_said(t['activation_bytes'])} of activations in float32"
        return "\n".join([*text, f"For {input_said}: {t['ops']:,} operations (multiply-adds and one add per bias), {memory}."])


def account(module: nn.Module, channels: int, size: tuple[int, int], batch: int = 1) -> Account:
    """The account of any module that takes [batch, channels, height, width]; the module itself is not touched.

    A shared parameter counts once. Multiply-adds are those of convs and matrix products, wherever in the code they happen; those
    outside of layers are put down to the module that does them.
    """
    ghost = copy.deepcopy(module).to("meta").eval()
    seen = Seen()
    for name, m in ghost.named_modules():
        m.register_forward_hook(functools.partial(seen.note, name))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ghost(torch.empty(batch, channels, *size, device="meta"))
    root = type(ghost).__name__
    flops = {name.removeprefix(root).removeprefix("."): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    return Account(tuple(_rows(module, seen, flops)), channels, size, batch)


class Seen:
    """What came out of each module, by name, in the order they ended."""

    def __init__(self) -> None:
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.made: dict[str, int] = {}

    def note(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Take down a module's output; what it hands on or only reshapes is not its own."""
        tensors = [x for x in (output if isinstance(output, (tuple, list)) else [output]) if isinstance(x, Tensor)]
        own = [x for x in tensors if x._base is None and not any(x is y for y in inputs)]
        self.outputs[name] = tuple(tensors[0].shape[1:]) if tensors else ()
        self.made[name] = self.made.get(name, 0) + sum(x.numel() for x in own)


def _rows(module: nn.Module, seen: Seen, flops: dict[str, int]) -> Iterator[Row]:
    modules = dict(module.named_modules())
    counted: set[int] = set()
    for name in [*seen.outputs, *(name for name in modules if name not in seen.outputs)]:
        m = modules[name]
        parameters = [p for p in m.parameters(recurse=False) if id(p) not in counted]
        counted.update(id(p) for p in parameters)
        inner = [f"{name}.{child}".removeprefix(".") for child, _ in m.named_children()]
        macs = (flops.get(name, 0) - sum(flops.get(child, 0) for child in inner)) // 2
        if inner and not parameters and not macs:
            continue  # a container that only calls its children
        made = seen.made.get(name, 0) if not inner else 0
        biases = made if macs and getattr(m, "bias", None) is not None else 0
        shape = seen.outputs.get(name, ())
        yield Row(name, type(m).__name__, shape, sum(p.numel() for p in parameters), macs, macs + biases, made)
