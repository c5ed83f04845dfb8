"""Whether the class numbers of some images mean other classes than those that a probe or a network was taught."""

from __future__ import annotations

import dataclasses

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from goodfit.doctor.probe import compare_right


@dataclasses.dataclass(frozen=True, eq=False)
class ClassOrder:
    """Which class each label means: `meaning` [K]; which predictions are `right` [N] as the labels are; and which are `right_in_order` [N],
    by the meaning of the labels of every other image.
    """

    meaning: tuple[int, ...]
    right: Tensor
    right_in_order: Tensor

    @property
    def moved(self) -> list[int]:
        """The labels that mean another class."""
        return [label for label, meaning in enumerate(self.meaning) if label != meaning]

    @property
    def before(self) -> float:
        """The share of predictions that agree with the labels as they are."""
        return float(self.right.double().mean())

    @property
    def after(self) -> float:
        """The share of predictions that agree with what the labels mean."""
        return float(self.right_in_order.double().mean())

    @property
    def z(self) -> float:
        """By how many standard errors more predictions agree with what the labels mean."""
        return compare_right(self.right_in_order, self.right)[1]


def match_class_order(predicted: Tensor, labels: Tensor, classes: int) -> ClassOrder:
    """Match the labels [N] of images with the classes [N] that are predicted for them by a fit on other images.

    The match is the assignment of the most agreements; whether it is better than none is measured on the images that it was not made from:
    each half of them is read by the match of the other.

    Source: H. W. Kuhn, The Hungarian method for the assignment problem, 1955.
    """
    half = torch.arange(len(labels)) % 2
    others = torch.stack([assign_classes(predicted[half != side], labels[half != side], classes) for side in (0, 1)])
    meaning = assign_classes(predicted, labels, classes)
    return ClassOrder(tuple(meaning.tolist()), predicted == labels, predicted == others[half, labels])


def assign_classes(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The class [K] that images of each label [N] are most often predicted [N] as, each class once."""
    counts = torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes).double()
    counts += torch.eye(classes) / 2  # of equals the label's own
    return torch.from_numpy(linear_sum_assignment(counts.numpy(), maximize=True)[1])
