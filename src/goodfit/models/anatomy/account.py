"""What a model is made of and what it costs, layer by layer, without running it: on the meta device only shapes flow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from goodfit.core.errors import UsageError
from goodfit.core.words import count_of
from goodfit.models.anatomy import receptive_field as receptive
from goodfit.models.anatomy.memory import Training
from goodfit.models.anatomy.meta import Watcher, ghost
from goodfit.models.anatomy.receptive_field import Field
from goodfit.models.weights.stages import head, stages

BYTES = 4  # of a number in float32
SUMS = ("parameters", "macs", "ops", "activations", "in_place", "kept")
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
aten = torch.ops.aten
KINDS = {aten.convolution: "conv", aten.mm: "fc", aten.addmm: "fc"}  # whose multiply-adds make a layer of which kind


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer: its output [C, H, W] or [N] for one image; multiply-adds, ops and activations are of the batch.

    `kind` is conv, fc or empty. `ops` is the slides' count, multiply-adds and one add per bias. `activations` are the numbers it puts
    out, zero where it works in place; `in_place` those that are left if whatever works number by number (activations, sums) wrote over
    its input; `kept` the bytes that wait for the backward pass, where a training step is known. `field` is the receptive field and
    `stride` the pixels from one output to the next, rows and columns: a field of (0, 0) is not known, and no stride means that the
    output has no sides any more.
    """

    name: str
    type: str
    stage: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int
    ops: int
    activations: int
    in_place: int
    field: tuple[int, int]
    stride: tuple[int, int] | None
    kept: int = 0


@dataclasses.dataclass(frozen=True)
class Account:
    """The rows of a model in the order they run, for a batch of images of `channels` and `size`; maybe what training it takes."""

    rows: tuple[Row, ...]
    channels: int
    size: tuple[int, int]
    batch: int
    training: Training | None = None

    @property
    def totals(self) -> dict[str, int]:
        """Sums over the rows: parameters, macs, ops, activations, in_place (here with the input), kept, and activation_bytes in float32."""
        sums = {name: sum(getattr(row, name) for row in self.rows) for name in SUMS}
        sums["in_place"] += self.batch * self.channels * self.size[0] * self.size[1]
        return {**sums, "activation_bytes": BYTES * sums["activations"]}

    @property
    def shares(self) -> dict[str, float]:
        """The shares that conv and fully connected layers have in parameters and ops: conv_parameters, fc_parameters, conv_ops, fc_ops."""
        return {
            f"{kind}_{name}": sum(getattr(row, name) for row in self.rows if row.kind == kind) / max(self.totals[name], 1)
            for name in ("parameters", "ops")
            for kind in ("conv", "fc")
        }

    def stages(self) -> tuple[Row, ...]:
        """A row for each stage: sums, and the last map, or else output, of the stage with its receptive field."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.stage, []).append(row)
        return tuple(_sum(name, rows) for name, rows in groups.items())

    def trained(self, training: Training) -> Account:
        """The same with what a training step takes, and what each layer keeps in it."""
        rows = tuple(dataclasses.replace(row, kept=training.saved.get(row.name, 0)) for row in self.rows)
        return dataclasses.replace(self, rows=rows, training=training)

    def to_dict(self) -> dict[str, Any]:
        """`{"input", "layers", "stages", "totals", "shares", "training"}`, ready for JSON."""
        shape = [self.batch, self.channels, *self.size]
        layers, of_stages = ([dataclasses.asdict(row) for row in made] for made in (self.rows, self.stages()))
        training = self.training.to_dict() if self.training else None
        return {
            "input": shape, "layers": layers, "stages": of_stages, "totals": self.totals, "shares": self.shares, "training": training,
        }  # fmt: skip


def account(module: nn.Module, channels: int, size: tuple[int, int], batch: int = 1) -> Account:
    """The account of any module that takes [batch, channels, height, width]; the module itself is not touched.

    A shared parameter counts once. Multiply-adds are those of convs and matrix products, wherever in the code they happen; those
    outside of layers are put down to the module that does them, as are sums and whatever else makes new numbers there.
    """
    net = ghost(module).eval()
    forward = Forward(net, size)
    image = torch.empty(batch, channels, *size, device="meta")
    forward.start(image)
    with torch.no_grad(), forward:
        net(image)
    return Account(tuple(_rows(module, forward.tallies)), channels, size, batch)


@dataclasses.dataclass
class Tally:
    """What has been seen of a module so far."""

    output: tuple[int, ...] = ()
    macs: int = 0
    biases: int = 0
    activations: int = 0
    in_place: int = 0
    kinds: dict[str, int] = dataclasses.field(default_factory=dict)
    field: Field = None


class Forward(Watcher):  # type: ignore[no-untyped-call]
    """A forward pass: multiply-adds, outputs and receptive fields by module, in the order they began."""

    def __init__(self, net: nn.Module, size: tuple[int, int]) -> None:
        super().__init__(net)
        self.size = size
        self.tallies: dict[str, Tally] = {}
        self.leaves = {name for name, m in net.named_modules() if next(m.children(), None) is None}
        self.storages: dict[int, Any] = {}  # alive until the end, so that no two have the same address; in the order they were made
        self.by_pointwise: set[int] = set()  # those made number by number
        self.counted: set[int] = set()
        self.fields: dict[tuple[Any, ...], Field] = {}
        self.before: list[int] = []  # how many storages there were when the modules that run began

    def start(self, image: Tensor) -> None:
        """Take in the image."""
        self._know(image)
        self.fields[_place(image)] = receptive.image(self.size)

    def enter(self, name: str, module: nn.Module) -> None:
        """A layer has its place where it first runs."""
        self.before.append(len(self.storages))
        if name in self.leaves:
            self.tallies.setdefault(name, Tally())

    def note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Count an operation, at the innermost module that runs."""
        tensors = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        name, fresh = self.calls[-1], len(self.storages)
        for x in tensors:
            self._know(x, torch.Tag.pointwise in func.tags)
            self.fields[_place(x)] = receptive.after(func, args, kwargs, x, self.field)
        formula, kind = flop_registry.get(func.overloadpacket), KINDS.get(func.overloadpacket, "")
        macs = formula(*args, **kwargs, out_val=out) // 2 if formula else 0
        if not tensors or (name in self.leaves and not macs):
            return
        made = tensors[0]
        if macs or (len(self.storages) > fresh and self.field(made) != ()):  # else it depends on no pixel: made from weights
            tally = self.tallies.setdefault(name, Tally())
            tally.macs += macs
            tally.kinds[kind] = tally.kinds.get(kind, 0) + macs
            tally.biases += made.numel() if macs and _biased(func, args) else 0
            self._output(tally, made, fresh)

    def leave(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Take down a layer's output; what it hands on or only reshapes is not its own."""
        before = self.before.pop()
        if name in self.leaves:
            tensors = [x for x in tree_leaves(output) if isinstance(x, Tensor)]
            for x in reversed(tensors):
                self._output(self.tallies[name], x, before)

    def field(self, x: Tensor) -> Field:
        """The field of a tensor; weights and constants have ()."""
        return self.fields.get(_place(x), ())

    def _know(self, x: Tensor, pointwise: bool = False) -> None:
        storage = x.untyped_storage()
        if storage._cdata not in self.storages:
            self.storages[storage._cdata] = (len(self.storages), storage)
            if pointwise:
                self.by_pointwise.add(storage._cdata)

    def _output(self, tally: Tally, x: Tensor, before: int) -> None:
        tally.output, tally.field = tuple(x.shape[1:]), self.field(x)
        key = x.untyped_storage()._cdata
        if key in self.storages and self.storages[key][0] >= before and key not in self.counted:
            self.counted.add(key)
            tally.activations += x.numel()
            tally.in_place += 0 if key in self.by_pointwise else x.numel()


def _place(x: Tensor) -> tuple[Any, ...]:
    """Where a tensor's numbers are: views of the same numbers in the same shape are one."""
    return x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.stride()


def _biased(func: Any, args: Any) -> bool:
    return func.overloadpacket is aten.addmm or (func.overloadpacket is aten.convolution and args[2] is not None)


def _rows(module: nn.Module, tallies: dict[str, Tally]) -> Iterator[Row]:
    modules = dict(module.named_modules())
    unused = [name for name, m in modules.items() if name not in tallies and next(m.parameters(recurse=False), None) is not None]
    names = [*tallies, *unused]
    counted: set[int] = set()
    for name, stage in zip(names, _stages(module, names), strict=True):
        m, tally = modules[name], tallies.get(name, Tally())
        parameters = [p for p in m.parameters(recurse=False) if id(p) not in counted]
        counted.update(id(p) for p in parameters)
        yield Row(
            name, type(m).__name__, stage, _kind(m, tally), tally.output, sum(p.numel() for p in parameters), tally.macs,
            tally.macs + tally.biases, tally.activations, tally.in_place, *_seen(tally.field),
        )  # fmt: skip


def compare_accounts(accounts: Mapping[str, Account], errors: Mapping[str, tuple[float, float]]) -> list[dict[str, object]]:
    """Return one dictionary per model: its parameters, multiply-adds and operations, the shares that conv and fully connected layers have
    in them, and, where `errors` lists the model, its published top-1 and top-5 errors in percent.
    """
    return [
        {
            "model": name,
            **{key: account.totals[key] for key in ("parameters", "macs", "ops")},
            **account.shares,
            **dict(zip(("top1_error", "top5_error"), errors.get(name, ()), strict=False)),
        }
        for name, account in accounts.items()
    ]


def _kind(m: nn.Module, tally: Tally) -> str:
    """By what its multiply-adds are; by its class where it did not run."""
    if tally.macs:
        return max(tally.kinds, key=lambda kind: tally.kinds[kind])
    return "conv" if isinstance(m, CONVS) else "fc" if isinstance(m, nn.Linear) else ""


def _seen(field: Field) -> tuple[tuple[int, int], tuple[int, int] | None]:
    if not field:
        return (0, 0), None
    rows, columns = field
    stride = None if rows.dim is None or columns.dim is None else (rows.stride, columns.stride)
    return (rows.width, columns.width), stride


def _stages(module: nn.Module, names: list[str]) -> Iterator[str]:
    """The stage of each module; what is in none goes with the one before it, at the start with the first."""
    try:
        found = {member: stage.name for stage in stages(module) for member in stage.modules} | {head(module)[0]: "head"}
    except UsageError:  # no linear layer
        found = {name: name for name, _ in module.named_children()}
    last = next(iter(found.values()), "")
    for name in names:
        last = next((stage for member, stage in found.items() if f"{name}.".startswith(f"{member}.")), last)
        yield last


def _sum(stage: str, rows: list[Row]) -> Row:
    sums = {name: sum(getattr(row, name) for row in rows) for name in SUMS}
    ends = [row for row in rows if row.stride] or [row for row in rows if row.output] or rows
    return dataclasses.replace(ends[-1], name=stage, type=count_of(len(rows), "module"), kind="", stage=stage, **sums)
