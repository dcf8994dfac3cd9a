"""Sampling with a transformer that reads codes in another order than row by row."""

from __future__ import annotations

import pytest
import torch
from tiny_models import VOCAB_SIZE, randomized, tokens

from vqgan_fast import ops
from vqgan_fast.models import GPT
from vqgan_fast.models.orderings import ORDERINGS, ordered_cells
from vqgan_fast.sampling import sample_codes


def ordered_gpt(ordering: str, block_size: int = 31) -> GPT:
    gpt = GPT(VOCAB_SIZE, block_size, n_layer=2, n_head=2, n_embd=16, ordering=ordering).double()
    return randomized(gpt, 0)


def plain_loop(gpt: GPT, cond: torch.Tensor, seeds: torch.Tensor, known=None) -> torch.Tensor:
    """The definition: one forward of the whole sequence for each code, in the order."""
    drawn = cond.flatten(1)
    cells = ordered_cells(gpt.ordering, 4, 4)
    codes = torch.full((len(cond), 16), -1)
    for cell in cells.tolist():
        logits = gpt(drawn)[:, -1].float()
        where = torch.full((len(cond),), cell)
        code, _ = ops.sample_logits(logits, seeds, where, temperature=0.8)
        if known is not None:
            code = torch.where(known.flatten(1)[:, cell] >= 0, known.flatten(1)[:, cell], code)
        codes[:, cell] = code
        drawn = torch.cat([drawn, code[:, None]], 1)
    return codes.view(-1, 4, 4)


@pytest.mark.parametrize("cond", [tokens(2, 1), tokens(2, 4, 4)], ids=["sos", "spatial"])
@pytest.mark.parametrize("ordering", ORDERINGS)
def test_codes_equal_the_plain_loop(ordering, cond):
    gpt, seeds = ordered_gpt(ordering), torch.tensor([5, 6])
    expected = plain_loop(gpt, cond, seeds)
    codes = sample_codes(gpt, cond, (4, 4), window=4, temperature=0.8, seeds=seeds)
    assert torch.equal(codes, expected)
    assert len(codes.unique()) > 4


def test_known_codes_are_kept_and_condition_what_comes_later_in_the_order():
    gpt, seeds, cond = ordered_gpt("spiral_in"), torch.tensor([5, 6]), tokens(2, 1)
    known = torch.full((2, 4, 4), -1)
    known[:, 1:3, :2] = 7
    codes = sample_codes(gpt, cond, (4, 4), window=4, temperature=0.8, seeds=seeds, known=known)
    assert torch.equal(codes, plain_loop(gpt, cond, seeds, known))


def test_only_grids_of_one_window():
    with pytest.raises(ValueError, match=r"grid must be one window, 4 x 4 codes, .* z_curve order"):
        sample_codes(ordered_gpt("z_curve"), tokens(1, 1), (4, 5), window=4)
