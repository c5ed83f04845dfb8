"""Functions rather than classifiers: what one hidden layer approximates, and the critical points of small nets."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.inspection.chance import OwnChance
from goodfit.lab.laboratory import Laboratory
from goodfit.lab.lessons.approximation import error_of
from goodfit.lab.optimization import descend
from goodfit.lab.replicate import Replicate
from goodfit.optim.bfgs import Bfgs

WIDTHS, STARTS, STEPS = (1, 2, 4, 8, 16), 3, 200
IMAGES, PIXELS = 64, 4  # for critical points
POINTS, NEWTON_STEPS, TOLERANCE = 40, 300, 1e-7


def approximation(lab: Laboratory, seed: int) -> Replicate:
    """S017: nets of one hidden layer of 1 to 16 units, each fitted from three starts."""
    errors, line = [], []
    with OwnChance(seed).active():
        for width in WIDTHS:
            ends = []
            for _ in range(STARTS):
                start = torch.cat([torch.randn(3 * width, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
                ends.append(descend(Bfgs(), error_of, start.tolist(), STEPS)[-1])
            errors.append(min(float(error_of(end)) for end in ends))
            line.append((float(width), errors[-1]))
    falls = sum(after < before for before, after in itertools.pairwise(errors)) / (len(errors) - 1)
    numbers = {f"error with {width} units": error for width, error in zip(WIDTHS, errors, strict=True)}
    return Replicate((errors[0] / errors[-1], falls), numbers, {("Mean squared error", "hidden units", "sine"): line})


def saddle_points(lab: Laboratory, seed: int) -> Replicate:
    """S077: the critical points that Newton's method finds for nets of 1 to 8 units."""
    batch = lab.images(IMAGES)
    numbers_in = F.adaptive_avg_pool2d(batch.images.double().mean(1, keepdim=True), 2).flatten(1)  # [IMAGES, PIXELS]
    inputs = (numbers_in - numbers_in.mean(0)) / numbers_in.std(0)
    truth = (batch.targets.argmax(1) % 2).double() * 2 - 1
    shares: dict[int, float] = {}
    found: dict[int, int] = {}
    for width in (1, 2, 4, 8):
        with OwnChance(seed).active():
            starts = torch.randn(POINTS, (PIXELS + 2) * width + 1, dtype=torch.float64)
        weights = starts.shape[1]
        shares[weights], found[weights] = _share_of_saddles(starts, inputs, truth, width)
    numbers = {f"share of saddles, {n} weights": share for n, share in shares.items()}
    numbers |= {f"critical points found, {n} weights": float(count) for n, count in found.items()}
    least, most = min(shares), max(shares)
    line = [(float(n), share) for n, share in shares.items()]
    return Replicate((shares[most] - shares[least],), numbers, {("Share of saddles", "weights", "critical points"): line})


def _share_of_saddles(starts: Tensor, inputs: Tensor, truth: Tensor, width: int) -> tuple[float, int]:
    """The share of saddles among the critical points [P, W] that Newton's method, damped, finds from the starts, and their number."""

    def loss(weights: Tensor) -> Tensor:
        hidden, last = weights[: (PIXELS + 1) * width].view(PIXELS + 1, width), weights[(PIXELS + 1) * width :]
        outputs = torch.tanh(inputs @ hidden[:-1] + hidden[-1]) @ last[:-1] + last[-1]
        return (outputs - truth).square().mean()

    gradient, hessian = (torch.func.vmap(f(loss)) for f in (torch.func.grad, torch.func.hessian))
    points, damping = starts.clone(), torch.full((len(starts), 1, 1), 1e-2, dtype=starts.dtype)
    for _ in range(NEWTON_STEPS):  # Levenberg's method for the norm of the gradient, which is zero at any critical point
        slope, curvature = gradient(points), hessian(points)
        square = curvature.mT @ curvature + damping * torch.eye(points.shape[1], dtype=points.dtype)
        step = torch.linalg.solve(square, (curvature.mT @ slope[:, :, None]))[:, :, 0]
        nearer = gradient(points - step).norm(dim=1) < slope.norm(dim=1)
        points = torch.where(nearer[:, None], points - step, points)
        damping = (damping * torch.where(nearer, 0.3, 4.0)[:, None, None]).clamp(1e-14, 1e6)
    critical = gradient(points).norm(dim=1) < TOLERANCE
    least = torch.linalg.eigvalsh(hessian(points[critical]))[:, 0]
    count = int(critical.sum())
    return float((least < -1e-6).double().mean()) if count else float("nan"), count
