"""Whether labels stand beside their own images: how well predictions agree with the labels some rows further on."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.core.words import count_of
from goodfit.doctor.probe import Ridge, Share

MAX_SEARCHED = 24  # rows to each side, where the labels must teach by themselves
MAX_REGULARITY = 0.2  # of the order of the classes: the highest correlation of the labels with themselves some rows further on
MIN_STEPS_OFF = 6.5  # standard errors that the best offset is above what chance gives, of hundreds that are tried


@dataclasses.dataclass(frozen=True)
class Offset:
    """Predictions for images agree with a share of the labels beside them, `before`, and with another of those `rows` further on, `after`;
    `z` is how far the second is above what the first explains, in standard errors.
    """

    rows: int
    before: Share
    after: Share
    z: float

    def describe(self) -> str:
        return f"{count_of(abs(self.rows), 'row')} {'further on' if self.rows > 0 else 'before'}"


def find_offset(predicted: Tensor, labels: Tensor, classes: int) -> Offset | None:
    """Find by how many rows labels [N] are off against images whose classes [N] were predicted by a fit on other images.

    All offsets are tried at once, by the correlation of both sequences in the frequency domain. Regular orders of the classes, by which
    labels also agree with images some rows away, are taken off.
    """
    n = len(labels)
    shares = torch.bincount(labels, minlength=classes).double() / n
    a, b = (F.one_hot(x, classes).double() - shares for x in (predicted, labels))
    spectrum = torch.fft.rfft(b, dim=0)
    # Entry k: the sum over rows i of predicted[i] times labels[i + k]
    together = torch.fft.irfft(torch.fft.rfft(a, dim=0).conj() * spectrum, n=n, dim=0).sum(1)
    regular = torch.fft.irfft(spectrum.conj() * spectrum, n=n, dim=0).sum(1)
    expected = together[0].clamp_min(0) * regular / regular[0]
    noise = (n * float((shares * (1 - shares)).sum()) * float((shares * (1 - shares)).sum()) / max(classes - 1, 1)) ** 0.5
    excess = (together - expected) / max(noise, 1e-9)
    excess[0] = 0
    rows = int(excess.argmax())
    before, after = (Share(int((predicted == labels.roll(-k)).sum()), n) for k in (0, rows))
    is_regular = float(regular[1:].max() / regular[0]) > MAX_REGULARITY  # then mistaking one class for another shows as an offset, too
    if float(excess[rows]) < MIN_STEPS_OFF or (is_regular and after.above(before) < MIN_STEPS_OFF):
        return None
    return Offset(rows if rows <= n // 2 else rows - n, before, after, float(excess[rows]))


def search_offset(fit: Ridge, labels: Tensor, rows: Tensor) -> Offset | None:
    """Find by how many rows labels [N] are off against their images by themselves: the offset at which they teach each other best.

    The images are those at some rows [n], of which `fit` is a fit.
    """
    n = len(rows)
    offsets = [k for k in range(-MAX_SEARCHED, MAX_SEARCHED + 1) if abs(k) < n // 4]
    right = {k: int((fit.leave_one_out(rolled := labels.roll(-k)[rows], fit.penalty).argmax(1) == rolled).sum()) for k in offsets}
    best = max(right, key=lambda k: right[k])
    before, after = Share(right[0], n), Share(right[best], n)
    z = after.above(before)
    if best == 0 or z < MIN_STEPS_OFF:
        return None
    return Offset(best, before, after, z)
