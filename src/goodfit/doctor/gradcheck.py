"""Gradient checking: the gradient of backward against central differences in float64, tensor by tensor."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Loss, Penalty
from goodfit.core.device import seed_noise
from goodfit.core.errors import GoodfitError, UsageError, first_line
from goodfit.core.words import count_of
from goodfit.losses.penalty import StartPenalty
from goodfit.losses.scores import split_outputs
from goodfit.terminal.tables import format_table
from goodfit.training.gradient import restore_buffers

STEP = 1e-5  # the lecture's h, for numbers of size 1
STEP_FACTORS = (1.0, 0.1, 0.01)  # where a step disagrees, smaller ones distinguish a nearby kink from a wrong gradient
SMOOTH_TOLERANCE = 1e-3  # one-sided slopes that differ by less, relative to the steepest, need no smaller step
TOLERANCE = 1e-7  # greatest relative error that passes, in float64
ROUNDING_ERROR = 64 * sys.float_info.epsilon  # of one evaluation, relative to the terms it adds up: measured, with a margin
DEFAULT_SAMPLES = 5  # entries of each tensor that are checked
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A function with the float64 leaf tensors that its outputs depend on; each call sees the same noise and the same buffers."""

    tensors: dict[str, Tensor]
    outputs: Callable[[], list[Tensor]]


@dataclasses.dataclass(frozen=True)
class TensorCheck:
    """The check of one tensor: the worst of the `moved` entries, with its place, both slopes and relative error; `kinks` among them."""

    name: str
    shape: tuple[int, ...]
    moved: int
    place: tuple[int, ...]
    analytic: float
    numeric: float
    error: float
    kinks: int
    passed: bool


@dataclasses.dataclass(frozen=True)
class _Slope:
    """The check of one entry: backward's slope, the central difference, their relative error, and whether there is a kink."""

    place: tuple[int, ...]
    analytic: float
    numeric: float
    error: float
    kink: bool
    passed: bool


# ---- what can be checked -------------------------------------------------------------------------------------------------------


def module_subject(module: nn.Module, images: Tensor, seed: int = 0) -> Subject:
    """A module in training mode on one input [B, ...]: checks its parameters and the input itself.

    Raises:
        UsageError: the module does not take such an input.
    """
    module = module.double().train()
    inputs = images.detach().double().requires_grad_()
    buffers = [buffer.clone() for buffer in module.buffers()]

    def outputs() -> list[Tensor]:
        with torch.no_grad():
            restore_buffers(module, buffers)
        seed_noise(seed, CPU)
        scores, extras = split_outputs(module(inputs.clone()))  # the clone lets a module change its input in place
        return [scores, *(extra for extra, _ in extras)]

    try:
        with torch.no_grad():
            outputs()
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shape = "x".join(map(str, images.shape))
        raise UsageError(f"{type(module).__name__} does not take an input of {shape} in float64: {first_line(error)}.") from error
    return Subject({"input": inputs, **dict(module.named_parameters())}, outputs)


def loss_subject(loss: Loss, classes: int, batch: int = 6, seed: int = 0) -> Subject:
    """A loss on random scores, with hard and soft targets in turn.

    Raises:
        UsageError: the loss does not give one number per example.
    """
    chance = torch.Generator().manual_seed(seed)
    scores = (2 * torch.randn(batch, classes, dtype=torch.float64, generator=chance)).requires_grad_()
    soft = torch.randn(batch, classes, dtype=torch.float64, generator=chance).softmax(1)
    hard = torch.nn.functional.one_hot(torch.randint(classes, (batch,), generator=chance), classes).double()
    targets = torch.where((torch.arange(batch) % 2 == 0)[:, None], hard, soft)
    shape = loss(scores, targets).shape
    if shape != (batch,):
        raise UsageError(f"Expected the loss to give one number per example, of shape [{batch}], received {list(shape)}.")
    return Subject({"scores": scores}, lambda: [loss(scores, targets)])


def penalty_subject(penalties: Iterable[Penalty], model: nn.Module) -> Subject:
    """The sum of penalties on a model: checks its parameters. Pretrained, where a penalty asks, is all but the last layer."""
    model = model.double()
    start = {name: x / 2 for name, x in list(model.state_dict().items())[:-2]}  # all but the weight and bias of the last
    terms = [penalty.with_start(start) if isinstance(penalty, StartPenalty) else penalty for penalty in penalties]
    return Subject(dict(model.named_parameters()), lambda: [torch.stack([term(model) for term in terms]).sum()])


# ---- checking ------------------------------------------------------------------------------------------------------------------


class _Scalar:
    """The outputs as one number: their sum with fixed random factors, so that errors of two outputs cannot cancel."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        first = subject.outputs()
        if any(x.dtype != torch.float64 for x in first):
            dtype = next(x.dtype for x in first if x.dtype != torch.float64)
            raise GoodfitError(f"Expected outputs in float64 for an input in float64, received {dtype}: something inside casts.")
        chance = torch.Generator().manual_seed(1)
        self.factors = [torch.randn(x.shape, dtype=torch.float64, generator=chance) for x in first]
        self.gradients = self._backward(first)
        with torch.no_grad():
            self.size = float(sum((f * x).abs().sum() for f, x in zip(self.factors, first, strict=True)))
            if not all(torch.equal(a, b) for a, b in zip(first, subject.outputs(), strict=True)):
                raise GoodfitError(
                    "Expected the same outputs for the same input, received others: it draws noise from elsewhere than torch's"
                    " default generator, or keeps something from call to call."
                )

    def _backward(self, outputs: list[Tensor]) -> dict[str, Tensor]:
        tensors = self.subject.tensors
        total = torch.stack([(f * x).sum() for f, x in zip(self.factors, outputs, strict=True)]).sum()
        if not total.requires_grad:
            raise GoodfitError("Expected outputs that depend on the input or on parameters through backward, received none that do.")
        gradients = torch.autograd.grad(total, list(tensors.values()), allow_unused=True)
        return {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(tensors.items(), gradients, strict=True)}

    @torch.no_grad()
    def __call__(self) -> float:
        return math.fsum(float((f * x).sum()) for f, x in zip(self.factors, self.subject.outputs(), strict=True))

    @torch.no_grad()
    def at(self, tensor: Tensor, place: tuple[int, ...], value: float) -> float:
        """The number with one entry of a tensor changed."""
        before = tensor[place].clone()
        tensor[place] = value
        try:
            return self()
        finally:
            tensor[place] = before


def check_gradients(subject: Subject, samples: int = DEFAULT_SAMPLES, tolerance: float = TOLERANCE) -> list[TensorCheck]:
    """Compare backward with (f(x + h) - f(x - h)) / 2h for `samples` numbers of each tensor (0: for all of them).

    h is 1e-5 times the tensor's root mean square, within 0.01 to 100 (1e-5 for a tensor of zeros). The relative error of a number is
    |a - n| / max(|a|, |n|), the largest |a| of its tensor taken, so that entries near zero are not asked for digits they do not have;
    a difference that rounding explains counts as none. A number whose slopes on both sides differ sits at a kink, or near one: it
    passes when backward's slope lies between them, or when a smaller step agrees, and is counted.

    Raises:
        GoodfitError: the subject has no gradient, is not in float64, or gives other numbers at each call.
    """
    scalar = _Scalar(subject)
    here = scalar()
    checks = []
    for name, tensor in subject.tensors.items():
        gradient = scalar.gradients[name]
        slopes = [_slope(scalar, tensor, place, here, gradient, tolerance) for place in _places(gradient, samples)]
        worst = max(slopes, key=lambda s: (not s.passed, math.inf if math.isnan(s.error) else s.error))
        checks.append(
            TensorCheck(
                name, tuple(tensor.shape), len(slopes), worst.place, worst.analytic, worst.numeric, worst.error,
                sum(s.kink for s in slopes), all(s.passed for s in slopes),
            )
        )  # fmt: skip
    return checks


def _places(gradient: Tensor, samples: int) -> list[tuple[int, ...]]:
    """The entry of the steepest slope, then random others; all of them for 0."""
    n = gradient.numel()
    if samples and n > samples:
        steepest = int(gradient.abs().nan_to_num(math.inf).argmax())
        order = torch.randperm(n, generator=torch.Generator().manual_seed(n)).tolist()
        flat = [steepest, *(i for i in order if i != steepest)][:samples]
    else:
        flat = list(range(n))
    return [tuple(int(x) for x in torch.unravel_index(torch.tensor(i), gradient.shape)) for i in flat]


def _slope(scalar: _Scalar, tensor: Tensor, place: tuple[int, ...], here: float, gradient: Tensor, tolerance: float) -> _Slope:
    """Check one entry of a tensor, with smaller and smaller steps until they agree."""
    a, x = float(gradient[place]), float(tensor.detach()[place])
    largest = float(gradient.abs().max())
    size = float(tensor.detach().square().mean().sqrt())
    tries: list[tuple[float, float]] = []  # the central difference of each step, and its relative error
    jumps: list[float] = []  # by how much the slopes on both sides differ
    agreed = right = left = math.nan
    for shrink in STEP_FACTORS:
        step = STEP * shrink * (min(max(size, 0.01), 100.0) if size else 1.0)
        up, down = x + step, x - step
        above, below = scalar.at(tensor, place, up), scalar.at(tensor, place, down)
        n, right, left = (above - below) / (up - down), (above - here) / (up - x), (here - below) / (x - down)
        floor = ROUNDING_ERROR * scalar.size / step
        tries.append((n, abs(a - n) / max(largest, abs(n), floor / tolerance, sys.float_info.min)))
        jumps.append(max(0.0, abs(right - left) - floor))
        closer = len(tries) == 1 or abs(a - n) < abs(a - tries[0][0]) / 5  # not by more rounding alone
        if math.isnan(agreed) and tries[-1][1] <= tolerance and closer:
            agreed = tries[-1][1]
        if agreed <= tolerance and (len(jumps) > 1 or jumps[0] <= SMOOTH_TOLERANCE * max(largest, abs(n))):
            # A curve's one-sided slopes come together as the step does; those of a kink do not, or do so at once when it is passed.
            kink = len(jumps) > 1 and abs(jumps[0] - jumps[1] / STEP_FACTORS[1]) > jumps[0] / 2
            return _Slope(place, a, n, agreed, kink, True)
    slack = tolerance * max(largest, abs(n)) + floor
    kink = jumps[-1] > jumps[0] / 2 > 0
    passed = kink and min(left, right) - slack <= a <= max(left, right) + slack
    return _Slope(place, a, tries[0][0], 0.0 if passed else tries[0][1], kink, passed)


# ---- as text -----------------------------------------------------------------------------------------------------------------


def format_checks(checks: list[TensorCheck]) -> str:
    """Format the checks as a table, one line for each tensor."""
    rows = []
    for row in checks:
        shape, verdict = "x".join(map(str, row.shape)) or "1", "ok" if row.passed else "WRONG"
        rows.append((row.name, shape, str(row.moved), f"{row.error:.1e}", str(row.kinks), verdict))
    return format_table(rows, "<>>>><", ("tensor", "shape", "moved", "relative error", "kinks", ""))


def summarize_checks(checks: list[TensorCheck]) -> str:
    """Say how many tensors passed and how near those are, and how many numbers lie at a kink; nothing of how far off the others are."""
    passed = [row for row in checks if row.passed]
    count = count_of(len(checks), "tensor") if len(passed) == len(checks) else f"{len(passed)} of {count_of(len(checks), 'tensor')}"
    error = f", relative error at most {max(row.error for row in passed):.1e}" if passed else ""
    kinks = sum(row.kinks for row in passed)
    note = f"; {count_of(kinks, 'number')} at a kink, where any slope between both sides is right" if kinks else ""
    return f"{count} passed{error}{note}."


def describe_error(row: TensorCheck) -> str:
    """Describe what is wrong with a tensor."""
    place = ", ".join(map(str, row.place))
    return f"{row.name}[{place}]: backward gives {row.analytic:.6g}, central differences {row.numeric:.6g} (relative error {row.error:.1e})"


def to_json(row: TensorCheck) -> dict[str, Any]:
    """A row for JSON: numbers that are not finite become None."""
    return {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in dataclasses.asdict(row).items()}
