"""What a model consists of and what it costs, layer by layer, found on the meta device without computing anything."""

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
from goodfit.models.anatomy.memory import StepMemory
from goodfit.models.anatomy.meta import OperationRecorder, to_meta
from goodfit.models.anatomy.receptive_field import Field
from goodfit.models.weights.stages import find_head, find_stages

BYTES_PER_FLOAT32 = 4
SUMMED_FIELDS = ("parameters", "macs", "ops", "activations", "in_place", "kept")
CONV_CLASSES = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
aten = torch.ops.aten
KIND_OF_OPERATION = {aten.convolution: "conv", aten.mm: "fc", aten.addmm: "fc"}  # the kind of layer that does such multiply-adds


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One layer: its output [C, H, W] or [N] for one image; multiply-adds, ops and activations are those of the whole batch.

    `kind` is conv, fc or empty. `ops` is the slides' count: multiply-adds, and one add per bias. `activations` is the number of output
    values, zero where the layer works in place; `in_place` is that number if every elementwise operation (activations, sums) overwrote
    its input; `kept` is the bytes stored for the backward pass, once a training step was measured. `field` is the receptive field and
    `stride` the pixels from one output to the next, as (rows, columns): a field of (0, 0) is unknown, and without a stride the output
    has no spatial dimensions.
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
    """The rows of a model in the order they run, for a batch of images of `channels` and `size`; maybe the memory of a step."""

    rows: tuple[LayerRow, ...]
    channels: int
    size: tuple[int, int]
    batch: int
    step_memory: StepMemory | None = None

    @property
    def totals(self) -> dict[str, int]:
        """Sums over the rows: parameters, macs, ops, activations, in_place (plus the input), kept, and activation_bytes in float32."""
        sums = {name: sum(getattr(row, name) for row in self.rows) for name in SUMMED_FIELDS}
        sums["in_place"] += self.batch * self.channels * self.size[0] * self.size[1]
        return {**sums, "activation_bytes": BYTES_PER_FLOAT32 * sums["activations"]}

    @property
    def shares(self) -> dict[str, float]:
        """The shares of conv and fully connected layers in the parameters and ops: conv_parameters, fc_parameters, conv_ops, fc_ops."""
        return {
            f"{kind}_{name}": sum(getattr(row, name) for row in self.rows if row.kind == kind) / max(self.totals[name], 1)
            for name in ("parameters", "ops")
            for kind in ("conv", "fc")
        }

    def stages(self) -> tuple[LayerRow, ...]:
        """A row for each stage: sums, and the stage's last map (or, without maps, its output) with its receptive field."""
        groups: dict[str, list[LayerRow]] = {}
        for row in self.rows:
            groups.setdefault(row.stage, []).append(row)
        return tuple(_sum_stage(name, rows) for name, rows in groups.items())

    def with_step_memory(self, memory: StepMemory) -> Account:
        """The same account with the memory of a training step, and what each layer keeps for the backward pass."""
        rows = tuple(dataclasses.replace(row, kept=memory.saved_by_module.get(row.name, 0)) for row in self.rows)
        return dataclasses.replace(self, rows=rows, step_memory=memory)

    def to_dict(self) -> dict[str, Any]:
        """`{"input", "layers", "stages", "totals", "shares", "training"}`, ready for JSON."""
        shape = [self.batch, self.channels, *self.size]
        layers, stages = ([dataclasses.asdict(row) for row in rows] for rows in (self.rows, self.stages()))
        training = self.step_memory.to_dict() if self.step_memory else None
        return {
            "input": shape, "layers": layers, "stages": stages, "totals": self.totals, "shares": self.shares, "training": training,
        }  # fmt: skip


def account_for(module: nn.Module, channels: int, size: tuple[int, int], batch: int = 1) -> Account:
    """Count the costs of any module that takes [batch, channels, height, width], layer by layer; the module itself is not touched.

    A shared parameter counts once. Multiply-adds are those of convs and matrix products, wherever in the code they happen. What happens
    outside of layers (multiply-adds, sums and whatever else creates values) counts for the module that does it.
    """
    net = to_meta(module).eval()
    forward = ForwardRecorder(net, size)
    image = torch.empty(batch, channels, *size, device="meta")
    forward.start(image)
    with torch.no_grad(), forward:
        net(image)
    return Account(tuple(_rows(module, forward.tallies)), channels, size, batch)


@dataclasses.dataclass
class ModuleTally:
    """The counts of a module so far."""

    output: tuple[int, ...] = ()
    macs: int = 0
    biases: int = 0
    activations: int = 0
    in_place: int = 0
    kinds: dict[str, int] = dataclasses.field(default_factory=dict)
    field: Field = None


class ForwardRecorder(OperationRecorder):  # type: ignore[no-untyped-call]
    """Records a forward pass: multiply-adds, outputs and receptive fields by module, in the order the modules began."""

    def __init__(self, net: nn.Module, size: tuple[int, int]) -> None:
        super().__init__(net)
        self.size = size
        self.tallies: dict[str, ModuleTally] = {}
        self.leaves = {name for name, m in net.named_modules() if next(m.children(), None) is None}
        self.storages: dict[int, Any] = {}  # in the order they were created; kept alive, so that no two have the same address
        self.pointwise: set[int] = set()  # storages that an elementwise operation created
        self.counted: set[int] = set()
        self.fields: dict[tuple[Any, ...], Field] = {}
        self.storages_before: list[int] = []  # how many storages there were when each running module began

    def start(self, image: Tensor) -> None:
        """Register the image that the pass begins with."""
        self._register(image)
        self.fields[_view_key(image)] = receptive.field_of_image(self.size)

    def on_enter(self, name: str, module: nn.Module) -> None:
        """Give a layer its place in the order where it first runs."""
        self.storages_before.append(len(self.storages))
        if name in self.leaves:
            self.tallies.setdefault(name, ModuleTally())

    def record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Count an operation for the innermost module that is running."""
        tensors = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        name, storages_before = self.running[-1], len(self.storages)
        for x in tensors:
            self._register(x, torch.Tag.pointwise in func.tags)
            self.fields[_view_key(x)] = receptive.propagate(func, args, kwargs, x, self.field_of)
        formula, kind = flop_registry.get(func.overloadpacket), KIND_OF_OPERATION.get(func.overloadpacket, "")
        macs = formula(*args, **kwargs, out_val=out) // 2 if formula else 0
        if not tensors or (name in self.leaves and not macs):
            return
        output = tensors[0]
        if macs or (len(self.storages) > storages_before and self.field_of(output) != ()):  # a field of (): it depends on no pixel
            tally = self.tallies.setdefault(name, ModuleTally())
            tally.macs += macs
            tally.kinds[kind] = tally.kinds.get(kind, 0) + macs
            tally.biases += output.numel() if macs and _has_bias(func, args) else 0
            self._record_output(tally, output, storages_before)

    def on_exit(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Record a layer's output; values that it only passes on or reshapes are not its own."""
        storages_before = self.storages_before.pop()
        if name in self.leaves:
            tensors = [x for x in tree_leaves(output) if isinstance(x, Tensor)]
            for x in reversed(tensors):
                self._record_output(self.tallies[name], x, storages_before)

    def field_of(self, x: Tensor) -> Field:
        """The receptive field of a tensor; weights and constants have ()."""
        return self.fields.get(_view_key(x), ())

    def _register(self, x: Tensor, pointwise: bool = False) -> None:
        storage = x.untyped_storage()
        if storage._cdata not in self.storages:
            self.storages[storage._cdata] = (len(self.storages), storage)
            if pointwise:
                self.pointwise.add(storage._cdata)

    def _record_output(self, tally: ModuleTally, x: Tensor, storages_before: int) -> None:
        tally.output, tally.field = tuple(x.shape[1:]), self.field_of(x)
        key = x.untyped_storage()._cdata
        if key in self.storages and self.storages[key][0] >= storages_before and key not in self.counted:
            self.counted.add(key)
            tally.activations += x.numel()
            tally.in_place += 0 if key in self.pointwise else x.numel()


def _view_key(x: Tensor) -> tuple[Any, ...]:
    """Identifies a tensor's values: views of the same values in the same shape have the same key."""
    return x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.stride()


def _has_bias(func: Any, args: Any) -> bool:
    return func.overloadpacket is aten.addmm or (func.overloadpacket is aten.convolution and args[2] is not None)


def _rows(module: nn.Module, tallies: dict[str, ModuleTally]) -> Iterator[LayerRow]:
    modules = dict(module.named_modules())
    unused = [name for name, m in modules.items() if name not in tallies and next(m.parameters(recurse=False), None) is not None]
    names = [*tallies, *unused]
    counted: set[int] = set()
    for name, stage in zip(names, _stage_of_each(module, names), strict=True):
        m, tally = modules[name], tallies.get(name, ModuleTally())
        parameters = [p for p in m.parameters(recurse=False) if id(p) not in counted]
        counted.update(id(p) for p in parameters)
        yield LayerRow(
            name, type(m).__name__, stage, _layer_kind(m, tally), tally.output, sum(p.numel() for p in parameters), tally.macs,
            tally.macs + tally.biases, tally.activations, tally.in_place, *_field_and_stride(tally.field),
        )  # fmt: skip


def compare_accounts(
    accounts: Mapping[str, Account], errors: Mapping[str, tuple[float, float]], speeds: Mapping[str, float] | None = None
) -> list[dict[str, object]]:
    """Return one dictionary per model: its parameters, multiply-adds and operations, the shares that conv and fully connected layers have
    in them, and, where `errors` lists the model, its published top-1 and top-5 errors in percent; where `speeds` does, its images a second.
    """
    return [
        {
            "model": name,
            **{key: account.totals[key] for key in ("parameters", "macs", "ops")},
            **account.shares,
            **dict(zip(("top1_error", "top5_error"), errors.get(name, ()), strict=False)),
            **({"images_per_second": speeds[name]} if speeds and name in speeds else {}),
        }
        for name, account in accounts.items()
    ]


def _layer_kind(m: nn.Module, tally: ModuleTally) -> str:
    """The kind of a layer by its multiply-adds, or by its class where it did not run."""
    if tally.macs:
        return max(tally.kinds, key=lambda kind: tally.kinds[kind])
    return "conv" if isinstance(m, CONV_CLASSES) else "fc" if isinstance(m, nn.Linear) else ""


def _field_and_stride(field: Field) -> tuple[tuple[int, int], tuple[int, int] | None]:
    if not field:
        return (0, 0), None
    rows, columns = field
    stride = None if rows.dim is None or columns.dim is None else (rows.stride, columns.stride)
    return (rows.width, columns.width), stride


def _stage_of_each(module: nn.Module, names: list[str]) -> Iterator[str]:
    """The stage of each module; one outside of all stages joins the module before it, or at the start the first stage."""
    try:
        stages = {member: stage.name for stage in find_stages(module) for member in stage.modules} | {find_head(module)[0]: "head"}
    except UsageError:  # no linear layer
        stages = {name: name for name, _ in module.named_children()}
    last = next(iter(stages.values()), "")
    for name in names:
        last = next((stage for member, stage in stages.items() if f"{name}.".startswith(f"{member}.")), last)
        yield last


def _sum_stage(stage: str, rows: list[LayerRow]) -> LayerRow:
    sums = {name: sum(getattr(row, name) for row in rows) for name in SUMMED_FIELDS}
    ends = [row for row in rows if row.stride] or [row for row in rows if row.output] or rows
    return dataclasses.replace(ends[-1], name=stage, type=count_of(len(rows), "module"), kind="", stage=stage, **sums)
