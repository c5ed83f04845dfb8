"""What is measured of the machine: the fastest setting, remembered unless other processes had the cores meanwhile."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from goodfit.core.cached import read_cached_json
from goodfit.core.files import cache_folder
from goodfit.data.preprocess import Preprocess
from goodfit.recipe import measure
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe

DATA: Any = SimpleNamespace(classes=("a", "b"), preprocess=Preprocess((16, 16), (16, 16), 3))
SECONDS = {"fp32": 0.004, "bf16": 0.003}


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The settings that are timed, in a cache of the test's own."""
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path))
    settings: list[str] = []

    def time_step(model: nn.Module, pre: Preprocess, device: Any, setting: tuple[str, str], threads: int, count: int) -> float:
        settings.append(" ".join(setting))
        return SECONDS[setting[0]]

    monkeypatch.setattr(measure, "time_step", time_step)
    monkeypatch.setattr(measure, "_measured", {})
    return settings


def ask() -> measure.Fastest:
    return measure.measure_fastest(load_catalog().make("convnet(4)", "model"), DATA, Recipe(device="cpu", threads=1))


@pytest.mark.parametrize(("min_share", "times_measured"), [(0.0, 1), (1e9, 2)])
def test_it_is_remembered_unless_other_processes_had_the_cores(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, min_share: float, times_measured: int
) -> None:
    monkeypatch.setattr(measure, "MIN_CPU_SHARE", min_share)
    first, again = ask(), ask()
    assert first == again and len(measured) == 3, "asked again, this process knows it"
    monkeypatch.setattr(measure, "_measured", {})  # as in another process
    assert ask() == first
    assert measured == ["fp32 contiguous", "fp32 channels_last", "bf16 channels_last"] * times_measured
    assert len([*(cache_folder() / "machine").glob("*.json")]) == (1 if times_measured == 1 else 0)


def test_another_setting_than_plain_fp32_has_to_gain(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MIN_CPU_SHARE", 0.0)
    assert (ask().precision, ask().seconds_per_image) == ("bf16", 0.003)
    file = next((cache_folder() / "machine").glob("*.json"))
    content = read_cached_json(file)
    file.unlink()
    monkeypatch.setattr(measure, "_measured", {})
    monkeypatch.setitem(SECONDS, "bf16", 0.0036)
    assert ask().precision == "fp32" and content["times"] == [0.004, 0.004, 0.003]


def test_a_real_step_is_timed() -> None:
    fastest = ask()
    assert fastest.threads == 1 and 0 < fastest.seconds_per_image < 10 and "fp32 contiguous" in fastest.evidence
