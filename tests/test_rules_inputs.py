"""The rules of inputs and of augmentation, each on a case made for it and on its look-alikes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding
from goodfit.doctor.rules import augmentation, inputs
from tests.support.data_patients import colored, examine
from tests.support.patients import convnet, find_causes, patient, prepare


def named(exam: Examination) -> dict[str, Finding]:
    """What the rules of inputs find."""
    return {cause: finding for cause, finding in find_causes(exam, inputs.RULES).items() if finding.is_material}


def scaled(change: Callable[[Tensor], Tensor], model: Callable[[], nn.Module] = convnet) -> Examination:
    """A patient whose images are all changed."""
    return examine(change=change, change_validation=change, model=model)


class Scaling(nn.Module):
    """A network that scales its inputs itself."""

    def __init__(self, factor: float, offset: float) -> None:
        super().__init__()
        self.body, self.factor, self.offset = convnet(norm=False), factor, offset

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body((x - self.offset) * self.factor)
        return scores


def plain() -> nn.Module:
    return convnet(norm=False)


@pytest.mark.parametrize("model", [plain, convnet])
def test_pixels_to_255_are_named(model: Callable[[], nn.Module]) -> None:
    found = named(scaled(lambda x: (x * 0.37 + 0.3) * 255, model))
    assert list(found) == ["inputs_not_scaled"] and "to 254" in found["inputs_not_scaled"].evidence


@pytest.mark.parametrize(
    "change", [lambda x: (x * 0.37 + 0.3) / 255, lambda x: x * 0.01 + 2.2, lambda x: (x * 0.37 + 0.3) / 255 / 0.3 - 1.5]
)
def test_pixels_divided_twice_or_moved_are_named(change: Callable[[Tensor], Tensor]) -> None:
    assert list(named(scaled(change, plain))) == ["inputs_scaled_twice"]


def test_networks_that_scale_inputs_themselves_are_left_alone() -> None:
    assert named(scaled(lambda x: (x * 0.37 + 0.3) * 255, lambda: Scaling(1 / 95, 76.5))) == {}
    assert named(scaled(lambda x: (x * 0.37 + 0.3) / 255, lambda: Scaling(690, 0.0012))) == {}


@pytest.mark.parametrize("change", [lambda x: x * 0.37 + 0.3, lambda x: x, lambda x: x * 0.7 - 0.5, lambda x: x * 2])
def test_usual_scales_are_silent(change: Callable[[Tensor], Tensor]) -> None:
    assert named(scaled(change, plain)) == {}


def pretrain() -> dict[str, Tensor]:
    """Weights of a small network trained on colored digits."""
    torch.manual_seed(0)
    model = make_color_net()
    images, labels = colored("train")
    x, y = prepare(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(6):
        for rows in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.state_dict()


def make_color_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def test_swapped_channels_are_named_for_pretrained_networks_alone() -> None:
    weights = pretrain()

    def tuned() -> nn.Module:
        model = make_color_net()
        model.load_state_dict({name: value for name, value in weights.items() if not name.startswith("8.")}, strict=False)
        return model

    def flip(x: Tensor) -> Tensor:
        return x.flip(1)

    color = colored("train"), colored("validation")
    found = named(examine(*color, change=flip, change_validation=flip, model=tuned))
    assert list(found) == ["channels_swapped"] and "order 2, 1, 0" in found["channels_swapped"].evidence
    assert named(examine(*color, model=tuned)) == {}
    assert named(examine(*color, change=flip, change_validation=flip, model=make_color_net)) == {}


def find_augmentation(change: Callable[[Tensor], Tensor], has_raw: bool, steps: int = 50) -> Finding | None:
    exam = examine(change=change, has_raw=has_raw)
    exam.course.follow(steps)
    found = [rule.find(exam) for rule in augmentation.RULES[:2]]
    return next((finding for finding in found if finding is not None), None)


def crop_to_nothing(x: Tensor) -> Tensor:
    """Two by two pixels of each image, enlarged."""
    places = torch.randint(0, 7, (len(x), 2)).tolist()
    return torch.cat(
        [F.interpolate(image[None, :, i : i + 2, j : j + 2], size=8, mode="bilinear") for image, (i, j) in zip(x, places, strict=True)]
    )


@pytest.mark.parametrize("has_raw", [True, False])
@pytest.mark.parametrize("change", [crop_to_nothing, lambda x: x + 6 * torch.randn_like(x)])
@pytest.mark.thorough
def test_augmentation_that_destroys_is_named(change: Callable[[Tensor], Tensor], has_raw: bool) -> None:
    found = find_augmentation(change, has_raw)
    assert found is not None and found.confidence > 0.9


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.roll(tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3)) + 0.5 * torch.randn_like(x),
        lambda x: x * (torch.rand(len(x), 1, 8, 8) > 0.3),
    ],
)
@pytest.mark.thorough
def test_augmentation_that_leaves_the_label_is_not_named(change: Callable[[Tensor], Tensor]) -> None:
    assert find_augmentation(change, True) is None


def crop_and_drown(x: Tensor) -> Tensor:
    """Six by six pixels of each image, enlarged, in noise twice as large: from which the network learns, slowly."""
    places = torch.randint(0, 3, (len(x), 2)).tolist()
    parts = [F.interpolate(image[None, :, i : i + 6, j : j + 6], size=8, mode="bilinear") for image, (i, j) in zip(x, places, strict=True)]
    return torch.cat(parts) + 2 * torch.randn_like(x)


@pytest.mark.parametrize(("change", "is_named"), [(crop_and_drown, True), (lambda x: x + 2 * torch.randn_like(x), False)])
@pytest.mark.thorough
def test_augmentation_that_costs_much_is_named_at_the_end(change: Callable[[Tensor], Tensor], is_named: bool) -> None:
    """By what some of its steps on clean images teach."""
    exam = examine(change=change)
    exam.course.follow(50)
    assert augmentation.find_augmentation_too_strong(exam) is None
    exam.course.follow(exam.steps)
    assert (augmentation.find_augmentation_too_strong(exam) is not None) == is_named


def test_healthy_case_is_silent() -> None:
    assert named(Examination(patient())) == {}
