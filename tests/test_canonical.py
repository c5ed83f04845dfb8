"""Ten canonical recipes train to the weights that they always trained to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.canonical import FINGERPRINTS, RECIPES, fingerprint, train

CONV_NETS = ("convnet", "mixing", "sam", "cycles", "transfer")  # norms differ by up to 1.1 % between processors, between seeds by half
EXPECTED: dict[str, dict[str, float]] = json.loads(FINGERPRINTS.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canonical")


def test_the_ten_are_those_with_a_fingerprint() -> None:
    assert list(RECIPES) == list(EXPECTED) == [
        "linear", "convnet", "mixing", "plateau", "newton", "lbfgs", "sam", "cycles", "transfer", "nearest",
    ]  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_weights_are_those_of_the_fingerprint(name: str, photos: Path, folder: Path) -> None:
    if name == "transfer" and not (folder / "convnet").exists():
        train("convnet", photos, folder)
    assert fingerprint(train(name, photos, folder)) == pytest.approx(EXPECTED[name], rel=0.02 if name in CONV_NETS else 1e-3, abs=1e-6)
