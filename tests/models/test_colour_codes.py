"""Colours as a first stage: what a transformer needs of it."""

from __future__ import annotations

import torch

from vqgan_fast.models import GPT, ColourCodes, LatentTransformer, SOSCondition
from vqgan_fast.sampling import sample


def test_pixels_become_their_nearest_colours_and_back(tmp_path):
    colours = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [1, -1, -1], [0, 0, 0.5]])
    which = torch.randint(4, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    pixels = colours[which].flatten(0, 2)
    model = ColourCodes.fit(pixels, 4)
    images = colours[which].movedim(-1, 1)
    codes = model.encode_indices(images + 0.01)
    torch.testing.assert_close(model.decode_indices(codes), images)
    x_hat, _, info = model(images)
    torch.testing.assert_close(x_hat, images)
    assert torch.equal(info.indices, codes)

    gpt = GPT(4, 16, 1, 1, 8)
    LatentTransformer(model, SOSCondition(), gpt).save_pretrained(tmp_path)
    loaded = LatentTransformer.from_pretrained(tmp_path)
    assert isinstance(loaded.first_stage_model, ColourCodes)
    drawn = sample(loaded, window=4, seeds=[1, 2])
    assert drawn.shape == (2, 3, 4, 4)
    given = {tuple(colour) for colour in model.quantize.codebook.tolist()}
    assert {tuple(pixel) for pixel in drawn.movedim(1, -1).flatten(0, 2).tolist()} <= given
