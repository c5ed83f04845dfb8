"""What ranks share and how: blocks of a batch, batch norms, and what a launcher tells them; no process is started here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from goodfit.core.chance import MIXING_BLOCK
from goodfit.core.errors import GoodfitError, Interrupted, RankLost, UsageError
from goodfit.core.launched import claim_explanation, is_first, is_restarted, launch_id, processes_here
from goodfit.core.ranks import ALONE, Ranks
from goodfit.layers.norm import BatchNorm
from goodfit.layers.sync_norm import sync_batch_norm
from goodfit.training.gradient import piece_slices, shares_of
from goodfit.training.passes import noise_of_whole_piece, synchronized_norms
from goodfit.training.step import Objective
from tests.support.loop import listed, net, normed, plan, sgd
from tests.support.ranks import environment_of


@given(st.integers(1, 400), st.integers(1, 6), st.integers(1, 7))
def test_shares_are_whole_blocks_and_cover_each_image_once(n: int, pieces: int, size: int) -> None:
    shares = [shares_of(n, pieces, Ranks(rank, size)) for rank in range(size)]
    for index, piece in enumerate(piece_slices(n, pieces)):
        counts = torch.zeros(n)
        for own in shares:
            share = own[index]
            assert share.piece == piece and share.rows.stop > share.rows.start
            assert (share.rows.start - piece.start) % MIXING_BLOCK == 0
            assert share.rows.stop == piece.stop or (share.rows.stop - piece.start) % MIXING_BLOCK == 0
            counts[share.rows] += 1 / share.copies
        assert torch.allclose(counts[piece], torch.ones(piece.stop - piece.start))
        assert counts.sum() == pytest.approx(piece.stop - piece.start)
        blocks = [-(-(own[index].rows.stop - own[index].rows.start) // MIXING_BLOCK) for own in shares]
        assert max(blocks) - min(blocks) <= 1


def test_alone_the_share_is_the_piece_and_nothing_is_sent() -> None:
    assert ALONE.share(slice(16, 40)).rows == slice(16, 40)
    assert not ALONE.share(slice(16, 40)).is_part
    assert ALONE.broadcast_numbers(1.5, True) == (1.5, True)
    assert ALONE.gather("a") == ["a"]
    items = [1, 2, 3]
    assert ALONE.split(items) == items and ALONE.broadcast_object(items) is items


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_items_are_split_in_order(size: int) -> None:
    parts = [Ranks(rank, size).split(range(7)) for rank in range(size)]
    assert [x for part in parts for x in part] == list(range(7))


# ---- batch norm ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 5)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_synchronized_batch_norm_is_torchs(shape: tuple[int, ...], affine: bool, momentum: float | None) -> None:
    """For one rank; test_ranks_exact.py has several."""
    torch.manual_seed(0)
    ours, torchs = (nn.BatchNorm2d(3, momentum=momentum, affine=affine).double() for _ in range(2))
    ours._check_input_dim = torchs._check_input_dim = lambda x: None  # type: ignore[method-assign]
    if affine:
        nn.init.normal_(torchs.weight)
        nn.init.normal_(torchs.bias)
        ours.load_state_dict(torchs.state_dict())
    for _ in range(2):  # the running statistics of the second batch stand on those of the first
        x = (3 * torch.randn(shape, dtype=torch.float64) + 2).requires_grad_()
        y = x.detach().clone().requires_grad_()
        slope = torch.randn(shape, dtype=torch.float64)
        one, other = sync_batch_norm(ours, ALONE, x), torchs(y)
        (one * slope).sum().backward()
        (other * slope).sum().backward()
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(x.grad, y.grad)
    for a, b in zip(ours.state_dict().values(), torchs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    for p, q in zip(ours.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_synchronized_batch_norm_keeps_the_precision_and_layout_of_its_input() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 4, 6, 6).to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    ours, torchs = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    y = sync_batch_norm(ours, ALONE, x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(y, torchs(x), atol=0.02, rtol=0.02)
    torch.testing.assert_close(ours.running_var, torchs.running_var, atol=1e-3, rtol=1e-3)


def test_a_large_mean_costs_no_accuracy() -> None:
    x = torch.randn(64, 2, 8, 8, dtype=torch.float64) + 1000
    exact = nn.BatchNorm2d(2).double()(x)
    assert (sync_batch_norm(nn.BatchNorm2d(2), ALONE, x.float()) - exact).abs().max() < 1e-3


def test_norms_are_synchronized_within_the_block_only() -> None:
    model = nn.Sequential(BatchNorm(3), nn.BatchNorm1d(3), nn.LayerNorm(3))
    model[1].eval()  # as a frozen stage's
    before = [type(m).forward for m in model]
    with synchronized_norms(model, Ranks(0, 2)):
        assert ["forward" in vars(m) for m in model] == [True, False, False]
    assert not any("forward" in vars(m) for m in model)
    assert [type(m).forward for m in model] == before


# ---- noise -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Dropout(0.3), nn.Dropout2d(0.3), nn.AlphaDropout(0.3)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_share_gets_the_noise_of_its_place(layer: nn.Module, memory_format: torch.memory_format) -> None:
    x = torch.randn(72, 3, 5, 5).contiguous(memory_format=memory_format)
    torch.manual_seed(5)
    whole = layer(x)
    for rank in range(3):
        share = Ranks(rank, 3).share(slice(0, 72))
        torch.manual_seed(5)
        with noise_of_whole_piece(nn.Sequential(layer), share):
            part = layer(x[share.rows])
        assert torch.equal(part, whole[share.rows])
    assert not layer._forward_hooks and not layer._forward_pre_hooks


# ---- what is refused -------------------------------------------------------------------------------------------------------------


def test_memory_that_runs_out_in_one_rank_ends_the_training() -> None:
    """The others are in the middle of the same step, so this one cannot go on in smaller pieces."""

    def fail(module: nn.Module, inputs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    state = sgd(net())
    state.model.register_forward_pre_hook(fail)
    objective = Objective(state, listed().batch(0), plan(ranks=Ranks(1, 2)), 0.0)
    with pytest.raises(GoodfitError, match="Memory ran out on rank 1: give --pieces 2 or more"):
        objective()
    assert state.pieces == 1


def test_second_derivatives_beside_synchronized_norms_are_refused() -> None:
    state, batch = sgd(normed()), listed().batch(0)
    with pytest.raises(UsageError, match="Expected no batch norm beside second derivatives in several processes"):
        Objective(state, batch, plan(ranks=Ranks(0, 2)), 0.0).hvp(torch.ones(sum(p.numel() for p in state.model.parameters())))


# ---- launched processes ----------------------------------------------------------------------------------------------------------


def test_what_a_launcher_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (is_first(), processes_here(), launch_id(), is_restarted()) == (True, 1, "", False)
    with environment_of(1, 4, 1, TORCHELASTIC_RUN_ID="night", TORCHELASTIC_RESTART_COUNT="2"):
        assert (is_first(), processes_here(), launch_id(), is_restarted()) == (False, 4, "night", True)
    with environment_of(0, 1, 1, TORCHELASTIC_RESTART_COUNT="2"):  # torchrun with one process, which is as none
        assert (is_first(), processes_here(), launch_id(), is_restarted()) == (True, 1, "", False)


def test_one_process_of_a_machine_explains(tmp_path: Path) -> None:
    error = GoodfitError("It rains.")
    assert claim_explanation(error) and claim_explanation(error), "the only process always does"
    for more in ({"GOODFIT_EXPLAINED": str(tmp_path / "ours")}, {"TORCHELASTIC_ERROR_FILE": str(tmp_path / "0" / "error.json")}):
        with environment_of(1, 2, 1, **more):
            assert not claim_explanation(Interrupted("Rank 0 says it."))
            assert claim_explanation(RankLost("The launcher says it.")) == ("TORCHELASTIC_ERROR_FILE" in more)
            assert claim_explanation(error) == ("GOODFIT_EXPLAINED" in more)
            assert not claim_explanation(error)
