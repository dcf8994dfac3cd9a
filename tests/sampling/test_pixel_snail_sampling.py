"""Sampling from a PixelSNAIL against the logits that it gives the whole grid."""

from __future__ import annotations

import pytest
import torch
from tiny_models import VOCAB_SIZE, assert_highest_logits, randomized, tokens
from tiny_vqgan import tiny_vqgan

from vqgan_fast.models import LatentTransformer, PixelSNAIL, SOSCondition
from vqgan_fast.sampling import pack, sample, sample_codes
from vqgan_fast.sampling.draw import DrawRule

GRID = (4, 5)


def tiny_pixel_snail(seed: int = 0, **options: object) -> PixelSNAIL:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_res": 1, **options}
    return randomized(PixelSNAIL(VOCAB_SIZE, **sizes).double(), seed)


@torch.no_grad()
def drawn_one_by_one(model, cond, codes, rule, seeds):
    """Every cell that is -1, row by row, from the logits of the whole grid so far."""
    codes = codes.clone()
    for cell in range(codes[0].numel()):
        wanted = codes.flatten(1)[:, cell] < 0
        logits = model(codes.clamp_min(0), cond)[:, cell].float()
        drawn, _ = rule.draw(logits, seeds, torch.full_like(seeds, cell))
        codes.view(len(codes), -1)[wanted, cell] = drawn[wanted]
    return codes


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("grid", [GRID, (1, 6), (5, 1)])
def test_greedy_codes_are_the_highest_logits_of_the_whole_grid(grid, spatial):
    model, cond = tiny_pixel_snail(), tokens(2, *grid) if spatial else tokens(2, 1)
    codes, logprobs = sample_codes(model, cond, grid, greedy=True, return_logprobs=True)
    assert_highest_logits(model, cond, codes, logprobs)
    assert len(codes.unique()) > 2
    assert not logprobs.requires_grad


def test_draws_equal_draws_from_the_logits_of_the_whole_grid():
    model, cond, seeds = tiny_pixel_snail(), tokens(3, 1), torch.tensor([8, 9, -1])
    known = tokens(3, *GRID).masked_fill(tokens(3, *GRID, seed=1) % 2 == 0, -1)
    for start in (torch.full_like(known, -1), known):
        expected = drawn_one_by_one(model, cond, start, DrawRule(0.9, top_p=0.8), seeds)
        codes = sample_codes(
            model, cond, GRID, temperature=0.9, top_p=0.8, seeds=seeds, known=start
        )
        assert torch.equal(codes, expected)
    alone = sample_codes(model, cond[1:2], GRID, temperature=0.9, top_p=0.8, seeds=seeds[1:2],
                         known=known[1])  # fmt: skip
    assert torch.equal(alone[0], codes[1])


@pytest.mark.parametrize("guidance", [3.0, lambda share: 1 + 4 * share], ids=["number", "schedule"])
def test_guidance(guidance):
    model, conditions = tiny_pixel_snail(), (tokens(2, *GRID), tokens(1, 1, seed=3))
    codes = sample_codes(
        model, conditions[0], GRID, greedy=True, guidance=guidance, uncond=conditions[1]
    )
    with torch.no_grad():
        cond, uncond = (model(codes, c.expand(2, *c.shape[1:])) for c in conditions)
    share = torch.arange(20) / 20
    scale = guidance(share) if callable(guidance) else torch.full((20,), guidance)
    guided = uncond + scale[:, None] * (cond - uncond)
    assert torch.equal(guided.argmax(-1).view_as(codes), codes)
    assert not torch.equal(cond.argmax(-1).view_as(codes), codes)


def test_pictures_have_the_size_of_the_training_unless_another_is_asked_for():
    snail = tiny_pixel_snail(resid_pdrop=0.5, attn_pdrop=0.5).float().train()
    model = LatentTransformer(tiny_vqgan(), SOSCondition(), snail).train()
    images, codes = sample(model, seeds=[4, 5], return_codes=True)
    assert images.shape == (2, 3, 8, 8)
    assert codes.max() < 16 <= snail.vocab_size
    assert all(part.training for part in snail.modules())
    again = sample_codes(pack(snail), torch.zeros(2, 1).long(), (4, 4), seeds=[4, 5], num_codes=16)
    assert torch.equal(again, codes), "dropout must be off"
    assert sample(model, grid=(2, 7), seeds=[4]).shape == (1, 3, 4, 14)
    model.grid = (3, 5)
    assert sample(model, seeds=[4]).shape == (1, 3, 6, 10)


def test_an_interrupted_run_goes_on_to_the_same_codes():
    model, seen = tiny_pixel_snail(), []
    codes = sample_codes(
        model, tokens(2, 1), GRID, seeds=[1, 2], callback=lambda *call: seen.append(call)
    )
    done, total, partial = seen[6]
    assert (done, total) == (14, 40)
    assert ((partial >= 0).flatten(1).sum(1) == 7).all()
    assert torch.equal(sample_codes(model, tokens(2, 1), GRID, seeds=[1, 2], known=partial), codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "int8"}, "weights must be None for a PixelSNAIL, got 'int8'"),
        ({"schedule": "exact"}, 'schedule must be "native" for a PixelSNAIL, got .exact.'),
        ({"cond": tokens(2, 3)}, r"cond must be \(B, 1\) or \(B, 4, 5\) for the grid"),
        ({"cond": (tokens(2, 1), tokens(2, 1))}, "cond must have one part, got 2"),
    ],
)
def test_what_a_pixel_snail_cannot_do_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sample_codes(**{"gpt": tiny_pixel_snail(), "cond": tokens(2, 1), "grid": GRID, **change})
