"""Conditions of several parts: some stay, some slide with the window, in every schedule."""

from __future__ import annotations

import pytest
import torch
from test_sampler import peer_of
from test_schedules import places
from tiny_models import tiny_gpt, tiny_window_gpt, tokens

from vqgan_fast.sampling import sample_codes

GRID, WINDOW = (6, 7), 4
PARTS = (tokens(2, 1, seed=1), tokens(2, *GRID, seed=2), tokens(2, 3, seed=3), tokens(2, *GRID))


@torch.no_grad()
def definition(peer, parts, codes, top, left, rank):
    """The reference's logits (B, V) behind the first `rank` codes of a window."""
    rows, columns = slice(top, top + WINDOW), slice(left, left + WINDOW)
    crops = [part[:, rows, columns] if part.ndim == 3 else part for part in parts]
    shown = codes[:, rows, columns].flatten(1)[:, :rank]
    sequence = torch.cat([*(crop.flatten(1) for crop in crops), shown], dim=1)
    return peer(sequence)[0][:, -1]


@pytest.mark.parametrize("schedule", ["exact", "block"])
@pytest.mark.parametrize("order", ["raster", "wavefront"])
def test_all_parts_are_seen_as_in_the_definition(schedule, order):
    gpt = tiny_gpt(block_size=1 + 3 + 2 * 16 + 15)
    codes = sample_codes(
        gpt, PARTS, GRID, window=WINDOW, schedule=schedule, greedy=True, order=order
    )
    peer = peer_of(gpt)
    for cell, place in enumerate(places(schedule, GRID)):
        logits = definition(peer, PARTS, codes, *place)
        assert torch.equal(logits.argmax(-1), codes.flatten(1)[:, cell])
    assert len(codes.unique()) > 4


def test_guidance_against_a_condition_of_other_parts():
    gpt = tiny_gpt(block_size=60)
    uncond = (torch.full((1, 1), 7),)
    codes = sample_codes(gpt, PARTS, GRID, window=WINDOW, greedy=True, guidance=2.0, uncond=uncond)
    peer = peer_of(gpt)
    for cell, place in enumerate(places("exact", GRID)):
        seen = [definition(peer, [p.expand(2, *p.shape[1:]) for p in parts], codes, *place)
                for parts in (PARTS, uncond)]  # fmt: skip
        guided = seen[1] + 2.0 * (seen[0] - seen[1])
        assert torch.equal(guided.argmax(-1), codes.flatten(1)[:, cell])


def test_what_does_not_fit_is_refused():
    gpt = tiny_gpt(block_size=60)
    with pytest.raises(ValueError, match="cond must have at least one part, got 0"):
        sample_codes(gpt, (), GRID, window=WINDOW)
    with pytest.raises(ValueError, match=r"cond must be .* got shape \(2, 6, 6\)"):
        sample_codes(gpt, (PARTS[0], PARTS[1][..., 1:]), GRID, window=WINDOW)
    with pytest.raises(ValueError, match="cond must have a batch of 1 or 3, got 2"):
        sample_codes(gpt, (PARTS[0], tokens(3, 1)), GRID, window=WINDOW)
    with pytest.raises(ValueError, match="T = 36 condition tokens: 51"):
        sample_codes(tiny_gpt(block_size=50), PARTS, GRID, window=WINDOW)
    with pytest.raises(ValueError, match="cond must have one part, got 4"):
        sample_codes(tiny_window_gpt(), PARTS, GRID)
