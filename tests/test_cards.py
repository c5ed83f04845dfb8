"""Cards: the file that `goodfit parts` reads is what the code says, and parts that are not there are refused by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from goodfit.core.errors import UsageError
from goodfit.recipe import cards
from goodfit.recipe.cards import FILE, digest_code, format_cards, read_cards, refuse_unknown_parts
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe, presets
from goodfit.study.search.defaults import make_cards
from tests.support.command import goodfit
from tests.support.laws import holds_for


def test_the_file_is_as_made_now() -> None:
    assert FILE.read_text(encoding="utf-8") == format_cards(make_cards()), "run `make docs`"
    assert read_cards() == make_cards()


def test_of_other_code_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is being written is listed at once, only slower."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    monkeypatch.setattr(cards, "FILE", tmp_path / "cards.json")
    (tmp_path / "cards.json").write_text(json.dumps({**content, "code": "0" * 64, "cards": []}))
    assert content["code"] == digest_code() and read_cards() is None
    assert "  flip(" in goodfit("parts", "augment").out
    refuse_unknown_parts(Recipe(model="none_of_this"))  # told later
    (tmp_path / "cards.json").unlink()
    assert read_cards() is None


@holds_for(
    {
        "auto": (Recipe(),),
        "none": (Recipe(augment="none", penalty="none", average="none"),),
        "a pipe": (Recipe(augment="flip(0.5) | crop(4, border=reflect) | ramp(rand_augment, start=0.2)"),),
        "parts within parts": (Recipe(model="convnet(16, act=relu, norm=batch(0.1))", optimizer="sam(sgd(0.1))"),),
        "another package": (Recipe(model="torchvision.models.resnet18()", optimizer="torch.optim.AdamW(lr=0.003)"),),
        "what does not read": (Recipe(model="convnet(("),),
        "parts of one's own": (Recipe(model="mine(3)", use=("my_parts.py",)),),
        "phases": (Recipe(trainable="head(0.2) | all", schedule="warmup(0.05) | cosine"),),
        **{f"preset {name}": (Recipe.from_toml(name),) for name in presets()},
    }
)
def test_nothing_that_may_be_is_refused(recipe: Recipe) -> None:
    refuse_unknown_parts(recipe)


@pytest.mark.parametrize("kind", ["augment", "model", "optimizer", "loss", "schedule"])
def test_the_spelling_of_every_part_is_known(kind: str) -> None:
    catalog = load_catalog()
    for name in catalog.kinds[kind]:
        refuse_unknown_parts(Recipe(**{kind: f"{name}(1)"}))


@pytest.mark.parametrize(("seat", "text", "sentence"), [("model", "resnt(18)", '"resnet"'), ("augment", "flip | crp(4)", '"crop"')])
def test_an_unknown_name_is_refused_with_the_nearest(seat: str, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"Did you mean {sentence}"):
        refuse_unknown_parts(Recipe(**{seat: text}))
