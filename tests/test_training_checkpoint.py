"""Checkpoints hold the whole state bit for bit, and damage, a full disk or numbers gone wrong never cost the last good one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from goodfit.core import files
from goodfit.core.errors import Diverged, GoodfitError
from goodfit.training.averaging import blend_into
from goodfit.training.checkpoint import FORMER_FIELDS, Checkpoints, checksum, from_json_tree, to_json_tree
from goodfit.training.rules.average import Ema, Polyak
from goodfit.training.state import State

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=2, history_size=3, line_search_fn="strong_wolfe"),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.5),
}


def net(seed: int = 0, layout: torch.memory_format = torch.channels_last) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4 * 36, 5))
    return layers.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def train(state: State, steps: int) -> None:
    """Steps on batches that are functions of the step alone."""
    for _ in range(steps):
        generator = torch.Generator().manual_seed(state.step)
        images = torch.randn(12, 3, 8, 8, generator=generator).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, 5, (12,), generator=generator)

        def closure(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            state.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(state.model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        state.optimizer.step(closure)  # type: ignore[arg-type]
        state.step += 1
        if state.average is not None:
            blend_into(state.average, state.model, 0.8)


def fresh(name: str = "sgd", seed: int = 0, average: bool = False) -> State:
    # torch's LBFGS cannot flatten gradients of channels_last filters
    model = net(seed, torch.contiguous_format if name == "lbfgs" else torch.channels_last)
    return State.start(model, OPTIMIZERS[name](model.parameters()), Ema() if average else None)


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """Equal in type, value, dtype and, for tensors of images and filters, in the order of memory."""
    assert type(one) is type(other), path
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype, path
        assert one.shape == other.shape, path
        assert one.numpy().tobytes() == other.numpy().tobytes(), path
        assert one.dim() != 4 or 1 in one.shape or one.stride() == other.stride(), path
    elif isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            assert_same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{path}/{i}")
    else:
        assert one == other, path


# ---- packing ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizers_state_comes_back_bit_for_bit(name: str) -> None:
    state = fresh(name)
    train(state, 5)
    tree = {"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}
    tensors: dict[str, Tensor] = {}
    written = json.loads(json.dumps(to_json_tree(tree, tensors)))
    assert_same(from_json_tree(written, load(save(tensors))), {key: dict(value) for key, value in tree.items()})


def test_odd_values_come_back() -> None:
    shared = torch.arange(6.0)
    tree = {
        "a": [None, True, 1, 2.5, float("inf"), "text", (1, (2, [])), {}],
        3: {"b": torch.tensor(7, dtype=torch.int64), "c": torch.empty(0, 3), "d": torch.tensor([True, False])},
        "shared": [shared, shared[2:], shared.view(2, 3).t()],
        "half": torch.tensor([1.0, float("nan")], dtype=torch.bfloat16).float(),
        "images": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }
    tensors: dict[str, Tensor] = {}
    back = from_json_tree(json.loads(json.dumps(to_json_tree(tree, tensors))), load(save(tensors)))
    assert_same(back, tree)
    assert torch.equal(back["shared"][2], shared.view(2, 3).t())


# ---- a run's checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_going_on_from_a_checkpoint_is_never_having_stopped(name: str, tmp_path: Path) -> None:
    whole = fresh(name, average=True)
    train(whole, 4)
    Checkpoints(tmp_path).save(whole)
    train(whole, 4)
    again = fresh(name, seed=1, average=True)
    assert Checkpoints(tmp_path).restore(again) == []
    assert again.step == 4
    train(again, 4)
    assert_same(dict(again.model.state_dict()), dict(whole.model.state_dict()))
    assert again.average is not None
    assert whole.average is not None
    assert_same(dict(again.average.state_dict()), dict(whole.average.state_dict()))


def test_every_plain_value_is_kept(tmp_path: Path) -> None:
    state = fresh()
    values = {
        "step": 9, "elapsed": 12.3456789012345, "startup": 3.5, "reserve": 0.1, "evaluation_seconds": 2.5,
        "plateau_factor": 0.25, "manual_factor": 0.1, "pieces": 4,
        "rescue_factor": 0.1, "start_loss": 0.7, "recent_losses": [0.5, 0.25],
        "average_updates": 7, "averaged_at": 0.5,
        "evaluations": 3, "evaluated_at": 8,
            "history": [0.1, 0.30000000000000004], "best": {"step": 9, "score": 0.3}, "stopped": "no better score",
        "snapshots": [4, 9], "snapshots_taken": 2, "bytes_sent": 123_456_789_012, "messages": 7,
    }  # fmt: skip
    assert set(values) == set(state.scalars()), "a new field of State is to be kept too"
    for name, value in values.items():
        setattr(state, name, value)
    Checkpoints(tmp_path).save(state)
    back = fresh(seed=1)
    Checkpoints(tmp_path).restore(back)
    assert back.scalars() == values


def test_a_checkpoint_of_version_0_1_restores_under_the_current_names(tmp_path: Path) -> None:
    """Its JSON has the fields' former names; the checksum is over those, so the file is as version 0.1 wrote it."""
    state = fresh()
    train(state, 3)
    state.plateau_factor, state.manual_factor, state.average_updates, state.averaged_at, state.snapshots_taken = 0.25, 0.1, 7, 0.5, 2
    Checkpoints(tmp_path).save(state)
    about_file = tmp_path / "00000003.json"
    about = json.loads(about_file.read_text())
    former = {new: old for old, new in FORMER_FIELDS.items()}
    about["state"] = {former.get(name, name): value for name, value in about["state"].items()}
    assert {"brake", "lever", "updates", "averaged", "passed"} < set(about["state"])
    about["sha256"] = checksum(about, (tmp_path / "00000003.safetensors").read_bytes())
    about_file.write_text(json.dumps(about))
    back = fresh(seed=1)
    assert Checkpoints(tmp_path).restore(back) == []
    assert back.scalars() == state.scalars()
    assert set(vars(back)) == set(vars(state)), "no former name is left on the state"


def saved(folder: Path, steps: range, best: int = 0) -> State:
    state = fresh()
    for step in steps:
        train(state, step - state.step)
        if step == best:
            state.best = {"step": step, "score": 1.0}
        Checkpoints(folder).save(state)
    return state


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, range(1, 7), best=2)
    assert Checkpoints(tmp_path).steps() == [2, 5, 6]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n:08d}.{end}" for n in (2, 5, 6) for end in ("json", "safetensors")]
    state = fresh(seed=1)
    Checkpoints(tmp_path).restore(state, 2)
    assert state.step == 2


def flip_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a bit of a weight": (".safetensors", flip_middle),
    "torn": (".safetensors", lambda path: path.write_bytes(path.read_bytes()[:-7])),
    "empty": (".safetensors", lambda path: path.write_bytes(b"")),
    "gone": (".safetensors", lambda path: path.unlink()),
    "torn text": (".json", lambda path: path.write_text(path.read_text()[:-9])),
    "empty text": (".json", lambda path: path.write_text("")),
    "another value": (".json", lambda path: path.write_text(path.read_text().replace('"step": 3', '"step": 8'))),
    "no checksum": (".json", lambda path: path.write_text('{"state": {}, "tree": {}}')),
    "no object": (".json", lambda path: path.write_text("[1, 2]")),
    "zeros": (".json", lambda path: path.write_bytes(b"\0" * 100)),
    "no text": (".json", lambda path: path.write_bytes(b"\xff\xfe" * 100)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_falls_back_and_says_so(name: str, tmp_path: Path) -> None:
    saved(tmp_path, range(1, 4))
    end, damage = DAMAGES[name]
    before = (tmp_path / f"00000003{end}").read_bytes()
    damage(tmp_path / f"00000003{end}")
    assert not (tmp_path / f"00000003{end}").exists() or (tmp_path / f"00000003{end}").read_bytes() != before
    state, expected = fresh(seed=1), fresh()
    (sentence,) = Checkpoints(tmp_path).restore(state)
    assert sentence.startswith("The checkpoint of step 3 is damaged (")
    assert sentence.endswith("); falling back to the one before.")
    train(expected, 2)
    assert state.step == 2
    assert_same(dict(state.model.state_dict()), dict(expected.model.state_dict()))


def test_a_damaged_step_is_saved_anew(tmp_path: Path) -> None:
    """Having gone on from the one before, the run reaches the step again: its checkpoint must not stay damaged."""
    saved(tmp_path, range(1, 4))
    flip_middle(tmp_path / "00000003.safetensors")
    state = fresh(seed=1)
    Checkpoints(tmp_path).restore(state)
    train(state, 1)
    Checkpoints(tmp_path).save(state)
    assert Checkpoints(tmp_path).restore(fresh(seed=2), 3) == []
    assert Checkpoints(tmp_path).restore(fresh(seed=2)) == []


def test_a_damaged_later_one_takes_no_good_ones_place(tmp_path: Path) -> None:
    saved(tmp_path, range(10, 40, 10))
    flip_middle(tmp_path / "00000030.safetensors")
    state = fresh(seed=1)
    Checkpoints(tmp_path).restore(state)
    train(state, 2)
    Checkpoints(tmp_path).save(state)
    assert Checkpoints(tmp_path).steps() == [20, 22]


@pytest.mark.parametrize("nothing", [False, True])
def test_all_damaged_is_one_sentence(tmp_path: Path, nothing: bool) -> None:
    if not nothing:
        saved(tmp_path, range(1, 4))
        for path in tmp_path.glob("*.safetensors"):
            flip_middle(path)
    with pytest.raises(GoodfitError, match=r"No good checkpoint is left in .*; start the run anew"):
        Checkpoints(tmp_path).restore(fresh())


def test_tensors_without_their_text_are_no_checkpoint(tmp_path: Path) -> None:
    """Killed between the two files."""
    saved(tmp_path, range(1, 3))
    (tmp_path / "00000002.json").unlink()
    state = fresh(seed=1)
    assert Checkpoints(tmp_path).restore(state) == []
    assert state.step == 1


@pytest.mark.parametrize("which", ["safetensors", "json"])
def test_no_space_keeps_the_one_before_and_the_run_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    state = saved(tmp_path, range(1, 3))
    train(state, 1)
    fsync = os.fsync

    def full(handle: int) -> None:
        if f".{which}." in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(GoodfitError, match=rf"No space is left to write .*00000003\.{which}"):
            Checkpoints(tmp_path).save(state)
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]
    back = fresh(seed=1)
    assert Checkpoints(tmp_path).restore(back) == []
    assert back.step == 2
    train(back, 1)
    Checkpoints(tmp_path).save(back)
    assert Checkpoints(tmp_path).steps() == [2, 3]
    assert_same(dict(back.model.state_dict()), dict(state.model.state_dict()))


@pytest.mark.parametrize("where", ["0.weight", "1.running_var"])
def test_nothing_non_finite_is_saved(tmp_path: Path, where: str) -> None:
    state = saved(tmp_path, range(1, 3))
    train(state, 1)
    with torch.no_grad():
        state.model.state_dict()[where][0] = float("nan")
    with pytest.raises(Diverged, match=r"diverged by step 3: a weight is not finite\. What was saved before is kept"):
        Checkpoints(tmp_path).save(state)
    assert Checkpoints(tmp_path).steps() == [1, 2]


# ---- averages ---------------------------------------------------------------------------------------------------------------------


def test_ema_equals_its_formula_in_float64() -> None:
    rng, average = np.random.default_rng(0), Ema(0.95)
    steps = rng.normal(size=(300, 7))
    model, followed = nn.Linear(7, 1, bias=False).double(), nn.Linear(7, 1, bias=False).double()
    with torch.no_grad():
        followed.weight.zero_()
    expected = np.zeros(7)
    for n, w in enumerate(steps):
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(w)[None])
        keep = average(n, n / 300)
        assert keep == min(0.95, (1 + n) / (10 + n))
        blend_into(followed, model, keep)
        expected = keep * expected + (1 - keep) * w
    assert np.allclose(followed.weight.detach().numpy()[0], expected, atol=1e-13)
    late = sum(0.05 * 0.95 ** (299 - n) * w for n, w in enumerate(steps) if n > 200)
    assert np.allclose(expected, late, atol=0.05), "the far past is forgotten"


def test_averages_follow_batch_statistics_and_copy_counters() -> None:
    torch.manual_seed(0)
    model, followed = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    for step in range(4):
        model(torch.randn(8, 3) * (step + 2) + step)
        before, now = followed.running_var.clone(), model.running_var.clone()  # type: ignore[union-attr]
        blend_into(followed, model, 0.75)
        assert torch.allclose(followed.running_var, 0.75 * before + 0.25 * now)  # type: ignore[arg-type]
        assert int(followed.num_batches_tracked) == step + 1  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [0.0, 0.5, 0.95])
def test_polyak_is_the_mean_from_its_start_on(start: float) -> None:
    """As the loop uses it: weights after a step that begins at t belong to the progress after it."""
    rng, average, n = np.random.default_rng(1), Polyak(start), 40
    steps = rng.normal(size=(n, 5))
    model, followed, updates = nn.Linear(5, 1, bias=False).double(), nn.Linear(5, 1, bias=False).double(), 0
    for step, w in enumerate(steps):
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(w)[None])
        keep = average(updates, step / n)
        blend_into(followed, model, keep)
        updates = updates + 1 if keep else 1
    first = max(0, round(start * n) - 1)
    assert np.allclose(followed.weight.detach().numpy()[0], steps[first:].mean(0), atol=1e-13)
